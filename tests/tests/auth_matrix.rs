//! Every method of authentication over every kind of channel, on both sides: libpq 18 as the client, PostgreSQL 15 and 18 as the
//! servers, and what is to come of each cell.

use std::path::Path;
use std::process::Command;

use pgsluice_tests::certificates::{Authority, Identity};
use pgsluice_tests::libpq::attempt;
use pgsluice_tests::process::Directory;
use pgsluice_tests::{APP, APP_MD5, Login, Pooler, Postgres, Version};

/// As whom this test runs.
fn system_user() -> String {
    let output = Command::new("id").arg("-un").output().expect("id runs");
    String::from_utf8(output.stdout).expect("a name").trim().to_owned()
}

/// One cell: a channel and what is expected over it.
type Cell = (&'static str, &'static str);

/// For each method, over each channel towards us: what `attempt` says, or what it is refused with.
const CLIENTS: [(&str, [Cell; 5]); 8] = {
    const PLAIN: Cell = ("plain", "plain plain");
    const TLS: [Cell; 3] = [("tls 1.2", "tls plain"), ("tls 1.3", "tls plain"), ("direct", "tls plain")];
    const NO_ENTRY: &str = "no pg_hba.conf entry for host";
    const NO_LOCAL: Cell = ("unix", "no pg_hba.conf entry for host \"[local]\"");
    [
        ("md5", [PLAIN, TLS[0], TLS[1], TLS[2], ("unix", "plain plain")]),
        ("scram", [PLAIN, TLS[0], TLS[1], TLS[2], ("unix", "plain plain")]),
        // The client asks for channel binding, which only TLS has.
        ("plus", [("plain", "channel binding required"), TLS[0], TLS[1], TLS[2], ("unix", "channel binding required")]),
        ("cert", [("plain", NO_ENTRY), TLS[0], TLS[1], TLS[2], NO_LOCAL]),
        ("no_cert", {
            const NEEDED: &str = "connection requires a valid client certificate";
            [("plain", NO_ENTRY), ("tls 1.2", NEEDED), ("tls 1.3", NEEDED), ("direct", NEEDED), NO_LOCAL]
        }),
        ("trust", [PLAIN, TLS[0], TLS[1], TLS[2], ("unix", "plain plain")]),
        ("reject", {
            const REJECTS: &str = "pg_hba.conf rejects connection for host";
            [("plain", REJECTS), ("tls 1.2", REJECTS), ("tls 1.3", REJECTS), ("direct", REJECTS), ("unix", REJECTS)]
        }),
        ("peer", {
            const NO: &str = NO_ENTRY;
            [("plain", NO), ("tls 1.2", NO), ("tls 1.3", NO), ("direct", NO), ("unix", "plain plain")]
        }),
    ]
};

/// Rules for clients and for PostgreSQL: each method has a database of its name.
fn rules() -> String {
    "host    admin   all all trust\n\
     local   admin   all     trust\n\
     host    md5     all all md5\n\
     local   md5     all     md5\n\
     host    scram,plus all all scram-sha-256\n\
     local   scram,plus all scram-sha-256\n\
     hostssl cert,no_cert all all cert map=certificates\n\
     host    trust   all all trust\n\
     local   trust   all     trust\n\
     host    reject  all all reject\n\
     local   reject  all     reject\n\
     local   peer    all     peer map=people\n"
        .to_owned()
}

/// The certificate's and the system's names are not the user's.
fn maps() -> String {
    format!("certificates client.example app\npeople {} app\npeople {} app_md5\n", system_user(), system_user())
}

/// libpq's words for a channel towards the pooler.
fn channel(pooler: &Pooler, sockets: &Path, ca: &Path, name: &str) -> String {
    let tcp = format!("host=localhost hostaddr=127.0.0.1 port={}", pooler.port());
    let verified = format!("{tcp} sslmode=verify-full sslrootcert={}", ca.display());
    match name {
        "plain" => format!("{tcp} sslmode=disable"),
        "tls 1.2" => format!("{verified} ssl_max_protocol_version=TLSv1.2"),
        "tls 1.3" => format!("{verified} ssl_min_protocol_version=TLSv1.3"),
        "direct" => format!("{verified} sslnegotiation=direct"),
        _ => format!("host={} port={}", sockets.display(), pooler.port()),
    }
}

