//! Rules and maps: which rule a client meets, who may be whom, and what is said of lines that cannot be used.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use pgsluice_config::{
    Attempt, AuthType, Channel, ClientCert, Config, Dialect, HbaMethod, HbaRule, IdentMaps, Loaded, parse,
};
use proptest::prelude::*;

const TLS: &str = "client_tls_sslmode = \"prefer\"\nclient_tls_cert_file = \"c\"\nclient_tls_key_file = \"k\"\n\
                   client_tls_ca_file = \"a\"\n";

/// A configuration with these rules and maps, and files beside them.
fn load(settings: &str, hba: &str, ident: &str, more: &[(&str, &str)]) -> Loaded {
    let text = format!(
        "auth_type = \"hba\"\nauth_hba_file = \"hba\"\nauth_ident_file = \"/etc/ident\"\n{settings}\
         [databases.a]\n[users.u]\n"
    );
    let named = [("/etc/hba", hba), ("/etc/ident", ident)];
    let files = named.iter().chain(more).map(|(path, text)| (PathBuf::from(path), (*text).to_string()));
    parse(Dialect::Toml, &text, Path::new("/etc/p.toml"), &files.collect::<BTreeMap<_, _>>())
}

fn config(hba: &str, ident: &str) -> Config {
    load(TLS, hba, ident, &[]).unwrap_or_else(|e| panic!("{e}")).0
}

fn problems(hba: &str, ident: &str) -> Vec<String> {
    let problems = load(TLS, hba, ident, &[]).expect_err("the files have problems");
    problems.to_string().lines().map(str::to_string).collect()
}

fn warnings(loaded: Loaded) -> Vec<String> {
    loaded.expect("the files are valid").1.iter().map(ToString::to_string).collect()
}

/// An attempt from `local`, `plain ADDRESS` or `tls ADDRESS`, and whether it is physical replication.
fn attempt<'a>(from: &str, database: &'a str, user: &'a str) -> Attempt<'a> {
    let (channel, address) = from.split_once(' ').unwrap_or((from, ""));
    let channel = match channel {
        "local" => Channel::Local,
        "plain" => Channel::Plain,
        _ => Channel::Tls,
    };
    Attempt { channel, address: address.parse().ok(), database, user, replication: false }
}

/// The line of the rule that is met.
fn line(config: &Config, attempt: Attempt<'_>) -> Option<u32> {
    config.hba.as_ref().expect("there are rules").find(&attempt).map(|rule| rule.line)
}

#[test]
fn the_first_rule_that_matches_decides() {
    let config = config(
        "# PostgreSQL's own example, more or less\n\
         local all postgres peer\n\
         local sameuser all \\\n  md5\n\
         host all all 127.0.0.1/32 trust\n\
         host postgres,\"all\" all 192.168.93.0 255.255.255.0 plain\n\
         hostssl \"/^db\\d{2,4}$\" /^app_ 10.0.0.0/8 scram-sha-256\n\
         hostnossl all all 10.0.0.0/8 reject\n\
         hostgssenc all all all trust\n\
         host replication all ::1/128 md5\n\
         hostnogssenc a,b u,\"+g\" 0.0.0.0/0 password\n",
        "",
    );
    for (from, database, user, met) in [
        ("local", "a", "postgres", Some(2)),
        ("local", "u", "u", Some(3)),
        ("local", "a", "u", None),
        ("plain 127.0.0.1", "a", "u", Some(5)),
        ("tls ::ffff:127.0.0.1", "a", "u", Some(5)),
        ("tls 192.168.93.7", "all", "u", Some(6)),
        ("tls 192.168.93.7", "other", "u", None),
        ("tls 10.1.2.3", "db123", "app_x", Some(7)),
        ("tls 10.1.2.3", "db1", "app_x", None),
        ("tls 10.1.2.3", "db123", "x_app", None),
        ("plain 10.1.2.3", "db123", "app_x", Some(8)),
        ("tls ::1", "replication", "u", None),
        ("tls 8.8.8.8", "b", "+g", Some(11)),
        ("tls 8.8.8.8", "b", "g", None),
        ("tls 2001:db8::1", "b", "u", None),
    ] {
        assert_eq!(line(&config, attempt(from, database, user)), met, "{from} {database} {user}");
    }
    let physical = |from| Attempt { replication: true, ..attempt(from, "a", "u") };
    assert_eq!(line(&config, physical("plain ::1")), Some(10));
    assert_eq!(line(&config, physical("plain 127.0.0.1")), None);
}

