//! The console's protocol machine, driven by bytes: the simple and the extended protocol, errors, limits, and hostile
//! input.
#![allow(clippy::unwrap_used, reason = "a panic is how these tests fail")]

use pgsluice_console::{
    Access, Command, Console, Failure, MESSAGE_MAX, NAME_MAX, OUTBOX_MAX, PORTALS_MAX, PoolRow, QUERY_COMMANDS_MAX,
    STATEMENTS_MAX, Snapshot, Subject, Want,
};
use pgsluice_wire::{CommandComplete, DataRow, HEAD_LEN, Head, Report};
use proptest::prelude::*;

/// A console, and a caller that answers everything it wants.
struct Rig {
    console: Console,
    pending: Vec<u8>,
    received: Vec<u8>,
    wants: Vec<Want>,
    fail: Option<Failure>,
}

impl Rig {
    fn new(access: Access) -> Self {
        let (pending, received, wants) = (Vec::new(), Vec::new(), Vec::new());
        Self { console: Console::new(access), pending, received, wants, fail: None }
    }

    fn closed(&self) -> bool {
        self.wants.contains(&Want::Close)
    }

    /// Gives it bytes and answers wants until nothing moves any more.
    fn feed(&mut self, bytes: &[u8]) {
        self.pending.extend(bytes);
        loop {
            let taken = self.console.handle_client(&self.pending);
            assert!(taken <= self.pending.len());
            self.pending.drain(..taken);
            let sent = std::mem::take(self.console.outbox());
            self.received.extend(&sent);
            let want = self.console.poll_want();
            if taken == 0 && sent.is_empty() && want.is_none() {
                return;
            }
            match &want {
                Some(Want::Snapshot(_)) => self.console.handle_snapshot(&snapshot()),
                Some(Want::Run(_)) => self.console.handle_outcome(self.fail.clone().map_or(Ok(()), Err)),
                Some(Want::Close) | None => {}
            }
            self.wants.extend(want);
        }
    }

    /// Feeds, and returns a short form of the answers.
    fn says(&mut self, bytes: &[u8]) -> String {
        self.feed(bytes);
        summary(&std::mem::take(&mut self.received))
    }
}

fn snapshot() -> Snapshot {
    let pool = |user: &str, cl_active| PoolRow { user: user.to_owned(), cl_active, ..PoolRow::default() };
    Snapshot { pools: vec![pool("a", 7), pool("b", 258), pool("c", 9)], ..Snapshot::default() }
}

/// One word per message: its type, and what a test wants to see of it.
fn summary(mut bytes: &[u8]) -> String {
    let mut words = Vec::new();
    while let Some(head) = Head::read(bytes).unwrap() {
        let body = &bytes[HEAD_LEN..head.total()];
        let kind = char::from(head.tag);
        words.push(match kind {
            'E' | 'N' => format!("{kind}:{}", String::from_utf8_lossy(Report::read(body).unwrap().sqlstate())),
            'C' => format!("C:{}", String::from_utf8_lossy(CommandComplete::read(body).unwrap().tag)),
            'D' => format!("D{}", DataRow::new(body).columns().unwrap().len()),
            'T' => format!("T{}", u16::from_be_bytes([body[0], body[1]])),
            _ => kind.to_string(),
        });
        bytes = &bytes[head.total()..];
    }
    assert!(bytes.is_empty(), "only whole messages");
    words.join(" ")
}

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut m = vec![tag];
    m.extend((body.len() as u32 + 4).to_be_bytes());
    m.extend(body);
    m
}

fn query(text: &str) -> Vec<u8> {
    message(b'Q', format!("{text}\0").as_bytes())
}

fn parse(name: &str, text: &str) -> Vec<u8> {
    message(b'P', format!("{name}\0{text}\0\0\0").as_bytes())
}

