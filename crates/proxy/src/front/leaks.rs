//! Who holds on to a server: pins and clients idle inside a transaction, with what PostgreSQL says of their locks.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::time::Duration;

use pgsluice_console::{Leak, Pin, PinCounters, PinStat};
use tokio::sync::oneshot;
use tracing::debug;

use super::Front;
use super::connect::Rows;
use super::control::Question;
use crate::message::WorkerSnapshot;
use crate::spec::Address;

/// How long `SHOW LEAKS` waits for PostgreSQL.
const LOCKS_WAIT: Duration = Duration::from_secs(2);

/// What PostgreSQL says of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Locks {
    /// Locks that it holds.
    held: u64,
    /// Backends that wait for it.
    waiting: u64,
}

/// By the PostgreSQL and the process id there.
type ByBackend = HashMap<(Address, u32), Locks>;

impl Front {
    /// The rows of `SHOW LEAKS`: who has been idle longest comes first.
    pub(super) async fn leaks(&self, workers: &[WorkerSnapshot]) -> Vec<Leak> {
        let mut found: Vec<(Address, Leak)> = {
            let state = self.cell.borrow();
            let address = |pool: &pgsluice_pool::PoolId| state.pools[pool.0].spec.target.address.clone();
            workers.iter().flat_map(|w| &w.leaks).map(|(pool, leak)| (address(pool), leak.clone())).collect()
        };
        let mut pids: BTreeMap<Address, Vec<u32>> = BTreeMap::new();
        for (address, leak) in &found {
            pids.entry(address.clone()).or_default().push(leak.holder.remote_pid);
        }
        let known = self.locks(&pids).await;
        for (address, leak) in &mut found {
            let locks = known.get(&(address.clone(), leak.holder.remote_pid));
            leak.locks = locks.map(|l| l.held);
            leak.waiting = locks.map(|l| l.waiting);
        }
        found.sort_by_key(|(_, leak)| Reverse(leak.idle));
        found.into_iter().map(|(_, leak)| leak).collect()
    }

    /// Asks each PostgreSQL about these of its backends. Those of which nothing is heard in time are left out.
    async fn locks(&self, pids: &BTreeMap<Address, Vec<u32>>) -> ByBackend {
        let asked: Vec<_> = pids.iter().filter_map(|(a, pids)| Some((a, self.ask_control(a, query(pids))?))).collect();
        let mut known = ByBackend::new();
        let reading = async {
            for (address, answer) in asked {
                let rows = answer.await.unwrap_or_default();
                known.extend(rows_of(&rows).map(|(pid, locks)| ((address.clone(), pid), locks)));
            }
        };
        if tokio::time::timeout(LOCKS_WAIT, reading).await.is_err() {
            debug!("locks could not be read within {} s", LOCKS_WAIT.as_secs());
        }
        known
    }

    /// Puts a question to a PostgreSQL's control connection; `None` if too many wait there already.
    fn ask_control(&self, address: &Address, query: String) -> Option<oneshot::Receiver<Rows>> {
        let state = self.cell.borrow();
        let cluster = state.clusters.iter().find(|c| c.address == *address)?;
        let (answer, receiver) = oneshot::channel();
        cluster.questions.try_send(Question { query, answer }).ok()?;
        Some(receiver)
    }
}

/// The rows of `SHOW PINS`: who has been pinned longest comes first.
pub(super) fn pins(workers: &[WorkerSnapshot]) -> Vec<Pin> {
    let mut pins: Vec<Pin> = workers.iter().flat_map(|w| w.pins.iter().cloned()).collect();
    pins.sort_by_key(|pin| Reverse(pin.age));
    pins
}

