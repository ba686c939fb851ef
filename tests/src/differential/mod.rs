//! The differential test: PostgreSQL is the oracle for any sequence of messages. Three clients do the same directly and
//! through the pooler in transaction mode, where they share two servers, and have to be told the same, byte by byte and
//! step by step. Cases come from a seed or from a file (`tests/differential`, one for every difference ever found).
//!
//! | variable | meaning |
//! |---|---|
//! | `PGSLUICE_DIFF_SEQUENCES` | generated cases per version of PostgreSQL |
//! | `PGSLUICE_DIFF_SEED` | the first seed; `random` for one of the clock |
//! | `PGSLUICE_DIFF_FAILURES` | differences after which a thread gives up; 1 |

mod case;
mod generate;
mod lane;
mod model;
mod op;
mod random;
mod run;
mod shrink;
mod sql;

use std::fmt::Write;
use std::time::{Duration, Instant};

pub use case::Case;
pub use lane::Lane;
pub use run::{Verdict, run};

use crate::postgres::Version;
use random::Random;

/// Threads, each with a pooler of its own, and `max_prepared_statements` of each: one keeps hardly any.
const LANES: [usize; 4] = [200, 3, 200, 1];

/// What to run.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Cases.
    pub sequences: u64,
    /// Seed of the first; the others count on from it.
    pub seed: u64,
    /// Differences after which a thread gives up.
    pub failures: usize,
}

impl Plan {
    /// What the environment asks for, or else this many cases from a seed that is always the same.
    pub fn from_env(sequences: u64) -> Plan {
        let number = |name: &str| std::env::var(name).ok().map(|text| text.parse().ok());
        let clock = || std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_nanos() as u64;
        Plan {
            sequences: number("PGSLUICE_DIFF_SEQUENCES").flatten().unwrap_or(sequences),
            seed: number("PGSLUICE_DIFF_SEED").map_or(1, |seed| seed.unwrap_or_else(clock)),
            failures: number("PGSLUICE_DIFF_FAILURES").flatten().unwrap_or(1) as usize,
        }
    }
}

/// Runs generated cases on several threads.
///
/// # Panics
/// When there is a difference: with all of them, made small.
pub fn campaign(version: Version, plan: Plan) {
    eprintln!("{version:?}: {} sequences from seed {}", plan.sequences, plan.seed);
    let start = Instant::now();
    let threads: Vec<_> = (0..LANES.len()).map(|lane| std::thread::spawn(move || work(version, plan, lane))).collect();
    let found: Vec<String> =
        threads.into_iter().flat_map(|thread| thread.join().expect("a thread ends well")).collect();
    let seconds = start.elapsed().as_secs_f64();
    eprintln!("{version:?}: {seconds:.1} s, {:.0} sequences per second", plan.sequences as f64 / seconds);
    assert!(found.is_empty(), "{} differences\n{}", found.len(), found.join("\n"));
}

/// One lane's share of the cases. Returns what was found.
fn work(version: Version, plan: Plan, number: usize) -> Vec<String> {
    let mut lane = Lane::new(version, LANES[number]);
    let mut found = Vec::new();
    for index in (number as u64..plan.sequences).step_by(LANES.len()) {
        let seed = plan.seed.wrapping_add(index);
        let mut random = Random::new(seed);
        let scripts = generate::scripts(&mut random);
        let (case, verdict) = run::run_shuffled(&mut lane, scripts, &mut random);
        if let Verdict::Different(difference) = verdict {
            let place = format!("{version:?}, seed {seed}, max_prepared_statements {}", LANES[number]);
            found.push(report(&mut lane, &place, &case, &difference));
            eprintln!("{}", found.last().expect("just put there"));
            lane.renew();
        }
        if found.len() >= plan.failures {
            break;
        }
    }
    found
}

fn report(lane: &mut Lane, place: &str, case: &Case, difference: &run::Difference) -> String {
    let log = lane.log();
    let mut text = format!("==== {place}\n");
    let told = match shrink::shrink(lane, case) {
        Some((small, difference)) => write!(text, "{small}\n{}", difference.text),
        None => write!(text, "(not by this case alone)\n{case}\n{}", difference.text),
    };
    told.expect("a string takes all");
    let warnings: Vec<_> = log.lines().filter(|line| line.contains("WARN") || line.contains("ERROR")).collect();
    let tail = &warnings[warnings.len().saturating_sub(3)..];
    tail.iter().for_each(|line| writeln!(text, "log: {line}").expect("a string takes all"));
    text
}

/// Runs a kept case.
///
/// # Panics
/// When there is a difference.
pub fn replay(lane: &mut Lane, name: &str, case: &Case) {
    match run(lane, case, Duration::from_secs(10)) {
        Verdict::Same => {}
        Verdict::Infeasible => panic!("{name}: a step needs a server while two clients may hold one each"),
        Verdict::Different(difference) => panic!("{name}\n{case}\n{}", difference.text),
    }
}
