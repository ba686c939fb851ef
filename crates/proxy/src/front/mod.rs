//! The front thread: everything that is rare. Clients are accepted and logged in here, servers opened, limits read,
//! commands of the console carried out, metrics told, signals heard. Queries never come this way.

mod accept;
mod admin;
mod apply;
mod auth_query;
mod caller;
mod cancel;
mod certificates;
mod connect;
mod control;
mod failures;
mod fleet;
mod keys;
mod leaks;
mod limits;
mod listen;
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

use pgsluice_auth::{SaltedKeys, ScramSecret};
use pgsluice_config::{Config, Problem};
use pgsluice_console::Counters as Stats;
use pgsluice_pool::{Action, Broker, Budget, BudgetState, ClusterId, Failure, PoolId};
use pgsluice_session::{LoginFailure, Refusal, ServerCredential, Settings};
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::task::{LocalSet, spawn_local};
use tracing::{debug, info, warn};

pub use tls::check_tls;

use crate::message::{Departed, ToFront, ToWorker};
use crate::reactor::Reactor;
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
    let departed = Arc::new(Departed::default());
    let workers = start_workers(config.settings.workers as usize, &to_front, &departed)?;
    let front = Rc::new(Front::new(config, source, workers, departed, tls));
    local.block_on(&runtime, async move { front.serve(mailbox).await })
}

fn start_workers(
    count: usize,
    to_front: &mpsc::UnboundedSender<ToFront>,
    departed: &Arc<Departed>,
) -> Result<Vec<mpsc::UnboundedSender<ToWorker>>, StartError> {
    let mut workers = Vec::new();
    for index in 0..count {
        let (to_worker, mailbox) = mpsc::unbounded_channel();
        let outward = (to_front.clone(), departed.clone());
        let (told, opened) = std::sync::mpsc::channel();
        std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
            // The loop is its thread's. Whoever is told waits for it.
            match Reactor::open() {
                Ok(reactor) => {
                    let _ = told.send(Ok(()));
                    worker::run(&reactor, (index, count), outward, mailbox);
                }
                Err(error) => drop(told.send(Err(error))),
            }
        })?;
        opened.recv().map_err(|_| std::io::Error::other("a worker ended before it began"))??;
        workers.push(to_worker);
    }
    Ok(workers)
}

/// The front thread's state, as its tasks share it. Cells are never borrowed across an await.
struct Front {
    source: Source,
    config: RefCell<Arc<Config>>,
    tls: RefCell<tls::Tls>,
    workers: Vec<mpsc::UnboundedSender<ToWorker>>,
    departed: Arc<Departed>,
    cell: RefCell<State>,
    /// Salts of users that do not exist.
    mock_key: [u8; 32],
    /// Room for hashing passwords, on another thread.
    hashing: tokio::sync::Semaphore,
    answers: RefCell<auth_query::Answers>,
    failures: RefCell<failures::Failures>,
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
    by_name: HashMap<PoolName, PoolId>,
    /// Clients on workers, by pid.
    clients: HashMap<u32, usize>,
    logins: usize,
    consoles: usize,
    next_pid: u32,
    next_id: u64,
    next_worker: usize,
    /// SCRAM secrets derived from plain passwords.
    verifiers: HashMap<String, (pgsluice_config::Secret, ScramSecret)>,
    /// Keys learnt at servers, so that the next login need not derive them.
    salted: HashMap<(Address, String), (Option<pgsluice_config::Secret>, SaltedKeys)>,
    /// What clients proved at their logins, by the database, PostgreSQL and user it was for.
    learnt: HashMap<(String, Address, String), ServerCredential>,
    /// Servers that know protocol 3.0 only and do not negotiate.
    old_protocol: HashSet<Address>,
    disabled: BTreeSet<String>,
    paused: BTreeSet<String>,
    paused_all: bool,
    stats: StatsHistory,
}

/// Database, user, and the settings that the pool's servers were started with.
type PoolName = (String, String, Settings);

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
}

#[derive(Default)]
struct StatsHistory {
    older: HashMap<String, Stats>,
    newer: HashMap<String, Stats>,
    older_at: Option<Instant>,
    newer_at: Option<Instant>,
}

