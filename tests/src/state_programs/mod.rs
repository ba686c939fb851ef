//! Random programs over the state of sessions: three clients set, make, lock, listen and roll back, one step at a time.
//! PostgreSQL is the oracle: each program is made up and run on direct connections first, and then has to give the same
//! rows, command tags, errors and notifications through a pooler in transaction mode with two servers.
//!
//! Two servers are enough because at most one client at a time has what keeps its server: a transaction, a temporary table,
//! a lock and the like. PostgreSQL is asked after each direct step whether it has.
//!
//! | variable | meaning |
//! |---|---|
//! | `PGSLUICE_STATE_PROGRAMS` | programs per version of PostgreSQL |
//! | `PGSLUICE_STATE_SEED` | the first seed; `random` for one of the clock |

mod place;
mod run;
mod statements;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::postgres::Version;
use crate::random::Random;
use place::{Place, Theme};
use run::Verdict;
use statements::Step;

/// Threads, each with a pooler of its own: what their programs are about.
const THREADS: [Theme; 3] = [Theme::Sessions, Theme::Sequences, Theme::Sessions];
/// Programs that are remembered for one that shows a difference only behind others.
const HISTORY: usize = 4;
/// How long a program that shows a difference is made smaller.
const SHRINK_LIMIT: Duration = Duration::from_secs(60);

/// What to run.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Programs.
    pub programs: u64,
    /// Seed of the first; the others count on from it.
    pub seed: u64,
}

impl Plan {
    /// What the environment asks for, or else this many programs from a seed that is always the same.
    pub fn from_env(programs: u64) -> Plan {
        let number = |name: &str| std::env::var(name).ok().map(|text| text.parse().ok());
        let clock = || std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_nanos() as u64;
        Plan {
            programs: number("PGSLUICE_STATE_PROGRAMS").flatten().unwrap_or(programs),
            seed: number("PGSLUICE_STATE_SEED").map_or(1, |seed| seed.unwrap_or_else(clock)),
        }
    }
}

/// Runs random programs on several threads.
///
/// # Panics
/// When there is a difference: with the first of each thread, made small.
pub fn campaign(version: Version, plan: Plan) {
    eprintln!("{version:?}: {} programs from seed {}", plan.programs, plan.seed);
    let start = Instant::now();
    let threads: Vec<_> =
        (0..THREADS.len()).map(|number| std::thread::spawn(move || work(version, plan, number))).collect();
    let outcomes = threads.into_iter().map(|thread| thread.join().expect("a thread ends well"));
    let found: Vec<_> = outcomes.flatten().collect();
    eprintln!("{version:?}: {:.1} s", start.elapsed().as_secs_f64());
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// One thread's share; what it found first.
fn work(version: Version, plan: Plan, number: usize) -> Option<String> {
    let theme = THREADS[number];
    let mut place = Place::new(version, theme);
    let (mut forgotten, mut before) = (0, VecDeque::new());
    for index in (number as u64..plan.programs).step_by(THREADS.len()) {
        let seed = plan.seed.wrapping_add(index);
        let mut random = Random::new(seed);
        let (steps, verdict) = run::made_up(&mut place, &mut random);
        match verdict {
            Verdict::Same => {}
            Verdict::Forgotten => forgotten += 1,
            Verdict::Infeasible(text) => return Some(format!("{version:?}, seed {seed}: {text}\n{}", listing(&steps))),
            Verdict::Different(text) => {
                let alone = shrink(&mut place, steps.clone());
                // What a server was told in other programs may matter.
                let history: Vec<_> = before.into_iter().chain([steps.clone()]).flatten().collect();
                let small = alone.or_else(|| shrink(&mut place, history));
                let (steps, text) = small.unwrap_or_else(|| (steps, format!("{text}(not by this program alone)\n")));
                let log = place.log();
                let last: Vec<_> = log.lines().rev().take(3).collect();
                return Some(format!(
                    "==== {version:?}, {theme:?}, seed {seed}\n{}{text}log: {last:#?}",
                    listing(&steps)
                ));
            }
        }
        before.push_back(steps.into_iter().chain((0..place::CLIENTS).flat_map(Step::cleaning)).collect::<Vec<_>>());
        if before.len() > HISTORY {
            before.pop_front();
        }
    }
    eprintln!("{version:?}, {theme:?}: values of sequences were forgotten in {forgotten} programs");
    None
}

fn listing(steps: &[Step]) -> String {
    steps.iter().map(|step| format!("{step}\n")).collect()
}

/// The smallest program found that still differs, and how; `None` when the program alone shows no difference.
fn shrink(place: &mut Place, steps: Vec<Step>) -> Option<(Vec<Step>, String)> {
    let start = Instant::now();
    let mut attempt = |steps: &[Step]| {
        place.renew();
        match run::given(place, steps) {
            Verdict::Different(text) => Some(text),
            Verdict::Same | Verdict::Forgotten | Verdict::Infeasible(_) => None,
        }
    };
    let text = attempt(&steps)?;
    let mut best = (steps, text);
    // Runs of steps first, single ones in the end.
    let mut length = best.0.len() / 2;
    while length > 0 {
        let mut end = best.0.len();
        while end > 0 && start.elapsed() < SHRINK_LIMIT {
            let begin = end.saturating_sub(length);
            let smaller = [&best.0[..begin], &best.0[end..]].concat();
            if let Some(text) = attempt(&smaller) {
                best = (smaller, text);
            }
            end = begin;
        }
        length /= 2;
    }
    Some(best)
}
