//! What is known of a database's functions, triggers and views: which of them can change a session's state. Asked of a
//! server of the pool's when it comes back from a client: first, when a command may have changed it, and now and then.

use std::rc::Rc;
use std::time::{Duration, Instant};

use pgsluice_pool::PoolId;
use pgsluice_session::{Audit, Catalog, CatalogRow, Plan, Suspects};
use tracing::{debug, warn};

use super::conn::{Idle, Linked};
use super::recover::{Left, Lost};
use super::{State, Worker};
use crate::reactor::timeout;

/// How old the answer may become where PostgreSQL does not tell whether anything has changed since.
const AGE_MAX: Duration = Duration::from_secs(60);
/// The same where it does.
const COUNTED_AGE_MAX: Duration = Duration::from_secs(600);
/// How soon it is asked again, whether anything has changed included.
const AGE_MIN: Duration = Duration::from_secs(1);
/// The answer takes time, seconds where there are many thousands of functions and views: it is not asked again before this
/// many times as long have passed,
const COST_PARTS: u32 = 20;
/// and this many where everything is audited until it is known.
const OUTDATED_COST_PARTS: u32 = 4;
/// How often it is looked at whether anything is to be asked.
const LOOK: Duration = Duration::from_millis(50);
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
    /// How long the answer took, if there was one or not.
    took: Duration,
    /// What [`Suspects::WRITTEN`] told before, and when that was asked last.
    written: Option<Box<[u8]>>,
    compared: Option<Instant>,
    asking: bool,
    /// Whether anything is due is not looked at before.
    look_at: Option<Instant>,
}

/// What is to be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Question {
    /// Everything.
    Catalog,
    /// Whether anything has changed, and everything if so.
    Changes,
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
        self.look_at = None;
    }

    pub(super) fn is_asking(&self) -> bool {
        self.asking
    }

    /// What is to be asked now, if it is time to think of that again?
    fn look(&mut self, now: Instant, waited_for: bool) -> Option<Question> {
        if self.look_at.is_some_and(|at| now < at) {
            return None;
        }
        self.look_at = Some(now + LOOK);
        self.due(now, waited_for)
    }

    /// What is to be asked now? Where clients wait for servers it takes twice as long until anything is.
    fn due(&self, now: Instant, waited_for: bool) -> Option<Question> {
        let is_over = |since: Option<Instant>, limit: Duration| {
            let limit = if waited_for { limit * 2 } else { limit };
            since.is_none_or(|at| now.saturating_duration_since(at) >= limit)
        };
        let unknown = self.suspects.is_none() || self.outdated;
        let parts = if unknown { OUTDATED_COST_PARTS } else { COST_PARTS };
        if self.asking || !is_over(self.asked, AGE_MIN.max(self.took * parts)) {
            return None;
        }
        let age_max = if self.written.is_some() { COUNTED_AGE_MAX } else { AGE_MAX };
        if unknown || is_over(self.asked, age_max) {
            return Some(Question::Catalog);
        }
        (self.written.is_some() && is_over(self.compared, AGE_MIN)).then_some(Question::Changes)
    }
}

impl Worker {
    /// A server comes back from its client: to the pool, or to be asked first.
    pub(super) fn give_back(self: &Rc<Self>, state: &mut State, pool: PoolId, idle: Idle, now: Instant) {
        let entry = state.pool(pool);
        let wanted = entry.spec.tracking.is_on() && entry.spec.tracking.audit == Audit::Suspects;
        let due = if wanted { entry.knowledge.look(now, entry.pool.waiting() > 0) } else { None };
        let Some(question) = due else { return self.place(state, pool, idle, true, now) };
        entry.knowledge.asking = true;
        entry.cleaning += 1;
        let linked = idle.link();
        let live = linked.conn.live.clone();
        state.cleaning.insert(live.info.id, (pool, live));
        let worker = self.clone();
        self.reactor.spawn(async move { worker.learn(pool, linked, question).await });
    }

