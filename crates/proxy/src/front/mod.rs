//! The front thread: everything that is rare. Servers are opened here, limits read, commands of the console carried out, metrics told,
//! signals heard, and clients logged in that a worker does not let in by itself. Queries never come this way.

mod accept;
mod admin;
mod apply;
mod auth_query;
mod cancel;
mod connect;
mod control;
mod failures;
mod fleet;
mod keys;
mod leaks;
mod limits;
mod login;
mod metrics;
mod replication;
mod show;
mod shutdown;
mod tls;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pgsluice_auth::SaltedKeys;
use pgsluice_config::{Config, Problem};
use pgsluice_console::Counters as Stats;
use pgsluice_pool::{Action, Broker, Budget, BudgetState, ClusterId, Failure, PoolId};
use pgsluice_session::{LoginFailure, Refusal, Settings};
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::task::{LocalSet, spawn_local};
use tracing::{debug, info, warn};

pub(crate) use tls::ForClients;
pub use tls::check_tls;

use crate::listen;
use crate::message::{ToFront, ToWorker};
use crate::random;
use crate::reactor::Reactor;
use crate::reception::Reception;
use crate::spec::{Address, PoolSpec, Target};
use crate::worker;

/// How often the broker looks at the time.
const TICK: Duration = Duration::from_millis(100);
/// Planning that takes longer than that is followed by a rest, so many times as long.
const PLAN_LONG: Duration = Duration::from_millis(2);
const REST: u32 = 3;
/// Messages of workers that are heard before anything is ordered.
const TOGETHER_MAX: usize = 256;
/// Pools at most; one more (database, user) is refused.
const POOLS_MAX: usize = 10_000;
/// Pools of one (database, user) that differ in settings which only a server's start can take.
const AT_START_POOLS_MAX: usize = 16;
/// Connections for cancel requests at once.
const CANCELS_MAX: usize = 64;
/// How long the start waits for PostgreSQL's limits before it goes on without.
const LIMITS_WAIT: Duration = Duration::from_secs(3);

/// Where the configuration comes from, for a reload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A file, read again by RELOAD and SIGHUP.
    File {
        /// Where it is.
        path: PathBuf,
        /// What the command line says in the place of its `fleet`.
        fleet: Option<String>,
    },
    /// The command line: there is nothing to read again.
    CommandLine,
}

/// Why the pooler could not start.
#[derive(Debug)]
pub enum StartError {
    /// A listening address is not to be had.
    Listen {
        /// The address.
        address: String,
        /// What the system says.
        error: io::Error,
        /// What to change.
        keys: &'static str,
    },
    /// A certificate or key is of no use.
    Tls(Problem),
    /// A thread or runtime could not be made.
    System(io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listen { address, error, keys } => {
                write!(f, "cannot listen on {address}: {error}. Choose another address with {keys}.")
            }
            Self::Tls(error) => error.fmt(f),
            Self::System(error) => write!(f, "cannot start a thread: {error}"),
        }
    }
}

impl std::error::Error for StartError {}

impl From<io::Error> for StartError {
    fn from(e: io::Error) -> Self {
        Self::System(e)
    }
}

impl From<Problem> for StartError {
    fn from(e: Problem) -> Self {
        Self::Tls(e)
    }
}

/// Runs the pooler until it is told to end.
///
/// # Errors
/// [`StartError`] when it cannot begin.
pub fn run(config: Config, source: Source) -> Result<(), StartError> {
    let tls = tls::Tls::load(&config)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = LocalSet::new();
    let (to_front, mailbox) = mpsc::unbounded_channel();
    let config = Arc::new(config);
    let reception = start_workers(&config, tls.clients.clone(), &to_front)?;
    let front = Rc::new(Front::new(config, source, reception, tls));
    local.block_on(&runtime, async move { front.serve(mailbox).await })
}

