//! `DEALLOCATE name` in a simple Query: names of the extended protocol and of SQL are one namespace in PostgreSQL, and
//! the client's names are ours to translate. Nothing else of SQL is read here.

use std::sync::Arc;

use pgsluice_wire::{BackendWriter, FrontendWriter, TxStatus, tag::frontend};

use crate::Ctx;
use crate::frontend::{Session, Want};
use crate::ledger::Owed;
use crate::message::{Message, Step};
use crate::server::Server;
use crate::statement::Statement;

/// A Close of the unnamed portal.
const CLOSE_UNNAMED_PORTAL: [u8; 7] = *b"C\0\0\0\x06P\0";

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

    /// The server does not have it: once it is known in which state the transaction is, the answer is ours, unless
    /// PostgreSQL has to refuse it. (A Parse in front of the Query would not do: if that failed, the Query would be
    /// skipped.)
    pub(crate) fn deallocate_alone(&mut self, name: &[u8], server: &mut Server, ctx: &mut Ctx<'_>) -> Option<Step> {
        if !server.ledger.is_empty() {
            ctx.plan.insert(|out| FrontendWriter(out).bare(frontend::FLUSH));
            return Some(Step::Blocked(Want::Server));
        }
        if server.tx == TxStatus::Failed {
            return None;
        }
        self.forget_name(name);
        self.unnamed.forget();
        BackendWriter(&mut ctx.plan.reply).command_complete("DEALLOCATE");
        // A Query closes the unnamed portal, and ends what was begun without a Sync; ReadyForQuery is the server's to give.
        ctx.plan.insert(|out| {
            out.extend(CLOSE_UNNAMED_PORTAL);
            FrontendWriter(out).bare(frontend::SYNC);
        });
        server.owe(Owed::HiddenClose(None));
        server.owe(Owed::Sync);
        Some(Step::Taken)
    }

    /// It is told with the server's name.
    pub(crate) fn deallocate(
        &mut self,
        name: Vec<u8>,
        statement: Arc<Statement>,
        replaced: Option<Vec<u8>>,
        server: &mut Server,
        ctx: &mut Ctx<'_>,
    ) -> Step {
        let text = format!("DEALLOCATE \"{}\"", statement.server_name());
        ctx.plan.insert(|out| FrontendWriter(out).query(text.as_bytes()));
        server.owe(Owed::Deallocate { name, statement, replaced });
        Step::Taken
    }
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
