//! What valid files mean: both dialects, defaults, which value wins, URLs, and what a reload changes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pgsluice_config::{
    Audit, AuthType, Config, Dialect, Listener, PinPolicies, PinPolicy, PinReason, PoolMode, Secret, Settings,
    config_from_url, parse, parse_ini, parse_toml, parse_url,
};

fn toml(text: &str) -> Config {
    parse_toml(text, Path::new("p.toml")).unwrap_or_else(|e| panic!("{e}")).0
}

fn ini(text: &str) -> Config {
    parse_ini(text, Path::new("p.ini")).unwrap_or_else(|e| panic!("{e}")).0
}

#[test]
fn each_dialect_has_its_defaults() {
    let toml = toml("[databases.a]\n");
    let ini = ini("[databases]\na =\n");
    let of = |c: &Config| (c.settings.pool_mode, c.settings.auth_type, c.settings.max_client_conn);
    assert_eq!(of(&toml), (PoolMode::Transaction, AuthType::ScramSha256, 10_000));
    assert_eq!(of(&ini), (PoolMode::Session, AuthType::Md5, 100));
    assert_eq!(toml.settings.listen_addr, ["127.0.0.1"]);
    assert_eq!((ini.settings.listen_addr.len(), toml.settings.unix_socket_dir), (0, None));
    assert_eq!(ini.settings.unix_socket_dir, Some(PathBuf::from("/tmp")));
    assert_eq!(toml.databases["a"].host.as_deref(), Some("127.0.0.1"));
    assert_eq!(ini.databases["a"].host.as_deref(), Some("/tmp"));
    assert_eq!(ini.settings.unix_socket_mode, 0o777);
}

#[test]
fn ini_entries_as_pgbouncer_reads_them() {
    let config = ini("; comment\n  # another\n[databases]\n* = host=10.0.0.1 port=5433 reserve_pool=3\n\
                      \"my \"\"db\"\"\" = user = bob password='it''s' dbname='a b' pool_mode=Statement\n'q' = \n\
                      [users]\nalice = pool_size=7 client_idle_timeout=0.5\n\
                      [pgbouncer]\nserver_reset_query = DISCARD ALL; SELECT 1   \nadmin_users = a, b ,,c\n\
                      unix_socket_dir = /run\nunix_socket_mode = 0700\n");
    let star = &config.databases["*"];
    assert_eq!((star.host.as_deref(), star.port, star.reserve_pool_size), (Some("10.0.0.1"), 5433, Some(3)));
    let my = &config.databases["my \"db\""];
    assert_eq!((my.user.as_deref(), my.dbname.as_deref()), (Some("bob"), Some("a b")));
    assert_eq!(my.password.as_ref().map(Secret::expose), Some("it's"));
    assert_eq!(my.pool_mode, Some(PoolMode::Statement));
    assert_eq!(config.databases["q"].host.as_deref(), Some("/run"));
    assert_eq!(config.users["alice"].pool_size, Some(7));
    assert_eq!(config.users["alice"].client_idle_timeout, Some(Duration::from_millis(500)));
    assert_eq!(config.settings.server_reset_query, "DISCARD ALL; SELECT 1");
    assert_eq!(config.settings.admin_users, ["a", "b", "c"]);
    assert_eq!(config.settings.unix_socket_mode, 0o700);
}

#[test]
fn the_user_list_adds_secrets_to_users() {
    let list = "\"alice\" \"md55f4dcc3b5aa765d61d8327deb882cf99\"\n\"b\"\"ob\" \"pw\" more\n";
    let files = BTreeMap::from([(PathBuf::from("/c/userlist.txt"), list.to_string())]);
    let text = "auth_file = \"userlist.txt\"\n[databases.a]\n[users.alice]\npool_size = 3\n";
    let (config, warnings) = parse(Dialect::Toml, text, Path::new("/c/p.toml"), &files).expect("valid");
    assert_eq!(config.users["alice"].pool_size, Some(3));
    assert!(config.users["alice"].password.as_ref().is_some_and(Secret::is_md5));
    assert_eq!(config.users["b\"ob"].password.as_ref().map(Secret::expose), Some("pw"));
    assert_eq!(
        warnings.iter().map(ToString::to_string).collect::<Vec<_>>(),
        [
            "/c/userlist.txt:1: users.alice.password: auth_type scram-sha-256 cannot use an MD5 secret: this user cannot \
          log in"
        ]
    );
}

