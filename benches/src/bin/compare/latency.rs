//! Latency: what a pooler adds for a single client, and the tail at half of PgBouncer's throughput. The generator,
//! the pooler and the fake PostgreSQL share the machine's cores, so the tail is theirs together.

use std::io;
use std::time::Duration;

use pgsluice_benches::load::{Mode, Report};

use crate::bench::Bench;
use crate::pooler::Pooler;
use crate::setup::{Pair, Setup, target};
use crate::stats::median;

/// Clients of the open loop.
const CLIENTS: usize = 100;

/// Medians over the rounds, µs.
#[derive(Default)]
struct Quantiles {
    p50: Vec<f64>,
    p99: Vec<f64>,
}

impl Quantiles {
    fn push(&mut self, report: &Report) {
        self.p50.push(report.latency.quantile_us(0.5));
        self.p99.push(report.latency.quantile_us(0.99));
    }

    fn row(&self, what: &str) {
        println!("| {what} | {:.1} | {:.1} |", median(&self.p50), median(&self.p99));
    }
}

/// Measures and prints all rows.
///
/// # Errors
/// The first of a measurement.
pub(crate) fn run(bench: &Bench) -> io::Result<()> {
    println!("## Latency, µs\n\n| what | p50 | p99 |\n|---|---|---|");
    let pair = bench.pair(Setup::PLAIN)?;
    let [mut direct, mut ours, mut theirs] = <[Quantiles; 3]>::default();
    for _ in 0..bench.rounds {
        let mut load = bench.load(&pair.ours, Mode::Simple, "SELECT 1", 1);
        load.target = target(pair.direct.clone());
        direct.push(&bench.measure(&load)?);
        ours.push(&bench.measure(&bench.load(&pair.ours, Mode::Simple, "SELECT 1", 1))?);
        theirs.push(&bench.measure(&bench.load(&pair.theirs, Mode::Simple, "SELECT 1", 1))?);
    }
    direct.row("1 client, direct");
    ours.row("1 client, pgsluice");
    theirs.row("1 client, PgBouncer");
    if bench.quick { Ok(()) } else { half_load(bench, &pair) }
}

fn half_load(bench: &Bench, pair: &Pair) -> io::Result<()> {
    let full = bench.measure(&bench.load(&pair.theirs, Mode::Simple, "SELECT 1", CLIENTS))?;
    let rate = full.rate() / 2.0;
    let [mut ours, mut theirs] = <[Quantiles; 2]>::default();
    for _ in 0..bench.rounds {
        ours.push(&open_loop(bench, &pair.ours, rate)?);
        theirs.push(&open_loop(bench, &pair.theirs, rate)?);
    }
    ours.row(&format!("{CLIENTS} clients, open loop, {rate:.0} queries/s, pgsluice"));
    theirs.row("the same, PgBouncer");
    Ok(())
}

fn open_loop(bench: &Bench, pooler: &Pooler, rate: f64) -> io::Result<Report> {
    let mut load = bench.load(pooler, Mode::Simple, "SELECT 1", CLIENTS);
    load.rate = Some(rate);
    load.duration = bench.duration.max(Duration::from_secs(1));
    bench.measure(&load)
}
