//! How the cost of a query grows with what the pooler has to keep: clients that are all active, and pools of which only one
//! is.

use std::io;
use std::time::Duration;

use pgsluice_benches::load::{Client, Mode, Script};

use crate::bench::{Bench, measure_once};
use crate::pooler::Pooler;
use crate::setup::{Pair, Setup};
use crate::stats::Paired;

const SELECT: &str = "SELECT 1";
/// Active clients; the last only where there are files enough.
const CLIENTS: [usize; 4] = [10, 100, 1_000, 10_000];
/// From so many on, the load lasts a while before it is counted.
const MANY: usize = 10_000;
const WARMUP_MANY: Duration = Duration::from_secs(1);
/// Clients of the one pool that is not idle.
const BUSY: usize = 16;
/// After this long no idle pool has a server any more, where `RELEASED` applies.
const RELEASED: &str = "server_idle_timeout = 1\n";
const RELEASING: Duration = Duration::from_secs(3);

/// Pools that a pooler knows, all but one idle.
struct Pools {
    label: &'static str,
    settings: &'static str,
    counts: &'static [usize],
}

const POOLS: [Pools; 2] = [
    Pools { label: "16 clients beside idle pools without servers", settings: RELEASED, counts: &[1, 100, 5_000] },
    Pools { label: "16 clients beside idle pools with a server each", settings: "", counts: &[1, 2_000] },
];

/// One row of the table: what was measured, and that to the same of the smallest, pooler by pooler.
#[derive(Clone, Default)]
struct Grown {
    spent: Paired,
    ours: Paired,
    theirs: Paired,
}

/// Measures and prints all rows.
///
/// # Errors
/// The first of a measurement.
pub(crate) fn run(bench: &Bench) -> io::Result<()> {
    println!("## Growth: CPU time of the pooler, µs per query, and that to the first row of its kind\n");
    println!(
        "| what | clients or pools | pgsluice | PgBouncer | ratio | lowest–highest | pgsluice, to the first | target | PgBouncer |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    active_clients(bench)?;
    // Each holds as many files as clients would.
    let kinds = POOLS.iter().filter(|kind| kind.settings == RELEASED || bench.idle_clients >= MANY && !bench.quick);
    kinds.into_iter().try_for_each(|kind| idle_pools(bench, kind))
}

fn active_clients(bench: &Bench) -> io::Result<()> {
    let pair = bench.pair(Setup::PLAIN)?;
    let counts: Vec<usize> = CLIENTS.into_iter().filter(|n| *n <= bench.idle_clients).collect();
    let results = rounds(bench.rounds, counts.len(), |round, i, spent| {
        measure_once(&pair, round, |pooler| cpu(bench, pooler, counts[i]), spent)
    })?;
    for (count, grown) in counts.iter().zip(&results) {
        print("active clients", *count, grown, 1.20);
    }
    Ok(())
}

/// Every count has poolers of its own, so that rounds can go over all of them.
fn idle_pools(bench: &Bench, kind: &Pools) -> io::Result<()> {
    let counts: Vec<usize> = kind.counts.iter().copied().filter(|n| *n != 100 || !bench.quick).collect();
    let pairs: Vec<Pair> =
        counts.iter().map(|count| with_pools(bench, kind.settings, *count)).collect::<Result<_, _>>()?;
    std::thread::sleep(RELEASING);
    let results = rounds(bench.rounds, counts.len(), |round, i, spent| {
        measure_once(&pairs[i], round, |pooler| cpu(bench, pooler, BUSY), spent)
    })?;
    for (count, grown) in counts.iter().zip(&results) {
        print(kind.label, *count, grown, 1.10);
    }
    Ok(())
}

/// Poolers that know so many pools: the one under load, and others that had one client with one query each.
fn with_pools(bench: &Bench, settings: &'static str, count: usize) -> io::Result<Pair> {
    let pair = bench.pair(Setup { settings, ..Setup::PLAIN })?;
    let script = Script::new(Mode::Simple, SELECT, 1);
    for pooler in [&pair.ours, &pair.theirs] {
        let mut target = pooler.target.clone();
        for n in 1..count {
            target.credentials.database = format!("pool_{n}");
            let asked = Client::open(&target).and_then(|mut client| client.request(&script.steps[0]));
            asked.map_err(|e| io::Error::new(e.kind(), format!("{}, pool {n} of {count}: {e}", pooler.name)))?;
        }
    }
    Ok(pair)
}

/// Measures `count` rows in every round; a row's growth is taken within the round.
fn rounds(
    rounds: usize,
    count: usize,
    mut measure: impl FnMut(usize, usize, &mut Paired) -> io::Result<()>,
) -> io::Result<Vec<Grown>> {
    let mut results = vec![Grown::default(); count];
    for round in 0..rounds {
        let mut first = None;
        for (i, grown) in results.iter_mut().enumerate() {
            let mut one = Paired::default();
            measure(round, i, &mut one)?;
            let (ours, theirs) = (one.ours(), one.theirs());
            let (first_ours, first_theirs) = *first.get_or_insert((ours, theirs));
            grown.spent.push(ours, theirs);
            grown.ours.push(ours, first_ours);
            grown.theirs.push(theirs, first_theirs);
        }
    }
    Ok(results)
}

fn cpu(bench: &Bench, pooler: &Pooler, clients: usize) -> io::Result<f64> {
    let mut load = bench.load(pooler, Mode::Simple, SELECT, clients);
    if clients >= MANY {
        load.warmup = WARMUP_MANY;
    }
    Ok(bench.measure(&load)?.watched[0].0.cpu_us)
}

fn print(what: &str, count: usize, grown: &Grown, target: f64) {
    let ((ratio, low, high), ours) = (grown.spent.ratio(), grown.ours.ratio().0);
    println!(
        "| {what} | {count} | {:.1} | {:.1} | {ratio:.2} | {low:.2}–{high:.2} | {ours:.2} | ≤ {target:.2}{} | {:.2} |",
        grown.spent.ours(),
        grown.spent.theirs(),
        if ours <= target { "" } else { ", missed" },
        grown.theirs.ratio().0,
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_taken_within_a_round() {
        // The machine is twice as slow in the second round.
        let grown = rounds(2, 2, |round, row, spent| {
            let slower = (round + 1) as f64;
            spent.push(slower * (10.0 + row as f64), slower * (10.0 + 10.0 * row as f64));
            Ok(())
        });
        let grown = grown.unwrap();
        assert_eq!((grown[0].ours.ratio().0, grown[0].theirs.ratio().0), (1.0, 1.0));
        assert_eq!((grown[1].ours.ratio().0, grown[1].theirs.ratio().0), (1.1, 2.0));
    }
}
