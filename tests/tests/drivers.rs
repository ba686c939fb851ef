//! Drivers of other languages through transaction mode, on three servers that other clients keep shuffling. Each
//! program does what applications do when they talk to PostgreSQL directly, and must not notice the pooler.

use std::process::Command;
use std::time::Duration;

use pgsluice_tests::program::{self, run};
use pgsluice_tests::{APP, Postgres, Version, under_shuffle};

const LIMIT: Duration = Duration::from_secs(90);

/// Runs `script` with every PostgreSQL, in a fresh database each time: directly, which proves the script right, then
/// through the pooler. It has to pass `checks` of its checks.
fn driver(command: impl Fn(&str, &[&str]) -> Command, script: &str, checks: usize) {
    let check = |url: &str, way: &str| {
        let what = format!("{script} {way}");
        let outcome = run(command(script, &[url]), LIMIT).expect_ok(&what);
        let passed = outcome.out.lines().filter(|line| line.starts_with("PASS ")).count();
        assert_eq!(passed, checks, "{what}: {}", outcome.out);
    };
    for version in Version::ALL {
        let postgres = Postgres::shared_version(version);
        check(&postgres.url(APP, &postgres.database()), "directly");
        under_shuffle(postgres, |pooler, database| check(&pooler.conn_url(APP, database), "through the pooler"));
    }
}

#[test]
fn psycopg() {
    driver(program::python, "psycopg_check.py", 18);
}

#[test]
fn libpq() {
    driver(program::python, "libpq_check.py", 13);
}

#[test]
fn asyncpg() {
    driver(program::python, "asyncpg_check.py", 15);
}

#[test]
fn node_postgres() {
    driver(program::node, "node_postgres_check.mjs", 14);
}

#[test]
fn postgres_js() {
    driver(program::node, "postgres_js_check.mjs", 16);
}

#[test]
fn jdbc() {
    driver(program::java, "JdbcCheck.java", 17);
}

#[test]
fn pgx() {
    driver(program::go, "pgx_check.go", 11);
}
