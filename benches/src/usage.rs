//! What a process has used so far, as the kernel accounts for it in `/proc/PID` (proc(5)): CPU time from the
//! scheduler in nanoseconds, its split into user and system time, context switches, resident memory. Sampling costs
//! the process nothing.

use std::fs;
use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setpriority_process, setrlimit};

/// The lowest priority there is (nice(2)).
const LOWEST: i32 = 19;

/// From now on this thread, and those that it begins, have what others leave of the processors: where there are fewer than busy
/// threads, what they slow down is then slowed down by something else than the lack of one.
pub fn give_way() {
    // Lowering it is always allowed.
    let _ = setpriority_process(None, LOWEST);
}

/// Use of resources since the process began.
#[derive(Default, Clone, Copy, Debug)]
pub struct Usage {
    /// Run time of its live threads, nanoseconds.
    pub cpu_ns: u64,
    /// User time, clock ticks.
    pub user_ticks: u64,
    /// System time, clock ticks.
    pub system_ticks: u64,
    /// Voluntary context switches of its live threads.
    pub voluntary: u64,
    /// Involuntary context switches of its live threads.
    pub involuntary: u64,
    /// Live threads.
    pub threads: u64,
    /// Resident memory now, KiB.
    pub rss_kib: u64,
}

/// What a process used per query between two samples. CPU time in microseconds.
#[derive(Default, Clone, Copy, Debug)]
pub struct PerQuery {
    /// User and system time, from the scheduler's nanoseconds.
    pub cpu_us: f64,
    /// The user part, split by clock ticks and so only as fine as they are many.
    pub user_us: f64,
    /// Context switches of both kinds.
    pub switches: f64,
}

impl Usage {
    /// Samples a process.
    ///
    /// # Errors
    /// When there is no such process.
    pub fn of(pid: u32) -> io::Result<Self> {
        let mut usage = Self::default();
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // The program's name, in parentheses, may contain spaces; utime and stime are fields 14 and 15.
        let numbers: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
        usage.user_ticks = number(numbers.get(11).copied());
        usage.system_ticks = number(numbers.get(12).copied());
        usage.rss_kib = field(&fs::read_to_string(format!("/proc/{pid}/status"))?, "VmRSS");
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            usage.add_thread(&task?.path());
        }
        Ok(usage)
    }

    /// Adds a thread's share; one that has just ended has none.
    fn add_thread(&mut self, task: &std::path::Path) {
        let Ok(schedstat) = fs::read_to_string(task.join("schedstat")) else { return };
        let status = fs::read_to_string(task.join("status")).unwrap_or_default();
        self.threads += 1;
        self.cpu_ns += number(schedstat.split_whitespace().next());
        self.voluntary += field(&status, "voluntary_ctxt_switches");
        self.involuntary += field(&status, "nonvoluntary_ctxt_switches");
    }

    /// The use between an earlier sample and this one, divided by the queries answered meanwhile.
    pub fn per_query(&self, earlier: &Usage, queries: u64) -> PerQuery {
        let queries = queries.max(1) as f64;
        let cpu_us = self.cpu_ns.saturating_sub(earlier.cpu_ns) as f64 / 1e3 / queries;
        let user = self.user_ticks.saturating_sub(earlier.user_ticks) as f64;
        let system = self.system_ticks.saturating_sub(earlier.system_ticks) as f64;
        let switched = (self.voluntary + self.involuntary).saturating_sub(earlier.voluntary + earlier.involuntary);
        PerQuery {
            cpu_us,
            user_us: if user + system > 0.0 { cpu_us * user / (user + system) } else { 0.0 },
            switches: switched as f64 / queries,
        }
    }
}

/// Raises the limit of open files to what is allowed, to `wanted` if we may raise that as well. Child processes
/// inherit it. Returns the limit in force.
pub fn raise_open_files(wanted: u64) -> u64 {
    let hard = getrlimit(Resource::Nofile).maximum;
    let best = hard.map_or(wanted, |h| h.max(wanted));
    let raised = setrlimit(Resource::Nofile, Rlimit { current: Some(best), maximum: Some(best) });
    if raised.is_err() {
        // Not privileged: the hard limit is what there is.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: hard, maximum: hard });
    }
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

fn number(text: Option<&str>) -> u64 {
    text.and_then(|t| t.parse().ok()).unwrap_or(0)
}

/// The number on the line `name:` of a status file; 0 if there is none.
fn field(status: &str, name: &str) -> u64 {
    let line = status.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'));
    number(line.and_then(|l| l.split_whitespace().next()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_work_is_seen() {
        let before = Usage::of(std::process::id()).unwrap();
        let started = std::time::Instant::now();
        let mut x = 1u64;
        while started.elapsed().as_millis() < 30 {
            x = std::hint::black_box(x.wrapping_mul(3));
        }
        let after = Usage::of(std::process::id()).unwrap();
        let spent = after.per_query(&before, 10);
        assert!(spent.cpu_us > 500.0, "{spent:?}");
        assert!(after.rss_kib > 100 && after.threads >= 1);
    }

    #[test]
    fn no_process_is_an_error() {
        assert!(Usage::of(u32::MAX).is_err());
    }
}
