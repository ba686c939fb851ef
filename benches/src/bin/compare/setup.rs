//! One arrangement under test: a working directory, the configuration file that both poolers read, a fake PostgreSQL
//! behind each, and the two poolers.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use pgsluice_benches::load::Target;
use pgsluice_benches::login::Credentials;
use pgsluice_benches::net::Addr;
use pgsluice_benches::tls::trust;
use postgres_protocol::password::scram_sha_256;

use crate::bench::Bench;
use crate::certificate::Key;
use crate::machine;
use crate::pooler::{Pooler, Server};

/// The role everything runs as.
const USER: &str = "bench";
/// Its password, where one is asked for.
const PASSWORD: &str = "bench-password";
/// The database that has a fake PostgreSQL to itself, where there is one.
const BULK: &str = "bulk";
/// Files of the working directory.
const CERTIFICATE: &str = "own.pem";
const KEY: &str = "own.key";

/// How clients prove who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Auth {
    /// Not at all.
    Trust,
    /// MD5; the secret is stored as a plain password.
    Md5,
    /// SCRAM-SHA-256; the secret is stored as PostgreSQL stores it.
    Scram,
}

/// What distinguishes one arrangement from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Setup {
    /// How clients log in.
    pub(crate) auth: Auth,
    /// Unix sockets on both sides instead of TCP.
    pub(crate) unix: bool,
    /// PgBouncer in session mode with a server for every client: where it has no prepared statements otherwise.
    pub(crate) theirs_in_session_mode: bool,
    /// Further users in the user list.
    pub(crate) users: usize,
    /// Clients are encrypted, by a certificate of this kind.
    pub(crate) key: Option<Key>,
    /// Others than encrypted clients are let in, too.
    pub(crate) plain_too: bool,
    /// Servers per pool.
    pub(crate) pool_size: usize,
    /// A second fake PostgreSQL, for a database of its own.
    pub(crate) bulk: bool,
    /// Further lines of `[pgbouncer]`, each with its newline.
    pub(crate) settings: &'static str,
}

impl Setup {
    /// TCP, trust, transaction mode.
    pub(crate) const PLAIN: Setup = Setup {
        auth: Auth::Trust,
        unix: false,
        theirs_in_session_mode: false,
        users: 0,
        key: None,
        plain_too: false,
        pool_size: 20,
        bulk: false,
        settings: "",
    };

    fn user_list(&self) -> String {
        let secret = match self.auth {
            Auth::Scram => scram_sha_256(PASSWORD.as_bytes()),
            Auth::Trust | Auth::Md5 => PASSWORD.to_owned(),
        };
        let mut list = format!("\"{USER}\" \"{secret}\"\n");
        list.extend((0..self.users).map(|i| format!("\"user_{i:06}\" \"md5{i:032x}\"\n")));
        list
    }

    /// The configuration both poolers read, but for the port, and for `theirs_in_session_mode`.
    fn ini(&self, at: &Place, session_mode: bool, prepared: bool) -> String {
        let dir = at.dir.display();
        let auth = match self.auth {
            Auth::Trust => "trust",
            Auth::Md5 => "md5",
            Auth::Scram => "scram-sha-256",
        };
        let host = if self.unix { dir.to_string() } else { Ipv4Addr::LOCALHOST.to_string() };
        let (mode, pool_size) = if session_mode { ("session", 2_000) } else { ("transaction", self.pool_size) };
        // Older versions refuse to start with a key they do not know.
        let prepared = if prepared { "max_prepared_statements = 200\n" } else { "" };
        let required = if self.plain_too { "allow" } else { "require" };
        let tls = match self.key {
            Some(_) => format!(
                "client_tls_sslmode = {required}\nclient_tls_protocols = secure\n\
                 client_tls_cert_file = {dir}/{CERTIFICATE}\nclient_tls_key_file = {dir}/{KEY}\n"
            ),
            None => String::new(),
        };
        let bulk = at.bulk_port.map_or(String::new(), |port| format!("{BULK} = host={host} port={port}\n"));
        format!(
            "[databases]\n{bulk}* = host={host} port={server}\n\n[pgbouncer]\n\
             listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir = {dir}\n\
             auth_type = {auth}\nauth_file = {dir}/userlist.txt\n\
             pool_mode = {mode}\ndefault_pool_size = {pool_size}\nmax_client_conn = 15000\n{prepared}{tls}\
             log_connections = 0\nlog_disconnections = 0\nlog_stats = 0\n{settings}",
            settings = self.settings,
            server = at.server_port,
            port = at.port,
        )
    }
}

