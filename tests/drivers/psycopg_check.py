"""psycopg 3 through the pooler: sync, async, pipelines, prepared statements, cursors, COPY, two-phase commit, cancel.

Usage: psycopg_check.py CONNINFO. Prints one PASS line per check; the first failure ends it with a traceback.
"""

import asyncio
import enum
import sys
import threading
import time

import psycopg
from psycopg import IsolationLevel, errors, sql
from psycopg.types.composite import CompositeInfo, register_composite
from psycopg.types.enum import EnumInfo, register_enum
from psycopg.types.json import Jsonb

CONNINFO = sys.argv[1]
TABLE = "psycopg_item"


def connect(**options):
    return psycopg.connect(CONNINFO, autocommit=True, **options)


def setup():
    with connect() as conn:
        conn.execute(f"DROP TABLE IF EXISTS {TABLE}")
        conn.execute(f"CREATE TABLE {TABLE} (id int PRIMARY KEY, name text)")


def simple_and_parameters():
    with connect() as conn:
        assert conn.execute("SELECT 1").fetchone() == (1,)
        assert conn.execute("SELECT %s::int + %s::int", (2, 3)).fetchone() == (5,)
        assert conn.execute("SELECT %s::text", ("it's \\ ünï",)).fetchone() == ("it's \\ ünï",)
        assert conn.execute("SELECT %b::bytea", (b"\0\1\xff",)).fetchone() == (b"\0\1\xff",)
        assert conn.execute("SELECT NULL::int").fetchone() == (None,)


def server_side_prepare():
    with connect(prepare_threshold=0) as conn:
        for n in range(300):
            row = conn.execute("SELECT %s::int, 'prepared'", (n,)).fetchone()
            assert row == (n, "prepared"), row
        for n in range(150):  # more texts than psycopg keeps: it deallocates the oldest
            assert conn.execute(sql.SQL("SELECT {}::int").format(sql.Literal(n)), prepare=True).fetchone() == (n,)
    with connect() as conn:  # prepared from the fifth use on
        for n in range(20):
            assert conn.execute("SELECT %s::int * 2", (n,)).fetchone() == (2 * n,)


def transactions():
    with connect() as conn:
        with conn.transaction():
            conn.execute(f"INSERT INTO {TABLE} VALUES (1, 'one')")
            try:
                with conn.transaction():
                    conn.execute(f"INSERT INTO {TABLE} VALUES (2, 'two')")
                    raise psycopg.Rollback
            except psycopg.Rollback:
                pass
        assert conn.execute(f"SELECT id FROM {TABLE}").fetchall() == [(1,)]
    with psycopg.connect(CONNINFO) as conn:  # transactions begin by themselves
        conn.execute(f"DELETE FROM {TABLE}")
        conn.rollback()
        assert conn.execute(f"SELECT count(*) FROM {TABLE}").fetchone() == (1,)


def errors_in_a_transaction():
    with psycopg.connect(CONNINFO) as conn:
        try:
            conn.execute("SELECT 1/0")
            raise AssertionError("a division by zero passed")
        except errors.DivisionByZero:
            pass
        try:
            conn.execute("SELECT 1")
            raise AssertionError("an aborted transaction went on")
        except errors.InFailedSqlTransaction:
            pass
        conn.rollback()
        assert conn.execute("SELECT 1").fetchone() == (1,)
        try:
            conn.execute("SELEC 1")
        except errors.SyntaxError as error:
            assert error.sqlstate == "42601"
        conn.rollback()


def many_rows():
    with connect() as conn, conn.cursor() as cursor:
        cursor.executemany(f"INSERT INTO {TABLE} VALUES (%s, %s)", [(n, f"n{n}") for n in range(100, 600)])
        assert cursor.rowcount == 500
        cursor.executemany("SELECT %s::int", [(1,), (2,), (3,)], returning=True)
        got = []
        while True:
            got.append(cursor.fetchone()[0])
            if not cursor.nextset():
                break
        assert got == [1, 2, 3]


def named_cursor():
    with psycopg.connect(CONNINFO) as conn, conn.cursor(name="walk") as cursor:
        cursor.itersize = 100
        cursor.execute("SELECT n FROM generate_series(1, 1000) n")
        assert [row[0] for row in cursor] == list(range(1, 1001))


