//! What the pooler knows about itself at one moment, in plain structs with natural types: the input of
//! [`crate::render()`] and [`crate::metrics()`]. Whoever owns pools and connections fills it in; formatting is the console's business.

use std::time::{Duration, SystemTime};

use crate::budget::BudgetRow;
use crate::holders::{Leak, Pin, PinCounters, PinStat};
use crate::stats::StatsRow;

/// Everything `SHOW` can show. A caller may fill in only the part that the subject asked for needs.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// `SHOW POOLS`.
    pub pools: Vec<PoolRow>,
    /// `SHOW CLIENTS`.
    pub clients: Vec<ConnRow>,
    /// `SHOW SERVERS`.
    pub servers: Vec<ConnRow>,
    /// `SHOW STATS` and its relatives, one per database.
    pub stats: Vec<StatsRow>,
    /// Time from the older counters of `stats` to now: what the averages are over.
    pub stats_window: Duration,
    /// `SHOW DATABASES`.
    pub databases: Vec<DatabaseRow>,
    /// `SHOW USERS`.
    pub users: Vec<UserRow>,
    /// `SHOW CONFIG`.
    pub config: Vec<ConfigRow>,
    /// `SHOW LISTS`.
    pub lists: Lists,
    /// `SHOW BUDGET`.
    pub budget: Vec<BudgetRow>,
    /// `SHOW FLEET`; empty outside a fleet.
    pub fleet: Vec<FleetRow>,
    /// `SHOW PINS`.
    pub pins: Vec<Pin>,
    /// `SHOW PIN_STATS`.
    pub pin_stats: Vec<PinStat>,
    /// `SHOW LEAKS`.
    pub leaks: Vec<Leak>,
    /// `SHOW STATE`.
    pub activity: Activity,
}

/// One pool.
#[derive(Clone, Debug, Default)]
pub struct PoolRow {
    /// Name of the database as clients know it.
    pub database: String,
    /// User.
    pub user: String,
    /// Clients that are linked, or idle.
    pub cl_active: u64,
    /// Clients in the queue.
    pub cl_waiting: u64,
    /// Cancel requests that were sent on.
    pub cl_active_cancel_req: u64,
    /// Cancel requests that wait to be sent on.
    pub cl_waiting_cancel_req: u64,
    /// Servers that are linked.
    pub sv_active: u64,
    /// Connections that carry a cancel request.
    pub sv_active_cancel: u64,
    /// Servers that cannot be used before a cancel request to them is through.
    pub sv_being_canceled: u64,
    /// Servers free for use.
    pub sv_idle: u64,
    /// Servers free, but to be checked before use.
    pub sv_used: u64,
    /// Servers being reset or checked.
    pub sv_tested: u64,
    /// Servers logging in.
    pub sv_login: u64,
    /// How long the first client in the queue has waited.
    pub maxwait: Duration,
    /// `session`, `transaction` or `statement`.
    pub pool_mode: String,
    /// How servers are picked among several hosts.
    pub load_balance_hosts: Option<String>,
    /// Configured size of the pool, in servers.
    pub pool_size: u64,
    /// Servers the pool may have right now: its size, or less where the budget is short.
    pub sv_limit: u64,
    /// The sum of its rows in `SHOW PIN_STATS`; in the metrics only.
    pub pin_counters: PinCounters,
}

/// One connection, of a client or of a server.
///
/// Ids of clients and servers come from one counter, so that `link` is not ambiguous.
#[derive(Clone, Debug, Default)]
pub struct ConnRow {
    /// Which of the two it is.
    pub kind: ConnKind,
    /// User; `None` before it is known.
    pub user: Option<String>,
    /// Database; `None` before it is known.
    pub database: Option<String>,
    /// Replication mode.
    pub replication: Replication,
    /// State.
    pub state: ConnState,
    /// Address of the peer, or `unix`.
    pub addr: String,
    /// Port of the peer.
    pub port: u16,
    /// Our own address.
    pub local_addr: String,
    /// Our own port.
    pub local_port: u16,
    /// When it was made.
    pub connect_time: Option<SystemTime>,
    /// When the latest request began.
    pub request_time: Option<SystemTime>,
    /// How long the current request has taken, in the queue or on a server.
    pub wait: Duration,
    /// Is it to be closed as soon as it is free?
    pub close_needed: bool,
    /// Its id: the columns `id` and `ptr`, and the argument of `KILL_CLIENT`.
    pub id: u64,
    /// Id of the connection it is linked to.
    pub link: Option<u64>,
    /// Process id of the peer: the backend, or a client on a Unix socket; 0 when unknown.
    pub remote_pid: u32,
    /// TLS version and cipher, empty without TLS.
    pub tls: String,
    /// The parameter application_name.
    pub application_name: String,
    /// Prepared statements known for it.
    pub prepared_statements: u64,
    /// Number of the worker it lives on.
    pub worker: u64,
}

/// Whose connection it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ConnKind {
    /// A client's.
    #[default]
    Client,
    /// A server's.
    Server,
}

