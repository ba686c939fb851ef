//! What is not a setting: prepared statements, temporary objects, locks, cursors, notifications and the like.

use super::session::{Place, ROUNDS};

const MINE: &str =
    "SELECT coalesce(string_agg(name, ' ' ORDER BY name), '') FROM pg_prepared_statements WHERE from_sql";
const LOCKS: &str = "SELECT count(*)::text FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()";

pub(crate) async fn sql_prepare_beside_the_protocols(place: Place) {
    let mut s = place.session().await;
    let mut other = place.session().await;
    let kept = s.prepare("SELECT 2 * $1::int").await;
    s.script("PREPARE triple (int) AS SELECT (3 * $1)::text; PREPARE s0_sql AS SELECT 'beside'").await;
    for n in 0..ROUNDS as i32 {
        assert_eq!(s.value(&format!("EXECUTE triple ({n})")).await, (3 * n).to_string());
        assert_eq!(s.value("EXECUTE s0_sql").await, "beside");
        assert_eq!(s.rows(&kept, &[&n]).await[0].get::<_, i32>(0), 2 * n);
        assert_eq!(s.value(MINE).await, "s0_sql triple");
        other.fails("26000", "EXECUTE triple (1)").await;
    }
    s.script_fails("42P05", "PREPARE triple AS SELECT 1").await;
    s.run("DEALLOCATE triple").await;
    s.fails("26000", "EXECUTE triple (1)").await;
    s.script("DEALLOCATE PREPARE s0_sql").await;
    s.stays_value(MINE, "").await;
    for n in 0..ROUNDS as i32 {
        assert_eq!(s.rows(&kept, &[&n]).await[0].get::<_, i32>(0), 2 * n);
    }
    s.script("PREPARE last AS SELECT 1; DEALLOCATE ALL").await;
    s.stays_failing("26000", "EXECUTE last").await;
    s.prepared_fails("26000", &kept, &[&1]).await;
}

pub(crate) async fn sql_prepare_in_transactions(place: Place) {
    let mut s = place.session().await;
    s.begin().await;
    s.run("PREPARE kept AS SELECT 'kept'").await;
    s.end("ROLLBACK").await;
    s.stays_value("EXECUTE kept", "kept").await;
    s.begin().await;
    s.run("DEALLOCATE kept").await;
    s.end("ROLLBACK").await;
    s.stays_failing("26000", "EXECUTE kept").await;
    s.run("DO $$ BEGIN EXECUTE 'PREPARE hidden AS SELECT ''hidden'''; END $$").await;
    s.stays_value("EXECUTE hidden", "hidden").await;
    s.script_fails("22012", "PREPARE half AS SELECT 'half'; SELECT 1/0").await;
    s.stays_value("EXECUTE half", "half").await;
}

pub(crate) async fn discard_all(place: Place) {
    let mut s = place.session_with(|config| config.options("-c work_mem=6MB")).await;
    let mut other = place.session().await;
    for sql in [
        "SET work_mem = '7MB'",
        "SET app.tenant = 'mine'",
        "PREPARE p AS SELECT 1",
        "CREATE TEMP TABLE mine (n int)",
        "LISTEN mine",
        "SELECT pg_advisory_lock(11)",
        "SELECT nextval('ticket')",
        "DECLARE c CURSOR WITH HOLD FOR SELECT 1",
        "SET ROLE state_reader",
    ] {
        s.run(sql).await;
    }
    assert_eq!(other.value("SELECT pg_try_advisory_lock(11)::text").await, "false");
    s.script("DISCARD ALL").await;
    s.stays(&[("work_mem", "6MB"), ("app.tenant", ""), ("role", "none")]).await;
    s.stays_failing("26000", "EXECUTE p").await;
    s.stays_failing("42P01", "SELECT * FROM mine").await;
    s.stays_failing("34000", "FETCH c").await;
    s.stays_failing("55000", "SELECT currval('ticket')").await;
    s.stays_failing("55000", "SELECT lastval()").await;
    other.run("NOTIFY mine").await;
    assert!(s.is_told_nothing());
    assert_eq!(other.value("SELECT pg_try_advisory_xact_lock(11)::text").await, "true");
    s.begin().await;
    s.script_fails("25001", "DISCARD ALL").await;
    s.end("ROLLBACK").await;
}

