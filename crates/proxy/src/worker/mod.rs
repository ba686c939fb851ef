//! One I/O thread: its sessions, servers, buffers and counters. Nothing on the path of a query is shared with another.

mod arrival;
mod catalog;
mod client;
mod conn;
mod hub;
mod recover;
mod slot;
mod snapshot;
mod tick;
mod tunnel;

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pgsluice_console::Counters as Stats;
use pgsluice_pool::{Checkin, Demand, Pool, PoolId, ShedTo};
use pgsluice_session::{Counters, Plan, Refusal, Registry, Settings, StateCounts};
use tokio::sync::{mpsc, oneshot};
use tracing::debug;

use crate::message::{Drain, NewClient, NewServer, ToFront, ToWorker};
use crate::net::Stream;
use crate::reactor::{Reactor, TaskId, yield_now};
use crate::reception::Reception;
use crate::spec::PoolSpec;
use catalog::Knowledge;
use client::Client;
use client::Welcome;
use conn::{Idle, Live};
use hub::{Candidate, SharedHub};
use slot::{Grant, Slot};

/// Bytes read from a socket at once; one such buffer per worker.
const SCRATCH_LEN: usize = 64 << 10;
/// Different sets of startup settings remembered per pool with what the server made of them.
const WELCOMES_MAX: usize = 256;
/// Names of applications per pool for which state is counted apart.
const APPLICATIONS_MAX: usize = 256;
/// Messages from the front in a row before others have their turn.
const MAIL_MAX: u64 = 32;
/// How often time is looked at.
const TICK: Duration = Duration::from_millis(200);

/// A worker, as its tasks share it. The cell is never borrowed across an await.
pub(crate) struct Worker {
    index: usize,
    reactor: Rc<Reactor>,
    front: mpsc::UnboundedSender<ToFront>,
    reception: Arc<Reception>,
    cell: RefCell<State>,
}

struct State {
    pools: Vec<Option<Box<PoolState>>>,
    clients: HashMap<u32, Rc<Slot>>,
    /// Servers being cleaned, by id.
    cleaning: HashMap<u64, (PoolId, Rc<Live>)>,
    /// Clients that keep their server for a while, and since when.
    leases: Vec<(Instant, Rc<Slot>)>,
    /// Clients on their way to a hub or back: since when, and by which mark.
    switches: Vec<(Instant, Rc<Slot>, u64)>,
    registry: Registry,
    scratch: Vec<u8>,
    /// What becomes of bytes from clients, and of bytes from servers.
    plan: Plan,
    downward: Option<Box<Plan>>,
    pauses: Vec<(Option<String>, oneshot::Sender<()>)>,
    closings: Vec<(Option<String>, oneshot::Sender<()>)>,
    /// The time when the task that runs now began to.
    now: Instant,
    drain: Option<(Drain, oneshot::Sender<()>)>,
    draining: Option<Drain>,
}

struct PoolState {
    spec: Arc<PoolSpec>,
    epoch: u64,
    pool: Pool<Idle, Rc<Slot>>,
    counters: Counters,
    stats: Stats,
    /// What servers report under startup settings seen before; an application_name in a key stands for any.
    welcomes: HashMap<Settings, Rc<Welcome>>,
    /// Clients that wait and servers to spare, as far as the front knows.
    reported: u32,
    reported_spare: u32,
    clients: usize,
    cleaning: usize,
    knowledge: Knowledge,
    /// The server that listens for all.
    hub: Option<Rc<SharedHub>>,
    /// Clients that it could listen for, by id, as long as it does not.
    candidates: HashMap<u64, Candidate>,
    /// By application_name.
    state_counts: HashMap<String, StateCounts>,
}

impl PoolState {
    fn new(spec: Arc<PoolSpec>, epoch: u64) -> Self {
        Self {
            pool: Pool::new(spec.round_robin),
            spec,
            epoch,
            counters: Counters::default(),
            stats: Stats::default(),
            welcomes: HashMap::new(),
            reported: 0,
            reported_spare: 0,
            clients: 0,
            cleaning: 0,
            knowledge: Knowledge::default(),
            hub: None,
            candidates: HashMap::new(),
            state_counts: HashMap::new(),
        }
    }

