//! One client's session, one server's state, and the link between them, as pure machines: bytes, grants and refusals
//! come in; what becomes of the bytes comes out. No socket, clock, task or random source in here, and no payload is
//! owned: a [`Plan`] labels spans of the caller's buffer.
//!
//! The parts: [`Session`] reads what a client sends, [`Server`] what a server sends; the ledger between them holds the
//! responses owed; [`ClientLogin`] and [`ServerLogin`] are the cold exchanges before either exists. Who gets which
//! server, and when, is not decided here (crate `pool`), nor is anything read or written (crate `proxy`).

mod audit;
mod backend;
mod client_login;
mod deallocate;
mod error;
mod follow;
mod frontend;
mod hub;
mod identity;
mod ledger;
mod listen;
mod loss;
mod message;
mod named;
mod params;
mod plan;
mod replay;
mod sequence;
mod server;
mod server_login;
mod settings;
mod shape;
mod startup_options;
mod statement;
mod told;
mod tracking;
mod unnamed;

pub use client_login::{AuthMethod, ClientLogin, LoginWant};
pub use error::{Refusal, ServerError, StartupFault, Violation};
pub use follow::{Catalog, CatalogRow};
pub use frontend::{Pooling, Progress, Session, Want};
pub use hub::{Hub, HubEvent};
pub use identity::{Identity, Replication};
pub use listen::Channels;
pub use loss::AfterLoss;
pub use params::Params;
pub use pgsluice_sql::Suspects;
pub use plan::Plan;
pub use server::{CancelKey, Cleanup, IdleServer, Server};
pub use server_login::{LoginFailure, ServerCredential, ServerLogin};
pub use settings::Settings;
pub use statement::{Registry, Statement};
pub use tracking::{Audit, PinPolicy, PinReason, StateCounts, Tracking};

/// What the machines of one worker share, lent to them call by call.
#[derive(Debug)]
pub struct Ctx<'a> {
    /// Statements by content.
    pub registry: &'a mut Registry,
    /// Counters of the pool concerned.
    pub counters: &'a mut Counters,
    /// What the database has that can change a session's state.
    pub catalog: Catalog<'a>,
    /// Where the verdict on the input goes.
    pub plan: &'a mut Plan,
}

/// What happened, in numbers that only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// ReadyForQuery messages shown to clients.
    pub queries: u64,
    /// Transactions ended.
    pub xacts: u64,
    /// Parse messages of named statements from clients.
    pub client_parses: u64,
    /// Parse messages of named statements to servers.
    pub server_parses: u64,
    /// Bind messages from clients.
    pub binds: u64,
    /// Times that `currval` or `lastval` may have been called in a later transaction than `nextval`.
    pub sequence_reads: u64,
    /// Times that such a call came too late.
    pub sequence_losses: u64,
    /// Times that a server was kept for such a call, and none came.
    pub sequence_proofs: u64,
}
