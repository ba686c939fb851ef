//! The promise as a property: whatever clients send, each sees byte for byte what it would see on a server of its own,
//! and no server is lent with anything left on it.

use pgsluice_session::{Settings, Suspects, Tracking};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::program::{
    LISTS, Op, STATE, STATE_LISTS, TEXTS, Unit, check_broken, check_hurt, check_sequences, direct, seemly, shown,
    unit_bytes,
};
use crate::world::{Dice, World};

fn name() -> impl Strategy<Value = &'static str> {
    prop_oneof![3 => Just(""), 3 => Just("a"), 2 => Just("b"), 1 => Just("pgsluice_1")]
}

fn portal() -> impl Strategy<Value = &'static str> {
    prop_oneof![4 => Just(""), 1 => Just("p")]
}

fn text(state: bool) -> impl Strategy<Value = &'static str> {
    let texts = if state { [&TEXTS[..], &STATE].concat() } else { TEXTS.to_vec() };
    prop::sample::select(texts)
}

/// One operation, or a few that belong together; of those that leave state behind, if `state`.
fn op(state: bool) -> impl Strategy<Value = Vec<Op>> {
    let lists = if state { [&LISTS[..], &STATE_LISTS].concat() } else { LISTS.to_vec() };
    let one = prop_oneof![
        4 => (name(), text(state)).prop_map(|(n, t)| Op::Parse(n, t)),
        4 => (portal(), name(), 0usize..2).prop_map(|(p, n, v)| Op::Bind(p, n, v)),
        2 => (prop::sample::select(&['S', 'P'][..]), name()).prop_map(|(k, n)| Op::Describe(k, n)),
        4 => (portal(), 0u32..3).prop_map(|(p, l)| Op::Execute(p, l)),
        2 => (prop::sample::select(&['S', 'P'][..]), name()).prop_map(|(k, n)| Op::Close(k, n)),
        5 => Just(Op::Sync),
        1 => Just(Op::Flush),
        2 => text(state).prop_map(Op::Query),
        2 => prop::sample::select(lists).prop_map(Op::Query),
        1 => (0u32..2).prop_map(Op::FunctionCall),
        1 => Just(Op::CopyData),
        1 => Just(Op::CopyDone),
        1 => Just(Op::CopyFail),
    ];
    let batch = (name(), text(state)).prop_map(|(n, t)| {
        vec![Op::Parse(n, t), Op::Describe('S', n), Op::Bind("", n, 0), Op::Execute("", 0), Op::Sync]
    });
    let again = name().prop_map(|n| vec![Op::Bind("", n, 0), Op::Describe('P', ""), Op::Execute("", 0), Op::Sync]);
    prop_oneof![6 => one.prop_map(|op| vec![op]), 2 => batch, 2 => again]
}

fn program(state: bool) -> impl Strategy<Value = Vec<Op>> {
    vec(op(state), 0..25).prop_map(|ops| ops.concat())
}

fn base() -> impl Strategy<Value = Settings> {
    prop_oneof![
        2 => Just(Settings::default()),
        1 => Just(Settings::default().with("TimeZone", "Base/Zone")),
        1 => Just(Settings::default().with("application_name", "base").with("TimeZone", "UTC")),
    ]
}

type Programs = Vec<(Vec<Op>, Settings)>;

fn programs() -> impl Strategy<Value = Programs> {
    vec((program(false), base()), 1..4)
}

/// Programs that leave state behind.
fn state_programs() -> impl Strategy<Value = Programs> {
    let base = prop_oneof![
        2 => base(),
        1 => Just(Settings::default().with("app.x", "base")),
        1 => Just(Settings::default().with("role", "base").with("TimeZone", "UTC")),
    ];
    vec((program(true), base), 1..4)
}

/// Commands and batches of which each has its one answer.
fn units() -> impl Strategy<Value = Vec<Unit>> {
    let texts: Vec<_> = TEXTS.iter().chain(&STATE).copied().filter(|t| !t.starts_with("copy in")).collect();
    let lists: Vec<_> = STATE_LISTS.to_vec();
    let text = prop_oneof![4 => prop::sample::select(texts), 3 => Just("mark"), 3 => Just("show app.x")];
    let one = prop_oneof![
        3 => text.clone().prop_map(|t| vec![Op::Query(t)]),
        1 => prop::sample::select(lists).prop_map(|t| vec![Op::Query(t)]),
        3 => (name(), text).prop_map(|(n, t)| {
            vec![Op::Parse(n, t), Op::Bind("", n, 0), Op::Execute("", 0), Op::Sync]
        }),
        1 => name().prop_map(|n| vec![Op::Bind("", n, 0), Op::Describe('P', ""), Op::Execute("", 0), Op::Sync]),
        1 => (0u32..2).prop_map(|oid| vec![Op::FunctionCall(oid)]),
    ];
    vec(one, 0..20).prop_map(|mut units| {
        units.push(vec![Op::Query("rollback")]);
        units
    })
}

/// Those that are about sequences.
fn sequence_units() -> impl Strategy<Value = Vec<Unit>> {
    let texts =
        ["select nextval('s')", "select lastval()", "select 1", "discard sequences", "set app.x one", "select 0"];
    let text = prop::sample::select(texts.to_vec());
    let one = prop_oneof![
        text.clone().prop_map(|t| vec![Op::Query(t)]),
        (portal(), text).prop_map(|(p, t)| vec![Op::Parse("", t), Op::Bind(p, "", 0), Op::Execute(p, 0), Op::Sync]),
        Just(vec![Op::Bind("", "", 0), Op::Execute("", 0), Op::Sync]),
    ];
    vec(one, 0..20)
}

