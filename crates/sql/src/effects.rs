//! The set of things a SQL text may do to a session.

use std::fmt;
use std::ops::{BitAnd, BitOr, BitOrAssign};

/// A set of effects: what the statements of a text may do to the session that runs them, no more than "may".
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Effects(u32);

impl Effects {
    /// Nothing.
    pub const NONE: Effects = Effects(0);
    /// Changes settings: SET in any form but SET TRANSACTION and SET LOCAL, RESET, `set_config`, UPDATE of `pg_settings`,
    /// and LOAD, as PostgreSQL drops those custom settings with the library's prefix that the library does not know.
    pub const SETTINGS: Effects = Effects(1);
    /// Makes, uses or drops prepared statements by SQL: PREPARE, EXECUTE, DEALLOCATE.
    pub const PREPARE: Effects = Effects(1 << 1);
    /// Makes a cursor WITH HOLD, or closes a cursor.
    pub const CURSOR: Effects = Effects(1 << 2);
    /// LISTEN or UNLISTEN.
    pub const LISTEN: Effects = Effects(1 << 3);
    /// Makes or names temporary objects, or drops anything. A CREATE of anything makes temporary objects, too, when
    /// `search_path` begins with `pg_temp`: that is [`Effects::DDL`] only.
    pub const TEMP: Effects = Effects(1 << 4);
    /// Takes or releases advisory locks of the session.
    pub const ADVISORY: Effects = Effects(1 << 5);
    /// LOAD, and functions whose effect on the session neither a query shows nor a command removes: a temporary
    /// replication slot, a session's replication origin, a backup under way, a named connection of dblink.
    pub const LOAD: Effects = Effects(1 << 6);
    /// Mentions `nextval` or `setval`.
    pub const SEQUENCE: Effects = Effects(1 << 7);
    /// Mentions `currval` or `lastval`.
    pub const SEQUENCE_READ: Effects = Effects(1 << 8);
    /// Writes to a table, anywhere in a statement: triggers, defaults and constraints may call any function, `nextval`
    /// too. VACUUM, ANALYZE, CLUSTER, REINDEX and REFRESH count, as they call functions of indexes and views.
    pub const WRITE: Effects = Effects(1 << 9);
    /// DISCARD in any form.
    pub const DISCARD: Effects = Effects(1 << 10);
    /// Runs text that is not in view, or cannot be read: DO, CALL, EXECUTE, CREATE EXTENSION, `query_to_xml` and its
    /// like, a setting whose name is no literal, a string without end.
    pub const OPAQUE: Effects = Effects(1 << 11);
    /// Changes the catalog: functions, triggers and views may be others now. See [`crate::Suspects`].
    pub const DDL: Effects = Effects(1 << 12);
    /// Mentions a name of [`crate::Suspects`], or writes where a trigger is suspect.
    pub const SUSPECT: Effects = Effects(1 << 13);
    /// A statement begins with BEGIN, START, COMMIT, END, ROLLBACK, ABORT, SAVEPOINT, RELEASE or PREPARE TRANSACTION.
    pub const TRANSACTION: Effects = Effects(1 << 14);
    /// Mentions `pg_listening_channels`.
    pub const LISTEN_READ: Effects = Effects(1 << 15);
    /// Mentions `pg_settings`: SETTINGS if anything is written. Never in what the crate returns.
    pub(crate) const PG_SETTINGS: Effects = Effects(1 << 31);

    /// What may have done anything.
    pub const ANYTHING: Effects = Effects::OPAQUE.union(Effects::SUSPECT);

    /// What of a session's state PostgreSQL can be asked for.
    const PARTS: Effects = Effects::SETTINGS
        .union(Effects::PREPARE)
        .union(Effects::CURSOR)
        .union(Effects::LISTEN)
        .union(Effects::TEMP)
        .union(Effects::ADVISORY);

    const NAMES: [(&str, Effects); 16] = [
        ("SETTINGS", Effects::SETTINGS),
        ("PREPARE", Effects::PREPARE),
        ("CURSOR", Effects::CURSOR),
        ("LISTEN", Effects::LISTEN),
        ("TEMP", Effects::TEMP),
        ("ADVISORY", Effects::ADVISORY),
        ("LOAD", Effects::LOAD),
        ("SEQUENCE", Effects::SEQUENCE),
        ("SEQUENCE_READ", Effects::SEQUENCE_READ),
        ("WRITE", Effects::WRITE),
        ("DISCARD", Effects::DISCARD),
        ("OPAQUE", Effects::OPAQUE),
        ("DDL", Effects::DDL),
        ("SUSPECT", Effects::SUSPECT),
        ("TRANSACTION", Effects::TRANSACTION),
        ("LISTEN_READ", Effects::LISTEN_READ),
    ];

    /// Whether all of `other` are in it.
    pub const fn contains(self, other: Effects) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether any of `other` is in it.
    pub const fn intersects(self, other: Effects) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether nothing is in it.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The set without `other`.
    #[must_use]
    pub const fn without(self, other: Effects) -> Effects {
        Effects(self.0 & !other.0)
    }

    /// The parts of a session's state that may be others afterwards and that PostgreSQL can be asked for: any of
    /// `SETTINGS | PREPARE | CURSOR | LISTEN | TEMP | ADVISORY`. None: nobody needs to ask.
    #[must_use]
    pub fn parts(self) -> Effects {
        if self.intersects(Effects::ANYTHING | Effects::DISCARD) { Effects::PARTS } else { self & Effects::PARTS }
    }

    /// The set with SUSPECT if it has DDL: what that makes may be run before the catalog is read again.
    #[must_use]
    pub fn with_unread(self) -> Effects {
        if self.contains(Effects::DDL) { self | Effects::SUSPECT } else { self }
    }

    /// Both sets in one, where `|` cannot be used: in constants.
    #[must_use]
    pub const fn union(self, other: Effects) -> Effects {
        Effects(self.0 | other.0)
    }
}

impl BitAnd for Effects {
    type Output = Self;

    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl BitOr for Effects {
    type Output = Effects;

    fn bitor(self, other: Effects) -> Effects {
        self.union(other)
    }
}

impl BitOrAssign for Effects {
    fn bitor_assign(&mut self, other: Effects) {
        self.0 |= other.0;
    }
}

/// The names, as in `SETTINGS | TEMP`; `NONE` for the empty set.
impl fmt::Debug for Effects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = Effects::NAMES.iter().filter(|(_, effect)| self.contains(*effect)).map(|(name, _)| *name);
        let names = names.collect::<Vec<_>>();
        f.write_str(if names.is_empty() { "NONE".to_owned() } else { names.join(" | ") }.as_str())
    }
}
