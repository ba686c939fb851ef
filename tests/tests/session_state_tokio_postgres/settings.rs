//! Settings: everything that SET, set_config() and the startup message can do to a session.

use futures_util::future;
use pgsluice_tests::Raw;
use tokio_postgres::types::{FromSql, Type};

use super::session::{Place, ROUNDS, Session};

pub(crate) async fn set_and_show(place: Place) {
    let mut s = place.session().await;
    s.run("SET work_mem = '7MB'").await;
    s.run("SET SESSION enable_seqscan TO off").await;
    s.stays(&[("work_mem", "7MB"), ("enable_seqscan", "off")]).await;
    s.stays_value("SHOW work_mem", "7MB").await;
    s.script("SET work_mem TO '9MB'").await;
    s.fails("22023", "SET work_mem = 'plenty'").await;
    s.fails("42704", "SET no_such_setting = 1").await;
    s.stays(&[("work_mem", "9MB"), ("enable_seqscan", "off")]).await;
    let show_all = s.rows("SHOW ALL", &[]).await;
    let mine = show_all.iter().find(|row| row.get::<_, &str>(0) == "work_mem").expect("it is among all");
    assert_eq!(mine.get::<_, &str>(1), "9MB");
}

pub(crate) async fn set_local(place: Place) {
    let mut s = place.session().await;
    s.run("SET work_mem = '5MB'").await;
    s.begin().await;
    s.run("SET LOCAL work_mem = '8MB'").await;
    s.run("SET LOCAL app.tenant = 'local'").await;
    assert_eq!([s.show("work_mem").await, s.show("app.tenant").await], ["8MB", "local"]);
    s.end("COMMIT").await;
    s.stays(&[("work_mem", "5MB"), ("app.tenant", "")]).await;
    s.run("SET LOCAL work_mem = '8MB'").await;
    s.stays(&[("work_mem", "5MB")]).await;
}

pub(crate) async fn reset(place: Place) {
    let mut s = place.session().await;
    let default = s.show("work_mem").await;
    s.run("SET work_mem = '7MB'").await;
    s.run("SET app.tenant = 'mine'").await;
    s.run("RESET work_mem").await;
    s.stays(&[("work_mem", &default), ("app.tenant", "mine")]).await;
    s.run("RESET app.tenant").await;
    s.stays(&[("app.tenant", "")]).await;
    s.run("SET work_mem = '7MB'").await;
    s.run("SET work_mem TO DEFAULT").await;
    s.stays(&[("work_mem", &default)]).await;
}

pub(crate) async fn reset_all(place: Place) {
    let mut s = place.session().await;
    let before = [s.show("work_mem").await, s.show("search_path").await];
    for sql in ["SET work_mem = '7MB'", "SET search_path = red", "SET app.tenant = 'mine'", "SET ROLE state_reader"] {
        s.run(sql).await;
    }
    s.stays(&[("work_mem", "7MB"), ("search_path", "red"), ("app.tenant", "mine")]).await;
    s.run("RESET ALL").await;
    s.stays(&[("work_mem", &before[0]), ("search_path", &before[1]), ("app.tenant", "")]).await;
    s.stays_value("SELECT current_user::text", "state_reader").await;
}

pub(crate) async fn set_time_zone(place: Place) {
    let mut s = place.session().await;
    let moment = "SELECT '2026-01-02 03:04:05+00'::timestamptz::text";
    for (zone, text) in [("'Asia/Tokyo'", "2026-01-02 12:04:05+09"), ("-5", "2026-01-01 22:04:05-05")] {
        s.run(&format!("SET TIME ZONE {zone}")).await;
        s.stays_value(moment, text).await;
    }
    s.begin().await;
    s.run("SET TIME ZONE 'Europe/Rome'").await;
    s.end("ROLLBACK").await;
    s.stays_value(moment, "2026-01-01 22:04:05-05").await;
    s.run("SET TIME ZONE LOCAL").await;
    s.stays_value(moment, "2026-01-02 03:04:05+00").await;
}

const USERS: &str = "SELECT format('%s %s %s', current_user, session_user, current_setting('role'))";