pub(crate) async fn discard_parts(place: Place) {
    let mut s = place.session().await;
    s.run("SET app.tenant = 'mine'").await;
    s.run("PREPARE p AS SELECT name FROM item WHERE id = 1").await;
    s.run("CREATE TEMP TABLE mine AS SELECT 'mine' AS word").await;
    let first = s.value("SELECT nextval('ticket')::text").await;
    s.run("DISCARD PLANS").await;
    s.stays_value("EXECUTE p", "public").await;
    s.stays_value("SELECT currval('ticket')::text", &first).await;
    s.run("DISCARD SEQUENCES").await;
    s.stays_failing("55000", "SELECT currval('ticket')").await;
    s.stays_failing("55000", "SELECT lastval()").await;
    s.stays_value("SELECT word FROM mine", "mine").await;
    s.run("DISCARD TEMP").await;
    s.stays_failing("42P01", "SELECT * FROM mine").await;
    s.stays_value("EXECUTE p", "public").await;
    s.run("DEALLOCATE p").await;
    s.stays(&[("app.tenant", "mine")]).await;
}

pub(crate) async fn temporary_tables(place: Place) {
    let mut s = place.session().await;
    let mut other = place.session().await;
    let name = "SELECT name FROM item WHERE id = 1";
    s.run("CREATE TEMP TABLE item AS SELECT 1 AS id, 'mine'::text AS name").await;
    s.script("SELECT 'chosen' AS word INTO TEMP chosen; CREATE TABLE pg_temp.schemed (LIKE item)").await;
    s.run("SELECT scribble('by a function')").await;
    for _ in 0..ROUNDS {
        assert_eq!(s.value(name).await, "mine");
        assert_eq!(s.value("SELECT word FROM chosen").await, "chosen");
        assert_eq!(s.value("SELECT count(*)::text FROM schemed").await, "0");
        assert_eq!(s.value("SELECT word FROM scratch").await, "by a function");
        assert_eq!(other.value(name).await, "public");
        other.fails("42P01", "SELECT * FROM scratch").await;
    }
    s.run("DROP TABLE item, chosen, schemed, scratch").await;
    s.stays_value(name, "public").await;
    s.stays_failing("42P01", "SELECT * FROM scratch").await;
}

pub(crate) async fn temporary_tables_on_commit(place: Place) {
    let mut s = place.session().await;
    s.run("CREATE TEMP TABLE kept (n int) ON COMMIT PRESERVE ROWS").await;
    s.run("CREATE TEMP TABLE emptied (n int) ON COMMIT DELETE ROWS").await;
    for n in 1..=ROUNDS {
        s.begin().await;
        s.run("CREATE TEMP TABLE dropped (n int) ON COMMIT DROP").await;
        for table in ["kept", "emptied", "dropped"] {
            s.run(&format!("INSERT INTO {table} VALUES ({n})")).await;
            assert_eq!(s.value(&format!("SELECT max(n)::text FROM {table}")).await, n.to_string());
        }
        s.end("COMMIT").await;
        assert_eq!(s.value("SELECT count(*)::text FROM kept").await, n.to_string());
        assert_eq!(s.value("SELECT count(*)::text FROM emptied").await, "0");
        s.fails("42P01", "SELECT * FROM dropped").await;
    }
    s.begin().await;
    s.script("CREATE TEMP TABLE undone (n int); DROP TABLE kept").await;
    s.end("ROLLBACK").await;
    s.fails("42P01", "SELECT * FROM undone").await;
    s.stays_value("SELECT count(*)::text FROM kept", &ROUNDS.to_string()).await;
}

pub(crate) async fn temporary_views_and_sequences(place: Place) {
    let mut s = place.session().await;
    s.run("CREATE TEMP VIEW seen AS SELECT name FROM item WHERE id = 1").await;
    s.run("CREATE TEMP SEQUENCE steps START 5").await;
    s.run("CREATE TEMP TABLE numbered (id serial, n int)").await;
    s.run("CREATE FUNCTION pg_temp.twice(n int) RETURNS int LANGUAGE sql AS 'SELECT 2 * n'").await;
    for n in 0..ROUNDS {
        assert_eq!(s.value("SELECT name FROM seen").await, "public");
        assert_eq!(s.value("SELECT nextval('steps')::text").await, (5 + n).to_string());
        let id = s.value("INSERT INTO numbered (n) VALUES (0) RETURNING id::text").await;
        assert_eq!(id, (n + 1).to_string());
        assert_eq!(s.value(&format!("SELECT pg_temp.twice({n})::text")).await, (2 * n).to_string());
    }
    s.run("DROP VIEW seen").await;
    s.stays_failing("42P01", "SELECT * FROM seen").await;
}

