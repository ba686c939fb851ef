//! A session and its server, driven by anything: raw bytes and well-formed messages from both sides, servers given,
//! refused, lost and taken back, cut wherever the input says.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use pgsluice_session::{
    AfterLoss, CancelKey, Catalog, Cleanup, Counters, Ctx, IdleServer, Params, Plan, Pooling, Refusal, Registry,
    Server, Session, Settings, Tracking, Want,
};

/// What a client may well send.
const FRONTEND: [&[u8]; 26] = [
    b"Q\0\0\0\x0dselect 1\0",
    b"Q\0\0\0\x10discard all\0",
    b"Q\0\0\0\x11deallocate a\0",
    b"P\0\0\0\x10\0select 1\0\0\0",
    b"P\0\0\0\x11a\0select 1\0\0\0",
    b"P\0\0\0\x11b\0select 1\0\0\0",
    b"P\0\0\0\x11a\0select 2\0\0\0",
    b"B\0\0\0\x0c\0\0\0\0\0\0\0\0",
    b"B\0\0\0\x0d\0a\0\0\0\0\0\0\0",
    b"B\0\0\0\x16\0pgsluice_1\0\0\0\0\0\0\0",
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
    b"X\0\0\0\x04",
    b"Q\0\0\0\x10set app.x y\0",
    b"Q\0\0\0\x18create temp table t\0",
    b"Q\0\0\0\x0bcommit\0",
    b"P\0\0\0\x13\0set app.x y\0\0\0",
];

/// What a server may well send.
const BACKEND: [&[u8]; 28] = [
    b"Z\0\0\0\x05I",
    b"Z\0\0\0\x05T",
    b"Z\0\0\0\x05E",
    b"1\0\0\0\x04",
    b"2\0\0\0\x04",
    b"3\0\0\0\x04",
    b"n\0\0\0\x04",
    b"s\0\0\0\x04",
    b"I\0\0\0\x04",
    b"t\0\0\0\x06\0\0",
    b"T\0\0\0\x06\0\0",
    b"D\0\0\0\x06\0\0",
    b"C\0\0\0\x0dSELECT 1\0",
    b"C\0\0\0\x08SET\0",
    b"C\0\0\0\x0bLISTEN\0",
    b"C\0\0\0\x10DISCARD ALL\0",
    b"C\0\0\0\x13DEALLOCATE ALL\0",
    b"G\0\0\0\x07\0\0\0",
    b"H\0\0\0\x07\0\0\0",
    b"d\0\0\0\x05x",
    b"c\0\0\0\x04",
    b"E\0\0\0\x17SERROR\0C26000\0Mx\0\0\0",
    b"E\0\0\0\x17SFATAL\0C57P01\0Mx\0\0\0",
    b"S\0\0\0\x11TimeZone\0UTC\0",
    b"D\0\0\0\x1a\0\x03\0\0\0\x01s\0\0\0\x05app.x\0\0\0\x0279",
    b"D\0\0\0\x13\0\x03\0\0\0\x01t\xff\xff\xff\xff\xff\xff\xff\xff",
    b"C\0\0\0\x0aRESET\0",
    b"C\0\0\0\x09LOAD\0",
];

/// Steps of cleaning after which a server that answers nothing is closed.
const CLEAN_STEPS_MAX: usize = 8;

struct World {
    registry: Registry,
    counters: Counters,
    plan: Plan,
    session: Session,
    server: Option<Box<Server>>,
    sent: Vec<u8>,
    received: Vec<u8>,
}

impl World {
    fn new(max_prepared: usize, tracking: Tracking) -> Self {
        let base = Arc::new(Settings::default().with("TimeZone", "Mars"));
        Self {
            registry: Registry::new(0, 1),
            counters: Counters::default(),
            plan: Plan::default(),
            session: Session::new(1, Pooling::Transaction, max_prepared, base).with_tracking(tracking),
            server: None,
            sent: Vec::new(),
            received: Vec::new(),
        }
    }

    /// Did the client keep to the protocol?
    fn client(&mut self, bytes: &[u8]) -> bool {
        self.sent.extend(bytes);
        self.plan.clear();
        let ctx = &mut Ctx {
            registry: &mut self.registry,
            counters: &mut self.counters,
            catalog: Catalog::Unknown,
            plan: &mut self.plan,
        };
        let progress = self.session.handle_client(self.server.as_deref_mut(), &self.sent, ctx);
        let _ = self.plan.concat(&self.sent);
        assert!(self.server.is_some() || self.plan.is_empty());
        let Ok(progress) = progress else { return false };
        self.sent.drain(..progress.consumed);
        progress.want != Want::Close
    }

    /// Did the server?
    fn server(&mut self, bytes: &[u8]) -> bool {
        let Some(server) = self.server.as_deref_mut() else { return true };
        self.received.extend(bytes);
        self.plan.clear();
        let ctx = &mut Ctx {
            registry: &mut self.registry,
            counters: &mut self.counters,
            catalog: Catalog::Unknown,
            plan: &mut self.plan,
        };
        let taken = self.session.handle_server(server, &self.received, ctx);
        let _ = self.plan.concat(&self.received);
        let Ok(taken) = taken else { return false };
        self.received.drain(..taken);
        if self.session.wants_audit(server) && self.received.is_empty() {
            self.session.write_audit(server, Catalog::Unknown, &mut self.registry, &mut Vec::new());
        }
        if self.session.can_release(server) {
            let server = self.server.take().expect("looked at");
            assert!(server.is_quiet());
            self.server = server.release().err();
        }
        true
    }

    fn link(&mut self) {
        if self.server.is_none() {
            let key = CancelKey { pid: 1, secret: Box::new([0; 4]) };
            self.received.clear();
            self.server = Some(IdleServer::fresh(Server::new(key, Params::default())).link());
        }
    }

    /// Does the session go on?
    fn lose(&mut self) -> bool {
        let Some(mut server) = self.server.take() else { return true };
        let mut reply = Vec::new();
        self.session.handle_server_lost(&mut server, &Refusal::ServerLost, &mut reply) == AfterLoss::GoOn
    }

    fn clean(&mut self, answers: &[u8]) {
        let Some(mut server) = self.server.take() else { return };
        for _ in 0..CLEAN_STEPS_MAX {
            match server.clean(&mut Vec::new()) {
                Cleanup::Done => return assert!(server.release().is_ok()),
                Cleanup::Hopeless => return,
                Cleanup::Wait => {}
            }
            if server.handle_alone(answers, &mut self.plan).is_err() {
                return;
            }
        }
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((&first, mut input)) = input.split_first() else { return };
    let mut world =
        World::new(usize::from(first % 3), if first & 4 == 0 { Tracking::default() } else { Tracking::OFF });
    while let Some((&op, rest)) = input.split_first() {
        let n = usize::from(op >> 3);
        let raw = &rest[..n.min(rest.len())];
        input = rest;
        let goes_on = match op & 7 {
            0 | 1 => world.client(FRONTEND[n % FRONTEND.len()]),
            2 | 3 => world.server(BACKEND[n % BACKEND.len()]),
            4 => {
                world.link();
                world.client(b"")
            }
            5 if n == 0 => world.lose(),
            5 if n == 1 => return world.clean(rest),
            5 if world.server.is_none() => {
                world.session.handle_refusal(&Refusal::ShuttingDown, &mut Vec::new());
                true
            }
            6 => {
                input = &rest[raw.len()..];
                world.client(raw)
            }
            7 => {
                input = &rest[raw.len()..];
                world.server(raw)
            }
            _ => true,
        };
        if !goes_on {
            return;
        }
    }
});
