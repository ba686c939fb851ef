//! The matrix of states and events, as text that is compared with `snapshots/*.txt` (`PGSLUICE_BLESS=1` rewrites them): a
//! change of what becomes of a message shows up as a line of a diff, to be read with the protocol chapter at hand.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use pgsluice_session::{Plan, Pooling, Progress, Refusal, Server, Session, Settings, Tracking, Violation, Want};
use pgsluice_wire::{BackendWriter, FrontendWriter, Severity, TxStatus};

use crate::model::frontend as f;
use crate::world::{Shared, fresh_server, messages};

/// A session in some state.
struct Bench {
    shared: Shared,
    session: Session,
    server: Option<Server>,
}

type Setup = fn(&mut Bench);

impl Bench {
    fn new(setup: Setup) -> Self {
        let base = Arc::new(Settings::default());
        let session = Session::new(1, Pooling::Transaction, 2, base);
        let mut bench = Self { shared: Shared::new(), session, server: None };
        setup(&mut bench);
        bench
    }

    /// Linked, with statement `a` prepared here.
    fn linked() -> Self {
        Self::new(ready)
    }

    fn client(&mut self, bytes: &[u8]) -> (Result<Progress, Violation>, Plan) {
        let mut plan = Plan::default();
        let progress = self.session.handle_client(self.server.as_mut(), bytes, &mut self.shared.ctx(&mut plan));
        (progress, plan)
    }

    fn server(&mut self, bytes: &[u8]) -> (Result<usize, Violation>, Plan) {
        let mut plan = Plan::default();
        let server = self.server.as_mut().unwrap();
        let taken = self.session.handle_server(server, bytes, &mut self.shared.ctx(&mut plan));
        (taken, plan)
    }

    fn sent(&mut self, bytes: &[u8]) {
        let (progress, _) = self.client(bytes);
        assert_eq!(progress, Ok(Progress { consumed: bytes.len(), want: Want::More }));
    }

    fn received(&mut self, bytes: &[u8]) {
        let (taken, _) = self.server(bytes);
        assert_eq!(taken, Ok(bytes.len()));
    }
}

fn ready(bench: &mut Bench) {
    bench.server = Some(fresh_server());
    bench.sent(&[f::parse("a", "select 1"), f::bare(b'S')].concat());
    bench.received(&[bare(b'1'), idle()].concat());
}

fn mid_batch(bench: &mut Bench) {
    ready(bench);
    bench.sent(&f::parse("", "select 1"));
}

fn skipping(bench: &mut Bench) {
    mid_batch(bench);
    bench.received(&error(Severity::Error));
}

fn copying_in(bench: &mut Bench) {
    ready(bench);
    bench.sent(&f::query("copy in"));
    bench.received(b"G\0\0\0\x09\0\0\x01\0\0");
}

fn unlinked(bench: &mut Bench) {
    ready(bench);
    bench.server = None;
}

fn refused(bench: &mut Bench) {
    unlinked(bench);
    bench.session.handle_refusal(&Refusal::ShuttingDown, &mut Vec::new());
}

fn skip_to_sync(bench: &mut Bench) {
    refused(bench);
    bench.sent(&f::bind("", "a", &[]));
}

fn replaying(bench: &mut Bench) {
    bench.session = Session::new(1, Pooling::Transaction, 2, Arc::new(Settings::default().with("TimeZone", "UTC")));
    bench.server = Some(fresh_server());
    let (progress, plan) = bench.client(b"");
    assert_eq!((progress, tags(&plan.concat(b"")).as_str()), (Ok(Progress { consumed: 0, want: Want::More }), "QQ"));
    bench.received(&[complete("BEGIN"), idle()].concat());
}

fn replaying_and_more(bench: &mut Bench) {
    replaying(bench);
    bench.sent(&f::query("select 1"));
}

/// Nothing but the rows of an audit is still to come.
fn audited(bench: &mut Bench) {
    bench.session = Session::new(1, Pooling::Transaction, 2, Arc::default()).with_tracking(Tracking::default());
    ready(bench);
    bench.sent(&f::query("set x to y"));
    bench.received(&[complete("SET"), idle()].concat());
    let mut out = Vec::new();
    let server = bench.server.as_mut().unwrap();
    assert!(bench.session.wants_audit(server));
    bench.session.write_audit(server, pgsluice_session::Catalog::Unknown, &mut bench.shared.registry, &mut out);
    assert_eq!(tags(&out), "CPBES");
    bench.received(&[bare(b'3'), bare(b'1'), bare(b'2')].concat());
}

fn bare(tag: u8) -> Vec<u8> {
    let mut m = Vec::new();
    BackendWriter(&mut m).bare(tag);
    m
}

fn idle() -> Vec<u8> {
    let mut m = Vec::new();
    BackendWriter(&mut m).ready(TxStatus::Idle);
    m
}

fn complete(tag: &str) -> Vec<u8> {
    let mut m = Vec::new();
    BackendWriter(&mut m).command_complete(tag);
    m
}