#[test]
fn dotted_names_are_not_keys_of_other_entries() {
    let config = toml("[databases.a]\nport = 1\n[databases.\"a.port\"]\nport = 2\n");
    assert_eq!(config.databases["a.port"].port, 2);
    let config = ini("[databases]\na.port = port=2\na = port=1\n");
    assert_eq!((config.databases["a"].port, config.databases["a.port"].port), (1, 2));
}

#[test]
fn weights_minimums_and_queues_are_of_databases_and_users_in_both_forms() {
    let of_toml = "max_pool_waiting = 9\n[databases.a]\npool_weight = 2\nmin_pool_size = 4\n[databases.b]\n\
                   [users.u]\npool_weight = 5\nmin_pool_size = 3\nmax_pool_waiting = 1\n";
    let of_ini = "[databases]\na = host=h pool_weight=2 min_pool_size=4\nb = host=h\n\
                  [users]\nu = pool_weight=5 min_pool_size=3 max_pool_waiting=1\n[pgbouncer]\nmax_pool_waiting = 9\n";
    for config in [toml(of_toml), ini(of_ini)] {
        let of = |d, u| (config.pool_weight(d, u), config.pool_minimum(d, u), config.max_pool_waiting(d, u));
        assert_eq!([of("a", "x"), of("b", "x"), of("a", "u")], [(2, 4, 9), (1, 0, 9), (5, 3, 1)]);
    }
}

#[test]
fn user_wins_over_database_over_settings() {
    let config = toml(
        "default_pool_size = 9\nmin_pool_size = 1\nquery_wait_timeout = 7\n\
                       [databases.a]\npool_size = 4\npool_mode = \"session\"\nquery_wait_timeout = 5\n\
                       [databases.\"*\"]\npool_size = 0\nmin_pool_size = 2\n\
                       [users.u]\npool_size = 2\npool_mode = \"statement\"\nquery_wait_timeout = 0\nquery_timeout = 3\n",
    );
    assert_eq!([config.pool_size("a", "u"), config.pool_size("a", "x"), config.pool_size("b", "x")], [2, 4, 0]);
    assert_eq!(config.pool_mode("a", "u"), PoolMode::Statement);
    assert_eq!(config.pool_mode("a", "x"), PoolMode::Session);
    assert_eq!(config.pool_mode("b", "x"), PoolMode::Transaction);
    assert_eq!([config.min_pool_size("a"), config.min_pool_size("b")], [1, 2]);
    let wait = |d, u| config.query_wait_timeout(d, u).as_secs();
    assert_eq!([wait("a", "u"), wait("a", "x"), wait("b", "x")], [0, 5, 7]);
    assert_eq!((config.query_timeout("u").as_secs(), config.query_timeout("x").as_secs()), (3, 0));
    assert_eq!(config.database("b").map(|(_, fallback)| fallback), Some(true));
    assert_eq!(config.database("a").map(|(_, fallback)| fallback), Some(false));
    assert!(toml("[databases.a]\n").database("b").is_none());
}