fn start_workers(
    config: &Arc<Config>,
    tls: Option<Arc<ForClients>>,
    to_front: &mpsc::UnboundedSender<ToFront>,
) -> Result<Arc<Reception>, StartError> {
    let (workers, mailboxes): (Vec<_>, Vec<_>) =
        (0..config.settings.workers).map(|_| mpsc::unbounded_channel()).unzip();
    let reception = Arc::new(Reception::new(config.clone(), tls, workers));
    for (index, mailbox) in mailboxes.into_iter().enumerate() {
        let (to_front, reception) = (to_front.clone(), reception.clone());
        let (told, opened) = std::sync::mpsc::channel();
        std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
            // The loop is its thread's. Whoever is told waits for it.
            match Reactor::open() {
                Ok(reactor) => {
                    let _ = told.send(Ok(()));
                    worker::run(&reactor, index, to_front, reception, mailbox);
                }
                Err(error) => drop(told.send(Err(error))),
            }
        })?;
        opened.recv().map_err(|_| std::io::Error::other("a worker ended before it began"))??;
    }
    Ok(reception)
}

/// The front thread's state, as its tasks share it. Cells are never borrowed across an await.
struct Front {
    source: Source,
    config: RefCell<Arc<Config>>,
    tls: RefCell<tls::Tls>,
    reception: Arc<Reception>,
    cell: RefCell<State>,
    /// Room for hashing passwords, on another thread.
    hashing: tokio::sync::Semaphore,
    answers: RefCell<auth_query::Answers>,
    cancels: Semaphore,
    /// In a fleet, if the configuration said so when we started.
    membership: Option<fleet::Membership>,
    /// Somebody shall read the limits now.
    limits_due: Notify,
    /// Nothing new is planned before that.
    rest_until: Cell<Option<Instant>>,
    shutdown: shutdown::Shutdown,
    started: Instant,
}

struct State {
    broker: Broker,
    clusters: Vec<Cluster>,
    pools: Vec<PoolEntry>,
    consoles: usize,
    /// Keys learnt at servers, so that the next login need not derive them.
    salted: HashMap<(Address, String), (Option<pgsluice_config::Secret>, SaltedKeys)>,
    /// Servers that know protocol 3.0 only and do not negotiate.
    old_protocol: HashSet<Address>,
    paused: BTreeSet<String>,
    paused_all: bool,
    stats: StatsHistory,
}

struct Cluster {
    address: Address,
    /// How its control connection logs in.
    control: Target,
    id: ClusterId,
    /// Why the budget is what it is.
    reason: String,
    state: BudgetState,
    /// Has a first answer, or none, come?
    settled: bool,
    /// Process ids of our servers there.
    pids: HashSet<u32>,
    /// Others, as counted the time before.
    others: Option<u32>,
    /// The same by database and by role, where these have limits.
    others_of: HashMap<limits::Object, u32>,
    /// Ours in a fleet.
    seat: Option<fleet::Seat>,
    /// For its control connection to ask.
    questions: mpsc::Sender<control::Question>,
}

struct PoolEntry {
    spec: Arc<PoolSpec>,
    epoch: u64,
    /// The last login failed, and why: for those who come before it is tried again.
    failed: Option<Refusal>,
    /// Its database is elsewhere now: it is for the clients that it has.
    has_moved: bool,
}

#[derive(Default)]
struct StatsHistory {
    older: HashMap<String, Stats>,
    newer: HashMap<String, Stats>,
    older_at: Option<Instant>,
    newer_at: Option<Instant>,
}

impl Front {
    fn new(config: Arc<Config>, source: Source, reception: Arc<Reception>, tls: tls::Tls) -> Self {
        let state = State {
            broker: Broker::new(reception.workers()),
            clusters: Vec::new(),
            pools: Vec::new(),
            consoles: 0,
            salted: HashMap::new(),
            old_protocol: HashSet::new(),
            paused: BTreeSet::new(),
            paused_all: false,
            stats: StatsHistory::default(),
        };
        Self {
            source,
            membership: (!config.settings.fleet.is_empty())
                .then(|| fleet::Membership::new(&config.settings.fleet, &config.settings.fleet_dbname)),
            config: RefCell::new(config),
            tls: RefCell::new(tls),
            reception,
            cell: RefCell::new(state),
            hashing: tokio::sync::Semaphore::new(1),
            answers: RefCell::default(),
            cancels: Semaphore::new(CANCELS_MAX),
            limits_due: Notify::new(),
            rest_until: Cell::new(None),
            shutdown: shutdown::Shutdown::default(),
            started: Instant::now(),
        }
    }

