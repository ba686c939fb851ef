//! The program under test, started by its path as a user would start it and looked at from outside only: its
//! sockets, its console, its log, its exit status.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::Once;
use std::time::Duration;

use rustix::process::Signal;

use crate::eventually;
use crate::postgres::{Login, Postgres};
use crate::process::{Directory, Process, free_port};
use crate::wire::{LoginError, Raw};

/// How long the pooler may take to print that it listens.
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// A row of a console command: column name to text, NULL as the empty string.
pub type Row = BTreeMap<String, String>;

/// A running pooler, killed on drop.
pub struct Pooler {
    process: Process,
    port: u16,
    files: Directory,
    config: Option<PathBuf>,
    admin: Login,
}

impl Pooler {
    /// `pgsluice postgres://… --listen …` in front of `postgres`, with more arguments. `login` is the user of
    /// the URL and so the console's administrator.
    pub fn url(postgres: &Postgres, login: Login, database: &str, arguments: &[&str]) -> Pooler {
        let port = free_port();
        let url = postgres.url(login, database);
        let listen = format!("127.0.0.1:{port}");
        let mut command = Command::new(program());
        command.args([&url, "--listen", &listen]).args(arguments);
        Pooler::launch(command, port, Directory::fresh("pooler"), None, login)
    }

    /// `pgsluice URL`, the URL as it is, with these environment variables.
    pub fn url_in(environment: &[(&str, &str)], url: &str, admin: Login) -> Pooler {
        let port = free_port();
        let mut command = Command::new(program());
        command.args([url, "--listen", &format!("127.0.0.1:{port}")]).envs(environment.iter().copied());
        Pooler::launch(command, port, Directory::fresh("pooler"), None, admin)
    }

    /// `pgsluice --config FILE.toml`, or `pgsluice FILE.ini` when `name` ends so. Every `{port}` in `text`
    /// becomes the port to listen on and every `{dir}` the directory of the file. The file must make
    /// `admin` a console administrator.
    pub fn file(name: &str, text: &str, admin: Login) -> Pooler {
        Pooler::files(&[(name, text)], admin)
    }

    /// As [`Pooler::file`] with several files; the first is the configuration.
    pub fn files(files: &[(&str, &str)], admin: Login) -> Pooler {
        Pooler::files_with(files, &[], admin)
    }

    /// As [`Pooler::file`] with these environment variables.
    pub fn file_in(environment: &[(&str, &str)], name: &str, text: &str, admin: Login) -> Pooler {
        Pooler::start(&[(name, text)], &[], environment, admin)
    }

    /// As [`Pooler::files`] with more arguments.
    pub fn files_with(files: &[(&str, &str)], arguments: &[&str], admin: Login) -> Pooler {
        Pooler::start(files, arguments, &[], admin)
    }

