//! Starting, reloading and stopping: configuration files in both forms, `pgsluice check`, signals, pool modes,
//! and every way to authenticate on both sides.

use std::process::Command;
use std::time::{Duration, Instant};

use pgsluice_tests::pooler::program;
use pgsluice_tests::process::Directory;
use pgsluice_tests::program::run;
use pgsluice_tests::wire::{message as m, show};
use pgsluice_tests::{APP, APP_MD5, APP_PLAIN, APP_TRUST, Pooler, Postgres, Raw, eventually};
use rustix::process::Signal;

const SOON: Duration = Duration::from_secs(5);

/// A TOML file with one database, all users and `extra` top-level lines.
fn toml(database: &str, extra: &str) -> String {
    let port = Postgres::shared().port();
    let users = [APP, APP_MD5, APP_PLAIN, APP_TRUST];
    let users: String =
        users.iter().map(|login| format!("[users.{}]\npassword = \"{}\"\n", login.user, login.password)).collect();
    format!(
        "listen_addr = \"127.0.0.1\"\nlisten_port = {{port}}\nadmin_users = [\"app\"]\n{extra}\n\
         [databases.{database}]\nhost = \"127.0.0.1\"\nport = {port}\ndbname = \"{database}\"\n{users}"
    )
}

fn start(extra: &str) -> (Pooler, String) {
    let database = Postgres::shared().database();
    (Pooler::file("pgsluice.toml", &toml(&database, extra), APP), database)
}

fn setting(pooler: &Pooler, key: &str) -> String {
    let rows = pooler.show("SHOW CONFIG");
    rows.iter().find(|row| row["key"] == key).map(|row| row["value"].clone()).unwrap_or_default()
}

/// `pgsluice check` on a file with `text`: whether it is fine, and what was printed.
fn check(name: &str, text: &str) -> (bool, String) {
    let directory = Directory::fresh("check");
    let file = directory.write(name, text);
    let mut command = Command::new(program());
    command.arg("check").arg(&file).current_dir(directory.path());
    let outcome = run(command, SOON);
    (outcome.ok, outcome.out + &outcome.err)
}

#[test]
fn check_lists_every_problem_at_once() {
    let bad = "listen_port = 70000\npool_mode = \"transactional\"\ndefault_pool_szie = 5\n[databases.app]\nhost = 5\n";
    let (ok, text) = check("bad.toml", bad);
    assert!(!ok, "{text}");
    for (line, word) in [(1, "listen_port"), (2, "pool_mode"), (3, "default_pool_size"), (5, "host")] {
        let named = text.lines().any(|l| l.contains(&format!("bad.toml:{line}")) && l.contains(word));
        assert!(named, "line {line} ({word}) is not named in:\n{text}");
    }
    let (ok, text) = check(
        "bad.ini",
        "[databases]\napp = host=127.0.0.1 prot=5432\n[pgbouncer]\npool_mode = often\nauth_type = guess\n",
    );
    assert!(!ok, "{text}");
    for word in ["prot", "pool_mode", "auth_type"] {
        assert!(text.contains(word), "{word} is not named in:\n{text}");
    }
    let (ok, text) = check("good.toml", "[databases.app]\nhost = \"127.0.0.1\"\n");
    assert!(ok, "{text}");
}

#[test]
fn a_bad_file_refuses_the_start_with_the_same_words() {
    let directory = Directory::fresh("check");
    let file = directory.write("bad.toml", "default_pool_szie = 5\n[databases.app]\nhost = \"127.0.0.1\"\n");
    let mut command = Command::new(program());
    command.arg("--config").arg(&file);
    let outcome = run(command, SOON);
    assert!(!outcome.ok && (outcome.err + &outcome.out).contains("default_pool_size"));
    let mut command = Command::new(program());
    command.args(["--config", "/nonexistent/pgsluice.toml"]);
    let outcome = run(command, SOON);
    assert!(!outcome.ok && (outcome.err + &outcome.out).contains("/nonexistent/pgsluice.toml"));
}