pub(crate) async fn set_role(place: Place) {
    let mut s = place.session().await;
    s.run("SET ROLE state_reader").await;
    s.stays_value(USERS, "state_reader app state_reader").await;
    s.begin().await;
    s.run("SET LOCAL ROLE state_writer").await;
    assert_eq!(s.value(USERS).await, "state_writer app state_writer");
    s.end("COMMIT").await;
    s.begin().await;
    s.run("SET ROLE NONE").await;
    s.end("ROLLBACK").await;
    s.stays_value(USERS, "state_reader app state_reader").await;
    s.fails("22023", "SET ROLE no_such_role").await;
    s.fails("42501", "SET ROLE postgres").await;
    s.run("SELECT set_config('role', 'state_writer', false)").await;
    s.stays_value(USERS, "state_writer app state_writer").await;
    s.run("RESET ROLE").await;
    s.stays_value(USERS, "app app none").await;
}

pub(crate) async fn set_session_authorization(place: Place) {
    let mut s = place.session().await;
    s.run("SET SESSION AUTHORIZATION app").await;
    s.stays_value(USERS, "app app none").await;
    s.stays_failing("42501", "CREATE ROLE nobody_may").await;
    s.run("SET ROLE state_reader").await;
    s.stays_value(USERS, "state_reader app state_reader").await;
    s.run("SET SESSION AUTHORIZATION DEFAULT").await;
    s.stays_value(USERS, "postgres postgres none").await;
    s.begin().await;
    s.run("SET SESSION AUTHORIZATION app").await;
    s.end("ROLLBACK").await;
    s.stays_value(USERS, "postgres postgres none").await;
    s.stays(&[("is_superuser", "on")]).await;
}

pub(crate) async fn set_constraints(place: Place) {
    let mut s = place.session().await;
    s.begin().await;
    s.run("SET CONSTRAINTS ALL DEFERRED").await;
    s.run("INSERT INTO child VALUES (1)").await;
    s.run("INSERT INTO parent VALUES (1)").await;
    s.end("COMMIT").await;
    s.fails("23503", "INSERT INTO child VALUES (2)").await;
    s.begin().await;
    s.run("SET CONSTRAINTS child_parent_fkey DEFERRED").await;
    s.run("INSERT INTO child VALUES (3)").await;
    s.fails("23503", "SET CONSTRAINTS child_parent_fkey IMMEDIATE").await;
    s.end("ROLLBACK").await;
    s.run("SET CONSTRAINTS ALL DEFERRED").await;
    s.fails("23503", "INSERT INTO child VALUES (2)").await;
    assert_eq!(s.value("SELECT count(*)::text FROM child").await, "1");
}

pub(crate) async fn search_path(place: Place) {
    let mut s = place.session().await;
    let kept = s.prepare("SELECT name FROM item WHERE id = 1").await;
    for schema in ["red", "blue", "public", "blue"] {
        s.run(&format!("SET search_path = {schema}")).await;
        for _ in 0..ROUNDS {
            assert_eq!(s.value("SELECT name FROM item WHERE id = 1").await, schema);
            assert_eq!(s.rows(&kept, &[]).await[0].get::<_, &str>(0), schema);
        }
    }
    s.begin().await;
    s.run("SET LOCAL search_path TO \"$user\", red").await;
    assert_eq!(s.rows(&kept, &[]).await[0].get::<_, &str>(0), "red");
    s.end("COMMIT").await;
    s.stays_value("SELECT name FROM item WHERE id = 1", "blue").await;
    s.run("SET search_path = ''").await;
    s.fails("42P01", "SELECT name FROM item WHERE id = 1").await;
}

pub(crate) async fn application_name(place: Place) {
    let mut s = place.session_with(|config| config.application_name("the first name")).await;
    let mine = "SELECT application_name FROM pg_stat_activity WHERE pid = pg_backend_pid()";
    s.stays_value(mine, "the first name").await;
    s.run("SET application_name = 'another; name'").await;
    s.stays_value(mine, "another; name").await;
    s.run("RESET application_name").await;
    s.stays_value(mine, "the first name").await;
}

/// A text in whatever encoding it came.
struct Bytes(Vec<u8>);

