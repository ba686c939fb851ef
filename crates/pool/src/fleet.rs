//! One budget for several instances: who may have how many servers on a PostgreSQL that they share.
//!
//! The instances never talk to each other. Each holds locks on its control connection that all the others can see: one for
//! each server that it may have (a *slot*, which nobody else can hold at the same time), one that says how many it wants, and
//! one for each of its backends. Each computes from the same locks who is entitled to what, takes slots that are free, and gives
//! slots back that others lack. PostgreSQL drops the locks of an instance that dies; what it leaves behind in backends is
//! then nobody's, and counts as what it is: slots of PostgreSQL in use.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use crate::fleet_share::max_min;

/// How long an instance wants what it needed last.
const WANT_HOLD: Duration = Duration::from_millis(1500);
/// How long room is left for the control connections of instances that are gone: they are likely to come back.
const MEMBERS_HOLD: Duration = Duration::from_secs(60);
/// Of so many readings the lowest count of backends that are nobody's is believed when it is about giving slots back: a
/// server that has just logged in is nobody's for a moment.
const READINGS: usize = 3;
/// Each reading of an instance costs PostgreSQL time that grows with the number of instances; so do the pauses between.
const PAUSE_PER_MEMBER: Duration = Duration::from_millis(20);
const PAUSE_MIN: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(20);
/// An instance that neither has nor wants anything looks so much less often.
const IDLE_PAUSES: u32 = 4;

/// What a lock says. All locks of a fleet differ in 32 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mark {
    /// Its holder may have a server; exclusive.
    Slot(u32),
    /// Its holder wants that many servers; shared. Every member holds one.
    Wanted(u32),
    /// A server of its holder has this process id; exclusive.
    Server(u32),
}

impl Mark {
    const NUMBER: u32 = (1 << 30) - 1;

    /// As 32 bits. Numbers above 2^30 are not to be expected, and cut.
    pub fn bits(self) -> u32 {
        match self {
            Mark::Slot(n) => n & Self::NUMBER,
            Mark::Wanted(n) => 1 << 30 | n & Self::NUMBER,
            Mark::Server(n) => 2 << 30 | n & Self::NUMBER,
        }
    }

    /// The mark of these bits.
    pub fn from_bits(bits: u32) -> Mark {
        let number = bits & Self::NUMBER;
        match bits >> 30 {
            0 => Mark::Slot(number),
            1 => Mark::Wanted(number),
            _ => Mark::Server(number),
        }
    }
}

/// An instance, as its locks show it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Member {
    /// Process id of its control connection's backend.
    pub pid: u32,
    /// Slots that it holds.
    pub slots: u32,
    /// Servers that it wants.
    pub wanted: u32,
    /// Servers that it has told of.
    pub servers: u32,
}

impl Member {
    /// Backends that it has or may have at any moment. After it was cut off from PostgreSQL, there are servers without slots.
    fn occupied(&self) -> u32 {
        self.slots.max(self.servers)
    }
}

/// A reading: what is true of PostgreSQL and of the fleet, all at one time, after whatever was locked before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// Process id of our control connection's backend.
    pub me: u32,
    /// Backends that ordinary roles can have at all.
    pub ceiling: u32,
    /// Of these, those left free.
    pub headroom: u32,
    /// Client backends that are neither a control connection of a member nor a server that one has told of.
    pub strangers: u32,
    /// All instances.
    pub members: Vec<Member>,
    /// Slots that somebody holds.
    pub taken: BTreeSet<u32>,
    /// PostgreSQL's clock, in seconds. All members see the same, but for a little.
    pub clock: u64,
}

impl View {
    /// Servers that all members together may have. Headroom gives way to one of them.
    fn capacity(&self, members: u32, strangers: u32) -> u32 {
        let room = self.ceiling.saturating_sub(members).saturating_sub(strangers);
        room.saturating_sub(self.headroom).max(room.min(1))
    }

    fn occupied(&self) -> u32 {
        self.members.iter().map(Member::occupied).sum()
    }

    fn count(&self) -> u32 {
        u32::try_from(self.members.len()).unwrap_or(u32::MAX)
    }
}

/// What an instance needs at the moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Need {
    /// Servers it could use: those in use, and one for each client that waits.
    pub wanted: u32,
    /// Process ids of its open servers.
    pub servers: BTreeSet<u32>,
    /// Servers open and on their way, closed ones for as long as they can be in PostgreSQL's way: a few milliseconds.
    pub held: u32,
}

