//! What a server says without being asked: changed parameters, notices, notifications; to clients that have a server and
//! to those that have none just then.

use std::time::Duration;

use pgsluice_tests::wire::message as m;
use pgsluice_tests::{APP, Pooler, Postgres, Raw, SUPERUSER, Version};

fn with_new_default(postgres: &Postgres, sql: &str) {
    let mut admin = postgres.admin("postgres");
    admin.run(sql);
    admin.run("SELECT pg_reload_conf()");
    let fresh = || postgres.connect(APP, "postgres").parameters["TimeZone"].clone();
    let told = || fresh() == "Asia/Tokyo";
    assert!(pgsluice_tests::eventually(Duration::from_secs(10), told), "the new default is in force");
}

/// Queries until PostgreSQL has read its new configuration, as it does before some command or other.
fn until_told(client: &mut Raw) {
    let told = || {
        client.run("SELECT 1");
        client.parameters["TimeZone"] == "Asia/Tokyo"
    };
    assert!(pgsluice_tests::eventually(Duration::from_secs(10), told), "the change is told");
}

#[test]
fn a_changed_default_is_told_to_every_client_with_its_next_answer() {
    for version in Version::ALL {
        let postgres = Postgres::start_version(version, &[]);
        let pooler = Pooler::url(&postgres, APP, "postgres", &["--pool-size", "1"]);
        let connect = |extra: &[(&str, &str)]| {
            let own = [("user", APP.user), ("database", "postgres")];
            Raw::connect_with(pooler.addr(), APP.password, &[&own, extra].concat()).unwrap()
        };
        let (mut first, mut second) = (connect(&[]), connect(&[]));
        let mut with_own = connect(&[("TimeZone", "Europe/Rome")]);
        let mut direct = postgres.connect(APP, "postgres");
        with_new_default(&postgres, "ALTER SYSTEM SET TimeZone = 'Asia/Tokyo'");
        until_told(&mut direct);
        until_told(&mut first);
        let mut late = connect(&[]);
        for client in [&mut second, &mut late] {
            assert_eq!(client.value("SHOW TimeZone"), "Asia/Tokyo");
            assert_eq!(client.parameters, direct.parameters);
        }
        assert_eq!(with_own.value("SHOW TimeZone"), "Europe/Rome");
        assert_eq!(with_own.parameters["TimeZone"], "Europe/Rome", "its own is what it asked for");
        // Told once, not again and again.
        for client in [&mut first, &mut second, &mut late, &mut with_own] {
            client.send(&m::query("SELECT 1")).unwrap();
            let mut tags = Vec::new();
            while tags.last() != Some(&b'Z') {
                tags.push(client.recv().unwrap().tag);
            }
            assert_eq!(tags, b"TDCZ");
        }
    }
}

#[test]
fn what_is_lost_with_the_transaction_is_said_to_be() {
    let postgres = Postgres::shared();
    let database = postgres.database();
    let pooler = Pooler::url(postgres, SUPERUSER, &database, &["--pool-size", "1"]);
    let mut client = pooler.connect(SUPERUSER, &database);
    client.run("SET SESSION AUTHORIZATION app");
    assert_eq!(client.parameters["is_superuser"], "off");
    let (user, told) = (client.value("SELECT current_user"), client.parameters["is_superuser"].clone());
    assert!((user == "app") == (told == "off"), "what the client believes is what is: {user}, {told}");
}

#[test]
fn notices_and_notifications_reach_the_client_that_has_the_server_and_nobody_else() {
    let postgres = Postgres::shared();
    let database = postgres.database();
    let pooler = Pooler::url(postgres, APP, &database, &["--pool-size", "1", "--pool-mode", "session"]);
    let mut listener = pooler.connect(APP, &database);
    listener.run("LISTEN news");
    let mut direct = postgres.connect(APP, &database);
    direct.run("NOTIFY news, 'for you'");
    // It is idle, in the middle of nothing, and is told at once.
    let told = listener.recv().unwrap();
    assert_eq!(told.tag, b'A');
    assert!(told.body.ends_with(b"news\0for you\0"), "{told:?}");
    listener.run("SET client_min_messages = 'notice'");
    let replies = listener.query("DO $$ BEGIN RAISE NOTICE 'mind'; END $$");
    assert!(replies.iter().any(|reply| reply.tag == b'N' && reply.field(b'M') == "mind"));
    listener.send(&m::terminate()).unwrap();
    let mut next = pooler.connect(APP, &database);
    direct.run("NOTIFY news, 'for nobody'");
    assert_eq!(next.value("SELECT 1"), "1");
    assert!(next.silent_for(Duration::from_millis(300)));
}

#[test]
fn what_was_listened_to_out_of_sight_is_told_to_nobody_else() {
    let postgres = Postgres::shared();
    let database = postgres.database();
    let pooler = Pooler::url(postgres, APP, &database, &["--pool-size", "2"]);
    let (mut one, mut other) = (pooler.connect(APP, &database), pooler.connect(APP, &database));
    let told = |replies: Vec<pgsluice_tests::wire::Reply>| replies.iter().any(|reply| reply.tag == b'A');
    one.run("DO $$ BEGIN EXECUTE 'LISTEN mine'; END $$");
    assert!(!told(other.query("NOTIFY mine, 'not yours'; SELECT 1")));
    let first = one.until(|reply| reply.tag == b'A').remove(0);
    assert!(first.body.ends_with(b"mine\0not yours\0"), "{first:?}");
    one.run("DO $$ BEGIN EXECUTE 'UNLISTEN mine'; END $$");
    assert!(!told(one.query("NOTIFY mine, 'to nobody'; SELECT 1")));
    assert!(!told(other.query("SELECT 1")) && !told(one.query("SELECT 1")));
    // What it listens to itself, in one transaction, it is told.
    assert!(told(one.query("BEGIN; LISTEN mine; NOTIFY mine, 'yours'; COMMIT; SELECT 1")));
}
