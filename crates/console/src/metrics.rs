//! Snapshots as metrics, in the text format that Prometheus reads. The rows are those of the console, so the two cannot
//! disagree. Each metric is declared once, in a table: its name, its meaning, and what of a row it shows.
//!
//! Source: the section "Text-based format" of Prometheus' manual ("Exposition formats", version 0.0.4).

use std::collections::BTreeMap;

use crate::budget::{BudgetRow, BudgetState};
use crate::snapshot::{FleetRow, PoolRow, Snapshot};
use crate::stats::{Counters, StatsRow};

/// The media type of what [`metrics`] returns.
pub const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Name, meaning, and value of a metric; `None` where a row has none. A name that ends in `_total` is a counter's, any other
/// a gauge's.
type Metric<Row> = (&'static str, &'static str, fn(&Row) -> Option<String>);

/// What the label `state` can say, and the number for it.
type ByState<Row> = (&'static str, fn(&Row) -> u64);

/// A row and its labels, as they stand between the braces of a sample.
type Labelled<'a, Row> = (String, &'a Row);

/// All that Prometheus is told of these parts of a snapshot: `budget`, `fleet`, `pools` and `stats`.
pub fn metrics(snapshot: &Snapshot) -> String {
    let mut text = Text::default();
    let version = labels(&[("version", env!("CARGO_PKG_VERSION"))]);
    text.metrics(&[BUILD], &[(version, &())]);
    budget(&mut text, &snapshot.budget);
    fleet(&mut text, &snapshot.fleet);
    pools(&mut text, &snapshot.pools);
    databases(&mut text, &snapshot.stats);
    text.0
}

const BUILD: Metric<()> =
    ("pgsluice_build_info", "Always 1; the label has this program's version.", |()| Some("1".into()));

const BUDGET: [Metric<BudgetRow>; 10] = [
    ("pgsluice_budget_max_connections", "The server's setting max_connections.", |r| {
        r.limits.map(|l| l.max_connections.to_string())
    }),
    ("pgsluice_budget_superuser_reserved", "The server's setting superuser_reserved_connections.", |r| {
        r.limits.map(|l| l.superuser_reserved.to_string())
    }),
    ("pgsluice_budget_reserved", "The server's setting reserved_connections.", |r| {
        r.limits.map(|l| l.reserved.to_string())
    }),
    ("pgsluice_budget_ceiling", "Backends that ordinary roles can have at all.", |r| {
        r.ceiling().map(|n| n.to_string())
    }),
    ("pgsluice_budget_others", "Backends that are not ours.", |r| r.limits.map(|l| l.others.to_string())),
    ("pgsluice_budget_headroom", "Slots left free on purpose.", |r| Some(r.headroom.to_string())),
    ("pgsluice_budget_cap", "Most backends the configuration allows us.", |r| r.cap.map(|n| n.to_string())),
    ("pgsluice_budget_fleet_tokens", "Servers that our tokens of the fleet allow us.", |r| {
        r.fleet_tokens.map(|n| n.to_string())
    }),
    ("pgsluice_budget_backends", "The budget: backends we may occupy.", |r| r.budget().map(|n| n.to_string())),
    ("pgsluice_budget_used_ratio", "All backends, ours and others, of the ceiling.", |r| {
        r.used_permille().map(|n| format!("{}.{:03}", n / 1000, n % 1000))
    }),
];

const BUDGET_SERVERS: [ByState<BudgetRow>; 4] = [
    ("active", |r| r.ours.active.into()),
    ("idle", |r| r.ours.idle.into()),
    ("connecting", |r| r.ours.connecting.into()),
    ("control", |r| r.ours.control.into()),
];

const BUDGET_STATES: [ByState<BudgetRow>; 4] = [
    (BudgetState::Ok.as_str(), |r| (r.state == BudgetState::Ok).into()),
    (BudgetState::Warning.as_str(), |r| (r.state == BudgetState::Warning).into()),
    (BudgetState::Critical.as_str(), |r| (r.state == BudgetState::Critical).into()),
    (BudgetState::Unknown.as_str(), |r| (r.state == BudgetState::Unknown).into()),
];

