//! Every message an operator can meet, in full: file, line, key, what is allowed or what to do.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use pgsluice_config::{Dialect, FLEET_BYTES_MAX, Loaded, parse, parse_ini, parse_toml};

fn toml(text: &str) -> Vec<String> {
    lines(parse_toml(text, Path::new("pgsluice.toml")))
}

fn ini(text: &str) -> Vec<String> {
    lines(parse_ini(text, Path::new("pgbouncer.ini")))
}

fn lines(loaded: Loaded) -> Vec<String> {
    loaded.expect_err("the text has problems").to_string().lines().map(str::to_string).collect()
}

fn ini_warnings(text: &str) -> Vec<String> {
    let (_, warnings) = parse_ini(text, Path::new("pgbouncer.ini")).expect("the text is valid");
    warnings.iter().map(ToString::to_string).collect()
}

const DATABASE: &str = "[databases.app]\n";

#[test]
fn one_line_each_in_toml() {
    for (line, message) in [
        ("default_pool_szie = 5", "default_pool_szie: unknown key; did you mean default_pool_size?"),
        ("colour = 5", "colour: unknown key; config/reference.toml lists all there are"),
        ("[database.app]", "database: unknown key; did you mean databases?"),
        ("default_pool_size = -5", "default_pool_size: -5 is out of range; allowed: 0 to 1000000"),
        ("default_pool_size = \"5\"", "default_pool_size: expects a whole number, found \"5\""),
        ("default_pool_size = 0.5", "default_pool_size: expects a whole number, found 0.5"),
        ("default_pool_size = [5]", "default_pool_size: expects a whole number, found a list"),
        ("listen_port = 70000", "listen_port: 70000 is out of range; allowed: 0 to 65535"),
        ("listen_port = 7000000", "listen_port: 7000000 is out of range; allowed: 0 to 65535"),
        (
            "pool_mode = \"transactional\"",
            "pool_mode: \"transactional\" is not allowed; allowed: session, transaction, statement",
        ),
        (
            "auth_type = \"ldap\"",
            "auth_type: this way of authenticating is not supported, and a weaker one will not be used in its place; \
             allowed: any, trust, plain, md5, scram-sha-256, cert, hba",
        ),
        (
            "auth_type = \"peer\"",
            "auth_type: peer and reject are methods of rules only; set auth_type to hba, and auth_hba_file to a file with \
             the rule",
        ),
        ("auth_type = \"hba\"", "auth_type: hba needs rules; set auth_hba_file"),
        (
            "auth_type = \"cert\"",
            "auth_type: cert needs certificates of clients; set client_tls_sslmode to verify-full or verify-ca",
        ),
        (
            "pin_policy = \"listen=error tmp=warn\"",
            "pin_policy: reason \"tmp\" is not allowed; allowed: all, temp, advisory_lock, cursor, prepare, listen, load, \
             sequence",
        ),
        (
            "pin_policy = \"all=eror\"",
            "pin_policy: policy \"eror\" of all is not allowed; allowed: pin, error, warn, ignore",
        ),
        (
            "pin_policy = { temp = \"\" }",
            "pin_policy: policy \"\" of temp is not allowed; allowed: pin, error, warn, ignore",
        ),
        (
            "pin_policy = \"error\"",
            "pin_policy: expects pairs of reason and policy separated by blanks, such as \"listen=error temp=warn\", in \
             TOML also a table, found \"error\"",
        ),
        (
            "pin_policy = { temp = 1 }",
            "pin_policy: expects pairs of reason and policy separated by blanks, such as \"listen=error temp=warn\", in \
             TOML also a table, found a table",
        ),
        (
            "pin_policy = \"temp=warn all=pin\"",
            "pin_policy: names a reason twice, or all after others; name each once, and all first",
        ),
        (
            "pin_policy = \"temp=warn TEMP=pin\"",
            "pin_policy: names a reason twice, or all after others; name each once, and all first",
        ),
        ("audit = \"often\"", "audit: \"often\" is not allowed; allowed: suspects, always, never"),
        ("log_stats = \"yes\"", "log_stats: expects true or false, found \"yes\""),
        (
            "query_timeout = \"5 weeks\"",
            "query_timeout: expects seconds, or text such as \"500ms\", \"15s\", \"2min\", \"1h\", found \"5 weeks\"",
        ),
        ("query_timeout = -1", "query_timeout: -1 is out of range; allowed: 0 to 315360000"),
        (
            "unix_socket_mode = 770",
            "unix_socket_mode: expects an octal mode from 0 to 0777, such as 0770 (in TOML 0o770 or \"0770\"), found 770",
        ),
        (
            "listen_addr = [\"a b\"]",
            "listen_addr: expects an address such as 127.0.0.1:6432 or [::1]:6432, or a directory",
        ),
        (
            "listen_addr = []",
            "listen_addr: nowhere to listen: unix_socket_dir is off too; set it, or an address such as 127.0.0.1",
        ),
        (
            "metrics_listen = \"127.0.0.1\"",
            "metrics_listen: expects an address with its port, such as 127.0.0.1:9127 or [::1]:9127, found \"127.0.0.1\"",
        ),
        (
            "metrics_listen = 9127",
            "metrics_listen: expects an address with its port, such as 127.0.0.1:9127 or [::1]:9127, found 9127",
        ),
        (
            "min_pool_size = 30",
            "min_pool_size: the minimum of 30 is above the pool's size of 20; lower the minimum or raise the size",
        ),
        ("budget_warning = 99", "budget_warning: is above budget_critical; lower it"),
        ("budget_critical = 101", "budget_critical: 101 is out of range; allowed: 1 to 100"),
        (
            "fleet = \"eu\\twest\"",
            "fleet: expects a name of 63 bytes at most, without control characters, found \"eu\\twest\"",
        ),
        ("fleet = 7", "fleet: expects a name of 63 bytes at most, without control characters, found 7"),
        (
            "fleet_dbname = \"\"\nfleet = \"eu\"",
            "fleet_dbname: a fleet needs a database to meet on; name one, such as postgres, the same for all instances",
        ),
        ("auth_file = \"users.txt\"", "auth_file users.txt: cannot be read: entity not found"),
        ("unix_socket_dir = \"@x\"", "unix_socket_dir: abstract Unix sockets (@…) are not supported; name a directory"),
        ("so_reuseport = 1", "so_reuseport: PgBouncer's setting is not supported yet; remove it"),
        (
            "client_tls_sslmode = \"require\"",
            "client_tls_sslmode: TLS for clients needs client_tls_cert_file and client_tls_key_file; set both, or disable",
        ),
        (
            "server_tls_cert_file = \"own.pem\"",
            "server_tls_cert_file: a certificate and its key go together; set server_tls_key_file",
        ),
        (
            "client_tls_protocols = \"tlsv1.1\"",
            "client_tls_protocols: TLS 1.0 and 1.1 are broken and not supported; allowed: secure, tlsv1.2, tlsv1.3",
        ),
    ] {
        let text = if line.starts_with('[') { format!("{DATABASE}{line}") } else { format!("\n{line}\n{DATABASE}") };
        assert_eq!(toml(&text), [format!("pgsluice.toml:2: {message}")], "{line}");
    }
}

