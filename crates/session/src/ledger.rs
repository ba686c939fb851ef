//! The responses a server still owes, in order, and what each deserves.
//!
//! Every message a server will answer gets its entry before it is forwarded. Replies are matched against the front, so
//! pipelines, Flush, errors before Sync, injected messages and answers of our own keep their order by construction.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::statement::Statement;
use crate::tracking::PinReason;

/// Entries a ledger holds before the client is not read any further, see `docs/limits.md`.
pub(crate) const LEDGER_MAX: usize = 16_384;

/// A statement and what the client calls it.
#[derive(Debug)]
pub(crate) struct Named {
    pub(crate) name: Arc<[u8]>,
    pub(crate) statement: Arc<Statement>,
}

/// One response owed.
#[derive(Debug)]
pub(crate) enum Owed {
    /// A simple Query: anything up to ReadyForQuery; and the unnamed statement it destroys, see [`Owed::ParseUnnamed`].
    Query(Option<Vec<u8>>),
    /// A simple Query that deallocates one of the client's names.
    Deallocate { name: Vec<u8>, statement: Arc<Statement>, replaced: Option<Vec<u8>> },
    /// A FunctionCall: up to ReadyForQuery.
    FunctionCall,
    /// A Sync: ReadyForQuery.
    Sync,
    /// A Parse of the unnamed statement, and the one it takes the place of if that could live on: if an error in front of
    /// this can have it skipped.
    ParseUnnamed(Option<Vec<u8>>),
    /// A Close of the unnamed statement, and what that was, as for [`Owed::ParseUnnamed`].
    CloseUnnamed(Option<Vec<u8>>),
    /// A Parse under a name that is the server's business.
    ParsePassed,
    /// A Parse under a name the client did not have.
    Parse { name: Arc<[u8]>, statement: Arc<Statement> },
    /// A Parse under a name the client already has: PostgreSQL will refuse it.
    ParseTaken { old: Named, statement: Arc<Statement> },
    /// A Query that leaves such state, which the server did not get: it got what fails in its place.
    RefusedQuery(PinReason),
    /// The same for a Parse.
    RefusedParse(PinReason),
    /// A Parse of more bytes than this, which the server did not get: it got what fails in its place.
    ParseTooLong { max: usize },
    /// A Bind, and the named statement it takes.
    Bind(Option<Named>),
    /// A Describe of a statement, and the named one it is.
    DescribeStatement(Option<Named>),
    /// A Describe of a portal, and the named statement that was bound to it, where that is known.
    DescribePortal(Option<Arc<Statement>>),
    /// An Execute.
    Execute,
    /// An Execute that deallocates one of the client's names: the server has a statement of that name, made for this.
    ExecuteDeallocate { name: Vec<u8> },
    /// A Close that the server sees, and what the client's name meant, if anything.
    Close(Option<Named>),
    /// A message that PostgreSQL cannot read: an error.
    Malformed,
    /// The client begins to send CopyData, nothing is owed.
    CopyData,
    /// The client ended its CopyData, nothing is owed.
    CopyEnd,
    /// A Parse of what the server has already, under a name that is closed at once: for what else a Parse does.
    ParseAgain { name: Arc<[u8]> },
    /// Ours: the Close behind [`Owed::ParseAgain`].
    HiddenCloseAgain,
    /// ParseComplete, from us: the server has the statement already.
    OwnParseComplete { name: Arc<[u8]> },
    /// CloseComplete, from us; with what the client's name meant.
    OwnCloseComplete { name: Arc<[u8]>, statement: Arc<Statement> },
    /// A message for a statement whose rows are not what they were: an error, whose words are ours.
    Changed,
    /// Ours: a Describe of a statement that was just prepared, to see whether its rows are what they were.
    HiddenDescribe(Arc<Statement>),
    /// Ours, not the client's: a Parse.
    HiddenParse(Option<Arc<Statement>>),
    /// Ours: a Bind.
    HiddenBind,
    /// Ours: an Execute.
    HiddenExecute,
    /// Ours: a Close of a statement, the unnamed one if it says none.
    HiddenClose(Option<Arc<Statement>>),
    /// Ours: a Sync.
    HiddenSync,
    /// Ours: a simple Query.
    HiddenQuery,
    /// Ours: a simple Query about channels, see [`crate::listen`].
    HiddenListen,
    /// Ours: the BEGIN of a replay, see [`crate::replay`].
    HiddenBegin,
}

impl Owed {
    /// Is its response not for the client?
    pub(crate) fn is_hidden(&self) -> bool {
        use Owed::*;
        matches!(
            self,
            HiddenCloseAgain
                | HiddenDescribe(_)
                | HiddenParse(_)
                | HiddenBind
                | HiddenExecute
                | HiddenClose(_)
                | HiddenSync
                | HiddenQuery
                | HiddenListen
                | HiddenBegin
        )
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
        use Owed::*;
        matches!(
            self,
            Query(_) | Deallocate { .. } | RefusedQuery(_) | FunctionCall | HiddenQuery | HiddenListen | HiddenBegin
        )
    }

