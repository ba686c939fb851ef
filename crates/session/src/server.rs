//! A server connection after login: what it owes, in which state its session is, and the proof that it may be lent.
//!
//! Only [`Server::release`] makes an [`IdleServer`]: ReadyForQuery outside a transaction was the last word, nothing is
//! owed, no cancel request is under way, nothing of the last client's is left that we know of. [`Server::clean`] says
//! what to send to get there.

use std::sync::Arc;

use pgsluice_sql::Effects;
use pgsluice_wire::{FrontendWriter, TxStatus, tag::frontend};

use crate::audit::Pending;
use crate::follow::{CatalogRows, LastText};
use crate::ledger::{Ledger, Owed};
use crate::params::Params;
use crate::plan::Plan;
use crate::sequence::Sequences;
use crate::settings::Settings;
use crate::statement::{Prepared, Registry, STAND_IN, Statement};
use crate::tracking::PinReason;
use crate::{Catalog, Counters, Ctx, Violation};

/// What a cancel request has to present for a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CancelKey {
    /// Process id of the backend.
    pub pid: u32,
    /// Its secret.
    pub secret: Box<[u8]>,
}

/// What to run so that nothing of these is left; `None` if that is nothing. A library cannot be unloaded.
fn remedy(residue: Effects) -> Option<String> {
    let parts = [
        (Effects::SETTINGS, "SET SESSION AUTHORIZATION DEFAULT;RESET ALL"),
        (Effects::CURSOR, "CLOSE ALL"),
        (Effects::LISTEN, "UNLISTEN *"),
        (Effects::PREPARE, "DEALLOCATE ALL"),
        (Effects::TEMP, "DISCARD TEMP"),
        (Effects::ADVISORY, "SELECT pg_catalog.pg_advisory_unlock_all()"),
        (Effects::SEQUENCE, "DISCARD SEQUENCES"),
    ];
    let wanted: Vec<_> = parts.iter().filter(|(part, _)| residue.contains(*part)).map(|(_, sql)| *sql).collect();
    (!wanted.is_empty()).then(|| wanted.join(";"))
}

/// May a client's message be sent behind a replay whose answer is not in?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Guard {
    /// No: it waits, if anything is under way.
    Shut,
    /// One command or batch may, if it cannot end a transaction block, see [`crate::replay`].
    Open,
    /// One was, and the next one waits.
    Used,
    /// The replay failed, and so will what was sent behind it.
    Failed,
}

/// What is left of a message whose head has been seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rest {
    pub(crate) left: usize,
    pub(crate) shown: bool,
}

/// In [`Server::unnamed`]: there is one, and it is no client's.
pub(crate) const NOBODYS: (u64, u64) = (u64::MAX, u64::MAX);

