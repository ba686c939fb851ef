//! Holes that PostgreSQL and its libpq had where a pooler stands: in the beginning of a connection, towards clients and towards
//! servers. PgBouncer's are in `cves`.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use pgsluice_tests::certificates::Authority;
use pgsluice_tests::libpq::attempt;
use pgsluice_tests::relay::relay;
use pgsluice_tests::wire::{LoginError, message as m};
use pgsluice_tests::{APP, Login, Pooler, Postgres, Raw, fake};

const SOON: Duration = Duration::from_secs(5);

/// A pooler in front of a server on this port, with these settings, users and files.
fn pooler(port: u16, database: &str, more: &str, users: &str, files: &[(&str, &str)]) -> Pooler {
    let text = format!(
        "listen_port = {{port}}\nadmin_users = [\"app\"]\ndefault_pool_size = 2\nauth_failure_delay = 0\n\
         query_wait_timeout = 3\n{more}\n[databases.{database}]\nhost = \"localhost\"\nport = {port}\n\
         [users.app]\npassword = \"{}\"\n{users}",
        APP.password
    );
    let all: Vec<_> = [("pgsluice.toml", text.as_str())].into_iter().chain(files.iter().copied()).collect();
    Pooler::files(&all, APP)
}

fn sqlstate(outcome: Result<Raw, LoginError>) -> String {
    outcome.map_or_else(|error| error.sqlstate(), |_| "let in".into())
}

/// PostgreSQL before 8.4.2 read the names in a certificate as far as the first NUL: an authority that signs `app\0.example` for
/// whoever owns that domain vouched for `app`. Here a common name with a NUL is none, and a server's name is not looked for there.
#[test]
fn cve_2009_4034_names_with_a_nul() {
    let authority = Authority::new();
    let ca = authority.certificate();
    let postgres = Postgres::start(&[]);
    let database = postgres.database();
    let own = authority.sign("own", "pooler", &["localhost"]);
    let rules = "hostssl all all all cert map=any\nhost pgsluice,pgbouncer all all scram-sha-256\n";
    for (more, files) in [
        ("auth_type = \"cert\"\n", vec![]),
        // Not even a map that takes any name.
        (
            "auth_type = \"hba\"\nauth_hba_file = \"{dir}/hba.conf\"\nauth_ident_file = \"{dir}/ident.conf\"\n",
            vec![("hba.conf", rules), ("ident.conf", "any /^app all\n")],
        ),
    ] {
        let more = own.for_clients("verify-full", &ca) + more;
        let pooler = pooler(postgres.port(), &database, &more, "", &files);
        let with = |subject: &str| {
            let theirs = authority.sign("theirs", subject, &[]);
            attempt(&[format!(
                "host=localhost hostaddr=127.0.0.1 port={} user=app dbname={database} sslmode=verify-full sslrootcert={} {}",
                pooler.port(),
                ca.display(),
                theirs.conninfo()
            )])
            .remove(0)
        };
        assert_eq!(with("app"), "tls plain", "{}", pooler.log());
        for subject in ["app\0.example", "app\0", "\0app"] {
            let found = with(subject);
            assert!(found.contains("certificate authentication failed"), "{subject:?}: {found}");
        }
    }
    let verified = format!("server_tls_sslmode = \"verify-full\"\nserver_tls_ca_file = \"{}\"", ca.display());
    for (subject, host, good) in [
        ("localhost", "localhost", true),
        ("localhost", "another.example", false),
        ("localhost", "localhost\0.example", false),
        ("localhost\0.example", "another.example", false),
    ] {
        postgres.set_tls(&authority.sign("server", subject, &[host]), None);
        let pooler = pooler(postgres.port(), &database, &verified, "", &[]);
        let found = sqlstate(pooler.try_connect(APP, &database));
        assert_eq!(found == "let in", good, "{subject:?} {host:?}: {found}\n{}", pooler.log());
    }
}

/// PostgreSQL before 9.6.4 took an empty password in some methods where a role has an empty one.
/// Here an empty password is never a right one.
#[test]
fn cve_2017_7546_empty_passwords() {
    let postgres = Postgres::shared();
    let database = postgres.database();
    postgres.admin(&database).run(
        "CREATE ROLE bare LOGIN; CREATE ROLE emptied LOGIN PASSWORD ''; CREATE ROLE looks SUPERUSER LOGIN PASSWORD 'looks'",
    );
    for auth_type in ["plain", "md5", "scram-sha-256"] {
        let more = format!("auth_type = \"{auth_type}\"\nauth_user = \"looks\"");
        let users = "[users.looks]\npassword = \"looks\"\n[users.none]\npassword = \"\"\n";
        let pooler = pooler(postgres.port(), &database, &more, users, &[]);
        for user in ["bare", "emptied", "none", "app", "nobody"] {
            let found = sqlstate(pooler.try_connect(Login { user, password: "" }, &database));
            assert_eq!(found, "28P01", "{auth_type}, {user}");
        }
    }
}

