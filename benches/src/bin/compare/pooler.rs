//! The processes under test and the fake PostgreSQL: started, waited for, ended.

use std::fs::File;
use std::io;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use pgsluice_benches::load::{Client, Mode, Script, Target};
use pgsluice_benches::net::{Addr, Stream};

/// How long a program may take until it answers.
const START_MAX: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(50);

/// A child process that ends with its owner.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only if it is gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Process {
    /// Tries until it works, the process ends or the time is over.
    fn wait_until<T>(&mut self, what: &str, mut attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
        let deadline = Instant::now() + START_MAX;
        loop {
            let error = match attempt() {
                Ok(done) => return Ok(done),
                Err(e) => e,
            };
            if let Some(status) = self.0.try_wait()? {
                return Err(io::Error::other(format!("{what} ended: {status}")));
            }
            if Instant::now() > deadline {
                return Err(io::Error::new(error.kind(), format!("{what} does not answer: {error}")));
            }
            std::thread::sleep(PAUSE);
        }
    }
}

/// The fake PostgreSQL.
pub(crate) struct Server {
    process: Process,
}

impl Server {
    /// Starts it, with further options, and waits until it listens.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(crate) fn start(program: &Path, addr: &Addr, options: &[&str]) -> io::Result<Self> {
        let mut command = Command::new(program);
        let child = command.arg("--listen").arg(addr.to_string()).args(options).stderr(Stdio::null()).spawn()?;
        let mut process = Process(child);
        process.wait_until("fakepg", || Stream::connect(addr))?;
        if let Addr::Unix(path) = addr {
            open_to_all(path)?;
        }
        Ok(Self { process })
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.process.0.id()
    }
}

/// Lets a pooler that runs as another user connect.
fn open_to_all(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777))
}

/// A pooler under test.
pub(crate) struct Pooler {
    /// Its name in the report.
    pub(crate) name: &'static str,
    /// Where clients connect, and how.
    pub(crate) target: Target,
    process: Process,
}

impl Pooler {
    /// Starts it on a configuration file and waits until it answers a query. Its log stands beside the file.
    ///
    /// # Errors
    /// When it cannot be started or does not answer, with the end of its log.
    pub(crate) fn start(name: &'static str, program: &Path, config: &Path, target: Target) -> io::Result<Self> {
        let path = config.with_extension("log");
        let log = File::create(&path)?;
        let mut command = Command::new(program);
        if name == "PgBouncer" && rustix::process::geteuid().is_root() {
            // It refuses to run as root.
            command.args(["-u", "nobody"]);
        }
        command.arg(config).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Self::spawn(name, command, target, &path)
    }

    /// Starts a pooler that has a command of its own and waits until it answers; `log`: where it writes, if anywhere.
    ///
    /// # Errors
    /// When it cannot be started or does not answer, with the end of its log.
    pub(crate) fn spawn(name: &'static str, mut command: Command, target: Target, log: &Path) -> io::Result<Self> {
        let mut pooler = Self { name, target, process: Process(command.spawn()?) };
        pooler.wait(log)?;
        Ok(pooler)
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.process.0.id()
    }

    fn wait(&mut self, log: &Path) -> io::Result<()> {
        let (target, script) = (self.target.clone(), Script::new(Mode::Simple, "SELECT 1", 1));
        let attempt = || Client::open(&target)?.request(&script.steps[0]);
        self.process.wait_until(self.name, attempt).map_err(|e| {
            let text = std::fs::read_to_string(log).unwrap_or_default();
            let mut last: Vec<&str> = text.lines().rev().take(10).collect();
            last.reverse();
            io::Error::new(e.kind(), format!("{e}; the end of its log:\n{}", last.join("\n")))
        })
    }
}
