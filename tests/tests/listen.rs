//! `LISTEN` in transaction mode: many clients, few servers. Each is told what it would be on a connection of its own: from
//! the commit of its LISTEN to that of its UNLISTEN, all of it, once, in order; and nobody is told anything else.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use pgsluice_tests::session_state::{database, pooler};
use pgsluice_tests::wire::Reply;
use pgsluice_tests::wire::message as m;
use pgsluice_tests::{APP, Pooler, Postgres, Raw, SUPERUSER, Shuffle, Version, eventually};

const SOON: Duration = Duration::from_secs(10);

/// Channel and payload.
fn news(reply: &Reply) -> (String, String) {
    let mut parts = reply.body[4..].split(|&b| b == 0).map(|part| String::from_utf8_lossy(part).into_owned());
    (parts.next().expect("a channel"), parts.next().expect("a payload"))
}

/// The backend that a NotificationResponse names.
fn sender(reply: &Reply) -> String {
    u32::from_be_bytes([reply.body[0], reply.body[1], reply.body[2], reply.body[3]]).to_string()
}

fn notifications(replies: &[Reply]) -> Vec<(String, String)> {
    replies.iter().filter(|reply| reply.tag == b'A').map(news).collect()
}

/// Waits for one more notification while the client does nothing.
fn told(client: &mut Raw) -> (String, String) {
    let replies = client.until(|reply| reply.tag == b'A' || reply.tag == b'E');
    let last = replies.last().filter(|reply| reply.tag == b'A');
    news(last.unwrap_or_else(|| panic!("{replies:?}")))
}

fn pins(pooler: &Pooler) -> usize {
    pooler.show("SHOW PINS").len()
}

fn hubs(pooler: &Pooler) -> Vec<String> {
    let listening = |row: &pgsluice_tests::pooler::Row| row["state"] == "listening";
    pooler.show("SHOW SERVERS").iter().filter(|row| listening(row)).map(|row| row["application_name"].clone()).collect()
}

/// So many clients, all of which one server listens for.
fn listeners(pooler: &Pooler, database: &str, count: usize, listen: &str) -> Vec<Raw> {
    let mut clients: Vec<_> = (0..count).map(|_| pooler.connect(APP, database)).collect();
    clients.iter_mut().for_each(|client| client.run(listen));
    let shared = || pins(pooler) == 0 && hubs(pooler) == [format!("{count} clients")];
    assert!(eventually(SOON, shared), "{:?} {:?}", pooler.show("SHOW PINS"), hubs(pooler));
    clients
}

fn each_version(work: impl Fn(&Postgres, &str)) {
    for version in Version::ALL {
        let postgres = Postgres::shared_version(version);
        work(postgres, &database(postgres));
    }
}

#[test]
fn fifty_clients_listen_on_three_servers() {
    each_version(|postgres, database| {
        let pooler = pooler(postgres, database, 3, "");
        let shuffle = Shuffle::start(&pooler, APP, database, 3);
        let mut clients = listeners(&pooler, database, 50, "LISTEN news; LISTEN \"Other \"\" News\"");
        let mut direct = postgres.connect(APP, database);
        let pid = direct.value("SELECT pg_backend_pid()");
        direct.run("NOTIFY news, 'first'; NOTIFY nobodys; NOTIFY \"Other \"\" News\", 'second'");
        for client in &mut clients {
            let first = client.until(|reply| reply.tag == b'A').pop().unwrap();
            assert_eq!((news(&first), sender(&first)), (("news".into(), "first".into()), pid.clone()));
            assert_eq!(told(client), ("Other \" News".into(), "second".into()));
        }
        let before = shuffle.rounds();
        assert!(eventually(SOON, || shuffle.rounds() > before + 20), "the servers change hands");
        assert_eq!(clients[7].value("SELECT count(*) FROM pg_listening_channels()"), "2");
        assert_eq!(clients[7].value("SELECT 1"), "1");
        shuffle.finish();
        assert!(postgres.backends(database) <= 6, "the pool, its control connection, and two of ours");
        drop(clients);
        assert!(eventually(SOON, || hubs(&pooler).is_empty()), "a server that listens for nobody is given back");
    });
}

