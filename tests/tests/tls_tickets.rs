//! TLS sessions that are resumed: the client's certificate is not shown again, and is not forgotten; nor is it believed for longer
//! than the authority behind it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use pgsluice_tests::certificates::{Authority, Identity};
use pgsluice_tests::wire::message as m;
use pgsluice_tests::{APP, Pooler, Postgres};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore, Stream, SupportedProtocolVersion};

const SOON: Duration = Duration::from_secs(10);

/// A client that keeps its tickets, and shows this.
fn client(root: &Path, own: &Identity, version: &'static SupportedProtocolVersion) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(root).expect("our own file")).expect("an authority");
    let certificate = CertificateDer::from_pem_file(&own.cert).expect("our own file");
    let key = PrivateKeyDer::from_pem_file(&own.key).expect("our own file");
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[version])
        .expect("it is spoken")
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![certificate], key)
        .expect("a client");
    config.alpn_protocols = vec![b"postgresql".to_vec()];
    Arc::new(config)
}

/// Logs in as `user` and asks who that is: how TLS began, and all that was answered.
fn log_in(pooler: &Pooler, config: &Arc<ClientConfig>, user: &str, database: &str) -> (Option<HandshakeKind>, String) {
    let mut socket = TcpStream::connect(pooler.addr()).expect("it listens");
    socket.set_read_timeout(Some(SOON)).expect("a socket");
    let name = ServerName::try_from("localhost").expect("a name");
    let mut tls = ClientConnection::new(config.clone(), name).expect("a client");
    let mut stream = Stream::new(&mut tls, &mut socket);
    let words = [m::startup(&[("user", user), ("database", database)]), m::query("SELECT current_user || '!'")];
    let _ = stream.write_all(&words.concat());
    let (mut answer, mut part) = (String::new(), [0; 4096]);
    // To the answer, or to an end before it. One byte would not do for a mark: the key to cancel with has all bytes.
    while !answer.contains(&format!("{user}!")) {
        match stream.read(&mut part) {
            Ok(0) | Err(_) => break,
            Ok(n) => answer.push_str(&String::from_utf8_lossy(&part[..n])),
        }
    }
    (tls.handshake_kind(), answer)
}

#[test]
fn a_resumed_session_has_its_certificate_and_none_outlives_a_change_of_authorities() {
    let (first, second) = (Authority::new(), Authority::new());
    let postgres = Postgres::shared();
    let database = postgres.database();
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let own = first.sign("own", "pooler", &["localhost"]);
        let trusted = first.sign("trusted", "nobody", &[]).cert;
        std::fs::copy(first.certificate(), &trusted).expect("our own file");
        let text = format!(
            "listen_port = {{port}}\nauth_type = \"hba\"\nauth_hba_file = \"{{dir}}/hba.conf\"\nadmin_users = [\"app\"]\n\
             client_tls_sslmode = \"prefer\"\nclient_tls_cert_file = \"{}\"\nclient_tls_key_file = \"{}\"\nclient_tls_ca_file = \"{}\"\n\
             [databases.{database}]\nhost = \"127.0.0.1\"\nport = {}\n[users.app]\npassword = \"{}\"\n[users.postgres]\npassword = \"super\"\n",
            own.cert.display(),
            own.key.display(),
            trusted.display(),
            postgres.port(),
            APP.password
        );
        let rules = "hostssl all all all cert\nhost pgsluice,pgbouncer all all scram-sha-256\n";
        let mut pooler = Pooler::files(&[("pgsluice.toml", &text), ("hba.conf", rules)], APP);
        let config = client(&first.certificate(), &first.sign("theirs", "app", &[]), version);
        let (kind, said) = log_in(&pooler, &config, "app", &database);
        assert!(kind == Some(HandshakeKind::Full) && said.contains("app!"), "{kind:?} {said}");
        let (kind, said) = log_in(&pooler, &config, "app", &database);
        assert!(kind == Some(HandshakeKind::Resumed) && said.contains("app!"), "{kind:?} {said}");
        // The certificate is for one user, in a resumed session too.
        let (kind, said) = log_in(&pooler, &config, "postgres", &database);
        assert!(kind == Some(HandshakeKind::Resumed) && said.contains("certificate authentication failed"), "{said}");
        // RELOAD reads certificates again.
        pooler.console().run("RELOAD");
        let (kind, said) = log_in(&pooler, &config, "app", &database);
        assert!(kind == Some(HandshakeKind::Full) && said.contains("app!"), "{kind:?} {said}");
        // Another authority than that which vouched for the client.
        std::fs::copy(second.certificate(), &trusted).expect("our own file");
        assert!(pooler.wait_for_line("certificates read again", SOON), "{}", pooler.log());
        let (kind, said) = log_in(&pooler, &config, "app", &database);
        assert!(kind != Some(HandshakeKind::Resumed) && !said.contains("app!"), "{kind:?} {said}");
    }
}

/// Some clients say that nothing more will come as soon as they have said what they want, and all of it may be read at once with the
/// end of the handshake.
#[test]
fn a_request_to_cancel_with_the_clients_goodbye_behind_it_is_heard() {
    let authority = Authority::new();
    let postgres = Postgres::shared();
    let database = postgres.database();
    let own = authority.sign("own", "pooler", &["localhost"]);
    let text = format!(
        "listen_port = {{port}}\nclient_tls_sslmode = \"prefer\"\nclient_tls_cert_file = \"{}\"\nclient_tls_key_file = \"{}\"\n\
         [databases.{database}]\nhost = \"127.0.0.1\"\nport = {}\n[users.app]\npassword = \"{}\"\n",
        own.cert.display(),
        own.key.display(),
        postgres.port(),
        APP.password
    );
    let pooler = Pooler::file("pgsluice.toml", &text, APP);
    let config = client(&authority.certificate(), &authority.sign("theirs", "app", &[]), &rustls::version::TLS13);
    let mut asleep = pooler.connect(APP, &database);
    asleep.send(&m::query("SELECT pg_sleep(5)")).expect("it reads");
    std::thread::sleep(Duration::from_millis(500));
    let mut socket = TcpStream::connect(pooler.addr()).expect("it listens");
    socket.set_read_timeout(Some(SOON)).expect("a socket");
    let name = ServerName::try_from("localhost").expect("a name");
    let mut tls = ClientConnection::new(config, name).expect("a client");
    while tls.is_handshaking() {
        while tls.wants_write() {
            tls.write_tls(&mut socket).expect("it reads");
        }
        tls.read_tls(&mut socket).expect("it answers");
        tls.process_new_packets().expect("a handshake");
    }
    tls.writer().write_all(&m::cancel(asleep.pid, &asleep.secret)).expect("room");
    tls.send_close_notify();
    let mut all = Vec::new();
    while tls.wants_write() {
        tls.write_tls(&mut all).expect("a vector takes all");
    }
    socket.write_all(&all).expect("it reads");
    let _ = socket.read_to_end(&mut Vec::new());
    let replies = asleep.until_ready();
    assert!(
        replies.iter().any(|reply| reply.tag == b'E' && reply.sqlstate() == "57014"),
        "{replies:?} {}",
        pooler.log()
    );
}
