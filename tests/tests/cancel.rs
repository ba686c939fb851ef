//! CancelRequest: it must reach the query it was meant for, wherever that query is, and never another one.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use pgsluice_tests::wire::{cancel, message as m};
use pgsluice_tests::{APP, Pooler, Postgres, eventually};

fn pooler(size: &str) -> (Pooler, String) {
    let postgres = Postgres::shared();
    let database = postgres.database();
    (Pooler::url(postgres, APP, &database, &["--pool-size", size]), database)
}

#[test]
fn a_running_query_is_cancelled() {
    let (pooler, database) = pooler("2");
    let mut client = pooler.connect(APP, &database);
    for sql in ["SELECT pg_sleep(30)", "BEGIN; SELECT pg_sleep(30)"] {
        let start = Instant::now();
        client.send(&m::query(sql)).unwrap();
        std::thread::sleep(Duration::from_millis(200));
        client.cancel().unwrap();
        let replies = client.until_ready();
        let error = replies.iter().find(|reply| reply.tag == b'E').expect("cancelled");
        assert_eq!(error.sqlstate(), "57014");
        assert!(start.elapsed() < Duration::from_secs(5));
    }
    client.run("ROLLBACK");
    assert_eq!(client.value("SELECT 1"), "1");
}

#[test]
fn a_query_in_the_queue_is_cancelled() {
    let (pooler, database) = pooler("1");
    let mut holder = pooler.connect(APP, &database);
    let mut waiting = pooler.connect(APP, &database);
    holder.run("BEGIN");
    waiting.send(&m::query("SELECT 'never'")).unwrap();
    assert!(eventually(Duration::from_secs(3), || pooler.pool_count(&database, APP.user, "cl_waiting") == 1));
    waiting.cancel().unwrap();
    let replies = waiting.until_ready();
    assert_eq!(replies[0].sqlstate(), "57014", "{replies:?}");
    assert_eq!(pooler.pool_count(&database, APP.user, "cl_waiting"), 0);
    assert_eq!(holder.value("SELECT 'unharmed'"), "unharmed");
    holder.run("COMMIT");
    assert_eq!(waiting.value("SELECT 'usable'"), "usable");
}

#[test]
fn the_rest_of_a_cancelled_batch_is_skipped() {
    let (pooler, database) = pooler("1");
    let mut holder = pooler.connect(APP, &database);
    let mut waiting = pooler.connect(APP, &database);
    holder.run("CREATE TABLE never (id int); BEGIN");
    let batch = [m::parse("", "INSERT INTO never VALUES (1)", &[]), m::bind("", "", &[]), m::execute("", 0), m::sync()];
    waiting.send(&batch.concat()).unwrap();
    assert!(eventually(Duration::from_secs(3), || pooler.pool_count(&database, APP.user, "cl_waiting") == 1));
    waiting.cancel().unwrap();
    assert_eq!(pgsluice_tests::wire::show(&waiting.until_ready()), ["E 57014", "Z I"]);
    holder.run("COMMIT");
    assert_eq!(waiting.value("SELECT count(*) FROM never"), "0");
}

#[test]
fn a_wrong_secret_cancels_nothing() {
    let (pooler, database) = pooler("2");
    let mut client = pooler.connect(APP, &database);
    client.send(&m::query("SELECT pg_sleep(1), 'slept'")).unwrap();
    std::thread::sleep(Duration::from_millis(200));
    let mut wrong = client.secret.clone();
    wrong[0] ^= 1;
    cancel(pooler.addr(), client.pid, &wrong).unwrap();
    cancel(pooler.addr(), client.pid ^ 1, &client.secret).unwrap();
    cancel(pooler.addr(), client.pid, &[]).unwrap();
    let replies = client.until_ready();
    assert!(replies.iter().all(|reply| reply.tag != b'E'), "{replies:?}");
}

#[test]
fn an_idle_client_has_nothing_to_cancel() {
    let (pooler, database) = pooler("1");
    let mut idle = pooler.connect(APP, &database);
    let mut other = pooler.connect(APP, &database);
    // The idle one used the only server last; now the other one has it.
    assert_eq!(idle.value("SELECT 1"), "1");
    other.send(&m::query("SELECT pg_sleep(1)")).unwrap();
    std::thread::sleep(Duration::from_millis(200));
    for _ in 0..5 {
        idle.cancel().unwrap();
    }
    assert!(other.until_ready().iter().all(|reply| reply.tag != b'E'));
    assert_eq!(idle.value("SELECT 1"), "1", "no late cancel hits the next query");
}

#[test]
fn keys_differ_and_backend_keys_are_not_given_away() {
    let (pooler, database) = pooler("3");
    let mut clients: Vec<_> = (0..50).map(|_| pooler.connect(APP, &database)).collect();
    let mut keys: Vec<_> = clients.iter().map(|client| (client.pid, client.secret.clone())).collect();
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), 50, "two clients share a cancel key");
    // A key of ours means nothing to PostgreSQL.
    clients[0].send(&m::query("SELECT pg_sleep(0.5)")).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    cancel(Postgres::shared().addr(), clients[0].pid, &clients[0].secret).unwrap();
    assert!(clients[0].until_ready().iter().all(|reply| reply.tag != b'E'));
}

#[test]
fn a_storm_of_cancels_hits_nobody_else() {
    let (pooler, database) = pooler("3");
    let end = Instant::now() + Duration::from_secs(4);
    let (stop, hits, rounds) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let targets: Vec<_> = (0..4).map(|_| pooler.connect(APP, &database)).collect();
        for target in &targets {
            let (addr, pid, secret) = (target.addr(), target.pid, target.secret.clone());
            let stop = &stop;
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    cancel(addr, pid, &secret).expect("a cancel request is always taken");
                }
            });
        }
        let working: Vec<_> = targets
            .into_iter()
            .map(|mut target| {
                let hits = &hits;
                scope.spawn(move || {
                    while Instant::now() < end {
                        match target.rows("SELECT pg_sleep(0.002)") {
                            Ok(_) => {}
                            Err(error) => {
                                assert_eq!(error.sqlstate(), "57014", "{error:?}");
                                hits.fetch_add(1, Ordering::Relaxed);
                            }
                        }
                    }
                })
            })
            .collect();
        let victims: Vec<_> = (0..4)
            .map(|number| {
                let mut victim = pooler.connect(APP, &database);
                let rounds = &rounds;
                scope.spawn(move || {
                    while Instant::now() < end {
                        let answer = victim.rows(&format!("SELECT pg_sleep(0.001), {number}"));
                        assert!(answer.is_ok(), "a bystander was hit: {answer:?}");
                        rounds.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        let outcomes: Vec<_> = working.into_iter().chain(victims).map(|thread| thread.join()).collect();
        stop.store(true, Ordering::Relaxed);
        assert!(outcomes.iter().all(Result::is_ok), "a client saw what it should not");
    });
    assert!(hits.into_inner() > 0, "no cancel hit its target: the storm tested nothing");
    assert!(rounds.into_inner() > 50, "the bystanders hardly ran");
}
