//! How closely a session's state is followed, and what is done about state that cannot be moved.

use pgsluice_sql::Effects;

/// State that keeps a session on its server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PinReason {
    /// Temporary objects.
    Temp,
    /// Advisory locks of the session.
    AdvisoryLock,
    /// Cursors that outlive their transaction.
    Cursor,
    /// Statements prepared by SQL.
    Prepare,
    /// Channels it listens to.
    Listen,
    /// A library that it loaded.
    Load,
    /// Values of sequences that `currval` and `lastval` return.
    Sequence,
    /// What an audit could not find out.
    Unknown,
}

impl PinReason {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Temp,
        Self::AdvisoryLock,
        Self::Cursor,
        Self::Prepare,
        Self::Listen,
        Self::Load,
        Self::Sequence,
        Self::Unknown,
    ];

    /// Its name, as the configuration and the console have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Temp => "temp",
            Self::AdvisoryLock => "advisory_lock",
            Self::Cursor => "cursor",
            Self::Prepare => "prepare",
            Self::Listen => "listen",
            Self::Load => "load",
            Self::Sequence => "sequence",
            Self::Unknown => "unknown",
        }
    }

    /// What leaves such state.
    pub(crate) fn effect(self) -> Effects {
        match self {
            Self::Temp => Effects::TEMP,
            Self::AdvisoryLock => Effects::ADVISORY,
            Self::Cursor => Effects::CURSOR,
            Self::Prepare => Effects::PREPARE,
            Self::Listen => Effects::LISTEN,
            Self::Load => Effects::LOAD,
            Self::Sequence => Effects::SEQUENCE,
            Self::Unknown => Effects::OPAQUE,
        }
    }
}

/// What is done about state that cannot be moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PinPolicy {
    /// The session keeps its server.
    #[default]
    Pin,
    /// A statement that would leave such state is refused.
    Error,
    /// As [`PinPolicy::Pin`], and the client is told so, once.
    Warn,
    /// It is removed before the server goes to anybody else.
    Ignore,
}

/// Which transactions are audited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Audit {
    /// Those whose text, or what it names in the catalog, may change state.
    #[default]
    Suspects,
    /// All of them.
    Always,
    /// Those whose text says that they change state.
    Never,
}

/// A pool's choices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tracking {
    /// By reason, in the order of [`PinReason::ALL`]; the last one is always [`PinPolicy::Pin`].
    pub policies: [PinPolicy; 8],
    /// Which transactions are audited.
    pub audit: Audit,
}

/// Nothing is kept, but for what cannot be chosen.
const IGNORED: [PinPolicy; 8] = {
    let mut policies = [PinPolicy::Ignore; 8];
    policies[PinReason::Unknown as usize] = PinPolicy::Pin;
    policies
};

impl Tracking {
    /// Nothing is followed but what PostgreSQL reports unasked; what command tags show is removed.
    pub const OFF: Self = Self { policies: IGNORED, audit: Audit::Never };

    /// Is anything followed?
    pub fn is_on(&self) -> bool {
        *self != Self::OFF
    }

    /// What is done about a reason.
    pub fn policy(&self, reason: PinReason) -> PinPolicy {
        self.policies[reason as usize]
    }

    /// The first reason, of those that these effects bring, for which a statement is refused.
    pub(crate) fn refuses(&self, effects: Effects) -> Option<PinReason> {
        PinReason::ALL
            .into_iter()
            .find(|reason| self.policy(*reason) == PinPolicy::Error && effects.intersects(reason.effect()))
    }
}

/// What following its state took for a session, or for many, in numbers that only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StateCounts {
    /// Audits that were answered.
    pub audits: u64,
    /// Audits that failed: the session stayed where it was.
    pub audit_failures: u64,
    /// Times that a session was pinned that was not.
    pub pinned: u64,
    /// Times that a reason was found for which it was not pinned yet, in the order of [`PinReason::ALL`].
    pub pins: [u64; 8],
    /// Times that nothing kept a session any more.
    pub unpins: u64,
    /// Replays of settings.
    pub replays: u64,
    /// Replays that failed.
    pub replay_failures: u64,
    /// Statements refused.
    pub refused: u64,
    /// Warnings given.
    pub warned: u64,
    /// State that was found and not kept.
    pub ignored: u64,
}

impl StateCounts {
    /// Adds others.
    pub fn add(&mut self, other: &Self) {
        self.audits += other.audits;
        self.audit_failures += other.audit_failures;
        self.pins.iter_mut().zip(other.pins).for_each(|(sum, n)| *sum += n);
        self.pinned += other.pinned;
        self.unpins += other.unpins;
        self.replays += other.replays;
        self.replay_failures += other.replay_failures;
        self.refused += other.refused;
        self.warned += other.warned;
        self.ignored += other.ignored;
    }
}
