//! The control connection: one per PostgreSQL, counted in the budget, over which its limits are read, and what the console
//! wants to know.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use pgsluice_pool::{BudgetState, ClusterId, Limits};
use tokio::sync::{mpsc, oneshot};
use tracing::{debug, error, info, warn};

use super::connect::{ASK_TIMEOUT, Rows, ask, is_report};
use super::fleet::{self, Seat};
use super::{Cluster, Front, classify, limits};
use crate::net::Stream;
use crate::spec::server_tls;

/// Pauses between attempts to open a control connection.
const RETRY_MIN: Duration = Duration::from_millis(250);
const RETRY_MAX: Duration = Duration::from_secs(10);
/// Bytes read at once of what comes unasked.
const UNASKED_LEN: usize = 1 << 10;
/// Questions that may wait for a control connection.
pub(super) const QUESTIONS_MAX: usize = 16;

/// Something that somebody wants to know from PostgreSQL. Without an answer, `answer` is dropped.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) query: String,
    pub(super) answer: oneshot::Sender<Rows>,
}

impl Front {
    /// Reads the limits of a PostgreSQL and asks it questions for as long as the process lives.
    pub(super) async fn keep_control(self: Rc<Self>, id: ClusterId, mut questions: mpsc::Receiver<Question>) {
        let mut pause = RETRY_MIN;
        loop {
            let (target, name) = self.cell.borrow().clusters[id.0].control_login();
            match self.open(&target, &[("application_name", &name)]).await {
                Ok((stream, server)) => {
                    pause = RETRY_MIN;
                    let why = self.read_limits_until_lost(id, (&stream, server.cancel_key().pid), &mut questions).await;
                    self.lose_seat(id);
                    self.set_unknown(id, &why);
                }
                Err(failure) => {
                    // Who cannot come to where the fleet meets has no part in it.
                    if classify(&failure).1 {
                        self.hinder(id, &format!("no control connection to database {}: {failure}", target.dbname));
                    }
                    self.set_unknown(id, &format!("no control connection: {failure}"));
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY_MAX);
        }
    }

    async fn read_limits_until_lost(
        self: &Rc<Self>,
        id: ClusterId,
        (stream, pid): (&Stream, u32),
        questions: &mut mpsc::Receiver<Question>,
    ) -> String {
        // What the database's owner has in its search_path must not be called by us.
        match ask_in_time(stream, "SELECT pg_catalog.set_config('search_path', 'pg_catalog', false)").await {
            Err(error) if !is_report(&error) => return lost(&error),
            _ => {}
        }
        let begun_with = server_tls(&self.config().settings);
        if self.cell.borrow().clusters[id.0].seat.is_some() {
            match ask_in_time(stream, fleet::PREPARE).await {
                Err(error) if !is_report(&error) => return lost(&error),
                _ => {}
            }
        }
        loop {
            let rows = match ask_in_time(stream, &self.limits_query(id)).await {
                Ok(rows) => rows,
                Err(error) => return lost(&error),
            };
            match ask_in_time(stream, &limits::query(&self.pids(id))).await {
                Ok(rows) => self.set_catalog_limits(id, &rows),
                Err(error) if is_report(&error) => debug!(%error, "limits of databases and roles cannot be read"),
                Err(error) => return lost(&error),
            }
            match read_limits(&rows) {
                Some(limits) => self.set_limits(id, limits),
                None => self.set_unknown(id, "the server does not tell its limits"),
            }
            self.pump();
            if server_tls(&self.config().settings) != begun_with {
                return "the control connection is made anew: server_tls_* has changed".into();
            }
            if let Err(error) = self.answer_until_limits_are_due(id, (stream, pid), questions).await {
                return lost(&error);
            }
        }
    }

    /// # Errors
    /// The connection is of no use any more.
    async fn answer_until_limits_are_due(
        self: &Rc<Self>,
        id: ClusterId,
        (stream, pid): (&Stream, u32),
        questions: &mut mpsc::Receiver<Question>,
    ) -> io::Result<()> {
        let interval = self.config().settings.budget_interval.max(Duration::from_millis(100));
        // Both outlive an answer: who calls meanwhile is heard.
        let (due, called) = (tokio::time::sleep(interval), self.limits_due.notified());
        tokio::pin!(due, called);
        loop {
            tokio::select! {
                () = &mut due => return Ok(()),
                () = &mut called => {
                    tokio::time::sleep(RETRY_MIN).await;
                    return Ok(());
                }
                end = ended(stream) => return Err(end),
                Some(question) = questions.recv() => answer(stream, question).await?,
                () = self.errand_due(id) => self.run_errands(id, stream, pid).await?,
            }
        }
    }

    fn limits_query(&self, id: ClusterId) -> String {
        format!(
            "SELECT pg_catalog.current_setting('max_connections'), \
             pg_catalog.current_setting('superuser_reserved_connections'), \
             coalesce(pg_catalog.current_setting('reserved_connections', true), '0'), \
             (SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_activity WHERE datid IS NOT NULL AND usesysid IS NOT NULL \
             AND (backend_type IS NULL OR backend_type = 'client backend') \
             AND pid <> pg_catalog.pg_backend_pid() AND pid <> ALL ('{{{}}}'::pg_catalog.int8[]))",
            self.pids(id)
        )
    }

    /// Process ids of our servers there, with commas.
    fn pids(&self, id: ClusterId) -> String {
        let state = self.cell.borrow();
        let pids: Vec<_> = state.clusters[id.0].pids.iter().map(ToString::to_string).collect();
        pids.join(",")
    }

    fn set_catalog_limits(&self, id: ClusterId, rows: &Rows) {
        let mut state = self.cell.borrow_mut();
        let (limits, counted) = limits::read(rows, &state.clusters[id.0].others_of);
        state.clusters[id.0].others_of = counted;
        state.broker.set_catalog_limits(id, limits);
    }

    pub(super) fn set_limits(&self, id: ClusterId, mut limits: Limits) {
        let mut state = self.cell.borrow_mut();
        let cluster = &mut state.clusters[id.0];
        // A login of ours that the list did not have yet is not one of the others: believe a rise when it lasts.
        let counted = limits.others;
        limits.others = cluster.others.map_or(counted, |before| before.min(counted));
        cluster.others = Some(counted);
        let first = !cluster.settled;
        cluster.settled = true;
        let address = cluster.address.clone();
        state.broker.budget_mut(id).set_limits(limits, 1);
        state.broker.tick();
        let budget = state.broker.budget(id);
        let seat = state.clusters[id.0].seat.as_ref();
        let reason = match (budget.budget(), budget.cap()) {
            _ if seat.is_some_and(Seat::is_hindered) => state.clusters[id.0].fleet_reason(),
            (Some(b), Some(cap)) if b == cap => "max_server_connections".to_owned(),
            _ if seat.is_some() => state.clusters[id.0].fleet_reason(),
            _ if budget.headroom() < self.config().settings.budget_headroom => {
                "others leave less than budget_headroom".to_owned()
            }
            _ => "limits read from PostgreSQL".to_owned(),
        };
        if first && seat.is_some() {
            info!(
                server = %address,
                "max_connections {} - superuser_reserved {} - reserved {} - headroom {}: what control connections and others \
                 leave of that is the fleet's",
                limits.max_connections, limits.superuser_reserved, limits.reserved, budget.headroom()
            );
        } else if first {
            info!(
                server = %address,
                "budget {}: max_connections {} - superuser_reserved {} - reserved {} - headroom {} - others {}; \
                 one of it is the control connection",
                budget.budget().unwrap_or(0), limits.max_connections, limits.superuser_reserved, limits.reserved,
                budget.headroom(), limits.others
            );
        }
        state.clusters[id.0].reason = reason;
        drop(state);
        self.watch_budget(id, true);
    }

    /// Nothing is known, or nothing new: what was known stays, otherwise the configured sizes are all there is.
    fn set_unknown(&self, id: ClusterId, why: &str) {
        let mut state = self.cell.borrow_mut();
        let known = state.broker.budget(id).limits().is_some();
        let cluster = &mut state.clusters[id.0];
        if cluster.reason != why {
            let then =
                if known { "the last known limits stay in force" } else { "falling back to the configured sizes" };
            warn!(server = %cluster.address, "{why}; {then}");
        }
        cluster.reason = why.to_owned();
        cluster.settled = true;
        if !known {
            state.broker.budget_mut(id).set_unknown();
        }
        state.broker.tick();
    }

    /// Says when a PostgreSQL fills up. That it is over is said at the next reading, so that nothing is said again and again.
    pub(super) fn watch_budgets(&self) {
        let ids: Vec<_> = self.cell.borrow().clusters.iter().map(|c| c.id).collect();
        ids.into_iter().for_each(|id| self.watch_budget(id, false));
    }

    /// Says when PostgreSQL fills up and, at a reading, when it is over.
    fn watch_budget(&self, id: ClusterId, is_read: bool) {
        let settings = self.config().settings.clone();
        let mut state = self.cell.borrow_mut();
        let (open, connecting) = state.broker.cluster_servers(id);
        let budget = state.broker.budget(id);
        let (warning, critical) = (settings.budget_warning, settings.budget_critical);
        let at = |lower| budget.state(open + connecting, warning.saturating_sub(lower), critical.saturating_sub(lower));
        let percent = budget.used_percent(open + connecting).unwrap_or(0);
        let now = state.clusters[id.0].state.alarm(at);
        let Cluster { address, state: before, .. } = &mut state.clusters[id.0];
        if now > *before || (is_read && *before != now) {
            match now {
                BudgetState::Critical => error!(server = %address, "{percent} % of PostgreSQL's slots are in use"),
                BudgetState::Warning => warn!(server = %address, "{percent} % of PostgreSQL's slots are in use"),
                BudgetState::Ok | BudgetState::Unknown if *before != BudgetState::Unknown => {
                    info!(server = %address, "{percent} % of PostgreSQL's slots are in use");
                }
                BudgetState::Ok | BudgetState::Unknown => {}
            }
            *before = now;
        }
    }
}

fn lost(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::TimedOut => "control connection does not answer".into(),
        _ => format!("control connection lost: {error}"),
    }
}

