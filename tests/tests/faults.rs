//! Things that break: clients that vanish, servers that die, a PostgreSQL that restarts, readers that do not
//! read. Nobody but the one concerned may notice, no backend may be lost, and no lock may be left behind.

use std::time::{Duration, Instant};

use pgsluice_tests::wire::{message as m, show};
use pgsluice_tests::{APP, Pooler, Postgres, Raw, Shuffle, eventually};

const SOON: Duration = Duration::from_secs(3);

fn pooler(size: &str) -> (Pooler, String) {
    let postgres = Postgres::shared();
    let database = postgres.database();
    (Pooler::url(postgres, APP, &database, &["--pool-size", size]), database)
}

fn waiting(pooler: &Pooler, database: &str) -> i64 {
    pooler.pool_count(database, APP.user, "cl_waiting")
}

fn terminate(pid: &str) {
    let killed = Postgres::shared().admin("postgres").value(&format!("SELECT pg_terminate_backend({pid}, 5000)"));
    assert_eq!(killed, "t", "backend {pid} ends");
}

/// What was still to come of the answer to connect_query must not be taken for the answer to a client's query.
#[test]
fn a_server_whose_connect_query_was_not_read_to_its_end_serves_nobody() {
    let postgres = Postgres::shared();
    let database = postgres.database();
    let text = format!(
        "listen_port = {{port}}\nadmin_users = [\"app\"]\nquery_wait_timeout = 2\n[databases.{database}]\n\
         host = \"127.0.0.1\"\nport = {}\nconnect_query = \"SELECT repeat('x', 3000000)\"\n\
         [users.app]\npassword = \"app-secret\"\n",
        postgres.port()
    );
    let pooler = Pooler::file("pgsluice.toml", &text, APP);
    match pooler.try_connect(APP, &database) {
        Ok(mut client) => assert!(client.rows("SELECT 1").is_err()),
        Err(error) => assert_ne!(error.sqlstate(), ""),
    }
    assert!(eventually(Duration::from_secs(10), || pooler.log().contains("connect_query: the answer is longer than")));
}

#[test]
fn a_client_that_vanishes_in_the_queue_leaves_it() {
    let (pooler, database) = pooler("1");
    let mut holder = pooler.connect(APP, &database);
    holder.run("CREATE TABLE ghost (id int); BEGIN");
    let mut vanishing: Vec<_> = (0..5).map(|_| pooler.connect(APP, &database)).collect();
    for client in &mut vanishing {
        client.send(&m::query("INSERT INTO ghost VALUES (1)")).unwrap();
    }
    assert!(eventually(SOON, || waiting(&pooler, &database) == 5), "{:?}", pooler.pool(&database, APP.user));
    drop(vanishing);
    assert!(eventually(SOON, || waiting(&pooler, &database) == 0), "{:?}", pooler.pool(&database, APP.user));
    holder.run("COMMIT");
    assert_eq!(holder.value("SELECT count(*) FROM ghost"), "0", "what was queued never ran");
}

#[test]
fn the_query_of_a_client_that_vanishes_is_cancelled_and_its_backend_reused() {
    let (pooler, database) = pooler("1");
    let postgres = Postgres::shared();
    postgres
        .connect(APP, &database)
        .run("CREATE TABLE work (id int PRIMARY KEY, n int); INSERT INTO work VALUES (1, 0)");
    let mut client = pooler.connect(APP, &database);
    client.run("BEGIN");
    let pid = client.value("SELECT pg_backend_pid()");
    client.run("UPDATE work SET n = 1");
    client.send(&m::query("SELECT pg_sleep(60)")).unwrap();
    std::thread::sleep(Duration::from_millis(200));
    drop(client);

    let start = Instant::now();
    let mut direct = postgres.connect(APP, &database);
    direct.run("SET lock_timeout = '10s'; UPDATE work SET n = n + 10");
    assert!(start.elapsed() < Duration::from_secs(1), "the row was locked for {:?}", start.elapsed());
    assert_eq!(direct.value("SELECT n FROM work"), "10", "the transaction was rolled back");

    let mut next = pooler.connect(APP, &database);
    assert_eq!(next.value("SELECT pg_backend_pid()"), pid, "the backend is reused");
    assert_eq!(next.value("SELECT n FROM work"), "10");
}