/// What a listener does between two looks at what it was told. Each leaves it listening, and is told which of the numbers it
/// is not to miss.
const BETWEEN: [&[&str]; 9] = [
    &[],
    &["SELECT 1"],
    &["BEGIN", "SELECT 1", "COMMIT"],
    &["BEGIN", "LISTEN another", "ROLLBACK"],
    &["BEGIN", "UNLISTEN *", "ROLLBACK"],
    &["LISTEN another", "UNLISTEN another"],
    &["SET work_mem = '3MB'", "RESET work_mem"],
    &["SELECT listen_to('another')", "DO $$ BEGIN EXECUTE 'UNLISTEN another'; END $$"],
    &["BEGIN", "SAVEPOINT s", "UNLISTEN numbers", "ROLLBACK TO s", "COMMIT"],
];

/// Counts on as long as it is told to.
fn count(mut direct: Raw, stop: &Arc<AtomicBool>) -> (std::thread::JoinHandle<()>, Arc<AtomicU64>) {
    let (stop, counted) = (stop.clone(), Arc::new(AtomicU64::new(0)));
    let shared = counted.clone();
    let thread = std::thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            let n = shared.load(Ordering::SeqCst);
            direct.run(&format!("NOTIFY numbers, '{}'", n + 1));
            shared.store(n + 1, Ordering::SeqCst);
            if n % 16 == 0 {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    });
    (thread, counted)
}

fn number_of((_, payload): &(String, String)) -> u64 {
    payload.parse().expect("a number")
}

/// A client that listens, does this and that, and unlistens, again and again; how many numbers it was told.
fn follow(client: &mut Raw, number: usize, counted: &AtomicU64, until: Instant) -> usize {
    let (mut all, mut round) = (0, number);
    while Instant::now() < until {
        let before = counted.load(Ordering::SeqCst);
        let mut seen = notifications(&client.query("LISTEN numbers"));
        let after = counted.load(Ordering::SeqCst);
        for _ in 0..12 {
            round += 1;
            for sql in BETWEEN[round % BETWEEN.len()] {
                let replies = client.query(sql);
                assert!(!replies.iter().any(|reply| reply.tag == b'E'), "{sql}: {replies:?}");
                let outside = replies.last().is_some_and(|ready| ready.body == b"I");
                // What comes in front of the answer may have come in front of the command.
                let answer = replies.iter().position(|reply| reply.tag != b'A').unwrap_or(0);
                let late = replies[answer..].iter().any(|reply| reply.tag == b'A') || (answer > 0 && *sql != "BEGIN");
                assert!(outside || !late, "{sql}: told inside a block");
                seen.extend(notifications(&replies));
            }
            std::thread::sleep(Duration::from_millis((round % 3) as u64));
        }
        let last = counted.load(Ordering::SeqCst);
        // All up to here was there before the end; it is in front of the answer, or on its way.
        while seen.last().is_none_or(|told| number_of(told) < last) {
            seen.push(told(client));
        }
        seen.extend(notifications(&client.query("UNLISTEN numbers")));
        assert!(seen.iter().all(|(channel, _)| channel == "numbers"), "{seen:?}");
        let numbers: Vec<u64> = seen.iter().map(number_of).collect();
        let broken = numbers.windows(2).position(|pair| pair[1] != pair[0] + 1);
        assert!(broken.is_none(), "client {number}: {:?}", broken.map(|at| &numbers[at..numbers.len().min(at + 20)]));
        assert!(numbers[0] > before && numbers[0] <= after + 2, "from its LISTEN: {before} {after} {}", numbers[0]);
        all += numbers.len();
        let quiet = client.query("SELECT 1");
        assert!(notifications(&quiet).is_empty(), "behind its UNLISTEN: {quiet:?}");
    }
    all
}

