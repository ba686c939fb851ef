//! Snapshots for the console, gathered from the workers, and the statistics over time.

use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;
use std::time::{Duration, Instant};

use pgsluice_config::Config;
use pgsluice_console::{
    Activity, BudgetRow, ConfigRow, Counters as Stats, DatabaseRow, Limits, Lists, Ours, PinCounters, PoolRow,
    Snapshot, StatsRow, Subject, UserRow, averages,
};
use tokio::sync::oneshot;
use tracing::info;

use super::{Front, PoolEntry, State, leaks};
use crate::message::{PoolShare, ToWorker, WorkerSnapshot};

/// The console's database and user, as PgBouncer shows them.
const CONSOLE: &str = "pgbouncer";

impl Front {
    /// What the console shows of `subject`.
    pub(super) async fn show(&self, subject: Subject) -> Snapshot {
        let detail =
            matches!(subject, Subject::Clients | Subject::Servers | Subject::Pins | Subject::PinStats | Subject::Leaks);
        let workers = self.ask_workers(detail).await;
        let leaks = if subject == Subject::Leaks { self.leaks(&workers).await } else { Vec::new() };
        let config = self.config();
        let book = self.reception.book();
        let (disabled, clients) = (book.disabled.clone(), book.clients());
        drop(book);
        let state = self.cell.borrow();
        let shares: Vec<_> = workers.iter().flat_map(|w| w.pools.iter().cloned()).collect();
        Snapshot {
            pools: state.pool_rows(&shares),
            clients: workers.iter().flat_map(|w| w.clients.iter().cloned()).collect(),
            servers: workers.iter().flat_map(|w| w.servers.iter().cloned()).collect(),
            stats: state.stats_rows(&shares),
            stats_window: state.stats.window(self.started),
            databases: database_rows(&config, &state, &disabled, &shares),
            users: user_rows(&config, &state, &shares),
            config: config_rows(&config),
            lists: lists(&config, &state, (clients, self.reception.logins()), &shares),
            budget: state.budget_rows(&config, &shares),
            fleet: state.fleet_rows(),
            pins: leaks::pins(&workers),
            pin_stats: leaks::pin_stats(&workers),
            leaks,
            activity: if state.paused_all { Activity::Paused } else { Activity::Active },
        }
    }

    /// What the metrics tell: rows as the console shows them.
    pub(super) async fn show_metrics(&self) -> Snapshot {
        let shares: Vec<_> = self.ask_workers(false).await.into_iter().flat_map(|w| w.pools).collect();
        let (config, state) = (self.config(), self.cell.borrow());
        Snapshot {
            pools: state.pool_rows(&shares),
            stats: state.stats_rows(&shares),
            budget: state.budget_rows(&config, &shares),
            fleet: state.fleet_rows(),
            ..Snapshot::default()
        }
    }

    async fn ask_workers(&self, detail: bool) -> Vec<WorkerSnapshot> {
        let replies: Vec<_> = (0..self.reception.workers())
            .map(|worker| {
                let (reply, answer) = oneshot::channel();
                self.tell(worker, ToWorker::Snapshot { detail, reply });
                answer
            })
            .collect();
        let mut snapshots = Vec::new();
        for answer in replies {
            snapshots.extend(answer.await);
        }
        snapshots
    }

    /// Every `stats_period`, the counters are put aside for the averages, and logged.
    pub(super) async fn keep_stats(self: Rc<Self>) {
        loop {
            let period = self.config().settings.stats_period.max(Duration::from_secs(1));
            tokio::time::sleep(period).await;
            let shares: Vec<_> = self.ask_workers(false).await.into_iter().flat_map(|w| w.pools).collect();
            let now = Instant::now();
            let mut state = self.cell.borrow_mut();
            let totals = state.totals(&shares);
            if self.config().settings.log_stats {
                log_stats(&state, &totals, period);
            }
            let stats = &mut state.stats;
            stats.older = std::mem::replace(&mut stats.newer, totals);
            stats.older_at = stats.newer_at.replace(now);
        }
    }
}

fn log_stats(state: &State, totals: &HashMap<String, Stats>, period: Duration) {
    let sum = |of: &HashMap<String, Stats>| of.values().fold(Stats::default(), add);
    let a = averages(&sum(&state.stats.newer), &sum(totals), period);
    info!(
        "stats: {} xacts/s, {} queries/s, {} client parses/s, {} server parses/s, {} binds/s, {} client logins/s, \
         in {} B/s, out {} B/s, xact {} us, query {} us, wait {} us",
        a.xact_count,
        a.query_count,
        a.client_parse_count,
        a.server_parse_count,
        a.bind_count,
        a.client_login_count,
        a.received,
        a.sent,
        a.xact_time_us,
        a.query_time_us,
        a.wait_time_us
    );
}

