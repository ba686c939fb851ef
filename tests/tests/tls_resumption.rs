//! A client that comes again resumes its TLS session, unless certificates were read again meanwhile.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use pgsluice_tests::certificates::Authority;
use pgsluice_tests::{APP, Pooler, Postgres};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned};

/// SSLRequest.
const REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// Shakes hands, sends a startup message and waits for the answer, behind which tickets have come.
fn shake_hands(pooler: &Pooler, config: &Arc<ClientConfig>) -> HandshakeKind {
    let mut socket = TcpStream::connect(pooler.addr()).expect("it listens");
    socket.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
    socket.write_all(&REQUEST).expect("it reads");
    let mut answer = [0];
    socket.read_exact(&mut answer).expect("an answer");
    assert_eq!(answer, *b"S");
    let name = ServerName::try_from("localhost").expect("a name");
    let connection = ClientConnection::new(config.clone(), name).expect("a client");
    let mut stream = StreamOwned::new(connection, socket);
    let parameters = b"user\0app\0database\0app\0\0";
    let length = u32::try_from(8 + parameters.len()).expect("it is short").to_be_bytes();
    stream.write_all(&[&length[..], &[0, 3, 0, 0], parameters].concat()).expect("it reads");
    // AuthenticationSASL.
    let mut head = [0; 5];
    stream.read_exact(&mut head).expect("an answer");
    assert_eq!(head[0], b'R');
    stream.conn.handshake_kind().expect("they have shaken hands")
}

#[test]
fn a_client_resumes_until_certificates_are_read_again() {
    let authority = Authority::new();
    let ca = authority.certificate();
    let own = authority.sign("own", "pooler", &["localhost"]);
    let postgres = Postgres::shared();
    let database = postgres.database();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&ca).expect("a certificate")).expect("an authority");
    for versions in [vec![&rustls::version::TLS12], vec![&rustls::version::TLS13]] {
        let text = format!(
            "listen_port = {{port}}\nadmin_users = [\"app\"]\nclient_tls_sslmode = \"require\"\n\
             client_tls_cert_file = \"{}\"\nclient_tls_key_file = \"{}\"\n[databases.{database}]\nhost = \"127.0.0.1\"\n\
             port = {}\n[users.app]\npassword = \"app-secret\"\n",
            own.cert.display(),
            own.key.display(),
            postgres.port()
        );
        let pooler = Pooler::file("pgsluice.toml", &text, APP);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder =
            ClientConfig::builder_with_provider(provider).with_protocol_versions(&versions).expect("versions");
        let config = Arc::new(builder.with_root_certificates(roots.clone()).with_no_client_auth());
        assert_eq!(shake_hands(&pooler, &config), HandshakeKind::Full);
        assert_eq!(shake_hands(&pooler, &config), HandshakeKind::Resumed);
        pooler.signal(rustix::process::Signal::HUP);
        assert!(
            pgsluice_tests::eventually(Duration::from_secs(10), || shake_hands(&pooler, &config)
                == HandshakeKind::Full),
            "{}",
            pooler.log()
        );
    }
}
