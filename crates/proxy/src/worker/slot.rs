//! What others may know of a client, and tell it: the cell between a client's task and its worker.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use pgsluice_pool::PoolId;
use pgsluice_session::{HubEvent, Refusal, Replication, Settings};
use subtle::ConstantTimeEq;
use tokio::sync::oneshot;

use super::conn::{Idle, Live};
use crate::message::NewClient;
use crate::net::Ends;
use crate::reactor::{self, TaskId};

/// What a client is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Doing {
    /// Nothing, without a server.
    Idle,
    /// Waits in the queue.
    Waiting,
    /// Linked, and its server works for it.
    Active,
    /// Linked, and its server waits for it.
    IdleInTransaction,
    /// It has a WAL sender of its own.
    Replicating,
}

/// The answer to a checkout that had to wait.
#[derive(Debug)]
pub(crate) enum Grant {
    Server(Idle),
    Refused(Refusal),
}

/// A session that cannot be without its server.
#[derive(Clone, Debug)]
pub(crate) struct Pinned {
    /// Names of the reasons.
    pub(crate) reasons: Vec<&'static str>,
    pub(crate) since: Instant,
    /// The front of the statement that led to it.
    pub(crate) statement: String,
}

/// What others want of a client: rare, and so in one place that most have not.
#[derive(Debug, Default)]
pub(crate) struct Orders {
    pub(crate) kill: Option<Refusal>,
    pub(crate) cancel: Option<oneshot::Sender<()>>,
    /// News from the hub.
    pub(crate) mail: Vec<HubEvent>,
    /// A move to the hub or back has taken too long: the one with this mark.
    pub(crate) switch_late: Option<u64>,
    /// It has waited for so long that it is to be told.
    pub(crate) notice_due: bool,
}

/// A client, as seen by others. Whoever sets a cell wakes the task.
pub(crate) struct Slot {
    pub(crate) id: u64,
    pub(crate) is_ours: bool,
    pub(crate) pid: u32,
    pub(crate) secret: Box<[u8]>,
    pub(crate) pool: PoolId,
    pub(crate) user: Box<str>,
    pub(crate) replication: Replication,
    query_wait_ms: u32,
    client_idle_ms: u32,
    /// Of its startup message.
    settings: Arc<Settings>,
    pub(crate) ends: Ends,
    pub(crate) connected: SystemTime,
    pub(crate) doing: Cell<Doing>,
    /// Since when it is doing that.
    pub(crate) since: Cell<Instant>,
    /// When it was given its server.
    pub(crate) linked_since: Cell<Instant>,
    pub(crate) statements: Cell<usize>,
    pub(crate) link: RefCell<Option<Rc<Live>>>,
    /// Why it keeps its server, if it does.
    pub(crate) pinned: RefCell<Option<Box<Pinned>>>,
    /// The statement behind which it was idle in a transaction last.
    pub(crate) statement: RefCell<Box<str>>,
    pub(crate) grant: Cell<Option<Grant>>,
    orders: Cell<Option<Box<Orders>>>,
    /// It keeps its server for a while only; and that is over.
    pub(crate) leased: Cell<bool>,
    pub(crate) lease_over: Cell<bool>,
    /// Only channels keep it on its server, and no hub listens for it yet.
    pub(crate) seeks_hub: Cell<bool>,
    pub(crate) noticed: Cell<bool>,
    /// There is something in one of the cells for it.
    pub(crate) is_called: Cell<bool>,
    /// Its task.
    pub(crate) task: Cell<TaskId>,
}

impl Slot {
    /// `settings`: those of its startup message.
    pub(crate) fn new(client: &NewClient, settings: Arc<Settings>) -> Self {
        let now = Instant::now();
        Self {
            id: client.id,
            is_ours: client.is_ours,
            pid: client.pid,
            secret: client.secret.clone(),
            pool: client.pool.id,
            user: client.user.as_str().into(),
            replication: client.replication,
            query_wait_ms: millis(client.query_wait),
            client_idle_ms: millis(client.client_idle),
            settings,
            ends: client.ends.clone(),
            connected: SystemTime::now(),
            doing: Cell::new(Doing::Idle),
            since: Cell::new(now),
            linked_since: Cell::new(now),
            statements: Cell::new(0),
            link: RefCell::new(None),
            pinned: RefCell::new(None),
            statement: RefCell::default(),
            grant: Cell::new(None),
            orders: Cell::new(None),
            leased: Cell::new(false),
            lease_over: Cell::new(false),
            seeks_hub: Cell::new(false),
            noticed: Cell::new(false),
            is_called: Cell::new(false),
            task: Cell::new(TaskId::NOBODY),
        }
    }

    /// Does this cancel request know the secret? Takes as long whether it does or not.
    pub(crate) fn is_secret(&self, presented: &[u8]) -> bool {
        self.secret.ct_eq(presented).into()
    }

    pub(crate) fn set_doing(&self, doing: Doing, now: Instant) {
        self.doing.set(doing);
        self.since.set(now);
    }

    pub(crate) fn wake(&self) {
        self.is_called.set(true);
        reactor::wake(self.task.get());
    }

    /// Ends the session, with this as its last word.
    pub(crate) fn kill(&self, refusal: Refusal) {
        self.order(|orders| orders.kill = Some(refusal));
    }

    /// News from the hub.
    pub(crate) fn mail(&self, event: HubEvent) {
        self.order(|orders| orders.mail.push(event));
    }

    /// Something is wanted of it.
    pub(crate) fn order(&self, write: impl FnOnce(&mut Orders)) {
        let mut orders = self.orders.take().unwrap_or_default();
        write(&mut orders);
        self.orders.set(Some(orders));
        self.wake();
    }

    /// What is wanted of it since this was asked last.
    pub(crate) fn take_orders(&self) -> Option<Box<Orders>> {
        self.orders.take()
    }

    pub(crate) fn application_name(&self) -> &str {
        self.settings.get("application_name").unwrap_or_default()
    }

    /// `query_wait_timeout` of its user; zero is off.
    pub(crate) fn query_wait(&self) -> Duration {
        Duration::from_millis(self.query_wait_ms.into())
    }

    /// `client_idle_timeout` of its user; zero is off.
    pub(crate) fn client_idle(&self) -> Duration {
        Duration::from_millis(self.client_idle_ms.into())
    }

    pub(crate) fn grant(&self, grant: Grant) {
        self.grant.set(Some(grant));
        self.wake();
    }
}

/// In milliseconds; what is not zero does not become it.
fn millis(limit: Duration) -> u32 {
    let millis = u32::try_from(limit.as_millis()).unwrap_or(u32::MAX);
    if limit.is_zero() { 0 } else { millis.max(1) }
}
