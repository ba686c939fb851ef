//! Byte streams over TCP and Unix sockets, and how they travel between threads.
//!
//! On the front's thread its runtime tells what is ready, on a worker's the loop of its own ([`crate::reactor`]).

use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use socket2::{SockAddr, SockRef, TcpKeepalive};
use tokio::io::Interest;
use tokio::net::{TcpStream, UnixStream};
use tokio::task::coop::consume_budget;

use crate::reactor::{self, Place, TaskId};
use crate::tls::{self, TlsStream};

/// Idle time before TCP keepalive probes begin.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);

/// A connection.
#[derive(Debug)]
pub(crate) enum Stream {
    Plain(Socket),
    Tls(Box<TlsStream>),
}

/// A socket, registered with what its thread waits by.
#[derive(Debug)]
pub(crate) enum Socket {
    /// With the front's runtime.
    Tcp(Box<Accepted>),
    Unix(Box<UnixStream>),
    /// With a worker's loop.
    Worker(Registered),
}

/// A TCP connection of the front's.
#[derive(Debug)]
pub(crate) struct Accepted {
    stream: TcpStream,
    known: Known,
}

/// What is known of a connection's ends without asking the kernel.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Known {
    pub(crate) peer: Option<End>,
    pub(crate) local: Option<End>,
}

/// A socket of a worker's.
#[derive(Debug)]
pub(crate) struct Registered {
    place: Place,
    fd: OwnedFd,
    kind: Kind,
}

/// Over what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Tcp,
    Unix,
}

/// A connection on its way from one thread to another.
#[derive(Debug)]
pub(crate) struct Parcel {
    fd: OwnedFd,
    kind: Kind,
    tls: Option<Box<tls::State>>,
}

/// Where a connection comes from and goes to.
#[derive(Clone, Debug)]
pub(crate) struct Ends {
    pub(crate) peer: End,
    pub(crate) local: End,
    /// Version and cipher of TLS; empty without.
    pub(crate) tls: Box<str>,
}

/// One of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct End {
    /// None over a Unix socket.
    pub(crate) address: Option<IpAddr>,
    port: u16,
}

impl End {
    /// For people: address and port.
    pub(crate) fn describe(self) -> (String, u16) {
        (self.address.map_or("unix".into(), |a| a.to_string()), self.port)
    }
}

impl From<SocketAddr> for End {
    fn from(address: SocketAddr) -> Self {
        Self { address: Some(address.ip()), port: address.port() }
    }
}

impl From<io::Result<SockAddr>> for End {
    fn from(address: io::Result<SockAddr>) -> Self {
        let address = address.ok().and_then(|a| a.as_socket());
        Self { address: address.map(|a| a.ip()), port: address.map_or(0, |a| a.port()) }
    }
}

impl Socket {
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::Tcp(_) => Kind::Tcp,
            Self::Unix(_) => Kind::Unix,
            Self::Worker(s) => s.kind,
        }
    }

    /// Has anything arrived, or the peer hung up? Costs no system call. On the front's thread that is not known.
    pub(crate) fn is_readable(&self) -> bool {
        if let Self::Worker(s) = self { s.place.is_readable() } else { true }
    }

    pub(crate) fn try_read(&self, buf: &mut [u8]) -> io::Result<usize> {
        // A read that did not fill its buffer has emptied the socket: the next one need not go to the kernel to learn of it.
        let is_drained = |n: usize, wanted: usize| 0 < n && n < wanted;
        match self {
            Self::Worker(s) => s.try_read(buf),
            Self::Tcp(s) => {
                let n = s.stream.try_read(buf)?;
                is_drained(n, buf.len()).then(|| s.stream.try_io(Interest::READABLE, nothing_left));
                Ok(n)
            }
            Self::Unix(s) => {
                let n = s.try_read(buf)?;
                is_drained(n, buf.len()).then(|| s.try_io(Interest::READABLE, nothing_left));
                Ok(n)
            }
        }
    }

    pub(crate) fn try_write(&self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Worker(s) => s.try_write(bufs),
            Self::Tcp(s) => s.stream.try_write_vectored(bufs),
            Self::Unix(s) => s.try_write_vectored(bufs),
        }
    }

    pub(crate) async fn readable(&self) -> io::Result<()> {
        match self {
            Self::Worker(s) => {
                s.place.readable().await;
                Ok(())
            }
            Self::Tcp(s) => s.stream.readable().await,
            Self::Unix(s) => s.readable().await,
        }
    }

    pub(crate) async fn writable(&self) -> io::Result<()> {
        match self {
            Self::Worker(s) => {
                s.place.writable().await;
                Ok(())
            }
            Self::Tcp(s) => s.stream.writable().await,
            Self::Unix(s) => s.writable().await,
        }
    }

    /// Leaves what told of its readiness.
    fn unregister(self) -> io::Result<(OwnedFd, Kind)> {
        Ok(match self {
            Self::Tcp(s) => (s.stream.into_std()?.into(), Kind::Tcp),
            Self::Unix(s) => (s.into_std()?.into(), Kind::Unix),
            Self::Worker(Registered { place, fd, kind }) => {
                place.leave(&fd);
                (fd, kind)
            }
        })
    }
}

