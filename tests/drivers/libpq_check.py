"""libpq's pipeline mode and its other asynchronous calls through the pooler, one call at a time, by psycopg's binding.

Usage: libpq_check.py CONNINFO. Prints one PASS line per check; the first failure ends it with a traceback.
"""

import select
import sys
import threading
import time

from psycopg import pq
from psycopg.pq import ExecStatus, PipelineStatus, TransactionStatus

CONNINFO = sys.argv[1].encode()
OK, COMMAND, ERROR = ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK, ExecStatus.FATAL_ERROR
ABORTED, SYNC = ExecStatus.PIPELINE_ABORTED, ExecStatus.PIPELINE_SYNC


def connect(**parameters):
    separator = b"&" if b"?" in CONNINFO else b"?"
    options = b"&".join(f"{name}={value}".encode() for name, value in parameters.items())
    conn = pq.PGconn.connect(CONNINFO + separator + options if options else CONNINFO)
    assert conn.status == pq.ConnStatus.OK, conn.error_message
    return conn


def pipeline():
    conn = connect()
    conn.enter_pipeline_mode()
    assert conn.pipeline_status == PipelineStatus.ON
    return conn


def ask(conn, sql, *values):
    conn.send_query_params(sql.encode(), [str(value).encode() for value in values])


def answer(conn):
    """The results up to the end of one query's, each as status and first value or SQLSTATE."""
    results = []
    while (result := conn.get_result()) is not None:
        results.append((result.status, shown(result)))
        if result.status in (SYNC, ExecStatus.COPY_IN, ExecStatus.COPY_OUT):
            break  # nothing ends these
    return results


def shown(result):
    if result.status == ERROR:
        return result.error_field(pq.DiagnosticField.SQLSTATE).decode()
    if result.status in (OK, ExecStatus.SINGLE_TUPLE, ExecStatus.TUPLES_CHUNK) and result.ntuples:
        return result.get_value(0, 0).decode()
    return None


def value(conn, sql):
    result = conn.exec_(sql.encode())
    assert result.status == OK, result.error_message
    return result.get_value(0, 0).decode()


def run(conn, sql):
    result = conn.exec_(sql.encode())
    assert result.status == COMMAND, result.error_message


def leave(conn):
    conn.exit_pipeline_mode()
    assert conn.pipeline_status == PipelineStatus.OFF
    assert value(conn, "SELECT 'usable'") == "usable"
    conn.finish()


def answers_in_order():
    conn = pipeline()
    for n in range(100):
        ask(conn, "SELECT $1::int", n)
    conn.pipeline_sync()
    assert [answer(conn) for _ in range(100)] == [[(OK, str(n))] for n in range(100)]
    assert answer(conn) == [(SYNC, None)]
    leave(conn)


def a_flush_request_is_answered_before_sync():
    conn = pipeline()
    for n in range(20):
        ask(conn, "SELECT $1::int", n)
        conn.send_flush_request()
        conn.flush()
        assert answer(conn) == [(OK, str(n))]
    conn.pipeline_sync()
    assert answer(conn) == [(SYNC, None)]
    leave(conn)


def an_error_aborts_up_to_sync():
    conn = pipeline()
    for _ in range(20):
        ask(conn, "SELECT 1")
        ask(conn, "SELECT 1/$1::int", 0)
        ask(conn, "SELECT 2")
        ask(conn, "SELECT 3")
        conn.pipeline_sync()
        ask(conn, "SELECT 4")
        conn.pipeline_sync()
        assert answer(conn) == [(OK, "1")]
        assert answer(conn) == [(ERROR, "22012")]
        assert answer(conn) == [(ABORTED, None)]
        assert conn.pipeline_status == PipelineStatus.ABORTED
        assert answer(conn) == [(ABORTED, None)]
        assert answer(conn) == [(SYNC, None)]
        assert conn.pipeline_status == PipelineStatus.ON
        assert answer(conn) == [(OK, "4")]
        assert answer(conn) == [(SYNC, None)]
    leave(conn)


def an_error_that_is_known_before_the_rest_is_sent():
    conn = pipeline()
    ask(conn, "SELEC")
    conn.send_flush_request()
    conn.flush()
    assert answer(conn) == [(ERROR, "42601")]
    ask(conn, "SELECT 1")
    conn.send_prepare(b"never", b"SELECT 1")
    conn.pipeline_sync()
    conn.send_describe_prepared(b"never")
    conn.pipeline_sync()
    assert answer(conn) == [(ABORTED, None)]
    assert answer(conn) == [(ABORTED, None)]
    assert answer(conn) == [(SYNC, None)]
    assert answer(conn) == [(ERROR, "26000")]
    assert answer(conn) == [(SYNC, None)]
    leave(conn)


