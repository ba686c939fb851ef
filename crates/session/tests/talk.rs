//! Clients that say one thing after the other, and a session and its server driven by hand.

use std::sync::Arc;

use pgsluice_session::{Plan, Pooling, Progress, Server, Session, Settings, Suspects, Tracking};
use pgsluice_wire::{BackendWriter, Report, Severity, TxStatus};

use crate::model::frontend as f;
use crate::world::{Dice, Shared, World, fresh_server, messages};

/// A world of one client and `servers` servers, in which the client sends things one after the other.
pub(crate) struct Talk {
    pub(crate) world: World,
    pub(crate) dice: Dice,
}

impl Talk {
    pub(crate) fn new(servers: usize, max_prepared: usize) -> Self {
        let mut world = World::new(servers, max_prepared);
        world.add_client(b"", Settings::default());
        Self { world, dice: Dice::new(7) }
    }

    /// One of so many clients whose state is followed; nothing in the database is suspect.
    pub(crate) fn followed(servers: usize, clients: usize, tracking: Tracking) -> Self {
        let mut world = World::followed(servers, 5, tracking, Some(Suspects::default()));
        (0..clients).for_each(|_| world.add_client(b"", Settings::default()));
        Self { world, dice: Dice::new(7) }
    }

    /// Simple queries, one after the other; what the last one was answered.
    pub(crate) fn ask(&mut self, client: usize, texts: &[&str]) -> Vec<u8> {
        texts.iter().map(|text| self.say_as(client, &[f::query(text)])).last().unwrap()
    }

    /// What keeps a client on its server.
    pub(crate) fn pins(&self, client: usize) -> Vec<&'static str> {
        let link = self.world.clients[client].link.as_ref();
        link.map(|l| l.server.pins().map(|reason| reason.name()).collect()).unwrap_or_default()
    }

    /// Sends, lets everything happen, returns what the client saw.
    pub(crate) fn say(&mut self, parts: &[Vec<u8>]) -> Vec<u8> {
        self.say_as(0, parts)
    }

    pub(crate) fn say_as(&mut self, client: usize, parts: &[Vec<u8>]) -> Vec<u8> {
        self.world.clients[client].script.extend(parts.concat());
        self.world.run(&mut self.dice);
        std::mem::take(&mut self.world.clients[client].seen)
    }

    /// Sends and lets it be forwarded; nothing comes back.
    pub(crate) fn whisper(&mut self, parts: &[Vec<u8>]) {
        self.world.clients[0].script.extend(parts.concat());
        self.world.send(0, usize::MAX);
    }
}

pub(crate) fn tags(bytes: &[u8]) -> String {
    messages(bytes).iter().map(|(tag, _)| char::from(*tag)).collect()
}

pub(crate) fn errors(bytes: &[u8]) -> Vec<String> {
    let reports =
        messages(bytes).into_iter().filter(|(tag, _)| *tag == b'E').map(|(_, body)| Report::read(body).unwrap());
    reports
        .map(|r| format!("{} {}", String::from_utf8_lossy(r.sqlstate()), String::from_utf8_lossy(r.message())))
        .collect()
}

pub(crate) fn sync() -> Vec<u8> {
    f::bare(b'S')
}

pub(crate) fn run(name: &str) -> Vec<Vec<u8>> {
    vec![f::bind("", name, &[]), f::execute("", 0), sync()]
}

pub(crate) fn backend(write: impl FnOnce(&mut BackendWriter<'_>)) -> Vec<u8> {
    let mut m = Vec::new();
    write(&mut BackendWriter(&mut m));
    m
}

pub(crate) fn ready() -> Vec<u8> {
    backend(|w| w.ready(TxStatus::Idle))
}

pub(crate) fn error(code: &str, text: &str) -> Vec<u8> {
    backend(|w| w.report(Severity::Error, code, text, "", ""))
}

/// The one value of each row.
pub(crate) fn values(bytes: &[u8]) -> Vec<String> {
    let rows = messages(bytes).into_iter().filter(|(tag, _)| *tag == b'D');
    rows.map(|(_, body)| String::from_utf8_lossy(&body[6..]).into_owned()).collect()
}

/// A session and its server, driven by hand.
pub(crate) struct Pair {
    pub(crate) shared: Shared,
    pub(crate) session: Session,
    pub(crate) server: Server,
}

impl Pair {
    pub(crate) fn new(max_prepared: usize) -> Self {
        let session = Session::new(1, Pooling::Transaction, max_prepared, Arc::default());
        Self { shared: Shared::new(), session, server: fresh_server() }
    }

    /// (what is forwarded, what is replied, progress)
    pub(crate) fn client(&mut self, bytes: &[u8]) -> (Vec<u8>, Vec<u8>, Progress) {
        let mut plan = Plan::default();
        let ctx = &mut self.shared.ctx(&mut plan);
        let progress = self.session.handle_client(Some(&mut self.server), bytes, ctx).unwrap();
        (plan.concat(bytes), plan.reply, progress)
    }

    pub(crate) fn server(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut plan = Plan::default();
        let taken = self.session.handle_server(&mut self.server, bytes, &mut self.shared.ctx(&mut plan)).unwrap();
        assert_eq!(taken, bytes.len());
        plan.concat(bytes)
    }
}

/// A session whose settings a server has to be brought to, and what it sends then is this.
pub(crate) fn replaying(query: &[u8]) -> (Pair, Vec<u8>, Progress) {
    let mut pair = Pair::new(5);
    pair.session = Session::new(1, Pooling::Transaction, 5, Arc::new(Settings::default().with("no_such", "x")));
    let (sent, reply, progress) = pair.client(query);
    assert!(reply.is_empty());
    (pair, sent, progress)
}

/// The answer to a replay's BEGIN.
pub(crate) fn begun() -> Vec<u8> {
    backend(|w| {
        w.command_complete("BEGIN");
        w.ready(TxStatus::InBlock);
    })
}
