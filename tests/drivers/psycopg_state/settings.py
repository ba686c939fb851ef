"""Settings: everything that SET, set_config() and the startup message can do to a session."""

import os

import psycopg
from session import ROUNDS, SUPERUSER, Session, feature, register


@feature()
def set_and_show(s):
    s.run("SET work_mem = '7MB'")
    s.run("SET SESSION enable_seqscan TO off")
    s.stays(work_mem="7MB", enable_seqscan="off")
    for _ in range(ROUNDS):
        assert s.one("SHOW work_mem") == "7MB"
        assert dict((row[0], row[1]) for row in s.rows("SHOW ALL"))["work_mem"] == "7MB"
    s.run("SET work_mem TO '9MB'")
    s.fails("22023", "SET work_mem = 'plenty'")
    s.fails("42704", "SET no_such_setting = 1")
    s.stays(work_mem="9MB", enable_seqscan="off")


@feature()
def set_local(s):
    s.run("SET work_mem = '5MB'")
    with s.transaction():
        s.run("SET LOCAL work_mem = '8MB'")
        s.run("SET LOCAL app.tenant = 'local'")
        assert s.show("work_mem", "app.tenant") == ["8MB", "local"]
    s.stays(work_mem="5MB", app__tenant="")
    s.run("SET LOCAL work_mem = '8MB'")  # outside a transaction: a warning and no more
    s.stays(work_mem="5MB")


@feature()
def reset(s):
    default = s.show("work_mem")
    s.run("SET work_mem = '7MB'")
    s.run("SET app.tenant = 'mine'")
    s.run("RESET work_mem")
    s.stays(work_mem=default, app__tenant="mine")
    s.run("RESET app.tenant")
    s.stays(app__tenant="")
    s.run("SET work_mem = '7MB'")
    s.run("SET work_mem TO DEFAULT")
    s.stays(work_mem=default)


@feature()
def reset_all(s):
    before = s.show("work_mem", "search_path", "DateStyle")
    for sql in ["SET work_mem = '7MB'", "SET search_path = red", "SET DateStyle = German", "SET app.tenant = 'mine'"]:
        s.run(sql)
    s.run("SET ROLE state_reader")  # which RESET ALL leaves alone
    assert s.show("work_mem", "search_path", "app.tenant") == ["7MB", "red", "mine"]
    s.run("RESET ALL")
    for _ in range(ROUNDS):
        assert s.show("work_mem", "search_path", "DateStyle") == before
        assert s.show("app.tenant") == ""
        assert s.one("SELECT current_user::text") == "state_reader"


@feature()
def set_time_zone(s):
    moment = "SELECT '2026-01-02 03:04:05+00'::timestamptz::text"
    for zone, text in [("'Asia/Tokyo'", "2026-01-02 12:04:05+09"), ("-5", "2026-01-01 22:04:05-05"),
                       ("INTERVAL '+02:30' HOUR TO MINUTE", "2026-01-02 05:34:05+02:30")]:
        s.run(f"SET TIME ZONE {zone}")
        for _ in range(ROUNDS):
            assert s.one(moment) == text
    with s.transaction(rollback=True):
        s.run("SET TIME ZONE 'Europe/Rome'")
    assert s.one(moment) == "2026-01-02 05:34:05+02:30"
    s.run("SET TIME ZONE LOCAL")
    for _ in range(ROUNDS):
        assert s.one(moment) == "2026-01-02 03:04:05+00"


def users(s):
    return s.rows("SELECT current_user::text, session_user::text, current_setting('role')")[0]


