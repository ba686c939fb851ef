"""What is not a setting: prepared statements, temporary objects, locks, cursors, notifications and the like."""

import time

from session import ROUNDS, SUPERUSER, Session, feature

MINE = "SELECT name FROM pg_prepared_statements WHERE from_sql ORDER BY name"
LOCKS = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()"


@feature(prepare_threshold=0)
def sql_prepare_beside_the_protocols(s):
    double = "SELECT 2 * %s::int"
    assert s.one(double, (1,)) == 2
    s.run("PREPARE triple (int) AS SELECT 3 * $1", prepare=False)
    s.run("PREPARE _pg3_0_sql AS SELECT 'beside'", prepare=False)
    for n in range(ROUNDS):
        assert s.one(f"EXECUTE triple ({n})", prepare=False) == 3 * n
        assert s.one("EXECUTE _pg3_0_sql", prepare=False) == "beside"
        assert s.one(double, (n,)) == 2 * n
        assert s.rows(MINE) == [("_pg3_0_sql",), ("triple",)]
    s.fails("42P05", "PREPARE triple AS SELECT 1", prepare=False)
    s.run("DEALLOCATE triple", prepare=False)
    s.fails("26000", "EXECUTE triple (1)", prepare=False)
    for n in range(ROUNDS):
        assert s.one("EXECUTE _pg3_0_sql", prepare=False) == "beside"
        assert s.one(double, (n,)) == 2 * n
    s.run("DEALLOCATE PREPARE _pg3_0_sql", prepare=False)
    for _ in range(ROUNDS):
        s.fails("26000", "EXECUTE _pg3_0_sql", prepare=False)
        assert s.rows(MINE) == []


@feature(prepare_threshold=None)
def sql_prepare_of_two_clients(s):
    s.run("PREPARE same AS SELECT 'mine'")
    for _ in range(ROUNDS):
        assert s.one("EXECUTE same") == "mine"
    s.run("DEALLOCATE same")
    with Session() as other:
        other.fails("26000", "EXECUTE same")
        other.run("PREPARE same AS SELECT 'yours'")
        for _ in range(ROUNDS):
            s.fails("26000", "EXECUTE same")
            assert other.one("EXECUTE same") == "yours"
    s.run("PREPARE same AS SELECT 'mine again'")
    assert s.one("EXECUTE same") == "mine again"


@feature(prepare_threshold=None)
def sql_prepare_in_transactions(s):
    with s.transaction(rollback=True):  # what is prepared stays prepared
        s.run("PREPARE kept AS SELECT 'kept'")
    with s.transaction():
        s.run("PREPARE other AS SELECT 'other'")
    for _ in range(ROUNDS):
        assert [s.one("EXECUTE kept"), s.one("EXECUTE other")] == ["kept", "other"]
    with s.transaction(rollback=True):
        s.run("DEALLOCATE kept")
    s.fails("26000", "EXECUTE kept")
    s.run("DO $$ BEGIN EXECUTE 'PREPARE hidden AS SELECT ''hidden'''; END $$")
    for _ in range(ROUNDS):
        assert s.one("EXECUTE hidden") == "hidden"
    s.run("DEALLOCATE ALL")
    for name in ["kept", "other", "hidden"]:
        s.fails("26000", f"EXECUTE {name}")


@feature(prepare_threshold=None, options="-c work_mem=6MB")
def discard_all(s):
    with Session() as other:
        for sql in ["SET work_mem = '7MB'", "SET app.tenant = 'mine'", "SET ROLE state_reader", "RESET ROLE",
                    "PREPARE p AS SELECT 1", "CREATE TEMP TABLE mine (n int)", "LISTEN mine", "SELECT pg_advisory_lock(11)",
                    "SELECT nextval('ticket')", "BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT 1; COMMIT", "SET ROLE state_reader"]:
            s.run(sql)
        assert other.one("SELECT pg_try_advisory_lock(11)") is False
        s.run("DISCARD ALL")
        s.stays(work_mem="6MB", app__tenant="", role="none")
        for state, sql in [("26000", "EXECUTE p"), ("42P01", "SELECT * FROM mine"), ("34000", "FETCH c"),
                           ("55000", "SELECT currval('ticket')"), ("55000", "SELECT lastval()")]:
            for _ in range(ROUNDS):
                s.fails(state, sql)
        other.run("NOTIFY mine")
        assert s.told(1, 0.2) == []
        assert other.one("SELECT pg_try_advisory_lock(11)") is True
    s.run("BEGIN")
    s.fails("25001", "DISCARD ALL")
    s.run("ROLLBACK")


