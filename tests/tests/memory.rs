//! Bytes of any number pass through, and the pooler holds hardly any of them: along every path that carries much, its
//! peak stays within [`OVER_IDLE`] of what it needs when idle. The clients here hold nothing, either: they make up what
//! they send and let go of what they read.

use std::collections::BTreeMap;
use std::io;
use std::thread::JoinHandle;

use pgsluice_tests::pooler::Pooler;
use pgsluice_tests::wire::{message as m, show};
use pgsluice_tests::{APP, Postgres, Raw, long_run};

/// KiB that traffic may add to the memory of an idle pooler.
const OVER_IDLE: usize = 32 << 10;

/// Bytes sent along each path: a sample, or what a gigabyte leaves when PostgreSQL has had its share.
fn much() -> usize {
    if long_run() { 1_000_000_000 } else { 256 << 20 }
}

/// A pooler of so many servers, and a client that has used one.
fn pooler_of(size: &str) -> (Pooler, Raw, String) {
    let postgres = Postgres::shared();
    let database = postgres.database();
    // An error of 256 MB is the client's to read, not the log's.
    postgres.admin(&database).run(&format!("ALTER DATABASE {database} SET log_min_messages = 'panic'"));
    let pooler = Pooler::url(postgres, APP, &database, &["--pool-size", size]);
    let mut client = pooler.connect(APP, &database);
    client.run("SELECT 1");
    (pooler, client, database)
}

/// Runs `traffic` and holds the pooler's peak to the bound.
fn within_bounds(path: &str, traffic: impl FnOnce(&mut Raw)) {
    let (pooler, mut client, _) = pooler_of("1");
    measured(&pooler, path, || traffic(&mut client));
    assert_eq!(client.value("SELECT 'still here'"), "still here", "{path}");
}

fn measured(pooler: &Pooler, path: &str, traffic: impl FnOnce()) {
    pooler.forget_peak();
    let idle = pooler.resident();
    traffic();
    let over = pooler.peak().saturating_sub(idle);
    println!("{path}: {over} KiB over {idle} KiB");
    assert!(over < OVER_IDLE, "{path}: {over} KiB over the {idle} KiB of an idle pooler");
}

/// What came up to ReadyForQuery: per type byte how many messages, and bytes of their bodies in all; and the last data.
#[derive(Default)]
struct Tally {
    counts: BTreeMap<u8, (usize, usize)>,
    last: Vec<u8>,
}

impl Tally {
    fn read(client: &mut Raw) -> Tally {
        let mut tally = Tally::default();
        loop {
            let message = client.recv_unheld().expect("the connection lives");
            let (messages, bytes) = tally.counts.entry(message.tag).or_default();
            *messages += 1;
            *bytes += message.length;
            match message.tag {
                b'Z' => return tally,
                b'D' | b'd' | b'E' | b'N' | b'V' => tally.last = message.end,
                _ => {}
            }
        }
    }

    fn bytes(&self, tag: u8) -> usize {
        self.counts.get(&tag).map_or(0, |counts| counts.1)
    }

    fn messages(&self, tag: u8) -> usize {
        self.counts.get(&tag).map_or(0, |counts| counts.0)
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.last).into_owned()
    }
}

/// Sends a query and reads its answer.
fn fetch(client: &mut Raw, sql: &str) -> Tally {
    client.send(&m::query(sql)).expect("the pooler reads");
    Tally::read(client)
}

fn all_sent(sent: JoinHandle<io::Result<()>>) {
    sent.join().expect("the thread writes").expect("the pooler reads");
}

/// Reads the answer to what `sent` is writing.
fn answer(client: &mut Raw, sent: JoinHandle<io::Result<()>>) -> Tally {
    let tally = Tally::read(client);
    all_sent(sent);
    tally
}

#[test]
fn one_row() {
    within_bounds("one row", |client| {
        let tally = fetch(client, &format!("SELECT repeat('x', {})", much()));
        assert_eq!(tally.bytes(b'D'), much() + 6);
    });
}

#[test]
fn many_rows() {
    within_bounds("many rows", |client| {
        let rows = much() / 8192;
        let tally = fetch(client, &format!("SELECT repeat('x', 8192) FROM generate_series(1, {rows})"));
        assert_eq!((tally.messages(b'D'), tally.bytes(b'D')), (rows, rows * 8198));
    });
}

