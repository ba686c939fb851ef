//! TLS over a socket, with the same interface as the socket has: [`crate::net::Stream`] is one or the other.
//!
//! rustls is used without buffers of its own, which would be 4 KB for every connection, waiting or not, and as little at a time. What
//! is read goes to a buffer that all connections of a thread share, and only what is no whole record yet, or more than the caller
//! has room for, is kept with the connection. A write is over only when the socket has taken all that was encrypted for it: until
//! then it is [`io::ErrorKind::WouldBlock`], and the caller comes back with the same bytes, as with OpenSSL's `SSL_write`.

use std::cell::RefCell;
use std::fmt;
use std::io::{self, IoSlice};
use std::sync::Arc;

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, EncryptError, InsufficientSizeError, UnbufferedStatus, WriteTraffic,
};
use rustls::{ClientConfig, CommonState, Error, ServerConfig};

use crate::buffer::Buffer;
use crate::net::Socket;

/// The name of PostgreSQL's protocol in ALPN (`src/include/libpq/pqcomm.h`, `PG_ALPN_PROTOCOL`).
pub(crate) const ALPN: &[u8] = b"postgresql";

/// Reads from the socket in a row that bring nothing to be read by the caller.
const READS_MAX: usize = 5;
/// The least that is read from a socket at once, if there is as much.
const READ_MIN: usize = 4 << 10;
/// Bytes encrypted at once.
const WRITE_MAX: usize = 64 << 10;
/// The longest handshake message that rustls takes, and a record behind it.
const WIRE_MAX: usize = 82 << 10;

thread_local! {
    /// What was read and is encrypted. Empty between calls.
    static WIRE: RefCell<Box<[u8]>> = RefCell::new(vec![0; WIRE_MAX].into());
}

/// A socket whose bytes are encrypted.
#[derive(Debug)]
pub(crate) struct TlsStream {
    socket: Socket,
    state: RefCell<State>,
}

/// What goes with the socket from thread to thread.
#[derive(Debug)]
pub(crate) struct State {
    session: Session,
    /// The beginning of a record, or of a message in several.
    incoming: Buffer,
    /// Decrypted and not read.
    plain: Buffer,
    /// Encrypted and not sent.
    outgoing: Buffer,
    /// Bytes of the caller's that are encrypted, while not all of that is sent.
    accepted: usize,
    /// The other side says no more.
    is_closed: bool,
    /// It broke the protocol: what rustls still knows of it lies in bytes that are gone, so it is not to be asked any more.
    is_broken: bool,
}

enum Session {
    Client(UnbufferedClientConnection),
    Server(UnbufferedServerConnection),
}

impl Session {
    fn common(&self) -> &CommonState {
        match self {
            Self::Client(connection) => connection,
            Self::Server(connection) => connection,
        }
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if matches!(self, Self::Client(_)) { "Client" } else { "Server" })
    }
}

/// What is to be encrypted as soon as that can be.
#[derive(Clone, Copy, Debug)]
enum Job<'a> {
    Nothing,
    Data(&'a [u8]),
    Goodbye,
}

/// What became of one step.
enum Next {
    /// There may be more to do.
    Again,
    /// More has to be read.
    Enough,
}

/// Where decrypted bytes go: to the caller, and what it has no room for is kept.
struct Sink<'a> {
    out: &'a mut [u8],
    filled: usize,
}

impl State {
    fn new(session: Session) -> Self {
        let [incoming, plain, outgoing] = <[Buffer; 3]>::default();
        Self { session, incoming, plain, outgoing, accepted: 0, is_closed: false, is_broken: false }
    }

    /// Does the job and whatever there is to do about the bytes in `wire`. Returns how many of them are done with.
    fn digest(&mut self, wire: &mut [u8], sink: &mut Sink<'_>, job: Job<'_>) -> Result<usize, Error> {
        let mut taken = 0;
        loop {
            let (discard, next) = self.step(&mut wire[taken..], sink, job);
            taken += discard;
            match next {
                Ok(Next::Again) => {}
                Ok(Next::Enough) => return Ok(taken),
                Err(error) => {
                    self.break_off();
                    return Err(error);
                }
            }
        }
    }

    fn step(&mut self, rest: &mut [u8], sink: &mut Sink<'_>, job: Job<'_>) -> (usize, Result<Next, Error>) {
        let Self { session, plain, outgoing, is_closed, .. } = self;
        let mut hands = Hands { plain, outgoing, is_closed, sink };
        match session {
            Session::Client(connection) => hands.take(connection.process_tls_records(rest), job),
            Session::Server(connection) => hands.take(connection.process_tls_records(rest), job),
        }
    }

