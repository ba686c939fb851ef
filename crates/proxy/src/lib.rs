//! Sockets, workers, timers and signals: the only crate that does I/O.
//!
//! One front thread accepts and logs in clients, opens servers, keeps the budget and serves the console; workers, one
//! thread each, carry the queries. The front decides with the `pool` crate's broker, a worker with its share of the
//! pools and the `session` crate's machines; here is what carries their decisions out.

mod buffer;
mod front;
mod message;
mod net;
mod reactor;
mod spec;
mod tls;
mod worker;

pub use front::{Source, StartError, check_tls, run};
