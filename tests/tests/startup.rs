//! The first bytes of a connection: requests for encryption, logins whole and in pieces, parameters, and things
//! that are no PostgreSQL client at all.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use pgsluice_tests::wire::message as m;
use pgsluice_tests::{APP, Login, Pooler, Postgres, Raw, Version};

fn pooler() -> (Pooler, String) {
    let postgres = Postgres::shared();
    let database = postgres.database();
    (Pooler::url(postgres, APP, &database, &["--pool-size", "2"]), database)
}

/// The byte that answers an encryption request.
fn ask(raw: &mut Raw, request: &[u8]) -> u8 {
    raw.send(request).expect("the peer accepts bytes");
    let mut answer = [0];
    raw.stream().read_exact(&mut answer).expect("one byte answers");
    answer[0]
}

#[test]
fn encryption_is_declined_and_the_login_goes_on() {
    let (pooler, database) = pooler();
    let mut raw = Raw::open(pooler.addr()).unwrap();
    assert_eq!(ask(&mut raw, &m::gssenc_request()), b'N');
    assert_eq!(ask(&mut raw, &m::ssl_request()), b'N');
    raw.send(&m::startup(&[("user", APP.user), ("database", &database)])).unwrap();
    raw.authenticate(APP.user, APP.password).unwrap();
    assert_eq!(raw.value("SELECT 1"), "1");
}

#[test]
fn a_startup_message_may_come_byte_by_byte() {
    let (pooler, database) = pooler();
    let mut raw = Raw::open(pooler.addr()).unwrap();
    for byte in m::startup(&[("user", APP.user), ("database", &database)]) {
        raw.send(&[byte]).unwrap();
        std::thread::sleep(Duration::from_millis(1));
    }
    raw.authenticate(APP.user, APP.password).unwrap();
    assert_eq!(raw.value("SELECT 1"), "1");
}

/// PostgreSQL cuts names; what is configured or forbidden for one has to hold however it is spelled.
#[test]
fn names_are_cut_as_postgresql_cuts_them() {
    let postgres = Postgres::start(&[]);
    let long: &'static str = "n".repeat(70).leak();
    let mut admin = postgres.admin("postgres");
    admin.run(&format!("CREATE ROLE {long} LOGIN PASSWORD 'long'"));
    admin.run(&format!("CREATE DATABASE {long}"));
    let login = Login { user: long, password: "long" };
    let text = format!(
        "listen_port = {{port}}\nadmin_users = [\"boss\"]\n[databases.\"*\"]\nhost = \"127.0.0.1\"\nport = {}\n\
         [users.{short}]\npassword = \"long\"\n[users.boss]\npassword = \"boss\"\n",
        postgres.port(),
        short = &long[..63],
    );
    let pooler = Pooler::file("pgsluice.toml", &text, Login { user: "boss", password: "boss" });
    let asked = "SELECT current_user || ' ' || current_database()";
    let direct = postgres.connect(login, long).value(asked);
    for name in [long, &long[..63]] {
        assert_eq!(pooler.connect(Login { user: name, ..login }, name).value(asked), direct);
    }
    pooler.console().run(&format!("DISABLE {}", &long[..63]));
    for name in [long, &long[..63]] {
        let refused = pooler.try_connect(login, name).err().map(|error| format!("{error:?}"));
        assert!(refused.as_ref().is_some_and(|text| text.contains("disabled")), "{refused:?}");
    }
}

#[test]
fn the_login_tells_what_postgresql_tells() {
    let (pooler, database) = pooler();
    let direct = Postgres::shared().connect(APP, &database);
    let pooled = pooler.connect(APP, &database);
    assert_eq!(pooled.parameters, direct.parameters);
    assert_ne!(pooled.pid, 0);
    assert_eq!(pooled.secret.len(), 4, "protocol 3.0 has four-byte keys");
}

#[test]
fn the_login_tells_what_postgresql_18_tells() {
    let postgres = Postgres::start_version(Version::V18, &[]);
    let pooler = Pooler::url(&postgres, APP, "postgres", &["--pool-size", "2"]);
    let direct = postgres.connect(APP, "postgres");
    let mut pooled = pooler.connect(APP, "postgres");
    assert!(direct.parameters.contains_key("search_path"), "18 reports it: {:?}", direct.parameters);
    assert_eq!(pooled.parameters, direct.parameters);
    assert!(pooled.value("SHOW server_version").starts_with("18"));
}

