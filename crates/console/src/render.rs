//! Snapshots as tables: one function per subject, cells in the order of [`crate::columns()`].

use pgsluice_wire::Column;

use crate::budget::BudgetRow;
use crate::columns::{TOTALS_NAMES, columns};
use crate::command::Subject;
use crate::holders::{Holder, Leak, Pin, PinStat, excerpt};
use crate::parameters::VERSION;
use crate::snapshot::{
    Activity, ConfigRow, ConnKind, ConnRow, DatabaseRow, FleetRow, Lists, PoolRow, Replication, Snapshot, UserRow,
};
use crate::stats::{Counters, StatsRow, averages};
use crate::value::{Cell, int4, numeric, seconds_and_micros, tenths, text, time};

/// A result: columns, and rows of as many values in text form, `None` for NULL.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// The columns.
    pub columns: Vec<Column>,
    /// The rows.
    pub rows: Vec<Vec<Option<String>>>,
}

/// The table that `SHOW` of this subject answers; without columns for [`Subject::Help`], whose answer is a notice.
pub fn render(subject: Subject, snapshot: &Snapshot) -> Table {
    Table { columns: columns(subject), rows: rows(subject, snapshot) }
}

fn rows(subject: Subject, s: &Snapshot) -> Vec<Vec<Cell>> {
    let averaged = |row: &StatsRow| averages(&row.older, &row.totals, s.stats_window);
    match subject {
        Subject::Pools => s.pools.iter().map(pool).collect(),
        Subject::Clients => s.clients.iter().map(connection).collect(),
        Subject::Servers => s.servers.iter().map(connection).collect(),
        Subject::Stats => s.stats.iter().map(|row| stats(row, &[row.totals, averaged(row)])).collect(),
        Subject::StatsTotals => s.stats.iter().map(|row| stats(row, &[row.totals])).collect(),
        Subject::StatsAverages => s.stats.iter().map(|row| stats(row, &[averaged(row)])).collect(),
        Subject::Totals => totals(s),
        Subject::Databases => s.databases.iter().map(database).collect(),
        Subject::Users => s.users.iter().map(user).collect(),
        Subject::Config => s.config.iter().map(config).collect(),
        Subject::Lists => lists(&s.lists),
        Subject::Budget => s.budget.iter().map(budget).collect(),
        Subject::Fleet => s.fleet.iter().map(fleet).collect(),
        Subject::Pins => s.pins.iter().map(pin).collect(),
        Subject::PinStats => s.pin_stats.iter().map(pin_stat).collect(),
        Subject::Leaks => s.leaks.iter().map(leak).collect(),
        Subject::Version => vec![vec![text(VERSION)]],
        Subject::State => state(s.activity),
        Subject::Help | Subject::Peers | Subject::PeerPools => Vec::new(),
        Subject::Param(parameter) => vec![vec![text(parameter.value)]],
    }
}

fn pool(row: &PoolRow) -> Vec<Cell> {
    let [maxwait, maxwait_us] = seconds_and_micros(row.maxwait);
    vec![
        text(&row.database),
        text(&row.user),
        int4(row.cl_active),
        int4(row.cl_waiting),
        int4(row.cl_active_cancel_req),
        int4(row.cl_waiting_cancel_req),
        int4(row.sv_active),
        int4(row.sv_active_cancel),
        int4(row.sv_being_canceled),
        int4(row.sv_idle),
        int4(row.sv_used),
        int4(row.sv_tested),
        int4(row.sv_login),
        maxwait,
        maxwait_us,
        text(&row.pool_mode),
        row.load_balance_hosts.clone(),
        int4(row.pool_size),
        int4(row.sv_limit),
    ]
}

fn connection(row: &ConnRow) -> Vec<Cell> {
    let [wait, wait_us] = seconds_and_micros(row.wait);
    let kind = match row.kind {
        ConnKind::Client => "C",
        ConnKind::Server => "S",
    };
    let replication = match row.replication {
        Replication::None => "none",
        Replication::Logical => "logical",
        Replication::Physical => "physical",
    };
    vec![
        text(kind),
        text(row.user.as_deref().unwrap_or("(nouser)")),
        text(row.database.as_deref().unwrap_or("(nodb)")),
        text(replication),
        text(row.state.as_str()),
        text(&row.addr),
        int4(row.port),
        text(&row.local_addr),
        int4(row.local_port),
        time(row.connect_time),
        time(row.request_time),
        wait,
        wait_us,
        int4(u64::from(row.close_needed)),
        text(pointer(row.id)),
        text(row.link.map(pointer).unwrap_or_default()),
        int4(row.remote_pid),
        text(&row.tls),
        text(&row.application_name),
        int4(row.prepared_statements),
        int4(row.id),
        int4(row.worker),
    ]
}

/// What stands where PgBouncer shows an address in its memory: a number that names the connection, exact for every id.
fn pointer(id: u64) -> String {
    format!("{id:#x}")
}

fn stats(row: &StatsRow, sets: &[Counters]) -> Vec<Cell> {
    let values = sets.iter().flat_map(Counters::in_order);
    [text(&row.database)].into_iter().chain(values.map(numeric)).collect()
}