#[test]
fn policies_stand_in_text_or_a_table_and_one_wins_as_a_whole() {
    let text = "pin_policy = \"all=warn listen=error\"\naudit = \"never\"\n[databases.a]\naudit = \"always\"\n\
                [databases.a.pin_policy]\nListen = \"Ignore\"\nall = \"error\"\n[databases.b]\n\
                [users.u]\npin_policy = \"temp=ignore\"\naudit = \"suspects\"\n";
    let same = "[databases]\na = audit=always pin_policy='all=error  listen=ignore'\nb =\n\
                [users]\nu = pin_policy=temp=ignore audit=suspects\n\
                [pgbouncer]\nlisten_addr = *\npin_policy = all=warn listen=error\naudit = Never\n";
    for config in [toml(text), ini(same)] {
        let of = |database, user| {
            let policies = config.pin_policies(database, user);
            [PinReason::Listen, PinReason::Temp, PinReason::Sequence].map(|reason| policies.get(reason))
        };
        assert_eq!(of("b", "x"), [PinPolicy::Error, PinPolicy::Warn, PinPolicy::Warn]);
        assert_eq!(of("a", "x"), [PinPolicy::Ignore, PinPolicy::Error, PinPolicy::Error]);
        assert_eq!(of("a", "u"), [PinPolicy::Pin, PinPolicy::Ignore, PinPolicy::Pin]);
        assert_eq!(
            [config.audit("b", "x"), config.audit("a", "x"), config.audit("a", "u")],
            [Audit::Never, Audit::Always, Audit::Suspects]
        );
    }
    let untouched = toml("[databases.a]\n");
    assert_eq!(
        (untouched.pin_policies("a", "x"), untouched.audit("a", "x")),
        (PinPolicies::default(), Audit::Suspects)
    );
    assert_eq!(ini("[databases]\na = pin_policy=''\n[pgbouncer]\npin_policy =\n").pin_policies("a", "x"), {
        PinPolicies::all(PinPolicy::Pin)
    });
}

#[test]
fn policies_are_shown_and_set_as_text() {
    let mut settings = Settings::default();
    let shown = |settings: &Settings| settings.rows().into_iter().find(|r| r.key == "pin_policy").map(|r| r.value);
    assert_eq!(shown(&settings).as_deref(), Some("all=pin"));
    settings.set("pin_policy", "all=pin  Sequence=IGNORE temp=warn").expect("valid");
    assert_eq!(shown(&settings).as_deref(), Some("temp=warn sequence=ignore"));
    settings.set("audit", "ALWAYS").expect("valid");
    assert_eq!(settings.audit, Audit::Always);
    assert!(settings.set("pin_policy", "temp").is_err() && settings.set("audit", "").is_err());
}

#[test]
fn an_instance_is_alone_unless_a_fleet_is_named() {
    let of = |config: &Config| (config.settings.fleet.clone(), config.settings.fleet_dbname.clone());
    let pair = |fleet: &str, dbname: &str| (fleet.to_string(), dbname.to_string());
    for alone in [toml("[databases.a]\n"), ini("[databases]\na =\n[pgbouncer]\nfleet =\n")] {
        assert_eq!(of(&alone), pair("", "postgres"));
    }
    // What is of no use without a fleet is not wrong either.
    assert_eq!(of(&toml("fleet_dbname = \"\"\n[databases.a]\n")), pair("", ""));
    let of_ini = ini("[databases]\na =\n[pgbouncer]\nfleet = eu west\nfleet_dbname = app\n");
    let of_toml = toml("fleet = \"eu west\"\nfleet_dbname = \"app\"\n[databases.a]\n");
    assert_eq!((of(&of_ini), of(&of_toml)), (pair("eu west", "app"), pair("eu west", "app")));
}

#[test]
fn secrets_are_printed_nowhere() {
    let config = toml("[databases.a]\nuser = \"u\"\npassword = \"hunter2\"\n[users.u]\npassword = \"hunter2\"\n");
    let printed = format!("{config:?} {:?} {}", config.rows(), Secret::new("hunter2"));
    assert!(!printed.contains("hunter2") && printed.contains("********"));
}

