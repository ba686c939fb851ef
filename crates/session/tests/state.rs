//! The state of followed sessions: what is replayed and how, what pins and un-pins, and what is done about it.

use std::sync::Arc;

use pgsluice_session::{
    AfterLoss, Audit, Cleanup, PinPolicy, PinReason, Plan, Pooling, Progress, Refusal, Session, Settings, Suspects,
    Tracking, Want,
};
use pgsluice_wire::TxStatus;

use crate::model::{Fault, frontend as f};
use crate::talk::{Pair, Talk, backend, begun, error, errors, ready, replaying, run, sync, tags, values};
use crate::world::{Dice, Link, World, clean, fresh_server};

fn with_policy(reason: PinReason, policy: PinPolicy) -> Tracking {
    let mut tracking = Tracking::default();
    tracking.policies[reason as usize] = policy;
    tracking
}

fn complete(tag: &str) -> Vec<u8> {
    backend(|w| w.command_complete(tag))
}

/// What the client says is sent behind the replay's two Queries, or not yet.
fn check_behind_replay(bytes: &[u8], behind: &str) {
    let (_, sent, progress) = replaying(bytes);
    assert_eq!(tags(&sent), format!("QQ{behind}"), "{}", bytes.escape_ascii());
    let waits = Progress { consumed: 0, want: Want::Server };
    assert_eq!(progress == waits, behind.is_empty(), "{progress:?}: {}", bytes.escape_ascii());
}

#[test]
fn what_cannot_end_a_block_goes_out_with_the_replay_and_what_can_waits() {
    for text in ["select 1", "", "insert into t values (1)", "begin", "savepoint a", "lock t"] {
        check_behind_replay(&f::query(text), "Q");
        let batch = [f::parse("", text), f::bind("", "", &[]), f::describe('P', ""), f::execute("", 0), sync()];
        check_behind_replay(&batch.concat(), "PBDES");
    }
    for text in
        ["commit", "select 1; COMMIT", "rollback to a", "select 1;end", "abort", "/**/ end", "prepare transaction 'x'"]
    {
        check_behind_replay(&f::query(text), "");
        check_behind_replay(&f::parse("", text), "");
    }
    check_behind_replay(&f::function_call(1), "F");
    // Half of a text is not known to be harmless.
    check_behind_replay(&f::query("select 1")[..10], "");
}

#[test]
fn statements_that_end_a_block_wait_when_they_are_bound() {
    let base = Arc::new(Settings::default().with("TimeZone", "Mars"));
    for (text, name, goes) in
        [("commit", "", false), ("commit", "a", false), ("select 1", "", true), ("select 1", "a", true)]
    {
        let mut pair = Pair::new(5);
        pair.session = Session::new(1, Pooling::Transaction, 5, base.clone());
        pair.client(b"");
        pair.server(&[begun(), complete("SELECT 1"), complete("COMMIT"), ready()].concat());
        pair.client(&[f::parse(name, text), sync()].concat());
        pair.server(&[b"1\0\0\0\x04".to_vec(), ready()].concat());
        // Another server, and what it lacks comes with a replay.
        pair.server = fresh_server();
        let (sent, _, progress) = pair.client(&run(name).concat());
        assert_eq!(tags(&sent), if goes { "QQPBES" } else { "QQ" }, "{text} as {name:?}");
        assert_eq!(progress.consumed > 0, goes);
    }
}

#[test]
fn one_batch_goes_out_with_the_replay_and_the_next_waits_for_its_answer() {
    let batch = [f::parse("", "select 1"), f::bind("", "", &[]), f::execute("", 0), sync()].concat();
    let (mut pair, sent, progress) = replaying(&[&batch[..], &batch].concat());
    assert_eq!((tags(&sent).as_str(), progress), ("QQPBES", Progress { consumed: batch.len(), want: Want::Server }));
    assert!(pair.server(&[begun(), complete("SELECT 1"), complete("COMMIT"), ready()].concat()).is_empty());
    assert_eq!(tags(&pair.client(&batch).0), "PBES", "it is known to have succeeded");
}

