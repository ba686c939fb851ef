//! Resident memory: at the start, per idle client, per prepared statement known, per user listed; and what idle
//! clients cost those that work. Resident memory only: the kernel's socket buffers come on top for everyone.

use std::io;
use std::time::Duration;

use pgsluice_benches::load::{Client, Mode, Script, open_idle};
use pgsluice_benches::usage::Usage;

use crate::bench::{Bench, in_turns};
use crate::machine;
use crate::pooler::Pooler;
use crate::setup::{Pair, Setup, target};
use crate::stats::Paired;

/// Time after which memory is read.
const SETTLE: Duration = Duration::from_secs(1);
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
    let without = cpu_of_others(bench, &pair)?;
    let script = Script::new(Mode::Simple, "SELECT 1", 1);
    let count = bench.idle_clients;
    let (ours, held_ours) = growth(&pair.ours, count, &script)?;
    let (theirs, held_theirs) = growth(&pair.theirs, count, &script)?;
    println!("| per idle client, of {count} | {:.2} KB | {:.2} KB | ≤ 1.0 KB |", ours, theirs);
    let with = cpu_of_others(bench, &pair)?;
    println!(
        "| CPU per query of 16 clients beside them, to without | {:.2} | {:.2} | ≤ 1.10 |",
        with.ours() / without.ours(),
        with.theirs() / without.theirs()
    );
    drop((held_ours, held_theirs));
    Ok(())
}

fn cpu_of_others(bench: &Bench, pair: &Pair) -> io::Result<Paired> {
    in_turns(pair, bench.rounds, |pooler| {
        Ok(bench.measure(&bench.load(pooler, Mode::Simple, "SELECT 1", 16))?.watched[0].0.cpu_us)
    })
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
fn growth(pooler: &Pooler, count: usize, script: &Script) -> io::Result<(f64, Vec<Client>)> {
    let before = rss(pooler)?;
    let clients = open_idle(&target(pooler.addr.clone()), count, script)?;
    std::thread::sleep(SETTLE);
    Ok(((rss(pooler)? - before) / count as f64, clients))
}