def what_sync_commits():
    conn = connect()
    run(conn, "CREATE TABLE libpq_item (id int PRIMARY KEY)")
    conn.enter_pipeline_mode()
    ask(conn, "INSERT INTO libpq_item VALUES (1)")
    ask(conn, "INSERT INTO libpq_item VALUES (2)")
    conn.pipeline_sync()
    ask(conn, "INSERT INTO libpq_item VALUES (3)")
    ask(conn, "INSERT INTO libpq_item VALUES (1)")
    ask(conn, "INSERT INTO libpq_item VALUES (4)")
    conn.pipeline_sync()
    ask(conn, "SELECT string_agg(id::text, ' ' ORDER BY id) FROM libpq_item")
    conn.pipeline_sync()
    got = [answer(conn) for _ in range(8)]
    assert got[:3] == [[(COMMAND, None)], [(COMMAND, None)], [(SYNC, None)]]
    assert got[3:7] == [[(COMMAND, None)], [(ERROR, "23505")], [(ABORTED, None)], [(SYNC, None)]]
    assert got[7] == [(OK, "1 2")]
    assert answer(conn) == [(SYNC, None)]
    leave(conn)


def a_transaction_block_over_several_syncs():
    conn = pipeline()
    ask(conn, "BEGIN")
    ask(conn, "SELECT pg_backend_pid()")
    conn.pipeline_sync()
    assert answer(conn) == [(COMMAND, None)]
    [(_, server)] = answer(conn)
    assert answer(conn) == [(SYNC, None)]
    for _ in range(10):
        assert conn.transaction_status == TransactionStatus.INTRANS
        ask(conn, "SELECT pg_backend_pid()")
        conn.pipeline_sync()
        assert answer(conn) == [(OK, server)]
        assert answer(conn) == [(SYNC, None)]
        time.sleep(0.005)
    ask(conn, "SELECT 1/0")
    conn.pipeline_sync()
    ask(conn, "SELECT 1")
    conn.pipeline_sync()
    assert [answer(conn) for _ in range(4)] == [[(ERROR, "22012")], [(SYNC, None)], [(ERROR, "25P02")], [(SYNC, None)]]
    assert conn.transaction_status == TransactionStatus.INERROR
    ask(conn, "ROLLBACK")
    conn.pipeline_sync()
    assert [answer(conn) for _ in range(2)] == [[(COMMAND, None)], [(SYNC, None)]]
    assert conn.transaction_status == TransactionStatus.IDLE
    leave(conn)


def prepared_described_and_closed():
    conn = pipeline()
    for n in range(30):
        conn.send_prepare(b"_pg3_0", b"SELECT $1::int + %d" % (n % 3))
        conn.send_describe_prepared(b"_pg3_0")
        conn.send_query_prepared(b"_pg3_0", [b"10"])
        conn.send_query_prepared(b"_pg3_0", [b"20"])
        conn.send_close_prepared(b"_pg3_0")
        conn.pipeline_sync()
        assert answer(conn) == [(COMMAND, None)]
        described = conn.get_result()
        assert (described.nparams, described.nfields, described.param_type(0)) == (1, 1, 23)
        assert conn.get_result() is None
        assert answer(conn) == [(OK, str(10 + n % 3))]
        assert answer(conn) == [(OK, str(20 + n % 3))]
        assert answer(conn) == [(COMMAND, None)]
        assert answer(conn) == [(SYNC, None)]
    leave(conn)


def a_name_that_is_taken():
    conn = pipeline()
    conn.send_prepare(b"taken", b"SELECT 1")
    conn.pipeline_sync()
    conn.send_prepare(b"taken", b"SELECT 2")
    conn.send_query_prepared(b"taken", None)
    conn.pipeline_sync()
    conn.send_query_prepared(b"taken", None)
    conn.pipeline_sync()
    got = [answer(conn) for _ in range(7)]
    assert got[:2] == [[(COMMAND, None)], [(SYNC, None)]]
    assert got[2:5] == [[(ERROR, "42P05")], [(ABORTED, None)], [(SYNC, None)]]
    assert got[5:] == [[(OK, "1")], [(SYNC, None)]]
    leave(conn)