/// Locks to take and to drop, in this order, before the next reading. None of them waits for anybody.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Errand {
    /// To be taken shared.
    pub share: Vec<Mark>,
    /// To be taken alone, if that is possible; it matters which were.
    pub take: Vec<Mark>,
    /// To be dropped.
    pub drop: Vec<Mark>,
}

impl Errand {
    /// Whether it is of no use without a reading: slots are asked for, or more is wanted.
    pub fn needs_view(&self) -> bool {
        self.asked() > 0 || !self.share.is_empty()
    }

    /// Slots that are asked for.
    fn asked(&self) -> usize {
        self.take.iter().filter(|mark| matches!(mark, Mark::Slot(_))).count()
    }

    /// Whether there is nothing to do but to look.
    pub fn is_empty(&self) -> bool {
        self.share.is_empty() && self.take.is_empty() && self.drop.is_empty()
    }
}

/// An instance's part in a fleet on one PostgreSQL.
#[derive(Clone, Debug)]
pub struct Fleet {
    slots: BTreeSet<u32>,
    /// Got with the last errand, more than there was room for.
    excess: BTreeSet<u32>,
    /// Servers that we have told of, by process id.
    told: BTreeSet<u32>,
    advertised: Option<u32>,
    view: Option<View>,
    /// When that was read.
    read_at: Option<Instant>,
    /// Servers it is to have at most.
    target: u32,
    /// While it is cut off, and until it has asked for slots again: servers that it had.
    frozen: Option<u32>,
    /// The control connection that we lost and that PostgreSQL may still think is there, locks and all; and until when.
    ghost: Option<(u32, Instant)>,
    /// What it wants, and until when at least.
    want: Option<(u32, Instant)>,
    /// The most members seen of late, and until when that counts.
    peak: Option<(u32, Instant)>,
    strangers: VecDeque<u32>,
    /// Slots that the last errand asked for.
    asked: usize,
    /// See [`Fleet::has_news`] and [`Fleet::has_collided`].
    is_news: bool,
    has_collided: bool,
    /// Readings in a row in which our own locks were not there.
    unheld: u32,
}

impl Default for Fleet {
    fn default() -> Self {
        Self {
            slots: BTreeSet::new(),
            excess: BTreeSet::new(),
            told: BTreeSet::new(),
            advertised: None,
            view: None,
            read_at: None,
            target: 0,
            frozen: Some(0),
            ghost: None,
            want: None,
            peak: None,
            strangers: VecDeque::new(),
            asked: 0,
            is_news: false,
            has_collided: false,
            unheld: 0,
        }
    }
}

impl Fleet {
    /// The last reading.
    pub fn view(&self) -> Option<&View> {
        self.view.as_ref()
    }

    /// Servers that we may have open or on their way. Those we have beyond that are to be closed, idle ones first, the others when
    /// their transactions end. While we are frozen ([`Fleet::is_frozen`]) it is what may stay.
    pub fn allowed(&self) -> u32 {
        match self.frozen {
            Some(frozen) => frozen,
            None => self.target.min(self.slots()),
        }
    }

    /// Slots that we hold and have room for. There is a server for each of them at any moment, or may be.
    pub fn slots(&self) -> u32 {
        u32::try_from(self.slots.len()).unwrap_or(u32::MAX)
    }

    /// Whether nothing is to be opened, not even in place of what is closed, whatever is allowed: from the loss of the control
    /// connection until slots were asked for again. A closed server's slot may have been somebody else's for long by then.
    pub fn is_frozen(&self) -> bool {
        self.frozen.is_some()
    }

    /// Whether PostgreSQL forgets our locks although the connection lasts: there is a pooler in between.
    pub fn is_deceived(&self) -> bool {
        self.unheld >= 2
    }

    /// The control connection is gone, and all our locks with it, though PostgreSQL may find that out later. What is open stays,
    /// and nothing more is opened.
    pub fn lose(&mut self, need: &Need, now: Instant) {
        let frozen = self.frozen.unwrap_or(need.held).min(need.held);
        // One after the other: what came in between held nothing yet.
        let ghost = self.ghost.or(self.view.as_ref().map(|view| (view.me, now + MEMBERS_HOLD)));
        *self = Self { frozen: Some(frozen), ghost, want: self.want, peak: self.peak, ..Self::default() };
    }