/// Bind without parameters.
fn bind(portal: &str, statement: &str, formats: &[u16]) -> Vec<u8> {
    let mut body = format!("{portal}\0{statement}\0\0\0\0\0").into_bytes();
    body.extend((formats.len() as u16).to_be_bytes());
    body.extend(formats.iter().flat_map(|f| f.to_be_bytes()));
    message(b'B', &body)
}

fn describe(target: &str) -> Vec<u8> {
    message(b'D', format!("{target}\0").as_bytes())
}

fn execute(portal: &str, max: i32) -> Vec<u8> {
    let mut body = format!("{portal}\0").into_bytes();
    body.extend(max.to_be_bytes());
    message(b'E', &body)
}

fn close(target: &str) -> Vec<u8> {
    message(b'C', format!("{target}\0").as_bytes())
}

fn sync() -> Vec<u8> {
    message(b'S', b"")
}

#[test]
fn simple_queries() {
    let mut rig = Rig::new(Access::Admin);
    assert_eq!(rig.says(&query("show pools")), "T19 D19 D19 D19 C:SHOW Z");
    assert_eq!(rig.wants, [Want::Snapshot(Subject::Pools)]);
    assert_eq!(rig.says(&query("show version;")), "T1 D1 C:SHOW Z");
    assert_eq!(rig.says(&query("")), "I Z");
    assert_eq!(rig.says(&query("-- ping")), "I Z");
    assert_eq!(rig.says(&query("show help")), "N:00000 C:SHOW Z");
    assert_eq!(rig.says(&query("select 1")), "T1 D1 C:SELECT 1 Z");
    assert_eq!(rig.says(&query("begin")), "C:BEGIN Z");
    assert_eq!(rig.says(&query("show peers")), "T4 C:SHOW Z");
    assert_eq!(rig.wants.len(), 1, "the rest needs nobody");
    assert_eq!(rig.says(&query("frob")), "E:08P01 Z");
    assert_eq!(rig.says(&message(b'Q', b"show \xff\0")), "E:22021 Z");
    assert_eq!(rig.says(&message(b'Q', b"no zero")), "E:08P01 Z");
}

#[test]
fn commands_are_returned_and_their_outcome_is_told() {
    let mut rig = Rig::new(Access::Admin);
    assert_eq!(rig.says(&query("set x = 'a b'")), "C:SET x=a b Z");
    assert_eq!(rig.says(&query("pause")), "C:PAUSE Z");
    let set = Command::Set { key: "x".into(), value: "a b".into() };
    assert_eq!(rig.wants, [Want::Run(set), Want::Run(Command::Pause(None))]);
    for (failure, sqlstate, message) in [
        (Failure::Set("no such key".into()), "08P01", "SET failed"),
        (Failure::Reload("line 3".into()), "F0000", "RELOAD failed, see logs for additional details"),
        (Failure::NoSuchDatabase("x".into()), "08P01", "no such database: x"),
        (Failure::AdminDatabase { verb: "pause", database: "p".into() }, "08P01", "cannot pause admin db: p"),
        (Failure::AlreadyPaused, "08P01", "already suspended/paused"),
        (Failure::NotPaused, "08P01", "pooler is not paused/suspended"),
        (Failure::DatabaseNotPaused("x".into()), "08P01", "database x is not paused"),
        (Failure::ShuttingDown, "08P01", "pooler is shutting down"),
        (Failure::ClientNotFound, "08P01", "client not found"),
        (Failure::Canceled, "57014", "canceling statement due to user request"),
    ] {
        rig.fail = Some(failure);
        rig.feed(&query("reload"));
        let body = &rig.received[HEAD_LEN..];
        let end = Head::read(&rig.received).unwrap().unwrap().total() - HEAD_LEN;
        let report = Report::read(&body[..end]).unwrap();
        assert_eq!((report.sqlstate(), report.message()), (sqlstate.as_bytes(), message.as_bytes()));
        assert_eq!(summary(&std::mem::take(&mut rig.received)), format!("E:{sqlstate} Z"));
    }
}