#[test]
fn a_pgbouncer_ini_with_its_userlist_starts() {
    let postgres = Postgres::shared();
    let database = postgres.database();
    let ini = format!(
        ";; as PgBouncer reads it\n[databases]\n{database} = host=127.0.0.1 port={} dbname='{database}' pool_size=3\n\n[pgbouncer]\n\
         listen_addr = 127.0.0.1\nlisten_port = {{port}}\nunix_socket_dir =\nauth_type = scram-sha-256\nauth_file = {{dir}}/userlist.txt\n\
         admin_users = app, other\npool_mode = transaction\nmax_client_conn = 200\n",
        postgres.port()
    );
    let userlist = format!("\"app\" \"{}\"\n\"app_md5\" \"{}\"\n", APP.password, APP_MD5.password);
    let pooler = Pooler::files(&[("pgbouncer.ini", &ini), ("userlist.txt", &userlist)], APP);
    assert_eq!(pooler.connect(APP, &database).value("SELECT current_user"), "app");
    assert_eq!(pooler.connect(APP_MD5, &database).value("SELECT current_user"), "app_md5");
    assert_eq!(pooler.pool(&database, "app").expect("the pool")["pool_mode"], "transaction");
    assert_eq!(setting(&pooler, "max_client_conn"), "200");
}

#[test]
fn a_reload_changes_the_pool_size_and_nothing_when_the_file_is_bad() {
    let (pooler, database) = start("default_pool_size = 1");
    let mut first = pooler.connect(APP, &database);
    let mut second = pooler.connect(APP, &database);
    first.run("BEGIN");
    second.send(&m::query("SELECT 'through'")).unwrap();
    assert!(second.silent_for(Duration::from_millis(300)), "one server only");
    pooler.rewrite(&toml(&database, "default_pool_size = 2"));
    pooler.signal(Signal::HUP);
    assert_eq!(show(&second.until_ready())[1], "D through", "the waiter gets the new server");
    assert_eq!(setting(&pooler, "default_pool_size"), "2");

    pooler.rewrite(&toml(&database, "max_client_conn = 77\ndefault_pool_size = \"many\""));
    let replies = pooler.console().query("RELOAD");
    assert_eq!(
        replies.iter().find(|reply| reply.tag == b'E').map(|error| error.sqlstate()).as_deref(),
        Some("F0000"),
        "{replies:?}"
    );
    assert_ne!(setting(&pooler, "max_client_conn"), "77", "a reload is all or nothing");

    pooler.rewrite(&toml(&database, "default_pool_size = 5"));
    assert_eq!(show(&pooler.console().query("RELOAD")), ["C RELOAD", "Z I"]);
    assert_eq!(setting(&pooler, "default_pool_size"), "5");
    first.run("COMMIT");
}

#[test]
fn a_reload_does_not_move_an_instance_to_another_fleet() {
    let (pooler, database) = start("fleet = \"eu\"");
    pooler.rewrite(&toml(&database, "fleet = \"us\"\nmax_client_conn = 77"));
    for _ in 0..2 {
        assert_eq!(show(&pooler.console().query("RELOAD")), ["C RELOAD", "Z I"]);
        assert_eq!((setting(&pooler, "fleet"), setting(&pooler, "max_client_conn")), ("eu".into(), "77".into()));
    }
    let said = "fleet stays eu until a restart (the file says us)";
    assert!(pooler.logs_times(said, 2), "{}", pooler.log());
}

#[test]
fn a_fleet_of_the_command_line_wins_over_the_file_after_a_reload_too() {
    let database = Postgres::shared().database();
    let text = toml(&database, "fleet = \"us\"");
    let pooler = Pooler::files_with(&[("pgsluice.toml", &text)], &["--fleet", "eu"], APP);
    assert_eq!(setting(&pooler, "fleet"), "eu");
    for extra in ["fleet = \"us\"", "fleet = \"asia\"", ""] {
        pooler.rewrite(&toml(&database, extra));
        assert_eq!(show(&pooler.console().query("RELOAD")), ["C RELOAD", "Z I"]);
        assert_eq!(setting(&pooler, "fleet"), "eu");
    }
    assert!(!pooler.log().contains("until a restart"), "{}", pooler.log());

    let pooler = Pooler::url(Postgres::shared(), APP, &database, &["--fleet", "eu"]);
    assert_eq!(setting(&pooler, "fleet"), "eu");
    let mut command = Command::new(program());
    command.args(["--fleet", "eu\twest", "postgres://app@127.0.0.1/app"]);
    let outcome = run(command, SOON);
    assert!(!outcome.ok && outcome.err.starts_with("fleet: expects a name of 63 bytes at most"), "{}", outcome.err);
}

