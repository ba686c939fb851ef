//! Connections that live for one query: connect, log in, ask, say goodbye, wait until the other side has closed. A
//! thread per client at work, blocking, as what is measured is the pooler.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::client::{Client, Target};
use super::driver::Outcome;
use super::script::Script;
use super::{Control, MEASURE, Report, STOP};
use crate::proto;
use crate::usage::give_way;

/// What is to be done.
#[derive(Clone, Debug)]
pub struct Storm {
    /// Where to, and as whom.
    pub target: Target,
    /// What each connection asks once.
    pub script: Script,
    /// Connections at a time.
    pub clients: usize,
    /// See [`give_way`].
    pub gives_way: bool,
    /// Time before anything is counted.
    pub warmup: Duration,
    /// Time that is counted.
    pub duration: Duration,
    /// Processes whose use is reported, per connection.
    pub watch: Vec<u32>,
}

/// Runs a storm; a request of the report is one connection from connect to close.
///
/// # Errors
/// The first error of a socket, login or query.
pub fn storm(storm: &Storm) -> io::Result<Report> {
    let control = Arc::new(Control::new(storm.clients + 1));
    let threads: Vec<_> = (0..storm.clients)
        .map(|_| {
            let gives_way = storm.gives_way;
            let (control, target, script) = (Arc::clone(&control), storm.target.clone(), storm.script.clone());
            std::thread::spawn(move || {
                if gives_way {
                    give_way();
                }
                repeat(&target, &script, &control)
            })
        })
        .collect();
    let measured = control.conduct(storm.warmup, storm.duration, &storm.watch);
    let mut outcome = Outcome::default();
    for thread in threads {
        outcome.merge(&thread.join().expect("a generator thread never panics")?);
    }
    Ok(measured.report(outcome))
}

fn repeat(target: &Target, script: &Script, control: &Control) -> io::Result<Outcome> {
    let mut outcome = Outcome::default();
    control.ready.wait();
    while control.phase() != STOP {
        let started = Instant::now();
        one_life(target, script)?;
        if control.phase() == MEASURE {
            outcome.latency.record(started.elapsed().as_nanos() as u64);
        }
        control.add_done(1);
    }
    Ok(outcome)
}

/// The server closes first in effect: waiting for its end leaves TIME_WAIT there and our ports free.
fn one_life(target: &Target, script: &Script) -> io::Result<()> {
    let mut client = Client::open(target)?;
    for step in &script.steps {
        client.request(step)?;
    }
    (&client.stream).write_all(&proto::terminate())?;
    let mut rest = [0; 64];
    while (&client.stream).read(&mut rest)? > 0 {}
    Ok(())
}