pub(crate) async fn advisory_locks(place: Place) {
    let mut s = place.session().await;
    let mut other = place.session().await;
    let try_it = "SELECT pg_try_advisory_xact_lock(21)::text";
    s.begin().await;
    s.run("SELECT pg_advisory_lock(21)").await;
    s.end("ROLLBACK").await;
    let kept = s.prepare("SELECT pg_advisory_lock($1)").await;
    s.rows(&kept, &[&21_i64]).await;
    for left in [true, false] {
        for _ in 0..ROUNDS {
            assert_eq!(s.value(LOCKS).await, "1");
            assert_eq!(other.value(try_it).await, "false");
            assert_eq!(other.value(LOCKS).await, "0");
        }
        assert_eq!(s.value("SELECT pg_advisory_unlock(21)::text").await, "true");
        assert_eq!(other.value(try_it).await, (!left).to_string());
    }
    assert_eq!(s.value("SELECT pg_advisory_unlock(21)::text").await, "false");
    s.run("SELECT pg_advisory_lock_shared(n) FROM generate_series(30, 34) n").await;
    s.run("SELECT pg_try_advisory_lock(3, 4)").await;
    s.stays_value(LOCKS, "6").await;
    s.run("SELECT pg_advisory_unlock_all()").await;
    s.stays_value(LOCKS, "0").await;
}

pub(crate) async fn advisory_locks_in_functions(place: Place) {
    let mut s = place.session().await;
    let mut other = place.session().await;
    let try_it = "SELECT pg_try_advisory_xact_lock(41)::text";
    s.run("SELECT take(41)").await;
    s.run("DO $$ BEGIN PERFORM take(41); END $$").await;
    s.stays_value(LOCKS, "1").await;
    other.stays_value(try_it, "false").await;
    assert_eq!(s.value("SELECT give(41)::text").await, "true");
    other.stays_value(try_it, "false").await;
    assert_eq!(s.value("SELECT give(41)::text").await, "true");
    other.stays_value(try_it, "true").await;
    s.run("SELECT take(41)").await;
    other.stays_value(try_it, "false").await;
    s.hang_up(&mut other, try_it, "true").await;
}

pub(crate) async fn cursors_with_hold(place: Place) {
    let mut s = place.session().await;
    s.begin().await;
    s.run("DECLARE held SCROLL CURSOR WITH HOLD FOR SELECT n::text FROM generate_series(1, 100) n").await;
    s.run("DECLARE passing CURSOR FOR SELECT 1").await;
    assert_eq!(s.value("FETCH held").await, "1");
    s.end("COMMIT").await;
    s.fails("34000", "FETCH passing").await;
    for n in 0..ROUNDS {
        assert_eq!(s.values("FETCH 2 FROM held").await, [2 + 2 * n, 3 + 2 * n].map(|n| n.to_string()));
        assert_eq!(s.value("SELECT count(*)::text FROM pg_cursors WHERE is_holdable").await, "1");
    }
    s.run("CLOSE held").await;
    s.stays_failing("34000", "FETCH held").await;
    s.begin().await;
    s.run("DECLARE undone CURSOR WITH HOLD FOR SELECT 1").await;
    s.end("ROLLBACK").await;
    s.stays_failing("34000", "FETCH undone").await;
    s.run("DECLARE one CURSOR WITH HOLD FOR SELECT 'one'").await;
    assert_eq!(s.value("FETCH one").await, "one");
    s.run("CLOSE ALL").await;
    s.stays_failing("34000", "FETCH one").await;
}

fn news(channel: &str, payload: &str) -> (String, String) {
    (channel.to_owned(), payload.to_owned())
}

pub(crate) async fn listen_and_notify(place: Place) {
    let mut s = place.session().await;
    let mut other = place.session().await;
    s.run("LISTEN news").await;
    s.run("LISTEN \"Other News\"").await;
    other.run("NOTIFY news, 'at once'").await;
    assert_eq!(s.told(1), [news("news", "at once")]);
    other.begin().await;
    for n in 0..20 {
        other.value_of("SELECT pg_notify('news', $1)::text", &[&n.to_string()]).await;
    }
    other.script("NOTIFY \"Other News\"; NOTIFY nobodys").await;
    assert!(s.is_told_nothing());
    other.end("COMMIT").await;
    let mut expected: Vec<_> = (0..20).map(|n| news("news", &n.to_string())).collect();
    expected.push(news("Other News", ""));
    assert_eq!(s.told(21), expected);
    other.begin().await;
    other.run("NOTIFY news, 'never'").await;
    other.end("ROLLBACK").await;
    s.begin().await;
    s.run("NOTIFY news, 'to myself'").await;
    assert!(s.is_told_nothing());
    s.end("COMMIT").await;
    assert_eq!(s.told(1), [news("news", "to myself")]);
    assert!(s.is_told_nothing() && other.is_told_nothing());
}