#[test]
fn one_line_each_in_a_database_or_user() {
    for (line, message) in [
        ("pool_sze = 1", "databases.app.pool_sze: unknown key; did you mean pool_size?"),
        ("pool_weight = 0", "databases.app.pool_weight: 0 is out of range; allowed: 1 to 1000"),
        (
            "[users.u]\npool_size = 2\nmin_pool_size = 3",
            "users.u.min_pool_size: the minimum of 3 is above the pool's size of 2; lower the minimum or raise the size",
        ),
        ("port = 0", "databases.app.port: 0 is out of range; allowed: 1 to 65535"),
        ("host = \"a,b\"", "databases.app.host: several hosts are not supported; name one"),
        ("password = 12345", "databases.app.password: expects text, found something else"),
        (
            "pool_size = 3\nmin_pool_size = 5",
            "databases.app.min_pool_size: the minimum of 5 is above the pool's size of 3; lower the minimum or raise \
             the size",
        ),
    ] {
        let found = toml(&format!("{DATABASE}{line}\n"));
        let last = line.lines().count() + 1;
        assert_eq!(found, [format!("pgsluice.toml:{last}: {message}")], "{line}");
    }
    assert_eq!(
        toml("[databases.app]\n[users.alice]\ncolour = 1"),
        ["pgsluice.toml:3: users.alice.colour: unknown key; allowed: password, pool_mode, pool_size, min_pool_size, \
             pool_weight, max_pool_waiting, reserve_pool_size, max_user_connections, pin_policy, audit, query_timeout, query_wait_timeout, \
             idle_transaction_timeout, transaction_timeout, client_idle_timeout"]
    );
    assert_eq!(
        toml("auth_type = \"any\"\n[databases.app]"),
        ["pgsluice.toml:2: databases.app: auth_type any needs a user here, as clients' names are not used"]
    );
    assert_eq!(
        toml("[databases.pgbouncer]"),
        ["pgsluice.toml:1: databases.pgbouncer: this name belongs to the admin console; choose another"]
    );
    assert_eq!(
        toml("min_pool_size = 9\n[databases.app]\npool_size = 2"),
        ["pgsluice.toml:3: databases.app.pool_size: the minimum of 9 is above the pool's size of 2; lower the \
             minimum or raise the size"]
    );
}