#[test]
fn replication_in_quotes_is_a_database() {
    let config = config("local \"replication\" all trust\nlocal all,replication all md5\n", "");
    assert_eq!(line(&config, attempt("local", "replication", "u")), Some(1));
    assert_eq!(line(&config, Attempt { replication: true, ..attempt("local", "replication", "u") }), Some(2));
}

#[test]
fn every_method_and_option() {
    let config = config(
        "local all a trust\nlocal all b reject\nlocal all c password\nlocal all d plain\nlocal all e md5\n\
         local all f scram-sha-256\nlocal all g peer map=\"my map\"\nlocal all h ident map=\n\
         hostssl all i all cert map=m clientcert=verify-full clientname=CN\nhostssl all j all cert\n\
         hostssl all k all md5 clientcert=verify-ca\nhostssl all l all scram-sha-256 clientcert=verify-full\n",
        "m x x\n\"my map\" x x",
    );
    let (full, ca) = (Some(ClientCert::VerifyFull), Some(ClientCert::VerifyCa));
    for (user, method, map, client_cert) in [
        ("a", HbaMethod::Trust, None, None),
        ("b", HbaMethod::Reject, None, None),
        ("c", HbaMethod::Password, None, None),
        ("d", HbaMethod::Password, None, None),
        ("e", HbaMethod::Md5, None, None),
        ("f", HbaMethod::ScramSha256, None, None),
        ("g", HbaMethod::Peer, Some("my map"), None),
        ("h", HbaMethod::Peer, None, None),
        ("i", HbaMethod::Cert, Some("m"), full),
        ("j", HbaMethod::Cert, None, full),
        ("k", HbaMethod::Md5, None, ca),
        ("l", HbaMethod::ScramSha256, None, full),
    ] {
        let from = if user < "i" { "local" } else { "tls 10.0.0.1" };
        let hba = config.hba.as_ref().expect("there are rules");
        let rule: &HbaRule = hba.find(&attempt(from, "a", user)).expect(user);
        assert_eq!((rule.method, rule.map.as_deref(), rule.client_cert), (method, map, client_cert), "{user}");
        assert_eq!(&*rule.file, Path::new("/etc/hba"));
        assert_eq!(HbaMethod::NAMES[method as usize], method.as_str());
    }
}

#[test]
fn rules_may_stand_in_several_files() {
    let more = [
        ("/etc/more/hba", "local all @admins trust\ninclude_if_exists gone\n"),
        ("/etc/more/admins", "root, wheel\nops # not all\n"),
    ];
    let loaded = load("", "local a u reject\ninclude more/hba\nlocal a all md5\n", "", &more);
    let (config, found) = loaded.unwrap_or_else(|e| panic!("{e}"));
    assert!(found.is_empty(), "{found:?}");
    let hba = config.hba.expect("there are rules");
    let met = |user| {
        let rule = hba.find(&attempt("local", "a", user)).expect("a rule");
        format!("{}:{} {}", rule.file.display(), rule.line, rule.method.as_str())
    };
    assert_eq!(met("u"), "/etc/hba:1 reject");
    assert_eq!(met("ops"), "/etc/more/hba:1 trust");
    assert_eq!(met("all"), "/etc/hba:3 md5");
}

