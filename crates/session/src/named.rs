//! Messages that name a statement: Parse, Bind, Describe and Close, with the client's names told as the server has them.

use std::sync::Arc;

use pgsluice_sql::Effects;
use pgsluice_wire::{Bind, FrontendWriter, HEAD_LEN, Parse, Target, TxStatus, tag::frontend};

use crate::Ctx;
use crate::error::Violation;
use crate::frontend::{Fate, Session, Want};
use crate::ledger::{Named, Owed};
use crate::message::{Message, NAMES_MAX, Step};
use crate::server::Server;
use crate::statement::{GUARD, RESERVED_PREFIX, Statement, is_fetch};

/// Longest Parse of a named statement, in bytes. It is read whole, as its content is its identity, and so can take three
/// times its length for a while: as it was read, as it is kept, and on its way to a server that is slow to take it.
const PARSE_MAX: usize = 4 << 20;
impl Session {
    pub(crate) fn parse_named(
        &mut self,
        message: Message<'_>,
        server: &mut Server,
        ctx: &mut Ctx<'_>,
    ) -> Result<Step, Violation> {
        if message.head.total() > PARSE_MAX {
            return Ok(self.refuse_parse(message, server, ctx));
        }
        let Some(body) = message.whole(PARSE_MAX, "Parse")? else { return Ok(Step::Blocked(Want::More)) };
        let Ok(parse) = Parse::read(body) else { return Ok(self.pass_malformed(message, server, ctx)) };
        if server.ledger.has_ready_ahead() && !server.copying_in {
            // Whether PostgreSQL would take it depends on the transaction's state by then, and DISCARD ALL may be ahead.
            return Ok(Step::Blocked(Want::Server));
        }
        if self.is_followed()
            && let Some(reason) = self.tracking.refuses(self.read(text_of(parse.content), true, ctx).effects)
        {
            return Ok(self.refuse_state(reason, message, server, ctx));
        }
        ctx.counters.client_parses += 1;
        let statement = self.intern(parse.content, server, ctx);
        if let Some(old) = self.named(parse.name) {
            server.ensure_taken(&old.statement, self.max_prepared, ctx);
            write_parse(&old.statement, &message, parse.content.len(), ctx);
            server.owe(Owed::ParseTaken { old, statement });
            return Ok(Step::Taken);
        }
        let name = ctx.registry.intern_name(parse.name);
        self.names.insert(name.clone(), statement.clone());
        if server.tx == TxStatus::Failed {
            // It is PostgreSQL's to say that it takes none now, so it has to be asked.
            server.prepared.spoil(statement.id());
        }
        if server.prepared.touch(statement.id()) && (server.ledger.is_in_batch() || server.copying_in) {
            // A Parse does more than prepare: it makes visible what ran before it (`CommandCounterIncrement` in
            // `exec_parse_message`), begins a transaction, and has no place in a COPY.
            let again = guard(RESERVED_PREFIX.as_bytes());
            write_parse_as(&again, &message, parse.content.len(), ctx);
            server.owe(Owed::ParseAgain { name });
            ctx.plan.insert(|out| FrontendWriter(out).close_statement(&again));
            server.owe(Owed::HiddenCloseAgain);
            return Ok(Step::Taken);
        }
        if server.prepared.touch(statement.id()) {
            server.owe(Owed::OwnParseComplete { name });
            server.settle_reply(ctx.plan);
            return Ok(Step::Taken);
        }
        server.make_room(&statement, self.max_prepared, ctx.plan);
        write_parse(&statement, &message, parse.content.len(), ctx);
        ctx.counters.server_parses += 1;
        server.owe(Owed::Parse { name, statement });
        Ok(Step::Taken)
    }

    /// The statement that a Parse of the client's is about.
    fn intern(&self, content: &[u8], server: &Server, ctx: &mut Ctx<'_>) -> Arc<Statement> {
        let own = Effects::TEMP | Effects::PREPARE | Effects::CURSOR;
        // What these return was settled when they were prepared, by what the name meant then. PostgreSQL crashes when a FETCH
        // that was prepared returns rows of a cursor that is gone (`UtilityTupleDescriptor`).
        if is_fetch(content) || pgsluice_sql::read(text_of(content), None).effects.contains(Effects::PREPARE) {
            return ctx.registry.make(content, &self.settings);
        }
        if self.is_followed() && (server.pins | server.touched).intersects(own) {
            return ctx.registry.intern_for(self.id, content, &self.settings);
        }
        ctx.registry.intern(content, &self.settings)
    }

