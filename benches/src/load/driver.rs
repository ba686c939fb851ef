//! One generator thread: an epoll loop over its clients that sends each the next request when it is due.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::client::Client;
use super::script::Script;
use super::{Control, MEASURE, STOP};
use crate::epoll::Epoll;
use crate::hist::Hist;

/// The longest wait, so that the end is noticed.
const WAIT_MAX: Duration = Duration::from_millis(50);
/// Bytes read at a time.
const READ_SIZE: usize = 64 << 10;

/// What one thread saw.
#[derive(Default)]
pub(super) struct Outcome {
    pub(super) latency: Hist,
    pub(super) errors: u64,
    pub(super) late: u64,
}

impl Outcome {
    pub(super) fn merge(&mut self, other: &Outcome) {
        self.latency.merge(&other.latency);
        self.errors += other.errors;
        self.late += other.late;
    }
}

/// Intervals of an open loop, exponentially distributed; xorshift, seeded.
struct Schedule {
    mean: Duration,
    state: u64,
    due: BinaryHeap<Reverse<(Instant, usize)>>,
}

impl Schedule {
    fn new(mean_secs: f64, seed: u64) -> Self {
        let state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        Self { mean: Duration::from_secs_f64(mean_secs), state, due: BinaryHeap::new() }
    }

    fn interval(&mut self) -> Duration {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        let unit = (self.state >> 11) as f64 / (1u64 << 53) as f64;
        self.mean.mul_f64(-(1.0 - unit).ln())
    }

    fn pop_due(&mut self, now: Instant) -> Option<(Instant, usize)> {
        let Reverse((at, _)) = self.due.peek()?;
        if *at > now {
            return None;
        }
        self.due.pop().map(|Reverse(entry)| entry)
    }

    fn next_wait(&self) -> Duration {
        self.due.peek().map_or(WAIT_MAX, |Reverse((at, _))| at.saturating_duration_since(Instant::now()).min(WAIT_MAX))
    }
}

/// A thread's clients and their schedule.
pub(super) struct Driver {
    clients: Vec<Client>,
    script: Arc<Script>,
    control: Arc<Control>,
    epoll: Epoll,
    /// Open loop: when each client's transaction was due, and which come next.
    schedule: Option<Schedule>,
    due: Vec<Instant>,
    outcome: Outcome,
}

impl Driver {
    /// Watches the clients; nothing is sent yet. `interval` is a client's mean time between transactions, in
    /// seconds, for an open loop.
    pub(super) fn new(
        clients: Vec<Client>,
        script: Arc<Script>,
        interval: Option<f64>,
        seed: u64,
        control: Arc<Control>,
    ) -> io::Result<Self> {
        let epoll = Epoll::new(1024)?;
        for (client, key) in clients.iter().zip(0..) {
            epoll.add_reader(&client.stream, key)?;
        }
        let due = vec![Instant::now(); clients.len()];
        let schedule = interval.map(|mean| Schedule::new(mean, seed));
        Ok(Self { clients, script, control, epoll, schedule, due, outcome: Outcome::default() })
    }

    /// Drives the clients until the control says stop.
    pub(super) fn run(mut self) -> io::Result<Outcome> {
        let mut buffer = vec![0; READ_SIZE];
        self.begin()?;
        while self.control.phase() != STOP {
            self.send_due()?;
            let wait = self.schedule.as_ref().map_or(WAIT_MAX, Schedule::next_wait);
            self.epoll.wait(Some(wait))?;
            let mut done = 0;
            for i in 0..self.epoll.len() {
                let key = self.epoll.ready(i).key as usize;
                if self.clients[key].receive(&mut buffer)? {
                    done += self.answered(key)?;
                }
            }
            self.control.add_done(done);
        }
        self.outcome.errors = self.clients.iter().map(|c| c.errors).sum();
        Ok(self.outcome)
    }

    fn begin(&mut self) -> io::Result<()> {
        let now = Instant::now();
        match &mut self.schedule {
            None => self.clients.iter_mut().try_for_each(|c| c.send(&self.script, now)),
            Some(schedule) => {
                for i in 0..self.clients.len() {
                    let at = now + schedule.interval();
                    schedule.due.push(Reverse((at, i)));
                }
                Ok(())
            }
        }
    }

    fn send_due(&mut self) -> io::Result<()> {
        let Some(schedule) = &mut self.schedule else { return Ok(()) };
        let now = Instant::now();
        while let Some((at, i)) = schedule.pop_due(now) {
            self.due[i] = at;
            self.clients[i].send(&self.script, at)?;
        }
        Ok(())
    }

    /// Counts an answered request and sends or schedules the next. Returns how many requests that were.
    fn answered(&mut self, key: usize) -> io::Result<u64> {
        let now = Instant::now();
        let client = &mut self.clients[key];
        let requests = u64::from(self.script.steps[client.step].replies);
        let measured = self.control.phase() == MEASURE;
        if let Some(started) = client.started.take().filter(|_| measured) {
            self.outcome.latency.record(now.saturating_duration_since(started).as_nanos() as u64);
        }
        let last = client.step + 1 == self.script.steps.len();
        client.step = if last { 0 } else { client.step + 1 };
        match &mut self.schedule {
            Some(schedule) if last => {
                let next = self.due[key] + schedule.interval();
                self.due[key] = next;
                if next <= now {
                    self.outcome.late += u64::from(measured);
                    client.send(&self.script, next)?;
                } else {
                    schedule.due.push(Reverse((next, key)));
                }
            }
            _ => client.send(&self.script, now)?,
        }
        Ok(requests)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_have_their_mean() {
        let mut schedule = Schedule::new(0.010, 7);
        let total: Duration = (0..20_000).map(|_| schedule.interval()).sum();
        let mean_ms = total.as_secs_f64() * 1e3 / 20_000.0;
        assert!((9.5..10.5).contains(&mean_ms), "{mean_ms}");
    }

    #[test]
    fn what_is_due_comes_in_order_and_not_early() {
        let (mut schedule, now) = (Schedule::new(1.0, 1), Instant::now());
        let later = now + Duration::from_secs(9);
        schedule.due.extend([Reverse((later, 1)), Reverse((now, 2))]);
        assert_eq!(schedule.pop_due(now), Some((now, 2)));
        assert_eq!(schedule.pop_due(now), None);
        assert_eq!(schedule.next_wait(), WAIT_MAX);
    }
}