/// A server connection, see the module's documentation.
#[derive(Debug)]
pub struct Server {
    pub(crate) key: CancelKey,
    pub(crate) params: Arc<Params>,
    /// What its session was last brought to.
    pub(crate) settings: Arc<Settings>,
    pub(crate) prepared: Prepared,
    pub(crate) ledger: Ledger,
    pub(crate) tx: TxStatus,
    pub(crate) rest: Rest,
    /// ReadyForQuery was the last word of both sides.
    pub(crate) ready: bool,
    /// What its client's transaction may have changed in its session, and no audit has looked at.
    pub(crate) touched: Effects,
    /// Some of that was in a transaction whose end its client has been told.
    pub(crate) unheard: bool,
    /// A library was loaded, or something like it, in the transaction that ended.
    pub(crate) loaded: bool,
    /// Custom settings that it may have made.
    pub(crate) custom: Vec<Box<str>>,
    /// What keeps its client here.
    pub(crate) pins: Effects,
    /// What is to be removed before it goes to another client.
    pub(crate) residue: Effects,
    /// The audit under way.
    pub(crate) audit: Option<Box<Pending>>,
    /// Has it the audit's statement?
    pub(crate) has_audit: bool,
    /// It may fail the next command, whatever that is (PostgreSQL 18).
    pub(crate) fails_next: bool,
    /// The session that may have made settings here whose names nobody knows.
    pub(crate) stain: Option<u64>,
    /// Parameters when it was quiet last.
    pub(crate) quiet_params: Arc<Params>,
    /// Whom it was logged in as, if it said so.
    pub(crate) login_user: Option<Box<str>>,
    pub(crate) guard: Guard,
    /// Whose values of sequences it may have.
    pub(crate) sequences: Sequences,
    /// It was in the transaction that has not ended yet.
    pub(crate) leasable: bool,
    /// The answer to [`Server::write_catalog_query`], while it is awaited.
    pub(crate) catalog_rows: Option<CatalogRows>,
    /// See [`Server::take_catalog_changed`].
    pub(crate) catalog_changed: bool,
    /// Bodies of the notifications that came, where it is a hub's.
    pub(crate) heard: Option<Vec<Box<[u8]>>>,
    /// The front of the client's last statement.
    pub(crate) last: LastText,
    /// Whose unnamed statement it holds, session and generation; `None` if it certainly holds none.
    pub(crate) unnamed: Option<(u64, u64)>,
    /// A statement of ours that is left under a client's name: it goes with the next Sync.
    pub(crate) leftover: Option<Vec<u8>>,
    pub(crate) copying_in: bool,
    /// Syncs since the last CopyData. The COPY ignores them, unless that data has made it fail already.
    pub(crate) copy_syncs: usize,
    /// There were any in the COPY at all.
    pub(crate) copy_synced: bool,
    /// DISCARD ALL ran in the cycle that has not ended yet.
    pub(crate) discarded: bool,
    /// And a SET after it.
    pub(crate) set_since_discard: bool,
    /// RESET or DISCARD ALL ran since its session was looked at last: what is not set is the client's own default.
    pub(crate) reset: bool,
    /// Parameters when it had just logged in.
    pub(crate) login_params: Arc<Params>,
    close_needed: bool,
    /// Body of the FATAL report it sent before it goes.
    pub(crate) last_words: Option<Box<[u8]>>,
    /// Body of an error that a message of ours, not the client's, met.
    pub(crate) own_error: Option<Box<[u8]>>,
    /// The named statement bound to the unnamed portal, if that was the last Bind.
    pub(crate) bound: Option<Arc<Statement>>,
    /// A Describe of ours is under way that the client's messages have to wait for.
    pub(crate) checking: bool,
    /// The statement whose rows that found changed.
    pub(crate) changed: Option<u64>,
    /// What the last client had set could not be reset.
    pub(crate) reset_failed: bool,
    /// ReadyForQuery messages owed to us alone.
    pub(crate) hidden_cycles: usize,
    cancels: u32,
    /// A cancel request may have come late: the next query could be hit.
    cancel_shadow: bool,
}

/// What to do next with a server that has no client.
#[derive(Debug, PartialEq, Eq)]
pub enum Cleanup {
    /// Send what was written, if anything, and feed what it answers.
    Wait,
    /// [`Server::release`] will succeed.
    Done,
    /// It cannot be made clean: close it.
    Hopeless,
}

impl Server {
    /// A server that has just sent its first ReadyForQuery.
    pub fn new(key: CancelKey, params: Params) -> Self {
        let login_user = params.get("session_authorization").map(Into::into);
        let params = Arc::new(params);
        Self {
            key,
            quiet_params: params.clone(),
            login_params: params.clone(),
            params,
            touched: Effects::default(),
            unheard: false,
            loaded: false,
            custom: Vec::new(),
            pins: Effects::default(),
            audit: None,
            has_audit: false,
            fails_next: false,
            stain: None,
            login_user,
            guard: Guard::Shut,
            sequences: Sequences::default(),
            leasable: false,
            catalog_rows: None,
            catalog_changed: false,
            heard: None,
            last: LastText::default(),
            settings: Arc::default(),
            prepared: Prepared::new(),
            ledger: Ledger::default(),
            tx: TxStatus::Idle,
            rest: Rest::default(),
            ready: true,
            residue: Effects::default(),
            unnamed: None,
            leftover: None,
            copying_in: false,
            copy_syncs: 0,
            copy_synced: false,
            discarded: false,
            set_since_discard: false,
            reset: false,
            close_needed: false,
            last_words: None,
            own_error: None,
            bound: None,
            checking: false,
            changed: None,
            reset_failed: false,
            hidden_cycles: 0,
            cancels: 0,
            cancel_shadow: false,
        }
    }

    /// What cancels its query.
    pub fn cancel_key(&self) -> &CancelKey {
        &self.key
    }

    /// Parameters as last reported.
    pub fn params(&self) -> &Arc<Params> {
        &self.params
    }