    /// It is too long to be kept. The error is for PostgreSQL to raise, in its turn and with all that follows from one: it
    /// is asked for a statement that it cannot have, and [`crate::Refusal::StatementTooLong`] takes the place of what it says.
    pub(crate) fn refuse_parse(&mut self, message: Message<'_>, server: &mut Server, ctx: &mut Ctx<'_>) -> Step {
        ctx.plan.insert(|out| FrontendWriter(out).describe_statement(&guard(RESERVED_PREFIX.as_bytes())));
        server.owe(Owed::ParseTooLong { max: PARSE_MAX });
        self.discard(message)
    }

    pub(crate) fn bind(
        &mut self,
        message: Message<'_>,
        server: &mut Server,
        ctx: &mut Ctx<'_>,
    ) -> Result<Step, Violation> {
        let Some(bind) = Bind::read(message.body()) else {
            return match message.missing() {
                0 => Ok(self.pass_malformed(message, server, ctx)),
                _ => message.more_names("Bind"),
            };
        };
        if bind.statement.is_empty() {
            self.ensure_unnamed(server, ctx);
        }
        let named = self.named(bind.statement);
        if let Some(Named { statement, .. }) = &named
            && let Some(step) = self.ensure_shape(statement, message, server, ctx)
        {
            return Ok(step);
        }
        if self.is_followed() {
            self.read_unnamed(ctx);
            if named.as_ref().is_some_and(|named| self.shows_audit(named.statement.text(), server)) {
                self.hide_audit(server, ctx);
            }
            let effects =
                named.as_ref().map_or(self.unnamed.reading.effects, |named| named.statement.reading().effects);
            if self.has_foreign_sequences(effects, server, ctx.counters) {
                self.discard_sequences_in_batch(server, ctx);
            }
        }
        match &named {
            Some(Named { statement, .. }) => self.note_bound(statement, server, ctx),
            None if self.is_followed() && bind.statement.is_empty() => server.touch(&self.unnamed.reading, self.id),
            // It was prepared by SQL, or is the server's business alone.
            None if self.is_followed() => server.touched |= Effects::OPAQUE,
            None => {}
        }
        ctx.counters.binds += 1;
        server.bound = named.as_ref().filter(|_| bind.portal.is_empty()).map(|named| named.statement.clone());
        self.note_portal(bind, named.as_ref(), server);
        let guarded;
        let server_name = match &named {
            Some(Named { statement, .. }) => {
                server.ensure_prepared(statement, self.max_prepared, ctx);
                statement.server_name().as_bytes()
            }
            None if self.is_reserved(bind.statement) => {
                guarded = guard(bind.statement);
                &guarded
            }
            None => {
                server.owe(Owed::Bind(None));
                return Ok(self.pass(message, ctx));
            }
        };
        let names_end = message.at + HEAD_LEN + bind.names_len();
        let tail_len = message.at + message.head.total() - names_end;
        ctx.plan.insert(|out| FrontendWriter(out).bind_front(bind.portal, server_name, tail_len));
        server.owe(Owed::Bind(named));
        ctx.plan.forward(names_end..message.end);
        self.rest = (message.missing(), Fate::Forward);
        Ok(Step::Taken)
    }

    /// The statement a client's name means.
    pub(crate) fn named(&self, name: &[u8]) -> Option<Named> {
        let (name, statement) = self.names.get_key_value(name)?;
        Some(Named { name: name.clone(), statement: statement.clone() })
    }

    /// Could this name, which the client has given to nothing, be one of ours on the server?
    pub(crate) fn is_reserved(&self, name: &[u8]) -> bool {
        self.max_prepared > 0 && name.starts_with(RESERVED_PREFIX.as_bytes())
    }

