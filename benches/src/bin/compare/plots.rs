//! Charts of what grows with the number of clients and workers, drawn into a directory; what they show is printed as well.

use std::fs;
use std::io;
use std::path::Path;

use pgsluice_benches::load::{Client, Mode, Report, Script, open_idle};
use pgsluice_benches::usage::Usage;

use crate::bench::Bench;
use crate::chart::{Axis, Chart, Series};
use crate::memory::SETTLE;
use crate::pooler::Pooler;
use crate::setup::{Pair, Setup};
use crate::stats::median;
use crate::workers;

const SELECT: &str = "SELECT 1";
/// Pairs of measurements per point, at most: there are many points.
const ROUNDS_MAX: usize = 3;
/// Clients under load: powers of two up to 1,024.
const DOUBLINGS: u32 = 10;
/// Clients that wait, as far as there are files enough.
const IDLE: [usize; 5] = [0, 1_000, 2_000, 5_000, 10_000];
/// Clients in front of several workers.
const CLIENTS: usize = 100;
const NAMES: [&str; 2] = ["pgsluice", "PgBouncer"];
const BY_CLIENTS: Axis = Axis { label: "clients", logarithmic: true };

/// What one measurement under load tells.
#[derive(Clone, Copy)]
enum Quantity {
    Rate,
    P99,
    Cpu,
}

impl Quantity {
    const ALL: [Quantity; 3] = [Quantity::Rate, Quantity::P99, Quantity::Cpu];

    fn of(self, report: &Report) -> f64 {
        match self {
            Quantity::Rate => report.rate(),
            Quantity::P99 => report.latency.quantile_us(0.99),
            Quantity::Cpu => report.watched[0].0.cpu_us,
        }
    }

    fn file(self) -> &'static str {
        match self {
            Quantity::Rate => "throughput.svg",
            Quantity::P99 => "p99.svg",
            Quantity::Cpu => "cpu.svg",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Quantity::Rate => "Throughput of simple queries, closed loop",
            Quantity::P99 => "99th percentile of the latency of simple queries, closed loop",
            Quantity::Cpu => "CPU time of the pooler per simple query",
        }
    }

    fn axis(self) -> Axis {
        match self {
            Quantity::Rate => Axis { label: "queries/s", logarithmic: false },
            Quantity::P99 => Axis { label: "µs", logarithmic: true },
            Quantity::Cpu => Axis { label: "µs", logarithmic: false },
        }
    }
}

/// Measures and draws everything, if a directory was named for it.
///
/// # Errors
/// The first of a measurement, and the file system's.
pub(crate) fn run(bench: &Bench) -> io::Result<()> {
    let Some(dir) = &bench.plots else { return Ok(()) };
    fs::create_dir_all(dir)?;
    under_load(bench, dir)?;
    idle_clients(bench, dir)?;
    several_workers(bench, dir)
}

fn under_load(bench: &Bench, dir: &Path) -> io::Result<()> {
    println!("## Simple queries by the number of clients: medians of pgsluice and PgBouncer\n");
    println!("| clients | queries/s | | p99, µs | | CPU, µs | |\n|---|---|---|---|---|---|---|");
    let pair = bench.pair(Setup::PLAIN)?;
    let mut lines = Quantity::ALL.map(|_| two_series(NAMES));
    for clients in (0..=DOUBLINGS).map(|n| 1usize << n) {
        let medians = at(bench, &pair, clients)?;
        for (line, both) in lines.iter_mut().zip(&medians) {
            for (series, value) in line.iter_mut().zip(both) {
                series.points.push((clients as f64, *value));
            }
        }
        let [rate, p99, cpu] = medians;
        println!(
            "| {clients} | {:.0} | {:.0} | {:.0} | {:.0} | {:.1} | {:.1} |",
            rate[0], rate[1], p99[0], p99[1], cpu[0], cpu[1]
        );
    }
    for (quantity, series) in Quantity::ALL.into_iter().zip(lines) {
        let chart = Chart { title: quantity.title().into(), x: BY_CLIENTS, y: quantity.axis(), series };
        fs::write(dir.join(quantity.file()), chart.svg())?;
    }
    Ok(())
}