    fn config(&self) -> Arc<Config> {
        self.config.borrow().clone()
    }

    async fn serve(self: Rc<Self>, mut mailbox: mpsc::UnboundedReceiver<ToFront>) -> Result<(), StartError> {
        let (listeners, files) = listen::bind(&self.config())?;
        let endpoints = listen::bind_metrics(&self.config())?;
        spawn_local(self.clone().watch_signals());
        self.know_clusters();
        self.wait_for_limits().await;
        self.serve_metrics(endpoints);
        for listener in &self.shutdown.keep_listeners(listeners, files) {
            info!("listening on {}", listener.name());
            self.tell_all(|| ToWorker::Listen(listener.clone()));
        }
        spawn_local(self.clone().keep_stats());
        spawn_local(self.clone().watch_certificates());
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                message = mailbox.recv() => match message {
                    Some(message) => {
                        let mut is_plan_due = self.handle(message);
                        // What has come together is planned for together.
                        for _ in 1..TOGETHER_MAX {
                            let Ok(message) = mailbox.try_recv() else { break };
                            is_plan_due |= self.handle(message);
                        }
                        if is_plan_due {
                            self.pump();
                        }
                    }
                    None => return Ok(()),
                },
                _ = tick.tick() => {
                    self.cell.borrow_mut().broker.tick();
                    self.pump();
                    self.watch_budgets();
                }
                () = self.shutdown.over() => return Ok(()),
            }
        }
    }

    /// Does a message matter to who gets servers?
    fn handle(self: &Rc<Self>, message: ToFront) -> bool {
        let mut state = self.cell.borrow_mut();
        match message {
            ToFront::Arrival(arrival) => {
                drop(state);
                spawn_local(self.clone().greet(arrival));
                return false;
            }
            ToFront::Demand { pool, worker, demand } => {
                let idle = state.broker.pool_servers(pool) == 0;
                if let Some(refusal) = state.pools[pool.0].failed.clone().filter(|_| demand.waiting > 0 && idle) {
                    self.tell(worker, ToWorker::Refuse { pool, refusal });
                }
                state.broker.set_demand(pool, worker, demand);
                if demand.waiting > 0 {
                    state.call_seat(pool);
                }
            }
            ToFront::Closed { pool, worker, pid, shed } => {
                let cluster = state.cluster_of(pool);
                cluster.pids.remove(&pid);
                state.broker.handle_closed(pool, worker, shed);
                state.call_seat(pool);
            }
            ToFront::Moved { pool, from, to, server } => {
                state.broker.handle_moved(pool, from, to);
                self.tell(to, ToWorker::Server { pool, server });
            }
            ToFront::ShedExpired { pool, worker, to } => state.broker.handle_shed_expired(pool, worker, to),
            ToFront::Cancel { address, key, done, asker } => {
                drop(state);
                spawn_local(self.clone().send_cancel(address, key, done, asker));
                return false;
            }
        }
        true
    }

    /// Carries out what the broker orders. Where a thousand pools contend it takes milliseconds to see who gets what: that is
    /// then left to the ticks for a while.
    fn pump(self: &Rc<Self>) {
        let now = Instant::now();
        self.watch_seats();
        if self.rest_until.get().is_some_and(|until| now < until) {
            return;
        }
        self.carry_out(now);
        let took = now.elapsed();
        self.rest_until.set((took > PLAN_LONG).then(|| Instant::now() + took * REST));
    }

    fn carry_out(self: &Rc<Self>, now: Instant) {
        loop {
            let action = self.cell.borrow_mut().broker.poll_action(now);
            match action {
                Some(Action::Connect { pool, worker }) => {
                    spawn_local(self.clone().open_server(pool, worker));
                }
                Some(Action::Shed { pool, worker, to }) => self.tell(worker, ToWorker::Shed { pool, to }),
                None => return,
            }
        }
    }

    fn tell(&self, worker: usize, message: ToWorker) {
        self.reception.tell(worker, message);
    }

    fn tell_all(&self, message: impl Fn() -> ToWorker) {
        (0..self.reception.workers()).for_each(|worker| self.tell(worker, message()));
    }

    /// The pool of a database and user, made on first use. Settings that only a server's start can take make pools apart.
    fn pool(self: &Rc<Self>, database: &str, user: &str, at_start: &Settings) -> Result<Arc<PoolSpec>, Refusal> {
        let config = self.config();
        let unknown = || Refusal::UnknownDatabase(database.into());
        let (entry, _) = config.database(database).ok_or_else(unknown)?;
        let server_user = entry.user.as_deref().unwrap_or(user);
        self.pool_as(database, server_user, at_start)
    }

    /// The same by the user that logs in to the server.
    fn pool_as(self: &Rc<Self>, database: &str, user: &str, at_start: &Settings) -> Result<Arc<PoolSpec>, Refusal> {
        let config = self.config();
        let key = (database.to_owned(), user.to_owned(), at_start.clone());
        if let Some(pool) = self.reception.book().pools.get(&key) {
            return Ok(pool.clone());
        }
        let alike = |pool: &&PoolEntry| {
            let PoolSpec { database, target, at_start, .. } = &*pool.spec;
            !pool.has_moved && !at_start.is_empty() && (database, &target.user) == (&key.0, &key.1)
        };
        if !at_start.is_empty() && self.cell.borrow().pools.iter().filter(alike).count() >= AT_START_POOLS_MAX {
            let what = format!("another combination of {} (there are {AT_START_POOLS_MAX})", at_start.names());
            return Err(Refusal::Unsupported(what.into()));
        }
        let id = PoolId(self.cell.borrow().pools.len());
        if id.0 >= POOLS_MAX {
            return Err(Refusal::Unsupported(format!("a pool beyond the first {POOLS_MAX}").into()));
        }
        let spec = PoolSpec::resolve(&config, database, user, at_start, id);
        let spec = spec.ok_or_else(|| Refusal::UnknownDatabase(database.into()))?;
        let cluster = self.cluster(&spec.target);
        let mut state = self.cell.borrow_mut();
        let id = state.broker.add_pool(cluster, spec.limits.clone());
        self.reception.book().pools.insert(key, spec.clone());
        state.pools.push(PoolEntry { spec: spec.clone(), epoch: 0, failed: None, has_moved: false });
        self.tell_all(|| ToWorker::Pool { spec: spec.clone(), epoch: 0 });
        state.set_minimum(id);
        if state.paused_all || state.paused.contains(database) {
            self.tell_all(|| ToWorker::Pause {
                database: Some(database.to_owned()),
                done: tokio::sync::oneshot::channel().0,
            });
        }
        Ok(spec)
    }

    /// The PostgreSQL of a target, known from now on: its limits are read before anything is opened.
    fn cluster(self: &Rc<Self>, target: &Target) -> ClusterId {
        let mut state = self.cell.borrow_mut();
        if let Some(cluster) = state.clusters.iter_mut().find(|c| c.address == target.address) {
            if cluster.control.user == target.user {
                cluster.control.secret.clone_from(&target.secret);
            }
            return cluster.id;
        }
        let s = self.config().settings.clone();
        let cap = (s.max_server_connections > 0).then_some(s.max_server_connections);
        let mut budget = Budget::new(s.budget_headroom, cap);
        budget.refused_at(0);
        if self.membership.is_some() {
            budget.set_tokens(0);
        }
        let id = state.broker.add_cluster(budget, s.connect_concurrency);
        let (questions, mailbox) = mpsc::channel(control::QUESTIONS_MAX);
        state.clusters.push(Cluster {
            address: target.address.clone(),
            control: target.clone(),
            id,
            reason: "asking PostgreSQL for its limits".into(),
            state: BudgetState::Unknown,
            settled: false,
            pids: HashSet::new(),
            others: None,
            others_of: HashMap::new(),
            seat: self.membership.clone().map(fleet::Seat::new),
            questions,
        });
        drop(state);
        spawn_local(self.clone().keep_control(id, mailbox));
        id
    }

    /// Those PostgreSQLs whose user the configuration names are known from the start.
    fn know_clusters(self: &Rc<Self>) {
        let config = self.config();
        for (name, database) in &config.databases {
            if let Some(user) = &database.user {
                let mut target = crate::spec::target(&config, database, name, user);
                if name == pgsluice_config::FALLBACK && database.dbname.is_none() {
                    target.dbname = "postgres".into();
                }
                self.cluster(&target);
            }
        }
    }

    async fn wait_for_limits(&self) {
        let deadline = Instant::now() + LIMITS_WAIT;
        while Instant::now() < deadline && self.cell.borrow().clusters.iter().any(|c| !c.settled) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// A server could not be opened.
    fn note_failure(&self, pool: PoolId, worker: usize, failure: &LoginFailure) {
        let (kind, final_) = classify(failure);
        let mut state = self.cell.borrow_mut();
        let spec = state.pools[pool.0].spec.clone();
        if kind == Failure::Full {
            self.limits_due.notify_waiters();
        }
        // Once, not with every attempt.
        if state.broker.pool_failures(pool) > 0 {
            debug!(database = %spec.database, "still: {failure}");
        } else if kind == Failure::Full {
            info!(database = %spec.database, "PostgreSQL has no slot left: {failure}; clients wait");
        } else {
            warn!(database = %spec.database, user = %spec.target.user, server = %spec.target.address, "cannot open a server: {failure}");
        }
        state.pools[pool.0].failed = final_.then(|| failure.refusal());
        let jitter = f64::from(u32::from_ne_bytes(random())) / f64::from(u32::MAX);
        state.broker.handle_failed(pool, worker, kind, Instant::now(), jitter);
        drop(state);
        if final_ {
            self.tell_all(|| ToWorker::Refuse { pool, refusal: failure.refusal() });
        }
    }

    fn next_id(&self) -> u64 {
        self.reception.book().next_id()
    }
}