@feature()
def set_role(s):
    me = s.one("SELECT current_user::text")
    s.run("SET ROLE state_reader")
    for _ in range(ROUNDS):
        assert users(s) == ("state_reader", me, "state_reader")
    with s.transaction():
        s.run("SET LOCAL ROLE state_writer")
        assert users(s)[0] == "state_writer"
    with s.transaction(rollback=True):
        s.run("SET ROLE NONE")
    for _ in range(ROUNDS):
        assert users(s)[0] == "state_reader"
    s.fails("22023", "SET ROLE no_such_role")
    s.fails("42501", "SET ROLE postgres")
    s.run("SELECT set_config('role', 'state_writer', false)")
    for _ in range(ROUNDS):
        assert users(s)[0] == "state_writer"
    s.run("RESET ROLE")
    for _ in range(ROUNDS):
        assert users(s) == (me, me, "none")


@feature(SUPERUSER)
def set_session_authorization(s):
    me = s.one("SELECT session_user::text")
    s.run("SET SESSION AUTHORIZATION app")
    for _ in range(ROUNDS):
        assert users(s) == ("app", "app", "none")
        assert s.show("is_superuser") == "off"
        s.fails("42501", "CREATE ROLE nobody_may")
    s.run("SET ROLE state_reader")
    for _ in range(ROUNDS):
        assert users(s) == ("state_reader", "app", "state_reader")
    with s.transaction():
        s.run("SET LOCAL SESSION AUTHORIZATION state_writer")
        assert users(s)[1] == "state_writer"
    for _ in range(ROUNDS):
        assert users(s)[1] == "app"
    s.run("RESET SESSION AUTHORIZATION")
    for _ in range(ROUNDS):
        assert users(s) == (me, me, "none")
        assert s.show("is_superuser") == "on"


@feature()
def set_constraints(s):
    with s.transaction():
        s.run("SET CONSTRAINTS ALL DEFERRED")
        s.run("INSERT INTO child VALUES (1)")
        s.run("INSERT INTO parent VALUES (1)")
    s.fails("23503", "INSERT INTO child VALUES (2)")
    s.conn.execute("BEGIN")
    s.run("SET CONSTRAINTS child_parent_fkey DEFERRED")
    s.run("INSERT INTO child VALUES (3)")
    s.fails("23503", "SET CONSTRAINTS child_parent_fkey IMMEDIATE")
    s.run("ROLLBACK")
    s.run("SET CONSTRAINTS ALL DEFERRED")  # outside a transaction: a warning and no more
    s.fails("23503", "INSERT INTO child VALUES (2)")
    assert s.one("SELECT count(*) FROM child") == 1


@feature(prepare_threshold=0)
def search_path(s):
    name = "SELECT name FROM item WHERE id = %s"
    for schema in ["red", "blue", "public", "blue"]:
        s.run(f"SET search_path = {schema}")
        for _ in range(ROUNDS):
            assert s.one(name, (1,)) == schema
            assert s.one("SELECT name FROM item WHERE id = 1", prepare=False) == schema
    s.run('SET search_path TO "$user", red, public')
    for _ in range(ROUNDS):
        assert s.one(name, (1,)) == "red"
        assert s.show("search_path") == '"$user", red, public'
    with s.transaction():
        s.run("SET LOCAL search_path = blue")
        assert s.one(name, (1,)) == "blue"
    assert s.one(name, (1,)) == "red"
    s.run("SET search_path = ''")
    s.fails("42P01", name, (1,))


@feature(application_name="the first name")
def application_name(s):
    mine = "SELECT application_name FROM pg_stat_activity WHERE pid = pg_backend_pid()"
    for _ in range(ROUNDS):
        assert s.one("SHOW application_name") == s.one(mine) == "the first name"
    s.run("SET application_name = 'another; name'")
    for _ in range(ROUNDS):
        assert s.one("SHOW application_name") == s.one(mine) == "another; name"
        assert s.conn.info.parameter_status("application_name") == "another; name"
    s.run("RESET application_name")
    for _ in range(ROUNDS):
        assert s.one(mine) == s.conn.info.parameter_status("application_name") == "the first name"