@feature(prepare_threshold=0)
def discard_plans(s):
    s.run("SET app.tenant = 'mine'")
    s.run("PREPARE p AS SELECT name FROM item WHERE id = 1", prepare=False)
    s.run("DISCARD PLANS")
    for n in range(ROUNDS):
        assert s.one("EXECUTE p", prepare=False) == "public"
        assert s.one("SELECT %s::int", (n,)) == n
    s.stays(app__tenant="mine")


@feature(prepare_threshold=None)
def discard_temp(s):
    s.run("CREATE TEMP TABLE mine (n int)")
    s.run("CREATE TEMP SEQUENCE mine_too")
    s.run("PREPARE p AS SELECT 'p'")
    s.run("SET work_mem = '7MB'")
    s.run("DISCARD TEMP")
    for _ in range(ROUNDS):
        s.fails("42P01", "SELECT * FROM mine")
        s.fails("42P01", "SELECT nextval('mine_too')")
        assert s.one("EXECUTE p") == "p"
    s.run("CREATE TEMP TABLE mine (t text)")
    s.run("DISCARD TEMPORARY")
    s.fails("42P01", "SELECT * FROM mine")
    s.run("DEALLOCATE p")
    s.stays(work_mem="7MB")


@feature()
def discard_sequences(s):
    first = s.one("SELECT nextval('ticket')")
    s.run("CREATE TEMP TABLE mine (n int)")
    for _ in range(ROUNDS):
        assert s.one("SELECT currval('ticket')") == first
    s.run("DISCARD SEQUENCES")
    for _ in range(ROUNDS):
        s.fails("55000", "SELECT currval('ticket')")
        s.fails("55000", "SELECT lastval()")
        assert s.rows("SELECT * FROM mine") == []


@feature()
def temporary_tables(s):
    s.run("CREATE TEMP TABLE item (id int, name text)")  # hides the one in public
    s.run("INSERT INTO item VALUES (1, 'mine')")
    s.run("CREATE TEMPORARY TABLE copied ON COMMIT PRESERVE ROWS AS SELECT * FROM public.item")
    s.run("SELECT 1 AS one INTO TEMP chosen")
    s.run("CREATE TABLE pg_temp.schemed (LIKE item)")
    with Session() as other:
        for _ in range(ROUNDS):
            assert s.one("SELECT name FROM item WHERE id = 1") == "mine"
            assert s.one("SELECT count(*) FROM copied") == 2
            assert s.one("SELECT one FROM chosen") == 1
            assert s.rows("SELECT * FROM schemed") == []
            assert other.one("SELECT name FROM item WHERE id = 1") == "public"
            other.fails("42P01", "SELECT * FROM copied")
    s.run("ALTER TABLE item RENAME TO renamed")
    for _ in range(ROUNDS):
        assert s.one("SELECT name FROM item WHERE id = 1") == "public"
        assert s.one("SELECT name FROM renamed") == "mine"
    s.run("DROP TABLE renamed, copied, chosen, schemed")
    for _ in range(ROUNDS):
        s.fails("42P01", "SELECT * FROM renamed")


@feature()
def temporary_tables_on_commit(s):
    s.run("CREATE TEMP TABLE kept (n int) ON COMMIT PRESERVE ROWS")
    s.run("CREATE TEMP TABLE emptied (n int) ON COMMIT DELETE ROWS")
    for n in range(ROUNDS):
        with s.transaction():
            s.run("CREATE TEMP TABLE dropped (n int) ON COMMIT DROP")
            for table in ["kept", "emptied", "dropped"]:
                s.run(f"INSERT INTO {table} VALUES ({n})")
                assert s.one(f"SELECT max(n) FROM {table}") == n
        assert s.one("SELECT count(*) FROM kept") == n + 1
        assert s.one("SELECT count(*) FROM emptied") == 0
        s.fails("42P01", "SELECT * FROM dropped")
    with s.transaction(rollback=True):
        s.run("CREATE TEMP TABLE undone (n int)")
        s.run("DROP TABLE kept")
    s.fails("42P01", "SELECT * FROM undone")
    assert s.one("SELECT count(*) FROM kept") == ROUNDS
    s.run("CREATE TEMP TABLE gone (n int) ON COMMIT DROP")
    s.fails("42P01", "SELECT * FROM gone")


