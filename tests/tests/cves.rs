//! Holes that PgBouncer had, each by its number: what PgBouncer did, and that the same is of no use here. PostgreSQL's are in
//! `cves_postgresql`.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use pgsluice_tests::certificates::Authority;
use pgsluice_tests::fake::{self, Fake, Script};
use pgsluice_tests::libpq::attempt;
use pgsluice_tests::relay::relay;
use pgsluice_tests::wire::{LoginError, message as m};
use pgsluice_tests::{APP, Login, Pooler, Postgres, Raw, Reply, eventually};
use postgres_protocol::authentication::sasl;

const SOON: Duration = Duration::from_secs(5);
const BOSS: Login = Login { user: "boss", password: "boss" };
/// May look, and nothing else.
const WATCHER: Login = Login { user: "watcher", password: "watches" };
/// A superuser, as the default `auth_query` needs one.
const ASKER: Login = Login { user: "asker", password: "asks" };

/// The cluster of all tests here, with [`ASKER`].
fn postgres() -> &'static Postgres {
    static SHARED: OnceLock<&Postgres> = OnceLock::new();
    SHARED.get_or_init(|| {
        let postgres = Postgres::shared();
        postgres.admin("postgres").run("CREATE ROLE asker SUPERUSER LOGIN PASSWORD 'asks'");
        postgres
    })
}

/// A pooler for one database with these settings besides.
fn pooler(database: &str, more: &str) -> Pooler {
    serving(&format!("[databases.{database}]\nhost = \"localhost\"\nport = {}\n", postgres().port()), more)
}

fn serving(databases: &str, more: &str) -> Pooler {
    let users: String = [APP, BOSS, WATCHER, ASKER]
        .iter()
        .map(|login| format!("[users.{}]\npassword = \"{}\"\n", login.user, login.password))
        .collect();
    let text = format!(
        "listen_port = {{port}}\nadmin_users = [\"boss\"]\nstats_users = [\"watcher\"]\ndefault_pool_size = 2\n\
         auth_failure_delay = 0\n{more}\n{databases}{users}"
    );
    Pooler::file("pgsluice.toml", &text, BOSS)
}

/// A good client is served, and of the bad ones nothing is left.
fn is_well(pooler: &Pooler, database: &str) {
    assert_eq!(pooler.connect(APP, database).value("SELECT 1"), "1");
    let lists = || pooler.show("SHOW LISTS").iter().any(|row| row["list"] == "login_clients" && row["items"] == "0");
    assert!(eventually(SOON, lists), "{:?}", pooler.show("SHOW LISTS"));
}

fn sqlstate(outcome: Result<Raw, LoginError>) -> String {
    outcome.map_or_else(|error| error.sqlstate(), |_| "let in".into())
}

/// What is answered to these bytes, and nothing more, until the connection is closed.
fn answer(pooler: &Pooler, bytes: &[u8]) -> String {
    let mut socket = TcpStream::connect(pooler.addr()).expect("it listens");
    socket.set_read_timeout(Some(SOON)).expect("a socket");
    let _ = socket.write_all(bytes);
    let _ = socket.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    let end = socket.read_to_end(&mut answer);
    assert!(!end.is_err_and(|e| e.kind() == io::ErrorKind::WouldBlock), "left hanging: {bytes:?}");
    String::from_utf8_lossy(&answer).into_owned()
}

/// A login that has come to the question for a password.
fn asked(pooler: &Pooler, login: Login, database: &str) -> (Raw, Reply) {
    let mut raw = Raw::open(pooler.addr()).expect("it listens");
    raw.send(&m::startup(&[("user", login.user), ("database", database)])).expect("it reads");
    let question = raw.recv().expect("a question");
    (raw, question)
}

/// Nothing that follows lets the client in, and the connection ends.
fn is_not_let_in(raw: &mut Raw, what: &str) {
    let replies = raw.until_closed(SOON).unwrap_or_else(|| panic!("{what}: left hanging"));
    let let_in = replies.iter().any(|reply| reply.tag == b'Z' || (reply.tag == b'R' && reply.body == [0; 4]));
    assert!(!let_in, "{what}: {replies:?}");
}

