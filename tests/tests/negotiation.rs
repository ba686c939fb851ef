//! What a startup message may ask for, and what becomes of it: every case is put to PostgreSQL itself and to the pooler
//! in front of it, 15 and 18, and has to end alike.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use pgsluice_tests::wire::{LoginError, message as m};
use pgsluice_tests::{APP, APP_TRUST, Pooler, Postgres, Raw, SUPERUSER, Version, eventually};

const V3_0: u32 = 0x0003_0000;
const V3_2: u32 = 0x0003_0002;

/// A pooler that knows the roles of the cluster, one without LOGIN and one that PostgreSQL does not know.
fn pooler(postgres: &Postgres, extra: &str) -> Pooler {
    let users =
        [(APP.user, APP.password), (SUPERUSER.user, SUPERUSER.password), ("no_login", "secret"), ("gone", "secret")];
    let users: String = users.iter().map(|(user, pw)| format!("[users.{user}]\npassword = \"{pw}\"\n")).collect();
    let text = format!(
        "listen_addr = \"127.0.0.1\"\nlisten_port = {{port}}\nadmin_users = [\"app\"]\ndefault_pool_size = 2\n{extra}\n\
         [databases.\"*\"]\nhost = \"127.0.0.1\"\nport = {}\n{users}",
        postgres.port()
    );
    Pooler::file("pgsluice.toml", &text, APP)
}

/// The end of a login: what was told and what `sql` says then, or the error without its place in the source.
fn login(addr: SocketAddr, password: &str, parameters: &[(&str, &str)], sql: &str) -> Vec<String> {
    match Raw::connect_with(addr, password, parameters) {
        Ok(mut raw) => {
            let value = raw.value(sql);
            raw.parameters.iter().map(|(name, value)| format!("{name}={value}")).chain([value]).collect()
        }
        Err(LoginError::Refused(reply)) => {
            [b'S', b'C', b'M', b'H'].map(|field| reply.field(field)).into_iter().collect()
        }
        Err(error) => vec![format!("{error:?}")],
    }
}

fn both_versions(test: impl Fn(&Postgres, &Pooler)) {
    for version in Version::ALL {
        let postgres = Postgres::shared_version(version);
        postgres.admin("postgres").run(
            "DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'no_login') THEN \
             CREATE ROLE no_login NOLOGIN PASSWORD 'secret'; END IF; END $$",
        );
        test(postgres, &pooler(postgres, ""));
    }
}