#[test]
fn copy_out() {
    within_bounds("COPY out, many lines", |client| {
        let rows = much() / 8192;
        let tally =
            fetch(client, &format!("COPY (SELECT repeat('x', 8191) FROM generate_series(1, {rows})) TO STDOUT"));
        assert_eq!((tally.messages(b'd'), tally.bytes(b'd')), (rows, rows * 8192));
    });
    within_bounds("COPY out, one line", |client| {
        let tally = fetch(client, &format!("COPY (SELECT repeat('x', {})) TO STDOUT", much() / 2));
        assert_eq!((tally.messages(b'd'), tally.bytes(b'd')), (1, much() / 2 + 1));
    });
}

#[test]
fn copy_in() {
    const COPY: &str = "COPY line FROM STDIN WHERE length(line) = 0";
    within_bounds("COPY in, many lines", |client| {
        client.run("CREATE TABLE line (line text)");
        let lines = m::copy_data(&[&[b'x'; 8191][..], b"\n"].concat().repeat(8));
        let count = much() / lines.len();
        client.send(&m::query(COPY)).unwrap();
        assert_eq!(client.recv().unwrap().tag, b'G');
        for _ in 0..count {
            client.send(&lines).unwrap();
        }
        client.send(&m::copy_done()).unwrap();
        assert_eq!(show(&client.until_ready()), ["C COPY 0", "Z I"]);
    });
    within_bounds("COPY in, one message", |client| {
        client.run("CREATE TABLE line (line text)");
        client.send(&m::query(COPY)).unwrap();
        assert_eq!(client.recv().unwrap().tag, b'G');
        let front = m::begun(b'd', b"", much() / 2 + 1);
        let sent = client.send_filled(front, much() / 2, [b"\n", &m::copy_done()[..]].concat());
        all_sent(sent);
        assert_eq!(show(&client.until_ready()), ["C COPY 0", "Z I"]);
    });
}

/// How a value of `length` bytes begins in a Bind or a FunctionCall.
fn value_front(length: usize) -> [u8; 4] {
    u32::try_from(length).expect("a length field can say it").to_be_bytes()
}

#[test]
fn parameters() {
    for statement in ["", "named"] {
        within_bounds(&format!("a parameter of statement {statement:?}"), |client| {
            client.exchange(&[m::parse(statement, "SELECT length($1::text)", &[]), m::sync()].concat());
            let front = [b"\0", statement.as_bytes(), b"\0\0\0\0\x01", &value_front(much())].concat();
            let back = [b"\0\0", &m::execute("", 0)[..], &m::sync()].concat();
            let sent = client.send_filled(m::begun(b'B', &front, much() + 2), much(), back);
            let tally = answer(client, sent);
            assert!(tally.text().ends_with(&much().to_string()), "{}", tally.text());
        });
    }
}

#[test]
fn arguments_of_functions() {
    const LENGTH: u32 = 1317;
    within_bounds("an argument of a FunctionCall", |client| {
        let front = [&LENGTH.to_be_bytes(), &b"\0\0\0\x01"[..], &value_front(much())].concat();
        let sent = client.send_filled(m::begun(b'F', &front, much() + 2), much(), vec![0; 2]);
        let tally = answer(client, sent);
        assert!(tally.text().ends_with(&much().to_string()), "{}", tally.text());
    });
}

#[test]
fn texts() {
    within_bounds("the text of a Query", |client| {
        let (front, back) = (&b"SELECT 7 /*"[..], &b"*/\0"[..]);
        let front = m::begun(b'Q', front, much() + back.len());
        let sent = client.send_filled(front, much(), back.to_vec());
        assert_eq!(answer(client, sent).last.last(), Some(&b'7'));
    });
    within_bounds("the text of an unnamed statement", |client| {
        let (front, end) = (&b"\0SELECT 7 /*"[..], &b"*/\0\0\0"[..]);
        let front = m::begun(b'P', front, much() + end.len());
        let back = [end, &m::bind("", "", &[]), &m::execute("", 0), &m::sync()].concat();
        let sent = client.send_filled(front, much(), back);
        assert_eq!(answer(client, sent).last.last(), Some(&b'7'));
    });
}