fn budget(text: &mut Text, rows: &[BudgetRow]) {
    let rows: Vec<_> = rows.iter().map(|row| (labels(&[("server", &row.server)]), row)).collect();
    text.metrics(&BUDGET, &rows);
    text.by_state("pgsluice_budget_servers", "Backends of ours, by what they do.", &BUDGET_SERVERS, &rows);
    text.by_state(
        "pgsluice_budget_state",
        "How near the ceiling it is: 1 for the state that holds.",
        &BUDGET_STATES,
        &rows,
    );
}

const FLEET: [Metric<(usize, FleetRow)>; 4] = [
    ("pgsluice_fleet_members", "Instances of the fleet, this one included.", |(members, _)| Some(members.to_string())),
    ("pgsluice_fleet_tokens", "Servers that this instance may have open.", |(_, own)| Some(own.tokens.to_string())),
    ("pgsluice_fleet_wanted", "Servers that this instance could use.", |(_, own)| Some(own.wanted.to_string())),
    ("pgsluice_fleet_entitled", "This instance's fair share, in servers.", |(_, own)| Some(own.entitled.to_string())),
];

/// This instance's row for each PostgreSQL, with the number of instances there.
fn fleet(text: &mut Text, rows: &[FleetRow]) {
    let members = |own: &FleetRow| rows.iter().filter(|row| row.server == own.server).count();
    let own: Vec<_> = rows.iter().filter(|row| row.is_self).map(|row| (members(row), row.clone())).collect();
    let named = |row: &FleetRow| labels(&[("fleet", &row.fleet), ("server", &row.server)]);
    text.metrics(&FLEET, &own.iter().map(|row| (named(&row.1), row)).collect::<Vec<_>>());
}

const POOL_CLIENTS: [ByState<PoolRow>; 4] = [
    ("active", |r| r.cl_active),
    ("waiting", |r| r.cl_waiting),
    ("active_cancel_req", |r| r.cl_active_cancel_req),
    ("waiting_cancel_req", |r| r.cl_waiting_cancel_req),
];

const POOL_SERVERS: [ByState<PoolRow>; 7] = [
    ("active", |r| r.sv_active),
    ("active_cancel", |r| r.sv_active_cancel),
    ("being_canceled", |r| r.sv_being_canceled),
    ("idle", |r| r.sv_idle),
    ("used", |r| r.sv_used),
    ("tested", |r| r.sv_tested),
    ("login", |r| r.sv_login),
];

const POOL: [Metric<PoolRow>; 9] = [
    ("pgsluice_pool_maxwait_seconds", "How long the first client in the queue has waited.", |r| {
        Some(seconds(r.maxwait.as_micros()))
    }),
    ("pgsluice_pool_size", "Configured size in servers; 0 is no limit.", |r| Some(r.pool_size.to_string())),
    ("pgsluice_pool_limit", "Servers that the pool may have right now.", |r| Some(r.sv_limit.to_string())),
    ("pgsluice_pool_audits_total", "Times a server was asked for the state that its client had left.", |r| {
        Some(r.pin_counters.audits.to_string())
    }),
    ("pgsluice_pool_audit_failures_total", "Times PostgreSQL did not answer that question as it should.", |r| {
        Some(r.pin_counters.audit_failures.to_string())
    }),
    ("pgsluice_pool_pins_total", "Times a session was pinned that was not before.", |r| {
        Some(r.pin_counters.pins.to_string())
    }),
    ("pgsluice_pool_unpins_total", "Times the last reason of a pinned session was found to be gone.", |r| {
        Some(r.pin_counters.unpins.to_string())
    }),
    ("pgsluice_pool_replays_total", "Times a server was brought to a client's settings.", |r| {
        Some(r.pin_counters.replays.to_string())
    }),
    ("pgsluice_pool_replay_failures_total", "Times a server could not be brought to a client's settings.", |r| {
        Some(r.pin_counters.replay_failures.to_string())
    }),
];

