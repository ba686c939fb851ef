//! Runs other people's programs against the pooler: psql, pgbench, driver scripts. Their output is the
//! evidence; nothing here judges it beyond the exit status.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};

use crate::postgres::{Login, binary};

/// How long a Go program may take to build the first time, with all that it uses.
const GO_BUILD_LIMIT: Duration = Duration::from_secs(300);

/// How a finished program ended and what it printed.
#[derive(Debug)]
pub struct Outcome {
    /// Exit status 0.
    pub ok: bool,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Outcome {
    /// Panics with everything the program printed unless it succeeded.
    pub fn expect_ok(self, what: &str) -> Outcome {
        assert!(self.ok, "{what} failed\n-- stdout\n{}\n-- stderr\n{}", self.out, self.err);
        self
    }
}

/// Runs `command` to its end; a program still running after `limit` is killed and counts as failed.
pub fn run(mut command: Command, limit: Duration) -> Outcome {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
    let pid = Pid::from_raw(child.id() as i32).expect("a child's pid is not zero");
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || sender.send(child.wait_with_output()));
    let in_time = receiver.recv_timeout(limit);
    let late = in_time.is_err();
    let output = in_time.unwrap_or_else(|_| {
        // Already ended is fine: its output is next.
        let _ = kill_process(pid, Signal::KILL);
        receiver.recv().expect("the waiting thread answers")
    });
    outcome(output.expect("a child can be waited for"), late)
}

/// psql in the same quiet, unaligned form everywhere; `arguments` go last.
pub fn psql(conninfo: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary("psql"));
    command.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", conninfo]).args(arguments);
    command
}

/// pgbench on a TCP port of this machine.
pub fn pgbench(port: u16, login: Login, database: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary("pgbench"));
    command.env("PGPASSWORD", login.password).env("PGSSLMODE", "disable");
    command.args(["-h", "127.0.0.1", "-p", &port.to_string(), "-U", login.user]).args(arguments).arg(database);
    command
}

/// A Python driver script of this crate, with the interpreter that scripts/test-deps.sh set up.
pub fn python(script: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(environment().join("venv/bin/python"));
    command.arg(script_path(script)).args(arguments);
    command
}

/// A Node.js driver script of this crate, with the packages that scripts/test-deps.sh installed.
pub fn node(script: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new("node");
    command.env("PGSLUICE_NODE_MODULES", environment().join("node/node_modules"));
    command.arg(script_path(script)).args(arguments);
    command
}

/// A Java program of this crate in one file, with Debian's JDBC driver.
pub fn java(script: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new("java");
    command.args(["-XX:TieredStopAtLevel=1", "-cp", "/usr/share/java/postgresql.jar"]);
    command.arg(script_path(script)).args(arguments);
    command
}

/// A Go program of this crate in one file, with the packages of Debian's that lie in /usr/share/gocode. It is built first.
///
/// # Panics
/// When it does not build.
pub fn go(script: &str, arguments: &[&str]) -> Command {
    let directory = environment().join("go");
    let built = directory.join(script.trim_end_matches(".go"));
    let mut build = Command::new("go");
    build.env("GO111MODULE", "off").env("GOPATH", "/usr/share/gocode").env("GOCACHE", directory.join("cache"));
    build.args(["build", "-o"]).arg(&built).arg(script_path(script));
    run(build, GO_BUILD_LIMIT).expect_ok("go build");
    let mut command = Command::new(built);
    command.args(arguments);
    command
}

/// Raises this process's limit on open files, and so that of everything it starts from now on, as far as the
/// system allows: a thousand clients need more than the usual 1024.
pub fn allow_many_files() {
    let limits = getrlimit(Resource::Nofile);
    let wanted = Rlimit { current: limits.maximum, maximum: limits.maximum };
    setrlimit(Resource::Nofile, wanted).expect("the soft limit may be raised to the hard one");
}

/// Where scripts/test-deps.sh puts the drivers: `$PGSLUICE_TEST_ENV`, else target/test-env.
pub(crate) fn environment() -> PathBuf {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().expect("a workspace").to_path_buf();
    let path = std::env::var_os("PGSLUICE_TEST_ENV").map_or_else(|| root.join("target/test-env"), PathBuf::from);
    assert!(path.join("ready").exists(), "{} is not set up: run scripts/test-deps.sh", path.display());
    path
}

fn script_path(script: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("drivers").join(script)
}

fn outcome(output: Output, late: bool) -> Outcome {
    let mut err = String::from_utf8_lossy(&output.stderr).into_owned();
    if late {
        err.push_str("\n(killed: it ran past its time limit)");
    }
    Outcome { ok: output.status.success() && !late, out: String::from_utf8_lossy(&output.stdout).into_owned(), err }
}