#[test]
fn any_parameter_that_postgresql_takes_takes_effect_and_others_are_refused_alike() {
    let cases: [(&str, &str, &str); 50] = [
        ("application_name", "plain", "SHOW application_name"),
        ("application_name", "with \u{e9} and \t", "SHOW application_name"),
        ("client_encoding", "LATIN1", "SHOW client_encoding"),
        ("client_encoding", "nonsense", "SELECT 1"),
        ("DateStyle", "German", "SELECT '2026-02-01'::date"),
        ("TimeZone", "Asia/Tokyo", "SHOW TimeZone"),
        ("TimeZone", "nonsense", "SELECT 1"),
        ("search_path", "pg_catalog, \"Odd \u{e9} one\"", "SHOW search_path"),
        ("app.tenant", "quo'te \\ back\nslash \u{e9}", "SHOW app.tenant"),
        ("work_mem", "1234kB", "SHOW work_mem"),
        ("work_mem", "abc", "SELECT 1"),
        ("nonsense", "1", "SELECT 1"),
        ("shared_buffers", "1", "SELECT 1"),
        ("is_superuser", "on", "SELECT 1"),
        ("role", "no_login", "SELECT 1"),
        ("log_connections", "on", "SELECT 1"),
        ("post_auth_delay", "0", "SHOW post_auth_delay"),
        ("post_auth_delay", "no number", "SELECT 1"),
        ("ignore_system_indexes", "on", "SHOW ignore_system_indexes"),
        ("seed", "0.5", "SELECT 1"),
        ("session_authorization", "no_login", "SELECT current_user"),
        ("transaction_deferrable", "on", "SHOW transaction_deferrable"),
        ("transaction_isolation", "serializable", "SHOW transaction_isolation"),
        ("transaction_read_only", "on", "SHOW transaction_read_only"),
        ("transaction_read_only", "maybe", "SHOW transaction_read_only"),
        ("replication", "maybe", "SELECT 1"),
        ("replication", "off", "SELECT 1"),
        ("options", "", "SELECT 1"),
        ("options", "-c work_mem=77 --app.x=1\\ 2", "SELECT current_setting('work_mem') || current_setting('app.x')"),
        ("options", "-S 99 -fs -f i", "SELECT current_setting('work_mem') || current_setting('enable_seqscan')"),
        ("options", "-eS64", "SELECT current_setting('work_mem') || current_setting('datestyle')"),
        ("options", "-P", "SHOW ignore_system_indexes"),
        ("options", "-W 0", "SHOW post_auth_delay"),
        ("options", "-n -C x -T -b -E -j -D y --", "SELECT 1"),
        ("options", "-Z", "SELECT 1"),
        ("options", "-fz", "SELECT 1"),
        ("options", "-F", "SELECT 1"),
        ("options", "-i", "SELECT 1"),
        ("options", "-O", "SELECT 1"),
        ("options", "-tpa", "SELECT 1"),
        ("options", "-d 1", "SELECT 1"),
        ("options", "-c", "SELECT 1"),
        ("options", "-c foo", "SELECT 1"),
        ("options", "--foo", "SELECT 1"),
        ("options", "word", "SELECT 1"),
        ("options", "-c =x", "SELECT 1"),
        ("options", "-c nonsense=1", "SELECT 1"),
        ("options", "-c app.a-b=1", "SHOW app.a_b"),
        ("options", "-c statement_timeout=1h", "SHOW statement_timeout"),
        ("options", "-c default_transaction_isolation=serializable", "SHOW transaction_isolation"),
    ];
    both_versions(|postgres, pooler| {
        for (name, value, sql) in cases {
            let parameters = [("user", APP.user), ("database", "postgres"), (name, value)];
            let direct = login(postgres.addr(), APP.password, &parameters, sql);
            for turn in 0..3 {
                let pooled = login(pooler.addr(), APP.password, &parameters, sql);
                assert_eq!(pooled, direct, "{name}={value}, turn {turn}");
                let plain = [("user", APP.user), ("database", "postgres")];
                let other = login(pooler.addr(), APP.password, &plain, "SHOW work_mem");
                assert_eq!(other, login(postgres.addr(), APP.password, &plain, "SHOW work_mem"), "the next client");
            }
        }
    });
}

#[test]
fn nobody_delays_the_logins_of_others() {
    let postgres = Postgres::shared();
    let pooler = Pooler::url(postgres, APP, "postgres", &[]);
    for (name, value) in [("post_auth_delay", "1000"), ("Post_Auth_Delay", "0x9"), ("options", "-W 2000")] {
        let parameters = [("user", APP.user), ("database", "postgres"), (name, value)];
        let refused = Raw::connect_with(pooler.addr(), APP.password, &parameters).err().map(|error| error.sqlstate());
        assert_eq!(refused.as_deref(), Some("0A000"), "{name}={value}");
    }
}

#[test]
fn no_minimum_is_kept_for_what_clients_asked_for() {
    let postgres = Postgres::shared();
    let database = postgres.database();
    let config = format!(
        "listen_addr = '127.0.0.1'\nlisten_port = {{port}}\nadmin_users = ['app']\n[databases.'{database}']\n\
         port = {}\nmin_pool_size = 3\n[users.app]\npassword = '{}'\n",
        postgres.port(),
        APP.password
    );
    let pooler = Pooler::file("pgsluice.toml", &config, APP);
    let parameters = [("user", APP.user), ("database", &database), ("ignore_system_indexes", "on")];
    let mut client = Raw::connect_with(pooler.addr(), APP.password, &parameters).unwrap();
    client.run("SELECT 1");
    drop(client);
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(pooler.show("SHOW SERVERS").len(), 1, "the one that it used");
    pooler.connect(APP, &database).run("SELECT 1");
    let full = || pooler.show("SHOW SERVERS").len() == 4;
    assert!(eventually(Duration::from_secs(5), full), "the pool of the configuration keeps its minimum");
}

#[test]
fn a_parameter_of_its_own_name_wins_over_options() {
    both_versions(|postgres, pooler| {
        let parameters =
            [("user", APP.user), ("database", "postgres"), ("DateStyle", "German"), ("options", "-c datestyle=ISO")];
        let outcome = |addr| login(addr, APP.password, &parameters, "SELECT '2026-02-01'::date");
        assert_eq!(outcome(pooler.addr()), outcome(postgres.addr()));
        assert_eq!(outcome(pooler.addr()).last().map(String::as_str), Some("01.02.2026"));
    });
}