#[test]
fn notices_and_errors() {
    for (level, tag) in [("NOTICE", b'N'), ("EXCEPTION", b'E')] {
        // PostgreSQL has the text in several copies, none of which may be over 1 GB.
        let length = much() / 4;
        within_bounds(&format!("RAISE {level}"), |client| {
            let tally = fetch(client, &format!("DO $$ BEGIN RAISE {level} '%', repeat('x', {length}); END $$"));
            assert_eq!(tally.messages(tag), 1);
            assert!(tally.bytes(tag) > length, "{}", tally.bytes(tag));
        });
    }
}

/// Queries of one write.
fn pipelined() -> Vec<usize> {
    if long_run() { vec![10_000, 100_000, 1_000_000] } else { vec![10_000, 100_000] }
}

#[test]
fn pipelines_of_simple_queries() {
    for count in pipelined() {
        within_bounds(&format!("{count} simple queries"), |client| {
            let sent = client.send_aside(m::query("SELECT 'some text'").repeat(count));
            for _ in 0..count {
                assert_eq!(Tally::read(client).text(), "\0\u{1}\0\0\0\tsome text");
            }
            all_sent(sent);
        });
    }
}

#[test]
fn pipelines_of_extended_queries() {
    let run = |statement: &str| [m::bind("", statement, &[Some("5")]), m::execute("", 0)].concat();
    for (statement, count) in ["", "named"].into_iter().flat_map(|s| pipelined().into_iter().map(move |n| (s, n))) {
        within_bounds(&format!("{count} runs of statement {statement:?}, a Sync each"), |client| {
            client.exchange(&[m::parse(statement, "SELECT $1::text", &[]), m::sync()].concat());
            let sent = client.send_aside([run(statement), m::sync()].concat().repeat(count));
            let ready = (0..count).filter(|_| Tally::read(client).messages(b'D') == 1).count();
            assert_eq!(ready, count);
            all_sent(sent);
        });
        within_bounds(&format!("{count} runs of statement {statement:?} with one Sync"), |client| {
            client.exchange(&[m::parse(statement, "SELECT $1::text", &[]), m::sync()].concat());
            let sent = client.send_aside([run(statement).repeat(count), m::sync()].concat());
            assert_eq!(answer(client, sent).messages(b'D'), count);
        });
    }
}

#[test]
fn pipelines_of_what_we_answer_ourselves() {
    let count = 100_000;
    within_bounds("Parse and Close of one name", |client| {
        let pair = [m::parse("p", "SELECT 1", &[]), m::close(b'S', "p")].concat();
        let sent = client.send_aside([pair.repeat(count), m::sync()].concat());
        let tally = answer(client, sent);
        assert_eq!((tally.messages(b'1'), tally.messages(b'3')), (count, count));
    });
    within_bounds("Sync alone", |client| {
        let sent = client.send_aside(m::sync().repeat(count));
        (0..count).for_each(|_| drop(Tally::read(client)));
        all_sent(sent);
    });
}

#[test]
fn a_client_that_sends_and_never_reads() {
    const QUERIES: usize = 2_000;
    let (pooler, mut slow, database) = pooler_of("2");
    let mut quick = pooler.connect(APP, &database);
    measured(&pooler, "a client that does not read", || {
        let sent = slow.send_aside(m::query("SELECT repeat('x', 10000) FROM generate_series(1, 10)").repeat(QUERIES));
        (0..2_000).for_each(|_| assert_eq!(quick.value("SELECT 1"), "1"));
        for _ in 0..QUERIES {
            let tally = Tally::read(&mut slow);
            assert_eq!((tally.messages(b'D'), tally.bytes(b'D')), (10, 100_060));
        }
        all_sent(sent);
    });
    assert_eq!(slow.value("SELECT 1"), "1");
}

#[test]
fn a_client_that_pours_into_a_server_that_does_not_read() {
    let (pooler, mut client, database) = pooler_of("2");
    let mut quick = pooler.connect(APP, &database);
    measured(&pooler, "a server that does not read", || {
        client.send(&m::query("SELECT pg_sleep(2)")).unwrap();
        let back = m::begun(b'Q', b"SELECT 7 /*", much() + 3);
        let sent = client.send_filled(back, much(), b"*/\0".to_vec());
        (0..500).for_each(|_| assert_eq!(quick.value("SELECT 1"), "1"));
        assert_eq!(Tally::read(&mut client).messages(b'D'), 1);
        assert_eq!(answer(&mut client, sent).last.last(), Some(&b'7'));
    });
}

