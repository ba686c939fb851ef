//! The grammar of the console, as tables.

use pgsluice_console::{BadCommand, Command, ShutdownMode, Subject, parse, parse_all};

fn set(key: &str, value: &str) -> Command {
    Command::Set { key: key.to_owned(), value: value.to_owned() }
}

#[test]
fn commands_and_their_tags() {
    let db = |name: &str| Some(name.to_owned());
    for (text, command, tag) in [
        ("SHOW POOLS", Command::Show(Subject::Pools), "SHOW"),
        ("  show\n\"pools\" ; ;", Command::Show(Subject::Pools), "SHOW"),
        ("select stats_totals", Command::Show(Subject::StatsTotals), "SHOW"),
        ("SHOW -- which?\n/* this: */ budget", Command::Show(Subject::Budget), "SHOW"),
        ("show fleet", Command::Show(Subject::Fleet), "SHOW"),
        ("show Pins", Command::Show(Subject::Pins), "SHOW"),
        ("SHOW pin_stats", Command::Show(Subject::PinStats), "SHOW"),
        ("select leaks", Command::Show(Subject::Leaks), "SHOW"),
        ("show version", Command::Show(Subject::Version), "SHOW"),
        ("SET Query_Timeout = 0.5", set("query_timeout", "0.5"), "SET query_timeout=0.5"),
        ("set x to 'it''s; here'", set("x", "it's; here"), "SET x=it's; here"),
        ("set \"x\"=-1", set("x", "-1"), "SET x=-1"),
        ("set x=''", set("x", ""), "SET x="),
        ("PAUSE", Command::Pause(None), "PAUSE"),
        ("pause MyDb;", Command::Pause(db("MyDb")), "PAUSE"),
        ("pause my-db", Command::Pause(db("my-db")), "PAUSE"),
        ("pause \"my \"\"db;\"", Command::Pause(db("my \"db;")), "PAUSE"),
        ("Resume a", Command::Resume(db("a")), "RESUME"),
        ("reconnect", Command::Reconnect(None), "RECONNECT"),
        ("kill a", Command::Kill(db("a")), "KILL"),
        ("kill_client 42", Command::KillClient(42), "KILL_CLIENT"),
        ("kill_client 0xffffffffffffffff", Command::KillClient(u64::MAX), "KILL_CLIENT"),
        ("disable a", Command::Disable("a".into()), "DISABLE"),
        ("enable a", Command::Enable("a".into()), "ENABLE"),
        ("reload", Command::Reload, "RELOAD"),
        ("wait_close a", Command::WaitClose(db("a")), "WAIT_CLOSE"),
        ("shutdown", Command::Shutdown(ShutdownMode::Immediate), "SHUTDOWN"),
        ("shutdown wait_for_servers", Command::Shutdown(ShutdownMode::WaitForServers), "SHUTDOWN"),
        ("SHUTDOWN WAIT_FOR_CLIENTS", Command::Shutdown(ShutdownMode::WaitForClients), "SHUTDOWN"),
        (" ; -- ping", Command::Empty, ""),
    ] {
        let parsed = parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
        assert_eq!((&parsed, &*parsed.tag()), (&command, tag), "{text}");
    }
}