impl Front {
    fn new(
        config: Config,
        source: Source,
        workers: Vec<mpsc::UnboundedSender<ToWorker>>,
        departed: Arc<Departed>,
        tls: tls::Tls,
    ) -> Self {
        let state = State {
            broker: Broker::new(workers.len()),
            clusters: Vec::new(),
            pools: Vec::new(),
            by_name: HashMap::new(),
            clients: HashMap::new(),
            logins: 0,
            consoles: 0,
            next_pid: 1,
            next_id: 1,
            next_worker: 0,
            verifiers: HashMap::new(),
            salted: HashMap::new(),
            learnt: HashMap::new(),
            old_protocol: HashSet::new(),
            disabled: BTreeSet::new(),
            paused: BTreeSet::new(),
            paused_all: false,
            stats: StatsHistory::default(),
        };
        Self {
            source,
            membership: (!config.settings.fleet.is_empty())
                .then(|| fleet::Membership::new(&config.settings.fleet, &config.settings.fleet_dbname)),
            config: RefCell::new(Arc::new(config)),
            tls: RefCell::new(tls),
            workers,
            departed,
            cell: RefCell::new(state),
            mock_key: random(),
            hashing: tokio::sync::Semaphore::new(1),
            answers: RefCell::default(),
            failures: RefCell::default(),
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
        let listeners = listen::bind(&self.config())?;
        let endpoints = listen::bind_metrics(&self.config())?;
        spawn_local(self.clone().watch_signals());
        self.know_clusters();
        self.wait_for_limits().await;
        self.serve_metrics(endpoints);
        for listener in listeners {
            info!("listening on {}", listener.name());
            let front = self.clone();
            self.shutdown.keep(spawn_local(async move { front.accept(listener).await }));
        }
        spawn_local(self.clone().keep_stats());
        spawn_local(self.clone().watch_certificates());
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                message = mailbox.recv() => match message {
                    Some(message) => {
                        self.handle(message);
                        // What has come together is planned for together.
                        for _ in 1..TOGETHER_MAX {
                            let Ok(message) = mailbox.try_recv() else { break };
                            self.handle(message);
                        }
                        self.pump();
                    }
                    None => return Ok(()),
                },
                _ = tick.tick() => {
                    let mut state = self.cell.borrow_mut();
                    state.see_off(&self.departed);
                    state.broker.tick();
                    drop(state);
                    self.pump();
                    self.watch_budgets();
                }
                () = self.shutdown.over() => return Ok(()),
            }
        }
    }

    fn handle(self: &Rc<Self>, message: ToFront) {
        let mut state = self.cell.borrow_mut();
        match message {
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
            }
        }
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
        // Workers live as long as their mailboxes, which are here.
        let _ = self.workers[worker].send(message);
    }

    fn tell_all(&self, message: impl Fn() -> ToWorker) {
        (0..self.workers.len()).for_each(|worker| self.tell(worker, message()));
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
        let state = self.cell.borrow_mut();
        if let Some(id) = state.by_name.get(&key) {
            return Ok(state.pools[id.0].spec.clone());
        }
        let alike = |(d, u, settings): &&PoolName| (d, u) == (&key.0, &key.1) && !settings.is_empty();
        if !at_start.is_empty() && state.by_name.keys().filter(alike).count() >= AT_START_POOLS_MAX {
            let what = format!("another combination of {} (there are {AT_START_POOLS_MAX})", at_start.names());
            return Err(Refusal::Unsupported(what.into()));
        }
        if state.pools.len() >= POOLS_MAX {
            return Err(Refusal::Unsupported(format!("a pool beyond the first {POOLS_MAX}").into()));
        }
        let id = PoolId(state.pools.len());
        let spec = PoolSpec::resolve(&config, database, user, at_start, id);
        let spec = spec.ok_or_else(|| Refusal::UnknownDatabase(database.into()))?;
        drop(state);
        let cluster = self.cluster(&spec.target);
        let mut state = self.cell.borrow_mut();
        let id = state.broker.add_pool(cluster, spec.limits.clone());
        state.by_name.insert(key, id);
        state.pools.push(PoolEntry { spec: spec.clone(), epoch: 0, failed: None });
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
        let mut state = self.cell.borrow_mut();
        state.next_id += 1;
        state.next_id
    }

    /// A process id that no client has.
    fn next_pid(&self) -> u32 {
        let mut state = self.cell.borrow_mut();
        loop {
            state.next_pid = state.next_pid % i32::MAX as u32 + 1;
            if !state.clients.contains_key(&state.next_pid) {
                return state.next_pid;
            }
        }
    }
}

impl State {
    /// Those who have gone are forgotten.
    fn see_off(&mut self, departed: &Departed) {
        departed.take(|pid| {
            self.clients.remove(&pid);
        });
    }

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

/// Bytes nobody can guess.
fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the system has random numbers");
    bytes
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