#[test]
fn show_config_has_pgbouncers_formats() {
    let settings = Settings {
        query_timeout: Duration::from_millis(500),
        listen_addr: vec!["a".into(), "b".into()],
        ..Settings::default()
    };
    let rows = settings.rows();
    let row = |key: &str| rows.iter().find(|r| r.key == key).map(|r| (r.value.as_str(), r.default, r.changeable));
    assert_eq!(row("query_timeout"), Some(("0.5", "0", true)));
    assert_eq!(row("listen_addr"), Some(("a, b", "127.0.0.1", false)));
    assert_eq!(row("server_lifetime"), Some(("3600", "3600", true)));
    assert_eq!(row("log_connections"), Some(("1", "1", true)));
    assert_eq!(row("unix_socket_mode"), Some(("0777", "0777", false)));
    assert!(rows.is_sorted_by_key(|r| r.key));
    let ini = ini("[databases]\na =\n").rows();
    assert!(ini.iter().any(|r| r.key == "max_client_conn" && r.value == "100" && r.default == "100"));
    // The row order and the defaults say that an untouched configuration shows its own defaults.
    assert!(ini.iter().all(|r| r.value == r.default));
}

#[test]
fn settings_can_be_set_by_key() {
    let mut settings = Settings::default();
    settings.set("query_timeout", "1.5").expect("valid");
    assert_eq!(settings.query_timeout, Duration::from_millis(1500));
    let before = settings.clone();
    let error = |r: Result<(), pgsluice_config::Problem>| r.expect_err("invalid").to_string();
    assert_eq!(error(settings.set("verbose", "4")), "verbose: 4 is out of range; allowed: 0 to 3");
    assert_eq!(error(settings.set("verbos", "4")), "verbos: unknown key; did you mean verbose?");
    assert_eq!(settings, before);
    settings.set("fleet", "eu").expect("valid");
    assert_eq!(settings.fleet, "eu");
    let found = error(settings.set("fleet", "\0"));
    assert_eq!(found, "fleet: expects a name of 63 bytes at most, without control characters, found \"\\0\"");
}

#[test]
fn a_reload_knows_what_changed() {
    let old = toml("query_timeout = 1\n[databases.a]\n[databases.b]\n[users.u]\npassword = \"x\"\n");
    let new = toml(
        "query_timeout = 2\nworkers = 2\nfleet = \"eu\"\n\
         [databases.b]\nport = 1\n[databases.c]\n[users.u]\npassword = \"y\"\n",
    );
    let diff = old.diff(&new);
    let settings: Vec<_> =
        diff.settings.iter().map(|s| (s.key, s.old.as_str(), s.new.as_str(), s.changeable)).collect();
    assert_eq!(settings, [("query_timeout", "1", "2", true), ("workers", "1", "2", false), ("fleet", "", "eu", false)]);
    assert_eq!(diff.databases.added, ["c"]);
    assert_eq!(diff.databases.removed, ["a"]);
    assert_eq!(diff.databases.changed, ["b"]);
    assert_eq!((diff.users.changed.as_slice(), diff.users.added.len()), (["u".to_string()].as_slice(), 0));
    assert!(!diff.is_empty() && old.diff(&old.clone()).is_empty());
}

#[test]
fn what_only_a_restart_changes_is_kept() {
    let old = toml("query_timeout = 1\nworkers = 2\nlogfile = \"/a\"\nfleet = \"eu\"\n[databases.a]\n");
    let mut new = toml("query_timeout = 2\nworkers = 3\nlisten_addr = \"::1\"\nfleet = \"us\"\n[databases.a]\n");
    new.settings.keep_fixed(&old.settings);
    assert_eq!(new.settings, Settings { query_timeout: Duration::from_secs(2), ..old.settings });
}