impl FromSql<'_> for Bytes {
    fn from_sql(_: &Type, raw: &[u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Bytes(raw.to_vec()))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

pub(crate) async fn client_encoding(place: Place) {
    let mut s = place.session().await;
    // The driver knows UTF-8 only, so that its own texts must be ASCII.
    for (encoding, bytes) in [("LATIN1", &b"\xe9"[..]), ("UTF8", b"\xc3\xa9"), ("EUC_JP", b"\x8f\xab\xb1")] {
        s.run(&format!("SET client_encoding = '{encoding}'")).await;
        for _ in 0..ROUNDS {
            let rows = s.rows("SELECT chr(233)", &[]).await;
            assert_eq!(rows[0].get::<_, Bytes>(0).0, bytes, "{encoding}");
        }
    }
    s.run("SET NAMES 'LATIN1'").await;
    s.stays_failing("22P05", "SELECT chr(9731)").await;
    s.run("RESET client_encoding").await;
    s.stays_value("SELECT chr(9731)", "☃").await;
}

pub(crate) async fn date_style(place: Place) {
    let mut s = place.session().await;
    for (style, text) in [("German", "03.02.2026"), ("SQL, DMY", "03/02/2026"), ("ISO, MDY", "2026-02-03")] {
        s.run(&format!("SET DateStyle = {style}")).await;
        s.stays_value("SELECT '2026-02-03'::date::text", text).await;
    }
    s.run("SET IntervalStyle = iso_8601").await;
    s.stays_value("SELECT '1 day 2 hours'::interval::text", "P1DT2H").await;
}

pub(crate) async fn statement_timeout(place: Place) {
    let mut s = place.session().await;
    s.run("SET statement_timeout = '60ms'").await;
    s.stays_failing("57014", "SELECT pg_sleep(5)").await;
    s.begin().await;
    s.run("SET LOCAL statement_timeout = 0").await;
    s.run("SELECT pg_sleep(0.1)").await;
    s.end("COMMIT").await;
    s.fails("57014", "SELECT pg_sleep(5)").await;
    s.run("SET statement_timeout = 0").await;
    s.run("SET lock_timeout = '1234ms'").await;
    s.run("SELECT pg_sleep(0.1)").await;
    s.stays(&[("statement_timeout", "0"), ("lock_timeout", "1234ms")]).await;
}

pub(crate) async fn default_transaction_settings(place: Place) {
    let mut s = place.session().await;
    s.run("SET default_transaction_isolation = 'serializable'").await;
    s.run("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY, DEFERRABLE").await;
    s.stays(&[("transaction_isolation", "serializable"), ("transaction_read_only", "on")]).await;
    s.stays(&[("transaction_deferrable", "on")]).await;
    s.stays_failing("25006", "INSERT INTO parent VALUES (100)").await;
    s.begin().await;
    s.run("SET TRANSACTION READ WRITE").await;
    s.run("INSERT INTO parent VALUES (101)").await;
    s.end("COMMIT").await;
    s.stays_failing("25006", "INSERT INTO parent VALUES (102)").await;
    s.run("RESET ALL").await;
    s.stays(&[("transaction_isolation", "read committed"), ("transaction_read_only", "off")]).await;
    s.run("INSERT INTO parent VALUES (103)").await;
}

pub(crate) async fn custom_settings(place: Place) {
    let mut s = place.session().await;
    let mut other = place.session().await;
    s.run("SET app.tenant = 'mine'").await;
    s.run("SET \"App\".\"Other\" = 'case does not count'").await;
    s.stays(&[("app.tenant", "mine"), ("app.other", "case does not count")]).await;
    other.run("SET app.tenant = 'yours'").await;
    for _ in 0..ROUNDS {
        assert_eq!([s.value("SHOW app.tenant").await, other.value("SHOW app.tenant").await], ["mine", "yours"]);
    }
    assert_eq!(other.show("app.other").await, "");
    s.script("SET app.of.many.parts = 'first'; SET app.\"of\".five.parts.p$1 = 'second'").await;
    s.stays(&[("app.of.many.parts", "first"), ("app.of.five.parts.p$1", "second")]).await;
    s.run("DO $$ BEGIN EXECUTE 'SET app.done.within.a.block = 1'; END $$").await;
    s.stays(&[("app.done.within.a.block", "1")]).await;
    s.fails("42602", "SET \"app.no name\" = 1").await;
    s.run("SET app.tenant = ''").await;
    s.stays(&[("app.tenant", "")]).await;
}

pub(crate) async fn values_of_all_kinds(place: Place) {
    let mut s = place.session().await;
    let (long, longer) = ("x".repeat(10_000), "'\\\n\"".repeat(2_500));
    let values = ["it's", "''", "back\\slash", "\\", "\\'", "new\nline\r\n\ttab", "double\"quote", "$1 $$ ; --"];
    for value in values.into_iter().chain(["ünï ☃", " padded ", "a, b", "\u{1}\u{7f}", &long, &longer]) {
        s.value_of("SELECT set_config('app.tenant', $1, false)", &[&value]).await;
        assert_eq!(s.show("app.tenant").await, value);
        let quoted = format!("SET app.other = E'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"));
        s.script(&quoted).await;
        s.stays(&[("app.other", value), ("app.tenant", value)]).await;
    }
}