fn error(severity: Severity) -> Vec<u8> {
    let mut m = Vec::new();
    BackendWriter(&mut m).report(severity, "XX000", "told", "", "");
    m
}

fn frontend_events() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("Query", f::query("select 1")),
        ("FunctionCall", f::function_call(1)),
        ("Parse unnamed", f::parse("", "select 1")),
        ("Parse new name", f::parse("b", "select 2")),
        ("Parse same content", f::parse("b", "select 1")),
        ("Parse taken name", f::parse("a", "select 2")),
        ("Bind unnamed", f::bind("", "", &[])),
        ("Bind known", f::bind("", "a", &[])),
        ("Bind unknown", f::bind("", "x", &[])),
        ("Bind our name", f::bind("", "pgsluice_1", &[])),
        ("Describe known", f::describe('S', "a")),
        ("Describe unknown", f::describe('S', "x")),
        ("Describe portal", f::describe('P', "")),
        ("Execute", f::execute("", 0)),
        ("Close known", f::close('S', "a")),
        ("Close unknown", f::close('S', "x")),
        ("Close our name", f::close('S', "pgsluice_1")),
        ("Close portal", f::close('P', "")),
        ("Sync", f::bare(b'S')),
        ("Flush", f::bare(b'H')),
        ("CopyData", f::copy_data("x")),
        ("CopyDone", f::bare(b'c')),
        ("CopyFail", f::copy_fail("x")),
        ("Terminate", f::bare(b'X')),
        ("Password", b"p\0\0\0\x05\0".to_vec()),
        ("unknown type", b"!\0\0\0\x04".to_vec()),
    ]
}

fn tags(bytes: &[u8]) -> String {
    messages(bytes).iter().map(|(tag, _)| char::from(*tag)).collect()
}

/// What becomes of a client's message, in a word or two.
fn frontend_outcome(bench: &mut Bench, message: &[u8]) -> String {
    let (progress, plan) = bench.client(message);
    let forwarded = plan.concat(message);
    let mut words = Vec::new();
    if forwarded == message {
        words.push("forward".into());
    } else if !forwarded.is_empty() {
        words.push(format!("send {}", tags(&forwarded)));
    }
    if !plan.reply.is_empty() {
        words.push(format!("answer {}", tags(&plan.reply)));
    }
    match progress {
        Err(_) => words.push("violation".into()),
        Ok(Progress { consumed: 0, want }) => words.push(format!("wait {want:?}").to_lowercase()),
        Ok(_) if words.is_empty() => words.push("discard".into()),
        Ok(_) => {}
    }
    words.join(", ")
}

fn backend_events() -> Vec<(&'static str, Vec<u8>)> {
    let mut status = Vec::new();
    BackendWriter(&mut status).parameter_status(b"TimeZone", b"UTC");
    vec![
        ("ReadyForQuery", idle()),
        ("CommandComplete", complete("SELECT 1")),
        ("DataRow", b"D\0\0\0\x06\0\0".to_vec()),
        ("RowDescription", b"T\0\0\0\x06\0\0".to_vec()),
        ("NoData", bare(b'n')),
        ("ParameterDescription", b"t\0\0\0\x06\0\0".to_vec()),
        ("ParseComplete", bare(b'1')),
        ("BindComplete", bare(b'2')),
        ("CloseComplete", bare(b'3')),
        ("PortalSuspended", bare(b's')),
        ("EmptyQueryResponse", bare(b'I')),
        ("FunctionCallResponse", b"V\0\0\0\x08\xff\xff\xff\xff".to_vec()),
        ("CopyInResponse", b"G\0\0\0\x07\0\0\0".to_vec()),
        ("CopyOutResponse", b"H\0\0\0\x07\0\0\0".to_vec()),
        ("CopyBothResponse", b"W\0\0\0\x07\0\0\0".to_vec()),
        ("CopyData", b"d\0\0\0\x05x".to_vec()),
        ("CopyDone", bare(b'c')),
        ("ErrorResponse", error(Severity::Error)),
        ("ErrorResponse FATAL", error(Severity::Fatal)),
        ("NoticeResponse", error_as_notice()),
        ("NotificationResponse", b"A\0\0\0\x0a\0\0\0\x01x\0\0".to_vec().tap_len()),
        ("ParameterStatus", status),
        ("Authentication", b"R\0\0\0\x08\0\0\0\0".to_vec()),
        ("BackendKeyData", b"K\0\0\0\x0c\0\0\0\x01\0\0\0\x01".to_vec()),
        ("unknown type", b"!\0\0\0\x04".to_vec()),
    ]
}

fn error_as_notice() -> Vec<u8> {
    let mut m = Vec::new();
    BackendWriter(&mut m).report(Severity::Notice, "00000", "told", "", "");
    m
}

trait WithLength {
    fn tap_len(self) -> Self;
}

impl WithLength for Vec<u8> {
    /// The length field set right.
    fn tap_len(mut self) -> Self {
        let len = u32::try_from(self.len() - 1).unwrap();
        self[1..5].copy_from_slice(&len.to_be_bytes());
        self
    }
}

