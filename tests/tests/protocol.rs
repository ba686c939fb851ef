//! The protocol as seen on the wire. Most tests play one scenario twice, directly against PostgreSQL and
//! through the pooler in transaction mode, and want the same transcript: PostgreSQL is the oracle. What is
//! asserted besides says what the scenario is about and keeps both from being wrong together.

use std::time::Duration;

use pgsluice_tests::oracle::{play, same};
use pgsluice_tests::wire::{message as m, show};
use pgsluice_tests::{APP, Pooler, Postgres, Raw};

#[test]
fn simple_queries() {
    const SQL: [&str; 9] = [
        "SELECT 1 AS a, NULL AS b",
        "",
        "  ;  ",
        "SELECT 1; SELECT 2",
        "SELECT 1; SELEC; SELECT 2",
        "BEGIN",
        "SELECT 1/0",
        "SELECT 1",
        "ROLLBACK",
    ];
    let lines = same(|raw| SQL.iter().flat_map(|sql| show(&raw.query(sql))).collect());
    assert_eq!(lines[..4], ["T a|b", "D 1|NULL", "C SELECT 1", "Z I"]);
    assert_eq!(lines[lines.len() - 4..], ["E 25P02", "Z E", "C ROLLBACK", "Z I"]);
}

#[test]
fn one_multi_statement_query_is_one_transaction() {
    let lines = same(|raw| {
        let mut lines = show(&raw.query("INSERT INTO item VALUES (1, 'a'); INSERT INTO item VALUES (1, 'twice')"));
        lines.extend(show(&raw.query("SELECT count(*) FROM item")));
        lines.extend(show(&raw.query("BEGIN; INSERT INTO item VALUES (2, 'b')")));
        lines.extend(show(&raw.query("COMMIT; SELECT count(*) FROM item; BEGIN")));
        lines.extend(show(&raw.query("ROLLBACK")));
        lines
    });
    assert!(lines.contains(&"E 23505".to_string()) && lines.contains(&"D 0".to_string()), "{lines:?}");
    assert_eq!(lines.iter().filter(|line| *line == "Z T").count(), 2);
}

#[test]
fn ten_thousand_queries_in_one_write() {
    let lines = same(|raw| {
        let bytes: Vec<u8> = (0..10_000).flat_map(|n| m::query(&format!("SELECT {n}"))).collect();
        let writer = raw.send_aside(bytes);
        let mut lines = Vec::new();
        for n in 0..10_000 {
            let replies = show(&raw.until_ready());
            assert_eq!(replies[1], format!("D {n}"), "answers come in order");
            lines.extend(replies);
        }
        writer.join().unwrap().unwrap();
        lines
    });
    assert_eq!(lines.len(), 40_000);
}

#[test]
fn ten_thousand_extended_queries_in_one_write_with_one_sync() {
    let lines = same(|raw| {
        let mut bytes = m::parse("p", "SELECT $1::int", &[]);
        for n in 0..10_000 {
            bytes.extend([m::bind("", "p", &[Some(&n.to_string())]), m::execute("", 0)].concat());
        }
        bytes.extend(m::sync());
        let writer = raw.send_aside(bytes);
        let lines = show(&raw.until_ready());
        writer.join().unwrap().unwrap();
        lines
    });
    assert_eq!(lines.len(), 1 + 3 * 10_000 + 1);
    assert_eq!(lines[lines.len() - 3..], ["D 9999", "C SELECT 1", "Z I"]);
}

#[test]
fn pipelines_with_a_sync_each_and_errors_in_between() {
    let lines = same(|raw| {
        let mut bytes = Vec::new();
        for n in 0..200 {
            let sql = if n % 7 == 3 { "SELECT 1/$1::int" } else { "SELECT $1::int" };
            let value = if n % 7 == 3 { "0".to_string() } else { n.to_string() };
            bytes.extend([m::parse("", sql, &[]), m::bind("", "", &[Some(&value)])].concat());
            bytes.extend([m::describe(b'P', ""), m::execute("", 0), m::sync()].concat());
        }
        let writer = raw.send_aside(bytes);
        let lines = (0..200).flat_map(|_| show(&raw.until_ready())).collect();
        writer.join().unwrap().unwrap();
        lines
    });
    assert_eq!(lines.iter().filter(|line| *line == "E 22012").count(), 29);
    assert!(lines.contains(&"D 198".to_string()));
}

