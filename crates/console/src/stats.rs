//! Counters per database and their averages over a window of time. Counting is done elsewhere; here is only the
//! arithmetic.
//!
//! Source: PgBouncer's `src/stats.c` and the section "SHOW STATS" of its manual.

use std::time::Duration;

/// Twelve counters: either totals since the start, or averages as [`averages`] makes them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Times a server was given to a client.
    pub server_assignment_count: u64,
    /// Transactions.
    pub xact_count: u64,
    /// Queries.
    pub query_count: u64,
    /// Bytes received from clients.
    pub received: u64,
    /// Bytes received from servers, which is what was sent to clients.
    pub sent: u64,
    /// Microseconds spent in transactions.
    pub xact_time_us: u64,
    /// Microseconds spent in queries.
    pub query_time_us: u64,
    /// Microseconds that clients waited for a server.
    pub wait_time_us: u64,
    /// Parse messages from clients.
    pub client_parse_count: u64,
    /// Parse messages to servers.
    pub server_parse_count: u64,
    /// Bind messages.
    pub bind_count: u64,
    /// Logins of clients.
    pub client_login_count: u64,
}

/// The counters of one database.
#[derive(Clone, Debug, Default)]
pub struct StatsRow {
    /// Name of the database.
    pub database: String,
    /// Totals now.
    pub totals: Counters,
    /// Totals at the start of the window; zeros for a database that is newer than that.
    pub older: Counters,
}

impl Counters {
    /// All of them, in the order of the columns.
    pub(crate) fn in_order(&self) -> [u64; 12] {
        [
            self.server_assignment_count,
            self.xact_count,
            self.query_count,
            self.received,
            self.sent,
            self.xact_time_us,
            self.query_time_us,
            self.wait_time_us,
            self.client_parse_count,
            self.server_parse_count,
            self.bind_count,
            self.client_login_count,
        ]
    }

    /// Combines two sets, counter by counter.
    fn zip(&self, other: &Self, f: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            server_assignment_count: f(self.server_assignment_count, other.server_assignment_count),
            xact_count: f(self.xact_count, other.xact_count),
            query_count: f(self.query_count, other.query_count),
            received: f(self.received, other.received),
            sent: f(self.sent, other.sent),
            xact_time_us: f(self.xact_time_us, other.xact_time_us),
            query_time_us: f(self.query_time_us, other.query_time_us),
            wait_time_us: f(self.wait_time_us, other.wait_time_us),
            client_parse_count: f(self.client_parse_count, other.client_parse_count),
            server_parse_count: f(self.server_parse_count, other.server_parse_count),
            bind_count: f(self.bind_count, other.bind_count),
            client_login_count: f(self.client_login_count, other.client_login_count),
        }
    }

    /// Sum of two sets.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        self.zip(other, u64::saturating_add)
    }
}

/// Averages from `older` to `newer`, which are `window` apart: counts and bytes per second; transaction and query time
/// per transaction and query, waiting time per assignment, in microseconds. All rounded down, all 0 for an empty window.
///
/// A counter that fell counts as unchanged: totals shrink when a pool is forgotten.
pub fn averages(older: &Counters, newer: &Counters, window: Duration) -> Counters {
    let micros = window.as_micros();
    if micros == 0 {
        return Counters::default();
    }
    let delta = newer.zip(older, u64::saturating_sub);
    let per_second = |n: u64, _| u64::try_from(u128::from(n) * 1_000_000 / micros).unwrap_or(u64::MAX);
    let each = |time: u64, count: u64| time.checked_div(count).unwrap_or(0);
    Counters {
        xact_time_us: each(delta.xact_time_us, delta.xact_count),
        query_time_us: each(delta.query_time_us, delta.query_count),
        wait_time_us: each(delta.wait_time_us, delta.server_assignment_count),
        ..delta.zip(&delta, per_second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_per_second_and_times_per_event() {
        let older = Counters { query_count: 100, query_time_us: 5_000, received: 1 << 40, ..Default::default() };
        let newer = Counters {
            query_count: 250,
            query_time_us: 35_000,
            xact_count: 4,
            xact_time_us: 10,
            server_assignment_count: 3,
            wait_time_us: 100,
            received: (1 << 40) + 999,
            sent: 59,
            bind_count: 120,
            ..older
        };
        let avg = averages(&older, &newer, Duration::from_secs(60));
        assert_eq!((avg.query_count, avg.query_time_us), (2, 200));
        assert_eq!((avg.xact_count, avg.xact_time_us), (0, 2));
        assert_eq!((avg.server_assignment_count, avg.wait_time_us), (0, 33));
        assert_eq!((avg.received, avg.sent, avg.bind_count), (16, 0, 2));
    }

    #[test]
    fn no_window_no_events_and_falling_totals_are_zero() {
        let some = Counters { query_count: 9, query_time_us: 9, xact_time_us: 9, ..Default::default() };
        assert_eq!(averages(&Counters::default(), &some, Duration::ZERO), Counters::default());
        assert_eq!(averages(&some, &Counters::default(), Duration::from_secs(1)), Counters::default());
        assert_eq!(averages(&Counters::default(), &some, Duration::from_secs(1)).xact_time_us, 0);
        let most = Counters { sent: u64::MAX, ..Default::default() };
        assert_eq!(averages(&Counters::default(), &most, Duration::from_micros(1)).sent, u64::MAX);
    }
}