    /// The major version that it reported, 0 if it did not.
    pub(crate) fn major_version(&self) -> u32 {
        let version = self.params.get("server_version").unwrap_or_default();
        version.split(|c: char| !c.is_ascii_digit()).next().and_then(|major| major.parse().ok()).unwrap_or(0)
    }

    /// The settings its session was last brought to.
    pub fn settings(&self) -> &Arc<Settings> {
        &self.settings
    }

    /// Statements prepared on it for clients.
    pub fn prepared_count(&self) -> usize {
        self.prepared.len()
    }

    /// Transaction status of the last ReadyForQuery.
    pub fn tx(&self) -> TxStatus {
        self.tx
    }

    /// Was ReadyForQuery the last word of both sides?
    pub fn is_ready(&self) -> bool {
        self.ready
    }

    /// Has its client been sent a part of a message only?
    pub fn is_mid_reply(&self) -> bool {
        self.rest.left > 0 && self.rest.shown
    }

    /// Whatever it was brought to did not go well: all of it is reset before it is lent again.
    pub fn distrust_settings(&mut self) {
        self.residue |= Effects::SETTINGS;
    }

    /// Does it owe any answer?
    pub fn owes(&self) -> bool {
        !self.ledger.is_empty()
    }

    /// Is a message of ours under way that the client's have to wait for?
    pub fn is_replaying(&self) -> bool {
        self.hidden_cycles > 0
    }

    /// Will it say ReadyForQuery without being told anything more?
    pub fn will_be_ready(&self) -> bool {
        self.ledger.has_ready_ahead() && !self.copying_in
    }

    /// Body of the FATAL report it sent, if it did.
    pub fn last_words(&self) -> Option<&[u8]> {
        self.last_words.as_deref()
    }

    /// Body of the error that our own commands met, once.
    pub fn take_own_error(&mut self) -> Option<Box<[u8]>> {
        self.own_error.take()
    }

    /// Could it not be rid of what its last client had set? Then it is of no use to this one.
    pub fn take_reset_failed(&mut self) -> bool {
        std::mem::take(&mut self.reset_failed)
    }

    /// A replay failed that the client's messages had been sent behind: they fail, too, and there is no telling the answers
    /// apart any more.
    pub fn is_replay_lost(&self) -> bool {
        self.guard == Guard::Failed
    }

    /// Did it not take its client's settings? What it says after that, a notification perhaps, is not for this client, who is
    /// to be told of it first.
    pub(crate) fn is_refused(&self) -> bool {
        let failed = self.own_error.is_some() || self.reset_failed;
        self.is_replay_lost() || (failed && !self.is_replaying())
    }

    /// It shall not be lent again.
    pub fn set_close_needed(&mut self) {
        self.close_needed = true;
    }

    /// Is it not to be lent again?
    pub fn is_close_needed(&self) -> bool {
        self.close_needed || self.last_words.is_some()
    }

    /// A cancel request for its query goes out.
    pub fn begin_cancel(&mut self) {
        self.cancels += 1;
        self.cancel_shadow = true;
    }

    /// PostgreSQL has closed the cancel request's connection.
    pub fn end_cancel(&mut self) {
        self.cancels = self.cancels.saturating_sub(1);
    }

    /// Cancel requests under way.
    pub fn cancels(&self) -> u32 {
        self.cancels
    }

    /// Can a cancel request hit what is sent to it next?
    pub(crate) fn is_in_cancels_way(&self) -> bool {
        self.cancels > 0 || self.cancel_shadow
    }

    /// Does nothing but [`Server::release`] stand between it and the next client?
    pub fn is_quiet(&self) -> bool {
        self.ready && self.tx == TxStatus::Idle && self.ledger.is_empty() && self.rest.left == 0
    }

    /// Must [`Server::clean`] run before it is lent again?
    pub fn needs_cleaning(&self) -> bool {
        let left = self.residue | self.pins | self.touched.parts();
        !left.is_empty() || self.audit.is_some() || self.cancels > 0 || self.cancel_shadow
    }

    /// The front of its client's last statement, for people to read.
    pub fn last_statement(&self) -> String {
        self.last.to_string()
    }

    /// Why its client cannot be without it.
    pub fn pins(&self) -> impl Iterator<Item = PinReason> + use<> {
        let pins = self.pins;
        PinReason::ALL.into_iter().filter(move |reason| pins.contains(reason.effect()))
    }

    /// Does anything keep its client here?
    pub fn is_pinned(&self) -> bool {
        !self.pins.is_empty()
    }

