//! TLS for the load generator, blocking: version 1.3 only, a server trusted by the very certificate it is to show, tickets used
//! or not as wanted. What it costs here is no figure of a pooler's.

use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore};

/// The host that certificates are for.
pub const HOST: &str = "localhost";

/// What a client knows of the server whose certificate is in this file. `resumes`: sessions are taken up again where the
/// server gave tickets for that; clients that share this share their tickets.
///
/// # Errors
/// The file's, or what is wrong with what it holds.
pub fn trust(certificate: &Path, resumes: bool) -> io::Result<Arc<ClientConfig>> {
    let certificate = CertificateDer::from_pem_file(certificate).map_err(io::Error::other)?;
    let mut roots = RootCertStore::empty();
    roots.add(certificate).map_err(io::Error::other)?;
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = if resumes { Resumption::in_memory_sessions(64) } else { Resumption::disabled() };
    Ok(Arc::new(config))
}

/// A socket whose bytes are encrypted.
#[derive(Debug)]
pub struct TlsStream {
    /// What is under it.
    pub(crate) socket: TcpStream,
    connection: RefCell<ClientConnection>,
}

impl TlsStream {
    /// The handshake, on a blocking socket whose other side expects it.
    ///
    /// # Errors
    /// The socket's; `InvalidData` for what is wrong with the other side's TLS.
    pub fn shake_hands(socket: TcpStream, config: Arc<ClientConfig>) -> io::Result<Self> {
        let name = ServerName::try_from(HOST).map_err(io::Error::other)?;
        let mut connection = ClientConnection::new(config, name).map_err(io::Error::other)?;
        while connection.is_handshaking() {
            connection.complete_io(&mut &socket)?;
        }
        Ok(Self { socket, connection: RefCell::new(connection) })
    }

    /// Whether a session was taken up again.
    pub fn is_resumed(&self) -> bool {
        self.connection.borrow().handshake_kind() == Some(HandshakeKind::Resumed)
    }
}

impl Read for &TlsStream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let connection = &mut *self.connection.borrow_mut();
        loop {
            match connection.reader().read(buf) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                // A good-bye: what is still to come is the socket's end.
                Ok(0) => return (&self.socket).read(&mut [0; 64]).and(Ok(0)),
                other => return other,
            }
            if connection.read_tls(&mut &self.socket)? == 0 {
                return Ok(0);
            }
            connection.process_new_packets().map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
        }
    }
}

impl Write for &TlsStream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let connection = &mut *self.connection.borrow_mut();
        let n = connection.writer().write(buf)?;
        while connection.wants_write() {
            connection.write_tls(&mut &self.socket)?;
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
