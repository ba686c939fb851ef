"""asyncpg through the pooler with its statement cache on, as applications use it directly.

Usage: asyncpg_check.py URL. Prints one PASS line per check; the first failure ends it with a traceback.
"""

import asyncio
import datetime
import io
import json
import sys

import asyncpg

URL = sys.argv[1].split("?")[0]
TABLE = "asyncpg_item"


def connect(**options):
    return asyncpg.connect(URL, ssl=False, **options)


async def statement_cache():
    conn = await connect()
    for n in range(200):
        assert await conn.fetchval("SELECT $1::int", n) == n
    for n in range(150):  # more texts than the cache holds: it closes the oldest
        assert await conn.fetchval(f"SELECT {n}") == n
    await conn.close()


async def prepared():
    conn = await connect()
    statement = await conn.prepare("SELECT $1::int * 2, $2::text")
    assert [parameter.name for parameter in statement.get_parameters()] == ["int4", "text"]
    for n in range(50):
        assert tuple(await statement.fetchrow(n, "x")) == (2 * n, "x")
        await asyncio.sleep(0.001)
    await conn.close()


async def types():
    conn = await connect()
    now = datetime.datetime(2026, 2, 1, 12, 30)
    assert await conn.fetchval("SELECT $1::timestamp", now) == now
    assert await conn.fetchval("SELECT $1::int[]", [1, 2, 3]) == [1, 2, 3]
    assert await conn.fetchval("SELECT $1::bytea", b"\0\xff") == b"\0\xff"
    # A type asyncpg must ask the catalog about.
    await conn.execute("DROP TYPE IF EXISTS mood; CREATE TYPE mood AS ENUM ('sad', 'happy')")
    assert await conn.fetchval("SELECT $1::mood", "happy") == "happy"
    await conn.close()


async def transactions():
    conn = await connect()
    await conn.execute(f"DROP TABLE IF EXISTS {TABLE}; CREATE TABLE {TABLE} (id int PRIMARY KEY, name text)")
    async with conn.transaction():
        await conn.execute(f"INSERT INTO {TABLE} VALUES ($1, $2)", 1, "one")
        try:
            async with conn.transaction():
                await conn.execute(f"INSERT INTO {TABLE} VALUES (1, 'twice')")
            raise AssertionError("a duplicate key passed")
        except asyncpg.UniqueViolationError:
            pass
    assert await conn.fetchval(f"SELECT count(*) FROM {TABLE}") == 1
    try:
        await conn.execute("SELEC 1")
        raise AssertionError("a syntax error passed")
    except asyncpg.PostgresSyntaxError:
        pass
    async with conn.transaction(isolation="serializable", readonly=True):
        assert await conn.fetchval("SHOW transaction_isolation") == "serializable"
    await conn.close()


async def cursors():
    conn = await connect()
    async with conn.transaction():
        got = [row[0] async for row in conn.cursor("SELECT n FROM generate_series(1, $1::int) n", 500, prefetch=40)]
        assert got == list(range(1, 501))
        cursor = await conn.cursor("SELECT n FROM generate_series(1, 10) n")
        await cursor.forward(4)
        assert (await cursor.fetchrow())[0] == 5
    await conn.close()


async def copy():
    conn = await connect()
    records = [(n, f"copied {n}") for n in range(1000, 6000)]
    assert await conn.copy_records_to_table(TABLE, records=records) == "COPY 5000"
    received = bytearray()

    async def sink(data):
        received.extend(data)

    await conn.copy_from_query(f"SELECT id FROM {TABLE} WHERE id >= 1000 ORDER BY id", output=sink)
    assert bytes(received).split() == [str(n).encode() for n in range(1000, 6000)]
    await conn.executemany(f"UPDATE {TABLE} SET name = $2 WHERE id = $1", [(n, "changed") for n in range(1000, 1300)])
    assert await conn.fetchval(f"SELECT count(*) FROM {TABLE} WHERE name = 'changed'") == 300
    await conn.close()


async def timeout_cancels():
    conn = await connect()
    try:
        await conn.fetchval("SELECT pg_sleep(20)", timeout=0.3)
        raise AssertionError("the query was not cancelled")
    except asyncio.TimeoutError:
        pass
    assert await conn.fetchval("SELECT 'usable'") == "usable"
    await conn.close()


async def pool():
    async with asyncpg.create_pool(URL, ssl=False, min_size=5, max_size=10) as pool:

        async def work(number):
            for n in range(20):
                async with pool.acquire() as conn, conn.transaction():
                    pid = await conn.fetchval("SELECT pg_backend_pid()")
                    assert await conn.fetchval("SELECT $1::int", number * 100 + n) == number * 100 + n
                    assert await conn.fetchval("SELECT pg_backend_pid()") == pid

        await asyncio.gather(*(work(number) for number in range(20)))


async def without_a_cache():
    conn = await connect(statement_cache_size=0)
    for n in range(100):
        assert await conn.fetchval("SELECT $1::int * 3", n) == 3 * n
    named = await conn.prepare("SELECT $1::int + 1", name="__asyncpg_stmt_1__")
    other = await conn.prepare("SELECT $1::int + 2", name="by_id")
    for n in range(50):
        assert (await named.fetchval(n), await other.fetchval(n)) == (n + 1, n + 2)
    await conn.close()