def rows_one_by_one_and_in_chunks():
    conn = pipeline()
    for _ in range(5):
        ask(conn, "SELECT generate_series(1, 1000)")
        ask(conn, "SELECT generate_series(1, 1000)")
        ask(conn, "SELECT 'whole'")
        conn.pipeline_sync()
        conn.set_single_row_mode()
        single = answer(conn)
        assert single == [(ExecStatus.SINGLE_TUPLE, str(n)) for n in range(1, 1001)] + [(OK, None)]
        conn.set_chunked_rows_mode(300)
        chunks = answer(conn)
        assert chunks == [(ExecStatus.TUPLES_CHUNK, str(n)) for n in (1, 301, 601, 901)] + [(OK, None)]
        assert answer(conn) == [(OK, "whole")]
        assert answer(conn) == [(SYNC, None)]
    leave(conn)


def more_than_the_sockets_hold():
    """Neither side reads before the other has taken what it wrote, unless somebody gives in: libpq has to."""
    conn = pipeline()
    conn.nonblocking = 1
    total, sent, got, text = 3000, 0, 0, "x" * 3000
    deadline = time.monotonic() + 60
    while got < total:
        assert time.monotonic() < deadline
        pending = 0
        while sent < total and not pending:
            ask(conn, "SELECT $1::text || $2::text", sent, text)
            sent += 1
            if sent == total:
                conn.pipeline_sync()
            pending = conn.flush()
        pending = conn.flush()
        readable, _, _ = select.select([conn.socket], [conn.socket] if pending else [], [], 10)
        if readable:
            conn.consume_input()
        while got < total and not conn.is_busy():
            result = conn.get_result()
            if result is not None:
                assert result.get_value(0, 0) == f"{got}{text}".encode()
                got += 1
    conn.nonblocking = 0
    assert conn.get_result() is None
    assert answer(conn) == [(SYNC, None)]
    leave(conn)


def several_statements_in_one_query():
    conn = connect()
    conn.send_query(b"SELECT 1; SELECT 2; SELECT 1/0; SELECT 3")
    assert answer(conn) == [(OK, "1"), (OK, "2"), (ERROR, "22012")]
    conn.send_query(b"")
    assert answer(conn) == [(ExecStatus.EMPTY_QUERY, None)]
    conn.finish()


def copy_call_by_call():
    conn = connect()
    run(conn, "CREATE TABLE libpq_copied (id int, name text)")
    assert conn.exec_(b"COPY libpq_copied FROM STDIN").status == ExecStatus.COPY_IN
    for n in range(5000):
        assert conn.put_copy_data(b"%d\trow %d\n" % (n, n)) == 1
    conn.put_copy_end()
    assert answer(conn) == [(COMMAND, None)]
    assert conn.exec_(b"COPY libpq_copied FROM STDIN").status == ExecStatus.COPY_IN
    conn.put_copy_data(b"1\tgiven up\n")
    conn.put_copy_end(b"changed my mind")
    assert answer(conn) == [(ERROR, "57014")]
    assert conn.exec_(b"COPY libpq_copied TO STDOUT").status == ExecStatus.COPY_OUT
    lines = 0
    while conn.get_copy_data(0)[0] > 0:
        lines += 1
    assert lines == 5000 and answer(conn) == [(COMMAND, None)]
    conn.send_query(b"SELECT 1; COPY libpq_copied FROM STDIN; SELECT 2")
    assert answer(conn) == [(OK, "1"), (ExecStatus.COPY_IN, None)]
    conn.put_copy_data(b"-1\tlast\n")
    conn.put_copy_end()
    assert answer(conn) == [(COMMAND, None), (OK, "2")]
    assert value(conn, "SELECT count(*) FROM libpq_copied") == "5001"
    conn.finish()


def cancelled(conn, cancel):
    timer = threading.Timer(0.3, cancel)
    timer.start()
    start = time.monotonic()
    result = conn.exec_(b"SELECT pg_sleep(20)")
    timer.join()
    assert shown(result) == "57014" and time.monotonic() - start < 10
    assert value(conn, "SELECT 1") == "1"


def cancels_old_and_new():
    for version in ["3.0", "3.2"]:
        conn = connect(min_protocol_version="3.0", max_protocol_version=version)
        cancelled(conn, conn.get_cancel().cancel)
        cancelled(conn, conn.cancel_conn().blocking)
        conn.finish()


def main():
    checks = [answers_in_order, a_flush_request_is_answered_before_sync, an_error_aborts_up_to_sync]
    checks += [an_error_that_is_known_before_the_rest_is_sent, what_sync_commits, a_transaction_block_over_several_syncs]
    checks += [prepared_described_and_closed, a_name_that_is_taken, rows_one_by_one_and_in_chunks]
    checks += [more_than_the_sockets_hold, several_statements_in_one_query, copy_call_by_call, cancels_old_and_new]
    for check in checks:
        check()
        print("PASS", check.__name__, flush=True)


main()