    /// Counts what following a session's state took.
    fn count_state(&mut self, application: &str, counts: &StateCounts) {
        if !self.state_counts.contains_key(application) {
            let name = if self.state_counts.len() < APPLICATIONS_MAX { application } else { "(others)" };
            self.state_counts.entry(name.into()).or_default().add(counts);
        } else if let Some(sum) = self.state_counts.get_mut(application) {
            sum.add(counts);
        }
    }

    fn serves(&self, database: Option<&str>) -> bool {
        database.is_none_or(|name| name == self.spec.database)
    }

    fn servers(&self) -> usize {
        self.pool.idle() + self.pool.linked()
    }

    /// Do more wait than may?
    fn is_queue_full(&self) -> bool {
        self.spec.waiting.0 > 0 && self.pool.waiting() > self.spec.waiting.0
    }
}

impl State {
    fn pool(&mut self, id: PoolId) -> &mut PoolState {
        self.pools[id.0].as_mut().expect("a pool is known before its clients and servers are")
    }

    fn pools(&mut self) -> impl Iterator<Item = &mut PoolState> {
        self.pools.iter_mut().flatten().map(AsMut::as_mut)
    }

    fn linked(&mut self) -> usize {
        self.pools().map(|p| p.pool.linked()).sum()
    }
}

/// Runs a worker on this thread, for as long as there is a process.
pub(crate) fn run(
    reactor: &Rc<Reactor>,
    index: usize,
    front: mpsc::UnboundedSender<ToFront>,
    reception: Arc<Reception>,
    mailbox: mpsc::UnboundedReceiver<ToWorker>,
) -> ! {
    let state = State {
        pools: Vec::new(),
        clients: HashMap::new(),
        cleaning: HashMap::new(),
        leases: Vec::new(),
        switches: Vec::new(),
        registry: Registry::new(index, reception.workers()),
        scratch: vec![0; SCRATCH_LEN],
        plan: Plan::default(),
        downward: None,
        pauses: Vec::new(),
        closings: Vec::new(),
        now: Instant::now(),
        drain: None,
        draining: None,
    };
    let worker = Rc::new(Worker { index, reactor: reactor.clone(), front, reception, cell: RefCell::new(state) });
    reactor.spawn(worker.clone().read_mail(mailbox));
    let mut tick = Instant::now();
    loop {
        let now = Instant::now();
        if now >= tick {
            worker.tick(now);
            tick = now + TICK;
        }
        reactor.turn(tick);
    }
}

impl Worker {
    fn tell(&self, message: ToFront) {
        // The front outlives the workers; when it is gone, so is the process.
        let _ = self.front.send(message);
    }

    fn handle(self: &Rc<Self>, message: ToWorker) {
        let now = Instant::now();
        match message {
            ToWorker::Listen(listener) => self.reactor.spawn(self.clone().receive(listener)),
            ToWorker::Accepted(fresh, login) => self.take_in(fresh, login),
            ToWorker::Client(parcel, client) => match parcel.unpack() {
                Ok(stream) => self.accept(stream, *client),
                Err(error) => {
                    debug!(%error, "client could not be registered");
                    self.reception.leave(client.pid);
                }
            },
            ToWorker::Tunnel(tunnel) => self.open_tunnel(*tunnel),
            ToWorker::Server { pool, server } => self.add_server(pool, *server, now),
            ToWorker::Refuse { pool, refusal } => self.refuse(pool, &refusal, now),
            ToWorker::Shed { pool, to } => self.shed(pool, to, now),
            ToWorker::Cancel { pid, secret, done } => self.cancel(pid, &secret, done),
            ToWorker::Pool { spec, epoch } => self.set_pool(spec, epoch),
            ToWorker::Pause { database, done } => self.pause(database, done),
            ToWorker::Resume { database } => self.resume(database.as_deref(), now),
            ToWorker::Kill { database } => self.kill(database.as_deref()),
            ToWorker::KillClient { id, found } => self.kill_client(id, found),
            ToWorker::WaitClose { database, done } => self.cell.borrow_mut().closings.push((database, done)),
            ToWorker::Snapshot { detail, reply } => drop(reply.send(self.snapshot(detail, now))),
            ToWorker::Drain { mode, done } => self.drain(mode, done),
        }
    }

