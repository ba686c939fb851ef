//! The budget of one PostgreSQL with one instance in front of it: who gets how much when all want more than there is, what
//! limits of roles and databases do, and what becomes of clients for whom there is no room. Every test has a PostgreSQL of
//! its own, and they run one after another, as they load the machine. Shares are compared with each other, never with a
//! clock.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::Scope;
use std::time::{Duration, Instant};

use pgsluice_tests::pooler::table;
use pgsluice_tests::wire::message as m;
use pgsluice_tests::{APP, APP_MD5, APP_PLAIN, Login, Pooler, Postgres, Raw, eventually, long_run, program};

const SOON: Duration = Duration::from_secs(20);
const USERS: [Login; 3] = [APP, APP_MD5, APP_PLAIN];

/// One at a time: they would measure each other.
fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    program::allow_many_files();
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A pooler for these databases. `settings` stand at the top of its file; `{name}` in `of_users` is a user's.
fn pooler(
    postgres: &Postgres,
    databases: &[String],
    settings: &str,
    of_databases: &[&str],
    of_users: &[&str],
) -> Pooler {
    Pooler::file("pgsluice.toml", &config(postgres, databases, settings, of_databases, of_users), APP)
}

fn config(
    postgres: &Postgres,
    databases: &[String],
    settings: &str,
    of_databases: &[&str],
    of_users: &[&str],
) -> String {
    let mut text = format!(
        "listen_addr = \"127.0.0.1\"\nlisten_port = {{port}}\nmax_client_conn = 1000\nadmin_users = [\"app\"]\n\
         budget_interval = 1\nlog_connections = false\nlog_disconnections = false\n{settings}\n"
    );
    for (i, name) in databases.iter().enumerate() {
        let more = of_databases.get(i).unwrap_or(&"");
        text += &format!("[databases.{name}]\nhost = \"127.0.0.1\"\nport = {}\n{more}\n", postgres.port());
    }
    for (i, login) in USERS.iter().enumerate() {
        let more = of_users.get(i).unwrap_or(&"");
        text += &format!("[users.{}]\npassword = \"{}\"\n{more}\n", login.user, login.password);
    }
    text
}

struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What a transaction takes most often.
const BRIEF: &str = "SELECT pg_sleep(0.01)";
/// So long that servers are busy also where the machine is.
const LONG: &str = "SELECT pg_sleep(0.2)";