    fn start(files: &[(&str, &str)], arguments: &[&str], environment: &[(&str, &str)], admin: Login) -> Pooler {
        let (port, directory) = (free_port(), Directory::fresh("pooler"));
        let paths: Vec<_> =
            files.iter().map(|(name, text)| directory.write(name, &fill(text, port, &directory))).collect();
        let mut command = Command::new(program());
        if paths[0].extension().is_some_and(|extension| extension == "toml") {
            command.arg("--config");
        }
        command.arg(&paths[0]).args(arguments).envs(environment.iter().copied()).current_dir(directory.path());
        Pooler::launch(command, port, directory, Some(paths[0].clone()), admin)
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// Where its files are.
    pub fn directory(&self) -> &Path {
        self.files.path()
    }

    /// The TCP port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A libpq connection string.
    pub fn conninfo(&self, login: Login, database: &str) -> String {
        let Login { user, password } = login;
        format!("host=127.0.0.1 port={} user={user} password={password} dbname={database} sslmode=disable", self.port)
    }

    /// A connection URL.
    pub fn conn_url(&self, login: Login, database: &str) -> String {
        format!("postgres://{}:{}@127.0.0.1:{}/{database}?sslmode=disable", login.user, login.password, self.port)
    }

    /// A client that must be let in.
    pub fn connect(&self, login: Login, database: &str) -> Raw {
        self.try_connect(login, database).unwrap_or_else(|error| panic!("login of {}: {error:?}", login.user))
    }

    /// A client that may be refused.
    pub fn try_connect(&self, login: Login, database: &str) -> Result<Raw, LoginError> {
        Raw::connect(self.addr(), login.user, login.password, database)
    }

    /// An administrator's console connection.
    pub fn console(&self) -> Raw {
        self.connect(self.admin, "pgbouncer")
    }

    /// The rows of a console command that must not fail.
    pub fn show(&self, command: &str) -> Vec<Row> {
        table(&mut self.console(), command)
    }

    /// The row of SHOW POOLS of one database and user.
    pub fn pool(&self, database: &str, user: &str) -> Option<Row> {
        self.show("SHOW POOLS").into_iter().find(|row| row["database"] == database && row["user"] == user)
    }

    /// A number from the SHOW POOLS row of a database and user; 0 when there is no such pool.
    pub fn pool_count(&self, database: &str, user: &str, column: &str) -> i64 {
        self.pool(database, user).map_or(0, |row| row[column].parse().expect("a count"))
    }

    /// Has it logged this, or does it soon? What it answers may be here before what it logs about it.
    pub fn logs(&self, text: &str) -> bool {
        self.logs_times(text, 1)
    }

    /// The same, so many times at least.
    pub fn logs_times(&self, text: &str, times: usize) -> bool {
        eventually(Duration::from_secs(10), || self.log().matches(text).count() >= times)
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Memory it has resident now, in KiB.
    pub fn resident(&self) -> usize {
        self.status("VmRSS")
    }

    /// The most memory it has had resident, in KiB, since it started or [`Pooler::forget_peak`].
    pub fn peak(&self) -> usize {
        self.status("VmHWM")
    }

    /// What it has resident now becomes its peak.
    pub fn forget_peak(&self) {
        std::fs::write(format!("/proc/{}/clear_refs", self.pid()), "5").expect("a child's peak can be reset");
    }

    fn status(&self, field: &str) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("a running process");
        let line = status.lines().find(|line| line.starts_with(field)).expect("the kernel reports it");
        line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number of KiB")
    }

    /// Waits for a log line that contains `text`.
    pub fn wait_for_line(&mut self, text: &str, limit: Duration) -> bool {
        self.process.wait_for_line(text, limit)
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Waits for its end.
    pub fn wait_exit(&mut self, limit: Duration) -> Option<ExitStatus> {
        self.process.wait_exit(limit)
    }

    /// Replaces the configuration file; the pooler learns of it by SIGHUP or RELOAD.
    pub fn rewrite(&self, text: &str) {
        let file = self.config.as_ref().expect("started from a file");
        std::fs::write(file, fill(text, self.port, &self.files)).expect("the file is writable");
    }

    fn launch(command: Command, port: u16, files: Directory, config: Option<PathBuf>, admin: Login) -> Pooler {
        let mut process = Process::start("pgsluice", command, "KILL");
        let ready = process.wait_for_line(&format!("listening on 127.0.0.1:{port}"), START_TIMEOUT);
        assert!(ready, "the pooler did not say that it listens:\n{}", process.log());
        Pooler { process, port, files, config, admin }
    }
}

/// The rows of a console command as maps, for a connection that is open already.
pub fn table(console: &mut Raw, command: &str) -> Vec<Row> {
    let replies = console.query(command);
    let error = replies.iter().find(|reply| reply.tag == b'E');
    assert!(error.is_none(), "{command}: {error:?}");
    let columns = replies.iter().find(|reply| reply.tag == b'T').map(|reply| reply.columns()).unwrap_or_default();
    let rows = replies.iter().filter(|reply| reply.tag == b'D');
    rows.map(|row| columns.iter().cloned().zip(row.values().into_iter().map(Option::unwrap_or_default)).collect())
        .collect()
}

/// The path of the binary under test: `$PGSLUICE_BIN`, else the one beside the test programs, brought up to
/// date first. Cargo does not build another package's binary for a test, and a stale one would prove nothing.
pub fn program() -> PathBuf {
    static BUILD: Once = Once::new();
    if let Some(path) = std::env::var_os("PGSLUICE_BIN") {
        return path.into();
    }
    let test = std::env::current_exe().expect("a running program has a path");
    let profile = test.ancestors().nth(2).expect("tests lie in target/PROFILE/deps").to_path_buf();
    BUILD.call_once(|| build(&profile));
    profile.join("pgsluice")
}

fn build(profile: &Path) {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--quiet", "--package", "pgsluice", "--bin", "pgsluice"]);
    command.current_dir(env!("CARGO_MANIFEST_DIR")).env("CARGO_TARGET_DIR", profile.parent().expect("target"));
    if profile.ends_with("release") {
        command.arg("--release");
    }
    // What cargo says of the tests' own package: build scripts look at it (ring's does), and all that depends on them would be built again.
    let of_package = |name: &str| ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_"].iter().any(|p| name.starts_with(p));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(of_package)) {
        command.env_remove(name);
    }
    let status = command.status().expect("cargo runs");
    assert!(status.success(), "building pgsluice failed");
}

fn fill(text: &str, port: u16, directory: &Directory) -> String {
    text.replace("{port}", &port.to_string()).replace("{dir}", &directory.path().to_string_lossy())
}
