//! Two clients share servers that send anything at any time. Nothing panics, and what a server sent while it was lent to
//! one client, or to nobody, never reaches the other: each byte remembers for whom it was sent, and texts say so. What a
//! client is shown stays a sequence of whole messages, whoever they are from. What a server says of a client's settings is
//! replayed for that client and for nobody else, and who is pinned keeps its server.
#![no_main]

use std::collections::BTreeSet;
use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use pgsluice_session::{
    AfterLoss, CancelKey, Catalog, Cleanup, Counters, Ctx, IdleServer, Params, Plan, Pooling, Refusal, Registry,
    Server, Session, Settings, Tracking, Want,
};
use pgsluice_wire::{BackendWriter, Head};

/// What a client may well send.
const FRONTEND: [&[u8]; 27] = [
    b"Q\0\0\0\x0dselect 1\0",
    b"Q\0\0\0\x10discard all\0",
    b"Q\0\0\0\x11deallocate a\0",
    b"P\0\0\0\x10\0select 1\0\0\0",
    b"P\0\0\0\x11a\0select 1\0\0\0",
    b"P\0\0\0\x11b\0select 1\0\0\0",
    b"P\0\0\0\x11a\0select 2\0\0\0",
    b"B\0\0\0\x0c\0\0\0\0\0\0\0\0",
    b"B\0\0\0\x0d\0a\0\0\0\0\0\0\0",
    b"D\0\0\0\x07Sa\0",
    b"D\0\0\0\x06P\0",
    b"E\0\0\0\x09\0\0\0\0\0",
    b"C\0\0\0\x07Sa\0",
    b"C\0\0\0\x06S\0",
    b"S\0\0\0\x04",
    b"H\0\0\0\x04",
    b"F\0\0\0\x0e\0\0\0\0\0\0\0\0\0\0",
    b"d\0\0\0\x05x",
    b"c\0\0\0\x04",
    b"f\0\0\0\x05\0",
    b"Q\0\0\0\x10set app.x y\0",
    b"Q\0\0\0\x0ereset all\0",
    b"Q\0\0\0\x18create temp table t\0",
    b"Q\0\0\0\x0dlisten x\0",
    b"Q\0\0\0\x0bcommit\0",
    b"P\0\0\0\x13\0set app.x y\0\0\0",
    b"Q\0\0\0\x0bdo $$$$",
];

/// What a server may well send: type and body, in which `@` stands for a text that says when it was sent. A body that begins
/// with `:` is three columns of a row, as an audit's, where `%` stands for that text in hexadecimal digits.
const BACKEND: [(u8, &str); 46] = [
    (b'Z', "I"),
    (b'Z', "T"),
    (b'Z', "E"),
    (b'1', ""),
    (b'2', ""),
    (b'3', ""),
    (b'n', ""),
    (b's', ""),
    (b'I', ""),
    (b't', "\0\0"),
    (b'T', "\0\0"),
    (b'D', "@"),
    (b'D', "\0\0"),
    (b'C', "@\0"),
    (b'C', "SELECT 1\0"),
    (b'C', "SET\0"),
    (b'C', "LISTEN\0"),
    (b'C', "PREPARE\0"),
    (b'C', "DISCARD ALL\0"),
    (b'C', "DEALLOCATE ALL\0"),
    (b'G', "\0\0\0"),
    (b'H', "\0\0\0"),
    (b'd', "@"),
    (b'c', ""),
    (b'E', "SERROR\0VERROR\0C26000\0Mpgsluice_1 @\0\0"),
    (b'E', "SERROR\0VERROR\0C42601\0M@\0\0"),
    (b'E', "SFATAL\0VFATAL\0C57P01\0M@\0\0"),
    (b'N', "SNOTICE\0VNOTICE\0C00000\0M@\0\0"),
    (b'S', "TimeZone\0@\0"),
    (b'A', "\0\0\0\0ch\0@\0"),
    (b'S', "session_authorization\0@\0"),
    (b'C', "RESET\0"),
    (b'C', "LOAD\0"),
    (b'C', "CREATE TABLE\0"),
    (b'D', ":s,app.x,%"),
    (b'D', ":s,timezone,%"),
    (b'D', ":s,role,6e6f6e65"),
    (b'D', ":s,role,%"),
    (b'D', ":s,session_authorization,%"),
    (b'D', ":p,,"),
    (b'D', ":c,,"),
    (b'D', ":l,,"),
    (b'D', ":t,,"),
    (b'D', ":a,,"),
    (b'D', ":q,pgsluice_1,"),
    (b'E', "SERROR\0VERROR\0C57014\0M@\0\0"),
];

/// Steps of cleaning after which a server that does not get clean is closed.
const CLEAN_STEPS_MAX: usize = 8;

/// For whom a byte was sent: the number of a lending.
type Era = u32;