fn is_as_expected(found: &str, expected: &str) -> bool {
    match found.strip_prefix("refused: ") {
        Some(why) => expected.split('|').any(|part| why.contains(part)),
        None => found == expected,
    }
}

#[test]
fn every_method_over_every_channel_towards_clients() {
    let authority = Authority::new();
    let ca = authority.certificate();
    let own = authority.sign("own", "pooler", &["localhost"]);
    let theirs = authority.sign("theirs", "client.example", &[]);
    for version in Version::ALL {
        let postgres = Postgres::start_version(version, &[]);
        let database = postgres.database();
        let sockets = Directory::fresh("sockets");
        let entries: String = CLIENTS
            .iter()
            .map(|(method, _)| format!("{method} = host=127.0.0.1 port={} dbname={database}\n", postgres.port()))
            .collect();
        let ini = format!(
            "[databases]\n{entries}admin = host=127.0.0.1 port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {{port}}\nunix_socket_dir = {}\nauth_type = hba\nauth_hba_file = {{dir}}/hba.conf\n\
             auth_ident_file = {{dir}}/ident.conf\nauth_file = {{dir}}/users.txt\nadmin_users = {}\n\
             pool_mode = transaction\nauth_failure_delay = 0\nclient_tls_sslmode = allow\n\
             client_tls_cert_file = {}\nclient_tls_key_file = {}\nclient_tls_ca_file = {}\n",
            postgres.port(),
            sockets.path().display(),
            APP.user,
            own.cert.display(),
            own.key.display(),
            ca.display(),
        );
        let users = format!("\"{}\" \"{}\"\n\"{}\" \"{}\"\n", APP.user, APP.password, APP_MD5.user, APP_MD5.password);
        let console = "host pgbouncer,pgsluice all all scram-sha-256\n";
        let files = [
            ("pgbouncer.ini", ini.as_str()),
            ("hba.conf", &(rules() + console)),
            ("ident.conf", &maps()),
            ("users.txt", &users),
        ];
        let pooler = Pooler::files(&files, APP);
        let mut cells = Vec::new();
        for (method, channels) in CLIENTS {
            for (name, expected) in channels {
                let login = if method == "md5" { APP_MD5 } else { APP };
                let mut conninfo = channel(&pooler, sockets.path(), &ca, name);
                conninfo += &format!(" user={} dbname={method}", login.user);
                match method {
                    "cert" => conninfo += &format!(" {}", theirs.conninfo()),
                    "md5" | "scram" | "plus" => conninfo += &format!(" password={}", login.password),
                    _ => {}
                }
                if method == "plus" {
                    conninfo += " channel_binding=require";
                }
                cells.push((format!("{version:?}, {method} over {name}"), conninfo, expected));
            }
        }
        check(&cells, || pooler.log());
    }
}

fn check(cells: &[(String, String, &str)], log: impl Fn() -> String) {
    let conninfos: Vec<_> = cells.iter().map(|(_, conninfo, _)| conninfo.clone()).collect();
    let wrong: Vec<_> = cells
        .iter()
        .zip(attempt(&conninfos))
        .filter(|((_, _, expected), found)| !is_as_expected(found, expected))
        .map(|((cell, _, expected), found)| format!("{cell}: expected {expected}, found {found}"))
        .collect();
    assert!(wrong.is_empty(), "{}\n{}", wrong.join("\n"), log());
}

/// For each method, over each channel towards PostgreSQL: does it open?
const SERVERS: [(&str, [bool; 5]); 6] = [
    ("md5", [true, true, true, true, true]),
    // Over TLS we bind the channel, as PostgreSQL offers it.
    ("scram", [true, true, true, true, true]),
    ("cert", [false, true, true, true, false]),
    ("trust", [true, true, true, true, true]),
    ("reject", [false, false, false, false, false]),
    ("peer", [false, false, false, false, true]),
];