@feature()
def client_encoding(s):
    for encoding, name, words in [("LATIN1", "iso8859-1", "déjà"), ("UTF8", "utf-8", "déjà ☃"), ("WIN1250", "cp1250", "žluť")]:
        s.run(f"SET client_encoding = '{encoding}'")
        for _ in range(ROUNDS):
            assert s.conn.info.encoding == name, s.conn.info.encoding
            assert s.one(f"SELECT '{words}'") == words
            assert s.one("SELECT %s || '!'", (words,)) == words + "!"
            assert s.one("SELECT octet_length(%s)", (words,)) == len(words.encode())
    s.run("SET NAMES 'LATIN1'")
    for _ in range(ROUNDS):
        assert s.one("SELECT chr(233)") == "é"
        s.fails("22P05", "SELECT chr(9731)")
    s.run("RESET client_encoding")
    assert s.one("SELECT chr(9731)") == "☃"


@feature()
def date_style(s):
    day = "SELECT '2026-02-03'::date::text"
    for style, text in [("German", "03.02.2026"), ("SQL, DMY", "03/02/2026"), ("SQL, MDY", "02/03/2026"), ("ISO", "2026-02-03")]:
        s.run(f"SET DateStyle = {style}")
        for _ in range(ROUNDS):
            assert s.one(day) == text
    s.run("SET DateStyle = SQL, DMY")
    s.run("SET IntervalStyle = iso_8601")
    for _ in range(ROUNDS):
        assert s.one("SELECT ('1/2/2026'::date - '2026-01-01'::date)::text") == "31"
        assert s.one("SELECT '1 day 2 hours'::interval::text") == "P1DT2H"


@feature()
def statement_timeout(s):
    s.run("SET statement_timeout = '60ms'")
    for _ in range(ROUNDS):
        s.fails("57014", "SELECT pg_sleep(5)")
    with s.transaction():
        s.run("SET LOCAL statement_timeout = 0")
        s.run("SELECT pg_sleep(0.1)")
    s.fails("57014", "SELECT pg_sleep(5)")
    s.stays(statement_timeout="60ms")
    s.run("SET statement_timeout = 0")
    s.run("SET lock_timeout = '1234ms'")
    s.run("SET idle_in_transaction_session_timeout = '20s'")
    s.run("SELECT pg_sleep(0.1)")
    s.stays(statement_timeout="0", lock_timeout="1234ms", idle_in_transaction_session_timeout="20s")


@feature()
def default_transaction_settings(s):
    s.run("SET default_transaction_isolation = 'serializable'")
    s.run("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY, DEFERRABLE")
    for _ in range(ROUNDS):
        assert s.show("transaction_isolation", "transaction_read_only", "transaction_deferrable") == ["serializable", "on", "on"]
        s.fails("25006", "INSERT INTO parent VALUES (100)")
    with s.transaction():
        s.run("SET TRANSACTION READ WRITE")
        s.run("INSERT INTO parent VALUES (101)")
    s.fails("25006", "INSERT INTO parent VALUES (102)")
    s.run("SET default_transaction_read_only = off")
    s.run("DELETE FROM parent WHERE id = 101")
    s.stays(default_transaction_isolation="serializable", default_transaction_deferrable="on")
    s.run("RESET ALL")
    s.stays(transaction_isolation="read committed")


@feature()
def custom_settings(s):
    assert s.one("SELECT coalesce(current_setting('app.tenant', true), '')") == ""
    s.run("SET app.tenant = 'mine'")
    s.run("SET \"App\".\"Other\" = 'case does not count'")
    s.stays(app__tenant="mine", app__other="case does not count")
    for _ in range(ROUNDS):
        assert s.one("SHOW app.tenant") == "mine"
    with Session() as other:  # of two who have set the same each has its own
        other.run("SET app.tenant = 'yours'")
        for _ in range(ROUNDS):
            assert (s.show("app.tenant"), other.show("app.tenant")) == ("mine", "yours")
    s.fails("42602", 'SET "app.no name" = 1')
    s.run("SET app.tenant = ''")
    s.stays(app__tenant="")
    for name in [f"app.n{n}" for n in range(30)]:
        s.conn.execute(f"SET {name} = '{name}'")
    s.stays(app__n0="app.n0", app__n17="app.n17", app__n29="app.n29")