#[test]
fn names_that_are_not_there_are_refused_with_postgresqls_own_words() {
    both_versions(|postgres, pooler| {
        let outcome = |addr, user: &str, password: &str, database: &str| {
            login(addr, password, &[("user", user), ("database", database)], "SELECT 1")
        };
        let cases = [
            (APP.user, "wrong", "postgres", "28P01"),
            ("no_login", "secret", "postgres", "28000"),
            (APP.user, APP.password, "no_such_database", "3D000"),
            ("nobody_knows", "secret", "postgres", "28P01"),
            ("gone", "secret", "postgres", "28P01"),
        ];
        for (user, password, database, sqlstate) in cases {
            let direct = outcome(postgres.addr(), user, password, database);
            assert_eq!(outcome(pooler.addr(), user, password, database), direct, "{user} {database}");
            assert_eq!(direct[1], sqlstate);
        }
        let nobody = [("database", "postgres")];
        let refused = |addr| login(addr, "", &nobody, "SELECT 1");
        assert_eq!(refused(pooler.addr()), refused(postgres.addr()));
    });
}

#[test]
fn a_role_that_nobody_knows_is_refused_without_a_password_too() {
    let postgres = Postgres::shared();
    let pooler = pooler(postgres, "auth_type = \"trust\"");
    let parameters = [("user", "nobody_knows"), ("database", "postgres")];
    let pooled = login(pooler.addr(), "", &parameters, "SELECT 1");
    assert_eq!(pooled[..3], ["FATAL", "28000", "role \"nobody_knows\" does not exist"]);
    let trusted = Pooler::url(postgres, APP_TRUST, "postgres", &[]);
    assert_eq!(trusted.connect(APP_TRUST, "postgres").value("SELECT 1"), "1");
}

#[test]
fn our_own_limit_of_clients_is_53300() {
    let pooler = pooler(Postgres::shared(), "max_client_conn = 2");
    let mut first = pooler.connect(APP, "postgres");
    let _second = pooler.connect(APP, "postgres");
    let refused = pooler.try_connect(APP, "postgres").map(drop).unwrap_err();
    assert_eq!(refused.sqlstate(), "53300");
    // Who has seen its connection end may come again at once.
    for _ in 0..100 {
        first.send(b"X\0\0\0\x04").unwrap();
        assert_eq!(first.until_closed(Duration::from_secs(5)).map(|said| said.len()), Some(0));
        first = pooler.connect(APP, "postgres");
    }
}

#[test]
fn versions_and_options_of_the_protocol_are_negotiated_as_postgresql_18_does() {
    let postgres = Postgres::shared_version(Version::V18);
    let pooler = pooler(postgres, "");
    let options: [&[(&str, &str)]; 3] = [&[], &[("_pq_.one", "1")], &[("_pq_.one", "1"), ("_pq_.two", "")]];
    for version in [V3_0, V3_0 + 1, V3_2, V3_2 + 1, V3_0 + 9999] {
        for extra in options {
            let mut parameters = vec![("user", APP.user), ("database", "postgres")];
            parameters.extend(extra);
            let look = |addr| {
                let mut raw = Raw::connect_version(addr, version, APP.password, &parameters).unwrap();
                assert_eq!(raw.value("SELECT 1"), "1");
                (raw.negotiated.clone(), raw.secret.len())
            };
            assert_eq!(look(pooler.addr()), look(postgres.addr()), "{version:x} {extra:?}");
        }
    }
    for version in [0x0004_0000, 0x0007_0001] {
        let refused = |addr| match Raw::connect_version(addr, version, "", &[("user", APP.user)]) {
            Err(LoginError::Refused(reply)) => reply.field(b'C'),
            Err(_) => "closed".into(),
            Ok(_) => panic!("let in with version {version:x}"),
        };
        assert_eq!(refused(pooler.addr()), refused(postgres.addr()), "{version:x}");
    }
}

/// A query that runs until it is cancelled, and its SQLSTATE.
fn cancelled(client: &mut Raw, cancel: impl FnOnce(&Raw), watch: &mut Raw) -> String {
    client.send(&m::query("SELECT pg_sleep(30)")).expect("the peer accepts bytes");
    let running = "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(30)' AND state = 'active'";
    assert!(eventually(Duration::from_secs(10), || watch.value(running) == "1"), "the query runs");
    cancel(client);
    let replies = client.until_ready();
    replies.iter().find(|reply| reply.tag == b'E').map(pgsluice_tests::Reply::sqlstate).unwrap_or_default()
}