@feature()
def temporary_tables_in_functions(s):
    for n in range(ROUNDS):
        s.run("SELECT scribble(%s)", (f"word {n}",))
        assert s.rows("SELECT word FROM scratch") == [(f"word {i}",) for i in range(n + 1)]
    s.run("DROP TABLE scratch")
    s.run("DO $$ BEGIN CREATE TEMP TABLE from_do AS SELECT 'done' AS word; END $$")
    for _ in range(ROUNDS):
        assert s.one("SELECT word FROM from_do") == "done"


@feature()
def temporary_views_and_sequences(s):
    s.run("CREATE TEMP VIEW seen AS SELECT name FROM item WHERE id = 1")
    s.run("CREATE TEMP SEQUENCE steps START 5")
    s.run("CREATE TEMP TABLE numbered (id serial, n int)")
    s.run("CREATE FUNCTION pg_temp.twice(n int) RETURNS int LANGUAGE sql AS 'SELECT 2 * n'")
    s.run("CREATE TYPE pg_temp.mood AS ENUM ('sad', 'happy')")
    for n in range(ROUNDS):
        assert s.one("SELECT name FROM seen") == "public"
        assert s.one("SELECT nextval('steps')") == 5 + n
        assert s.one("INSERT INTO numbered (n) VALUES (0) RETURNING id") == n + 1
        assert s.one("SELECT pg_temp.twice(%s::int)", (n,)) == 2 * n
        assert s.one("SELECT max(m)::text FROM unnest(enum_range(NULL::pg_temp.mood)) m") == "happy"
    s.run("DROP VIEW seen")
    s.fails("42P01", "SELECT * FROM seen")
    s.run("CREATE OR REPLACE TEMP VIEW again AS SELECT 1 AS one")
    assert s.one("SELECT one FROM again") == 1


@feature()
def advisory_locks(s):
    with Session() as other:
        s.run("SELECT pg_advisory_lock(1)")
        s.run("SELECT pg_advisory_lock_shared(2)")
        assert s.one("SELECT pg_try_advisory_lock(3, 4)") is True
        for _ in range(ROUNDS):
            assert s.one(LOCKS) == 3
            assert other.one("SELECT pg_try_advisory_xact_lock(1)") is False
            assert other.one("SELECT pg_try_advisory_xact_lock_shared(2)") is True
            assert other.one("SELECT pg_try_advisory_xact_lock(3, 4)") is False
            assert other.one(LOCKS) == 0
        assert other.one("SELECT pg_advisory_unlock(1)") is False  # with a warning: it is not its own
        s.run("SELECT pg_advisory_unlock(1), pg_advisory_unlock_shared(2), pg_advisory_unlock(3, 4)")
        for _ in range(ROUNDS):
            assert s.one(LOCKS) == 0
            assert other.one("SELECT pg_try_advisory_xact_lock(1)") is True


@feature()
def advisory_locks_counted(s):
    with Session() as other:
        with s.transaction(rollback=True):  # a lock of the session outlives what is rolled back
            s.run("SELECT pg_advisory_lock(21)")
        s.run("SELECT pg_advisory_lock(21)")
        with s.transaction():
            s.run("SELECT pg_advisory_xact_lock(21)")
        for left in [True, False]:
            for _ in range(ROUNDS):
                assert s.one(LOCKS) == 1
                assert other.one("SELECT pg_try_advisory_xact_lock(21)") is False
            assert s.one("SELECT pg_advisory_unlock(21)") is True
            assert other.one("SELECT pg_try_advisory_xact_lock(21)") is not left
        assert s.one("SELECT pg_advisory_unlock(21)") is False
        s.run("SELECT pg_advisory_lock(n) FROM generate_series(30, 34) n")
        assert s.one(LOCKS) == 5
        s.run("SELECT pg_advisory_unlock_all()")
        assert s.one(LOCKS) == 0


