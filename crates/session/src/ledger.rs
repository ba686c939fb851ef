//! The responses a server still owes, in order, and what each deserves.
//!
//! Every message a server will answer gets its entry before it is forwarded. Replies are matched against the front, so
//! pipelines, Flush, errors before Sync, injected messages and answers of our own keep their order by construction.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::statement::Statement;

/// Entries a ledger holds before the client is not read any further, see `docs/limits.md`.
pub(crate) const LEDGER_MAX: usize = 16_384;

/// One response owed.
#[derive(Debug)]
pub(crate) enum Owed {
    /// A simple Query: anything up to ReadyForQuery.
    Query,
    /// A FunctionCall: up to ReadyForQuery.
    FunctionCall,
    /// A Sync: ReadyForQuery.
    Sync,
    /// A Parse of the unnamed statement.
    ParseUnnamed,
    /// A Parse under a name the client did not have.
    Parse { name: Arc<[u8]>, statement: Arc<Statement> },
    /// A Parse under a name the client already has: PostgreSQL will refuse it.
    ParseTaken { name: Arc<[u8]>, statement: Arc<Statement> },
    /// A Bind, and the named statement it takes.
    Bind(Option<u64>),
    /// A Describe of a statement, and the named one it is.
    DescribeStatement(Option<u64>),
    /// A Describe of a portal.
    DescribePortal,
    /// An Execute.
    Execute,
    /// A Close that the server sees.
    Close,
    /// The client begins to send CopyData, nothing is owed.
    CopyData,
    /// The client ended its CopyData, nothing is owed.
    CopyEnd,
    /// ParseComplete, from us: the server has the statement already.
    OwnParseComplete { name: Arc<[u8]> },
    /// CloseComplete, from us; with what the client's name meant.
    OwnCloseComplete { name: Arc<[u8]>, statement: Arc<Statement> },
    /// Ours, not the client's: a Parse.
    HiddenParse(Option<Arc<Statement>>),
    /// Ours: a Bind.
    HiddenBind,
    /// Ours: an Execute.
    HiddenExecute,
    /// Ours: a Close of a statement.
    HiddenClose(Arc<Statement>),
    /// Ours: a Sync.
    HiddenSync,
    /// Ours: a simple Query.
    HiddenQuery,
}

impl Owed {
    /// Is its response not for the client?
    pub(crate) fn is_hidden(&self) -> bool {
        use Owed::*;
        matches!(self, HiddenParse(_) | HiddenBind | HiddenExecute | HiddenClose(_) | HiddenSync | HiddenQuery)
    }

    /// Does the server answer it with ReadyForQuery, and read on after an error there?
    pub(crate) fn is_sync(&self) -> bool {
        matches!(self, Self::Sync | Self::HiddenSync)
    }

    /// Does ReadyForQuery end it?
    pub(crate) fn ends_with_ready(&self) -> bool {
        self.is_sync() || self.is_whole_cycle()
    }

    /// Is it a command whose errors end with it, not with a Sync?
    pub(crate) fn is_whole_cycle(&self) -> bool {
        matches!(self, Self::Query | Self::FunctionCall | Self::HiddenQuery)
    }

    fn owes_nothing(&self) -> bool {
        matches!(self, Self::CopyData | Self::CopyEnd)
    }
}

/// The queue of [`Owed`].
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    owed: VecDeque<Owed>,
    /// After an error the server reads no more until Sync, and the Sync has not been sent yet.
    skipping: bool,
}

impl Ledger {
    pub(crate) fn front(&self) -> Option<&Owed> {
        self.owed.front()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.owed.is_empty()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.owed.len() >= LEDGER_MAX
    }

    pub(crate) fn len(&self) -> usize {
        self.owed.len()
    }

    /// Is the server skipping everything up to a Sync that is still to come?
    pub(crate) fn is_skipping(&self) -> bool {
        self.skipping
    }

