//! Several clients share a few model PostgreSQLs through the session's machines, while bytes come in any pieces, servers
//! are lost, refused and left behind: who is not concerned sees byte for byte what a server of its own would have said.
//! The input is the clients' programs and then what happens, event by event. In half of the worlds state is followed, and in
//! half of those servers fail at what only we ask of them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgsluice_session::{Settings, Suspects, Tracking};

use program::{LISTS, Op, STATE, STATE_LISTS, TEXTS, check_hurt, direct, shown};
use world::{Dice, World};

#[allow(dead_code, unused_imports, reason = "the tests use more of it")]
#[path = "../../crates/session/tests/model/mod.rs"]
mod model;
#[allow(dead_code, reason = "the tests use more of it")]
#[path = "../../crates/session/tests/program.rs"]
mod program;
#[allow(dead_code, reason = "the tests use more of it")]
#[path = "../../crates/session/tests/world.rs"]
mod world;

const NAMES: [&str; 4] = ["", "a", "b", "pgsluice_1"];
const PORTALS: [&str; 2] = ["", "p"];
const KINDS: [char; 2] = ['S', 'P'];
/// Operations of one client.
const OPS_MAX: usize = 31;

/// The input, byte by byte.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn next(&mut self) -> Option<usize> {
        let (&byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(byte.into())
    }
}

fn pick<T: Copy>(from: &[T], n: usize) -> T {
    from[n % from.len()]
}

/// One operation, or a few that belong together, from two bytes; of those that leave state behind, if `state`.
fn ops(a: usize, b: usize, state: bool) -> Vec<Op> {
    let is_about_state = state && b >= 128;
    let text = if is_about_state { pick(&STATE, b) } else { pick(&TEXTS, b) };
    let list = if is_about_state { pick(&STATE_LISTS, b) } else { pick(&LISTS, b) };
    let (name, portal, kind) = (pick(&NAMES, a >> 4), pick(&PORTALS, b), pick(&KINDS, b));
    match a & 15 {
        0 | 1 => vec![Op::Parse(name, text)],
        2 | 3 => vec![Op::Bind(portal, name, (b >> 1) & 1)],
        4 => vec![Op::Describe(kind, name)],
        5 => vec![Op::Execute(portal, (b >> 1) as u32 % 3)],
        6 => vec![Op::Close(kind, name)],
        7 => vec![Op::Sync],
        8 => vec![Op::Query(text)],
        9 => vec![Op::Query(list)],
        10 => vec![Op::FunctionCall(b as u32 & 1)],
        11 => vec![[Op::CopyData, Op::CopyDone, Op::CopyFail, Op::Flush][b & 3].clone()],
        12 | 13 => {
            vec![Op::Parse(name, text), Op::Describe('S', name), Op::Bind("", name, 0), Op::Execute("", 0), Op::Sync]
        }
        _ => vec![Op::Bind("", name, 0), Op::Describe('P', ""), Op::Execute("", 0), Op::Sync],
    }
}

fn base(n: usize) -> Settings {
    match n % 3 {
        0 => Settings::default(),
        1 => Settings::default().with("TimeZone", "Base/Zone"),
        _ => Settings::default().with("application_name", "base").with("TimeZone", "UTC"),
    }
}

/// What became of a client.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fortune {
    Untouched,
    /// It lost a server or was refused one.
    Hurt,
    /// The same, and what it saw ends in the middle of a message.
    CutOff,
    Gone,
}

/// One event from one byte.
fn happen(world: &mut World, fortunes: &mut [Fortune], event: usize, amount: usize) {
    let i = event % fortunes.len();
    match event >> 3 {
        0..=6 => drop(world.send(i, 1 + amount)),
        7..=13 => drop(world.deliver(i, 1 + amount)),
        14..=20 => drop(world.receive(i, 1 + amount)),
        21..=25 => drop(world.wake(i)),
        26 | 27 if fortunes[i] != Fortune::Gone && world.clients[i].link.is_some() => {
            let cut = world.lose_server(i);
            fortunes[i] = if cut { Fortune::CutOff } else { Fortune::Hurt };
        }
        28 | 29 if world.refuse(i) && fortunes[i] == Fortune::Untouched => fortunes[i] = Fortune::Hurt,
        30 => {
            world.vanish(i);
            fortunes[i] = Fortune::Gone;
        }
        _ => {}
    }
}

fuzz_target!(|input: &[u8]| {
    let mut bytes = Bytes(input);
    let Some(first) = bytes.next() else { return };
    let (servers, max, clients) = (1 + (first & 1), 1 + ((first >> 1) & 3), 1 + ((first >> 3) & 3));
    let (followed, known, faulty) = (first & 32 != 0, first & 64 != 0, first & 128 != 0);
    let mut world = if followed {
        World::followed(servers, max, Tracking::default(), known.then(Suspects::default))
    } else {
        World::new(servers, max)
    };
    world.faults = (followed && faulty).then(|| Dice::new(input.len() as u64));
    let mut expected = Vec::new();
    for _ in 0..clients {
        let Some(head) = bytes.next() else { return };
        let mut program = Vec::new();
        for _ in 0..head & OPS_MAX {
            let (Some(a), Some(b)) = (bytes.next(), bytes.next()) else { break };
            program.extend(ops(a, b, followed));
        }
        let base = base(head >> 5);
        let (script, answers) = direct(&program, &base);
        world.add_client(&script, base);
        expected.push(answers);
    }
    let mut fortunes = vec![Fortune::Untouched; clients];
    while let (Some(event), Some(amount)) = (bytes.next(), bytes.next()) {
        happen(&mut world, &mut fortunes, event, amount);
    }
    world.run(&mut Dice::new(7));
    for (i, (client, expected)) in world.clients.iter().zip(&expected).enumerate() {
        let pinned = client.link.as_ref().is_none_or(|l| l.server.is_pinned());
        assert!(pinned, "client {i} has a server and nothing to do with it");
        match fortunes[i] {
            Fortune::Untouched if world.faults.is_none() => {
                assert_eq!(shown(&client.seen), shown(expected), "client {i}: left pooled, right direct");
                assert!(client.sent.is_empty() && client.script.is_empty());
            }
            Fortune::Untouched | Fortune::Hurt => check_hurt(&client.seen, client.closed),
            Fortune::CutOff | Fortune::Gone => {}
        }
    }
    (0..clients).for_each(|i| world.vanish(i));
    assert_eq!(world.idle.len(), servers, "no server is lost, and none is there twice");
});
