//! One worker's share of a pool: idle servers, most recently used first, and the waiters, first come first served.
//!
//! `S` is a server that has proven to be idle, `W` whatever finds a waiting client again.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::queue::{Queue, Ticket};

/// Idle servers looked at for one that fits a client best.
const PREFER_MAX: usize = 4;

/// The answer to a checkout.
#[derive(Debug, PartialEq, Eq)]
pub enum Checkout<S> {
    /// Here it is.
    Server(S),
    /// Wait; it will be granted.
    Wait(Ticket),
}

/// What becomes of a server that came back.
#[derive(Debug, PartialEq, Eq)]
pub enum Checkin<S, W> {
    /// It is for this waiter.
    Grant(W, S),
    /// It is idle.
    Kept,
    /// It is another worker's, or nobody's.
    Shed(S, ShedTo),
}

/// Where a server goes that this worker gives up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShedTo {
    /// To another worker.
    Worker(usize),
    /// It is closed.
    Close,
}

#[derive(Clone, Debug)]
struct Idle<S> {
    server: S,
    since: Instant,
}

#[derive(Clone, Debug)]
struct Waiter<W> {
    client: W,
    since: Instant,
}

/// See the module's documentation.
#[derive(Clone, Debug)]
pub struct Pool<S, W> {
    /// The most recently used at the back.
    idle: VecDeque<Idle<S>>,
    queue: Queue<Waiter<W>>,
    /// Servers to be given up at the next opportunity.
    sheds: VecDeque<(ShedTo, Instant)>,
    linked: usize,
    paused: bool,
    /// Hand out the longest idle server instead (`server_round_robin`).
    round_robin: bool,
}

impl<S, W> Pool<S, W> {
    /// An empty pool.
    pub fn new(round_robin: bool) -> Self {
        let (idle, queue, sheds) = (VecDeque::new(), Queue::default(), VecDeque::new());
        Self { idle, queue, sheds, linked: 0, paused: false, round_robin }
    }

    /// Idle servers.
    pub fn idle(&self) -> usize {
        self.idle.len()
    }

    /// Idle servers that nobody has needed for `age`, and since when the longest idle of them has been. Where they are used in
    /// turn, all that are idle now.
    pub fn spare(&self, now: Instant, age: Duration) -> (usize, Option<Instant>) {
        let unused = |idle: &&Idle<S>| self.round_robin || now.saturating_duration_since(idle.since) >= age;
        (self.idle.iter().take_while(unused).count(), self.idle.front().filter(unused).map(|i| i.since))
    }

    /// Servers lent.
    pub fn linked(&self) -> usize {
        self.linked
    }

    /// Clients waiting.
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// Since when the first in the queue has waited.
    pub fn oldest_wait(&self) -> Option<Instant> {
        self.queue.front().map(|w| w.since)
    }

    /// Is nothing granted?
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// The idle servers, for those who watch them.
    pub fn idle_servers(&mut self) -> impl Iterator<Item = &mut S> {
        self.idle.iter_mut().map(|i| &mut i.server)
    }

    /// The idle servers, to be shown.
    pub fn iter_idle(&self) -> impl Iterator<Item = (&S, Instant)> {
        self.idle.iter().map(|i| (&i.server, i.since))
    }

    /// Those in the queue and since when, first come first.
    pub fn iter_waiting(&self) -> impl Iterator<Item = (&W, Instant)> {
        self.queue.iter().map(|w| (&w.client, w.since))
    }

    /// A server for `client`: the most recently used one, or among the last few the one that `prefer` likes.
    pub fn checkout(&mut self, client: W, now: Instant, prefer: impl Fn(&S) -> bool) -> Checkout<S> {
        if !self.paused
            && self.queue.len() == 0
            && let Some(server) = self.take_idle(prefer)
        {
            self.linked += 1;
            return Checkout::Server(server);
        }
        Checkout::Wait(self.queue.push(Waiter { client, since: now }))
    }

    fn take_idle(&mut self, prefer: impl Fn(&S) -> bool) -> Option<S> {
        if self.round_robin {
            return self.idle.pop_front().map(|i| i.server);
        }
        let liked = self.idle.iter().rev().take(PREFER_MAX).position(|i| prefer(&i.server)).unwrap_or(0);
        let index = self.idle.len().checked_sub(1 + liked)?;
        self.idle.remove(index).map(|i| i.server)
    }

    /// A lent server comes back.
    pub fn checkin(&mut self, server: S, now: Instant) -> Checkin<S, W> {
        self.linked -= 1;
        self.place(server, now)
    }

    /// A server that is new to this worker.
    pub fn add(&mut self, server: S, now: Instant) -> Checkin<S, W> {
        self.place(server, now)
    }

    fn place(&mut self, server: S, now: Instant) -> Checkin<S, W> {
        if let Some((to, _)) = self.sheds.pop_front() {
            return Checkin::Shed(server, to);
        }
        if !self.paused
            && let Some(waiter) = self.queue.pop()
        {
            self.linked += 1;
            return Checkin::Grant(waiter.client, server);
        }
        self.idle.push_back(Idle { server, since: now });
        Checkin::Kept
    }

    /// A lent server is gone.
    pub fn lose(&mut self) {
        self.linked -= 1;
    }

    /// A waiter leaves the queue. `false`: it was granted a server already.
    pub fn leave(&mut self, ticket: Ticket) -> bool {
        self.queue.leave(ticket).is_some()
    }

