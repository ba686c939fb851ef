//! Names and types of the columns of every subject, as data. They never depend on a snapshot, so a Describe can be
//! answered without one.
//!
//! Source: PgBouncer 1.26, `src/admin.c` and `src/stats.c`; the columns after PgBouncer's own are marked.

use pgsluice_wire::Column;

use crate::command::Subject;

/// The types the console has. Source of the oids: PostgreSQL's `src/include/catalog/pg_type.dat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Text,
    Int4,
    Numeric,
}

use Kind::{Int4, Numeric, Text};

pub(crate) type Spec = (&'static str, Kind);

impl Kind {
    /// Oid and typlen.
    pub(crate) fn oid_and_len(self) -> (u32, i16) {
        match self {
            Text => (25, -1),
            Int4 => (23, 4),
            Numeric => (1700, -1),
        }
    }

    /// The type with that oid; what is not a number is text.
    pub(crate) fn of(oid: u32) -> Self {
        match oid {
            23 => Int4,
            1700 => Numeric,
            _ => Text,
        }
    }
}

/// The columns that `SHOW` of a subject has, in order; none for [`Subject::Help`].
pub fn columns(subject: Subject) -> Vec<Column> {
    if let Subject::Param(parameter) = subject {
        return vec![column((parameter.name, Text))];
    }
    specs(subject).iter().copied().map(column).collect()
}

pub(crate) fn column((name, kind): Spec) -> Column {
    let (type_oid, type_len) = kind.oid_and_len();
    Column { name: name.to_owned(), type_oid, type_len }
}

fn specs(subject: Subject) -> &'static [Spec] {
    match subject {
        Subject::Pools => &POOLS,
        Subject::Clients | Subject::Servers => &CONNECTIONS,
        Subject::Stats => &STATS,
        Subject::StatsTotals => &STATS_TOTALS,
        Subject::StatsAverages => &STATS_AVERAGES,
        Subject::Totals => &[("name", Text), ("value", Numeric)],
        Subject::Databases => &DATABASES,
        Subject::Users => &USERS,
        Subject::Config => &[("key", Text), ("value", Text), ("default", Text), ("changeable", Text)],
        Subject::Lists => &[("list", Text), ("items", Int4)],
        Subject::Budget => &BUDGET,
        Subject::Fleet => &FLEET,
        Subject::Pins => &PINS,
        Subject::PinStats => &PIN_STATS,
        Subject::Leaks => &LEAKS,
        Subject::Version => &[("version", Text)],
        Subject::State => &[("key", Text), ("value", Text)],
        Subject::Peers => &[("peer_id", Int4), ("host", Text), ("port", Int4), ("pool_size", Int4)],
        Subject::PeerPools => &PEER_POOLS,
        Subject::Help | Subject::Param(_) => &[],
    }
}

const POOLS: [Spec; 19] = [
    ("database", Text),
    ("user", Text),
    ("cl_active", Int4),
    ("cl_waiting", Int4),
    ("cl_active_cancel_req", Int4),
    ("cl_waiting_cancel_req", Int4),
    ("sv_active", Int4),
    ("sv_active_cancel", Int4),
    ("sv_being_canceled", Int4),
    ("sv_idle", Int4),
    ("sv_used", Int4),
    ("sv_tested", Int4),
    ("sv_login", Int4),
    ("maxwait", Int4),
    ("maxwait_us", Int4),
    ("pool_mode", Text),
    ("load_balance_hosts", Text),
    // Ours:
    ("pool_size", Int4),
    ("sv_limit", Int4),
];

const CONNECTIONS: [Spec; 22] = [
    ("type", Text),
    ("user", Text),
    ("database", Text),
    ("replication", Text),
    ("state", Text),
    ("addr", Text),
    ("port", Int4),
    ("local_addr", Text),
    ("local_port", Int4),
    ("connect_time", Text),
    ("request_time", Text),
    ("wait", Int4),
    ("wait_us", Int4),
    ("close_needed", Int4),
    ("ptr", Text),
    ("link", Text),
    ("remote_pid", Int4),
    ("tls", Text),
    ("application_name", Text),
    ("prepared_statements", Int4),
    ("id", Int4),
    // Ours:
    ("worker", Int4),
];

const STATS: [Spec; 25] = [
    ("database", Text),
    ("total_server_assignment_count", Numeric),
    ("total_xact_count", Numeric),
    ("total_query_count", Numeric),
    ("total_received", Numeric),
    ("total_sent", Numeric),
    ("total_xact_time", Numeric),
    ("total_query_time", Numeric),
    ("total_wait_time", Numeric),
    ("total_client_parse_count", Numeric),
    ("total_server_parse_count", Numeric),
    ("total_bind_count", Numeric),
    ("total_client_login_count", Numeric),
    ("avg_server_assignment_count", Numeric),
    ("avg_xact_count", Numeric),
    ("avg_query_count", Numeric),
    ("avg_recv", Numeric),
    ("avg_sent", Numeric),
    ("avg_xact_time", Numeric),
    ("avg_query_time", Numeric),
    ("avg_wait_time", Numeric),
    ("avg_client_parse_count", Numeric),
    ("avg_server_parse_count", Numeric),
    ("avg_bind_count", Numeric),
    ("avg_client_login_count", Numeric),
];

