//! Who holds which server, who waits, and who may open another one: pure data, no message, socket, clock or task.
//!
//! Two halves that only talk through the numbers the proxy carries between them: a [`Pool`] is one worker's share of the
//! servers of one (database, user), and all that a query touches; the [`Broker`] is the instance's one place where
//! servers are granted, moved between workers and taken away, within the [`Budget`] of each PostgreSQL. No query passes
//! through the broker.

mod broker;
mod budget;
pub mod fair;
mod fleet;
mod fleet_share;
mod plan;
mod pool;
mod queue;
mod share;

pub use broker::{Action, Broker, CatalogLimits, ClusterId, Failure, PoolId, PoolLimits};
pub use budget::{Budget, BudgetState, Limits};
pub use fleet::{Errand, Fleet, Mark, Member, Need, View};
pub use pool::{Checkin, Checkout, Pool, ShedTo};
pub use queue::Ticket;
pub use share::Demand;