pub(crate) async fn unlisten(place: Place) {
    let mut s = place.session().await;
    let mut other = place.session().await;
    s.begin().await;
    s.run("LISTEN one").await;
    s.end("ROLLBACK").await;
    s.script("LISTEN two; LISTEN three").await;
    s.run("UNLISTEN three").await;
    s.run("SELECT listen_to('four')").await;
    for n in ["first", "second"] {
        for channel in ["one", "two", "three", "four"] {
            other.run(&format!("NOTIFY {channel}, '{n}'")).await;
        }
        assert_eq!(s.told(2), [news("two", n), news("four", n)]);
    }
    s.begin().await;
    s.run("UNLISTEN *").await;
    s.end("ROLLBACK").await;
    other.run("NOTIFY two, 'still'").await;
    assert_eq!(s.told(1), [news("two", "still")]);
    s.run("UNLISTEN *").await;
    other.script("NOTIFY two; NOTIFY four").await;
    assert!(s.is_told_nothing());
}

pub(crate) async fn load(place: Place) {
    let mut s = place.session().await;
    s.run("LOAD 'auto_explain'").await;
    s.run("SET auto_explain.log_min_duration = 12345").await;
    s.stays_value("SELECT setting FROM pg_settings WHERE name = 'auto_explain.log_min_duration'", "12345").await;
    s.stays_failing("22023", "SET auto_explain.log_format = 'nonsense'").await;
}

pub(crate) async fn values_of_sequences(place: Place) {
    let mut s = place.session().await;
    let mut other = place.session().await;
    let (current, last) = ("SELECT currval('ticket')::text", "SELECT lastval()::text");
    s.fails("55000", current).await;
    let mut mine = s.value("SELECT nextval('ticket')::text").await;
    for _ in 0..ROUNDS {
        assert_eq!([s.value(current).await, s.value(last).await], [&*mine, &*mine]);
        other.fails("55000", current).await;
        other.fails("55000", last).await;
    }
    s.begin().await;
    mine = s.value("SELECT nextval('coupon')::text").await;
    s.end("ROLLBACK").await;
    s.stays_value("SELECT currval('coupon')::text", &mine).await;
    s.stays_value(last, &mine).await;
    s.run("SELECT setval('ticket', 500)").await;
    s.stays_value(current, "500").await;
    assert_eq!(s.value("SELECT count_on()::text").await, "501");
    s.stays_value(last, "501").await;
    other.stays_failing("55000", last).await;
}

pub(crate) async fn values_of_serial_columns(place: Place) {
    let mut s = place.session().await;
    let mut other = place.session().await;
    let last = "SELECT lastval()::text";
    let insert = s.prepare("INSERT INTO counted (note) VALUES ($1)").await;
    for note in ["one", "two", "three"] {
        s.rows(&insert, &[&note]).await;
        let mine = s.value(last).await;
        assert_eq!(s.value(&format!("SELECT note FROM counted WHERE id = {mine}")).await, note);
        s.stays_value("SELECT currval(pg_get_serial_sequence('counted', 'id'))::text", &mine).await;
        other.stays_failing("55000", last).await;
    }
}

pub(crate) async fn large_objects(place: Place) {
    let mut s = place.session().await;
    let oid = s.value("SELECT lo_from_bytea(0, 'first ')::text").await;
    s.begin().await;
    let handle = s.value(&format!("SELECT lo_open({oid}, x'60000'::int)::text")).await;
    assert_eq!(s.value(&format!("SELECT lo_lseek({handle}, 0, 2)::text")).await, "6");
    assert_eq!(s.value(&format!("SELECT lowrite({handle}, 'second')::text")).await, "6");
    s.end("COMMIT").await;
    s.stays_failing("42704", &format!("SELECT loread({handle}, 6)")).await;
    s.stays_value(&format!("SELECT convert_from(lo_get({oid}), 'UTF8')"), "first second").await;
    s.run(&format!("SELECT lo_unlink({oid})")).await;
    s.stays_failing("42704", &format!("SELECT lo_get({oid})")).await;
}

