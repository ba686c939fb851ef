//! Sessions that listen, and the hub that listens for them, by hand: what each says to whom, and when.

use std::sync::Arc;

use pgsluice_session::{
    Catalog, Channels, Hub, HubEvent, Params, Plan, Pooling, Server, Session, Suspects, Tracking, Want,
};

use crate::model::frontend as f;
use crate::talk::{Pair, backend, error, ready, sync, tags};

/// The process id of the model's backends.
const PID: u32 = 1;

fn notification(pid: u32, channel: &str, payload: &str) -> Vec<u8> {
    let body = [&pid.to_be_bytes()[..], channel.as_bytes(), b"\0", payload.as_bytes(), b"\0"].concat();
    backend(|w| w.notification(&body))
}

fn channels(names: &[&str]) -> Arc<Channels> {
    Arc::new(names.iter().map(|name| name.as_bytes().into()).collect())
}

fn row(columns: [Option<&[u8]>; 3]) -> Vec<u8> {
    backend(|w| w.data_row(columns.into_iter()))
}

/// A hub and its server.
struct Bench {
    hub: Hub,
    server: Server,
}

impl Bench {
    /// Founded by session 1, and set up.
    fn new(names: &[&str]) -> Self {
        let mut params = Params::default();
        params.set("client_encoding", "UTF8").unwrap();
        let mut server = crate::world::fresh_server();
        let mut bench = Self { hub: Hub::new(&mut server, 1, &channels(names)), server };
        assert!(bench.told().ends_with("LISTEN \"pgsluice_1\""));
        assert_eq!(bench.hear(&done()), []);
        bench
    }

    /// What its server is told next.
    fn told(&mut self) -> String {
        let mut out = Vec::new();
        self.hub.write(&mut self.server, &mut out);
        out.get(5..).map(|text| String::from_utf8_lossy(text).trim_end_matches('\0').to_owned()).unwrap_or_default()
    }

    fn hear(&mut self, bytes: &[u8]) -> Vec<(u64, HubEvent)> {
        let taken = self.server.handle_alone(bytes, &mut Plan::default());
        assert_eq!(taken, Ok(bytes.len()));
        self.hub.take(&mut self.server).expect("nothing failed")
    }
}

fn done() -> Vec<u8> {
    [backend(|w| w.command_complete("LISTEN")), ready()].concat()
}

fn heard(message: &[u8]) -> HubEvent {
    HubEvent::Notification(message.into())
}

#[test]
fn a_hub_tells_a_session_of_its_channels_from_its_mark_on() {
    let mut bench = Bench::new(&["a"]);
    bench.hub.join(2, &channels(&["a", "b\"c"]));
    let (a, b) = (notification(7, "a", "x"), notification(7, "b\"c", "y"));
    assert_eq!(bench.hear(&a), [(1, heard(&a))], "not before its mark");
    assert_eq!(bench.told(), "LISTEN \"b\"\"c\";");
    assert_eq!(bench.told(), "", "one thing at a time");
    assert_eq!(bench.hear(&done()), [(2, HubEvent::Joined(b"pgsluice_1".as_slice().into()))]);
    assert_eq!(bench.hear(&[a.clone(), b.clone()].concat()), [(1, heard(&a))]);
    bench.hub.expect(2, 5, 33);
    for (pid, mark) in [(34, "2.5"), (33, "2.4"), (33, "3.5"), (33, "nonsense"), (33, "")] {
        assert_eq!(bench.hear(&notification(pid, "pgsluice_1", mark)), [], "anybody can send these");
    }
    let mark = notification(33, "pgsluice_1", "2.5");
    let both = [mark.clone(), a.clone(), b.clone(), notification(7, "c", "z")].concat();
    let expected = [(2, HubEvent::Mark(5)), (1, heard(&a)), (2, heard(&a)), (2, heard(&b))];
    assert_eq!(bench.hear(&both), expected);
    assert_eq!(bench.hear(&mark), [], "a mark holds once");
    bench.hub.expect(2, 6, 33);
    let back = [notification(33, "pgsluice_1", "2.6"), a.clone(), b].concat();
    assert_eq!(bench.hear(&back), [(2, HubEvent::Mark(6)), (1, heard(&a))]);
    assert!(!bench.hub.has(2) && bench.hub.tidy());
    assert_eq!(bench.told(), "UNLISTEN \"b\"\"c\";");
    bench.hub.leave(1);
    assert!(bench.hub.is_empty());
}