pub(crate) async fn set_config_in_a_select(place: Place) {
    let mut s = place.session().await;
    assert_eq!(s.value("SELECT set_config('app.tenant', 'selected', false)").await, "selected");
    s.stays(&[("app.tenant", "selected")]).await;
    let kept = s.prepare("SELECT set_config($1, $2, $3)").await;
    s.rows(&kept, &[&"work_mem", &"6MB", &false]).await;
    s.rows(&kept, &[&"app.tenant", &"for a moment", &true]).await;
    s.stays(&[("app.tenant", "selected"), ("work_mem", "6MB")]).await;
    s.run("SELECT count(*) FROM (SELECT set_config('app.other', n::text, false) FROM generate_series(1, 3) n) x").await;
    s.run("UPDATE pg_settings SET setting = '4321' WHERE name = 'statement_timeout'").await;
    s.stays(&[("statement_timeout", "4321ms"), ("work_mem", "6MB")]).await;
    s.fails("22012", "SELECT set_config('app.tenant', 'undone', false), 1/0").await;
    s.stays(&[("app.tenant", "selected")]).await;
}

pub(crate) async fn set_config_in_a_function(place: Place) {
    let mut s = place.session().await;
    assert_eq!(s.value("SELECT become('by a function')").await, "by a function");
    s.stays(&[("app.tenant", "by a function")]).await;
    s.run("SELECT become_here('only here')").await;
    assert_eq!(s.value("SELECT inside()").await, "inside 3MB");
    s.stays(&[("app.tenant", "by a function")]).await;
    assert_eq!(s.value("SELECT tenant FROM changing").await, "by a view");
    s.stays(&[("app.tenant", "by a view")]).await;
    let kept = s.prepare("SELECT become($1)").await;
    for tenant in ["one", "two", "three"] {
        s.rows(&kept, &[&tenant]).await;
        s.stays(&[("app.tenant", tenant)]).await;
    }
    s.begin().await;
    s.run("SELECT become('rolled back')").await;
    s.end("ROLLBACK").await;
    s.stays(&[("app.tenant", "three")]).await;
}

pub(crate) async fn set_config_in_do(place: Place) {
    let mut s = place.session().await;
    s.run("DO $$ BEGIN PERFORM set_config('app.tenant', 'done', false); SET work_mem = '11MB'; END $$").await;
    s.stays(&[("app.tenant", "done"), ("work_mem", "11MB")]).await;
    s.run("DO $$ BEGIN EXECUTE 'SE' || 'T search_path = blue'; END $$").await;
    s.stays(&[("app.tenant", "done"), ("search_path", "blue")]).await;
    s.fails("P0001", "DO $$ BEGIN SET work_mem = '12MB'; RAISE EXCEPTION 'no'; END $$").await;
    s.stays(&[("work_mem", "11MB")]).await;
}

pub(crate) async fn set_config_in_a_trigger(place: Place) {
    let mut s = place.session().await;
    let kept = s.prepare("INSERT INTO visit VALUES ($1)").await;
    for tenant in ["one", "two", "three"] {
        s.rows(&kept, &[&tenant]).await;
        s.stays(&[("app.tenant", tenant)]).await;
    }
    s.begin().await;
    s.run("INSERT INTO visit VALUES ('rolled back')").await;
    s.end("ROLLBACK").await;
    s.stays(&[("app.tenant", "three")]).await;
}

pub(crate) async fn startup_options(place: Place) {
    let options = "-c work_mem=7MB -c app.tenant=at\\ start -c search_path=red --enable-seqscan=off";
    let mut s = place.session_with(|config| config.options(options)).await;
    let start = [("work_mem", "7MB"), ("app.tenant", "at start"), ("search_path", "red"), ("enable_seqscan", "off")];
    s.stays(&start).await;
    s.script("SET work_mem = '8MB'; SET app.tenant = 'later'; SET search_path = blue").await;
    s.stays(&[("work_mem", "8MB"), ("app.tenant", "later"), ("search_path", "blue"), ("enable_seqscan", "off")]).await;
    s.run("RESET work_mem").await;
    s.run("RESET app.tenant").await;
    s.stays(&[("work_mem", "7MB"), ("app.tenant", "at start"), ("search_path", "blue")]).await;
    s.run("RESET ALL").await;
    s.stays(&start).await;
    s.run("SET enable_seqscan = on").await;
    s.script("DISCARD ALL").await;
    s.stays(&start).await;
}

