//! What it costs PostgreSQL when an instance looks at its fleet, by the number of instances: time of the statement that the
//! instances run, on a real PostgreSQL where as many connections hold as many locks. Prints a table, and draws a plot with
//! `--svg FILE`.

use std::fmt::Write;
use std::time::Instant;

use pgsluice_tests::{Postgres, Raw, program};

const LOOK: &str = include_str!("../../crates/proxy/src/front/fleet.sql");
const CLASS: u32 = 7;
const SIZES: [usize; 6] = [2, 8, 32, 128, 512, 1_000];
/// Tokens that each instance holds, and servers that it has told of.
const SERVERS: usize = 2;
const LOOKS: usize = 51;

fn main() {
    program::allow_many_files();
    let postgres = Postgres::start(&[("max_connections", "1100")]);
    let mut members: Vec<Raw> = Vec::new();
    let mut points = Vec::new();
    println!("| instances | locks | a look, median | looks of all in a second | share of a core |");
    println!("|---|---|---|---|---|");
    for size in SIZES {
        while members.len() < size {
            members.push(member(&postgres, members.len()));
        }
        let look = LOOK.replace("{class}", &CLASS.to_string()).replace("{ours}", "1,2");
        let mut times: Vec<f64> = (0..LOOKS)
            .map(|n| {
                let start = Instant::now();
                members[n % size].rows(&look).expect("the look works");
                start.elapsed().as_secs_f64() * 1e3
            })
            .collect();
        times.sort_by(f64::total_cmp);
        let median = times[LOOKS / 2];
        // As `Fleet::pause` has it, for instances that have servers.
        let looks = size as f64 / (0.02 * size as f64).clamp(0.25, 20.0);
        let locks = size * (1 + 2 * SERVERS);
        println!("| {size} | {locks} | {median:.2} ms | {looks:.0} | {:.1} % |", looks * median / 10.0);
        points.push((size as f64, median));
    }
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some("--svg") {
        let file = arguments.next().expect("--svg needs a file");
        std::fs::write(&file, plot(&points)).expect("the plot can be written");
    }
}

/// A connection with the locks of an instance.
fn member(postgres: &Postgres, number: usize) -> Raw {
    let mut raw = postgres.admin("postgres");
    let key = |bits: u64| (u64::from(CLASS) << 32) | bits;
    let mut sql = format!("SELECT pg_advisory_lock_shared({})", key((1 << 30) | (number as u64 % 5)));
    for n in 0..SERVERS {
        let slot = (number * SERVERS + n) as u64;
        let _ =
            write!(sql, ", pg_advisory_lock({}), pg_advisory_lock({})", key(slot), key((2 << 30) | (slot + 1_000_000)));
    }
    raw.rows(&sql).expect("the locks are free");
    raw
}

/// Milliseconds against instances; the horizontal axis is logarithmic.
fn plot(points: &[(f64, f64)]) -> String {
    let most = points.iter().map(|p| p.1).fold(1.0, f64::max).ceil();
    let x = |size: f64| 60.0 + size.log10() / 3.0 * 400.0;
    let y = |ms: f64| 260.0 - ms / most * 220.0;
    let line = points.iter().map(|&(size, ms)| format!("{:.1},{:.1}", x(size), y(ms))).collect::<Vec<_>>().join(" ");
    let mut svg = String::from(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"500\" height=\"310\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"500\" height=\"310\" fill=\"white\"/>\n",
    );
    for power in 0..4 {
        let size = 10_f64.powi(power);
        let _ = writeln!(
            svg,
            "<path d=\"M{0:.1} 40V260\" stroke=\"#ddd\"/><text x=\"{0:.1}\" y=\"278\" text-anchor=\"middle\">{size}</text>",
            x(size)
        );
    }
    for step in 0..=4 {
        let ms = most * f64::from(step) / 4.0;
        let _ = writeln!(
            svg,
            "<path d=\"M60 {0:.1}H460\" stroke=\"#ddd\"/><text x=\"54\" y=\"{0:.1}\" text-anchor=\"end\">{ms}</text>",
            y(ms)
        );
    }
    let _ = write!(
        svg,
        "<polyline points=\"{line}\" fill=\"none\" stroke=\"#06c\" stroke-width=\"2\"/>\n\
         <text x=\"260\" y=\"300\" text-anchor=\"middle\">instances</text>\n\
         <text x=\"60\" y=\"26\">a look at the fleet, ms</text>\n</svg>\n"
    );
    svg
}