    pub(crate) fn describe(
        &mut self,
        message: Message<'_>,
        server: &mut Server,
        ctx: &mut Ctx<'_>,
    ) -> Result<Step, Violation> {
        let Some(body) = message.whole(NAMES_MAX, "Describe")? else { return Ok(Step::Blocked(Want::More)) };
        let name = match Target::read(body, "Describe") {
            Ok(Target::Portal(portal)) => {
                let bound = server.bound.clone().filter(|_| portal.is_empty());
                server.owe(Owed::DescribePortal(bound));
                return Ok(self.pass(message, ctx));
            }
            Ok(Target::Statement(name)) => name,
            Err(_) => return Ok(self.pass_malformed(message, server, ctx)),
        };
        if name.is_empty() {
            self.ensure_unnamed(server, ctx);
        }
        let named = self.named(name);
        if let Some(Named { statement, .. }) = &named {
            if let Some(step) = self.ensure_shape(statement, message, server, ctx) {
                return Ok(step);
            }
            server.ensure_prepared(statement, self.max_prepared, ctx);
            ctx.plan.insert(|out| FrontendWriter(out).describe_statement(statement.server_name().as_bytes()));
        } else if self.is_reserved(name) {
            ctx.plan.insert(|out| FrontendWriter(out).describe_statement(&guard(name)));
        } else {
            self.pass(message, ctx);
        }
        server.owe(Owed::DescribeStatement(named));
        Ok(Step::Taken)
    }

    pub(crate) fn close(
        &mut self,
        message: Message<'_>,
        server: &mut Server,
        ctx: &mut Ctx<'_>,
    ) -> Result<Step, Violation> {
        let Some(body) = message.whole(NAMES_MAX, "Close")? else { return Ok(Step::Blocked(Want::More)) };
        let Ok(target) = Target::read(body, "Close") else { return Ok(self.pass_malformed(message, server, ctx)) };
        let known = match target {
            Target::Statement(b"") => {
                let replaced = self.unnamed.replace(server);
                server.unnamed = None;
                server.owe(Owed::CloseUnnamed(replaced));
                return Ok(self.pass(message, ctx));
            }
            Target::Statement(name) => self.names.remove_entry(name),
            Target::Portal(_) => None,
        };
        let Some((name, statement)) = known else {
            server.owe(Owed::Close(None));
            return Ok(match target {
                Target::Statement(name) if self.is_reserved(name) => {
                    ctx.plan.insert(|out| FrontendWriter(out).close_statement(&guard(name)));
                    Step::Taken
                }
                _ => self.pass(message, ctx),
            });
        };
        if server.ledger.is_empty() {
            server.owe(Owed::OwnCloseComplete { name, statement });
            server.settle_reply(ctx.plan);
        } else {
            // What is owed may turn out to be a COPY, where a Close is an error of PostgreSQL's.
            ctx.plan.insert(|out| FrontendWriter(out).close_statement(&guard(RESERVED_PREFIX.as_bytes())));
            server.owe(Owed::Close(Some(Named { name, statement })));
        }
        Ok(Step::Taken)
    }
}

/// The text in front of the parameter types.
pub(crate) fn text_of(content: &[u8]) -> &[u8] {
    content.split(|&b| b == 0).next().unwrap_or_default()
}

/// A name that no statement on a server has; [`Session::error_names`] takes the guard away again.
fn guard(name: &[u8]) -> Vec<u8> {
    [GUARD.as_bytes(), name].concat()
}

/// A Parse under the server's name for `named`, with the content as it came.
fn write_parse(named: &Statement, message: &Message<'_>, content_len: usize, ctx: &mut Ctx<'_>) {
    write_parse_as(named.server_name().as_bytes(), message, content_len, ctx);
}

fn write_parse_as(name: &[u8], message: &Message<'_>, content_len: usize, ctx: &mut Ctx<'_>) {
    let len = 4 + name.len() + 1 + content_len;
    ctx.plan.insert(|out| {
        out.push(frontend::PARSE);
        out.extend(u32::try_from(len).expect("checked against PARSE_MAX").to_be_bytes());
        out.extend(name);
        out.push(0);
    });
    ctx.plan.forward(message.end - content_len..message.end);
}