/// PostgreSQL before 14.1 took what stood in the clear behind SSLRequest for words of the client, who was then let in by its
/// certificate: somebody in between could put statements in front. Here the connection ends.
#[test]
fn cve_2021_23214_words_put_in_front_of_a_clients() {
    let authority = Authority::new();
    let ca = authority.certificate();
    let postgres = Postgres::shared();
    let database = postgres.database();
    let (own, theirs) = (authority.sign("own", "pooler", &["localhost"]), authority.sign("theirs", "app", &[]));
    let rules = "hostssl all all all trust clientcert=verify-ca\nhost pgsluice,pgbouncer all all scram-sha-256\n";
    let more = own.for_clients("prefer", &ca) + "auth_type = \"hba\"\nauth_hba_file = \"{dir}/hba.conf\"";
    let pooler = pooler(postgres.port(), &database, &more, "", &[("hba.conf", rules)]);
    let table = m::query("CREATE TABLE theirs ()");
    let startup = m::startup(&[("user", APP.user), ("database", &database)]);
    let words = [vec![], table.clone(), [startup.clone(), table].concat(), startup, vec![0], vec![0x16, 3, 1]];
    let to = words.each_ref().map(|words| {
        format!(
            "host=localhost hostaddr=127.0.0.1 port={} user=app dbname={database} sslmode=verify-full sslrootcert={} {}",
            relay(pooler.port(), words, &[]),
            ca.display(),
            theirs.conninfo()
        )
    });
    let found = attempt(&to);
    assert_eq!(found[0], "tls plain", "{}", pooler.log());
    assert!(found[1..].iter().all(|found| found.starts_with("refused")), "{found:?}");
    assert!(pooler.logs_times("received unencrypted data", 5), "{}", pooler.log());
    assert_eq!(postgres.admin(&database).value("SELECT to_regclass('theirs') IS NULL"), "t");
}

/// libpq before 14.1 took what stood in the clear behind the server's `S` for words of the server: somebody in between could
/// answer a client's first questions. Here nothing is read with that byte, and what follows it is no TLS.
#[test]
fn cve_2021_23222_words_put_in_front_of_a_servers() {
    let authority = Authority::new();
    let postgres = Postgres::start(&[]);
    let database = postgres.database();
    postgres.set_tls(&authority.sign("server", "postgres", &["localhost"]), None);
    let row = [fake::columns(1), fake::row(&["theirs"]), fake::complete(), fake::ready()].concat();
    let words =
        [vec![], fake::welcome(&7_u32.to_be_bytes()), [fake::welcome(&7_u32.to_be_bytes()), row].concat(), vec![0]];
    for mode in ["require", "verify-full"] {
        let tls =
            format!("server_tls_sslmode = \"{mode}\"\nserver_tls_ca_file = \"{}\"", authority.certificate().display());
        for words in &words {
            let pooler = pooler(relay(postgres.port(), &[], words), &database, &tls, "", &[]);
            match pooler.try_connect(APP, &database) {
                Ok(mut client) => {
                    assert!(words.is_empty(), "{mode}: {}", pooler.log());
                    assert_eq!(client.value("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"), "t");
                }
                Err(error) => {
                    assert!(!words.is_empty(), "{mode}: {error:?} {}", pooler.log());
                    assert!(!error.sqlstate().is_empty() && !format!("{error:?}").contains("theirs"), "{error:?}");
                }
            }
        }
    }
}

/// libpq before 17.1 showed its user the error that somebody sent in place of an answer to SSLRequest, though only an encrypted
/// server was to be believed. Here it is neither passed on nor logged.
#[test]
fn cve_2024_10977_an_error_before_encryption() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let port = listener.local_addr().expect("bound").port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 8]);
            let _ = stream.write_all(&fake::notice(b'E', "FATAL", "call 555-0100 and tell your password"));
        }
    });
    for mode in ["require", "verify-full"] {
        let authority = Authority::new();
        let ca = authority.certificate();
        let tls = format!("server_tls_sslmode = \"{mode}\"\nserver_tls_ca_file = \"{}\"", ca.display());
        let pooler = pooler(port, "mine", &tls, "", &[]);
        let refused = pooler.try_connect(APP, "mine").map(drop).expect_err("nobody is there");
        assert!(pooler.logs("it does not know TLS"), "{}", pooler.log());
        assert!(!format!("{refused:?}{}", pooler.log()).contains("555-0100"), "{refused:?}\n{}", pooler.log());
    }
}

/// PostgreSQL before 18.4 went one call deeper for each request for encryption that it had no answer to but `N`, until its stack
/// was used up. Here they are counted, and four are the most.
#[test]
fn cve_2026_6479_requests_for_encryption_without_end() {
    let postgres = Postgres::shared();
    let database = postgres.database();
    let authority = Authority::new();
    let own = authority.sign("own", "pooler", &["localhost"]);
    for (tls, requests) in [
        (String::new(), vec![m::ssl_request(), m::gssenc_request()]),
        (String::new(), vec![m::ssl_request()]),
        (own.for_clients("prefer", &authority.certificate()), vec![m::gssenc_request()]),
    ] {
        let pooler = pooler(postgres.port(), &database, &tls, "", &[]);
        let mut socket = TcpStream::connect(pooler.addr()).expect("it listens");
        socket.set_read_timeout(Some(SOON)).expect("a socket");
        let (begun, mut declined) = (Instant::now(), 0);
        for request in requests.iter().cycle().take(1000) {
            let mut answer = [0];
            if socket.write_all(request).is_err() || socket.read_exact(&mut answer).is_err() || answer != *b"N" {
                break;
            }
            declined += 1;
        }
        assert!(declined == 4 && begun.elapsed() < SOON, "{declined}");
        assert_eq!(pooler.connect(APP, &database).value("SELECT 1"), "1");
    }
}