/// The startup option `replication`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Replication {
    /// Not a replication connection.
    #[default]
    None,
    /// `replication=database`.
    Logical,
    /// `replication=true`.
    Physical,
}

/// State of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ConnState {
    /// Client or server: linked.
    Active,
    /// Client: logged in, without a server. Server: free.
    #[default]
    Idle,
    /// Client: in the queue.
    Waiting,
    /// Client: its cancel request was sent on.
    ActiveCancelReq,
    /// Client: its cancel request waits to be sent on.
    WaitingCancelReq,
    /// Server: free, but to be checked before use.
    Used,
    /// Server: listens for the clients of its pool.
    Listening,
    /// Server: being reset or checked.
    Tested,
    /// Server: logging in.
    New,
    /// Server: carries a cancel request.
    ActiveCancel,
    /// Server: a cancel request to it is on its way.
    BeingCanceled,
}

impl ConnState {
    /// As PgBouncer writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Idle => "idle",
            Self::Waiting => "waiting",
            Self::ActiveCancelReq => "active_cancel_req",
            Self::WaitingCancelReq => "waiting_cancel_req",
            Self::Used => "used",
            Self::Listening => "listening",
            Self::Tested => "tested",
            Self::New => "new",
            Self::ActiveCancel => "active_cancel",
            Self::BeingCanceled => "being_canceled",
        }
    }
}

/// One configured database.
#[derive(Clone, Debug, Default)]
pub struct DatabaseRow {
    /// Name as clients know it.
    pub name: String,
    /// Host of the server; `None` for the default.
    pub host: Option<String>,
    /// Port of the server.
    pub port: u16,
    /// Name on the server.
    pub database: String,
    /// User all clients are mapped to.
    pub force_user: Option<String>,
    /// Size of each of its pools, in servers.
    pub pool_size: u64,
    /// Servers each pool keeps open.
    pub min_pool_size: u64,
    /// Servers each pool may open beyond its size.
    pub reserve_pool_size: u64,
    /// How old a server may get.
    pub server_lifetime: Duration,
    /// Pool mode where it differs from the default.
    pub pool_mode: Option<String>,
    /// How servers are picked among several hosts.
    pub load_balance_hosts: Option<String>,
    /// Most servers over all its pools; 0 is no limit.
    pub max_connections: u64,
    /// Servers now.
    pub current_connections: u64,
    /// Most clients; 0 is no limit.
    pub max_client_connections: u64,
    /// Clients now.
    pub current_client_connections: u64,
    /// Is it paused?
    pub paused: bool,
    /// Is it disabled?
    pub disabled: bool,
}

/// One known user.
#[derive(Clone, Debug, Default)]
pub struct UserRow {
    /// Name.
    pub name: String,
    /// Pool size of its own, in servers.
    pub pool_size: Option<u64>,
    /// Reserve size of its own, in servers.
    pub reserve_pool_size: Option<u64>,
    /// Pool mode of its own.
    pub pool_mode: Option<String>,
    /// Most servers; 0 is no limit.
    pub max_user_connections: u64,
    /// Servers now.
    pub current_connections: u64,
    /// Most clients; 0 is no limit.
    pub max_user_client_connections: u64,
    /// Clients now.
    pub current_client_connections: u64,
}

/// One instance of the fleet at one PostgreSQL, as this instance sees it.
#[derive(Clone, Debug, Default)]
pub struct FleetRow {
    /// Name of the fleet.
    pub fleet: String,
    /// Host and port of the PostgreSQL, as in [`BudgetRow::server`].
    pub server: String,
    /// The machine that the instance runs on.
    pub host: String,
    /// Process id of the instance on that machine; `None` when unknown.
    pub pid: Option<u32>,
    /// Process id of the backend of its control connection.
    pub backend_pid: u32,
    /// Servers it may have open.
    pub tokens: u32,
    /// Servers it has told of.
    pub servers: u32,
    /// Servers it could use.
    pub wanted: u32,
    /// Its fair share, in servers, of what there is.
    pub entitled: u32,
    /// When its control connection was opened; `None` where our role may not see it.
    pub since: Option<SystemTime>,
    /// Is it this instance?
    pub is_self: bool,
}

/// One configuration key.
#[derive(Clone, Debug, Default)]
pub struct ConfigRow {
    /// Its name.
    pub key: String,
    /// Its value.
    pub value: Option<String>,
    /// Its default.
    pub default: Option<String>,
    /// Can it change without a restart?
    pub changeable: bool,
}

/// Sizes of lists. PgBouncer's lists of peers and DNS requests have no counterpart and show as 0.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lists {
    /// Databases.
    pub databases: u64,
    /// Users.
    pub users: u64,
    /// Pools.
    pub pools: u64,
    /// Allocated and unused client slots.
    pub free_clients: u64,
    /// Clients.
    pub used_clients: u64,
    /// Clients logging in.
    pub login_clients: u64,
    /// Allocated and unused server slots.
    pub free_servers: u64,
    /// Servers.
    pub used_servers: u64,
}

/// Whether queries are served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Activity {
    /// They are.
    #[default]
    Active,
    /// `PAUSE` without a database is in force.
    Paused,
}
