//! What happens right behind a change of state, before the pooler has asked PostgreSQL what there is now: nothing is lost
//! and nothing leaks then either. Every case is tried often, with new clients, directly as well.

use std::time::Duration;

use pgsluice_tests::session_state::{database, pooler};
use pgsluice_tests::wire::message as m;
use pgsluice_tests::{APP, Pooler, Postgres, Raw, Version, eventually};

const ROUNDS: usize = 15;
const SOON: Duration = Duration::from_secs(3);

/// Tries `round` directly and through a pool of `servers`, often, with a function that connects.
fn often(servers: usize, round: impl Fn(&dyn Fn(&[(&str, &str)]) -> Raw, usize)) {
    tries(ROUNDS, servers, round);
}

/// The same so many times.
fn tries(rounds: usize, servers: usize, round: impl Fn(&dyn Fn(&[(&str, &str)]) -> Raw, usize)) {
    for version in Version::ALL {
        let postgres = Postgres::shared_version(version);
        for pooled in [false, true] {
            let database = database(postgres);
            let pooler = pooled.then(|| pooler(postgres, &database, servers, "query_wait_timeout = \"5s\""));
            let addr = pooler.as_ref().map_or(postgres.addr(), Pooler::addr);
            let connect = |more: &[(&str, &str)]| {
                let own = [("user", APP.user), ("database", &database)];
                Raw::connect_with(addr, APP.password, &[&own[..], more].concat()).expect("a login")
            };
            (0..rounds).for_each(|n| round(&connect, n));
        }
    }
}

#[test]
fn a_notification_right_behind_its_listen() {
    for listen in [
        "LISTEN news",
        "LISTEN news; SELECT 1",
        "SELECT listen_to('news')",
        "DO $$ BEGIN EXECUTE 'LISTEN news'; END $$",
        "BEGIN; LISTEN news; COMMIT",
    ] {
        often(2, |connect, n| {
            let (mut client, mut other) = (connect(&[]), connect(&[]));
            // Both are known to the pooler, which has no time to ask anything in between.
            client.run("SELECT 1");
            other.run("SELECT 1");
            client.run(listen);
            other.run(&format!("NOTIFY news, 'number {n}'"));
            assert!(!client.silent_for(SOON), "{listen}: the notification is lost");
            let told = client.until(|reply| reply.tag == b'A' || reply.tag == b'E');
            let body = String::from_utf8_lossy(&told[0].body[4..]).into_owned();
            assert_eq!(body, format!("news\0number {n}\0"), "{listen}");
        });
    }
}

#[test]
fn what_was_drawn_before_a_discard_is_forgotten_on_every_server() {
    for discard in ["DISCARD ALL", "DISCARD SEQUENCES"] {
        often(2, |connect, _| {
            let (mut client, mut other) = (connect(&[]), connect(&[]));
            client.run("SELECT nextval('ticket')");
            client.run(discard);
            for _ in 0..3 {
                let state = client.rows("SELECT currval('ticket')").map_err(|error| error.sqlstate());
                assert_eq!(state, Err("55000".to_owned()), "behind {discard}");
                other.run("BEGIN");
                let state = client.rows("SELECT lastval()").map_err(|error| error.sqlstate());
                assert_eq!(state, Err("55000".to_owned()), "behind {discard}");
                other.run("COMMIT");
            }
        });
    }
}

#[test]
fn lastval_right_behind_anothers_nextval() {
    tries(1, 1, |connect, _| {
        for draw in ["SELECT nextval('ticket')", "SELECT count_on()", "INSERT INTO counted (note) VALUES ('mine')"] {
            for settings in [&[][..], &[("work_mem", "3MB")]] {
                let (mut client, mut other) = (connect(settings), connect(&[]));
                other.run(draw);
                for ask in ["SELECT lastval()", "SELECT currval('ticket')", "COMMIT; SELECT lastval()"] {
                    let state = client.rows(ask).map_err(|error| error.sqlstate());
                    assert_eq!(state, Err("55000".to_owned()), "{ask} behind {draw}, with {settings:?}");
                }
            }
        }
    });
}

#[test]
fn state_that_the_next_transaction_needs_at_once() {
    often(2, |connect, n| {
        let (mut client, mut other) = (connect(&[]), connect(&[]));
        let mut same = |change: &str, ask: &str, value: &str| {
            // Two messages in one write, so that nothing can come between them but the pooler itself.
            let both = [m::query(change), m::query(ask)].concat();
            client.send(&both).expect("the peer takes it");
            client.until_ready();
            let replies = client.until_ready();
            let row = replies.iter().find(|reply| reply.tag == b'D').unwrap_or_else(|| panic!("{ask}: {replies:?}"));
            assert_eq!(row.values()[0].as_deref(), Some(value), "{ask} behind {change}");
            other.run("SELECT 1");
        };
        same("SET work_mem = '3MB'", "SHOW work_mem", "3MB");
        same(&format!("SELECT become('tenant {n}')"), "SHOW app.tenant", &format!("tenant {n}"));
        same("RESET app.tenant", "SELECT coalesce(current_setting('app.tenant', true), '')", "");
        same("SELECT scribble('word')", "SELECT word FROM scratch", "word");
        same("PREPARE p AS SELECT 'prepared'", "EXECUTE p", "prepared");
        same("DO $$ BEGIN EXECUTE 'PREPARE q AS SELECT ''hidden'''; END $$", "EXECUTE q", "hidden");
        same("SELECT take(7)", "SELECT pg_advisory_unlock(7)", "t");
        same("DECLARE c CURSOR WITH HOLD FOR SELECT 'held'", "FETCH c", "held");
        same("SET ROLE state_reader", "SELECT current_user", "state_reader");
        same("DISCARD ALL", "SELECT current_user", "app");
    });
}