#[test]
fn a_fleets_name_may_have_63_bytes() {
    let with = |name: &str| format!("fleet = \"{name}\"\n{DATABASE}");
    assert!(parse_toml(&with(&"ä".repeat(31)), Path::new("p.toml")).is_ok());
    assert!(parse_toml(&with(&"a".repeat(FLEET_BYTES_MAX)), Path::new("p.toml")).is_ok());
    let expects = "pgsluice.toml:1: fleet: expects a name of 63 bytes at most, without control characters";
    assert_eq!(toml(&with(&"ä".repeat(32))), [format!("{expects}, found \"{}\"", "ä".repeat(32))]);
    assert_eq!(toml(&with(&"a".repeat(FLEET_BYTES_MAX + 1))), [format!("{expects}, found \"{}…\"", "a".repeat(60))]);
}

#[test]
fn what_is_absent_has_no_line() {
    let message = "databases: no database is configured; add one, or \"*\" to serve every name";
    assert_eq!(toml(""), [format!("pgsluice.toml: {message}")]);
    assert_eq!(ini("[pgbouncer]\n"), [format!("pgbouncer.ini: {message}")]);
    assert_eq!(
        ini("[databases]\n'my app' =\n[pgbouncer]\nunix_socket_dir =\nlisten_addr = *\n"),
        ["pgbouncer.ini:2: databases.\"my app\": has no host, and unix_socket_dir is off; name a host"]
    );
}

#[test]
fn all_problems_at_once_in_the_order_of_lines() {
    let found =
        toml("verbose = 9\nlog_stats = 3\nverbsoe = 1\n[databases.app]\nport = \"x\"\n[users.a]\npool_mode = 1\n");
    let places: Vec<&str> = found.iter().map(|l| &l[..l.rfind(": ").expect("a key")]).collect();
    assert_eq!(
        places,
        [
            "pgsluice.toml:1: verbose: 9 is out of range; allowed",
            "pgsluice.toml:2: log_stats",
            "pgsluice.toml:3: verbsoe",
            "pgsluice.toml:5: databases.app.port",
            "pgsluice.toml:7: users.a.pool_mode: 1 is not allowed; allowed",
        ]
    );
    let found = ini(
        "x\n[nowhere]\na = 1\n[pgbouncer\n[pgbouncer]\nverbose=x\n=1\n%import x\n%include gone.ini\n[databases]\na = b",
    );
    assert_eq!(
        found,
        [
            "pgbouncer.ini:1: x: expects key = value",
            "pgbouncer.ini:2: [nowhere]: unknown key; allowed: databases, users, peers, pgbouncer",
            "pgbouncer.ini:4: expects [section]",
            "pgbouncer.ini:6: verbose: expects a whole number, found \"x\"",
            "pgbouncer.ini:7: a key with other characters than letters, digits and _.-* must stand in quotes",
            "pgbouncer.ini:8: expects %include file",
            "pgbouncer.ini:9: %include gone.ini: cannot be read: entity not found",
            "pgbouncer.ini:11: databases.a: expects pairs such as host=127.0.0.1 port=5432, values with blanks in \
             single quotes",
        ]
    );
}

