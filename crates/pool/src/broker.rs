//! Grants, moves and takes away servers, for all workers of the instance, within the budget of each PostgreSQL.
//!
//! Workers report demand and what became of servers; the broker answers with [`Action`]s. A permit is held from the
//! moment a connection is ordered until it is known to be gone, so the sum never exceeds the budget. This is the book of
//! what there is; what is to be done about it is decided in `plan`.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use crate::budget::Budget;
use crate::pool::ShedTo;
use crate::share::{Demand, Entry};

/// First pause after a failed login.
const BACKOFF_MIN: Duration = Duration::from_millis(100);

/// A PostgreSQL: one host and port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClusterId(pub usize);

/// A pool: one database and user on one PostgreSQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PoolId(pub usize);

/// What configuration allows a pool. 0 is no limit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PoolLimits {
    /// `pool_size`.
    pub size: u32,
    /// `min_pool_size`: kept open where there is room, and its due before others get more than theirs.
    pub min: u32,
    /// `pool_weight`: what it gets in proportion to others where all want more than there is. 0 is taken for 1.
    pub weight: u32,
    /// `reserve_pool_size`, for when somebody has waited for `reserve_timeout`.
    pub reserve: u32,
    /// `reserve_pool_timeout`; zero switches the reserve off.
    pub reserve_timeout: Duration,
    /// Longest pause after failed logins (`server_login_retry`).
    pub retry_max: Duration,
    /// Name of the database in the configuration, and `max_db_connections`.
    pub database: (String, u32),
    /// Name of the user, which is the role that logs in, and `max_user_connections`.
    pub user: (String, u32),
    /// Name of the database on the server.
    pub dbname: String,
}

/// Why a server could not be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// 53300: no slot is left. Nobody's fault, and no news for clients.
    Full,
    /// Anything else.
    Other,
}

/// What the proxy shall do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Open a server of this pool for this worker.
    Connect {
        /// The pool.
        pool: PoolId,
        /// The worker.
        worker: usize,
    },
    /// This worker shall give up one server of this pool.
    Shed {
        /// The pool.
        pool: PoolId,
        /// The worker.
        worker: usize,
        /// Where it goes.
        to: ShedTo,
    },
}

/// What PostgreSQL's catalog allows: servers of ours at most, by name. What is not named has no limit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CatalogLimits {
    /// By the database's name on the server, what `datconnlimit` leaves.
    pub databases: HashMap<String, u32>,
    /// By the role that logs in, what `rolconnlimit` leaves.
    pub roles: HashMap<String, u32>,
}

#[derive(Clone, Debug)]
pub(crate) struct Cluster {
    pub(crate) budget: Budget,
    pub(crate) catalog: CatalogLimits,
    /// Logins under way at once.
    pub(crate) concurrency: u32,
    /// How long a login takes, as of late.
    pub(crate) login: Duration,
    /// Something has happened since it was planned last.
    pub(crate) is_due: bool,
    pub(crate) planned_at: Option<Instant>,
}

/// See the module's documentation.
#[derive(Clone, Debug)]
pub struct Broker {
    workers: usize,
    pub(crate) clusters: Vec<Cluster>,
    pub(crate) pools: Vec<Entry>,
    pub(crate) actions: VecDeque<Action>,
}

impl Broker {
    /// A broker for this many workers.
    pub fn new(workers: usize) -> Self {
        Self { workers, clusters: Vec::new(), pools: Vec::new(), actions: VecDeque::new() }
    }

    /// Adds a PostgreSQL; `concurrency` is `connect_concurrency`.
    pub fn add_cluster(&mut self, budget: Budget, concurrency: u32) -> ClusterId {
        let (catalog, login) = (CatalogLimits::default(), Duration::ZERO);
        self.clusters.push(Cluster { budget, catalog, concurrency, login, is_due: true, planned_at: None });
        ClusterId(self.clusters.len() - 1)
    }

    /// Adds a pool.
    pub fn add_pool(&mut self, cluster: ClusterId, limits: PoolLimits) -> PoolId {
        self.pools.push(Entry::new(cluster, limits, self.workers));
        PoolId(self.pools.len() - 1)
    }

    /// New limits for a pool.
    pub fn configure_pool(&mut self, pool: PoolId, limits: PoolLimits) {
        self.pools[pool.0].limits = limits;
        self.note(pool);
    }

    /// The budget of a PostgreSQL.
    pub fn budget(&self, cluster: ClusterId) -> &Budget {
        &self.clusters[cluster.0].budget
    }

    /// The budget of a PostgreSQL, to be changed.
    pub fn budget_mut(&mut self, cluster: ClusterId) -> &mut Budget {
        self.clusters[cluster.0].is_due = true;
        &mut self.clusters[cluster.0].budget
    }

    /// What the catalog of a PostgreSQL allows databases and roles.
    pub fn set_catalog_limits(&mut self, cluster: ClusterId, limits: CatalogLimits) {
        self.clusters[cluster.0].is_due = true;
        self.clusters[cluster.0].catalog = limits;
    }

    /// Servers that the catalog leaves a pool, by the narrower of its database's and its role's limit.
    pub fn catalog_limit(&self, pool: PoolId) -> Option<u32> {
        let Entry { cluster, limits, .. } = &self.pools[pool.0];
        let CatalogLimits { databases, roles } = &self.clusters[cluster.0].catalog;
        databases.get(&limits.dbname).into_iter().chain(roles.get(&limits.user.0)).min().copied()
    }

