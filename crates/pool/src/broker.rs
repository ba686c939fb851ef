//! Grants, moves and takes away servers, for all workers of the instance, within the budget of each PostgreSQL.
//!
//! Workers report demand and what became of servers; the broker answers with [`Action`]s. A permit is held from the
//! moment a connection is ordered until it is known to be gone, so the sum never exceeds the budget.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::budget::Budget;
use crate::pool::ShedTo;

/// First pause after a failed login.
const BACKOFF_MIN: Duration = Duration::from_millis(100);

/// How long clients of a worker without a server wait before another worker's clients let them have one.
const TURN: Duration = Duration::from_millis(100);

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
    /// `min_pool_size`.
    pub min: u32,
    /// `reserve_pool_size`, for when somebody has waited for `reserve_timeout`.
    pub reserve: u32,
    /// `reserve_pool_timeout`; zero switches the reserve off.
    pub reserve_timeout: Duration,
    /// Longest pause after failed logins (`server_login_retry`).
    pub retry_max: Duration,
    /// Name of the database in the configuration, and `max_db_connections`.
    pub database: (String, u32),
    /// Name of the user, and `max_user_connections`.
    pub user: (String, u32),
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

/// One worker's part of a pool.
#[derive(Clone, Debug, Default)]
struct Share {
    /// Open servers.
    open: u32,
    /// Connections ordered and not yet there.
    connecting: u32,
    /// Servers on their way from another worker.
    arriving: u32,
    /// Servers it was told to give up and has not yet.
    shedding: u32,
    /// Clients that wait there.
    demand: u32,
    /// Since when the first of them has.
    oldest: Option<Instant>,
}

impl Share {
    /// Permits held.
    fn held(&self) -> u32 {
        self.open + self.connecting
    }

    /// Servers it will have once everything ordered is done.
    fn settled(&self) -> u32 {
        (self.held() + self.arriving).saturating_sub(self.shedding)
    }

    fn unmet(&self) -> u32 {
        self.demand.saturating_sub(self.connecting + self.arriving)
    }
}

#[derive(Debug)]
struct Entry {
    cluster: ClusterId,
    limits: PoolLimits,
    shares: Vec<Share>,
    retry_at: Option<Instant>,
    failures: u32,
}

impl Entry {
    fn held(&self) -> u32 {
        self.shares.iter().map(Share::held).sum()
    }

    fn settled(&self) -> u32 {
        self.shares.iter().map(Share::settled).sum()
    }

    fn connecting(&self) -> u32 {
        self.shares.iter().map(|s| s.connecting).sum()
    }

    fn demand(&self) -> u32 {
        self.shares.iter().map(|s| s.demand).sum()
    }

    fn shedding(&self) -> u32 {
        self.shares.iter().map(|s| s.shedding).sum()
    }

    fn size(&self, now: Instant) -> u32 {
        let reserve_due = self.limits.reserve > 0
            && !self.limits.reserve_timeout.is_zero()
            && self
                .shares
                .iter()
                .filter_map(|s| s.oldest)
                .min()
                .is_some_and(|since| now.saturating_duration_since(since) >= self.limits.reserve_timeout);
        match self.limits.size {
            0 => u32::MAX,
            size if reserve_due => size.saturating_add(self.limits.reserve),
            size => size,
        }
    }

    fn is_backing_off(&self, now: Instant) -> bool {
        self.retry_at.is_some_and(|at| now < at)
    }
}

#[derive(Debug)]
struct Cluster {
    budget: Budget,
    /// Logins under way at once.
    concurrency: u32,
}

/// What stands in the way of one more server for a pool.
enum Obstacle {
    None,
    /// The pool is as large as it may be: only a move between workers helps.
    Size,
    /// Some other pool has to give one up.
    Shared(Scope),
    /// Time has to pass.
    Wait,
}

/// Among which pools a permit can be moved.
#[derive(Clone, Copy)]
enum Scope {
    Cluster,
    Database,
    User,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Broker {
    workers: usize,
    clusters: Vec<Cluster>,
    pools: Vec<Entry>,
    actions: VecDeque<Action>,
}

impl Broker {
    /// A broker for this many workers.
    pub fn new(workers: usize) -> Self {
        Self { workers, clusters: Vec::new(), pools: Vec::new(), actions: VecDeque::new() }
    }

