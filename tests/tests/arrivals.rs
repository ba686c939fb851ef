//! Clients that arrive: at which worker, under which configuration, and what becomes of those who are in no hurry.

use std::fs;
use std::time::Duration;

use pgsluice_tests::certificates::Authority;
use pgsluice_tests::wire::message as m;
use pgsluice_tests::{APP, APP_MD5, Login, LoginError, Pooler, Postgres, Raw, eventually};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

/// A configuration for APP by SCRAM and APP_MD5 by MD5, with more settings; `users`: those that are listed.
fn text(postgres: &Postgres, settings: &str, users: &[Login]) -> String {
    let listed: String = users.iter().map(|l| format!("[users.{}]\npassword = \"{}\"\n", l.user, l.password)).collect();
    format!(
        "listen_port = {{port}}\nadmin_users = [\"{}\"]\n{settings}\n[databases.\"*\"]\nhost = \"127.0.0.1\"\nport = {}\n{listed}",
        APP.user,
        postgres.port(),
    )
}

fn pooler(postgres: &Postgres, settings: &str) -> Pooler {
    Pooler::file("pgsluice.toml", &text(postgres, settings, &[APP, APP_MD5]), APP)
}

/// CPU time of each worker's thread so far, in nanoseconds.
fn work_of_workers(pooler: &Pooler) -> Vec<u64> {
    let tasks = fs::read_dir(format!("/proc/{}/task", pooler.pid())).expect("it runs");
    let tasks = tasks.map(|task| task.expect("an entry").path());
    let workers =
        tasks.filter(|task| fs::read_to_string(task.join("comm")).is_ok_and(|name| name.starts_with("worker-")));
    let time = |task: std::path::PathBuf| {
        let line = fs::read_to_string(task.join("schedstat")).expect("the kernel counts");
        line.split(' ').next().and_then(|ns| ns.parse().ok()).expect("a number")
    };
    workers.map(time).collect()
}

fn logins(pooler: &Pooler) -> i64 {
    let lists = pooler.show("SHOW LISTS");
    let row = lists.iter().find(|row| row["list"] == "login_clients").expect("a row");
    row["items"].parse().expect("a number")
}

fn error_of(raw: &mut Raw) -> String {
    let reply = raw.recv().expect("a last word");
    assert_eq!(reply.tag, b'E', "{reply:?}");
    reply.sqlstate()
}

#[test]
fn clients_are_spread_over_the_workers() {
    let postgres = Postgres::shared();
    let database = postgres.database();
    let pooler = pooler(postgres, "workers = 3\ndefault_pool_size = 6");
    // One after the other: the kernel would tell the same worker of each.
    let mut clients: Vec<_> = (0..12).map(|_| pooler.connect(APP, &database)).collect();
    let before = work_of_workers(&pooler);
    assert_eq!(before.len(), 3);
    for _ in 0..100 {
        clients.iter_mut().for_each(|client| assert_eq!(client.value("SELECT 1"), "1"));
    }
    let worked: Vec<_> = work_of_workers(&pooler).iter().zip(before).map(|(after, before)| after - before).collect();
    let all: u64 = worked.iter().sum();
    assert!(worked.iter().all(|&one| one > all / 12), "each has a third of the clients: {worked:?}");
}

#[test]
fn a_client_is_judged_by_the_configuration_of_its_last_word() {
    let postgres = Postgres::shared();
    let database = postgres.database();
    let pooler = pooler(postgres, "");
    // The pool is there, and its next client is let in by a worker.
    drop(pooler.connect(APP_MD5, &database));
    let startup = m::startup(&[("user", APP_MD5.user), ("database", &database)]);
    let mut silent = Raw::open(pooler.addr()).expect("it listens");
    pooler.rewrite(&text(postgres, "", &[APP]));
    pooler.console().run("RELOAD");
    silent.send(&startup).expect("room");
    let refused = silent.authenticate(APP_MD5.user, APP_MD5.password);
    assert!(matches!(&refused, Err(LoginError::Refused(reply)) if reply.sqlstate() == "28P01"), "{refused:?}");
    assert!(pooler.try_connect(APP_MD5, &database).is_err());
}