    /// Nothing more is read, nor written but what rustls has to say already: an alert. While there is that, it does not look for
    /// the input that it may count on, such as a message behind the one that was wrong.
    fn break_off(&mut self) {
        (self.is_closed, self.is_broken) = (true, true);
        while self.session.common().wants_write() {
            let (_, next) = self.step(&mut [], &mut Sink { out: &mut [], filled: 0 }, Job::Nothing);
            if next.is_err() {
                return;
            }
        }
    }

    /// The same, with nothing new to be read.
    fn do_job(&mut self, job: Job<'_>) -> Result<(), Error> {
        if self.is_broken {
            return Err(Error::General("the other side broke the protocol".into()));
        }
        let mut begun = self.incoming.take().as_slice().to_vec();
        let taken = self.digest(&mut begun, &mut Sink { out: &mut [], filled: 0 }, job)?;
        self.incoming.push(&begun[taken..]);
        Ok(())
    }

    /// Reads from the socket once, and what that brings for the caller goes to `out`. 0 bytes may also be records that hold
    /// none.
    fn fill(&mut self, socket: &Socket, out: &mut [u8]) -> io::Result<usize> {
        WIRE.with_borrow_mut(|wire| {
            let begun = self.incoming.len();
            let room = out.len().max(READ_MIN).min(wire.len().saturating_sub(begun));
            if room == 0 {
                return Err(io::Error::new(io::ErrorKind::InvalidData, Error::General("a message is too long".into())));
            }
            let n = socket.try_read(&mut wire[begun..begun + room])?;
            self.is_closed |= n == 0;
            self.take_in(socket, &mut wire[..begun + n], begun, out)
        })
    }

    /// Takes bytes in; there is room in front of them for the `begun` ones that wait.
    fn take_in(&mut self, socket: &Socket, wire: &mut [u8], begun: usize, out: &mut [u8]) -> io::Result<usize> {
        wire[..begun].copy_from_slice(self.incoming.take().as_slice());
        let mut sink = Sink { out, filled: 0 };
        let taken = self.digest(wire, &mut sink, Job::Nothing);
        if let Ok(taken) = taken {
            self.incoming.push(&wire[taken..]);
        }
        // It may have been a password.
        wire.fill(0);
        match taken {
            Ok(_) => Ok(sink.filled),
            Err(error) => {
                // An alert. Whether it is heard does not matter.
                let _ = self.flush(socket);
                Err(io::Error::new(io::ErrorKind::InvalidData, error))
            }
        }
    }

    fn flush(&mut self, socket: &Socket) -> io::Result<()> {
        while !self.outgoing.is_empty() {
            let n = socket.try_write(&[IoSlice::new(self.outgoing.as_slice())])?;
            self.outgoing.consume(n);
        }
        Ok(())
    }
}

/// All that a step may change.
struct Hands<'a, 'b> {
    plain: &'a mut Buffer,
    outgoing: &'a mut Buffer,
    is_closed: &'a mut bool,
    sink: &'a mut Sink<'b>,
}

impl Hands<'_, '_> {
    /// One step. Returns how many bytes of those read are done with.
    fn take<Data>(&mut self, status: UnbufferedStatus<'_, '_, Data>, job: Job<'_>) -> (usize, Result<Next, Error>) {
        let UnbufferedStatus { mut discard, state } = status;
        let next = match state {
            Ok(ConnectionState::ReadTraffic(mut traffic)) => loop {
                match traffic.next_record() {
                    None => break Ok(Next::Again),
                    Some(Ok(record)) => {
                        discard += record.discard;
                        self.deliver(record.payload);
                    }
                    Some(Err(error)) => break Err(error),
                }
            },
            Ok(ConnectionState::EncodeTlsData(data)) => self.encode(data).map(|()| Next::Again),
            Ok(ConnectionState::TransmitTlsData(data)) => {
                // It is ours to send from here on.
                data.done();
                Ok(Next::Again)
            }
            Ok(ConnectionState::WriteTraffic(traffic)) => self.encrypt(traffic, job).map(|()| Next::Enough),
            Ok(ConnectionState::PeerClosed) => {
                *self.is_closed = true;
                Ok(Next::Again)
            }
            Ok(ConnectionState::BlockedHandshake | ConnectionState::Closed) => match job {
                Job::Nothing | Job::Goodbye => Ok(Next::Enough),
                Job::Data(_) => Err(Error::General("nothing can be written now".into())),
            },
            Ok(_) => Err(Error::General("nobody was offered to send early data".into())),
            Err(error) => Err(error),
        };
        (discard, next)
    }

