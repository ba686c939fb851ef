//! Real drivers and tools through transaction mode, on three servers that other clients keep shuffling. Each
//! program does what applications do when they talk to PostgreSQL directly, and must not notice the pooler.

use std::process::Command;
use std::time::Duration;

use pgsluice_tests::program::{self, run};
use pgsluice_tests::{APP, Postgres, under_shuffle};

const LIMIT: Duration = Duration::from_secs(90);

fn driver(command: impl Fn(&str, &[&str]) -> Command, script: &str, by_url: bool, checks: usize) {
    under_shuffle(Postgres::shared(), |pooler, database| {
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
