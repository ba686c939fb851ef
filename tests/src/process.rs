//! Child processes that never outlive the test program. Each child has a guard: a small shell that waits on a
//! pipe held by us. When we let go of the pipe, be it by `Drop`, a panic or a kill, the guard ends the child.
//! Directories go the same way. What the child prints is not interpreted, only kept for the failure report.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Lines of a child's output shown when its test fails.
const TAIL_MAX: usize = 80;

/// What a child's guard runs: arguments are the child's pid and the signal that ends it. A child that has ended
/// but was not reaped yet (state Z) needs no more waiting for.
/// A line "gone" on standard input says that the child has ended and been reaped already.
const GUARD: &str = r#"
trap '' INT TERM HUP
read -r word
if [ "$word" != gone ]; then
    kill -s "$2" "$1" 2>/dev/null
    tries=0
    while kill -0 "$1" 2>/dev/null && [ "$tries" -lt 100 ]; do
        case $(cat "/proc/$1/stat" 2>/dev/null) in *") Z "*) break ;; esac
        sleep 0.05
        tries=$((tries + 1))
    done
    kill -s KILL "$1" 2>/dev/null
fi
"#;

/// What a directory's guard runs. It tries more than once, as the guard of a process that still writes
/// there may be at work at the same time.
const DIRECTORY_GUARD: &str = r#"
trap '' INT TERM HUP
read -r word
for try in 1 2 3 4 5 6 7 8; do
    rm -rf -- "$1" 2>/dev/null && [ ! -e "$1" ] && break
    sleep 0.5
done
"#;

/// A running program with its captured output.
pub struct Process {
    name: &'static str,
    child: Child,
    guard: Child,
    log: Arc<Log>,
}

impl Process {
    /// Starts `command`. `end` is the signal the guard uses ("QUIT", "KILL").
    ///
    /// # Panics
    /// When the program cannot be started: a test cannot go on without it.
    pub fn start(name: &'static str, mut command: Command, end: &str) -> Process {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot start {name} ({command:?}): {error}"));
        let log = Arc::new(Log::default());
        log.follow(child.stdout.take());
        log.follow(child.stderr.take());
        let guard = guard(GUARD, &[child.id().to_string().as_ref(), end.as_ref()]);
        Process { name, child, guard, log }
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What the program has printed so far.
    pub fn log(&self) -> String {
        self.log.lines().join("\n")
    }

    /// Waits for a printed line that contains `text`; false when it ends or `limit` passes first.
    pub fn wait_for_line(&mut self, text: &str, limit: Duration) -> bool {
        let start = Instant::now();
        while start.elapsed() < limit {
            if self.log.contains_within(text, Duration::from_millis(50)) {
                return true;
            }
            if self.exited().is_some() {
                return self.log.contains_within(text, Duration::from_millis(200));
            }
        }
        false
    }

    /// Sends a signal to the program.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.pid() as i32).expect("a child's pid is not zero");
        // A program that has just ended is no error: the caller looks at its exit status next.
        let _ = kill_process(pid, signal);
    }

    /// The exit status, if it has ended.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be waited for")
    }

    /// Waits for the end of the program.
    pub fn wait_exit(&mut self, limit: Duration) -> Option<ExitStatus> {
        crate::eventually(limit, || self.exited().is_some());
        self.exited()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("---- {} (pid {}) said ----\n{}\n----", self.name, self.pid(), self.log.tail());
        }
        let gone = self.exited().is_some();
        if let (true, Some(pipe)) = (gone, self.guard.stdin.as_mut()) {
            let _ = pipe.write_all(b"gone\n");
        }
        drop(self.guard.stdin.take());
        let _ = self.child.wait();
        let _ = self.guard.wait();
    }
}

/// The lines a program has printed, from both its outputs.
#[derive(Default)]
struct Log {
    lines: Mutex<Vec<String>>,
    grown: Condvar,
}

impl Log {
    fn follow(self: &Arc<Self>, source: Option<impl Read + Send + 'static>) {
        let (log, source) = (Arc::clone(self), source.expect("outputs are piped"));
        std::thread::spawn(move || {
            let mut reader = BufReader::new(source);
            let mut line = Vec::new();
            while reader.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
                log.push(String::from_utf8_lossy(&line).trim_end().to_string());
                line.clear();
            }
        });
    }

    fn push(&self, line: String) {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        self.grown.notify_all();
    }

    fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn tail(&self) -> String {
        let lines = self.lines();
        lines[lines.len().saturating_sub(TAIL_MAX)..].join("\n")
    }

    fn contains_within(&self, text: &str, limit: Duration) -> bool {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let missing = |lines: &mut Vec<String>| !lines.iter().any(|line| line.contains(text));
        let (_lines, outcome) =
            self.grown.wait_timeout_while(lines, limit, missing).unwrap_or_else(PoisonError::into_inner);
        !outcome.timed_out()
    }
}

/// A directory under the system's temporary one, removed with everything in it.
pub struct Directory {
    path: PathBuf,
    guard: Child,
}

impl Directory {
    /// Makes a fresh one; `purpose` becomes part of its name.
    pub fn fresh(purpose: &str) -> Directory {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("pgsluice-{purpose}-{}-{count}", std::process::id()));
        std::fs::create_dir_all(&path).expect("the temporary directory is writable");
        let guard = guard(DIRECTORY_GUARD, &[path.as_os_str()]);
        Directory { path, guard }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a file into it and returns the file's path.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let file = self.path.join(name);
        std::fs::write(&file, text).expect("a fresh directory is writable");
        file
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        drop(self.guard.stdin.take());
        let _ = self.guard.wait();
    }
}

fn guard(script: &str, args: &[&OsStr]) -> Child {
    Command::new("sh")
        .args(["-c", script, "guard"])
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("sh is always there")
}

/// A TCP port nobody listens on, below the range from which the kernel takes the ports of outgoing
/// connections, so that thousands of clients cannot take it before its listener does.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let first = std::process::id().wrapping_mul(61);
    loop {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = 20_000 + ((first.wrapping_add(step)) % 12_000) as u16;
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