#[test]
fn maps() {
    let config = config(
        "local all all peer\n",
        "# map system database\n\
         m bryanh bryanh\nm ann ann # comment\nm robert bob\nm robert guest1\n\
         r /^(.*)@mydomain\\.com$ \\1\nr /^(.*)@otherdomain\\.com$ guest\n\
         q /^(.*)@x$ \"user_\\1_x\"\n\
         all root all\nquoted root \"all\"\nquoted \"a b\" c\n\
         pattern /^dba /^(app|web)_\n\
         include \"\\1\" x\nliteral \\1 \\1\noptional /^(a)?b$ \\1\n\"\" nobody u\n",
    );
    for (map, system, database, allowed) in [
        (None, "u", "u", true),
        (None, "u", "v", false),
        (Some("m"), "bryanh", "bryanh", true),
        (Some("m"), "robert", "bob", true),
        (Some("m"), "robert", "guest1", true),
        (Some("m"), "robert", "robert", false),
        (Some("m"), "bob", "robert", false),
        (Some("r"), "eve@mydomain.com", "eve", true),
        (Some("r"), "eve@mydomain.com", "eva", false),
        (Some("r"), "eve@mydomainxcom", "eve", false),
        (Some("r"), "all@mydomain.com", "root", false),
        (Some("r"), "eve@otherdomain.com", "guest", true),
        (Some("r"), "eve@otherdomain.com", "eve", false),
        (Some("q"), "eve@x", "user_eve_x", true),
        (Some("q"), "eve@x", "eve", false),
        (Some("q"), "_@x", "user_x", false),
        (Some("all"), "root", "anybody", true),
        (Some("all"), "toor", "anybody", false),
        (Some("quoted"), "root", "anybody", false),
        (Some("quoted"), "root", "all", true),
        (Some("quoted"), "a b", "c", true),
        (Some("pattern"), "dba1", "app_x", true),
        (Some("pattern"), "dba1", "xapp_", false),
        (Some("include"), "\\1", "x", true),
        (Some("literal"), "\\1", "\\1", true),
        (Some("optional"), "ab", "a", true),
        (Some("optional"), "b", "", false),
        (Some("unknown"), "u", "u", false),
        (Some(""), "nobody", "u", true),
    ] {
        assert_eq!(config.ident.allows(map, system, database), allowed, "{map:?} {system} {database}");
    }
    assert!(IdentMaps::default().allows(None, "u", "u") && !IdentMaps::default().allows(Some("m"), "u", "u"));
}

const ROLE: &str =
    "only PostgreSQL knows who is a member of a role; name the users, or list them in a file and write @file";
const METHOD: &str = "this way of authenticating is not supported, and a weaker one will not be used in its place; use \
                      scram-sha-256, md5, password, cert, peer or reject, or remove the line";
const MISSING: &str =
    "is missing; a rule is type, database, user, address (not if the type is local), method and options";
const ADDRESS: &str = "address: expects all, or an address such as 10.1.0.0/16, 10.1.2.3/32 or ::1/128 (names are not \
                       looked up), found";
const PATTERN: &str = "it has Perl's syntax without look-around and back-references, and stands in quotes if it has \
                       blanks or commas";

