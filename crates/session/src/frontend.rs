//! What a client sends after login, and where each span of it goes.

use std::sync::Arc;

use pgsluice_sql::Effects;
use pgsluice_wire::{
    BackendWriter, FrontendWriter, Head, Severity, Target, TxStatus,
    tag::{backend, frontend},
};

use crate::Ctx;
use crate::deallocate::{Forgetful, mentions_forgetting};
use crate::error::{Refusal, Violation};
use crate::ledger::Owed;
use crate::listen::Listening;
use crate::message::{Message, NAMES_MAX, Step};
use crate::params::Params;
use crate::replay::{self, Before};
use crate::server::{Guard, NOBODYS, Server};
use crate::settings::{Settings, same};
use crate::statement::{GUARD, Names, RESERVED_PREFIX, Registry, Statement};
use crate::tracking::{StateCounts, Tracking};
use crate::unnamed::Unnamed;

/// For how long a client keeps its server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// Until it leaves.
    Session,
    /// Until its transaction ends.
    Transaction,
    /// Until its statement ends; transaction blocks are refused.
    Statement,
}

/// What the session wants before it can take more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// More bytes from the client.
    More,
    /// A server.
    Checkout,
    /// Progress on the server's side first.
    Server,
    /// The plan carried out first, and the server to have taken it: there is more input to look at.
    Room,
    /// To be closed: the client said Terminate.
    Close,
}

/// How far [`Session::handle_client`] came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of the input done with.
    pub consumed: usize,
    /// What is next.
    pub want: Want,
}

/// What becomes of client messages while no server would see them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    Normal,
    /// We refused a server: the message it was wanted for was answered, and is still to come.
    SkipNext,
    /// The error was sent; everything up to Sync gets no answer.
    SkipToSync,
}

/// What becomes of the rest of a message whose front was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Forward,
    /// Forward, and keep a copy: an unnamed statement.
    Keep,
    Discard,
}

/// One client's session after login.
#[derive(Debug)]
pub struct Session {
    pub(crate) id: u64,
    pub(crate) pooling: Pooling,
    /// Named statements are ours to place if this is over 0: statements per server.
    pub(crate) max_prepared: usize,
    pub(crate) flow: Flow,
    /// What was sent may forget statements and settings: nothing goes out behind it until it is known to.
    pub(crate) hold: bool,
    /// The client's portals that do so when they are executed.
    pub(crate) forgetful: Vec<Forgetful>,
    pub(crate) rest: (usize, Fate),
    pub(crate) names: Names,
    pub(crate) unnamed: Unnamed,
    pub(crate) settings: Arc<Settings>,
    /// What DISCARD ALL returns to: the startup message's.
    pub(crate) base: Arc<Settings>,
    pub(crate) tracking: Tracking,
    /// A replay failed: the next ones are waited for.
    pub(crate) is_careful: bool,
    /// Transactions for which it keeps its server yet, see [`crate::sequence`].
    pub(crate) lease: u32,
    /// It may have called `nextval` before.
    pub(crate) called_nextval: bool,
    /// Reasons for a pin that its client has been warned of.
    pub(crate) warned: Effects,
    /// What happened since it was asked last.
    pub(crate) counts: Option<Box<StateCounts>>,
    /// What it was told of parameters when it was let in, and by now; `None` if it was told nothing.
    pub(crate) told: Option<(Arc<Params>, Arc<Params>)>,
    /// Channels that it listens to.
    pub(crate) listening: Option<Box<Listening>>,
    /// Marks that it has sent, see [`crate::listen`]; and whether the hub is to be told of the last one.
    pub(crate) marks: u64,
    pub(crate) mark_due: bool,
    /// A hub that listens for it need not any more.
    pub(crate) left_hub: bool,
    /// It is in a batch that was answered without a server so far.
    pub(crate) in_batch: bool,
}

impl Session {
    /// A session that has just logged in. `id` is unique in the process; `max_prepared` is `max_prepared_statements`,
    /// 0 to pass named statements on as they are; `base` is what the startup message set.
    pub fn new(id: u64, pooling: Pooling, max_prepared: usize, base: Arc<Settings>) -> Self {
        let max_prepared = if pooling == Pooling::Session { 0 } else { max_prepared };
        Self {
            id,
            pooling,
            max_prepared,
            flow: Flow::Normal,
            hold: false,
            forgetful: Vec::new(),
            rest: (0, Fate::Discard),
            names: Names::default(),
            unnamed: Unnamed::default(),
            settings: base.clone(),
            told: None,
            listening: None,
            marks: 0,
            mark_due: false,
            left_hub: false,
            in_batch: false,
            tracking: Tracking::OFF,
            is_careful: false,
            lease: 0,
            called_nextval: false,
            warned: Effects::default(),
            counts: None,
            base,
        }
    }

