//! The commands that bring a server's session to a client's settings: a transaction block, which fails or succeeds as a
//! whole.
//!
//! That it is a block is the point: if a command of it fails, the block is left failed, and PostgreSQL refuses everything
//! but the block's end. So a client's message may be sent right behind it, without waiting for its answer, if nothing in
//! that message can end a block: it runs under its client's settings, or not at all.
//!
//! [`BEGIN`] is a Query of its own, and all else, with the COMMIT, another. In one Query, a cancel request or a time limit
//! that comes in front of BEGIN (`exec_simple_query` looks for that once all of the text is parsed) would leave no block
//! at all, and the client's message would run under another's settings. Like this, BEGIN that fails leaves a second Query
//! that takes effect as a whole all the same, as any Query does.

use pgsluice_sql::may_end_transaction;
use pgsluice_wire::{Bind, tag::frontend};

use crate::Ctx;
use crate::error::Violation;
use crate::frontend::{Session, Want};
use crate::message::{Message, Step};
use crate::server::{Guard, Server};
use crate::settings::Settings;

/// `set_config` calls in one SELECT; PostgreSQL takes 1,664 columns (`MaxTupleAttributeNumber`).
const CALLS_MAX: usize = 500;

/// Settings that decide who may set others, and so come last, in this order.
const LAST: [&str; 2] = ["session_authorization", "role"];

/// How a server's session is before it is brought to a client's settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Before {
    /// As after its login.
    Fresh,
    /// Settings other than the roles were changed.
    Set,
    /// Anything may have been changed.
    Unknown,
}

impl Before {
    /// Of a server that was last brought to these settings.
    pub(crate) fn of(settings: &Settings) -> Self {
        match settings {
            none if none.is_empty() => Self::Fresh,
            roles if LAST.iter().any(|name| roles.get(name).is_some()) => Self::Unknown,
            _ => Self::Set,
        }
    }
}

/// The text of the first Query.
pub(crate) const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED NOT DEFERRABLE";

/// The text of the second.
pub(crate) fn text(before: Before, to: &Settings) -> String {
    let mut text = String::from(match before {
        Before::Fresh => "",
        Before::Set => "RESET ALL;",
        Before::Unknown => "SET SESSION AUTHORIZATION DEFAULT;RESET ALL;",
    });
    let last = LAST.iter().filter_map(|name| to.get(name).map(|value| (*name, value)));
    let sets: Vec<_> = to.iter().filter(|(name, _)| !LAST.contains(name)).chain(last).collect();
    for part in sets.chunks(CALLS_MAX) {
        let calls: Vec<_> = part.iter().map(|(name, value)| call(name, value)).collect();
        text.push_str(&format!("SELECT {};", calls.join(",")));
    }
    text.push_str("COMMIT");
    text
}

impl Session {
    /// A message behind a replay that may fail: one that cannot end the failed block goes out, the others wait.
    pub(crate) fn forward_guarded(
        &mut self,
        message: Message<'_>,
        server: &mut Server,
        ctx: &mut Ctx<'_>,
    ) -> Result<Step, Violation> {
        let tag = message.known_tag()?;
        let harmless = match tag {
            frontend::QUERY | frontend::PARSE => message.missing() == 0 && !may_end_transaction(message.body()),
            frontend::BIND => Bind::read(message.body()).is_some_and(|bind| match self.named(bind.statement) {
                Some(named) => !named.statement.may_end_transaction(),
                None => bind.statement.is_empty() && !may_end_transaction(&self.unnamed.content),
            }),
            frontend::EXECUTE => self.forgetful.is_empty(),
            _ => true,
        };
        if !harmless {
            return Ok(Step::Blocked(Want::Server));
        }
        let step = self.forward(message, server, ctx)?;
        let ends = matches!(tag, frontend::QUERY | frontend::SYNC | frontend::FUNCTION_CALL);
        if ends && matches!(step, Step::Taken) {
            server.guard = Guard::Used;
        }
        Ok(step)
    }
}

fn call(name: &str, value: &str) -> String {
    format!("pg_catalog.set_config({},{},false)", literal(name), literal(value))
}

/// A text as an expression. Between quotes there are only bytes that are themselves in every encoding, whatever
/// `standard_conforming_strings` and `backslash_quote` are: no quote, no backslash, nothing that is not ASCII. All else
/// travels as hexadecimal digits, and in the database's encoding, as a startup message's values do.
fn literal(text: &str) -> String {
    let plain = |b: u8| matches!(b, b' '..=b'~') && b != b'\'' && b != b'\\';
    if text.bytes().all(plain) {
        return format!("'{text}'");
    }
    let hex: String = text.bytes().map(|byte| format!("{byte:02x}")).collect();
    format!("pg_catalog.convert_from(pg_catalog.decode('{hex}','hex'),pg_catalog.getdatabaseencoding())")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replay_is_one_block() {
        let to = Settings::default().with("role", "r").with("app.x", "it's").with("TimeZone", "UTC");
        let expected = "SELECT pg_catalog.set_config('app.x',pg_catalog.convert_from(pg_catalog.decode('69742773','hex'),\
             pg_catalog.getdatabaseencoding()),false),pg_catalog.set_config('timezone','UTC',false),\
             pg_catalog.set_config('role','r',false);COMMIT";
        assert_eq!(text(Before::Fresh, &to), expected);
        assert_eq!(Before::of(&to), Before::Unknown, "a role is not reset by RESET ALL");
        let (none, some) = (Settings::default(), Settings::default().with("x", "y"));
        assert_eq!([Before::of(&none), Before::of(&some)], [Before::Fresh, Before::Set]);
        assert_eq!(text(Before::Set, &none), "RESET ALL;COMMIT");
        assert_eq!(text(Before::Unknown, &none), "SET SESSION AUTHORIZATION DEFAULT;RESET ALL;COMMIT");
    }

    #[test]
    fn nothing_but_plain_bytes_stands_between_quotes() {
        for text in ["'", "\\", "a'; DROP TABLE t; --", "\u{e9}", "\n", "\0", ""] {
            let literal = literal(text);
            assert!(literal.split('\'').nth(1).unwrap().bytes().all(|b| b.is_ascii_hexdigit()), "{literal}");
        }
        assert_eq!(literal("\"$user\", public"), "'\"$user\", public'");
    }
}