#[test]
fn several_commands_run_in_order_until_one_fails() {
    let mut rig = Rig::new(Access::Admin);
    assert_eq!(rig.says(&query("pause a; show totals; begin; resume a")), {
        let rows = "D2 ".repeat(24);
        format!("C:PAUSE T2 {rows}C:SHOW C:BEGIN C:RESUME Z")
    });
    assert_eq!(rig.wants.len(), 3);
    rig.wants.clear();
    rig.fail = Some(Failure::NotPaused);
    assert_eq!(rig.says(&query("begin; resume; pause")), "C:BEGIN E:08P01 Z");
    assert_eq!(rig.wants, [Want::Run(Command::Resume(None))], "PAUSE never ran");
    rig.wants.clear();
    assert_eq!(rig.says(&query("resume; frob")), "E:08P01 Z");
    assert_eq!(rig.wants, [], "a text with a mistake does not run at all");
}

#[test]
fn who_may_only_look_changes_nothing() {
    let mut rig = Rig::new(Access::Stats);
    assert_eq!(rig.says(&query("pause")), "E:42501 Z");
    assert_eq!(rig.says(&[parse("", "kill"), bind("", "", &[]), execute("", 0), sync()].concat()), "1 2 E:42501 Z");
    assert_eq!(rig.says(&query("show pools; reload; show version")), "T19 D19 D19 D19 C:SHOW E:42501 Z");
    assert_eq!(rig.wants, [Want::Snapshot(Subject::Pools)]);
}

#[test]
fn extended_protocol_in_one_go_and_in_steps() {
    let mut rig = Rig::new(Access::Admin);
    let all = [parse("", "show pools"), bind("", "", &[]), describe("P"), execute("", 0), sync()].concat();
    assert_eq!(rig.says(&all), "1 2 T19 D19 D19 D19 C:SHOW Z");
    // As tokio-postgres and asyncpg do it: prepare first, run many times.
    assert_eq!(rig.says(&[parse("s1", "show pools"), describe("Ss1"), sync()].concat()), "1 t T19 Z");
    for _ in 0..2 {
        let run = [bind("", "s1", &[1]), execute("", 0), sync()].concat();
        assert_eq!(rig.says(&run), "2 D19 D19 D19 C:SHOW Z");
    }
    assert_eq!(rig.says(&[close("Ss1"), sync()].concat()), "3 Z");
    assert_eq!(rig.says(&[bind("", "s1", &[]), sync()].concat()), "E:26000 Z");
    // A command: no columns, runs at Execute only.
    rig.wants.clear();
    let prepare = [parse("", "reload"), describe("S"), bind("", "", &[]), describe("P")].concat();
    assert_eq!(rig.says(&prepare), "1 t n 2 n");
    assert_eq!(rig.wants, []);
    assert_eq!(rig.says(&[execute("", 0), execute("", 0), sync()].concat()), "C:RELOAD E:55000 Z");
    assert_eq!(rig.wants, [Want::Run(Command::Reload)]);
    let empty = [parse("", ""), bind("", "", &[]), describe("P"), execute("", 0), sync()].concat();
    assert_eq!(rig.says(&empty), "1 2 n I Z");
    let help = [parse("", "show help"), bind("", "", &[]), describe("P"), execute("", 0), sync()].concat();
    assert_eq!(rig.says(&help), "1 2 n N:00000 C:SHOW Z");
}

#[test]
fn a_portal_gives_its_rows_in_portions() {
    let mut rig = Rig::new(Access::Admin);
    let open = [parse("", "show pools"), bind("c", "", &[]), execute("c", 2)].concat();
    assert_eq!(rig.says(&open), "1 2 D19 D19 s");
    assert_eq!(rig.says(&execute("c", 2)), "D19 C:SHOW");
    assert_eq!(rig.says(&execute("c", 0)), "C:SHOW");
    assert_eq!(rig.wants.len(), 1, "one snapshot for the portal's life");
    assert_eq!(rig.says(&[sync(), execute("c", 0), sync()].concat()), "Z E:34000 Z");
}

