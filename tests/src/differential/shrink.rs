//! Makes a case that shows a difference as small as it gets: steps, messages, splits and texts are left out one after
//! the other, as long as there still is a difference. Each attempt runs on a fresh pooler.

use std::time::{Duration, Instant};

use super::case::{Case, Split};
use super::lane::Lane;
use super::run::{Difference, Verdict, run};

/// How long a shrink may take in all.
const TIME_LIMIT: Duration = Duration::from_secs(30);
/// How long the pooler may take for a reply: less than usual, as what hangs hangs in every attempt.
const REPLY_LIMIT: Duration = Duration::from_millis(1500);

/// The smallest case found that still differs, and how; `None` when the case alone shows no difference.
pub(super) fn shrink(lane: &mut Lane, case: &Case) -> Option<(Case, Difference)> {
    let start = Instant::now();
    let mut best = (case.clone(), attempt(lane, case)?);
    loop {
        let before = best.0.clone();
        for smaller in [without_steps, without_ops, plainer] {
            let mut at = 0;
            while let Some(candidate) = smaller(&best.0, at) {
                if start.elapsed() > TIME_LIMIT {
                    return Some(best);
                }
                match attempt(lane, &candidate) {
                    Some(difference) => best = (candidate, difference),
                    None => at += 1,
                }
            }
        }
        if best.0 == before {
            return Some(best);
        }
    }
}

fn attempt(lane: &mut Lane, case: &Case) -> Option<Difference> {
    lane.renew();
    match run(lane, case, REPLY_LIMIT) {
        Verdict::Different(difference) => Some(difference),
        Verdict::Same | Verdict::Excused | Verdict::Infeasible | Verdict::Unsettled(_) => None,
    }
}

/// Without the `at`th step from the end; first of all without one of the clients.
fn without_steps(case: &Case, at: usize) -> Option<Case> {
    let mut case = case.clone();
    match at.checked_sub(super::case::CLIENTS) {
        None => {
            let before = case.steps.len();
            case.steps.retain(|step| step.client != at);
            // A client that does nothing already: any smaller case would do, so offer none that is the same.
            if case.steps.len() == before {
                case.steps.clear();
            }
        }
        Some(back) => {
            let index = case.steps.len().checked_sub(back + 1)?;
            case.steps.remove(index);
        }
    }
    Some(case)
}

/// Without the `at`th message from the end.
fn without_ops(case: &Case, at: usize) -> Option<Case> {
    let mut case = case.clone();
    let mut back = at;
    for step in case.steps.iter_mut().rev() {
        if back < step.ops.len() {
            let index = step.ops.len() - 1 - back;
            step.ops.remove(index);
            return Some(case);
        }
        back -= step.ops.len();
    }
    None
}

/// With the `at`th step in one write, and waited for.
fn plainer(case: &Case, at: usize) -> Option<Case> {
    let mut case = case.clone();
    let odd = |step: &&mut super::case::Step| step.later || step.split != Split::Whole;
    let step = case.steps.iter_mut().filter(odd).nth(at)?;
    (step.later, step.split) = (false, Split::Whole);
    Some(case)
}