/// Any setting may be a parameter of its own; the driver has none for that.
pub(crate) async fn startup_parameters(place: Place) {
    let mut watch = place.session().await;
    let way = &place.way;
    let parameters = [
        ("user", place.login.user),
        ("database", &way.database),
        ("work_mem", "7MB"),
        ("app.tenant", "at start"),
        ("statement_timeout", "12345"),
        ("default_transaction_read_only", "on"),
        ("TimeZone", "Asia/Tokyo"),
    ];
    let mut raw = Raw::connect_with(way.addr, place.login.password, &parameters).expect("a login");
    let all = "SELECT concat_ws(' ', current_setting('work_mem'), current_setting('app.tenant'), \
               current_setting('statement_timeout'), current_setting('transaction_read_only'), \
               current_setting('TimeZone'))";
    let start = "7MB at start 12345ms on Asia/Tokyo";
    let mut stays = |raw: &mut Raw, value: &str| {
        for _ in 0..ROUNDS {
            watch.settle();
            assert_eq!(raw.value(all), value);
        }
    };
    stays(&mut raw, start);
    raw.run("SET work_mem = '8MB'; SET app.tenant = 'later'; SET statement_timeout = 0; SET TimeZone = 'UTC'");
    stays(&mut raw, "8MB later 0 on UTC");
    raw.run("RESET work_mem; RESET statement_timeout");
    stays(&mut raw, "7MB later 12345ms on UTC");
    raw.run("RESET ALL");
    stays(&mut raw, start);
}

pub(crate) async fn set_in_transactions(place: Place) {
    let mut s = place.session().await;
    s.begin().await;
    s.run("SET work_mem = '5MB'").await;
    s.run("SET app.tenant = 'committed'").await;
    s.end("COMMIT").await;
    s.stays(&[("work_mem", "5MB"), ("app.tenant", "committed")]).await;
    s.begin().await;
    s.run("SET work_mem = '6MB'").await;
    s.run("RESET app.tenant").await;
    assert_eq!(s.show("app.tenant").await, "");
    s.end("ROLLBACK").await;
    s.stays(&[("work_mem", "5MB"), ("app.tenant", "committed")]).await;
    s.begin().await;
    s.script("SET work_mem = '7MB'; SAVEPOINT a; SET work_mem = '8MB'; SET app.tenant = 'undone'").await;
    s.script("ROLLBACK TO a; SAVEPOINT b; SET app.other = 'released'; RELEASE b").await;
    s.end("COMMIT").await;
    s.stays(&[("work_mem", "7MB"), ("app.tenant", "committed"), ("app.other", "released")]).await;
    s.begin().await;
    s.run("SET work_mem = '11MB'").await;
    s.fails("22012", "SELECT 1/0").await;
    s.end("COMMIT").await;
    s.stays(&[("work_mem", "7MB")]).await;
    s.begin().await;
    s.run("SET work_mem = '12MB'").await;
    s.script("COMMIT AND CHAIN").await;
    s.run("SET work_mem = '13MB'").await;
    s.end("ROLLBACK").await;
    s.stays(&[("work_mem", "12MB")]).await;
    // A transaction dropped: the driver rolls back by itself, with the next query in the pipe.
    let transaction = s.client.transaction().await.expect("a transaction");
    transaction.execute("SET work_mem = '14MB'", &[]).await.expect("a SET that works");
    drop(transaction);
    s.stays(&[("work_mem", "12MB")]).await;
}

/// Many statements under way at once, some of which set what others ask for.
pub(crate) async fn settings_in_a_pipeline(place: Place) {
    let mut s = place.session().await;
    for round in 0..ROUNDS {
        pipeline(&mut s, round).await;
    }
}

async fn pipeline(s: &mut Session, round: usize) {
    let set = s.prepare("SELECT set_config('app.tenant', $1, false)").await;
    let show = s.prepare("SELECT current_setting('app.tenant')").await;
    let values: Vec<_> = (0..50).map(|n| format!("{round} {n}")).collect();
    let queries = values.iter().map(|value| {
        let (client, set, show) = (&s.client, &set, &show);
        let none: [&(dyn tokio_postgres::types::ToSql + Sync); 0] = [];
        async move {
            let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 1] = [value];
            let (set, shown) = future::join(client.query_one(set, &parameters), client.query_one(show, &none)).await;
            set.expect("a set_config() that works");
            assert_eq!(shown.expect("its value").get::<_, &str>(0), value);
        }
    });
    future::join_all(queries).await;
    s.settle();
    s.stays(&[("app.tenant", &format!("{round} 49"))]).await;
}
