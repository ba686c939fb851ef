//! psql through transaction mode on three shuffled servers: what its commands print is what they print when it is
//! connected directly, and what they should.

use std::process::Command;
use std::time::{Duration, Instant};

use pgsluice_tests::process::Directory;
use pgsluice_tests::program::{Outcome, psql, run};
use pgsluice_tests::{APP, Postgres, under_shuffle};

const LIMIT: Duration = Duration::from_secs(90);

/// Runs psql with `arguments` in two fresh databases, directly and through the pooler. What it prints must be the same,
/// and is returned.
fn both(arguments: &[&str]) -> Outcome {
    let postgres = Postgres::shared();
    let direct = run(psql(&postgres.url(APP, &postgres.database()), arguments), LIMIT);
    let mut pooled = None;
    under_shuffle(postgres, |pooler, database| {
        pooled = Some(run(psql(&pooler.conninfo(APP, database), arguments), LIMIT));
    });
    let pooled = pooled.expect("the work was done");
    assert_eq!(pooled.out, direct.out, "left: through the pooler, right: direct\n{}{}", pooled.err, direct.err);
    assert_eq!(pooled.err, direct.err, "left: through the pooler, right: direct");
    assert_eq!(pooled.ok, direct.ok);
    pooled
}

/// As [`both`], for the lines of a file, none of which may fail; returns standard output.
fn script(lines: &[&str]) -> String {
    let scratch = Directory::fresh("psql");
    let file = scratch.write("commands.sql", &lines.join("\n"));
    both(&["-f", &file.to_string_lossy()]).expect_ok("psql").out
}

/// As [`script`], for lines of which some fail; returns standard output and standard error.
fn failing_script(lines: &[&str]) -> (String, String) {
    let scratch = Directory::fresh("psql");
    let file = scratch.write("commands.sql", &lines.join("\n"));
    let Outcome { out, err, .. } = both(&["-v", "ON_ERROR_STOP=0", "-f", &file.to_string_lossy()]);
    (out, err)
}

#[test]
fn statements_of_one_and_many_lines() {
    assert_eq!(script(&["SELECT 1;", "SELECT 'two';"]), "1\ntwo\n");
    assert_eq!(script(&["SELECT 1\\; SELECT 2;"]), "1\n2\n", "one message of two statements");
    assert_eq!(script(&["SELECT 1,", "  -- a comment;", "  $$a;", "b$$", ";"]), "1|a;\nb\n");
    assert_eq!(script(&["DO $$ BEGIN", "  PERFORM 1;", "END $$;", "SELECT 'done';"]), "done\n");
}

#[test]
fn transactions() {
    let lines = [
        "CREATE TABLE t (id int);",
        "BEGIN;",
        "INSERT INTO t VALUES (1);",
        "SAVEPOINT s;",
        "INSERT INTO t VALUES (2);",
        "ROLLBACK TO s;",
        "COMMIT;",
        "BEGIN;",
        "INSERT INTO t VALUES (3);",
        "ROLLBACK;",
        "SELECT id FROM t;",
        "\\set AUTOCOMMIT off",
        "INSERT INTO t VALUES (4);",
        "ROLLBACK;",
        "SELECT count(*) FROM t;",
        "COMMIT;",
    ];
    assert_eq!(script(&lines), "1\n1\n");
}

#[test]
fn the_backslash_commands_that_run_queries() {
    assert_eq!(script(&["SELECT 1 AS n, now() AS at \\gdesc"]), "n|integer\nat|timestamp with time zone\n");
    assert_eq!(script(&["SELECT 5 AS five, 'x' AS name \\gset got_", "SELECT :got_five + 1, :'got_name';"]), "6|x\n");
    assert_eq!(script(&["SELECT format('SELECT %s * 10', n) FROM generate_series(1, 3) n \\gexec"]), "10\n20\n30\n");
    let crosstab = "SELECT r, c, r * c FROM generate_series(1, 2) r, generate_series(1, 3) c \\crosstabview";
    assert_eq!(script(&[crosstab]), "1|1|2|3\n2|2|4|6\n");
    let described = script(&["CREATE TABLE shown (id int PRIMARY KEY);", "\\d shown", "\\di"]);
    assert!(described.starts_with("id|integer||not null|") && described.contains("shown_pkey"), "{described}");
    if psql_version() >= 16 {
        assert_eq!(script(&["SELECT $1::int + $2::int \\bind 3 4 \\g"]), "7\n");
    }
}

