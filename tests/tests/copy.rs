//! COPY on the wire, simple and extended, finished and broken off. As in `protocol.rs`, PostgreSQL is the
//! oracle: the same scenario, directly and through the pooler, must give the same transcript.

use std::sync::atomic::{AtomicBool, Ordering};

use pgsluice_tests::oracle::{play, same};
use pgsluice_tests::wire::{message as m, show};
use pgsluice_tests::{APP, Pooler, Postgres};

#[test]
fn copy_in_by_simple_query() {
    let lines = same(|raw| {
        raw.send(&m::query("COPY item FROM STDIN")).unwrap();
        let mut lines = show(&raw.until(|reply| reply.tag == b'G'));
        let rows: Vec<u8> = (0..5000).flat_map(|n| m::copy_data(format!("{n}\tname {n}\n").as_bytes())).collect();
        lines.extend(play(raw, &[rows, m::copy_done()]));
        lines.extend(show(&raw.query("SELECT count(*), max(id) FROM item")));
        lines
    });
    assert_eq!(lines[..3], ["G", "C COPY 5000", "Z I"]);
    assert!(lines.contains(&"D 5000|4999".to_string()));
}

#[test]
fn copy_in_without_waiting_for_the_answer() {
    let lines = same(|raw| {
        let data = [m::copy_data(b"1\ta\n2\t"), m::copy_data(b"b\n"), m::copy_done()].concat();
        let mut lines = play(raw, &[m::query("COPY item FROM STDIN; SELECT 'in the same query'"), data]);
        lines.extend(show(&raw.query("SELECT * FROM item ORDER BY id")));
        lines
    });
    assert_eq!(
        lines,
        [
            "G",
            "C COPY 2",
            "T ?column?",
            "D in the same query",
            "C SELECT 1",
            "Z I",
            "T id|name",
            "D 1|a",
            "D 2|b",
            "C SELECT 2",
            "Z I"
        ]
    );
}

#[test]
fn copy_fail_and_bad_data_roll_back() {
    let lines = same(|raw| {
        let mut lines =
            play(raw, &[m::query("COPY item FROM STDIN"), m::copy_data(b"1\ta\n"), m::copy_fail("changed my mind")]);
        lines
            .extend(play(raw, &[m::query("COPY item FROM STDIN"), m::copy_data(b"not a number\ta\n"), m::copy_done()]));
        // What still comes after the error is dropped, not taken for something else.
        let late: Vec<u8> = (0..2000).flat_map(|n| m::copy_data(format!("{n}\tlate\n").as_bytes())).collect();
        lines.extend(play(
            raw,
            &[m::query("COPY item FROM STDIN"), m::copy_data(b"1\ta\n1\tb\n"), late, m::copy_done()],
        ));
        lines.extend(show(&raw.query("SELECT count(*) FROM item")));
        lines
    });
    assert_eq!(lines[..9], ["G", "E 57014", "Z I", "G", "E 22P02", "Z I", "G", "E 23505", "Z I"]);
    assert!(lines.contains(&"D 0".to_string()));
}

#[test]
fn copy_in_by_extended_query() {
    let lines = same(|raw| {
        let start = |table: &str| {
            [m::parse("", &format!("COPY {table} FROM STDIN"), &[]), m::bind("", "", &[]), m::execute("", 0)].concat()
        };
        raw.send(&[start("item"), m::flush()].concat()).unwrap();
        let mut lines = show(&raw.until(|reply| reply.tag == b'G'));
        // Sync and Flush during COPY IN are ignored.
        lines.extend(play(
            raw,
            &[m::copy_data(b"1\ta\n"), m::flush(), m::sync(), m::copy_data(b"2\tb\n"), m::copy_done(), m::sync()],
        ));
        // The form libpq uses: Sync goes right behind Execute.
        lines.extend(play(raw, &[start("item"), m::sync(), m::copy_data(b"3\tc\n"), m::copy_done(), m::sync()]));
        lines.extend(play(raw, &[start("item"), m::copy_data(b"4\td\n"), m::copy_fail("no"), m::sync()]));
        lines.extend(play(raw, &[start("nowhere"), m::copy_data(b"4\td\n"), m::copy_done(), m::sync()]));
        lines.extend(show(&raw.query("SELECT count(*) FROM item")));
        lines
    });
    assert!(lines.contains(&"D 3".to_string()), "{lines:?}");
    assert!(lines.contains(&"E 57014".to_string()) && lines.contains(&"E 42P01".to_string()), "{lines:?}");
}

#[test]
fn copy_out_simple_and_extended() {
    let lines = same(|raw| {
        let mut lines = show(&raw.query("COPY (SELECT n, 'row ' || n FROM generate_series(1, 3000) n) TO STDOUT"));
        let batch =
            [m::parse("", "COPY (SELECT 1) TO STDOUT", &[]), m::bind("", "", &[]), m::execute("", 0), m::sync()];
        lines.extend(play(raw, &batch));
        lines.extend(show(&raw.query("COPY (SELECT 1/(3-n) FROM generate_series(1, 5) n) TO STDOUT")));
        lines.extend(show(&raw.query("COPY (SELECT 1) TO STDOUT; SELECT 2; COPY (SELECT 3) TO STDOUT")));
        lines
    });
    assert_eq!(lines[0], "H");
    assert_eq!(lines[1], "d 1\trow 1");
    assert_eq!(lines[3001..3004], ["c", "C COPY 3000", "Z I"]);
    assert!(lines.contains(&"E 22012".to_string()));
}

/// A COPY ignores the Syncs among its data, and they are answered when it has failed by the time that they are read: nobody can
/// know. None of those answers is the next client's.
#[test]
fn syncs_in_a_copy_that_fails_are_not_answered_to_somebody_else() {
    let postgres = Postgres::shared();
    let database = postgres.database();
    postgres.connect(APP, &database).run("CREATE TABLE item (id int PRIMARY KEY)");
    let pooler = Pooler::url(postgres, APP, &database, &["--pool-size", "1"]);
    let (mut other, done) = (pooler.connect(APP, &database), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            for n in (0..).take_while(|_| !done.load(Ordering::Relaxed)) {
                assert_eq!(other.value(&format!("SELECT {n}")), n.to_string());
            }
        });
        let syncs = m::sync().repeat(300);
        for n in 0..60 {
            let mut client = pooler.connect(APP, &database);
            let bad = [m::copy_data(b"not a number\n"), syncs.clone()].concat();
            let more = if n % 2 == 0 { [m::copy_data(b"1\n"), m::copy_done()].concat() } else { m::terminate() };
            client.send(&m::query("COPY item FROM STDIN")).expect("it is taken");
            client.until(|reply| reply.tag == b'G');
            client.send(&[bad, more].concat()).expect("it is taken");
            if n % 2 == 0 {
                client.until_ready();
            }
            if reader.is_finished() {
                break;
            }
        }
        done.store(true, Ordering::Relaxed);
    });
}
