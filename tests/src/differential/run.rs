//! Runs a case directly and through the pooler, and compares what the clients saw, message by message and byte by byte.
//! The direct run says which replies are there after each step; the pooled run has to deliver the same by then.
//!
//! Two servers serve the three clients. A case is played in an order in which no step needs a server while two other
//! clients may hold one.

use std::fmt::{self, Write};
use std::time::Duration;

use crate::postgres::Version;
use crate::wire::Reply;

use super::case::{CLIENTS, Case, Step};
use super::lane::{Event, Lane, Link};
use super::model::Model;
use super::op::Op;
use crate::random::Random;

/// How long a reply may take that is certain to come.
const REPLY_LIMIT: Duration = Duration::from_secs(10);
/// How long an error may take that may come or not: later ones are counted with the client's next step.
const PEEK: Duration = Duration::from_millis(2);

/// What a step showed in the direct run.
#[derive(Clone, Debug, Default)]
struct Trace {
    events: Vec<Event>,
    /// May the client keep a server after it?
    may_hold: bool,
}

/// What was not the same.
#[derive(Debug)]
pub struct Difference {
    /// In words, with both transcripts.
    pub text: String,
}

/// What became of a case.
#[derive(Debug)]
pub enum Verdict {
    /// Both runs were the same.
    Same,
    /// They were not.
    Different(Difference),
    /// They were not, for a reason that is known and cannot be helped; see `is_excused`.
    Excused,
    /// PostgreSQL itself was slower, or faster, than the model of its loop takes it to be, or the model is wrong.
    Unsettled(Difference),
    /// Two servers are not enough for it in this order.
    Infeasible,
}

/// Runs the case in its own order. `limit` is how long the pooler may take for a reply.
pub fn run(lane: &mut Lane, case: &Case, limit: Duration) -> Verdict {
    let steps = closed(case.steps.clone());
    match direct(lane, &steps) {
        Ok(traces) if is_feasible(&steps, &traces) => pooled(lane, &steps, &traces, limit),
        Ok(_) => Verdict::Infeasible,
        Err(difference) => Verdict::Unsettled(difference),
    }
}

/// Runs the case directly only.
pub(super) fn run_direct(lane: &mut Lane, case: &Case) {
    // What is seen is not asked for, only what becomes of PostgreSQL.
    let _ = direct(lane, &closed(case.steps.clone()));
}

/// Interleaves the clients' steps at random, and runs that. Returns the case in the order it was run in.
pub(super) fn run_shuffled(lane: &mut Lane, scripts: Case, random: &mut Random) -> (Case, Verdict) {
    let steps = closed(scripts.steps.clone());
    match direct(lane, &steps) {
        Ok(traces) => {
            let order = interleave(&steps, &traces, random);
            let steps: Vec<_> = order.iter().map(|&at| steps[at].clone()).collect();
            let traces: Vec<_> = order.iter().map(|&at| traces[at].clone()).collect();
            let verdict = pooled(lane, &steps, &traces, REPLY_LIMIT);
            (Case { steps: order.iter().filter_map(|&at| scripts.steps.get(at).cloned()).collect() }, verdict)
        }
        Err(difference) => (scripts, Verdict::Unsettled(difference)),
    }
}

/// Every client that is still there ends what it began, and forgets all.
fn closed(mut steps: Vec<Step>) -> Vec<Step> {
    for client in 0..CLIENTS {
        let mut own = steps.iter().filter(|step| step.client == client).peekable();
        if own.peek().is_some() && !own.any(Step::ends) {
            let ops = vec![
                Op::CopyFail("the end".into()),
                Op::Sync,
                Op::Query("ROLLBACK".into()),
                Op::Query("DISCARD ALL".into()),
            ];
            steps.push(Step { client, ops, ..Step::default() });
        }
    }
    steps
}

fn direct(lane: &mut Lane, steps: &[Step]) -> Result<Vec<Trace>, Difference> {
    let links = lane.prepare_direct();
    let mut models: [Model; CLIENTS] = Default::default();
    let mut traces = Vec::new();
    for (at, step) in steps.iter().enumerate() {
        let (link, model) = (&mut links[step.client], &mut models[step.client]);
        if link.is_closed() {
            traces.push(Trace::default());
            continue;
        }
        model.sent(&step.bytes());
        link.send(step, false);
        let mut events = if step.later { Vec::new() } else { receive_due(link, model) };
        sort_reports(&mut events);
        // What PostgreSQL says behind a Terminate is for nobody.
        let events = if step.ops == [Op::Terminate] { vec![Event::Closed] } else { events };
        if events.last() == Some(&Event::Silence) {
            let mut text = format!("PostgreSQL itself does not answer step {at} as the model of its loop expects\n");
            show(&mut text, &[(step, &events)], "direct");
            return Err(Difference { text });
        }
        let may_hold = !link.is_closed() && (step.later || model.may_hold());
        traces.push(Trace { events, may_hold });
    }
    Ok(traces)
}