    /// Those whom `is_due` names leave, oldest first; it is given since when each has waited.
    pub fn expire_waiters(&mut self, is_due: impl Fn(&W, Instant) -> bool) -> Vec<W> {
        let due: Vec<_> = self.queue.tickets(|w| is_due(&w.client, w.since)).collect();
        due.into_iter().filter_map(|ticket| self.queue.leave(ticket)).map(|w| w.client).collect()
    }

    /// Everybody leaves the queue, oldest first.
    pub fn refuse_waiters(&mut self) -> Vec<W> {
        std::iter::from_fn(|| self.queue.pop().map(|w| w.client)).collect()
    }

    /// Takes out the idle servers that `is_due` names; it is given since when each is idle and how many would be left.
    pub fn take_idle_where(&mut self, mut is_due: impl FnMut(&mut S, Instant, usize) -> bool) -> Vec<S> {
        let mut left = self.idle.len();
        let mut due = Vec::new();
        let mut kept = VecDeque::with_capacity(left);
        for mut idle in self.idle.drain(..) {
            if is_due(&mut idle.server, idle.since, left - 1) {
                left -= 1;
                due.push(idle.server);
            } else {
                kept.push_back(idle);
            }
        }
        self.idle = kept;
        due
    }

    /// One server less here: the longest idle at once, if there is one, else the next that comes back.
    pub fn shed(&mut self, to: ShedTo, now: Instant) -> Option<S> {
        match self.idle.pop_front() {
            Some(idle) => Some(idle.server),
            None => {
                self.sheds.push_back((to, now));
                None
            }
        }
    }

    /// Orders to shed that are older than `age` are forgotten; returns them.
    pub fn expire_sheds(&mut self, now: Instant, age: Duration) -> Vec<ShedTo> {
        let mut expired = Vec::new();
        while let Some(&(to, since)) = self.sheds.front() {
            if now.saturating_duration_since(since) < age {
                break;
            }
            expired.push(to);
            self.sheds.pop_front();
        }
        expired
    }

    /// PAUSE: nothing is granted any more.
    pub fn pause(&mut self) {
        self.paused = true;
    }

    /// RESUME: idle servers go to those who wait.
    pub fn resume(&mut self) -> Vec<(W, S)> {
        self.paused = false;
        let mut grants = Vec::new();
        while self.queue.len() > 0 {
            let Some(server) = self.take_idle(|_| true) else { break };
            let Some(waiter) = self.queue.pop() else { break };
            self.linked += 1;
            grants.push((waiter.client, server));
        }
        grants
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool() -> (Pool<u32, char>, Instant) {
        (Pool::new(false), Instant::now())
    }

    #[test]
    fn servers_are_lifo_and_waiters_fifo() {
        let (mut pool, now) = pool();
        for server in [1, 2, 3] {
            assert_eq!(pool.add(server, now), Checkin::Kept);
        }
        assert_eq!(pool.checkout('a', now, |_| true), Checkout::Server(3));
        assert_eq!(pool.checkout('b', now, |&s| s == 1), Checkout::Server(1), "the one that fits");
        assert_eq!(pool.checkout('c', now, |_| false), Checkout::Server(2));
        let Checkout::Wait(d) = pool.checkout('d', now, |_| true) else { panic!("none is left") };
        let Checkout::Wait(_) = pool.checkout('e', now, |_| true) else { panic!("none is left") };
        assert!(pool.leave(d));
        assert_eq!(pool.checkin(2, now), Checkin::Grant('e', 2));
        assert!(!pool.leave(d));
        assert_eq!(pool.checkin(3, now), Checkin::Kept);
        assert_eq!((pool.linked(), pool.idle(), pool.waiting()), (2, 1, 0));
    }

    #[test]
    fn what_is_shed_is_not_granted() {
        let (mut pool, now) = pool();
        pool.add(1, now);
        assert_eq!(pool.shed(ShedTo::Close, now), Some(1));
        assert_eq!(pool.shed(ShedTo::Worker(3), now), None);
        pool.checkout('a', now, |_| true);
        assert_eq!(pool.add(2, now), Checkin::Shed(2, ShedTo::Worker(3)));
        assert_eq!(pool.add(4, now), Checkin::Grant('a', 4));
        pool.shed(ShedTo::Close, now);
        assert!(pool.expire_sheds(now, Duration::from_secs(1)).is_empty());
        assert_eq!(pool.expire_sheds(now + Duration::from_secs(1), Duration::from_secs(1)), [ShedTo::Close]);
        assert_eq!(pool.checkin(4, now), Checkin::Kept);
    }

    #[test]
    fn a_paused_pool_grants_nothing_until_it_is_resumed() {
        let (mut pool, now) = pool();
        pool.pause();
        assert!(matches!(pool.checkout('a', now, |_| true), Checkout::Wait(_)));
        assert_eq!(pool.add(1, now), Checkin::Kept);
        assert_eq!(pool.resume(), [('a', 1)]);
        assert_eq!((pool.linked(), pool.idle()), (1, 0));
    }

    #[test]
    fn the_longest_idle_go_first_and_some_stay() {
        let (mut pool, now) = pool();
        let second = Duration::from_secs(1);
        for i in 0..4u32 {
            pool.add(i, now + second * i);
        }
        let due = pool.take_idle_where(|_, since, left| left >= 1 && since < now + second * 3);
        assert_eq!(due, [0, 1, 2]);
        assert_eq!(pool.checkout('a', now, |_| true), Checkout::Server(3));
    }
}
