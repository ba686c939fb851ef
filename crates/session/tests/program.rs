//! What the clients of these tests do: operations, their bytes, and what a model PostgreSQL of a client's own makes of
//! them. It knows nothing of how they were thought up: that is for properties and fuzz targets.

use pgsluice_session::Settings;
use pgsluice_wire::TxStatus;

use crate::model::text::parameters;
use crate::model::{Model, frontend as f};
use crate::world::messages;

/// Texts of statements; the model knows what they do.
pub(crate) const TEXTS: [&str; 16] = [
    "select 0",
    "select 1",
    "select 3",
    "",
    "begin",
    "commit",
    "rollback",
    "error",
    "bad syntax",
    "set TimeZone Europe/Rome",
    "set TimeZone UTC",
    "set application_name app",
    "show TimeZone",
    "copy in",
    "copy out",
    "do $1",
];

/// What only a simple Query is asked here: commands whose effect on what was sent behind them is not followed.
pub(crate) const LISTS: [&str; 16] = [
    "begin; select 1",
    "begin; error; select 1",
    "select 1; set TimeZone Mars; error",
    "select 1; copy in; select 2; copy in; select 3",
    "copy in; bad",
    "listen x",
    "prepare q or replace",
    "declare c with hold or replace",
    "set work_mem 7",
    "discard all",
    "deallocate all",
    "deallocate a",
    "deallocate b;",
    "; ;",
    "begin; set TimeZone Pluto; commit; error",
    "select 2; begin; commit; select 1",
];

/// One message of a client, or a few that belong together.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    Parse(&'static str, &'static str),
    Bind(&'static str, &'static str, usize),
    Describe(char, &'static str),
    Execute(&'static str, u32),
    Close(char, &'static str),
    Sync,
    Flush,
    Query(&'static str),
    FunctionCall(u32),
    CopyData,
    CopyDone,
    CopyFail,
}

impl Op {
    fn bytes(&self) -> Vec<u8> {
        match *self {
            Op::Parse(name, text) => f::parse(name, text),
            Op::Bind(portal, name, values) => f::bind(portal, name, &["value"; 3][..values]),
            Op::Describe(kind, name) => f::describe(kind, name),
            Op::Execute(portal, limit) => f::execute(portal, limit),
            Op::Close(kind, name) => f::close(kind, name),
            Op::Sync => f::bare(b'S'),
            Op::Flush => f::bare(b'H'),
            Op::Query(text) => f::query(text),
            Op::FunctionCall(oid) => f::function_call(oid),
            Op::CopyData => f::copy_data("line\n"),
            Op::CopyDone => f::bare(b'c'),
            Op::CopyFail => f::copy_fail("no more"),
        }
    }

    /// The one known difference: in a failed transaction, what needs a statement that is not on this server gets the
    /// error for the transaction where PostgreSQL has something else to say first (or nothing against it).
    fn is_odd(&self, model: &Model) -> bool {
        let text = |name| model.statement_text(name);
        model.tx() == TxStatus::Failed
            && match self {
                Op::Parse(name, "commit" | "rollback" | "bad syntax") => !name.is_empty() && text(name).is_some(),
                Op::Describe('S', name) => text(name).is_some(),
                Op::Bind(_, name, values) => text(name).is_some_and(|t| parameters(t) != *values),
                _ => false,
            }
    }

    /// Does the server read on after this in the middle of a COPY FROM STDIN?
    fn is_fit_for_copy(&self) -> bool {
        matches!(self, Op::Sync | Op::Flush | Op::CopyData | Op::CopyDone | Op::CopyFail)
    }
}

/// The program run on a server of the client's own: its messages, and what the server answers. Messages that would make
/// the server hang up are left out, and the program is brought to an end at which nothing is owed.
pub(crate) fn direct(program: &[Op], base: &Settings) -> (Vec<u8>, Vec<u8>) {
    let settings: Vec<_> = base.iter().collect();
    let mut model = Model::new(&settings);
    let mut script = Vec::new();
    let tail = [Op::CopyDone, Op::CopyDone, Op::CopyDone, Op::Sync, Op::Query("rollback")];
    for op in program.iter().chain(&tail) {
        if (!model.is_copying_in() || op.is_fit_for_copy()) && !op.is_odd(&model) {
            let bytes = op.bytes();
            model.feed(&bytes);
            script.extend(bytes);
        }
    }
    assert!(!model.is_closed());
    (script, model.out)
}

pub(crate) fn shown(bytes: &[u8]) -> String {
    messages(bytes).iter().map(|(tag, body)| format!("\n  {} {}", *tag as char, body.escape_ascii())).collect()
}

/// The answers a client may see from us when its server dies or is refused: whole messages, and per error a
/// ReadyForQuery or the end.
pub(crate) fn check_hurt(seen: &[u8], closed: bool) {
    let messages = messages(seen);
    let fatal = |body: &[u8]| body.starts_with(b"SFATAL\0");
    let ends = messages.iter().position(|(tag, body)| *tag == b'E' && fatal(body));
    if let Some(at) = ends {
        assert_eq!(at + 1, messages.len(), "nothing follows FATAL");
        assert!(closed);
    } else if !closed {
        assert_eq!(messages.last().map(|(tag, _)| *tag), Some(b'Z'), "the last word is ReadyForQuery");
    }
}
