//! Columns and rows of every subject against what PgBouncer 1.26 has, typed out: name and type, in order.
#![allow(clippy::unwrap_used, reason = "a panic is how these tests fail")]

use std::time::{Duration, UNIX_EPOCH};

use pgsluice_console::{
    Activity, BudgetRow, BudgetState, ConfigRow, ConnKind, ConnRow, ConnState, Counters, DatabaseRow, FleetRow, Holder,
    Leak, Limits, Ours, PIN_REASONS, Pin, PinCounters, PinStat, PoolRow, STATEMENT_SHOWN_MAX, Snapshot, StatsRow,
    Subject, UserRow, columns, render,
};

const CONNECTIONS: &str = "type text, user text, database text, replication text, state text, addr text, port int4, \
    local_addr text, local_port int4, connect_time text, request_time text, wait int4, wait_us int4, \
    close_needed int4, ptr text, link text, remote_pid int4, tls text, application_name text, \
    prepared_statements int4, id int4";

/// PgBouncer's columns, then ours.
fn expected() -> Vec<(Subject, &'static str, &'static str)> {
    vec![
        (
            Subject::Stats,
            "database text, total_server_assignment_count numeric, total_xact_count numeric, \
             total_query_count numeric, total_received numeric, total_sent numeric, total_xact_time numeric, \
             total_query_time numeric, total_wait_time numeric, total_client_parse_count numeric, \
             total_server_parse_count numeric, total_bind_count numeric, total_client_login_count numeric, \
             avg_server_assignment_count numeric, avg_xact_count numeric, avg_query_count numeric, avg_recv numeric, \
             avg_sent numeric, avg_xact_time numeric, avg_query_time numeric, avg_wait_time numeric, \
             avg_client_parse_count numeric, avg_server_parse_count numeric, avg_bind_count numeric, \
             avg_client_login_count numeric",
            "",
        ),
        (
            Subject::StatsTotals,
            "database text, server_assignment_count numeric, xact_count numeric, query_count numeric, \
             bytes_received numeric, bytes_sent numeric, xact_time numeric, query_time numeric, wait_time numeric, \
             client_parse_count numeric, server_parse_count numeric, bind_count numeric, client_login_count numeric",
            "",
        ),
        (
            Subject::StatsAverages,
            "database text, server_assignment_count numeric, xact_count numeric, query_count numeric, \
             bytes_received numeric, bytes_sent numeric, xact_time numeric, query_time numeric, wait_time numeric, \
             avg_client_parse_count numeric, avg_server_parse_count numeric, avg_bind_count numeric, \
             avg_client_login_count numeric",
            "",
        ),
        (Subject::Totals, "name text, value numeric", ""),
        (Subject::Servers, CONNECTIONS, "worker int4"),
        (Subject::Clients, CONNECTIONS, "worker int4"),
        (
            Subject::Pools,
            "database text, user text, cl_active int4, cl_waiting int4, cl_active_cancel_req int4, \
             cl_waiting_cancel_req int4, sv_active int4, sv_active_cancel int4, sv_being_canceled int4, sv_idle int4, \
             sv_used int4, sv_tested int4, sv_login int4, maxwait int4, maxwait_us int4, pool_mode text, \
             load_balance_hosts text",
            "pool_size int4, sv_limit int4",
        ),
        (
            Subject::PeerPools,
            "peer_id int4, cl_active_cancel_req int4, cl_waiting_cancel_req int4, sv_active_cancel int4, sv_login int4",
            "",
        ),
        (Subject::Peers, "peer_id int4, host text, port int4, pool_size int4", ""),
        (Subject::Lists, "list text, items int4", ""),
        (
            Subject::Users,
            "name text, pool_size text, reserve_pool_size text, pool_mode text, max_user_connections int4, \
             current_connections int4, max_user_client_connections int4, current_client_connections int4",
            "",
        ),
        (
            Subject::Databases,
            "name text, host text, port int4, database text, force_user text, pool_size int4, min_pool_size int4, \
             reserve_pool_size int4, server_lifetime int4, pool_mode text, load_balance_hosts text, \
             max_connections int4, current_connections int4, max_client_connections int4, \
             current_client_connections int4, paused int4, disabled int4",
            "",
        ),
        (Subject::Config, "key text, value text, default text, changeable text", ""),
        (Subject::Version, "version text", ""),
        (Subject::State, "key text, value text", ""),
        (
            Subject::Budget,
            "",
            "server text, max_connections int4, superuser_reserved int4, reserved int4, others int4, headroom int4, \
             ceiling int4, cap int4, fleet_tokens int4, budget int4, ours_active int4, ours_idle int4, ours_connecting int4, \
             ours_control int4, used_percent numeric, state text, reason text",
        ),
        (
            Subject::Fleet,
            "",
            "fleet text, server text, instance text, host text, pid int4, backend_pid int4, tokens int4, servers int4, \
             wanted int4, entitled int4, since text, self int4",
        ),
        (
            Subject::Pins,
            "",
            "client numeric, pid int4, database text, user text, application_name text, addr text, port int4, \
             server numeric, remote_pid int4, reason text, since text, age int4, statement text",
        ),
        (
            Subject::PinStats,
            "",
            "database text, user text, application_name text, audits numeric, audit_failures numeric, pins numeric, \
             temp numeric, advisory_lock numeric, cursor numeric, prepare numeric, listen numeric, load numeric, \
             sequence numeric, unknown numeric, unpins numeric, replays numeric, replay_failures numeric, \
             refused numeric, warned numeric, ignored numeric",
        ),
        (
            Subject::Leaks,
            "",
            "client numeric, pid int4, database text, user text, application_name text, addr text, port int4, \
             server numeric, remote_pid int4, idle int4, transaction int4, locks int4, waiting int4, statement text",
        ),
        (Subject::Help, "", ""),
    ]
}

