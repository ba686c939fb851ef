//! A world of clients, a pool and model servers in one thread: it does with the session's machines what a proxy does,
//! in pieces as small and in an order as odd as a seed says.

use std::collections::VecDeque;
use std::sync::Arc;

use pgsluice_session::{
    AfterLoss, CancelKey, Catalog, Cleanup, Counters, Ctx, IdleServer, Params, Plan, Pooling, Refusal, Registry,
    Server, Session, Settings, Suspects, Tracking, Want,
};
use pgsluice_wire::{HEAD_LEN, Head, Report};

use crate::model::{Fault, Model, REPORTED, Values};

/// Steps of [`Server::clean`] that are enough for anything.
const CLEAN_STEPS_MAX: usize = 8;

/// Statements of ours on a server that are no client's.
const OURS: [&str; 2] = ["pgsluice_audit", "pgsluice_discard"];

/// A small random sequence.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    pub(crate) fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % sides
    }
}

/// What worker and pool share.
pub(crate) struct Shared {
    pub(crate) registry: Registry,
    pub(crate) counters: Counters,
    /// Of the database, if that is known.
    pub(crate) suspects: Option<Suspects>,
}

impl Shared {
    pub(crate) fn new() -> Self {
        Self { registry: Registry::new(0, 1), counters: Counters::default(), suspects: None }
    }

    pub(crate) fn ctx<'a>(&'a mut self, plan: &'a mut Plan) -> Ctx<'a> {
        let catalog = self.suspects.as_ref().map_or(Catalog::Unknown, Catalog::Known);
        Ctx { registry: &mut self.registry, counters: &mut self.counters, catalog, plan }
    }
}

/// The other end of a server connection, with what is on its way.
pub(crate) struct Wire {
    pub(crate) model: Model,
    pub(crate) to_server: VecDeque<u8>,
    /// Received, not taken by the session yet.
    pub(crate) received: Vec<u8>,
}

impl Wire {
    pub(crate) fn new(model: Model) -> Self {
        Self { model, to_server: VecDeque::new(), received: Vec::new() }
    }

    /// The server reads some.
    fn deliver(&mut self, n: usize) {
        let part: Vec<u8> = self.to_server.drain(..n.min(self.to_server.len())).collect();
        self.model.feed(&part);
    }

    /// We receive some.
    fn receive(&mut self, n: usize) {
        let n = n.min(self.model.out.len());
        self.received.extend(self.model.out.drain(..n));
    }
}

pub(crate) struct Link {
    pub(crate) server: Box<Server>,
    pub(crate) wire: Wire,
}

pub(crate) struct Client {
    pub(crate) session: Session,
    /// What it has still to send.
    pub(crate) script: VecDeque<u8>,
    /// Sent, not taken by the session yet.
    pub(crate) sent: Vec<u8>,
    pub(crate) seen: Vec<u8>,
    pub(crate) link: Option<Link>,
    pub(crate) closed: bool,
    waiting: bool,
    /// It waits for its server's progress.
    blocked: bool,
}

impl Client {
    pub(crate) fn new(id: u64, script: &[u8], max_prepared: usize, base: Settings, tracking: Tracking) -> Self {
        let welcome = reported(&base);
        let session = Session::new(id, Pooling::Transaction, max_prepared, Arc::new(base));
        let mut session = session.with_tracking(tracking);
        session.welcome(Arc::new(welcome));
        Self {
            session,
            script: script.iter().copied().collect(),
            sent: Vec::new(),
            seen: Vec::new(),
            link: None,
            closed: false,
            waiting: false,
            blocked: false,
        }
    }

    /// Has it nothing left to say, and keeps a server for what it has there?
    fn is_sitting(&self) -> bool {
        let linked = self.link.as_ref().is_some_and(|l| l.server.is_pinned() && l.server.is_quiet());
        linked && !self.closed && self.sent.is_empty() && self.script.is_empty()
    }
}

pub(crate) struct World {
    pub(crate) shared: Shared,
    pub(crate) clients: Vec<Client>,
    pub(crate) idle: Vec<(IdleServer, Wire)>,
    /// Statements a server may keep.
    pub(crate) max_prepared: usize,
    pub(crate) tracking: Tracking,
    /// Now and then a lent server fails to do what only we ask of it.
    pub(crate) faults: Option<Dice>,
}

/// What a server reports under these settings.
fn reported(settings: &Settings) -> Params {
    let mut params = Params::default();
    for name in REPORTED {
        params.set(name, settings.get(name).unwrap_or("default")).expect("they are few");
    }
    params
}

