//! What is tricky, one test each, by hand.

use std::sync::Arc;

use pgsluice_session::{
    AfterLoss, CancelKey, Cleanup, IdleServer, Params, Plan, Pooling, Progress, Refusal, Server, Session, Settings,
    Tracking, Violation, Want,
};
use pgsluice_wire::{BackendWriter, Report, Severity, TxStatus};

use crate::model::{Model, frontend as f};
use crate::talk::{Pair, Talk, backend, begun, error, errors, ready, replaying, run, sync, tags};
use crate::world::{Client, Dice, Link, Shared, Wire, World, clean, fresh_server, messages};

#[test]
fn a_named_bind_is_the_same_cut_at_any_byte() {
    let bind = f::bind("portal", "statement", &["value", "", "another value"]);
    let mut whole = Pair::new(5);
    whole.client(&f::parse("statement", "do $1 $2 $3"));
    let expected = whole.client(&bind).0;
    assert_ne!(expected, bind, "the name is another");
    for cut in 1..bind.len() {
        let mut pair = Pair::new(5);
        pair.client(&f::parse("statement", "do $1 $2 $3"));
        let (mut sent, _, progress) = pair.client(&bind[..cut]);
        sent.extend(pair.client(&bind[progress.consumed..]).0);
        assert_eq!(sent, expected, "cut at {cut}");
    }
}

#[test]
fn what_we_could_answer_is_the_servers_to_answer_in_the_middle_of_a_batch() {
    let mut pair = Pair::new(5);
    pair.client(&[f::parse("a", "select 1"), sync()].concat());
    pair.server(&[b"1\0\0\0\x04".to_vec(), ready()].concat());
    let known = [f::parse("b", "select 1"), f::close('S', "b")].concat();
    let (sent, reply, _) = pair.client(&known);
    assert_eq!((tags(&sent).as_str(), tags(&reply).as_str()), ("", "13"), "at the start of a batch it is ours");
    pair.client(&[f::bind("", "a", &[]), f::execute("", 0)].concat());
    let (sent, reply, _) = pair.client(&known);
    // The Parse, under a name that is closed at once, and the Close of a name that nobody has.
    assert_eq!((tags(&sent).as_str(), tags(&reply).as_str()), ("PCC", ""));
    let done = backend(|w| w.command_complete("SELECT 1"));
    let (parsed, closed) = (b"1\0\0\0\x04".to_vec(), b"3\0\0\0\x04".to_vec());
    let answers = [b"2\0\0\0\x04".to_vec(), done, parsed, closed.clone(), closed].concat();
    assert_eq!(tags(&pair.server(&answers)), "2C13", "our own Close is not shown");
}

#[test]
fn a_pipeline_longer_than_the_ledger_gets_through() {
    let mut talk = Talk::new(1, 5);
    let entries = 100_000;
    let mut script = vec![f::parse("", "select 1"), f::bind("", "", &[])];
    script.resize(entries, f::describe('P', ""));
    script.push(sync());
    let seen = talk.say(&script);
    assert_eq!(messages(&seen).len(), entries + 1);
    assert!(seen.ends_with(&ready()));
}

#[test]
fn errors_name_the_statement_as_the_client_does() {
    let mut talk = Talk::new(1, 5);
    let seen = talk.say(&[f::parse("mine", "do $1"), f::parse("mine", "select 2"), sync()]);
    assert_eq!(errors(&seen), ["42P05 prepared statement \"mine\" already exists"]);
    let seen = talk.say(&run("mine"));
    assert_eq!(errors(&seen), ["08P01 bind message supplies 0 parameters, but prepared statement \"mine\" requires 1"]);
    let seen = talk.say(&run("other"));
    assert_eq!(errors(&seen), ["26000 prepared statement \"other\" does not exist"]);
}