/// PgBouncer 1.5.2 ended when a client asked for a database with a long name and `*` was configured.
/// Here a name is a text of any length, within the 10,000 bytes of a startup message, and cut at 63 bytes, as by PostgreSQL.
#[test]
fn cve_2012_4575_long_names_of_databases() {
    let database = postgres().database();
    let long = "n".repeat(5000);
    let entries = format!(
        "[databases.\"*\"]\nhost = \"127.0.0.1\"\nport = {0}\n\
         [databases.{1}]\nhost = \"127.0.0.1\"\nport = {0}\ndbname = \"{database}\"\n",
        postgres().port(),
        &long[..63]
    );
    let pooler = serving(&entries, "");
    for length in [63, 64, 127, 128, 255, 1000, 9000] {
        assert_eq!(sqlstate(pooler.try_connect(APP, &"x".repeat(length))), "3D000", "{length}");
        let user = "x".repeat(length);
        let all = [("user", user.as_str()), ("database", &database)];
        assert_eq!(sqlstate(Raw::connect_with(pooler.addr(), "guess", &all)), "28P01", "{length}");
    }
    let refused = answer(&pooler, &m::startup(&[("user", APP.user), ("database", &"x".repeat(20_000))]));
    assert!(refused.contains("invalid length of startup packet"), "{refused}");
    assert_eq!(pooler.connect(APP, &long).value("SELECT current_database()"), database);
    is_well(&pooler, &database);
}

/// PgBouncer before 1.5.5 ended at a password that came before a startup message.
/// Here it has no meaning before the question for it: it is a startup message of an impossible length.
#[test]
fn cve_2015_4054_a_password_before_the_startup_message() {
    let database = postgres().database();
    let pooler = pooler(&database, "");
    let early = [m::password(b"app-secret"), m::sasl_initial("SCRAM-SHA-256", b"n,,n=,r=x"), vec![b'p', 0, 0, 0, 4]];
    for message in early {
        for before in [vec![], m::ssl_request(), m::gssenc_request()] {
            let said = answer(&pooler, &[before, message.clone()].concat());
            assert!(said.contains("08P01") || said.contains("received unencrypted data"), "{said:?}");
        }
    }
    is_well(&pooler, &database);
}

/// PgBouncer 1.6.0 let a client with an unknown name in as `auth_user`.
/// Here whom nobody knows is asked for a password like everybody, and fails; `auth_user`'s own opens nothing for it.
#[test]
fn cve_2015_6817_unknown_users_are_not_auth_user() {
    let database = postgres().database();
    for (auth_type, expected) in [("scram-sha-256", "28P01"), ("md5", "28P01"), ("plain", "28P01"), ("trust", "28000")]
    {
        let pooler = pooler(&database, &format!("auth_type = \"{auth_type}\"\nauth_user = \"asker\""));
        // The pool of auth_user has a server by then.
        assert_eq!(sqlstate(pooler.try_connect(Login { user: "unknown", password: "x" }, &database)), expected);
        for password in ["", ASKER.password, "guess"] {
            for user in ["nobody_at_all", "asker ", "", "pg_read_all_data"] {
                let all = [("user", user), ("database", database.as_str())];
                let found = sqlstate(Raw::connect_with(pooler.addr(), password, &all));
                assert!(["28P01", "28000"].contains(&found.as_str()), "{auth_type}, {user:?} {password:?}: {found}");
            }
        }
        assert_eq!(pooler.connect(ASKER, &database).value("SELECT current_user"), "asker");
    }
}