/// All that comes without anything more being sent.
fn receive_due(link: &mut Link, model: &mut Model) -> Vec<Event> {
    let mut events = Vec::new();
    while !link.is_closed() {
        let due = model.is_due();
        if !due && !model.is_possible() {
            break;
        }
        let event = link.receive(if due { REPLY_LIMIT } else { PEEK });
        match &event {
            Event::Reply(reply) => model.came(reply),
            Event::Silence if !due => break,
            Event::Silence => {
                events.push(event);
                break;
            }
            Event::Closed => {}
        }
        events.push(event);
    }
    events
}

/// How many other clients may hold a server when a step begins: at most one, and it can get the second.
fn others(may_hold: &[bool; CLIENTS], client: usize) -> usize {
    (0..CLIENTS).filter(|&other| other != client && may_hold[other]).count()
}

fn is_feasible(steps: &[Step], traces: &[Trace]) -> bool {
    let mut may_hold = [false; CLIENTS];
    steps.iter().zip(traces).all(|(step, trace)| {
        let free = others(&may_hold, step.client) < 2;
        may_hold[step.client] = trace.may_hold;
        free
    })
}

/// An order in which each client's steps keep theirs.
fn interleave(steps: &[Step], traces: &[Trace], random: &mut Random) -> Vec<usize> {
    let mut scripts: [Vec<usize>; CLIENTS] = Default::default();
    for (at, step) in steps.iter().enumerate().rev() {
        scripts[step.client].push(at);
    }
    let mut may_hold = [false; CLIENTS];
    let mut order = Vec::new();
    while order.len() < steps.len() {
        let able: Vec<_> =
            (0..CLIENTS).filter(|&client| !scripts[client].is_empty() && others(&may_hold, client) < 2).collect();
        let client = *random.pick(&able);
        let at = scripts[client].pop().expect("those that are able have a step");
        may_hold[client] = traces[at].may_hold;
        order.push(at);
    }
    order
}

fn pooled(lane: &mut Lane, steps: &[Step], traces: &[Trace], limit: Duration) -> Verdict {
    let expected_contents = lane.contents();
    if let Some(client) = lane.talks_on() {
        let text = format!("PostgreSQL itself tells client {client} more than the model of its loop expects\n");
        return Verdict::Unsettled(Difference { text });
    }
    let version = lane.version();
    let links = lane.prepare_pooled();
    for (at, (step, trace)) in steps.iter().zip(traces).enumerate() {
        let link = &mut links[step.client];
        if link.is_closed() {
            continue;
        }
        link.send(step, true);
        let events = receive_same(link, &trace.events, limit);
        let own: Vec<_> =
            (0..=at).filter(|&other| steps[other].client == step.client).map(|other| &traces[other]).collect();
        let unlike = trace.events.iter().zip(&events).position(|(direct, pooled)| !is_same(direct, pooled));
        if unlike.is_some_and(|at| {
            let (direct, pooled) = (&trace.events[at], &events[at]);
            // What it undoes is told with the error that ends it, or before that when the command that failed was ours.
            let later = &trace.events[at..];
            let is_undone = is_report(pooled)
                && (later.iter().any(is_lost_transaction)
                    || (version == Version::V18 && (later.contains(pooled) || loses_transaction(&own))));
            let is_known = is_excused(direct, pooled) || is_fetch(steps, direct, pooled);
            is_known || is_undone || is_behind_suspended(&trace.events[..at], direct, pooled)
        }) {
            lane.disconnect_pooled();
            return Verdict::Excused;
        }
        if !are_same(&trace.events, &events) {
            return Verdict::Different(difference(steps, traces, at, events));
        }
    }
    let contents = lane.contents();
    if contents == expected_contents {
        return Verdict::Same;
    }
    let text = format!("the tables differ\ndirect {expected_contents:?}\npooled {contents:?}\n");
    Verdict::Different(Difference { text })
}