#[test]
fn a_reload_brings_new_users_and_databases() {
    let (pooler, database) = start("");
    let other = Postgres::shared().database();
    assert_eq!(pooler.try_connect(APP, &other).map(drop).expect_err("unknown").sqlstate(), "3D000");
    pooler.rewrite(&toml(&other, ""));
    pooler.signal(Signal::HUP);
    assert!(eventually(SOON, || pooler.try_connect(APP, &other).is_ok()), "the new database is served");
    assert!(pooler.try_connect(APP, &database).is_err(), "the old one is gone");
}

#[test]
fn sigterm_lets_the_running_transaction_finish() {
    for signal in [Signal::TERM, Signal::INT] {
        let (mut pooler, database) = start("");
        let mut client = pooler.connect(APP, &database);
        client.run("CREATE TABLE work (id int)");
        client.run("BEGIN");
        client.run("INSERT INTO work VALUES (1)");
        pooler.signal(signal);
        assert!(eventually(SOON, || Raw::open(pooler.addr()).is_err() || pooler.try_connect(APP, &database).is_err()));
        client.run("INSERT INTO work VALUES (2)");
        client.run("COMMIT");
        drop(client);
        let status = pooler.wait_exit(SOON).expect("it ends when the last client is gone");
        assert!(status.success(), "{status}");
        assert_eq!(Postgres::shared().connect(APP, &database).value("SELECT count(*) FROM work"), "2");
        assert!(eventually(SOON, || Postgres::shared().backends(&database) == 0), "no backend is left");
    }
}

#[test]
fn a_second_signal_stops_at_once() {
    let (mut pooler, database) = start("");
    let mut client = pooler.connect(APP, &database);
    client.run("BEGIN");
    pooler.signal(Signal::TERM);
    assert!(pooler.wait_exit(Duration::from_millis(700)).is_none(), "it waits for the transaction");
    let start = Instant::now();
    pooler.signal(Signal::TERM);
    assert!(pooler.wait_exit(SOON).is_some());
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    assert!(client.until_closed(SOON).is_some());
}

#[test]
fn transaction_mode_holds_a_server_for_a_transaction() {
    let (pooler, database) = start("pool_mode = \"transaction\"\ndefault_pool_size = 1");
    let mut first = pooler.connect(APP, &database);
    let mut second = pooler.connect(APP, &database);
    first.run("SELECT 1");
    assert_eq!(second.value("SELECT 1"), "1", "between transactions the server is free");
    first.run("BEGIN");
    second.send(&m::query("SELECT 1")).unwrap();
    assert!(second.silent_for(Duration::from_millis(300)));
    first.run("COMMIT");
    second.until_ready();
}

#[test]
fn session_mode_holds_a_server_for_the_session_and_cleans_it() {
    let (pooler, database) = start("pool_mode = \"session\"\ndefault_pool_size = 1");
    let mut first = pooler.connect(APP, &database);
    first.run("SET search_path TO pg_catalog; CREATE TEMP TABLE t (id int); SELECT pg_advisory_lock(7)");
    let pid = first.value("SELECT pg_backend_pid()");
    let addr = pooler.addr();
    let name = database.clone();
    let second = std::thread::spawn(move || {
        let mut raw = Raw::connect(addr, APP.user, APP.password, &name).expect("a login");
        (
            raw.value("SELECT pg_backend_pid()"),
            raw.value("SHOW search_path"),
            raw.value("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"),
        )
    });
    std::thread::sleep(Duration::from_millis(300));
    assert!(!second.is_finished(), "the session keeps the server");
    assert_eq!(first.value("SELECT count(*) FROM t"), "0");
    drop(first);
    let (next, path, locks) = second.join().expect("the second client gets on");
    assert_eq!((next, path.as_str(), locks.as_str()), (pid, "\"$user\", public", "0"), "the same server, clean");
}

#[test]
fn statement_mode_refuses_transactions_of_several_statements() {
    let (pooler, database) = start("pool_mode = \"statement\"\ndefault_pool_size = 1");
    let mut client = pooler.connect(APP, &database);
    assert_eq!(client.value("SELECT 1"), "1");
    client.send(&m::query("BEGIN")).unwrap();
    let told = match client.recv() {
        Ok(reply) => reply.tag == b'E',
        Err(_) => true,
    };
    assert!(told, "BEGIN is refused");
    assert_eq!(pooler.connect(APP, &database).value("SELECT 1"), "1");
}