#[test]
fn a_translated_error_names_it_too() {
    let mut pair = Pair::new(5);
    pair.client(&[f::parse("mine", "select 1"), f::parse("mine", "select 1")].concat());
    pair.server(b"1\0\0\0\x04");
    let seen = pair.server(&error("42P05", "vorbereitete Anweisung »pgsluice_1« existiert bereits"));
    assert_eq!(errors(&seen), ["42P05 vorbereitete Anweisung »mine« existiert bereits"]);
}

#[test]
fn nobody_reaches_a_statement_by_our_name_for_it() {
    let mut talk = Talk::new(1, 5);
    talk.world.add_client(b"", Settings::default());
    talk.say(&[f::parse("secret", "select 3"), sync()]);
    for theft in [f::bind("", "pgsluice_1", &[]), f::describe('S', "pgsluice_1")] {
        let seen = talk.say_as(1, &[theft, sync()]);
        assert_eq!(errors(&seen), ["26000 prepared statement \"pgsluice_1\" does not exist"]);
    }
    assert_eq!(tags(&talk.say_as(1, &[f::parse("x", "select 0"), f::close('S', "pgsluice_1"), sync()])), "13Z");
    assert_eq!(tags(&talk.say(&run("secret"))), "2DDDCZ", "it is still there");
}

#[test]
fn sql_that_deallocates_our_name_hurts_nobody_else() {
    let mut talk = Talk::new(1, 5);
    talk.world.add_client(b"", Settings::default());
    talk.say(&[f::parse("a", "select 0"), sync()]);
    assert_eq!(tags(&talk.say_as(1, &[f::query("deallocate pgsluice_1")])), "CZ");
    assert_eq!(tags(&talk.say(&run("a"))), "2CZ");
}

#[test]
fn deallocate_of_what_the_server_does_not_have_is_ours_to_answer() {
    let mut talk = Talk::new(1, 1);
    talk.say(&[f::parse("a", "do a"), sync(), f::parse("b", "do b"), sync()]);
    assert_eq!(tags(&talk.say(&[f::parse("", "do c"), f::query("deallocate a")])), "1CZ");
    assert!(talk.world.clients[0].link.is_none(), "and the server is given back");
    assert_eq!(errors(&talk.say(&run("a"))), ["26000 prepared statement \"a\" does not exist"]);
    talk.say(&[f::parse("a", "do a"), sync(), f::parse("c", "do c"), sync(), f::query("begin; error")]);
    let seen = talk.say(&[f::query("deallocate a"), f::query("rollback")]);
    assert_eq!(tags(&seen), "EZCZ", "not in a failed transaction");
    assert_eq!(tags(&talk.say(&run("a"))), "2CZ");
}

#[test]
fn the_unnamed_statement_of_another_client_is_out_of_reach() {
    let mut talk = Talk::new(1, 5);
    talk.world.add_client(b"", Settings::default());
    talk.say(&[f::parse("", "select 3"), sync()]);
    let seen = talk.say_as(1, &run(""));
    assert_eq!(errors(&seen), ["26000 unnamed prepared statement does not exist"]);
    // The same while an error in front is not known yet.
    talk.say(&[f::parse("", "select 3"), sync()]);
    let attack = [vec![f::bind("", "x", &[]), f::parse("", "bad"), sync()], run("")].concat();
    let seen = talk.say_as(1, &attack);
    assert_eq!(errors(&seen)[1..], ["26000 unnamed prepared statement does not exist"]);
}

#[test]
fn the_unnamed_statement_follows_its_client() {
    let mut talk = Talk::new(2, 5);
    talk.world.add_client(b"", Settings::default());
    assert_eq!(tags(&talk.say(&[f::parse("", "select 1"), sync()])), "1Z");
    // The other client takes the server that has it.
    talk.world.idle.rotate_left(1);
    talk.say_as(1, &[f::query("begin")]);
    assert_eq!(tags(&talk.say(&run(""))), "2DCZ");
    assert_eq!(tags(&talk.say(&[f::query("select 0")])), "TCZ");
    talk.say_as(1, &[f::query("commit")]);
    talk.world.idle.rotate_left(1);
    assert_eq!(errors(&talk.say(&run(""))).len(), 1, "a simple query ends it everywhere");
}