#[test]
fn binary_results_where_they_are_asked_for() {
    let mut rig = Rig::new(Access::Admin);
    // user (text) in binary, cl_active (int4) in binary, all else in text.
    let mut formats = [0u16; 19];
    formats[1] = 1;
    formats[2] = 1;
    rig.feed(&[parse("", "show pools"), bind("", "", &formats), describe("P"), execute("", 0), sync()].concat());
    let mut rows: Vec<Vec<&[u8]>> = Vec::new();
    let mut described = Vec::new();
    let mut rest = &rig.received[..];
    while let Some(head) = Head::read(rest).unwrap() {
        let body = &rest[HEAD_LEN..head.total()];
        match head.tag {
            b'D' => rows.push(DataRow::new(body).columns().unwrap()[1..4].iter().map(|v| v.unwrap()).collect()),
            b'T' => described = body.to_vec(),
            _ => {}
        }
        rest = &rest[head.total()..];
    }
    let want: [Vec<&[u8]>; 3] =
        [vec![b"a", b"\0\0\0\x07", b"0"], vec![b"b", b"\0\0\x01\x02", b"0"], vec![b"c", b"\0\0\0\x09", b"0"]];
    assert_eq!(rows, want);
    let user = [&b"user\0"[..], &[0; 6], &25u32.to_be_bytes(), b"\xff\xff", &[0xff; 4], b"\0\x01"].concat();
    assert!(described.windows(user.len()).any(|w| w == user), "the description names the format");
}

#[test]
fn after_an_error_everything_is_skipped_up_to_sync() {
    let mut rig = Rig::new(Access::Admin);
    let pipeline = [
        parse("", "frob"),
        bind("", "", &[]),
        execute("", 0),
        query("pause"),
        message(b'F', b""),
        sync(),
        query("show version"),
    ]
    .concat();
    assert_eq!(rig.says(&pipeline), "E:08P01 Z T1 D1 C:SHOW Z");
    assert_eq!(rig.wants, []);
    rig.fail = Some(Failure::NotPaused);
    let fails = [parse("", "resume"), bind("", "", &[]), execute("", 0), execute("", 0), sync()].concat();
    assert_eq!(rig.says(&fails), "1 2 E:08P01 Z");
}

#[test]
fn names_bodies_and_formats_are_checked() {
    let mut rig = Rig::new(Access::Admin);
    let mut refused = |parts: &[Vec<u8>]| rig.says(&[&parts.concat()[..], &sync()].concat());
    assert_eq!(refused(&[parse("s", "show pools"), parse("s", "show pools")]), "1 E:42P05 Z");
    assert_eq!(refused(&[bind("p", "s", &[]), bind("p", "s", &[])]), "2 E:42P03 Z");
    assert_eq!(refused(&[bind("p", "s", &[]), close("Pp"), bind("p", "s", &[])]), "2 3 2 Z");
    assert_eq!(refused(&[bind("", "s", &[0, 1])]), "E:08P01 Z");
    assert_eq!(refused(&[bind("", "s", &[2])]), "E:22023 Z");
    assert_eq!(refused(&[message(b'B', b"\0s\0\0\0\0\x01\0\0\0\x01x\0\0")]), "E:08P01 Z", "a parameter");
    assert_eq!(refused(&[message(b'B', b"\0s\0\0\0")]), "E:08P01 Z");
    assert_eq!(refused(&[describe("Sx")]), "E:26000 Z");
    assert_eq!(refused(&[describe("Px")]), "E:34000 Z");
    assert_eq!(refused(&[describe("Q")]), "E:08P01 Z");
    assert_eq!(refused(&[execute("x", 0)]), "E:34000 Z");
    assert_eq!(refused(&[parse("", "pause; resume")]), "E:42601 Z");
    assert_eq!(refused(&[message(b'P', b"s2\0show pools\0\0\x01")]), "E:08P01 Z");
    assert_eq!(refused(&[close("Snone"), close("Pnone")]), "3 3 Z", "closing nothing is no error");
    assert_eq!(refused(&[message(b'F', b"")]), "E:0A000 Z Z");
    assert_eq!(refused(&[message(b'd', b"x"), message(b'c', b""), message(b'f', b"\0"), message(b'H', b"")]), "Z");
}

