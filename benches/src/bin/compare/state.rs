//! What it costs to follow session state: two pgsluices, one as it is by default and one that follows nothing, under the
//! same load; clients that live under different settings on one server; and an audit that takes its time. PgBouncer has
//! no part in this.

use std::io;
use std::time::{Duration, Instant};

use pgsluice_benches::load::{Client, Mode, Script, Step, open_idle};
use pgsluice_benches::usage::Usage;

use crate::arranged::Arranged;
use crate::bench::Bench;
use crate::stats::{Paired, median};
use crate::syscalls::count;

/// What turns following off.
const OFF: &str = "pin_policy = all=ignore\naudit = never\n";
const SELECT: &str = "SELECT abalance FROM pgbench_accounts WHERE aid = 31415;";
const UPDATE: &str = "UPDATE pgbench_accounts SET abalance = abalance + 42 WHERE aid = 31415;";
/// [`OTHERS`] texts in turn, with another number in the place of `{n}`.
const VARYING: &str = "SELECT abalance FROM pgbench_accounts WHERE aid = {n};";
/// The same, where no two texts are of one shape.
const SHAPES: &str = "SELECT abalance AS a{n} FROM pgbench_accounts WHERE aid = 1;";
/// More than are remembered.
const OTHERS: usize = 2000;
/// As a library that writes SQL makes them.
const LONG: &str = "SELECT \"orders\".\"id\", \"orders\".\"customer_id\", \"orders\".\"status\", \"orders\".\"total\", \
    \"orders\".\"currency\", \"orders\".\"created_at\", \"orders\".\"updated_at\", \"customers\".\"id\", \
    \"customers\".\"name\", \"customers\".\"email\", \"customers\".\"country\", \"items\".\"id\", \"items\".\"order_id\", \
    \"items\".\"product_id\", \"items\".\"quantity\", \"items\".\"price\" FROM \"orders\" INNER JOIN \"customers\" ON \
    \"customers\".\"id\" = \"orders\".\"customer_id\" LEFT OUTER JOIN \"items\" ON \"items\".\"order_id\" = \
    \"orders\".\"id\" WHERE \"orders\".\"status\" IN ('open', 'paid', 'packed') AND \"orders\".\"created_at\" >= \
    '2024-01-01 00:00:00' AND \"customers\".\"country\" = 'NL' AND \"orders\".\"total\" > 100 ORDER BY \
    \"orders\".\"created_at\" DESC, \"orders\".\"id\" LIMIT 50 OFFSET {n}";
/// How long an audit takes that is to be noticed.
const SLOW: Duration = Duration::from_millis(20);
/// Between two requests, so that the audit behind the first is over.
const PAUSE: Duration = Duration::from_millis(40);
/// How long one of three is under load before it is another's turn.
const TURN: Duration = Duration::from_millis(10);
/// Turns that are not counted.
const WARMUP_TURNS: usize = 6;
/// Requests of one measurement with pauses.
const PAUSED: usize = 25;

/// Loads without session state: what, how, the statement, and by how many clients.
const CELLS: [(&str, Mode, &str, usize); 10] = [
    ("simple, SELECT", Mode::Simple, SELECT, 16),
    ("simple, SELECT, another value each time", Mode::Simple, VARYING, 16),
    ("simple, SELECT, another shape each time", Mode::Simple, SHAPES, 16),
    ("simple, SELECT", Mode::Simple, SELECT, 100),
    ("simple, UPDATE", Mode::Simple, UPDATE, 16),
    ("simple, SELECT of 703 bytes, another value each time", Mode::Simple, LONG, 16),
    ("extended, SELECT", Mode::Extended, SELECT, 16),
    ("extended, UPDATE", Mode::Extended, UPDATE, 16),
    ("prepared, SELECT", Mode::Prepared, SELECT, 16),
    ("prepared, UPDATE", Mode::Prepared, UPDATE, 16),
];

/// Measures and prints everything.
///
/// # Errors
/// The first of a measurement.
pub(crate) fn run(bench: &Bench) -> io::Result<()> {
    cpu(bench)?;
    alternating(bench)?;
    audits(bench)
}