#[test]
fn every_method_over_every_channel_towards_servers() {
    let authority = Authority::new();
    let ca = authority.certificate();
    let own = authority.sign("own", "client.example", &[]);
    for version in Version::ALL {
        let postgres = Postgres::start_version(version, &[]);
        {
            let mut admin = postgres.admin("postgres");
            for (method, _) in SERVERS {
                admin.run(&format!("CREATE DATABASE {method}"));
            }
        }
        postgres.set_tls(&authority.sign("server", "postgres", &["localhost"]), Some(&ca));
        // PostgreSQL runs as somebody who cannot look at our names: the map has the uid's name as it is.
        postgres.set_rules(&("local all postgres trust\nhost all postgres all trust\n".to_owned() + &rules()), &maps());
        let strict = format!(
            "server_tls_ca_file = {}\nserver_tls_cert_file = {}\nserver_tls_key_file = {}\n",
            ca.display(),
            own.cert.display(),
            own.key.display()
        );
        let verify = |more: &str| format!("server_tls_sslmode = verify-full\n{strict}{more}\n");
        let channels = [
            ("plain", "localhost".to_owned(), "server_tls_sslmode = disable\n".to_owned()),
            ("tls 1.2", "localhost".to_owned(), verify("server_tls_protocols = tlsv1.2")),
            ("tls 1.3", "localhost".to_owned(), verify("server_tls_protocols = tlsv1.3")),
            ("direct", "localhost".to_owned(), verify("server_tls_sslnegotiation = direct")),
            ("unix", postgres.socket_dir().display().to_string(), "server_tls_sslmode = disable\n".to_owned()),
        ];
        for (at, (name, host, tls)) in channels.iter().enumerate() {
            // PostgreSQL 15 has no direct TLS.
            let is_there = !(*name == "direct" && version == Version::Installed);
            let pooler = in_front(&postgres, host, tls);
            let mut cells = Vec::new();
            for (method, opens) in SERVERS {
                let login = if method == "md5" { APP_MD5 } else { APP };
                let expected = match (opens[at] && is_there, *name) {
                    (false, _) => "cannot connect to PostgreSQL|pg_hba.conf|query_wait_timeout",
                    (true, "plain" | "unix") => "plain plain",
                    (true, _) => "plain tls",
                };
                let Login { user, password } = login;
                let conninfo = format!(
                    "host=127.0.0.1 port={} user={user} password={password} dbname={method} sslmode=disable",
                    pooler.port()
                );
                cells.push((format!("{version:?}, {method} over {name}"), conninfo, expected));
            }
            check(&cells, || format!("{}\n{}", pooler.log(), postgres.log()));
        }
    }
}

fn in_front(postgres: &Postgres, host: &str, tls: &str) -> Pooler {
    let entries: String =
        SERVERS.iter().map(|(method, _)| format!("{method} = host={host} port={}\n", postgres.port())).collect();
    let ini = format!(
        "[databases]\n{entries}[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {{port}}\nunix_socket_dir =\n\
         auth_type = scram-sha-256\nauth_file = {{dir}}/users.txt\nadmin_users = {}\npool_mode = transaction\n\
         query_wait_timeout = 2\n{tls}",
        APP.user
    );
    let users = format!("\"{}\" \"{}\"\n\"{}\" \"{}\"\n", APP.user, APP.password, APP_MD5.user, APP_MD5.password);
    Pooler::files(&[("pgbouncer.ini", ini.as_str()), ("users.txt", &users)], APP)
}

