//! Texts, and what the reader says they may do.

use pgsluice_sql::{CUSTOM_MAX, Effects, read};

const NONE: Effects = Effects::NONE;
const SETTINGS: Effects = Effects::SETTINGS;
const PREPARE: Effects = Effects::PREPARE;
const CURSOR: Effects = Effects::CURSOR;
const LISTEN: Effects = Effects::LISTEN;
const TEMP: Effects = Effects::TEMP;
const ADVISORY: Effects = Effects::ADVISORY;
const LOAD: Effects = Effects::LOAD;
const SEQUENCE: Effects = Effects::SEQUENCE;
const SEQUENCE_READ: Effects = Effects::SEQUENCE_READ;
const LISTEN_READ: Effects = Effects::LISTEN_READ;
const WRITE: Effects = Effects::WRITE;
const DISCARD: Effects = Effects::DISCARD;
const OPAQUE: Effects = Effects::OPAQUE;
const DDL: Effects = Effects::DDL;
const TRANSACTION: Effects = Effects::TRANSACTION;

fn both(one: Effects, other: Effects) -> Effects {
    one | other
}

/// Each text has exactly these effects, in upper case and with comments in all its gaps, too.
#[track_caller]
fn check(table: &[(&str, Effects)]) {
    for (text, effects) in table {
        assert_eq!(read(text.as_bytes(), None).effects, *effects, "{text}");
        if !text.contains(['\'', '$', '"', '-', '*', '\n']) {
            assert_eq!(read(text.to_uppercase().as_bytes(), None).effects, *effects, "{text}");
            let spread = text.replace(' ', " /* ' /* \" */ $$ */\n--'\n");
            assert_eq!(read(spread.as_bytes(), None).effects, *effects, "{spread}");
        }
    }
}

/// Each text names these settings.
#[track_caller]
fn names(table: &[(&str, &[&str])]) {
    for (text, custom) in table {
        let reading = read(text.as_bytes(), None);
        let found = reading.custom.iter().map(|name| &**name).collect::<Vec<_>>();
        assert_eq!(found, *custom, "{text}");
        assert!(!reading.effects.contains(OPAQUE), "{text}");
    }
}

#[test]
fn ordinary_statements_have_no_effects() {
    check(&[
        ("", NONE),
        (" ; ;", NONE),
        ("select 1", NONE),
        ("SELECT abalance FROM pgbench_accounts WHERE aid = $1", NONE),
        ("select * from t where a = 'it''s' and b = E'it\\'s' and c->>'k' = $$x$$ for update", NONE),
        ("select * from t for no key update of t skip locked", NONE),
        ("select 1 from set_configuration where reset = 1 and listen(2) and temp > 3", NONE),
        ("select temp, temporary from weather", NONE),
        ("select case when a then set else reset end", NONE),
        ("with x as (select 1) select * from x", NONE),
        ("show work_mem", NONE),
        ("select current_setting('app.tenant')", NONE),
        ("select * from pg_settings", NONE),
        ("select pg_advisory_xact_lock(1), pg_try_advisory_xact_lock_shared(1)", NONE),
        ("fetch 10 from c", NONE),
        ("declare c cursor for select 1", NONE),
        ("declare c cursor without hold for select 1", NONE),
        ("copy t to stdout", NONE),
        ("copy (select a from t) to stdout", NONE),
        ("notify mine", NONE),
        ("explain select 1", NONE),
        ("lock table t", NONE),
        ("set transaction isolation level serializable", NONE),
        ("select $1::int[], 1.5e3, 0x1F, a[1:2], a || b -- c", NONE),
    ]);
}