/// Bytes that each remember their era.
#[derive(Default)]
struct Tagged {
    bytes: Vec<u8>,
    eras: Vec<Era>,
}

impl Tagged {
    fn push(&mut self, bytes: &[u8], era: Era) {
        self.bytes.extend(bytes);
        self.eras.resize(self.bytes.len(), era);
    }

    fn take(&mut self, n: usize) -> Tagged {
        let n = n.min(self.bytes.len());
        Tagged { bytes: self.bytes.drain(..n).collect(), eras: self.eras.drain(..n).collect() }
    }

    fn append(&mut self, mut other: Tagged) {
        self.bytes.append(&mut other.bytes);
        self.eras.append(&mut other.eras);
    }
}

/// A lent server, and what it sent: on its way, and received but not understood yet.
struct Link {
    server: Box<Server>,
    coming: Tagged,
    received: Tagged,
    era: Era,
}

struct Client {
    session: Session,
    sent: Vec<u8>,
    link: Option<Link>,
    /// The message it has been shown a part of.
    shown: Vec<u8>,
    /// When it had servers.
    eras: BTreeSet<Era>,
}

impl Client {
    fn new(session: Session) -> Self {
        Self { session, sent: Vec::new(), link: None, shown: Vec::new(), eras: BTreeSet::new() }
    }

    /// Messages of ours come between a server's.
    fn tell(&mut self, reply: &[u8]) {
        assert!(
            reply.is_empty() || self.shown.is_empty(),
            "a word of ours in the middle of {}",
            self.shown.escape_ascii()
        );
        self.show(reply);
        assert!(self.shown.is_empty() || reply.is_empty(), "half a word of ours");
    }

    fn show(&mut self, bytes: &[u8]) {
        self.shown.extend(bytes);
        while let Some(head) = Head::read(&self.shown).expect("a server with such lengths is closed") {
            if self.shown.len() < head.total() {
                return;
            }
            self.shown.drain(..head.total());
        }
    }
}

struct World {
    registry: Registry,
    counters: Counters,
    clients: [Client; 2],
    idle: Vec<(IdleServer, Tagged)>,
    max_prepared: usize,
    era: Era,
    sessions: u64,
}

fn text_of(era: Era) -> String {
    format!("#{era};")
}

/// Texts of eras in bytes of our own.
fn eras_in(bytes: &[u8]) -> impl Iterator<Item = Era> {
    let parts = bytes.split(|&b| b == b'#').skip(1);
    parts.filter_map(|part| {
        let end = part.iter().position(|&b| b == b';')?;
        std::str::from_utf8(&part[..end]).ok()?.parse().ok()
    })
}

fn fresh_server() -> IdleServer {
    IdleServer::fresh(Server::new(CancelKey { pid: 1, secret: Box::new([0; 4]) }, Params::default()))
}

impl World {
    fn new(max_prepared: usize) -> Self {
        let mut sessions = 0;
        let clients = [(); 2].map(|()| {
            sessions += 1;
            Client::new(new_session(sessions, max_prepared))
        });
        let (registry, counters) = (Registry::new(0, 1), Counters::default());
        Self { registry, counters, clients, idle: Vec::new(), max_prepared, era: 0, sessions }
    }

    /// Another client in the place of one that is gone.
    fn replace(&mut self, i: usize) {
        self.sessions += 1;
        let session = new_session(self.sessions, self.max_prepared);
        self.clients[i] = Client::new(session);
    }

    /// The client sends.
    fn send(&mut self, i: usize, bytes: &[u8]) {
        self.clients[i].sent.extend(bytes);
        self.pump(i);
    }

    /// The session reads what its client sent.
    fn pump(&mut self, i: usize) {
        loop {
            let mut plan = Plan::default();
            let Client { session, sent, link, eras, .. } = &mut self.clients[i];
            let ctx = &mut Ctx {
                registry: &mut self.registry,
                counters: &mut self.counters,
                catalog: Catalog::Unknown,
                plan: &mut plan,
            };
            let progress = session.handle_client(link.as_mut().map(|l| &mut *l.server), sent, ctx);
            assert!(link.is_some() || plan.is_empty(), "bytes for a server, and no server");
            for slice in plan.slices(sent).filter(|s| !s.is_empty() && !sent.as_ptr_range().contains(&s.as_ptr())) {
                assert!(eras_in(slice).all(|era| eras.contains(&era)), "another's: {}", slice.escape_ascii());
            }
            check_own(&plan.reply, link.as_ref().map(|l| l.era));
            let Ok(progress) = progress else { return self.vanish(i) };
            sent.drain(..progress.consumed);
            self.clients[i].tell(&plan.reply);
            match progress.want {
                Want::Checkout => self.check_out(i),
                Want::Room => {}
                Want::Close => return self.vanish(i),
                Want::More | Want::Server => return,
            }
        }
    }