#[test]
fn a_hub_that_cannot_listen_is_lost() {
    let mut bench = Bench::new(&["a"]);
    bench.hub.join(2, &channels(&["b"]));
    bench.told();
    let refused = [error("57014", "canceled"), ready()].concat();
    assert_eq!(bench.server.handle_alone(&refused, &mut Plan::default()), Ok(refused.len()));
    assert_eq!(bench.hub.take(&mut bench.server), None);
}

/// A followed session that an audit found to listen to these.
fn listening(names: &[&str]) -> Pair {
    let mut pair = Pair::new(5);
    pair.session = Session::new(1, Pooling::Transaction, 5, Arc::default()).with_tracking(Tracking::default());
    pair.shared.suspects = Some(Suspects::default());
    pair.client(&f::query("listen"));
    pair.server(&done());
    assert!(pair.session.wants_audit(&pair.server));
    let mut out = Vec::new();
    pair.session.write_audit(&mut pair.server, Catalog::Unknown, &mut pair.shared.registry, &mut out);
    let rows = names.iter().map(|name| row([Some(b"l"), Some(name.as_bytes()), None])).collect::<Vec<_>>().concat();
    let answer = [
        backend(|w| w.bare(b'3')),
        backend(|w| w.bare(b'1')),
        backend(|w| w.bare(b'2')),
        rows,
        backend(|w| w.command_complete("SELECT 1")),
        ready(),
    ];
    assert_eq!(pair.server(&answer.concat()), b"");
    assert_eq!(pair.session.channels(), Some(&channels(names)));
    assert!(pair.session.wants_hub(&pair.server));
    pair
}

fn told(pair: &mut Pair) -> Vec<u8> {
    let mut out = Vec::new();
    pair.session.write_notifications(Some(&pair.server), &mut out);
    out
}

fn news(payload: &str) -> Vec<u8> {
    notification(7, "a", payload)
}

/// One that a hub listens for, and whose server has been given up.
fn on_hub() -> Pair {
    let mut pair = listening(&["a"]);
    pair.session.join();
    assert_eq!(pair.server(&news("native")), news("native"));
    pair.session.hear(HubEvent::Joined(b"marks".as_slice().into())).unwrap();
    assert!(pair.session.wants_move(&pair.server));
    let mut out = Vec::new();
    pair.session.write_move(&mut pair.server, &mut out);
    assert_eq!(out, f::query("LISTEN \"marks\";NOTIFY \"marks\", '1.1'"));
    assert_eq!(pair.session.take_mark(), Some(1));
    assert_eq!(pair.client(&f::query("select 1")).2.want, Want::Server, "nothing goes out before it is there");
    // The hub may be there first: what it tells comes after what the server tells in front of the mark.
    pair.session.hear(HubEvent::Notification(news("early").into())).unwrap();
    pair.session.hear(HubEvent::Mark(1)).unwrap();
    pair.session.hear(HubEvent::Notification(news("second").into())).unwrap();
    let theirs = notification(9, "marks", "8.1");
    let own = notification(PID, "marks", "1.1");
    let said = [theirs, news("first"), own, news("second"), done()].concat();
    assert_eq!(pair.server(&said), news("first"), "the rest is the hub's to tell");
    pair.session.settle_listening(&mut pair.server);
    assert!(pair.session.is_on_hub() && !pair.server.is_pinned() && pair.server.needs_cleaning());
    assert_eq!(told(&mut pair), news("second"));
    pair.server = crate::world::fresh_server();
    pair
}

