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

/// Measures and prints all rows.
///
/// # Errors
/// The first of a measurement.
pub(crate) fn run(bench: &Bench) -> io::Result<()> {
    println!("## CPU time per simple query beside a pooler that only passes bytes on, µs\n");
    println!("| sockets | clients | pgsluice | floor | ratio | lowest–highest | target |");
    println!("|---|---|---|---|---|---|---|");
    rows(bench, Setup::PLAIN, "TCP", &[1, 16, 100, 1_000])?;
    rows(bench, Setup { unix: true, ..Setup::PLAIN }, "Unix", &[16, 100])
}

fn rows(bench: &Bench, setup: Setup, sockets: &str, clients: &[usize]) -> io::Result<()> {
    let pair = bench.pair(setup)?;
    let floor = start(bench, &pair.direct)?;
    let mut results = vec![Paired::default(); clients.len()];
    for round in 0..bench.rounds {
        for (clients, paired) in clients.iter().zip(&mut results) {
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
    for (clients, paired) in clients.iter().zip(&results) {
        let (ratio, low, high) = paired.ratio();
        let verdict = if ratio <= TARGET { "" } else { ", missed" };
        let (ours, floor) = (paired.ours(), paired.theirs());
        println!(
            "| {sockets} | {clients} | {ours:.1} | {floor:.1} | {ratio:.2} | {low:.2}–{high:.2} | ≤ {TARGET:.2}{verdict} |"
        );
    }
    Ok(())
}

/// It listens where its server does: on TCP, or in the same directory.
fn start(bench: &Bench, server: &Addr) -> io::Result<Pooler> {
    let listen = match server {
        Addr::Tcp(_) => Addr::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?))),
        Addr::Unix(path) => Addr::Unix(path.with_file_name("floor")),
    };
    let mut command = Command::new(bench.fakepg.with_file_name("floor"));
    command.arg("--listen").arg(listen.to_string()).arg("--server").arg(server.to_string());
    Pooler::spawn("floor", command, target(listen), Path::new(""))
}