#[test]
fn one_line_each_for_a_rule() {
    let methods = "allowed: trust, reject, password, md5, scram-sha-256, cert, peer";
    let types = "allowed: local, host, hostssl, hostnossl, hostgssenc, hostnogssenc";
    let own = "this machine's addresses are not looked up; write them, such as 127.0.0.1/32 or 10.1.0.0/16";
    for (rule, message) in [
        ("hots all all all md5", format!("type: \"hots\" is not allowed; {types}")),
        ("local,host all all all md5", "type: expects one word, found a list".to_string()),
        ("local", format!("database: {MISSING}")),
        ("local all", format!("user: {MISSING}")),
        ("local all all", format!("method: {MISSING}")),
        ("host all all", format!("address: {MISSING}")),
        ("host all all 10.0.0.0/8", format!("method: {MISSING}")),
        ("host all all 10.0.0.1", format!("netmask: {MISSING}")),
        ("local samerole all md5", format!("database samerole: {ROLE}")),
        ("local samegroup all md5", format!("database samegroup: {ROLE}")),
        ("local all a,+admins md5", format!("user \"+admins\": {ROLE}")),
        ("host all all samenet md5", format!("address samenet: {own}")),
        ("host all all samehost md5", format!("address samehost: {own}")),
        ("host all all localhost md5", format!("{ADDRESS} \"localhost\"")),
        ("host all all .example.org md5", format!("{ADDRESS} \".example.org\"")),
        ("host all all 10.0.0/8 md5", format!("{ADDRESS} \"10.0.0/8\"")),
        ("host all all \"all\" md5", format!("{ADDRESS} \"all\"")),
        ("host all all 10.0.0.0/33 md5", "address: \"10.0.0.0/33\" is out of range; allowed: 0 to 32".to_string()),
        ("host all all 10.0.0.0/+8 md5", "address: \"10.0.0.0/+8\" is out of range; allowed: 0 to 32".to_string()),
        ("host all all ::/129 md5", "address: \"::/129\" is out of range; allowed: 0 to 128".to_string()),
        (
            "host all all 10.0.0.1 md5",
            "netmask: expects a netmask such as 255.255.255.0 behind the address; or write that as 10.1.2.3/32, found \
             \"md5\""
                .to_string(),
        ),
        (
            "host all all ::1 255.0.0.0 md5",
            "netmask: expects a netmask such as ffff:ffff:: behind the address; or write that as ::1/128, found \
             \"255.0.0.0\""
                .to_string(),
        ),
        ("local all all MD5", format!("method: \"MD5\" is not allowed; {methods}")),
        ("local all all md5,peer", "method: expects one word, found a list".to_string()),
        ("host all all all ldap ldapserver=x", format!("method ldap: {METHOD}")),
        ("host all all all ident", format!("method ident: {METHOD}")),
        ("host all all all peer", "method peer: goes only with lines of type local".to_string()),
        ("host all all all cert", "method cert: goes only with lines of type hostssl".to_string()),
        ("local all all md5 map=m", "map: goes only with the methods cert and peer".to_string()),
        ("host all all all md5 clientcert=verify-ca", "clientcert: goes only with lines of type hostssl".to_string()),
        (
            "hostssl all all all md5 clientcert=1",
            "clientcert: \"1\" is not allowed; allowed: verify-ca, verify-full".to_string(),
        ),
        (
            "hostssl all all all cert clientcert=verify-ca",
            "clientcert: \"verify-ca\" is not allowed; allowed: verify-full".to_string(),
        ),
        (
            "hostssl all all all cert clientname=DN",
            "clientname: only the common name of a certificate is looked at; write clientname=CN".to_string(),
        ),
        ("hostssl all all all cert clientname=x", "clientname: \"x\" is not allowed; allowed: CN".to_string()),
        ("local all all peer mpa=x", "mpa: unknown key; did you mean map?".to_string()),
        (
            "local all all peer include_realm=1",
            "include_realm: unknown key; allowed: map, clientcert, clientname".to_string(),
        ),
        (
            "local all all md5 trust",
            "option: expects options such as map=name behind the method, found \"trust\"".to_string(),
        ),
        (
            "local /( all md5",
            format!("database \"/(\": the pattern cannot be used: found open group without closing ')'; {PATTERN}"),
        ),
        (
            "local all \"/(?=a)\" md5",
            format!("user \"/(?=a)\": the pattern cannot be used: look-around is not supported; {PATTERN}"),
        ),
    ] {
        assert_eq!(problems(&format!("\n{rule} # why\n"), ""), [format!("/etc/hba:2: {message}")], "{rule}");
    }
}

#[test]
fn one_line_each_for_a_map() {
    let words = "expects three words: a map, a system user and a database user";
    for (map, message) in [
        ("m a", words.to_string()),
        ("m a b c", words.to_string()),
        ("m,n a b", "map: expects one word, found a list".to_string()),
        ("m a,b c", "system user: expects one word, found a list".to_string()),
        ("m a b,c", "database user: expects one word, found a list".to_string()),
        ("m a +b", format!("user \"+b\": {ROLE}")),
        (
            "m /^.*$ u_\\1",
            "database user \"u_\\\\1\": \\1 needs a group in the pattern of the system user, such as \
             /^(.*)@example\\.org$"
                .to_string(),
        ),
        (
            "m /[ b",
            format!("system user \"/[\": the pattern cannot be used: found unclosed character class; {PATTERN}"),
        ),
    ] {
        assert_eq!(problems("local all all peer\n", map), [format!("/etc/ident:1: {message}")], "{map}");
    }
}

#[test]
fn all_problems_of_all_files_at_once() {
    let loaded = load(
        "verbose = 7\n",
        "local all all x\ninclude more\nlocal \"all\ninclude more\nlocal all all md5\nhostssl all all all cert\n",
        "m\n",
        &[("/etc/more", "local all +a md5\n")],
    );
    let found = loaded.expect_err("there are problems").to_string();
    let places: Vec<&str> = found.lines().map(|l| l.split(": ").next().unwrap_or_default()).collect();
    assert_eq!(places, ["/etc/p.toml:4", "/etc/hba:1", "/etc/hba:3", "/etc/ident:1", "/etc/more:1"]);
}

