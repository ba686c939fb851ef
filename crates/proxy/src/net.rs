//! Byte streams over TCP and Unix sockets, and how they travel between the threads' runtimes.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::coop::{consume_budget, poll_proceed};

use crate::tls::{self, TlsStream};

/// Idle time before TCP keepalive probes begin.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);

/// A connection, registered with the runtime of the thread that holds it.
#[derive(Debug)]
pub(crate) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<TlsStream>),
}

/// A connection on its way from one thread to another.
#[derive(Debug)]
pub(crate) enum Parcel {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
    Tls(Box<(Parcel, tls::State)>),
}

/// Where a connection comes from or goes to, for people.
#[derive(Clone, Debug)]
pub(crate) struct Ends {
    pub(crate) peer: (String, u16),
    pub(crate) local: (String, u16),
    /// Version and cipher of TLS; empty without.
    pub(crate) tls: String,
}

impl Stream {
    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(s) => Pin::new(s).poll_read(cx, buf),
            Self::Unix(s) => Pin::new(s).poll_read(cx, buf),
            Self::Tls(s) => {
                // The socket counts only what has to wait for it: a peer that never lets us wait is not to keep this thread.
                ready!(poll_proceed(cx)).made_progress();
                loop {
                    match s.try_read(buf.initialize_unfilled()) {
                        Ok(n) => {
                            buf.advance(n);
                            return Poll::Ready(Ok(()));
                        }
                        Err(e) if e.kind() == io::ErrorKind::WouldBlock => ready!(s.socket().poll_read_ready(cx))?,
                        Err(e) => return Poll::Ready(Err(e)),
                    }
                }
            }
        }
    }

    pub(crate) fn poll_write_vectored(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // A plain write costs the kernel less than a vector of one.
        match (self, bufs) {
            (Self::Tcp(s), [one]) => Pin::new(s).poll_write(cx, one),
            (Self::Tcp(s), many) => Pin::new(s).poll_write_vectored(cx, many),
            (Self::Unix(s), [one]) => Pin::new(s).poll_write(cx, one),
            (Self::Unix(s), many) => Pin::new(s).poll_write_vectored(cx, many),
            (Self::Tls(s), many) => loop {
                match s.try_write(many) {
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => ready!(s.socket().poll_write_ready(cx))?,
                    result => return Poll::Ready(result),
                }
            },
        }
    }

    /// Has anything arrived, or the peer hung up? Costs no system call.
    pub(crate) fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(s) => s.poll_read_ready(cx),
            Self::Unix(s) => s.poll_read_ready(cx),
            Self::Tls(s) if s.has_plaintext() => Poll::Ready(Ok(())),
            Self::Tls(s) => s.socket().poll_read_ready(cx),
        }
    }

    fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(s) => s.poll_write_ready(cx),
            Self::Unix(s) => s.poll_write_ready(cx),
            Self::Tls(s) => s.socket().poll_write_ready(cx),
        }
    }

    pub(crate) fn try_read(&self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(s) => {
                let n = s.try_read(buf)?;
                is_drained(n, buf.len()).then(|| s.try_io(Interest::READABLE, nothing_left));
                Ok(n)
            }
            Self::Unix(s) => {
                let n = s.try_read(buf)?;
                is_drained(n, buf.len()).then(|| s.try_io(Interest::READABLE, nothing_left));
                Ok(n)
            }
            Self::Tls(s) => s.try_read(buf),
        }
    }

    pub(crate) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(s) => s.try_write(bytes),
            Self::Unix(s) => s.try_write(bytes),
            Self::Tls(s) => s.try_write(&[IoSlice::new(bytes)]),
        }
    }

    pub(crate) async fn readable(&self) -> io::Result<()> {
        match self {
            Self::Tcp(s) => s.readable().await,
            Self::Unix(s) => s.readable().await,
            // Nobody waits for it before a read has come to its end.
            Self::Tls(s) => Box::pin(s.socket().readable()).await,
        }
    }

    pub(crate) async fn writable(&self) -> io::Result<()> {
        match self {
            Self::Tcp(s) => s.writable().await,
            Self::Unix(s) => s.writable().await,
            Self::Tls(s) => Box::pin(s.socket().writable()).await,
        }
    }

    /// Writes all of it.
    pub(crate) async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.try_write(bytes) {
                Ok(n) => bytes = &bytes[n..],
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.writable().await?,
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Appends what has arrived, waiting for it; 0 bytes is the end.
    pub(crate) async fn read_some(&self, into: &mut Vec<u8>, max: usize) -> io::Result<usize> {
        loop {
            // A peer that sends without end is not to keep this thread from everybody else, nor from the time.
            consume_budget().await;
            let at = into.len();
            into.resize(at + max, 0);
            let result = self.try_read(&mut into[at..]);
            into.truncate(at + *result.as_ref().unwrap_or(&0));
            match result {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.readable().await?,
                other => return other,
            }
        }
    }

    pub(crate) async fn connect(host: &str, port: u16) -> io::Result<Self> {
        if host.starts_with('/') {
            return UnixStream::connect(format!("{host}/.s.PGSQL.{port}")).await.map(Self::Unix);
        }
        TcpStream::connect((host, port)).await.map(Self::Tcp)
    }

    /// No delay for small messages, and probes for peers that vanished without a word.
    pub(crate) fn tune(&self, keepalive: bool) {
        if let Self::Tls(s) = self {
            return s.socket().tune(keepalive);
        }
        if let Self::Tcp(s) = self {
            // A socket that takes no option still works: nothing to do about it.
            let _ = s.set_nodelay(true);
            if keepalive {
                let _ = SockRef::from(s).set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE_IDLE));
            }
        }
    }

    pub(crate) fn ends(&self) -> Ends {
        let text = |a: io::Result<SocketAddr>| a.map_or(("?".into(), 0), |a| (a.ip().to_string(), a.port()));
        match self {
            Self::Tcp(s) => Ends { peer: text(s.peer_addr()), local: text(s.local_addr()), tls: String::new() },
            Self::Tls(s) => Ends { tls: s.describe(), ..s.socket().ends() },
            Self::Unix(_) => Ends { peer: ("unix".into(), 0), local: ("unix".into(), 0), tls: String::new() },
        }
    }

    /// What the channel to a server can be bound by, if it is encrypted; see [`pgsluice_auth::end_point`].
    pub(crate) fn end_point(&self) -> Option<Vec<u8>> {
        if let Self::Tls(s) = self { s.end_point() } else { None }
    }

    /// Whether both sides of TLS agreed on PostgreSQL's protocol.
    pub(crate) fn has_alpn(&self) -> bool {
        if let Self::Tls(s) = self { s.has_alpn() } else { false }
    }

    /// To be called before it is dropped: the other side is told, if the transport has a word for it.
    pub(crate) fn say_goodbye(&self) {
        if let Self::Tls(s) = self {
            s.say_goodbye();
        }
    }

    /// Writes as much as is taken without waiting: for last words.
    pub(crate) fn write_now(&self, mut bytes: &[u8]) {
        while let (false, Ok(taken @ 1..)) = (bytes.is_empty(), self.try_write(bytes)) {
            bytes = &bytes[taken..];
        }
    }

    /// Deregisters it, to be sent to another thread.
    pub(crate) fn pack(self) -> io::Result<Parcel> {
        match self {
            Self::Tcp(s) => s.into_std().map(Parcel::Tcp),
            Self::Unix(s) => s.into_std().map(Parcel::Unix),
            Self::Tls(s) => {
                let (socket, state) = s.into_parts();
                Ok(Parcel::Tls(Box::new((socket.pack()?, state))))
            }
        }
    }
}

/// Has a read that brought `n` bytes of `wanted` emptied the socket? Then the next one need not go to the kernel to learn of it,
/// until there is news. The thread that reads is the one that hears them, and does not in between.
fn is_drained(n: usize, wanted: usize) -> bool {
    0 < n && n < wanted
}

/// Told to tokio, it takes the socket for not ready.
fn nothing_left() -> io::Result<()> {
    Err(io::ErrorKind::WouldBlock.into())
}

impl Parcel {
    /// Registers it with the runtime of this thread.
    pub(crate) fn unpack(self) -> io::Result<Stream> {
        match self {
            Self::Tcp(s) => TcpStream::from_std(s).map(Stream::Tcp),
            Self::Unix(s) => UnixStream::from_std(s).map(Stream::Unix),
            Self::Tls(parts) => {
                let (socket, state) = *parts;
                Ok(Stream::Tls(Box::new(TlsStream::new(socket.unpack()?, state))))
            }
        }
    }
}
