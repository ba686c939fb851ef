//! Sessions that hold on to a server: those pinned by state that cannot move, and those idle inside a transaction; with
//! the counters of audits, pins and replays. Nothing of this is in PgBouncer.

use std::time::{Duration, SystemTime};

/// Bytes of a statement's text that are shown.
pub const STATEMENT_SHOWN_MAX: usize = 128;

/// Why sessions are pinned, by name, in the order of the columns of `SHOW PIN_STATS` and of [`PinCounters::reasons`].
pub const PIN_REASONS: [&str; 8] =
    ["temp", "advisory_lock", "cursor", "prepare", "listen", "load", "sequence", "unknown"];

/// A client and the server it holds.
#[derive(Clone, Debug, Default)]
pub struct Holder {
    /// Id of the client, as in `SHOW CLIENTS`.
    pub client: u64,
    /// Process id that the client was told in its BackendKeyData.
    pub pid: u32,
    /// Name of the database as clients know it.
    pub database: String,
    /// User who logged in.
    pub user: String,
    /// The client's parameter application_name.
    pub application_name: String,
    /// Address of the client, or `unix`.
    pub addr: String,
    /// Port of the client.
    pub port: u16,
    /// Id of the server, as in `SHOW SERVERS`.
    pub server: u64,
    /// Process id of the backend.
    pub remote_pid: u32,
}

/// A pinned session: a row of `SHOW PINS`.
#[derive(Clone, Debug, Default)]
pub struct Pin {
    /// Who.
    pub holder: Holder,
    /// Why: some of [`PIN_REASONS`].
    pub reasons: Vec<&'static str>,
    /// When it was pinned.
    pub since: Option<SystemTime>,
    /// How long ago that was.
    pub age: Duration,
    /// The statement that led to it, or the start of it; empty when not known.
    pub statement: String,
}

/// The counters of one application: a row of `SHOW PIN_STATS`.
#[derive(Clone, Debug, Default)]
pub struct PinStat {
    /// Name of the database as clients know it.
    pub database: String,
    /// User who logged in.
    pub user: String,
    /// The parameter application_name.
    pub application_name: String,
    /// What was counted.
    pub counters: PinCounters,
}

/// How often servers were audited, sessions pinned and settings replayed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PinCounters {
    /// Audits.
    pub audits: u64,
    /// Audits that PostgreSQL did not answer as it should.
    pub audit_failures: u64,
    /// Times a session was pinned that was not before.
    pub pins: u64,
    /// Times a reason was found that the session was not pinned for before, in the order of [`PIN_REASONS`].
    pub reasons: [u64; PIN_REASONS.len()],
    /// Times the last reason of a pinned session was found to be gone.
    pub unpins: u64,
    /// Times a server was brought to a client's settings.
    pub replays: u64,
    /// Times that failed.
    pub replay_failures: u64,
    /// Errors given by the policy `error`.
    pub refused: u64,
    /// Warnings given by the policy `warn`.
    pub warned: u64,
    /// Times state was removed by the policy `ignore`.
    pub ignored: u64,
}

/// A client that is idle inside a transaction: a row of `SHOW LEAKS`.
#[derive(Clone, Debug, Default)]
pub struct Leak {
    /// Who.
    pub holder: Holder,
    /// How long PostgreSQL has waited for its next message.
    pub idle: Duration,
    /// How long ago its transaction began.
    pub transaction: Duration,
    /// Locks that the backend holds; `None` where PostgreSQL did not tell.
    pub locks: Option<u64>,
    /// Backends that wait for this one; `None` where PostgreSQL did not tell.
    pub waiting: Option<u64>,
    /// Its last statement, or the start of it; empty when not known.
    pub statement: String,
}

impl PinCounters {
    /// All of them, in the order of the columns.
    pub(crate) fn in_order(&self) -> impl Iterator<Item = u64> {
        let before = [self.audits, self.audit_failures, self.pins];
        let after = [self.unpins, self.replays, self.replay_failures, self.refused, self.warned, self.ignored];
        before.into_iter().chain(self.reasons).chain(after)
    }

    /// Sum of two sets.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        Self {
            audits: self.audits.saturating_add(other.audits),
            audit_failures: self.audit_failures.saturating_add(other.audit_failures),
            pins: self.pins.saturating_add(other.pins),
            reasons: std::array::from_fn(|i| self.reasons[i].saturating_add(other.reasons[i])),
            unpins: self.unpins.saturating_add(other.unpins),
            replays: self.replays.saturating_add(other.replays),
            replay_failures: self.replay_failures.saturating_add(other.replay_failures),
            refused: self.refused.saturating_add(other.refused),
            warned: self.warned.saturating_add(other.warned),
            ignored: self.ignored.saturating_add(other.ignored),
        }
    }
}

/// The start of a text, of [`STATEMENT_SHOWN_MAX`] bytes at most and of whole characters.
pub(crate) fn excerpt(text: &str) -> &str {
    let mut ends = (0..=STATEMENT_SHOWN_MAX.min(text.len())).rev();
    let end = ends.find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    &text[..end]
}
