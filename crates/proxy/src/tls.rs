//! TLS over a socket, with the same interface as the socket has: [`crate::net::Stream`] passes its calls on.
//!
//! rustls holds what was encrypted and not sent, and what was decrypted and not read. A write is therefore over only when the
//! socket has taken all that was encrypted for it: until then it is [`io::ErrorKind::WouldBlock`], and the caller comes back with the
//! same bytes, as with OpenSSL's `SSL_write`.

use std::cell::RefCell;
use std::io::{self, IoSlice, Read, Write};
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, Connection, ServerConfig, ServerConnection};

use crate::net::Stream;

/// The name of PostgreSQL's protocol in ALPN (`src/include/libpq/pqcomm.h`, `PG_ALPN_PROTOCOL`).
pub(crate) const ALPN: &[u8] = b"postgresql";

/// Reads from the socket in a row that bring nothing to be read by the caller: as many as the longest record takes.
const READS_MAX: usize = 5;

/// A socket whose bytes are encrypted.
#[derive(Debug)]
pub(crate) struct TlsStream {
    socket: Stream,
    state: RefCell<State>,
}

/// What goes with the socket from thread to thread.
#[derive(Debug)]
pub(crate) struct State {
    connection: Connection,
    /// Bytes of the caller's that are encrypted, while not all of that is sent.
    accepted: usize,
    /// Bytes that are decrypted and not read.
    readable: usize,
}

impl TlsStream {
    /// The handshake with a client. `early`: what was read of it already.
    ///
    /// # Errors
    /// What is wrong with the client's TLS, of which it was told; or the connection is gone.
    pub(crate) async fn accept(socket: Stream, config: Arc<ServerConfig>, early: &[u8]) -> io::Result<Self> {
        let connection = ServerConnection::new(config).map_err(io::Error::other)?;
        Self::shake_hands(socket, connection.into(), early).await
    }

    /// The handshake with a server.
    ///
    /// # Errors
    /// What is wrong with the server's TLS or certificate; or the connection is gone.
    pub(crate) async fn connect(
        socket: Stream,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> io::Result<Self> {
        let connection = ClientConnection::new(config, name).map_err(io::Error::other)?;
        Self::shake_hands(socket, connection.into(), &[]).await
    }

    async fn shake_hands(socket: Stream, mut connection: Connection, mut early: &[u8]) -> io::Result<Self> {
        // A whole flight of messages at most is read before it is looked into.
        while !early.is_empty() {
            connection.read_tls(&mut early)?;
            process(&mut connection, &socket)?;
        }
        loop {
            while connection.wants_write() {
                match connection.write_tls(&mut Raw(&socket)) {
                    Ok(_) => {}
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => socket.writable().await?,
                    Err(e) => return Err(e),
                }
            }
            if !connection.is_handshaking() {
                break;
            }
            match connection.read_tls(&mut Raw(&socket)) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => drop(process(&mut connection, &socket)?),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => socket.readable().await?,
                Err(e) => return Err(e),
            }
        }
        let readable = process(&mut connection, &socket)?;
        Ok(Self { socket, state: RefCell::new(State { connection, accepted: 0, readable }) })
    }

    pub(crate) fn new(socket: Stream, state: State) -> Self {
        Self { socket, state: RefCell::new(state) }
    }

    /// The socket under it.
    pub(crate) fn socket(&self) -> &Stream {
        &self.socket
    }

    /// Has anything arrived that is decrypted already? The socket does not show that.
    pub(crate) fn has_plaintext(&self) -> bool {
        self.state.borrow().readable > 0
    }

    pub(crate) fn into_parts(self) -> (Stream, State) {
        (self.socket, self.state.into_inner())
    }

    /// Reads what has arrived.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if nothing has, or much that holds no byte for us: the socket will tell when it is worth
    /// trying again.
    pub(crate) fn try_read(&self, buf: &mut [u8]) -> io::Result<usize> {
        let state = &mut *self.state.borrow_mut();
        let mut reads = 0..READS_MAX;
        loop {
            match state.connection.reader().read(buf) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                // Many do not say good-bye. Where PostgreSQL's messages end, they say themselves.
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
                Ok(n) => {
                    state.readable -= n;
                    return Ok(n);
                }
                Err(e) => return Err(e),
            }
            // The socket is ready still: whoever waits for it is back at once, and others have had their turn.
            reads.next().ok_or(io::ErrorKind::WouldBlock)?;
            if state.connection.read_tls(&mut Raw(&self.socket))? == 0 {
                return Ok(0);
            }
            state.readable = process(&mut state.connection, &self.socket)?;
        }
    }

    /// Writes; see the module.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] while the socket does not take it.
    pub(crate) fn try_write(&self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        let state = &mut *self.state.borrow_mut();
        if state.accepted == 0 {
            state.accepted = state.connection.writer().write_vectored(bufs)?;
        } else if state.accepted > bufs.iter().map(|buf| buf.len()).sum() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "these are not the bytes whose write was begun"));
        }
        while state.connection.wants_write() {
            state.connection.write_tls(&mut Raw(&self.socket))?;
        }
        Ok(std::mem::take(&mut state.accepted))
    }

    /// Says that nothing more will come. Whether it is heard does not matter.
    pub(crate) fn say_goodbye(&self) {
        let state = &mut *self.state.borrow_mut();
        state.connection.send_close_notify();
        while state.connection.wants_write() && state.connection.write_tls(&mut Raw(&self.socket)).is_ok() {}
    }

    /// What the channel to this server can be bound by; see [`pgsluice_auth::end_point`].
    pub(crate) fn end_point(&self) -> Option<Vec<u8>> {
        let state = self.state.borrow();
        pgsluice_auth::end_point(state.connection.peer_certificates()?.first()?)
    }

    /// The certificate that the other side showed, and that was verified.
    pub(crate) fn peer_certificate(&self) -> Option<CertificateDer<'static>> {
        let state = self.state.borrow();
        state.connection.peer_certificates()?.first().map(|shown| shown.clone().into_owned())
    }

    /// Whether both agreed on PostgreSQL's protocol by ALPN.
    pub(crate) fn has_alpn(&self) -> bool {
        self.state.borrow().connection.alpn_protocol() == Some(ALPN)
    }

    /// Version and cipher, for people: `TLSv1.3/TLS13_AES_256_GCM_SHA384`.
    pub(crate) fn describe(&self) -> String {
        let state = self.state.borrow();
        let version = match state.connection.protocol_version() {
            Some(rustls::ProtocolVersion::TLSv1_3) => "TLSv1.3",
            Some(rustls::ProtocolVersion::TLSv1_2) => "TLSv1.2",
            _ => "TLS",
        };
        let cipher = state.connection.negotiated_cipher_suite().map(|suite| format!("/{:?}", suite.suite()));
        format!("{version}{}", cipher.unwrap_or_default())
    }
}

/// Looks into what was read. Returns bytes that are decrypted; what is wrong, the other side is told.
fn process(connection: &mut Connection, socket: &Stream) -> io::Result<usize> {
    match connection.process_new_packets() {
        Ok(state) => Ok(state.plaintext_bytes_to_read()),
        Err(error) => {
            // An alert. Whether it is heard does not matter.
            let _ = connection.write_tls(&mut Raw(socket));
            Err(io::Error::new(io::ErrorKind::InvalidData, error))
        }
    }
}

/// The socket without waiting, as rustls wants it.
struct Raw<'a>(&'a Stream);

impl Read for Raw<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buf)
    }
}

impl Write for Raw<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.try_write(buf)
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(bufs)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