#[test]
fn an_endpoint_for_metrics_is_an_address_with_a_port() {
    let both = |address: &str| {
        let text = format!("metrics_listen = \"{address}\"\n[databases.a]\n");
        let same = format!("[databases]\na =\n[pgbouncer]\nlisten_addr = *\nmetrics_listen = {address}\n");
        let (toml, ini) = (toml(&text).settings, ini(&same).settings);
        assert_eq!(toml.metrics_listen, ini.metrics_listen);
        toml
    };
    assert_eq!((both("").metrics_listen, Settings::default().metrics_listen), (None, None));
    for (address, host) in [("127.0.0.1:9127", "127.0.0.1"), ("[::1]:9127", "::1"), ("*:9127", "*")] {
        let settings = both(address);
        assert_eq!(settings.metrics_listen, Some(Listener { host: host.to_string(), port: 9127 }));
        let rows = settings.rows();
        let row = rows.iter().find(|r| r.key == "metrics_listen").expect("it has a row");
        assert_eq!((row.value.as_str(), row.changeable), (address, false));
    }
}

#[test]
fn a_changed_configuration_can_be_checked_again() {
    let mut config = toml("[databases.a]\n");
    assert!(config.check().is_ok());
    config.settings.min_pool_size = 21;
    assert_eq!(
        config.check().expect_err("invalid").to_string(),
        "p.toml: min_pool_size: the minimum of 21 is above the pool's size of 20; lower the minimum or raise the size"
    );
}

#[test]
fn urls() {
    let url = |text| parse_url(text).unwrap_or_else(|e| panic!("{text}: {e}"));
    let parts = |text| {
        let u = url(text);
        let password = u.password.map(|p| p.expose().to_string());
        (u.user, password, u.host, u.port, u.dbname)
    };
    let expect = |user: &str, password: Option<&str>, host: &str, port, db: &str| {
        (user.to_string(), password.map(str::to_string), host.to_string(), port, db.to_string())
    };
    assert_eq!(parts("postgres://u:p@h:1/d"), expect("u", Some("p"), "h", 1, "d"));
    assert_eq!(parts("postgresql://u@"), expect("u", None, "127.0.0.1", 5432, "u"));
    assert_eq!(parts("postgres://u:p%40%3A%2Fx@h/d%20b?sslmode=prefer"), expect("u", Some("p@:/x"), "h", 5432, "d b"));
    assert_eq!(parts("postgres://u:a@b@h/d"), expect("u", Some("a@b"), "h", 5432, "d"));
    assert_eq!(parts("postgres://u@[::1]:7/d"), expect("u", None, "::1", 7, "d"));
    assert_eq!(parts("postgres://u@[::1]"), expect("u", None, "::1", 5432, "u"));
    assert_eq!(parts("postgres://u@/d?host=/run/pg&port=9"), expect("u", None, "/run/pg", 9, "d"));
    assert_eq!(parts("postgres://u@%2Frun%2Fpg/d"), expect("u", None, "/run/pg", 5432, "d"));
    assert_eq!(url("postgres://u@h/d?application_name=my%20app").application_name.as_deref(), Some("my app"));
}

#[test]
fn wrong_urls() {
    let secret = "hunter2";
    for (text, message) in [
        ("mysql://u@h", "URL: expects postgres://user:password@host:port/database"),
        ("postgres://h/d", "user: names no user; expects postgres://user:password@host:port/database"),
        (
            "postgres://u:hunter2%@h/d",
            "password: write special characters as % and two hex digits, such as %40 for @ and %25 for %",
        ),
        (
            "postgres://u%00@h/d",
            "user: write special characters as % and two hex digits, such as %40 for @ and %25 for %",
        ),
        ("postgres://u@h:0/d", "port: this is out of range; allowed: 1 to 65535"),
        ("postgres://u@h:x/d", "port: this is out of range; allowed: 1 to 65535"),
        ("postgres://u@a,b/d", "host: expects one host, such as db.example.org:5432 or [::1]:5432"),
        ("postgres://u@[::1/d", "host: expects one host, such as db.example.org:5432 or [::1]:5432"),
        ("postgres://u@[::1]x/d", "host: expects one host, such as db.example.org:5432 or [::1]:5432"),
        (
            "postgres://u@h/d?sslmode=always",
            "sslmode: always is not allowed; allowed: disable, allow, prefer, require, verify-ca, verify-full",
        ),
        (
            "postgres://u@h/d?colour=1",
            "colour: unknown key; allowed: application_name, host, port, sslcert, sslkey, sslmode, sslnegotiation, \
             sslrootcert",
        ),
        ("postgres://u@h/d?sslmod=1", "sslmod: unknown key; did you mean sslmode?"),
        ("postgres://u@h/d?x", "URL: expects parameters such as ?application_name=app"),
    ] {
        let found = parse_url(text).expect_err(text).to_string();
        assert_eq!(found, message, "{text}");
        assert!(!found.contains(secret));
    }
    let several = parse_url("postgres://@h:x/d?a=1").expect_err("invalid").0;
    assert_eq!(several.iter().map(|p| p.key.as_str()).collect::<Vec<_>>(), ["port", "a", "user"]);
}

