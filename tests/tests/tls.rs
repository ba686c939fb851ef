//! TLS to clients and to PostgreSQL, with libpq 18 (of psycopg's) on one side and PostgreSQL 15 and 18 on the other.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use pgsluice_tests::certificates::Authority;
use pgsluice_tests::libpq::attempt;
use pgsluice_tests::program::{python, run};
use pgsluice_tests::wire::message as m;
use pgsluice_tests::{APP, Pooler, Postgres, Version, eventually};

const LIMIT: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_secs(10);

fn conninfo(pooler: &Pooler, database: &str, more: &str) -> String {
    let (user, password) = (APP.user, APP.password);
    // `host` is what certificates are for.
    format!(
        "host=localhost hostaddr=127.0.0.1 port={} user={user} password={password} dbname={database} {more}",
        pooler.port()
    )
}

fn pooler(postgres: &Postgres, database: &str, tls: &str) -> Pooler {
    let text = format!(
        "listen_port = {{port}}\nadmin_users = [\"app\"]\ndefault_pool_size = 2\nclient_login_timeout = 3\n{tls}\n\
         [databases.{database}]\nhost = \"localhost\"\nport = {}\n[users.{}]\npassword = \"{}\"\n",
        postgres.port(),
        APP.user,
        APP.password
    );
    Pooler::file("pgsluice.toml", &text, APP)
}

#[test]
fn clients_are_encrypted_as_both_sides_want_it() {
    let postgres = Postgres::shared();
    let database = postgres.database();
    let authority = Authority::new();
    let ca = authority.certificate();
    let (own, theirs) = (authority.sign("own", "pooler", &["localhost"]), authority.sign("theirs", "app", &[]));
    let stranger = Authority::new().sign("stranger", "app", &[]);
    for mode in ["disable", "prefer", "require", "verify-ca"] {
        let pooler = pooler(postgres, &database, &own.for_clients(mode, &ca));
        let root = format!("sslrootcert={}", ca.display());
        let clients = [
            "sslmode=disable".to_owned(),
            "sslmode=prefer".to_owned(),
            "sslmode=require".to_owned(),
            format!("sslmode=verify-full {root}"),
            format!("sslmode=verify-full sslnegotiation=direct {root}"),
            format!("sslmode=verify-full sslnegotiation=direct {root} {}", theirs.conninfo()),
            format!("sslmode=require {}", theirs.conninfo()),
            format!("sslmode=require {}", stranger.conninfo()),
            "sslmode=require ssl_max_protocol_version=TLSv1.2".to_owned(),
        ];
        let found = attempt(&clients.clone().map(|more| conninfo(&pooler, &database, &more)));
        let expected: [&str; 9] = match mode {
            "disable" => ["plain", "plain", "no", "no", "no", "no", "no", "no", "no"],
            "prefer" => ["plain", "tls", "tls", "tls", "tls", "tls", "tls", "tls", "tls"],
            "require" => ["no", "tls", "tls", "tls", "tls", "tls", "tls", "tls", "tls"],
            _ => ["no", "no", "no", "no", "no", "tls", "tls", "no", "no"],
        };
        for ((client, found), expected) in clients.iter().zip(&found).zip(expected) {
            let is_right = match expected {
                "no" => found.starts_with("refused: "),
                way => *found == format!("{way} plain"),
            };
            assert!(is_right, "client_tls_sslmode {mode}, {client}: {found}\n{}", pooler.log());
        }
        if mode == "require" {
            assert!(found[0].contains("connections have to be encrypted here"), "{}", found[0]);
        }
    }
}