#[test]
fn after_a_replay_that_failed_or_under_a_time_limit_the_replay_is_waited_for() {
    let wanted = Arc::new(Settings::default().with("TimeZone", "Mars"));
    let wait = Progress { consumed: 0, want: Want::Server };
    let mut pair = Pair::new(5);
    pair.session = Session::new(1, Pooling::Transaction, 5, wanted.clone());
    pair.session.be_careful();
    assert_eq!(pair.client(&f::query("select 1")).2, wait);
    for limit in ["statement_timeout", "transaction_timeout"] {
        let mut pair = Pair::new(5);
        let hasty = Arc::new(Settings::default().with(limit, "1"));
        Session::new(2, Pooling::Transaction, 5, hasty).replay(&mut pair.server, &mut Vec::new());
        let answers = [begun(), complete("SELECT 1"), complete("COMMIT"), ready()].concat();
        pair.server.handle_alone(&answers, &mut Plan::default()).unwrap();
        pair.session = Session::new(1, Pooling::Transaction, 5, wanted.clone());
        assert_eq!(pair.client(&f::query("select 1")).2, wait);
        // It may run out of time nevertheless: not this client's fault, and not a server to keep.
        pair.server(&[begun(), error("57014", "statement timeout"), backend(|w| w.ready(TxStatus::Failed))].concat());
        assert!(pair.server.take_own_error().is_none() && pair.server.take_reset_failed());
        assert_eq!(pair.server.clean(&mut Vec::new()), Cleanup::Hopeless);
    }
}

#[test]
fn a_begin_that_fails_is_nobodys_error() {
    let (mut pair, ..) = replaying(&f::query("select 1"));
    let late = [error("57014", "canceled"), ready(), complete("SELECT 1"), complete("COMMIT"), ready()].concat();
    assert!(pair.server(&late).is_empty());
    assert!(!pair.server.is_replay_lost() && pair.server.take_own_error().is_none());
    assert_eq!(tags(&pair.server(&[complete("SELECT 1"), ready()].concat())), "CZ");
    // What had been sent by then fails, if all fails.
    let mut plan = Plan::default();
    let (mut pair, ..) = replaying(&[f::parse("", "select 1"), f::bind("", "", &[])].concat());
    pair.server(&[error("57014", "canceled"), ready()].concat());
    assert_eq!(pair.client(&f::execute("", 0)).2, Progress { consumed: 0, want: Want::Server });
    let ctx = &mut pair.shared.ctx(&mut plan);
    pair.session.handle_server(&mut pair.server, &error("57014", "canceled"), ctx).unwrap();
    assert!(plan.is_empty() && pair.server.is_replay_lost());
    // Behind a block that is none nothing is sent.
    let (mut pair, ..) = replaying(b"");
    pair.server(&[error("57014", "canceled"), ready()].concat());
    assert_eq!(pair.client(&f::query("select 1")).2, Progress { consumed: 0, want: Want::Server });
}

#[test]
fn settings_follow_their_client_and_nobody_else() {
    let mut talk = Talk::followed(2, 2, Tracking::default());
    talk.ask(0, &["set app.x one", "begin", "set local app.x two", "set work_mem 7", "commit"]);
    talk.ask(0, &["begin", "set app.x lost", "rollback"]);
    talk.ask(0, &["select set_config('app.x','it''s\n\\ \u{e9}',true)", "set role r"]);
    for _ in 0..2 {
        assert!(talk.world.clients[0].link.is_none());
        talk.world.idle.rotate_left(1);
        let seen = talk.ask(0, &["show app.x; show work_mem; show role"]);
        assert_eq!(values(&seen), ["one", "7", "r"]);
        assert_eq!(values(&talk.ask(1, &["show app.x; show work_mem; show role"])), ["", "", "none"]);
    }
    talk.ask(0, &["select set_config('app.x','it''s\n\\ \u{e9}',false)", "set session authorization u"]);
    talk.world.idle.rotate_left(1);
    let seen = talk.ask(0, &["show app.x; show session_authorization; show role"]);
    assert_eq!(values(&seen), ["it's\n\\ \u{e9}", "u", "none"]);
    talk.ask(0, &["reset all", "set session authorization default"]);
    talk.world.idle.rotate_left(1);
    let seen = talk.ask(0, &["show app.x; show work_mem; show session_authorization"]);
    assert_eq!(values(&seen), ["", "", "default"]);
}

