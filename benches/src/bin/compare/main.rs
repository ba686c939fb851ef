//! The comparison: pgsluice and PgBouncer side by side, on the same configuration file, the same fake PostgreSQL and
//! the same load, in turns. It reports ratios of CPU time with their spread and memory per client; it is no test and
//! fails only when something does not work at all.

mod arranged;
mod bench;
mod beside;
mod cells;
mod certificate;
mod chart;
mod fairness;
mod floor;
mod growth;
mod latency;
mod machine;
mod memory;
mod plots;
mod pooler;
mod setup;
mod state;
mod stats;
mod storm;
mod syscalls;
mod tls;
mod workers;

use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Parser;
use pgsluice_benches::usage;

use bench::Bench;

/// Compares what pgsluice and PgBouncer cost, and prints Markdown tables.
///
/// Both read the same pgbouncer.ini and take turns under the same load in front of a fake PostgreSQL; ratios are
/// taken pair by pair, so that a change of the machine's speed during the run falls out of them.
#[derive(Parser)]
struct Options {
    /// A first impression in a little over a minute.
    #[arg(long)]
    quick: bool,
    /// Pairs of measurements per row.
    #[arg(long)]
    rounds: Option<usize>,
    /// Seconds of each measurement.
    #[arg(long)]
    seconds: Option<f64>,
    /// Only the parts whose name contains this: cpu, floor, syscalls, latency, memory, tls, state, workers,
    /// fairness, growth, storm, plots.
    #[arg(long, default_value = "")]
    part: String,
    /// Only the rows of the part cpu whose label contains this.
    #[arg(long, default_value = "", value_name = "TEXT")]
    row: String,
    /// Draw charts into this directory: throughput, tail, CPU time, memory, workers (the part plots).
    #[arg(long, value_name = "DIR")]
    plots: Option<PathBuf>,
    /// The pgsluice to measure; $PGSLUICE_BIN, or the one built beside this program.
    #[arg(long)]
    pgsluice: Option<PathBuf>,
    /// The PgBouncer to measure; $PGBOUNCER_BIN, or the one in PATH.
    #[arg(long)]
    pgbouncer: Option<PathBuf>,
}

impl Options {
    fn rounds(&self) -> usize {
        self.rounds.unwrap_or(if self.quick { 3 } else { 7 }).max(1)
    }

    fn duration(&self) -> Duration {
        Duration::from_secs_f64(self.seconds.unwrap_or(if self.quick { 0.3 } else { 1.0 }))
    }
}

fn main() -> io::Result<()> {
    let options = Options::parse();
    if options.part == "plots" && options.plots.is_none() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the part plots needs --plots DIR"));
    }
    let open_files = usage::raise_open_files(65_536);
    let beside = |name: &str| std::env::current_exe().map(|me| me.with_file_name(name));
    let bench = Bench {
        pgsluice: program(options.pgsluice.clone(), "PGSLUICE_BIN", beside("pgsluice")?),
        pgbouncer: program(options.pgbouncer.clone(), "PGBOUNCER_BIN", "pgbouncer".into()),
        fakepg: beside("fakepg")?,
        quick: options.quick,
        row: options.row.clone(),
        plots: options.plots.clone(),
        rounds: options.rounds(),
        duration: options.duration(),
        // As many descriptors here and in the pooler, and some for the rest.
        idle_clients: if open_files >= 12_000 { 10_000 } else { 1_000 },
    };
    let started = Instant::now();
    println!("{}\n", machine::describe(&bench)?);
    type Part = fn(&Bench) -> io::Result<()>;
    let parts: [(&str, Part); 12] = [
        ("cpu", cells::run),
        ("floor", floor::run),
        ("syscalls", syscalls::run),
        ("latency", latency::run),
        ("memory", memory::run),
        ("tls", tls::run),
        ("state", state::run),
        ("workers", workers::run),
        ("fairness", fairness::run),
        ("growth", growth::run),
        ("storm", storm::run),
        ("plots", plots::run),
    ];
    for (_, part) in parts.iter().filter(|(name, _)| name.contains(&options.part)) {
        part(&bench)?;
        println!();
    }
    println!("Load average at the end: {}; {:.0} s.", machine::load_average(), started.elapsed().as_secs_f64());
    Ok(())
}

/// A program by option, by environment variable, or where it usually is.
fn program(option: Option<PathBuf>, variable: &str, usual: PathBuf) -> PathBuf {
    option.or_else(|| std::env::var_os(variable).map(PathBuf::from)).unwrap_or(usual)
}