/// PgBouncer before 1.16.1 took what stood in the clear behind SSLRequest for the encrypted client's own: somebody in
/// between could put statements in front of those of a client that showed its certificate.
/// Here the connection ends.
#[test]
fn cve_2021_3935_words_put_in_front_of_a_clients() {
    let database = postgres().database();
    let authority = Authority::new();
    let (own, theirs) = (authority.sign("own", "pooler", &["localhost"]), authority.sign("theirs", "app", &[]));
    let ca = authority.certificate();
    let pooler = pooler(
        &database,
        &format!(
            "auth_type = \"cert\"\nclient_tls_sslmode = \"verify-full\"\nclient_tls_cert_file = \"{}\"\n\
             client_tls_key_file = \"{}\"\nclient_tls_ca_file = \"{}\"",
            own.cert.display(),
            own.key.display(),
            ca.display()
        ),
    );
    let words =
        [m::startup(&[("user", APP.user), ("database", &database)]), m::query("CREATE TABLE theirs ()")].concat();
    let to = |port: u16| {
        format!(
            "host=localhost hostaddr=127.0.0.1 port={port} user=app dbname={database} sslmode=verify-full sslrootcert={} \
             sslcert={} sslkey={}",
            ca.display(),
            theirs.cert.display(),
            theirs.key.display()
        )
    };
    let found = attempt(&[to(relay(pooler.port(), &[], &[])), to(relay(pooler.port(), &words, &[]))]);
    assert_eq!(found[0], "tls plain", "{}", pooler.log());
    assert!(found[1].starts_with("refused"), "{found:?}");
    assert!(pooler.logs("received unencrypted data"), "{}", pooler.log());
    assert_eq!(postgres().admin(&database).value("SELECT to_regclass('theirs') IS NULL"), "t");
}

/// PgBouncer before 1.24.1 let clients in whose password had expired, as its default `auth_query` did not look.
/// Ours does. The server would not notice: it may have been opened before.
#[test]
fn cve_2025_2291_passwords_that_have_expired() {
    let database = postgres().database();
    let mut admin = postgres().admin(&database);
    let login = Login { user: "late", password: "too late" };
    let careless = "\nauth_query = \"SELECT rolname, rolpassword FROM pg_authid WHERE rolname=$1\"";
    for auth_type in ["scram-sha-256", "md5", "plain"] {
        for (query, expected) in [("", "28P01"), (careless, "let in")] {
            admin.run("DROP ROLE IF EXISTS late; CREATE ROLE late LOGIN PASSWORD 'too late' VALID UNTIL 'infinity'");
            let more = format!("auth_type = \"{auth_type}\"\nauth_user = \"asker\"\nauth_query_cache = 0{query}");
            let pooler = pooler(&database, &more);
            assert_eq!(pooler.connect(login, &database).value("SELECT current_user"), "late");
            admin.run("ALTER ROLE late VALID UNTIL '2000-01-01'");
            assert_eq!(sqlstate(pooler.try_connect(login, &database)), expected, "{auth_type}{query}");
            admin.run("ALTER ROLE late VALID UNTIL '2999-01-01'");
            assert_eq!(pooler.connect(login, &database).value("SELECT current_user"), "late");
        }
    }
}

/// PgBouncer before 1.25.1 could bring a client's `search_path` to the server that `auth_query` runs on, before anybody
/// had proven anything: a table of the client's own answered. Here nothing of the client reaches it but the user's name.
/// `auth_query::what_a_client_sends_along_does_not_reach_the_query` has a function of its own in place of a table.
#[test]
fn cve_2025_12819_the_clients_search_path_is_not_auth_querys() {
    let database = postgres().database();
    postgres().admin(&database).run(
        "CREATE SCHEMA evil; GRANT USAGE ON SCHEMA evil TO public; CREATE TABLE evil.pg_authid AS \
         SELECT 'app'::name AS rolname, 'md5' || pg_catalog.md5('guessapp') AS rolpassword, \
         'infinity'::timestamptz AS rolvaliduntil, true AS rolcanlogin",
    );
    let path = "evil, pg_catalog";
    // Not listed, so that PostgreSQL is asked.
    let unlisted = format!(
        "listen_port = {{port}}\nauth_type = \"md5\"\nauth_user = \"asker\"\nauth_query_cache = 0\nauth_failure_delay = 0\n\
         default_pool_size = 1\nadmin_users = [\"boss\"]\n[databases.{database}]\nhost = \"127.0.0.1\"\nport = {}\n\
         [users.asker]\npassword = \"asks\"\n[users.boss]\npassword = \"boss\"\n",
        postgres().port()
    );
    let pooler = Pooler::file("pgsluice.toml", &unlisted, BOSS);
    // Who shares the pool of auth_user has left the same there.
    let mut neighbour = pooler.connect(ASKER, &database);
    neighbour.run(&format!("SET search_path = {path}"));
    assert_eq!(neighbour.value("SELECT count(*) FROM pg_authid"), "1");
    for parameters in [vec![("search_path", path)], vec![("options", "-csearch_path=evil,pg_catalog")], vec![]] {
        let all: Vec<_> = [("user", "app"), ("database", &database)].into_iter().chain(parameters).collect();
        assert_eq!(sqlstate(Raw::connect_with(pooler.addr(), "guess", &all)), "28P01");
        assert_eq!(sqlstate(Raw::connect_with(pooler.addr(), APP.password, &all)), "let in");
    }
    assert_eq!(neighbour.value("SELECT count(*) FROM pg_authid"), "1");
}

