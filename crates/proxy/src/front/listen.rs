//! Listening sockets, over TCP and in the file system; for metrics over TCP only.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use pgsluice_config::{Config, Listener as Address};
use tokio::net::{TcpListener, TcpSocket, UnixListener};

use super::StartError;
use crate::net::{Stream, tune};

/// What to change when an address is not to be had: for clients, for metrics.
const CLIENTS: &str = "--listen or listen_addr and listen_port";
const METRICS: &str = "metrics_listen";

/// A listening socket.
pub(super) enum Listener {
    Tcp(TcpSide),
    Unix(UnixListener, SocketFile),
}

/// A socket that listens, and what those that are accepted have from it.
pub(super) struct TcpSide {
    listener: TcpListener,
    /// Where clients arrive, if it is not one of many addresses.
    local: Option<SocketAddr>,
    /// `tcp_keepalive` as it was then.
    keepalive: bool,
}

/// The socket's file goes with it.
pub(super) struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Listener {
    pub(super) fn name(&self) -> String {
        match self {
            Self::Tcp(side) => side.listener.local_addr().map_or_else(|_| "?".into(), |a| a.to_string()),
            Self::Unix(_, file) => file.0.display().to_string(),
        }
    }

    pub(super) async fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Tcp(side) => side.listener.accept().await.map(|(s, peer)| Stream::accepted(s, peer, side.local)),
            Self::Unix(l, _) => l.accept().await.map(|(s, _)| Stream::from(s)),
        }
    }

    /// Has what is accepted these options from the socket that listens? The kernel gives them when a client connects, which may
    /// have been before they were changed.
    pub(super) fn is_tuned(&self, keepalive: bool) -> bool {
        match self {
            Self::Tcp(side) => side.keepalive == keepalive,
            Self::Unix(..) => true,
        }
    }
}

/// All that the configuration asks for.
pub(super) fn bind(config: &Config) -> Result<Vec<Listener>, StartError> {
    let mut listeners = Vec::new();
    let s = &config.settings;
    let failed = |address: String, error| StartError::Listen { address, error, keys: CLIENTS };
    for address in s.listeners() {
        let bound = bind_tcp(&address, s.listen_backlog, Some(s.tcp_keepalive))
            .map_err(|error| failed(address.to_string(), error))?;
        listeners.extend(bound.into_iter().map(|listener| {
            let local = listener.local_addr().ok().filter(|a| !a.ip().is_unspecified());
            Listener::Tcp(TcpSide { listener, local, keepalive: s.tcp_keepalive })
        }));
    }
    if let Some(dir) = &s.unix_socket_dir {
        let path = dir.join(format!(".s.PGSQL.{}", s.listen_port));
        let bound = bind_unix(&path, s.unix_socket_mode);
        listeners.push(bound.map_err(|error| failed(path.display().to_string(), error))?);
    }
    Ok(listeners)
}

/// Where metrics are asked for; none if nobody may.
pub(super) fn bind_metrics(config: &Config) -> Result<Vec<TcpListener>, StartError> {
    let s = &config.settings;
    let Some(address) = &s.metrics_listen else { return Ok(Vec::new()) };
    let failed = |error| StartError::Listen { address: address.to_string(), error, keys: METRICS };
    bind_tcp(address, s.listen_backlog, None).map_err(failed)
}

/// `keepalive`: what is accepted is tuned, see [`tune`].
fn bind_tcp(address: &Address, backlog: u32, keepalive: Option<bool>) -> io::Result<Vec<TcpListener>> {
    use std::net::ToSocketAddrs;
    let (host, port) = (&*address.host, address.port);
    let addresses: Vec<_> = match host {
        "*" => vec![(std::net::Ipv6Addr::UNSPECIFIED, port).into()],
        name => (name, port).to_socket_addrs()?.collect(),
    };
    let open = |address: std::net::SocketAddr| -> io::Result<TcpListener> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        if let Some(keepalive) = keepalive {
            tune(&socket, keepalive);
        }
        socket.listen(backlog)
    };
    let opened: Result<Vec<_>, _> = addresses.into_iter().map(open).collect();
    match opened {
        // A machine without IPv6.
        Err(_) if host == "*" => Ok(vec![open((std::net::Ipv4Addr::UNSPECIFIED, port).into())?]),
        other => other,
    }
}

fn bind_unix(path: &Path, mode: u32) -> io::Result<Listener> {
    // A file nobody listens on is a leftover of a process that was killed.
    if path.exists() && std::os::unix::net::UnixStream::connect(path).is_err() {
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    Ok(Listener::Unix(listener, SocketFile(path.to_owned())))
}