#[test]
fn cancel_works_with_keys_of_either_length_in_front_of_servers_of_either_version() {
    both_versions(|postgres, pooler| {
        let mut watch = postgres.admin("postgres");
        let parameters = [("user", APP.user), ("database", "postgres")];
        for (version, key) in [(V3_0, 4), (V3_2, 32)] {
            let connect = || Raw::connect_version(pooler.addr(), version, APP.password, &parameters).unwrap();
            let (mut client, other) = (connect(), connect());
            assert_eq!(client.secret.len(), key);
            assert_ne!((client.pid, &client.secret), (other.pid, &other.secret));
            assert_eq!(cancelled(&mut client, |c| c.cancel().unwrap(), &mut watch), "57014");
            assert_eq!(client.value("SELECT 1"), "1");
        }
    });
}

/// Stands in front of a PostgreSQL and turns away whoever asks for more than protocol 3.0, with these words or none.
fn only_3_0(postgres: &Postgres, refusal: Vec<u8>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let (port, behind) = (listener.local_addr().expect("bound").port(), postgres.addr());
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let refusal = refusal.clone();
            std::thread::spawn(move || -> std::io::Result<()> {
                let mut startup = vec![0; 8];
                stream.read_exact(&mut startup)?;
                if startup == m::ssl_request() {
                    stream.write_all(b"N")?;
                    stream.read_exact(&mut startup)?;
                }
                if startup[4..8] == V3_2.to_be_bytes() {
                    return stream.write_all(&refusal);
                }
                let mut server = TcpStream::connect(behind)?;
                server.write_all(&startup)?;
                let (mut from_client, mut to_server) = (stream.try_clone()?, server.try_clone()?);
                std::thread::spawn(move || std::io::copy(&mut from_client, &mut to_server));
                std::io::copy(&mut server, &mut stream).map(drop)
            });
        }
    });
    port
}

#[test]
fn a_server_that_knows_only_protocol_3_0_is_spoken_to_in_it() {
    let postgres = Postgres::shared();
    let error = |sqlstate: &str| m::tagged(b'E', format!("SFATAL\0VFATAL\0C{sqlstate}\0Mnot that one\0\0").as_bytes());
    for refusal in [error("0A000"), error("08P01"), Vec::new()] {
        let text = format!(
            "listen_addr = \"127.0.0.1\"\nlisten_port = {{port}}\nadmin_users = [\"app\"]\n\
             [databases.postgres]\nhost = \"127.0.0.1\"\nport = {}\n[users.app]\npassword = \"{}\"\n",
            only_3_0(postgres, refusal),
            APP.password
        );
        let pooler = Pooler::file("pgsluice.toml", &text, APP);
        let parameters = [("user", APP.user), ("database", "postgres")];
        let mut client = Raw::connect_version(pooler.addr(), V3_2, APP.password, &parameters).unwrap();
        assert_eq!((client.value("SELECT 1").as_str(), client.secret.len()), ("1", 32));
    }
}

#[test]
fn settings_of_a_servers_start_make_few_pools() {
    let postgres = Postgres::shared();
    let pooler = Pooler::url(postgres, SUPERUSER, "postgres", &["--pool-size", "1"]);
    let with = |value: &str| {
        let parameters = [("user", SUPERUSER.user), ("database", "postgres"), ("log_disconnections", value)];
        Raw::connect_with(pooler.addr(), SUPERUSER.password, &parameters)
    };
    let on = ["on", "true", "tru", "tr", "t", "yes", "ye", "y"];
    let off = ["off", "of", "false", "fals", "fal", "fa", "f", "no"];
    for (values, meaning) in [(on, "on"), (off, "off")] {
        for value in values {
            assert_eq!(with(value).unwrap().value("SHOW log_disconnections"), meaning, "{value}");
        }
    }
    assert_eq!(with("1").err().map(|error| error.sqlstate()).as_deref(), Some("0A000"));
    assert_eq!(with("on").unwrap().value("SHOW log_disconnections"), "on", "a combination that there is");
    assert_eq!(pooler.connect(SUPERUSER, "postgres").value("SELECT 1"), "1");
}
