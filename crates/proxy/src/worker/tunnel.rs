//! A replication connection: one client, one WAL sender of its own, and every byte passed on as it came.
//!
//! Nothing of it is understood here, so there is nothing to pool: the server was opened for this client with its own
//! startup parameters, and is closed with it. PostgreSQL counts WAL senders apart (`max_wal_senders`), so no permit is held.

use std::io;
use std::rc::Rc;
use std::time::Instant;

use pgsluice_session::{CancelKey, Params};
use pgsluice_wire::{BackendWriter, TxStatus};
use tracing::{debug, info};

use super::conn::Live;
use super::slot::{Doing, Slot};
use super::{State, Worker};
use crate::buffer::Buffer;
use crate::message::{NewTunnel, ToFront};
use crate::net::Stream;
use crate::reactor::{Task, come_again};

/// Rounds of passing on from both sides before others have their turn.
const ROUNDS_MAX: usize = 2;

/// One end, and what waits to be written to it.
struct End {
    stream: Stream,
    outbox: Buffer,
}

/// How one direction stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flow {
    /// Bytes came and were passed on.
    Moved,
    /// Nothing can move now.
    Still,
    /// Who speaks has hung up.
    SourceGone,
    /// Who listens has.
    SinkGone,
}

/// The task.
struct Tunnel {
    worker: Rc<Worker>,
    slot: Rc<Slot>,
    key: CancelKey,
    client: End,
    server: End,
    /// The server has hung up: what it said last is still to be delivered.
    server_gone: bool,
}

impl Worker {
    /// Begins to pass on what both sides say.
    pub(super) fn open_tunnel(self: &Rc<Self>, new: NewTunnel) {
        let NewTunnel { parcel, client, server, info, key, params } = new;
        let slot = Rc::new(Slot::new(&client, client.settings.clone()));
        let ends = parcel.unpack().and_then(|client| Ok((client, server.unpack()?)));
        let (stream, server) = match ends {
            Ok(ends) => ends,
            Err(error) => {
                debug!(%error, "a replication connection could not be registered");
                return self.reception.leave(slot.pid);
            }
        };
        slot.set_doing(Doing::Replicating, Instant::now());
        *slot.link.borrow_mut() = Some(Rc::new(Live::new(info, 0)));
        let mut to_client = Buffer::default();
        to_client.push(&client.late);
        greet(to_client.tail(), &slot, &params);
        let mut to_server = Buffer::default();
        to_server.push(&client.early);
        let mut state = self.cell.borrow_mut();
        state.clients.insert(slot.pid, slot.clone());
        let pool = state.pool(slot.pool);
        pool.clients += 1;
        pool.stats.client_login_count += 1;
        drop(state);
        let client = End { stream, outbox: to_client };
        let server = End { stream: server, outbox: to_server };
        self.reactor.start(|id| {
            slot.task.set(id);
            client.stream.hand_to(id);
            server.stream.hand_to(id);
            Tunnel { worker: self.clone(), slot, key, client, server, server_gone: false }
        });
    }
}

/// What PostgreSQL told at its login, with the client's own key for cancel requests.
fn greet(out: &mut Vec<u8>, slot: &Slot, params: &Params) {
    for (name, value) in params.iter() {
        BackendWriter(out).parameter_status(name.as_bytes(), value.as_bytes());
    }
    BackendWriter(out).key_data(slot.pid, &slot.secret);
    BackendWriter(out).ready(TxStatus::Idle);
}

impl Tunnel {
    /// Moves what can be moved. `Err`: it is over, and why.
    fn run(&mut self, state: &mut State) -> Result<(), &'static str> {
        let orders = self.slot.take_orders().unwrap_or_default();
        if orders.kill.is_some() {
            // No word of ours: where messages begin in what went before is not known here.
            return Err("closed by pgsluice");
        }
        if let Some(asker) = orders.cancel {
            let address = state.pool(self.slot.pool).spec.target.address.clone();
            let done = tokio::sync::oneshot::channel().0;
            self.worker.tell(ToFront::Cancel { address, key: self.key.clone(), done, asker: Some(asker) });
        }
        for _ in 0..ROUNDS_MAX {
            let mut scratch = std::mem::take(&mut state.scratch);
            let to_client = if self.server_gone {
                deliver(&mut self.client)
            } else {
                move_on(&mut self.server, &mut self.client, &mut scratch)
            };
            let to_server =
                if self.server_gone { Flow::Still } else { move_on(&mut self.client, &mut self.server, &mut scratch) };
            state.scratch = scratch;
            self.server_gone |= to_client == Flow::SourceGone;
            if to_client == Flow::SinkGone || to_server == Flow::SourceGone {
                return Err("client hung up");
            }
            if self.server_gone && self.client.outbox.is_empty() {
                return Err("server hung up");
            }
            // A server that takes nothing more has something to say, or its end comes next.
            if to_client != Flow::Moved && to_server != Flow::Moved {
                return Ok(());
            }
        }
        come_again();
        Ok(())
    }

    fn finish(&self, state: &mut State, reason: &str) {
        self.client.stream.say_goodbye();
        self.server.stream.say_goodbye();
        state.clients.remove(&self.slot.pid);
        let entry = state.pool(self.slot.pool);
        entry.clients -= 1;
        if entry.spec.log_disconnections {
            info!(client = self.slot.id, user = %self.slot.user, database = %entry.spec.database, %reason, "replication client gone");
        }
        self.worker.reception.leave(self.slot.pid);
    }
}

/// Passes on what one end has said, unless the other has not taken the last of it yet.
fn move_on(from: &mut End, to: &mut End, scratch: &mut [u8]) -> Flow {
    let waiting = deliver(to);
    if waiting == Flow::SinkGone || !to.outbox.is_empty() {
        return waiting;
    }
    match from.stream.try_read(scratch) {
        // TLS may have more that it did not get to.
        Err(e) if e.kind() == io::ErrorKind::WouldBlock && from.stream.is_readable() => Flow::Moved,
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Flow::Still,
        Ok(0) | Err(_) => Flow::SourceGone,
        Ok(n) => match to.outbox.send(std::iter::once(&scratch[..n]), &to.stream) {
            Ok(()) => Flow::Moved,
            Err(_) => Flow::SinkGone,
        },
    }
}

/// Writes what waits for one end.
fn deliver(to: &mut End) -> Flow {
    match to.outbox.flush(&to.stream) {
        Err(_) => Flow::SinkGone,
        _ => Flow::Still,
    }
}

impl Task for Tunnel {
    fn turn(&mut self) -> bool {
        let worker = self.worker.clone();
        let mut state = worker.cell.borrow_mut();
        match self.run(&mut state) {
            Ok(()) => false,
            Err(reason) => {
                self.finish(&mut state, reason);
                true
            }
        }
    }
}
