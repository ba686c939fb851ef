//! What the console says about itself: its version texts and the parameters a driver wants to know of a server. They
//! are constants of the console, not settings of any pool.

use crate::console::Access;

/// Answer to `SHOW VERSION`. Dashboards and exporters cut the prefix `PgBouncer X.Y.Z` out of it to learn which columns
/// to expect, so it names the PgBouncer release whose columns we have, and then ourselves.
pub const VERSION: &str = concat!("PgBouncer 1.26.0 (pgsluice ", env!("CARGO_PKG_VERSION"), ")");

/// The parameter `server_version`, in the form in which Linux distributions extend PostgreSQL's own
/// (`15.4 (Debian …)`), which drivers have met. libpq and psql read 15.0 from it, where they take PgBouncer's
/// `1.25.2/bouncer` for a server of version 1.25. Tried with psql 15, psycopg 2 and 3, asyncpg, pg8000, node-postgres
/// and tokio-postgres.
pub const SERVER_VERSION: &str = concat!("15.0 (pgsluice ", env!("CARGO_PKG_VERSION"), ")");

/// What `SELECT version()` answers; tools look for `PostgreSQL` and a number.
pub(crate) const FULL_VERSION: &str = concat!("PostgreSQL 15.0 (pgsluice ", env!("CARGO_PKG_VERSION"), " console)");

/// A parameter of the console that `SHOW` answers like PostgreSQL would.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Parameter {
    /// Name of the parameter, which is also the name of the column.
    pub name: &'static str,
    /// Its value.
    pub value: &'static str,
}

const fn parameter(name: &'static str, value: &'static str) -> Parameter {
    Parameter { name, value }
}

/// Sent to every client of the console after login, along with `is_superuser`. `in_hot_standby` and
/// `default_transaction_read_only` spare libpq two questions when `target_session_attrs` is given.
const REPORTED: [Parameter; 9] = [
    parameter("server_version", SERVER_VERSION),
    parameter("client_encoding", "UTF8"),
    parameter("server_encoding", "UTF8"),
    parameter("DateStyle", "ISO"),
    parameter("TimeZone", "UTC"),
    parameter("standard_conforming_strings", "on"),
    parameter("integer_datetimes", "on"),
    parameter("in_hot_standby", "off"),
    parameter("default_transaction_read_only", "off"),
];

/// Not reported, but asked for by drivers and frameworks.
const ANSWERED: [Parameter; 5] = [
    parameter("server_version_num", "150000"),
    parameter("default_transaction_isolation", "read committed"),
    parameter("transaction_isolation", "read committed"),
    parameter("transaction_read_only", "off"),
    parameter("max_identifier_length", "63"),
];

impl Parameter {
    /// The parameter of that name, in any case.
    pub fn find(name: &str) -> Option<Self> {
        REPORTED.into_iter().chain(ANSWERED).find(|p| p.name.eq_ignore_ascii_case(name))
    }
}

/// Name and value of every ParameterStatus a fresh console client gets.
pub(crate) fn reported(access: Access) -> impl Iterator<Item = Parameter> {
    let superuser = if access == Access::Admin { "on" } else { "off" };
    REPORTED.into_iter().chain([parameter("is_superuser", superuser)])
}

/// Detail of the notice that `SHOW HELP` answers.
pub(crate) const USAGE: &str = "
  SHOW HELP|VERSION|STATE|CONFIG|LISTS
  SHOW POOLS|CLIENTS|SERVERS|DATABASES|USERS|BUDGET|FLEET
  SHOW STATS|STATS_TOTALS|STATS_AVERAGES|TOTALS
  SHOW PINS|PIN_STATS|LEAKS
  SHOW PEERS|PEER_POOLS
  SET key = value
  RELOAD
  PAUSE [database]
  RESUME [database]
  RECONNECT [database]
  WAIT_CLOSE [database]
  DISABLE database
  ENABLE database
  KILL [database]
  KILL_CLIENT id
  SHUTDOWN [WAIT_FOR_SERVERS|WAIT_FOR_CLIENTS]";
