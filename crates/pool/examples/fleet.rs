//! How soon fleets of 2 to 2,000 instances share one PostgreSQL anew when somebody needs more, and what looking costs
//! PostgreSQL: a table, and with `--svg FILE` a plot. Times are those of the simulation that the tests use.

#[path = "../tests/fleet_sim/mod.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod fleet_sim;

use fleet_sim::{MS, Postgres, SECOND, World, count};

const SIZES: [usize; 6] = [2, 8, 32, 128, 512, 2_000];
/// Servers that an instance with a burst could use.
const BURST: u32 = 20;
/// What an instance could use that wants all.
const ALL: u32 = 200;
const STEP: u64 = 10 * MS;
const GIVE_UP: u64 = 300 * SECOND;

#[derive(Default)]
struct Row {
    instances: usize,
    /// In milliseconds, sorted.
    from_idle: Vec<u64>,
    from_busy: Vec<u64>,
    all: Vec<u64>,
    /// A second, in all.
    errands_idle: f64,
    errands_busy: f64,
    locks: usize,
}

/// A PostgreSQL with room for all control connections, and half as many servers and a hundred.
fn fleet(seed: u64, instances: usize) -> World {
    let n = count(instances);
    let mut world = World::new(seed, instances, Postgres::new(n + n * 3 / 2 + 100, 3));
    world.long = 0;
    world.start_all(5 * SECOND);
    world.run(30 * SECOND);
    world
}

fn errands_a_second(world: &mut World) -> f64 {
    let before = world.counts.errands;
    world.run(20 * SECOND);
    (world.counts.errands - before) as f64 / 20.0
}

/// Milliseconds until it is so.
fn time_until(world: &mut World, is_so: impl Fn(&World) -> bool) -> u64 {
    let begin = world.now;
    while !is_so(world) && world.now < begin + GIVE_UP {
        world.run(STEP);
    }
    (world.now - begin) / MS
}

fn all_want(world: &mut World, demand: u32) {
    (0..world.instances.len()).for_each(|i| world.set_demand(i, demand));
}

/// All that is measured in fleets of that size, the fewer the larger they are; each burst is at another instance.
fn measure(instances: usize) -> Row {
    let mut row = Row { instances, ..Row::default() };
    let (worlds, bursts) = if instances > 1_000 { (2, 3) } else { (5, 4) };
    for seed in 0..worlds {
        let mut world = fleet(seed, instances);
        row.errands_idle += errands_a_second(&mut world) / worlds as f64;
        all_want(&mut world, ALL);
        row.all.push(time_until(&mut world, |w| w.least() >= w.due()));
        row.errands_busy += errands_a_second(&mut world) / worlds as f64;
        row.locks = world.postgres.locks();
        for i in (0..bursts).map(|burst| (burst * instances / bursts + burst) % instances) {
            world.set_demand(i, 0);
            // Until the others have taken what it had.
            world.run(5 * SECOND + 4 * world.pause());
            world.set_demand(i, ALL);
            row.from_busy.push(time_until(&mut world, |w| count(w.instances[i].in_use()) >= w.due()));
        }
        for i in (0..bursts).map(|burst| (burst * instances / bursts + burst) % instances) {
            all_want(&mut world, ALL);
            world.run(15 * SECOND);
            all_want(&mut world, 0);
            world.run(7 * SECOND);
            world.set_demand(i, BURST);
            row.from_idle.push(time_until(&mut world, |w| count(w.instances[i].in_use()) == BURST));
        }
    }
    [&mut row.all, &mut row.from_busy, &mut row.from_idle].into_iter().for_each(|times| times.sort_unstable());
    row
}

impl Row {
    /// Seconds: the median and the worst, of each of the three.
    fn times(&self) -> [(f64, f64); 3] {
        let seconds = |ms: u64| ms as f64 / 1e3;
        [&self.from_idle, &self.from_busy, &self.all]
            .map(|times| (seconds(times[times.len() / 2]), seconds(times[times.len() - 1])))
    }

    fn print(&self) {
        let [idle, busy, all] = self.times().map(|(median, worst)| format!("{median:.2} / {worst:.2}"));
        let Row { instances, errands_idle, errands_busy, locks, .. } = self;
        println!("| {instances} | {idle} | {busy} | {all} | {errands_idle:.0} | {errands_busy:.0} | {locks} |");
    }
}

const KINDS: [(&str, &str); 3] =
    [("burst, others idle", "#2a7"), ("burst, others busy", "#27c"), ("all want all", "#c42")];
const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 360.0;
const LEFT: f64 = 60.0;
const BOTTOM: f64 = 310.0;

/// Medians as lines, the worst dashed; both axes are logarithmic, from 1 to 10,000 instances and from 0.1 to 100 seconds.
fn plot(rows: &[Row]) -> String {
    let x = |instances: f64| LEFT + instances.log10() / 4.0 * (WIDTH - LEFT - 20.0);
    let y = |seconds: f64| BOTTOM - (seconds.max(0.1).log10() + 1.0) / 3.0 * (BOTTOM - 20.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n"
    );
    let mut text = |x: f64, y: f64, anchor: &str, what: &str| {
        svg += &format!("<text x=\"{x:.0}\" y=\"{y:.0}\" text-anchor=\"{anchor}\">{what}</text>\n");
    };
    for n in [1, 10, 100, 1_000, 10_000] {
        text(x(f64::from(n)), BOTTOM + 18.0, "middle", &n.to_string());
    }
    for seconds in [0.1, 1.0, 10.0, 100.0] {
        text(LEFT - 6.0, y(seconds) + 4.0, "end", &format!("{seconds} s"));
    }
    text((LEFT + WIDTH) / 2.0, HEIGHT - 10.0, "middle", "instances");
    text(LEFT - 40.0, 12.0, "start", "until everybody concerned has its due (line: median, dashed: worst)");
    for (at, (name, colour)) in KINDS.iter().enumerate() {
        text(LEFT + 26.0, 36.0 + 16.0 * at as f64, "start", &format!("<tspan fill=\"{colour}\">{name}</tspan>"));
    }
    for seconds in [0.1, 1.0, 10.0, 100.0] {
        let (y, right) = (y(seconds), WIDTH - 20.0);
        svg += &format!("<path d=\"M{LEFT} {y:.1}H{right}\" stroke=\"#ddd\"/>\n");
    }
    for (at, (_, colour)) in KINDS.iter().enumerate() {
        for (pick, dash) in [(0, ""), (1, " stroke-dasharray=\"4 3\"")] {
            let point = |row: &Row| {
                let (median, worst) = row.times()[at];
                format!("{:.1},{:.1}", x(row.instances as f64), y(if pick == 0 { median } else { worst }))
            };
            let points = rows.iter().map(point).collect::<Vec<_>>().join(" ");
            svg += &format!("<polyline points=\"{points}\" fill=\"none\" stroke=\"{colour}\"{dash}/>\n");
        }
    }
    svg + "</svg>\n"
}

fn main() -> std::io::Result<()> {
    println!("| instances | burst, others idle | burst, others busy | all want all | errands/s, idle | busy | locks |");
    println!("|---:|---:|---:|---:|---:|---:|---:|");
    let mut rows = Vec::new();
    for size in SIZES {
        rows.push(measure(size));
        rows[rows.len() - 1].print();
    }
    let mut arguments = std::env::args().skip_while(|argument| argument != "--svg").skip(1);
    arguments.next().map_or(Ok(()), |file| std::fs::write(file, plot(&rows)))
}