    /// Follows the state of its session as closely as this says.
    #[must_use]
    pub fn with_tracking(mut self, tracking: Tracking) -> Self {
        self.tracking = tracking;
        self
    }

    /// Is its state read back from its servers?
    pub(crate) fn is_followed(&self) -> bool {
        self.tracking.is_on() && self.pooling != Pooling::Session
    }

    /// The settings it lives under.
    pub fn settings(&self) -> &Arc<Settings> {
        &self.settings
    }

    /// Named statements it has.
    pub fn statement_count(&self) -> usize {
        self.names.len()
    }

    /// It ends: statements that it alone has are forgotten.
    pub fn end(&mut self, registry: &mut Registry) {
        std::mem::take(&mut self.names).into_values().for_each(|statement| registry.release(statement));
    }

    /// How it is pooled.
    pub fn pooling(&self) -> Pooling {
        self.pooling
    }

    /// Has it sent a part of a message only?
    pub fn is_mid_message(&self) -> bool {
        self.rest.0 > 0 && self.rest.1 != Fate::Discard
    }

    /// May the server go back to the pool?
    pub fn can_release(&self, server: &Server) -> bool {
        self.pooling != Pooling::Session
            && server.is_quiet()
            && !server.is_pinned()
            && !self.wants_audit(server)
            && !self.is_mid_message()
    }

    /// Did the client open a transaction block where it may not?
    pub fn breaks_statement_pooling(&self, server: &Server) -> bool {
        self.pooling == Pooling::Statement && server.ready && server.tx != TxStatus::Idle
    }

    /// Appends what brings a server to the client's settings. Until the server has answered (see
    /// [`Server::is_replaying`]) the session takes nothing from its client, but for one command or batch that cannot run if
    /// the replay fails; see `replay.rs`.
    pub fn replay(&mut self, server: &mut Server, out: &mut Vec<u8>) {
        let stained = server.stain.is_some_and(|by| by != self.id);
        if !stained && same(&server.settings, &self.settings) {
            server.settings = self.settings.clone();
            return;
        }
        let before = if stained { Before::Unknown } else { Before::of(&server.settings) };
        // A time limit that is still in force could end the replay itself.
        let hasty = stained
            || ["statement_timeout", "transaction_timeout"].iter().any(|name| server.settings.get(name).is_some());
        FrontendWriter(out).query(replay::BEGIN.as_bytes());
        server.owe_hidden_cycle(Owed::HiddenBegin);
        FrontendWriter(out).query(replay::text(before, &self.settings).as_bytes());
        server.owe_hidden_cycle(Owed::HiddenQuery);
        server.guard = if hasty || self.is_careful { Guard::Shut } else { Guard::Open };
        self.count().replays += 1;
        server.stain = None;
        server.unnamed = Some(NOBODYS);
        server.settings = self.settings.clone();
    }

    /// Is a replay due on this server?
    fn needs_replay(&self, server: &Server) -> bool {
        !Arc::ptr_eq(&server.settings, &self.settings) || server.stain.is_some_and(|by| by != self.id)
    }