#[test]
fn settings() {
    check(&[
        ("set work_mem = 1", SETTINGS),
        ("set local work_mem to '1MB'", NONE),
        ("select set_config('a.b', $1, true)", NONE),
        ("select set_config('a.b', $1::text, TRUE), 1", NONE),
        ("select set_config('a.b', $1, $2)", SETTINGS),
        ("select set_config('a.b', f(1, true), false)", SETTINGS),
        ("select set_config('a.b', 'x', true and false)", SETTINGS),
        ("set local work_mem to 1; set work_mem to 1", SETTINGS),
        ("set role x", SETTINGS),
        ("set session authorization x", SETTINGS),
        ("set session characteristics as transaction read only", SETTINGS),
        ("set time zone 'UTC'", SETTINGS),
        ("set names 'UTF8'", SETTINGS),
        ("set xml option document", SETTINGS),
        ("set constraints all deferred", SETTINGS),
        ("set transaction_read_only = on", SETTINGS),
        ("reset all", SETTINGS),
        ("reset role", SETTINGS),
        ("select 1; set a = 1", SETTINGS),
        ("select 1;;reset a", SETTINGS),
        ("select set_config('a', 'b', false)", SETTINGS),
        ("select pg_catalog . set_config ( 'a' , $1 , false )", SETTINGS),
        ("select \"set_config\"('a', 'b', false)", SETTINGS),
        ("select \"pg_catalog\".\"set_config\"('a', 'b', false)", SETTINGS),
        ("select * from SET_CONFIG('a', 'b', false)", SETTINGS),
        ("select set_limit(0.5)", SETTINGS),
        ("update pg_settings set setting = 'x' where name = 'y'", both(SETTINGS, WRITE)),
        ("update pg_catalog.\"pg_settings\" set setting = 'x'", both(SETTINGS, WRITE)),
        ("select set_config($1, $2, $3)", both(SETTINGS, OPAQUE)),
        ("select set_config('a' || 'b', 'x', true)", both(SETTINGS, OPAQUE)),
        ("select set_config('a'::text, 'x', true)", both(SETTINGS, OPAQUE)),
        ("select set_config(E'a\\x62', 'x', true)", both(SETTINGS, OPAQUE)),
        ("select set_config(U&'!0061.b' uescape '!', 'x', true)", both(SETTINGS, OPAQUE)),
        ("select set_config(setting_name => 'a.b', new_value => 'x', is_local => true)", both(SETTINGS, OPAQUE)),
        ("select set_config('a'\n'.b', 'x', true)", both(SETTINGS, OPAQUE)),
        ("alter role x set work_mem = 1", DDL),
        ("update t set a = 1", WRITE),
    ]);
}

#[test]
fn settings_with_a_dot() {
    names(&[
        ("set app.tenant = 1", &["app.tenant"]),
        ("SET App.Tenant TO 1", &["app.tenant"]),
        ("SET SESSION app.x TO 'y'", &["app.x"]),
        ("set local \"app\".\"X\" = 1", &["app.x"]),
        ("set local \"app.x\" = 1", &["app.x"]),
        ("set app /* */ . -- x\n x = 1", &["app.x"]),
        ("set session.x = 1", &["session.x"]),
        ("set local.x = 1", &["local.x"]),
        ("set local local.x = 1", &["local.x"]),
        ("set a.b.c = 1", &["a.b.c"]),
        ("set a.\"b\".c.d . e = 1", &["a.b.c.d.e"]),
        ("reset app.x; select 1; set app.y = app.z; reset app.x", &["app.x", "app.y"]),
        (
            "select set_config('App.x', $1, false), set_config('a', $2, true), set_config($$b.c$$, '', false)",
            &["app.x", "b.c"],
        ),
        ("select set_config ( E'app.x' , '', false)", &["app.x"]),
        ("alter role x in database y set app.x = 1", &["app.x"]),
        ("alter database y reset app.x", &["app.x"]),
        ("alter system set app.x = 1", &["app.x"]),
        ("create function f() returns int language sql set app.x = 1 as 'select 1'", &["app.x"]),
        ("update t set a.b = 1", &[]),
        ("set work_mem = a.b", &[]),
        ("set time zone 'a.b'", &[]),
        ("alter table t alter c set default a.b, set (toast.autovacuum_enabled = false)", &[]),
        ("set transaction isolation level serializable", &[]),
    ]);
}

#[test]
fn names_of_settings_are_bounded() {
    let text = |count: usize| (0..count).map(|n| format!("set a.n{n} = 1;")).collect::<String>();
    let full = read(text(CUSTOM_MAX).as_bytes(), None);
    assert_eq!((full.custom.len(), full.effects), (CUSTOM_MAX, SETTINGS));
    let over = read(text(CUSTOM_MAX + 1).as_bytes(), None);
    assert_eq!((over.custom.len(), over.effects), (CUSTOM_MAX, SETTINGS | OPAQUE));
    for text in [&b"set a.\xff = 1"[..], b"set \"a\"\"b\".c = 1", b"select set_config('a.\xff', '', false)"] {
        assert_eq!(read(text, None).effects, SETTINGS | OPAQUE, "{}", String::from_utf8_lossy(text));
    }
}

