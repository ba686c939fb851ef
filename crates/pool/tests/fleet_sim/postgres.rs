//! A PostgreSQL as a fleet sees it: backends up to a ceiling, and advisory locks that go with the connection that took them.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use pgsluice_pool::{Errand, Mark, Member, View};

/// A backend that is some instance's control connection, with its locks.
#[derive(Default)]
struct Control {
    slots: BTreeSet<u32>,
    servers: BTreeSet<u32>,
    /// For a moment there are two.
    wanted: Vec<u32>,
}

pub(crate) struct Postgres {
    pub(crate) ceiling: u32,
    pub(crate) headroom: u32,
    /// Backends of programs that connect directly.
    pub(crate) others: u32,
    /// Control connections do not come through.
    pub(crate) is_cut_off: bool,
    last_pid: u32,
    controls: BTreeMap<u32, Control>,
    /// Servers of instances, and what is left of those of dead ones.
    servers: HashSet<u32>,
    /// By whom a process id is locked; not all of them need be alive.
    told: HashMap<u32, u32>,
    /// How many are both.
    known: usize,
    taken: BTreeSet<u32>,
}

impl Postgres {
    pub(crate) fn new(ceiling: u32, headroom: u32) -> Self {
        Self {
            ceiling,
            headroom,
            others: 0,
            is_cut_off: false,
            last_pid: 1000,
            controls: BTreeMap::new(),
            servers: HashSet::new(),
            told: HashMap::new(),
            known: 0,
            taken: BTreeSet::new(),
        }
    }

    /// Backends that no slot speaks for: control connections, those that nobody serves any more included, and others.
    pub(crate) fn apart(&self) -> u32 {
        count(self.controls.len()) + self.others
    }

    /// Slots that somebody holds, and the highest of them.
    pub(crate) fn slots(&self) -> (u32, Option<u32>) {
        (count(self.taken.len()), self.taken.last().copied())
    }

    /// All advisory locks.
    pub(crate) fn locks(&self) -> usize {
        self.taken.len() + self.told.len() + self.controls.values().map(|c| c.wanted.len()).sum::<usize>()
    }

    fn is_full(&self) -> bool {
        self.apart() + count(self.servers.len()) >= self.ceiling
    }

    /// The process id, or a refusal.
    pub(crate) fn log_in_control(&mut self) -> Option<u32> {
        if self.is_cut_off {
            return None;
        }
        let pid = self.new_pid()?;
        self.controls.insert(pid, Control::default());
        Some(pid)
    }

    /// The process id, or a refusal.
    pub(crate) fn log_in_server(&mut self) -> Option<u32> {
        let pid = self.new_pid()?;
        self.servers.insert(pid);
        Some(pid)
    }

    /// Someone else connects, if there is room.
    pub(crate) fn log_in_other(&mut self) {
        self.others += u32::from(!self.is_full());
    }

    fn new_pid(&mut self) -> Option<u32> {
        if self.is_full() {
            return None;
        }
        self.last_pid += 1;
        Some(self.last_pid)
    }

    pub(crate) fn end_server(&mut self, pid: u32) {
        self.known -= usize::from(self.servers.remove(&pid) && self.told.contains_key(&pid));
    }

    pub(crate) fn end_control(&mut self, pid: u32) {
        let Some(control) = self.controls.remove(&pid) else { return };
        control.slots.iter().for_each(|slot| _ = self.taken.remove(slot));
        control.servers.iter().for_each(|server| self.untell(*server));
    }

    /// Everything is gone, but for the settings.
    pub(crate) fn restart(&mut self) {
        let last_pid = self.last_pid;
        *self = Self { last_pid, ..Self::new(self.ceiling, self.headroom) };
    }

    /// What could be taken.
    pub(crate) fn lock(&mut self, me: u32, errand: &Errand) -> Vec<Mark> {
        errand.share.iter().for_each(|mark| _ = self.take(me, *mark));
        let got = errand.take.iter().copied().filter(|mark| self.take(me, *mark)).collect();
        errand.drop.iter().for_each(|mark| self.drop(me, *mark));
        got
    }

    fn take(&mut self, me: u32, mark: Mark) -> bool {
        let Some(control) = self.controls.get_mut(&me) else { return false };
        match mark {
            Mark::Slot(n) => self.taken.insert(n) && control.slots.insert(n),
            Mark::Wanted(n) => {
                control.wanted.push(n);
                true
            }
            Mark::Server(pid) => {
                let is_free = !self.told.contains_key(&pid) && control.servers.insert(pid);
                if is_free {
                    self.told.insert(pid, me);
                    self.known += usize::from(self.servers.contains(&pid));
                }
                is_free
            }
        }
    }

    fn drop(&mut self, me: u32, mark: Mark) {
        let Some(control) = self.controls.get_mut(&me) else { return };
        let held = match mark {
            Mark::Slot(n) => control.slots.remove(&n) && self.taken.remove(&n),
            Mark::Server(pid) => {
                let is_held = control.servers.remove(&pid);
                if is_held {
                    self.untell(pid);
                }
                is_held
            }
            Mark::Wanted(n) => {
                let before = control.wanted.len();
                control.wanted.retain(|&other| other != n);
                control.wanted.len() < before
            }
        };
        assert!(held, "what was never locked is dropped: {mark:?}");
    }

    fn untell(&mut self, pid: u32) {
        self.known -= usize::from(self.told.remove(&pid).is_some() && self.servers.contains(&pid));
    }

    /// All at one time, which is what `pg_locks` and `pg_stat_activity` come near to.
    pub(crate) fn view(&self, me: u32, clock: u64) -> View {
        let members: Vec<_> = self.controls.iter().filter_map(|(pid, control)| member(*pid, control)).collect();
        let nobodys = self.servers.len() - self.known + self.controls.len() - members.len();
        View {
            me,
            ceiling: self.ceiling,
            headroom: self.headroom,
            strangers: self.others + count(nobodys),
            members,
            taken: self.taken.clone(),
            clock,
        }
    }
}

/// Only who wants, if it were nothing, is a member.
fn member(pid: u32, control: &Control) -> Option<Member> {
    let wanted = *control.wanted.iter().max()?;
    Some(Member { pid, slots: count(control.slots.len()), wanted, servers: count(control.servers.len()) })
}

pub(crate) fn count(n: usize) -> u32 {
    u32::try_from(n).expect("small numbers")
}