    /// Reads what the client sent; `server` is its server, if it has one. The verdict goes to `ctx.plan`: pieces for the
    /// server, and a reply for the client.
    ///
    /// # Errors
    /// [`Violation`] when the client broke the protocol. What the plan holds by then is still good.
    pub fn handle_client(
        &mut self,
        mut server: Option<&mut Server>,
        input: &[u8],
        ctx: &mut Ctx<'_>,
    ) -> Result<Progress, Violation> {
        if let Some(server) = server.as_deref_mut() {
            self.settle_listening(server);
            if self.is_switching() {
                return Ok(Progress { consumed: 0, want: Want::Server });
            }
            if server.reset && !self.base.is_empty() && self.wants_audit(server) {
                // What was reset is not what the client has at first, until that is replayed.
                let Ctx { plan, registry, catalog, .. } = ctx;
                plan.insert(|out| self.write_audit(server, *catalog, registry, out));
            }
            if server.ready && self.needs_replay(server) && self.rest.0 == 0 {
                ctx.plan.insert(|out| self.replay(server, out));
            }
            if server.is_replaying() && server.guard != Guard::Open {
                return Ok(Progress { consumed: 0, want: Want::Server });
            }
            if server.ready && self.rest.0 == 0 && !input.is_empty() {
                self.tell_news(server, ctx);
            }
        }
        let mut at = self.take_rest(input, ctx);
        loop {
            let head = match Head::read(&input[at..]) {
                Ok(Some(head)) => head,
                Ok(None) => return Ok(Progress { consumed: at, want: Want::More }),
                Err(bad) => return end_in_turn(bad.into(), at, server.as_deref(), ctx),
            };
            if ctx.plan.is_full() {
                return Ok(Progress { consumed: at, want: Want::Room });
            }
            let message = Message { head, at, end: (at + head.total()).min(input.len()), input };
            let step = match server.as_deref_mut() {
                _ if head.tag == frontend::TERMINATE => return Ok(Progress { consumed: at, want: Want::Close }),
                _ if self.flow != Flow::Normal => self.skip(message, ctx),
                Some(server) if self.must_return(message, server, ctx) => {
                    if server.is_quiet() {
                        ctx.plan.insert(|out| self.write_return(server, out));
                    }
                    Ok(Step::Blocked(Want::Server))
                }
                Some(server) if server.guard == Guard::Open => self.forward_guarded(message, server, ctx),
                Some(server) if server.is_replaying() => Ok(Step::Blocked(Want::Server)),
                Some(server) => self.forward(message, server, ctx),
                None => self.answer_alone(message, ctx),
            };
            match step {
                Ok(Step::Taken) => at = message.end,
                Ok(Step::Blocked(want)) => return Ok(Progress { consumed: at, want }),
                Err(violation) => return end_in_turn(violation, at, server.as_deref(), ctx),
            }
        }
    }

    /// Reads what its server sent. Returns the bytes consumed; what is left is part of a message to be read whole.
    ///
    /// # Errors
    /// [`Violation`] when the server sent what it does not owe.
    pub fn handle_server(&mut self, server: &mut Server, input: &[u8], ctx: &mut Ctx<'_>) -> Result<usize, Violation> {
        server.handle_input(Some(self), input, ctx)
    }

    /// No server for the message that wants one: it is answered with an error, and the session goes on.
    pub fn handle_refusal(&mut self, refusal: &Refusal, reply: &mut Vec<u8>) {
        refusal.write(Severity::Error, reply);
        self.flow = Flow::SkipNext;
    }

    /// A replay failed: the next ones are waited for.
    pub fn be_careful(&mut self) {
        self.is_careful = true;
        self.count().replay_failures += 1;
    }

    pub(crate) fn count(&mut self) -> &mut StateCounts {
        self.counts.get_or_insert_default()
    }

    /// What happened since this was asked last; `None` if nothing did.
    #[inline]
    pub fn take_counts(&mut self) -> Option<Box<StateCounts>> {
        self.counts.take()
    }

    /// Has the client to wait until it is known what DISCARD ALL or DEALLOCATE did?
    fn holds(&mut self, server: &Server) -> bool {
        self.hold &= !server.copying_in && !server.ledger.is_empty();
        self.hold
    }

    /// The client's name means another statement now.
    pub(crate) fn rename(&mut self, name: Arc<[u8]>, statement: Arc<Statement>) {
        self.names.insert(name, statement);
    }

    /// What the server calls the statement that an error for `owed` may name, and what its client does.
    pub(crate) fn error_names(&self, owed: &Owed) -> Option<(String, Arc<[u8]>)> {
        match owed {
            Owed::Bind(Some(named)) | Owed::DescribeStatement(Some(named)) | Owed::ParseTaken { old: named, .. } => {
                Some((named.statement.server_name().to_owned(), named.name.clone()))
            }
            Owed::Deallocate { name, statement, .. } => {
                Some((statement.server_name().to_owned(), name.as_slice().into()))
            }
            Owed::Bind(None) | Owed::DescribeStatement(None) if self.max_prepared > 0 => {
                Some((format!("{GUARD}{RESERVED_PREFIX}"), RESERVED_PREFIX.as_bytes().into()))
            }
            _ => None,
        }
    }

    pub(crate) fn forget_name(&mut self, name: &[u8]) {
        self.names.remove(name);
    }

    /// DISCARD ALL (`everything`) or DEALLOCATE ALL ran: with the first, the settings are the startup message's again.
    pub(crate) fn forget_statements(&mut self, everything: bool) {
        self.names.clear();
        if everything {
            self.settings = self.base.clone();
        }
    }

    fn take_rest(&mut self, input: &[u8], ctx: &mut Ctx<'_>) -> usize {
        let (left, fate) = self.rest;
        let n = left.min(input.len());
        if fate != Fate::Discard {
            ctx.plan.forward(0..n);
        }
        if fate == Fate::Keep {
            self.keep_unnamed(&input[..n]);
        }
        self.rest.0 -= n;
        n
    }