    /// As a proxy does: an idle server is lent if it has sent nothing that makes it unfit.
    fn check_out(&mut self, i: usize) {
        let mut server = fresh_server();
        while let Some((mut idle, coming)) = self.idle.pop() {
            if coming.bytes.is_empty() || idle.handle_alone(&coming.bytes, &mut Plan::default()) == Ok(true) {
                server = idle;
                break;
            }
        }
        self.era += 1;
        self.clients[i].eras.insert(self.era);
        let (coming, received) = Default::default();
        self.clients[i].link = Some(Link { server: server.link(), coming, received, era: self.era });
    }

    /// The client's server sends.
    fn server_sends(&mut self, i: usize, bytes: &[u8]) {
        if let Some(link) = &mut self.clients[i].link {
            link.coming.push(bytes, link.era);
        }
    }

    fn server_says(&mut self, i: usize, n: usize) {
        if let Some(era) = self.clients[i].link.as_ref().map(|l| l.era) {
            let (tag, body) = BACKEND[n % BACKEND.len()];
            self.server_sends(i, &message(tag, body, era));
        }
    }

    /// Some of it arrives.
    fn arrive(&mut self, i: usize, n: usize) {
        let mut plan = Plan::default();
        let Client { session, link: Some(link), .. } = &mut self.clients[i] else { return };
        let part = link.coming.take(n);
        link.received.append(part);
        let ctx = &mut Ctx {
            registry: &mut self.registry,
            counters: &mut self.counters,
            catalog: Catalog::Unknown,
            plan: &mut plan,
        };
        let taken = session.handle_server(&mut link.server, &link.received.bytes, ctx);
        check_shown(&plan, &link.received, link.era);
        let shown = plan.concat(&link.received.bytes);
        let Ok(taken) = taken else {
            self.clients[i].show(&shown);
            return self.lose(i);
        };
        link.received.take(taken);
        if link.server.is_replay_lost() {
            self.clients[i].show(&shown);
            return self.lose_replay(i);
        }
        let replaying = link.server.is_replaying();
        let own_error = if replaying { None } else { link.server.take_own_error() };
        let reset_failed = !replaying && link.server.take_reset_failed();
        if session.wants_audit(&link.server) && link.received.bytes.is_empty() {
            session.write_audit(&mut link.server, Catalog::Unknown, &mut self.registry, &mut Vec::new());
        }
        let done = session.can_release(&link.server) && link.received.bytes.is_empty();
        let era = link.era;
        self.clients[i].show(&shown);
        if let Some(body) = own_error {
            check_own(&body, Some(era));
            self.clean(i, &[]);
            let mut reply = Vec::new();
            self.clients[i].session.handle_refusal(&Refusal::ServerLost, &mut reply);
            self.clients[i].tell(&reply);
        } else if reset_failed {
            self.clean(i, &[]);
        } else if done {
            let link = self.clients[i].link.as_ref().expect("looked at");
            assert!(!link.server.is_pinned(), "its state is there");
            assert!(self.clients[i].shown.is_empty(), "given back in the middle of a message");
            self.release(i);
        }
        self.pump(i);
    }

    /// What was sent behind a replay failed with it.
    fn lose_replay(&mut self, i: usize) {
        let Client { session, link, .. } = &mut self.clients[i];
        let Some(Link { mut server, era, .. }) = link.take() else { return };
        let body = server.take_own_error().expect("what it failed of");
        check_own(&body, Some(era));
        session.be_careful();
        let mut reply = Vec::new();
        let after = session.handle_server_lost(&mut server, &Refusal::ServerLost, &mut reply);
        self.clients[i].tell(&reply);
        match after {
            AfterLoss::GoOn => self.pump(i),
            AfterLoss::Close => self.replace(i),
        }
    }

    fn release(&mut self, i: usize) {
        let Some(link) = self.clients[i].link.take() else { return };
        match link.server.release() {
            // What comes now was sent for the one who had it.
            Ok(idle) => self.idle.push((idle, link.coming)),
            Err(server) => {
                self.clients[i].link = Some(Link { server, ..link });
                self.clean(i, &[]);
            }
        }
    }

    /// The connection to the server breaks.
    fn lose(&mut self, i: usize) {
        let Some(mut link) = self.clients[i].link.take() else { return };
        let mut reply = Vec::new();
        let after = self.clients[i].session.handle_server_lost(&mut link.server, &Refusal::ServerLost, &mut reply);
        check_own(link.server.last_words().unwrap_or_default(), Some(link.era));
        check_own(&reply, Some(link.era));
        self.clients[i].tell(&reply);
        match after {
            AfterLoss::GoOn => self.pump(i),
            AfterLoss::Close => self.replace(i),
        }
    }

