//! More clients than PostgreSQL has backends: the reason the pooler exists. Every test here has a PostgreSQL of
//! its own with twenty slots, and they run one after another, as they load the machine.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::Scope;
use std::time::{Duration, Instant};

use pgsluice_tests::postgres::Watch;
use pgsluice_tests::program::{self, pgbench, run};
use pgsluice_tests::{APP, APP_MD5, Login, Pooler, Postgres, SUPERUSER, long_run};

const SLOTS: usize = 20;

/// One at a time: they would measure each other.
fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    program::allow_many_files();
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A PostgreSQL with twenty slots and a database in it.
fn small_postgres() -> (Postgres, String) {
    let postgres = Postgres::start(&[("max_connections", "20")]);
    let database = postgres.database();
    (postgres, database)
}

/// Watches the number of client backends while `work` runs; returns the largest seen, the watcher left out.
fn most_backends<T>(postgres: &Postgres, work: impl FnOnce() -> T) -> (usize, T) {
    let (stop, most) = (AtomicBool::new(false), AtomicUsize::new(0));
    let mut watch = Watch::over(postgres);
    let result = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                most.fetch_max(watch.count(""), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        // Also set when `work` panics, or the scope would wait for the watcher for ever.
        let _end = SetOnDrop(&stop);
        work()
    });
    (most.into_inner(), result)
}

struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A client that runs transactions until `end`; returns how many.
fn busy<'s>(
    scope: &'s Scope<'s, '_>,
    pooler: &'s Pooler,
    login: Login,
    database: &'s str,
    end: Instant,
) -> std::thread::ScopedJoinHandle<'s, u64> {
    scope.spawn(move || {
        let mut raw = pooler.connect(login, database);
        let mut done = 0;
        while Instant::now() < end {
            raw.run("BEGIN");
            raw.run("SELECT pg_sleep(0.005)");
            raw.run("COMMIT");
            done += 1;
        }
        done
    })
}

#[test]
fn two_hundred_clients_on_twenty_slots_and_room_for_a_person() {
    let _turn = alone();
    let (postgres, database) = small_postgres();
    // A pool far larger than PostgreSQL has slots: the budget, not the operator, must keep it in bounds.
    let pooler = Pooler::url(&postgres, APP, &database, &["--pool-size", "50"]);
    let end = Instant::now() + Duration::from_secs(if long_run() { 60 } else { 6 });
    let (most, done) = most_backends(&postgres, || {
        std::thread::scope(|scope| {
            let clients: Vec<_> = (0..200).map(|_| busy(scope, &pooler, APP, &database, end)).collect();
            let mut logins = 0;
            while Instant::now() < end {
                assert_eq!(
                    postgres.connect(APP, &database).value("SELECT 1"),
                    "1",
                    "an ordinary role logs in directly"
                );
                assert_eq!(postgres.connect(SUPERUSER, &database).value("SELECT 1"), "1");
                logins += 1;
                std::thread::sleep(Duration::from_millis(100));
            }
            assert!(logins > 10, "{logins} direct logins");
            clients.into_iter().map(|client| client.join().expect("a client failed")).collect::<Vec<_>>()
        })
    });
    assert!(done.iter().all(|&n| n > 0), "everybody got a turn: {done:?}");
    assert!(most < SLOTS, "{most} backends seen");
    assert!(most > 8, "{most} backends seen: the slots are there to be used");
    assert_never_refused(&postgres);
}

/// PostgreSQL never had to say that it is full.
fn assert_never_refused(postgres: &Postgres) {
    let log = postgres.log();
    let refusal =
        log.lines().find(|line| line.contains("too many clients") || line.contains("connection slots are reserved"));
    assert_eq!(refusal, None, "in PostgreSQL's log");
}

#[test]
fn a_thousand_pgbench_clients() {
    let _turn = alone();
    let (postgres, database) = small_postgres();
    run(pgbench(postgres.port(), APP, &database, &["-i", "-q", "-s", "1"]), Duration::from_secs(60))
        .expect_ok("pgbench -i");
    let pooler = Pooler::url(&postgres, APP, &database, &["--pool-size", "20"]);
    let seconds = if long_run() { "60" } else { "5" };
    for mode in ["simple", "extended", "prepared"] {
        let arguments = ["-n", "-S", "-c", "1000", "-j", "4", "-M", mode, "-T", seconds];
        let command = pgbench(pooler.port(), APP, &database, &arguments);
        let (most, outcome) = most_backends(&postgres, || run(command, Duration::from_secs(180)));
        let outcome = outcome.expect_ok("pgbench");
        assert!(outcome.out.contains("number of failed transactions: 0 "), "{mode}: {}", outcome.out);
        assert!(!outcome.err.contains("ERROR") && !outcome.err.contains("FATAL"), "{mode}: {}", outcome.err);
        assert!(most < SLOTS, "{mode}: {most} backends seen");
    }
    assert_never_refused(&postgres);
}

#[test]
fn pools_in_contention_share_the_budget() {
    let _turn = alone();
    let (postgres, first) = small_postgres();
    let databases = [first, postgres.database(), postgres.database()];
    let tables: String = databases.iter().map(|name| database_table(&postgres, name)).collect();
    let users: String =
        [APP, APP_MD5].iter().map(|l| format!("[users.{}]\npassword = \"{}\"\n", l.user, l.password)).collect();
    let top = "listen_addr = \"127.0.0.1\"\nlisten_port = {port}\ndefault_pool_size = 20\nmax_client_conn = 1000\nadmin_users = [\"app\"]\n";
    let pooler = Pooler::file("pgsluice.toml", &format!("{top}{tables}{users}"), APP);
    let end = Instant::now() + Duration::from_secs(if long_run() { 60 } else { 6 });
    let (most, done) = most_backends(&postgres, || {
        std::thread::scope(|scope| {
            // The first pool comes early and takes all it can; the others must get their part nevertheless.
            let early: Vec<_> = (0..40).map(|_| busy(scope, &pooler, APP, &databases[0], end)).collect();
            std::thread::sleep(Duration::from_millis(500));
            let pools = databases.iter().flat_map(|name| [(APP, name), (APP_MD5, name)]).skip(1);
            let late: Vec<Vec<_>> =
                pools.map(|(login, name)| (0..20).map(|_| busy(scope, &pooler, login, name, end)).collect()).collect();
            let sum = |clients: Vec<std::thread::ScopedJoinHandle<'_, u64>>| {
                clients.into_iter().map(|c| c.join().expect("a client failed")).sum::<u64>()
            };
            std::iter::once(early).chain(late).map(sum).collect::<Vec<_>>()
        })
    });
    assert!(most < SLOTS, "{most} backends seen");
    assert_never_refused(&postgres);
    let total: u64 = done.iter().sum();
    assert!(done.iter().all(|&pool| pool > total / 30), "no pool of six starves: {done:?}");
}

fn database_table(postgres: &Postgres, name: &str) -> String {
    format!("[databases.{name}]\nhost = \"127.0.0.1\"\nport = {}\ndbname = \"{name}\"\n", postgres.port())
}
