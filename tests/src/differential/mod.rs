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
mod crash;
mod generate;
mod lane;
mod model;
mod op;
mod run;
mod shrink;
mod sql;

use std::fmt::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use case::Case;
pub use lane::Lane;
pub use run::{Verdict, run};

use crate::postgres::Version;
use crate::random::Random;
use crash::{Crashes, Ran};

/// Cases of which the name begins so show a difference that docs/protocol.md lists.
const EXCUSED: &str = "excused-";

/// Threads, each with a pooler of its own, and `max_prepared_statements` of each: one keeps hardly any.
const LANES: [usize; 4] = [200, 3, 200, 1];

/// Cases of a lane that may crash PostgreSQL.
const CRASHES_MAX: usize = 5;
/// How often a long campaign tells how far it is.
const PROGRESS: Duration = Duration::from_secs(60);
/// How often a case is run that is hit by another one's crash.
const ATTEMPTS: usize = 5;

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
    let crashes = Arc::new(Crashes::new(version));
    let lane = |number| {
        let crashes = crashes.clone();
        std::thread::spawn(move || work(version, plan, number, &crashes))
    };
    let threads: Vec<_> = (0..LANES.len()).map(lane).collect();
    let mut all = Share::default();
    for thread in threads {
        let share = thread.join().expect("a thread ends well");
        all.run += share.run;
        all.excused += share.excused;
        all.crashed += share.crashed;
        all.found.extend(share.found);
    }
    let seconds = start.elapsed().as_secs_f64();
    let rate = all.run as f64 / seconds;
    eprintln!(
        "{version:?}: {} sequences in {seconds:.1} s, {rate:.0} per second, {} excused, {} more crashed PostgreSQL",
        all.run, all.excused, all.crashed
    );
    assert!(all.found.is_empty(), "{} differences\n{}", all.found.len(), all.found.join("\n"));
    assert!(all.excused * 20 <= all.run, "{} of {} sequences were excused", all.excused, all.run);
}

/// What became of a lane's cases.
#[derive(Default)]
struct Share {
    run: u64,
    excused: u64,
    crashed: usize,
    found: Vec<String>,
}

/// One lane's share of the cases.
fn work(version: Version, plan: Plan, number: usize, crashes: &Crashes) -> Share {
    let mut lane = (Lane::new(version, LANES[number]), 0);
    let mut share = Share::default();
    let mut said = Instant::now();
    // A seed has its lane, wherever a campaign begins.
    let first = (number as u64).wrapping_sub(plan.seed) % LANES.len() as u64;
    for index in (first..plan.sequences).step_by(LANES.len()) {
        let seed = plan.seed.wrapping_add(index);
        share.run += 1;
        if number == 0 && said.elapsed() >= PROGRESS {
            eprintln!("{version:?}: about {index} sequences so far");
            said = Instant::now();
        }
        match run_seed(version, &mut lane, number, seed, crashes) {
            Fate::Same => {}
            Fate::Excused => share.excused += 1,
            Fate::Crashed => share.crashed += 1,
            Fate::Different(text) => {
                eprintln!("{text}");
                share.found.push(text);
            }
        }
        assert!(share.crashed <= CRASHES_MAX, "PostgreSQL crashes too often");
        if share.found.len() >= plan.failures {
            break;
        }
    }
    share
}

/// What became of a seed's case.
enum Fate {
    Same,
    Excused,
    /// PostgreSQL crashes, and not for us.
    Crashed,
    Different(String),
}

/// The lane comes with the number of crashes that there had been when it was opened.
fn run_seed(
    version: Version,
    (lane, opened_at): &mut (Lane, usize),
    number: usize,
    seed: u64,
    crashes: &Crashes,
) -> Fate {
    let place = format!("{version:?}, seed {seed}, max_prepared_statements {}", LANES[number]);
    for _ in 0..ATTEMPTS {
        let is_good = |fate: &Fate| !matches!(fate, Fate::Different(_));
        let case = |known| {
            // Nothing that was connected before a crash is any more.
            if std::mem::replace(opened_at, known) != known {
                *lane = Lane::new(version, LANES[number]);
            }
            compare(lane, seed, &place)
        };
        if let Ran::Whole(fate) = crashes.guard(is_good, case) {
            return fate;
        }
        let scripts = generate::scripts(&mut Random::new(seed));
        let blamed = crashes.blame(|| {
            *lane = Lane::new(version, LANES[number]);
            run::run_direct(lane, &scripts);
        });
        if let Some(log) = &blamed {
            eprintln!("==== {place}: PostgreSQL itself crashed\n{scripts}\n{log}");
        }
        if blamed.is_some() {
            return Fate::Crashed;
        }
    }
    Fate::Different(format!("==== {place}: PostgreSQL crashes, but not when the clients are connected directly\n"))
}

fn compare(lane: &mut Lane, seed: u64, place: &str) -> Fate {
    let mut attempts = 1..=ATTEMPTS;
    loop {
        let mut random = Random::new(seed);
        let scripts = generate::scripts(&mut random);
        let (case, verdict) = run::run_shuffled(lane, scripts, &mut random);
        match verdict {
            Verdict::Same => return Fate::Same,
            Verdict::Excused => return Fate::Excused,
            Verdict::Infeasible => panic!("seed {seed}: its order is one that two servers are enough for"),
            // A reply that is not certain to come is waited for only so long: a busy machine may need longer.
            Verdict::Unsettled(_) if attempts.next() < Some(ATTEMPTS) => lane.renew(),
            Verdict::Unsettled(difference) | Verdict::Different(difference) => {
                let text = report(lane, place, &case, &difference);
                lane.renew();
                return Fate::Different(text);
            }
        }
    }
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
        Verdict::Excused if name.starts_with(EXCUSED) => {}
        Verdict::Excused => panic!("{name}: a known difference, not to be kept as a case"),
        Verdict::Infeasible => panic!("{name}: a step needs a server while two clients may hold one each"),
        Verdict::Unsettled(difference) | Verdict::Different(difference) => {
            panic!("{name}\n{case}\n{}", difference.text)
        }
    }
}
