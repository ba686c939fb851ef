//! System calls per query, counted by the kernel's tracepoint through perf(1) while the load runs. Without perf, or
//! without the right to use it, the table is left out with a word.

use std::io;
use std::process::Command;
use std::time::Duration;

use pgsluice_benches::load::Mode;

use crate::bench::{Bench, in_turns};
use crate::pooler::Pooler;
use crate::setup::Setup;

/// Seconds that are counted.
const COUNTED: &str = "1";
/// The load lasts as long and a little, and the counting begins within it.
const LOAD: Duration = Duration::from_millis(1_600);

/// Measures and prints all rows.
///
/// # Errors
/// Those of the load.
pub(crate) fn run(bench: &Bench) -> io::Result<()> {
    println!("## System calls per query\n");
    let pair = bench.pair(Setup::PLAIN)?;
    if count(pair.ours.pid()).is_none() {
        println!("Not measured: perf cannot count raw_syscalls:sys_enter here.");
        return Ok(());
    }
    println!("| clients | pgsluice | PgBouncer | target |\n|---|---|---|---|");
    let rows = [(1, "–", false), (16, "–", false), (100, "≤ 4.1", true), (1_000, "–", false)];
    for (clients, target, _) in rows.into_iter().filter(|(_, _, quick)| *quick || !bench.quick) {
        let paired = in_turns(&pair, if bench.quick { 1 } else { 3 }, |pooler| per_query(bench, pooler, clients))?;
        println!("| {clients} | {:.2} | {:.2} | {target} |", paired.ours(), paired.theirs());
    }
    Ok(())
}

fn per_query(bench: &Bench, pooler: &Pooler, clients: usize) -> io::Result<f64> {
    let mut load = bench.load(pooler, Mode::Simple, "SELECT 1", clients);
    load.duration = LOAD;
    let (pid, connecting) = (pooler.pid(), Duration::from_micros(200) * clients as u32);
    let counter = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(400) + connecting);
        count(pid)
    });
    let report = bench.measure(&load)?;
    let calls = counter.join().expect("the counting thread never panics").unwrap_or(0);
    Ok(calls as f64 / report.rate())
}

/// System calls of a process in a second; `None` if perf cannot tell.
pub(crate) fn count(pid: u32) -> Option<u64> {
    let pid = pid.to_string();
    let arguments = ["stat", "-x,", "-e", "raw_syscalls:sys_enter", "-p", &pid, "--", "sleep", COUNTED];
    let output = Command::new("perf").args(arguments).output().ok()?;
    let text = String::from_utf8_lossy(&output.stderr);
    text.lines().find(|l| l.contains("sys_enter"))?.split(',').next()?.parse().ok()
}