/// CPU time per query with and without following, and of a second one without: how much two of a kind differ.
///
/// The differences are smaller than what the machine's speed changes by within a second, so the three take turns every few
/// milliseconds, all of them with their clients connected, and a round is the sum of many such turns.
fn cpu(bench: &Bench) -> io::Result<()> {
    println!("## Following session state: CPU time of the pooler, µs per query\n");
    println!("| what | clients | on | off | on to off | lowest–highest | off to off | lowest–highest |");
    println!("|---|---|---|---|---|---|---|---|");
    let cells: Vec<_> = CELLS.iter().filter(|cell| !bench.quick || cell.3 == 16).collect();
    let mut results = vec![[Paired::default(), Paired::default()]; cells.len()];
    for _ in 0..bench.rounds {
        // Where a process lies in memory has a share in its speed: each round has new ones.
        let start = |off: &str| Arranged::start(bench, &format!("default_pool_size = 20\n{off}"), &[]);
        let all = [start("")?, start(OFF)?, start(OFF)?];
        for (&&(label, mode, sql, clients), [followed, control]) in cells.iter().zip(&mut results) {
            let cost = interleaved(bench, &all, &script(mode, sql), clients);
            let cost = cost.map_err(|e| io::Error::new(e.kind(), format!("{label}: {e}")))?;
            followed.push(cost[0], (cost[1] + cost[2]) / 2.0);
            control.push(cost[1], cost[2]);
        }
    }
    for ((label, _, _, clients), [followed, control]) in cells.iter().zip(&results) {
        let ((ratio, low, high), (same, least, most)) = (followed.ratio(), control.ratio());
        println!(
            "| {label} | {clients} | {:.2} | {:.2} | {ratio:.3} | {low:.3}–{high:.3} | {same:.3} | {least:.3}–{most:.3} |",
            followed.ours(),
            followed.theirs()
        );
    }
    Ok(())
}

fn script(mode: Mode, sql: &str) -> Script {
    let mut script = Script::new(mode, &sql.replace("{n}", "31415"), 1);
    if sql.contains("{n}") {
        let others = (0..OTHERS).map(|n| Script::new(mode, &sql.replace("{n}", &(31_416 + n).to_string()), 1));
        script.steps.extend(others.flat_map(|other| other.steps));
    }
    script
}

/// CPU time per query of each, in µs, over the run's time each.
fn interleaved(bench: &Bench, all: &[Arranged; 3], script: &Script, clients: usize) -> io::Result<[f64; 3]> {
    let open = |arranged: &Arranged| open_idle(&arranged.pooler.target, clients, script);
    let mut crowds = [open(&all[0])?, open(&all[1])?, open(&all[2])?];
    let mut steps = [(); 3].map(|()| script.steps.iter().cycle());
    let mut spent = [0u64; 3];
    let mut queries = [0u64; 3];
    let turns = (bench.duration.as_micros() / TURN.as_micros()).max(6) as usize;
    for turn in 0..turns + WARMUP_TURNS {
        for place in 0..3 {
            // Everyone is as often first as last, and before and after each of the others.
            let i = if turn % 2 == 0 { (turn / 2 + place) % 3 } else { (turn / 2 + 3 - place) % 3 };
            let before = Usage::of(all[i].pooler.pid())?.cpu_ns;
            let answered = for_a_turn(&mut crowds[i], &mut steps[i])?;
            if turn >= WARMUP_TURNS {
                spent[i] += Usage::of(all[i].pooler.pid())?.cpu_ns - before;
                queries[i] += answered;
            }
        }
    }
    Ok([0, 1, 2].map(|i| spent[i] as f64 / 1e3 / queries[i] as f64))
}

/// Everyone asks, then everyone is heard, again and again. Queries answered.
fn for_a_turn<'a>(crowd: &mut [Client], steps: &mut impl Iterator<Item = &'a Step>) -> io::Result<u64> {
    let (started, mut answered) = (Instant::now(), 0);
    while started.elapsed() < TURN {
        crowd.iter_mut().zip(&mut *steps).try_for_each(|(client, step)| client.ask(step))?;
        crowd.iter_mut().try_for_each(Client::hear)?;
        answered += crowd.len() as u64;
    }
    Ok(answered)
}