/// PostgreSQL 18 fails the command behind such a batch. That is the pooler's question, which is asked again.
#[test]
fn a_change_in_the_middle_of_a_batch_keeps_no_server() {
    often(1, |connect, _| {
        let (mut client, mut other) = (connect(&[]), connect(&[]));
        let batch = [
            m::parse("", "SELECT 1", &[]),
            m::bind("", "", &[]),
            m::execute("", 0),
            m::query("SET work_mem = '3MB'"),
            m::sync(),
        ];
        client.send(&batch.concat()).expect("the peer takes it");
        client.until_ready();
        client.until_ready();
        assert_ne!(other.value("SHOW work_mem"), "3MB");
    });
}

/// With so many locks in the cluster, whoever asks for its own, as the pooler does, runs into the client's time limit. What
/// was done then is still there or reported lost, also when the pooler has asked for other things with success.
#[test]
fn what_could_not_be_asked_for_in_time_is_not_forgotten() {
    for postgres in Version::ALL.map(Postgres::shared_version) {
        let database = database(postgres);
        let mut many = postgres.admin(&database);
        many.run("SELECT count(pg_advisory_lock(n)) FROM generate_series(1, 5000) n");
        let pooler = pooler(postgres, &database, 1, "query_wait_timeout = \"5s\"");
        let (change, takes) = ("SELECT pg_advisory_lock(9001)", "SELECT take(9001)");
        for lock in [change, takes] {
            let (mut client, mut other) = (pooler.connect(APP, &database), pooler.connect(APP, &database));
            client.run("SET statement_timeout = 1");
            // Each may fail, and say so.
            let done: Vec<_> =
                [lock, "SET statement_timeout = 0"].map(|sql| client.try_rows(sql)).into_iter().collect();
            let is_certain = done.iter().all(|result| matches!(result, Some(Ok(_))));
            // The only server is the client's, or has nothing of it.
            let mine = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()";
            if is_certain {
                let held = postgres.admin(&database).value("SELECT count(*) FROM pg_locks WHERE objid = 9001");
                assert_eq!(held, "1", "{lock}: lost without a word");
            }
            if let Ok(rows) = other.rows(mine) {
                assert_eq!(rows[0][0].as_deref(), Some("0"), "{lock}: it is another's now");
            }
        }
    }
}

/// Without a command through the pool that could have made it.
#[test]
fn what_a_function_leaves_that_a_migration_made_is_soon_removed() {
    for version in Version::ALL {
        let postgres = Postgres::shared_version(version);
        let database = database(postgres);
        let pooler = pooler(postgres, &database, 1, "");
        let (mut client, mut other) = (pooler.connect(APP, &database), pooler.connect(APP, &database));
        client.run("SELECT 1");
        let mut migration = postgres.admin(&database);
        migration.run(
            "CREATE FUNCTION made_late() RETURNS text LANGUAGE sql AS $$SELECT set_config('app.tenant', 'late', false)$$",
        );
        migration.run("CREATE VIEW shown_late AS SELECT made_late(); GRANT SELECT ON shown_late TO PUBLIC");
        drop(migration);
        for sql in ["SELECT made_late()", "SELECT * FROM shown_late"] {
            // Statistics may be ten seconds late; the next full reading comes much later.
            let noticed = eventually(Duration::from_secs(40), || {
                client.run(sql);
                other.value("SELECT coalesce(current_setting('app.tenant', true), '')").is_empty()
            });
            assert!(noticed, "{sql}");
            assert_eq!(client.value("SHOW app.tenant"), "late");
        }
    }
}

/// A replay is refused while its session is pinned: what kept it there is gone with the server, so it cannot go on.
#[test]
fn a_pinned_session_whose_settings_are_refused_ends() {
    // The first is sent right behind the replay, the other waits for it, as it might end the replay's block.
    for (version, sql) in Version::ALL.into_iter().flat_map(|version| [(version, "SELECT 1"), (version, "COMMIT")]) {
        let postgres = Postgres::shared_version(version);
        let database = database(postgres);
        let pooler = pooler(postgres, &database, 2, "");
        let role = format!("brief_{database}_{}", sql.len());
        postgres.admin(&database).run(&format!("CREATE ROLE {role}; GRANT {role} TO {}", APP.user));
        let options = format!("-c role={role}");
        let startup = [("user", APP.user), ("database", &*database), ("options", &*options)];
        let mut client = Raw::connect_with(pooler.addr(), APP.password, &startup).expect("a login");
        client.run("SELECT pg_advisory_lock(7)");
        client.run("SET role = none; RESET role");
        postgres.admin(&database).run(&format!("DROP ROLE {role}"));
        client.send(&m::query(sql)).expect("the pooler takes it");
        let replies = client.until_closed(SOON).expect("the connection is closed");
        let last = replies.last().map(|reply| (reply.field(b'V'), reply.sqlstate()));
        assert_eq!(last, Some(("FATAL".to_owned(), "22023".to_owned())), "{replies:?}");
        let locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND database =
            (SELECT oid FROM pg_database WHERE datname = current_database())";
        let mut admin = postgres.admin(&database);
        assert!(eventually(SOON, || admin.value(locks) == "0"));
    }
}