pub(crate) async fn two_phase_commit(place: Place) {
    let mut s = place.session().await;
    let mut other = place.session().await;
    let count = "SELECT count(*)::text FROM parent WHERE id = 201";
    let gid = format!("state {}", place.way.database);
    let default = s.show("work_mem").await;
    s.begin().await;
    s.script("INSERT INTO parent VALUES (201); SET app.tenant = 'in it'; SET LOCAL work_mem = '8MB'").await;
    s.end(&format!("PREPARE TRANSACTION '{gid}'")).await;
    s.stays(&[("app.tenant", "in it"), ("work_mem", &default)]).await;
    other.stays_value(count, "0").await;
    other.run(&format!("COMMIT PREPARED '{gid}'")).await;
    s.stays_value(count, "1").await;
    for sql in ["CREATE TEMP TABLE hinders (n int)", "LISTEN hinders", "DECLARE c CURSOR WITH HOLD FOR SELECT 1"] {
        s.begin().await;
        s.run(sql).await;
        s.script_fails("0A000", &format!("PREPARE TRANSACTION '{gid} 2'")).await;
        s.end("ROLLBACK").await;
    }
    s.begin().await;
    s.run("DELETE FROM parent WHERE id = 201").await;
    s.end(&format!("PREPARE TRANSACTION '{gid} 3'")).await;
    s.run(&format!("ROLLBACK PREPARED '{gid} 3'")).await;
    other.stays_value(count, "1").await;
}

pub(crate) async fn several_statements_at_once(place: Place) {
    let mut s = place.session().await;
    s.script("SET work_mem = '5MB'; SET app.tenant = 'mine'; PREPARE p AS SELECT 'p'; SELECT 1").await;
    s.stays(&[("work_mem", "5MB"), ("app.tenant", "mine")]).await;
    s.stays_value("EXECUTE p", "p").await;
    // One transaction: settings and tables are undone, what is prepared, locked or drawn stays.
    let failing = "SET work_mem = '6MB'; SELECT become('undone'); CREATE TEMP TABLE undone (n int); LISTEN undone; \
                   PREPARE q AS SELECT 'q'; SELECT pg_advisory_lock(51); SELECT nextval('ticket'); SELECT 1/0; \
                   SET work_mem = '7MB'; DEALLOCATE q";
    s.script_fails("22012", failing).await;
    s.stays(&[("work_mem", "5MB"), ("app.tenant", "mine")]).await;
    s.fails("42P01", "SELECT * FROM undone").await;
    s.stays_value("EXECUTE q", "q").await;
    s.stays_value(LOCKS, "1").await;
    s.stays_value("SELECT (lastval() = currval('ticket'))::text", "true").await;
    s.script("SELECT pg_advisory_unlock(51); DEALLOCATE ALL; DISCARD SEQUENCES").await;
    s.script_fails("22012", "BEGIN; SET work_mem = '8MB'; COMMIT; SET app.tenant = 'half'; SELECT 1/0").await;
    s.stays(&[("work_mem", "8MB"), ("app.tenant", "mine")]).await;
    s.script_fails("42601", "SET work_mem = '9MB'; SELEC 1").await;
    s.stays(&[("work_mem", "8MB")]).await;
    // BEGIN makes what came before part of its transaction.
    s.script("SET work_mem = '10MB'; BEGIN; SET work_mem = '11MB'; ROLLBACK; SET LOCAL app.tenant = 'brief'").await;
    s.stays(&[("work_mem", "8MB"), ("app.tenant", "mine")]).await;
}

pub(crate) async fn tables_that_change_under_prepared_statements(place: Place) {
    let mut s = place.session().await;
    let mut other = place.session().await;
    s.script("CREATE TABLE shape (id int, name text); INSERT INTO shape VALUES (1, 'one')").await;
    s.run("PREPARE by_sql AS SELECT * FROM shape").await;
    let named = s.prepare("SELECT name FROM shape WHERE id = 1").await;
    let all = s.prepare("SELECT * FROM shape").await;
    assert_eq!(s.rows(&all, &[]).await[0].len(), 2);
    other.run("CREATE INDEX ON shape (id)").await;
    other.run("ALTER TABLE shape ADD COLUMN more int DEFAULT 5").await;
    for _ in 0..ROUNDS {
        assert_eq!(s.rows(&named, &[]).await[0].get::<_, &str>(0), "one");
    }
    s.prepared_fails("0A000", &all, &[]).await;
    s.fails("0A000", "EXECUTE by_sql").await;
    let again = s.prepare("SELECT * FROM shape").await;
    s.script("DEALLOCATE by_sql; PREPARE by_sql AS SELECT * FROM shape").await;
    for _ in 0..ROUNDS {
        assert_eq!(s.rows(&again, &[]).await[0].get::<_, i32>(2), 5);
        assert_eq!(s.rows("EXECUTE by_sql", &[]).await[0].len(), 3);
    }
    other.run("DROP TABLE shape").await;
    s.fails("42P01", "SELECT * FROM shape").await;
    s.fails("42P01", "EXECUTE by_sql").await;
}