#[test]
fn rules_that_cannot_match_are_said() {
    assert_eq!(
        warnings(load("", "hostssl all all all md5\nlocal all all peer map=m\n", "n a b\n", &[])),
        [
            "/etc/hba:1: this rule is for TLS only, and client_tls_sslmode is disable: it matches nobody",
            "/etc/hba:2: the map \"m\" has no line in auth_ident_file: nobody passes this rule",
        ]
    );
    assert_eq!(
        warnings(load("", "# nothing\n", "", &[])),
        ["/etc/p.toml:2: auth_hba_file: has no rule: nobody can log in"]
    );
    let found = load("", "hostssl all all all md5 clientcert=verify-ca\n", "", &[]).expect_err("no authority");
    assert_eq!(
        found.to_string(),
        "/etc/hba:1: certificates of clients cannot be verified; set client_tls_ca_file, and client_tls_sslmode to other \
         than disable"
    );
}

#[test]
fn rules_are_read_for_auth_type_hba_only() {
    let text = "auth_hba_file = \"gone\"\nauth_ident_file = \"gone\"\n[databases.a]\n[users.u]\n";
    let loaded = parse(Dialect::Toml, text, Path::new("p.toml"), &BTreeMap::new());
    let config = loaded.clone().expect("valid").0;
    assert_eq!((&config.hba, &config.ident), (&None, &IdentMaps::default()));
    assert_eq!(
        warnings(loaded),
        [
            "p.toml:1: auth_hba_file: does nothing, as auth_type is not hba",
            "p.toml:2: auth_ident_file: does nothing, as auth_type is not hba",
        ]
    );
    // As SET in the console does.
    let mut changed = config;
    changed.settings.set("auth_type", "HBA").expect("valid");
    assert_eq!(changed.settings.auth_type, AuthType::Hba);
    assert_eq!(
        changed.check().expect_err("not read").to_string(),
        "p.toml: auth_type: the rules of auth_hba_file have not been read; set hba in the file and RELOAD"
    );
    let mut changed = self::config("hostssl all all all cert map=gone\n", "");
    changed.settings.set("auth_type", "md5").expect("valid");
    changed.settings.client_tls_ca_file = None;
    let unused = warnings(changed.check().map(|warnings| (changed.clone(), warnings)));
    assert!(unused.iter().all(|warning| warning.contains("does nothing")), "{unused:?}");
}

#[test]
fn a_certificate_instead_of_a_password() {
    let files = "client_tls_cert_file = \"c\"\nclient_tls_key_file = \"k\"\nclient_tls_ca_file = \"a\"\n[databases.a]\n\
                 [users.u]\n";
    let with = |settings: &str| {
        let text = format!("auth_type = \"cert\"\n{settings}\n{files}");
        parse(Dialect::Toml, &text, Path::new("p.toml"), &BTreeMap::new())
    };
    for mode in ["verify-ca", "verify-full"] {
        assert!(warnings(with(&format!("client_tls_sslmode = \"{mode}\""))).is_empty());
    }
    let no_tcp = "client_tls_sslmode = \"verify-full\"\nlisten_addr = \"\"\nunix_socket_dir = \"/run\"";
    assert_eq!(
        warnings(with(no_tcp)),
        ["p.toml:1: auth_type: cert needs TLS, which Unix sockets have not: nobody can log in; set listen_addr"]
    );
    assert!(with("client_tls_sslmode = \"require\"").is_err());
}

#[test]
fn who_asks_databases_of_several_owners_is_told() {
    let with = |settings: &str, entry: &str| {
        let text = format!("auth_user = \"asker\"\n{settings}[databases.a]\n[databases.b]\n{entry}[databases.\"*\"]\n");
        warnings(parse(Dialect::Toml, &text, Path::new("p.toml"), &BTreeMap::new()))
    };
    let expected = "p.toml: auth_dbname: auth_query is asked in 2 databases, and who owns one of them decides which users that are \
                    not listed get in there; set auth_dbname to a database that nobody else owns";
    assert_eq!(with("", ""), [expected]);
    assert!(with("auth_dbname = \"a\"\n", "").is_empty());
    assert!(with("", "auth_dbname = \"a\"\n").is_empty(), "its own is the only one that is asked");
}