    /// Everything is dropped until the client is where our error left it.
    fn skip(&mut self, message: Message<'_>, ctx: &mut Ctx<'_>) -> Result<Step, Violation> {
        let tag = message.known_tag()?;
        let next = self.flow == Flow::SkipNext;
        match tag {
            frontend::SYNC => self.end_skip(ctx),
            frontend::QUERY | frontend::FUNCTION_CALL if next => self.end_skip(ctx),
            frontend::COPY_DATA | frontend::COPY_DONE | frontend::COPY_FAIL | frontend::FLUSH => {}
            _ => self.flow = Flow::SkipToSync,
        }
        Ok(self.discard(message))
    }

    fn end_skip(&mut self, ctx: &mut Ctx<'_>) {
        BackendWriter(&mut ctx.plan.reply).ready(TxStatus::Idle);
        self.flow = Flow::Normal;
        self.in_batch = false;
    }

    pub(crate) fn discard(&mut self, message: Message<'_>) -> Step {
        self.rest = (message.missing(), Fate::Discard);
        Step::Taken
    }

    pub(crate) fn pass(&mut self, message: Message<'_>, ctx: &mut Ctx<'_>) -> Step {
        ctx.plan.forward(message.span());
        self.rest = (message.missing(), Fate::Forward);
        Step::Taken
    }

    /// What a whole message is about cannot be read: PostgreSQL cannot read it either, and says what is wrong.
    pub(crate) fn pass_malformed(&mut self, message: Message<'_>, server: &mut Server, ctx: &mut Ctx<'_>) -> Step {
        server.owe(Owed::Malformed);
        self.pass(message, ctx)
    }

    /// No server: the few messages that need none are answered here.
    fn answer_alone(&mut self, message: Message<'_>, ctx: &mut Ctx<'_>) -> Result<Step, Violation> {
        let tag = message.known_tag()?;
        match tag {
            frontend::COPY_DATA | frontend::COPY_DONE | frontend::COPY_FAIL => Ok(self.discard(message)),
            // With a body it is an error, and PostgreSQL's.
            frontend::SYNC | frontend::FLUSH if message.head.body_len > 0 => Ok(Step::Blocked(Want::Checkout)),
            frontend::SYNC if self.max_prepared > 0 => {
                BackendWriter(&mut ctx.plan.reply).ready(TxStatus::Idle);
                self.in_batch = false;
                Ok(self.discard(message))
            }
            frontend::FLUSH => Ok(self.discard(message)),
            frontend::CLOSE if self.max_prepared > 0 => {
                let Some(body) = message.whole(NAMES_MAX, "Close")? else { return Ok(Step::Blocked(Want::More)) };
                match Target::read(body, "Close") {
                    Ok(Target::Statement(b"")) => self.unnamed.forget(),
                    Ok(Target::Statement(name)) => drop(self.names.remove(name)),
                    Ok(Target::Portal(_)) => {}
                    Err(_) => return Ok(Step::Blocked(Want::Checkout)),
                }
                BackendWriter(&mut ctx.plan.reply).bare(backend::CLOSE_COMPLETE);
                self.in_batch = true;
                Ok(Step::Taken)
            }
            _ => Ok(Step::Blocked(Want::Checkout)),
        }
    }

