//! A client's task: wait for readiness, a grant or an order; apply; flush. Everything it decides, the session decides.

mod end;
mod listen;
mod loss;
mod state;
mod welcome;

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use pgsluice_pool::{Checkout, PoolId, Ticket};
use pgsluice_session::{Ctx, Refusal, Session, Settings, Want};
use pgsluice_wire::{BackendWriter, Report, Severity, TxStatus};
use tokio::sync::oneshot;

use end::End;
pub(super) use welcome::Welcome;

use super::conn::{Idle, Linked};
use super::recover::Left;
use super::slot::{Doing, Grant, Orders, Slot};
use super::{PoolState, State, Worker};
use crate::buffer::Buffer;
use crate::message::NewClient;
use crate::net::Stream;
use crate::reactor::{Task, TaskId, come_again};

/// Bytes that may wait for a side that does not take them before the other side is read no more.
const OUTBOX_MAX: usize = 64 << 10;
/// Bytes that are read ahead from a client that waits.
const AHEAD_MAX: usize = 64 << 10;

/// A Terminate message.
const TERMINATE: [u8; 5] = *b"X\0\0\0\x04";

/// Servers in a row that may be lost while they are brought to a client's settings before it is told.
const LOST_REPLAYS_MAX: u32 = 3;

/// Where the session is.
#[derive(Debug, PartialEq, Eq)]
enum Phase {
    /// The client has not been told the server's parameters.
    Welcome,
    Open,
}

/// What the session waits for before it takes more of its client's bytes.
#[derive(Debug, PartialEq, Eq)]
enum Block {
    None,
    /// A server, in the queue.
    Queue(Ticket),
    /// Progress of its server.
    Server,
    /// Its server to have taken what was sent.
    Room,
}

/// The task.
pub(super) struct Client {
    worker: Rc<Worker>,
    slot: Rc<Slot>,
    stream: Stream,
    session: Session,
    pool: PoolId,
    phase: Phase,
    block: Block,
    link: Option<Linked>,
    /// What the client sent and the session has not taken.
    inbox: Buffer,
    outbox: Buffer,
    /// The outbox holds answers of ours that go out with the server's.
    hold: bool,
    /// Servers lost one after the other while they were brought to its settings.
    lost_replays: u32,
    /// The client hung up, with Terminate as its last word: what it sent before that is still to be done.
    farewell: bool,
}

impl Client {
    pub(super) fn new(
        worker: Rc<Worker>,
        slot: Rc<Slot>,
        stream: Stream,
        new: NewClient,
        settings: Arc<Settings>,
    ) -> Self {
        let spec = &new.pool;
        let session = Session::new(new.id, spec.pooling, spec.max_prepared, settings).with_tracking(spec.tracking);
        let (mut inbox, mut outbox) = (Buffer::default(), Buffer::default());
        inbox.push(&new.early);
        outbox.push(&new.late);
        Self {
            worker,
            slot,
            stream,
            session,
            pool: spec.id,
            phase: Phase::Welcome,
            block: Block::None,
            link: None,
            inbox,
            outbox,
            hold: true,
            lost_replays: 0,
            farewell: false,
        }
    }

    /// As the task of this name.
    pub(super) fn named(self, id: TaskId) -> Self {
        self.slot.task.set(id);
        self.stream.hand_to(id);
        self
    }

    fn run(&mut self, state: &mut State) -> Result<(), End> {
        if self.slot.is_called.take() {
            self.take_orders(state)?;
        }
        if self.phase == Phase::Welcome && self.link.is_none() && self.block == Block::None {
            self.welcome(state)?;
        }
        let mut progress = false;
        self.flush()?;
        if let Some(link) = &mut self.link {
            link.conn.flush();
        }
        if self.block == Block::Room && self.is_unclogged() {
            self.process_inbox(state)?;
            progress = true;
        }
        let server_speaks = self.link.as_ref().is_some_and(|l| l.conn.stream.is_readable());
        if server_speaks && (self.hold || self.outbox.len() < OUTBOX_MAX) {
            progress |= self.read_server(state)?;
        }
        if self.farewell || self.stream.is_readable() {
            progress |= self.read_client(state)?;
        }
        // The server may have been done before the client's last message was through, or the outbox empty.
        let asks = self.phase == Phase::Open && self.release_if_done(state);
        let tells = self.session.is_listening() && self.tell_notifications();
        // Answers of ours, to which no server adds anything.
        self.flush()?;
        if asks || tells || progress && self.may_go_on() {
            // Behind others, and behind new events: what was read may have been 64 KB from each side.
            come_again();
        }
        Ok(())
    }