#[test]
fn what_cannot_be_moved_pins_until_an_audit_finds_it_gone() {
    let reasons = [
        ("temp", "create temp t", "drop t"),
        ("advisory_lock", "select pg_advisory_lock(1)", "select pg_advisory_unlock(1)"),
        ("cursor", "declare h with hold", "close h"),
        ("prepare", "prepare s", "deallocate s"),
        ("listen", "listen y", "unlisten *"),
    ];
    for (reason, make, end) in reasons {
        let mut talk = Talk::followed(1, 1, Tracking::default());
        talk.ask(0, &["begin", make, "rollback"]);
        if reason == "prepare" || reason == "advisory_lock" {
            assert_eq!(talk.pins(0), [reason], "a rollback does not end it");
            talk.ask(0, &[end]);
        }
        assert!(talk.world.clients[0].link.is_none(), "{make}: it did not happen");
        talk.ask(0, &["begin", make]);
        assert_eq!(talk.pins(0), [""; 0], "nothing is asked in a transaction");
        talk.ask(0, &["commit"]);
        assert_eq!(talk.pins(0), [reason], "{make}");
        talk.ask(0, &["select 1"]);
        assert_eq!(talk.pins(0), [reason], "{make}: nothing ended it");
        talk.ask(0, &[end]);
        assert!(talk.world.clients[0].link.is_none(), "{end}");
        talk.ask(0, &[make, "discard all"]);
        assert!(talk.world.clients[0].link.is_none(), "{make}, and DISCARD ALL");
        talk.ask(0, &[make]);
        talk.world.vanish(0);
        assert_eq!(talk.world.idle.len(), 1, "{make}: the server is clean without its client");
    }
}

#[test]
fn several_reasons_are_ended_one_by_one() {
    let mut talk = Talk::followed(1, 1, Tracking::default());
    talk.ask(0, &["create temp t; listen y; set app.x one", "prepare s"]);
    assert_eq!(talk.pins(0), ["temp", "prepare", "listen"]);
    assert_eq!(values(&talk.ask(0, &["show app.x"])), ["one"]);
    talk.ask(0, &["unlisten y"]);
    assert_eq!(talk.pins(0), ["temp", "prepare"]);
    talk.ask(0, &["do $$ drop t $$"]);
    assert_eq!(talk.pins(0), ["prepare"], "a block of code may do anything, so all of it is asked");
    talk.ask(0, &["deallocate all"]);
    assert!(talk.world.clients[0].link.is_none());
    let counts = talk.world.clients[0].session.take_counts().unwrap();
    assert_eq!((counts.audits, counts.unpins), (5, 1));
    let of = |reason| counts.pins[reason as usize];
    assert_eq!([of(PinReason::Temp), of(PinReason::Prepare), of(PinReason::Listen)], [1; 3]);
    assert!(talk.world.clients[0].session.take_counts().is_none());
}

#[test]
fn a_library_pins_for_good_and_its_server_is_closed() {
    let mut talk = Talk::followed(1, 1, Tracking::default());
    talk.ask(0, &["load lib", "discard all"]);
    assert_eq!(talk.pins(0), ["load"]);
    let Link { server, mut wire } = talk.world.clients[0].link.take().unwrap();
    assert!(clean(server, &mut wire).is_none());
}

#[test]
fn a_refused_statement_fails_in_its_turn_and_leaves_nothing() {
    let told = "0A000 session state of the kind \"temp\" is not allowed in this pool";
    let mut talk = Talk::followed(1, 1, with_policy(PinReason::Temp, PinPolicy::Error));
    let seen = talk.say(&[f::query("select 0"), f::query("create temp t"), f::query("select 0")]);
    assert_eq!(tags(&seen), "TCZEZTCZ");
    assert_eq!(errors(&seen), [told]);
    assert!(talk.world.clients[0].link.is_none());
    talk.ask(0, &["begin"]);
    for parse in [f::parse("", "create temp t"), f::parse("a", "create temp t")] {
        let seen = talk.say(&[parse, f::bind("", "", &[]), f::execute("", 0), sync()]);
        assert_eq!(tags(&seen), "EZ");
        assert_eq!(errors(&seen), [told]);
        assert_eq!(seen.last(), Some(&b'E'), "the transaction has failed");
        talk.ask(0, &["rollback", "begin"]);
    }
    talk.ask(0, &["listen y", "commit"]);
    assert_eq!(talk.pins(0), ["listen"], "other reasons are as they were");
    let counts = talk.world.clients[0].session.take_counts().unwrap();
    assert_eq!(counts.refused, 3);
}