/// What is known of the database: nothing, or that it has no suspects.
fn suspects() -> impl Strategy<Value = Option<Suspects>> {
    prop_oneof![Just(None), Just(Some(Suspects::default()))]
}

/// How closely clients are followed.
#[derive(Clone, Debug)]
enum Followed {
    No,
    Yes(Option<Suspects>),
}

impl Followed {
    fn build(self, servers: usize, max: usize) -> World {
        match self {
            Self::No => World::new(servers, max),
            Self::Yes(suspects) => World::followed(servers, max, Tracking::default(), suspects),
        }
    }
}

fn worlds() -> impl Strategy<Value = (Programs, Followed)> {
    prop_oneof![
        programs().prop_map(|programs| (programs, Followed::No)),
        (state_programs(), suspects()).prop_map(|(programs, suspects)| (programs, Followed::Yes(suspects))),
    ]
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

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_client_whose_server_dies_or_is_refused_gets_whole_messages_and_an_end(
        (programs, world) in worlds(), deaths in vec(0usize..200, 1..4), seed: u64,
    ) {
        let mut world = world.build(1, 2);
        for (program, base) in &programs {
            world.add_client(&direct(program, base).0, base.clone());
        }
        let mut dice = Dice::new(seed);
        for steps in deaths {
            world.steps(steps, &mut dice);
            let refused = dice.roll(world.clients.len());
            world.refuse(refused);
            let victim = dice.roll(world.clients.len());
            if world.lose_server(victim) {
                // What it had seen may end in the middle of a message: there is nothing to be said any more.
                world.clients[victim].seen.clear();
            }
        }
        world.run(&mut dice);
        for client in &world.clients {
            check_hurt(&client.seen, client.closed);
            prop_assert!(client.closed || client.sent.is_empty());
            prop_assert!(client.link.as_ref().is_none_or(|l| l.server.is_pinned()));
        }
    }

    #[test]
    fn a_server_whose_client_vanishes_is_cleaned(
        (programs, world) in worlds(), steps in 0usize..300, max in 1usize..3, seed: u64,
    ) {
        let mut world = world.build(1, max);
        for (program, base) in &programs {
            world.add_client(&direct(program, base).0, base.clone());
        }
        let mut dice = Dice::new(seed);
        world.steps(steps, &mut dice);
        let victim = dice.roll(world.clients.len());
        world.vanish(victim);
        world.run(&mut dice);
        for (i, (client, (program, base))) in world.clients.iter().zip(&programs).enumerate() {
            prop_assert!(client.link.as_ref().is_none_or(|l| l.server.is_pinned()));
            prop_assert!(client.sent.is_empty());
            if i != victim {
                prop_assert_eq!(shown(&client.seen), shown(&direct(program, base).1));
            }
        }
    }

    #[test]
    fn a_followed_client_cannot_tell_us_from_its_own_server(
        programs in state_programs(), servers in 1usize..3, max in 1usize..4, suspects in suspects(), seed: u64,
    ) {
        let mut world = World::followed(servers, max, Tracking::default(), suspects);
        let mut expected = Vec::new();
        for (program, base) in &programs {
            let (script, answers) = direct(program, base);
            world.add_client(&script, base.clone());
            expected.push(answers);
        }
        world.run(&mut Dice::new(seed));
        for (i, expected) in expected.iter().enumerate() {
            let client = &world.clients[i];
            prop_assert_eq!(shown(&client.seen), shown(expected));
            prop_assert!(client.sent.is_empty() && client.script.is_empty());
            prop_assert!(client.link.as_ref().is_none_or(|l| l.server.is_pinned()));
            world.vanish(i);
        }
        prop_assert_eq!(world.idle.len(), servers);
    }

    #[test]
    fn a_replay_that_fails_is_its_clients_error_and_nothing_ran(
        programs in vec((units(), base()), 1..4), servers in 1usize..3, max in 1usize..4, suspects in suspects(),
        vanishes in prop::option::of(0usize..200), seed: u64,
    ) {
        let mut world = World::followed(servers, max, Tracking::default(), suspects);
        world.faults = Some(Dice::new(seed.rotate_left(9)));
        let programs: Vec<_> = programs.into_iter().map(|(units, base)| (seemly(units, &base), base)).collect();
        for (units, base) in &programs {
            let script: Vec<_> = units.iter().flat_map(|unit| unit_bytes(unit)).collect();
            world.add_client(&script, base.clone());
        }
        let mut dice = Dice::new(seed);
        let victim = vanishes.map(|steps| {
            world.steps(steps, &mut dice);
            let victim = dice.roll(world.clients.len());
            world.vanish(victim);
            victim
        });
        world.run(&mut dice);
        for (i, (units, base)) in programs.iter().enumerate() {
            if Some(i) != victim {
                check_broken(units, base, &world.clients[i].seen);
            }
            let client = &world.clients[i];
            prop_assert!(client.sent.is_empty() && client.script.is_empty());
            prop_assert!(client.link.as_ref().is_none_or(|l| l.server.is_pinned()));
            world.vanish(i);
        }
        prop_assert_eq!(world.idle.len(), servers);
    }

    #[test]
    fn nobody_is_told_anothers_values_of_sequences(
        programs in vec(sequence_units(), 1..4), servers in 1usize..3, suspects in suspects(), seed: u64,
    ) {
        let mut world = World::followed(servers, 2, Tracking::default(), suspects);
        for units in &programs {
            let script: Vec<_> = units.iter().flat_map(|unit| unit_bytes(unit)).collect();
            world.add_client(&script, Settings::default());
        }
        world.run(&mut Dice::new(seed));
        for (units, client) in programs.iter().zip(&world.clients) {
            check_sequences(units, &client.seen);
            prop_assert!(client.sent.is_empty() && client.script.is_empty());
        }
    }
}
