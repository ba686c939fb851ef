//! Sockets, workers, timers and signals: the only crate that does I/O.
//!
//! One front thread opens servers, keeps the budget, serves the console and logs in those for whom something has to be encrypted, asked
//! or hashed; workers, one thread each, accept clients, log in the others, and carry the queries. The front decides with the `pool` crate's broker, a worker with its share of the
//! pools and the `session` crate's machines; here is what carries their decisions out.

mod buffer;
mod caller;
mod certificates;
mod demand;
mod failures;
mod front;
mod inbox;
mod listen;
mod message;
mod net;
mod reactor;
mod reception;
mod spec;
mod tls;
mod worker;

pub use front::{Source, StartError, check_tls, run};

/// Bytes nobody can guess.
fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the system has random numbers");
    bytes
}
