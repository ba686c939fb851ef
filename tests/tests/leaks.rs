//! SHOW LEAKS: clients that idle inside a transaction, for how long, and what they keep others from, as PostgreSQL itself
//! tells of its locks. SHOW PINS and SHOW PIN_STATS as far as drivers read them.

use std::thread::sleep;
use std::time::{Duration, Instant};

use pgsluice_tests::pooler::Row;
use pgsluice_tests::wire::message as m;
use pgsluice_tests::{APP, Pooler, Postgres, Version, eventually};
use tokio_postgres::NoTls;

const SOON: Duration = Duration::from_secs(5);

fn number(row: &Row, column: &str) -> u64 {
    row[column].parse().unwrap_or_else(|_| panic!("{column}: {row:?}"))
}

/// The row of a backend.
fn leak(pooler: &Pooler, backend: &str) -> Option<Row> {
    pooler.show("SHOW LEAKS").into_iter().find(|row| row["remote_pid"] == backend)
}

#[test]
fn a_client_that_idles_in_a_transaction_is_shown_with_its_locks() {
    for version in Version::ALL {
        let postgres = Postgres::shared_version(version);
        let database = postgres.database();
        let pooler = Pooler::url(postgres, APP, &database, &[]);
        let login = [("user", APP.user), ("database", &database), ("application_name", "shop")];
        let mut holder = pgsluice_tests::Raw::connect_with(pooler.addr(), APP.password, &login).expect("a login");
        holder.run("CREATE TABLE t (x int)");
        holder.run("BEGIN");
        let backend = holder.value("SELECT pg_backend_pid()");
        sleep(Duration::from_millis(1100));
        holder.run("LOCK TABLE t");
        let mut waiters: Vec<_> = (0..2).map(|_| pooler.connect(APP, &database)).collect();
        waiters.iter_mut().for_each(|waiter| waiter.send(&m::query("SELECT * FROM t")).expect("it listens"));
        let mut admin = postgres.admin(&database);
        let count =
            format!("SELECT count(*) FROM pg_locks WHERE NOT granted AND {backend} = ANY (pg_blocking_pids(pid))");
        assert!(eventually(SOON, || admin.value(&count) == "2"), "both wait");
        sleep(Duration::from_millis(1100));

        let rows = pooler.show("SHOW LEAKS");
        let [row] = rows.as_slice() else { panic!("who waits for an answer is not idle: {rows:?}") };
        assert_eq!(row["remote_pid"], backend);
        let held = admin.value(&format!("SELECT count(*) FROM pg_locks WHERE granted AND pid = {backend}"));
        assert_eq!((&row["locks"], row["waiting"].as_str()), (&held, "2"), "{row:?}");
        let (idle, transaction) = (number(row, "idle"), number(row, "transaction"));
        assert!((1..30).contains(&idle) && (2..30).contains(&transaction) && idle < transaction, "{row:?}");
        assert_eq!(
            [&row["database"], &row["user"], &row["application_name"], &row["pid"]],
            [&database, APP.user, "shop", &holder.pid.to_string()]
        );
        let clients = pooler.show("SHOW CLIENTS");
        let client = clients.iter().find(|client| client["id"] == row["client"]).expect("the same id");
        assert_eq!([&client["addr"], &client["port"]], [&row["addr"], &row["port"]]);
        let servers = pooler.show("SHOW SERVERS");
        let server = servers.iter().find(|server| server["id"] == row["server"]).expect("the same id");
        assert_eq!((&server["remote_pid"], &server["link"]), (&backend, &client["ptr"]));

        holder.run("COMMIT");
        waiters.iter_mut().for_each(|waiter| drop(waiter.until_ready()));
        assert_eq!(pooler.show("SHOW LEAKS"), Vec::new());
    }
}

#[test]
fn who_has_idled_longest_comes_first_whatever_the_database() {
    let postgres = Postgres::shared();
    let (one, other) = (postgres.database(), postgres.database());
    let pooler = Pooler::url(postgres, APP, &one, &[]);
    let mut first = pooler.connect(APP, &other);
    first.run("BEGIN");
    let elsewhere = first.value("SELECT pg_backend_pid()");
    sleep(Duration::from_millis(20));
    let mut second = pooler.connect(APP, &one);
    second.run("BEGIN");
    second.run("SELECT 1");
    let failed = second.value("SELECT pg_backend_pid()");
    second.rows("SELECT 1/0").expect_err("an error");
    let rows = pooler.show("SHOW LEAKS");
    let shown: Vec<_> = rows.iter().map(|row| (&row["database"], &row["remote_pid"])).collect();
    assert_eq!(shown, [(&other, &elsewhere), (&one, &failed)]);
    assert!(number(&rows[0], "locks") > 0 && rows[0]["waiting"] == "0", "{rows:?}");
    assert_eq!(rows[1]["locks"], "0", "a failed transaction has given its locks up: {rows:?}");
    first.run("ROLLBACK");
    assert_eq!(pooler.show("SHOW LEAKS").len(), 1);
}

#[test]
fn locks_that_postgresql_does_not_tell_are_null_and_nothing_hangs() {
    let postgres = Postgres::start(&[]);
    let database = postgres.database();
    let mut holder_direct = postgres.admin("postgres");
    let pooler = Pooler::url(&postgres, APP, &database, &[]);
    let mut client = pooler.connect(APP, &database);
    client.run("BEGIN");
    let backend = client.value("SELECT pg_backend_pid()");
    assert!(number(&leak(&pooler, &backend).expect("it idles"), "locks") > 0);
    let control = "SELECT pid FROM pg_stat_activity WHERE application_name = 'pgsluice control'";
    let before = holder_direct.value(control);
    // Nobody can read pg_stat_activity now.
    holder_direct.run("BEGIN; LOCK TABLE pg_database IN ACCESS EXCLUSIVE MODE");
    let begun = Instant::now();
    let row = leak(&pooler, &backend).expect("it idles still");
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    assert_eq!((row["locks"].as_str(), row["waiting"].as_str()), ("", ""), "{row:?}");
    holder_direct.run("ROLLBACK");
    assert!(number(&leak(&pooler, &backend).expect("it idles"), "locks") > 0);
    assert_eq!(holder_direct.value(control), before, "the control connection is the same");
}

#[tokio::test(flavor = "multi_thread")]
async fn drivers_read_who_holds_a_server() {
    let postgres = Postgres::shared();
    let database = tokio::task::block_in_place(|| postgres.database());
    let pooler = Pooler::url(postgres, APP, &database, &[]);
    let mut client = pooler.connect(APP, &database);
    client.run("BEGIN");
    let backend: i32 = client.value("SELECT pg_backend_pid()").parse().expect("a number");
    let (console, connection) =
        tokio_postgres::connect(&pooler.conninfo(APP, "pgsluice"), NoTls).await.expect("let in");
    tokio::spawn(connection);
    let rows = console.query("SHOW LEAKS", &[]).await.expect("rows");
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].get::<_, i32>("remote_pid"), backend);
    assert_eq!(rows[0].get::<_, &str>("database"), database);
    assert!(rows[0].get::<_, Option<i32>>("locks").is_some_and(|locks| locks > 0));
    for subject in ["PINS", "PIN_STATS"] {
        let statement = console.prepare(&format!("SHOW {subject}")).await.expect("there is such a subject");
        let columns: Vec<_> = statement.columns().iter().map(|c| c.name()).collect();
        assert!(columns.contains(&"application_name"), "{columns:?}");
        console.query(&statement, &[]).await.expect("rows");
    }
}