    /// Servers of a PostgreSQL that are open, and that are being opened.
    pub fn cluster_servers(&self, cluster: ClusterId) -> (u32, u32) {
        let of = |f: fn(&Entry) -> u32| self.pools.iter().filter(|p| p.cluster == cluster).map(f).sum::<u32>();
        let connecting = of(Entry::connecting);
        (of(Entry::held) - connecting, connecting)
    }

    /// Servers of a pool, those being opened included.
    pub fn pool_servers(&self, pool: PoolId) -> u32 {
        self.pools[pool.0].held()
    }

    /// Logins of a pool under way.
    pub fn pool_connecting(&self, pool: PoolId) -> u32 {
        self.pools[pool.0].connecting()
    }

    /// Failed logins of a pool in a row.
    pub fn pool_failures(&self, pool: PoolId) -> u32 {
        self.pools[pool.0].failures
    }

    /// The fair share of a pool in servers, if it wants more than that.
    pub fn fair_share(&self, pool: PoolId) -> Option<f64> {
        self.pools[pool.0].fair
    }

    /// What a worker says of its part of a pool.
    pub fn set_demand(&mut self, pool: PoolId, worker: usize, demand: Demand) {
        self.pools[pool.0].shares[worker].demand = demand;
        self.note(pool);
    }

    /// A server that was ordered is there.
    pub fn handle_connected(&mut self, pool: PoolId, worker: usize, now: Instant) {
        let entry = &mut self.pools[pool.0];
        entry.failures = 0;
        entry.retry_at = None;
        let took = entry.ordered.pop_front().map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        let login = &mut self.clusters[entry.cluster.0].login;
        *login = (*login * 3 + took) / 4;
        entry.shares[worker].connecting -= 1;
        entry.shares[worker].receive();
        self.note(pool);
    }

    /// A server that was ordered could not be opened. `jitter` is 0 to 1, drawn anew each time.
    pub fn handle_failed(&mut self, pool: PoolId, worker: usize, failure: Failure, now: Instant, jitter: f64) {
        let entry = &mut self.pools[pool.0];
        entry.ordered.pop_front();
        entry.shares[worker].connecting -= 1;
        let pause = (BACKOFF_MIN * 2u32.pow(entry.failures.min(8))).min(entry.limits.retry_max.max(BACKOFF_MIN));
        entry.failures += 1;
        entry.retry_at = Some(now + pause.mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0));
        let cluster = entry.cluster;
        // Where the limits are known they are read again at once; it may have been a limit of the role or database alone.
        if failure == Failure::Full && self.clusters[cluster.0].budget.limits().is_none() {
            let (open, connecting) = self.cluster_servers(cluster);
            self.clusters[cluster.0].budget.refused_at(open + connecting);
        }
        self.note(pool);
    }

    /// What made the logins of a pool fail is over: it is tried again at once.
    pub fn forget_failures(&mut self, pool: PoolId) {
        let entry = &mut self.pools[pool.0];
        entry.failures = 0;
        entry.retry_at = None;
        self.note(pool);
    }

    /// An open server is gone; `shed` if the broker had asked for it.
    pub fn handle_closed(&mut self, pool: PoolId, worker: usize, shed: bool) {
        let share = &mut self.pools[pool.0].shares[worker];
        if shed {
            share.give_up();
            share.closing = share.closing.saturating_sub(1);
        } else {
            share.open = share.open.saturating_sub(1);
        }
        self.note(pool);
    }

    /// A server went from one worker to another, as the broker had asked.
    pub fn handle_moved(&mut self, pool: PoolId, from: usize, to: usize) {
        let shares = &mut self.pools[pool.0].shares;
        shares[from].give_up();
        shares[from].leaving = shares[from].leaving.saturating_sub(1);
        shares[to].arriving = shares[to].arriving.saturating_sub(1);
        shares[to].receive();
        self.note(pool);
    }

    /// A worker had no server to give up in time.
    pub fn handle_shed_expired(&mut self, pool: PoolId, worker: usize, to: ShedTo) {
        let shares = &mut self.pools[pool.0].shares;
        match to {
            ShedTo::Close => shares[worker].closing = shares[worker].closing.saturating_sub(1),
            ShedTo::Worker(other) => {
                shares[worker].leaving = shares[worker].leaving.saturating_sub(1);
                shares[other].arriving = shares[other].arriving.saturating_sub(1);
            }
        }
        self.note(pool);
    }

    /// Time has passed.
    pub fn tick(&mut self) {
        self.clusters.iter_mut().for_each(|cluster| cluster.is_due = true);
    }

    /// What to do next. What has happened since the last answer is looked at as a whole.
    pub fn poll_action(&mut self, now: Instant) -> Option<Action> {
        if self.actions.is_empty() {
            for cluster in 0..self.clusters.len() {
                if std::mem::take(&mut self.clusters[cluster].is_due) {
                    self.plan(ClusterId(cluster), now);
                }
            }
        }
        self.actions.pop_front()
    }

    fn note(&mut self, pool: PoolId) {
        let cluster = self.pools[pool.0].cluster;
        self.clusters[cluster.0].is_due = true;
    }
}