@feature()
def advisory_locks_in_functions(s):
    with Session() as other:
        s.run("SELECT take(41)")
        s.run("DO $$ BEGIN PERFORM take(41); PERFORM pg_advisory_lock(42); END $$")
        for _ in range(ROUNDS):
            assert s.one(LOCKS) == 2
            assert other.one("SELECT pg_try_advisory_xact_lock(41)") is False
            assert other.one("SELECT pg_try_advisory_xact_lock(42)") is False
        assert s.one("SELECT give(41)") is True
        assert other.one("SELECT pg_try_advisory_xact_lock(41)") is False
        assert s.one("SELECT give(41)") is True
        assert other.one("SELECT pg_try_advisory_xact_lock(41)") is True
    with Session() as last:  # and end with the session
        s.conn.close()
        last.neighbour.leave()
        deadline = time.monotonic() + 5
        while not last.one("SELECT pg_try_advisory_xact_lock(42)"):
            assert time.monotonic() < deadline, "the lock of a client that left is held"


@feature()
def cursors_with_hold(s):
    with s.transaction():
        s.run("DECLARE held SCROLL CURSOR WITH HOLD FOR SELECT n FROM generate_series(1, 100) n")
        s.run("DECLARE passing CURSOR FOR SELECT 1")
        assert s.one("FETCH held") == 1
    s.fails("34000", "FETCH passing")
    s.run("DECLARE alone CURSOR WITH HOLD FOR SELECT 'alone'")
    for n in range(ROUNDS):
        assert s.rows("FETCH 2 FROM held") == [(2 + 2 * n,), (3 + 2 * n,)]
        assert s.one("SELECT count(*) FROM pg_cursors WHERE is_holdable") == 2
    assert s.one("FETCH ABSOLUTE 100 FROM held") == 100
    assert s.one("FETCH alone") == "alone"
    s.run("CLOSE held")
    s.fails("34000", "FETCH held")
    with s.transaction(rollback=True):
        s.run("DECLARE undone CURSOR WITH HOLD FOR SELECT 1")
        s.run("CLOSE alone")  # which a rollback does not undo
    s.fails("34000", "FETCH undone")
    s.fails("34000", "FETCH alone")
    s.run("DECLARE one CURSOR WITH HOLD FOR SELECT 1")
    s.run("CLOSE ALL")
    with s.conn.cursor("psycopg's own", withhold=True) as cursor:
        cursor.execute("SELECT generate_series(1, 10)")
        s.settle()
        assert cursor.fetchmany(4) == [(1,), (2,), (3,), (4,)]
        s.settle()
        assert len(cursor.fetchall()) == 6


@feature()
def listen_and_notify(s):
    with Session() as other:
        s.run("LISTEN news")
        s.run("LISTEN \"Other News\"")
        start = time.monotonic()
        other.run("NOTIFY news, 'at once'")
        assert s.told(1) == [("news", "at once")]
        assert time.monotonic() - start < 2
        with other.transaction():
            for n in range(20):
                other.run("SELECT pg_notify('news', %s)", (f"{n}",))
            other.run("NOTIFY \"Other News\"")
            other.run("NOTIFY nobodys")
            assert s.told(1, 0.1) == []
        assert s.told(21) == [("news", f"{n}") for n in range(20)] + [("Other News", "")]
        with other.transaction(rollback=True):
            other.run("NOTIFY news, 'never'")
        with s.transaction():
            s.run("NOTIFY news, 'to myself'")
            other.run("NOTIFY news, 'after a long time'")
            assert s.told(1, 0.1) == []  # nothing is told in a transaction
        assert sorted(s.told(2)) == [("news", "after a long time"), ("news", "to myself")]
        assert other.told(1, 0.1) == []


