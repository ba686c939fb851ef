"""Connects as each argument says, one after the other; a line of JSON for each: what came of it."""

import json
import sys

import psycopg

for conninfo in sys.argv[1:]:
    try:
        with psycopg.connect(conninfo, connect_timeout=10, autocommit=True) as connection:
            row = connection.execute("SELECT ssl, version FROM pg_stat_ssl WHERE pid = pg_backend_pid()").fetchone()
            print(json.dumps({"ok": True, "tls": bool(connection.pgconn.ssl_in_use), "behind": row[0], "version": row[1]}))
    except psycopg.Error as error:
        print(json.dumps({"ok": False, "error": str(error)}))
