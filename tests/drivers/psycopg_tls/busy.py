"""Runs queries for so many seconds on connections that stay, and says at the end what became of each."""

import sys
import threading
import time

import psycopg

conninfo, seconds = sys.argv[1], float(sys.argv[2])
end = time.monotonic() + seconds


def work(number):
    count = 0
    try:
        with psycopg.connect(conninfo, autocommit=True) as connection:
            while time.monotonic() < end:
                count += 1
                assert connection.execute("SELECT %s::int + 1", [count]).fetchone() == (count + 1,)
                time.sleep(0.001)
        outcome = "fine" if count > 10 else f"only {count}"
    except Exception as error:
        outcome = f"after {count}: {error}"
    # In one piece: others say theirs at the same time.
    sys.stdout.write(outcome + "\n")


threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