#[test]
fn a_warning_is_given_once_a_session() {
    let mut talk = Talk::followed(1, 1, with_policy(PinReason::Temp, PinPolicy::Warn));
    let seen = talk.ask(0, &["create temp t"]);
    assert_eq!(tags(&seen), "CZN");
    assert!(seen.windows(6).any(|w| w == b"\"temp\""), "{}", seen.escape_ascii());
    assert_eq!(talk.pins(0), ["temp"]);
    assert_eq!(tags(&talk.ask(0, &["drop t", "create temp t"])), "CZ");
    let counts = talk.world.clients[0].session.take_counts().unwrap();
    assert_eq!((counts.warned, counts.pins[PinReason::Temp as usize]), (1, 2));
}

#[test]
fn what_is_ignored_is_gone_before_anybody_gets_the_server() {
    let mut talk = Talk::followed(1, 2, with_policy(PinReason::Temp, PinPolicy::Ignore));
    talk.ask(0, &["create temp t"]);
    assert!(talk.world.clients[0].link.is_none());
    assert_eq!(errors(&talk.ask(1, &["drop t"])), ["42704 table \"t\" does not exist"]);
    assert_eq!(talk.world.clients[0].session.take_counts().unwrap().ignored, 1);
}

#[test]
fn an_audit_that_fails_pins_until_one_succeeds() {
    for tag in *b"PBE" {
        let mut talk = Talk::followed(1, 2, Tracking::default());
        talk.world.idle[0].1.model.fault = Some(Fault::Audit { tag, code: "XX000" });
        assert_eq!(tags(&talk.ask(0, &["set app.x one"])), "CZ", "its client is not told");
        assert_eq!(talk.pins(0), ["unknown"]);
        assert_eq!(values(&talk.ask(0, &["show app.x"])), ["one"]);
        assert!(talk.world.clients[0].link.is_none(), "asked again");
        assert_eq!(values(&talk.ask(1, &["show app.x"])), [""]);
        assert_eq!(values(&talk.ask(0, &["show app.x"])), ["one"]);
        let counts = talk.world.clients[0].session.take_counts().unwrap();
        assert_eq!((counts.audits, counts.audit_failures), (1, 1));
    }
}

#[test]
fn a_client_that_goes_while_it_is_audited_leaves_nothing() {
    for pieces in 0..40 {
        let mut talk = Talk::followed(1, 2, Tracking::default());
        talk.world.clients[0].script.extend(f::query("set app.x one; create temp t"));
        talk.world.send(0, usize::MAX);
        for _ in 0..pieces {
            talk.world.deliver(0, 100);
            talk.world.receive(0, 20);
        }
        talk.world.vanish(0);
        assert_eq!(values(&talk.ask(1, &["show app.x"])), [""]);
        assert_eq!(errors(&talk.ask(1, &["create temp t"])), [""; 0], "{pieces}");
    }
}

#[test]
fn state_that_went_with_its_server_is_an_end() {
    let lose = |texts: &[&str]| {
        let mut talk = Talk::followed(1, 1, Tracking::default());
        if let Some((last, before)) = texts.split_last() {
            talk.ask(0, before);
            talk.world.clients[0].script.extend(f::query(last));
            talk.world.send(0, usize::MAX);
            talk.world.deliver(0, usize::MAX);
            while !talk.world.clients[0].seen.ends_with(&ready()) {
                talk.world.receive(0, 1);
            }
        }
        let client = &mut talk.world.clients[0];
        let mut server = client.link.take().unwrap().server;
        client.session.handle_server_lost(&mut server, &Refusal::ServerLost, &mut client.seen)
    };
    assert_eq!(lose(&["create temp t", "select 1"]), AfterLoss::Close, "a table");
    assert_eq!(lose(&["select 1", "set app.x one"]), AfterLoss::Close, "a setting that nobody has read back");
    // Whoever was not answered has not been told that it was done.
    let mut talk = Talk::followed(1, 1, Tracking::default());
    talk.whisper(&[f::query("set app.x one")]);
    talk.world.lose_server(0);
    assert_eq!(tags(&talk.world.clients[0].seen), "EZ");
    assert_eq!(values(&talk.ask(0, &["show app.x"])), [""]);
}