    async fn read_mail(self: Rc<Self>, mut mailbox: mpsc::UnboundedReceiver<ToWorker>) {
        let mut in_a_row = 0;
        while let Some(message) = mailbox.recv().await {
            self.handle(message);
            in_a_row += 1;
            if in_a_row % MAIL_MAX == 0 {
                yield_now().await;
            }
        }
    }

    fn accept(self: &Rc<Self>, stream: Stream, client: NewClient) {
        let mut state = self.cell.borrow_mut();
        let settings = state.registry.intern_settings(&client.settings);
        let slot = Rc::new(Slot::new(&client, settings.clone()));
        state.clients.insert(client.pid, slot.clone());
        let pool = state.pool(client.pool.id);
        pool.clients += 1;
        pool.stats.client_login_count += 1;
        drop(state);
        let task = Client::new(self.clone(), slot, stream, client, settings);
        self.reactor.start(|id| task.named(id));
    }

    fn add_server(self: &Rc<Self>, pool: PoolId, server: NewServer, now: Instant) {
        let pid = server.info.pid;
        match Idle::unpack(server) {
            Ok(idle) => {
                let mut state = self.cell.borrow_mut();
                let entry = state.pool(pool);
                entry.reported = entry.reported.saturating_sub(1);
                self.place(&mut state, pool, idle, false, now);
            }
            Err(error) => {
                debug!(%error, "server could not be registered");
                self.tell(ToFront::Closed { pool, worker: self.index, pid, shed: false });
            }
        }
    }

    /// A server is free: for a waiter, for later, for another worker, or too old for any of them.
    fn place(&self, state: &mut State, pool: PoolId, mut idle: Idle, was_linked: bool, now: Instant) {
        idle.conn.stream.hand_to(TaskId::NOBODY);
        let draining = state.draining == Some(Drain::Servers);
        let entry = state.pool(pool);
        let timeouts = &entry.spec.timeouts;
        let used_up = was_linked && timeouts.server_lifetime.is_zero();
        if draining || used_up || idle.is_old(entry.epoch, timeouts.server_lifetime, now) {
            idle.server.set_close_needed();
            if was_linked {
                entry.pool.lose();
            }
            return self.close(pool, idle, false);
        }
        let placed = if was_linked { entry.pool.checkin(idle, now) } else { entry.pool.add(idle, now) };
        match placed {
            Checkin::Kept => {}
            Checkin::Grant(slot, idle) => slot.grant(Grant::Server(idle)),
            Checkin::Shed(idle, to) => self.give_up(pool, idle, to),
        }
    }

    fn give_up(&self, pool: PoolId, idle: Idle, to: ShedTo) {
        let pid = idle.conn.live.info.pid;
        match to {
            ShedTo::Close => self.close(pool, idle, true),
            ShedTo::Worker(other) => match idle.pack() {
                Ok(server) => {
                    self.tell(ToFront::Moved { pool, from: self.index, to: other, server: Box::new(server) });
                }
                Err(error) => {
                    debug!(%error, "server could not be handed over");
                    self.tell(ToFront::ShedExpired { pool, worker: self.index, to });
                    self.tell(ToFront::Closed { pool, worker: self.index, pid, shed: false });
                }
            },
        }
    }

    fn close(&self, pool: PoolId, idle: Idle, shed: bool) {
        let pid = idle.conn.live.info.pid;
        idle.conn.close();
        self.tell(ToFront::Closed { pool, worker: self.index, pid, shed });
    }

