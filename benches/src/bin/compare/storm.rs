//! Queries while others connect: the tail of queries on open connections, alone and while connections over TLS come and go
//! on the same pooler, each with a handshake of its own. The queries are not encrypted, so that what slows them down is
//! the handshakes only.

use std::io;
use std::time::Duration;

use pgsluice_benches::load::{Load, Mode, Report, Script, Storm, Target, storm};
use pgsluice_benches::tls::trust;

use crate::bench::{Bench, checked};
use crate::beside::{Beside, moderate_rate, open_loop};
use crate::certificate::Key;
use crate::setup::{Pair, Setup};

/// Clients that ask queries.
const CLIENTS: usize = 16;
/// Connections that come and go at a time.
const CONNECTING: usize = 4;
/// The storm goes on for so much longer than the load, which has its clients to connect first.
const LONGER: Duration = Duration::from_millis(200);

/// Measures and prints everything.
///
/// # Errors
/// The first of a measurement.
pub(crate) fn run(bench: &Bench) -> io::Result<()> {
    let pair = bench.pair(Setup { key: Some(Key::Ecdsa), plain_too: true, ..Setup::PLAIN })?;
    let rate = moderate_rate(bench, &pair, CLIENTS)?;
    println!(
        "## A storm of connections: {rate:.0} queries/s of {CLIENTS} clients beside {CONNECTING} at a time that connect over TLS, µs\n"
    );
    Beside::heading("connections/s");
    let mut results = <[Beside; 2]>::default();
    for round in 0..bench.rounds {
        for turn in 0..2 {
            let i = (round + turn) % 2;
            let pooler = [&pair.ours, &pair.theirs][i];
            let load = open_loop(bench, &pair, &pooler.target, CLIENTS, rate);
            let measured = results[i].measure(bench, round, &load, |load| beside(bench, &pair, load));
            measured.map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", pooler.name)))?;
        }
    }
    results[0].row(pair.ours.name, true);
    results[1].row(pair.theirs.name, false);
    Ok(())
}

/// The load during a storm, and how many connections came and went per second.
fn beside(bench: &Bench, pair: &Pair, load: &Load) -> io::Result<(Report, f64)> {
    let connecting = Storm {
        target: Target { tls: Some(trust(&pair.certificate, false)?), ..load.target.clone() },
        script: Script::new(Mode::Simple, "SELECT 1", 1),
        clients: CONNECTING,
        gives_way: true,
        warmup: load.warmup,
        duration: load.duration + LONGER,
        watch: Vec::new(),
    };
    let connecting = std::thread::spawn(move || storm(&connecting));
    let report = bench.measure(load);
    let connected = connecting.join().expect("the storm's thread never panics");
    Ok((report?, checked(connected?)?.rate()))
}