#[test]
fn servers_are_encrypted_as_configured() {
    let authority = Authority::new();
    let ca = authority.certificate();
    let elsewhere = Authority::new();
    for version in Version::ALL {
        let mut expected = Vec::new();
        let mut found = Vec::new();
        let postgres = Postgres::start_version(version, &[]);
        let database = postgres.database();
        let mut look = |what: &str, tls: &str, wanted: &str| {
            let pooler = pooler(&postgres, &database, tls);
            let seen = attempt(&[conninfo(&pooler, &database, "sslmode=disable")]).remove(0);
            found.push(format!("{what}, {tls}: {}", if seen.starts_with("refused") { "no" } else { &seen[6..] }));
            expected.push(format!("{what}, {tls}: {wanted}"));
        };
        let mode = |mode: &str, root: &Path| {
            format!("server_tls_sslmode = \"{mode}\"\nserver_tls_ca_file = \"{}\"", root.display())
        };
        let quick = |tls: String| format!("query_wait_timeout = 3\n{tls}");
        look("no TLS", &quick(mode("prefer", &ca)), "plain");
        look("no TLS", &quick(mode("require", &ca)), "no");
        postgres.set_tls(&authority.sign("server", "postgres", &["localhost"]), None);
        for (wanted, with, root) in [
            ("plain", "disable", &ca),
            ("tls", "prefer", &ca),
            ("tls", "require", &ca),
            ("tls", "verify-ca", &ca),
            ("tls", "verify-full", &ca),
            ("no", "verify-ca", &elsewhere.certificate()),
            ("tls", "require", &elsewhere.certificate()),
        ] {
            look("good", &quick(mode(with, root)), wanted);
        }
        look("good", &quick(format!("{}\nserver_tls_protocols = \"tlsv1.2\"", mode("verify-full", &ca))), "tls");
        postgres.set_tls(&authority.sign("server", "postgres", &["another.example"]), None);
        look("of another host", &quick(mode("verify-ca", &ca)), "tls");
        look("of another host", &quick(mode("verify-full", &ca)), "no");
        let own = authority.self_signed("server", &["localhost"]);
        postgres.set_tls(&own, None);
        look("self-signed", &quick(mode("verify-full", &own.cert)), "tls");
        look("self-signed", &quick(mode("verify-full", &ca)), "no");
        let own = authority.self_signed("server", &["another.example"]);
        postgres.set_tls(&own, None);
        look("self-signed, of another host", &quick(mode("verify-full", &own.cert)), "no");
        assert_eq!(found, expected, "{version:?}");
    }
}

/// A certificate of ours, where PostgreSQL asks for it.
#[test]
fn we_show_our_certificate_to_postgresql() {
    let authority = Authority::new();
    let ca = authority.certificate();
    let postgres = Postgres::start(&[]);
    let database = postgres.database();
    postgres.set_tls(&authority.sign("server", "postgres", &["localhost"]), Some(&ca));
    let own = authority.sign("own", "pooler", &[]);
    let tls = format!(
        "server_tls_sslmode = \"require\"\nserver_tls_cert_file = \"{}\"\nserver_tls_key_file = \"{}\"",
        own.cert.display(),
        own.key.display()
    );
    let pooler = pooler(&postgres, &database, &tls);
    let subject =
        pooler.connect(APP, &database).value("SELECT client_dn FROM pg_stat_ssl WHERE pid = pg_backend_pid()");
    assert_eq!(subject, "/CN=pooler");
    let row = &pooler.show("SHOW SERVERS")[0];
    assert!(row["tls"].starts_with("TLSv1.3/"), "{row:?}");
}

/// Nobody in between can pass a password's proof on: libpq insists on that, and PostgreSQL's offer is taken.
#[test]
fn the_channel_is_bound_on_both_sides() {
    for version in Version::ALL {
        let (front, behind) = (Authority::new(), Authority::new());
        let (ca, root) = (front.certificate(), behind.certificate());
        let postgres = Postgres::start_version(version, &[]);
        let database = postgres.database();
        postgres.set_tls(&behind.sign("server", "postgres", &["localhost"]), None);
        let tls = front.sign("own", "pooler", &["localhost"]).for_clients("require", &ca);
        let tls = format!("{tls}server_tls_sslmode = \"verify-full\"\nserver_tls_ca_file = \"{}\"", root.display());
        let pooler = pooler(&postgres, &database, &tls);
        let root = format!("sslmode=verify-full sslrootcert={}", ca.display());
        let with = |more: &str| attempt(&[conninfo(&pooler, &database, &format!("{root} {more}"))]).remove(0);
        assert_eq!(with("channel_binding=require sslnegotiation=direct"), "tls tls", "{version:?}");
        assert_eq!(with("channel_binding=require ssl_max_protocol_version=TLSv1.2"), "tls tls", "{version:?}");
        assert_eq!(with("channel_binding=disable"), "tls tls", "{version:?}");
        let wrong = attempt(&[conninfo(&pooler, &database, &format!("{root} channel_binding=require user=nobody"))]);
        assert!(wrong[0].contains("password authentication failed"), "{wrong:?}");
    }
}

/// What was opened without it is replaced, as soon as it is free.
#[test]
fn servers_are_encrypted_once_that_is_configured() {
    let authority = Authority::new();
    let postgres = Postgres::start(&[]);
    let database = postgres.database();
    postgres.set_tls(&authority.sign("server", "postgres", &["localhost"]), None);
    let pooler = pooler(&postgres, &database, "server_tls_sslmode = \"disable\"");
    let mut client = pooler.connect(APP, &database);
    let ask = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    assert_eq!(client.value(ask), "f");
    let control = "SELECT string_agg(ssl::text, ' ') FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
                   WHERE application_name = 'pgsluice control'";
    let mut admin = postgres.admin(&database);
    assert_eq!(admin.value(control), "false");
    pooler.console().run("SET server_tls_sslmode = 'require'");
    assert!(eventually(SOON, || client.value(ask) == "t"));
    assert!(eventually(SOON, || admin.rows(control).is_ok_and(|rows| rows[0][0].as_deref() == Some("true"))));
}