def copy():
    with connect() as conn, conn.cursor() as cursor:
        with cursor.copy(f"COPY {TABLE} FROM STDIN") as into:
            for n in range(10_000, 20_000):
                into.write_row((n, f"copied {n}"))
        with cursor.copy(f"COPY (SELECT * FROM {TABLE} WHERE id >= 10000 ORDER BY id) TO STDOUT") as out:
            rows = list(out.rows())
        assert len(rows) == 10_000 and rows[-1] == ("19999", "copied 19999")
        try:
            with cursor.copy(f"COPY {TABLE} FROM STDIN") as into:
                into.write_row((10_000, "a duplicate"))
            raise AssertionError("a duplicate key passed")
        except errors.UniqueViolation:
            pass
        assert cursor.execute("SELECT 1").fetchone() == (1,)


def pipeline():
    with connect() as conn:
        with conn.pipeline() as pipe:
            cursors = [conn.execute("SELECT %s::int", (n,)) for n in range(500)]
            pipe.sync()
            assert [cursor.fetchone()[0] for cursor in cursors] == list(range(500))
        try:
            with conn.pipeline():
                conn.execute("SELECT 1")
                conn.execute("SELECT no_such_column")
                conn.execute("SELECT 2")
            raise AssertionError("a pipeline with an error passed")
        except errors.UndefinedColumn:
            pass
        assert conn.execute("SELECT 'on'").fetchone() == ("on",)
    with connect(prepare_threshold=0) as conn, conn.pipeline():
        cursors = [conn.execute("SELECT %s::int, 'p'", (n,)) for n in range(200)]
        assert [cursor.fetchone() for cursor in cursors] == [(n, "p") for n in range(200)]


def cancel():
    with connect() as conn:
        timer = threading.Timer(0.3, conn.cancel)
        timer.start()
        start = time.monotonic()
        try:
            conn.execute("SELECT pg_sleep(20)")
            raise AssertionError("the query was not cancelled")
        except errors.QueryCanceled:
            assert time.monotonic() - start < 10
        timer.join()
        assert conn.execute("SELECT 1").fetchone() == (1,)


def scrolled_cursor():
    with psycopg.connect(CONNINFO) as conn:
        with conn.cursor(name="back and forth", scrollable=True) as cursor, conn.cursor(name="other") as other:
            cursor.execute("SELECT generate_series(1, 100)")
            other.execute("SELECT generate_series(1, 5)")
            assert cursor.fetchmany(50)[-1] == (50,)
            cursor.scroll(-10)
            assert cursor.fetchone() == (41,)
            cursor.scroll(0, mode="absolute")
            assert len(cursor.fetchall()) == 100
            assert [row[0] for row in other] == [1, 2, 3, 4, 5]
        assert conn.execute("SELECT count(*) FROM pg_cursors").fetchone() == (0,)


def streamed_rows():
    with connect() as conn, conn.cursor() as cursor:
        for size in [1, 1, 100, 333]:
            rows = cursor.stream("SELECT generate_series(1, %s::int)", (2000,), size=size)
            assert [row[0] for row in rows] == list(range(1, 2001))
        rows = cursor.stream("SELECT 10 / (100 - n) FROM generate_series(1, 200) n", size=10)
        try:
            count = 0
            for _ in rows:
                count += 1
            raise AssertionError("a division by zero passed")
        except errors.DivisionByZero:
            assert count <= 99
        rows = cursor.stream("SELECT generate_series(1, 100000)")
        assert next(rows) == (1,)
        rows.close()  # cancels what is left
        assert conn.execute("SELECT 'on'").fetchone() == ("on",)


def several_results_and_notices():
    with connect() as conn:
        cursor = conn.execute("SELECT 1; SELECT 2, 'b'; SELECT 3")
        got = [cursor.fetchall()]
        while cursor.nextset():
            got.append(cursor.fetchall())
        assert got == [[(1,)], [(2, "b")], [(3,)]]
        notices = []
        conn.add_notice_handler(lambda notice: notices.append(notice.message_primary))
        for n in range(10):
            conn.execute(f"DO $$ BEGIN RAISE NOTICE 'note {n}'; END $$")
        assert notices == [f"note {n}" for n in range(10)]


def modes_of_a_transaction():
    with psycopg.connect(CONNINFO) as conn:
        conn.isolation_level = IsolationLevel.SERIALIZABLE
        conn.read_only = True
        for _ in range(5):
            assert conn.execute("SHOW transaction_isolation").fetchone() == ("serializable",)
            try:
                conn.execute(f"DELETE FROM {TABLE}")
                raise AssertionError("a read-only transaction wrote")
            except errors.ReadOnlySqlTransaction:
                conn.rollback()
        conn.isolation_level = conn.read_only = None
        assert conn.execute("SHOW transaction_isolation").fetchone() == ("read committed",)