/// What becomes of a server's message, and what is left to be answered.
fn backend_outcome(bench: &mut Bench, message: &[u8]) -> String {
    let (taken, plan) = bench.server(message);
    let shown = plan.concat(message);
    let mut words = match taken {
        Err(_) => return "violation".into(),
        Ok(_) if shown == message => "forward".to_owned(),
        Ok(_) if shown.is_empty() => "hide".to_owned(),
        Ok(_) => format!("tell {}", tags(&shown)),
    };
    let server = bench.server.as_ref().unwrap();
    if server.is_replay_lost() {
        words.push_str(", replay lost");
    } else if server.is_pinned() {
        words.push_str(", pinned");
    } else if server.last_words().is_some() {
        words.push_str(", it goes");
    } else if bench.session.can_release(server) {
        words.push_str(", quiet");
    }
    words
}

/// Columns of the second table: what is owed when the message comes. The first of it is what the column is named for.
const OWED: [(&str, Setup); 17] = [
    ("nothing", ready),
    ("Query", |b| b.after(&f::query("select 1"))),
    ("FunctionCall", |b| b.after(&f::function_call(1))),
    ("Sync", |b| b.after(&f::bare(b'S'))),
    ("Parse unnamed", |b| b.after(&f::parse("", "select 1"))),
    ("Parse named", |b| b.after(&f::parse("b", "select 2"))),
    ("Parse taken", |b| b.after(&f::parse("a", "select 2"))),
    ("Bind", |b| b.after(&f::bind("", "a", &[]))),
    ("Describe S", |b| b.after(&f::describe('S', "a"))),
    ("Describe P", |b| b.after(&f::describe('P', ""))),
    ("Execute", |b| b.after(&f::execute("", 0))),
    ("Close", |b| b.after(&f::close('P', ""))),
    ("copying in", copying_in),
    ("hidden Parse", |b| {
        ready(b);
        b.server = Some(fresh_server());
        b.sent(&f::bind("", "a", &[]));
    }),
    ("replay", replaying),
    ("replay, Query", replaying_and_more),
    ("audit", audited),
];

impl Bench {
    fn after(&mut self, message: &[u8]) {
        ready(self);
        self.sent(message);
    }
}

fn table(columns: &[(&str, Setup)], events: &[(&str, Vec<u8>)], outcome: fn(&mut Bench, &[u8]) -> String) -> String {
    let mut text = String::new();
    for (state, setup) in columns {
        writeln!(text, "{state}").unwrap();
        for (event, message) in events {
            writeln!(text, "    {event:<22}{}", outcome(&mut Bench::new(*setup), message)).unwrap();
        }
    }
    text
}

fn compare(name: &str, table: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/snapshots").join(name);
    if std::env::var_os("PGSLUICE_BLESS").is_some() {
        std::fs::write(&path, table).unwrap();
    }
    let known = std::fs::read_to_string(&path).unwrap_or_default();
    let changed: Vec<_> = table.lines().zip(known.lines()).filter(|(now, then)| now != then).collect();
    assert!(table == known, "{name} is not as it was (PGSLUICE_BLESS=1 rewrites it): {changed:#?}");
}

#[test]
fn frontend_messages_by_state() {
    let columns: [(&str, Setup); 10] = [
        ("unlinked", unlinked),
        ("linked, ready", ready),
        ("linked, Parse unanswered", mid_batch),
        ("linked, server skips to Sync", skipping),
        ("linked, copying in", copying_in),
        ("refused a server", refused),
        ("refused, skipping to Sync", skip_to_sync),
        ("linked, replaying", replaying),
        ("linked, replaying, one Query sent", replaying_and_more),
        ("linked, audited", audited),
    ];
    compare("frontend.txt", &table(&columns, &frontend_events(), frontend_outcome));
}

#[test]
fn backend_messages_by_what_is_owed() {
    compare("backend.txt", &table(&OWED, &backend_events(), backend_outcome));
}

#[test]
fn every_message_is_treated_alike_whole_and_in_pieces() {
    for (event, message) in frontend_events() {
        let mut whole = Bench::linked();
        let outcome = frontend_outcome(&mut whole, &message);
        for cut in 1..message.len() {
            let mut bench = Bench::linked();
            let mut forwarded = Vec::new();
            let (first, plan) = bench.client(&message[..cut]);
            forwarded.extend(plan.concat(&message[..cut]));
            let Ok(Progress { consumed, .. }) = first else { continue };
            let rest = &message[consumed..];
            let (second, plan) = bench.client(rest);
            forwarded.extend(plan.concat(rest));
            assert_eq!(second.is_err(), outcome == "violation", "{event} cut at {cut}");
            let mut again = Bench::linked();
            assert_eq!(forwarded, again.client(&message).1.concat(&message), "{event} cut at {cut}");
        }
    }
}

#[test]
fn writers_of_the_tests_frame_as_ours_do() {
    let mut m = Vec::new();
    FrontendWriter(&mut m).query(b"select 1");
    assert_eq!(m, f::query("select 1"));
}