#[test]
fn a_stream_of_numbers_has_no_gap_and_no_double() {
    each_version(|postgres, database| {
        let pooler = pooler(postgres, database, 4, "");
        let stop = Arc::new(AtomicBool::new(false));
        let shuffle = Shuffle::start(&pooler, APP, database, 2);
        let (counter, counted) = count(postgres.connect(APP, database), &stop);
        let until = Instant::now() + Duration::from_secs(8);
        let threads: Vec<_> = (0..8)
            .map(|number| {
                let (mut client, counted) = (pooler.connect(APP, database), counted.clone());
                std::thread::spawn(move || follow(&mut client, number, &counted, until))
            })
            .collect();
        let seen: usize = threads.into_iter().map(|thread| thread.join().expect("a listener")).sum();
        stop.store(true, Ordering::Relaxed);
        counter.join().unwrap();
        shuffle.finish();
        assert!(seen > 5_000, "{seen} of {}", counted.load(Ordering::SeqCst));
        assert!(!pooler.log().contains("was lost"), "{}", pooler.log());
    });
}

#[test]
fn channels_are_as_the_client_made_them_last() {
    each_version(|postgres, database| {
        let pooler = pooler(postgres, database, 3, "");
        let mut clients = listeners(&pooler, database, 4, "LISTEN one; LISTEN two");
        let mine = "SELECT coalesce(string_agg(c, ' ' ORDER BY c), '') FROM pg_listening_channels() c";
        let steps = [
            ("BEGIN; LISTEN three; ROLLBACK", "one two"),
            ("BEGIN; UNLISTEN *; ROLLBACK", "one two"),
            ("BEGIN; SAVEPOINT s; UNLISTEN *; ROLLBACK TO s; LISTEN three; COMMIT", "one three two"),
            ("DO $$ BEGIN EXECUTE 'UNLISTEN two'; END $$", "one three"),
            ("SELECT listen_to('Four')", "Four one three"),
            ("UNLISTEN one; UNLISTEN three", "Four"),
            ("DISCARD ALL", ""),
            ("LISTEN one; LISTEN two", "one two"),
        ];
        let mut direct = postgres.connect(APP, database);
        for (sql, left) in steps {
            for client in &mut clients {
                client.run(sql);
            }
            let unpinned = || pins(&pooler) == 0;
            assert!(eventually(SOON, unpinned), "{sql}: {:?}", pooler.show("SHOW PINS"));
            for channel in ["one", "two", "three", "\"Four\"", "four"] {
                direct.run(&format!("NOTIFY {channel}"));
            }
            for client in &mut clients {
                for channel in ["one", "two", "three", "Four"] {
                    if left.split(' ').any(|name| name == channel) {
                        assert_eq!(told(client).0, channel, "{sql}");
                    }
                }
                assert_eq!(client.value(mine), left, "{sql}");
            }
        }
    });
}

#[test]
fn a_batch_may_listen_behind_other_statements() {
    each_version(|postgres, database| {
        let pooler = pooler(postgres, database, 3, "");
        let mut clients = listeners(&pooler, database, 3, "LISTEN one");
        let run = |sql: &str| [m::parse("", sql, &[]), m::bind("", "", &[]), m::execute("", 0)].concat();
        let batch = [run("SELECT 1"), run("LISTEN two"), run("SELECT 2"), m::sync()].concat();
        let failing = [run("SELECT 1"), run("UNLISTEN *"), run("SELECT 1/0"), m::sync()].concat();
        for client in &mut clients {
            // In two pieces, so that the end is not in view when it begins.
            client.send(&batch[..40]).unwrap();
            std::thread::sleep(Duration::from_millis(20));
            client.send(&batch[40..]).unwrap();
            let replies = client.until_ready();
            assert!(!replies.iter().any(|reply| reply.tag == b'E'), "{replies:?}");
            assert!(client.exchange(&failing).iter().any(|reply| reply.tag == b'E'));
        }
        assert!(eventually(SOON, || pins(&pooler) == 0));
        postgres.connect(APP, database).run("NOTIFY one; NOTIFY two");
        for client in &mut clients {
            assert_eq!([told(client).0, told(client).0], ["one", "two"]);
        }
    });
}