#[test]
fn what_stays_with_the_session() {
    check(&[
        ("prepare x as select 1", PREPARE),
        ("prepare x as insert into t values (1)", both(PREPARE, WRITE)),
        ("deallocate x", PREPARE),
        ("execute x(1)", both(PREPARE, OPAQUE)),
        ("explain (analyze, verbose) execute x", both(PREPARE, OPAQUE)),
        ("create table t as execute x", both(DDL, PREPARE) | OPAQUE),
        ("declare c cursor with hold for select 1", CURSOR),
        ("close c", CURSOR),
        ("close all", CURSOR),
        ("listen mine", LISTEN),
        ("unlisten *", LISTEN),
        // It may do away with settings made before.
        ("load 'x'", both(LOAD, SETTINGS)),
        ("discard all", DISCARD),
        ("discard temp", DISCARD),
        ("create temp table t (a int)", both(TEMP, DDL)),
        ("create temporary view v as select 1", both(TEMP, DDL)),
        ("create or replace temp view v as select 1", both(TEMP, DDL)),
        ("create local temp table t (a int)", both(TEMP, DDL)),
        ("create global temporary sequence s", both(TEMP, DDL)),
        ("explain analyze create temp table t as select 1", both(TEMP, DDL)),
        ("select 1 into temp t", both(TEMP, DDL)),
        ("select 1 into local temporary table t", both(TEMP, DDL)),
        ("with x as (select 1) select * into temp table t from x", both(TEMP, DDL)),
        ("create table pg_temp.t (a int)", both(TEMP, DDL)),
        ("create table \"pg_temp\".t (a int)", both(TEMP, DDL)),
        ("select * from pg_temp_3.t", TEMP),
        ("select * from pg_toast_temp_3.t", TEMP),
        ("set search_path = pg_temp, public", both(TEMP, SETTINGS)),
        ("drop table t", both(TEMP, DDL)),
        ("alter table t set schema x", both(TEMP, DDL)),
        ("select pg_advisory_lock(1)", ADVISORY),
        ("select pg_catalog.\"pg_try_advisory_lock_shared\"(1, 2)", ADVISORY),
        ("select pg_advisory_unlock_all()", ADVISORY),
        ("select nextval('s')", SEQUENCE),
        ("select setval('s', 1)", SEQUENCE),
        ("select currval('s'), lastval()", SEQUENCE_READ),
        ("select pg_listening_channels()", LISTEN_READ),
        ("select pg_create_logical_replication_slot('s', 'test_decoding', true)", LOAD),
        ("select pg_replication_origin_session_setup('x')", LOAD),
        ("select dblink_connect('c', 'dbname=x')", both(LOAD, OPAQUE)),
    ]);
}

#[test]
fn writing_and_defining() {
    check(&[
        ("insert into t values (1)", WRITE),
        ("insert into t values (1) on conflict (a) do update set b = 1", WRITE),
        ("update t set a = 1", WRITE),
        ("delete from t", WRITE),
        ("merge into t using s on true when matched then do nothing", WRITE),
        ("truncate t", WRITE),
        ("copy t from stdin", WRITE),
        ("copy t (a, b) from program 'x'", WRITE),
        ("with x as (insert into t values (1) returning *) select * from x", WRITE),
        ("with x as (select 1) update t set a = 1", WRITE),
        ("explain analyze delete from t", WRITE),
        ("vacuum t", WRITE),
        ("refresh materialized view v", WRITE),
        ("select 1 into t", DDL),
        ("create table t (a int)", DDL),
        ("create index on t (a)", DDL),
        ("alter table t add b int", DDL),
        ("comment on table t is 'x'", DDL),
        ("grant execute on function f to public", DDL),
        ("revoke all on t from x", DDL),
        ("security label on table t is 'x'", DDL),
        ("create trigger g before insert on t for each row execute function f()", both(DDL, WRITE)),
        ("alter default privileges grant execute on functions to x", DDL),
        ("create rule r as on insert to t do instead update t set a = 1", both(DDL, WRITE)),
    ]);
}

#[test]
fn what_runs_other_text() {
    check(&[
        ("do $$ begin commit; end $$", both(OPAQUE, DDL)),
        ("do language plpgsql 'x'", both(OPAQUE, DDL)),
        ("call p(1)", both(OPAQUE, DDL)),
        ("import foreign schema x from server s into y", both(OPAQUE, DDL)),
        ("create extension x", both(OPAQUE, DDL)),
        ("alter extension x update", both(OPAQUE, DDL) | WRITE),
        ("create schema if not exists x", both(OPAQUE, DDL)),
        ("select query_to_xml('x', true, true, '')", OPAQUE),
        ("select schema_to_xml_and_xmlschema('x', true, true, '')", OPAQUE),
        ("select * from ts_stat('select 1')", OPAQUE),
        ("select ts_rewrite('a'::tsquery, 'select 1')", OPAQUE),
        ("select * from dblink('', 'x') as t(a int)", OPAQUE),
        ("select * from crosstab('x') as t(a int)", OPAQUE),
    ]);
}

#[test]
fn transactions() {
    check(&[
        ("begin", TRANSACTION),
        ("start transaction isolation level serializable", TRANSACTION),
        ("commit and chain", TRANSACTION),
        ("end", TRANSACTION),
        ("rollback to savepoint x", TRANSACTION),
        ("abort", TRANSACTION),
        ("savepoint x", TRANSACTION),
        ("release x", TRANSACTION),
        ("prepare transaction 'x'", TRANSACTION),
        ("commit prepared 'x'", TRANSACTION),
        ("begin; set a = 1; end", both(TRANSACTION, SETTINGS)),
    ]);
}