#[test]
fn one_line_each_in_ini() {
    for (line, message) in [
        ("default_pool_size = -5", "default_pool_size: -5 is out of range; allowed: 0 to 1000000"),
        ("default_pool_size =", "default_pool_size: expects a whole number, found \"\""),
        ("query_timeout = 5s", "query_timeout: expects seconds, such as 15 or 0.5, found \"5s\""),
        ("log_stats = yes", "log_stats: expects 0 or 1, found \"yes\""),
        (
            "unix_socket_mode = 770",
            "unix_socket_mode: expects an octal mode from 0 to 0777, such as 0770 (in TOML 0o770 or \"0770\"), found 770",
        ),
        ("fleet = a\tb", "fleet: expects a name of 63 bytes at most, without control characters, found \"a\\tb\""),
        ("pol_mode = session", "pol_mode: unknown key; did you mean pool_mode?"),
        ("client_tls_sslmod = require", "client_tls_sslmod: unknown key; did you mean client_tls_sslmode?"),
        ("listen_port = 1\nlisten_port = 2", "listen_port: given before, in line 2; remove one of the two"),
        (
            "auth_dbname = pgbouncer",
            "auth_dbname: \"pgbouncer\" is no database here that could be asked; name an entry of [databases]",
        ),
        (
            "auth_type = pam",
            "auth_type: this way of authenticating is not supported, and a weaker one will not be used in its place; \
             allowed: any, trust, plain, md5, scram-sha-256, cert, hba",
        ),
        ("auth_type = hba", "auth_type: hba needs rules; set auth_hba_file"),
        ("auth_type = hba\nauth_hba_file = gone", "auth_hba_file gone: cannot be read: entity not found"),
        (
            "server_tls_sslmode = verify-full",
            "server_tls_sslmode: certificates cannot be verified without an authority; set server_tls_ca_file",
        ),
    ] {
        let found = ini(&format!("[pgbouncer]\n{line}\n[databases]\na =\n"));
        let last = line.lines().count() + 1;
        assert_eq!(found, [format!("pgbouncer.ini:{last}: {message}")], "{line}");
    }
    assert_eq!(
        ini("[databases]\na = auth_user=x auth_dbname=b\n"),
        ["pgbouncer.ini:2: databases.a.auth_dbname: \"b\" is no database here that could be asked; name an entry of \
             [databases]"]
    );
}

#[test]
fn warnings_name_what_is_dropped() {
    let text = "[databases]\na = load_balance_hosts=disable password=x\n[users]\nu = max_user_client_connections=5\n\
                [peers]\n1 = host=a\n[pgbouncer]\nso_reuseport = 1\ndns_max_ttl = 5\nsyslog = 0\n\
                server_tls_ciphers = fast\nadmin_users = root\nauth_type = trust\nlisten_addr = 127.0.0.1, *\n";
    let dropped = "PgBouncer's setting is not supported yet; going on without it";
    assert_eq!(
        ini_warnings(text),
        [
            format!("pgbouncer.ini:2: databases.a.load_balance_hosts: {dropped}"),
            "pgbouncer.ini:2: databases.a.password: a password without a user does nothing; add user".to_string(),
            format!("pgbouncer.ini:4: users.u.max_user_client_connections: {dropped}"),
            format!("pgbouncer.ini:6: peers.1: {dropped}"),
            format!("pgbouncer.ini:8: so_reuseport: {dropped}"),
            format!("pgbouncer.ini:9: dns_max_ttl: {dropped}"),
            format!("pgbouncer.ini:11: server_tls_ciphers: {dropped}"),
            "pgbouncer.ini:12: admin_users: \"root\" is not among the users and cannot log in".to_string(),
            "pgbouncer.ini:13: auth_type: everybody who can reach \"*\" can log in without a password".to_string(),
        ]
    );
    assert_eq!(
        ini_warnings("[databases]\na =\n"),
        ["pgbouncer.ini: users: no user is known: nobody can log in; set auth_file or add users"]
    );
}