impl super::StatsHistory {
    /// The time that averages are over: from the older of two samples to now.
    fn window(&self, started: Instant) -> Duration {
        self.older_at.or(self.newer_at).unwrap_or(started).elapsed()
    }

    fn base(&self) -> &HashMap<String, Stats> {
        if self.older_at.is_some() { &self.older } else { &self.newer }
    }
}

impl State {
    fn totals(&self, shares: &[PoolShare]) -> HashMap<String, Stats> {
        let mut totals: HashMap<String, Stats> = HashMap::new();
        for share in shares {
            let entry = totals.entry(self.pools[share.pool.0].spec.database.clone()).or_default();
            *entry = add(*entry, &share.counters);
        }
        totals
    }

    fn stats_rows(&self, shares: &[PoolShare]) -> Vec<StatsRow> {
        let mut rows: Vec<_> = self
            .totals(shares)
            .into_iter()
            .map(|(database, totals)| {
                let older = self.stats.base().get(&database).copied().unwrap_or_default();
                StatsRow { database, totals, older }
            })
            .collect();
        rows.sort_by(|a, b| a.database.cmp(&b.database));
        rows
    }

    fn pool_rows(&self, shares: &[PoolShare]) -> Vec<PoolRow> {
        let mut of_pools: Vec<Vec<&PoolShare>> = vec![Vec::new(); self.pools.len()];
        shares.iter().for_each(|share| of_pools[share.pool.0].push(share));
        let rows = self.pools.iter().zip(&of_pools).map(|(entry, shares)| pool_row(self, entry, shares));
        rows.chain([console_pool_row(self)]).collect()
    }

    fn budget_rows(&self, config: &Config, shares: &[PoolShare]) -> Vec<BudgetRow> {
        self.clusters
            .iter()
            .map(|cluster| {
                let budget = self.broker.budget(cluster.id);
                let (open, connecting) = self.broker.cluster_servers(cluster.id);
                let here = |s: &&PoolShare| self.pools[s.pool.0].spec.target.address == cluster.address;
                let idle = shares.iter().filter(here).map(|s| s.idle).sum::<u64>();
                let idle = u32::try_from(idle).unwrap_or(u32::MAX).min(open);
                let limits = budget.limits().map(|l| Limits {
                    max_connections: l.max_connections,
                    superuser_reserved: l.superuser_reserved,
                    reserved: l.reserved,
                    others: l.others,
                });
                let mut row = BudgetRow {
                    server: cluster.address.to_string(),
                    limits,
                    headroom: budget.headroom(),
                    cap: budget.cap(),
                    fleet_tokens: budget.tokens(),
                    ours: Ours { active: open - idle, idle, connecting, control: budget.control() },
                    state: pgsluice_console::BudgetState::default(),
                    reason: cluster.reason.clone(),
                };
                row.state = row.state_at(config.settings.budget_warning, config.settings.budget_critical);
                row
            })
            .collect()
    }
}

fn add(mut sum: Stats, more: &Stats) -> Stats {
    sum.server_assignment_count += more.server_assignment_count;
    sum.xact_count += more.xact_count;
    sum.query_count += more.query_count;
    sum.received += more.received;
    sum.sent += more.sent;
    sum.xact_time_us += more.xact_time_us;
    sum.query_time_us += more.query_time_us;
    sum.wait_time_us += more.wait_time_us;
    sum.client_parse_count += more.client_parse_count;
    sum.server_parse_count += more.server_parse_count;
    sum.bind_count += more.bind_count;
    sum.client_login_count += more.client_login_count;
    sum
}

/// `shares` are those of this pool.
fn pool_row(state: &State, entry: &PoolEntry, shares: &[&PoolShare]) -> PoolRow {
    let spec = &entry.spec;
    let sum = |f: fn(&PoolShare) -> u64| shares.iter().map(|share| f(share)).sum::<u64>();
    let waiting = sum(|s| s.waiting);
    let cluster = state.clusters.iter().find(|c| c.address == spec.target.address);
    let budget = cluster.map_or(u32::MAX, |c| state.broker.budget(c.id).servers());
    let limit = if spec.limits.size == 0 { budget } else { spec.limits.size.min(budget) };
    let limit = state.broker.catalog_limit(spec.id).map_or(limit, |catalog| catalog.min(limit));
    // A share is never negative, and never above the limits that it is a share of.
    let limit = state.broker.fair_share(spec.id).map_or(limit, |fair| limit.min(fair.ceil() as u32));
    PoolRow {
        database: spec.database.clone(),
        user: spec.target.user.clone(),
        cl_active: sum(|s| s.clients) - waiting,
        cl_waiting: waiting,
        sv_active: sum(|s| s.linked),
        sv_idle: sum(|s| s.idle),
        sv_tested: sum(|s| s.cleaning),
        sv_login: u64::from(state.broker.pool_connecting(spec.id)),
        maxwait: shares.iter().filter_map(|s| s.oldest).min().map(|since| since.elapsed()).unwrap_or_default(),
        pool_mode: mode_name(spec.pooling).into(),
        pool_size: u64::from(spec.limits.size),
        sv_limit: u64::from(limit),
        pin_counters: shares.iter().fold(PinCounters::default(), |sum, share| sum.plus(&share.pins)),
        ..PoolRow::default()
    }
}