/// Where one pooler of a setup lives.
struct Place<'a> {
    dir: &'a Path,
    port: u16,
    server_port: u16,
    bulk_port: Option<u16>,
}

impl Place<'_> {
    fn unix(&self, port: u16) -> Addr {
        Addr::Unix(self.dir.join(format!(".s.PGSQL.{port}")))
    }
}

/// Both poolers, with what is behind them. Dropping it ends the processes and removes the directory.
pub(crate) struct Pair {
    /// pgsluice.
    pub(crate) ours: Pooler,
    /// PgBouncer.
    pub(crate) theirs: Pooler,
    /// The fake PostgreSQL behind both, for measuring without a pooler.
    pub(crate) direct: Addr,
    /// The second fake PostgreSQL, if the setup has one.
    pub(crate) direct_bulk: Option<Addr>,
    /// What both show to clients that are encrypted.
    pub(crate) certificate: PathBuf,
    _servers: Vec<Server>,
    _dir: WorkDir,
}

impl Pair {
    /// Starts the fake PostgreSQL and both poolers, and waits until they answer.
    ///
    /// # Errors
    /// When a program cannot be started or does not answer.
    pub(crate) fn start(bench: &Bench, setup: Setup) -> io::Result<Self> {
        let dir = WorkDir::new()?;
        fs::write(dir.0.join("userlist.txt"), setup.user_list())?;
        let certificate = dir.0.join(CERTIFICATE);
        if let Some(key) = setup.key {
            key.make(&certificate, &dir.0.join(KEY))?;
        }
        let encrypted = setup.key.filter(|_| !setup.plain_too);
        let tls = encrypted.map(|_| trust(&certificate, false)).transpose()?;
        let (server_port, bulk_port) = (free_port()?, setup.bulk.then(free_port).transpose()?);
        let place = |port| Place { dir: &dir.0, port, server_port, bulk_port };
        let direct = address(&place(0), setup.unix, server_port);
        let direct_bulk = bulk_port.map(|port| address(&place(0), setup.unix, port));
        let mut servers = vec![Server::start(&bench.fakepg, &direct, &[])?];
        if let Some(addr) = &direct_bulk {
            servers.push(Server::start(&bench.fakepg, addr, &["--give-way"])?);
        }
        let prepared = machine::knows_prepared_statements(&machine::version(&bench.pgbouncer)?);
        let start = |name, program: &Path, session_mode, prepared| {
            let at = place(free_port()?);
            let file = dir.0.join(format!("{name}.ini"));
            fs::write(&file, setup.ini(&at, session_mode, prepared))?;
            let target = Target { tls: tls.clone(), ..target(address(&at, setup.unix, at.port)) };
            Pooler::start(name, program, &file, target)
        };
        let ours = start("pgsluice", &bench.pgsluice, false, true)?;
        let theirs = start("PgBouncer", &bench.pgbouncer, setup.theirs_in_session_mode, prepared)?;
        Ok(Self { ours, theirs, direct, direct_bulk, certificate, _servers: servers, _dir: dir })
    }
}

fn address(place: &Place<'_>, unix: bool, port: u16) -> Addr {
    if unix { place.unix(port) } else { Addr::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, port))) }
}

/// Whom the load generator logs in as.
pub(crate) fn target(addr: Addr) -> Target {
    let credentials = Credentials { user: USER.into(), database: USER.into(), password: PASSWORD.into() };
    Target { addr, credentials, tls: None }
}

/// The same for the database that has a fake PostgreSQL to itself.
pub(crate) fn bulk(mut target: Target) -> Target {
    target.credentials.database = BULK.into();
    target
}

/// A port that nobody listens on now.
pub(crate) fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// A directory for one setup, readable and writable by whichever user a pooler runs as.
pub(crate) struct WorkDir(pub(crate) PathBuf);

impl WorkDir {
    /// Makes one.
    ///
    /// # Errors
    /// The file system's.
    pub(crate) fn new() -> io::Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("pgsluice-bench-{}-{number}", std::process::id()));
        fs::create_dir(&dir)?;
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o777))?;
        Ok(Self(dir))
    }
}

impl Drop for WorkDir {
    fn drop(&mut self) {
        // Left behind at worst: it is in the directory for temporary files.
        let _ = fs::remove_dir_all(&self.0);
    }
}