#[test]
fn a_client_is_told_inside_no_block_and_between_no_replies() {
    each_version(|postgres, database| {
        let pooler = pooler(postgres, database, 3, "");
        let mut clients = listeners(&pooler, database, 2, "LISTEN one");
        let mut direct = postgres.connect(APP, database);
        let client = &mut clients[0];
        client.run("BEGIN");
        direct.run("NOTIFY one, 'in a block'");
        assert!(client.silent_for(Duration::from_millis(300)));
        assert!(notifications(&client.query("SELECT 1")).is_empty());
        client.send(&m::query("COMMIT")).unwrap();
        let tags: Vec<_> = client.until_ready().iter().map(|reply| reply.tag).collect();
        assert_eq!(tags, b"CAZ", "in front of ReadyForQuery");
        assert!(eventually(SOON, || pins(&pooler) == 0));
        let slow = [m::query("SELECT pg_sleep(0.5)"), m::query("SELECT 2")].concat();
        client.send(&slow).unwrap();
        std::thread::sleep(Duration::from_millis(100));
        direct.run("NOTIFY one, 'during a query'");
        let tags: Vec<_> = client.until_ready().iter().map(|reply| reply.tag).collect();
        assert_eq!(tags, b"TDCAZ");
        client.until_ready();
        // In front of ReadyForQuery or behind it: the hub hears of it about when the server is done.
        let mut heard = notifications(&client.query("NOTIFY one, 'to myself'"));
        assert_eq!(heard.pop().unwrap_or_else(|| told(client)).1, "to myself");
        assert!(client.silent_for(Duration::from_millis(200)));
    });
}

#[test]
fn settings_and_channels_both_follow() {
    each_version(|postgres, database| {
        let pooler = pooler(postgres, database, 3, "");
        let mut clients = listeners(&pooler, database, 3, "SET app.tenant = 'mine'; LISTEN one");
        for client in &mut clients {
            assert_eq!(client.value("SHOW app.tenant"), "mine");
        }
        let mut latin = pooler.connect(APP, database);
        latin.run("SET client_encoding = 'LATIN1'");
        latin.run("LISTEN one");
        clients[0].run("SET client_encoding = 'LATIN1'");
        let mut direct = postgres.connect(APP, database);
        direct.run("NOTIFY one, 'caf\u{e9}'");
        for client in [&mut latin, &mut clients[0]] {
            let reply = client.until(|reply| reply.tag == b'A').pop().unwrap();
            assert!(reply.body.ends_with(b"caf\xe9\0"), "in its own encoding: {reply:?}");
        }
        assert_eq!(told(&mut clients[1]).1, "caf\u{e9}");
    });
}

#[test]
fn who_listened_by_a_server_that_is_lost_is_told_so() {
    each_version(|postgres, database| {
        let pooler = pooler(postgres, database, 3, "");
        let mut clients = listeners(&pooler, database, 5, "LISTEN one");
        let mut other = pooler.connect(APP, database);
        let hub = pooler.show("SHOW SERVERS").into_iter().find(|row| row["state"] == "listening").unwrap();
        postgres.admin(database).run(&format!("SELECT pg_terminate_backend({})", hub["remote_pid"]));
        for client in &mut clients {
            let last = client.until_closed(SOON).expect("it is closed");
            let error = last.iter().find(|reply| reply.tag == b'E').expect("and told why");
            assert_eq!((error.field(b'S'), error.sqlstate()), ("FATAL".into(), "08006".into()));
        }
        assert_eq!(other.value("SELECT 1"), "1");
        let mut again = listeners(&pooler, database, 3, "LISTEN one");
        other.run("NOTIFY one, 'again'");
        again.iter_mut().for_each(|client| assert_eq!(told(client).1, "again"));
    });
}