#[test]
fn who_says_nothing_is_told_and_counted_no_more() {
    let postgres = Postgres::shared();
    let database = postgres.database();
    let pooler = pooler(postgres, "client_login_timeout = 1");
    drop(pooler.connect(APP, &database));
    let mut silent: Vec<_> = (0..5).map(|_| Raw::open(pooler.addr()).expect("it listens")).collect();
    // Half a message, and a password that does not come.
    silent[1].send(&m::startup(&[("user", APP.user), ("database", &database)])[..9]).expect("room");
    silent[2].send(&m::startup(&[("user", APP.user), ("database", &database)])).expect("room");
    assert_eq!(silent[2].recv().expect("it is asked").tag, b'R');
    assert!(eventually(Duration::from_secs(5), || logins(&pooler) == 5), "{}", logins(&pooler));
    for client in &mut silent {
        assert_eq!(error_of(client), "08P01");
    }
    assert!(eventually(Duration::from_secs(5), || logins(&pooler) == 0), "{}", logins(&pooler));
    // Those who hang up are not counted either.
    let gone: Vec<_> = (0..5).map(|_| Raw::open(pooler.addr()).expect("it listens")).collect();
    drop(gone);
    assert!(eventually(Duration::from_millis(900), || logins(&pooler) == 0), "{}", logins(&pooler));
    assert_eq!(pooler.connect(APP, &database).value("SELECT 1"), "1");
}

#[test]
fn without_a_descriptor_clients_wait_until_there_is_one() {
    let postgres = Postgres::shared();
    let database = postgres.database();
    let pooler = pooler(postgres, "workers = 2");
    let mut first = pooler.connect(APP, &database);
    let pid = Pid::from_raw(i32::try_from(pooler.pid()).expect("a process id"));
    // What is open stays so. The pooler has our limits; only the one that may be raised again is lowered.
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let usual = prlimit(pid, Resource::Nofile, Rlimit { current: Some(1), maximum }).expect("it is ours");
    let mut waiting = Raw::open(pooler.addr()).expect("it listens");
    waiting.send(&m::startup(&[("user", APP.user), ("database", &database)])).expect("room");
    assert!(pooler.logs("cannot accept a client"));
    assert_eq!(first.value("SELECT 1"), "1", "others go on");
    // A pause between attempts, and not a thread that does nothing else.
    let before: u64 = work_of_workers(&pooler).iter().sum();
    std::thread::sleep(Duration::from_secs(1));
    let worked = work_of_workers(&pooler).iter().sum::<u64>() - before;
    assert!(worked < 300_000_000, "{worked} ns of a second");
    prlimit(pid, Resource::Nofile, usual).expect("as before");
    waiting.authenticate(APP.user, APP.password).expect("it is let in");
    assert_eq!(waiting.value("SELECT 1"), "1");
}

#[test]
fn tls_that_is_demanded_from_now_on_is_demanded_of_who_is_at_the_door() {
    let postgres = Postgres::shared();
    let database = postgres.database();
    let authority = Authority::new();
    let certificate = authority.sign("server", "pgsluice", &["127.0.0.1"]);
    let tls = |mode: &str| certificate.for_clients(mode, &authority.certificate());
    let pooler = pooler(postgres, &tls("allow"));
    // The pool is there, and its next client is let in by a worker.
    drop(pooler.connect(APP, &database));
    let mut silent = Raw::open(pooler.addr()).expect("it listens");
    let mut console = pooler.console();
    pooler.rewrite(&text(postgres, &tls("require"), &[APP, APP_MD5]));
    console.run("RELOAD");
    silent.send(&m::startup(&[("user", APP.user), ("database", &database)])).expect("room");
    assert_eq!(error_of(&mut silent), "28000");
}

/// Guesses that are all ready before the first is sent are looked at one by one all the same.
#[test]
fn guessing_at_one_moment_is_no_faster() {
    let postgres = Postgres::shared();
    let database = postgres.database();
    let pooler = pooler(postgres, "workers = 2\nauth_type = \"md5\"\nauth_failure_delay = 4");
    drop(pooler.connect(APP, &database));
    let startup = m::startup(&[("user", APP.user), ("database", &database)]);
    let mut guessing: Vec<_> = (0..150).map(|_| Raw::open(pooler.addr()).expect("it listens")).collect();
    for client in &mut guessing {
        client.send(&startup).expect("room");
        assert_eq!(client.recv().expect("it is asked").tag, b'R');
    }
    let wrong = m::password(b"md500000000000000000000000000000000");
    guessing.iter_mut().for_each(|client| client.send(&wrong).expect("room"));
    let answers: Vec<_> = guessing.iter_mut().map(error_of).collect();
    let tried = answers.iter().filter(|code| *code == "28P01").count();
    assert!((1..=32).contains(&tried), "{tried} guesses were looked at: {answers:?}");
    assert!(answers.iter().all(|code| code == "28P01" || code == "28000"), "{answers:?}");
    assert!(eventually(Duration::from_secs(5), || logins(&pooler) == 0));
    assert_eq!(pooler.connect(APP, &database).value("SELECT 1"), "1", "and then it is over");
}
