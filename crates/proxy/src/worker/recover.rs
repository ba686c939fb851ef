//! A server whose client is done with it, but which is not fit for the next one yet: cancelled, drained, rolled back,
//! reset, and given back; or closed, if that does not work in time.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use pgsluice_pool::PoolId;
use pgsluice_session::{Cleanup, Plan, Server};
use tokio::sync::oneshot;
use tracing::debug;

use super::conn::{Conn, Idle, Linked};
use super::{State, Worker};
use crate::message::ToFront;
use crate::reactor::timeout;
use crate::spec::PoolSpec;

/// Bytes read at once while cleaning.
const READ_LEN: usize = 16 << 10;

/// How a client left its server.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Left {
    /// It said good-bye: what it had sent by then is to be done, as PostgreSQL would. Otherwise it is cancelled.
    pub(super) finish: bool,
    /// A session in session pooling ended: `server_reset_query` is run.
    pub(super) reset: bool,
}

/// Why a server could not be cleaned.
#[derive(Debug)]
pub(super) enum Lost {
    Late,
    Gone,
    Broken,
}

impl Worker {
    /// Cleans a server in a task of its own.
    pub(super) fn recover(self: &Rc<Self>, state: &mut State, pool: PoolId, linked: Linked, left: Left) {
        let entry = state.pool(pool);
        entry.cleaning += 1;
        let spec = entry.spec.clone();
        let live = linked.conn.live.clone();
        state.cleaning.insert(live.info.id, (pool, live));
        let worker = self.clone();
        self.reactor.spawn(async move { worker.run_recovery(pool, linked, spec, left).await });
    }

    async fn run_recovery(self: Rc<Self>, pool: PoolId, mut linked: Linked, spec: Arc<PoolSpec>, left: Left) {
        let id = linked.conn.live.info.id;
        let cleaned = self.clean_in_time(&mut linked, &spec, left).await;
        let mut state = self.cell.borrow_mut();
        state.cleaning.remove(&id);
        let entry = state.pool(pool);
        entry.cleaning -= 1;
        let Linked { conn, server } = linked;
        match (cleaned, server.release()) {
            (Ok(()), Ok(server)) => {
                conn.live.prepared.set(server.server().prepared_count());
                self.give_back(&mut state, pool, Idle { conn, server }, Instant::now());
            }
            (outcome, _) => {
                debug!(server = id, ?outcome, "server could not be cleaned and is closed");
                entry.pool.lose();
                self.lose(pool, *conn);
            }
        }
    }

    /// What a client wanted done before it said good-bye is done first, for as long as a query may take, or until KILL.
    async fn clean_in_time(&self, linked: &mut Linked, spec: &PoolSpec, left: Left) -> Result<(), Lost> {
        if left.finish && linked.server.owes() {
            let query = Some(spec.timeouts.query).filter(|limit| !limit.is_zero());
            let live = linked.conn.live.clone();
            let finishing = async {
                tokio::select! {
                    finished = finish(linked) => finished,
                    () = live.killed.notified() => Ok(()),
                }
            };
            match query {
                Some(limit) => timeout(limit, finishing).await.unwrap_or(Ok(()))?,
                None => finishing.await?,
            }
        }
        let cleaning = self.clean(linked, spec, left.reset);
        timeout(spec.timeouts.cleanup, cleaning).await.unwrap_or(Err(Lost::Late))
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
            read(conn, server, &mut plan).await?;
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

/// Waits until a server has done what it was told, or would wait for more of it.
async fn finish(linked: &mut Linked) -> Result<(), Lost> {
    let Linked { conn, server } = linked;
    flush(conn).await?;
    let mut plan = Plan::default();
    while server.will_be_ready() {
        read(conn, server, &mut plan).await?;
    }
    Ok(())
}

/// Takes what the server says next.
pub(super) async fn read(conn: &mut Conn, server: &mut Server, plan: &mut Plan) -> Result<(), Lost> {
    if conn.stream.read_some(conn.inbox.tail(), READ_LEN).await.map_err(|_| Lost::Gone)? == 0 {
        return Err(Lost::Gone);
    }
    let taken = server.handle_alone(conn.inbox.as_slice(), plan).map_err(|_| Lost::Broken)?;
    conn.inbox.consume(taken);
    Ok(())
}

/// What is not written when this is given up stays in the outbox, and comes before anything else.
async fn flush(conn: &mut Conn) -> Result<(), Lost> {
    let Conn { stream, outbox, .. } = conn;
    while !outbox.flush(stream).map_err(|_| Lost::Gone)? {
        stream.writable().await.map_err(|_| Lost::Gone)?;
    }
    Ok(())
}

async fn wait_for_cancels(conn: &mut Conn, server: &mut Server) {
    for done in conn.cancels.drain(..) {
        // Whether it was sent or given up: it is over.
        let _ = done.await;
        server.end_cancel();
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::super::conn::Live;
    use super::*;
    use crate::buffer::Buffer;
    use crate::message::ServerInfo;
    use crate::net::pair;
    use crate::reactor::Reactor;

    #[test]
    fn what_was_not_written_in_time_is_written_first() {
        Reactor::open().expect("a loop").block_on(async {
            let (stream, theirs) = pair();
            let info = ServerInfo {
                id: 1,
                pid: 1,
                ends: stream.ends(),
                since: Instant::now(),
                connected: SystemTime::now(),
                epoch: 0,
            };
            let mut outbox = Buffer::default();
            let sent: Vec<u8> = (0..4_u32 << 20).map(|n| n.to_le_bytes()[1]).collect();
            outbox.push(&sent);
            let live = Rc::new(Live::new(info, 0));
            let mut conn = Conn { stream, live, inbox: Buffer::default(), outbox, deaf: false, cancels: Vec::new() };
            let in_time = timeout(Duration::from_millis(10), flush(&mut conn)).await;
            assert!(in_time.is_none(), "nobody reads it");
            let mut read = Vec::new();
            let reading = async {
                while read.len() < sent.len() {
                    theirs.read_some(&mut read, READ_LEN).await.expect("it is open");
                }
            };
            let (flushed, ()) = tokio::join!(flush(&mut conn), reading);
            flushed.expect("it is read");
            assert!(conn.outbox.is_empty() && read == sent);
        });
    }
}
