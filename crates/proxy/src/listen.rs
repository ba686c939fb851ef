//! Listening sockets, over TCP and in the file system; for metrics over TCP only.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use pgsluice_config::{Config, Listener as Address};
use rustix::net::{Shutdown, SocketFlags, acceptfrom_with};
use tokio::net::{TcpListener, TcpSocket};

use crate::front::StartError;
use crate::net::{Kind, Known, Parcel, tune};

/// What to change when an address is not to be had: for clients, for metrics.
const CLIENTS: &str = "--listen or listen_addr and listen_port";
const METRICS: &str = "metrics_listen";

/// A socket that listens for clients, and what those that are accepted have from it.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: OwnedFd,
    kind: Kind,
    name: String,
    /// Where clients arrive, if it is not one of many addresses.
    local: Option<SocketAddr>,
    /// `tcp_keepalive` as it was when it began to listen.
    keepalive: bool,
}

/// A client that has connected, and of which nothing was read.
#[derive(Debug)]
pub(crate) struct Fresh {
    pub(crate) parcel: Parcel,
    pub(crate) known: Known,
}

/// The socket's file goes with it.
#[derive(Debug)]
pub(crate) struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Listener {
    /// For people.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Takes who has connected, if anybody has. `keepalive`: see `tcp_keepalive`.
    ///
    /// # Errors
    /// The kernel's; `InvalidInput` when it listens no more.
    pub(crate) fn accept(&self, keepalive: bool) -> io::Result<Fresh> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (socket, peer) = rustix::io::retry_on_intr(|| acceptfrom_with(&self.socket, flags))?;
        let known = match self.kind {
            Kind::Unix => Known::default(),
            Kind::Tcp => {
                let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok());
                Known { peer: peer.map(Into::into), local: self.local.map(Into::into) }
            }
        };
        // Options come with the socket that listens. The kernel gives them when a client connects, which may have been before they
        // were changed, and so they are not changed there.
        if self.kind == Kind::Tcp && self.keepalive != keepalive {
            tune(&socket, keepalive);
        }
        Ok(Fresh { parcel: Parcel::accepted(socket, self.kind), known })
    }

    /// Who connects from now on is refused by the kernel, whichever threads still have this.
    pub(crate) fn close(&self) {
        // It can only be closed already.
        let _ = rustix::net::shutdown(&self.socket, Shutdown::Both);
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// All that the configuration asks for, and the files that some of them have.
pub(crate) fn bind(config: &Config) -> Result<(Vec<Listener>, Vec<SocketFile>), StartError> {
    let (mut listeners, mut files) = (Vec::new(), Vec::new());
    let s = &config.settings;
    let failed = |address: String, error| StartError::Listen { address, error, keys: CLIENTS };
    for address in s.listeners() {
        let bound = bind_tcp(&address, s.listen_backlog, Some(s.tcp_keepalive))
            .map_err(|error| failed(address.to_string(), error))?;
        for listener in bound {
            let at = listener.local_addr()?;
            listeners.push(Listener {
                socket: listener.into_std()?.into(),
                kind: Kind::Tcp,
                name: at.to_string(),
                local: Some(at).filter(|at| !at.ip().is_unspecified()),
                keepalive: s.tcp_keepalive,
            });
        }
    }
    if let Some(dir) = &s.unix_socket_dir {
        let path = dir.join(format!(".s.PGSQL.{}", s.listen_port));
        let bound = bind_unix(&path, s.unix_socket_mode);
        let (socket, file) = bound.map_err(|error| failed(path.display().to_string(), error))?;
        let name = path.display().to_string();
        listeners.push(Listener { socket, kind: Kind::Unix, name, local: None, keepalive: s.tcp_keepalive });
        files.push(file);
    }
    Ok((listeners, files))
}

/// Where metrics are asked for; none if nobody may.
pub(crate) fn bind_metrics(config: &Config) -> Result<Vec<TcpListener>, StartError> {
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

fn bind_unix(path: &Path, mode: u32) -> io::Result<(OwnedFd, SocketFile)> {
    // A file nobody listens on is a leftover of a process that was killed.
    if path.exists() && std::os::unix::net::UnixStream::connect(path).is_err() {
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    let file = SocketFile(path.to_owned());
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    listener.set_nonblocking(true)?;
    Ok((listener.into(), file))
}