#[test]
fn each_side_tells_its_part_on_the_way_to_the_hub() {
    let mut pair = on_hub();
    pair.session.hear(HubEvent::Notification(news("in between").into())).unwrap();
    let (sent, _, progress) = pair.client(&f::query("select 1"));
    assert_eq!((sent, progress.want), (f::query("select 1"), Want::More), "what has nothing to do with channels");
    assert_eq!(told(&mut pair), b"", "not between a command and its answer");
    let answer = [backend(|w| w.command_complete("SELECT 1")), ready()].concat();
    let expected = [backend(|w| w.command_complete("SELECT 1")), news("in between"), ready()].concat();
    assert_eq!(pair.server(&answer), expected, "but in front of ReadyForQuery");
}

#[test]
fn each_side_tells_its_part_on_the_way_back() {
    let mut pair = on_hub();
    let (sent, _, progress) = pair.client(&f::query("begin"));
    let replay = [f::query("LISTEN \"a\";LISTEN \"marks\";NOTIFY \"marks\", '1.2'"), f::query("UNLISTEN \"marks\"")];
    assert_eq!((sent, progress.want), (replay.concat(), Want::Server));
    assert_eq!(pair.session.take_mark(), Some(2));
    let own = notification(PID, "marks", "1.2");
    assert_eq!(pair.server(&[news("hub's"), own, news("server's"), done(), done()].concat()), b"");
    pair.session.hear(HubEvent::Notification(news("hub's").into())).unwrap();
    pair.session.settle_listening(&mut pair.server);
    assert_eq!(pair.client(&f::query("begin")).2.want, Want::Server, "the hub is not there yet");
    pair.session.hear(HubEvent::Mark(2)).unwrap();
    pair.session.settle_listening(&mut pair.server);
    assert_eq!(told(&mut pair), [news("hub's"), news("server's")].concat());
    assert_eq!(pair.client(&f::query("begin")).0, f::query("begin"));
    pair.session.hear(HubEvent::Notification(news("too late").into())).unwrap();
    assert_eq!(pair.server(&news("native")), news("native"));
    assert_eq!(told(&mut pair), b"");
}

#[test]
fn what_may_concern_channels_runs_where_they_are() {
    let runs = |text: &str| [f::parse("", text), f::bind("", "", &[]), f::execute("", 0)].concat();
    let batch = |texts: &[&str]| [texts.iter().map(|t| runs(t)).collect::<Vec<_>>().concat(), sync()].concat();
    let goes_on = |bytes: &[u8]| on_hub().client(bytes).2.want == Want::More;
    assert!(goes_on(&f::query("select 1; insert into t values (1)")) && goes_on(&batch(&["select 1", "select 2"])));
    for text in [
        "listen b",
        "unlisten *",
        "discard all",
        "begin",
        "do $$ $$",
        "select 1; select pg_listening_channels()",
        "set client_encoding to latin1",
    ] {
        assert!(!goes_on(&f::query(text)), "{text}");
        assert!(!goes_on(&batch(&[text])) && !goes_on(&batch(&["select 1", text])), "{text}");
    }
    let unfinished = batch(&["select 1"]);
    assert!(!goes_on(&unfinished[..unfinished.len() - 5]), "what follows is not known");
    assert!(!goes_on(&f::query("select 1")[..12]));
    assert!(!goes_on(&[f::bind("", "unknown", &[]), sync()].concat()));
}

#[test]
fn a_hub_that_is_lost_ends_whom_it_told() {
    assert!(on_hub().session.hear(HubEvent::Lost).is_err());
    let mut pair = listening(&["a"]);
    pair.session.join();
    pair.session.hear(HubEvent::Lost).unwrap();
    assert!(pair.session.wants_hub(&pair.server), "its server has told it everything");
    pair.session.join();
    pair.session.hear(HubEvent::Joined(b"marks".as_slice().into())).unwrap();
    pair.session.write_move(&mut pair.server, &mut Vec::new());
    let failed = [error("57014", "canceled"), ready()].concat();
    assert_eq!(pair.server(&failed), b"", "it is not told of a move that failed");
    assert!(pair.session.take_left_hub() && !pair.session.is_switching() && !pair.session.wants_hub(&pair.server));
    assert_eq!(pair.server(&news("native")), news("native"));
    assert_eq!(tags(&pair.client(&f::query("select 1")).0), "Q");
}