#[test]
fn rows_fetched_in_portions() {
    let lines =
        ["\\set FETCH_COUNT 100", "SELECT n, repeat('x', 50) FROM generate_series(1, 5000) n;", "SELECT 'end';"];
    let out = script(&lines);
    assert_eq!(out.lines().count(), 5001);
    assert!(out.starts_with("1|xxx") && out.ends_with("end\n"));
}

/// psql before 16 has no count of rounds for `\watch`: there, as well, a query that fails is its end.
#[test]
fn watch_runs_until_its_query_fails() {
    let lines = ["CREATE SEQUENCE s;", "SELECT 12 / (4 - nextval('s')) AS n", "\\watch 0.05", "SELECT 'after';"];
    let scratch = Directory::fresh("psql");
    let file = scratch.write("commands.sql", &lines.join("\n"));
    let postgres = Postgres::shared();
    // The title has the time of day, so nothing is compared with a direct connection.
    under_shuffle(postgres, |pooler, database| {
        let arguments = ["-v", "ON_ERROR_STOP=0", "-f", &file.to_string_lossy()];
        let outcome = run(psql(&pooler.conninfo(APP, database), &arguments), LIMIT);
        let numbers: Vec<_> = outcome.out.lines().filter(|line| line.parse::<u32>().is_ok()).collect();
        assert_eq!(numbers, ["4", "6", "12"], "{outcome:?}");
        assert!(outcome.err.contains("division by zero") && outcome.out.ends_with("after\n"), "{outcome:?}");
    });
}

/// 30 MB each way, as text and as PostgreSQL's binary format.
#[test]
fn copy_of_many_megabytes() {
    let scratch = Directory::fresh("psql");
    let rows: String = (0..300_000).map(|n| format!("{n}\t{n:0>90}\n")).collect();
    let file = scratch.write("rows", &rows);
    let (text, binary) = (scratch.path().join("text"), scratch.path().join("binary"));
    let lines = [
        "CREATE TABLE copied (id int, name text);",
        &format!("\\copy copied FROM '{}'", file.display()),
        &format!("\\copy (SELECT * FROM copied ORDER BY id) TO '{}'", text.display()),
        &format!("\\copy copied TO '{}' WITH (FORMAT binary)", binary.display()),
        "TRUNCATE copied;",
        &format!("\\copy copied FROM '{}' WITH (FORMAT binary)", binary.display()),
        "SELECT count(*), sum(id), sum(name::numeric) FROM copied;",
        "\\copy (SELECT id FROM copied ORDER BY id LIMIT 3) TO STDOUT",
        "\\copy copied (id) FROM STDIN",
        "-1",
        "-2",
        "\\.",
        "SELECT id FROM copied WHERE id < 0 ORDER BY id;",
    ];
    assert_eq!(script(&lines), "300000|44999850000|44999850000\n0\n1\n2\n-2\n-1\n");
    assert!(std::fs::read_to_string(text).unwrap() == rows, "what came back is not what went in");
}

#[test]
fn copy_that_fails_on_the_way() {
    let lines = [
        "CREATE TABLE copied (id int);",
        "\\copy copied FROM STDIN",
        "1",
        "two",
        "\\.",
        "\\copy copied FROM '/no/such/file'",
        "\\copy no_such_table TO STDOUT",
        "\\copy (SELECT 1 / (5 - n) FROM generate_series(1, 10) n) TO STDOUT",
        "SELECT count(*) FROM copied;",
    ];
    let (out, err) = failing_script(&lines);
    assert!(out.ends_with("1\n0\n"), "{out}");
    assert!(["\"two\"", "/no/such/file", "no_such_table", "division"].iter().all(|word| err.contains(word)), "{err}");
}