#[test]
fn a_client_that_vanishes_idle_in_a_transaction_is_rolled_back() {
    let (pooler, database) = pooler("1");
    let mut client = pooler.connect(APP, &database);
    client.run("CREATE TABLE work (id int)");
    let pid = client.value("SELECT pg_backend_pid()");
    client.run("BEGIN");
    client.run("INSERT INTO work VALUES (1)");
    drop(client);
    let mut next = pooler.connect(APP, &database);
    assert_eq!(next.value("SELECT count(*) FROM work"), "0");
    assert_eq!(next.value("SELECT pg_backend_pid()"), pid, "the backend is reused");
    // And in a failed one.
    let mut client = pooler.connect(APP, &database);
    client.run("BEGIN");
    assert!(client.rows("SELECT 1/0").is_err());
    drop(client);
    assert_eq!(next.value("SELECT 1"), "1");
}

#[test]
fn clients_that_vanish_at_any_moment_harm_nobody() {
    let (pooler, database) = pooler("2");
    pooler.connect(APP, &database).run("CREATE TABLE item (id int)");
    let shuffle = Shuffle::start(&pooler, APP, &database, 2);
    let scripts: [Vec<u8>; 6] = [
        [m::query("COPY item FROM STDIN"), m::copy_data(b"1\n")].concat(),
        [m::query("BEGIN"), m::query("SELECT repeat('x', 1000) FROM generate_series(1, 5000)")].concat(),
        [m::parse("x", "SELECT 1", &[]), m::bind("", "x", &[]), m::execute("", 0)].concat(),
        [m::parse("x", "SELECT 1", &[]), m::flush()].concat(),
        (0..500).flat_map(|_| m::query("INSERT INTO item VALUES (2)")).collect(),
        m::query("SELECT pg_sleep(20)"),
    ];
    for round in 0..60 {
        let mut client = pooler.connect(APP, &database);
        let script = &scripts[round % scripts.len()];
        let cut = if round % 3 == 0 { script.len() - 2 } else { script.len() };
        client.send(&script[..cut]).unwrap();
        std::thread::sleep(Duration::from_millis(round as u64 % 7 * 3));
    }
    // All that is left are the background clients: no session, no server is stuck.
    let mut console = pooler.console();
    let settled = || {
        let rows = pgsluice_tests::pooler::table(&mut console, "SHOW POOLS");
        let row = rows.iter().find(|row| row["database"] == database).expect("the pool is there");
        row["cl_active"].parse::<u32>().expect("a count") + row["cl_waiting"].parse::<u32>().expect("a count") <= 2
    };
    assert!(eventually(SOON, settled), "{:?}", pooler.pool(&database, APP.user));
    shuffle.finish();
    assert!(Postgres::shared().backends(&database) <= 3);
}

#[test]
fn kill_ends_what_was_left_to_do_with_a_good_bye() {
    let postgres = Postgres::shared();
    let database = postgres.database();
    let pooler = Pooler::url(postgres, APP, &database, &["--pool-size", "1"]);
    let mut client = pooler.connect(APP, &database);
    client.send(&[m::query("SELECT pg_sleep(600)"), m::terminate()].concat()).unwrap();
    drop(client);
    let states = || pooler.show("SHOW SERVERS").into_iter().map(|row| row["state"].clone()).collect::<Vec<_>>();
    assert!(eventually(SOON, || states() == ["tested"]), "{:?}", states());
    let mut console = pooler.console();
    console.query(&format!("KILL {database}"));
    assert!(eventually(SOON, || states().is_empty()), "{:?}", states());
    let sleeping = format!("SELECT count(*) FROM pg_stat_activity WHERE datname = '{database}' AND state = 'active'");
    let mut witness = postgres.admin("postgres");
    assert!(eventually(SOON, || witness.value(&sleeping) == "0"), "it is cancelled, not left alone");
    console.query(&format!("RESUME {database}"));
    assert_eq!(pooler.connect(APP, &database).value("SELECT 1"), "1");
}