    /// Writes what waits for the client, unless that waits for something else.
    #[inline]
    fn flush(&mut self) -> Result<(), End> {
        if !self.is_held() && self.outbox.flush(&self.stream).is_err() {
            return Err(End::Vanished);
        }
        Ok(())
    }

    /// Does the outbox wait for the server's answer? What is held is not to keep us from reading what the answer depends on.
    fn is_held(&self) -> bool {
        self.hold && self.outbox.len() < OUTBOX_MAX
    }

    /// May there be something to do before the next event?
    fn may_go_on(&self) -> bool {
        let server = |l: &Linked| l.conn.stream.is_readable() || !l.conn.outbox.is_empty();
        self.farewell
            || self.stream.is_readable()
            || self.block == Block::Room
            || self.link.as_ref().is_some_and(server)
    }

    /// What others want of this session.
    fn take_orders(&mut self, state: &mut State) -> Result<(), End> {
        let orders = self.slot.take_orders();
        if let Some(refusal) = orders.as_ref().and_then(|orders| orders.kill.clone()) {
            return Err(End::Refused(refusal));
        }
        if let Some(grant) = self.slot.grant.take() {
            self.take_grant(state, grant)?;
        }
        if self.slot.lease_over.get() {
            self.watch_lease(state);
        }
        let Some(orders) = orders else { return Ok(()) };
        let Orders { cancel, mail, switch_late, notice_due, .. } = *orders;
        if let Some(done) = cancel {
            self.cancel(state, done)?;
        }
        self.take_mail(state, mail, switch_late)?;
        if notice_due && matches!(self.block, Block::Queue(_)) && self.phase == Phase::Open {
            let text = "No server connection is available yet, waiting in the queue";
            BackendWriter(self.outbox.tail()).report(Severity::Notice, "00000", text, "", "See SHOW POOLS.");
        }
        Ok(())
    }

    fn take_grant(&mut self, state: &mut State, grant: Grant) -> Result<(), End> {
        let now = state.now;
        self.block = Block::None;
        let waited = now.saturating_duration_since(self.slot.since.get());
        match grant {
            Grant::Server(mut idle) => {
                let fit = idle.is_fit(&mut state.plan);
                let entry = state.pool(self.pool);
                entry.stats.wait_time_us += micros(waited);
                if fit {
                    self.set_link(entry, idle, now);
                } else {
                    entry.pool.lose();
                    self.worker.close(self.pool, idle, false);
                }
                self.go_on(state)
            }
            Grant::Refused(refusal) => self.refuse(state, refusal),
        }
    }

    /// No server for this session, for now.
    fn refuse(&mut self, state: &mut State, refusal: Refusal) -> Result<(), End> {
        self.slot.set_doing(Doing::Idle, state.now);
        let log = state.pool(self.pool).spec.log_errors;
        self.turn_away(log, refusal)?;
        self.process_inbox(state)
    }

    fn cancel(&mut self, state: &mut State, asker: oneshot::Sender<()>) -> Result<(), End> {
        if let Block::Queue(ticket) = self.block
            && self.phase == Phase::Open
            && state.pool(self.pool).pool.leave(ticket)
        {
            self.block = Block::None;
            return self.refuse(state, Refusal::Canceled);
        }
        if let Some(Linked { conn, server }) = &mut self.link
            && !server.is_ready()
        {
            let spec = state.pool(self.pool).spec.clone();
            self.worker.send_cancel(conn, server, &spec, Some(asker));
        }
        Ok(())
    }

    /// With a server or without, what the client sent is looked at again.
    fn go_on(&mut self, state: &mut State) -> Result<(), End> {
        match self.phase {
            Phase::Welcome => self.welcome(state),
            Phase::Open => self.process_inbox(state),
        }
    }

