//! A fleet: eight instances, and a ninth, share one PostgreSQL with room for forty. Their clients are never told that it is
//! full, somebody can log in directly at all times, and tokens go to where the load is. How long that takes is printed, and
//! bounded only loosely: the machine is slow at times.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::Scope;
use std::time::{Duration, Instant};

use pgsluice_tests::pooler::table;
use pgsluice_tests::{APP, Pooler, Postgres, Raw, eventually, program};
use rustix::process::Signal;

const SOON: Duration = Duration::from_secs(40);
const MEMBERS: usize = 8;
/// Of a PostgreSQL's 40 slots: less three for superusers, and three of headroom.
const ROOM: i64 = 34;

fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    program::allow_many_files();
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn member(postgres: &Postgres, database: &str, fleet: &str) -> Pooler {
    let text = format!(
        "listen_addr = \"127.0.0.1\"\nlisten_port = {{port}}\nmax_client_conn = 1000\nadmin_users = [\"app\"]\n\
         budget_interval = 1\nlog_connections = false\nlog_disconnections = false\ndefault_pool_size = 40\n\
         query_wait_timeout = 120\nfleet = \"{fleet}\"\n\
         [databases.{database}]\nhost = \"127.0.0.1\"\nport = {}\n[users.{}]\npassword = \"{}\"\n",
        postgres.port(),
        APP.user,
        APP.password
    );
    Pooler::file("pgsluice.toml", &text, APP)
}

/// What an instance says of itself in SHOW FLEET.
fn own(pooler: &Pooler, column: &str) -> i64 {
    let rows = pooler.show("SHOW FLEET");
    let row = rows.iter().find(|row| row["self"] == "1");
    row.map_or(0, |row| row[column].parse().expect("a number"))
}

fn tokens(poolers: &[Pooler]) -> Vec<i64> {
    poolers.iter().map(|pooler| own(pooler, "tokens")).collect()
}

/// How many clients each instance is to have, for as long as the test lasts.
struct Load<'a> {
    database: &'a str,
    stop: AtomicBool,
    /// What clients were told that they must never be.
    refused: Mutex<Vec<String>>,
}

impl Load<'_> {
    /// Clients of one instance, as many of them busy as `busy` says. They come again when they lose their connection.
    fn clients<'s>(&'s self, scope: &'s Scope<'s, '_>, addr: SocketAddr, count: usize, busy: &'s AtomicUsize) {
        for number in 0..count {
            scope.spawn(move || {
                let mut raw = None;
                while !self.stop.load(Ordering::Relaxed) {
                    if number >= busy.load(Ordering::Relaxed) {
                        std::thread::sleep(Duration::from_millis(20));
                        continue;
                    }
                    let Some(client) = &mut raw else {
                        raw = Raw::connect(addr, APP.user, APP.password, self.database).ok();
                        std::thread::sleep(Duration::from_millis(20));
                        continue;
                    };
                    match client.try_rows("SELECT pg_sleep(0.02)") {
                        Some(Ok(_)) => {}
                        Some(Err(error)) => {
                            if error.sqlstate().starts_with("53") {
                                self.refused.lock().expect("nobody panics with it").push(error.field(b'M'));
                            }
                        }
                        None => raw = None,
                    }
                }
            });
        }
    }

    /// Somebody who logs in directly, again and again, as an ordinary role. `down`: PostgreSQL is not there.
    fn visitor<'s>(&'s self, scope: &'s Scope<'s, '_>, addr: SocketAddr, down: &'s AtomicBool) {
        scope.spawn(move || {
            while !self.stop.load(Ordering::Relaxed) {
                let before = down.load(Ordering::Relaxed);
                let result = Raw::connect(addr, APP.user, APP.password, self.database);
                if let Err(error) = result
                    && !before
                    && !down.load(Ordering::Relaxed)
                {
                    self.refused.lock().expect("nobody panics with it").push(format!("directly: {error:?}"));
                }
                std::thread::sleep(Duration::from_millis(100));
            }
        });
    }

    fn assert_nobody_was_refused(&self) {
        assert_eq!(*self.refused.lock().expect("nobody panics with it"), [] as [String; 0]);
    }
}

struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn assert_never_refused(log: &str) {
    let said = ["too many", "connection slots are reserved"];
    assert_eq!(log.lines().find(|line| said.iter().any(|text| line.contains(text))), None, "in PostgreSQL's log");
}

/// Waits until it is so, says how long it took, and what is there if it does not come.
fn reaches(what: &str, poolers: &[Pooler], holds: impl Fn(&[i64]) -> bool) {
    let start = Instant::now();
    let found = eventually(SOON, || holds(&tokens(poolers)));
    eprintln!("{what}: {:.1} s, tokens {:?}", start.elapsed().as_secs_f64(), tokens(poolers));
    assert!(found, "{what}: {:?}\n{}", poolers[0].show("SHOW FLEET"), poolers[0].log());
}

fn is_even(tokens: &[i64]) -> bool {
    let (least, most) = (tokens.iter().min().copied().unwrap_or(0), tokens.iter().max().copied().unwrap_or(0));
    // All but what visitors and those who leave keep others from for a moment.
    most - least <= 1 && least >= 2
}

#[test]
fn eight_instances_share_forty_slots_whatever_happens() {
    let _turn = alone();
    let mut postgres = Postgres::start(&[("max_connections", "40")]);
    let database = postgres.database();
    let mut poolers: Vec<_> = (0..MEMBERS).map(|_| member(&postgres, &database, "eight")).collect();
    // One after another: five at once would need more than the headroom for their control connections, if others had all else.
    for (i, pooler) in poolers.iter().enumerate() {
        pooler.connect(APP, &database).run("SELECT 1");
        assert!(eventually(SOON, || pooler.show("SHOW FLEET").len() == i + 1), "{:?}", pooler.show("SHOW FLEET"));
    }
    let load = Load { database: &database, stop: AtomicBool::new(false), refused: Mutex::default() };
    let busy: Vec<_> = (0..=MEMBERS).map(|_| AtomicUsize::new(0)).collect();
    let set = |counts: &[(usize, usize)]| counts.iter().for_each(|&(i, n)| busy[i].store(n, Ordering::Relaxed));
    let down = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _end = StopOnDrop(&load.stop);
        for (pooler, busy) in poolers.iter().zip(&busy) {
            load.clients(scope, pooler.addr(), 30, busy);
        }
        load.visitor(scope, postgres.addr(), &down);

        // Load that moves from instance to instance.
        let most = ROOM - MEMBERS as i64;
        for i in [0, 3, 7] {
            set(&[(i, 30)]);
            reaches("a burst at one instance", &poolers[i..=i], |tokens| tokens[0] >= most - 2);
            set(&[(i, 0)]);
        }
        set(&(0..MEMBERS).map(|i| (i, 30)).collect::<Vec<_>>());
        reaches("all eight are busy", &poolers, is_even);
        load.assert_nobody_was_refused();

        // Two are killed with queries that go on.
        let long: Vec<_> = (0..4).map(|i| poolers[i % 2].connect(APP, &database)).collect();
        for mut client in long {
            scope.spawn(move || client.try_rows("SELECT pg_sleep(8), 'long'"));
        }
        let mut admin = postgres.admin("postgres");
        let runs =
            "SELECT count(*) AS n FROM pg_stat_activity WHERE query LIKE '%''long''%' AND pid <> pg_backend_pid()";
        assert!(eventually(SOON, || table(&mut admin, runs)[0]["n"] == "4"), "long queries run");
        for killed in poolers.drain(..2) {
            killed.signal(Signal::KILL);
        }
        set(&[(0, 0), (1, 0)]);
        let left = table(&mut admin, runs)[0]["n"].clone();
        eprintln!("{left} queries of the killed go on");
        drop(admin);
        reaches("six are left", &poolers, |tokens| {
            is_even(tokens) && tokens.iter().sum::<i64>() >= ROOM - MEMBERS as i64 - 3
        });
        load.assert_nobody_was_refused();
        assert_never_refused(&postgres.log());

        // PostgreSQL is started again.
        down.store(true, Ordering::Relaxed);
        postgres.stop(true);
        postgres.launch();
        down.store(false, Ordering::Relaxed);
        reaches("after a restart of PostgreSQL", &poolers, is_even);

        // A ninth joins.
        poolers.push(member(&postgres, &database, "eight"));
        load.clients(scope, poolers.last().expect("the ninth").addr(), 30, &busy[MEMBERS]);
        set(&[(MEMBERS, 30)]);
        reaches("one more joins", &poolers, is_even);
        load.assert_nobody_was_refused();
    });
    load.assert_nobody_was_refused();
    assert_never_refused(&postgres.log());
}