impl State {
    /// What is paused keeps no minimum.
    fn set_minimum(&mut self, pool: PoolId) {
        let spec = &self.pools[pool.0].spec;
        let mut limits = spec.limits.clone();
        if self.paused_all || self.paused.contains(&spec.database) {
            limits.min = 0;
        }
        self.broker.configure_pool(pool, limits);
    }

    fn cluster_of(&mut self, pool: PoolId) -> &mut Cluster {
        let address = &self.pools[pool.0].spec.target.address;
        let found = self.clusters.iter_mut().find(|c| c.address == *address);
        found.expect("a pool's PostgreSQL is known before the pool is")
    }
}

/// Is it for want of a slot, and is it final for those who wait?
fn classify(failure: &LoginFailure) -> (Failure, bool) {
    match failure {
        LoginFailure::Refused(error) if error.sqlstate == pgsluice_wire::sqlstate::TOO_MANY_CONNECTIONS => {
            (Failure::Full, false)
        }
        // Starting up, shutting down, short of something, cut off: all of that passes.
        LoginFailure::Refused(error) => {
            let passing = ["57", "53", "08"].iter().any(|class| error.sqlstate.starts_with(class));
            (Failure::Other, !passing)
        }
        LoginFailure::NoCredential { .. } | LoginFailure::Impostor => (Failure::Other, true),
        LoginFailure::Violation(_) | LoginFailure::Unreachable(_) => (Failure::Other, false),
    }
}

/// Counts something for as long as it lives.
struct Count<'a>(&'a Front, fn(&mut State) -> &mut usize);

impl<'a> Count<'a> {
    fn begin(front: &'a Front, of: fn(&mut State) -> &mut usize) -> Self {
        *of(&mut front.cell.borrow_mut()) += 1;
        Self(front, of)
    }
}

impl Drop for Count<'_> {
    fn drop(&mut self) {
        *(self.1)(&mut self.0.cell.borrow_mut()) -= 1;
    }
}