#[test]
fn a_certificate_is_enough_with_auth_type_cert_if_it_is_for_the_user() {
    let authority = Authority::new();
    let ca = authority.certificate();
    let own = authority.sign("own", "pooler", &["localhost"]);
    let postgres = Postgres::shared();
    let database = postgres.database();
    let ini = format!(
        "[databases]\n{database} = host=127.0.0.1 port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
         listen_port = {{port}}\nunix_socket_dir = {{dir}}\nauth_type = cert\nauth_file = {{dir}}/users.txt\n\
         admin_users = {}\npool_mode = transaction\nclient_tls_sslmode = verify-full\n\
         client_tls_cert_file = {}\nclient_tls_key_file = {}\nclient_tls_ca_file = {}\n",
        postgres.port(),
        APP.user,
        own.cert.display(),
        own.key.display(),
        ca.display(),
    );
    let users = format!("\"{}\" \"{}\"\n\"{}\" \"{}\"\n", APP.user, APP.password, APP_MD5.user, APP_MD5.password);
    let pooler = Pooler::files(&[("pgbouncer.ini", ini.as_str()), ("users.txt", &users)], APP);
    let with = |user: &str, identity: &Identity| {
        let channel = channel(&pooler, Path::new(""), &ca, "tls 1.3");
        format!("{channel} user={user} dbname={database} {}", identity.conninfo())
    };
    let (app, nobody) = (authority.sign("app", "app", &[]), authority.sign("nobody", "nobody", &[]));
    let stranger = Authority::new().sign("stranger", "app", &[]);
    let cells = [
        ("its own".to_owned(), with("app", &app), "tls plain"),
        ("another's".to_owned(), with("app_md5", &app), "certificate authentication failed for user \"app_md5\""),
        ("of nobody who is known".to_owned(), with("nobody", &nobody), "role \"nobody\" does not exist"),
        ("a stranger's".to_owned(), with("app", &stranger), "unknown ca|certificate"),
        (
            "none, over the Unix socket".to_owned(),
            format!("host={} port={} user=app dbname={database}", pooler.directory().display(), pooler.port()),
            "connection requires a valid client certificate",
        ),
    ];
    check(&cells, || pooler.log());
}

#[test]
fn rules_are_read_again_as_a_whole_or_not_at_all() {
    let postgres = Postgres::shared();
    let database = postgres.database();
    let ini = format!(
        "[databases]\n{database} = host=127.0.0.1 port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
         listen_port = {{port}}\nunix_socket_dir =\nauth_type = hba\nauth_hba_file = {{dir}}/hba.conf\n\
         auth_file = {{dir}}/users.txt\nadmin_users = {}\npool_mode = transaction\n",
        postgres.port(),
        APP.user,
    );
    let users = format!("\"{}\" \"{}\"\n", APP.user, APP.password);
    let console = "host pgbouncer all all scram-sha-256\n";
    let open = format!("{console}host all all 127.0.0.0/8 scram-sha-256\n");
    let files = [("pgbouncer.ini", ini.as_str()), ("hba.conf", open.as_str()), ("users.txt", &users)];
    let pooler = Pooler::files(&files, APP);
    // A rule for replication names no database: it is not a way into the console.
    let replication = [("user", "app"), ("database", "pgbouncer"), ("replication", "true")];
    let refused =
        pgsluice_tests::Raw::connect_with(pooler.addr(), APP.password, &replication).err().expect("a refusal");
    assert_eq!(refused.sqlstate(), "0A000");
    let state = || pooler.try_connect(APP, &database).map_or_else(|error| error.sqlstate(), |_| "in".to_owned());
    let reload = |rules: &str| {
        std::fs::write(pooler.directory().join("hba.conf"), rules).expect("the directory is writable");
        pooler.console().rows("RELOAD").is_ok()
    };
    let mut stays = pooler.connect(APP, &database);
    assert_eq!(state(), "in");
    assert!(reload(&format!("{console}host all all 10.0.0.0/8 scram-sha-256\n")));
    assert_eq!(state(), "28000");
    assert_eq!(stays.value("SELECT 1"), "1");
    // One bad line, and all stays as it was.
    assert!(!reload(&format!("{open}host all all somewhere.example scram-sha-256\n")));
    assert!(pooler.logs("hba.conf:3"), "{}", pooler.log());
    assert_eq!(state(), "28000");
    assert!(reload(&open));
    assert_eq!(state(), "in");
}
