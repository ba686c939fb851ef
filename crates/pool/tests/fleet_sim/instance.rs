//! An instance of a fleet: what it has open, what it could use, and where its errand is. What happens to it is the world's.

use std::collections::BTreeSet;

use pgsluice_pool::{Errand, Fleet, Mark, Need, View};

use super::count;

/// A server that has logged in. Of those that are open, the first ones are in use.
pub(crate) struct Server {
    pub(crate) pid: u32,
    /// When it was last used, in microseconds.
    pub(crate) idle_since: u64,
    /// The end of its transaction is looked at, because there are too many.
    pub(crate) is_ending: bool,
}

/// An errand on its way.
pub(crate) struct Flight {
    pub(crate) errand: Errand,
    pub(crate) got: Vec<Mark>,
    /// What came back, when it was true, and how many backends no slot spoke for then.
    pub(crate) view: Option<(View, u64, u32)>,
}

#[derive(Default)]
pub(crate) struct Instance {
    pub(crate) fleet: Fleet,
    pub(crate) is_up: bool,
    /// Goes up whenever the process starts or dies, and whenever the control connection is gone: what was sent before is void.
    pub(crate) life: u32,
    pub(crate) link: u32,
    pub(crate) control: Option<u32>,
    pub(crate) attempts: u32,
    pub(crate) open: Vec<Server>,
    pub(crate) opening: BTreeSet<u32>,
    /// Closed, but PostgreSQL has not let go of them.
    pub(crate) closing: BTreeSet<u32>,
    /// Servers it could use.
    pub(crate) demand: u32,
    pub(crate) flight: Option<Flight>,
    /// A number for each plan to look again, the last of which counts.
    pub(crate) tick: u32,
    pub(crate) will_wake: bool,
    /// Since when it is connected and wants a server but has none.
    pub(crate) hungry_since: Option<u64>,
}

impl Instance {
    /// Servers that it has until it closes them.
    pub(crate) fn kept(&self) -> u32 {
        count(self.open.len() + self.opening.len())
    }

    pub(crate) fn held(&self) -> u32 {
        self.kept() + count(self.closing.len())
    }

    pub(crate) fn in_use(&self) -> usize {
        self.open.len().min(self.demand as usize)
    }

    pub(crate) fn need(&self) -> Need {
        let servers = self.open.iter().map(|s| s.pid).collect();
        Need { wanted: self.demand, servers, held: self.held() }
    }

    /// Those in use of which nobody looked yet when their transactions end.
    pub(crate) fn begin_ending(&mut self) -> Vec<u32> {
        let in_use = self.in_use();
        let begun = self.open[..in_use].iter_mut().filter(|s| !s.is_ending);
        begun.map(|server| (server.is_ending = true, server.pid).1).collect()
    }

    /// As long as it is frozen it may open nothing, not even in place of what it closed: its locks are gone, and others may have
    /// the room by now.
    pub(crate) fn may_open(&self) -> bool {
        let held = self.held();
        held < self.fleet.allowed() && held < self.demand && !self.fleet.is_frozen()
    }

    /// Keeps in mind since when it goes without, if it does, and the longest of such times.
    pub(crate) fn note_hunger(&mut self, now: u64, longest: &mut u64) {
        let is_wanting = self.control.is_some() && self.demand > 0;
        if let Some(since) = self.hungry_since.filter(|_| is_wanting) {
            *longest = now.saturating_sub(since).max(*longest);
        }
        let is_hungry = is_wanting && self.open.is_empty();
        self.hungry_since = if is_hungry { self.hungry_since.or(Some(now)) } else { None };
    }

    /// The most backends it may come to without another reading.
    pub(crate) fn potential(&self) -> u32 {
        if !self.is_up {
            return 0;
        }
        let right = if self.fleet.is_frozen() { 0 } else { self.fleet.slots() };
        right.max(self.held())
    }
}