#[test]
fn every_client_authentication_with_every_server_authentication() {
    for auth_type in ["trust", "md5", "scram-sha-256"] {
        let (pooler, database) = start(&format!("auth_type = \"{auth_type}\""));
        for login in [APP_TRUST, APP_PLAIN, APP_MD5, APP] {
            let mut raw = pooler.connect(login, &database);
            assert_eq!(raw.value("SELECT current_user"), login.user, "{auth_type}");
            let wrong = Raw::connect(pooler.addr(), login.user, "wrong", &database);
            match auth_type {
                "trust" => assert!(wrong.is_ok(), "nobody is asked for a password"),
                _ => assert_eq!(wrong.map(drop).expect_err("wrong").sqlstate(), "28P01", "{auth_type} {}", login.user),
            }
        }
        if auth_type != "trust" {
            let unknown = Raw::connect(pooler.addr(), "no_such_user", "x", &database);
            assert_eq!(unknown.map(drop).expect_err("unknown").sqlstate(), "28P01", "{auth_type}");
        }
    }
}

#[test]
fn secrets_in_the_configuration_may_be_hashed() {
    let postgres = Postgres::shared();
    let database = postgres.database();
    let mut admin = postgres.admin("postgres");
    let stored = |admin: &mut Raw, user: &str| {
        admin.value(&format!("SELECT rolpassword FROM pg_authid WHERE rolname = '{user}'"))
    };
    let (scram, md5) = (stored(&mut admin, "app"), stored(&mut admin, "app_md5"));
    assert!(scram.starts_with("SCRAM-SHA-256$") && md5.starts_with("md5"));
    // The server login needs a secret that works there: md5's hash does, a SCRAM verifier alone does not, so
    // that database has a forced user.
    let text = format!(
        "listen_addr = \"127.0.0.1\"\nlisten_port = {{port}}\nauth_type = \"md5\"\nadmin_users = [\"app\"]\n\
         [databases.{database}]\nhost = \"127.0.0.1\"\nport = {0}\n[databases.forced]\nhost = \"127.0.0.1\"\nport = {0}\ndbname = \"{database}\"\n\
         user = \"app_plain\"\npassword = \"{1}\"\n[users.app]\npassword = \"{scram}\"\n[users.app_md5]\npassword = \"{md5}\"\n",
        postgres.port(),
        APP_PLAIN.password
    );
    let pooler = Pooler::file("pgsluice.toml", &text, APP);
    assert_eq!(pooler.connect(APP_MD5, &database).value("SELECT current_user"), "app_md5");
    assert_eq!(pooler.connect(APP, "forced").value("SELECT current_user"), "app_plain");
}

#[test]
fn max_client_conn_refuses_one_too_many() {
    let (pooler, database) = start("max_client_conn = 5");
    let clients: Vec<_> = (0..5).map(|_| pooler.connect(APP, &database)).collect();
    let refusal = pooler.try_connect(APP, &database).map(drop).expect_err("one too many");
    assert_eq!(refusal.sqlstate(), "53300");
    assert!(!pooler.show("SHOW POOLS").is_empty(), "the console is still reachable");
    drop(clients);
    assert!(eventually(SOON, || pooler.try_connect(APP, &database).is_ok()));
}

#[test]
fn timeouts_do_what_they_say() {
    let (pooler, database) = start("query_wait_timeout = 1\nidle_transaction_timeout = 2\ndefault_pool_size = 1");
    let mut holder = pooler.connect(APP, &database);
    let mut waiting = pooler.connect(APP, &database);
    holder.run("BEGIN");
    let start = Instant::now();
    waiting.send(&m::query("SELECT 1")).unwrap();
    let reply = waiting.recv().expect("an answer");
    assert_eq!(reply.tag, b'E', "{reply:?}");
    assert!((800..1900).contains(&start.elapsed().as_millis()), "query_wait_timeout after {:?}", start.elapsed());
    assert!(holder.until_closed(SOON).is_some(), "idle_transaction_timeout ends the holder");
    assert_eq!(pooler.connect(APP, &database).value("SELECT 1"), "1");
}