#[test]
fn a_batch_that_evicts_and_fails_leaves_nothing_wrong() {
    let mut talk = Talk::new(1, 2);
    for name in ["a", "b", "c"] {
        talk.say(&[f::parse(name, &format!("do {name}")), sync()]);
    }
    // a is not on the server by now: b goes for it, then c for b, and then all of it did not happen.
    let batch = [f::bind("", "x", &[]), f::bind("", "a", &[]), f::bind("", "b", &[]), f::execute("", 0), sync()];
    assert_eq!(errors(&talk.say(&batch)).len(), 1);
    for name in ["c", "b", "a", "c"] {
        assert_eq!(tags(&talk.say(&run(name))), "2CZ", "{name}");
    }
    assert!(talk.world.idle[0].1.model.statement_names().len() <= 2);
}

#[test]
fn a_plan_that_is_refused_is_prepared_anew() {
    let mut pair = Pair::new(5);
    pair.client(&[f::parse("a", "select 1"), sync()].concat());
    pair.server(&[b"1\0\0\0\x04".to_vec(), ready()].concat());
    let batch = run("a").concat();
    assert_eq!(tags(&pair.client(&batch).0), "BES");
    pair.server(&[error("0A000", "cached plan must not change result type"), ready()].concat());
    assert_eq!(tags(&pair.client(&batch).0), "CPBES", "closed, parsed, and then as before");
}

#[test]
fn a_statement_that_is_gone_from_the_server_is_prepared_anew() {
    let mut talk = Talk::new(1, 5);
    talk.say(&[f::parse("a", "do a"), sync()]);
    assert_eq!(tags(&talk.say(&run("a"))), "2CZ");
    // Behind our back.
    talk.world.idle[0].1.model.feed(&f::query("deallocate all"));
    talk.world.idle[0].1.model.out.clear();
    assert_eq!(errors(&talk.say(&run("a"))), ["26000 prepared statement \"a\" does not exist"]);
    assert_eq!(tags(&talk.say(&run("a"))), "2CZ");
}

#[test]
fn discard_all_forgets_and_goes_back_to_the_startup_settings() {
    let mut world = World::new(1, 5);
    world.add_client(b"", Settings::default().with("TimeZone", "Base"));
    let mut talk = Talk { world, dice: Dice::new(3) };
    talk.say(&[f::query("set TimeZone Mars"), f::parse("a", "select 1"), sync()]);
    let seen = talk.say(&[f::query("discard all"), f::query("show TimeZone"), f::parse("a", "select 2"), sync()]);
    assert_eq!(tags(&seen), "CSZTDCZ1Z");
    let told: Vec<_> = messages(&seen).into_iter().filter(|(tag, _)| *tag == b'S').collect();
    assert_eq!(told, [(b'S', &b"TimeZone\0Base\0"[..])]);
    assert!(seen.windows(4).any(|w| w == b"Base"));
    assert_eq!(tags(&talk.say(&run("a"))), "2DDCZ", "the name is the new statement's");
}

#[test]
fn a_sync_ahead_of_copy_data_is_not_waited_for() {
    for data in [vec![], vec![f::copy_data("1\n"), sync(), f::copy_data("2\n")]] {
        let mut talk = Talk::new(1, 5);
        let copy = [f::parse("", "copy in"), f::bind("", "", &[]), f::execute("", 0), sync()];
        let seen = talk.say(&[&copy[..], &data, &[f::bare(b'c'), sync()]].concat());
        assert_eq!(tags(&seen), "12GCZ");
        assert!(talk.world.clients[0].link.is_none());
    }
}