    /// The proof. Gives the server back when it is not to be had.
    ///
    /// # Errors
    /// The server itself, unchanged.
    pub fn release(self: Box<Self>) -> Result<IdleServer, Box<Self>> {
        if self.is_quiet() && !self.needs_cleaning() && !self.is_close_needed() && self.own_error.is_none() {
            Ok(IdleServer(self))
        } else {
            Err(self)
        }
    }

    /// The session that ends leaves more than tags can show: this query removes all of it (`server_reset_query`).
    pub fn write_reset(&mut self, reset_query: &str, out: &mut Vec<u8>) {
        if !reset_query.is_empty() {
            self.hidden_query(reset_query, out);
            self.settings = Arc::default();
            self.stain = None;
            self.pins = Effects::default();
            self.touched = Effects::default();
        }
    }

    /// The next step towards [`Server::release`] for a server whose client has gone: appends what to send.
    pub fn clean(&mut self, out: &mut Vec<u8>) -> Cleanup {
        if self.is_close_needed()
            || self.own_error.is_some()
            || self.loaded
            || (self.pins | self.residue).contains(Effects::LOAD)
        {
            return Cleanup::Hopeless;
        }
        self.guard = Guard::Shut;
        if self.rest.left > 0 {
            return Cleanup::Wait;
        }
        if self.copying_in {
            self.copying_in = false;
            FrontendWriter(out).copy_fail(b"client disconnected");
        }
        if self.ready && self.ledger.is_empty() {
            return self.clean_when_ready(out);
        }
        if !self.will_be_ready() {
            self.end_batch(out);
        }
        Cleanup::Wait
    }

    /// An error ends a COPY, if one is under way.
    pub(crate) fn fail_copy(&mut self) {
        if std::mem::take(&mut self.copy_synced) {
            // Did the COPY read the Sync, or was it behind the error? The answer to it, if there is one, is nobody's.
            self.set_close_needed();
        }
        if std::mem::take(&mut self.copying_in) && !self.ledger.is_empty() {
            self.ledger.fail_copy(self.copy_syncs);
        }
    }

    /// Ends what the client began and cannot end any more.
    fn end_batch(&mut self, out: &mut Vec<u8>) {
        if !self.ledger.is_empty() {
            // Whether it fails, or wants the data of a COPY, decides what can be said next.
            FrontendWriter(out).bare(frontend::FLUSH);
        } else if self.ledger.is_skipping() {
            FrontendWriter(out).bare(frontend::SYNC);
            self.owe_hidden_cycle(Owed::HiddenSync);
        } else {
            // A Sync would commit what the client has not: PostgreSQL rolls it back when a client vanishes.
            self.residue |= Effects::SETTINGS;
            self.hidden_query("ROLLBACK", out);
        }
    }

    fn clean_when_ready(&mut self, out: &mut Vec<u8>) -> Cleanup {
        if let Some(unheard) = self.audit.take() {
            self.residue |= unheard.scope();
        }
        let left = std::mem::take(&mut self.pins) | std::mem::take(&mut self.touched);
        self.residue |= left.parts() | (left & Effects::SEQUENCE);
        self.custom.clear();
        (self.reset, self.unheard) = (false, false);
        if self.tx != TxStatus::Idle {
            // What the transaction set goes with it, and the settings are what they were before: which is not known.
            self.residue |= Effects::SETTINGS;
            self.hidden_query("ROLLBACK", out);
        } else if self.cancels > 0 {
            // The proxy calls again when PostgreSQL has closed the cancel request.
        } else if let Some(remedy) = remedy(self.residue) {
            if std::mem::take(&mut self.residue).contains(Effects::SETTINGS) {
                self.settings = Arc::default();
                self.stain = None;
            }
            if remedy.contains("DISCARD SEQUENCES") {
                self.forget_sequences();
            }
            self.hidden_query(&remedy, out);
        } else if std::mem::take(&mut self.cancel_shadow) {
            self.hidden_query("", out);
        } else {
            return Cleanup::Done;
        }
        Cleanup::Wait
    }

    /// Reads what a server without a client sends; nothing of it is shown to anybody. Returns the bytes consumed.
    ///
    /// # Errors
    /// [`Violation`] when it sends what it does not owe.
    pub fn handle_alone(&mut self, input: &[u8], plan: &mut Plan) -> Result<usize, Violation> {
        let mut registry = Registry::new(0, 1);
        let mut counters = Counters::default();
        let ctx = &mut Ctx { registry: &mut registry, counters: &mut counters, catalog: Catalog::Unknown, plan };
        let taken = self.handle_input(None, input, ctx);
        ctx.plan.clear();
        // A late cancel may hit a cleaning command: it did what it was let loose for.
        taken
    }