#[test]
fn what_was_sent_before_terminate_runs_to_its_end() {
    let (pooler, database) = pooler("1");
    let mut witness = Postgres::shared().admin(&database);
    witness.run("CREATE TABLE farewell (x int); GRANT ALL ON farewell TO PUBLIC");
    let insert = |x: &str| format!("INSERT INTO farewell SELECT {x} FROM pg_sleep(0.3)");
    let extended = [m::parse("", &insert("2"), &[]), m::bind("", "", &[]), m::execute("", 0), m::sync()].concat();
    let in_block = [m::query("BEGIN"), m::query(&insert("3")), m::query("COMMIT")].concat();
    let never_synced = [m::parse("", &insert("99"), &[]), m::bind("", "", &[]), m::execute("", 0)].concat();
    let never_committed = [m::query("BEGIN"), m::query(&insert("99"))].concat();
    // While one holds the only server, the others' words wait with us; their senders are gone by the time it is free.
    let mut holder = pooler.connect(APP, &database);
    holder.run("BEGIN");
    for script in [m::query(&insert("1")), extended, never_synced, never_committed] {
        let mut client = pooler.connect(APP, &database);
        client.send(&script).unwrap();
        client.send(&m::terminate()).unwrap();
    }
    let mut reader = pooler.connect(APP, &database);
    reader.send(&[in_block, m::terminate()].concat()).unwrap();
    std::thread::sleep(Duration::from_millis(200));
    holder.run("COMMIT");
    let done = || witness.value("SELECT coalesce(string_agg(x::text, ' ' ORDER BY x), '') FROM farewell") == "1 2 3";
    assert!(eventually(SOON, done), "{}", witness.value("SELECT string_agg(x::text, ' ') FROM farewell"));
    // The server is everybody's again, rolled back where nothing was committed.
    assert_eq!(pooler.connect(APP, &database).value("SELECT count(*) FROM farewell"), "3");
}

#[test]
fn half_closed_sockets_are_cleared_away() {
    let (pooler, database) = pooler("1");
    for script in
        [m::query("SELECT 1"), m::query("BEGIN"), m::query("SELECT pg_sleep(30)"), m::terminate(), b"Q\0".to_vec()]
    {
        let mut client = pooler.connect(APP, &database);
        client.send(&script).unwrap();
        client.half_close().unwrap();
        assert!(client.until_closed(SOON).is_some(), "our side is closed as well");
    }
    assert_eq!(pooler.connect(APP, &database).value("SELECT 1"), "1");
}

#[test]
fn a_server_killed_in_a_query_costs_that_query_only() {
    let (pooler, database) = pooler("2");
    let mut client = pooler.connect(APP, &database);
    let mut other = pooler.connect(APP, &database);
    client.run("CREATE TABLE pid_of (pid int)");
    client.send(&m::query("SELECT pg_backend_pid(), pg_sleep(30)")).unwrap();
    let mut admin = Postgres::shared().admin("postgres");
    let running =
        format!("SELECT max(pid) FROM pg_stat_activity WHERE datname = '{database}' AND wait_event = 'PgSleep'");
    assert!(eventually(SOON, || !admin.value(&running).is_empty()));
    terminate(&admin.value(&running));
    let replies = client.until_ready();
    let error = replies.iter().find(|reply| reply.tag == b'E').expect("an ErrorResponse");
    assert_eq!(error.sqlstate(), "57P01", "{error:?}");
    assert_eq!(show(&replies).last().map(String::as_str), Some("Z I"));
    assert_eq!(client.value("SELECT 'goes on'"), "goes on", "on the same client connection");
    assert_eq!(other.value("SELECT 'unharmed'"), "unharmed");
}