impl Registered {
    fn try_read(&self, buf: &mut [u8]) -> io::Result<usize> {
        if !self.place.is_readable() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let wanted = buf.len();
        match rustix::io::retry_on_intr(|| rustix::net::recv(&self.fd, &mut *buf, RecvFlags::empty())) {
            Ok((n, _)) => {
                self.place.note_read(n, wanted);
                Ok(n)
            }
            Err(error) => {
                if error == Errno::AGAIN {
                    self.place.note_empty();
                }
                Err(error.into())
            }
        }
    }

    fn try_write(&self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        if !self.place.is_writable() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        // A plain write costs the kernel less than a vector of one.
        let n = match bufs {
            [one] => rustix::io::retry_on_intr(|| rustix::net::send(&self.fd, one, SendFlags::NOSIGNAL)),
            many => rustix::io::retry_on_intr(|| rustix::io::writev(&self.fd, many)),
        };
        if n == Err(Errno::AGAIN) {
            self.place.note_full(&self.fd);
        }
        Ok(n?)
    }
}

/// No delay for small messages, and probes for peers that vanished without a word, or none. What is accepted has it from the socket
/// that listens (tcp(7)).
pub(crate) fn tune(socket: impl AsFd, keepalive: bool) {
    let socket = SockRef::from(&socket);
    // A socket that takes no option still works: nothing to do about it.
    let _ = socket.set_tcp_nodelay(true);
    let _ = match keepalive {
        true => socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE_IDLE)),
        false => socket.set_keepalive(false),
    };
}

/// Told to tokio, it takes the socket for not ready.
fn nothing_left() -> io::Result<()> {
    Err(io::ErrorKind::WouldBlock.into())
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(s) => s.stream.as_fd(),
            Self::Unix(s) => s.as_fd(),
            Self::Worker(s) => s.fd.as_fd(),
        }
    }
}

impl From<TcpStream> for Stream {
    fn from(stream: TcpStream) -> Self {
        Self::Plain(Socket::Tcp(Box::new(Accepted { stream, known: Known::default() })))
    }
}

impl From<UnixStream> for Stream {
    fn from(stream: UnixStream) -> Self {
        Self::Plain(Socket::Unix(Box::new(stream)))
    }
}

impl Stream {
    /// The socket under it.
    pub(crate) fn socket(&self) -> &Socket {
        match self {
            Self::Plain(s) => s,
            Self::Tls(s) => s.socket(),
        }
    }

    /// Has anything arrived, or the peer hung up? Costs no system call.
    pub(crate) fn is_readable(&self) -> bool {
        match self {
            Self::Plain(s) => s.is_readable(),
            Self::Tls(s) => s.has_plaintext() || s.socket().is_readable(),
        }
    }