/// Much in both directions, encrypted on both sides, with a reader that is slow now and then.
#[test]
fn nothing_is_lost_of_what_is_much() {
    let authority = Authority::new();
    let ca = authority.certificate();
    let postgres = Postgres::start(&[]);
    let database = postgres.database();
    postgres.set_tls(&authority.sign("server", "postgres", &["localhost"]), None);
    let tls = authority.sign("own", "pooler", &["localhost"]).for_clients("require", &ca);
    let pooler = pooler(&postgres, &database, &format!("{tls}server_tls_sslmode = \"require\""));
    let to = conninfo(&pooler, &database, &format!("sslmode=verify-full sslrootcert={}", ca.display()));
    run(python("psycopg_tls/much.py", &[&to]), LIMIT).expect_ok("the script");
}

/// Bytes that are always there already are no reason to read on and on.
#[test]
fn who_sends_without_end_keeps_nobody_else_waiting() {
    let authority = Authority::new();
    let postgres = Postgres::shared();
    let database = postgres.database();
    let own = authority.sign("own", "pooler", &["localhost"]);
    let tls = own.for_clients("prefer", &authority.certificate());
    let pooler = pooler(postgres, &database, &format!("{tls}auth_type = \"trust\"\nworkers = 1"));
    let port = pooler.port().to_string();
    let outcome = run(python("psycopg_tls/flood.py", &[&port, &database, APP.user]), LIMIT).expect_ok("the script");
    assert_eq!(outcome.out.trim(), "answered");
}

#[test]
fn a_new_certificate_is_used_at_once_and_nobody_is_dropped() {
    let authority = Authority::new();
    let ca = authority.certificate();
    let postgres = Postgres::shared();
    let database = postgres.database();
    let own = authority.sign("own", "the first", &["localhost"]);
    let mut pooler = pooler(postgres, &database, &own.for_clients("require", &ca));
    let to = conninfo(&pooler, &database, &format!("sslmode=verify-full sslrootcert={}", ca.display()));
    std::thread::scope(|scope| {
        let busy = scope.spawn(|| run(python("psycopg_tls/busy.py", &[&to, "6"]), LIMIT).expect_ok("the script"));
        std::thread::sleep(Duration::from_secs(1));
        // A key that does not fit its certificate: what was there stays.
        let before = std::fs::read(&own.key).expect("our own file");
        std::fs::write(&own.key, "no key").expect("our own file");
        assert!(pooler.wait_for_line("stays in force", SOON), "{}", pooler.log());
        assert_eq!(attempt(std::slice::from_ref(&to)), ["tls plain"]);
        std::fs::write(&own.key, before).expect("our own file");
        // And another authority's: who knows the old one only is not fooled.
        let other = Authority::new();
        let new = other.sign("own", "the second", &["localhost"]);
        std::fs::copy(&new.key, &own.key).expect("our own file");
        std::fs::copy(&new.cert, &own.cert).expect("our own file");
        let trusting =
            conninfo(&pooler, &database, &format!("sslmode=verify-full sslrootcert={}", other.certificate().display()));
        assert!(eventually(SOON, || attempt(std::slice::from_ref(&trusting)) == ["tls plain"]), "{}", pooler.log());
        assert!(attempt(std::slice::from_ref(&to))[0].starts_with("refused"));
        let out = busy.join().expect("the load ends").out;
        assert!(out.lines().all(|line| line == "fine") && !out.is_empty(), "{out}");
    });
}