/// Whether PostgreSQL answers the Sync depends on whether the COPY failed before it read it.
#[test]
fn a_server_is_not_lent_again_after_a_sync_in_a_copy_that_failed() {
    let (data, end) = (f::copy_data("1\n"), f::bare(b'c'));
    let early = [vec![sync()], vec![]];
    for (in_front, in_copy, is_lent) in [
        (vec![], vec![data.clone(), end.clone()], true),
        (early.concat(), vec![data.clone(), end.clone()], false),
        (vec![], vec![sync(), data.clone(), end.clone()], false),
        (vec![data.clone(), sync(), data.clone()], vec![end.clone()], false),
        (vec![data.clone(), sync(), end.clone()], vec![], false),
    ] {
        let mut pair = Pair::new(5);
        pair.client(&[vec![f::query("copy in")], in_front.clone()].concat().concat());
        pair.server(b"G\0\0\0\x07\0\0\0");
        pair.client(&in_copy.concat());
        pair.server(&[error("22P02", "bad data"), ready()].concat());
        assert_eq!(Box::new(pair.server).release().is_ok(), is_lent, "{in_front:?}, then {in_copy:?}");
    }
}

/// A COPY that its client has left fails, by our CopyFail or before that by a cancel request.
#[test]
fn a_server_in_a_copy_with_a_sync_is_not_lent_again_when_its_client_leaves() {
    for (in_copy, expected) in [(vec![], true), (vec![f::copy_data("1\n"), sync()], false)] {
        let mut pair = Pair::new(5);
        pair.client(&[vec![f::query("copy in")], in_copy].concat().concat());
        pair.server(b"G\0\0\0\x07\0\0\0");
        let (mut sent, mut plan) = (Vec::new(), Plan::default());
        assert!(matches!(pair.server.clean(&mut sent), Cleanup::Wait));
        assert_eq!(tags(&sent), "f");
        let answer = [error("57014", "canceled"), ready()].concat();
        pair.server.handle_alone(&answer, &mut plan).unwrap();
        assert_eq!(matches!(pair.server.clean(&mut sent), Cleanup::Done), expected);
    }
}

#[test]
fn the_second_copy_of_a_query_wants_its_own_end() {
    let mut talk = Talk::new(1, 5);
    talk.whisper(&[f::query("copy in; copy in"), f::bare(b'c')]);
    talk.world.run(&mut talk.dice);
    assert_eq!(tags(&talk.world.clients[0].seen), "GCG");
    talk.world.vanish(0);
    assert_eq!(talk.world.idle.len(), 1, "the client went, and the server was brought out of the COPY");
}

#[test]
fn a_replay_is_not_shown_and_nothing_runs_before_it() {
    let mut talk = Talk::new(1, 5);
    talk.world.add_client(b"", Settings::default().with("TimeZone", "Base"));
    talk.say(&[f::query("set TimeZone Mars")]);
    assert_eq!(tags(&talk.say_as(1, &[f::query("show TimeZone")])), "TDCZ");
    let seen = talk.say(&[f::query("show TimeZone")]);
    assert_eq!(tags(&seen), "TDCZ");
    assert!(seen.windows(4).any(|w| w == b"Mars"));
}

#[test]
fn an_error_in_a_replay_is_ours() {
    let refused = [begun(), error("42704", "no such"), backend(|w| w.ready(TxStatus::Failed))].concat();
    let query = f::query("rollback; select 1");
    let (mut pair, sent, progress) = replaying(&query);
    assert_eq!(progress, Progress { consumed: 0, want: Want::Server }, "it could leave the failed block");
    assert_eq!(tags(&sent), "QQ");
    assert!(pair.server(&refused).is_empty(), "not the client's");
    assert!(!pair.server.is_replay_lost());
    // Nothing that comes now stands in the way of the word of it, whole or not.
    let late = b"A\0\0\x10\0\0\0\0\x01x";
    let mut plan = Plan::default();
    let taken = pair.session.handle_server(&mut pair.server, late, &mut pair.shared.ctx(&mut plan));
    assert_eq!((taken, plan.is_empty()), (Ok(0), true));
    let mut server = Box::new(pair.server).release().unwrap_err();
    assert!(server.take_own_error().is_some());
}