#[test]
fn settings_of_unknown_names_are_reset_for_the_next_client() {
    let mut talk = Talk::followed(1, 2, Tracking::default());
    talk.ask(0, &["do $$ set app.hidden h $$"]);
    assert!(talk.world.clients[0].link.is_none());
    assert_eq!(values(&talk.ask(0, &["show app.hidden"])), ["h"], "nobody was there in between");
    assert_eq!(values(&talk.ask(1, &["show app.hidden"])), [""]);
    assert_eq!(values(&talk.ask(0, &["show app.hidden"])), ["h"], "the name was in the text");
    // What it sees to that with.
    talk.ask(0, &["do $$ set app.hidden h $$"]);
    talk.world.clients[1].script.extend(f::query("select 1"));
    talk.world.send(1, usize::MAX);
    let sent: Vec<u8> = talk.world.clients[1].link.as_ref().unwrap().wire.to_server.iter().copied().collect();
    let all = b"SET SESSION AUTHORIZATION DEFAULT;RESET ALL;COMMIT";
    assert!(sent.windows(all.len()).any(|w| w == all), "{}", sent.escape_ascii());
    assert_eq!(tags(&sent), "QQ", "and it is waited for");
}

#[test]
fn a_name_that_anybody_used_is_asked_for_behind_a_block_of_code() {
    let mut talk = Talk::followed(2, 2, Tracking::default());
    talk.ask(1, &["set app.x other"]);
    talk.ask(0, &["do $$ set app.x one $$"]);
    talk.world.idle.rotate_left(1);
    assert_eq!(values(&talk.ask(0, &["show app.x"])), ["one"]);
    talk.ask(0, &["do $$ reset app.x $$", "do $$ create temp t $$"]);
    assert_eq!(talk.pins(0), ["temp"]);
    assert_eq!(values(&talk.ask(0, &["show app.x"])), [""]);
}

#[test]
fn statements_that_a_block_of_code_deallocated_are_prepared_anew() {
    let mut talk = Talk::followed(1, 1, Tracking::default());
    talk.say(&[f::parse("a", "select 1"), sync()]);
    talk.ask(0, &["do $$ deallocate pgsluice_1 $$"]);
    assert_eq!(tags(&talk.say(&run("a"))), "2DCZ");
}

#[test]
fn audits_are_as_many_as_was_asked_for() {
    let audits = |audit: Audit, suspects: Option<Suspects>, text: &str| {
        let mut world = World::followed(1, 5, Tracking { audit, ..Tracking::default() }, suspects);
        world.add_client(b"", Settings::default());
        let mut talk = Talk { world, dice: Dice::new(7) };
        talk.ask(0, &[text]);
        talk.say(&[f::parse("", text), f::bind("", "", &[]), f::execute("", 0), sync()]);
        talk.say(&[f::parse("a", text), f::bind("", "a", &[]), f::execute("", 0), sync()]);
        talk.world.clients[0].session.take_counts().unwrap_or_default().audits
    };
    let known = || Some(Suspects::default());
    assert_eq!([audits(Audit::Suspects, known(), "select 1"), audits(Audit::Suspects, None, "select 1")], [0, 3]);
    assert_eq!([audits(Audit::Always, known(), "select 1"), audits(Audit::Never, None, "select 1")], [3, 0]);
    assert_eq!(
        [audits(Audit::Suspects, known(), "set app.x one"), audits(Audit::Never, None, "set app.x one")],
        [3; 2]
    );
    assert_eq!(audits(Audit::Never, None, "do $$ set app.x one $$"), 3, "the name is in the text");
}

#[test]
fn who_is_not_followed_is_asked_nothing() {
    let mut talk = Talk::new(1, 5);
    talk.ask(0, &["set app.x one", "listen y"]);
    assert!(talk.world.clients[0].link.is_none(), "what tags show is removed");
    assert!(talk.world.clients[0].session.take_counts().is_none());
    let session = Session::new(1, Pooling::Session, 5, Arc::default()).with_tracking(Tracking::default());
    let mut pair = Pair::new(5);
    pair.session = session;
    pair.client(&f::query("set app.x one"));
    pair.server(&[complete("SET"), ready()].concat());
    assert!(!pair.session.wants_audit(&pair.server));
}

