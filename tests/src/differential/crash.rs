//! PostgreSQL itself can crash: one backend ends by a signal, and all the others with it. A lane that is hit waits until the
//! cluster is back, and plays its case again, directly and alone. If that crashes PostgreSQL, too, the pooler has no part
//! in it, and the case is counted and printed; otherwise it was another lane's, and the case is run once more.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::RwLock;
use std::time::{Duration, Instant};

use crate::postgres::{APP, Postgres, Version};
use crate::wire::Raw;

/// How long the cluster may take to come back.
const RECOVERY_LIMIT: Duration = Duration::from_secs(60);
/// How long the postmaster may take to say that a backend has gone.
const NEWS: Duration = Duration::from_millis(300);
/// What it says then.
const CRASH: &str = ") was terminated by signal";
/// Lines of a crashed backend's log that are shown.
const TAIL: usize = 12;

/// The crashes of one cluster.
pub(super) struct Crashes {
    version: Version,
    /// How many are known and over. Cases run under a read lock; who looks for a reason has the cluster to itself.
    known: RwLock<usize>,
}

/// What became of something that was run.
pub(super) enum Ran<T> {
    /// It ended, and PostgreSQL lives.
    Whole(T),
    /// PostgreSQL crashed meanwhile.
    Crashed,
}

impl Crashes {
    pub(super) fn new(version: Version) -> Crashes {
        let crashes = Crashes { version, known: RwLock::new(0) };
        crashes.set_known(crashes.count());
        crashes
    }

    fn count(&self) -> usize {
        self.log().matches(CRASH).count()
    }

    fn log(&self) -> String {
        Postgres::shared_version(self.version).log()
    }

    fn set_known(&self, count: usize) {
        *self.known.write().expect("nobody panics with it") = count;
    }

    /// Runs a case, and tells it how many crashes there were; `is_good` says which outcomes no crash can have brought about.
    ///
    /// # Panics
    /// When the case does, and PostgreSQL lives.
    pub(super) fn guard<T>(&self, is_good: impl Fn(&T) -> bool, case: impl FnOnce(usize) -> T) -> Ran<T> {
        let known = self.known.read().expect("nobody panics with it");
        match catch_unwind(AssertUnwindSafe(|| case(*known))) {
            Ok(outcome) if is_good(&outcome) => Ran::Whole(outcome),
            outcome => {
                std::thread::sleep(NEWS);
                if self.count() > *known {
                    return Ran::Crashed;
                }
                Ran::Whole(outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            }
        }
    }

    /// Does this crash PostgreSQL when nothing else runs? Returns what was logged if it does. The cluster is back then.
    pub(super) fn blame(&self, case: impl FnOnce()) -> Option<String> {
        let mut known = self.known.write().expect("nobody panics with it");
        self.await_recovery();
        *known = self.count();
        // A panic tells no more than the log.
        let _ = catch_unwind(AssertUnwindSafe(case));
        std::thread::sleep(NEWS);
        if self.count() == *known {
            return None;
        }
        self.await_recovery();
        *known = self.count();
        Some(self.last_words())
    }

    fn await_recovery(&self) {
        let postgres = Postgres::shared_version(self.version);
        let start = Instant::now();
        while Raw::connect(postgres.addr(), APP.user, APP.password, "postgres").is_err() {
            assert!(start.elapsed() < RECOVERY_LIMIT, "PostgreSQL does not come back");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// What the backend that crashed last had logged, and what is said of it.
    fn last_words(&self) -> String {
        let log = self.log();
        let Some(at) = log.rfind(CRASH) else { return String::new() };
        let pid = log[..at].rsplit(' ').next().unwrap_or_default();
        let own: Vec<_> = log[..at].lines().filter(|line| line.contains(&format!("[{pid}]"))).collect();
        let after = log[at..].lines().take(2).collect::<Vec<_>>().join("\n");
        format!("{}\n(PID {pid}{after}", own[own.len().saturating_sub(TAIL)..].join("\n"))
    }
}