#[test]
fn flush_without_sync_answers_at_once() {
    let lines = same(|raw| {
        let mut lines = Vec::new();
        let mut until = |raw: &mut Raw, batch: Vec<Vec<u8>>, tag: u8| {
            raw.send(&batch.concat()).unwrap();
            lines.extend(show(&raw.until(|reply| reply.tag == tag)));
        };
        // Twice the same name with a Close between: the second Parse may well be on the server already.
        for _ in 0..2 {
            until(raw, vec![m::parse("f", "SELECT $1::text", &[]), m::flush()], b'1');
            until(raw, vec![m::describe(b'S', "f"), m::flush()], b'T');
            until(raw, vec![m::bind("", "f", &[Some("x")]), m::flush()], b'2');
            until(raw, vec![m::execute("", 0), m::flush()], b'C');
            until(raw, vec![m::close(b'S', "f"), m::flush()], b'3');
            until(raw, vec![m::sync()], b'Z');
        }
        lines
    });
    assert_eq!(lines[..8], ["1", "t 25", "T text", "2", "D x", "C SELECT 1", "3", "Z I"]);
    assert_eq!(lines[..8], lines[8..]);
}

#[test]
fn nothing_runs_between_an_error_and_sync() {
    let lines = same(|raw| {
        let insert = |id: &str| [m::bind("", "ins", &[Some(id)]), m::execute("", 0)].concat();
        let mut lines = play(raw, &[m::parse("ins", "INSERT INTO item VALUES ($1::int, 'x')", &[]), m::sync()]);
        raw.send(&[insert("1"), insert("1"), insert("2"), m::flush()].concat()).unwrap();
        lines.extend(show(&raw.until(|reply| reply.tag == b'E')));
        // Skipped, all of it: no reply, no effect, not even for an unknown statement.
        raw.send(&[insert("3"), m::bind("", "nobody", &[]), m::close(b'S', "ins"), m::flush()].concat()).unwrap();
        lines.push(format!("silent: {}", raw.silent_for(Duration::from_millis(100))));
        lines.extend(play(raw, &[m::sync()]));
        lines.extend(show(&raw.query("SELECT count(*) FROM item")));
        // The skipped Close closed nothing.
        lines.extend(play(raw, &[insert("4"), m::sync()]));
        lines
    });
    assert!(lines.contains(&"silent: true".to_string()));
    assert!(lines.contains(&"D 0".to_string()), "the whole batch was one transaction: {lines:?}");
    assert_eq!(lines[lines.len() - 3..], ["2", "C INSERT 0 1", "Z I"]);
}

#[test]
fn portals_with_row_limits() {
    let lines = same(|raw| {
        let mut lines = play(raw, &[m::query("BEGIN")]);
        lines.extend(play(
            raw,
            &[
                m::parse("", "SELECT generate_series(1, 7)", &[]),
                m::bind("c", "", &[]),
                m::describe(b'P', "c"),
                m::execute("c", 3),
                m::sync(),
            ],
        ));
        // Still in the transaction, so the portal lives across Sync, and other queries may go between.
        lines.extend(show(&raw.query("SELECT 'between'")));
        lines.extend(play(raw, &[m::execute("c", 3), m::flush(), m::execute("c", 3), m::sync()]));
        lines.extend(play(raw, &[m::close(b'P', "c"), m::sync()]));
        lines.extend(play(raw, &[m::execute("c", 0), m::sync()]));
        lines.extend(show(&raw.query("ROLLBACK")));
        // Outside a transaction Sync ends it.
        lines.extend(play(raw, &[m::parse("", "SELECT 1", &[]), m::bind("d", "", &[]), m::sync()]));
        lines.extend(play(raw, &[m::execute("d", 0), m::sync()]));
        lines
    });
    assert_eq!(lines.iter().filter(|line| *line == "s").count(), 2, "{lines:?}");
    assert_eq!(lines.iter().filter(|line| *line == "E 34000").count(), 2, "{lines:?}");
}