#[test]
fn names_that_nobody_can_ask_for_are_told() {
    let with = |len: usize| {
        let name = "n".repeat(len);
        let text = format!("[databases.{name}]\n[users.{name}]\n");
        warnings(parse(Dialect::Toml, &text, Path::new("p.toml"), &BTreeMap::new()))
    };
    assert!(with(63).is_empty());
    let long = with(64);
    assert_eq!(long.len(), 2, "{long:?}");
    assert!(long.iter().all(|warning| warning.contains("names are cut at 63 bytes")), "{long:?}");
}

#[test]
fn a_reload_sees_new_rules() {
    fn shared<T: Clone + Send + Sync>(value: &T) -> T {
        value.clone()
    }
    let old = config("local a /^u$ md5\n", "m /^(.*)$ \\1\n");
    let same = config("local a /^u$ md5\n", "m /^(.*)$ \\1\n");
    assert_eq!(shared(&old), same);
    assert!(old.diff(&same).is_empty());
    for (hba, ident) in [
        ("local a /^v$ md5\n", "m /^(.*)$ \\1\n"),
        ("local a /^u$ trust\n", "m /^(.*)$ \\1\n"),
        ("local a /^u$ md5\n", "m /^(.*)x$ \\1\n"),
    ] {
        let new = config(hba, ident);
        assert_ne!(old, new);
        assert!(old.diff(&new).rules && old.diff(&new).settings.is_empty());
    }
}

/// Texts that look like rules often enough to get deep into them.
fn any_text() -> impl Strategy<Value = String> {
    let pieces = prop::sample::select(vec![
        "local",
        "host",
        "hostssl",
        "all",
        "sameuser",
        "replication",
        "u",
        "/^(a",
        ")",
        "/",
        "[",
        "{1,9}",
        "10.0.0.0",
        "/8",
        "::1/128",
        "255.0.0.0",
        "trust",
        "cert",
        "peer",
        "md5",
        "map=m",
        "clientcert=verify-full",
        "=",
        "\"",
        "\"\"",
        ",",
        " ",
        " ",
        " ",
        "\t",
        "\n",
        "\n",
        "\\\n",
        "\\",
        "\\1",
        "#",
        "@",
        "@x",
        "include x\n",
        "include_if_exists y",
        "+",
        "ä",
        "🦀",
        "\u{0}",
        "\r\n",
    ]);
    let made = prop::collection::vec(pieces, 0..40).prop_map(|p| p.concat());
    prop_oneof![made, any::<String>()]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_panics(hba in any_text(), ident in any_text(), x in any_text()) {
        match load(TLS, &hba, &ident, &[("/etc/x", &x)]) {
            Ok((config, _)) => {
                let hba = config.hba.expect("there are rules");
                for from in ["local", "plain 10.0.0.1", "tls ::1"] {
                    let met = hba.find(&attempt(from, "u", "u"));
                    prop_assert!(met.is_none_or(|rule| hba.rules().contains(rule)));
                }
                config.ident.allows(Some("m"), "u", "u");
            }
            Err(problems) => prop_assert!(problems.0.iter().all(|p| p.file.is_some() && p.line.is_some())),
        }
    }

    #[test]
    fn a_name_in_quotes_is_that_name(name in "[^\n\r/\\\\][^\n\r\\\\]{0,9}", other in "[a-z+@, ]{1,3}") {
        let quoted = format!("\"{}\"", name.replace('"', "\"\""));
        let config = config(&format!("local {quoted} {quoted} trust\n"), &format!("m {quoted} {quoted}\n"));
        prop_assert_eq!(line(&config, attempt("local", &name, &name)), Some(1));
        prop_assert!(config.ident.allows(Some("m"), &name, &name));
        let is_same = other == name;
        prop_assert_eq!(line(&config, attempt("local", &name, &other)).is_some(), is_same);
        prop_assert_eq!(config.ident.allows(Some("m"), &name, &other), is_same);
    }

    #[test]
    fn a_prefix_and_its_netmask_say_the_same(network: u32, bits in 0_u32..=32, peer: u32) {
        let ip = |bits: u32| IpAddr::from(bits.to_be_bytes());
        let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
        let is_inside = network & mask == peer & mask;
        for rule in [format!("{}/{bits}", ip(network)), format!("{} {}", ip(network), ip(mask))] {
            let config = config(&format!("host all all {rule} trust\n"), "");
            prop_assert_eq!(line(&config, attempt(&format!("tls {}", ip(peer)), "a", "u")).is_some(), is_inside);
        }
    }
}
