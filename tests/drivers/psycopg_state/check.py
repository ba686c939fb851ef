"""The state of a session through psycopg 3, feature by feature: every one is several transactions, and between them a
neighbour works on the servers, and must see nothing of it all.

Usage: check.py CONNINFO SUPERUSER_CONNINFO FINGERPRINT [FEATURE ...]. The fingerprint is a query for the backend's pid and
for the state that can be seen. Prints PASS or FAIL and the feature's name for each, and for a failure why; then how often
the neighbours looked, and how often they found two servers.
"""

import signal
import sys
import traceback

sys.dont_write_bytecode = True

import objects  # noqa: E402,F401
import settings  # noqa: E402,F401
from session import FEATURES, LOOKS  # noqa: E402

LIMIT_SECONDS = 30


def late(*_):
    raise TimeoutError(f"it takes longer than {LIMIT_SECONDS} seconds")


def main():
    signal.signal(signal.SIGALRM, late)
    for name, work in FEATURES:
        if len(sys.argv) > 4 and name not in sys.argv[4:]:
            continue
        signal.alarm(LIMIT_SECONDS)
        try:
            work()
            print("PASS", name, flush=True)
        except Exception as error:  # one failure must not hide another
            own = [frame for frame in traceback.extract_tb(error.__traceback__) if "psycopg_state" in frame.filename]
            places = ", ".join(f"{frame.lineno}: {frame.line}" for frame in own if not frame.filename.endswith("check.py"))
            text = f"{type(error).__name__}: {error}".replace("\n", " / ")
            print("FAIL", name, text[:600], f"({places})", flush=True)
        finally:
            signal.alarm(0)
    print("LOOKS", LOOKS["all"], LOOKS["both"])


main()