/// Two clients in turns on one server, with equal time zones and with different ones.
fn alternating(bench: &Bench) -> io::Result<()> {
    println!("\n## Two clients in turns on one server\n");
    println!(
        "| time zones | server answers after | latency p50, µs | p99, µs | system calls of the pooler | of the server |"
    );
    println!("|---|---|---|---|---|---|");
    for delay in ["0", "2000"] {
        let arranged = Arranged::start(bench, "default_pool_size = 1\n", &["--delay-us", delay])?;
        for (label, zones) in [("equal", ["Asia/Tokyo", "Asia/Tokyo"]), ("different", ["Asia/Tokyo", "Africa/Cairo"])] {
            let measured = take_turns(bench, &arranged, zones)?;
            let [p50, p99, pooler, server] = measured;
            println!("| {label} | {} ms | {p50:.0} | {p99:.0} | {pooler:.2} | {server:.2} |", delay.len() / 2);
        }
    }
    Ok(())
}

/// Medians over the rounds: latency at the 50th and 99th percentile in µs; system calls per query of both processes.
fn take_turns(bench: &Bench, arranged: &Arranged, zones: [&str; 2]) -> io::Result<[f64; 4]> {
    let target = &arranged.pooler.target;
    let script = Script::new(Mode::Simple, SELECT, 1);
    let opened = zones.map(|zone| Client::open_with(target, &["TimeZone", zone]));
    let mut clients: Vec<Client> = opened.into_iter().collect::<io::Result<_>>()?;
    let mut all = [(); 4].map(|()| Vec::new());
    for _ in 0..bench.rounds {
        let pids = [arranged.pooler.pid(), arranged.server.pid()];
        let counters = pids.map(|pid| std::thread::spawn(move || count(pid)));
        let (started, mut latencies) = (Instant::now(), Vec::new());
        while counters.iter().any(|counter| !counter.is_finished()) {
            for client in &mut clients {
                latencies.push(timed(client, &script)?);
            }
        }
        let rate = latencies.len() as f64 / started.elapsed().as_secs_f64();
        let calls = counters.map(|c| c.join().expect("the counting thread never panics").unwrap_or(0) as f64 / rate);
        let values = [quantile(&mut latencies, 0.5), quantile(&mut latencies, 0.99), calls[0], calls[1]];
        all.iter_mut().zip(values).for_each(|(list, value)| list.push(value));
    }
    Ok(all.map(|values| median(&values)))
}

/// A client that sets something, in front of a server whose audit is quick and one whose audit is slow.
fn audits(bench: &Bench) -> io::Result<()> {
    let slow = SLOW.as_micros().to_string();
    println!("\n## A client whose transactions are audited, latency in µs\n");
    println!("| audit | SET, p50 | p99 | a SELECT right behind it, p50 | p99 |\n|---|---|---|---|---|");
    let start = |options: &[&str]| Arranged::start(bench, "default_pool_size = 20\n", options);
    let both = [start(&[])?, start(&["--audit-delay-us", &slow])?];
    let mut latencies = [(); 2].map(|()| [Vec::new(), Vec::new()]);
    for _ in 0..bench.rounds {
        for (arranged, [sets, selects]) in both.iter().zip(&mut latencies) {
            set_and_select(arranged, sets, selects)?;
        }
    }
    for (label, [mut sets, mut selects]) in
        ["at once".to_owned(), format!("{} ms", SLOW.as_millis())].iter().zip(latencies)
    {
        let [set, set_tail] = [0.5, 0.99].map(|p| quantile(&mut sets, p));
        let [select, select_tail] = [0.5, 0.99].map(|p| quantile(&mut selects, p));
        println!("| {label} | {set:.0} | {set_tail:.0} | {select:.0} | {select_tail:.0} |");
    }
    Ok(())
}

fn set_and_select(arranged: &Arranged, sets: &mut Vec<f64>, selects: &mut Vec<f64>) -> io::Result<()> {
    let mut client = Client::open(&arranged.pooler.target)?;
    let [set, select] = ["SET work_mem = '8MB'", SELECT].map(|sql| Script::new(Mode::Simple, sql, 1));
    for _ in 0..PAUSED {
        sets.push(timed(&mut client, &set)?);
        selects.push(timed(&mut client, &select)?);
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

/// One request; how long it took, in µs.
fn timed(client: &mut Client, script: &Script) -> io::Result<f64> {
    let started = Instant::now();
    client.request(&script.steps[0])?;
    Ok(started.elapsed().as_secs_f64() * 1e6)
}

/// The value that a part `p` of all are not above; NaN of nothing.
fn quantile(values: &mut [f64], p: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = (values.len() as f64 * p) as usize;
    values.get(at.min(values.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
}