VALUES = ["it's", "''", "back\\slash", "\\", "\\'", "new\nline\r\n\ttab", 'double"quote', "$1 $$ %s", "; DROP TABLE item; --",
          "/* ünï ☃ */", " padded ", "a, b", "x" * 10_000, "'\\\n\"" * 2_500, "E'\\x41'", "\x01\x7f"]


@feature()
def values_of_all_kinds(s):
    for value in VALUES:
        s.run("SELECT set_config('app.tenant', %s, false)", (value,))
        assert s.show("app.tenant") == value
        s.run("SET app.other = {}".format(psycopg.sql.Literal(value).as_string(s.conn)))
        assert s.show("app.other", "app.tenant") == [value, value]
    with s.transaction(rollback=True):
        s.run("SET app.other = 'forgotten'")
    s.stays(app__other=VALUES[-1])


@feature()
def set_config_in_a_select(s):
    assert s.one("SELECT set_config('app.tenant', 'selected', false)") == "selected"
    s.stays(app__tenant="selected")
    assert s.one("SELECT set_config('work_mem', '6MB', false)") == "6MB"
    s.run("SELECT set_config('app.tenant', 'for a moment', true)")
    s.stays(app__tenant="selected", work_mem="6MB")
    s.run("WITH w AS (SELECT set_config(name, value, false) FROM (VALUES ('app.tenant', 'many'), ('search_path', 'red')) v (name, value))"
          " SELECT count(*) FROM w")
    s.stays(app__tenant="many", search_path="red")
    s.run("SELECT pg_catalog . \"set_config\" ('app.tenant', 'spelled', false)")
    s.stays(app__tenant="spelled")
    s.run("UPDATE pg_settings SET setting = '4321' WHERE name = 'statement_timeout'")  # a rule calls set_config
    s.stays(statement_timeout="4321ms")
    s.fails("22012", "SELECT set_config('app.tenant', 'undone', false), 1/0")
    s.stays(app__tenant="spelled")


@feature()
def set_config_in_a_function(s):
    assert s.one("SELECT become('by a function')") == "by a function"
    s.stays(app__tenant="by a function")
    s.run("SELECT become_here('only here')")
    s.stays(app__tenant="by a function")
    assert s.one("SELECT inside()") == "inside 3MB"
    s.stays(app__tenant="by a function")
    assert s.one("SELECT tenant FROM changing") == "by a view"
    s.stays(app__tenant="by a view")
    with s.transaction(rollback=True):
        s.run("SELECT become('rolled back')")
    s.stays(app__tenant="by a view")
    s.run("CREATE FUNCTION fresh() RETURNS void LANGUAGE plpgsql AS $$ BEGIN SET app.tenant = 'fresh'; SET work_mem = '9MB'; END $$")
    s.run("SELECT fresh()")
    s.stays(app__tenant="fresh", work_mem="9MB")


@feature()
def set_config_in_do(s):
    s.run("DO $$ BEGIN PERFORM set_config('app.tenant', 'done', false); SET work_mem = '11MB'; END $$")
    s.stays(app__tenant="done", work_mem="11MB")
    s.run("DO $$ BEGIN EXECUTE 'SE' || 'T search_path = blue'; END $$")
    s.stays(app__tenant="done", search_path="blue")
    s.fails("P0001", "DO $$ BEGIN SET work_mem = '12MB'; RAISE EXCEPTION 'no'; END $$")
    s.run("DO $$ BEGIN BEGIN SET work_mem = '13MB'; RAISE EXCEPTION 'no'; EXCEPTION WHEN OTHERS THEN NULL; END; END $$")
    s.stays(work_mem="11MB")


