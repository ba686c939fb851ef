//! What is not TLS, or not quite, where a client's TLS is expected: each connection ends, and nothing is left of it.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use pgsluice_tests::certificates::Authority;
use pgsluice_tests::libpq::attempt;
use pgsluice_tests::random::Random;
use pgsluice_tests::wire::message as m;
use pgsluice_tests::{APP, Pooler, Postgres, eventually};
use rustls::crypto::ring;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};

const SOON: Duration = Duration::from_secs(10);
/// `client_login_timeout`.
const PATIENCE: Duration = Duration::from_secs(5);
/// KiB that may stay when all of it is over.
const LEFT: usize = 4 << 10;

/// What a good client begins with.
fn hello() -> Vec<u8> {
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("they are safe")
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = vec![b"postgresql".to_vec()];
    let name = ServerName::try_from("localhost").expect("a name");
    let mut connection = ClientConnection::new(Arc::new(config), name).expect("a client");
    let mut bytes = Vec::new();
    connection.write_tls(&mut bytes).expect("a vector takes all");
    bytes
}

/// A hello of a version that is not spoken any more, by its two bytes, in a record.
fn old_hello(major: u8, minor: u8) -> Vec<u8> {
    let ciphers = [0, 4, 0, 0x2f, 0, 0x0a];
    let body = [&[major, minor][..], &[7; 32], &[0], &ciphers, &[1, 0]].concat();
    let length = u8::try_from(body.len()).expect("short");
    [&[0x16, 3, 1, 0, length + 4, 1, 0, 0, length], &body[..]].concat()
}

/// A record of this type and version that claims to be so long.
fn record(kind: u8, version: u16, length: usize, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(length).expect("a length field can say it").to_be_bytes();
    [&[kind], &version.to_be_bytes()[..], &length, body].concat()
}

/// A good hello with a few bytes changed, taken out or put in, and with lengths that are wrong.
fn mutations(good: &[u8]) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    let mut random = Random::new(7);
    for _ in 0..300 {
        let mut bytes = good.to_vec();
        for _ in 0..=random.below(4) {
            let at = random.below(bytes.len());
            match random.below(4) {
                0 => drop(bytes.remove(at)),
                1 => bytes.insert(at, random.below(256) as u8),
                _ => bytes[at] ^= 1 << random.below(8),
            }
        }
        all.push(bytes);
    }
    for length in [0, 1, 4, 5, good.len() - 6, good.len() - 4, 0x4000, 0x4001, 0x4800, 0xffff] {
        all.push(record(0x16, 0x0301, length, &good[5..]));
        let within = u32::try_from(length).expect("short").to_be_bytes();
        all.push([&good[..6], &within[1..], &good[9..]].concat());
    }
    all
}

/// What no client sends.
fn nonsense(good: &[u8]) -> Vec<Vec<u8>> {
    let alerts = [(1, 0), (2, 0), (2, 40), (2, 255), (1, 90), (9, 9)];
    let mut all: Vec<_> = alerts.iter().map(|&(level, what)| record(0x15, 0x0303, 2, &[level, what])).collect();
    let plain = m::startup(&[("user", APP.user)]);
    all.extend([(3, 0), (3, 1), (3, 2), (2, 0), (0x7f, 0xff)].map(|(major, minor)| old_hello(major, minor)));
    // SSLv2, which no version byte comes in front of.
    all.push([&[0x80, 0x2e, 1, 0, 2, 0, 0x15, 0, 0, 0, 0x10, 7, 0, 0xc0][..], &[7; 34]].concat());
    all.extend([0x14, 0x17, 0x18, 0, 0xff].map(|kind| record(kind, 0x0303, good.len() - 5, &good[5..])));
    all.push(record(0x14, 0x0303, 1, &[1]).repeat(1000));
    all.push(record(0x16, 0x0303, 0, &[]).repeat(1000));
    all.push(good.repeat(50));
    // One byte of the hello in each record.
    all.push(good[5..].iter().flat_map(|&byte| record(0x16, 0x0301, 1, &[byte])).collect());
    all.push(vec![0x16; 70_000]);
    all.push(record(0x16, 0x0301, 0x4000, &[7; 0x4000]).repeat(8));
    for behind in [plain, m::query("SELECT 1"), m::password(b"x"), record(0x17, 0x0303, 64, &[7; 64]), vec![0; 100]] {
        all.push([good, &behind[..]].concat());
    }
    all
}

/// Sends this, and reads to the end. `asks`: behind an SSLRequest that was answered, and not at once.
fn send(pooler: &Pooler, bytes: &[u8], asks: bool) {
    let mut socket = TcpStream::connect(pooler.addr()).expect("it listens");
    socket.set_read_timeout(Some(SOON)).expect("a socket");
    if asks {
        socket.write_all(&m::ssl_request()).expect("it reads");
        let mut answer = [0];
        socket.read_exact(&mut answer).expect("an answer");
        assert_eq!(answer, *b"S", "{}", pooler.log());
    }
    // It may have ended before.
    let _ = socket.write_all(bytes);
    let _ = socket.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    let end = socket.read_to_end(&mut answer);
    let hangs = end.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
    assert!(!hangs, "left hanging: {:02x?}", &bytes[..bytes.len().min(300)]);
    assert!(!answer.windows(9).any(|part| part == b"R\0\0\0\x08\0\0\0\0"), "let in: {answer:02x?}");
}

