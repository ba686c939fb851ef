//! What the broker knows of a pool: each worker's part of it, and what the pool is owed.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::broker::{ClusterId, PoolLimits};

/// What a worker says of its part of a pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Demand {
    /// Clients that wait there.
    pub waiting: u32,
    /// Since when the first of them has.
    pub oldest: Option<Instant>,
    /// Servers that have been idle for a while, see [`crate::Pool::spare`].
    pub spare: u32,
    /// Since when the longest idle of them has been.
    pub spare_since: Option<Instant>,
}

/// One worker's part of a pool.
#[derive(Clone, Debug, Default)]
pub(crate) struct Share {
    /// Open servers.
    pub(crate) open: u32,
    /// Connections ordered and not yet there.
    pub(crate) connecting: u32,
    /// Servers on their way from another worker.
    pub(crate) arriving: u32,
    /// Servers it was told to close and has not yet.
    pub(crate) closing: u32,
    /// Servers it was told to send to another worker and has not yet.
    pub(crate) leaving: u32,
    pub(crate) demand: Demand,
}

impl Share {
    /// Permits held.
    pub(crate) fn held(&self) -> u32 {
        self.open + self.connecting
    }

    /// Servers it will have once everything ordered is done.
    pub(crate) fn settled(&self) -> u32 {
        (self.held() + self.arriving).saturating_sub(self.closing + self.leaving)
    }

    /// Clients that wait, and for whom nothing is on its way.
    pub(crate) fn unmet(&self) -> u32 {
        self.demand.waiting.saturating_sub(self.connecting + self.arriving)
    }

    /// Open servers it was not told to give up.
    pub(crate) fn left(&self) -> u32 {
        self.open.saturating_sub(self.closing + self.leaving)
    }

    /// Spare servers it was not told to give up.
    pub(crate) fn spare(&self) -> u32 {
        self.demand.spare.min(self.open).saturating_sub(self.closing + self.leaving)
    }

    /// A server it was told to give up has gone: the longest idle, if there was one.
    pub(crate) fn give_up(&mut self) {
        self.open = self.open.saturating_sub(1);
        self.demand.spare = self.demand.spare.saturating_sub(1);
    }

    /// A server has come: for the first who waits. How long the others have is reported with the next tick.
    pub(crate) fn receive(&mut self) {
        self.open += 1;
        self.demand.waiting = self.demand.waiting.saturating_sub(1);
        self.demand.oldest = None;
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) cluster: ClusterId,
    pub(crate) limits: PoolLimits,
    pub(crate) shares: Vec<Share>,
    /// When the logins under way were ordered.
    pub(crate) ordered: VecDeque<Instant>,
    pub(crate) retry_at: Option<Instant>,
    pub(crate) failures: u32,
    /// Its fair share when last planned, if it wants more than that.
    pub(crate) fair: Option<f64>,
    /// Server-seconds it is owed (or owes), from the time that it has had less than its fair share (or more).
    pub(crate) credit: f64,
}

impl Entry {
    pub(crate) fn new(cluster: ClusterId, limits: PoolLimits, workers: usize) -> Self {
        let shares = vec![Share::default(); workers];
        let ordered = VecDeque::new();
        Self { cluster, limits, shares, ordered, retry_at: None, failures: 0, fair: None, credit: 0.0 }
    }

    fn sum(&self, f: fn(&Share) -> u32) -> u32 {
        self.shares.iter().map(f).sum()
    }

    pub(crate) fn held(&self) -> u32 {
        self.sum(Share::held)
    }

    pub(crate) fn connecting(&self) -> u32 {
        self.sum(|s| s.connecting)
    }

    pub(crate) fn closing(&self) -> u32 {
        self.sum(|s| s.closing)
    }

    pub(crate) fn spare(&self) -> u32 {
        self.sum(Share::spare)
    }

    pub(crate) fn waits(&self) -> bool {
        self.shares.iter().any(|s| s.demand.waiting > 0)
    }

    /// Permits it will hold once everything ordered is done.
    pub(crate) fn settled(&self) -> u32 {
        self.held().saturating_sub(self.closing())
    }

    /// Since when the first of its clients waits.
    pub(crate) fn oldest(&self) -> Option<Instant> {
        self.shares.iter().filter_map(|s| s.demand.oldest).min()
    }

    /// Since when its longest idle server has been.
    pub(crate) fn spare_since(&self) -> Option<Instant> {
        self.shares.iter().filter(|s| s.spare() > 0).filter_map(|s| s.demand.spare_since).min()
    }

    /// Servers it may have, the reserve included when that is due.
    pub(crate) fn size(&self, now: Instant) -> u32 {
        let PoolLimits { size, reserve, reserve_timeout, .. } = self.limits;
        let long = |since: Instant| now.saturating_duration_since(since) >= reserve_timeout;
        match size {
            0 => u32::MAX,
            _ if reserve > 0 && !reserve_timeout.is_zero() && self.oldest().is_some_and(long) => {
                size.saturating_add(reserve)
            }
            _ => size,
        }
    }

    /// Servers it could use now. A pool whose logins fail does not keep others from what it cannot have.
    pub(crate) fn need(&self, now: Instant) -> u32 {
        let busy = |s: &Share| s.held().saturating_sub(s.demand.spare);
        let used: u32 = self.shares.iter().map(busy).sum();
        let unmet = self.sum(Share::unmet);
        let unmet = match self.failures {
            0 => unmet,
            _ if self.is_backing_off(now) => 0,
            _ => unmet.min(1u32.saturating_sub(self.connecting())),
        };
        // What the reserve gave stays while it is in use.
        let most = self.size(now).max(used.min(self.limits.size.saturating_add(self.limits.reserve)));
        used.saturating_add(unmet).min(most)
    }

    pub(crate) fn is_backing_off(&self, now: Instant) -> bool {
        self.retry_at.is_some_and(|at| now < at)
    }

    /// Time has passed: `elapsed` with the fair share and servers as they were.
    pub(crate) fn settle_credit(&mut self, elapsed: Duration, max: f64) {
        let owed = self.fair.map(|fair| (fair - f64::from(self.held())) * elapsed.as_secs_f64());
        self.credit = owed.map_or(0.0, |owed| (self.credit + owed).clamp(-max, max));
    }
}