def types_of_ones_own():
    with connect(prepare_threshold=0) as conn:
        conn.execute("CREATE TYPE mood AS ENUM ('sad', 'happy')")
        conn.execute("CREATE TYPE pair AS (number int, mood mood)")
        mood = enum.Enum("Mood", ["sad", "happy"])
        register_enum(EnumInfo.fetch(conn, "mood"), conn, mood)
        register_composite(CompositeInfo.fetch(conn, "pair"), conn)
        for n in range(20):
            assert conn.execute("SELECT %s::mood", (mood.happy,)).fetchone() == (mood.happy,)
            assert tuple(conn.execute("SELECT ROW(%s, 'sad')::pair", (n,)).fetchone()[0]) == (n, mood.sad)
            assert conn.execute("SELECT %s", (Jsonb({"n": n}),)).fetchone() == ({"n": n},)
            assert conn.execute("SELECT %s::int[], %b::text[]", ([n, 2], ["a", "b"])).fetchone() == ([n, 2], ["a", "b"])


def binary_copy():
    with connect() as conn, conn.cursor() as cursor:
        with cursor.copy(f"COPY {TABLE} FROM STDIN (FORMAT binary)") as into:
            into.set_types(["int4", "text"])
            for n in range(30_000, 60_000):
                into.write_row((n, f"binary {n}"))
        with cursor.copy(f"COPY (SELECT * FROM {TABLE} WHERE id >= 30000 ORDER BY id) TO STDOUT (FORMAT binary)") as out:
            out.set_types(["int4", "text"])
            assert list(out.rows()) == [(n, f"binary {n}") for n in range(30_000, 60_000)]
        try:
            with cursor.copy(f"COPY {TABLE} TO STDOUT") as out:
                out.read()
                raise KeyError("left early")  # psycopg cancels what is left
        except KeyError:
            pass
        assert cursor.execute("SELECT 1").fetchone() == (1,)


def two_phase_commit():
    with psycopg.connect(CONNINFO) as conn, psycopg.connect(CONNINFO) as other:
        for n in range(10):
            xid = conn.xid(1, f"global {n}", "branch")
            conn.tpc_begin(xid)
            conn.execute(f"INSERT INTO {TABLE} VALUES (%s, 'two phases')", (-1 - n,))
            conn.tpc_prepare()
            conn.close() if n == 9 else conn.tpc_commit() if n % 2 else conn.tpc_rollback()
        [left] = other.tpc_recover()
        other.tpc_commit(left)
        found = other.execute(f"SELECT id FROM {TABLE} WHERE name = 'two phases' ORDER BY id DESC")
        assert [row[0] for row in found] == [-2, -4, -6, -8, -10]


async def asynchronous_pipelines():
    async with await psycopg.AsyncConnection.connect(CONNINFO, autocommit=True, prepare_threshold=0) as conn:
        for _ in range(5):
            async with conn.pipeline() as pipe:
                cursors = [await conn.execute("SELECT %s::int + %s", (n, n % 7)) for n in range(200)]
                failing = await conn.execute("SELECT 'before'")
                await pipe.sync()
                assert [(await cursor.fetchone())[0] for cursor in cursors] == [n + n % 7 for n in range(200)]
                assert await failing.fetchone() == ("before",)
                async with conn.transaction():
                    await conn.execute(f"UPDATE {TABLE} SET name = name")
        task = asyncio.create_task(conn.execute("SELECT pg_sleep(20)"))
        await asyncio.sleep(0.3)
        await conn.cancel_safe()
        try:
            await task
            raise AssertionError("the query was not cancelled")
        except errors.QueryCanceled:
            pass
        async with conn.cursor().copy("COPY (SELECT generate_series(1, 5000)) TO STDOUT") as out:
            assert [row[0] async for row in out.rows()] == [str(n) for n in range(1, 5001)]


async def asynchronous():
    async def work(number):
        async with await psycopg.AsyncConnection.connect(CONNINFO, autocommit=True, prepare_threshold=0) as conn:
            for n in range(30):
                async with conn.transaction():
                    cursor = await conn.execute("SELECT %s::int, %s::int", (number, n))
                    assert await cursor.fetchone() == (number, n)

    await asyncio.gather(*(work(number) for number in range(12)))


def main():
    setup()
    checks = [simple_and_parameters, server_side_prepare, transactions, errors_in_a_transaction, many_rows]
    checks += [named_cursor, copy, pipeline, cancel, scrolled_cursor, streamed_rows, several_results_and_notices]
    checks += [modes_of_a_transaction, types_of_ones_own, binary_copy, two_phase_commit]
    for check in checks:
        check()
        print("PASS", check.__name__, flush=True)
    for check in [asynchronous, asynchronous_pipelines]:
        asyncio.run(check())
        print("PASS", check.__name__, flush=True)


main()