fn totals(snapshot: &Snapshot) -> Vec<Vec<Cell>> {
    let sum = |pick: fn(&StatsRow) -> &Counters| {
        snapshot.stats.iter().map(pick).fold(Counters::default(), |sum, one| sum.plus(one))
    };
    let (older, newer) = (sum(|row| &row.older), sum(|row| &row.totals));
    let averaged = averages(&older, &newer, snapshot.stats_window);
    let named = |prefix: &'static str, counters: Counters| {
        let pairs = TOTALS_NAMES.into_iter().zip(counters.in_order());
        pairs.map(move |(name, value)| vec![text(format!("{prefix}{name}")), numeric(value)])
    };
    named("total_", newer).chain(named("avg_", averaged)).collect()
}

fn database(row: &DatabaseRow) -> Vec<Cell> {
    vec![
        text(&row.name),
        row.host.clone(),
        int4(row.port),
        text(&row.database),
        row.force_user.clone(),
        int4(row.pool_size),
        int4(row.min_pool_size),
        int4(row.reserve_pool_size),
        int4(row.server_lifetime.as_secs()),
        row.pool_mode.clone(),
        row.load_balance_hosts.clone(),
        int4(row.max_connections),
        int4(row.current_connections),
        int4(row.max_client_connections),
        int4(row.current_client_connections),
        int4(u64::from(row.paused)),
        int4(u64::from(row.disabled)),
    ]
}

fn user(row: &UserRow) -> Vec<Cell> {
    // Text, padded to nine places, in PgBouncer too.
    let size = |size: Option<u64>| text(size.map(|n| format!("{n:9}")).unwrap_or_default());
    vec![
        text(&row.name),
        size(row.pool_size),
        size(row.reserve_pool_size),
        row.pool_mode.clone(),
        int4(row.max_user_connections),
        int4(row.current_connections),
        int4(row.max_user_client_connections),
        int4(row.current_client_connections),
    ]
}

fn config(row: &ConfigRow) -> Vec<Cell> {
    vec![text(&row.key), row.value.clone(), row.default.clone(), text(yes_or_no(row.changeable))]
}

fn lists(lists: &Lists) -> Vec<Vec<Cell>> {
    let rows = [
        ("databases", lists.databases),
        ("users", lists.users),
        ("peers", 0),
        ("pools", lists.pools),
        ("peer_pools", 0),
        ("free_clients", lists.free_clients),
        ("used_clients", lists.used_clients),
        ("login_clients", lists.login_clients),
        ("free_servers", lists.free_servers),
        ("used_servers", lists.used_servers),
        ("dns_names", 0),
        ("dns_zones", 0),
        ("dns_queries", 0),
        ("dns_pending", 0),
    ];
    rows.into_iter().map(|(name, items)| vec![text(name), int4(items)]).collect()
}

fn budget(row: &BudgetRow) -> Vec<Cell> {
    let limits = row.limits;
    let reason = match (limits, &*row.reason) {
        (None, "") => "the server has not told its limits",
        (_, reason) => reason,
    };
    vec![
        text(&row.server),
        limits.and_then(|l| int4(l.max_connections)),
        limits.and_then(|l| int4(l.superuser_reserved)),
        limits.and_then(|l| int4(l.reserved)),
        limits.and_then(|l| int4(l.others)),
        int4(row.headroom),
        row.ceiling().and_then(int4),
        row.cap.and_then(int4),
        row.fleet_tokens.and_then(int4),
        row.budget().and_then(int4),
        int4(row.ours.active),
        int4(row.ours.idle),
        int4(row.ours.connecting),
        int4(row.ours.control),
        row.used_permille().and_then(tenths),
        text(row.state.as_str()),
        text(reason),
    ]
}

fn fleet(row: &FleetRow) -> Vec<Cell> {
    vec![
        text(&row.fleet),
        text(&row.server),
        text(row.pid.map_or_else(|| row.host.clone(), |pid| format!("{}:{pid}", row.host))),
        text(&row.host),
        row.pid.and_then(int4),
        int4(row.backend_pid),
        int4(row.tokens),
        int4(row.servers),
        int4(row.wanted),
        int4(row.entitled),
        time(row.since),
        int4(u64::from(row.is_self)),
    ]
}

fn holder(row: &Holder) -> Vec<Cell> {
    vec![
        numeric(row.client),
        int4(row.pid),
        text(&row.database),
        text(&row.user),
        text(&row.application_name),
        text(&row.addr),
        int4(row.port),
        numeric(row.server),
        int4(row.remote_pid),
    ]
}

fn pin(row: &Pin) -> Vec<Cell> {
    let mut cells = holder(&row.holder);
    cells.extend([
        text(row.reasons.join(", ")),
        time(row.since),
        int4(row.age.as_secs()),
        text(excerpt(&row.statement)),
    ]);
    cells
}

fn pin_stat(row: &PinStat) -> Vec<Cell> {
    let names = [&row.database, &row.user, &row.application_name].map(text);
    names.into_iter().chain(row.counters.in_order().map(numeric)).collect()
}

fn leak(row: &Leak) -> Vec<Cell> {
    let mut cells = holder(&row.holder);
    cells.extend([
        int4(row.idle.as_secs()),
        int4(row.transaction.as_secs()),
        row.locks.and_then(int4),
        row.waiting.and_then(int4),
        text(excerpt(&row.statement)),
    ]);
    cells
}

fn state(activity: Activity) -> Vec<Vec<Cell>> {
    let paused = activity == Activity::Paused;
    // SUSPEND does not exist here, so nothing is ever suspended.
    let rows = [("active", !paused), ("paused", paused), ("suspended", false)];
    rows.into_iter().map(|(key, value)| vec![text(key), text(yes_or_no(value))]).collect()
}

fn yes_or_no(value: bool) -> &'static str {
    if value { "yes" } else { "no" }
}