#[test]
fn the_catalog_is_read_from_rows() {
    let row = |columns: &[Option<&[u8]>]| backend(|w| w.data_row(columns.iter().copied()));
    let rows = [row(&[Some(b"f"), Some(b"name"), Some(b"source")]), row(&[Some(b"t"), Some(b"name"), None])].concat();
    let ask = |answer: &[u8]| {
        let mut server = fresh_server();
        let mut out = Vec::new();
        server.write_catalog_query(Suspects::QUERY, &mut out);
        assert_eq!(out, f::query(Suspects::QUERY));
        let answer = [answer, &ready()].concat();
        assert_eq!(server.handle_alone(&answer, &mut Plan::default()), Ok(answer.len()));
        let catalog = server.take_catalog();
        assert!(server.take_catalog().is_none(), "once");
        assert!(server.take_own_error().is_none(), "whoever comes next is not told");
        assert!(server.is_quiet());
        catalog
    };
    let done = complete("SELECT 2");
    assert!(ask(&[b"T\0\0\0\x06\0\0".to_vec(), rows.clone(), done.clone()].concat()).is_some());
    assert!(ask(&done).is_some_and(|rows| rows.is_empty()), "a database without any");
    assert!(ask(&[rows.clone(), error("42501", "no")].concat()).is_none());
    assert!(ask(&[rows, row(&[None]), done].concat()).is_none(), "rows of another shape");
}

#[test]
fn the_catalog_is_asked_again_when_a_command_may_have_changed_it() {
    let changed = |tag: &str, text: &str| {
        let mut pair = Pair::new(5);
        pair.session = Session::new(1, Pooling::Transaction, 5, Arc::default()).with_tracking(Tracking::default());
        pair.client(&f::query(text));
        pair.server(&[complete(tag), ready()].concat());
        pair.server.take_catalog_changed()
    };
    for tag in [
        "CREATE FUNCTION",
        "CREATE TRIGGER",
        "CREATE VIEW",
        "ALTER TABLE",
        "CREATE EXTENSION",
        "DO",
        "CALL",
        "CREATE TABLE",
    ] {
        assert!(changed(tag, "x"), "{tag}");
    }
    for tag in ["SELECT 1", "INSERT 0 1", "CREATE INDEX", "CREATE SEQUENCE", "SET", "CREATE ROLE"] {
        assert!(!changed(tag, "x"), "{tag}");
    }
    assert!(!changed("CREATE TABLE", "create temp table t ()"));
}

#[test]
fn a_replay_is_not_due_where_the_server_has_the_settings_already() {
    let mut talk = Talk::followed(1, 2, Tracking::default());
    talk.ask(0, &["set app.x one", "select 1"]);
    talk.ask(1, &["set app.x one"]);
    talk.world.clients.iter_mut().for_each(|c| assert!(c.session.take_counts().is_some()));
    talk.ask(0, &["select 1"]);
    talk.ask(1, &["select 1"]);
    let replays: Vec<_> = talk.world.clients.iter_mut().map(|c| c.session.take_counts()).collect();
    assert_eq!(replays, [None, None], "equal settings are the same, whoever set them");
}

#[test]
fn values_of_sequences_are_their_sessions_own() {
    let mut talk = Talk::followed(1, 3, Tracking::default());
    assert_eq!(values(&talk.ask(0, &["select nextval('s')"])), ["1"]);
    assert_eq!(talk.pins(0), ["sequence"]);
    assert_eq!(values(&talk.ask(0, &["select 1", "select lastval()"])), ["1"]);
    // It leaves, with its value on the server, and the others ask in every way there is.
    let Link { server, wire } = talk.world.clients[0].link.take().unwrap();
    talk.world.clients[1].link = Some(Link { server, wire });
    let told = "55000 lastval is not yet defined in this session";
    assert_eq!(errors(&talk.ask(1, &["select lastval()"])), [told]);
    assert_eq!(values(&talk.ask(1, &["select nextval('s')", "select lastval()"])), ["1"]);
    talk.world.clients[2].link = talk.world.clients[1].link.take();
    let ask = [f::parse("", "select lastval()"), f::bind("p", "", &[]), f::execute("p", 0), sync()];
    // What is skipped discards nothing.
    let skipped = [&[f::bind("", "x", &[])], &ask[..]].concat();
    assert_eq!(errors(&talk.say_as(2, &skipped)), ["26000 prepared statement \"x\" does not exist"]);
    assert_eq!(errors(&talk.say_as(2, &ask)), [told]);
}

#[test]
fn a_statement_that_is_back_is_read_again() {
    let mut talk = Talk::followed(2, 1, Tracking::default());
    talk.say(&[f::parse("", "set app.x one"), f::bind("", "missing", &[]), f::parse("", "select 0"), sync()]);
    assert_eq!(tags(&talk.say(&run(""))), "2CZ", "the Parse behind the error was skipped");
    talk.world.idle.rotate_left(1);
    assert_eq!(values(&talk.ask(0, &["show app.x"])), ["one"]);
}