#[test]
fn a_server_killed_in_an_extended_batch_keeps_the_protocol_in_step() {
    let (pooler, database) = pooler("1");
    let mut client = pooler.connect(APP, &database);
    let pid = client.value("SELECT pg_backend_pid()");
    let batch = |sql: &str| [m::parse("", sql, &[]), m::bind("", "", &[]), m::execute("", 0), m::sync()].concat();
    // The second batch is in the pipe already when the server dies in the first.
    client.send(&[batch("SELECT pg_sleep(30)"), batch("SELECT 'second'")].concat()).unwrap();
    std::thread::sleep(Duration::from_millis(200));
    terminate(&pid);
    let first = show(&client.until_ready());
    assert!(first.iter().any(|line| line == "E 57P01"), "{first:?}");
    // The second may have run on another server or have failed with the first, but it gets its answer.
    let second = show(&client.until_ready());
    assert!(second.iter().any(|line| line == "D second" || line.starts_with("E ")), "{second:?}");
    assert_eq!(client.value("SELECT 'goes on'"), "goes on");
}

#[test]
fn a_server_killed_while_idle_is_not_noticed() {
    let (pooler, database) = pooler("1");
    let mut client = pooler.connect(APP, &database);
    for _ in 0..5 {
        let pid = client.value("SELECT pg_backend_pid()");
        terminate(&pid);
        assert_ne!(client.value("SELECT pg_backend_pid()"), pid);
    }
}

#[test]
fn a_server_killed_between_statements_of_a_transaction_ends_the_transaction() {
    let (pooler, database) = pooler("2");
    let mut client = pooler.connect(APP, &database);
    client.run("CREATE TABLE work (id int)");
    client.run("BEGIN");
    let pid = client.value("SELECT pg_backend_pid()");
    client.run("INSERT INTO work VALUES (1)");
    terminate(&pid);
    // The rest must not run outside the transaction, as if nothing had happened. An error or the end of the
    // connection will both tell the client.
    let sent = client.send(&m::query("INSERT INTO work VALUES (2)"));
    let told = sent.is_err() || matches!(client.recv(), Err(_) | Ok(pgsluice_tests::Reply { tag: b'E', .. }));
    assert!(told, "the client was not told that its transaction is gone");
    assert_eq!(pooler.connect(APP, &database).value("SELECT count(*) FROM work"), "0");
}

#[test]
fn clients_survive_a_restart_of_postgresql() {
    for immediate in [false, true] {
        let mut postgres = Postgres::start(&[]);
        let database = postgres.database();
        let pooler = Pooler::url(&postgres, APP, &database, &["--pool-size", "3"]);
        let mut clients: Vec<_> = (0..10).map(|_| pooler.connect(APP, &database)).collect();
        for client in &mut clients {
            client.run("SELECT 1");
        }
        postgres.stop(immediate);
        std::thread::sleep(Duration::from_millis(300));
        postgres.launch();
        let start = Instant::now();
        for client in &mut clients {
            let back = eventually(Duration::from_secs(10), || client.rows("SELECT 1").is_ok());
            assert!(back, "a client did not recover (immediate: {immediate})");
        }
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
        assert_eq!(pooler.connect(APP, &database).value("SELECT 1"), "1");
    }
}

#[test]
fn queries_wait_while_postgresql_is_away() {
    let mut postgres = Postgres::start(&[]);
    let database = postgres.database();
    let pooler = Pooler::url(&postgres, APP, &database, &["--pool-size", "3"]);
    let mut client = pooler.connect(APP, &database);
    client.run("SELECT 1");
    postgres.stop(false);
    client.send(&m::query("SELECT 'patience'")).unwrap();
    std::thread::sleep(Duration::from_millis(500));
    postgres.launch();
    // An honest error will do too, but not a lost connection, and not silence.
    let first = show(&client.until_ready());
    assert!(first.iter().any(|line| line == "D patience" || line.starts_with("E ")), "{first:?}");
    assert!(eventually(Duration::from_secs(10), || client.rows("SELECT 1").is_ok()));
}