/// PgBouncer's row for the console's own pool, which dashboards expect.
fn console_pool_row(state: &State) -> PoolRow {
    PoolRow {
        database: CONSOLE.into(),
        user: CONSOLE.into(),
        cl_active: state.consoles as u64,
        pool_mode: "statement".into(),
        pool_size: 0,
        ..PoolRow::default()
    }
}

fn mode_name(pooling: pgsluice_session::Pooling) -> &'static str {
    match pooling {
        pgsluice_session::Pooling::Session => "session",
        pgsluice_session::Pooling::Transaction => "transaction",
        pgsluice_session::Pooling::Statement => "statement",
    }
}

fn database_rows(
    config: &Config,
    state: &State,
    disabled: &BTreeSet<String>,
    shares: &[PoolShare],
) -> Vec<DatabaseRow> {
    let console = DatabaseRow {
        name: CONSOLE.into(),
        port: config.settings.listen_port,
        database: CONSOLE.into(),
        force_user: Some(CONSOLE.into()),
        pool_mode: Some("statement".into()),
        current_client_connections: state.consoles as u64,
        ..DatabaseRow::default()
    };
    let configured = config.databases.iter().map(|(name, database)| {
        let of = |f: fn(&PoolShare) -> u64| {
            shares.iter().filter(|s| state.pools[s.pool.0].spec.database == *name).map(f).sum::<u64>()
        };
        let user = database.user.as_deref().unwrap_or_default();
        DatabaseRow {
            name: name.clone(),
            host: database.host.clone(),
            port: database.port,
            database: database.dbname.clone().unwrap_or_else(|| name.clone()),
            force_user: database.user.clone(),
            pool_size: u64::from(config.pool_size(name, user)),
            min_pool_size: u64::from(config.min_pool_size(name)),
            reserve_pool_size: u64::from(config.reserve_pool_size(name, user)),
            server_lifetime: config.server_lifetime(name),
            pool_mode: database.pool_mode.map(|m| m.as_str().into()),
            load_balance_hosts: None,
            max_connections: u64::from(config.max_db_connections(name)),
            current_connections: of(|s| s.idle + s.linked + s.cleaning),
            max_client_connections: 0,
            current_client_connections: of(|s| s.clients),
            paused: state.paused_all || state.paused.contains(name),
            disabled: disabled.contains(name),
        }
    });
    configured.chain([console]).collect()
}

fn user_rows(config: &Config, state: &State, shares: &[PoolShare]) -> Vec<UserRow> {
    config
        .users
        .iter()
        .map(|(name, user)| {
            let of = |f: fn(&PoolShare) -> u64| {
                shares.iter().filter(|s| state.pools[s.pool.0].spec.target.user == *name).map(f).sum::<u64>()
            };
            UserRow {
                name: name.clone(),
                pool_size: user.pool_size.map(u64::from),
                reserve_pool_size: user.reserve_pool_size.map(u64::from),
                pool_mode: user.pool_mode.map(|m| m.as_str().into()),
                max_user_connections: u64::from(config.max_user_connections(name)),
                current_connections: of(|s| s.idle + s.linked + s.cleaning),
                max_user_client_connections: 0,
                current_client_connections: of(|s| s.clients),
            }
        })
        .collect()
}

fn config_rows(config: &Config) -> Vec<ConfigRow> {
    config
        .rows()
        .into_iter()
        .map(|row| ConfigRow {
            key: row.key.into(),
            value: Some(row.value),
            default: Some(row.default.into()),
            changeable: row.changeable,
        })
        .collect()
}

fn lists(config: &Config, state: &State, (clients, logins): (usize, usize), shares: &[PoolShare]) -> Lists {
    let idle: u64 = shares.iter().map(|s| s.idle).sum();
    Lists {
        databases: config.databases.len() as u64,
        users: config.users.len() as u64,
        pools: state.pools.len() as u64,
        free_clients: 0,
        used_clients: clients as u64,
        login_clients: logins as u64,
        free_servers: idle,
        used_servers: shares.iter().map(|s| s.linked + s.cleaning).sum(),
    }
}
