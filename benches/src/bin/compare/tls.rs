//! TLS to clients, and what it costs to log in: CPU time per query over TLS, CPU time and rate of connections by method, with
//! and without TLS, and resident memory per client. PostgreSQL's side is never encrypted here.

use std::io;
use std::time::Duration;

use pgsluice_benches::load::{Client, Mode, Report, Script, Storm, Target, storm};
use pgsluice_benches::tls::trust;

use crate::bench::{Bench, checked, measure_once};
use crate::certificate::Key;
use crate::memory::growth;
use crate::pooler::Pooler;
use crate::setup::{Auth, Pair, Setup};
use crate::stats::{Paired, median};

const SELECT: &str = "SELECT 1";
/// Connections at a time.
const CONNECTING: usize = 4;
/// Clients that wait idle while memory is measured, and how often that is done at most.
const IDLE: usize = 1_000;
const MEMORY_ROUNDS: usize = 3;

const MD5: Setup = Setup { auth: Auth::Md5, ..Setup::PLAIN };
const SCRAM: Setup = Setup { auth: Auth::Scram, ..Setup::PLAIN };
const ECDSA: Setup = Setup { key: Some(Key::Ecdsa), ..Setup::PLAIN };
const RSA: Setup = Setup { key: Some(Key::Rsa), ..Setup::PLAIN };
const ECDSA_SCRAM: Setup = Setup { auth: Auth::Scram, ..ECDSA };

/// What clients do in one row.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Work {
    /// So many clients ask on open connections.
    Queries(usize),
    /// Connections of one query each.
    Connections,
    /// The same; they take up their TLS sessions again.
    Resumptions,
}

struct Row {
    label: &'static str,
    setup: Setup,
    work: Work,
}

const ROWS: [Row; 10] = [
    Row { label: "simple query over TLS", setup: ECDSA, work: Work::Queries(1) },
    Row { label: "simple query over TLS", setup: ECDSA, work: Work::Queries(16) },
    Row { label: "simple query over TLS", setup: ECDSA, work: Work::Queries(100) },
    Row { label: "connect, query, close: trust", setup: Setup::PLAIN, work: Work::Connections },
    Row { label: "the same: MD5", setup: MD5, work: Work::Connections },
    Row { label: "the same: SCRAM", setup: SCRAM, work: Work::Connections },
    Row { label: "the same: trust over TLS, ECDSA P-256", setup: ECDSA, work: Work::Connections },
    Row { label: "the same: trust over TLS, RSA 2048", setup: RSA, work: Work::Connections },
    Row { label: "the same: trust over TLS, resumed", setup: ECDSA, work: Work::Resumptions },
    Row { label: "the same: SCRAM over TLS, ECDSA P-256", setup: ECDSA_SCRAM, work: Work::Connections },
];
/// The ratio to PgBouncer that is aimed at, in every row.
const TARGET: f64 = 0.90;

