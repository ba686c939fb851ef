//! A client beside those that are measured: it asks for large results back to back, and reads them as fast as it can or
//! at a slow pace.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use socket2::SockRef;

use super::client::{Client, Target};
use super::script::{Mode, Script, Step};
use crate::usage::give_way;

/// Bytes read at a time by one that has no pace of its own.
const READ_SIZE: usize = 64 << 10;
/// The kernel's buffer of one that reads slowly, so that what it leaves unread is the other side's to keep.
const SLOW_BUFFER: usize = 16 << 10;

/// How slowly one reads.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Bytes read at a time.
    pub size: usize,
    /// Time between two reads.
    pub pause: Duration,
}

/// A client at work on a thread of its own. Dropping it ends it.
#[derive(Debug)]
pub struct Neighbour {
    stop: Arc<AtomicBool>,
    started: Instant,
    thread: Option<JoinHandle<io::Result<u64>>>,
}

impl Neighbour {
    /// Connects, and asks for the same thing again and again from now on. Without a pace it reads as fast as it can.
    ///
    /// # Errors
    /// The socket's and the login's.
    pub fn start(target: &Target, sql: &str, pace: Option<Pace>) -> io::Result<Self> {
        let client = Client::open(target)?;
        if pace.is_some() {
            SockRef::from(&client.stream).set_recv_buffer_size(SLOW_BUFFER)?;
        }
        let stop = Arc::new(AtomicBool::new(false));
        let (script, until) = (Script::new(Mode::Simple, sql, 1), Arc::clone(&stop));
        let thread = std::thread::spawn(move || keep_asking(client, &script.steps[0], pace, &until));
        Ok(Self { stop, started: Instant::now(), thread: Some(thread) })
    }

    /// Ends it, in the middle of a result if need be. Bytes per second that it has read.
    ///
    /// # Errors
    /// What ended it before; `Other` if it was answered with an error.
    pub fn finish(mut self) -> io::Result<f64> {
        let bytes = self.end()?;
        Ok(bytes as f64 / self.started.elapsed().as_secs_f64())
    }

    fn end(&mut self) -> io::Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().map_or(Ok(0), |thread| thread.join().expect("a neighbour's thread never panics"))
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        // Whoever drops it unfinished has an error of its own to tell of.
        let _ = self.end();
    }
}

fn keep_asking(mut client: Client, step: &Step, pace: Option<Pace>, stop: &AtomicBool) -> io::Result<u64> {
    give_way();
    let mut buffer = vec![0; pace.map_or(READ_SIZE, |p| p.size)];
    let mut bytes = 0;
    while !stop.load(Ordering::Relaxed) {
        client.ask(step)?;
        while client.is_waiting() && !stop.load(Ordering::Relaxed) {
            bytes += client.take(&mut buffer)? as u64;
            if let Some(pace) = pace {
                std::thread::sleep(pace.pause);
            }
        }
    }
    if client.errors > 0 { Err(io::Error::other("a neighbour was answered with an error")) } else { Ok(bytes) }
}
