"""A client, and the neighbour that looks for what it may have left behind. Knows no feature."""

import sys
from contextlib import contextmanager

import psycopg
from psycopg.pq import TransactionStatus

APP, SUPERUSER, FINGERPRINT = sys.argv[1:4]
ROUNDS = 3
FEATURES = []
LOOKS = {"all": 0, "both": 0}


class Neighbour:
    """Another client of the same pool, with nothing set. It looks at the servers that it can get, and if there are two it
    keeps one in a transaction: whom it watches has to do with the other one next."""

    TRIES = 4

    def __init__(self, conninfo):
        self.conn = psycopg.connect(conninfo, autocommit=True, prepare_threshold=None)
        pid, self.before = self.conn.execute(FINGERPRINT).fetchone()
        self.tries = 1 if pid == self.conn.info.backend_pid else self.TRIES  # a pooler tells a pid of its own

    def look(self):
        seen = set()
        for _ in range(self.tries):
            self.leave()
            cursor = self.conn.execute(f"BEGIN; {FINGERPRINT}")
            cursor.nextset()
            pid, state = cursor.fetchone()
            unlike = set(state.split("\n")) ^ set(self.before.split("\n"))
            assert not unlike, f"a neighbour sees {unlike}"
            seen.add(pid)
            if len(seen) == 2:
                break
        else:
            self.leave()
        LOOKS["all"] += 1
        LOOKS["both"] += len(seen) == 2

    def is_upset(self):
        return self.conn.closed or self.conn.info.transaction_status == TransactionStatus.INERROR

    def leave(self):
        if self.conn.info.transaction_status != TransactionStatus.IDLE:
            self.conn.execute("COMMIT")


class Session:
    """A client. Between its transactions its neighbour looks around."""

    neighbours = {}

    def __init__(self, conninfo=APP, **options):
        if conninfo not in Session.neighbours:
            Session.neighbours[conninfo] = Neighbour(conninfo)
        self.conninfo, self.neighbour = conninfo, Session.neighbours[conninfo]
        self.neighbour.leave()
        self.conn = psycopg.connect(conninfo, autocommit=True, **options)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.conn.close()
        if self.neighbour.is_upset():  # the next feature has a new one
            Session.neighbours.pop(self.conninfo, None)
        else:
            self.neighbour.leave()

    def rows(self, sql, parameters=None, **options):
        try:
            cursor = self.conn.execute(sql, parameters, **options)
            return cursor.fetchall() if cursor.description else []
        finally:
            self.settle()

    def run(self, sql, parameters=None, **options):
        self.rows(sql, parameters, **options)

    def one(self, sql, parameters=None, **options):
        [[value]] = self.rows(sql, parameters, **options)
        return value

    def show(self, *names):
        """Settings, each asked for by a statement of its own; a list if there are several."""
        values = [self.one(f"SELECT current_setting('{name}', true)") or "" for name in names]
        return values[0] if len(values) == 1 else values

    def stays(self, **values):
        """Settings that have these values for several transactions; a dot in a name is written `__`."""
        for _ in range(ROUNDS):
            for name, value in values.items():
                got = self.show(name.replace("__", "."))
                assert got == value, f"{name} is {got!r} and not {value!r}"

    def fails(self, state, sql, parameters=None, **options):
        try:
            self.rows(sql, parameters, **options)
        except psycopg.Error as error:
            assert error.sqlstate == state, f"{sql}: {error.sqlstate} {error} and not {state}"
        else:
            raise AssertionError(f"{sql} did not fail with {state}")

    @contextmanager
    def transaction(self, rollback=False):
        try:
            with self.conn.transaction(force_rollback=rollback):
                self.neighbour.leave()
                yield
        finally:
            self.settle()

    def told(self, count, seconds=5):
        """So many notifications, as channel and payload, that come while the client does nothing."""
        return [(n.channel, n.payload) for n in self.conn.notifies(timeout=seconds, stop_after=count)]

    def settle(self):
        self.neighbour.leave()
        if self.conn.info.transaction_status == TransactionStatus.IDLE:
            self.neighbour.look()


def register(work):
    """A feature that makes its own sessions."""
    FEATURES.append((work.__name__, work))
    return work


def feature(conninfo=APP, **options):
    """A feature of one session, which it gets; `options` are psycopg's."""

    def add(work):
        def run():
            with Session(conninfo, **options) as session:
                work(session)

        FEATURES.append((work.__name__, run))
        return work

    return add