    /// There are `held` servers by now. While we are cut off there are never to be more again.
    pub fn limit_frozen(&mut self, held: u32) {
        if let Some(frozen) = &mut self.frozen {
            *frozen = held.min(*frozen);
        }
    }

    /// How long to wait before the next reading, if nothing happens.
    pub fn pause(&self) -> Duration {
        let members = self.view.as_ref().map_or(1, View::count);
        let pause = (PAUSE_PER_MEMBER * members).clamp(PAUSE_MIN, PAUSE_MAX);
        let is_idle = self.slots.is_empty() && self.advertised == Some(0);
        if is_idle { pause * IDLE_PAUSES } else { pause }
    }

    /// What each member is entitled to, in the order of the view's members.
    pub fn entitlements(&self, now: Instant) -> Vec<u32> {
        self.view.as_ref().map_or_else(Vec::new, |view| self.entitled(view, now))
    }

    fn entitled(&self, view: &View, now: Instant) -> Vec<u32> {
        let wanted: Vec<_> = view.members.iter().map(|m| m.wanted).collect();
        max_min(&wanted, self.capacity(view), self.clock(view, now))
    }

    /// Servers that all may have, where it is about who has too many: what was there for a moment only does not count.
    fn capacity(&self, view: &View) -> u32 {
        view.capacity(self.peak(view), self.strangers.iter().copied().min().unwrap_or(view.strangers))
    }

    /// Members that room is left for.
    fn peak(&self, view: &View) -> u32 {
        self.peak.map_or(0, |(peak, _)| peak).max(view.count())
    }

    /// PostgreSQL's clock: turns begin with everybody at the same time, however old the reading is.
    fn clock(&self, view: &View, now: Instant) -> u64 {
        view.clock + self.read_at.map_or(0, |at| now.saturating_duration_since(at).as_secs())
    }

    /// What to do before the next reading. From now on [`Fleet::allowed`] is what is left.
    pub fn prepare(&mut self, need: &Need, now: Instant) -> Errand {
        let mut errand = Errand::default();
        let wanted = self.settle_want(need.wanted, now);
        if self.advertised != Some(wanted) {
            errand.share.push(Mark::Wanted(wanted));
            errand.drop.extend(self.advertised.replace(wanted).map(Mark::Wanted));
        }
        errand.take.extend(need.servers.difference(&self.told).map(|pid| Mark::Server(*pid)));
        errand.drop.extend(self.told.difference(&need.servers).map(|pid| Mark::Server(*pid)));
        self.told.retain(|pid| need.servers.contains(pid));
        errand.drop.extend(std::mem::take(&mut self.excess).into_iter().map(Mark::Slot));
        if let Some(mut view) = self.view.take() {
            self.choose(&mut view, need, wanted, now, &mut errand);
            self.view = Some(view);
        }
        self.limit_frozen(need.held);
        self.asked = errand.asked();
        (self.is_news, self.has_collided) = (false, false);
        errand
    }

    /// What was needed lately is wanted for a while: servers are not given away between two transactions.
    fn settle_want(&mut self, wanted: u32, now: Instant) -> u32 {
        match self.want {
            Some((held, until)) if wanted < held && now < until => held,
            _ => {
                self.want = Some((wanted, now + WANT_HOLD));
                wanted
            }
        }
    }

    /// Which slots to ask for and to give back.
    fn choose(&mut self, view: &mut View, need: &Need, wanted: u32, now: Instant, errand: &mut Errand) {
        if let Some(own) = view.members.iter_mut().find(|m| m.pid == view.me) {
            // The others know as much by the time of their next readings.
            (own.wanted, own.slots) = (wanted, self.slots());
        }
        let entitled = self.entitled(view, now);
        let Some(me) = view.members.iter().position(|m| m.pid == view.me) else { return };
        let lacks: Vec<_> = view.members.iter().zip(&entitled).map(|(m, e)| e.saturating_sub(m.occupied())).collect();
        let free = i64::from(self.capacity(view)) - i64::from(view.occupied());
        let missing = lacks.iter().map(|&lack| i64::from(lack)).sum::<i64>() - free;
        let gives = give(&view.members, &entitled, missing)[me];
        let keeps = view.members[me].occupied() - gives;
        self.target = entitled[me].max(keeps.min(need.held.max(entitled[me])));
        // A slot is given back when there is no server any more that needs it.
        let most = self.target.max(need.held);
        while self.slots() > most {
            errand.drop.extend(self.slots.pop_last().map(Mark::Slot));
        }
        let without = self.frozen.map_or(0, |_| need.held.saturating_sub(self.slots()));
        let part = max_min(&lacks, u32::try_from(free).unwrap_or(0), self.clock(view, now))[me];
        let lack = self.target.saturating_sub(self.slots()).min(part).max(without);
        errand.take.extend(self.free_slots(view, lack).into_iter().map(Mark::Slot));
    }