async def introspection():
    conn = await connect()
    await conn.execute("CREATE TYPE pair AS (number int, moods mood[]); CREATE DOMAIN positive AS int CHECK (VALUE > 0)")
    await conn.set_type_codec("jsonb", encoder=json.dumps, decoder=json.loads, schema="pg_catalog")
    for n in range(1, 20):
        pair = await conn.fetchval("SELECT $1::pair", (n, ["sad", "happy"]))
        assert pair["number"] == n and pair["moods"] == ["sad", "happy"]
        assert await conn.fetchval("SELECT $1::positive", n) == n
        assert await conn.fetchval("SELECT $1::jsonb", {"n": n}) == {"n": n}
        assert await conn.fetchval("SELECT $1::int4range", asyncpg.Range(n, 50)) == asyncpg.Range(n, 50)
        await conn.reload_schema_state()
    statement = await conn.prepare("SELECT id, name FROM asyncpg_item")
    assert [(a.name, a.type.name) for a in statement.get_attributes()] == [("id", "int4"), ("name", "text")]
    assert (await statement.explain())[0]["Plan"]["Node Type"] == "Seq Scan"
    await conn.close()


async def many_at_once():
    conn = await connect()
    got = await conn.fetchmany("SELECT $1::int * 2", [(n,) for n in range(500)])
    assert [row[0] for row in got] == [2 * n for n in range(500)]
    before = await conn.fetchval(f"SELECT count(*) FROM {TABLE}")
    try:  # one implicit transaction: nothing of it stays
        await conn.executemany(f"INSERT INTO {TABLE} VALUES ($1, 'many')", [(-n,) for n in range(1, 300)] + [(-5,)])
        raise AssertionError("a duplicate key passed")
    except asyncpg.UniqueViolationError:
        pass
    assert await conn.fetchval(f"SELECT count(*) FROM {TABLE}") == before
    await conn.close()


async def copies_of_tables():
    conn = await connect()
    out = io.BytesIO()
    await conn.copy_from_table(TABLE, output=out, columns=["id", "name"], format="binary")
    count = await conn.fetchval(f"SELECT count(*) FROM {TABLE}")
    await conn.execute("CREATE TABLE asyncpg_copied (id int, name text)")
    out.seek(0)
    assert await conn.copy_to_table("asyncpg_copied", source=out, format="binary") == f"COPY {count}"

    async def failing():
        yield b"1\tone\n"
        raise ZeroDivisionError

    try:
        await conn.copy_to_table("asyncpg_copied", source=failing())
        raise AssertionError("a failing source passed")
    except ZeroDivisionError:
        pass
    assert await conn.fetchval("SELECT count(*) FROM asyncpg_copied") == count
    await conn.close()


async def cancelled_tasks():
    conn = await connect()
    for _ in range(5):
        task = asyncio.create_task(conn.execute("SELECT pg_sleep(20)"))
        await asyncio.sleep(0.2)
        task.cancel()
        try:
            await task
            raise AssertionError("the query was not cancelled")
        except asyncio.CancelledError:
            pass
        assert await conn.fetchval("SELECT $1::text", "usable") == "usable"
    await conn.close()


async def notices_and_errors():
    conn = await connect()
    notices = []
    conn.add_log_listener(lambda _, message: notices.append(message.message))
    for n in range(10):
        await conn.execute(f"DO $$ BEGIN RAISE NOTICE 'note {n}'; END $$")
        try:
            await conn.execute("DO $$ BEGIN RAISE 'custom' USING ERRCODE = 'AB123', DETAIL = 'more'; END $$")
            raise AssertionError("an exception passed")
        except asyncpg.PostgresError as error:
            assert (error.sqlstate, error.detail) == ("AB123", "more")
    await asyncio.sleep(0)
    assert notices == [f"note {n}" for n in range(10)]
    await conn.close()


async def a_table_that_changes():
    # asyncpg keeps the statement; when PostgreSQL refuses its plan it prepares again by itself, and must succeed.
    a, b = await connect(), await connect()
    await b.execute("CREATE TABLE changing (id int)")
    await b.execute("INSERT INTO changing VALUES (1)")
    for columns in range(1, 6):
        for _ in range(10):
            rows = await a.fetch("SELECT * FROM changing")
            assert [len(row) for row in rows] == [columns], rows
        await b.execute(f"ALTER TABLE changing ADD COLUMN c{columns} int")
    await b.execute("ALTER TABLE changing ALTER COLUMN id TYPE text")
    assert (await a.fetchrow("SELECT * FROM changing"))["id"] == "1"
    await a.close()
    await b.close()


async def main():
    checks = [statement_cache, prepared, types, transactions, cursors, copy, timeout_cancels, pool, without_a_cache]
    checks += [introspection, many_at_once, copies_of_tables, cancelled_tasks, notices_and_errors, a_table_that_changes]
    for check in checks:
        await check()
        print("PASS", check.__name__, flush=True)


asyncio.run(main())
