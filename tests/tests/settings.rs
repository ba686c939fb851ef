//! What one client sets is never another's, on one and the same server; and no worker's clients starve.

use std::time::{Duration, Instant};

use pgsluice_tests::pooler::Pooler;
use pgsluice_tests::postgres::{APP, Postgres, SUPERUSER, Version};
use pgsluice_tests::wire::{Raw, message as m};

fn start(options: &[&str]) -> (Pooler, String) {
    let postgres = Postgres::shared();
    let database = postgres.database();
    let pooler = Pooler::url(postgres, APP, &database, options);
    (pooler, database)
}

#[test]
fn what_one_client_sets_the_next_does_not_see() {
    let (pooler, database) = start(&["--pool-size", "1"]);
    let mut one = pooler.connect(APP, &database);
    let mut other = pooler.connect(APP, &database);
    let before = other.value("SHOW work_mem");
    let pid = other.value("SELECT pg_backend_pid()");
    for sql in [
        "SET work_mem = '7MB'",
        "SET app.tenant = 'mine'",
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
        "BEGIN; SET LOCAL work_mem = '8MB'; SET statement_timeout = 1234; COMMIT",
    ] {
        one.run(sql);
        assert_eq!(
            other.value("SELECT pg_backend_pid()"),
            pid,
            "{sql}: the same server, so that there is something to see"
        );
        assert_eq!(other.value("SHOW work_mem"), before, "{sql}");
        assert_eq!(other.value("SHOW statement_timeout"), "0", "{sql}");
        assert_eq!(other.value("SELECT coalesce(current_setting('app.tenant', true), '')"), "", "{sql}");
        assert_eq!(other.value("SHOW default_transaction_read_only"), "off", "{sql}");
        let left = "SELECT (SELECT count(*) FROM pg_prepared_statements WHERE from_sql)
            + (SELECT count(*) FROM pg_cursors WHERE is_holdable) + (SELECT count(*) FROM pg_listening_channels())";
        assert_eq!(other.value(left), "0", "{sql}");
    }
}

#[test]
fn reported_settings_follow_their_client() {
    let (pooler, database) = start(&["--pool-size", "1"]);
    let zones = ["Europe/Rome", "Asia/Tokyo", "America/Lima"];
    let mut clients: Vec<Raw> = zones.iter().map(|_| pooler.connect(APP, &database)).collect();
    for (client, zone) in clients.iter_mut().zip(zones) {
        client.run(&format!("SET TimeZone = '{zone}'"));
    }
    for _ in 0..5 {
        for (client, zone) in clients.iter_mut().zip(zones) {
            assert_eq!(client.value("SHOW TimeZone"), zone);
        }
    }
}

#[test]
fn what_a_client_set_goes_with_it_also_if_nobody_was_left_to_be_told() {
    for version in Version::ALL {
        let postgres = Postgres::shared_version(version);
        let database = postgres.database();
        let pooler = Pooler::url(postgres, APP, &database, &["--pool-size", "1"]);
        let zone = "SELECT set_config('TimeZone', 'Asia/Tokyo', false)";
        for sql in [zone.to_owned(), format!("BEGIN; {zone}; COMMIT"), format!("{zone}; SELECT pg_sleep(0.2)")] {
            let mut gone = pooler.connect(APP, &database);
            gone.send(&[m::query(&sql), m::terminate()].concat()).unwrap();
            drop(gone);
            assert_eq!(pooler.connect(APP, &database).value("SHOW TimeZone"), "UTC", "{sql}");
        }
        // What it was told of is rolled back with it, and others are not believed to have it.
        let mut gone = pooler.connect(APP, &database);
        gone.run("BEGIN");
        gone.value(zone);
        drop(gone);
        let parameters = [("user", APP.user), ("database", &database), ("TimeZone", "Asia/Tokyo")];
        let mut same = Raw::connect_with(pooler.addr(), APP.password, &parameters).unwrap();
        assert_eq!(same.value("SHOW TimeZone"), "Asia/Tokyo");
    }
}

#[test]
fn what_follows_discard_all_in_one_batch_stays_with_nobody() {
    let (pooler, database) = start(&["--pool-size", "1"]);
    let (mut one, mut other) = (pooler.connect(APP, &database), pooler.connect(APP, &database));
    let run = |sql| [m::parse("", sql, &[]), m::bind("", "", &[]), m::execute("", 0)].concat();
    let zone = run("SELECT set_config('TimeZone', 'Asia/Tokyo', false)");
    one.exchange(&[run("DISCARD ALL"), zone, m::sync()].concat());
    assert_eq!(other.value("SHOW TimeZone"), "UTC");
    assert_eq!(one.value("SHOW TimeZone"), one.parameters["TimeZone"], "what it believes is what is");
}

#[test]
fn a_role_that_postgresql_reports_is_left_to_nobody() {
    for version in Version::ALL {
        let postgres = Postgres::shared_version(version);
        let database = postgres.database();
        let pooler = Pooler::url(postgres, SUPERUSER, &database, &["--pool-size", "1"]);
        let mut one = pooler.connect(SUPERUSER, &database);
        let mut other = pooler.connect(SUPERUSER, &database);
        for name in ["role", "session_authorization"] {
            one.value(&format!("SELECT set_config('{name}', 'app', false)"));
            assert_eq!(other.value("SELECT current_user || ' ' || session_user"), "postgres postgres", "{name}");
        }
    }
}

#[test]
fn what_cannot_be_reset_is_not_the_next_clients_error() {
    for version in Version::ALL {
        let postgres = Postgres::shared_version(version);
        let database = postgres.database();
        let pooler = Pooler::url(postgres, APP, &database, &["--pool-size", "1"]);
        let mut other = pooler.connect(APP, &database);
        // The language is loaded behind the setting, and knows none of that name.
        let parameters = [("user", APP.user), ("database", &database), ("plpgsql.unknown", "1")];
        let mut one = Raw::connect_with(pooler.addr(), APP.password, &parameters).unwrap();
        one.run("DO $$ BEGIN END $$");
        assert_eq!(other.value("SELECT 1"), "1");
        for name in ["seed", "transaction_read_only"] {
            let parameters = [("user", APP.user), ("database", &database), (name, "0")];
            let mut one = Raw::connect_with(pooler.addr(), APP.password, &parameters).unwrap();
            one.run("SELECT 1");
            assert_eq!(other.value("SELECT 1"), "1", "{name}");
            assert_eq!(pooler.connect(APP, &database).value("SELECT 1"), "1", "{name}");
        }
    }
}

#[test]
fn no_worker_starves_where_there_are_fewer_servers_than_workers() {
    let (pooler, database) = start(&["--pool-size", "2", "--workers", "4"]);
    let end = Instant::now() + Duration::from_secs(4);
    let counts: Vec<u32> = std::thread::scope(|scope| {
        let load = |_| {
            let mut client = pooler.connect(APP, &database);
            scope.spawn(move || {
                let mut served = 0;
                while Instant::now() < end {
                    assert_eq!(client.value("SELECT 1"), "1");
                    served += 1;
                }
                served
            })
        };
        let threads: Vec<_> = (0..12).map(load).collect();
        threads.into_iter().map(|t| t.join().expect("no client fails")).collect()
    });
    assert!(counts.iter().all(|&served| served >= 3), "somebody starves: {counts:?}");
}