pub(super) async fn ask_in_time(stream: &Stream, query: &str) -> io::Result<Rows> {
    let answer = tokio::time::timeout(ASK_TIMEOUT, ask(stream, query)).await;
    answer.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Asks a question unless nobody waits for it any more.
///
/// # Errors
/// The connection is of no use any more.
async fn answer(stream: &Stream, question: Question) -> io::Result<()> {
    if question.answer.is_closed() {
        return Ok(());
    }
    match ask_in_time(stream, &question.query).await {
        Ok(rows) => drop(question.answer.send(rows)),
        Err(error) if is_report(&error) => debug!(%error, "a question of the console's failed"),
        Err(error) => return Err(error),
    }
    Ok(())
}

/// Waits for the server to hang up; what it says unasked (notices, parameters) is of no interest here.
async fn ended(stream: &Stream) -> io::Error {
    loop {
        match stream.read_some(&mut Vec::new(), UNASKED_LEN).await {
            Ok(0) => return io::ErrorKind::UnexpectedEof.into(),
            Ok(_) => {}
            Err(error) => return error,
        }
    }
}

fn read_limits(rows: &Rows) -> Option<Limits> {
    let [row] = rows.as_slice() else { return None };
    let [a, b, c, d] = row.as_slice() else { return None };
    let number = |column: &Option<String>| column.as_ref()?.parse().ok();
    let limits = Limits {
        max_connections: number(a)?,
        superuser_reserved: number(b)?,
        reserved: number(c)?,
        others: number(d)?,
    };
    (limits.max_connections > 0).then_some(limits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_row_that_makes_sense_is_believed() {
        let row = |texts: &[&str]| vec![texts.iter().map(|t| Some((*t).to_owned())).collect()];
        let limits = read_limits(&row(&["100", "3", "0", "7"])).unwrap();
        assert_eq!((limits.max_connections, limits.others), (100, 7));
        for bad in [&["1"][..], &["x", "3", "0", "7"], &["0", "0", "0", "0"], &["100", "3", "0", "7", "8"]] {
            assert_eq!(read_limits(&row(bad)), None, "{bad:?}");
        }
        assert_eq!(read_limits(&vec![]), None);
    }
}