#[test]
fn statements_can_be_forgotten_by_text() {
    let mut rig = Rig::new(Access::Stats);
    for forget in ["DEALLOCATE ALL", "discard all", "deallocate s", "deallocate prepare \"s\""] {
        assert_eq!(rig.says(&[parse("s", "show pools"), sync(), query(forget)].concat()), {
            format!("1 Z C:{} Z", pgsluice_console::parse(forget).unwrap().tag())
        });
        assert_eq!(rig.says(&[describe("Ss"), sync()].concat()), "E:26000 Z", "{forget}");
    }
    assert_eq!(rig.says(&query("deallocate s")), "E:26000 Z");
}

#[test]
fn limits_hold() {
    let mut rig = Rig::new(Access::Admin);
    rig.feed(&(0..STATEMENTS_MAX).flat_map(|i| parse(&i.to_string(), "show pools")).collect::<Vec<u8>>());
    rig.received.clear();
    assert_eq!(rig.says(&[parse("one more", "show pools"), sync()].concat()), "E:54000 Z");
    assert_eq!(rig.says(&[close("S0"), parse("one more", "show pools"), sync()].concat()), "3 1 Z");

    let portals: Vec<u8> = (0..=PORTALS_MAX).flat_map(|i| bind(&i.to_string(), "1", &[])).collect();
    assert_eq!(rig.says(&[portals, sync()].concat()), format!("{}E:54000 Z", "2 ".repeat(PORTALS_MAX)));

    let long = "n".repeat(NAME_MAX + 1);
    assert_eq!(rig.says(&[parse(&long, ""), sync()].concat()), "E:54000 Z");
    assert_eq!(rig.says(&[bind(&long, "1", &[]), sync()].concat()), "E:54000 Z");

    assert_eq!(rig.says(&query(&"begin;".repeat(QUERY_COMMANDS_MAX + 1))), "E:54000 Z");
    assert!(!rig.closed());
    assert_eq!(rig.says(&query(&" ".repeat(MESSAGE_MAX - 6))), "I Z", "the largest message");
    assert_eq!(rig.says(&query(&" ".repeat(MESSAGE_MAX - 5))), "E:08P01");
    assert!(rig.closed());
}

#[test]
fn a_full_outbox_stops_reading() {
    let mut console = Console::new(Access::Admin);
    let input = query("frob").repeat(20_000);
    let taken = console.handle_client(&input);
    assert!(taken < input.len());
    assert!((OUTBOX_MAX..OUTBOX_MAX + 1000).contains(&console.outbox().len()));
    assert_eq!(console.handle_client(&input[taken..]), 0);
    console.outbox().clear();
    assert!(console.handle_client(&input[taken..]) > 0);
}

#[test]
fn nothing_is_read_while_a_want_is_open() {
    let mut console = Console::new(Access::Admin);
    let input = [query("pause"), query("show version")].concat();
    let taken = console.handle_client(&input);
    assert_eq!(taken, query("pause").len());
    assert_eq!(console.poll_want(), Some(Want::Run(Command::Pause(None))));
    assert_eq!((console.poll_want(), console.handle_client(&input[taken..])), (None, 0));
    console.handle_snapshot(&snapshot());
    assert!(console.outbox().is_empty(), "the wrong answer is none");
    console.handle_outcome(Ok(()));
    console.handle_outcome(Ok(()));
    assert_eq!(summary(console.outbox()), "C:PAUSE Z", "and one answer is enough");
    assert_eq!(console.handle_client(&input[taken..]), input.len() - taken);
}

