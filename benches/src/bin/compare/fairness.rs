//! Short queries beside bulk and beside a client that does not fetch what it asked for: one thread must not let either
//! hold up the others. The two have a fake PostgreSQL of their own, so that no query waits behind them there, and it and
//! they have what the others leave of the processors. What the same does without a pooler is shown as well.

use std::io;
use std::time::Duration;

use pgsluice_benches::load::{Load, Neighbour, Pace, Report, Target};

use crate::bench::Bench;
use crate::beside::{Beside, moderate_rate, open_loop};
use crate::setup::{Pair, Setup, bulk, target};

/// Clients that ask short queries.
const CLIENTS: usize = 200;
/// As many servers as that rate never wants for.
const POOL_SIZE: usize = 50;
/// What one client copies, back to back.
const COPY: &str = "COPY (SELECT 1048576) TO STDOUT";
/// What another asks for, and how slowly it fetches it: it is not done within a measurement.
const LARGE: &str = "COPY (SELECT 16777216) TO STDOUT";
const SLOWLY: Pace = Pace { size: 4096, pause: Duration::from_millis(10) };

/// Where queries go, and where the two others do.
struct Way {
    name: &'static str,
    queries: Target,
    others: Target,
}

impl Way {
    fn all(pair: &Pair) -> io::Result<[Way; 3]> {
        let through = |name, queries: &Target| Way { name, queries: queries.clone(), others: bulk(queries.clone()) };
        let second = pair.direct_bulk.clone().ok_or(io::ErrorKind::NotFound)?;
        let direct = Way { name: "no pooler", queries: target(pair.direct.clone()), others: target(second) };
        Ok([through("pgsluice", &pair.ours.target), through("PgBouncer", &pair.theirs.target), direct])
    }

    /// The load while the two others are at work, and how many MB of copies one of them got per second.
    fn beside(&self, bench: &Bench, load: &Load) -> io::Result<(Report, f64)> {
        let slow = Neighbour::start(&self.others, LARGE, Some(SLOWLY))?;
        let copying = Neighbour::start(&self.others, COPY, None)?;
        let report = bench.measure(load)?;
        slow.finish()?;
        Ok((report, copying.finish()? / 1e6))
    }
}

/// Measures and prints everything.
///
/// # Errors
/// The first of a measurement.
pub(crate) fn run(bench: &Bench) -> io::Result<()> {
    let pair = bench.pair(Setup { pool_size: POOL_SIZE, bulk: true, ..Setup::PLAIN })?;
    let rate = moderate_rate(bench, &pair, CLIENTS)?;
    println!(
        "## Fairness: {rate:.0} short queries/s of {CLIENTS} clients, beside one that copies and one that reads slowly, µs\n"
    );
    Beside::heading("copied, MB/s");
    let ways = Way::all(&pair)?;
    let mut results = <[Beside; 3]>::default();
    for round in 0..bench.rounds {
        for i in 0..ways.len() {
            // Everyone is first in turn.
            let i = (i + round) % ways.len();
            let load = open_loop(bench, &pair, &ways[i].queries, CLIENTS, rate);
            let measured = results[i].measure(bench, round, &load, |load| ways[i].beside(bench, load));
            measured.map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", ways[i].name)))?;
        }
    }
    for (way, beside) in ways.iter().zip(&results) {
        beside.row(way.name, way.name == pair.ours.name);
    }
    Ok(())
}
