//! Stream sockets of either family behind one type, and listeners with a long backlog. Only what the measuring
//! programs need; names are not resolved.

use std::fmt::{self, Display, Formatter};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use socket2::{Domain, SockAddr, Socket, Type};

use crate::proto;
use crate::tls::TlsStream;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4096;

/// `ADDRESS:PORT` or `unix:PATH`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Addr {
    /// An address and port.
    Tcp(SocketAddr),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

impl Addr {
    fn domain(&self) -> Domain {
        match self {
            Addr::Tcp(a) => Domain::for_address(*a),
            Addr::Unix(_) => Domain::UNIX,
        }
    }

    fn sock_addr(&self) -> io::Result<SockAddr> {
        match self {
            Addr::Tcp(a) => Ok((*a).into()),
            Addr::Unix(p) => SockAddr::unix(p),
        }
    }
}

impl FromStr for Addr {
    type Err = std::net::AddrParseError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        match s.strip_prefix("unix:") {
            Some(path) => Ok(Addr::Unix(path.into())),
            None => s.parse().map(Addr::Tcp),
        }
    }
}

impl Display for Addr {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Addr::Tcp(a) => a.fmt(f),
            Addr::Unix(p) => write!(f, "unix:{}", p.display()),
        }
    }
}

/// A connected stream socket; TCP ones have TCP_NODELAY set.
#[derive(Debug)]
pub enum Stream {
    /// Over TCP.
    Tcp(TcpStream),
    /// Over a Unix socket.
    Unix(UnixStream),
    /// Encrypted, over TCP.
    Tls(Box<TlsStream>),
}

impl Stream {
    /// Connects; the socket is blocking.
    ///
    /// # Errors
    /// Those of connect(2).
    pub fn connect(addr: &Addr) -> io::Result<Self> {
        match addr {
            Addr::Tcp(a) => {
                let stream = TcpStream::connect(a)?;
                stream.set_nodelay(true)?;
                Ok(Stream::Tcp(stream))
            }
            Addr::Unix(p) => Ok(Stream::Unix(UnixStream::connect(p)?)),
        }
    }

    /// Makes reads and writes return `WouldBlock` instead of waiting.
    ///
    /// # Errors
    /// Those of ioctl(2).
    pub fn set_nonblocking(&self) -> io::Result<()> {
        match self {
            Stream::Tcp(s) => s.set_nonblocking(true),
            Stream::Unix(s) => s.set_nonblocking(true),
            Stream::Tls(s) => s.socket.set_nonblocking(true),
        }
    }

    /// Makes a blocking read fail when nothing comes for that long.
    ///
    /// # Errors
    /// Those of setsockopt(2).
    pub fn set_read_timeout(&self, limit: Duration) -> io::Result<()> {
        match self {
            Stream::Tcp(s) => s.set_read_timeout(Some(limit)),
            Stream::Unix(s) => s.set_read_timeout(Some(limit)),
            Stream::Tls(s) => s.socket.set_read_timeout(Some(limit)),
        }
    }

    /// Asks for TLS, as libpq does, and goes on encrypted; blocking.
    ///
    /// # Errors
    /// The socket's and the handshake's; `Unsupported` if the other side has no TLS.
    pub fn encrypt(self, config: Arc<ClientConfig>) -> io::Result<Self> {
        let Stream::Tcp(socket) = self else { return Err(io::ErrorKind::Unsupported.into()) };
        (&socket).write_all(&proto::ssl_request())?;
        let mut answer = [0];
        (&socket).read_exact(&mut answer)?;
        if answer != *b"S" {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "no TLS here"));
        }
        Ok(Stream::Tls(Box::new(TlsStream::shake_hands(socket, config)?)))
    }

    /// Whether a read that brought `n` bytes of `wanted` left nothing behind, so that the next one would wait.
    pub fn is_drained(&self, n: usize, wanted: usize) -> bool {
        // A record is read at a time.
        n < wanted && !matches!(self, Stream::Tls(_))
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Stream::Tcp(s) => s.as_fd(),
            Stream::Unix(s) => s.as_fd(),
            Stream::Tls(s) => s.socket.as_fd(),
        }
    }
}

impl Read for &Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(s) => (&*s).read(buf),
            Stream::Unix(s) => (&*s).read(buf),
            Stream::Tls(s) => (&**s).read(buf),
        }
    }
}

impl Write for &Stream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(s) => (&*s).write(buf),
            Stream::Unix(s) => (&*s).write(buf),
            Stream::Tls(s) => (&**s).write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A non-blocking listener.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    tcp: bool,
}

impl Listener {
    /// Listens. A stale Unix socket is replaced.
    ///
    /// # Errors
    /// Those of bind(2) and listen(2).
    pub fn bind(addr: &Addr) -> io::Result<Self> {
        let socket = Socket::new(addr.domain(), Type::STREAM, None)?;
        let tcp = matches!(addr, Addr::Tcp(_));
        if let Addr::Unix(path) = addr {
            let _ = std::fs::remove_file(path);
        } else {
            socket.set_reuse_address(true)?;
            // Accepted sockets inherit this one.
            socket.set_tcp_nodelay(true)?;
        }
        socket.bind(&addr.sock_addr()?)?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, tcp })
    }

    /// Accepts one connection, non-blocking; `None` if there is none.
    ///
    /// # Errors
    /// Those of accept(2), but for "none there".
    pub fn accept(&self) -> io::Result<Option<Stream>> {
        let socket = match self.socket.accept() {
            Ok((socket, _)) => socket,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(e) => return Err(e),
        };
        socket.set_nonblocking(true)?;
        let fd = OwnedFd::from(socket);
        Ok(Some(if self.tcp { Stream::Tcp(fd.into()) } else { Stream::Unix(fd.into()) }))
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