/// The rows of `SHOW PIN_STATS`, those of all workers added up, in the order of their names.
pub(super) fn pin_stats(workers: &[WorkerSnapshot]) -> Vec<PinStat> {
    let mut sums: BTreeMap<[&String; 3], PinCounters> = BTreeMap::new();
    for stat in workers.iter().flat_map(|w| &w.pin_stats) {
        let sum = sums.entry([&stat.database, &stat.user, &stat.application_name]).or_default();
        *sum = sum.plus(&stat.counters);
    }
    let row = |(names, counters): ([&String; 3], PinCounters)| {
        let [database, user, application_name] = names.map(Clone::clone);
        PinStat { database, user, application_name, counters }
    };
    sums.into_iter().map(row).collect()
}

/// A row for each of these backends that PostgreSQL knows: pid, locks held, backends that wait for it.
///
/// A query of many locks may take long; PostgreSQL gives it up before we do. Each part of WITH runs once, since the functions
/// in it are volatile (manual, 7.8.3). `pg_blocking_pids` is asked only about those who wait, which most often is nobody.
fn query(pids: &[u32]) -> String {
    let list = pids.iter().fold(String::new(), |mut list, pid| {
        // Writing to a String cannot fail.
        let _ = write!(list, "{}{pid}", if list.is_empty() { "" } else { "," });
        list
    });
    format!(
        "SET LOCAL statement_timeout = '1s'; \
         WITH locks AS (SELECT pid, granted FROM pg_catalog.pg_locks), \
         blocked AS (SELECT w.pid, pg_catalog.unnest(pg_catalog.pg_blocking_pids(w.pid)) AS by \
         FROM (SELECT DISTINCT pid FROM locks WHERE NOT granted) AS w) \
         SELECT a.pid, (SELECT pg_catalog.count(*) FROM locks AS l WHERE l.pid = a.pid AND l.granted), \
         (SELECT pg_catalog.count(DISTINCT b.pid) FROM blocked AS b WHERE b.by = a.pid) \
         FROM pg_catalog.pg_stat_activity AS a WHERE a.pid = ANY ('{{{list}}}'::int[])"
    )
}

/// What the answer says of each backend.
fn rows_of(rows: &Rows) -> impl Iterator<Item = (u32, Locks)> {
    fn number<T: std::str::FromStr>(column: &Option<String>) -> Option<T> {
        column.as_ref()?.parse().ok()
    }
    rows.iter().filter_map(|row| match row.as_slice() {
        [pid, held, waiting] => Some((number(pid)?, Locks { held: number(held)?, waiting: number(waiting)? })),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_rows_that_make_sense_are_believed() {
        let row = |texts: &[&str]| texts.iter().map(|t| Some((*t).to_owned())).collect::<Vec<_>>();
        let rows = vec![row(&["7", "3", "1"]), row(&["8", "3"]), row(&["x", "3", "1"]), vec![None, None, None]];
        assert_eq!(rows_of(&rows).collect::<Vec<_>>(), [(7, Locks { held: 3, waiting: 1 })]);
    }

    #[test]
    fn the_counters_of_all_workers_are_added_up() {
        let stat = |user: &str, pins| PinStat {
            database: "app".into(),
            user: user.into(),
            application_name: String::new(),
            counters: PinCounters { pins, ..PinCounters::default() },
        };
        let worker = |pin_stats| WorkerSnapshot { pin_stats, ..WorkerSnapshot::default() };
        let rows = pin_stats(&[worker(vec![stat("b", 1), stat("a", 2)]), worker(vec![stat("b", 40)])]);
        let shown: Vec<_> = rows.iter().map(|r| (r.user.as_str(), r.counters.pins)).collect();
        assert_eq!(shown, [("a", 2), ("b", 41)]);
    }

    #[test]
    fn who_has_been_pinned_longest_comes_first() {
        let pinned = |seconds| Pin { age: Duration::from_secs(seconds), ..Pin::default() };
        let worker = |pins| WorkerSnapshot { pins, ..WorkerSnapshot::default() };
        let rows = pins(&[worker(vec![pinned(1), pinned(3)]), worker(vec![pinned(2)])]);
        assert_eq!(rows.iter().map(|p| p.age.as_secs()).collect::<Vec<_>>(), [3, 2, 1]);
    }
}