    pub(crate) fn has_ready_ahead(&self) -> bool {
        self.owed.iter().any(Owed::ends_with_ready)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Owed> {
        self.owed.iter()
    }

    pub(crate) fn push(&mut self, owed: Owed) {
        if owed.is_sync() {
            self.skipping = false;
        }
        let marker = owed.owes_nothing();
        let same = matches!((self.owed.back(), &owed), (Some(Owed::CopyData), Owed::CopyData));
        if !(marker && (self.owed.is_empty() || same)) {
            self.owed.push_back(owed);
        }
    }

    /// The front was answered. Markers behind it have been reached, too.
    pub(crate) fn pop(&mut self) -> Option<Owed> {
        let front = self.owed.pop_front();
        while self.owed.front().is_some_and(Owed::owes_nothing) {
            self.owed.pop_front();
        }
        front
    }

    /// The server reported an error for the front: everything up to the next Sync gets no answer, and is returned
    /// newest first, for its effects to be undone. A command that ends with its own ReadyForQuery stays.
    pub(crate) fn fail(&mut self) -> Vec<Owed> {
        if self.owed.front().is_none_or(Owed::is_whole_cycle) {
            return Vec::new();
        }
        let end = self.owed.iter().position(Owed::is_sync);
        self.skipping = end.is_none();
        let mut dropped: Vec<_> = self.owed.drain(..end.unwrap_or(self.owed.len())).collect();
        dropped.reverse();
        dropped
    }

    /// CopyInResponse came for the front: Syncs sent ahead of the data are read in copy mode, where PostgreSQL ignores
    /// them (`CopyGetData` in `src/backend/commands/copyfromparse.c`). Is the end of the data still to be sent?
    pub(crate) fn begin_copy_in(&mut self) -> bool {
        let mut in_front = true;
        self.owed.retain(|owed| {
            in_front &= !owed.owes_nothing();
            !(in_front && matches!(owed, Owed::Sync))
        });
        !self.owed.iter().any(|owed| matches!(owed, Owed::CopyEnd))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_drops_up_to_the_sync_newest_first() {
        let mut ledger = Ledger::default();
        for owed in [Owed::Bind(None), Owed::Execute, Owed::Query, Owed::Sync, Owed::Query] {
            ledger.push(owed);
        }
        let dropped = ledger.fail();
        assert!(matches!(dropped[..], [Owed::Query, Owed::Execute, Owed::Bind(None)]), "{dropped:?}");
        assert!(!ledger.is_skipping());
        assert!(matches!(ledger.pop(), Some(Owed::Sync)));
        assert!(ledger.fail().is_empty(), "a simple query keeps its ReadyForQuery");
        assert!(matches!(ledger.front(), Some(Owed::Query)));
    }

    #[test]
    fn without_a_sync_the_server_skips() {
        let mut ledger = Ledger::default();
        ledger.push(Owed::Bind(None));
        ledger.fail();
        assert!(ledger.is_skipping());
        ledger.push(Owed::Sync);
        assert!(!ledger.is_skipping());
    }

    #[test]
    fn syncs_ahead_of_copy_data_are_not_answered() {
        let mut ledger = Ledger::default();
        for owed in [Owed::Execute, Owed::Sync, Owed::CopyData, Owed::CopyData, Owed::CopyEnd, Owed::Sync] {
            ledger.push(owed);
        }
        assert_eq!(ledger.len(), 5, "one marker for a run of data");
        assert!(!ledger.begin_copy_in());
        assert!(matches!(ledger.pop(), Some(Owed::Execute)));
        assert!(matches!(ledger.front(), Some(Owed::Sync)), "markers go once they are reached");
        ledger.pop();
        ledger.push(Owed::CopyData);
        assert!(ledger.is_empty(), "data outside a copy owes nothing");
        ledger.push(Owed::Execute);
        ledger.push(Owed::Sync);
        assert!(ledger.begin_copy_in());
        assert_eq!(ledger.len(), 1);
    }
}