/// An alert of this pooler's TLS in answer to this, and no panic.
fn is_alerted(pooler: &Pooler, bytes: &[u8]) {
    let mut socket = TcpStream::connect(pooler.addr()).expect("it listens");
    socket.set_read_timeout(Some(SOON)).expect("a socket");
    socket.write_all(&m::ssl_request()).expect("it reads");
    socket.read_exact(&mut [0]).expect("an answer");
    socket.write_all(bytes).expect("it reads");
    let mut answer = Vec::new();
    // What was not read may make it a reset.
    let _ = socket.read_to_end(&mut answer);
    let log = pooler.log();
    assert!(!log.contains("panicked"), "{log}");
    let alert = record(0x15, 0x0303, 2, &[2]);
    assert_eq!(answer.get(..alert.len()), Some(&alert[..]), "{log}");
}

fn start(database: &str, authority: &Authority) -> Pooler {
    let own = authority.sign("own", "pooler", &["localhost"]);
    // A place that is not given back is missed soon: logins under way are a hundred more at most.
    let text = format!(
        "listen_port = {{port}}\nadmin_users = [\"app\"]\nmax_client_conn = 5\nclient_login_timeout = {}\n\
         log_pooler_errors = false\nclient_tls_sslmode = \"prefer\"\nclient_tls_cert_file = \"{}\"\nclient_tls_key_file = \"{}\"\n\
         [databases.{database}]\nhost = \"127.0.0.1\"\nport = {}\n[users.app]\npassword = \"{}\"\n",
        PATIENCE.as_secs(),
        own.cert.display(),
        own.key.display(),
        Postgres::shared().port(),
        APP.password
    );
    Pooler::file("pgsluice.toml", &text, APP)
}

/// A good client is served, encrypted and not, and nobody is at the door.
fn is_well(pooler: &Pooler, database: &str, ca: &str) {
    let to = format!(
        "host=localhost hostaddr=127.0.0.1 port={} user=app password={} dbname={database} sslmode=verify-full sslrootcert={ca}",
        pooler.port(),
        APP.password
    );
    assert_eq!(attempt(&[to.clone() + " sslnegotiation=direct", to]), ["tls plain"; 2], "{}", pooler.log());
    assert_eq!(pooler.connect(APP, database).value("SELECT 1"), "1");
    let nobody = || pooler.show("SHOW LISTS").iter().any(|row| row["list"] == "login_clients" && row["items"] == "0");
    assert!(eventually(SOON, nobody), "{:?}", pooler.show("SHOW LISTS"));
}

#[test]
fn what_is_not_quite_tls_ends_and_leaves_nothing() {
    let authority = Authority::new();
    let ca = authority.certificate().display().to_string();
    let database = Postgres::shared().database();
    let pooler = start(&database, &authority);
    let good = hello();
    let all: Vec<_> =
        (0..=good.len()).map(|end| good[..end].to_vec()).chain(mutations(&good)).chain(nonsense(&good)).collect();
    assert!(all.len() > 500, "{}", all.len());
    is_well(&pooler, &database, &ca);
    for bytes in all.iter().step_by(7) {
        send(&pooler, bytes, true);
    }
    let before = pooler.resident();
    for bytes in &all {
        send(&pooler, bytes, true);
        // Without the first byte that says so it is no TLS.
        send(&pooler, bytes, false);
    }
    is_well(&pooler, &database, &ca);
    let left = pooler.resident().saturating_sub(before);
    assert!(left < LEFT, "{left} KiB more than {before}");
}

/// Messages behind a hello in its own record, whole and not: they are not looked for when the hello was refused.
#[test]
fn what_follows_a_hello_in_its_record_is_refused_and_harms_nobody() {
    let authority = Authority::new();
    let ca = authority.certificate().display().to_string();
    let database = Postgres::shared().database();
    let pooler = start(&database, &authority);
    let good = hello();
    let whole = [0x14, 0, 0, 4, 7, 7, 7, 7];
    for behind in [&whole[..], &whole[..6], &whole[..1], &whole.repeat(3)] {
        let body = [&good[5..], behind].concat();
        is_alerted(&pooler, &record(0x16, 0x0301, body.len(), &body));
        let old = [&old_hello(3, 1)[5..], behind].concat();
        is_alerted(&pooler, &record(0x16, 0x0301, old.len(), &old));
    }
    is_well(&pooler, &database, &ca);
}

#[test]
fn half_open_handshakes_keep_nobody_out_and_end() {
    let authority = Authority::new();
    let ca = authority.certificate().display().to_string();
    let database = Postgres::shared().database();
    let pooler = start(&database, &authority);
    is_well(&pooler, &database, &ca);
    let good = hello();
    let begun = Instant::now();
    let sockets: Vec<_> = (0..50)
        .map(|n| {
            let mut socket = TcpStream::connect(pooler.addr()).expect("it listens");
            socket.write_all(&m::ssl_request()).expect("it reads");
            let mut answer = [0];
            socket.read_exact(&mut answer).expect("an answer");
            // Some have said nothing, some half of it, some all and then nothing more.
            socket.write_all(&good[..good.len() * (n % 3) / 2]).expect("it reads");
            socket
        })
        .collect();
    assert_eq!(pooler.connect(APP, &database).value("SELECT 1"), "1");
    assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
    for mut socket in sockets {
        socket.set_read_timeout(Some(SOON)).expect("a socket");
        let end = socket.read_to_end(&mut Vec::new());
        assert!(!end.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock), "left hanging");
    }
    assert!(begun.elapsed() < PATIENCE + SOON, "{:?}", begun.elapsed());
    is_well(&pooler, &database, &ca);
}
