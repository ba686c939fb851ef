//! What the front thread and the workers tell each other. No query travels here: only what is rare.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use pgsluice_console::{Counters, PinCounters};
use pgsluice_pool::{Demand, PoolId, ShedTo};
use pgsluice_session::{CancelKey, ClientLogin, IdleServer, LoginWant, Params, Refusal, Replication, Settings};
use tokio::sync::oneshot;
use zeroize::Zeroizing;

use crate::failures::Held;
use crate::front::ForClients;
use crate::listen::{Fresh, Listener};
use crate::net::{Ends, Known, Parcel};
use crate::reception::Login;
use crate::spec::{Address, PoolSpec};

/// A client that has proven who it is.
#[derive(Debug)]
pub(crate) struct NewClient {
    pub(crate) ends: Ends,
    pub(crate) id: u64,
    /// Our own: its coming and going is not logged.
    pub(crate) is_ours: bool,
    pub(crate) pid: u32,
    pub(crate) secret: Box<[u8]>,
    pub(crate) user: String,
    pub(crate) replication: Replication,
    pub(crate) settings: Arc<Settings>,
    pub(crate) pool: Arc<PoolSpec>,
    /// `query_wait_timeout` and `client_idle_timeout` of this user; zero is off.
    pub(crate) query_wait: Duration,
    pub(crate) client_idle: Duration,
    /// Bytes it sent behind its login.
    pub(crate) early: Vec<u8>,
    /// Bytes of ours it has not been sent yet: AuthenticationOk.
    pub(crate) late: Vec<u8>,
}

/// A client whose login has begun on a worker, and how far it has come; the front goes on with it.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) parcel: Parcel,
    pub(crate) known: Known,
    pub(crate) progress: Progress,
    /// What the client's last message came to, if that was looked at already.
    pub(crate) step: Result<LoginWant, Refusal>,
}

/// How far a login has come.
#[derive(Debug)]
pub(crate) struct Progress {
    pub(crate) count: Login,
    pub(crate) since: Instant,
    pub(crate) login: ClientLogin,
    /// Of the client, and not taken yet. It may be a password.
    pub(crate) inbox: Zeroizing<Vec<u8>>,
    /// For the client.
    pub(crate) out: Vec<u8>,
    /// TLS as it was offered when the client came.
    pub(crate) offer: Option<Arc<ForClients>>,
    /// It is among those whose proof is being looked at, or was wrong.
    pub(crate) held: Option<Held>,
}

/// A server that has logged in, or comes from another worker.
#[derive(Debug)]
pub(crate) struct NewServer {
    pub(crate) parcel: Parcel,
    pub(crate) info: ServerInfo,
    pub(crate) server: IdleServer,
}

/// A replication client, and the WAL sender that was opened for it.
#[derive(Debug)]
pub(crate) struct NewTunnel {
    pub(crate) parcel: Parcel,
    pub(crate) client: NewClient,
    pub(crate) server: Parcel,
    pub(crate) info: ServerInfo,
    pub(crate) key: CancelKey,
    pub(crate) params: Arc<Params>,
}

/// What does not change about a server.
#[derive(Clone, Debug)]
pub(crate) struct ServerInfo {
    pub(crate) id: u64,
    pub(crate) pid: u32,
    pub(crate) ends: Ends,
    pub(crate) since: Instant,
    pub(crate) connected: SystemTime,
    /// The pool's configuration it was opened under.
    pub(crate) epoch: u64,
}

/// How to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Drain {
    /// When the last client has gone.
    Clients,
    /// When the last server is released.
    Servers,
}

/// To a worker.
#[derive(Debug)]
pub(crate) enum ToWorker {
    /// Clients are to be accepted from this socket.
    Listen(Arc<Listener>),
    /// A client that another worker accepted, and counted here.
    Accepted(Fresh, Login),
    Client(Parcel, Box<NewClient>),
    Tunnel(Box<NewTunnel>),
    Server {
        pool: PoolId,
        server: Box<NewServer>,
    },
    /// No server is to be had for a pool: its waiters are told.
    Refuse {
        pool: PoolId,
        refusal: Refusal,
    },
    Shed {
        pool: PoolId,
        to: ShedTo,
    },
    Cancel {
        pid: u32,
        secret: Box<[u8]>,
        done: oneshot::Sender<()>,
    },
    /// A pool's configuration, new or changed; servers of an older epoch are closed when they are free.
    Pool {
        spec: Arc<PoolSpec>,
        epoch: u64,
    },
    Pause {
        database: Option<String>,
        done: oneshot::Sender<()>,
    },
    Resume {
        database: Option<String>,
    },
    Kill {
        database: Option<String>,
    },
    KillClient {
        id: u64,
        found: oneshot::Sender<bool>,
    },
    /// Answers when no server of an older epoch is left.
    WaitClose {
        database: Option<String>,
        done: oneshot::Sender<()>,
    },
    Snapshot {
        detail: bool,
        reply: oneshot::Sender<WorkerSnapshot>,
    },
    Drain {
        mode: Drain,
        done: oneshot::Sender<()>,
    },
}

/// From a worker.
#[derive(Debug)]
pub(crate) enum ToFront {
    /// A client that is not a worker's to let in.
    Arrival(Box<Arrival>),
    Demand {
        pool: PoolId,
        worker: usize,
        demand: Demand,
    },
    Closed {
        pool: PoolId,
        worker: usize,
        pid: u32,
        shed: bool,
    },
    /// A server goes to another worker.
    Moved {
        pool: PoolId,
        from: usize,
        to: usize,
        server: Box<NewServer>,
    },
    ShedExpired {
        pool: PoolId,
        worker: usize,
        to: ShedTo,
    },
    /// Send a cancel request; tell when PostgreSQL has closed its connection.
    Cancel {
        address: Address,
        key: CancelKey,
        done: oneshot::Sender<()>,
        asker: Option<oneshot::Sender<()>>,
    },
}

/// A worker's share of what the console shows.
#[derive(Debug, Default)]
pub(crate) struct WorkerSnapshot {
    pub(crate) pools: Vec<PoolShare>,
    pub(crate) clients: Vec<pgsluice_console::ConnRow>,
    pub(crate) servers: Vec<pgsluice_console::ConnRow>,
    pub(crate) pins: Vec<pgsluice_console::Pin>,
    /// One for each database, user and application_name.
    pub(crate) pin_stats: Vec<pgsluice_console::PinStat>,
    /// Clients idle inside a transaction; of their locks the worker knows nothing.
    pub(crate) leaks: Vec<(PoolId, pgsluice_console::Leak)>,
}

/// A worker's share of a pool.
#[derive(Clone, Debug)]
pub(crate) struct PoolShare {
    pub(crate) pool: PoolId,
    pub(crate) clients: u64,
    pub(crate) waiting: u64,
    pub(crate) idle: u64,
    pub(crate) linked: u64,
    pub(crate) cleaning: u64,
    pub(crate) oldest: Option<Instant>,
    pub(crate) counters: Counters,
    /// Over all applications.
    pub(crate) pins: PinCounters,
}
