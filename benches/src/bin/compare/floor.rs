//! How far pgsluice is from the least that a pooler could do: `floor`, which passes bytes on and nothing else, takes turns with it
//! in front of the same fake PostgreSQL.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;

use pgsluice_benches::load::Mode;
use pgsluice_benches::net::Addr;

use crate::bench::Bench;
use crate::pooler::Pooler;
use crate::setup::{Setup, free_port, target};
use crate::stats::Paired;

/// At most as dear as that.
const TARGET: f64 = 1.10;
const CLIENTS: [usize; 4] = [1, 16, 100, 1_000];

/// Measures and prints all rows.
///
/// # Errors
/// The first of a measurement.
pub(crate) fn run(bench: &Bench) -> io::Result<()> {
    let pair = bench.pair(Setup::PLAIN)?;
    let floor = start(bench, &pair.direct)?;
    println!("## CPU time per simple query beside a pooler that only passes bytes on, µs\n");
    println!("| clients | pgsluice | floor | ratio | lowest–highest | target |");
    println!("|---|---|---|---|---|---|");
    let mut results = vec![Paired::default(); CLIENTS.len()];
    for round in 0..bench.rounds {
        for (clients, paired) in CLIENTS.iter().zip(&mut results) {
            let cpu = |pooler: &Pooler| {
                let report = bench.measure(&bench.load(pooler, Mode::Simple, "SELECT 1", *clients))?;
                Ok::<_, io::Error>(report.watched[0].0.cpu_us)
            };
            if round.is_multiple_of(2) {
                let ours = cpu(&pair.ours)?;
                paired.push(ours, cpu(&floor)?);
            } else {
                let theirs = cpu(&floor)?;
                paired.push(cpu(&pair.ours)?, theirs);
            }
        }
    }
    for (clients, paired) in CLIENTS.iter().zip(&results) {
        let (ratio, low, high) = paired.ratio();
        let verdict = if ratio <= TARGET { "" } else { ", missed" };
        let (ours, floor) = (paired.ours(), paired.theirs());
        println!("| {clients} | {ours:.1} | {floor:.1} | {ratio:.2} | {low:.2}–{high:.2} | ≤ {TARGET:.2}{verdict} |");
    }
    Ok(())
}

fn start(bench: &Bench, server: &Addr) -> io::Result<Pooler> {
    let listen = Addr::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?)));
    let mut command = Command::new(bench.fakepg.with_file_name("floor"));
    command.arg("--listen").arg(listen.to_string()).arg("--server").arg(server.to_string());
    Pooler::spawn("floor", command, target(listen), Path::new(""))
}