    /// Would an error in front of it take back what is known of statements by now?
    fn is_provisional(&self) -> bool {
        use Owed::*;
        matches!(
            self,
            Parse { .. }
                | ParseTaken { .. }
                | OwnParseComplete { .. }
                | ParseAgain { .. }
                | OwnCloseComplete { .. }
                | Close(Some(_))
                | HiddenParse(_)
                | HiddenClose(_)
                | ParseUnnamed(Some(_))
                | CloseUnnamed(Some(_))
                | Query(Some(_))
                | CopyEnd
        )
    }

    /// Is it answered by us, and so can it not fail?
    fn is_own(&self) -> bool {
        matches!(self, Self::OwnParseComplete { .. } | Self::OwnCloseComplete { .. })
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
    /// A message was sent since the last Sync whose error has all up to the next one skipped.
    open: bool,
    /// Provisional entries behind the last Sync, and those in front of it.
    provisional: (usize, usize),
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

    /// Is the front part of a command of our own, not of what we do for a message of the client's?
    pub(crate) fn is_front_ours(&self) -> bool {
        match self.owed.front() {
            Some(
                Owed::HiddenBind
                | Owed::HiddenExecute
                | Owed::HiddenSync
                | Owed::HiddenQuery
                | Owed::HiddenListen
                | Owed::HiddenBegin,
            ) => true,
            Some(Owed::HiddenParse(None)) => matches!(self.owed.get(1), Some(Owed::HiddenBind)),
            _ => false,
        }
    }

    /// Is known which statements there are, whatever happens to messages that were sent before the last Sync?
    pub(crate) fn is_settled(&self) -> bool {
        self.provisional.1 == 0
    }

    /// The unnamed statement turns out to be another one. Does a message that has been sent replace it in its turn? Then
    /// this is what that one replaces.
    pub(crate) fn replaces_unnamed(&mut self, by_now: Option<&[u8]>) -> bool {
        let mut later = self.owed.iter_mut().filter_map(|owed| match owed {
            Owed::ParseUnnamed(replaced)
            | Owed::CloseUnnamed(replaced)
            | Owed::Query(replaced)
            | Owed::Deallocate { replaced, .. } => Some(replaced),
            _ => None,
        });
        let Some(replaced) = later.next() else { return false };
        if let Some(replaced) = replaced {
            *replaced = by_now.unwrap_or_default().to_vec();
        }
        true
    }

    /// Can an error in front of it have the next message skipped?
    pub(crate) fn is_open(&self) -> bool {
        self.open && !self.owed.is_empty()
    }

    /// Has the server been sent anything since the last Sync that belongs to one transaction with what follows?
    pub(crate) fn is_in_batch(&self) -> bool {
        self.open
    }

    pub(crate) fn has_ready_ahead(&self) -> bool {
        self.owed.iter().any(Owed::ends_with_ready)
    }

    pub(crate) fn push(&mut self, owed: Owed) {
        if owed.is_sync() {
            self.skipping = false;
        }
        if owed.is_sync() || matches!(owed, Owed::CopyEnd) {
            self.provisional = (0, self.provisional.0 + self.provisional.1);
        }
        self.open = !owed.is_sync() && (self.open || !(owed.is_whole_cycle() || owed.owes_nothing() || owed.is_own()));
        let marker = owed.owes_nothing();
        let same = matches!((self.owed.back(), &owed), (Some(Owed::CopyData), Owed::CopyData));
        if marker && (self.owed.is_empty() || same) {
            return;
        }
        match owed {
            // Until it is known whether a COPY ends here, it is not known whether a Sync in front of it is one.
            Owed::CopyEnd => self.provisional.1 += 1,
            _ => self.provisional.0 += usize::from(owed.is_provisional()),
        }
        self.owed.push_back(owed);
    }

    /// The front was answered. Markers behind it have been reached, too.
    pub(crate) fn pop(&mut self) -> Option<Owed> {
        let front = self.owed.pop_front();
        front.iter().for_each(|owed| self.settle(owed));
        while self.owed.front().is_some_and(Owed::owes_nothing) {
            self.owed.pop_front().iter().for_each(|marker| self.settle(marker));
        }
        front
    }

    /// The server reported an error for the front: everything up to the next Sync gets no answer, and is returned
    /// newest first, for its effects to be undone. A command that ends with its own ReadyForQuery stays.
    pub(crate) fn fail(&mut self) -> Vec<Owed> {
        if let Some(Owed::ParseUnnamed(replaced)) = self.owed.front_mut() {
            // PostgreSQL drops the old one before it looks at the new one (`exec_parse_message`).
            *replaced = replaced.take().map(|_| Vec::new());
        }
        if self.owed.front().is_none_or(Owed::is_whole_cycle) {
            return Vec::new();
        }
        let end = self.owed.iter().position(Owed::is_sync);
        self.skipping = end.is_none();
        let mut dropped: Vec<_> = self.owed.drain(..end.unwrap_or(self.owed.len())).collect();
        dropped.iter().for_each(|owed| self.settle(owed));
        dropped.reverse();
        dropped
    }

    /// An entry at the front is gone.
    fn settle(&mut self, owed: &Owed) {
        if owed.is_provisional() {
            let (behind, ahead) = &mut self.provisional;
            *(if *ahead > 0 { ahead } else { behind }) -= 1;
        }
    }

    /// The COPY at the front failed while data came for it, in front of so many Syncs.
    pub(crate) fn fail_copy(&mut self, syncs: usize) {
        for _ in 0..syncs {
            self.owed.insert(1, Owed::Sync);
        }
        self.open &= syncs == 0 || self.owed.len() > syncs + 1;
    }

    /// CopyInResponse came for the front: Syncs sent ahead of the end of the data are read in copy mode, where PostgreSQL
    /// ignores them (`CopyGetData` in `src/backend/commands/copyfromparse.c`). Returns whether there were any; and, if the end
    /// of the data is still to be sent, how many of them there are since the last data.
    pub(crate) fn begin_copy_in(&mut self) -> (bool, Option<usize>) {
        if let Some(Owed::Query(replaced)) = self.owed.front_mut()
            && replaced.take().is_some()
        {
            // It runs, so nothing in front of it failed.
            self.settle(&Owed::Query(Some(Vec::new())));
        }
        let (mut copying, mut strayed, mut synced, mut syncs) = (true, false, false, 0);
        let mut place = 0;
        self.owed.retain(|owed| {
            // A message that has no place in a COPY gets an answer only if the COPY has failed before it is read.
            strayed |= place > 0 && !matches!(owed, Owed::Sync | Owed::CopyData | Owed::CopyEnd);
            place += 1;
            if !copying || strayed {
                return true;
            }
            match owed {
                Owed::CopyData => syncs = 0,
                Owed::Sync => (synced, syncs) = (true, syncs + 1),
                _ => {}
            }
            copying = !matches!(owed, Owed::CopyEnd);
            !matches!(owed, Owed::Sync | Owed::CopyData | Owed::CopyEnd)
        });
        if !copying {
            self.settle(&Owed::CopyEnd);
        }
        self.open |= !self.owed.front().is_some_and(Owed::is_whole_cycle) && !self.owed.iter().any(Owed::is_sync);
        (synced, copying.then_some(syncs))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_drops_up_to_the_sync_newest_first() {
        let mut ledger = Ledger::default();
        let query = || Owed::Query(None);
        for owed in [Owed::Bind(None), Owed::Execute, query(), Owed::Sync, query()] {
            ledger.push(owed);
        }
        let dropped = ledger.fail();
        assert!(matches!(dropped[..], [Owed::Query(_), Owed::Execute, Owed::Bind(None)]), "{dropped:?}");
        assert!(!ledger.is_skipping());
        assert!(matches!(ledger.pop(), Some(Owed::Sync)));
        assert!(ledger.fail().is_empty(), "a simple query keeps its ReadyForQuery");
        assert!(matches!(ledger.front(), Some(Owed::Query(_))));
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
        assert_eq!(ledger.begin_copy_in(), (true, None));
        assert_eq!(ledger.len(), 2, "the markers are this copy's");
        assert!(matches!(ledger.pop(), Some(Owed::Execute)));
        assert!(matches!(ledger.front(), Some(Owed::Sync)), "the Sync behind the data is answered");
        ledger.pop();
        ledger.push(Owed::CopyData);
        assert!(ledger.is_empty(), "data outside a copy owes nothing");
        ledger.push(Owed::Execute);
        ledger.push(Owed::Sync);
        assert_eq!(ledger.begin_copy_in(), (true, Some(1)));
        assert_eq!(ledger.len(), 1);
    }

    #[test]
    fn what_strays_into_a_copy_keeps_its_place_among_the_syncs() {
        let mut ledger = Ledger::default();
        let close = || Owed::Close(None);
        for owed in [Owed::Query(None), Owed::CopyData, Owed::Sync, close(), Owed::Sync, Owed::CopyEnd, Owed::Sync] {
            ledger.push(owed);
        }
        assert_eq!(ledger.begin_copy_in(), (true, Some(1)));
        ledger.fail_copy(1);
        let answered = std::iter::from_fn(|| ledger.pop()).map(|owed| format!("{owed:?}")).collect::<Vec<_>>();
        assert_eq!(answered.join(" "), "Query(None) Sync Close(None) Sync Sync");
    }
}