/// Measures and prints all rows.
///
/// # Errors
/// The first of a measurement.
pub(crate) fn run(bench: &Bench) -> io::Result<()> {
    println!("## TLS 1.3 to clients, and logins: CPU time of the pooler, µs per query or per connection\n");
    println!(
        "| what | clients | pgsluice | PgBouncer | ratio | lowest–highest | target | pgsluice, per s | PgBouncer |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    let arranged = arrange(bench)?;
    let mut results = ROWS.map(|_| (Paired::default(), Paired::default()));
    for round in 0..bench.rounds {
        for (row, (spent, rates)) in ROWS.iter().zip(&mut results) {
            let pair = of(&arranged, row.setup)?;
            let mut rate = [0.0; 2];
            let one = |pooler: &Pooler| {
                let report = report(bench, pair, pooler, row.work)?;
                rate[usize::from(pooler.name == pair.theirs.name)] = report.rate();
                Ok(report.watched[0].0.cpu_us)
            };
            measure_once(pair, round, one, spent)
                .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", row.label)))?;
            rates.push(rate[0], rate[1]);
        }
    }
    for (row, (spent, rates)) in ROWS.iter().zip(&results) {
        print(row, spent, rates);
    }
    let pair = of(&arranged, ECDSA)?;
    let word = |pooler| resumes(pair, pooler).map(|does| if does { "yes" } else { "no" });
    println!("\nSessions are resumed: pgsluice {}, PgBouncer {}.", word(&pair.ours)?, word(&pair.theirs)?);
    drop(arranged);
    memory(bench)
}

/// Every setup once, both poolers running.
fn arrange(bench: &Bench) -> io::Result<Vec<(Setup, Pair)>> {
    let mut arranged: Vec<(Setup, Pair)> = Vec::new();
    for Row { setup, .. } in ROWS {
        if arranged.iter().all(|(there, _)| *there != setup) {
            arranged.push((setup, bench.pair(setup)?));
        }
    }
    Ok(arranged)
}

fn of(arranged: &[(Setup, Pair)], setup: Setup) -> io::Result<&Pair> {
    arranged.iter().find(|(there, _)| *there == setup).map(|(_, pair)| pair).ok_or(io::ErrorKind::NotFound.into())
}

fn report(bench: &Bench, pair: &Pair, pooler: &Pooler, work: Work) -> io::Result<Report> {
    let target = match work {
        Work::Queries(clients) => return bench.measure(&bench.load(pooler, Mode::Simple, SELECT, clients)),
        Work::Connections => pooler.target.clone(),
        Work::Resumptions => resuming(pair, pooler)?,
    };
    checked(storm(&Storm {
        target,
        script: Script::new(Mode::Simple, SELECT, 1),
        clients: CONNECTING,
        gives_way: false,
        warmup: Duration::from_millis(100),
        duration: bench.duration,
        watch: vec![pooler.pid()],
    })?)
}

/// Clients that share a store of tickets, empty as yet.
fn resuming(pair: &Pair, pooler: &Pooler) -> io::Result<Target> {
    Ok(Target { tls: Some(trust(&pair.certificate, true)?), ..pooler.target.clone() })
}

/// Whether a client that comes again takes up its session.
fn resumes(pair: &Pair, pooler: &Pooler) -> io::Result<bool> {
    let target = resuming(pair, pooler)?;
    let script = Script::new(Mode::Simple, SELECT, 1);
    Client::open(&target)?.request(&script.steps[0])?;
    Ok(Client::open(&target)?.is_resumed())
}

fn print(row: &Row, spent: &Paired, rates: &Paired) {
    let (ratio, low, high) = spent.ratio();
    let clients = if let Work::Queries(clients) = row.work { clients } else { CONNECTING };
    println!(
        "| {} | {clients} | {:.1} | {:.1} | {ratio:.2} | {low:.2}–{high:.2} | ≤ {TARGET:.2}{} | {:.0} | {:.0} |",
        row.label,
        spent.ours(),
        spent.theirs(),
        if ratio <= TARGET { "" } else { ", missed" },
        rates.ours(),
        rates.theirs(),
    );
}

/// Memory of clients that ran one query each and then wait, in processes that have served nobody before.
fn memory(bench: &Bench) -> io::Result<()> {
    println!("\n| resident memory per idle client, of {IDLE} | pgsluice | PgBouncer | target |\n|---|---|---|---|");
    let script = Script::new(Mode::Simple, SELECT, 1);
    for (label, setup, target) in [("not encrypted", Setup::PLAIN, "≤ 1.0 KB"), ("TLS", ECDSA, "≤ 8.0 KB")] {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..bench.rounds.min(MEMORY_ROUNDS) {
            let pair = bench.pair(setup)?;
            ours.push(growth(&pair.ours, IDLE, &script)?.0);
            theirs.push(growth(&pair.theirs, IDLE, &script)?.0);
        }
        println!("| {label} | {:.2} KB | {:.2} KB | {target} |", median(&ours), median(&theirs));
    }
    Ok(())
}
