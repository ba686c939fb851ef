//! What a client's statements may leave behind: their texts are read once, on their way to the server.

use std::fmt;

use pgsluice_sql::{Effects, Reading, Suspects};
use pgsluice_wire::{DataRow, FrontendWriter, tag::frontend};

use crate::Ctx;
use crate::frontend::{Session, Want};
use crate::ledger::Owed;
use crate::message::{Message, Step};
use crate::server::Server;
use crate::statement::{GUARD, RESERVED_PREFIX, Statement};
use crate::tracking::{Audit, PinReason};

/// What is known of a database's functions, triggers and views.
#[derive(Clone, Copy, Debug)]
pub enum Catalog<'a> {
    /// Nothing: any statement may do anything.
    Unknown,
    /// What could change a session's state when it was read; something has been made or changed since.
    Outdated(&'a Suspects),
    /// Which of them can change a session's state.
    Known(&'a Suspects),
}

impl Session {
    /// A Query is on its way, or the front of one that is too long to be read. `Err`: not yet, or it is not to run.
    pub(crate) fn note_query(
        &mut self,
        message: Message<'_>,
        server: &mut Server,
        ctx: &mut Ctx<'_>,
    ) -> Result<(), Step> {
        server.last.set(message.body());
        if !self.is_followed() {
            return Ok(());
        }
        let reading = self.read(message.body(), message.missing() == 0, ctx);
        if !server.copying_in && self.has_foreign_sequences(reading.effects, server, ctx.counters) {
            if server.ledger.is_empty() {
                self.discard_sequences(server, ctx);
            } else {
                ctx.plan.insert(|out| FrontendWriter(out).bare(frontend::FLUSH));
            }
            return Err(Step::Blocked(Want::Server));
        }
        if self.shows_audit(message.body(), server) && server.ledger.is_empty() {
            self.hide_audit(server, ctx);
            ctx.plan.insert(|out| FrontendWriter(out).bare(frontend::SYNC));
            server.owe_hidden_cycle(Owed::HiddenSync);
            return Err(Step::Blocked(Want::Server));
        }
        server.touch(&reading, self.id);
        match self.tracking.refuses(reading.effects) {
            Some(reason) => Err(self.refuse_query(reason, message, server, ctx)),
            None => Ok(()),
        }
    }

    /// What a text may do.
    pub(crate) fn read(&self, text: &[u8], whole: bool, ctx: &mut Ctx<'_>) -> Reading {
        let text = text.strip_suffix(&[0]).unwrap_or(text);
        let suspects = match ctx.catalog {
            Catalog::Known(suspects) | Catalog::Outdated(suspects) => Some(suspects),
            Catalog::Unknown => None,
        };
        let mut reading = if whole { ctx.registry.readings.read(text, suspects) } else { Reading::default() };
        if !whole {
            reading.effects |= Effects::OPAQUE;
        }
        if reading.effects.contains(Effects::OPAQUE) {
            note_dotted(text, &mut reading);
        }
        if reading.effects.contains(Effects::PREPARE) && names_ours(text) {
            reading.effects |= Effects::OPAQUE;
        }
        reading.effects = self.judge(reading.effects, ctx);
        reading
    }

    fn judge(&self, effects: Effects, ctx: &Ctx<'_>) -> Effects {
        let effects = effects.with_unread();
        match self.tracking.audit {
            Audit::Suspects if matches!(ctx.catalog, Catalog::Known(_)) => effects,
            Audit::Suspects | Audit::Always => effects | Effects::SUSPECT,
            Audit::Never => effects.without(Effects::SUSPECT),
        }
    }

    /// A named statement is bound.
    pub(crate) fn note_bound(&self, statement: &Statement, server: &mut Server, ctx: &mut Ctx<'_>) {
        server.last.set(statement.content());
        if !self.is_followed() {
            return;
        }
        match ctx.catalog {
            Catalog::Known(suspects) if suspects.is_silent() && self.tracking.audit == Audit::Suspects => {
                server.touch(statement.reading(), self.id);
            }
            _ => server.touch(&self.read(statement.text(), true, ctx), self.id),
        }
    }

    /// A Query that is not to run: PostgreSQL gets one that fails, and [`crate::Refusal::StateRefused`] takes the place of
    /// what it says.
    pub(crate) fn refuse_query(
        &mut self,
        reason: PinReason,
        message: Message<'_>,
        server: &mut Server,
        ctx: &mut Ctx<'_>,
    ) -> Step {
        let text = format!("EXECUTE \"{GUARD}{RESERVED_PREFIX}\"");
        ctx.plan.insert(|out| FrontendWriter(out).query(text.as_bytes()));
        server.owe(Owed::RefusedQuery(reason));
        self.count().refused += 1;
        self.discard(message)
    }

    /// The same for a Parse.
    pub(crate) fn refuse_state(
        &mut self,
        reason: PinReason,
        message: Message<'_>,
        server: &mut Server,
        ctx: &mut Ctx<'_>,
    ) -> Step {
        let name = format!("{GUARD}{RESERVED_PREFIX}");
        ctx.plan.insert(|out| FrontendWriter(out).describe_statement(name.as_bytes()));
        server.owe(Owed::RefusedParse(reason));
        self.count().refused += 1;
        self.discard(message)
    }
}

/// A row of an answer to [`Suspects::QUERY`] or [`Suspects::WRITTEN`]: kind, name, source.
pub type CatalogRow = [Box<[u8]>; 3];

/// Such rows, as far as they have come; `None` after an error.
pub(crate) type CatalogRows = Option<Vec<CatalogRow>>;

impl Server {
    /// Appends a question about what the database has that can change a session's state, [`Suspects::QUERY`] or
    /// [`Suspects::WRITTEN`]; the answer comes through [`Server::handle_alone`].
    pub fn write_catalog_query(&mut self, question: &'static str, out: &mut Vec<u8>) {
        FrontendWriter(out).query(question.as_bytes());
        self.owe_hidden_cycle(Owed::HiddenQuery);
        self.unnamed = None;
        self.catalog_rows = Some(Some(Vec::new()));
    }

    /// The answer, when it is in; `None` if the question failed.
    pub fn take_catalog(&mut self) -> Option<Vec<CatalogRow>> {
        self.catalog_rows.take()?
    }

    pub(crate) fn take_catalog_row(&mut self, body: &[u8]) {
        let Some(Some(rows)) = &mut self.catalog_rows else { return };
        let columns = DataRow::new(body).columns().ok();
        match columns.as_deref() {
            Some(&[kind, name, source]) => rows.push([kind, name, source].map(|c| c.unwrap_or_default().into())),
            _ => self.catalog_rows = Some(None),
        }
    }

    /// Has a command since this was asked last made, or may have made, a function, trigger or view?
    pub fn take_catalog_changed(&mut self) -> bool {
        std::mem::take(&mut self.catalog_changed)
    }

    /// Its client sends what may do this.
    pub(crate) fn touch(&mut self, reading: &Reading, session: u64) {
        self.touched |= reading.effects;
        self.note_sequences(reading.effects, session);
        if self.pins.contains(Effects::OPAQUE) {
            // What an audit could not find out is asked again.
            self.touched |= Effects::OPAQUE;
        }
        let asked = Effects::ANYTHING | Effects::SETTINGS;
        if !reading.custom.is_empty() && reading.effects.intersects(asked) {
            self.custom.extend(reading.custom.iter().cloned());
        }
    }
}

/// Bytes of a statement that are kept for the console.
const LAST_TEXT_MAX: usize = 128;

/// The front of a statement.
#[derive(Clone, Copy)]
pub(crate) struct LastText {
    bytes: [u8; LAST_TEXT_MAX],
    len: usize,
}

impl Default for LastText {
    fn default() -> Self {
        Self { bytes: [0; LAST_TEXT_MAX], len: 0 }
    }
}

impl LastText {
    pub(crate) fn set(&mut self, text: &[u8]) {
        self.len = text.len().min(LAST_TEXT_MAX);
        self.bytes[..self.len].copy_from_slice(&text[..self.len]);
    }
}

impl fmt::Display for LastText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.bytes[..self.len].split(|&b| b == 0).next().unwrap_or_default();
        f.write_str(&String::from_utf8_lossy(text))
    }
}