    fn deliver(&mut self, payload: &[u8]) {
        let Sink { out, filled } = &mut *self.sink;
        let now = if self.plain.is_empty() { payload.len().min(out.len() - *filled) } else { 0 };
        out[*filled..*filled + now].copy_from_slice(&payload[..now]);
        *filled += now;
        if now < payload.len() {
            self.plain.push(&payload[now..]);
        }
    }

    fn encode<Data>(&mut self, mut data: EncodeTlsData<'_, Data>) -> Result<(), Error> {
        let encoded = into(self.outgoing, 0, |room| match data.encode(room) {
            Err(EncodeError::InsufficientSize(size)) => Err(Some(size)),
            other => other.map_err(|_| None),
        });
        encoded.ok_or_else(|| Error::General("nothing to be encoded".into()))
    }

    fn encrypt<Data>(&mut self, mut traffic: WriteTraffic<'_, Data>, job: Job<'_>) -> Result<(), Error> {
        let encrypted = match job {
            Job::Nothing => Some(()),
            Job::Data(data) => into(self.outgoing, data.len() + 64, |room| sized(traffic.encrypt(data, room))),
            Job::Goodbye => into(self.outgoing, 64, |room| sized(traffic.queue_close_notify(room))),
        };
        encrypted.ok_or(Error::EncryptError)
    }
}

fn sized(result: Result<usize, EncryptError>) -> Result<usize, Option<InsufficientSizeError>> {
    result.map_err(|error| match error {
        EncryptError::InsufficientSize(size) => Some(size),
        EncryptError::EncryptExhausted => None,
    })
}

/// Appends what `write` makes, in as much room as it says that it needs. None: it does not want to.
fn into(
    buffer: &mut Buffer,
    guess: usize,
    mut write: impl FnMut(&mut [u8]) -> Result<usize, Option<InsufficientSizeError>>,
) -> Option<()> {
    let tail = buffer.tail();
    let (at, mut room) = (tail.len(), guess);
    loop {
        tail.resize(at + room, 0);
        let written = write(&mut tail[at..]);
        tail.truncate(at + *written.as_ref().unwrap_or(&0));
        match written {
            Ok(_) => return Some(()),
            Err(Some(size)) if size.required_size > room => room = size.required_size,
            Err(_) => return None,
        }
    }
}

impl TlsStream {
    /// The handshake with a client. `early`: what was read of it already.
    ///
    /// # Errors
    /// What is wrong with the client's TLS, of which it was told; or the connection is gone.
    pub(crate) async fn accept(socket: Socket, config: Arc<ServerConfig>, early: &[u8]) -> io::Result<Self> {
        let connection = UnbufferedServerConnection::new(config).map_err(io::Error::other)?;
        Self::shake_hands(socket, Session::Server(connection), early).await
    }

