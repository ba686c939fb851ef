//! The hub of a pool on this worker: a task that has the server which listens for many clients, and puts what it hears into
//! their slots. Founded by a client whose server it becomes; it ends when nobody listens any more.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use pgsluice_pool::PoolId;
use pgsluice_session::{Channels, Hub, HubEvent, Plan, Refusal, Server};
use tokio::sync::Notify;
use tracing::info;

use super::conn::{Linked, Live};
use super::recover::{Left, Lost, read};
use super::slot::Slot;
use super::{PoolState, State, Worker};

/// A hub, as its clients and its worker share it.
pub(super) struct SharedHub {
    hub: RefCell<Hub>,
    members: RefCell<HashMap<u64, Rc<Slot>>>,
    pub(super) live: Rc<Live>,
    /// There is something to do.
    wake: Notify,
    /// Nobody listens by it, and nobody will.
    is_over: Cell<bool>,
}

/// A client that a hub could listen for, and its encoding.
pub(super) struct Candidate {
    slot: Rc<Slot>,
    encoding: String,
}

impl SharedHub {
    /// Listens for a client, which will be told.
    pub(super) fn join(&self, slot: &Rc<Slot>, channels: &std::sync::Arc<Channels>) {
        self.members.borrow_mut().insert(slot.id, slot.clone());
        self.hub.borrow_mut().join(slot.id, channels);
        self.wake.notify_one();
    }

    /// A client has no use for it any more.
    pub(super) fn leave(&self, id: u64) {
        self.members.borrow_mut().remove(&id);
        self.hub.borrow_mut().leave(id);
    }

    /// Looks out for the mark of a client, sent by the backend `pid`.
    pub(super) fn expect(&self, id: u64, mark: u64, pid: u32) {
        self.hub.borrow_mut().expect(id, mark, pid);
    }

    /// Can it listen for the client that has this server?
    pub(super) fn suits(&self, server: &Server) -> bool {
        self.hub.borrow().suits(server)
    }

    /// Clients that it listens for.
    pub(super) fn len(&self) -> usize {
        self.hub.borrow().len()
    }

    /// The time has come to give up channels that nobody wants, or all of it.
    pub(super) fn tick(&self) {
        let mut hub = self.hub.borrow_mut();
        self.is_over.set(hub.is_empty());
        if hub.tidy() || hub.is_empty() {
            self.wake.notify_one();
        }
    }

    /// Ends the sessions of its clients, but for those that have a server just now.
    pub(super) fn end_idle(&self, why: &Refusal) {
        let (members, hub) = (self.members.borrow(), self.hub.borrow());
        let idle = members.values().filter(|slot| hub.has(slot.id) && slot.link.borrow().is_none());
        idle.for_each(|slot| slot.kill(why.clone()));
    }

    fn deliver(&self, events: Vec<(u64, HubEvent)>) {
        let mut members = self.members.borrow_mut();
        for (id, event) in events {
            let leaves = matches!(event, HubEvent::Mark(_)) && !self.hub.borrow().has(id);
            if let Some(slot) = members.get(&id) {
                slot.mail(event);
            }
            if leaves {
                members.remove(&id);
            }
        }
    }
}

impl PoolState {
    /// Notes a client whom only channels keep on its server. Is there another one, so that one server could listen for both?
    pub(super) fn add_candidate(&mut self, slot: &Rc<Slot>, server: &Server) -> bool {
        let encoding = server.params().get("client_encoding").unwrap_or_default().to_owned();
        let another = self.candidates.values().any(|c| c.slot.id != slot.id && c.encoding == encoding);
        slot.seeks_hub.set(true);
        self.candidates.insert(slot.id, Candidate { slot: slot.clone(), encoding });
        another
    }

    /// There is a hub, or there is none any more: they look again.
    fn wake_candidates(&mut self) {
        for candidate in std::mem::take(&mut self.candidates).into_values() {
            candidate.slot.wake();
        }
    }
}

impl Worker {
    /// The server of a client that listens becomes the pool's hub, which listens for others, too.
    pub(super) fn found_hub(
        self: &Rc<Self>,
        state: &mut State,
        pool: PoolId,
        slot: &Rc<Slot>,
        channels: &std::sync::Arc<Channels>,
        mut linked: Linked,
    ) -> std::sync::Arc<[u8]> {
        let hub = Hub::new(&mut linked.server, slot.id, channels);
        let marks_by = hub.marks_by().clone();
        let shared = Rc::new(SharedHub {
            hub: RefCell::new(hub),
            members: RefCell::new(HashMap::from([(slot.id, slot.clone())])),
            live: linked.conn.live.clone(),
            wake: Notify::new(),
            is_over: Cell::new(false),
        });
        let entry = state.pool(pool);
        entry.hub = Some(shared.clone());
        entry.wake_candidates();
        info!(server = shared.live.info.id, database = %entry.spec.database, "a server listens for all clients of its pool");
        let worker = self.clone();
        self.reactor.spawn(async move { worker.run_hub(pool, shared, linked).await });
        marks_by
    }

    async fn run_hub(self: Rc<Self>, pool: PoolId, hub: Rc<SharedHub>, mut linked: Linked) {
        let outcome = serve(&hub, &mut linked).await;
        let mut state = self.cell.borrow_mut();
        let entry = state.pool(pool);
        entry.hub = None;
        entry.wake_candidates();
        let server = hub.live.info.id;
        for slot in hub.members.borrow().values() {
            slot.mail(HubEvent::Lost);
        }
        match outcome {
            Ok(()) => {
                info!(server, "nobody listens any more");
                self.recover(&mut state, pool, linked, Left::default());
            }
            Err(lost) => {
                info!(server, ?lost, clients = hub.len(), "the server that listened was lost");
                entry.pool.lose();
                self.lose(pool, *linked.conn);
            }
        }
    }
}

/// Until nobody listens any more.
async fn serve(shared: &SharedHub, linked: &mut Linked) -> Result<(), Lost> {
    let Linked { conn, server } = linked;
    let mut plan = Plan::default();
    loop {
        let events = shared.hub.borrow_mut().take(server).ok_or(Lost::Broken)?;
        shared.deliver(events);
        if shared.is_over.get() && shared.hub.borrow().is_empty() && server.is_quiet() {
            server.end_hub();
            return Ok(());
        }
        let mut out = Vec::new();
        shared.hub.borrow_mut().write(server, &mut out);
        conn.stream.write_all(&out).await.map_err(|_| Lost::Gone)?;
        tokio::select! {
            outcome = read(conn, server, &mut plan) => outcome?,
            () = shared.wake.notified() => {}
        }
    }
}