#[test]
fn names_and_types_are_pgbouncers() {
    for (subject, theirs, ours) in expected() {
        let all = [theirs, ours].into_iter().filter(|list| !list.is_empty()).flat_map(|list| list.split(", "));
        let want: Vec<String> = all.map(str::to_owned).collect();
        let have: Vec<String> = columns(subject)
            .into_iter()
            .map(|c| match (c.type_oid, c.type_len) {
                (25, -1) => format!("{} text", c.name),
                (23, 4) => format!("{} int4", c.name),
                (1700, -1) => format!("{} numeric", c.name),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(have, want, "{subject:?}");
    }
}

fn holder() -> Holder {
    Holder {
        client: u64::MAX,
        pid: 77,
        database: "app".into(),
        user: "bob".into(),
        application_name: "shop".into(),
        addr: "10.0.0.7".into(),
        port: 51_624,
        server: 17,
        remote_pid: 4711,
    }
}

/// Counters that all differ: 1, 2, 3 and so on in the order of the columns.
fn counted() -> PinCounters {
    PinCounters {
        audits: 1,
        audit_failures: 2,
        pins: 3,
        reasons: [4, 5, 6, 7, 8, 9, 10, 11],
        unpins: 12,
        replays: 13,
        replay_failures: 14,
        refused: 15,
        warned: 16,
        ignored: 17,
    }
}

fn snapshot() -> Snapshot {
    let counters = Counters { xact_count: 600, xact_time_us: 1200, received: u64::MAX, ..Counters::default() };
    Snapshot {
        pools: vec![PoolRow {
            database: "app".into(),
            user: "bob".into(),
            maxwait: Duration::from_micros(61_000_042),
            pool_mode: "transaction".into(),
            ..PoolRow::default()
        }],
        clients: vec![ConnRow {
            user: Some("bob".into()),
            state: ConnState::Waiting,
            connect_time: Some(UNIX_EPOCH + Duration::from_secs(1_700_000_000)),
            wait: Duration::from_millis(1500),
            id: 26,
            link: Some(17),
            worker: 3,
            ..ConnRow::default()
        }],
        servers: vec![ConnRow { kind: ConnKind::Server, close_needed: true, id: u64::MAX, ..ConnRow::default() }],
        stats: vec![
            StatsRow { database: "app".into(), totals: counters, older: Counters::default() },
            StatsRow {
                database: "b".into(),
                totals: Counters { xact_count: 1, xact_time_us: 100, ..Counters::default() },
                older: Counters { xact_count: 1, xact_time_us: 100, ..Counters::default() },
            },
        ],
        stats_window: Duration::from_secs(60),
        databases: vec![DatabaseRow { name: "app".into(), paused: true, ..DatabaseRow::default() }],
        users: vec![UserRow { name: "bob".into(), pool_size: Some(20), ..UserRow::default() }],
        config: vec![ConfigRow { key: "max_client_conn".into(), changeable: true, ..ConfigRow::default() }],
        budget: vec![
            BudgetRow {
                server: "db:5432".into(),
                limits: Some(Limits { max_connections: 100, superuser_reserved: 3, reserved: 2, others: 40 }),
                headroom: 5,
                cap: Some(60),
                fleet_tokens: Some(44),
                ours: Ours { active: 20, idle: 10, connecting: 1, control: 1 },
                state: BudgetState::Ok,
                reason: "others grew".into(),
            },
            BudgetRow { server: "silent:5432".into(), ..BudgetRow::default() },
        ],
        fleet: vec![
            FleetRow {
                fleet: "eu".into(),
                server: "db:5432".into(),
                host: "node7".into(),
                pid: Some(812),
                backend_pid: 4711,
                tokens: 44,
                servers: 31,
                wanted: 60,
                entitled: 45,
                since: Some(UNIX_EPOCH + Duration::from_secs(1_700_000_000)),
                is_self: true,
            },
            FleetRow { host: "node8".into(), backend_pid: 4712, ..FleetRow::default() },
        ],
        pins: vec![Pin {
            holder: holder(),
            reasons: vec!["temp", "listen"],
            since: Some(UNIX_EPOCH + Duration::from_secs(1_700_000_000)),
            age: Duration::from_millis(90_999),
            // The second byte of one of these characters would be the 129th.
            statement: format!("SELECT '{}'", "é".repeat(100)),
        }],
        pin_stats: vec![PinStat {
            database: "app".into(),
            user: "bob".into(),
            application_name: "shop".into(),
            counters: counted().plus(&counted()),
        }],
        leaks: vec![
            Leak {
                holder: holder(),
                idle: Duration::from_millis(61_500),
                transaction: Duration::from_secs(3600),
                locks: Some(4),
                waiting: Some(2),
                statement: "LOCK TABLE t".into(),
            },
            Leak::default(),
        ],
        activity: Activity::Paused,
        ..Snapshot::default()
    }
}

/// The value in a row of a subject, by name of the column; `None` is NULL.
fn value(subject: Subject, row: usize, column: &str) -> Option<String> {
    let table = render(subject, &snapshot());
    let at = table.columns.iter().position(|c| c.name == column).unwrap_or_else(|| panic!("no column {column}"));
    table.rows[row][at].clone()
}

fn shows(subject: Subject, row: usize, values: &[(&str, &str)]) {
    for (column, want) in values {
        assert_eq!(value(subject, row, column).as_deref(), Some(*want), "{subject:?} {column}");
    }
}

#[test]
fn every_row_is_as_wide_as_its_columns() {
    for (subject, ..) in expected() {
        let table = render(subject, &snapshot());
        assert!(table.rows.iter().all(|row| row.len() == table.columns.len()), "{subject:?}");
    }
}

#[test]
fn pools_and_connections_are_formatted() {
    shows(Subject::Pools, 0, &[("user", "bob"), ("maxwait", "61"), ("maxwait_us", "42"), ("pool_mode", "transaction")]);
    assert_eq!(value(Subject::Pools, 0, "load_balance_hosts"), None);
    shows(Subject::Clients, 0, &[("type", "C"), ("user", "bob"), ("database", "(nodb)"), ("replication", "none")]);
    shows(Subject::Clients, 0, &[("state", "waiting"), ("wait", "1"), ("wait_us", "500000"), ("worker", "3")]);
    shows(Subject::Clients, 0, &[("connect_time", "2023-11-14 22:13:20 UTC"), ("request_time", "")]);
    shows(Subject::Clients, 0, &[("id", "26"), ("ptr", "0x1a"), ("link", "0x11"), ("close_needed", "0")]);
    shows(Subject::Servers, 0, &[("type", "S"), ("user", "(nouser)"), ("link", ""), ("close_needed", "1")]);
    shows(Subject::Servers, 0, &[("id", "2147483647"), ("ptr", "0xffffffffffffffff")]);
}

#[test]
fn stats_have_totals_and_averages() {
    shows(Subject::Stats, 0, &[("total_xact_count", "600"), ("avg_xact_count", "10"), ("avg_xact_time", "2")]);
    shows(Subject::Stats, 0, &[("total_received", "18446744073709551615"), ("avg_recv", "307445734561825860")]);
    shows(Subject::StatsTotals, 0, &[("database", "app"), ("xact_time", "1200")]);
    shows(Subject::StatsAverages, 0, &[("xact_count", "10"), ("xact_time", "2")]);

    let totals = render(Subject::Totals, &snapshot());
    let named = |name: &str| {
        let row = totals.rows.iter().find(|row| row[0].as_deref() == Some(name)).unwrap_or_else(|| panic!("{name}"));
        row[1].clone().unwrap()
    };
    assert_eq!(totals.rows.len(), 24);
    assert_eq!((named("total_xact_count"), named("avg_xact_count")), ("601".into(), "10".into()));
    assert_eq!(named("avg_xact_time"), "2", "an average over all transactions, not over averages");
    assert_eq!(named("total_client_bytes"), u64::MAX.to_string());
    assert_eq!((named("total_ps_client_parse_count"), named("avg_ps_bind_count")), ("0".into(), "0".into()));
}

#[test]
fn databases_users_config_lists_and_state() {
    shows(Subject::Databases, 0, &[("name", "app"), ("paused", "1"), ("disabled", "0")]);
    assert_eq!(value(Subject::Databases, 0, "host"), None);
    shows(Subject::Users, 0, &[("pool_size", "       20"), ("reserve_pool_size", "")]);
    assert_eq!(value(Subject::Users, 0, "pool_mode"), None);
    shows(Subject::Config, 0, &[("key", "max_client_conn"), ("changeable", "yes")]);
    assert_eq!(value(Subject::Config, 0, "value"), None);
    shows(Subject::Version, 0, &[("version", concat!("PgBouncer 1.26.0 (pgsluice ", env!("CARGO_PKG_VERSION"), ")"))]);

    let first = |subject| -> Vec<String> {
        render(subject, &snapshot()).rows.into_iter().map(|row| row[0].clone().unwrap()).collect()
    };
    assert_eq!(
        first(Subject::Lists).join(" "),
        "databases users peers pools peer_pools free_clients used_clients login_clients free_servers used_servers \
         dns_names dns_zones dns_queries dns_pending"
    );
    assert_eq!(first(Subject::State), ["active", "paused", "suspended"]);
    shows(Subject::State, 0, &[("value", "no")]);
    shows(Subject::State, 1, &[("value", "yes")]);
    shows(Subject::State, 2, &[("value", "no")]);
}

#[test]
fn a_budget_row_adds_up_or_is_null() {
    // 44 tokens, and the control connection.
    shows(Subject::Budget, 0, &[("ceiling", "95"), ("budget", "45"), ("cap", "60"), ("others", "40")]);
    shows(Subject::Budget, 0, &[("fleet_tokens", "44"), ("ours_control", "1")]);
    // 32 of ours and 40 others in 95.
    shows(Subject::Budget, 0, &[("used_percent", "75.7"), ("state", "ok"), ("reason", "others grew")]);
    for column in [
        "max_connections",
        "superuser_reserved",
        "reserved",
        "others",
        "ceiling",
        "fleet_tokens",
        "budget",
        "used_percent",
    ] {
        assert_eq!(value(Subject::Budget, 1, column), None, "{column}");
    }
    shows(Subject::Budget, 1, &[("state", "unknown"), ("reason", "the server has not told its limits")]);
}

#[test]
fn a_fleet_has_a_row_for_each_instance() {
    shows(Subject::Fleet, 0, &[("fleet", "eu"), ("server", "db:5432"), ("instance", "node7:812"), ("host", "node7")]);
    shows(Subject::Fleet, 0, &[("pid", "812"), ("backend_pid", "4711"), ("tokens", "44"), ("servers", "31")]);
    shows(Subject::Fleet, 0, &[("wanted", "60"), ("entitled", "45"), ("self", "1")]);
    shows(Subject::Fleet, 0, &[("since", "2023-11-14 22:13:20 UTC")]);
    shows(Subject::Fleet, 1, &[("instance", "node8"), ("backend_pid", "4712"), ("since", ""), ("self", "0")]);
    assert_eq!(value(Subject::Fleet, 1, "pid"), None);
    assert_eq!(render(Subject::Fleet, &Snapshot::default()).rows, Vec::<Vec<Option<String>>>::new());
}

#[test]
fn pins_and_leaks_say_who_and_why() {
    for subject in [Subject::Pins, Subject::Leaks] {
        shows(subject, 0, &[("client", "18446744073709551615"), ("pid", "77"), ("database", "app"), ("user", "bob")]);
        shows(subject, 0, &[("application_name", "shop"), ("addr", "10.0.0.7"), ("port", "51624")]);
        shows(subject, 0, &[("server", "17"), ("remote_pid", "4711")]);
    }
    shows(Subject::Pins, 0, &[("reason", "temp, listen"), ("since", "2023-11-14 22:13:20 UTC"), ("age", "90")]);
    let statement = value(Subject::Pins, 0, "statement").unwrap();
    assert!(statement.starts_with("SELECT 'é") && statement.len() == STATEMENT_SHOWN_MAX, "{statement}");
    shows(Subject::Leaks, 0, &[("idle", "61"), ("transaction", "3600"), ("locks", "4"), ("waiting", "2")]);
    shows(Subject::Leaks, 0, &[("statement", "LOCK TABLE t")]);
    assert_eq!((value(Subject::Leaks, 1, "locks"), value(Subject::Leaks, 1, "waiting")), (None, None));
    shows(Subject::Leaks, 1, &[("statement", ""), ("idle", "0")]);
}

#[test]
fn every_pin_counter_has_its_column() {
    let table = render(Subject::PinStats, &snapshot());
    let names: Vec<_> = table.columns.iter().map(|c| c.name.as_str()).collect();
    let at = names.iter().position(|name| *name == PIN_REASONS[0]).unwrap();
    assert_eq!(names[at..at + PIN_REASONS.len()], PIN_REASONS);
    let row: Vec<_> = table.rows[0].iter().map(|cell| cell.clone().unwrap()).collect();
    assert_eq!(row[..3], ["app", "bob", "shop"]);
    let doubled: Vec<_> = (1..=17).map(|n| (2 * n).to_string()).collect();
    assert_eq!(row[3..], doubled);
}
