//! Real drivers and tools through transaction mode, on three servers that other clients keep shuffling. Each
//! program does what applications do when they talk to PostgreSQL directly, and must not notice the pooler.

use std::process::Command;
use std::time::Duration;

use pgsluice_tests::process::Directory;
use pgsluice_tests::program::{self, Outcome, pgbench, psql, run};
use pgsluice_tests::{APP, Pooler, Postgres, Shuffle};

const LIMIT: Duration = Duration::from_secs(90);

/// A pool of three under shuffle; `work` gets the pooler and the database's name.
fn under_shuffle(work: impl FnOnce(&Pooler, &str)) {
    let postgres = Postgres::shared();
    let database = postgres.database();
    let pooler = Pooler::url(postgres, APP, &database, &["--pool-size", "3"]);
    let shuffle = Shuffle::start(&pooler, APP, &database, 4);
    work(&pooler, &database);
    assert!(shuffle.finish() > 20, "the background clients got their turns");
    assert!(postgres.backends(&database) <= 4, "three servers and at most one control connection");
}

fn driver(command: impl Fn(&str, &[&str]) -> Command, script: &str, by_url: bool, checks: usize) {
    under_shuffle(|pooler, database| {
        let target = if by_url { pooler.conn_url(APP, database) } else { pooler.conninfo(APP, database) };
        let outcome = run(command(script, &[&target]), LIMIT).expect_ok(script);
        let passed = outcome.out.lines().filter(|line| line.starts_with("PASS ")).count();
        assert_eq!(passed, checks, "{}", outcome.out);
    });
}

#[test]
fn psycopg() {
    driver(program::python, "psycopg_check.py", false, 10);
}

#[test]
fn asyncpg() {
    driver(program::python, "asyncpg_check.py", true, 8);
}

#[test]
fn node_postgres() {
    driver(program::node, "node_postgres_check.mjs", true, 7);
}

#[test]
fn postgres_js() {
    driver(program::node, "postgres_js_check.mjs", true, 5);
}

#[test]
fn psql_commands() {
    under_shuffle(|pooler, database| {
        let (conninfo, scratch) = (pooler.conninfo(APP, database), Directory::fresh("psql"));
        let ask = |sql: &[&str]| {
            let file = scratch.write("commands.sql", &sql.join("\n"));
            run(psql(&conninfo, &["-f", &file.to_string_lossy()]), LIMIT).expect_ok("psql").out
        };
        assert_eq!(ask(&["SELECT 1;", "SELECT 'two';"]), "1\ntwo\n");
        assert_eq!(ask(&["SELECT 1\\; SELECT 2;"]), "1\n2\n", "one message of two statements");
        assert_eq!(ask(&["SELECT 1 AS n, now() AS at \\gdesc"]), "n|integer\nat|timestamp with time zone\n");
        ask(&["CREATE TABLE copied (id int, name text);"]);
        let rows: String = (0..2000).map(|n| format!("{n}\trow {n}\n")).collect();
        let file = scratch.write("rows", &rows);
        ask(&[&format!("\\copy copied FROM '{}'", file.display())]);
        assert_eq!(ask(&["\\copy (SELECT * FROM copied ORDER BY id) TO STDOUT"]), rows);
        assert_eq!(
            ask(&["BEGIN;", "INSERT INTO copied VALUES (-1, 'x');", "ROLLBACK;", "SELECT count(*) FROM copied;"]),
            "2000\n"
        );
        assert!(ask(&["\\dt"]).contains("copied"));
        if psql_version() >= 16 {
            assert_eq!(ask(&["SELECT $1::int + $2::int \\bind 3 4 \\g"]), "7\n");
        }
    });
}

#[test]
fn psql_reports_errors_as_directly() {
    let postgres = Postgres::shared();
    let database = postgres.database();
    let pooler = Pooler::url(postgres, APP, &database, &["--pool-size", "3"]);
    let direct = postgres.url(APP, &database);
    let ask = |conninfo: &str| {
        let arguments = [
            "-v",
            "ON_ERROR_STOP=0",
            "-v",
            "VERBOSITY=verbose",
            "-c",
            "SELECT 1/0",
            "-c",
            "SELEC",
            "-c",
            "SELECT 'on'",
        ];
        let Outcome { out, err, .. } = run(psql(conninfo, &arguments), LIMIT);
        (out, err)
    };
    let (out, err) = ask(&pooler.conninfo(APP, &database));
    assert_eq!((out.as_str(), err.as_str()), (ask(&direct).0.as_str(), ask(&direct).1.as_str()));
    assert!(out.contains("on") && err.contains("22012") && err.contains("42601"), "{out}{err}");
}

#[test]
fn pgbench_in_every_mode() {
    under_shuffle(|pooler, database| {
        let bench = |arguments: &[&str]| {
            let outcome = run(pgbench(pooler.port(), APP, database, arguments), LIMIT).expect_ok("pgbench");
            assert!(!outcome.err.contains("ERROR") && !outcome.err.contains("FATAL"), "{}", outcome.err);
            outcome.out
        };
        bench(&["-i", "-q", "-s", "1"]);
        for mode in ["simple", "extended", "prepared"] {
            for script in ["select-only", "tpcb-like"] {
                // A thread per client: pgbench 15 prepares with a blocking call, so a thread of several clients waits in
                // the queue with one while it holds servers in the transactions of the others, for ever.
                let out = bench(&["-n", "-M", mode, "-b", script, "-c", "12", "-j", "12", "-t", "40"]);
                assert!(out.contains("number of transactions actually processed: 480/480"), "{mode} {script}: {out}");
            }
        }
        // The sums TPC-B keeps are the same everywhere: no transaction was torn or doubled.
        let mut raw = pooler.connect(APP, database);
        let sums = "SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(bbalance) FROM pgbench_branches)
            AND (SELECT sum(tbalance) FROM pgbench_tellers) = (SELECT sum(delta) FROM pgbench_history)
            AND (SELECT count(*) FROM pgbench_history) = 1440";
        assert_eq!(raw.value(sums), "t");
    });
}

fn psql_version() -> u32 {
    let mut command = Command::new(pgsluice_tests::postgres::binary("psql"));
    command.arg("--version");
    let text = run(command, LIMIT).expect_ok("psql").out;
    let version = text.split_whitespace().nth(2).unwrap_or_default();
    version.split('.').next().and_then(|major| major.parse().ok()).unwrap_or(0)
}
