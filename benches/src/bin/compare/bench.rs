//! What the whole run has in common: the programs, how long and how often, and the pairing of measurements.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use pgsluice_benches::load::{Load, Mode, Report, Script, run};

use crate::pooler::Pooler;
use crate::setup::{Pair, Setup};
use crate::stats::Paired;

/// Time under load before each measurement: the pool opens its servers, caches warm.
const WARMUP: Duration = Duration::from_millis(250);

/// The run's programs and effort.
pub(crate) struct Bench {
    /// Program under test.
    pub(crate) pgsluice: PathBuf,
    /// Program it is compared with.
    pub(crate) pgbouncer: PathBuf,
    /// The fake PostgreSQL.
    pub(crate) fakepg: PathBuf,
    /// Fewer rows, shorter.
    pub(crate) quick: bool,
    /// Only rows of the part cpu whose label contains this.
    pub(crate) row: String,
    /// Where charts are drawn, if any are.
    pub(crate) plots: Option<PathBuf>,
    /// Pairs of measurements per row.
    pub(crate) rounds: usize,
    /// Counted time of each measurement.
    pub(crate) duration: Duration,
    /// Clients that wait idle while memory is measured.
    pub(crate) idle_clients: usize,
}

impl Bench {
    /// Starts both poolers in a setup, with a fake PostgreSQL behind each.
    ///
    /// # Errors
    /// When a program cannot be started or does not answer.
    pub(crate) fn pair(&self, setup: Setup) -> io::Result<Pair> {
        Pair::start(self, setup)
    }

    /// A closed loop with the run's times, watching one pooler.
    pub(crate) fn load(&self, pooler: &Pooler, mode: Mode, sql: &str, clients: usize) -> Load {
        Load {
            target: pooler.target.clone(),
            script: Script::new(mode, sql, 1),
            clients,
            threads: 1,
            warmup: WARMUP,
            duration: self.duration,
            rate: None,
            watch: vec![pooler.pid()],
        }
    }

    /// One measurement.
    ///
    /// # Errors
    /// Those of the load; `Other` if nothing was answered or something with an error.
    pub(crate) fn measure(&self, load: &Load) -> io::Result<Report> {
        checked(run(load)?)
    }
}

/// Measures both poolers in turns, the first one changing, `rounds` times; a measurement is one number.
///
/// # Errors
/// The first of a measurement.
pub(crate) fn in_turns(
    pair: &Pair,
    rounds: usize,
    mut measure: impl FnMut(&Pooler) -> io::Result<f64>,
) -> io::Result<Paired> {
    let mut paired = Paired::default();
    for round in 0..rounds {
        measure_once(pair, round, &mut measure, &mut paired)?;
    }
    Ok(paired)
}

/// One pair of measurements.
///
/// # Errors
/// Those of the measurement, with the pooler's name.
pub(crate) fn measure_once(
    pair: &Pair,
    round: usize,
    mut measure: impl FnMut(&Pooler) -> io::Result<f64>,
    paired: &mut Paired,
) -> io::Result<()> {
    let mut named = |p: &Pooler| measure(p).map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", p.name)));
    if round.is_multiple_of(2) {
        let ours = named(&pair.ours)?;
        paired.push(ours, named(&pair.theirs)?);
    } else {
        let theirs = named(&pair.theirs)?;
        paired.push(named(&pair.ours)?, theirs);
    }
    Ok(())
}

/// A report that counts: something was answered, and nothing with an error.
pub(crate) fn checked(report: Report) -> io::Result<Report> {
    match (report.requests, report.errors) {
        (0, _) => Err(io::Error::other("no request was answered")),
        (_, 0) => Ok(report),
        (_, errors) => Err(io::Error::other(format!("{errors} answers were errors"))),
    }
}
