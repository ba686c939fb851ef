//! A server whose client is done with it, but which is not fit for the next one yet: cancelled, drained, rolled back,
//! reset, and given back; or closed, if that does not work in time.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use pgsluice_pool::PoolId;
use pgsluice_session::{Cleanup, Plan, Server};
use tokio::sync::oneshot;
use tokio::task::spawn_local;
use tracing::debug;

use super::conn::{Conn, Idle, Linked};
use super::{State, Worker};
use crate::message::ToFront;
use crate::spec::PoolSpec;

/// Bytes read at once while cleaning.
const READ_LEN: usize = 16 << 10;

/// Why a server could not be cleaned.
#[derive(Debug)]
enum Lost {
    Gone,
    Broken,
}

impl Worker {
    /// Cleans a server in a task of its own. `reset` is run when a session in session pooling ends.
    pub(super) fn recover(self: &Rc<Self>, state: &mut State, pool: PoolId, linked: Linked, reset: bool) {
        let entry = state.pool(pool);
        entry.cleaning += 1;
        let spec = entry.spec.clone();
        let live = linked.conn.live.clone();
        state.cleaning.insert(live.info.id, (pool, live));
        let worker = self.clone();
        spawn_local(async move { worker.run_recovery(pool, linked, spec, reset).await });
    }

    async fn run_recovery(self: Rc<Self>, pool: PoolId, mut linked: Linked, spec: Arc<PoolSpec>, reset: bool) {
        let id = linked.conn.live.info.id;
        let cleaned = tokio::time::timeout(spec.timeouts.cleanup, self.clean(&mut linked, &spec, reset)).await;
        let mut state = self.cell.borrow_mut();
        state.cleaning.remove(&id);
        let entry = state.pool(pool);
        entry.cleaning -= 1;
        let Linked { conn, server } = linked;
        match (cleaned, server.release()) {
            (Ok(Ok(())), Ok(server)) => {
                conn.live.prepared.set(server.server().prepared_count());
                self.place(&mut state, pool, Idle { conn, server }, true, Instant::now());
            }
            (outcome, _) => {
                debug!(server = id, ?outcome, "server could not be cleaned and is closed");
                entry.pool.lose();
                self.lose(pool, *conn);
            }
        }
    }

    async fn clean(&self, linked: &mut Linked, spec: &PoolSpec, mut reset: bool) -> Result<(), Lost> {
        let Linked { conn, server } = linked;
        if server.owes() {
            self.send_cancel(conn, server, spec, None);
        }
        flush(conn).await?;
        let mut plan = Plan::default();
        loop {
            let mut out = Vec::new();
            match server.clean(&mut out) {
                Cleanup::Done if reset => {
                    reset = false;
                    server.write_reset(&spec.reset_query, &mut out);
                }
                Cleanup::Done => return Ok(()),
                Cleanup::Hopeless => return Err(Lost::Broken),
                Cleanup::Wait => {}
            }
            conn.stream.write_all(&out).await.map_err(|_| Lost::Gone)?;
            if server.is_quiet() {
                wait_for_cancels(conn, server).await;
                continue;
            }
            if conn.stream.read_some(conn.inbox.tail(), READ_LEN).await.map_err(|_| Lost::Gone)? == 0 {
                return Err(Lost::Gone);
            }
            let taken = server.handle_alone(conn.inbox.as_slice(), &mut plan).map_err(|_| Lost::Broken)?;
            conn.inbox.consume(taken);
        }
    }

    /// Asks the front to cancel what the server is doing, unless that is under way.
    pub(super) fn send_cancel(
        &self,
        conn: &mut Conn,
        server: &mut Server,
        spec: &PoolSpec,
        asker: Option<oneshot::Sender<()>>,
    ) {
        conn.cancels.retain_mut(|done| {
            let open = matches!(done.try_recv(), Err(oneshot::error::TryRecvError::Empty));
            if !open {
                server.end_cancel();
            }
            open
        });
        if conn.cancels.is_empty() {
            let (done, receiver) = oneshot::channel();
            server.begin_cancel();
            conn.cancels.push(receiver);
            let (address, key) = (spec.target.address.clone(), server.cancel_key().clone());
            self.tell(ToFront::Cancel { address, key, done, asker });
        }
    }

    /// A server connection is gone; the front gets its permit back.
    pub(super) fn lose(&self, pool: PoolId, conn: Conn) {
        let pid = conn.live.info.pid;
        conn.close();
        self.tell(ToFront::Closed { pool, worker: self.index, pid, shed: false });
    }
}

async fn flush(conn: &mut Conn) -> Result<(), Lost> {
    let rest = conn.outbox.take();
    conn.stream.write_all(rest.as_slice()).await.map_err(|_| Lost::Gone)
}

async fn wait_for_cancels(conn: &mut Conn, server: &mut Server) {
    for done in conn.cancels.drain(..) {
        // Whether it was sent or given up: it is over.
        let _ = done.await;
        server.end_cancel();
    }
}
