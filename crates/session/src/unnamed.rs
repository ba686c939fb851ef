//! The client's unnamed statement: it lives until it is replaced, on whichever server, so its content is kept.

use pgsluice_sql::Reading;
use pgsluice_wire::FrontendWriter;

use crate::Ctx;
use crate::frontend::{Fate, Pooling, Session};
use crate::ledger::Owed;
use crate::message::{Message, Step};
use crate::named::text_of;
use crate::server::Server;

/// Longest unnamed statement that is kept for another server, in bytes.
const UNNAMED_MAX: usize = 64 << 10;
/// Bytes of an unnamed statement that is replaced, times the responses owed: beyond that it is not kept for the case that
/// the replacement is skipped after an error.
const REPLACED_KEPT_MAX: usize = 1 << 20;

/// The client's unnamed statement.
#[derive(Debug, Default)]
pub(crate) struct Unnamed {
    /// Grows whenever it is another, or none.
    pub(crate) generation: u64,
    /// Empty when there is none, or when it was too long to keep.
    pub(crate) content: Vec<u8>,
    /// What its text may do, as of its last Parse.
    pub(crate) reading: Reading,
    /// That is of another one.
    pub(crate) is_unread: bool,
}

impl Unnamed {
    pub(crate) fn forget(&mut self) {
        self.generation += 1;
        self.content.clear();
    }

    /// There is none any more. Returns what was there if the message that replaces it may yet be skipped.
    pub(crate) fn replace(&mut self, server: &Server) -> Option<Vec<u8>> {
        self.generation += 1;
        let kept = server.ledger.is_open().then(|| std::mem::take(&mut self.content));
        self.content.clear();
        kept.map(|content| if content.len() * server.ledger.len() <= REPLACED_KEPT_MAX { content } else { Vec::new() })
    }
}

impl Session {
    pub(crate) fn parse_unnamed(&mut self, message: Message<'_>, server: &mut Server, ctx: &mut Ctx<'_>) -> Step {
        let replaced = self.unnamed.replace(server);
        server.owe(Owed::ParseUnnamed(replaced));
        server.unnamed = Some((self.id, self.unnamed.generation));
        ctx.plan.forward(message.span());
        self.rest = (message.missing(), Fate::Keep);
        if self.pooling == Pooling::Session {
            self.rest.1 = Fate::Forward;
        } else {
            self.keep_unnamed(&message.body()[1..]);
        }
        Step::Taken
    }

    /// The one before is back: its text is read again, if it was kept.
    pub(crate) fn read_unnamed(&mut self, ctx: &mut Ctx<'_>) {
        if std::mem::take(&mut self.unnamed.is_unread) {
            let text = text_of(&self.unnamed.content);
            self.unnamed.reading = self.read(text, !self.unnamed.content.is_empty(), ctx);
        }
    }

    pub(crate) fn keep_unnamed(&mut self, part: &[u8]) {
        if self.unnamed.content.len() + part.len() > UNNAMED_MAX {
            self.unnamed.content = Vec::new();
            self.rest.1 = Fate::Forward;
        } else {
            self.unnamed.content.extend_from_slice(part);
        }
    }

    /// The unnamed statement lives until it is replaced, wherever the session is by then; and nobody else's is there.
    pub(crate) fn ensure_unnamed(&mut self, server: &mut Server, ctx: &mut Ctx<'_>) {
        let mine = Some((self.id, self.unnamed.generation));
        if server.unnamed == mine {
            return;
        }
        if !self.unnamed.content.is_empty() {
            ctx.plan.insert(|out| FrontendWriter(out).parse_content(b"", &self.unnamed.content));
            server.owe(Owed::HiddenParse(None));
            server.unnamed = mine;
        } else if server.unnamed.is_some() {
            ctx.plan.insert(|out| FrontendWriter(out).close_statement(b""));
            server.owe(Owed::HiddenClose(None));
            server.unnamed = None;
        }
    }
}