/// PgBouncer before 1.25.2 added a length in a SASL message to a position, past the end of the number, and crashed.
/// Here it is compared with what there is.
#[test]
fn cve_2026_6664_lengths_inside_a_sasl_message() {
    let database = postgres().database();
    let pooler = pooler(&database, "");
    for length in [u32::MAX, u32::MAX - 1, u32::MAX - 17, 1 << 31, i32::MAX as u32, 1000, 5, 3, 0] {
        let (mut raw, question) = asked(&pooler, APP, &database);
        assert_eq!(question.body[3], 10, "AuthenticationSASL");
        let body = [&b"SCRAM-SHA-256\0"[..], &length.to_be_bytes(), b"n,,n"].concat();
        raw.send(&m::tagged(b'p', &body)).expect("it reads");
        is_not_let_in(&mut raw, &length.to_string());
    }
    is_well(&pooler, &database);
}

/// Whatever a server does at its login, its client is refused in time, and another database is served meanwhile.
fn hostile_login(login: fake::Act) {
    let database = postgres().database();
    let entries = format!(
        "[databases.{database}]\nhost = \"127.0.0.1\"\nport = {}\n[databases.fake]\nhost = \"127.0.0.1\"\nport = {}\n",
        postgres().port(),
        Fake::start(Script { login, ..Script::default() }).port()
    );
    let pooler = serving(&entries, "server_connect_timeout = 2\nquery_wait_timeout = 2");
    is_well(&pooler, &database);
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let refused = scope.spawn(|| sqlstate(pooler.try_connect(APP, "fake")));
        for _ in 0..20 {
            is_well(&pooler, &database);
        }
        let refused = refused.join().expect("an end");
        assert!(!refused.is_empty() && refused != "let in", "{refused}");
    });
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
}

/// The server's part of SCRAM up to its first message: `more` is added to the client's nonce, and there is the rest of it.
fn scram(stream: &mut TcpStream, more: &str, rest: &str) -> io::Result<()> {
    stream.write_all(&m::tagged(b'R', b"\0\0\0\x0aSCRAM-SHA-256\0\0"))?;
    let (_, initial) = fake::read_message(stream)?;
    let text = String::from_utf8_lossy(&initial).into_owned();
    let nonce = text.split("r=").nth(1).unwrap_or_default();
    stream.write_all(&m::tagged(b'R', format!("\0\0\0\x0br={nonce}{more},{rest}").as_bytes()))?;
    let (_, _last) = fake::read_message(stream)?;
    stream.write_all(&m::tagged(b'R', b"\0\0\0\x0cv=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="))?;
    stream.write_all(&fake::welcome(&7_u32.to_be_bytes()))
}

/// PgBouncer before 1.25.2 wrote a server's long nonce past the end of its buffer (PostgreSQL's libpq did much the same:
/// CVE-2019-10164). Here a message of a server's SCRAM has 2,000 bytes at most, and buffers grow.
#[test]
fn cve_2026_6665_a_servers_long_nonce() {
    fn nonce<const N: usize>(stream: &mut TcpStream) -> io::Result<()> {
        scram(stream, &"n".repeat(N), "s=c2FsdHNhbHQ=,i=4096")
    }
    [nonce::<1>, nonce::<1000>, nonce::<1900>, nonce::<2100>, nonce::<70_000>].into_iter().for_each(hostile_login);
}

