//! What was begun and will not be done: a server that is gone with what it owed, and messages that were skipped.

use pgsluice_wire::{BackendWriter, Report, Severity, TxStatus, sqlstate};

use crate::error::Refusal;
use crate::frontend::{Fate, Flow, Pooling, Session};
use crate::ledger::{Named, Owed};
use crate::server::Server;

/// What is left to do for a client whose server is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterLoss {
    /// It got its errors and may go on, on another server.
    GoOn,
    /// It got a FATAL error: what its session had is lost.
    Close,
}

impl Session {
    /// The server is gone. Everything it owed is answered: with errors if the session can go on, with one FATAL error if
    /// a transaction block, state that was only there, a session or half a message went with it; and if it went because of
    /// what the client sent.
    pub fn handle_server_lost(&mut self, server: &mut Server, why: &Refusal, reply: &mut Vec<u8>) -> AfterLoss {
        let mid_reply = server.rest.left > 0 && server.rest.shown;
        let in_block = server.tx != TxStatus::Idle;
        if mid_reply {
            return AfterLoss::Close;
        }
        let last_words = server.last_words.as_deref().and_then(|body| Report::read(body).ok());
        if let Some(report) = last_words.filter(|r| r.sqlstate() == sqlstate::PROTOCOL_VIOLATION.as_bytes()) {
            BackendWriter(reply).error_fields(report.fields());
            return AfterLoss::Close;
        }
        let state_lost = server.is_pinned() || server.unheard;
        if in_block || state_lost || self.pooling == Pooling::Session || server.own_error.is_some() {
            why.write(Severity::Fatal, reply);
            return AfterLoss::Close;
        }
        self.answer_owed(server, why, reply);
        if self.rest.0 > 0 {
            self.rest.1 = Fate::Discard;
        }
        AfterLoss::GoOn
    }

    /// Errors for everything owed, a ReadyForQuery wherever one was due.
    fn answer_owed(&mut self, server: &mut Server, why: &Refusal, reply: &mut Vec<u8>) {
        let mut failed = server.ledger.is_skipping();
        let mut open = !server.ready && server.ledger.is_empty();
        let mut undone = Vec::new();
        while let Some(owed) = server.ledger.pop() {
            if owed.is_hidden() {
                // The client knows nothing of it, and what it was for is still to be answered.
                undone.push(owed);
                continue;
            }
            let ends = owed.ends_with_ready();
            if !failed {
                why.write(Severity::Error, reply);
            }
            failed = true;
            undone.push(owed);
            if ends {
                BackendWriter(reply).ready(TxStatus::Idle);
                failed = false;
            }
            open = !ends;
        }
        // The newest first, as each has to find what the one before it left.
        undone.into_iter().rev().for_each(|owed| self.undo(owed));
        if open {
            if !failed {
                why.write(Severity::Error, reply);
            }
            self.flow = Flow::SkipToSync;
        }
    }

    pub(crate) fn undo(&mut self, owed: Owed) {
        match owed {
            Owed::Parse { name, .. } | Owed::ParseAgain { name } | Owed::OwnParseComplete { name } => {
                self.names.remove(&name);
            }
            Owed::OwnCloseComplete { name, statement } | Owed::Close(Some(Named { name, statement })) => {
                self.names.insert(name, statement);
            }
            // Skipped, and it was not to replace anything.
            Owed::Query(None) | Owed::Deallocate { replaced: None, .. } => {}
            Owed::ParseUnnamed(replaced)
            | Owed::CloseUnnamed(replaced)
            | Owed::Query(replaced)
            | Owed::Deallocate { replaced, .. } => {
                self.unnamed.generation += 1;
                self.unnamed.content = replaced.unwrap_or_default();
                self.unnamed.is_unread = true;
                if self.rest.1 == Fate::Keep {
                    self.rest.1 = Fate::Forward;
                }
            }
            _ => {}
        }
    }
}