#[test]
fn what_drivers_send_unasked_is_accepted() {
    for (text, tag) in [
        ("SET application_name = 'PostgreSQL JDBC Driver'", "SET"),
        ("SET extra_float_digits = 3", "SET"),
        ("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY", "SET"),
        ("SET datestyle TO ISO, MDY", "SET"),
        ("SET TIME ZONE 'UTC'", "SET"),
        ("BEGIN", "BEGIN"),
        ("BEGIN ISOLATION LEVEL READ COMMITTED", "BEGIN"),
        ("start transaction", "START TRANSACTION"),
        ("COMMIT", "COMMIT"),
        ("ROLLBACK", "ROLLBACK"),
        ("DEALLOCATE ALL", "DEALLOCATE ALL"),
        ("DEALLOCATE PREPARE \"S_1\"", "DEALLOCATE"),
        ("DISCARD ALL", "DISCARD ALL"),
        ("RESET ALL", "RESET"),
        ("CLOSE ALL", "CLOSE CURSOR ALL"),
        ("UNLISTEN *", "UNLISTEN"),
        ("select 1", "SELECT 1"),
        ("SELECT pg_catalog.version()", "SELECT 1"),
        ("SELECT pg_advisory_unlock_all()", "SELECT 1"),
        ("SHOW TRANSACTION ISOLATION LEVEL", "SELECT 1"),
        ("SHOW standard_conforming_strings", "SHOW"),
        ("show DateStyle", "SHOW"),
    ] {
        let command = parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
        assert_eq!(command.tag(), tag, "{text}");
        assert!(!command.needs_admin(), "{text}");
    }
}

#[test]
fn what_is_refused_and_how() {
    for (text, sqlstate, message) in [
        ("SHOW STATISTICS;", "08P01", "invalid command 'SHOW STATISTICS', use SHOW HELP;"),
        ("  frobnicate  a ", "08P01", "invalid command 'frobnicate  a', use SHOW HELP;"),
        ("pause a b", "08P01", "invalid command 'pause a b', use SHOW HELP;"),
        ("pause 'a'", "08P01", "invalid command 'pause 'a'', use SHOW HELP;"),
        ("show", "08P01", "invalid command 'show', use SHOW HELP;"),
        ("show 'pools'", "08P01", "invalid command 'show 'pools'', use SHOW HELP;"),
        ("select \"1\"", "08P01", "invalid command 'select \"1\"', use SHOW HELP;"),
        ("set x", "08P01", "invalid command 'set x', use SHOW HELP;"),
        ("set x = 1 2", "08P01", "invalid command 'set x = 1 2', use SHOW HELP;"),
        ("set x = =", "08P01", "invalid command 'set x = =', use SHOW HELP;"),
        ("reload now", "08P01", "invalid command 'reload now', use SHOW HELP;"),
        ("shutdown now", "08P01", "invalid command 'shutdown now', use SHOW HELP;"),
        ("pause \"a", "08P01", "invalid command 'pause \"a', use SHOW HELP;"),
        ("disable", "08P01", "a database is required"),
        ("kill_client", "08P01", "invalid client pointer supplied"),
        ("kill_client -1", "08P01", "invalid client pointer supplied"),
        ("kill_client 18446744073709551616", "08P01", "invalid client pointer supplied"),
        ("suspend", "0A000", "SUSPEND is not supported by pgsluice"),
        ("show fds", "0A000", "SHOW FDS is not supported by pgsluice"),
        ("pause; resume", "42601", "cannot insert multiple commands into a prepared statement"),
    ] {
        let bad = parse(text).expect_err(text);
        assert_eq!((bad.sqlstate(), &*bad.to_string()), (sqlstate, message), "{text}");
    }
}

#[test]
fn a_text_with_a_mistake_yields_no_command_at_all() {
    assert_eq!(parse_all("pause a; show pools;").unwrap().len(), 2);
    assert_eq!(parse_all("pause; relaod; resume"), Err(BadCommand::Unknown("relaod".into())));
    assert_eq!(parse_all(" ; ;").unwrap(), []);
}

#[test]
fn a_long_text_is_not_repeated_in_full() {
    let message = parse(&"é".repeat(5000)).unwrap_err().to_string();
    assert!(message.len() < 500 && message.contains("é…'"), "{message}");
}

#[test]
fn only_commands_that_change_something_need_an_admin() {
    for text in ["pause", "set x=1", "reload", "kill_client 1", "shutdown", "wait_close", "enable a", "reconnect"] {
        assert!(parse(text).unwrap().needs_admin(), "{text}");
    }
    for text in ["show pools", "show config", "show help", "select 1", "discard all", ""] {
        assert!(!parse(text).unwrap().needs_admin(), "{text}");
    }
}