/// PgBouncer before 1.25.2 crashed at a server's error without an SQLSTATE.
/// Here a field that is missing is an empty text, or a general one.
#[test]
fn cve_2026_6666_a_servers_error_without_sqlstate() {
    hostile_login(|stream| stream.write_all(&m::tagged(b'E', b"SFATAL\0Mno\0\0")));
    hostile_login(|stream| stream.write_all(&m::tagged(b'E', b"\0")));
    hostile_login(|stream| stream.write_all(&m::tagged(b'E', b"C\0\0")));
    hostile_login(|stream| stream.write_all(&m::tagged(b'E', b"")));
    let answers: [fake::Act; 2] = [
        |stream| stream.write_all(&[m::tagged(b'E', b"SERROR\0Mno\0\0"), fake::ready()].concat()),
        |stream| stream.write_all(&[m::tagged(b'E', b"\0"), fake::ready()].concat()),
    ];
    for query in answers {
        let port = Fake::start(Script { query, ..Script::default() }).port();
        let pooler =
            serving(&format!("[databases.fake]\nhost = \"127.0.0.1\"\nport = {port}\naudit = \"never\"\n"), "");
        let mut client = pooler.connect(APP, "fake");
        assert!(client.query(fake::CUE).iter().any(|reply| reply.tag == b'E'));
        assert_eq!(client.value("and on"), "and on");
    }
}

/// PgBouncer before 1.25.2 let `stats_users` use KILL_CLIENT.
/// Here they may look only, and no command is an exception.
#[test]
fn cve_2026_6667_who_may_look_may_not_kill() {
    let database = postgres().database();
    let pooler = pooler(&database, "");
    let mut victim = pooler.connect(APP, &database);
    victim.run("SELECT 1");
    let row = pooler.show("SHOW CLIENTS").into_iter().find(|row| row["user"] == "app").expect("the client");
    let mut watcher = pooler.connect(WATCHER, "pgbouncer");
    assert!(watcher.rows("SHOW CLIENTS").is_ok());
    let kill = format!("KILL_CLIENT {}", row["id"]);
    let of_one = ["KILL", "PAUSE", "RESUME", "DISABLE", "ENABLE", "RECONNECT", "WAIT_CLOSE"]
        .map(|verb| format!("{verb} {database}"));
    let of_all = ["KILL", "PAUSE", "RESUME", "RECONNECT", "RELOAD", "SHUTDOWN", "SHUTDOWN WAIT_FOR_CLIENTS"];
    let set = "SET default_pool_size = 1";
    for command in [kill.as_str(), set].into_iter().chain(of_one.iter().map(String::as_str)).chain(of_all) {
        let outcome = watcher.rows(command);
        assert_eq!(outcome.expect_err(command).sqlstate(), "42501", "{command}");
    }
    assert_eq!(victim.value("SELECT 1"), "1");
    assert_eq!(pooler.show("SHOW DATABASES").iter().filter(|row| row["paused"] == "1").count(), 0);
    pooler.console().run(&kill);
}

/// PgBouncer to 1.25.2 and, in another buffer, to 1.26.0 (CVE-2026-107348) doubled a buffer's size past the end of the
/// number, and looped without end. Here no memory is reserved for what a length announces, and one that cannot be is refused.
#[test]
fn cve_2026_6668_and_107348_lengths_of_messages() {
    let database = postgres().database();
    let pooler = pooler(&database, "");
    is_well(&pooler, &database);
    pooler.forget_peak();
    let idle = pooler.resident();
    for length in [(1_u32 << 30) + 1025, i32::MAX as u32, 1 << 31, (1 << 31) + 1, u32::MAX - 3, u32::MAX] {
        let bytes = length.to_be_bytes();
        let refused = answer(&pooler, &[&bytes[..], &[0, 3, 0, 0], &[b'x'; 60_000]].concat());
        assert!(refused.contains("08P01"), "{length}: {refused}");
        let message = |tag: u8| [&[tag][..], &bytes, &[b'x'; 60_000]].concat();
        let (mut raw, _) = asked(&pooler, APP, &database);
        let _ = raw.send(&message(b'p'));
        is_not_let_in(&mut raw, &length.to_string());
        for tag in *b"QPBDECHSXdcfFp" {
            let mut client = pooler.connect(APP, &database);
            let _ = client.send(&message(tag));
            assert!(client.until_closed(SOON).is_some(), "{length}, {}: left hanging", char::from(tag));
        }
    }
    is_well(&pooler, &database);
    let over = pooler.peak().saturating_sub(idle);
    assert!(over < 16 << 10, "{over} KiB over {idle}");
}