#[test]
fn a_reader_that_does_not_read_stalls_nobody_and_fills_no_memory() {
    let (pooler, database) = pooler("2");
    let mut slow = pooler.connect(APP, &database);
    let mut quick = pooler.connect(APP, &database);
    slow.send(&m::query("SELECT repeat('x', 10000) FROM generate_series(1, 20000)")).unwrap();
    let end = Instant::now() + Duration::from_secs(2);
    let (mut slowest, mut count) = (Duration::ZERO, 0);
    while Instant::now() < end {
        let start = Instant::now();
        assert_eq!(quick.value("SELECT 1"), "1");
        slowest = slowest.max(start.elapsed());
        count += 1;
    }
    assert!(count > 100 && slowest < Duration::from_millis(500), "{count} queries, the slowest {slowest:?}");
    assert!(pooler.resident() < 64 << 10, "{} KiB in memory for 200 MB under way", pooler.resident());
    let rows = slow.until_ready();
    assert_eq!(rows.len(), 20_000 + 3, "all of it comes in the end");
}

#[test]
fn violations_of_the_protocol_end_one_session_only() {
    let (pooler, database) = pooler("1");
    let mut other = pooler.connect(APP, &database);
    let wrong: [Vec<u8>; 6] = [
        m::tagged(b'~', b"what"),
        b"Q\0\0\0\x03".to_vec(),
        b"Q\xff\xff\xff\xffSELECT".to_vec(),
        m::tagged(b'Q', b"SELECT 1"),
        m::tagged(b'B', b"\0"),
        m::tagged(b'R', b"\0\0\0\0"),
    ];
    for bytes in wrong {
        let mut client: Raw = pooler.connect(APP, &database);
        client.run("BEGIN");
        client.send(&bytes).unwrap();
        client.half_close().unwrap();
        let end = client.until_closed(SOON);
        assert!(end.is_some(), "{bytes:02x?} was left hanging");
        assert!(end.iter().flatten().all(|reply| reply.tag != b'D'), "{bytes:02x?}: {end:?}");
        assert_eq!(other.value("SELECT 1"), "1", "after {bytes:02x?}");
    }
}

#[test]
fn clients_with_different_settings_share_one_server() {
    let (pooler, database) = pooler("1");
    let zones = ["UTC", "Asia/Tokyo", "Europe/Rome"];
    let mut clients: Vec<_> = zones.iter().map(|_| pooler.connect(APP, &database)).collect();
    for (client, zone) in clients.iter_mut().zip(zones) {
        client.run(&format!("SET TimeZone = '{zone}'"));
    }
    for _ in 0..20 {
        for client in &mut clients {
            client.send(&m::query("SHOW TimeZone")).unwrap();
        }
        for (client, zone) in clients.iter_mut().zip(zones) {
            let lines = show(&client.until_ready());
            assert!(lines.contains(&format!("D {zone}")), "{lines:?}");
        }
    }
}

#[test]
fn a_copy_that_fails_in_the_middle_of_a_message_gives_its_server_back() {
    let (pooler, database) = pooler("1");
    let mut client = pooler.connect(APP, &database);
    client.run("CREATE TABLE item (id int)");
    client.send(&m::query("COPY item FROM STDIN")).unwrap();
    assert_eq!(client.recv().unwrap().tag, b'G');
    let (wrong, rest) = (m::copy_data(b"bad\n"), m::copy_data(&b"1\n".repeat(1000)));
    let (front, back) = rest.split_at(100);
    client.send(&[&wrong, front].concat()).unwrap();
    let lines = show(&client.until_ready());
    assert!(lines.iter().any(|line| line == "E 22P02"), "{lines:?}");
    client.send(&[back, &m::copy_done()].concat()).unwrap();
    assert_eq!(pooler.connect(APP, &database).value("SELECT 1"), "1", "the client's server is free again");
}

#[test]
fn a_flush_is_answered_before_what_follows_it() {
    let (pooler, database) = pooler("1");
    let mut client = pooler.connect(APP, &database);
    client.send(&[m::parse("a", "SELECT 1", &[]), m::sync()].concat()).unwrap();
    client.until_ready();
    client.send(&[m::parse("b", "SELECT 1", &[]), m::flush(), m::bind("", "b", &[])].concat()).unwrap();
    assert_eq!(client.recv().unwrap().tag, b'1');
}