    fn hidden_query(&mut self, text: &str, out: &mut Vec<u8>) {
        FrontendWriter(out).query(text.as_bytes());
        self.owe_hidden_cycle(Owed::HiddenQuery);
        self.unnamed = None;
    }

    pub(crate) fn owe_hidden_cycle(&mut self, owed: Owed) {
        self.hidden_cycles += 1;
        self.owe(owed);
    }

    /// Has it this statement, or must it be given it? Appends Close and Parse messages as needed.
    pub(crate) fn ensure_prepared(&mut self, statement: &Arc<Statement>, max: usize, ctx: &mut Ctx<'_>) {
        if !self.prepared.touch(statement.id()) {
            self.make_room(statement, max, ctx.plan);
            ctx.plan.insert(|out| {
                FrontendWriter(out).parse_content(statement.server_name().as_bytes(), statement.content());
            });
            ctx.counters.server_parses += 1;
            self.owe(Owed::HiddenParse(Some(statement.clone())));
        }
    }

    /// Is the name of this statement in use, for PostgreSQL to refuse it? In a failed transaction it takes only what ends
    /// that, which will do, and is not to be used for anything else.
    pub(crate) fn ensure_taken(&mut self, statement: &Arc<Statement>, max: usize, ctx: &mut Ctx<'_>) {
        if self.tx != TxStatus::Failed || self.prepared.touch(statement.id()) {
            return self.ensure_prepared(statement, max, ctx);
        }
        self.stand_in(statement, max, ctx);
    }

    /// Gives the name of a statement to another, which is there for its name only.
    pub(crate) fn stand_in(&mut self, statement: &Arc<Statement>, max: usize, ctx: &mut Ctx<'_>) {
        self.make_room(statement, max, ctx.plan);
        ctx.plan.insert(|out| FrontendWriter(out).parse_content(statement.server_name().as_bytes(), STAND_IN));
        self.owe(Owed::HiddenParse(Some(statement.clone())));
        self.prepared.spoil(statement.id());
    }

    /// Notes a statement as prepared, and closes what is stale or one too many.
    pub(crate) fn make_room(&mut self, statement: &Arc<Statement>, max: usize, plan: &mut Plan) {
        for stale in self.prepared.take_stale() {
            self.close_hidden(stale, plan);
        }
        while let Some(old) = self.prepared.pop_over(max.saturating_sub(1), statement.content().len()) {
            self.close_hidden(old, plan);
        }
        self.prepared.insert(statement.clone());
    }

    fn close_hidden(&mut self, statement: Arc<Statement>, plan: &mut Plan) {
        plan.insert(|out| FrontendWriter(out).close_statement(statement.server_name().as_bytes()));
        self.owe(Owed::HiddenClose(Some(statement)));
    }

    /// The server will answer something: it is not ready until it has.
    pub(crate) fn owe(&mut self, owed: Owed) {
        self.ready = false;
        self.ledger.push(owed);
    }
}

/// A server that may be lent to any client of its pool, proven by [`Server::release`].
#[derive(Debug)]
pub struct IdleServer(Box<Server>);

impl IdleServer {
    /// A server fresh from its login.
    pub fn fresh(server: Server) -> Self {
        Self(Box::new(server))
    }

    /// Moved to memory of this thread, so that what two of them write to does not share a line of the processor's caches.
    #[must_use]
    pub fn at_home(self) -> Self {
        Self(Box::new(*self.0))
    }

    /// Lends it.
    pub fn link(self) -> Box<Server> {
        self.0
    }

    /// What is known of it.
    pub fn server(&self) -> &Server {
        &self.0
    }

    /// It shall not be lent again.
    pub fn set_close_needed(&mut self) {
        self.0.close_needed = true;
    }

    /// Reads what an idle server sends of its own accord. `Ok(true)`: it is still fit to be lent.
    ///
    /// # Errors
    /// [`Violation`] when it sends what only a query can ask for.
    pub fn handle_alone(&mut self, input: &[u8], plan: &mut Plan) -> Result<bool, Violation> {
        let taken = self.0.handle_alone(input, plan)?;
        Ok(taken == input.len() && !self.0.is_close_needed() && self.0.is_quiet())
    }
}
