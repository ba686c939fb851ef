//! The admin console as dashboards, exporters and scripts see it: every SHOW by psql's simple protocol and by
//! a driver's extended one, PgBouncer's column names in PgBouncer's order, and what the commands do.

use std::time::Duration;

use pgsluice_tests::pooler::table;
use pgsluice_tests::program::{psql, run};
use pgsluice_tests::wire::{message as m, show};
use pgsluice_tests::{APP, APP_MD5, Pooler, Postgres, Shuffle, eventually};
use tokio_postgres::NoTls;

const SOON: Duration = Duration::from_secs(5);

const SOCKET: &str = "type user database replication state addr port local_addr local_port connect_time request_time wait wait_us \
     close_needed ptr link remote_pid tls application_name prepared_statements id";

/// PgBouncer 1.26's columns by SHOW command. Columns of our own may follow, never come between.
const COLUMNS: [(&str, &str); 15] = [
    (
        "STATS",
        "database total_server_assignment_count total_xact_count total_query_count total_received total_sent total_xact_time \
         total_query_time total_wait_time total_client_parse_count total_server_parse_count total_bind_count \
         total_client_login_count avg_server_assignment_count avg_xact_count avg_query_count avg_recv avg_sent avg_xact_time \
         avg_query_time avg_wait_time avg_client_parse_count avg_server_parse_count avg_bind_count avg_client_login_count",
    ),
    (
        "STATS_TOTALS",
        "database server_assignment_count xact_count query_count bytes_received bytes_sent xact_time query_time wait_time \
         client_parse_count server_parse_count bind_count client_login_count",
    ),
    (
        "STATS_AVERAGES",
        "database server_assignment_count xact_count query_count bytes_received bytes_sent xact_time query_time wait_time \
         avg_client_parse_count avg_server_parse_count avg_bind_count avg_client_login_count",
    ),
    ("TOTALS", "name value"),
    ("SERVERS", SOCKET),
    ("CLIENTS", SOCKET),
    (
        "POOLS",
        "database user cl_active cl_waiting cl_active_cancel_req cl_waiting_cancel_req sv_active sv_active_cancel \
         sv_being_canceled sv_idle sv_used sv_tested sv_login maxwait maxwait_us pool_mode load_balance_hosts",
    ),
    ("PEER_POOLS", "peer_id cl_active_cancel_req cl_waiting_cancel_req sv_active_cancel sv_login"),
    ("LISTS", "list items"),
    (
        "USERS",
        "name pool_size reserve_pool_size pool_mode max_user_connections current_connections max_user_client_connections \
         current_client_connections",
    ),
    (
        "DATABASES",
        "name host port database force_user pool_size min_pool_size reserve_pool_size server_lifetime pool_mode \
         load_balance_hosts max_connections current_connections max_client_connections current_client_connections paused disabled",
    ),
    ("PEERS", "peer_id host port pool_size"),
    ("CONFIG", "key value default changeable"),
    ("VERSION", "version"),
    ("STATE", "key value"),
];

/// A pooler with a client that has done some work, and its database's name.
fn pooler(size: &str) -> (Pooler, String) {
    let postgres = Postgres::shared();
    let database = postgres.database();
    let pooler = Pooler::url(postgres, APP, &database, &["--pool-size", size]);
    pooler.connect(APP, &database).run("SELECT 1");
    (pooler, database)
}