    /// A server now (`true`), or a place in the queue. Where the queue is full, the message that wants a server has been
    /// answered, and there is no need of one (`true`).
    fn checkout(&mut self, state: &mut State) -> Result<bool, End> {
        let State { pools, plan, now, .. } = state;
        let now = *now;
        let entry = pools[self.pool.0].as_mut().expect("the pool of a client is known");
        loop {
            let settings = self.session.settings();
            match entry.pool.checkout(self.slot.clone(), now, |idle: &Idle| idle.has(settings)) {
                Checkout::Server(mut idle) => {
                    if idle.is_fit(plan) {
                        self.set_link(entry, idle, now);
                        return Ok(true);
                    }
                    entry.pool.lose();
                    self.worker.close(self.pool, idle, false);
                }
                Checkout::Wait(ticket) if entry.is_queue_full() => {
                    entry.pool.leave(ticket);
                    let refusal = Refusal::QueueFull { max: entry.spec.waiting.1 };
                    self.turn_away(entry.spec.log_errors, refusal)?;
                    return Ok(true);
                }
                Checkout::Wait(ticket) => {
                    self.block = Block::Queue(ticket);
                    self.slot.set_doing(Doing::Waiting, now);
                    self.slot.noticed.set(false);
                    self.worker.report_demand(entry, true, now);
                    return Ok(false);
                }
            }
        }
    }

    fn set_link(&mut self, entry: &mut PoolState, idle: Idle, now: Instant) {
        entry.stats.server_assignment_count += 1;
        self.slot.set_doing(Doing::Active, now);
        self.slot.linked_since.set(now);
        *self.slot.link.borrow_mut() = Some(idle.conn.live.clone());
        idle.conn.stream.hand_to(self.slot.task.get());
        self.link = Some(idle.link());
    }

    /// The server goes back if the session is done with it, and nothing has to be asked of it first. Is there more to do?
    fn release_if_done(&mut self, state: &mut State) -> bool {
        let clear = |l: &Linked| l.conn.inbox.is_empty() && l.conn.outbox.is_empty();
        // What waits for the server's progress is its client's next message: that comes first.
        let waits = self.block != Block::None || !self.link.as_ref().is_some_and(clear);
        if waits {
            return false;
        }
        if self.begin_audit(state) || self.listen(state) {
            return true;
        }
        let done = self.link.as_ref().is_some_and(|l| self.session.can_release(&l.server));
        if done && let Some(link) = self.link.take() {
            let now = state.now;
            self.hold = false;
            self.slot.link.borrow_mut().take();
            self.slot.set_doing(Doing::Idle, now);
            self.slot.statements.set(self.session.statement_count());
            let entry = state.pool(self.pool);
            entry.stats.xact_time_us += micros(now.saturating_duration_since(self.slot.linked_since.get()));
            let Linked { conn, mut server } = link;
            if conn.deaf {
                server.set_close_needed();
            }
            conn.live.prepared.set(server.prepared_count());
            self.tell_state(state);
            match server.release() {
                Ok(server) => self.worker.give_back(state, self.pool, Idle { conn, server }, now),
                Err(server) => self.worker.recover(state, self.pool, Linked { conn, server }, Left::default()),
            }
        }
        false
    }

    fn process_inbox(&mut self, state: &mut State) -> Result<(), End> {
        if self.inbox.is_empty() || self.phase == Phase::Welcome {
            return Ok(());
        }
        let inbox = self.inbox.take();
        let result = self.process(state, inbox.as_slice());
        let mut rest = inbox;
        if let Ok(taken) = &result {
            rest.consume(*taken);
            self.inbox = rest;
        }
        result.map(|_| ())
    }

    /// The session takes what it can of `input`; returns how much that was.
    fn process(&mut self, state: &mut State, input: &[u8]) -> Result<usize, End> {
        let mut at = 0;
        self.block = Block::None;
        loop {
            let was_ready = self.link.as_ref().is_none_or(|l| l.server.is_ready());
            let was_outside = self.link.as_ref().is_none_or(|l| l.server.tx() == TxStatus::Idle);
            let State { pools, registry, plan, .. } = &mut *state;
            plan.clear();
            let entry = pools[self.pool.0].as_mut().expect("the pool of a client is known");
            let PoolState { counters, knowledge, .. } = &mut **entry;
            let ctx = &mut Ctx { registry, counters, catalog: knowledge.catalog(), plan };
            let progress = self.session.handle_client(self.link.as_mut().map(|l| &mut *l.server), &input[at..], ctx);
            self.send_plan(plan, &input[at..]);
            if self.session.is_listening() {
                self.note_mark(state);
            }
            if was_ready && self.link.as_ref().is_some_and(|l| !l.server.is_ready()) {
                self.slot.set_doing(Doing::Active, state.now);
                if was_outside {
                    self.slot.linked_since.set(state.now);
                }
            }
            let progress = progress.map_err(|v| End::Refused(v.into()))?;
            at += progress.consumed;
            match progress.want {
                Want::More => break,
                Want::Close => return Err(End::Terminated),
                Want::Server => {
                    self.block = Block::Server;
                    break;
                }
                Want::Room if self.is_unclogged() => {}
                Want::Room => {
                    self.block = Block::Room;
                    break;
                }
                Want::Checkout if self.checkout(state)? => {}
                Want::Checkout => break,
            }
        }
        Ok(at)
    }

