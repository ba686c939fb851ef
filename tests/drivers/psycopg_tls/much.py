"""A large COPY in, a large COPY out, large rows and a large parameter, with pauses; all of it has to be what it was."""

import hashlib
import sys
import threading
import time

import psycopg

LINES = 300_000


def line(number):
    return b"%d\t%s\n" % (number, hashlib.md5(str(number).encode()).hexdigest().encode())


with psycopg.connect(sys.argv[1], autocommit=True) as connection:
    connection.execute("CREATE TABLE much (id int, sum text)")
    sent = hashlib.sha256()
    with connection.cursor().copy("COPY much FROM STDIN") as copy:
        for start in range(0, LINES, 1000):
            block = b"".join(line(number) for number in range(start, start + 1000))
            sent.update(block)
            copy.write(block)
    received = hashlib.sha256()
    with connection.cursor().copy("COPY (SELECT * FROM much ORDER BY id) TO STDOUT") as copy:
        for number, block in enumerate(copy):
            received.update(block)
            if number in (10, 1_000, 50_000):
                time.sleep(0.5)
    assert sent.digest() == received.digest()
    text = "0123456789abcdef" * (1 << 20)
    (back,) = connection.execute("SELECT %s::text", [text], prepare=True).fetchone()
    assert back == text
    (long, short) = connection.execute("SELECT repeat('x', 30000000), 'y'").fetchone()
    assert len(long) == 30_000_000 and short == "y"
    with connection.pipeline():
        cursors = [connection.execute("SELECT %s::int, repeat('z', 5000)", [n]) for n in range(2_000)]
    assert [cursor.fetchone()[0] for cursor in cursors] == list(range(2_000))
    # A cancel request is encrypted as well (libpq 17).
    timer = threading.Timer(0.5, connection.cancel_safe)
    timer.start()
    try:
        connection.execute("SELECT pg_sleep(30)")
        raise AssertionError("it was not cancelled")
    except psycopg.errors.QueryCanceled:
        pass
    timer.join()
