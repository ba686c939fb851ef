//! A server connection as a worker holds it: idle with the proof, linked without.

use std::rc::Rc;
use std::time::Instant;
use std::{cell::Cell, io};

use pgsluice_session::{IdleServer, Plan, Server, Settings};
use pgsluice_wire::{FrontendWriter, tag::frontend};
use tokio::sync::{Notify, oneshot};

use crate::buffer::Buffer;
use crate::message::{NewServer, ServerInfo};
use crate::net::Stream;

/// Bytes an idle server may send of its own accord between two looks.
const IDLE_READ_MAX: usize = 8 << 10;

/// What others may know of a server.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) info: ServerInfo,
    pub(crate) prepared: Cell<usize>,
    /// What a client that said good-bye left it to do is not to be finished.
    pub(crate) killed: Notify,
}

/// The connection without its machine.
#[derive(Debug)]
pub(crate) struct Conn {
    pub(crate) stream: Stream,
    pub(crate) live: Rc<Live>,
    /// Part of a message from the server.
    pub(crate) inbox: Buffer,
    /// What the server's socket has not taken yet.
    pub(crate) outbox: Buffer,
    /// It takes nothing any more. What it said before, PostgreSQL's reason perhaps, is still to be read, and then its end.
    pub(crate) deaf: bool,
    /// Cancel requests under way.
    pub(crate) cancels: Vec<oneshot::Receiver<()>>,
}

/// A server that may be lent.
#[derive(Debug)]
pub(crate) struct Idle {
    pub(crate) conn: Box<Conn>,
    pub(crate) server: IdleServer,
}

/// A server that is lent, or being cleaned.
#[derive(Debug)]
pub(crate) struct Linked {
    pub(crate) conn: Box<Conn>,
    pub(crate) server: Box<Server>,
}

impl Live {
    pub(crate) fn new(info: ServerInfo, prepared: usize) -> Self {
        Self { info, prepared: Cell::new(prepared), killed: Notify::new() }
    }
}

impl Conn {
    /// Writes what waits.
    pub(crate) fn flush(&mut self) {
        if self.outbox.flush(&self.stream).is_err() {
            self.deaf = true;
        }
        self.forget_unheard();
    }

    /// Sends `slices` behind what waits.
    pub(crate) fn send<'a>(&mut self, slices: impl Iterator<Item = &'a [u8]>) {
        self.deaf = self.deaf || self.outbox.send(slices, &self.stream).is_err();
        self.forget_unheard();
    }

    fn forget_unheard(&mut self) {
        if self.deaf && !self.outbox.is_empty() {
            self.outbox.take();
        }
    }

    /// Says good-bye, unless that would be read as the rest of a message; whether it is heard does not matter.
    pub(crate) fn close(self) {
        if !self.deaf && self.outbox.is_empty() {
            let mut bye = Vec::new();
            FrontendWriter(&mut bye).bare(frontend::TERMINATE);
            let _ = self.stream.try_write(&bye);
        }
        self.stream.say_goodbye();
    }
}

impl Idle {
    pub(crate) fn unpack(server: NewServer) -> io::Result<Self> {
        let live = Live::new(server.info, server.server.server().prepared_count());
        let stream = server.parcel.unpack()?;
        let conn = Conn {
            stream,
            live: Rc::new(live),
            inbox: Buffer::default(),
            outbox: Buffer::default(),
            deaf: false,
            cancels: Vec::new(),
        };
        Ok(Self { conn: Box::new(conn), server: server.server.at_home() })
    }

    pub(crate) fn pack(self) -> io::Result<NewServer> {
        let info = self.conn.live.info.clone();
        Ok(NewServer { parcel: self.conn.stream.pack()?, info, server: self.server })
    }

    pub(crate) fn link(self) -> Linked {
        Linked { conn: self.conn, server: self.server.link() }
    }

    pub(crate) fn has(&self, settings: &std::sync::Arc<Settings>) -> bool {
        std::sync::Arc::ptr_eq(self.server.server().settings(), settings)
    }

    pub(crate) fn is_old(&self, epoch: u64, lifetime: std::time::Duration, now: Instant) -> bool {
        let info = &self.conn.live.info;
        info.epoch < epoch || !lifetime.is_zero() && now.saturating_duration_since(info.since) >= lifetime
    }

    /// Reads what it sent while nobody asked. Is it still alive and fit? Costs no system call if it sent nothing.
    pub(crate) fn is_fit(&mut self, plan: &mut Plan) -> bool {
        while self.conn.stream.is_readable() {
            let mut bytes = [0; IDLE_READ_MAX];
            match self.conn.stream.try_read(&mut bytes) {
                Ok(0) => return false,
                Ok(n) if !matches!(self.server.handle_alone(&bytes[..n], plan), Ok(true)) => return false,
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return true,
                Err(_) => return false,
            }
        }
        true
    }
}
