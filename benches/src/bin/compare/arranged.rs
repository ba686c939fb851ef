//! A pgsluice without a PgBouncer beside it, for what only pgsluice has.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use pgsluice_benches::net::Addr;

use crate::bench::Bench;
use crate::pooler::{Pooler, Server};
use crate::setup::{WorkDir, free_port, target};

/// A pgsluice and the fake PostgreSQL behind it.
pub(crate) struct Arranged {
    /// The pooler.
    pub(crate) pooler: Pooler,
    /// What is behind it.
    pub(crate) server: Server,
    _dir: WorkDir,
}

impl Arranged {
    /// Starts both: `settings` are further lines of the configuration, `options` those of the fake PostgreSQL.
    ///
    /// # Errors
    /// When a program cannot be started or does not answer.
    pub(crate) fn start(bench: &Bench, settings: &str, options: &[&str]) -> io::Result<Self> {
        let dir = WorkDir::new()?;
        let tcp = |port| Addr::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        let (server_port, port) = (free_port()?, free_port()?);
        let server = Server::start(&bench.fakepg, &tcp(server_port), options)?;
        let file = dir.0.join("pgsluice.ini");
        let list = dir.0.join("userlist.txt");
        fs::write(&list, "\"bench\" \"\"\n")?;
        let text = format!(
            "[databases]\n* = host=127.0.0.1 port={server_port}\n\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {port}\nunix_socket_dir =\nauth_type = trust\nauth_file = {}\npool_mode = transaction\n\
             max_client_conn = 15000\nlog_connections = 0\nlog_disconnections = 0\nlog_stats = 0\n{settings}",
            list.display()
        );
        fs::write(&file, text)?;
        let pooler = Pooler::start("pgsluice", &bench.pgsluice, &file, target(tcp(port)))?;
        Ok(Self { pooler, server, _dir: dir })
    }
}
