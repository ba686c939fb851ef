"""Clients that ask without a pause and clients that come and go, all with sslmode=verify-full, while the input is open; then how
many of both there were and what failed, and whose certificate is shown in the end."""

import json
import socket
import ssl
import sys
import threading

import psycopg

conninfo, root, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
staying, coming = 50, 6
over = threading.Event()
counts = {"queries": 0, "connects": 0}
failed = []
lock = threading.Lock()


def count(what, n):
    with lock:
        counts[what] += n


def stay(ready):
    n = 0
    try:
        with psycopg.connect(conninfo, autocommit=True) as connection:
            ready.release()
            while not over.is_set():
                n += 1
                assert connection.execute("SELECT %s::int + 1", [n]).fetchone() == (n + 1,)
    except Exception as error:
        failed.append(f"after {n} queries: {error}")
        ready.release()
    count("queries", n)


def come_and_go():
    n = 0
    while not over.is_set():
        try:
            with psycopg.connect(conninfo, autocommit=True) as connection:
                assert connection.execute("SELECT 1").fetchone() == (1,)
            n += 1
        except Exception as error:
            failed.append(f"connect {n}: {error}")
    count("connects", n)


ready = threading.Semaphore(0)
threads = [threading.Thread(target=stay, args=(ready,)) for _ in range(staying)]
threads += [threading.Thread(target=come_and_go) for _ in range(coming)]
for thread in threads:
    thread.start()
for _ in range(staying):
    ready.acquire()
print("ready", flush=True)
sys.stdin.read()
over.set()
for thread in threads:
    thread.join()
context = ssl.create_default_context(cafile=root)
context.set_alpn_protocols(["postgresql"])
with context.wrap_socket(socket.create_connection(("127.0.0.1", port)), server_hostname="localhost") as shown:
    names = dict(pair for part in shown.getpeercert()["subject"] for pair in part)
print(json.dumps({**counts, "failed": failed[:10], "shown": names["commonName"]}))