    async fn learn(self: Rc<Self>, pool: PoolId, mut linked: Linked, question: Question) {
        let known = self.cell.borrow_mut().pool(pool).knowledge.written.clone();
        let written = in_time(ask(&mut linked, Suspects::WRITTEN)).await;
        let unchanged = question == Question::Changes && matches!(&written, Ok(Some(rows)) if number(rows) == known);
        let started = Instant::now();
        let answer = match &written {
            Ok(_) if !unchanged => {
                // What is changed from now on may not be in the answer.
                self.cell.borrow_mut().pool(pool).knowledge.changed = false;
                in_time(ask(&mut linked, Suspects::QUERY)).await
            }
            _ => Ok(None),
        };
        let mut state = self.cell.borrow_mut();
        let id = linked.conn.live.info.id;
        state.cleaning.remove(&id);
        let entry = state.pool(pool);
        entry.cleaning -= 1;
        let knowledge = &mut entry.knowledge;
        (knowledge.asking, knowledge.compared) = (false, Some(started));
        if !unchanged {
            (knowledge.asked, knowledge.took) = (Some(started), started.elapsed());
            match answer {
                Ok(Some(rows)) => {
                    knowledge.suspects = Some(Suspects::from_rows(rows.iter().map(|row| row.each_ref().map(|c| &**c))));
                    knowledge.outdated = knowledge.changed;
                    knowledge.written = written.ok().flatten().and_then(|rows| number(&rows));
                }
                Ok(None) if knowledge.suspects.is_none() => {
                    warn!(database = %entry.spec.database, "the catalog could not be read: every transaction is audited");
                }
                Ok(None) | Err(_) => debug!(server = id, "the catalog could not be read again"),
            }
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

async fn in_time<T>(answer: impl Future<Output = Result<T, Lost>>) -> Result<T, Lost> {
    timeout(ANSWER_LIMIT, answer).await.unwrap_or(Err(Lost::Late))
}

/// The rows; `None` if PostgreSQL has an error for it.
async fn ask(linked: &mut Linked, question: &'static str) -> Result<Option<Vec<CatalogRow>>, Lost> {
    let Linked { conn, server } = linked;
    let mut out = Vec::new();
    server.write_catalog_query(question, &mut out);
    conn.stream.write_all(&out).await.map_err(|_| Lost::Gone)?;
    let mut plan = Plan::default();
    while !server.is_quiet() {
        super::recover::read(conn, server, &mut plan).await?;
    }
    Ok(server.take_catalog())
}

/// What [`Suspects::WRITTEN`] tells.
fn number(rows: &[CatalogRow]) -> Option<Box<[u8]>> {
    rows.first().map(|[_, number, _]| number.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_when() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut known = Knowledge::default();
        assert_eq!(known.due(start, true), Some(Question::Catalog), "at first");
        known.asked = Some(start);
        assert_eq!(known.due(at(0), false), None);
        assert_eq!(known.due(at(1), false), Some(Question::Catalog), "after a failure");
        known.suspects = Some(Suspects::default());
        assert_eq!((known.due(at(59), false), known.due(at(60), false)), (None, Some(Question::Catalog)));
        assert_eq!((known.due(at(119), true), known.due(at(120), true)), (None, Some(Question::Catalog)));
        (known.written, known.compared) = (Some((*b"12").into()), Some(start));
        assert_eq!((known.due(at(0), false), known.due(at(1), false)), (None, Some(Question::Changes)));
        assert_eq!((known.due(at(1), true), known.due(at(2), true)), (None, Some(Question::Changes)));
        assert_eq!(known.due(at(600), false), Some(Question::Catalog));
        known.took = Duration::from_secs(5);
        assert_eq!((known.due(at(99), false), known.due(at(100), false)), (None, Some(Question::Changes)));
        known.set_outdated();
        assert_eq!((known.due(at(19), false), known.due(at(20), false)), (None, Some(Question::Catalog)));
        known.asking = true;
        assert_eq!(known.due(at(100), false), None);
    }
}