@feature()
def unlisten(s):
    with Session() as other:
        with s.transaction(rollback=True):
            s.run("LISTEN one")
        with s.transaction():
            s.run("LISTEN two")
            s.run("LISTEN three")
        s.run("UNLISTEN three")
        s.run("SELECT listen_to('four')")
        for n in range(ROUNDS):
            for channel in ["one", "two", "three", "four"]:
                other.run(f"NOTIFY {channel}, '{n}'")
            assert s.told(2) == [("two", f"{n}"), ("four", f"{n}")]
        with s.transaction(rollback=True):
            s.run("UNLISTEN *")
        other.run("NOTIFY two, 'still'")
        assert s.told(1) == [("two", "still")]
        s.run("UNLISTEN *")
        other.run("NOTIFY two")
        other.run("NOTIFY four")
        assert s.told(1, 0.2) == []


@feature(SUPERUSER)
def load(s):
    s.run("LOAD 'auto_explain'")
    s.run("SET auto_explain.log_min_duration = 12345")
    for _ in range(ROUNDS):
        assert s.one("SELECT setting FROM pg_settings WHERE name = 'auto_explain.log_min_duration'") == "12345"
        s.fails("22023", "SET auto_explain.log_format = 'nonsense'")  # known to the library only
    s.run("RESET auto_explain.log_min_duration")
    s.stays(auto_explain__log_min_duration="-1")


@feature()
def values_of_sequences(s):
    s.fails("55000", "SELECT currval('ticket')")
    with Session() as other:
        mine = s.one("SELECT nextval('ticket')")
        for _ in range(ROUNDS):
            assert s.one("SELECT currval('ticket')") == s.one("SELECT lastval()") == mine
            other.fails("55000", "SELECT currval('ticket')")
            other.fails("55000", "SELECT lastval()")
        with s.transaction(rollback=True):  # which takes no value back
            mine = s.one("SELECT nextval('coupon')")
        assert s.one("SELECT currval('coupon')") == s.one("SELECT lastval()") == mine
        s.run("SELECT setval('ticket', 500)")
        assert s.one("SELECT currval('ticket')") == 500
        assert s.one("SELECT lastval()") in (mine, 500)
        mine = s.one("SELECT count_on()")
        assert s.one("SELECT currval('ticket')") == s.one("SELECT lastval()") == mine == 501
        other.fails("55000", "SELECT lastval()")


@feature()
def values_of_serial_columns(s):
    with Session() as other:
        for n in range(ROUNDS):
            s.run("INSERT INTO counted (note) VALUES ('mine')")
            mine = s.one("SELECT lastval()")
            assert s.one("SELECT note FROM counted WHERE id = %s", (mine,)) == "mine"
            for _ in range(ROUNDS):
                assert s.one("SELECT currval(pg_get_serial_sequence('counted', 'id'))") == mine
                other.fails("55000", "SELECT lastval()")
        with s.transaction():
            s.run("INSERT INTO counted (note) SELECT 'more' FROM generate_series(1, 10)")
        assert s.one("SELECT currval('counted_id_seq')") == mine + 10


@feature()
def large_objects(s):
    oid = s.one("SELECT lo_from_bytea(0, 'first ')")
    with s.transaction():
        handle = s.one(f"SELECT lo_open({oid}, x'60000'::int)")
        assert s.one(f"SELECT lo_lseek({handle}, 0, 2)") == 6
        assert s.one(f"SELECT lowrite({handle}, 'second')") == 6
    s.fails("42704", f"SELECT loread({handle}, 6)")  # a descriptor ends with its transaction
    for _ in range(ROUNDS):
        assert s.one(f"SELECT lo_get({oid})") == b"first second"
    with s.transaction(rollback=True):
        s.run(f"SELECT lo_put({oid}, 0, 'third')")
    assert s.one(f"SELECT lo_get({oid}, 0, 5)") == b"first"
    s.run(f"SELECT lo_unlink({oid})")
    s.fails("42704", f"SELECT lo_get({oid})")