fn pools(text: &mut Text, rows: &[PoolRow]) {
    let pools = added_up(rows);
    let rows: Vec<_> = pools.iter().map(|r| (labels(&[("database", &r.database), ("user", &r.user)]), r)).collect();
    text.by_state("pgsluice_pool_clients", "Clients of a pool, by what they do.", &POOL_CLIENTS, &rows);
    text.by_state("pgsluice_pool_servers", "Servers of a pool, by what they do.", &POOL_SERVERS, &rows);
    text.metrics(&POOL, &rows);
}

/// One row for each database and user, as no two samples may have the same labels. Pools that differ in settings which only
/// a server's start can take have rows of their own.
fn added_up(rows: &[PoolRow]) -> Vec<PoolRow> {
    let mut pools: BTreeMap<(&str, &str), PoolRow> = BTreeMap::new();
    for row in rows {
        let names = PoolRow { database: row.database.clone(), user: row.user.clone(), ..PoolRow::default() };
        add(pools.entry((&row.database, &row.user)).or_insert(names), row);
    }
    pools.into_values().collect()
}

fn add(sum: &mut PoolRow, row: &PoolRow) {
    sum.cl_active += row.cl_active;
    sum.cl_waiting += row.cl_waiting;
    sum.cl_active_cancel_req += row.cl_active_cancel_req;
    sum.cl_waiting_cancel_req += row.cl_waiting_cancel_req;
    sum.sv_active += row.sv_active;
    sum.sv_active_cancel += row.sv_active_cancel;
    sum.sv_being_canceled += row.sv_being_canceled;
    sum.sv_idle += row.sv_idle;
    sum.sv_used += row.sv_used;
    sum.sv_tested += row.sv_tested;
    sum.sv_login += row.sv_login;
    sum.maxwait = sum.maxwait.max(row.maxwait);
    sum.pool_size += row.pool_size;
    sum.sv_limit += row.sv_limit;
    sum.pin_counters = sum.pin_counters.plus(&row.pin_counters);
}

const DATABASE: [Metric<Counters>; 12] = [
    ("pgsluice_database_server_assignments_total", "Times a server was given to a client.", |c| {
        Some(c.server_assignment_count.to_string())
    }),
    ("pgsluice_database_transactions_total", "Transactions.", |c| Some(c.xact_count.to_string())),
    ("pgsluice_database_queries_total", "Queries.", |c| Some(c.query_count.to_string())),
    ("pgsluice_database_received_bytes_total", "Bytes from clients.", |c| Some(c.received.to_string())),
    ("pgsluice_database_sent_bytes_total", "Bytes from servers.", |c| Some(c.sent.to_string())),
    ("pgsluice_database_transaction_seconds_total", "Time in transactions.", |c| Some(seconds(c.xact_time_us.into()))),
    ("pgsluice_database_query_seconds_total", "Time in queries.", |c| Some(seconds(c.query_time_us.into()))),
    ("pgsluice_database_wait_seconds_total", "Time that clients waited for a server.", |c| {
        Some(seconds(c.wait_time_us.into()))
    }),
    ("pgsluice_database_client_parses_total", "Parse messages from clients.", |c| {
        Some(c.client_parse_count.to_string())
    }),
    ("pgsluice_database_server_parses_total", "Parse messages to servers.", |c| Some(c.server_parse_count.to_string())),
    ("pgsluice_database_binds_total", "Bind messages.", |c| Some(c.bind_count.to_string())),
    ("pgsluice_database_client_logins_total", "Logins of clients.", |c| Some(c.client_login_count.to_string())),
];

fn databases(text: &mut Text, rows: &[StatsRow]) {
    let rows: Vec<_> = rows.iter().map(|row| (labels(&[("database", &row.database)]), &row.totals)).collect();
    text.metrics(&DATABASE, &rows);
}

/// Microseconds as seconds, exactly.
fn seconds(micros: u128) -> String {
    format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000)
}