#[test]
fn what_was_sent_behind_a_replay_fails_with_it() {
    let query = f::query("select 1");
    let (mut pair, sent, progress) = replaying(&query);
    assert_eq!((tags(&sent).as_str(), progress), ("QQQ", Progress { consumed: query.len(), want: Want::More }));
    let (sent, _, progress) = pair.client(&query);
    assert_eq!(
        (sent.len(), progress),
        (0, Progress { consumed: 0, want: Want::Server }),
        "one goes, the next one waits"
    );
    let refused = [begun(), error("42704", "no such"), backend(|w| w.ready(TxStatus::Failed))].concat();
    let behind = [error("25P02", "current transaction is aborted"), backend(|w| w.ready(TxStatus::Failed))].concat();
    let mut plan = Plan::default();
    let both = [refused, behind].concat();
    pair.session.handle_server(&mut pair.server, &both, &mut pair.shared.ctx(&mut plan)).unwrap();
    assert!(plan.is_empty(), "the client is not told of a block that it did not open");
    assert!(pair.server.is_replay_lost());
    let body = pair.server.take_own_error().unwrap();
    let why = Refusal::from_report(Report::read(&body).unwrap());
    let mut reply = Vec::new();
    assert_eq!(pair.session.handle_server_lost(&mut pair.server, &why, &mut reply), AfterLoss::GoOn);
    assert_eq!((tags(&reply).as_str(), errors(&reply)), ("EZ", vec!["42704 no such".to_owned()]));
    assert_eq!(reply.last(), Some(&b'I'));
}

#[test]
fn settings_are_not_forgotten_when_only_a_channel_was_left() {
    let mut talk = Talk::new(1, 5);
    talk.world.add_client(b"", Settings::default());
    talk.say(&[f::query("set TimeZone Mars"), f::query("listen x")]);
    let seen = talk.say_as(1, &[f::query("show TimeZone")]);
    assert!(seen.windows(7).any(|w| w == b"default"), "{}", seen.escape_ascii());
}

#[test]
fn a_batch_without_sync_is_rolled_back_when_its_client_goes() {
    let mut talk = Talk::new(1, 5);
    talk.whisper(&[f::parse("", "set TimeZone Mars"), f::bind("", "", &[]), f::execute("", 0)]);
    let Link { server, mut wire } = talk.world.clients[0].link.take().unwrap();
    assert!(clean(server, &mut wire).is_some());
    assert!(wire.model.changed_settings().is_empty(), "what was not committed did not happen");
}

#[test]
fn a_cancel_request_is_waited_for_and_what_it_hits_late_is_harmless() {
    let mut server = Box::new(fresh_server());
    server.begin_cancel();
    let mut server = server.release().unwrap_err();
    let mut out = Vec::new();
    assert_eq!(server.clean(&mut out), Cleanup::Wait);
    assert!(out.is_empty(), "nothing to send before PostgreSQL has taken it");
    server.end_cancel();
    for (late, expected) in [(true, Cleanup::Wait), (false, Cleanup::Wait)] {
        out.clear();
        assert_eq!(server.clean(&mut out), expected);
        assert_eq!(out, f::query(""), "a target for a cancel that comes late");
        let answer = if late { error("57014", "canceling statement") } else { b"I\0\0\0\x04".to_vec() };
        server.handle_alone(&[answer, ready()].concat(), &mut Plan::default()).unwrap();
        if !late {
            break;
        }
        // A hit: everything is due again, as nobody knows what it was.
        out.clear();
        assert_eq!(server.clean(&mut out), Cleanup::Wait);
        assert_ne!(out, f::query(""));
        server.handle_alone(&[b"I\0\0\0\x04".to_vec(), ready()].concat(), &mut Plan::default()).unwrap();
        assert_eq!(server.clean(&mut out), Cleanup::Done);
        server.begin_cancel();
        server.end_cancel();
    }
    assert_eq!(server.clean(&mut out), Cleanup::Done);
    assert!(server.release().is_ok());
}