/// Twenty certificates in turn, by files that are replaced one after the other, half of them with a RELOAD behind.
#[test]
fn certificates_that_change_all_the_time_make_nobody_fail() {
    let authority = Authority::new();
    let ca = authority.certificate();
    let postgres = Postgres::shared();
    let database = postgres.database();
    let own = authority.sign("own", "number 0", &["localhost"]);
    let pooler = pooler(postgres, &database, &own.for_clients("prefer", &ca));
    let to = conninfo(&pooler, &database, &format!("sslmode=verify-full sslrootcert={}", ca.display()));
    let (root, port) = (ca.display().to_string(), pooler.port().to_string());
    let mut script = python("psycopg_tls/rotation.py", &[&to, &root, &port]);
    let mut script = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("Python");
    let mut said = BufReader::new(script.stdout.take().expect("its output"));
    let mut line = String::new();
    said.read_line(&mut line).expect("its output");
    assert_eq!(line, "ready\n");
    let mut console = pooler.console();
    for n in 1..=20 {
        let new = authority.sign("new", &format!("number {n}"), &["localhost"]);
        // What is there in between is a certificate with another's key, and is not taken.
        std::fs::rename(&new.cert, &own.cert).expect("our own file");
        std::thread::sleep(Duration::from_millis(50));
        std::fs::rename(&new.key, &own.key).expect("our own file");
        if n % 2 == 0 {
            console.run("RELOAD");
        }
        std::thread::sleep(Duration::from_millis(350));
    }
    drop(script.stdin.take());
    line.clear();
    said.read_line(&mut line).expect("its output");
    assert!(script.wait().expect("a child").success());
    let found: serde_json::Value = serde_json::from_str(&line).expect("JSON");
    println!("{found}");
    assert_eq!(found["failed"], serde_json::json!([]), "{}", pooler.log());
    assert_eq!(found["shown"], "number 20");
    let many = |what: &str| found[what].as_u64().expect("a number");
    assert!(many("queries") > 100 && many("connects") > 10, "{found}");
}

#[test]
fn a_certificate_that_is_of_no_use_is_said_to_be() {
    let postgres = Postgres::shared();
    let database = postgres.database();
    let authority = Authority::new();
    let own = authority.sign("own", "pooler", &["localhost"]);
    let pooler = pooler(postgres, &database, "");
    let mut console = pooler.console();
    let mut set = |key: &str, value: &str| {
        let replies = console.query(&format!("SET {key} = '{value}'"));
        let error = replies.iter().find(|reply| reply.tag == b'E');
        error.map(|error| [b'M', b'D'].map(|code| error.field(code)).concat())
    };
    let told = set("client_tls_sslmode", "require").expect("an error");
    assert!(told.contains("client_tls_cert_file"), "{told}");
    let told = set("server_tls_ca_file", "/nowhere/ca.pem");
    assert_eq!(told, None, "it is not needed");
    let told = set("server_tls_sslmode", "verify-full").expect("an error");
    assert!(told.contains("server_tls_ca_file: /nowhere/ca.pem: "), "{told}");
    assert_eq!(set("server_tls_ca_file", &own.key.display().to_string()), None);
    let told = set("server_tls_sslmode", "verify-full").expect("an error");
    assert!(told.contains("holds no certificate in PEM"), "{told}");
}

/// Whatever comes in place of TLS harms nobody else.
#[test]
fn what_is_no_tls_is_refused() {
    let authority = Authority::new();
    let ca = authority.certificate();
    let postgres = Postgres::shared();
    let database = postgres.database();
    let own = authority.sign("own", "pooler", &["localhost"]);
    let pooler = pooler(postgres, &database, &own.for_clients("prefer", &ca));
    let ask = |bytes: &[u8]| {
        let mut socket = TcpStream::connect(pooler.addr()).expect("it listens");
        socket.set_read_timeout(Some(LIMIT)).expect("a socket");
        let _ = socket.write_all(bytes);
        let mut answer = Vec::new();
        let start = Instant::now();
        let _ = socket.read_to_end(&mut answer);
        (answer, start.elapsed())
    };
    // In the clear behind the request (CVE-2021-23222): never read as if it had been encrypted.
    let (answer, _) = ask(&[m::ssl_request(), m::startup(&[("user", APP.user)])].concat());
    assert!(String::from_utf8_lossy(&answer).contains("received unencrypted data after SSL"), "{answer:?}");
    // No handshake.
    let (answer, _) = ask(&[&[0x16, 3, 1, 0xff, 0xff][..], &[7; 70_000]].concat());
    assert!(!answer.starts_with(b"R"), "{answer:?}");
    let (answer, _) = ask(&[0x16, 3, 1, 0, 5, 1, 0, 0, 1, 0]);
    assert_eq!(answer.first(), Some(&0x15), "an alert: {answer:?}");
    // Neither a handshake nor an end of it.
    for begun in [&m::ssl_request()[..], &[0x16], &[0x16, 3, 1, 0, 200, 1]] {
        let (_, took) = ask(begun);
        assert!(took >= Duration::from_secs(2) && took < Duration::from_secs(20), "client_login_timeout: {took:?}");
    }
    assert_eq!(pooler.connect(APP, &database).value("SELECT 1"), "1");
}