/// What stands between the braces of a sample.
fn labels(pairs: &[(&str, &str)]) -> String {
    let label = |(name, value): &(&str, &str)| format!("{name}=\"{}\"", escaped(value));
    pairs.iter().map(label).collect::<Vec<_>>().join(",")
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// The text so far.
#[derive(Default)]
struct Text(String);

impl Text {
    fn metrics<Row>(&mut self, metrics: &[Metric<Row>], rows: &[Labelled<'_, Row>]) {
        for (name, help, value) in metrics {
            let samples = rows.iter().filter_map(|(labels, row)| Some((labels.clone(), value(row)?)));
            self.family(name, help, samples);
        }
    }

    fn by_state<Row>(&mut self, name: &str, help: &str, states: &[ByState<Row>], rows: &[Labelled<'_, Row>]) {
        let of = |(labels, row): &Labelled<'_, Row>| {
            states
                .iter()
                .map(|(state, n)| (format!("{labels},state=\"{state}\""), n(row).to_string()))
                .collect::<Vec<_>>()
        };
        self.family(name, help, rows.iter().flat_map(of));
    }

    /// What a metric is, and all its samples: the format wants them together. A metric without samples is left out.
    fn family(&mut self, name: &str, help: &str, samples: impl Iterator<Item = (String, String)>) {
        let mut samples = samples.peekable();
        if samples.peek().is_some() {
            let kind = if name.ends_with("_total") { "counter" } else { "gauge" };
            self.0 += &format!("# HELP {name} {help}\n# TYPE {name} {kind}\n");
        }
        for (labels, value) in samples {
            self.0 += &format!("{name}{{{labels}}} {value}\n");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::budget::{Limits, Ours};
    use crate::holders::PinCounters;

    fn lines(snapshot: &Snapshot) -> Vec<String> {
        metrics(snapshot).lines().map(str::to_owned).collect()
    }

    /// The samples whose names begin so, without the labels that all of them have.
    fn samples(snapshot: &Snapshot, prefix: &str, common: &str) -> Vec<String> {
        let found = lines(snapshot).into_iter().filter(|line| line.starts_with(prefix));
        found.map(|line| line.trim_start_matches(prefix).replacen(common, "", 1)).collect()
    }

    #[test]
    fn a_metric_is_a_head_and_its_samples() {
        let version = env!("CARGO_PKG_VERSION");
        let all = lines(&Snapshot::default());
        assert_eq!(
            all,
            [
                "# HELP pgsluice_build_info Always 1; the label has this program's version.".to_owned(),
                "# TYPE pgsluice_build_info gauge".to_owned(),
                format!("pgsluice_build_info{{version=\"{version}\"}} 1"),
            ]
        );
    }

    #[test]
    fn a_budget_adds_up_as_in_the_console() {
        let limits = Limits { max_connections: 20, superuser_reserved: 3, reserved: 0, others: 3 };
        let row = BudgetRow {
            server: "127.0.0.1:5432".into(),
            limits: Some(limits),
            headroom: 3,
            ours: Ours { active: 2, idle: 8, connecting: 0, control: 1 },
            state: BudgetState::Warning,
            ..BudgetRow::default()
        };
        let mut snapshot = Snapshot { budget: vec![row], ..Snapshot::default() };
        let shown = |snapshot: &Snapshot| samples(snapshot, "pgsluice_budget_", "server=\"127.0.0.1:5432\"");
        assert_eq!(
            shown(&snapshot),
            [
                "max_connections{} 20",
                "superuser_reserved{} 3",
                "reserved{} 0",
                "ceiling{} 17",
                "others{} 3",
                "headroom{} 3",
                "backends{} 11",
                "used_ratio{} 0.823",
                "servers{,state=\"active\"} 2",
                "servers{,state=\"idle\"} 8",
                "servers{,state=\"connecting\"} 0",
                "servers{,state=\"control\"} 1",
                "state{,state=\"ok\"} 0",
                "state{,state=\"warning\"} 1",
                "state{,state=\"critical\"} 0",
                "state{,state=\"unknown\"} 0",
            ]
        );
        // While PostgreSQL does not tell its limits, only what we know by ourselves is there.
        snapshot.budget[0].limits = None;
        snapshot.budget[0].cap = Some(7);
        snapshot.budget[0].fleet_tokens = Some(4);
        assert_eq!(shown(&snapshot)[..4], ["headroom{} 3", "cap{} 7", "fleet_tokens{} 4", "backends{} 5"]);
    }

    #[test]
    fn of_a_fleet_only_this_instance_is_told() {
        let row = |server: &str, tokens, is_self| FleetRow {
            fleet: "eu".into(),
            server: server.into(),
            tokens,
            wanted: 9,
            entitled: 5,
            is_self,
            ..FleetRow::default()
        };
        let fleet = vec![row("a:1", 3, false), row("a:1", 4, true), row("b:1", 6, true)];
        let snapshot = Snapshot { fleet, ..Snapshot::default() };
        assert_eq!(
            samples(&snapshot, "pgsluice_fleet_", "fleet=\"eu\","),
            [
                "members{server=\"a:1\"} 2",
                "members{server=\"b:1\"} 1",
                "tokens{server=\"a:1\"} 4",
                "tokens{server=\"b:1\"} 6",
                "wanted{server=\"a:1\"} 9",
                "wanted{server=\"b:1\"} 9",
                "entitled{server=\"a:1\"} 5",
                "entitled{server=\"b:1\"} 5",
            ]
        );
    }

    #[test]
    fn pools_of_one_database_and_user_are_added_up() {
        let row = |user: &str, millis, pins| PoolRow {
            database: "app".into(),
            user: user.into(),
            cl_active: 2,
            sv_login: 1,
            maxwait: Duration::from_millis(millis),
            pool_size: 20,
            sv_limit: 3,
            pin_counters: PinCounters { pins, ..PinCounters::default() },
            ..PoolRow::default()
        };
        let snapshot =
            Snapshot { pools: vec![row("b", 5, 1), row("a", 1500, 7), row("a", 20, 4)], ..Snapshot::default() };
        let of = |user: &str| samples(&snapshot, "pgsluice_pool_", &format!("database=\"app\",user=\"{user}\""));
        for line in [
            "clients{,state=\"active\"} 4",
            "clients{,state=\"waiting\"} 0",
            "servers{,state=\"login\"} 2",
            "maxwait_seconds{} 1.500000",
            "size{} 40",
            "limit{} 6",
            "pins_total{} 11",
        ] {
            assert!(of("a").iter().any(|l| l == line), "{line} in {:?}", of("a"));
        }
        assert!(of("b").contains(&"maxwait_seconds{} 0.005000".to_owned()));
        let heads = lines(&snapshot).iter().filter(|l| *l == "# TYPE pgsluice_pool_pins_total counter").count();
        assert_eq!(heads, 1);
    }

    #[test]
    fn times_are_seconds_and_labels_are_escaped() {
        let totals = Counters { query_time_us: 12_345_678, query_count: u64::MAX, ..Counters::default() };
        let row = StatsRow { database: "we\"ird\\na\nme".into(), totals, older: Counters::default() };
        let snapshot = Snapshot { stats: vec![row], ..Snapshot::default() };
        let database = r#"database="we\"ird\\na\nme""#;
        let shown = samples(&snapshot, "pgsluice_database_", database);
        assert_eq!(shown.len(), 12);
        assert!(shown.contains(&"query_seconds_total{} 12.345678".to_owned()), "{shown:?}");
        assert!(shown.contains(&"queries_total{} 18446744073709551615".to_owned()), "{shown:?}");
    }

    proptest! {
        #[test]
        fn no_name_breaks_out_of_its_label(name: String) {
            let label = labels(&[("database", &name)]);
            let inner = label.strip_prefix("database=\"").and_then(|l| l.strip_suffix('"')).expect("in quotes");
            prop_assert!(!inner.contains('\n'));
            let (mut plain, mut chars) = (String::new(), inner.chars());
            while let Some(c) = chars.next() {
                prop_assert_ne!(c, '"');
                plain.push(match c {
                    '\\' => match chars.next() { Some('n') => '\n', Some(c) => c, None => panic!("a lone backslash") },
                    c => c,
                });
            }
            prop_assert_eq!(plain, name);
        }
    }
}