/// Medians of all quantities for both poolers, which take turns.
fn at(bench: &Bench, pair: &Pair, clients: usize) -> io::Result<[[f64; 2]; 3]> {
    let mut values = Quantity::ALL.map(|_| [Vec::new(), Vec::new()]);
    for round in 0..bench.rounds.min(ROUNDS_MAX) {
        for turn in 0..2 {
            let i = (round + turn) % 2;
            let pooler = [&pair.ours, &pair.theirs][i];
            let report = bench.measure(&bench.load(pooler, Mode::Simple, SELECT, clients));
            let report =
                report.map_err(|e| io::Error::new(e.kind(), format!("{}, {clients} clients: {e}", pooler.name)))?;
            Quantity::ALL.iter().zip(&mut values).for_each(|(quantity, all)| all[i].push(quantity.of(&report)));
        }
    }
    Ok(values.map(|both| both.map(|all| median(&all))))
}

fn idle_clients(bench: &Bench, dir: &Path) -> io::Result<()> {
    println!("\n| idle clients | resident memory of pgsluice, MB | of PgBouncer |\n|---|---|---|");
    let pair = bench.pair(Setup::PLAIN)?;
    let mut series = two_series(NAMES);
    // One at a time: the clients of both would be more open files than many a system grants.
    series[0].points = memory(bench, &pair.ours)?;
    series[1].points = memory(bench, &pair.theirs)?;
    for (ours, theirs) in series[0].points.iter().zip(&series[1].points) {
        println!("| {} | {:.1} | {:.1} |", ours.0, ours.1, theirs.1);
    }
    let axis = |label| Axis { label, logarithmic: false };
    let title = "Resident memory of the pooler by idle clients".into();
    let chart = Chart { title, x: axis("idle clients"), y: axis("MB"), series };
    fs::write(dir.join("memory.svg"), chart.svg())
}

/// Clients, and the MB that the pooler takes with them.
fn memory(bench: &Bench, pooler: &Pooler) -> io::Result<Vec<(f64, f64)>> {
    let script = Script::new(Mode::Simple, SELECT, 1);
    let mut clients: Vec<Client> = Vec::new();
    let counts = IDLE.into_iter().filter(|count| *count <= bench.idle_clients);
    counts
        .map(|count| {
            clients.extend(open_idle(&pooler.target, count - clients.len(), &script)?);
            std::thread::sleep(SETTLE);
            Ok((count as f64, Usage::of(pooler.pid())?.rss_kib as f64 / 1024.0))
        })
        .collect()
}

/// All relative to one worker, so that both lines have one axis.
fn several_workers(bench: &Bench, dir: &Path) -> io::Result<()> {
    println!("\n| workers | queries/s of {CLIENTS} clients | CPU, µs per query |\n|---|---|---|");
    let mut series = two_series(["throughput", "CPU per query"]);
    let mut one = None;
    for workers in 1..=std::thread::available_parallelism().map_or(1, usize::from) {
        let arranged = workers::start(bench, workers)?;
        let (mut rates, mut spent) = (Vec::new(), Vec::new());
        for _ in 0..bench.rounds.min(ROUNDS_MAX) {
            let report = workers::measure(bench, &arranged, CLIENTS)?;
            rates.push(Quantity::Rate.of(&report));
            spent.push(Quantity::Cpu.of(&report));
        }
        let (rate, cpu) = (median(&rates), median(&spent));
        println!("| {workers} | {rate:.0} | {cpu:.1} |");
        let (rate_of_one, cpu_of_one) = *one.get_or_insert((rate, cpu));
        series[0].points.push((workers as f64, rate / rate_of_one));
        series[1].points.push((workers as f64, cpu / cpu_of_one));
    }
    let axis = |label| Axis { label, logarithmic: false };
    let title = format!("pgsluice by workers, {CLIENTS} clients");
    let chart = Chart { title, x: axis("workers"), y: axis("to one worker"), series };
    fs::write(dir.join("workers.svg"), chart.svg())
}

fn two_series(names: [&'static str; 2]) -> Vec<Series> {
    names.map(|name| Series { name, points: Vec::new() }).into()
}