#[test]
fn describe_of_statements_and_portals() {
    let lines = same(|raw| {
        play(
            raw,
            &[
                m::parse("q", "SELECT $1::int AS n, $2::text AS t", &[]),
                m::parse("nodata", "DELETE FROM item WHERE id = $1", &[]),
                m::parse("typed", "SELECT $1", &[23]),
                m::parse("empty", "", &[]),
                m::describe(b'S', "q"),
                m::describe(b'S', "nodata"),
                m::describe(b'S', "typed"),
                m::describe(b'S', "empty"),
                m::bind("", "q", &[Some("5"), None]),
                m::describe(b'P', ""),
                m::execute("", 0),
                m::bind("", "empty", &[]),
                m::execute("", 0),
                m::sync(),
            ],
        )
    });
    let expected = [
        "1",
        "1",
        "1",
        "1",
        "t 23 25",
        "T n|t",
        "t 23",
        "n",
        "t 23",
        "T ?column?",
        "t",
        "n",
        "2",
        "T n|t",
        "D 5|NULL",
        "C SELECT 1",
        "2",
        "I",
        "Z I",
    ];
    assert_eq!(lines, expected);
}

#[test]
fn close_and_reuse_of_names() {
    let lines = same(|raw| {
        let run = |name: &str| [m::bind("", name, &[]), m::execute("", 0), m::sync()].concat();
        let mut lines = Vec::new();
        for text in ["first", "second", "first"] {
            lines.extend(play(raw, &[m::parse("n", &format!("SELECT '{text}'"), &[]), m::sync()]));
            lines.extend(play(raw, &[run("n")]));
            lines.extend(play(raw, &[m::close(b'S', "n"), m::sync()]));
        }
        lines.extend(play(raw, &[run("n")]));
        lines.extend(play(raw, &[m::close(b'S', "never was"), m::close(b'P', "nor this"), m::sync()]));
        // Closed and prepared anew within one batch.
        lines.extend(play(
            raw,
            &[m::parse("n", "SELECT 'a'", &[]), m::close(b'S', "n"), m::parse("n", "SELECT 'b'", &[]), run("n")],
        ));
        lines
    });
    assert_eq!(lines.iter().filter(|line| *line == "E 26000").count(), 1);
    assert_eq!(lines[lines.len() - 7..], ["1", "3", "1", "2", "D b", "C SELECT 1", "Z I"]);
}

#[test]
fn the_unnamed_statement_lives_across_sync() {
    let lines = same(|raw| {
        let run = [m::bind("", "", &[Some("7")]), m::execute("", 0), m::sync()].concat();
        let mut lines = play(raw, &[m::parse("", "SELECT $1::int", &[]), m::sync()]);
        // Give other sessions time to use the server for their own unnamed statements.
        std::thread::sleep(Duration::from_millis(30));
        lines.extend(play(raw, std::slice::from_ref(&run)));
        std::thread::sleep(Duration::from_millis(30));
        lines.extend(play(raw, std::slice::from_ref(&run)));
        lines.extend(play(raw, &[m::describe(b'S', ""), m::sync()]));
        // A simple query destroys it.
        lines.extend(show(&raw.query("SELECT 'simple'")));
        lines.extend(play(raw, &[run]));
        lines
    });
    assert_eq!(lines.iter().filter(|line| *line == "D 7").count(), 2, "{lines:?}");
    assert_eq!(lines[lines.len() - 2..], ["E 26000", "Z I"]);
}