    pub(crate) fn forward(
        &mut self,
        message: Message<'_>,
        server: &mut Server,
        ctx: &mut Ctx<'_>,
    ) -> Result<Step, Violation> {
        let tag = match message.known_tag() {
            // PostgreSQL has its own last words for what it finds in a COPY.
            Err(Violation::UnknownFrontend(_)) if server.copying_in => return Ok(self.pass(message, ctx)),
            tag => tag?,
        };
        if self.holds(server) {
            return Ok(Step::Blocked(Want::Server));
        }
        if server.ledger.is_full() || (concerns_statements(tag) && !server.ledger.is_settled() && !server.copying_in) {
            // What it answered may sit in its buffer: make it say so.
            ctx.plan.insert(|out| FrontendWriter(out).bare(frontend::FLUSH));
            return Ok(Step::Blocked(Want::Server));
        }
        if server.ledger.is_skipping() && tag != frontend::SYNC {
            return Ok(self.discard(message));
        }
        // Behind a message that has no place in it, whatever is answered comes after a COPY that has failed.
        let in_copy = server.copying_in && server.ledger.len() == 1;
        match tag {
            frontend::QUERY => {
                if message.is_hardly_begun() {
                    return Ok(Step::Blocked(Want::More));
                }
                if let Err(step) = self.note_query(message, server, ctx) {
                    return Ok(step);
                }
                self.hold =
                    self.sets_back(message.body()) || (!self.names.is_empty() && mentions_forgetting(message.body()));
                // A COPY does not wait for what has no place in it.
                let deallocated = if server.copying_in { None } else { self.deallocated(&message) };
                if message.is_unterminated() {
                    // PostgreSQL refuses it before it forgets the unnamed statement.
                    server.owe(Owed::Query(None));
                    return Ok(self.pass(message, ctx));
                }
                if server.ledger.is_in_batch() && server.major_version() >= 18 {
                    // It loses count of its transaction when a Query comes before the Sync of other messages: the
                    // next command there can fail, whosever it is.
                    server.fails_next = true;
                    server.set_close_needed();
                }
                let replaced = self.unnamed.replace(server);
                // Nobody's, not none: a Query that PostgreSQL cannot read destroys nothing.
                server.unnamed = Some(NOBODYS);
                if let Some((name, statement)) = deallocated {
                    return Ok(self.deallocate(name, statement, replaced, server, ctx));
                }
                server.owe(Owed::Query(replaced));
            }
            frontend::EXECUTE if self.forgetful.is_empty() => server.owe(Owed::Execute),
            frontend::EXECUTE => return self.execute_forgetful(message, server, ctx),
            frontend::SYNC if in_copy => {
                server.copy_syncs += 1;
                server.copy_synced = true;
            }
            frontend::SYNC if server.leftover.is_some() => return Ok(self.sync_and_tidy(message, server, ctx)),
            frontend::SYNC => server.owe(Owed::Sync),
            frontend::FUNCTION_CALL => {
                if self.is_followed() {
                    server.touched |= Effects::OPAQUE;
                    server.note_sequences(Effects::OPAQUE, self.id);
                }
                server.owe(Owed::FunctionCall);
            }
            frontend::COPY_DATA if in_copy => server.copy_syncs = 0,
            frontend::COPY_DATA => server.ledger.push(Owed::CopyData),
            frontend::COPY_DONE | frontend::COPY_FAIL if in_copy => server.copying_in = false,
            frontend::COPY_DONE | frontend::COPY_FAIL => server.ledger.push(Owed::CopyEnd),
            frontend::PARSE => return self.parse(message, server, ctx),
            frontend::BIND => return self.bind(message, server, ctx),
            frontend::DESCRIBE => return self.describe(message, server, ctx),
            frontend::CLOSE => return self.close(message, server, ctx),
            frontend::FLUSH => {
                ctx.plan.flush_due = true;
                // A COPY does not look into it.
                if message.head.body_len > 0 && !server.copying_in {
                    server.owe(Owed::Malformed);
                }
            }
            _ => {}
        }
        Ok(self.pass(message, ctx))
    }

    fn parse(&mut self, message: Message<'_>, server: &mut Server, ctx: &mut Ctx<'_>) -> Result<Step, Violation> {
        match message.body().first() {
            _ if message.is_hardly_begun() => Ok(Step::Blocked(Want::More)),
            Some(0) => {
                if self.is_followed() {
                    let text = message.body()[1..].split(|&b| b == 0).next().unwrap_or_default();
                    server.last.set(text);
                    let reading = self.read(text, message.missing() == 0, ctx);
                    if let Some(reason) = self.tracking.refuses(reading.effects) {
                        return Ok(self.refuse_state(reason, message, server, ctx));
                    }
                    (self.unnamed.reading, self.unnamed.is_unread) = (reading, false);
                    if self.shows_audit(text, server) {
                        self.hide_audit(server, ctx);
                    }
                }
                Ok(self.parse_unnamed(message, server, ctx))
            }
            _ if self.max_prepared == 0 => {
                // What it may do is not read: see where it is bound.
                server.owe(Owed::ParsePassed);
                Ok(self.pass(message, ctx))
            }
            _ => self.parse_named(message, server, ctx),
        }
    }
}

/// The client broke the protocol. It is told when all that it asked before has been answered.
fn end_in_turn(
    violation: Violation,
    at: usize,
    server: Option<&Server>,
    ctx: &mut Ctx<'_>,
) -> Result<Progress, Violation> {
    if server.is_none_or(|server| server.ledger.is_empty() || server.copying_in) {
        return Err(violation);
    }
    ctx.plan.insert(|out| FrontendWriter(out).bare(frontend::FLUSH));
    Ok(Progress { consumed: at, want: Want::Server })
}

/// Does what this message does depend on which statements there are, or change it?
fn concerns_statements(tag: u8) -> bool {
    matches!(tag, frontend::PARSE | frontend::BIND | frontend::DESCRIBE | frontend::CLOSE | frontend::QUERY)
}
