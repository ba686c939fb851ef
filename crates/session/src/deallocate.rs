//! `DEALLOCATE name`: names of the extended protocol and of SQL are one namespace in PostgreSQL, and the client's names are
//! ours to translate. Nothing else of SQL is read here.

use std::sync::Arc;

use pgsluice_wire::{Bind, FrontendWriter, tag::frontend};

use crate::Ctx;
use crate::error::Violation;
use crate::frontend::{Session, Want};
use crate::ledger::{Named, Owed};
use crate::message::{Message, NAMES_MAX, Step};
use crate::server::Server;
use crate::statement::{STAND_IN, Statement};

/// Portals of a transaction that are known to forget statements, see `docs/limits.md`.
const FORGETFUL_MAX: usize = 64;

/// A portal of a statement that forgets statements.
#[derive(Debug)]
pub(crate) struct Forgetful {
    portal: Box<[u8]>,
    /// The one name that it deallocates, if it is that.
    name: Option<Vec<u8>>,
}

impl Session {
    /// The name of ours that a simple Query is one DEALLOCATE of.
    pub(crate) fn deallocated(&self, message: &Message<'_>) -> Option<(Vec<u8>, Arc<Statement>)> {
        if self.names.is_empty() || message.missing() > 0 {
            return None;
        }
        let name = name(message.body().strip_suffix(&[0])?)?;
        let statement = self.names.get(name.as_slice())?.clone();
        Some((name, statement))
    }

    /// It is told with the server's name. If the server does not have it, something takes its place first.
    pub(crate) fn deallocate(
        &mut self,
        name: Vec<u8>,
        statement: Arc<Statement>,
        replaced: Option<Vec<u8>>,
        server: &mut Server,
        ctx: &mut Ctx<'_>,
    ) -> Step {
        if !server.prepared.touch(statement.id()) {
            server.stand_in(&statement, self.max_prepared, ctx);
        }
        let text = format!("DEALLOCATE \"{}\"", statement.server_name());
        ctx.plan.insert(|out| FrontendWriter(out).query(text.as_bytes()));
        server.owe(Owed::Deallocate { name, statement, replaced });
        Step::Taken
    }

    /// Does what is sent behind this text depend on it? RESET brings back what the startup message set, which the server
    /// does not know.
    pub(crate) fn sets_back(&self, text: &[u8]) -> bool {
        forgets(text) || (!self.base.is_empty() && self.is_followed() && begins(text, b"reset"))
    }

    /// A portal is bound anew: is its statement one that forgets statements when it is executed?
    pub(crate) fn note_portal(&mut self, bind: Bind<'_>, named: Option<&Named>, server: &Server) {
        if server.is_quiet() {
            self.forgetful.clear();
        }
        self.forgetful.retain(|known| *known.portal != *bind.portal);
        let content = match named {
            Some(named) => named.statement.content(),
            None if bind.statement.is_empty() => &self.unnamed.content,
            None => return,
        };
        if self.sets_back(content) && self.forgetful.len() < FORGETFUL_MAX {
            let text = content.split(|&b| b == 0).next().unwrap_or_default();
            self.forgetful.push(Forgetful { portal: bind.portal.into(), name: name(text) });
        }
    }

    /// An Execute while there are portals that forget statements. If it is of one that deallocates a name of the client's,
    /// the server gets a statement of that name first, for PostgreSQL to find.
    pub(crate) fn execute_forgetful(
        &mut self,
        message: Message<'_>,
        server: &mut Server,
        ctx: &mut Ctx<'_>,
    ) -> Result<Step, Violation> {
        let Some(body) = message.whole(NAMES_MAX, "Execute")? else { return Ok(Step::Blocked(Want::More)) };
        let portal = body.split(|&b| b == 0).next().unwrap_or_default();
        let Some(known) = self.forgetful.iter().find(|known| *known.portal == *portal) else {
            server.owe(Owed::Execute);
            return Ok(self.pass(message, ctx));
        };
        if !server.ledger.is_empty() && !server.copying_in {
            ctx.plan.insert(|out| FrontendWriter(out).bare(frontend::FLUSH));
            return Ok(Step::Blocked(Want::Server));
        }
        let ours = |name: &&Vec<u8>| self.names.contains_key(name.as_slice());
        match known.name.as_ref().filter(ours) {
            Some(name) => {
                ctx.plan.insert(|out| {
                    FrontendWriter(out).close_statement(name);
                    FrontendWriter(out).parse_content(name, STAND_IN);
                });
                server.owe(Owed::HiddenClose(None));
                server.owe(Owed::HiddenParse(None));
                server.owe(Owed::ExecuteDeallocate { name: name.clone() });
            }
            None => server.owe(Owed::Execute),
        }
        self.hold = true;
        let step = self.pass(message, ctx);
        ctx.plan.insert(|out| FrontendWriter(out).bare(frontend::FLUSH));
        Ok(step)
    }