    pub(crate) fn try_read(&self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(s) => s.try_read(buf),
            Self::Tls(s) => s.try_read(buf),
        }
    }

    pub(crate) fn try_write_vectored(&self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Plain(s) => s.try_write(bufs),
            Self::Tls(s) => s.try_write(bufs),
        }
    }

    pub(crate) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.try_write_vectored(&[IoSlice::new(bytes)])
    }

    pub(crate) async fn readable(&self) -> io::Result<()> {
        self.socket().readable().await
    }

    pub(crate) async fn writable(&self) -> io::Result<()> {
        self.socket().writable().await
    }

    /// Something may have arrived before its worker waited for it.
    pub(crate) fn suppose_readable(&self) {
        if let Socket::Worker(s) = self.socket() {
            s.place.suppose_readable();
        }
    }

    /// From now on this task of the worker's is woken for it, or nobody.
    pub(crate) fn hand_to(&self, task: TaskId) {
        if let Socket::Worker(s) = self.socket() {
            s.place.hand_to(task);
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

    /// Appends what has arrived; 0 bytes is the end.
    pub(crate) fn try_append(&self, into: &mut Vec<u8>, max: usize) -> io::Result<usize> {
        let at = into.len();
        into.resize(at + max, 0);
        let result = self.try_read(&mut into[at..]);
        into.truncate(at + *result.as_ref().unwrap_or(&0));
        result
    }

    /// Appends what has arrived, waiting for it; 0 bytes is the end.
    pub(crate) async fn read_some(&self, into: &mut Vec<u8>, max: usize) -> io::Result<usize> {
        loop {
            // A peer that sends without end is not to keep this thread from everybody else, nor from the time.
            if reactor::is_here() {
                reactor::yield_now().await;
            } else {
                consume_budget().await;
            }
            match self.try_append(into, max) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.readable().await?,
                other => return other,
            }
        }
    }

    pub(crate) async fn connect(host: &str, port: u16) -> io::Result<Self> {
        if host.starts_with('/') {
            return UnixStream::connect(format!("{host}/.s.PGSQL.{port}")).await.map(Self::from);
        }
        TcpStream::connect((host, port)).await.map(Self::from)
    }

    /// See [`tune`].
    pub(crate) fn tune(&self, keepalive: bool) {
        let socket = self.socket();
        if socket.kind() == Kind::Tcp {
            tune(socket, keepalive);
        }
    }

    fn known(&self) -> Known {
        if let Socket::Tcp(s) = self.socket() { s.known } else { Known::default() }
    }

    /// Where it comes from.
    pub(crate) fn peer(&self) -> End {
        self.known().peer.unwrap_or_else(|| SockRef::from(self.socket()).peer_addr().into())
    }

    pub(crate) fn ends(&self) -> Ends {
        self.ends_as(self.known())
    }

    /// The same where some is known.
    pub(crate) fn ends_as(&self, known: Known) -> Ends {
        let socket = || SockRef::from(self.socket());
        let peer = known.peer.unwrap_or_else(|| socket().peer_addr().into());
        let local = known.local.unwrap_or_else(|| socket().local_addr().into());
        let tls = if let Self::Tls(s) = self { s.describe().into() } else { Box::default() };
        Ends { peer, local, tls }
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
        while !bytes.is_empty()
            && let Ok(taken @ 1..) = self.try_write(bytes)
        {
            bytes = &bytes[taken..];
        }
    }

    /// Takes it off this thread, to be sent to another one.
    ///
    /// # Errors
    /// It cannot be taken off.
    pub(crate) fn pack(self) -> io::Result<Parcel> {
        let (socket, tls) = match self {
            Self::Plain(socket) => (socket, None),
            Self::Tls(stream) => {
                let (socket, state) = stream.into_parts();
                (socket, Some(Box::new(state)))
            }
        };
        let (fd, kind) = socket.unregister()?;
        Ok(Parcel { fd, kind, tls })
    }
}

impl Parcel {
    /// What was accepted, and does not block.
    pub(crate) fn accepted(fd: OwnedFd, kind: Kind) -> Self {
        Self { fd, kind, tls: None }
    }

    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// Last words to somebody who is not encrypted, as far as the socket takes them.
    pub(crate) fn write_now(&self, bytes: &[u8]) {
        // Nobody is left to be told.
        let _ = rustix::net::send(&self.fd, bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
    }

    /// On the front's thread, which waits for it from now on.
    ///
    /// # Errors
    /// It cannot be registered, or is encrypted: that is not undone.
    pub(crate) fn unpack_in_front(self, known: Known) -> io::Result<Stream> {
        let Self { fd, kind, tls } = self;
        if tls.is_some() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        Ok(Stream::Plain(match kind {
            Kind::Tcp => Socket::Tcp(Box::new(Accepted { stream: TcpStream::from_std(fd.into())?, known })),
            Kind::Unix => Socket::Unix(Box::new(UnixStream::from_std(fd.into())?)),
        }))
    }

    /// On the worker's thread, which waits for it from now on, for nobody yet.
    ///
    /// # Errors
    /// It cannot be registered.
    pub(crate) fn unpack(self) -> io::Result<Stream> {
        let Self { fd, kind, tls } = self;
        let socket = Socket::Worker(Registered { place: Place::here(&fd)?, fd, kind });
        Ok(match tls {
            None => Stream::Plain(socket),
            Some(state) => Stream::Tls(Box::new(TlsStream::new(socket, *state))),
        })
    }
}

/// Two ends of a connection, both of this thread's loop.
#[cfg(test)]
pub(crate) fn pair() -> (Stream, Stream) {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().expect("sockets");
    let [ours, theirs] = [ours, theirs].map(|s| {
        s.set_nonblocking(true).expect("a socket");
        Parcel { fd: s.into(), kind: Kind::Unix, tls: None }.unpack().expect("a place")
    });
    (ours, theirs)
}