/// As many events as were seen directly, or up to the first that differs and a little of what follows it.
fn receive_same(link: &mut Link, expected: &[Event], limit: Duration) -> Vec<Event> {
    let mut events: Vec<Event> = Vec::new();
    let mut said_why = false;
    for wanted in expected {
        let mut event = link.receive(limit);
        if *wanted == Event::Closed && !said_why {
            while matches!(event, Event::Reply(_)) {
                event = link.receive(limit);
            }
        }
        said_why |= is_fatal(&event);
        // Reports are in order only when all that belong together have come.
        let same = is_same(wanted, &event) || (is_report(wanted) && is_report(&event));
        events.push(event);
        if !same {
            while events.len() < 40 && events.last().is_some_and(|last| matches!(last, Event::Reply(_))) {
                events.push(link.receive(Duration::from_millis(300)));
            }
            break;
        }
    }
    sort_reports(&mut events);
    events
}

/// In which order PostgreSQL 18 reports several parameters depends on what was set in which order ever since the backend
/// was started.
fn sort_reports(events: &mut [Event]) {
    let key = |event: &Event| match event {
        Event::Reply(reply) => reply.body.clone(),
        Event::Closed | Event::Silence => Vec::new(),
    };
    events.chunk_by_mut(|one, other| is_report(one) && is_report(other)).for_each(|reports| reports.sort_by_key(key));
}

fn is_report(event: &Event) -> bool {
    matches!(event, Event::Reply(reply) if reply.tag == b'S')
}

/// Byte by byte the same, but for four things. In a failed transaction the same error comes from another line when a
/// statement had to be prepared first. The rest is about the end of a connection that a client deserved: PostgreSQL closes without a word when a
/// length field is wrong, and keeps what it had not flushed: there, the pooler may say more. And where the pooler speaks the
/// last word itself, it cannot name the line of PostgreSQL's source that would have.
fn is_same(direct: &Event, pooled: &Event) -> bool {
    let told = |reply: &Reply| [b'S', b'C', b'M', b'D', b'H'].map(|code| reply.field(code));
    let place = |reply: &Reply| [b'F', b'L', b'R'].map(|code| reply.field(code)).concat();
    match (direct, pooled) {
        (Event::Reply(one), Event::Reply(other)) if is_failed_block(one) && is_failed_block(other) => {
            told(one) == told(other)
        }
        (Event::Reply(one), Event::Reply(other)) if is_fatal(direct) && is_fatal(pooled) => {
            told(one) == told(other) && (place(one) == place(other) || [one, other].iter().any(|r| place(r).is_empty()))
        }
        (Event::Reply(one), Event::Reply(other)) if is_stray_in_copy(one) && is_stray_in_copy(other) => true,
        _ => direct == pooled,
    }
}

/// PostgreSQL names the type of a message that it finds in the data of a COPY. In front of the client's there may be a
/// message of ours; what matters is that both are the end of the connection.
fn is_stray_in_copy(reply: &Reply) -> bool {
    reply.sqlstate() == "08P01" && reply.field(b'M').starts_with("unexpected message type 0x")
}

/// A statement that the server lacks cannot be prepared there while its transaction has failed: error 25P02, where PostgreSQL
/// finds another reason first, or describes a statement that returns no rows (docs/protocol.md). What follows
/// is another story.
fn is_excused(direct: &Event, pooled: &Event) -> bool {
    // It comes at once, and here when the answer is asked for.
    if is_lost_transaction(direct) || is_lost_transaction(pooled) {
        return true;
    }
    let (Event::Reply(direct), Event::Reply(pooled)) = (direct, pooled) else { return false };
    let described = direct.tag == b't';
    let malformed = direct.sqlstate() == "08P01";
    // When it copies, PostgreSQL looks at the type before the length, and has other words for that; and what it says before
    // it closes can be lost when more is being written to it.
    let broken_length = pooled.sqlstate() == "08P01" && pooled.field(b'M').starts_with("invalid message length");
    let eof_in_copy = direct.sqlstate() == "08006" && direct.field(b'R') == "CopyGetData";
    let broken_in_copy = (broken_length && (eof_in_copy || is_stray_in_copy(direct)))
        || (is_stray_in_copy(direct) && pooled.sqlstate() == "08006");
    broken_in_copy || (pooled.tag == b'E' && pooled.sqlstate() == "25P02" && (described || malformed))
}

