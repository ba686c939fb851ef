//! The harness of the integration tests: a throw-away PostgreSQL, a pooler started as a user would start
//! it, a client that builds protocol messages byte by byte, and a runner for other programs (psql, pgbench,
//! driver scripts). Everything here is real: real processes, real sockets, no mocks. It knows nothing of the
//! pooler's insides and uses none of its crates, so that the tests see what a user sees. (One test uses `sql`, as its catalog
//! query means something only to a real PostgreSQL, and so does the program that checks `sql` against the regression suite.)
//!
//! Every process started here dies with its owner, also when a test panics or the test program is killed;
//! see [`process::Process`].
//!
//! The environment can change what is run:
//!
//! | variable | meaning |
//! |---|---|
//! | `PGSLUICE_BIN` | the program under test, instead of the one cargo builds beside the tests |
//! | `PGSLUICE_PG_BIN` | the directory of PostgreSQL's programs, instead of Debian's newest |
//! | `PGSLUICE_PG18_BIN` | the directory of PostgreSQL 18's programs, instead of that among the drivers |
//! | `PGSLUICE_TEST_ENV` | where scripts/test-deps.sh puts the drivers, instead of target/test-env |
//! | `PGSLUICE_STATE_FEATURE` | the only feature of session state to try, see [`session_state`] |
//! | `PGSLUICE_LONG` | `1`: the load tests run for a minute each, not for seconds |

pub mod certificates;
pub mod differential;
pub mod fake;
pub mod libpq;
pub mod oracle;
pub mod pooler;
pub mod postgres;
pub mod process;
pub mod program;
pub mod random;
pub mod relay;
pub mod session_state;
pub mod shuffle;
pub mod stage;
pub mod state_programs;
pub mod wire;

use std::time::{Duration, Instant};

pub use pooler::Pooler;
pub use postgres::{APP, APP_MD5, APP_PLAIN, APP_TRUST, Login, Postgres, SUPERUSER, Version};
pub use shuffle::Shuffle;
pub use stage::under_shuffle;
pub use wire::{LoginError, Raw, Reply};

/// Asks `probe` every 20 ms until it holds or `limit` has passed; says which.
pub fn eventually(limit: Duration, mut probe: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    while start.elapsed() < limit {
        if probe() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    probe()
}

/// Whether the environment asks for the long form of the load tests (`PGSLUICE_LONG=1`).
pub fn long_run() -> bool {
    std::env::var("PGSLUICE_LONG").is_ok_and(|value| value == "1")
}