#[test]
fn a_client_that_does_not_read_is_closed_and_nobody_waits_for_it() {
    let postgres = Postgres::shared();
    let database = &database(postgres);
    let pooler = pooler(postgres, database, 3, "");
    let mut clients = listeners(&pooler, database, 3, "LISTEN one");
    let slow = clients.remove(0);
    let mut direct = postgres.connect(APP, database);
    let (lines, length) = (4_000, 7_000);
    let readers: Vec<_> = clients
        .into_iter()
        .map(|mut client| {
            std::thread::spawn(move || {
                (0..lines).for_each(|n| assert!(told(&mut client).1.starts_with(&format!("{n} "))));
                client
            })
        })
        .collect();
    for n in 0..lines {
        direct.run(&format!("SELECT pg_notify('one', '{n} ' || repeat('x', {length}))"));
    }
    let clients: Vec<_> = readers.into_iter().map(|reader| reader.join().expect("all of it")).collect();
    let gone = || hubs(&pooler) == [format!("{} clients", clients.len())];
    assert!(eventually(SOON, gone), "{:?}", hubs(&pooler));
    assert!(pooler.peak() < 128 << 20, "{} bytes", pooler.peak());
    drop(slow);
}

#[test]
fn who_reads_late_is_told_all() {
    let postgres = Postgres::shared();
    let database = &database(postgres);
    let pooler = pooler(postgres, database, 3, "");
    let mut clients = listeners(&pooler, database, 2, "LISTEN one");
    let mut late = clients.remove(0);
    let mut direct = postgres.connect(APP, database);
    // More than sockets take, and less than is kept.
    for n in 0..650 {
        direct.run(&format!("SELECT pg_notify('one', '{n} ' || repeat('x', 7000))"));
        assert!(told(&mut clients[0]).1.starts_with(&format!("{n} ")));
    }
    (0..650).for_each(|n| assert!(told(&mut late).1.starts_with(&format!("{n} ")), "{n}"));
}

#[test]
fn reconnect_and_shutdown_do_not_wait_for_listeners() {
    let postgres = Postgres::shared();
    let database = &database(postgres);
    let mut pooler = pooler(postgres, database, 3, "");
    let mut clients = listeners(&pooler, database, 3, "LISTEN one");
    pooler.console().run(&format!("RECONNECT {database}"));
    for client in &mut clients {
        let last = client.until_closed(SOON).expect("it is closed");
        assert_eq!(last.iter().find(|reply| reply.tag == b'E').unwrap().sqlstate(), "57P01");
    }
    let _clients = listeners(&pooler, database, 3, "LISTEN one");
    pooler.signal(rustix::process::Signal::INT);
    assert!(pooler.wait_exit(SOON).is_some(), "{}", pooler.log());
}

#[test]
fn a_warning_keeps_the_server() {
    let postgres = Postgres::shared();
    let database = &database(postgres);
    let pooler = pooler(postgres, database, 3, "pin_policy = \"listen=warn\"");
    let mut clients: Vec<_> = (0..2).map(|_| pooler.connect(SUPERUSER, database)).collect();
    clients.iter_mut().for_each(|client| client.run("LISTEN one"));
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!((pins(&pooler), hubs(&pooler).len()), (2, 0));
}

#[test]
fn each_worker_has_a_server_that_listens() {
    let postgres = Postgres::shared();
    let database = &database(postgres);
    let pooler = pooler(postgres, database, 6, "workers = 2");
    let mut clients: Vec<_> = (0..8).map(|_| pooler.connect(APP, database)).collect();
    clients.iter_mut().for_each(|client| client.run("LISTEN one"));
    let shared = || pins(&pooler) == 0 && hubs(&pooler) == ["4 clients", "4 clients"];
    assert!(eventually(SOON, shared), "{:?} {:?}", pooler.show("SHOW PINS"), hubs(&pooler));
    postgres.connect(APP, database).run("NOTIFY one, 'all'");
    clients.iter_mut().for_each(|client| assert_eq!(told(client).1, "all"));
}