#[test]
fn unknown_and_duplicate_statements_are_errors_the_connection_survives() {
    let lines = same(|raw| {
        let mut lines = play(raw, &[m::bind("", "ghost", &[]), m::execute("", 0), m::sync()]);
        lines.extend(play(raw, &[m::describe(b'S', "ghost"), m::sync()]));
        lines.extend(play(raw, &[m::parse("twice", "SELECT 1", &[]), m::sync()]));
        lines.extend(play(raw, &[m::parse("twice", "SELECT 2", &[]), m::sync()]));
        lines.extend(play(raw, &[m::bind("", "twice", &[]), m::execute("", 0), m::sync()]));
        lines.extend(play(raw, &[m::parse("bad", "SELEC 1", &[]), m::sync()]));
        // The name of a failed Parse is free.
        lines.extend(play(
            raw,
            &[m::parse("bad", "SELECT 3", &[]), m::bind("", "bad", &[]), m::execute("", 0), m::sync()],
        ));
        lines
    });
    let expected = [
        "E 26000",
        "Z I",
        "E 26000",
        "Z I",
        "1",
        "Z I",
        "E 42P05",
        "Z I",
        "2",
        "D 1",
        "C SELECT 1",
        "Z I",
        "E 42601",
        "Z I",
        "1",
        "2",
        "D 3",
        "C SELECT 1",
        "Z I",
    ];
    assert_eq!(lines, expected);
}

#[test]
fn a_parse_skipped_after_an_error_leaves_its_name_free() {
    let lines = same(|raw| {
        let failing = [m::parse("", "SELECT 1/0", &[]), m::bind("", "", &[]), m::execute("", 0)].concat();
        let mut lines = play(raw, &[failing, m::parse("later", "SELECT 'never'", &[]), m::sync()]);
        lines.extend(play(raw, &[m::bind("", "later", &[]), m::sync()]));
        lines.extend(play(
            raw,
            &[m::parse("later", "SELECT 'now'", &[]), m::bind("", "later", &[]), m::execute("", 0), m::sync()],
        ));
        lines
    });
    assert!(lines.contains(&"E 26000".to_string()) && lines.contains(&"D now".to_string()), "{lines:?}");
}

#[test]
fn deallocate_all_and_discard_all_forget_statements() {
    let lines = same(|raw| {
        let run = |name: &str| [m::bind("", name, &[]), m::execute("", 0), m::sync()].concat();
        let mut lines = Vec::new();
        for forget in ["DEALLOCATE ALL", "DISCARD ALL", "DEALLOCATE PREPARE ALL", "DEALLOCATE a"] {
            lines.extend(play(raw, &[m::parse("a", "SELECT 'a'", &[]), m::sync()]));
            lines.extend(play(raw, &[run("a")]));
            lines.extend(show(&raw.query(forget)));
            lines.extend(play(raw, &[run("a")]));
        }
        // The same through the extended protocol.
        lines.extend(play(raw, &[m::parse("a", "SELECT 'a'", &[]), m::sync()]));
        lines.extend(play(
            raw,
            &[m::parse("", "DEALLOCATE ALL", &[]), m::bind("", "", &[]), m::execute("", 0), m::sync()],
        ));
        lines.extend(play(raw, &[run("a")]));
        lines
    });
    assert_eq!(lines.iter().filter(|line| *line == "E 26000").count(), 5, "{lines:?}");
}

#[test]
fn thousands_of_statements() {
    let lines = same(|raw| {
        let mut lines = Vec::new();
        for block in 0..15 {
            let names: Vec<_> = (0..200).map(|n| block * 200 + n).collect();
            let parses: Vec<u8> =
                names.iter().flat_map(|n| m::parse(&format!("s{n}"), &format!("SELECT {n}"), &[])).collect();
            lines.extend(play(raw, &[parses, m::sync()]));
        }
        for n in (0..3000).step_by(37) {
            lines.extend(play(raw, &[m::bind("", &format!("s{n}"), &[]), m::execute("", 0), m::sync()]));
        }
        lines
    });
    assert!(lines.contains(&"D 2960".to_string()), "{:?}", &lines[lines.len() - 8..]);
}