    /// Tells the front of demand that it does not know of and could do something about, and of servers to spare. `begun`: a
    /// client has just begun to wait.
    fn report_demand(&self, entry: &mut PoolState, begun: bool, now: Instant) {
        if begun && entry.knowledge.is_asking() && entry.pool.linked() == 1 {
            // The pool's only server is asked for the catalog, and will be back in a moment. If not, the next tick tells.
            return;
        }
        let waiting = if entry.pool.is_paused() { 0 } else { u32::try_from(entry.pool.waiting()).unwrap_or(u32::MAX) };
        let limits = &entry.spec.limits;
        let room =
            limits.size == 0 || entry.servers() + (entry.reported as usize) < (limits.size + limits.reserve) as usize;
        if begun && !(waiting > entry.reported && room) {
            return;
        }
        let (spare, spare_since) = entry.pool.spare(now, TICK);
        let spare = u32::try_from(spare).unwrap_or(u32::MAX);
        if waiting != entry.reported || waiting > 0 || spare != entry.reported_spare {
            (entry.reported, entry.reported_spare) = (waiting, spare);
            let demand = Demand { waiting, oldest: entry.pool.oldest_wait(), spare, spare_since };
            self.tell(ToFront::Demand { pool: entry.spec.id, worker: self.index, demand });
        }
    }

    fn refuse(&self, pool: PoolId, refusal: &Refusal, now: Instant) {
        let mut state = self.cell.borrow_mut();
        let entry = state.pool(pool);
        if entry.servers() == 0 {
            for slot in entry.pool.refuse_waiters() {
                slot.grant(Grant::Refused(refusal.clone()));
            }
            self.report_demand(entry, false, now);
        }
    }

    fn shed(&self, pool: PoolId, to: ShedTo, now: Instant) {
        let idle = self.cell.borrow_mut().pool(pool).pool.shed(to, now);
        if let Some(idle) = idle {
            self.give_up(pool, idle, to);
        }
    }

    fn cancel(&self, pid: u32, secret: &[u8], done: oneshot::Sender<()>) {
        let state = self.cell.borrow();
        if let Some(slot) = state.clients.get(&pid).filter(|s| s.is_secret(secret)) {
            slot.order(|orders| orders.cancel = Some(done));
        }
    }

    fn set_pool(&self, spec: Arc<PoolSpec>, epoch: u64) {
        let mut state = self.cell.borrow_mut();
        let index = spec.id.0;
        if state.pools.len() <= index {
            state.pools.resize_with(index + 1, || None);
        }
        match &mut state.pools[index] {
            Some(entry) => {
                if entry.epoch != epoch {
                    entry.welcomes.clear();
                }
                entry.spec = spec;
                entry.epoch = epoch;
            }
            empty => *empty = Some(Box::new(PoolState::new(spec, epoch))),
        }
    }

    fn pause(&self, database: Option<String>, done: oneshot::Sender<()>) {
        let mut state = self.cell.borrow_mut();
        state.pools().filter(|p| p.serves(database.as_deref())).for_each(|p| p.pool.pause());
        state.pauses.push((database, done));
    }

    fn resume(&self, database: Option<&str>, now: Instant) {
        let mut state = self.cell.borrow_mut();
        for entry in state.pools().filter(|p| p.serves(database)) {
            for (slot, idle) in entry.pool.resume() {
                slot.grant(Grant::Server(idle));
            }
            self.report_demand(entry, false, now);
        }
    }

    fn kill(&self, database: Option<&str>) {
        let mut state = self.cell.borrow_mut();
        state.pools().filter(|p| p.serves(database)).for_each(|p| p.pool.pause());
        let slots: Vec<_> = state.clients.values().cloned().collect();
        for slot in slots {
            if state.pool(slot.pool).serves(database) {
                slot.kill(Refusal::Killed);
            }
        }
        for (pool, live) in state.cleaning.values() {
            if state.pools[pool.0].as_ref().is_some_and(|p| p.serves(database)) {
                live.killed.notify_one();
            }
        }
    }

    fn kill_client(&self, id: u64, found: oneshot::Sender<bool>) {
        let state = self.cell.borrow();
        let slot = state.clients.values().find(|s| s.id == id);
        if let Some(slot) = slot {
            slot.kill(Refusal::Killed);
        }
        let _ = found.send(slot.is_some());
    }

    fn drain(&self, mode: Drain, done: oneshot::Sender<()>) {
        let mut state = self.cell.borrow_mut();
        state.draining = Some(mode);
        state.drain = Some((mode, done));
        if mode == Drain::Servers {
            let idle = state.clients.values().filter(|s| s.link.borrow().is_none());
            idle.for_each(|s| s.kill(Refusal::ShuttingDown));
        }
    }
}