#[test]
fn every_show_has_pgbouncers_columns() {
    let (pooler, database) = pooler("2");
    let _client = pooler.connect(APP, &database);
    let mut console = pooler.console();
    let mut wrong = Vec::new();
    for (subject, columns) in COLUMNS {
        let expected: Vec<_> = columns.split_whitespace().collect();
        let replies = console.query(&format!("SHOW {subject}"));
        let got = replies.iter().find(|reply| reply.tag == b'T').map(|reply| reply.columns()).unwrap_or_default();
        if got.len() < expected.len() || got[..expected.len()] != expected {
            wrong.push(format!("SHOW {subject}: {got:?}"));
        } else {
            assert_eq!(show(&replies)[replies.len() - 2..], ["C SHOW", "Z I"]);
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_columns_have_pgbouncers_types() {
    const TYPES: [(&str, &str, u32); 9] = [
        ("STATS", "database", 25),
        ("STATS", "total_xact_count", 1700),
        ("POOLS", "cl_active", 23),
        ("POOLS", "pool_mode", 25),
        ("CLIENTS", "connect_time", 25),
        ("CLIENTS", "wait_us", 23),
        ("LISTS", "items", 23),
        ("TOTALS", "value", 1700),
        ("USERS", "pool_size", 25),
    ];
    let (pooler, _) = pooler("2");
    let mut console = pooler.console();
    for (subject, column, oid) in TYPES {
        let replies = console.query(&format!("SHOW {subject}"));
        let types = replies[0].column_types();
        assert!(types.contains(&(column.to_string(), oid)), "SHOW {subject} {column}: {types:?}");
    }
}

#[test]
fn psql_shows_everything_under_both_names_and_in_any_case() {
    let (pooler, database) = pooler("2");
    let ask =
        |console: &str, sql: &str| run(psql(&pooler.conninfo(APP, console), &["-c", sql]), SOON).expect_ok(sql).out;
    for (subject, _) in COLUMNS {
        assert_eq!(
            ask("pgsluice", &format!("SHOW {subject};")).is_empty(),
            ask("pgbouncer", &format!("show {}", subject.to_lowercase())).is_empty()
        );
    }
    assert!(ask("pgsluice", "SHOW VERSION").contains("PgBouncer 1."), "exporters look for that prefix");
    assert!(ask("pgsluice", "SHOW POOLS").contains(&database));
    assert!(ask("pgsluice", "SHOW CONFIG").contains("default_pool_size|2|"));
    assert!(!ask("pgsluice", "SHOW BUDGET").is_empty());
    run(psql(&pooler.conninfo(APP, "pgsluice"), &["-c", "SHOW HELP"]), SOON).expect_ok("SHOW HELP");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_extended_protocol_works_too() {
    let (pooler, database) = tokio::task::block_in_place(|| pooler("2"));
    let (client, connection) = tokio_postgres::connect(&pooler.conninfo(APP, "pgsluice"), NoTls).await.unwrap();
    tokio::spawn(connection);
    for (subject, columns) in COLUMNS {
        let rows =
            client.query(&format!("SHOW {subject}"), &[]).await.unwrap_or_else(|e| panic!("SHOW {subject}: {e}"));
        let first = columns.split_whitespace().next().expect("columns");
        assert!(rows.iter().all(|row| row.columns()[0].name() == first), "SHOW {subject}");
    }
    // The driver asks for binary results: they must be what it asked for, or it reads nonsense.
    let rows = client.query("SHOW POOLS", &[]).await.unwrap();
    let row = rows.iter().find(|row| row.get::<_, &str>("database") == database).expect("our pool");
    assert_eq!(row.get::<_, i32>("cl_waiting"), 0);
    assert_eq!(row.get::<_, &str>("pool_mode"), "transaction");
    let error = client.query("SHOW NOTHING_OF_THE_KIND", &[]).await.unwrap_err();
    assert_eq!(error.code().map(|code| code.code()), Some("08P01"));
    assert!(!client.query("SHOW LISTS", &[]).await.unwrap().is_empty(), "usable after an error");
}

#[test]
fn unknown_commands_are_errors_the_console_survives() {
    let (pooler, _) = pooler("2");
    let mut console = pooler.console();
    for sql in ["FROBNICATE", "SHOW", "SHOW TABLES", "RESUME", "\"", "SET nothing = 1"] {
        let replies = console.query(sql);
        let error = replies.iter().find(|reply| reply.tag == b'E').unwrap_or_else(|| panic!("{sql}: {replies:?}"));
        assert_eq!(error.sqlstate(), "08P01", "{sql}: {error:?}");
        assert_eq!(show(&replies).last().map(String::as_str), Some("Z I"));
    }
    assert!(!table(&mut console, "SHOW POOLS").is_empty());
}

#[test]
fn only_administrators_get_in() {
    let postgres = Postgres::shared();
    let database = postgres.database();
    let text = format!(
        "listen_addr = \"127.0.0.1\"\nlisten_port = {{port}}\nadmin_users = [\"app\"]\n[databases.{database}]\nhost = \"127.0.0.1\"\nport = {}\n\
         [users.app]\npassword = \"{}\"\n[users.app_md5]\npassword = \"{}\"\n",
        postgres.port(),
        APP.password,
        APP_MD5.password
    );
    let pooler = Pooler::file("pgsluice.toml", &text, APP);
    assert!(!pooler.show("SHOW POOLS").is_empty());
    let refusal = pooler.try_connect(APP_MD5, "pgbouncer").map(drop).expect_err("not an administrator");
    assert!(!refusal.sqlstate().is_empty(), "{refusal:?}");
    assert_eq!(pooler.connect(APP_MD5, &database).value("SELECT 1"), "1");
}

#[test]
fn show_pools_and_lists_count_right() {
    let (pooler, database) = pooler("2");
    let mut clients: Vec<_> = (0..6).map(|_| pooler.connect(APP, &database)).collect();
    clients[0].run("BEGIN");
    clients[1].run("BEGIN");
    clients[2].send(&m::query("SELECT 1")).unwrap();
    clients[3].send(&m::query("SELECT 1")).unwrap();
    assert!(eventually(SOON, || pooler.pool_count(&database, APP.user, "cl_waiting") == 2));
    let row = pooler.pool(&database, APP.user).expect("the pool");
    assert_eq!(
        (row["sv_active"].as_str(), row["sv_idle"].as_str(), row["cl_active"].as_str()),
        ("2", "0", "4"),
        "{row:?}"
    );
    std::thread::sleep(Duration::from_millis(1100));
    let row = pooler.pool(&database, APP.user).expect("the pool");
    assert!(row["maxwait"] != "0", "{row:?}");
    let servers = pooler.show("SHOW SERVERS");
    assert_eq!(servers.iter().filter(|row| row["database"] == database && row["state"] == "active").count(), 2);
    let pid = clients[0].value("SELECT pg_backend_pid()");
    assert!(servers.iter().any(|row| row["remote_pid"] == pid), "{servers:?}");
    let states = pooler.show("SHOW CLIENTS");
    assert_eq!(states.iter().filter(|row| row["state"] == "waiting").count(), 2, "{states:?}");
    clients[0].run("COMMIT");
    clients[1].run("COMMIT");
    clients[2].until_ready();
    clients[3].until_ready();
    assert_eq!(pooler.pool_count(&database, APP.user, "cl_waiting"), 0);
}

#[test]
fn show_stats_counts_what_was_done() {
    let (pooler, database) = pooler("2");
    let stats =
        || pooler.show("SHOW STATS_TOTALS").into_iter().find(|row| row["database"] == database).expect("our row");
    let number = |row: &pgsluice_tests::pooler::Row, column: &str| row[column].parse::<i64>().expect("a number");
    let before = stats();
    let mut client = pooler.connect(APP, &database);
    for _ in 0..10 {
        client.run("SELECT 1");
    }
    client.run("BEGIN");
    client.run("SELECT pg_sleep(0.2)");
    client.run("COMMIT");
    let after = stats();
    let grown = |column| number(&after, column) - number(&before, column);
    assert_eq!((grown("query_count"), grown("xact_count"), grown("client_login_count")), (13, 11, 1), "{after:?}");
    // A query that comes while its client's server is asked for what the last one left is not assigned another.
    assert!((2..=11).contains(&grown("server_assignment_count")), "{after:?}");
    assert!((200_000..2_000_000).contains(&grown("xact_time")), "{} us", grown("xact_time"));
    assert!(grown("bytes_received") > 150 && grown("bytes_sent") > 500);
}

#[test]
fn show_budget_adds_up() {
    let (pooler, database) = pooler("3");
    let shuffle = Shuffle::start(&pooler, APP, &database, 3);
    let rows = pooler.show("SHOW BUDGET");
    assert_eq!(rows.len(), 1, "one PostgreSQL, one row: {rows:?}");
    assert_eq!(rows[0]["max_connections"], "100", "{rows:?}");
    shuffle.finish();
}

#[test]
fn pause_and_resume() {
    let (pooler, database) = pooler("2");
    let mut client = pooler.connect(APP, &database);
    client.run("BEGIN");
    let mut console = pooler.console();
    console.send(&m::query(&format!("PAUSE {database}"))).unwrap();
    assert!(console.silent_for(Duration::from_millis(500)), "PAUSE waits for running transactions");
    client.run("COMMIT");
    assert_eq!(show(&console.until_ready()), ["C PAUSE", "Z I"]);
    client.send(&m::query("SELECT 'after'")).unwrap();
    assert!(client.silent_for(Duration::from_millis(500)), "queries wait while paused");
    assert!(eventually(SOON, || Postgres::shared().backends(&database) <= 1), "idle servers are closed");
    assert_eq!(show(&console.query(&format!("RESUME {database}"))), ["C RESUME", "Z I"]);
    assert_eq!(show(&client.until_ready())[1], "D after");
    // All databases at once.
    assert_eq!(show(&console.query("PAUSE")), ["C PAUSE", "Z I"]);
    assert_eq!(
        pooler.show("SHOW STATE").iter().find(|row| row["key"] == "paused").map(|row| row["value"].as_str()),
        Some("yes")
    );
    assert_eq!(show(&console.query("RESUME")), ["C RESUME", "Z I"]);
    assert_eq!(client.value("SELECT 1"), "1");
}

#[test]
fn reconnect_replaces_servers_without_a_client_noticing() {
    let (pooler, database) = pooler("1");
    let mut client = pooler.connect(APP, &database);
    let old = client.value("SELECT pg_backend_pid()");
    client.run("BEGIN");
    assert_eq!(show(&pooler.console().query("RECONNECT")), ["C RECONNECT", "Z I"]);
    assert_eq!(client.value("SELECT pg_backend_pid()"), old, "a transaction is not cut");
    client.run("COMMIT");
    assert_ne!(client.value("SELECT pg_backend_pid()"), old);
}

#[test]
fn kill_drops_clients_until_resume() {
    let (pooler, database) = pooler("2");
    let mut client = pooler.connect(APP, &database);
    client.run("BEGIN");
    let mut console = pooler.console();
    assert_eq!(show(&console.query(&format!("KILL {database}"))), ["C KILL", "Z I"]);
    assert!(client.until_closed(SOON).is_some(), "the client is gone");
    assert!(eventually(SOON, || Postgres::shared().backends(&database) <= 1), "its server is gone");
    assert_eq!(show(&console.query(&format!("RESUME {database}"))), ["C RESUME", "Z I"]);
    assert_eq!(pooler.connect(APP, &database).value("SELECT 1"), "1");
}

#[test]
fn disable_and_enable() {
    let (pooler, database) = pooler("2");
    let mut client = pooler.connect(APP, &database);
    let mut console = pooler.console();
    assert_eq!(show(&console.query(&format!("DISABLE {database}"))), ["C DISABLE", "Z I"]);
    assert!(pooler.try_connect(APP, &database).is_err(), "new logins are refused");
    assert_eq!(client.value("SELECT 1"), "1", "who is in stays");
    assert_eq!(show(&console.query(&format!("ENABLE {database}"))), ["C ENABLE", "Z I"]);
    assert_eq!(pooler.connect(APP, &database).value("SELECT 1"), "1");
}

#[test]
fn shutdown_ends_the_program() {
    let (mut pooler, database) = pooler("2");
    let mut client = pooler.connect(APP, &database);
    client.run("SELECT 1");
    let mut console = pooler.console();
    console.send(&m::query("SHUTDOWN")).unwrap();
    let status = pooler.wait_exit(SOON).expect("it ends");
    assert!(status.success(), "{status}");
    assert!(eventually(SOON, || Postgres::shared().backends(&database) == 0), "no backend is left");
}