/// Three instances on `max_connections` 30, each with 20 busy clients.
fn three_busy<'s>(
    scope: &'s Scope<'s, '_>,
    (postgres, database, fleet): (&Postgres, &str, &str),
    load: &'s Load<'_>,
    busy: &'s AtomicUsize,
) -> Vec<Pooler> {
    let poolers: Vec<_> = (0..3).map(|_| member(postgres, database, fleet)).collect();
    for pooler in &poolers {
        load.clients(scope, pooler.addr(), 20, busy);
    }
    reaches("three are busy", &poolers, |tokens| tokens.iter().all(|&n| n >= 5));
    poolers
}

#[test]
fn a_member_that_cannot_come_back_opens_no_more_than_it_had() {
    let _turn = alone();
    let postgres = Postgres::start(&[("max_connections", "30")]);
    let database = postgres.database();
    let load = Load { database: &database, stop: AtomicBool::new(false), refused: Mutex::default() };
    let busy = AtomicUsize::new(20);
    let down = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _end = StopOnDrop(&load.stop);
        let poolers = three_busy(scope, (&postgres, &database, "away"), &load, &busy);
        load.visitor(scope, postgres.addr(), &down);
        let mut admin = postgres.admin("postgres");
        admin.run("REVOKE CONNECT ON DATABASE postgres FROM PUBLIC");
        let control = "application_name LIKE 'pgsluice control%'";
        admin.run(&format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {control}"));
        let refused = |pooler: &Pooler| pooler.log().contains("permission denied for database");
        assert!(eventually(SOON, || poolers.iter().all(refused)), "{}", poolers[0].log());
        // Long enough for whoever wanted to open more.
        std::thread::sleep(Duration::from_secs(2));
        load.assert_nobody_was_refused();
        admin.run("GRANT CONNECT ON DATABASE postgres TO PUBLIC");
        reaches("all are back", &poolers, |tokens| tokens.iter().all(|&n| n >= 5));
    });
    load.assert_nobody_was_refused();
    assert_never_refused(&postgres.log());
}

#[test]
fn errands_that_fail_leave_no_lock_behind() {
    let _turn = alone();
    let postgres = Postgres::start(&[("max_connections", "30")]);
    let database = postgres.database();
    let load = Load { database: &database, stop: AtomicBool::new(false), refused: Mutex::default() };
    let busy = AtomicUsize::new(20);
    std::thread::scope(|scope| {
        let _end = StopOnDrop(&load.stop);
        let poolers = three_busy(scope, (&postgres, &database, "failing"), &load, &busy);
        let mut admin = postgres.admin("postgres");
        let lost = |pooler: &Pooler| pooler.log().contains("PostgreSQL refuses the fleet's locks");
        let failed = eventually(SOON, || {
            admin.run(
                "SELECT pg_cancel_backend(pid) FROM pg_stat_activity \
                 WHERE application_name LIKE 'pgsluice control%' AND state = 'active'",
            );
            poolers.iter().any(lost)
        });
        assert!(failed, "an errand was cancelled");
        busy.store(0, Ordering::Relaxed);
        let locks = "SELECT count(*) AS n FROM pg_locks WHERE locktype = 'advisory' AND (objid::int8 >> 30) = 1 \
                     AND (objid::int8 & 1073741823) > 0";
        let gone = eventually(SOON, || table(&mut admin, locks)[0]["n"] == "0");
        assert!(gone, "nobody wants anything any more: {:?}", poolers[0].show("SHOW FLEET"));
    });
}