#[test]
fn a_lost_server_is_answered_for_once_a_cycle() {
    let mut talk = Talk::new(1, 5);
    talk.whisper(&[f::bind("", "x", &[]), sync(), f::query("select 1"), f::parse("", "select 1"), sync()]);
    let client = &mut talk.world.clients[0];
    let Link { mut server, .. } = client.link.take().unwrap();
    let after = client.session.handle_server_lost(&mut server, &Refusal::ServerLost, &mut client.seen);
    assert_eq!(after, AfterLoss::GoOn);
    assert_eq!(tags(&client.seen), "EZEZEZ");
}

#[test]
fn what_a_lost_server_did_not_confirm_did_not_happen() {
    let mut talk = Talk::new(1, 5);
    talk.whisper(&[f::parse("a", "select 1"), f::bind("", "a", &[]), sync()]);
    let client = &mut talk.world.clients[0];
    let Link { mut server, .. } = client.link.take().unwrap();
    let after = client.session.handle_server_lost(&mut server, &Refusal::ServerLost, &mut client.seen);
    assert_eq!(after, AfterLoss::GoOn);
    assert_eq!(tags(&client.seen), "EZ");
    assert_eq!(client.session.statement_count(), 0, "nobody said that it was prepared");
}

#[test]
fn a_refusal_answers_one_message() {
    let mut client = Client::new(1, b"", 5, Settings::default(), Tracking::OFF);
    let mut shared = Shared::new();
    let query = f::query("select 1");
    let mut plan = Plan::default();
    let progress = client.session.handle_client(None, &query, &mut shared.ctx(&mut plan)).unwrap();
    assert_eq!(progress, Progress { consumed: 0, want: Want::Checkout });
    let mut reply = Vec::new();
    client.session.handle_refusal(&Refusal::WaitTimeout { seconds: 1 }, &mut reply);
    let input = [query.clone(), query].concat();
    let progress = client.session.handle_client(None, &input, &mut shared.ctx(&mut plan)).unwrap();
    reply.extend(&plan.reply);
    assert_eq!(tags(&reply), "EZ");
    assert_eq!(progress, Progress { consumed: input.len() / 2, want: Want::Checkout });
}

#[test]
fn an_idle_server_may_speak_but_not_answer() {
    let key = CancelKey { pid: 1, secret: Box::new([0; 4]) };
    let mut idle = IdleServer::fresh(Server::new(key, Params::default()));
    let status = backend(|w| w.parameter_status(b"TimeZone", b"UTC"));
    assert_eq!(idle.handle_alone(&status, &mut Plan::default()), Ok(true));
    assert_eq!(idle.server().params().get("timezone"), Some("UTC"));
    let fatal = backend(|w| w.report(Severity::Fatal, "57P01", "bye", "", ""));
    assert_eq!(idle.handle_alone(&fatal, &mut Plan::default()), Ok(false));
    let mut idle = IdleServer::fresh(fresh_server());
    assert!(idle.handle_alone(b"D\0\0\0\x06\0\0", &mut Plan::default()).is_err());
}

#[test]
fn the_model_hangs_up_on_a_query_in_the_middle_of_a_copy() {
    let mut wire = Wire::new(Model::new(&[]));
    wire.model.feed(&[f::query("copy in"), f::query("select 1")].concat());
    assert!(wire.model.is_closed());
    assert_eq!(tags(&wire.model.out), "GEE");
}