    /// Slots that nobody holds, beginning somewhere of our own, so that members seldom ask for the same one.
    fn free_slots(&self, view: &View, count: u32) -> Vec<u32> {
        let ceiling = view.ceiling.max(1);
        let mixed = (u64::from(view.me) ^ view.clock << 20).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33;
        let first = u32::try_from(mixed).unwrap_or(0) % ceiling;
        let all = (first..ceiling).chain(0..first);
        all.filter(|slot| !view.taken.contains(slot) && !self.slots.contains(slot)).take(count as usize).collect()
    }

    /// The errand was run: `got` is what could be taken, `view` was read after that.
    pub fn handle(&mut self, got: &[Mark], view: View, now: Instant) {
        let held = view.members.iter().any(|m| m.pid == view.me);
        self.unheld = if held { 0 } else { self.unheld + 1 };
        let members = view.count();
        if self.peak.is_none_or(|(peak, until)| members >= peak || now >= until) {
            self.peak = Some((members, now + MEMBERS_HOLD));
        }
        self.strangers.push_back(view.strangers);
        if self.strangers.len() > READINGS {
            self.strangers.pop_front();
        }
        let before = self.view.is_some();
        // All that is there now counts, what is nobody's too: only then is a slot good for a server.
        let over = view.occupied().saturating_sub(view.capacity(self.peak(&view), view.strangers));
        let slots: Vec<_> =
            got.iter().filter_map(|mark| if let Mark::Slot(n) = mark { Some(*n) } else { None }).collect();
        let good = slots.len().saturating_sub(over as usize);
        self.is_news = self.asked == 0;
        self.has_collided = good < self.asked;
        self.slots.extend(&slots[..good]);
        self.excess.extend(&slots[good..]);
        self.note_told(got);
        // What the lost connection holds is what our servers are in need of.
        self.ghost = self.ghost.filter(|(pid, until)| now < *until && view.members.iter().any(|m| m.pid == *pid));
        if before && (self.ghost.is_none() || self.frozen.is_some_and(|held| self.slots() >= held)) {
            self.frozen = None;
        }
        self.view = Some(view);
        self.read_at = Some(now);
    }

    /// What an errand could take that was run without a reading. What another connection of ours holds, which PostgreSQL does
    /// not know to be gone, is tried again.
    pub fn note_told(&mut self, got: &[Mark]) {
        self.told.extend(got.iter().filter_map(|mark| if let Mark::Server(pid) = mark { Some(*pid) } else { None }));
    }

    /// Whether the last reading may show slots that are free, and came with an errand that had not asked for any: the next one is
    /// due at once.
    pub fn has_news(&self) -> bool {
        self.is_news
    }

    /// Whether others took slots at the same time: some that we asked for, or so many that there is no room for all of ours. The
    /// next errand is due soon, but not at the same moment as theirs.
    pub fn has_collided(&self) -> bool {
        self.has_collided
    }
}

/// How many slots each member gives up so that `missing` are free: those with most over their due first.
fn give(members: &[Member], entitled: &[u32], missing: i64) -> Vec<u32> {
    let mut gives = vec![0; members.len()];
    let over: BTreeMap<_, _> = members
        .iter()
        .zip(entitled)
        .enumerate()
        .map(|(i, (m, e))| ((u32::MAX - m.occupied().saturating_sub(*e), m.pid), i))
        .collect();
    let mut missing = u32::try_from(missing.max(0)).unwrap_or(u32::MAX);
    for i in over.into_values() {
        gives[i] = members[i].occupied().saturating_sub(entitled[i]).min(missing);
        missing -= gives[i];
    }
    gives
}
