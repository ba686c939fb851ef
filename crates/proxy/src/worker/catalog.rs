//! What is known of a database's functions, triggers and views: which of them can change a session's state. Asked of a
//! server of the pool's when it comes back from a client: first, when a command may have changed it, and now and then.

use std::rc::Rc;
use std::time::{Duration, Instant};

use pgsluice_pool::PoolId;
use pgsluice_session::{Audit, Catalog, Plan, Suspects};
use tokio::task::spawn_local;
use tracing::{debug, warn};

use super::conn::{Idle, Linked};
use super::recover::{Left, Lost};
use super::{State, Worker};

/// How old the answer may become.
const AGE_MAX: Duration = Duration::from_secs(60);
/// How soon it is asked again when it is out of date.
const AGE_MIN: Duration = Duration::from_secs(1);
/// How long the answer may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// A pool's knowledge.
#[derive(Debug, Default)]
pub(super) struct Knowledge {
    suspects: Option<Suspects>,
    /// Something was created or changed since.
    outdated: bool,
    /// The same, since it was asked last.
    changed: bool,
    asked: Option<Instant>,
    asking: bool,
}

impl Knowledge {
    pub(super) fn catalog(&self) -> Catalog<'_> {
        match &self.suspects {
            Some(suspects) if self.outdated => Catalog::Outdated(suspects),
            Some(suspects) => Catalog::Known(suspects),
            None => Catalog::Unknown,
        }
    }

    /// A command may have changed what there is.
    pub(super) fn set_outdated(&mut self) {
        (self.outdated, self.changed) = (true, true);
    }

    pub(super) fn is_asking(&self) -> bool {
        self.asking
    }

    /// Is it to be asked now? Where clients wait for servers, only if it has never been, or for twice as long as otherwise.
    fn is_due(&self, now: Instant, waited_for: bool) -> bool {
        let limit = if self.suspects.is_none() || self.outdated { AGE_MIN } else { AGE_MAX };
        let limit = if waited_for { limit * 2 } else { limit };
        !self.asking && self.asked.is_none_or(|at| now.saturating_duration_since(at) >= limit)
    }
}

impl Worker {
    /// A server comes back from its client: to the pool, or to be asked first.
    pub(super) fn give_back(self: &Rc<Self>, state: &mut State, pool: PoolId, idle: Idle, now: Instant) {
        let entry = state.pool(pool);
        let wanted = entry.spec.tracking.is_on() && entry.spec.tracking.audit == Audit::Suspects;
        if !wanted || !entry.knowledge.is_due(now, entry.pool.waiting() > 0) {
            return self.place(state, pool, idle, true, now);
        }
        entry.knowledge.asking = true;
        entry.knowledge.asked = Some(now);
        entry.cleaning += 1;
        let linked = idle.link();
        let live = linked.conn.live.clone();
        state.cleaning.insert(live.info.id, (pool, live));
        let worker = self.clone();
        spawn_local(async move { worker.learn(pool, linked).await });
    }

    async fn learn(self: Rc<Self>, pool: PoolId, mut linked: Linked) {
        // What is changed from now on may not be in the answer.
        self.cell.borrow_mut().pool(pool).knowledge.changed = false;
        let answer = tokio::time::timeout(ANSWER_LIMIT, ask(&mut linked)).await.unwrap_or(Err(Lost::Late));
        let mut state = self.cell.borrow_mut();
        let id = linked.conn.live.info.id;
        state.cleaning.remove(&id);
        let entry = state.pool(pool);
        entry.cleaning -= 1;
        entry.knowledge.asking = false;
        match &answer {
            Ok(Some(_)) => {}
            Ok(None) if entry.knowledge.suspects.is_none() => {
                warn!(database = %entry.spec.database, "the catalog could not be read: every transaction is audited");
            }
            Ok(None) | Err(_) => debug!(server = id, ?answer, "the catalog could not be read again"),
        }
        if let Ok(Some(suspects)) = answer {
            entry.knowledge.suspects = Some(suspects);
            entry.knowledge.outdated = entry.knowledge.changed;
        }
        match (answer_is_lost(&linked), linked) {
            (false, Linked { conn, server }) => match server.release() {
                Ok(server) => self.place(&mut state, pool, Idle { conn, server }, true, Instant::now()),
                Err(server) => self.recover(&mut state, pool, Linked { conn, server }, Left::default()),
            },
            (true, Linked { conn, .. }) => {
                state.pool(pool).pool.lose();
                self.lose(pool, *conn);
            }
        }
    }
}

fn answer_is_lost(linked: &Linked) -> bool {
    !linked.server.is_quiet()
}

async fn ask(linked: &mut Linked) -> Result<Option<Suspects>, Lost> {
    let Linked { conn, server } = linked;
    let mut out = Vec::new();
    server.write_catalog_query(&mut out);
    conn.stream.write_all(&out).await.map_err(|_| Lost::Gone)?;
    let mut plan = Plan::default();
    while !server.is_quiet() {
        super::recover::read(conn, server, &mut plan).await?;
    }
    Ok(server.take_catalog())
}
