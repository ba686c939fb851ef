//! A load generator: many clients on few threads, closed loop (the next request when the answer is there) or open
//! loop (a Poisson schedule, latency counted from when a request was due), and what the watched processes used
//! meanwhile. It counts ReadyForQuery and ErrorResponse and reads nothing else of an answer.

mod client;
mod driver;
mod neighbour;
mod script;
mod storm;

use std::io;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

pub use client::{Client, Target, open_idle};
use driver::{Driver, Outcome};
pub use neighbour::{Neighbour, Pace};
pub use script::{Mode, Script, Step};
pub use storm::{Storm, storm};

use crate::hist::Hist;
use crate::usage::{PerQuery, Usage};

/// What is to be done.
#[derive(Clone, Debug)]
pub struct Load {
    /// Where to, and as whom.
    pub target: Target,
    /// What each client sends, again and again.
    pub script: Script,
    /// Clients under load.
    pub clients: usize,
    /// Generator threads.
    pub threads: usize,
    /// Time under load before anything is counted.
    pub warmup: Duration,
    /// Time that is counted.
    pub duration: Duration,
    /// Transactions per second of all clients together; `None` for a closed loop.
    pub rate: Option<f64>,
    /// Processes whose use of CPU and memory is reported.
    pub watch: Vec<u32>,
}

/// What was seen.
#[derive(Clone, Debug)]
pub struct Report {
    /// From sending a request (open loop: from when it was due) to its ReadyForQuery.
    pub latency: Hist,
    /// Requests answered in the counted time.
    pub requests: u64,
    /// The counted time, as it turned out.
    pub elapsed: Duration,
    /// ErrorResponse messages, warm-up included.
    pub errors: u64,
    /// Open loop: requests that found their client still busy.
    pub late: u64,
    /// For each watched process: its use per request, and at the end.
    pub watched: Vec<(PerQuery, Usage)>,
}

impl Report {
    /// Requests per second.
    pub fn rate(&self) -> f64 {
        self.requests as f64 / self.elapsed.as_secs_f64()
    }
}

const WARMUP: u8 = 0;
const MEASURE: u8 = 1;
const STOP: u8 = 2;

/// Shared by the generator threads and the one that keeps the time.
struct Control {
    phase: AtomicU8,
    ready: Barrier,
    /// Requests finished so far, in every phase.
    done: AtomicU64,
}

impl Control {
    fn new(parties: usize) -> Self {
        Self { phase: AtomicU8::new(WARMUP), ready: Barrier::new(parties), done: AtomicU64::new(0) }
    }

    fn phase(&self) -> u8 {
        self.phase.load(Ordering::Relaxed)
    }

    fn add_done(&self, n: u64) {
        self.done.fetch_add(n, Ordering::Relaxed);
    }

    /// Keeps the time: warm-up, then the counted time between two samples, then the end.
    fn conduct(&self, warmup: Duration, duration: Duration, watch: &[u32]) -> Measured {
        let sample = || watch.iter().map(|pid| Usage::of(*pid).unwrap_or_default()).collect::<Vec<_>>();
        self.ready.wait();
        std::thread::sleep(warmup);
        let before = sample();
        let (first, started) = (self.done.load(Ordering::Relaxed), Instant::now());
        self.phase.store(MEASURE, Ordering::Relaxed);
        std::thread::sleep(duration);
        let (requests, elapsed) = (self.done.load(Ordering::Relaxed) - first, started.elapsed());
        let after = sample();
        self.phase.store(STOP, Ordering::Relaxed);
        let watched = before.iter().zip(&after).map(|(b, a)| (a.per_query(b, requests), *a)).collect();
        Measured { requests, elapsed, watched }
    }
}

/// What happened between the two samples.
struct Measured {
    requests: u64,
    elapsed: Duration,
    watched: Vec<(PerQuery, Usage)>,
}

impl Measured {
    fn report(self, outcome: Outcome) -> Report {
        Report {
            latency: outcome.latency,
            requests: self.requests,
            elapsed: self.elapsed,
            errors: outcome.errors,
            late: outcome.late,
            watched: self.watched,
        }
    }
}

/// Opens the clients, drives them, closes them.
///
/// # Errors
/// The first error of a socket or login; `InvalidData` if a server sends what is no message.
pub fn run(load: &Load) -> io::Result<Report> {
    let threads = load.threads.clamp(1, load.clients.max(1));
    let control = Arc::new(Control::new(threads + 1));
    let script = Arc::new(load.script.clone());
    let interval = load.rate.map(|rate| load.clients as f64 / rate);
    let mut groups: Vec<Vec<Client>> = (0..threads).map(|_| Vec::new()).collect();
    for i in 0..load.clients {
        groups[i % threads].push(Client::open_prepared(&load.target, &script)?);
    }
    let threads: Vec<_> = groups
        .into_iter()
        .zip(1..)
        .map(|(group, seed)| {
            let (script, control) = (Arc::clone(&script), Arc::clone(&control));
            std::thread::spawn(move || {
                control.ready.wait();
                Driver::new(group, script, interval, seed, control)?.run()
            })
        })
        .collect();
    let measured = control.conduct(load.warmup, load.duration, &load.watch);
    let mut outcome = Outcome::default();
    for thread in threads {
        outcome.merge(&thread.join().expect("a generator thread never panics")?);
    }
    Ok(measured.report(outcome))
}
