//! The promise as a property: whatever clients send, each sees byte for byte what it would see on a server of its own,
//! and no server is lent with anything left on it.

use pgsluice_session::Settings;
use pgsluice_wire::TxStatus;
use proptest::collection::vec;
use proptest::prelude::*;

use crate::model::{Model, frontend as f};
use crate::world::{Dice, World, messages};

/// Texts of statements; the model knows what they do.
const TEXTS: [&str; 16] = [
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
const LISTS: [&str; 16] = [
    "begin; select 1",
    "begin; error; select 1",
    "select 1; set TimeZone Mars; error",
    "select 1; copy in; select 2; copy in; select 3",
    "copy in; bad",
    "listen x",
    "prepare q",
    "declare c",
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
enum Op {
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
                Op::Bind(_, name, values) => text(name).is_some_and(|t| t.matches('$').count() != *values),
                _ => false,
            }
    }

    /// Does the server read on after this in the middle of a COPY FROM STDIN?
    fn is_fit_for_copy(&self) -> bool {
        matches!(self, Op::Sync | Op::Flush | Op::CopyData | Op::CopyDone | Op::CopyFail)
    }
}

fn name() -> impl Strategy<Value = &'static str> {
    prop_oneof![3 => Just(""), 3 => Just("a"), 2 => Just("b"), 1 => Just("pgsluice_1")]
}

fn portal() -> impl Strategy<Value = &'static str> {
    prop_oneof![4 => Just(""), 1 => Just("p")]
}

fn text() -> impl Strategy<Value = &'static str> {
    prop::sample::select(&TEXTS[..])
}

fn op() -> impl Strategy<Value = Vec<Op>> {
    let one = prop_oneof![
        4 => (name(), text()).prop_map(|(n, t)| Op::Parse(n, t)),
        4 => (portal(), name(), 0usize..2).prop_map(|(p, n, v)| Op::Bind(p, n, v)),
        2 => (prop::sample::select(&['S', 'P'][..]), name()).prop_map(|(k, n)| Op::Describe(k, n)),
        4 => (portal(), 0u32..3).prop_map(|(p, l)| Op::Execute(p, l)),
        2 => (prop::sample::select(&['S', 'P'][..]), name()).prop_map(|(k, n)| Op::Close(k, n)),
        5 => Just(Op::Sync),
        1 => Just(Op::Flush),
        2 => text().prop_map(Op::Query),
        2 => prop::sample::select(&LISTS[..]).prop_map(Op::Query),
        1 => (0u32..2).prop_map(Op::FunctionCall),
        1 => Just(Op::CopyData),
        1 => Just(Op::CopyDone),
        1 => Just(Op::CopyFail),
    ];
    let batch = (name(), text()).prop_map(|(n, t)| {
        vec![Op::Parse(n, t), Op::Describe('S', n), Op::Bind("", n, 0), Op::Execute("", 0), Op::Sync]
    });
    let again = name().prop_map(|n| vec![Op::Bind("", n, 0), Op::Describe('P', ""), Op::Execute("", 0), Op::Sync]);
    prop_oneof![6 => one.prop_map(|op| vec![op]), 2 => batch, 2 => again]
}

fn program() -> impl Strategy<Value = Vec<Op>> {
    vec(op(), 0..25).prop_map(|ops| ops.concat())
}

fn base() -> impl Strategy<Value = Settings> {
    prop_oneof![
        2 => Just(Settings::default()),
        1 => Just(Settings::default().with("TimeZone", "Base/Zone")),
        1 => Just(Settings::default().with("application_name", "base").with("TimeZone", "UTC")),
    ]
}

/// The program run on a server of the client's own: its messages, and what the server answers. Messages that would make
/// the server hang up are left out, and the program is brought to an end at which nothing is owed.
fn direct(program: &[Op], base: &Settings) -> (Vec<u8>, Vec<u8>) {
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

fn shown(bytes: &[u8]) -> String {
    messages(bytes).iter().map(|(tag, body)| format!("\n  {} {}", *tag as char, body.escape_ascii())).collect()
}

type Programs = Vec<(Vec<Op>, Settings)>;

fn programs() -> impl Strategy<Value = Programs> {
    vec((program(), base()), 1..4)
}

/// As many as `PROPTEST_CASES` says, or enough to find what these tests have found so far.
fn config() -> ProptestConfig {
    let cases = if std::env::var_os("PROPTEST_CASES").is_some() { ProptestConfig::default().cases } else { 300 };
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_client_cannot_tell_us_from_its_own_server(
        programs in programs(), servers in 1usize..3, max in 1usize..4, seed: u64,
    ) {
        let mut world = World::new(servers, max);
        let mut expected = Vec::new();
        for (program, base) in &programs {
            let (script, answers) = direct(program, base);
            world.add_client(&script, base.clone());
            expected.push(answers);
        }
        world.run(&mut Dice::new(seed));
        for (client, expected) in world.clients.iter().zip(&expected) {
            prop_assert_eq!(shown(&client.seen), shown(expected));
            prop_assert!(client.link.is_none() && client.sent.is_empty() && client.script.is_empty());
        }
        prop_assert_eq!(world.idle.len(), servers);
    }
}

/// The answers a client may see from us when its server dies: whole messages, and per error a ReadyForQuery or the end.
fn check_loss(seen: &[u8], closed: bool) -> Result<(), TestCaseError> {
    let messages = messages(seen);
    let fatal = |body: &[u8]| body.starts_with(b"SFATAL\0");
    let ends = messages.iter().position(|(tag, body)| *tag == b'E' && fatal(body));
    if let Some(at) = ends {
        prop_assert_eq!(at + 1, messages.len(), "nothing follows FATAL");
        prop_assert!(closed);
    } else if !closed {
        prop_assert_eq!(messages.last().map(|(tag, _)| *tag), Some(b'Z'), "the last word is ReadyForQuery");
    }
    Ok(())
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_client_whose_server_dies_gets_whole_messages_and_an_end(
        programs in programs(), deaths in vec(0usize..200, 1..4), seed: u64,
    ) {
        let mut world = World::new(1, 2);
        for (program, base) in &programs {
            world.add_client(&direct(program, base).0, base.clone());
        }
        let mut dice = Dice::new(seed);
        for steps in deaths {
            world.steps(steps, &mut dice);
            let victim = dice.roll(world.clients.len());
            if world.lose_server(victim) {
                // What it had seen may end in the middle of a message: there is nothing to be said any more.
                world.clients[victim].seen.clear();
            }
        }
        world.run(&mut dice);
        for client in &world.clients {
            check_loss(&client.seen, client.closed)?;
            prop_assert!(client.closed || client.sent.is_empty());
            prop_assert!(client.link.is_none());
        }
    }

    #[test]
    fn a_server_whose_client_vanishes_is_cleaned(programs in programs(), steps in 0usize..300, max in 1usize..3, seed: u64) {
        let mut world = World::new(1, max);
        for (program, base) in &programs {
            world.add_client(&direct(program, base).0, base.clone());
        }
        let mut dice = Dice::new(seed);
        world.steps(steps, &mut dice);
        let victim = dice.roll(world.clients.len());
        world.vanish(victim);
        world.run(&mut dice);
        for (i, (client, (program, base))) in world.clients.iter().zip(&programs).enumerate() {
            prop_assert!(client.link.is_none() && client.sent.is_empty());
            if i != victim {
                prop_assert_eq!(shown(&client.seen), shown(&direct(program, base).1));
            }
        }
    }
}