/// PgBouncer to 1.25.2 hashed as often as a server's SCRAM asked for, up to four thousand million times, and served nobody meanwhile.
/// Here a million is the most.
#[test]
fn cve_2026_6669_iterations_that_a_server_asks_for() {
    hostile_login(|stream| scram(stream, "x", "s=c2FsdHNhbHQ=,i=4294967295"));
    hostile_login(|stream| scram(stream, "x", "s=c2FsdHNhbHQ=,i=2147483647"));
    hostile_login(|stream| scram(stream, "x", "s=c2FsdHNhbHQ=,i=99999999999999999999"));
    hostile_login(|stream| scram(stream, "x", "s=c2FsdHNhbHQ=,i=0"));
}

/// PgBouncer to 1.25.2 crashed at a last SCRAM message of a client that lacked an attribute.
/// Here it is one that proves nothing.
#[test]
fn cve_2026_19888_a_last_scram_message_that_lacks_something() {
    let database = postgres().database();
    let pooler = pooler(&database, "");
    for form in
        ["c=biws,r={}", "c=biws", "r={}", "", "c=biws,p=AAAA", "p=AAAA", "c=,r=,p=", "c=biws,r={},p=", "c", ",,,"]
    {
        for end in ["", ",", "\0", ",p"] {
            let (mut raw, _) = asked(&pooler, APP, &database);
            let exchange = sasl::ScramSha256::new(APP.password.as_bytes(), sasl::ChannelBinding::unsupported());
            raw.send(&m::sasl_initial("SCRAM-SHA-256", exchange.message())).expect("it reads");
            let first = raw.recv().expect("a challenge");
            let text = String::from_utf8_lossy(&first.body[4..]).into_owned();
            let nonce = text.strip_prefix("r=").and_then(|rest| rest.split(',').next()).expect("a nonce");
            let last = form.replace("{}", nonce) + end;
            raw.send(&m::tagged(b'p', last.as_bytes())).expect("it reads");
            is_not_let_in(&mut raw, &last);
        }
    }
    is_well(&pooler, &database);
}

/// PgBouncer 1.20 to 1.26.0 looped without end at an option without a name, where `ignore_startup_parameters` was set.
/// Here it is refused or taken as PostgreSQL would.
#[test]
fn cve_2026_107349_options_without_a_name() {
    let database = postgres().database();
    let pooler = pooler(&database, "ignore_startup_parameters = [\"extra_float_digits\", \"search_path\"]");
    for options in ["-c=", "-c =", "-c =x", "--=", "--", "-c", "-", "=", "-c \\ =x", "-c=-c=", "-c a=1 -c="] {
        let begun = Instant::now();
        let all = [("user", APP.user), ("database", &database), ("options", options)];
        let found = sqlstate(Raw::connect_with(pooler.addr(), APP.password, &all));
        assert!(!found.is_empty() && begun.elapsed() < SOON, "{options}: {found}");
        let direct = sqlstate(Raw::connect_with(postgres().addr(), APP.password, &all));
        assert_eq!(found, direct, "{options}");
    }
    is_well(&pooler, &database);
}

/// PgBouncer 1.17 to 1.26.0 took a second startup message in the middle of SCRAM, when the first one's database did not
/// exist: who knew one password was let in as anybody. Here only a password can come after the question for it.
#[test]
fn cve_2026_107350_a_second_startup_message() {
    let real = postgres().database();
    let pooler = pooler(&real, "");
    for database in ["no_such_database", &real] {
        for (user, target) in [(BOSS.user, "pgsluice"), ("postgres", real.as_str()), (APP.user, real.as_str())] {
            for late in [false, true] {
                let second = m::startup(&[("user", user), ("database", target)]);
                let (mut raw, _) = asked(&pooler, APP, database);
                let mut exchange = sasl::ScramSha256::new(APP.password.as_bytes(), sasl::ChannelBinding::unsupported());
                if !late {
                    raw.send(&second).expect("it reads");
                }
                let _ = raw.send(&m::sasl_initial("SCRAM-SHA-256", exchange.message()));
                if late {
                    let first = raw.recv().expect("a challenge");
                    exchange.update(&first.body[4..]).expect("a good one");
                    let last = m::tagged(b'p', exchange.message());
                    raw.send(&[second, last].concat()).expect("it reads");
                }
                is_not_let_in(&mut raw, &format!("{database}, {user}, {late}"));
            }
        }
    }
    is_well(&pooler, &real);
}