impl fmt::Debug for LastText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_string())
    }
}

/// A text that nobody can read may make settings of the names in it: words with dots between them.
fn note_dotted(text: &[u8], reading: &mut Reading) {
    let is_word = |b: &u8| b.is_ascii_alphanumeric() || !b.is_ascii() || matches!(b, b'_' | b'.' | b'$');
    for word in text
        .split(|b| !is_word(b))
        .filter(|word| word.contains(&b'.') && word.first().is_some_and(|b| !b.is_ascii_digit()))
    {
        let name = String::from_utf8_lossy(word).trim_matches('.').to_ascii_lowercase();
        let known = reading.custom.len() >= pgsluice_sql::CUSTOM_MAX || reading.custom.iter().any(|c| **c == *name);
        if !known && name.contains('.') && name.len() <= DOTTED_MAX {
            reading.custom.push(name.into());
        }
    }
}

/// Longest name of a setting that is looked for in a text that nobody can read, in bytes.
const DOTTED_MAX: usize = 127;

/// Does a text name a statement as we call it on a server?
fn names_ours(text: &[u8]) -> bool {
    text.windows(RESERVED_PREFIX.len()).any(|part| part.eq_ignore_ascii_case(RESERVED_PREFIX.as_bytes()))
}

/// Can the command of this tag have made a function, trigger, view or the like, or changed one?
pub(crate) fn changes_catalog(tag: &[u8]) -> bool {
    const HARMLESS: [&[u8]; 7] =
        [b"INDEX", b"SEQUENCE", b"ROLE", b"DATABASE", b"STATISTICS", b"PUBLICATION", b"TABLESPACE"];
    let created = tag.strip_prefix(b"CREATE ");
    created.is_some_and(|what| !HARMLESS.contains(&what))
        || tag.starts_with(b"ALTER ")
        || tag == b"DO"
        || tag == b"CALL"
}