#[test]
fn a_named_statement_that_is_too_long_fails_in_its_turn_and_is_not_held() {
    let mut talk = Talk::new(1, 2);
    let long = f::parse("long", &"x".repeat(5 << 20));
    talk.say(&[f::query("begin")]);
    talk.whisper(&[f::parse("a", "select 1"), long.clone(), f::parse("b", "select 2"), sync()]);
    assert!(talk.world.clients[0].sent.is_empty(), "it is taken as it comes");
    let seen = talk.say(&[]);
    assert_eq!(tags(&seen), "1EZ");
    assert_eq!(errors(&seen), ["54000 a named prepared statement may not be longer than 4194304 bytes"]);
    assert_eq!(seen.last(), Some(&b'E'), "the transaction has failed");
    // Behind an error of PostgreSQL's it is skipped like everything else.
    talk.whisper(&[f::parse("c", "bad"), long, sync()]);
    assert_eq!(errors(&talk.say(&[])), ["42601 syntax error at or near \"bad\""]);
    let seen = talk.say(&[f::query("rollback"), f::bind("", "b", &[]), sync()]);
    assert_eq!(errors(&seen), ["26000 prepared statement \"b\" does not exist"], "what followed it never ran");
    let seen = talk.say(&[f::bind("", "a", &[]), f::execute("", 0), sync()]);
    assert_eq!(tags(&seen), "2DCZ");
}

#[test]
fn a_server_that_reports_parameters_without_end_is_a_violation() {
    let report = |name: &str, value: &str| {
        let mut out = Vec::new();
        BackendWriter(&mut out).parameter_status(name.as_bytes(), value.as_bytes());
        out
    };
    let many: Vec<_> = (0..257).map(|n| report(&format!("n{n}"), "")).collect();
    let long: Vec<_> = (0..3).map(|n| report(&format!("n{n}"), &"x".repeat(100_000))).collect();
    for reports in [many, long] {
        let last = reports.len() - 1;
        let mut server = Server::new(CancelKey { pid: 1, secret: Box::new([0; 4]) }, Params::default());
        for (n, report) in reports.iter().enumerate() {
            let taken = server.handle_alone(report, &mut Plan::default());
            assert_eq!(taken, if n < last { Ok(report.len()) } else { Err(Violation::TooManyParameters) });
        }
    }
    // The same ones again and again are no more than they are.
    let mut server = fresh_server();
    for n in 0..1000 {
        let report = report("n", &n.to_string().repeat(100));
        assert_eq!(server.handle_alone(&report, &mut Plan::default()), Ok(report.len()));
    }
}

#[test]
fn a_client_keeps_no_more_settings_than_one_server_may_report() {
    let mut session = Session::new(1, Pooling::Transaction, 2, Arc::new(Settings::default()));
    let mut shared = Shared::new();
    let refused = (0..10).position(|n| {
        let mut server = fresh_server();
        let mut plan = Plan::default();
        let replayed = b"C\0\0\0\x0aBEGIN\0Z\0\0\0\x05TC\0\0\0\x0dSELECT 1\0C\0\0\0\x0bCOMMIT\0Z\0\0\0\x05I";
        session.handle_client(Some(&mut server), b"", &mut shared.ctx(&mut plan)).unwrap();
        if n > 0 {
            session.handle_server(&mut server, replayed, &mut shared.ctx(&mut plan)).unwrap();
        }
        session.handle_client(Some(&mut server), &f::query("select 1"), &mut shared.ctx(&mut plan)).unwrap();
        let mut bytes = Vec::new();
        BackendWriter(&mut bytes).parameter_status(format!("n{n}").as_bytes(), &[b'x'; 50_000]);
        let taken = session.handle_server(&mut server, &bytes, &mut shared.ctx(&mut plan));
        taken == Err(Violation::TooManyParameters)
    });
    assert_eq!(refused, Some(5));
}