#[test]
fn two_clients_use_one_name_for_different_texts() {
    let postgres = Postgres::shared();
    let database = postgres.database();
    let pooler = Pooler::url(postgres, APP, &database, &["--pool-size", "1"]);
    let mut clients: Vec<_> = (0..3).map(|_| pooler.connect(APP, &database)).collect();
    for (n, client) in clients.iter_mut().enumerate() {
        assert_eq!(play(client, &[m::parse("same", &format!("SELECT 'client {n}'"), &[]), m::sync()]), ["1", "Z I"]);
    }
    for _ in 0..20 {
        for (n, client) in clients.iter_mut().enumerate() {
            let lines = play(client, &[m::bind("", "same", &[]), m::execute("", 0), m::sync()]);
            assert_eq!(lines, ["2".into(), format!("D client {n}"), "C SELECT 1".into(), "Z I".into()]);
        }
    }
    clients[0].exchange(&[m::close(b'S', "same"), m::sync()].concat());
    let lines = play(&mut clients[1], &[m::bind("", "same", &[]), m::execute("", 0), m::sync()]);
    assert_eq!(lines[1], "D client 1", "one client's Close is not the other's");
}

#[test]
fn function_call() {
    let lines = same(|raw| {
        // int4pl(integer, integer) has oid 177.
        let mut lines = play(raw, &[m::function_call(177, &["40", "2"])]);
        lines.extend(play(raw, &[m::function_call(1, &[])]));
        lines
    });
    assert_eq!(lines[..2], ["V", "Z I"]);
    assert_eq!(lines[2..], ["E 42883", "Z I"]);
}

#[test]
fn bytes_arrive_one_by_one_and_split_at_every_place() {
    let bytes = [
        m::parse("w", "SELECT $1::text || 'x'", &[]),
        m::bind("", "w", &[Some("some value")]),
        m::describe(b'P', ""),
        m::execute("", 0),
        m::close(b'S', "w"),
        m::sync(),
        m::query("SELECT 'after'"),
    ]
    .concat();
    let lines = same(|raw| {
        let mut lines = Vec::new();
        let mut finish = |raw: &mut Raw| {
            let all = [raw.until_ready(), raw.until_ready()].concat();
            lines.extend(show(&all));
        };
        for byte in &bytes {
            raw.send(&[*byte]).unwrap();
        }
        finish(raw);
        for at in 1..bytes.len() {
            raw.send(&bytes[..at]).unwrap();
            std::thread::sleep(Duration::from_millis(1));
            raw.send(&bytes[at..]).unwrap();
            finish(raw);
        }
        lines
    });
    assert_eq!(lines.len(), 11 * bytes.len());
    assert_eq!(lines[..7], ["1", "2", "T ?column?", "D some valuex", "C SELECT 1", "3", "Z I"]);
    assert_eq!(lines[lines.len() - 11..], lines[..11]);
}

#[test]
fn large_values_and_rows_pass() {
    let lines = same(|raw| {
        let value = "v".repeat(3 << 20);
        let batch = [
            m::parse("", "SELECT length($1), md5($1)", &[25]),
            m::bind("", "", &[Some(&value)]),
            m::execute("", 0),
            m::sync(),
        ];
        let writer = raw.send_aside(batch.concat());
        let mut lines = show(&raw.until_ready());
        writer.join().unwrap().unwrap();
        let rows = raw.query("SELECT repeat('r', 5000000), length(repeat('q', 7)) FROM generate_series(1, 3)");
        lines.extend(rows.iter().filter(|reply| reply.tag == b'D').map(|reply| reply.body.len().to_string()));
        lines
    });
    assert!(lines[2].starts_with("D 3145728|"), "{}", lines[2]);
    assert_eq!(lines.len(), 5 + 3);
}