@feature()
def set_config_in_a_trigger(s):
    s.run("INSERT INTO visit VALUES ('triggered')")
    s.stays(app__tenant="triggered")
    s.run("INSERT INTO visit VALUES (%s), (%s)", ("one", "two"))
    s.stays(app__tenant="two")
    with s.transaction(rollback=True):
        s.run("INSERT INTO visit VALUES ('rolled back')")
    s.stays(app__tenant="two")


@feature(options="-c work_mem=7MB -c app.tenant=at\\ start -c search_path=red --enable-seqscan=off")
def startup_options(s):
    start = dict(work_mem="7MB", app__tenant="at start", search_path="red", enable_seqscan="off")
    s.stays(**start)
    for sql in ["SET work_mem = '8MB'", "SET app.tenant = 'later'", "SET search_path = blue", "SET enable_seqscan = on"]:
        s.run(sql)
    s.stays(work_mem="8MB", app__tenant="later", search_path="blue", enable_seqscan="on")
    s.run("RESET work_mem")
    s.run("RESET app.tenant")
    s.stays(work_mem="7MB", app__tenant="at start", search_path="blue")
    s.run("RESET ALL")
    s.stays(**start)
    s.run("SET work_mem = '9MB'")
    s.run("DISCARD ALL")
    s.stays(**start)


@register
def startup_parameters():
    os.environ.update(PGTZ="Asia/Tokyo", PGDATESTYLE="German", PGGEQO="off", PGCLIENTENCODING="LATIN1")
    try:
        with Session() as s:
            start = dict(TimeZone="Asia/Tokyo", DateStyle="German, DMY", geqo="off", client_encoding="LATIN1")
            s.stays(**start)
            assert s.one("SELECT '2026-02-03'::date::text") == "03.02.2026"
            s.run("SET geqo = on")
            s.run("SET TimeZone = 'UTC'")
            s.stays(geqo="on", TimeZone="UTC", DateStyle="German, DMY")
            s.run("RESET geqo")
            s.run("SET TIME ZONE DEFAULT")
            s.stays(**start)
    finally:
        for name in ["PGTZ", "PGDATESTYLE", "PGGEQO", "PGCLIENTENCODING"]:
            del os.environ[name]


@feature()
def set_in_transactions(s):
    with s.transaction():
        s.run("SET work_mem = '5MB'")
        s.run("SET app.tenant = 'committed'")
    s.stays(work_mem="5MB", app__tenant="committed")
    with s.transaction(rollback=True):
        s.run("SET work_mem = '6MB'")
        s.run("RESET app.tenant")
        assert s.show("work_mem", "app.tenant") == ["6MB", ""]
    s.stays(work_mem="5MB", app__tenant="committed")
    with s.transaction():
        s.run("SET work_mem = '7MB'")
        s.run("SAVEPOINT a")
        s.run("SET work_mem = '8MB'")
        s.run("SET app.tenant = 'undone'")
        s.run("ROLLBACK TO a")
        s.run("SAVEPOINT b")
        s.run("SET app.other = 'released'")
        s.run("RELEASE b")
    s.stays(work_mem="7MB", app__tenant="committed", app__other="released")
    with s.transaction():  # a local value over one that stays
        s.run("SET work_mem = '9MB'")
        s.run("SET LOCAL work_mem = '10MB'")
        assert s.show("work_mem") == "10MB"
    s.stays(work_mem="9MB")
    s.conn.execute("BEGIN")
    s.run("SET work_mem = '11MB'")
    s.fails("22012", "SELECT 1/0")
    s.run("COMMIT")  # which rolls back
    s.stays(work_mem="9MB")
    s.run("BEGIN; SET work_mem = '12MB'")
    s.run("COMMIT AND CHAIN")
    s.run("SET work_mem = '13MB'")
    s.run("ROLLBACK")
    s.stays(work_mem="12MB")
