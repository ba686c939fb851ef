//! What a second worker costs and brings: two pgsluices that differ in nothing else, under the same load in turns.
//! Throughput tells something only where there are cores for everyone, the generator and the fake PostgreSQL included.

use std::io;

use pgsluice_benches::load::{Mode, Report};

use crate::arranged::Arranged;
use crate::bench::Bench;
use crate::stats::Paired;

/// The ratio of CPU time per query that is aimed at, two to one.
const TARGET: f64 = 1.10;
const CLIENTS: [usize; 2] = [16, 100];

/// Measures and prints all rows.
///
/// # Errors
/// The first of a measurement.
pub(crate) fn run(bench: &Bench) -> io::Result<()> {
    println!("## Two workers to one: CPU time of the pooler, µs per query, and queries per second\n");
    println!(
        "| clients | CPU, 1 worker | 2 workers | ratio | lowest–highest | target | queries/s, 1 worker | 2 workers | ratio |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    let (one, two) = (start(bench, 1)?, start(bench, 2)?);
    let mut results = CLIENTS.map(|_| (Paired::default(), Paired::default()));
    for round in 0..bench.rounds {
        for (clients, (spent, rates)) in CLIENTS.into_iter().zip(&mut results) {
            let (of_one, of_two);
            if round.is_multiple_of(2) {
                of_one = measure(bench, &one, clients)?;
                of_two = measure(bench, &two, clients)?;
            } else {
                of_two = measure(bench, &two, clients)?;
                of_one = measure(bench, &one, clients)?;
            }
            spent.push(of_two.watched[0].0.cpu_us, of_one.watched[0].0.cpu_us);
            rates.push(of_two.rate(), of_one.rate());
        }
    }
    for (clients, (spent, rates)) in CLIENTS.into_iter().zip(&results) {
        print(clients, spent, rates);
    }
    Ok(())
}

/// A pgsluice with so many workers.
///
/// # Errors
/// When it does not start.
pub(crate) fn start(bench: &Bench, workers: usize) -> io::Result<Arranged> {
    let settings = format!("default_pool_size = 20\nworkers = {workers}\n");
    Arranged::start(bench, &settings, &["--threads", &threads().to_string()])
}

/// One measurement, a closed loop.
///
/// # Errors
/// Those of the load.
pub(crate) fn measure(bench: &Bench, arranged: &Arranged, clients: usize) -> io::Result<Report> {
    let mut load = bench.load(&arranged.pooler, Mode::Simple, "SELECT 1", clients);
    load.threads = threads();
    bench.measure(&load)
}

/// Threads of the generator, and of the fake PostgreSQL: no more than leave the workers their share of the cores.
fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| (cores.get() / 4).max(1))
}

fn print(clients: usize, spent: &Paired, rates: &Paired) {
    let (ratio, low, high) = spent.ratio();
    println!(
        "| {clients} | {:.1} | {:.1} | {ratio:.2} | {low:.2}–{high:.2} | ≤ {TARGET:.2}{} | {:.0} | {:.0} | {:.2} |",
        spent.theirs(),
        spent.ours(),
        if ratio <= TARGET { "" } else { ", missed" },
        rates.theirs(),
        rates.ours(),
        rates.ratio().0,
    );
}
