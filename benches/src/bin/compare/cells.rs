//! CPU time per query, per connection and per result: the table of what is measured with its targets, and the runs.
//! Rounds go over all rows of a setup, so that a row's pairs are spread over the setup's time.

use std::io;
use std::time::Duration;

use pgsluice_benches::load::{Mode, Script, Storm, storm};

use crate::bench::{Bench, checked, measure_once};
use crate::machine;
use crate::pooler::Pooler;
use crate::setup::{Auth, Pair, Setup};
use crate::stats::Paired;

/// What clients do in one row.
#[derive(Clone, Copy)]
enum Work {
    /// Queries on open connections.
    Queries(Mode, &'static str),
    /// Connections of one query each.
    Connections,
}

/// One row of the table.
struct Cell {
    label: &'static str,
    work: Work,
    clients: usize,
    /// The ratio to PgBouncer that is aimed at.
    target: Option<f64>,
    /// Part of the quick run.
    quick: bool,
}

const SELECT: &str = "SELECT 1";
const ROW_8K: &str = "SELECT repeat('x', 8192)";
const ROW_100K: &str = "SELECT repeat('x', 102400)";
const COPY_1M: &str = "COPY (SELECT 1048576) TO STDOUT";

const fn queries(
    label: &'static str,
    mode: Mode,
    sql: &'static str,
    clients: usize,
    target: Option<f64>,
    quick: bool,
) -> Cell {
    Cell { label, work: Work::Queries(mode, sql), clients, target, quick }
}

const fn connections(label: &'static str) -> Cell {
    Cell { label, work: Work::Connections, clients: 4, target: Some(0.90), quick: true }
}

const PLAIN: [Cell; 12] = [
    queries("simple", Mode::Simple, SELECT, 1, Some(0.88), true),
    queries("simple", Mode::Simple, SELECT, 16, Some(0.90), true),
    queries("simple", Mode::Simple, SELECT, 100, Some(0.70), true),
    queries("simple", Mode::Simple, SELECT, 1_000, Some(0.65), true),
    queries("extended, unnamed", Mode::Extended, SELECT, 1, Some(0.88), false),
    queries("extended, unnamed", Mode::Extended, SELECT, 16, Some(0.90), true),
    queries("extended, unnamed", Mode::Extended, SELECT, 100, Some(0.70), true),
    queries("extended, unnamed", Mode::Extended, SELECT, 1_000, Some(0.65), false),
    queries("row of 8 KB", Mode::Simple, ROW_8K, 16, Some(0.62), true),
    queries("row of 100 KB", Mode::Simple, ROW_100K, 16, Some(0.13), true),
    queries("COPY of 1 MB", Mode::Simple, COPY_1M, 16, Some(0.30), false),
    connections("connect, query, close: trust"),
];

/// The buffer that PgBouncer takes by default is a small one for large results; pgsluice has no use for this key.
const WIDE: &str = "pkt_buf = 65536\n";
const WITH_WIDE: [Cell; 3] = [
    queries("row of 8 KB; PgBouncer with pkt_buf = 65536", Mode::Simple, ROW_8K, 16, Some(0.95), false),
    queries("row of 100 KB; PgBouncer with pkt_buf = 65536", Mode::Simple, ROW_100K, 16, Some(0.95), false),
    queries("COPY of 1 MB; PgBouncer with pkt_buf = 65536", Mode::Simple, COPY_1M, 16, Some(0.95), false),
];

const PREPARED: [Cell; 4] = [
    queries("prepared, named", Mode::Prepared, SELECT, 1, Some(0.60), false),
    queries("prepared, named", Mode::Prepared, SELECT, 16, Some(0.60), true),
    queries("prepared, named", Mode::Prepared, SELECT, 100, Some(0.60), true),
    queries("prepared, named", Mode::Prepared, SELECT, 1_000, Some(0.60), false),
];

/// No targets: a session of its own for every client is not what is aimed at.
const PREPARED_OLD: [Cell; 3] = [
    queries("prepared, named; PgBouncer in session mode, no pooling", Mode::Prepared, SELECT, 1, None, false),
    queries("prepared, named; PgBouncer in session mode, no pooling", Mode::Prepared, SELECT, 16, None, true),
    queries("prepared, named; PgBouncer in session mode, no pooling", Mode::Prepared, SELECT, 100, None, true),
];

const UNIX: [Cell; 2] = [
    queries("simple, Unix sockets", Mode::Simple, SELECT, 16, Some(0.80), false),
    queries("simple, Unix sockets", Mode::Simple, SELECT, 100, Some(0.80), false),
];

const MD5: [Cell; 1] = [connections("connect, query, close: MD5")];
const SCRAM: [Cell; 1] = [connections("connect, query, close: SCRAM")];

/// Measures and prints all rows.
///
/// # Errors
/// The first of a measurement.
pub(crate) fn run(bench: &Bench) -> io::Result<()> {
    println!("## CPU time of the pooler (user and system, one thread), µs per query or per connection\n");
    println!("| what | clients | pgsluice | PgBouncer | ratio | lowest–highest | target |");
    println!("|---|---|---|---|---|---|---|");
    let old = !machine::knows_prepared_statements(&machine::version(&bench.pgbouncer)?);
    let plain = Setup::PLAIN;
    rows(bench, plain, &PLAIN)?;
    rows(bench, Setup { settings: WIDE, ..plain }, &WITH_WIDE)?;
    if old {
        rows(bench, Setup { theirs_in_session_mode: true, ..plain }, &PREPARED_OLD)?;
    } else {
        rows(bench, plain, &PREPARED)?;
    }
    rows(bench, Setup { unix: true, ..plain }, &UNIX)?;
    rows(bench, Setup { auth: Auth::Md5, ..plain }, &MD5)?;
    rows(bench, Setup { auth: Auth::Scram, ..plain }, &SCRAM)
}

fn rows(bench: &Bench, setup: Setup, cells: &[Cell]) -> io::Result<()> {
    let wanted = |cell: &&Cell| (cell.quick || !bench.quick) && cell.label.contains(&bench.row);
    let cells: Vec<&Cell> = cells.iter().filter(wanted).collect();
    if cells.is_empty() {
        return Ok(());
    }
    let pair = bench.pair(setup)?;
    let mut results = vec![Paired::default(); cells.len()];
    for round in 0..bench.rounds {
        for (cell, paired) in cells.iter().zip(&mut results) {
            measure_cell(bench, &pair, round, cell, paired)?;
        }
    }
    for (cell, paired) in cells.iter().zip(&results) {
        print(cell, paired);
    }
    Ok(())
}

fn measure_cell(bench: &Bench, pair: &Pair, round: usize, cell: &Cell, paired: &mut Paired) -> io::Result<()> {
    let measured = measure_once(pair, round, |pooler| cpu(bench, pooler, cell), paired);
    measured.map_err(|e| io::Error::new(e.kind(), format!("{}, {} clients: {e}", cell.label, cell.clients)))
}

/// CPU time per query or connection, µs.
fn cpu(bench: &Bench, pooler: &Pooler, cell: &Cell) -> io::Result<f64> {
    let report = match cell.work {
        Work::Queries(mode, sql) => bench.measure(&bench.load(pooler, mode, sql, cell.clients))?,
        Work::Connections => checked(storm(&Storm {
            target: pooler.target.clone(),
            script: Script::new(Mode::Simple, SELECT, 1),
            clients: cell.clients,
            gives_way: false,
            warmup: Duration::from_millis(100),
            duration: bench.duration,
            watch: vec![pooler.pid()],
        })?)?,
    };
    Ok(report.watched[0].0.cpu_us)
}

fn print(cell: &Cell, paired: &Paired) {
    let (ratio, low, high) = paired.ratio();
    let target = cell.target.map_or("–".into(), |t| format!("≤ {t:.2}{}", if ratio <= t { "" } else { ", missed" }));
    println!(
        "| {} | {} | {:.1} | {:.1} | {ratio:.2} | {low:.2}–{high:.2} | {target} |",
        cell.label,
        cell.clients,
        paired.ours(),
        paired.theirs(),
    );
}
