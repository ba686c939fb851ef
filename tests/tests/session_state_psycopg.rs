//! The state of a session through psycopg, feature by feature: directly, which proves the script right, and through a pool
//! of two servers in transaction mode that other clients keep shuffling.

use std::time::Duration;

use pgsluice_tests::program::{python, run};
use pgsluice_tests::session_state::{FINGERPRINT, Failure, Way, both_ways};
use pgsluice_tests::{APP, SUPERUSER, Version};

const SCRIPT: &str = "psycopg_state/check.py";
/// Features that the script knows.
const FEATURES: usize = 47;
const LIMIT: Duration = Duration::from_secs(240);

/// What went wrong with all features, or with one.
fn check(way: &Way, only: Option<&str>) -> Vec<Failure> {
    let (app, superuser) = (way.url(APP), way.url(SUPERUSER));
    let arguments: Vec<_> = [app.as_str(), &superuser, FINGERPRINT].into_iter().chain(only).collect();
    let outcome = run(python(SCRIPT, &arguments), LIMIT);
    let lines = |word: &str| outcome.out.lines().filter_map(|line| line.strip_prefix(word)).collect::<Vec<_>>();
    let failure = |line: &str| {
        let (feature, text) = line.split_once(' ').unwrap_or((line, ""));
        Failure { feature: feature.to_owned(), text: text.to_owned() }
    };
    let mut wrong: Vec<_> = lines("FAIL ").into_iter().map(failure).collect();
    let general = |text: String| Failure { feature: String::new(), text };
    if !outcome.ok || lines("PASS ").len() + wrong.len() != only.map_or(FEATURES, |_| 1) {
        wrong.push(general(format!("the script itself: {outcome:?}")));
    }
    // Neighbours that get no other server than the one that is left over see little.
    let counts: Vec<usize> = lines("LOOKS ").iter().flat_map(|line| line.split(' ')).flat_map(str::parse).collect();
    eprintln!("{}: the neighbours looked {counts:?}", way.name);
    if way.pooled && only.is_none() && !matches!(counts[..], [all, both] if both * 10 >= all) {
        wrong.push(general(format!("the neighbours looked, and found both servers: {counts:?}")));
    }
    wrong
}

#[test]
fn on_the_installed_version() {
    both_ways(Version::Installed, check);
}

#[test]
fn on_version_18() {
    both_ways(Version::V18, check);
}