    /// Adds a PostgreSQL; `concurrency` is `connect_concurrency`.
    pub fn add_cluster(&mut self, budget: Budget, concurrency: u32) -> ClusterId {
        self.clusters.push(Cluster { budget, concurrency });
        ClusterId(self.clusters.len() - 1)
    }

    /// Adds a pool.
    pub fn add_pool(&mut self, cluster: ClusterId, limits: PoolLimits) -> PoolId {
        let shares = vec![Share::default(); self.workers];
        self.pools.push(Entry { cluster, limits, shares, retry_at: None, failures: 0 });
        PoolId(self.pools.len() - 1)
    }

    /// New limits for a pool.
    pub fn configure_pool(&mut self, pool: PoolId, limits: PoolLimits) {
        self.pools[pool.0].limits = limits;
    }

    /// The budget of a PostgreSQL.
    pub fn budget(&self, cluster: ClusterId) -> &Budget {
        &self.clusters[cluster.0].budget
    }

    /// The budget of a PostgreSQL, to be changed; [`Broker::tick`] acts on it.
    pub fn budget_mut(&mut self, cluster: ClusterId) -> &mut Budget {
        &mut self.clusters[cluster.0].budget
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

    /// `waiting` clients of a pool wait at a worker, the oldest since `oldest`.
    pub fn set_demand(&mut self, pool: PoolId, worker: usize, waiting: u32, oldest: Option<Instant>, now: Instant) {
        let entry = &mut self.pools[pool.0];
        entry.shares[worker].demand = waiting;
        entry.shares[worker].oldest = oldest;
        self.plan(entry_cluster(&self.pools, pool), now);
    }

    /// A server that was ordered is there.
    pub fn handle_connected(&mut self, pool: PoolId, worker: usize, now: Instant) {
        let entry = &mut self.pools[pool.0];
        entry.failures = 0;
        entry.retry_at = None;
        let share = &mut entry.shares[worker];
        share.connecting -= 1;
        share.open += 1;
        share.demand = share.demand.saturating_sub(1);
        self.plan(entry_cluster(&self.pools, pool), now);
    }

    /// A server that was ordered could not be opened. `jitter` is 0 to 1, drawn anew each time.
    pub fn handle_failed(&mut self, pool: PoolId, worker: usize, failure: Failure, now: Instant, jitter: f64) {
        let entry = &mut self.pools[pool.0];
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
        self.plan(cluster, now);
    }

    /// An open server is gone; `shed` if the broker had asked for it.
    pub fn handle_closed(&mut self, pool: PoolId, worker: usize, shed: bool, now: Instant) {
        let share = &mut self.pools[pool.0].shares[worker];
        share.open = share.open.saturating_sub(1);
        share.shedding -= u32::from(shed && share.shedding > 0);
        self.plan(entry_cluster(&self.pools, pool), now);
    }

    /// A server went from one worker to another, as the broker had asked.
    pub fn handle_moved(&mut self, pool: PoolId, from: usize, to: usize, now: Instant) {
        let shares = &mut self.pools[pool.0].shares;
        shares[from].open = shares[from].open.saturating_sub(1);
        shares[from].shedding = shares[from].shedding.saturating_sub(1);
        shares[to].arriving = shares[to].arriving.saturating_sub(1);
        shares[to].open += 1;
        shares[to].demand = shares[to].demand.saturating_sub(1);
        // It has had its turn; how long the others wait is reported with the next tick.
        shares[to].oldest = None;
        self.plan(entry_cluster(&self.pools, pool), now);
    }

    /// A worker had no server to give up in time.
    pub fn handle_shed_expired(&mut self, pool: PoolId, worker: usize, to: ShedTo, now: Instant) {
        let shares = &mut self.pools[pool.0].shares;
        shares[worker].shedding = shares[worker].shedding.saturating_sub(1);
        if let ShedTo::Worker(other) = to {
            shares[other].arriving = shares[other].arriving.saturating_sub(1);
        }
        self.plan(entry_cluster(&self.pools, pool), now);
    }

    /// Time has passed, or a budget has changed.
    pub fn tick(&mut self, now: Instant) {
        for cluster in 0..self.clusters.len() {
            self.plan(ClusterId(cluster), now);
        }
    }

    /// What to do next.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Orders whatever demand, limits and budget allow.
    fn plan(&mut self, cluster: ClusterId, now: Instant) {
        self.shrink(cluster, now);
        loop {
            let mut wanting = self.wanting(cluster);
            // Max-min: the pool with the fewest servers comes first.
            wanting.sort_by_key(|&(pool, worker)| {
                let share = &self.pools[pool].shares[worker];
                (self.pools[pool].settled(), share.settled(), share.oldest.is_none(), share.oldest)
            });
            if !wanting.into_iter().any(|(pool, worker)| self.serve(pool, worker, now)) {
                break;
            }
        }
        self.fill_minimums(cluster, now);
    }

    /// More open than the budget has, or than a pool may have by now: the largest give up.
    fn shrink(&mut self, cluster: ClusterId, now: Instant) {
        for pool in 0..self.pools.len() {
            let entry = &self.pools[pool];
            let excess = entry
                .held()
                .saturating_sub(entry.shedding())
                .saturating_sub(entry.size(now).saturating_add(entry.limits.reserve));
            if entry.cluster == cluster && excess > 0 {
                (0..excess).for_each(|_| {
                    self.shed_one(pool);
                });
            }
        }
        let allowed = self.clusters[cluster.0].budget.servers();
        loop {
            let members = || self.pools.iter().filter(|p| p.cluster == cluster);
            let held: u32 = members().map(Entry::held).sum();
            let shedding: u32 = members().map(Entry::shedding).sum();
            if held.saturating_sub(shedding) <= allowed || !self.shed_from(cluster, None, |_| true, 0) {
                break;
            }
        }
    }

    fn wanting(&self, cluster: ClusterId) -> Vec<(usize, usize)> {
        let members = self.pools.iter().enumerate().filter(|(_, p)| p.cluster == cluster);
        members
            .flat_map(|(i, p)| p.shares.iter().enumerate().filter(|(_, s)| s.unmet() > 0).map(move |(w, _)| (i, w)))
            .collect()
    }

    /// One more server for a worker of a pool, or a step towards it. Was anything ordered?
    fn serve(&mut self, pool: usize, worker: usize, now: Instant) -> bool {
        match self.obstacle(pool, now) {
            Obstacle::None => {
                self.order(pool, worker);
                true
            }
            Obstacle::Size => self.balance(pool, worker, now),
            Obstacle::Shared(_) if self.balance(pool, worker, now) => true,
            Obstacle::Shared(scope) => {
                // What is being given up already is for those who wait already.
                let cluster = self.pools[pool].cluster;
                let promised: u32 = self.pools.iter().filter(|p| p.cluster == cluster).map(Entry::shedding).sum();
                let unmet: usize = self
                    .pools
                    .iter()
                    .filter(|p| p.cluster == cluster)
                    .flat_map(|p| &p.shares)
                    .filter(|s| s.unmet() > 0)
                    .count();
                let (database, user) =
                    (self.pools[pool].limits.database.0.clone(), self.pools[pool].limits.user.0.clone());
                let in_scope = move |p: &Entry| match scope {
                    Scope::Cluster => true,
                    Scope::Database => p.limits.database.0 == database,
                    Scope::User => p.limits.user.0 == user,
                };
                let floor = self.pools[pool].held() + 1;
                (promised as usize) < unmet && self.shed_from(cluster, Some(pool), in_scope, floor)
            }
            Obstacle::Wait => false,
        }
    }

    fn order(&mut self, pool: usize, worker: usize) {
        self.pools[pool].shares[worker].connecting += 1;
        self.actions.push_back(Action::Connect { pool: PoolId(pool), worker });
    }

    fn obstacle(&self, pool: usize, now: Instant) -> Obstacle {
        let entry = &self.pools[pool];
        let cluster = &self.clusters[entry.cluster.0];
        let sum = |f: &dyn Fn(&Entry) -> bool| self.pools.iter().filter(|p| f(p)).map(Entry::held).sum::<u32>();
        let same_db = |p: &Entry| p.limits.database.0 == entry.limits.database.0;
        let same_user = |p: &Entry| p.limits.user.0 == entry.limits.user.0;
        let connecting: u32 = self.pools.iter().filter(|p| p.cluster == entry.cluster).map(Entry::connecting).sum();
        let over = |cap: u32, held: u32| cap > 0 && held >= cap;
        if entry.is_backing_off(now) || connecting >= cluster.concurrency {
            Obstacle::Wait
        } else if entry.held() >= entry.size(now) {
            Obstacle::Size
        } else if over(entry.limits.database.1, sum(&same_db)) {
            Obstacle::Shared(Scope::Database)
        } else if over(entry.limits.user.1, sum(&same_user)) {
            Obstacle::Shared(Scope::User)
        } else if sum(&|p: &Entry| p.cluster == entry.cluster) >= cluster.budget.servers() {
            Obstacle::Shared(Scope::Cluster)
        } else {
            Obstacle::None
        }
    }

    /// The pool is full: another worker gives one up, if it has two more, or no use for it, or has had its
    /// turn while this one has none at all.
    fn balance(&mut self, pool: usize, worker: usize, now: Instant) -> bool {
        let shares = &self.pools[pool].shares;
        let mine = shares[worker].settled();
        let starves =
            mine == 0 && shares[worker].oldest.is_some_and(|since| now.saturating_duration_since(since) >= TURN);
        let rich = shares.iter().enumerate().filter(|&(w, s)| {
            let left = s.open.saturating_sub(s.shedding);
            w != worker && left > 0 && (s.demand == 0 || left > mine + 1 || starves)
        });
        let Some((from, _)) = rich.max_by_key(|(_, s)| (s.demand == 0, s.open.saturating_sub(s.shedding))) else {
            return false;
        };
        let to = ShedTo::Worker(worker);
        let shares = &mut self.pools[pool].shares;
        shares[from].shedding += 1;
        shares[worker].arriving += 1;
        self.actions.push_back(Action::Shed { pool: PoolId(pool), worker: from, to });
        true
    }

    /// Some pool gives up a server: one without demand first, else one that would still have `floor`. Was one found?
    fn shed_from(
        &mut self,
        cluster: ClusterId,
        except: Option<usize>,
        in_scope: impl Fn(&Entry) -> bool,
        floor: u32,
    ) -> bool {
        let left = |p: &Entry| p.held().saturating_sub(p.shedding());
        let candidates = self.pools.iter().enumerate().filter(|&(i, p)| {
            let idle = p.demand() == 0;
            p.cluster == cluster && Some(i) != except && in_scope(p) && left(p) > 0 && (idle || left(p) > floor)
        });
        let best = candidates.max_by_key(|(_, p)| (p.demand() == 0, left(p) > p.limits.min, left(p))).map(|(i, _)| i);
        best.is_some_and(|pool| self.shed_one(pool))
    }

    /// The worker with the most open servers of a pool closes one. Was there one?
    fn shed_one(&mut self, pool: usize) -> bool {
        let shares = &mut self.pools[pool].shares;
        let giver = shares.iter().enumerate().max_by_key(|(_, s)| s.open.saturating_sub(s.shedding)).map(|(w, _)| w);
        let Some(worker) = giver.filter(|&w| shares[w].open > shares[w].shedding) else { return false };
        shares[worker].shedding += 1;
        self.actions.push_back(Action::Shed { pool: PoolId(pool), worker, to: ShedTo::Close });
        true
    }

    fn fill_minimums(&mut self, cluster: ClusterId, now: Instant) {
        for pool in 0..self.pools.len() {
            while self.pools[pool].cluster == cluster
                && self.pools[pool].held() < self.pools[pool].limits.min
                && matches!(self.obstacle(pool, now), Obstacle::None)
            {
                let shares = self.pools[pool].shares.iter().enumerate();
                let poorest = shares.min_by_key(|(_, s)| s.held()).map_or(0, |(w, _)| w);
                self.order(pool, poorest);
            }
        }
    }
}

fn entry_cluster(pools: &[Entry], pool: PoolId) -> ClusterId {
    pools[pool.0].cluster
}