#[test]
fn a_url_makes_a_configuration() {
    let url = parse_url("postgres://app:pw@db:5433/shop?application_name=x").expect("valid");
    let config = config_from_url(&url, &[]).expect("valid");
    assert_eq!(config.settings.listeners(), [Listener { host: "127.0.0.1".into(), port: 6432 }]);
    assert_eq!((config.settings.auth_type, config.settings.max_client_conn), (AuthType::ScramSha256, 10_000));
    assert_eq!(config.settings.admin_users, ["app"]);
    for (name, fallback, dbname) in [("shop", false, Some("shop")), ("other", true, None)] {
        let (database, is_fallback) = config.database(name).expect("served");
        assert_eq!((is_fallback, database.dbname.as_deref()), (fallback, dbname));
        assert_eq!((database.host.as_deref(), database.port), (Some("db"), 5433));
        assert_eq!((database.user.as_deref(), database.application_name.as_deref()), (Some("app"), Some("x")));
        assert_eq!(database.password, Some(Secret::new("pw")));
    }
    assert_eq!(config.users["app"].password, Some(Secret::new("pw")));
    assert_eq!(config.check(), Ok(Vec::new()));
}

#[test]
fn listen_addresses_of_a_url() {
    let url = parse_url("postgres://app:pw@db/shop").expect("valid");
    let on = |listen: &[&str]| {
        let listen: Vec<String> = listen.iter().map(ToString::to_string).collect();
        config_from_url(&url, &listen).map(|c| {
            let shown: Vec<String> =
                c.settings.listeners().into_iter().map(|l| format!("{} {}", l.host, l.port)).collect();
            (shown.join(", "), c.settings.unix_socket_dir)
        })
    };
    let found = |text: &str| Ok((text.to_string(), None));
    assert_eq!(on(&["0.0.0.0:7000", "127.0.0.1", "[::1]:7001"]), found("0.0.0.0 7000, 127.0.0.1 7000, ::1 7001"));
    assert_eq!(on(&["/run/sluice"]), Ok((String::new(), Some(PathBuf::from("/run/sluice")))));
    assert!(on(&["nonsense:port"]).is_err());
}

#[test]
fn without_a_password_only_this_machine_is_served() {
    let url = parse_url("postgres://app@db/shop").expect("valid");
    let on = |listen: &str| config_from_url(&url, &[listen.to_string()]);
    for local in ["127.0.0.1:1", "127.8.8.8", "[::1]:1", "::1", "localhost:1", "/run/sluice"] {
        assert_eq!(on(local).map(|c| c.settings.auth_type), Ok(AuthType::Trust), "{local}");
    }
    for open in ["0.0.0.0:1", "*", "*:1", "10.0.0.1", "[::]:1", "localhost.example.org:1", "db"] {
        let found = on(open).expect_err(open).to_string();
        assert!(found.starts_with("listen: without a password in the URL everybody who can reach"), "{found}");
    }
}