/// Clients that run transactions until `stop`; an error of any kind is a panic.
fn crowd<'s>(
    scope: &'s Scope<'s, '_>,
    pooler: &'s Pooler,
    (login, database): (Login, &'s str),
    (clients, sql): (usize, &'static str),
    (stop, done): (&'s AtomicBool, &'s AtomicU64),
) {
    for _ in 0..clients {
        scope.spawn(move || {
            let mut raw = pooler.connect(login, database);
            while !stop.load(Ordering::Relaxed) {
                raw.run("BEGIN");
                raw.run(sql);
                raw.run("COMMIT");
                done.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
}

/// Backends of each (database, user), the control connection left out, added up over many looks: backend-seconds, but for the
/// unit.
fn backend_time(postgres: &Postgres, length: Duration) -> BTreeMap<(String, String), f64> {
    let (mut admin, mut sums, end) = (postgres.admin("postgres"), BTreeMap::new(), Instant::now() + length);
    while Instant::now() < end {
        let rows = table(
            &mut admin,
            "SELECT datname, usename, count(*) FROM pg_stat_activity WHERE usename LIKE 'app%' \
             AND application_name <> 'pgsluice control' GROUP BY 1, 2",
        );
        for row in rows {
            let count: f64 = row["count"].parse().expect("a count");
            *sums.entry((row["datname"].clone(), row["usename"].clone())).or_default() += count;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    sums
}

/// Jain's index of fairness: 1 when all have the same.
fn jain(shares: &[f64]) -> f64 {
    let (sum, squares) = shares.iter().fold((0.0, 0.0), |(sum, squares), x| (sum + x, squares + x * x));
    sum * sum / (shares.len() as f64 * squares)
}

/// PostgreSQL never had to say that it, a role or a database is full.
fn assert_never_refused(postgres: &Postgres) {
    let log = postgres.log();
    let said = ["too many", "connection slots are reserved"];
    assert_eq!(log.lines().find(|line| said.iter().any(|text| line.contains(text))), None, "in PostgreSQL's log");
}

fn window() -> Duration {
    Duration::from_secs(if long_run() { 60 } else { 12 })
}

#[test]
fn twelve_pools_share_thirty_slots_fairly_and_none_waits_while_another_is_idle() {
    let _turn = alone();
    let postgres = Postgres::start(&[("max_connections", "30")]);
    let databases: Vec<_> = (0..4).map(|_| postgres.database()).collect();
    let pooler = pooler(&postgres, &databases, "default_pool_size = 30", &[], &[]);
    let clients = [80, 60, 40, 30, 20, 15, 15, 10, 10, 8, 6, 6];
    assert_eq!(clients.iter().sum::<usize>(), 300);
    let (stop, done) = (AtomicBool::new(false), AtomicU64::new(0));
    let pools: Vec<_> = databases.iter().flat_map(|name| USERS.map(|login| (login, name.as_str()))).collect();
    std::thread::scope(|scope| {
        let _end = SetOnDrop(&stop);
        for (&pool, count) in pools.iter().zip(clients) {
            crowd(scope, &pooler, pool, (count, BRIEF), (&stop, &done));
        }
        let all_have_some = || {
            let rows = pooler.show("SHOW POOLS");
            rows.iter().filter(|row| row["user"] != "pgbouncer" && row["sv_active"] != "0").count() == pools.len()
        };
        assert!(eventually(SOON * 3, all_have_some), "every pool has a server: {:?}", pooler.show("SHOW POOLS"));
        let had = backend_time(&postgres, window());
        let shares: Vec<f64> = had.values().copied().collect();
        assert_eq!(shares.len(), pools.len(), "{had:?}");
        assert!(jain(&shares) >= 0.95, "Jain's index is {} of {had:?}", jain(&shares));
        eprintln!("Jain's index of {} pools: {:.4}", shares.len(), jain(&shares));
    });
    // Now one pool waits and the others, which have the servers, are idle.
    stop.store(false, Ordering::Relaxed);
    std::thread::scope(|scope| {
        let _end = SetOnDrop(&stop);
        crowd(scope, &pooler, pools[11], (60, LONG), (&stop, &done));
        let budget = || pooler.show("SHOW BUDGET")[0]["budget"].parse::<i64>().expect("a budget");
        let servers = || pooler.pool_count(pools[11].1, pools[11].0.user, "sv_active");
        // Less one, the control connection, and one that may be on its way.
        assert!(eventually(SOON, || servers() >= budget() - 2), "{} of {} servers", servers(), budget());
    });
    assert_never_refused(&postgres);
}

#[test]
fn weights_and_minimums_are_honoured() {
    let _turn = alone();
    let postgres = Postgres::start(&[("max_connections", "30")]);
    let databases: Vec<_> = (0..2).map(|_| postgres.database()).collect();
    let of_databases = ["pool_weight = 2", "min_pool_size = 7"];
    let of_users = ["", "pool_weight = 3"];
    let pooler = pooler(&postgres, &databases, "default_pool_size = 30", &of_databases, &of_users);
    let (stop, done) = (AtomicBool::new(false), AtomicU64::new(0));
    // By weight 2, 3 and 2; the fourth has weight 1, and a minimum above its share.
    let pools = [(APP, &databases[0]), (APP_MD5, &databases[0]), (APP_PLAIN, &databases[0]), (APP, &databases[1])];
    std::thread::scope(|scope| {
        let _end = SetOnDrop(&stop);
        for (login, name) in pools {
            crowd(scope, &pooler, (login, name.as_str()), (30, LONG), (&stop, &done));
        }
        std::thread::sleep(Duration::from_secs(5));
        let had = backend_time(&postgres, window());
        let of = |(login, name): (Login, &String)| had[&(name.clone(), login.user.to_owned())];
        let by_weight = pools[..3].iter().zip([2.0, 3.0, 2.0]).map(|(&pool, weight)| of(pool) / weight);
        let by_weight: Vec<f64> = by_weight.collect();
        let mean = by_weight.iter().sum::<f64>() / 3.0;
        assert!(by_weight.iter().all(|share| (share / mean - 1.0).abs() < 0.1), "{by_weight:?} of {had:?}");
        eprintln!("had by weight, the mean being 1: {:.3?}", by_weight.iter().map(|s| s / mean).collect::<Vec<_>>());
        let all: f64 = had.values().sum();
        let servers = pooler.show("SHOW BUDGET")[0]["budget"].parse::<f64>().expect("a budget") - 1.0;
        let minimum = of(pools[3]) / all * servers;
        assert!((6.3..7.7).contains(&minimum), "a minimum of 7 is {minimum} of {had:?}");
    });
    assert_never_refused(&postgres);
}

#[test]
fn limits_of_roles_and_databases_hold_and_may_change() {
    let _turn = alone();
    let postgres = Postgres::start(&[]);
    let databases: Vec<_> = (0..2).map(|_| postgres.database()).collect();
    let mut admin = postgres.admin("postgres");
    // The control connection logs in as "app" to the first database.
    admin.run("ALTER ROLE app CONNECTION LIMIT 7");
    admin.run(&format!("ALTER DATABASE {} CONNECTION LIMIT 5", databases[1]));
    let pooler = pooler(&postgres, &databases, "default_pool_size = 20", &[], &[]);
    let (stop, done) = (AtomicBool::new(false), AtomicU64::new(0));
    let count = |by: &str, name: &str| {
        let sql = format!("SELECT count(*) FROM pg_stat_activity WHERE {by} = '{name}'");
        postgres.admin("postgres").value(&sql).parse::<usize>().expect("a count")
    };
    std::thread::scope(|scope| {
        let _end = SetOnDrop(&stop);
        crowd(scope, &pooler, (APP, &databases[0]), (20, LONG), (&stop, &done));
        crowd(scope, &pooler, (APP, &databases[1]), (20, LONG), (&stop, &done));
        crowd(scope, &pooler, (APP_MD5, &databases[1]), (20, LONG), (&stop, &done));
        assert!(eventually(SOON, || count("usename", "app") == 7 && count("datname", &databases[1]) == 5));
        // Its share of the role's six servers: three and a half.
        assert!(eventually(SOON, || pooler.pool_count(&databases[0], "app", "sv_limit") == 4));
        assert_never_refused(&postgres);
        // Both limits shrink: what is over is given up between transactions, and nobody notices. Until they are read again,
        // PostgreSQL may have to refuse a server that is opened in place of another; no client is told.
        admin.run("ALTER ROLE app CONNECTION LIMIT 4");
        admin.run(&format!("ALTER DATABASE {} CONNECTION LIMIT 2", databases[1]));
        let few = || count("usename", "app") <= 4 && count("datname", &databases[1]) <= 2;
        assert!(eventually(SOON, few), "{} and {}", count("usename", "app"), count("datname", &databases[1]));
        let before = done.load(Ordering::Relaxed);
        assert!(eventually(SOON, || done.load(Ordering::Relaxed) > before + 50), "everybody goes on");
        admin.run("ALTER ROLE app CONNECTION LIMIT -1");
        assert!(eventually(SOON, || count("usename", "app") > 8), "a limit that is gone");
    });
}

#[test]
fn after_a_failover_the_new_servers_limits_are_in_force() {
    let _turn = alone();
    let mut postgres = Postgres::start(&[("max_connections", "40")]);
    let databases = [postgres.database()];
    let pooler = pooler(&postgres, &databases, "default_pool_size = 40", &[], &[]);
    let (stop, done) = (AtomicBool::new(false), AtomicU64::new(0));
    let run = |enough: &dyn Fn() -> bool| {
        stop.store(false, Ordering::Relaxed);
        std::thread::scope(|scope| {
            let _end = SetOnDrop(&stop);
            crowd(scope, &pooler, (APP, &databases[0]), (50, LONG), (&stop, &done));
            assert!(eventually(SOON, enough), "{:?}", pooler.show("SHOW BUDGET"));
        });
    };
    run(&|| postgres.backends(&databases[0]) > 20);
    postgres.admin("postgres").run("ALTER SYSTEM SET max_connections = 15");
    postgres.stop(true);
    postgres.launch();
    let shown = || pooler.show("SHOW BUDGET")[0].clone();
    assert!(eventually(SOON, || shown()["max_connections"] == "15"), "{:?}", shown());
    let before = done.load(Ordering::Relaxed);
    run(&|| done.load(Ordering::Relaxed) > before + 100);
    assert_never_refused(&postgres);
}

#[test]
fn a_budget_that_shrinks_cuts_no_transaction() {
    let _turn = alone();
    let postgres = Postgres::start(&[]);
    let databases = [postgres.database()];
    let pooler = pooler(&postgres, &databases, "default_pool_size = 10", &[], &[]);
    let mut clients: Vec<_> = (0..8).map(|_| pooler.connect(APP, &databases[0])).collect();
    clients.iter_mut().for_each(|client| client.run("BEGIN"));
    pooler.console().run("SET max_server_connections = 4");
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(clients.iter_mut().map(|client| client.value("SELECT 1")).collect::<String>(), "11111111");
    clients.iter_mut().for_each(|client| client.run("COMMIT"));
    // Three servers and the control connection.
    assert!(eventually(SOON, || postgres.backends("") <= 4), "{}", postgres.backends(""));
    clients.iter_mut().for_each(|client| client.run("SELECT 1"));
}

/// What the replies of a query in vain are.
fn assert_told(replies: &[pgsluice_tests::Reply], message: &str) {
    assert_eq!(replies.iter().map(|reply| reply.tag as char).collect::<String>(), "EZ", "{replies:?}");
    let error = &replies[0];
    let fields = [error.field(b'S'), error.sqlstate()];
    assert_eq!(fields, ["ERROR", "53000"]);
    assert!(error.field(b'M').contains(message) && error.field(b'H').contains("SHOW POOLS"), "{error:?}");
}

#[test]
fn who_cannot_be_served_is_told_and_stays_connected() {
    let _turn = alone();
    let postgres = Postgres::shared();
    let databases = [postgres.database()];
    let settings = "default_pool_size = 1\nmax_pool_waiting = 2\nquery_wait_timeout = 10\nquery_wait_notify = 0";
    let pooler = pooler(postgres, &databases, settings, &[], &[]);
    let connect = || pooler.connect(APP, &databases[0]);
    let (mut holder, mut third): (Raw, Raw) = (connect(), connect());
    let mut waiting = [connect(), connect()];
    holder.run("BEGIN");
    waiting.iter_mut().for_each(|client| client.send(&m::query("SELECT 'first'")).expect("it can be sent"));
    assert!(eventually(SOON, || pooler.pool_count(&databases[0], "app", "cl_waiting") == 2));
    // The queue is full: nobody waits for that to be said.
    assert_told(&third.query("SELECT 1"), "max_pool_waiting = 2");
    let batch = [m::parse("s", "SELECT 1", &[]), m::bind("", "s", &[]), m::execute("", 0), m::sync()].concat();
    assert_told(&third.exchange(&batch), "max_pool_waiting = 2");
    assert_told(&third.query("BEGIN"), "max_pool_waiting = 2");
    // Those who wait do so for query_wait_timeout.
    for client in &mut waiting {
        assert_told(&client.until_ready(), "query_wait_timeout");
    }
    // Everybody is still there. A statement whose Parse was refused does not exist.
    holder.run("COMMIT");
    waiting.iter_mut().for_each(|client| assert_eq!(client.value("SELECT 2"), "2"));
    let unknown = third.exchange(&[m::bind("", "s", &[]), m::sync()].concat());
    assert_eq!(unknown[0].sqlstate(), "26000", "{unknown:?}");
    assert_eq!(third.value("SELECT 3"), "3");
}