    /// Sends what the session decided on the client's bytes.
    fn send_plan(&mut self, plan: &pgsluice_session::Plan, input: &[u8]) {
        if !plan.reply.is_empty() {
            // An answer of ours need not go out alone where the server's follows; but one that was to go out already is not
            // kept for it.
            let may_wait = self.hold || self.outbox.is_empty();
            self.outbox.push(&plan.reply);
            self.hold = may_wait && self.link.as_ref().is_some_and(|l| l.server.owes());
        }
        if plan.flush_due {
            self.hold = false;
        }
        if let Some(Linked { conn, .. }) = &mut self.link
            && !plan.is_empty()
        {
            conn.send(plan.slices(input));
        }
    }

    /// Has its server, if it has one, taken all it was sent?
    fn is_unclogged(&self) -> bool {
        self.link.as_ref().is_none_or(|l| l.conn.outbox.is_empty())
    }

    /// Reads from the client once. Was there anything?
    fn read_client(&mut self, state: &mut State) -> Result<bool, End> {
        // Who waits is read ahead a little, so that its end is noticed.
        let waits = self.block != Block::None || self.phase == Phase::Welcome;
        if self.farewell {
            return if waits { Ok(false) } else { Err(End::Vanished) };
        }
        let full = waits && self.inbox.len() >= AHEAD_MAX;
        if full || !self.is_unclogged() || self.outbox.len() >= OUTBOX_MAX {
            return Ok(false);
        }
        let mut scratch = std::mem::take(&mut state.scratch);
        let outcome = self.read_client_into(state, &mut scratch, waits);
        state.scratch = scratch;
        outcome
    }

    fn read_client_into(&mut self, state: &mut State, scratch: &mut [u8], waits: bool) -> Result<bool, End> {
        let n = match self.stream.try_read(scratch) {
            // TLS may have more that it did not get to.
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(self.stream.is_readable()),
            Ok(0) if waits && self.inbox.as_slice().ends_with(&TERMINATE) => {
                self.farewell = true;
                return Ok(false);
            }
            Ok(0) | Err(_) => return Err(End::Vanished),
            Ok(n) => n,
        };
        state.pool(self.pool).stats.received += n as u64;
        if waits || !self.inbox.is_empty() {
            self.inbox.push(&scratch[..n]);
            if !waits {
                self.process_inbox(state)?;
            }
            return Ok(true);
        }
        let taken = self.process(state, &scratch[..n])?;
        if taken < n {
            self.inbox.push(&scratch[taken..n]);
        }
        Ok(true)
    }

    /// Reads from the server once. Was there anything?
    fn read_server(&mut self, state: &mut State) -> Result<bool, End> {
        let mut scratch = std::mem::take(&mut state.scratch);
        let outcome = self.read_server_into(state, &mut scratch);
        state.scratch = scratch;
        outcome
    }

