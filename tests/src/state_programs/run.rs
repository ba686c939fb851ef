//! Runs a program directly and through the pooler, and compares what the clients saw, step by step.

use std::fmt::Write;

use crate::random::Random;

use super::place::{CLIENTS, Place, Side, Trace};
use super::statements::{Step, step};

/// The fewest steps of a program, and how many more there may be.
const STEPS: (usize, usize) = (10, 30);

/// What became of a program.
#[derive(Debug)]
pub(super) enum Verdict {
    /// Both runs were the same.
    Same,
    /// They were not: how.
    Different(String),
    /// They were, up to where the pooler had let a session's sequences go: a client that asks for a value much later is
    /// told that there is none. Or a transaction could not be prepared on a server that others had used for LISTEN or for
    /// temporary objects. See docs/session-state.md.
    Forgotten,
    /// Two servers are not enough for it: why.
    Infeasible(String),
}

/// Makes up a program while it runs directly, then runs it through the pooler.
pub(super) fn made_up(place: &mut Place, random: &mut Random) -> (Vec<Step>, Verdict) {
    let mut model = Model::default();
    let mut steps = Vec::new();
    let mut traces = Vec::new();
    for _ in 0..STEPS.0 + random.below(STEPS.1) {
        let client = match model.keeper {
            Some(keeper) if random.chance(45) => keeper,
            _ => random.below(CLIENTS),
        };
        let step = step(random, client, place.theme, model.may_keep(client), model.in_block[client]);
        let trace = place.direct.perform(&step);
        steps.push(step);
        if let Err(reason) = model.done(&steps[steps.len() - 1], &trace, &mut place.direct) {
            return (steps, Verdict::Infeasible(reason));
        }
        traces.push(trace);
    }
    let verdict = pooled(place, &steps, &traces);
    (steps, verdict)
}

/// Runs a program as it is.
pub(super) fn given(place: &mut Place, steps: &[Step]) -> Verdict {
    let mut model = Model::default();
    let mut traces = Vec::new();
    for step in steps {
        if step.keeps && !model.may_keep(step.client) {
            return Verdict::Infeasible(format!("{step}: two clients would keep a server each"));
        }
        let trace = place.direct.perform(step);
        if let Err(reason) = model.done(step, &trace, &mut place.direct) {
            return Verdict::Infeasible(reason);
        }
        traces.push(trace);
    }
    pooled(place, steps, &traces)
}

/// Who keeps a server, as far as it can be known.
#[derive(Default)]
struct Model {
    keeper: Option<usize>,
    in_block: [bool; CLIENTS],
}

impl Model {
    fn may_keep(&self, client: usize) -> bool {
        self.keeper.is_none_or(|keeper| keeper == client)
    }

    /// A step was done directly.
    fn done(&mut self, step: &Step, trace: &Trace, side: &mut Side) -> Result<(), String> {
        let client = step.client;
        let may_keep = self.may_keep(client);
        self.in_block[client] = trace.in_block();
        let keeps = self.in_block[client] || side.links[client].keeps();
        if keeps && !may_keep {
            return Err(format!("{step}: it keeps a server, too"));
        }
        if keeps {
            self.keeper = Some(client);
        } else if may_keep {
            self.keeper = None;
        }
        Ok(())
    }
}

fn pooled(place: &mut Place, steps: &[Step], traces: &[Trace]) -> Verdict {
    for (at, (step, direct)) in steps.iter().zip(traces).enumerate() {
        let pooled = place.pooled.perform(step);
        let only = |code| pooled.has_failed(code) && !direct.has_failed(code);
        if pooled != *direct && (step.asks_sequences() && only("55000") || step.prepares_transaction() && only("0A000"))
        {
            place.direct.clean();
            place.pooled.clean();
            return Verdict::Forgotten;
        }
        if pooled != *direct {
            return Verdict::Different(difference(at, step, direct, &pooled));
        }
    }
    let direct = place.direct.notifications(None);
    let pooled = place.pooled.notifications(Some(&direct));
    if direct != pooled {
        return Verdict::Different(format!("notifications\n  direct {direct:?}\n  pooled {pooled:?}\n"));
    }
    assert!(place.direct.clean(), "PostgreSQL itself lets sessions end what they began");
    if !place.pooled.clean() {
        return Verdict::Different("in the end DISCARD ALL does not work, or servers are kept\n".into());
    }
    Verdict::Same
}

fn difference(at: usize, step: &Step, direct: &Trace, pooled: &Trace) -> String {
    let mut text = format!("step {at} shows something else: {step}\n");
    for (name, trace, other) in [("direct", direct, pooled), ("pooled", pooled, direct)] {
        let _ = writeln!(text, "  {name} {:?}", trace.lines);
        let own: Vec<_> =
            trace.parameters.iter().filter(|(name, value)| other.parameters.get(*name) != Some(*value)).collect();
        if !own.is_empty() {
            let _ = writeln!(text, "    knows {own:?}");
        }
    }
    text
}