    /// The Sync behind an Execute that failed to deallocate: what was made for it is closed before it is found.
    pub(crate) fn sync_and_tidy(&mut self, message: Message<'_>, server: &mut Server, ctx: &mut Ctx<'_>) -> Step {
        server.owe(Owed::Sync);
        let step = self.pass(message, ctx);
        if let Some(name) = server.leftover.take() {
            ctx.plan.insert(|out| {
                FrontendWriter(out).close_statement(&name);
                FrontendWriter(out).bare(frontend::SYNC);
            });
            server.owe(Owed::HiddenClose(None));
            server.owe_hidden_cycle(Owed::HiddenSync);
        }
        step
    }
}

/// Does this SQL, as far as it has come, begin like DISCARD ALL or DEALLOCATE ALL? Only what is sent without waiting for
/// its answer depends on this; what it did is told by its command tag.
pub(crate) fn forgets(text: &[u8]) -> bool {
    begins(text, b"discard") || begins(text, b"deallocate")
}

fn begins(text: &[u8], word: &[u8]) -> bool {
    text.trim_ascii_start().get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word))
}

/// Does it forget statements anywhere in this SQL, comments and literals included?
pub(crate) fn mentions_forgetting(text: &[u8]) -> bool {
    let is = |at: &[u8], word: &[u8]| at.get(..word.len()).is_some_and(|front| front.eq_ignore_ascii_case(word));
    let mut starts = (0..text.len()).filter(|&at| text[at] | 0x20 == b'd').map(|at| &text[at..]);
    starts.any(|at| is(at, b"deallocate") || is(at, b"discard"))
}

/// The name that the text deallocates, if it is one DEALLOCATE of one name and nothing else.
///
/// Source: manual, "DEALLOCATE"; identifiers as in "Identifiers and Key Words".
pub(crate) fn name(text: &[u8]) -> Option<Vec<u8>> {
    if !text.trim_ascii_start().first().is_some_and(|b| b.eq_ignore_ascii_case(&b'd')) {
        return None;
    }
    let rest = keyword(text.trim_ascii(), b"deallocate")?;
    let rest = keyword(rest, b"prepare").unwrap_or(rest);
    let (name, rest) = identifier(rest)?;
    let rest = rest.trim_ascii_start();
    let rest = rest.strip_prefix(b";").unwrap_or(rest).trim_ascii();
    (rest.is_empty() && name != b"all").then_some(name)
}

/// What follows a keyword and white space.
fn keyword<'a>(text: &'a [u8], word: &[u8]) -> Option<&'a [u8]> {
    let (front, rest) = text.split_at_checked(word.len())?;
    let separated = rest.first().is_some_and(|b| b.is_ascii_whitespace() || *b == b'"');
    (front.eq_ignore_ascii_case(word) && separated).then(|| rest.trim_ascii_start())
}

fn identifier(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let Some(mut rest) = text.strip_prefix(b"\"") else {
        let plain = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'$') || *b >= 0x80;
        let len = text.iter().position(|b| !plain(b)).unwrap_or(text.len());
        return (len > 0).then(|| (text[..len].to_ascii_lowercase(), &text[len..]));
    };
    let mut name = Vec::new();
    loop {
        let end = rest.iter().position(|&b| b == b'"')?;
        name.extend(&rest[..end]);
        rest = &rest[end + 1..];
        match rest.strip_prefix(b"\"") {
            Some(more) => {
                name.push(b'"');
                rest = more;
            }
            None => return Some((name, rest)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::name;

    #[test]
    fn one_name_and_nothing_else() {
        let is = |text: &str, expected: &str| {
            assert_eq!(name(text.as_bytes()).as_deref(), Some(expected.as_bytes()), "{text}")
        };
        is("DEALLOCATE a", "a");
        is(" deallocate PREPARE Ab1 ; ", "ab1");
        is("deallocate \"A\"\"b\";", "A\"b");
        is("deallocate prepare\"x\"", "x");
        is("deallocate prepare", "prepare");
        for other in
            ["deallocate all", "deallocate a; select 1", "select 1", "deallocate", "dealloc a", "deallocate \"a", ""]
        {
            assert_eq!(name(other.as_bytes()), None, "{other}");
        }
    }
}
