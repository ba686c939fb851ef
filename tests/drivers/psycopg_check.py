"""psycopg 3 through the pooler: sync, async, pipeline mode, prepared statements, COPY, errors, cancel.

Usage: psycopg_check.py CONNINFO. Prints one PASS line per check; the first failure ends it with a traceback.
"""

import asyncio
import sys
import threading
import time

import psycopg
from psycopg import errors, sql

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
    checks += [named_cursor, copy, pipeline, cancel]
    for check in checks:
        check()
        print("PASS", check.__name__, flush=True)
    asyncio.run(asynchronous())
    print("PASS asynchronous", flush=True)


main()
