//! What the clients of these tests do: operations, their bytes, and what a model PostgreSQL of a client's own makes of
//! them. It knows nothing of how they were thought up: that is for properties and fuzz targets.

use pgsluice_session::Settings;
use pgsluice_wire::TxStatus;

use crate::model::text::parameters;
use crate::model::{BROKEN, Model, frontend as f};
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

/// Texts that leave state behind, or ask for some: what needs a session that is followed.
pub(crate) const STATE: [&str; 45] = [
    "set app.x one",
    "set app.x two",
    "set local app.x three",
    "reset app.x",
    "show app.x",
    "set work_mem 7",
    "set local work_mem 8",
    "reset work_mem",
    "show work_mem",
    "reset all",
    "reset TimeZone",
    "set role r",
    "set role none",
    "show role",
    "set session authorization u",
    "set session authorization default",
    "show session_authorization",
    "select set_config('app.x','a;b',false)",
    "select set_config('app.x','it''s \u{e9}\n',false),set_config('work_mem','6',true)",
    "create temp t",
    "drop t",
    "discard temp",
    "select pg_advisory_lock(1)",
    "select pg_advisory_unlock(1)",
    "prepare s",
    "execute s",
    "deallocate s",
    "listen y",
    "unlisten y",
    "unlisten *",
    "select pg_listening_channels()",
    "declare h with hold",
    "fetch h",
    "close h",
    "close all",
    "do $$ set app.hidden h $$",
    "do $$ set work_mem 9 $$",
    "show app.hidden",
    "do $$ create temp u $$",
    "drop u",
    "do $$ select pg_advisory_lock(2) $$",
    "select pg_advisory_unlock(2)",
    "do $$ declare i with hold or replace $$",
    "load lib",
    "mark",
];

/// Some of these in one Query.
pub(crate) const STATE_LISTS: [&str; 6] = [
    "set app.x list; begin; set app.x other; rollback",
    "begin; create temp t; set role r; commit; error",
    "set app.x lost; create temp t; listen y; error",
    "begin; declare h with hold; listen y; select pg_advisory_lock(1); rollback",
    "discard all",
    "set app.x kept; discard temp; commit; error",
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

    /// The other: until its transaction has ended, what was reset is what the server has, not what the startup message set.
    /// And a startup message's role that SET took away may be back after a RESET of something else.
    fn resets_base(&self, model: &Model, base: &Settings) -> bool {
        let text = self.text();
        match self {
            _ if base.is_empty() => false,
            _ if base.get("role").is_some() && (text == "set role none" || text.starts_with("set session")) => true,
            Op::Query(_) => self.resets() && model.tx() != TxStatus::Idle,
            _ => self.resets(),
        }
    }

    fn resets(&self) -> bool {
        self.text().starts_with("reset") || self.text().starts_with("discard all")
    }

    fn text(&self) -> &'static str {
        if let Op::Parse(_, text) | Op::Query(text) = self { text } else { "" }
    }

    /// And a third: a setting whose name is in no text that we can read is not moved to another server.
    fn asks_hidden(&self, model: &Model) -> bool {
        let asks = |text: &str| text == "show app.hidden" && model.setting("app.hidden") == "h";
        match self {
            Op::Parse(_, text) => *text == "show app.hidden",
            Op::Query(text) => asks(text),
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
        let odd = op.is_odd(&model) || op.resets_base(&model, base) || op.asks_hidden(&model);
        if (!model.is_copying_in() || op.is_fit_for_copy()) && !odd {
            let bytes = op.bytes();
            model.feed(&bytes);
            script.extend(bytes);
        }
    }
    assert!(!model.is_closed());
    (script, model.out)
}

/// One command or batch of a client's, answered by one ReadyForQuery.
pub(crate) type Unit = Vec<Op>;

/// What the client sends for a unit.
pub(crate) fn unit_bytes(unit: &[Op]) -> Vec<u8> {
    unit.iter().flat_map(Op::bytes).collect()
}

/// Those of the units in which no known difference shows. After an audit that failed, a startup message's settings that were
/// reset are not replayed before the next one.
pub(crate) fn seemly(units: Vec<Unit>, base: &Settings) -> Vec<Unit> {
    let settings: Vec<_> = base.iter().collect();
    let mut model = Model::new(&settings);
    let is_seemly = |unit: &Unit| {
        let resets_base = |op: &Op| op.resets_base(&model, base) || (op.resets() && !base.is_empty());
        let odd = |op: &Op| op.is_odd(&model) || resets_base(op) || op.asks_hidden(&model);
        let seemly = !unit.iter().any(odd);
        if seemly {
            model.feed(&unit_bytes(unit));
        }
        seemly
    };
    units.into_iter().filter(is_seemly).collect()
}

/// What a client saw of these units: as by a server of its own, but that it may have lost the values of its sequences. It is
/// never told another's.
pub(crate) fn check_sequences(units: &[Unit], seen: &[u8]) {
    let mut model = Model::new(&[]);
    let mut answers = messages(seen).into_iter();
    for unit in units {
        let mut answer = Vec::new();
        while answer.last().is_none_or(|(tag, _)| *tag != b'Z') {
            answer.push(answers.next().unwrap_or_else(|| panic!("no answer to {unit:?}: {}", shown(seen))));
        }
        model.feed(&unit_bytes(unit));
        let lost = answer.iter().any(|(tag, body)| *tag == b'E' && body.windows(5).any(|w| w == b"55000"));
        assert!(lost || answer == messages(&model.out), "{unit:?} of {units:#?}\n{}", shown(seen));
        model.out.clear();
    }
}

/// What a client saw of these units, some of which may have failed for [`BROKEN`] reasons: those did not run, and the
/// others were answered as by a server of its own that was never asked the failed ones. How many failed?
pub(crate) fn check_broken(units: &[Unit], base: &Settings, seen: &[u8]) -> usize {
    let settings: Vec<_> = base.iter().collect();
    let mut model = Model::new(&settings);
    let mut failed = 0;
    let mut answers = messages(seen).into_iter().peekable();
    for unit in units {
        let mut answer = Vec::new();
        while answer.last().is_none_or(|(tag, _)| *tag != b'Z') {
            answer.push(answers.next().unwrap_or_else(|| panic!("no answer to {unit:?}: {}", shown(seen))));
        }
        let is_broken = |(tag, body): &(u8, &[u8])| *tag == b'E' && body.windows(5).any(|w| w == BROKEN.as_bytes());
        if answer.iter().any(is_broken) {
            assert_eq!((answer.len(), answer[1]), (2, (b'Z', &b"I"[..])), "{unit:?}: {}", shown(seen));
            assert!(model.tx() == TxStatus::Idle, "nothing is replayed in a transaction: {unit:?}");
            failed += 1;
            continue;
        }
        model.feed(&unit_bytes(unit));
        assert_eq!(answer, messages(&model.out), "{unit:?} of {units:#?}\n{}", shown(seen));
        model.out.clear();
    }
    assert!(answers.next().is_none(), "an answer to nothing");
    failed
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