const STATS_TOTALS: [Spec; 13] = [
    ("database", Text),
    ("server_assignment_count", Numeric),
    ("xact_count", Numeric),
    ("query_count", Numeric),
    ("bytes_received", Numeric),
    ("bytes_sent", Numeric),
    ("xact_time", Numeric),
    ("query_time", Numeric),
    ("wait_time", Numeric),
    ("client_parse_count", Numeric),
    ("server_parse_count", Numeric),
    ("bind_count", Numeric),
    ("client_login_count", Numeric),
];

/// Half of the names have a prefix and half have none: PgBouncer's choice.
const STATS_AVERAGES: [Spec; 13] = [
    ("database", Text),
    ("server_assignment_count", Numeric),
    ("xact_count", Numeric),
    ("query_count", Numeric),
    ("bytes_received", Numeric),
    ("bytes_sent", Numeric),
    ("xact_time", Numeric),
    ("query_time", Numeric),
    ("wait_time", Numeric),
    ("avg_client_parse_count", Numeric),
    ("avg_server_parse_count", Numeric),
    ("avg_bind_count", Numeric),
    ("avg_client_login_count", Numeric),
];

/// Names of the rows of `SHOW TOTALS`, after `total_` and `avg_`; yet other names than the columns above.
pub(crate) const TOTALS_NAMES: [&str; 12] = [
    "server_assignment_count",
    "xact_count",
    "query_count",
    "client_bytes",
    "server_bytes",
    "xact_time",
    "query_time",
    "wait_time",
    "ps_client_parse_count",
    "ps_server_parse_count",
    "ps_bind_count",
    "client_login_count",
];

const DATABASES: [Spec; 17] = [
    ("name", Text),
    ("host", Text),
    ("port", Int4),
    ("database", Text),
    ("force_user", Text),
    ("pool_size", Int4),
    ("min_pool_size", Int4),
    ("reserve_pool_size", Int4),
    ("server_lifetime", Int4),
    ("pool_mode", Text),
    ("load_balance_hosts", Text),
    ("max_connections", Int4),
    ("current_connections", Int4),
    ("max_client_connections", Int4),
    ("current_client_connections", Int4),
    ("paused", Int4),
    ("disabled", Int4),
];

const USERS: [Spec; 8] = [
    ("name", Text),
    ("pool_size", Text),
    ("reserve_pool_size", Text),
    ("pool_mode", Text),
    ("max_user_connections", Int4),
    ("current_connections", Int4),
    ("max_user_client_connections", Int4),
    ("current_client_connections", Int4),
];

const PEER_POOLS: [Spec; 5] = [
    ("peer_id", Int4),
    ("cl_active_cancel_req", Int4),
    ("cl_waiting_cancel_req", Int4),
    ("sv_active_cancel", Int4),
    ("sv_login", Int4),
];

/// All ours.
const BUDGET: [Spec; 17] = [
    ("server", Text),
    ("max_connections", Int4),
    ("superuser_reserved", Int4),
    ("reserved", Int4),
    ("others", Int4),
    ("headroom", Int4),
    ("ceiling", Int4),
    ("cap", Int4),
    ("fleet_tokens", Int4),
    ("budget", Int4),
    ("ours_active", Int4),
    ("ours_idle", Int4),
    ("ours_connecting", Int4),
    ("ours_control", Int4),
    ("used_percent", Numeric),
    ("state", Text),
    ("reason", Text),
];

/// All ours.
const FLEET: [Spec; 12] = [
    ("fleet", Text),
    ("server", Text),
    ("instance", Text),
    ("host", Text),
    ("pid", Int4),
    ("backend_pid", Int4),
    ("tokens", Int4),
    ("servers", Int4),
    ("wanted", Int4),
    ("entitled", Int4),
    ("since", Text),
    ("self", Int4),
];

/// All ours. `client` and `server` are ids, exact for every id.
const PINS: [Spec; 13] = [
    ("client", Numeric),
    ("pid", Int4),
    ("database", Text),
    ("user", Text),
    ("application_name", Text),
    ("addr", Text),
    ("port", Int4),
    ("server", Numeric),
    ("remote_pid", Int4),
    ("reason", Text),
    ("since", Text),
    ("age", Int4),
    ("statement", Text),
];

/// All ours.
const PIN_STATS: [Spec; 20] = [
    ("database", Text),
    ("user", Text),
    ("application_name", Text),
    ("audits", Numeric),
    ("audit_failures", Numeric),
    ("pins", Numeric),
    // As in `PIN_REASONS`:
    ("temp", Numeric),
    ("advisory_lock", Numeric),
    ("cursor", Numeric),
    ("prepare", Numeric),
    ("listen", Numeric),
    ("load", Numeric),
    ("sequence", Numeric),
    ("unknown", Numeric),
    ("unpins", Numeric),
    ("replays", Numeric),
    ("replay_failures", Numeric),
    ("refused", Numeric),
    ("warned", Numeric),
    ("ignored", Numeric),
];

/// All ours.
const LEAKS: [Spec; 14] = [
    ("client", Numeric),
    ("pid", Int4),
    ("database", Text),
    ("user", Text),
    ("application_name", Text),
    ("addr", Text),
    ("port", Int4),
    ("server", Numeric),
    ("remote_pid", Int4),
    ("idle", Int4),
    ("transaction", Int4),
    ("locks", Int4),
    ("waiting", Int4),
    ("statement", Text),
];