#[test]
fn startup_parameters_reach_the_server() {
    let (pooler, database) = pooler();
    let parameters = [
        ("user", APP.user),
        ("database", &database),
        ("application_name", "start-up test"),
        ("TimeZone", "Asia/Tokyo"),
        ("DateStyle", "German"),
    ];
    let mut raw = Raw::connect_with(pooler.addr(), APP.password, &parameters).unwrap();
    let mut plain = pooler.connect(APP, &database);
    for _ in 0..10 {
        assert_eq!(raw.value("SHOW application_name"), "start-up test");
        assert_eq!(raw.value("SHOW TimeZone"), "Asia/Tokyo");
        assert_eq!(raw.value("SELECT '2026-02-01'::date"), "01.02.2026");
        assert_eq!(plain.value("SHOW TimeZone"), "UTC", "another client has its own");
        assert_eq!(plain.value("SELECT '2026-02-01'::date"), "2026-02-01");
    }
    assert_eq!(raw.parameters["TimeZone"], "Asia/Tokyo");
}

#[test]
fn the_database_name_defaults_to_the_user_name() {
    let postgres = Postgres::shared();
    let (pooler, _) = pooler();
    let direct = Raw::connect_with(postgres.addr(), APP.password, &[("user", APP.user)]).map(drop).unwrap_err();
    let pooled = Raw::connect_with(pooler.addr(), APP.password, &[("user", APP.user)]).map(drop).unwrap_err();
    assert_eq!((pooled.sqlstate().as_str(), direct.sqlstate().as_str()), ("3D000", "3D000"));
}

#[test]
fn wrong_credentials_and_names_are_refused_with_their_sqlstates() {
    let (pooler, database) = pooler();
    let refusal = |user: &str, password: &str, database: &str| {
        Raw::connect(pooler.addr(), user, password, database).map(drop).unwrap_err().sqlstate()
    };
    assert_eq!(refusal(APP.user, "wrong", &database), "28P01");
    assert_eq!(refusal(APP.user, "", &database), "28P01");
    assert_eq!(refusal("nobody_at_all", "x", &database), "28P01", "an unknown user looks like a wrong password");
    assert_eq!(refusal(APP.user, APP.password, "no_such_database"), "3D000");
    assert_eq!(pooler.connect(APP, &database).value("SELECT 1"), "1");
}

#[test]
fn what_is_no_client_is_turned_away_and_others_go_on() {
    let (pooler, database) = pooler();
    let mut other = pooler.connect(APP, &database);
    let garbage: [&[u8]; 7] = [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\0\0\0\x04",
        b"\0\0\0\x08\0\x01\0\0",
        b"\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\0\0\0\x09\0\x03\0\0x",
        b"\x7f\xff\xff\xff\0\x03\0\0",
    ];
    for bytes in garbage {
        let mut stream = TcpStream::connect(pooler.addr()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        stream.write_all(bytes).unwrap();
        // An ErrorResponse or nothing, but an end: Ok means that the peer closed, a reset will do as well.
        let end = stream.read_to_end(&mut Vec::new());
        let timed_out = end.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
        assert!(!timed_out, "{bytes:02x?} was left hanging");
        assert_eq!(other.value("SELECT 1"), "1");
    }
}

#[test]
fn bytes_smuggled_behind_an_encryption_request_are_not_obeyed() {
    let (pooler, database) = pooler();
    let mut raw = Raw::open(pooler.addr()).unwrap();
    let startup = m::startup(&[("user", APP.user), ("database", &database)]);
    raw.send(&[m::ssl_request(), startup].concat()).unwrap();
    let mut bytes = Vec::new();
    raw.stream().set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let _ = raw.stream().read_to_end(&mut bytes);
    assert!(!bytes.contains(&b'R'), "the login went on: {bytes:?}");
}

#[test]
fn clients_that_hang_up_during_login_leave_nothing_behind() {
    let (pooler, database) = pooler();
    let startup = m::startup(&[("user", APP.user), ("database", &database)]);
    for at in 0..startup.len() {
        let mut raw = Raw::open(pooler.addr()).unwrap();
        raw.send(&startup[..at]).unwrap();
    }
    for _ in 0..20 {
        let mut raw = Raw::open(pooler.addr()).unwrap();
        raw.send(&startup).unwrap();
        raw.recv().unwrap();
    }
    let mut client = pooler.connect(APP, &database);
    assert_eq!(client.value("SELECT 1"), "1");
    let login = || pooler.show("SHOW LISTS").iter().any(|row| row["list"] == "login_clients" && row["items"] == "0");
    assert!(pgsluice_tests::eventually(Duration::from_secs(3), login), "{:?}", pooler.show("SHOW LISTS"));
}

#[test]
fn a_message_of_the_wrong_kind_during_login_is_refused() {
    let (pooler, database) = pooler();
    let mut raw = Raw::open(pooler.addr()).unwrap();
    raw.send(&[m::startup(&[("user", APP.user), ("database", &database)]), m::query("SELECT 1")].concat()).unwrap();
    let replies = raw.until_closed(Duration::from_secs(5)).expect("closed");
    assert!(replies.iter().all(|reply| reply.tag != b'D' && reply.tag != b'Z'), "{replies:?}");
}