#[test]
fn a_named_statement_of_any_length_is_held_or_refused() {
    const HELD: usize = 4_000_000;
    let run = [m::bind("", "long", &[]), m::execute("", 0), m::sync()].concat();
    let long = |client: &mut Raw, filling: usize| {
        let (front, end) = (&b"long\0SELECT 7 /*"[..], &b"*/\0\0\0"[..]);
        let front = [m::parse("before", "SELECT 1", &[]), m::begun(b'P', front, filling + end.len())].concat();
        let sent = client.send_filled(front, filling, [end, &run].concat());
        answer(client, sent)
    };
    within_bounds("a named statement as long as they may be", |client| {
        assert_eq!(long(client, HELD).last.last(), Some(&b'7'));
        // On another server it is prepared once more.
        client.query("SELECT pg_terminate_backend(pg_backend_pid())");
        assert_eq!(show(&client.exchange(&run)), ["2", "D 7", "C SELECT 1", "Z I"]);
    });
    within_bounds("a longer named statement", |client| {
        client.run("BEGIN");
        let tally = long(client, much());
        assert!(tally.text().contains("C54000"), "{}", tally.text());
        assert_eq!((tally.messages(b'1'), tally.messages(b'E'), tally.messages(b'2')), (1, 1, 0));
        assert_eq!(show(&client.query("ROLLBACK")), ["C ROLLBACK", "Z I"]);
        assert_eq!(show(&client.exchange(&run)), ["E 26000", "Z I"]);
    });
}

#[test]
fn statements_are_forgotten_with_their_clients() {
    const STATEMENTS: usize = 20_000;
    let (pooler, _client, database) = pooler_of("1");
    measured(&pooler, "clients with 20,000 statements each, one after the other", || {
        for number in 0..3 {
            let mut client = pooler.connect(APP, &database);
            for from in (0..STATEMENTS).step_by(1_000) {
                let one = |n: usize| m::parse(&n.to_string(), &format!("SELECT {n}, {number}"), &[]);
                let all: Vec<u8> = (from..from + 1_000).flat_map(one).collect();
                assert_eq!(client.exchange(&[all, m::sync()].concat()).len(), 1_001);
            }
        }
    });
    measured(&pooler, "statements of 1 MB, closed or left behind", || {
        for number in 0..40 {
            let mut client = pooler.connect(APP, &database);
            let parse = |n: usize| m::parse("p", &format!("SELECT {n} /* {number} {} */", "x".repeat(1 << 20)), &[]);
            client.exchange(&[parse(1), m::close(b'S', "p"), parse(2), m::sync()].concat());
        }
    });
}

/// A short Bind of a statement that its server lacks brings the statement's whole text along.
#[test]
fn long_statements_that_are_prepared_again_and_again() {
    const STATEMENTS: usize = 8;
    let postgres = Postgres::shared();
    let database = postgres.database();
    let text = format!(
        "listen_addr = \"127.0.0.1\"\nlisten_port = {{port}}\nadmin_users = [\"app\"]\ndefault_pool_size = 1\n\
         max_prepared_statements = 1\n[databases.{database}]\nhost = \"127.0.0.1\"\nport = {}\n\
         [users.app]\npassword = \"{}\"\n",
        postgres.port(),
        APP.password
    );
    // Its server keeps one of them, so each Bind is in front of a Parse.
    let pooler = Pooler::file("pgsluice.toml", &text, APP);
    let mut client = pooler.connect(APP, &database);
    client.run("SELECT 1");
    let text = |n: usize| format!("SELECT {n} /* {} */", "x".repeat(1 << 20));
    for n in 0..STATEMENTS {
        client.exchange(&[m::parse(&n.to_string(), &text(n), &[]), m::sync()].concat());
    }
    let rounds = 20;
    let run = |n: usize| [m::bind("", &n.to_string(), &[]), m::execute("", 0)].concat();
    let all: Vec<u8> = (0..STATEMENTS).flat_map(run).collect();
    measured(&pooler, "statements of 1 MiB prepared again and again", || {
        let sent = client.send_aside([all.repeat(rounds), m::sync()].concat());
        assert_eq!(answer(&mut client, sent).messages(b'D'), rounds * STATEMENTS);
    });
}