pub(crate) fn fresh_server() -> Server {
    Server::new(CancelKey { pid: 1, secret: Box::new([0; 4]) }, reported(&Settings::default()))
}

impl World {
    pub(crate) fn new(servers: usize, max_prepared: usize) -> Self {
        let (shared, clients, idle) = (Shared::new(), Vec::new(), Vec::new());
        let mut world = Self { shared, clients, idle, max_prepared, tracking: Tracking::OFF, faults: None };
        (0..servers).for_each(|_| world.add_server());
        world
    }

    /// One whose sessions' state is followed; `suspects` are those of the database, if they are known.
    pub(crate) fn followed(
        servers: usize,
        max_prepared: usize,
        tracking: Tracking,
        suspects: Option<Suspects>,
    ) -> Self {
        let mut world = Self::new(servers, max_prepared);
        world.tracking = tracking;
        world.shared.suspects = suspects;
        world
    }

    pub(crate) fn add_server(&mut self) {
        self.idle.push((IdleServer::fresh(fresh_server()), Wire::new(Model::new(&[]))));
    }

    pub(crate) fn add_client(&mut self, script: &[u8], base: Settings) {
        let id = self.clients.len() as u64 + 1;
        self.clients.push(Client::new(id, script, self.max_prepared, base, self.tracking));
    }

    /// Runs until nothing moves any more. Who has nothing left to say and sits on a server that others wait for leaves.
    pub(crate) fn run(&mut self, dice: &mut Dice) {
        loop {
            let mut quiet = 0;
            while quiet < 32 * self.clients.len() {
                quiet = if self.step(dice) { 0 } else { quiet + 1 };
            }
            // The dice may have missed something.
            let moved: Vec<_> = (0..self.clients.len()).map(|i| self.settle(i)).collect();
            if moved.contains(&true) {
                continue;
            }
            let waited_for = self.clients.iter().any(|c| c.waiting);
            match (0..self.clients.len()).find(|&i| waited_for && self.clients[i].is_sitting()) {
                Some(i) => self.vanish(i),
                None => return,
            }
        }
    }

    /// So many random events.
    pub(crate) fn steps(&mut self, n: usize, dice: &mut Dice) {
        for _ in 0..n {
            self.step(dice);
        }
    }

    /// One random event for one random client. Did anything move?
    pub(crate) fn step(&mut self, dice: &mut Dice) -> bool {
        let i = dice.roll(self.clients.len());
        let n = 1 + if dice.roll(4) == 0 { dice.roll(9) } else { dice.roll(400) };
        match dice.roll(4) {
            0 => self.send(i, n),
            1 => self.deliver(i, n),
            2 => self.receive(i, n),
            _ => self.wake(i),
        }
    }

    /// The client's server reads some bytes.
    pub(crate) fn deliver(&mut self, i: usize, n: usize) -> bool {
        self.clients[i].link.as_mut().is_some_and(|link| {
            let moved = !link.wire.to_server.is_empty();
            link.wire.deliver(n);
            moved
        })
    }

    /// The client tries again for a server, if it waits for one.
    pub(crate) fn wake(&mut self, i: usize) -> bool {
        self.clients[i].waiting && self.pump_client(i)
    }

    /// Everything of one client's that can move does.
    fn settle(&mut self, i: usize) -> bool {
        let mut moved = self.send(i, usize::MAX);
        moved |= self.deliver(i, usize::MAX);
        moved |= self.receive(i, usize::MAX);
        moved | self.wake(i)
    }

    /// The client sends some bytes.
    pub(crate) fn send(&mut self, i: usize, n: usize) -> bool {
        let client = &mut self.clients[i];
        let n = n.min(client.script.len());
        if client.closed || n == 0 {
            return false;
        }
        client.sent.extend(client.script.drain(..n));
        self.pump_client(i);
        true
    }

    /// The session reads what its client sent. Did it take any, or get a server?
    pub(crate) fn pump_client(&mut self, i: usize) -> bool {
        let mut moved = false;
        loop {
            let client = &mut self.clients[i];
            let mut plan = Plan::default();
            let server = client.link.as_mut().map(|l| &mut *l.server);
            let before = plan.reply.len();
            let progress = client.session.handle_client(server, &client.sent, &mut self.shared.ctx(&mut plan));
            let progress = progress.expect("clients here keep to the protocol");
            if let Some(link) = &mut client.link {
                link.wire.to_server.extend(plan.concat(&client.sent));
            } else {
                assert!(plan.is_empty(), "bytes for a server, and no server");
            }
            client.seen.extend(&plan.reply[before..]);
            client.sent.drain(..progress.consumed);
            moved |= progress.consumed > 0;
            client.waiting = progress.want == Want::Checkout;
            client.blocked = progress.want == Want::Server;
            match progress.want {
                Want::Checkout if !self.checkout(i) => return moved,
                Want::Checkout | Want::Room => moved = true,
                Want::More | Want::Server => {
                    // The server may have been done before the client's last message was through.
                    self.release_if_done(i);
                    return moved;
                }
                Want::Close => {
                    self.clients[i].closed = true;
                    return moved;
                }
            }
        }
    }