@feature()
def two_phase_commit(s):
    with Session() as other:
        s.run("SET app.tenant = 'before'")
        s.run("BEGIN")
        s.run("INSERT INTO parent VALUES (201)")
        s.run("SET app.tenant = 'in it'")
        s.run("SET LOCAL work_mem = '8MB'")
        s.run("PREPARE TRANSACTION 'state one'")
        s.stays(app__tenant="in it", work_mem=other.show("work_mem"))
        assert other.one("SELECT count(*) FROM parent WHERE id = 201") == 0
        other.run("COMMIT PREPARED 'state one'")
        for _ in range(ROUNDS):
            assert s.one("SELECT count(*) FROM parent WHERE id = 201") == 1
        for sql in ["CREATE TEMP TABLE hinders (n int)", "LISTEN hinders", "DECLARE c CURSOR WITH HOLD FOR SELECT 1"]:
            s.run("BEGIN")
            s.run(sql)
            s.fails("0A000", "PREPARE TRANSACTION 'state two'")
            s.run("ROLLBACK")
        s.run("BEGIN")
        s.run("DELETE FROM parent WHERE id = 201")
        s.run("PREPARE TRANSACTION 'state three'")
        s.run("ROLLBACK PREPARED 'state three'")
        assert other.one("SELECT count(*) FROM parent WHERE id = 201") == 1


@feature(prepare_threshold=None)
def several_statements_at_once(s):
    s.run("SET work_mem = '5MB'; SET app.tenant = 'mine'; PREPARE p AS SELECT 'p'; SELECT 1")
    s.stays(work_mem="5MB", app__tenant="mine")
    assert s.one("EXECUTE p") == "p"
    # One transaction: settings and tables are undone, what is prepared, locked or drawn stays.
    s.fails("22012", "SET work_mem = '6MB'; SELECT become('undone'); CREATE TEMP TABLE undone (n int); LISTEN undone;"
                     " PREPARE q AS SELECT 'q'; SELECT pg_advisory_lock(51); SELECT nextval('ticket'); SELECT 1/0;"
                     " SET work_mem = '7MB'; DEALLOCATE q")
    s.stays(work_mem="5MB", app__tenant="mine")
    s.fails("42P01", "SELECT * FROM undone")
    for _ in range(ROUNDS):
        assert [s.one("EXECUTE q"), s.one(LOCKS)] == ["q", 1]
        assert s.one("SELECT lastval()") == s.one("SELECT currval('ticket')")
    s.run("SELECT pg_advisory_unlock(51); DEALLOCATE ALL; DISCARD SEQUENCES")
    # Two transactions and half of one.
    s.fails("22012", "BEGIN; SET work_mem = '8MB'; COMMIT; SET app.tenant = 'half'; SELECT 1/0")
    s.stays(work_mem="8MB", app__tenant="mine")
    s.fails("42601", "SET work_mem = '9MB'; SELEC 1")
    s.stays(work_mem="8MB")
    s.fails("22012", "BEGIN; SET work_mem = '9MB'; SELECT 1/0; COMMIT")
    # BEGIN makes what came before part of its transaction.
    s.run("ROLLBACK; SET work_mem = '10MB'; BEGIN; SET work_mem = '11MB'; ROLLBACK; SET LOCAL app.tenant = 'brief'")
    s.stays(work_mem="8MB", app__tenant="mine")


@feature(prepare_threshold=0)
def tables_that_change_under_prepared_statements(s):
    with Session() as other:
        for sql in ["CREATE TABLE shape (id int, name text)", "INSERT INTO shape VALUES (1, 'one')"]:
            s.run(sql, prepare=False)
        named, all_of_it = "SELECT name FROM shape WHERE id = %s", "SELECT * FROM shape"
        s.run("PREPARE by_sql AS SELECT * FROM shape", prepare=False)
        for _ in range(ROUNDS):
            assert s.one(named, (1,)) == "one"
            assert s.rows(all_of_it) == s.rows("EXECUTE by_sql", prepare=False) == [(1, "one")]
        other.run("CREATE INDEX ON shape (id)")
        other.run("ALTER TABLE shape ADD COLUMN more int DEFAULT 5")
        for _ in range(ROUNDS):
            assert s.one(named, (1,)) == "one"
        s.fails("0A000", all_of_it)
        s.fails("0A000", "EXECUTE by_sql", prepare=False)
        s.run("DEALLOCATE ALL", prepare=False)
        s.run("PREPARE by_sql AS SELECT * FROM shape", prepare=False)
        for _ in range(ROUNDS):
            assert s.rows(all_of_it) == s.rows("EXECUTE by_sql", prepare=False) == [(1, "one", 5)]
        other.run("DROP TABLE shape")
        s.fails("42P01", named, (1,))
