//! The admin console: admin commands parsed, snapshots of the pooler rendered as rows, and the console's side of the
//! protocol.
//!
//! It is what answers a client of the virtual database `pgbouncer`, in the simple and in the extended protocol. It has
//! no socket, no clock and no access to any pool: what it shows is a [`Snapshot`] somebody took, and a command that
//! would change something is returned as [`Want::Run`] for somebody else to carry out. It does not log clients in.
//!
//! The same snapshots are what [`metrics()`] tells Prometheus.
//!
//! Names, columns, types and error texts follow PgBouncer 1.26 (its manual's chapter "Admin console", its
//! `src/admin.c` and `src/stats.c`); our own columns come after PgBouncer's. `docs/console.md` lists them all.

mod budget;
mod columns;
mod command;
mod complaint;
mod console;
mod extended;
mod holders;
mod lex;
mod metrics;
mod parameters;
mod read;
mod render;
mod snapshot;
mod stats;
mod value;

pub use budget::{BudgetRow, BudgetState, Limits, Ours};
pub use columns::columns;
pub use command::{BadCommand, Command, Constant, ShutdownMode, Subject, parse, parse_all};
pub use complaint::Failure;
pub use console::{Access, Console, MESSAGE_MAX, OUTBOX_MAX, QUERY_COMMANDS_MAX, Want};
pub use extended::{NAME_MAX, PORTALS_MAX, STATEMENTS_MAX};
pub use holders::{Holder, Leak, PIN_REASONS, Pin, PinCounters, PinStat, STATEMENT_SHOWN_MAX};
pub use metrics::{METRICS_TYPE, metrics};
pub use parameters::{Parameter, SERVER_VERSION, VERSION};
pub use render::{Table, render};
pub use snapshot::{
    Activity, ConfigRow, ConnKind, ConnRow, ConnState, DatabaseRow, FleetRow, Lists, PoolRow, Replication, Snapshot,
    UserRow,
};
pub use stats::{Counters, StatsRow, averages};