    fn checkout(&mut self, i: usize) -> bool {
        let Some((idle, mut wire)) = self.idle.pop() else { return false };
        check_idle(&idle, &wire);
        if let Some(dice) = &mut self.faults {
            wire.model.fault = Fault::roll(|sides| dice.roll(sides));
        }
        self.clients[i].link = Some(Link { server: idle.link(), wire });
        self.clients[i].waiting = false;
        true
    }

    /// The session receives some bytes of its server's.
    pub(crate) fn receive(&mut self, i: usize, n: usize) -> bool {
        let Some(link) = &mut self.clients[i].link else { return false };
        if link.wire.model.out.is_empty() {
            // It hung up of its own accord, as when it is sent a Query in the middle of a COPY.
            let closed = link.wire.model.is_closed();
            if closed {
                self.lose_server(i);
            }
            return closed;
        }
        link.wire.receive(n);
        self.pump_server(i);
        true
    }

    fn pump_server(&mut self, i: usize) {
        let client = &mut self.clients[i];
        let Link { server, wire } = client.link.as_mut().expect("a server sent something");
        let mut plan = Plan::default();
        let taken = client.session.handle_server(server, &wire.received, &mut self.shared.ctx(&mut plan));
        let taken = taken.expect("the model keeps to the protocol");
        client.seen.extend(plan.concat(&wire.received));
        wire.to_server.extend(&plan.reply);
        wire.received.drain(..taken);
        self.release_if_done(i);
        self.after_server(i);
    }

    /// The server goes back if the session is done with it; what is to be asked first is asked.
    fn release_if_done(&mut self, i: usize) {
        let client = &mut self.clients[i];
        let Some(Link { server, wire }) = &mut client.link else { return };
        if client.waiting || client.blocked || !wire.received.is_empty() {
            return;
        }
        if client.session.wants_audit(server) {
            let mut out = Vec::new();
            client.session.write_audit(server, pgsluice_session::Catalog::Unknown, &mut self.shared.registry, &mut out);
            wire.to_server.extend(out);
        } else if client.session.can_release(server) {
            self.checkin(i);
        }
    }

    /// What the server's news mean for a session that is still linked.
    fn after_server(&mut self, i: usize) {
        let client = &mut self.clients[i];
        if let Some(Link { server, .. }) = &mut client.link {
            if server.is_replay_lost() {
                return self.lose_replay(i);
            }
            let own_error = if server.is_replaying() { None } else { server.take_own_error() };
            let reset_failed = !server.is_replaying() && server.take_reset_failed();
            if let Some(body) = own_error {
                let refusal = Refusal::from_report(Report::read(&body).expect("an error"));
                self.take_back(i);
                let client = &mut self.clients[i];
                client.session.handle_refusal(&refusal, &mut client.seen);
            } else if reset_failed {
                self.take_back(i);
            }
        }
        self.pump_client(i);
    }

    /// The server did not take the client's settings: it is put right without the client.
    fn take_back(&mut self, i: usize) {
        let Link { mut server, mut wire } = self.clients[i].link.take().expect("it failed");
        server.distrust_settings();
        match clean(server, &mut wire) {
            Some(idle) => self.idle.push((idle, wire)),
            None => self.add_server(),
        }
    }

    /// A replay failed that a message was sent behind: the server is closed, as its answers to that are still to come.
    fn lose_replay(&mut self, i: usize) {
        let client = &mut self.clients[i];
        let Some(Link { mut server, mut wire }) = client.link.take() else { return };
        let body = server.take_own_error().expect("what it failed of");
        let why = Refusal::from_report(Report::read(&body).expect("an error"));
        client.session.be_careful();
        let after = client.session.handle_server_lost(&mut server, &why, &mut client.seen);
        assert_eq!(after, AfterLoss::GoOn, "nothing of the client's had begun");
        // It does what it was sent, all the same.
        wire.deliver(usize::MAX);
        assert!(!wire.model.has_run_astray(), "something of the client's ran without its settings");
        self.add_server();
        self.pump_client(i);
    }