    /// The client leaves; its server is cleaned while it says what the input says.
    fn vanish(&mut self, i: usize) {
        if self.clients[i].session.is_mid_message() {
            self.clients[i].link = None;
        }
        self.clean(i, &[0, 0]);
        self.replace(i);
    }

    fn clean(&mut self, i: usize, answers: &[usize]) {
        let Some(Link { mut server, mut coming, mut received, era }) = self.clients[i].link.take() else { return };
        for answer in answers {
            let (tag, body) = BACKEND[answer % BACKEND.len()];
            coming.push(&message(tag, body, era), era);
        }
        received.append(coming);
        for _ in 0..CLEAN_STEPS_MAX {
            match server.clean(&mut Vec::new()) {
                Cleanup::Done => {
                    let idle = server.release().expect("clean said Done");
                    return if received.bytes.is_empty() {
                        self.idle.push((idle, received))
                    };
                }
                Cleanup::Hopeless => return,
                Cleanup::Wait => {}
            }
            let Ok(taken) = server.handle_alone(&received.bytes, &mut Plan::default()) else { return };
            received.take(taken);
            // A server that answers as it should, for once.
            received.push(&message(b'C', "ROLLBACK\0", era), era);
            received.push(&message(b'Z', "I", era), era);
        }
    }
}

fn new_session(id: u64, max_prepared: usize) -> Session {
    let base = match id % 3 {
        0 => Settings::default(),
        1 => Settings::default().with("TimeZone", "Mars"),
        _ => Settings::default().with("application_name", "app"),
    };
    let session = Session::new(id, Pooling::Transaction, max_prepared, Arc::new(base));
    session.with_tracking(if id % 4 == 0 { Tracking::OFF } else { Tracking::default() })
}

fn message(tag: u8, body: &str, era: Era) -> Vec<u8> {
    let text = text_of(era);
    if let Some(columns) = body.strip_prefix(':') {
        let hex: String = text.bytes().map(|b| format!("{b:02x}")).collect();
        let columns: Vec<_> = columns.split(',').map(|c| c.replace('%', &hex)).collect();
        let mut row = Vec::new();
        BackendWriter(&mut row).data_row(columns.iter().map(|c| (!c.is_empty()).then_some(c.as_bytes())));
        return row;
    }
    let body = body.replace('@', &text);
    let len = u32::try_from(4 + body.len()).expect("short");
    [&[tag], &len.to_be_bytes()[..], body.as_bytes()].concat()
}

/// Bytes of our own say nothing of another time.
fn check_own(bytes: &[u8], era: Option<Era>) {
    assert!(eras_in(bytes).all(|e| Some(e) == era), "era {era:?} is told {}", bytes.escape_ascii());
}

/// What the client is shown was sent for it.
fn check_shown(plan: &Plan, received: &Tagged, era: Era) {
    let range = received.bytes.as_ptr_range();
    for slice in plan.slices(&received.bytes).filter(|s| !s.is_empty()) {
        if range.contains(&slice.as_ptr()) {
            let at = slice.as_ptr() as usize - range.start as usize;
            assert!(received.eras[at..at + slice.len()].iter().all(|&e| e == era), "another's bytes in era {era}");
        } else {
            check_own(slice, Some(era));
        }
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((&first, mut input)) = input.split_first() else { return };
    let mut world = World::new(usize::from(first % 3));
    while let Some((&op, rest)) = input.split_first() {
        input = rest;
        let (i, n) = (usize::from(op & 1), usize::from(op >> 4));
        let mut next = || {
            let (&byte, rest) = input.split_first().unwrap_or((&0, &[]));
            input = rest;
            usize::from(byte)
        };
        match (op >> 1) & 7 {
            0 | 1 => world.send(i, FRONTEND[next() % FRONTEND.len()]),
            2 | 3 => world.server_says(i, next()),
            4 => {
                // The likeliest: it says something, and all of it arrives.
                world.server_says(i, next());
                world.arrive(i, usize::MAX);
            }
            5 => world.arrive(i, 1 + next()),
            6 => {
                let raw = &input[..n.min(input.len())];
                input = &input[raw.len()..];
                if op & 0x80 == 0 { world.server_sends(i, raw) } else { world.send(i, raw) }
            }
            _ => match n {
                0..=2 => world.lose(i),
                3..=5 => world.vanish(i),
                6..=8 => {
                    let answers = [next(), next(), next()];
                    world.clean(i, &answers);
                    world.replace(i);
                }
                9..=11 => {
                    if let Some((_, coming)) = world.idle.last_mut() {
                        let (tag, body) = BACKEND[next() % BACKEND.len()];
                        coming.push(&message(tag, body, 0), 0);
                    }
                }
                _ => world.pump(i),
            },
        }
    }
});
