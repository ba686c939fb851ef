//! The differential test: PostgreSQL is the oracle for any sequence of messages. Three clients do the same directly and
//! through the pooler in transaction mode, where they share two servers, and have to be told the same, byte by byte and
//! step by step. Cases come from a seed or from a file (`tests/differential`, one for every difference ever found).
//!
//! | variable | meaning |
//! |---|---|
//! | `PGSLUICE_DIFF_SEQUENCES` | generated cases per version of PostgreSQL |
//! | `PGSLUICE_DIFF_SEED` | the first seed; `random` for one of the clock |
//! | `PGSLUICE_DIFF_FAILURES` | differences after which a thread gives up; 1 |
//! | `PGSLUICE_DIFF_CASES` | directory of the cases to replay, instead of those kept |

mod case;
mod generate;
mod lane;
mod model;
mod op;
mod run;
mod shrink;
mod sql;

use std::fmt::Write;
use std::time::{Duration, Instant};

pub use case::Case;
pub use lane::Lane;
pub use run::{Verdict, run};

use crate::postgres::{Postgres, Version};
use crate::random::Random;

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
    let outcomes: Vec<_> = threads.into_iter().map(std::thread::JoinHandle::join).collect();
    let log = Postgres::shared_version(version).log();
    if let Some(at) = log.find(") was terminated by signal") {
        let pid = log[..at].rsplit(' ').next().expect("a pid in front");
        let lines: Vec<_> = log[..at].lines().filter(|line| line.contains(&format!("[{pid}]"))).collect();
        let tail = lines[lines.len().saturating_sub(60)..].join("\n");
        panic!("PostgreSQL itself crashed, having logged\n{tail}");
    }
    let mut all = Share::default();
    for outcome in outcomes {
        let share = outcome.expect("a thread ends well");
        all.run += share.run;
        all.excused += share.excused;
        all.found.extend(share.found);
    }
    let seconds = start.elapsed().as_secs_f64();
    let rate = all.run as f64 / seconds;
    eprintln!("{version:?}: {} sequences in {seconds:.1} s, {rate:.0} per second, {} excused", all.run, all.excused);
    assert!(all.found.is_empty(), "{} differences\n{}", all.found.len(), all.found.join("\n"));
    assert!(all.excused * 20 <= all.run, "{} of {} sequences were excused", all.excused, all.run);
}

/// What became of a lane's cases.
#[derive(Default)]
struct Share {
    run: u64,
    excused: u64,
    found: Vec<String>,
}

/// One lane's share of the cases.
fn work(version: Version, plan: Plan, number: usize) -> Share {
    let mut lane = Lane::new(version, LANES[number]);
    let mut share = Share::default();
    // A seed has its lane, wherever a campaign begins.
    let first = (number as u64).wrapping_sub(plan.seed) % LANES.len() as u64;
    for index in (first..plan.sequences).step_by(LANES.len()) {
        let seed = plan.seed.wrapping_add(index);
        let mut random = Random::new(seed);
        let scripts = generate::scripts(&mut random);
        let (case, verdict) = run::run_shuffled(&mut lane, scripts, &mut random);
        share.run += 1;
        match verdict {
            Verdict::Same => {}
            Verdict::Excused => share.excused += 1,
            Verdict::Infeasible => panic!("seed {seed}: its order is one that two servers are enough for"),
            Verdict::Different(difference) => {
                let place = format!("{version:?}, seed {seed}, max_prepared_statements {}", LANES[number]);
                let text = report(&mut lane, &place, &case, &difference);
                eprintln!("{text}");
                share.found.push(text);
                lane.renew();
            }
        }
        if share.found.len() >= plan.failures {
            break;
        }
    }
    share
}

fn report(lane: &mut Lane, place: &str, case: &Case, difference: &run::Difference) -> String {
    let log = lane.log();
    let mut text = format!("==== {place}\n");
    let told = match shrink::shrink(lane, case) {
        Some((small, difference)) => write!(text, "{small}\n{}", difference.text),
        None => {
            let lines: Vec<_> = difference.text.lines().collect();
            let tail = lines[lines.len().saturating_sub(80)..].join("\n");
            write!(text, "(not by this case alone)\n{case}\n…\n{tail}\n")
        }
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
        Verdict::Excused => panic!("{name}: a known difference, not to be kept as a case"),
        Verdict::Infeasible => panic!("{name}: a step needs a server while two clients may hold one each"),
        Verdict::Different(difference) => panic!("{name}\n{case}\n{}", difference.text),
    }
}
