//! Logins by libpq 18, which psycopg brings along: one after the other, and what came of each.

use std::time::Duration;

use crate::program::{python, run};

const LIMIT: Duration = Duration::from_secs(120);

/// What came of each connection string: `refused: …`, or what is encrypted, `plain` or `tls`, in front of the pooler and behind it.
///
/// # Panics
/// When the script fails.
pub fn attempt(conninfos: &[String]) -> Vec<String> {
    let arguments: Vec<_> = conninfos.iter().map(String::as_str).collect();
    let outcome = run(python("psycopg_tls/connect.py", &arguments), LIMIT).expect_ok("the script");
    let word = |tls: &serde_json::Value| if tls.as_bool().expect("a boolean") { "tls" } else { "plain" };
    let read = |line: &str| {
        let value: serde_json::Value = serde_json::from_str(line).expect("JSON");
        match value["error"].as_str() {
            Some(error) => format!("refused: {error}"),
            None => format!("{} {}", word(&value["tls"]), word(&value["behind"])),
        }
    };
    outcome.out.lines().map(read).collect()
}