/// libpq reads and writes large objects by function calls, in a transaction of psql's.
#[test]
fn large_objects_of_many_megabytes() {
    let scratch = Directory::fresh("psql");
    let bytes: Vec<u8> = (0_u32..6_000_000).flat_map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()).collect();
    let (from, to) = (scratch.path().join("from"), scratch.path().join("to"));
    std::fs::write(&from, &bytes).unwrap();
    let lines = [
        &format!("\\lo_import '{}' 'a comment'", from.display()),
        "SELECT sum(length(data)) FROM pg_largeobject WHERE loid = :LASTOID;",
        &format!("\\lo_export :LASTOID '{}'", to.display()),
        "SELECT obj_description(:LASTOID, 'pg_largeobject');",
        "SELECT length(lo_get(:LASTOID, 1000000, 10));",
        "\\lo_unlink :LASTOID",
        "SELECT count(*) FROM pg_largeobject_metadata WHERE oid = :LASTOID;",
    ];
    let file = scratch.write("commands.sql", &lines.map(|line: &str| line.to_owned()).join("\n"));
    // Object ids differ, and pg_largeobject is the superuser's to read.
    under_shuffle(Postgres::shared(), |pooler, database| {
        Postgres::shared().admin(database).run("GRANT SELECT ON pg_largeobject TO app");
        let arguments = ["-f", &*file.to_string_lossy()];
        let out = run(psql(&pooler.conninfo(APP, database), &arguments), LIMIT).expect_ok("psql").out;
        let lines: Vec<_> = out.lines().filter(|line| !line.starts_with("lo_")).collect();
        assert_eq!(lines, ["24000000", "a comment", "10", "0"], "{out}");
    });
    assert!(std::fs::read(to).unwrap() == bytes, "what came back is not what went in");
}

#[test]
fn errors_in_full_and_the_last_one_again() {
    let (out, err) = failing_script(&[
        "\\set VERBOSITY verbose",
        "SELECT 1/0;",
        "SELEC;",
        "\\set VERBOSITY default",
        "SELECT * FROM no_such_table;",
        "\\errverbose",
        "SELECT 'on', :'LAST_ERROR_SQLSTATE', :'ERROR';",
        "DO $$ BEGIN RAISE NOTICE 'told'; RAISE EXCEPTION 'custom' USING ERRCODE = 'AB123', HINT = 'a hint'; END $$;",
        "\\echo :SQLSTATE",
    ]);
    assert_eq!(out, "on|42P01|true\nAB123\n");
    let parts = ["22012", "42601", "42P01", "LINE 1", "LOCATION", "told", "a hint"];
    assert!(parts.iter().all(|part| err.contains(part)), "{err}");
}

#[test]
fn on_error_rollback_saves_the_transaction() {
    let lines = [
        "\\set ON_ERROR_ROLLBACK on",
        "CREATE TABLE t (id int PRIMARY KEY);",
        "BEGIN;",
        "INSERT INTO t VALUES (1);",
        "INSERT INTO t VALUES (1);",
        "INSERT INTO t VALUES (2);",
        "COMMIT;",
        "SELECT id FROM t ORDER BY id;",
    ];
    let (out, err) = failing_script(&lines);
    assert_eq!(out, "1\n2\n");
    assert!(err.contains("t_pkey"), "{err}");
}

#[test]
fn interrupt_cancels_the_query() {
    under_shuffle(Postgres::shared(), |pooler, database| {
        let mut command = Command::new("timeout");
        let client = psql(&pooler.conninfo(APP, database), &["-c", "SELECT pg_sleep(60)"]);
        command.args(["--preserve-status", "--signal=INT", "2"]).arg(client.get_program()).args(client.get_args());
        let start = Instant::now();
        let outcome = run(command, LIMIT);
        assert!(outcome.err.contains("canceling statement due to user request"), "{outcome:?}");
        assert!(!outcome.ok && start.elapsed() < Duration::from_secs(20), "{outcome:?}");
    });
}

fn psql_version() -> u32 {
    let mut command = Command::new(pgsluice_tests::postgres::binary("psql"));
    command.arg("--version");
    let text = run(command, LIMIT).expect_ok("psql").out;
    let version = text.split_whitespace().nth(2).unwrap_or_default();
    version.split('.').next().and_then(|major| major.parse().ok()).unwrap_or(0)
}
