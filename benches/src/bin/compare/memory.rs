//! Resident memory: at the start, per idle client, per prepared statement known, per user listed; and what idle
//! clients cost those that work. Resident memory only: the kernel's socket buffers come on top for everyone.

use std::io;
use std::time::Duration;

use pgsluice_benches::load::{Client, Mode, Script, open_idle};
use pgsluice_benches::usage::Usage;

use crate::bench::Bench;
use crate::machine;
use crate::pooler::Pooler;
use crate::setup::Setup;
use crate::stats::median;

/// Time after which memory is read.
pub(crate) const SETTLE: Duration = Duration::from_secs(1);
/// Clients that know prepared statements, and how many each.
const PREPARING_CLIENTS: usize = 1_000;
const STATEMENTS: usize = 20;
/// Users in the long user list.
const USERS: usize = 20_000;

/// Measures and prints all rows.
///
/// # Errors
/// The first of a measurement.
pub(crate) fn run(bench: &Bench) -> io::Result<()> {
    println!("## Memory (resident)\n\n| what | pgsluice | PgBouncer | target |\n|---|---|---|---|");
    let start = at_start(bench, Setup::PLAIN)?;
    let mib = |kib: f64| format!("{:.1} MB", kib / 1024.0);
    println!("| at the start | {} | {} | ≤ 8 MB |", mib(start.0), mib(start.1));
    idle_clients(bench)?;
    statements(bench)?;
    let listed = at_start(bench, Setup { users: USERS, ..Setup::PLAIN })?;
    let per_user = |with: f64, without: f64| (with - without).max(0.0) * 1024.0 / USERS as f64;
    println!(
        "| per user in the user list, of {USERS} | {:.0} B | {:.0} B | ≤ 300 B |",
        per_user(listed.0, start.0),
        per_user(listed.1, start.1)
    );
    Ok(())
}

/// KiB of both poolers after their first query.
fn at_start(bench: &Bench, setup: Setup) -> io::Result<(f64, f64)> {
    let pair = bench.pair(setup)?;
    std::thread::sleep(SETTLE);
    Ok((rss(&pair.ours)?, rss(&pair.theirs)?))
}

fn rss(pooler: &Pooler) -> io::Result<f64> {
    Ok(Usage::of(pooler.pid())?.rss_kib as f64)
}

/// Memory of clients that ran one query each and then wait, and CPU per query of 16 others beside them.
fn idle_clients(bench: &Bench) -> io::Result<()> {
    let pair = bench.pair(Setup::PLAIN)?;
    let (ours, theirs) = (crowd(bench, &pair.ours)?, crowd(bench, &pair.theirs)?);
    println!("| per idle client, of {} | {:.2} KB | {:.2} KB | ≤ 1.0 KB |", bench.idle_clients, ours.0, theirs.0);
    println!("| CPU per query of 16 clients beside them, to without them | {:.2} | {:.2} | ≤ 1.10 |", ours.1, theirs.1);
    Ok(())
}

/// KiB per idle client, and the CPU time of others with them to that without. One pooler at a time: the idle
/// clients of both would be more open files than many a system grants.
fn crowd(bench: &Bench, pooler: &Pooler) -> io::Result<(f64, f64)> {
    let without = cpu_of_others(bench, pooler)?;
    let script = Script::new(Mode::Simple, "SELECT 1", 1);
    let (each, held) = growth(pooler, bench.idle_clients, &script)?;
    let with = cpu_of_others(bench, pooler)?;
    drop(held);
    Ok((each, with / without))
}

fn cpu_of_others(bench: &Bench, pooler: &Pooler) -> io::Result<f64> {
    let load = bench.load(pooler, Mode::Simple, "SELECT 1", 16);
    let each: io::Result<Vec<f64>> = (0..bench.rounds).map(|_| Ok(bench.measure(&load)?.watched[0].0.cpu_us)).collect();
    Ok(median(&each?))
}

/// Memory of clients that know some prepared statements each.
fn statements(bench: &Bench) -> io::Result<()> {
    let pair = bench.pair(Setup::PLAIN)?;
    let mut script = Script::new(Mode::Simple, "SELECT 1", 1);
    script.prepare = Some(Script::prepare_many(STATEMENTS, "SELECT 1"));
    let (ours, _held) = growth(&pair.ours, PREPARING_CLIENTS, &script)?;
    let theirs = if machine::knows_prepared_statements(&machine::version(&bench.pgbouncer)?) {
        format!("{:.2} KB", growth(&pair.theirs, PREPARING_CLIENTS, &script)?.0)
    } else {
        "not supported".into()
    };
    println!(
        "| per idle client with {STATEMENTS} prepared statements, of {PREPARING_CLIENTS} | {ours:.2} KB | {theirs} | ≤ 2.0 KB |"
    );
    Ok(())
}

/// KiB per client that `count` new ones take, and the clients.
///
/// # Errors
/// Those of the first client that fails.
pub(crate) fn growth(pooler: &Pooler, count: usize, script: &Script) -> io::Result<(f64, Vec<Client>)> {
    let before = rss(pooler)?;
    let clients = open_idle(&pooler.target, count, script)?;
    std::thread::sleep(SETTLE);
    Ok(((rss(pooler)? - before) / count as f64, clients))
}