#[test]
fn toml_syntax_errors_do_not_quote_the_line() {
    let found = toml("[databases.app]\npassword = \"hunter2\nport = 1\n");
    assert!(found[0].starts_with("pgsluice.toml:2: "), "{found:?}");
    assert!(!found.join("\n").contains("hunter2"), "{found:?}");
    let found = toml("[databases.app]\nport = 1\nport = 2\n");
    assert_eq!(found, ["pgsluice.toml:3: duplicate key"]);
}

fn files(list: &[(&str, &str)]) -> BTreeMap<PathBuf, String> {
    list.iter().map(|(path, text)| (PathBuf::from(path), (*text).to_string())).collect()
}

#[test]
fn malformed_user_lists_are_reported_with_their_own_lines() {
    let files = files(&[("/etc/p/users.txt", "\"a\" \"secret\"\nb secret\n\"c\" \"open\n")]);
    let text = "[databases]\na =\n[pgbouncer]\nauth_file = users.txt\nverbose = 7\n";
    assert_eq!(
        lines(parse(Dialect::Ini, text, Path::new("/etc/p/pgbouncer.ini"), &files)),
        [
            "/etc/p/pgbouncer.ini:5: verbose: 7 is out of range; allowed: 0 to 3",
            "/etc/p/users.txt:2: expects \"user\" \"secret\", a quote inside doubled",
            "/etc/p/users.txt:3: the quote does not end in this line",
        ]
    );
}

#[test]
fn includes_go_on_in_the_section_and_may_override() {
    let files =
        files(&[("/etc/p/more.ini", "verbose = 2\n[databases]\nb = port=2\n"), ("loop.ini", "%include loop.ini\n")]);
    let path = Path::new("/etc/p/pgbouncer.ini");
    let text = "[databases]\na = port=1\n[pgbouncer]\nverbose = 1\n%include more.ini\nc = port=3\n";
    let (config, warnings) = parse(Dialect::Ini, text, path, &files).expect("valid");
    assert_eq!(config.databases.keys().collect::<Vec<_>>(), ["a", "b", "c"]);
    assert_eq!(config.settings.verbose, 2);
    let shown: Vec<String> = warnings.iter().map(ToString::to_string).collect();
    assert!(
        shown.contains(
            &"/etc/p/more.ini:1: verbose: given before, in /etc/p/pgbouncer.ini:4; this one counts".to_string()
        )
    );
    assert_eq!(
        lines(parse(Dialect::Ini, "%include loop.ini\n", path, &files)),
        ["loop.ini:1: %include: files may include each other 10 levels deep at most"]
    );
}

#[test]
fn many_includes_end() {
    let files = files(&[("twice.ini", "%include twice.ini\n%include twice.ini\n")]);
    let found = lines(parse(Dialect::Ini, "%include twice.ini\n", Path::new("p.ini"), &files));
    assert!(found.iter().any(|l| l.ends_with("%include: 100 files may be included at most")), "{found:?}");
    assert!(found.len() < 1000);
}

#[test]
fn includes_may_be_ten_deep_and_no_deeper() {
    let chain = |depth: u32| -> BTreeMap<PathBuf, String> {
        let file = |n: u32| (PathBuf::from(format!("{n}.ini")), format!("%include {}.ini\n", n + 1));
        let last = (PathBuf::from(format!("{depth}.ini")), "[databases]\na =\n".to_string());
        (1..depth).map(file).chain([last]).collect()
    };
    let with = |depth| parse(Dialect::Ini, "%include 1.ini\n", Path::new("p.ini"), &chain(depth));
    assert!(with(10).is_ok());
    assert_eq!(lines(with(11)), ["10.ini:1: %include: files may include each other 10 levels deep at most"]);
}