    fn read_server_into(&mut self, state: &mut State, scratch: &mut [u8]) -> Result<bool, End> {
        let Some(Linked { conn, .. }) = &mut self.link else { return Ok(false) };
        let n = match conn.stream.try_read(scratch) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(conn.stream.is_readable()),
            Ok(0) | Err(_) => {
                self.lose_server(state, Refusal::ServerLost)?;
                return Ok(true);
            }
            Ok(n) => n,
        };
        if conn.inbox.is_empty() {
            let taken = self.handle_server(state, &scratch[..n])?;
            if let Some(link) = &mut self.link {
                link.conn.inbox.push(&scratch[taken..n]);
            }
        } else {
            let mut inbox = conn.inbox.take();
            inbox.push(&scratch[..n]);
            let taken = self.handle_server(state, inbox.as_slice())?;
            inbox.consume(taken);
            if let Some(link) = &mut self.link {
                link.conn.inbox = inbox;
            }
        }
        self.after_server(state)?;
        Ok(true)
    }

    /// The session takes what the server sent; the client gets its part. Returns how much was taken.
    fn handle_server(&mut self, state: &mut State, input: &[u8]) -> Result<usize, End> {
        let Some(Linked { server, .. }) = &mut self.link else { return Ok(input.len()) };
        let mut plan = state.downward.take().unwrap_or_default();
        plan.clear();
        let was_ready = server.is_ready();
        let result = {
            let State { pools, registry, .. } = &mut *state;
            let entry = pools[self.pool.0].as_mut().expect("the pool of a client is known");
            entry.stats.sent += input.len() as u64;
            let PoolState { counters, knowledge, .. } = &mut **entry;
            let ctx = &mut Ctx { registry, counters, catalog: knowledge.catalog(), plan: &mut plan };
            self.session.handle_server(server, input, ctx)
        };
        if server.take_catalog_changed() {
            state.pool(self.pool).knowledge.set_outdated();
        }
        if !was_ready && server.is_ready() {
            let now = state.now;
            let ran = micros(now.saturating_duration_since(self.slot.since.get()));
            state.pool(self.pool).stats.query_time_us += ran;
            let outside = server.tx() == TxStatus::Idle;
            self.slot.set_doing(if outside { Doing::Idle } else { Doing::IdleInTransaction }, now);
            if !outside {
                *self.slot.statement.borrow_mut() = server.last_statement().into();
            }
        }
        if self.session.breaks_statement_pooling(server) {
            state.downward = Some(plan);
            return Err(End::Refused(Refusal::BlockInStatementPooling));
        }
        // The server is somebody else's before this client's bytes are on their way.
        if self.phase == Phase::Open && result.as_ref().is_ok_and(|&taken| taken == input.len()) {
            self.release_if_done(state);
        }
        let sent = if plan.is_empty() {
            Ok(())
        } else {
            self.hold = false;
            self.outbox.send(plan.slices(input), &self.stream)
        };
        state.downward = Some(plan);
        sent.map_err(|_| End::Vanished)?;
        match result {
            Ok(taken) => Ok(taken),
            Err(violation) => {
                tracing::warn!(server = self.slot.link.borrow().as_ref().map(|l| l.info.id), %violation, "server broke the protocol");
                self.lose_server(state, Refusal::ServerLost)?;
                Ok(input.len())
            }
        }
    }

    /// What the server's news mean for a session that is still linked.
    fn after_server(&mut self, state: &mut State) -> Result<(), End> {
        let Some(Linked { server, .. }) = &mut self.link else {
            return if self.block == Block::Server { self.process_inbox(state) } else { Ok(()) };
        };
        if server.is_replay_lost() {
            return self.lose_replay(state);
        }
        if !server.is_replaying()
            && let Some(body) = server.take_own_error()
        {
            let refusal = Report::read(&body).map_or(Refusal::ServerLost, Refusal::from_report);
            let pinned = server.is_pinned();
            self.take_back(state);
            // What kept it there is gone.
            if pinned {
                return Err(End::Refused(refusal));
            }
            self.session.undo_return().map_err(End::Refused)?;
            return self.refuse(state, refusal);
        }
        if !server.is_replaying() && server.take_reset_failed() {
            self.take_back(state);
            self.session.undo_return().map_err(End::Refused)?;
            return self.go_on(state);
        }
        if server.is_pinned() || self.slot.pinned.borrow().is_some() {
            self.watch_lease(state);
            self.tell_state(state);
        }
        match (&self.phase, &self.block) {
            (Phase::Welcome, _) => self.welcome(state),
            (Phase::Open, Block::Server) => self.process_inbox(state),
            _ => Ok(()),
        }
    }
}

impl Task for Client {
    fn turn(&mut self) -> bool {
        let worker = self.worker.clone();
        let mut state = worker.cell.borrow_mut();
        state.now = worker.reactor.now();
        match self.run(&mut state) {
            Ok(()) => false,
            Err(end) => {
                self.finish(&mut state, &end);
                true
            }
        }
    }
}

fn micros(d: std::time::Duration) -> u64 {
    u64::try_from(d.as_micros()).unwrap_or(u64::MAX)
}