    fn checkin(&mut self, i: usize) {
        let Link { server, mut wire } = self.clients[i].link.take().expect("it had one");
        let server = match server.release() {
            Ok(idle) => idle,
            Err(server) => match clean(server, &mut wire) {
                Some(idle) => idle,
                None => {
                    assert!(wire.model.is_spoilt(), "a server at the end of a transaction can be cleaned");
                    return self.add_server();
                }
            },
        };
        check_idle(&server, &wire);
        self.idle.insert(0, (server, wire));
    }

    /// The client hangs up: its server is cleaned. One that waits for the rest of a message is replaced.
    pub(crate) fn vanish(&mut self, i: usize) {
        let client = &mut self.clients[i];
        client.closed = true;
        client.waiting = false;
        client.script.clear();
        client.sent.clear();
        let Some(Link { server, mut wire }) = client.link.take() else { return };
        if client.session.is_mid_message() {
            return self.add_server();
        }
        let Some(idle) = clean(server, &mut wire) else {
            // One that is closed without need is lost to nobody's state; how often is for `edges` and `state` to see.
            return self.add_server();
        };
        check_idle(&idle, &wire);
        self.idle.push((idle, wire));
    }

    /// No server for a client that waits for one. Did it?
    pub(crate) fn refuse(&mut self, i: usize) -> bool {
        let client = &mut self.clients[i];
        if !std::mem::take(&mut client.waiting) {
            return false;
        }
        client.session.handle_refusal(&Refusal::ShuttingDown, &mut client.seen);
        self.pump_client(i);
        true
    }

    /// The client's server hangs up, with what it sent and we did not read; there is another one. Was the client cut off
    /// in the middle of a message?
    pub(crate) fn lose_server(&mut self, i: usize) -> bool {
        let client = &mut self.clients[i];
        let Some(Link { mut server, .. }) = client.link.take() else { return false };
        let told = client.seen.len();
        let after = client.session.handle_server_lost(&mut server, &Refusal::ServerLost, &mut client.seen);
        self.add_server();
        if after == AfterLoss::GoOn {
            self.pump_client(i);
            return false;
        }
        let client = &mut self.clients[i];
        client.closed = true;
        client.script.clear();
        client.sent.clear();
        client.seen.len() == told
    }
}

/// Brings a server without a client to where it can be lent; `None` if it is hopeless.
pub(crate) fn clean(mut server: Box<Server>, wire: &mut Wire) -> Option<IdleServer> {
    for _ in 0..CLEAN_STEPS_MAX {
        let mut out = Vec::new();
        let next = server.clean(&mut out);
        wire.to_server.extend(out);
        match next {
            Cleanup::Done => return Some(server.release().expect("clean said Done")),
            Cleanup::Hopeless => return None,
            Cleanup::Wait => {}
        }
        wire.deliver(usize::MAX);
        wire.receive(usize::MAX);
        let taken = server.handle_alone(&wire.received, &mut Plan::default());
        wire.received.drain(..taken.expect("the model keeps to the protocol"));
    }
    panic!("not clean after {CLEAN_STEPS_MAX} steps: {server:?}\nmodel: {:?}", wire.model);
}

/// What is lent again is as the ledger says it is.
fn check_idle(idle: &IdleServer, wire: &Wire) {
    assert!(!wire.model.has_run_astray(), "something of a client's ran without its settings");
    let mut model = wire.model.clone();
    model.feed(&wire.to_server.iter().copied().collect::<Vec<_>>());
    assert_eq!(model.leftovers(), [""; 0], "left behind on an idle server: {:?}", idle.server());
    let noted: Values = idle.server().settings().iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
    let mut changed = model.changed_settings();
    // What nobody has heard of is reset when another client gets the server.
    changed.remove("app.hidden");
    assert!(changed.iter().all(|(n, v)| noted.get(n) == Some(v)), "settings {changed:?}, noted {noted:?}");
    let max = idle.server().prepared_count();
    let ours = model.statement_names().into_iter().filter(|name| !OURS.contains(&name.as_str())).collect::<Vec<_>>();
    assert!(ours.len() <= max, "statements {ours:?}, noted {max}");
}

/// Splits bytes into messages; panics when the last one is not whole.
pub(crate) fn messages(mut bytes: &[u8]) -> Vec<(u8, &[u8])> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let head = Head::read(bytes).unwrap().expect("whole messages");
        assert!(bytes.len() >= head.total(), "half a message: {}", bytes.escape_ascii());
        all.push((head.tag, &bytes[HEAD_LEN..head.total()]));
        bytes = &bytes[head.total()..];
    }
    all
}