#[test]
fn the_session_ends() {
    for (bytes, says) in [
        (message(b'X', b""), ""),
        (message(b'p', b"secret\0"), "E:08P01"),
        (b"Q\0\0\0\x03".to_vec(), "E:08P01"),
        (b"Q\x7f\xff\xff\xff".to_vec(), "E:08P01"),
    ] {
        let mut rig = Rig::new(Access::Admin);
        assert_eq!(rig.says(&[&bytes[..], &query("pause")].concat()), says);
        assert_eq!(rig.wants, [Want::Close], "and nothing after it is read");
    }
    let mut rig = Rig::new(Access::Admin);
    assert_eq!(rig.says(&[parse("", "frob"), message(b'X', b"")].concat()), "E:08P01");
    assert!(rig.closed(), "Terminate is heard while skipping");
}

#[test]
fn the_welcome_tells_a_driver_what_it_asks_for() {
    let welcome = |access| {
        let mut console = Console::new(access);
        console.welcome();
        String::from_utf8(console.outbox().clone()).unwrap()
    };
    let text = welcome(Access::Admin);
    for parameter in ["server_version\x0015.0 (pgsluice ", "client_encoding\0UTF8\0", "TimeZone\0UTC\0"] {
        assert!(text.contains(parameter), "{parameter:?}");
    }
    assert!(text.contains("is_superuser\0on\0"));
    assert!(welcome(Access::Stats).contains("is_superuser\0off\0"));
}

fn any_message() -> impl Strategy<Value = Vec<u8>> {
    let text = prop_oneof![
        Just("show pools"),
        Just("pause"),
        Just("show help; select 1"),
        Just("resume; show version; x"),
        Just("discard all"),
        Just("x"),
        Just("")
    ];
    let name = prop_oneof![Just(""), Just("a"), Just("b")];
    prop_oneof![
        text.clone().prop_map(query),
        (name.clone(), text).prop_map(|(n, t)| parse(n, t)),
        (name.clone(), name.clone(), proptest::collection::vec(0u16..3, 0..3)).prop_map(|(p, s, f)| bind(p, s, &f)),
        (any::<bool>(), name.clone()).prop_map(|(s, n)| describe(&format!("{}{n}", if s { 'S' } else { 'P' }))),
        (any::<bool>(), name.clone()).prop_map(|(s, n)| close(&format!("{}{n}", if s { 'S' } else { 'P' }))),
        (name, -1i32..3).prop_map(|(n, max)| execute(n, max)),
        Just(sync()),
        (any::<u8>(), proptest::collection::vec(any::<u8>(), 0..20)).prop_map(|(t, b)| message(t, &b)),
        proptest::collection::vec(any::<u8>(), 0..12),
    ]
}

fn outcome(input: &[u8], cuts: &[prop::sample::Index]) -> (Vec<u8>, Vec<Want>) {
    let mut rig = Rig::new(Access::Admin);
    let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(input.len() + 1)).collect();
    at.sort_unstable();
    at.push(input.len());
    let mut start = 0;
    for end in at {
        rig.feed(&input[start..end]);
        start = end;
    }
    (rig.received, rig.wants)
}

proptest! {
    #[test]
    fn any_split_of_any_input_gives_the_same_answers(
        messages in proptest::collection::vec(any_message(), 0..25),
        cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..20),
    ) {
        let input = messages.concat();
        let whole = outcome(&input, &[]);
        prop_assert_eq!(&outcome(&input, &cuts), &whole);
        summary(&whole.0);
    }

    #[test]
    fn noise_is_survived(input in proptest::collection::vec(any::<u8>(), 0..2000)) {
        outcome(&input, &[]);
    }

    #[test]
    fn any_text_is_parsed_or_refused(text in "\\PC{0,60}", words in "([a-z_]{1,9}|[\"';=*/ -]|show|set|0x){0,8}") {
        let _ = pgsluice_console::parse_all(&text);
        let _ = pgsluice_console::parse_all(&words);
    }
}