#[test]
fn what_is_quoted_is_not_read() {
    check(&[
        ("select 'x; set a = 1'", NONE),
        ("select ';set a = '';set a'", NONE),
        ("select E'\\';set a = 1'", NONE),
        ("select e'a'\n --' \n '\\';set a = 1'", NONE),
        ("select B'1;set a = 1', x';set a = 1', n';set a = 1', u&';set a = 1'", NONE),
        ("select $$;set a = 1$$", NONE),
        ("select $a$;set $$ $b$ $a $ a$ = 1$a$", NONE),
        ("select $1$a$;set a$a$", NONE),
        ("select $\u{e9}$;set a$\u{e9}$", NONE),
        ("select a$b$;set c = 1; select d$b$", SETTINGS),
        ("select \";set a = 1\"", NONE),
        ("select \"x\"\";set a = 1\"", NONE),
        ("select 1 /* ; /* ; set */ ; set a = 1 */", NONE),
        ("select 1 -- ; set a = 1", NONE),
        ("select 1 --/*\n; set a = 1 -- */", SETTINGS),
        ("select 1 /*--*/; set a = 1", SETTINGS),
        ("select 1 /*/**//**/*/; set a = 1", SETTINGS),
        ("select 1 --\r; set a = 1", SETTINGS),
        ("select 4 */* x */ 5; set a = 1", SETTINGS),
        ("select 1 +-- x\n 2; set a = 1", SETTINGS),
        ("select datee'\\'; set a = 1", both(SETTINGS, OPAQUE)),
        ("\"set\" a = 1", NONE),
        ("select 1\0; set a = 1", NONE),
        ("select 'x\0'; set a = 1", OPAQUE),
    ]);
}

#[test]
fn a_backslash_is_read_both_ways() {
    check(&[
        ("select 'a\\b', 'a\\\\', '\\\\'''", NONE),
        // On: the string ends, then SET. Off: the string has no end.
        ("select 'a\\'; set a = 1 --", both(SETTINGS, OPAQUE)),
        ("select 'a\\'; set a = 1; --'", SETTINGS),
        // On: two strings with SET in the second. Off: SET is outside.
        ("select 'a\\', '; set a = 1 --'", SETTINGS),
        ("select '\\'', '; listen a; select '", both(LISTEN, OPAQUE)),
        // Never an escape.
        ("select b'\\'; set a = 1", SETTINGS),
        ("select u&'\\'; set a = 1", SETTINGS),
    ]);
    // A character of Shift JIS ends with a backslash.
    assert_eq!(read(b"select E'\x95\\'; set a = 1; select E'\x95\\'", None).effects, OPAQUE);
    assert_eq!(read(b"select E'\x95\\\\'; set a = 1; select E'\x95\\'", None).effects, SETTINGS | OPAQUE);
    assert_eq!(read(b"select $\x95\\$ ' $\x95\\$; set a = 1; select '", None).effects, OPAQUE);
}

#[test]
fn what_has_no_end_is_opaque() {
    check(&[
        ("select 'x", OPAQUE),
        ("select E'x\\'", OPAQUE),
        ("select E'\\", OPAQUE),
        ("select $$x$", OPAQUE),
        ("select $a$x$$", OPAQUE),
        ("select $a", OPAQUE),
        ("select \"x", OPAQUE),
        ("select u&\"x\"", OPAQUE),
        ("select u&\"x", OPAQUE),
        ("select /* x", OPAQUE),
        ("select /* /* */", OPAQUE),
        ("select /*/", OPAQUE),
        ("'", OPAQUE),
        ("$", NONE),
        ("e", NONE),
        ("u&", NONE),
    ]);
    assert_eq!(read("select U&\"x\"; set a = 1".as_bytes(), None).effects, OPAQUE | SETTINGS);
}

#[test]
fn what_may_have_changed_decides_what_is_asked() {
    let parts = [SETTINGS, PREPARE, CURSOR, LISTEN, TEMP, ADVISORY];
    assert!((WRITE | TRANSACTION | DDL | SEQUENCE | SEQUENCE_READ | LOAD).parts().is_empty());
    assert_eq!((TEMP | WRITE).parts(), TEMP);
    for all in [OPAQUE, Effects::SUSPECT, DISCARD, DDL.with_unread()] {
        assert_eq!(all.parts(), parts.into_iter().fold(NONE, both), "{all:?}");
    }
    assert_eq!((WRITE | SETTINGS).with_unread(), WRITE | SETTINGS);
}