    /// The handshake with a server.
    ///
    /// # Errors
    /// What is wrong with the server's TLS or certificate; or the connection is gone.
    pub(crate) async fn connect(
        socket: Socket,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> io::Result<Self> {
        let connection = UnbufferedClientConnection::new(config, name).map_err(io::Error::other)?;
        Self::shake_hands(socket, Session::Client(connection), &[]).await
    }

    async fn shake_hands(socket: Socket, session: Session, early: &[u8]) -> io::Result<Self> {
        let mut state = State::new(session);
        // A client speaks first, and has nothing to read yet.
        state.take_in(&socket, &mut early.to_vec(), 0, &mut [])?;
        loop {
            while let Err(error) = state.flush(&socket) {
                match error.kind() {
                    io::ErrorKind::WouldBlock => socket.writable().await?,
                    _ => return Err(error),
                }
            }
            if !state.session.common().is_handshaking() {
                return Ok(Self { socket, state: RefCell::new(state) });
            }
            match state.fill(&socket, &mut []) {
                // Behind the end of the handshake it is a good-bye, and there may be words before it.
                Ok(_) if state.is_closed && state.session.common().is_handshaking() => {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => socket.readable().await?,
                Err(e) => return Err(e),
            }
        }
    }

    pub(crate) fn new(socket: Socket, state: State) -> Self {
        Self { socket, state: RefCell::new(state) }
    }

    /// The socket under it.
    pub(crate) fn socket(&self) -> &Socket {
        &self.socket
    }

    /// Has anything arrived that is decrypted already, or the word that nothing will? The socket does not show that.
    pub(crate) fn has_plaintext(&self) -> bool {
        let state = self.state.borrow();
        !state.plain.is_empty() || state.is_closed
    }

    pub(crate) fn into_parts(self) -> (Socket, State) {
        (self.socket, self.state.into_inner())
    }

    /// Reads what has arrived.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if nothing has, or much that holds no byte for us: the socket will tell when it is worth
    /// trying again.
    pub(crate) fn try_read(&self, buf: &mut [u8]) -> io::Result<usize> {
        let state = &mut *self.state.borrow_mut();
        if !state.plain.is_empty() {
            let n = state.plain.len().min(buf.len());
            buf[..n].copy_from_slice(&state.plain.as_slice()[..n]);
            state.plain.consume(n);
            return Ok(n);
        }
        for _ in 0..READS_MAX {
            // Many do not say good-bye. Where PostgreSQL's messages end, they say themselves.
            if state.is_closed {
                return Ok(0);
            }
            let n = state.fill(&self.socket, buf);
            // What was to be said about what was read, such as new keys. If there is no room for it, it leaves with the next
            // write.
            let _ = state.flush(&self.socket);
            match n {
                Ok(0) => {}
                other => return other,
            }
        }
        // The socket is ready still, and whoever asks is told so: it comes again, and others have had their turn.
        if state.is_closed { Ok(0) } else { Err(io::ErrorKind::WouldBlock.into()) }
    }

    /// Writes; see the module.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] while the socket does not take it.
    pub(crate) fn try_write(&self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        let state = &mut *self.state.borrow_mut();
        let total: usize = bufs.iter().map(|buf| buf.len()).sum();
        if total == 0 {
            return Ok(0);
        }
        if state.accepted == 0 {
            let accepted = total.min(WRITE_MAX);
            let sealed = match bufs {
                [one] => state.do_job(Job::Data(&one[..accepted])),
                many => {
                    let mut all = Vec::with_capacity(accepted);
                    for buf in many {
                        all.extend_from_slice(&buf[..buf.len().min(accepted - all.len())]);
                    }
                    state.do_job(Job::Data(&all))
                }
            };
            sealed.map_err(io::Error::other)?;
            state.accepted = accepted;
        } else if state.accepted > total {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "these are not the bytes whose write was begun"));
        }
        state.flush(&self.socket)?;
        Ok(std::mem::take(&mut state.accepted))
    }

    /// Says that nothing more will come. Whether it is heard does not matter.
    pub(crate) fn say_goodbye(&self) {
        let state = &mut *self.state.borrow_mut();
        let _ = state.do_job(Job::Goodbye);
        let _ = state.flush(&self.socket);
    }

    /// What the channel to this server can be bound by; see [`pgsluice_auth::end_point`].
    pub(crate) fn end_point(&self) -> Option<Vec<u8>> {
        let state = self.state.borrow();
        pgsluice_auth::end_point(state.session.common().peer_certificates()?.first()?)
    }

    /// The certificate that the other side showed, and that was verified.
    pub(crate) fn peer_certificate(&self) -> Option<CertificateDer<'static>> {
        let state = self.state.borrow();
        state.session.common().peer_certificates()?.first().map(|shown| shown.clone().into_owned())
    }

    /// Whether both agreed on PostgreSQL's protocol by ALPN.
    pub(crate) fn has_alpn(&self) -> bool {
        self.state.borrow().session.common().alpn_protocol() == Some(ALPN)
    }

    /// Version and cipher, for people: `TLSv1.3/TLS13_AES_256_GCM_SHA384`.
    pub(crate) fn describe(&self) -> String {
        let state = self.state.borrow();
        let common = state.session.common();
        let version = match common.protocol_version() {
            Some(rustls::ProtocolVersion::TLSv1_3) => "TLSv1.3",
            Some(rustls::ProtocolVersion::TLSv1_2) => "TLSv1.2",
            _ => "TLS",
        };
        let cipher = common.negotiated_cipher_suite().map(|suite| format!("/{:?}", suite.suite()));
        format!("{version}{}", cipher.unwrap_or_default())
    }
}