/// A FETCH that was prepared when its cursor was another one, or none, returns what it did then. A server that has to
/// prepare it later finds another cursor, and describes it by that.
fn is_fetch(steps: &[Step], direct: &Event, pooled: &Event) -> bool {
    let (Event::Reply(direct), Event::Reply(pooled)) = (direct, pooled) else { return false };
    let fetches = |op: &Op| matches!(op, Op::Parse(_, text, _) if text.starts_with("FETCH "));
    let described = matches!((direct.tag, pooled.tag), (b'n', b'T') | (b'T', b'n'));
    described && steps.iter().flat_map(|s| &s.ops).any(fetches)
}

/// A portal that changes rows and is suspended: the next statement of its batch does not see the changes, unless there is a Parse
/// in front of it, as there is for a statement that the server lacks (`exec_parse_message` in `src/backend/tcop/postgres.c`).
fn is_behind_suspended(before: &[Event], direct: &Event, pooled: &Event) -> bool {
    let (Event::Reply(direct), Event::Reply(pooled)) = (direct, pooled) else { return false };
    let suspended = before.iter().any(|event| matches!(event, Event::Reply(reply) if reply.tag == b's'));
    let of_rows = |reply: &Reply| matches!(reply.tag, b'd' | b'c' | b'D' | b'C');
    suspended && of_rows(direct) && of_rows(pooled)
}

/// Is there an answer that leaves a transaction open, and then one that closes it and says nothing else but what Close does, which
/// begins none? That is a Sync behind a Query behind messages without Sync; see [`is_lost_transaction`].
fn loses_transaction(own: &[&Trace]) -> bool {
    let is_ready =
        |event: &Event, status: u8| matches!(event, Event::Reply(reply) if reply.tag == b'Z' && reply.body == [status]);
    let is_closed = |event: &Event| matches!(event, Event::Reply(reply) if reply.tag == b'3');
    let events: Vec<_> = own.iter().flat_map(|trace| &trace.events).filter(|event| !is_closed(event)).collect();
    events.windows(2).any(|two| is_ready(two[0], b'T') && is_ready(two[1], b'I'))
}

/// PostgreSQL 18 after messages without Sync, a Query and then a Sync: it says that it is ready, and fails the next command that
/// begins a transaction, whosever that is.
fn is_lost_transaction(event: &Event) -> bool {
    let Event::Reply(reply) = event else { return false };
    reply.sqlstate() == "XX000" && reply.field(b'M').starts_with("StartTransactionCommand: unexpected state")
}

fn is_failed_block(reply: &Reply) -> bool {
    reply.tag == b'E' && reply.sqlstate() == "25P02"
}

fn are_same(direct: &[Event], pooled: &[Event]) -> bool {
    direct.len() == pooled.len() && direct.iter().zip(pooled).all(|(direct, pooled)| is_same(direct, pooled))
}

fn is_fatal(event: &Event) -> bool {
    matches!(event, Event::Reply(reply) if reply.tag == b'E' && reply.field(b'V') == "FATAL")
}

fn difference(steps: &[Step], traces: &[Trace], at: usize, events: Vec<Event>) -> Difference {
    let client = steps[at].client;
    let mut text = format!("client {client} was told something else in its step {at}\n");
    let own = steps.iter().zip(traces).take(at + 1).filter(|(step, _)| step.client == client);
    let own: Vec<_> = own.map(|(step, trace)| (step, &trace.events[..])).collect();
    show(&mut text, &own, "direct");
    show(&mut text, &[(&steps[at], &events)], "pooled, from that step");
    let unlike = traces[at].events.iter().zip(&events).find(|(direct, pooled)| direct != pooled);
    if let Some((Event::Reply(direct), Event::Reply(pooled))) = unlike {
        let _ = writeln!(text, "first unlike message\n  direct {}\n  pooled {}", bytes(direct), bytes(pooled));
    }
    Difference { text }
}

fn show(text: &mut String, steps: &[(&Step, &[Event])], title: &str) {
    let _ = writeln!(text, "{title}:");
    for (step, events) in steps {
        for op in &step.ops {
            let _ = writeln!(text, "    > {op}");
        }
        for event in *events {
            let _ = writeln!(text, "    < {event}");
        }
    }
}

fn bytes(reply: &Reply) -> String {
    format!("{} {}", char::from(reply.tag), reply.body.escape_ascii())
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Event::Reply(reply) if reply.tag == b'S' => write!(f, "{}", bytes(reply)),
            Event::Reply(reply) => write!(f, "{reply:?}"),
            Event::Closed => write!(f, "(closed)"),
            Event::Silence => write!(f, "(silence)"),
        }
    }
}
