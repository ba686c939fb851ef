//! What others may know of a client, and tell it: the cell between a client's task and its worker.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::Waker;
use std::time::{Duration, Instant, SystemTime};

use pgsluice_pool::PoolId;
use pgsluice_session::{HubEvent, Refusal, Replication};
use subtle::ConstantTimeEq;
use tokio::sync::oneshot;

use super::conn::{Idle, Live};
use crate::message::NewClient;
use crate::net::Ends;

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

/// A client, as seen by others. Whoever sets a cell wakes the task.
pub(crate) struct Slot {
    pub(crate) id: u64,
    pub(crate) is_ours: bool,
    pub(crate) pid: u32,
    pub(crate) secret: Box<[u8]>,
    pub(crate) pool: PoolId,
    pub(crate) user: String,
    pub(crate) replication: Replication,
    pub(crate) query_wait: Duration,
    pub(crate) client_idle: Duration,
    pub(crate) application_name: String,
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
    pub(crate) pinned: RefCell<Option<Pinned>>,
    /// The statement behind which it was idle in a transaction last.
    pub(crate) statement: RefCell<String>,
    pub(crate) grant: Cell<Option<Grant>>,
    pub(crate) kill: Cell<Option<Refusal>>,
    pub(crate) cancel: Cell<Option<oneshot::Sender<()>>>,
    /// It keeps its server for a while only; and that is over.
    pub(crate) leased: Cell<bool>,
    pub(crate) lease_over: Cell<bool>,
    /// Only channels keep it on its server, and no hub listens for it yet.
    pub(crate) seeks_hub: Cell<bool>,
    /// A move to the hub or back has taken too long: the one with this mark.
    pub(crate) switch_late: Cell<Option<u64>>,
    mail: RefCell<Vec<HubEvent>>,
    pub(crate) notice_due: Cell<bool>,
    pub(crate) noticed: Cell<bool>,
    waker: Cell<Option<Waker>>,
}

impl Slot {
    pub(crate) fn new(client: &NewClient) -> Self {
        let now = Instant::now();
        Self {
            id: client.id,
            is_ours: client.is_ours,
            pid: client.pid,
            secret: client.secret.clone(),
            pool: client.pool.id,
            user: client.user.clone(),
            replication: client.replication,
            query_wait: client.query_wait,
            client_idle: client.client_idle,
            application_name: client.settings.get("application_name").unwrap_or_default().into(),
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
            kill: Cell::new(None),
            cancel: Cell::new(None),
            leased: Cell::new(false),
            lease_over: Cell::new(false),
            seeks_hub: Cell::new(false),
            switch_late: Cell::new(None),
            mail: RefCell::default(),
            notice_due: Cell::new(false),
            noticed: Cell::new(false),
            waker: Cell::new(None),
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

    pub(crate) fn register(&self, waker: &Waker) {
        let old = self.waker.take();
        self.waker.set(Some(old.filter(|w| w.will_wake(waker)).unwrap_or_else(|| waker.clone())));
    }

    pub(crate) fn wake(&self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Ends the session, with this as its last word.
    pub(crate) fn kill(&self, refusal: Refusal) {
        self.kill.set(Some(refusal));
        self.wake();
    }

    /// News from the hub.
    pub(crate) fn mail(&self, event: HubEvent) {
        self.mail.borrow_mut().push(event);
        self.wake();
    }

    pub(crate) fn take_mail(&self) -> Vec<HubEvent> {
        self.mail.take()
    }

    pub(crate) fn grant(&self, grant: Grant) {
        self.grant.set(Some(grant));
        self.wake();
    }
}
