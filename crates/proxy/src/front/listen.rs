//! Listening sockets, over TCP and in the file system.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use pgsluice_config::Config;
use tokio::net::{TcpListener, TcpSocket, UnixListener};

use super::StartError;
use crate::net::Stream;

/// A listening socket.
pub(super) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, SocketFile),
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
            Self::Tcp(l) => l.local_addr().map_or_else(|_| "?".into(), |a| a.to_string()),
            Self::Unix(_, file) => file.0.display().to_string(),
        }
    }

    pub(super) async fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Tcp(l) => l.accept().await.map(|(s, _)| Stream::Tcp(s)),
            Self::Unix(l, _) => l.accept().await.map(|(s, _)| Stream::Unix(s)),
        }
    }
}

/// All that the configuration asks for.
pub(super) fn bind(config: &Config) -> Result<Vec<Listener>, StartError> {
    let mut listeners = Vec::new();
    let s = &config.settings;
    for listener in s.listeners() {
        let bound = bind_tcp(&listener.host, listener.port, s.listen_backlog);
        let address = format!("{}:{}", listener.host, listener.port);
        listeners.extend(bound.map_err(|error| StartError::Listen { address, error })?);
    }
    if let Some(dir) = &s.unix_socket_dir {
        let path = dir.join(format!(".s.PGSQL.{}", s.listen_port));
        let bound = bind_unix(&path, s.unix_socket_mode);
        listeners.push(bound.map_err(|error| StartError::Listen { address: path.display().to_string(), error })?);
    }
    Ok(listeners)
}

fn bind_tcp(host: &str, port: u16, backlog: u32) -> io::Result<Vec<Listener>> {
    use std::net::ToSocketAddrs;
    let addresses: Vec<_> = match host {
        "*" => vec![(std::net::Ipv6Addr::UNSPECIFIED, port).into()],
        name => (name, port).to_socket_addrs()?.collect(),
    };
    let open = |address: std::net::SocketAddr| -> io::Result<Listener> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        Ok(Listener::Tcp(socket.listen(backlog)?))
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
