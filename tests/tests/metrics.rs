//! The metrics endpoint as Prometheus sees it, and as those who mean no good do: its text parses, its numbers are the
//! console's, and nobody can keep others from being served with it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use pgsluice_tests::pooler::{Row, program};
use pgsluice_tests::process::{Directory, free_port};
use pgsluice_tests::program::run;
use pgsluice_tests::wire::{message as m, show};
use pgsluice_tests::{APP, APP_MD5, Pooler, Postgres, Raw, eventually};

const SOON: Duration = Duration::from_secs(20);
/// Less than the time that an idle connection to the endpoint is left alone.
const BRIEF: Duration = Duration::from_secs(4);

/// A pooler with an endpoint for metrics, and where that is. `names` are pairs of what clients and PostgreSQL call a database.
fn pooler(postgres: &Postgres, names: &[(&str, &str)], settings: &str) -> (Pooler, SocketAddr) {
    let metrics = SocketAddr::from(([127, 0, 0, 1], free_port()));
    (Pooler::file("pgsluice.toml", &config(postgres, names, metrics, settings), APP), metrics)
}

fn config(postgres: &Postgres, names: &[(&str, &str)], metrics: SocketAddr, settings: &str) -> String {
    let mut text = format!(
        "listen_addr = \"127.0.0.1\"\nlisten_port = {{port}}\nadmin_users = [\"app\"]\nbudget_interval = 1\n\
         metrics_listen = \"{metrics}\"\n{settings}\n"
    );
    for (name, dbname) in names {
        text +=
            &format!("[databases.'{name}']\nhost = \"127.0.0.1\"\nport = {}\ndbname = '{dbname}'\n", postgres.port());
    }
    for login in [APP, APP_MD5] {
        text += &format!("[users.{}]\npassword = \"{}\"\n", login.user, login.password);
    }
    text
}

/// An answer: status, head in small letters, body.
struct Answer {
    status: u16,
    head: String,
    body: String,
}

fn ask(addr: SocketAddr, request: &str) -> Answer {
    let mut stream = TcpStream::connect(addr).expect("the endpoint listens");
    stream.set_read_timeout(Some(SOON)).expect("a timeout can be set");
    stream.write_all(request.as_bytes()).expect("it can be sent");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer, and the end of the connection");
    let (head, body) = text.split_once("\r\n\r\n").expect("an empty line behind the head");
    let status = head.split_whitespace().nth(1).and_then(|code| code.parse().ok()).expect("a status");
    Answer { status, head: head.to_lowercase(), body: body.to_owned() }
}

fn get(addr: SocketAddr, path: &str) -> Answer {
    ask(addr, &format!("GET {path} HTTP/1.1\r\nHost: pgsluice\r\n\r\n"))
}

/// What was scraped: for each metric and each of its sets of labels, a value.
type Scrape = BTreeMap<String, BTreeMap<BTreeMap<String, String>, f64>>;

fn scrape(addr: SocketAddr) -> Scrape {
    let answer = get(addr, "/metrics");
    assert_eq!(answer.status, 200, "{}", answer.head);
    let media = "content-type: text/plain; version=0.0.4; charset=utf-8";
    assert!(answer.head.lines().any(|line| line == media), "{}", answer.head);
    parse(&answer.body)
}

/// Reads the text format 0.0.4, and holds the text to what it demands: each metric's HELP, TYPE and samples together, no
/// metric and no set of labels twice.
fn parse(text: &str) -> Scrape {
    assert!(text.ends_with('\n'));
    let mut scrape = Scrape::new();
    let (mut help, mut current) = ("", String::new());
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ').expect("a name and a text").0;
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a name and a kind");
            assert_eq!(help, name, "its help is right above");
            assert_eq!(kind, if name.ends_with("_total") { "counter" } else { "gauge" }, "{name}");
            assert!(
                name.starts_with("pgsluice_") && scrape.insert(name.to_owned(), BTreeMap::new()).is_none(),
                "{name}"
            );
            current = name.to_owned();
        } else {
            let (name, labels, value) = sample(line);
            assert_eq!(name, current, "it stands below its head");
            let before = scrape.get_mut(name).expect("it has a head").insert(labels, value);
            assert_eq!(before, None, "{line}: twice");
        }
    }
    scrape
}

/// `name{label="value",…} number`
fn sample(line: &str) -> (&str, BTreeMap<String, String>, f64) {
    let (name, mut rest) = line.split_once('{').unwrap_or_else(|| panic!("labels in {line}"));
    let mut labels = BTreeMap::new();
    loop {
        let (label, after) = rest.split_once("=\"").unwrap_or_else(|| panic!("a label in {line}"));
        let (value, after) = quoted(after).unwrap_or_else(|| panic!("the end of a label in {line}"));
        assert!(labels.insert(label.to_owned(), value).is_none(), "{line}");
        match after.strip_prefix(',') {
            Some(next) => rest = next,
            None => {
                let number = after.strip_prefix("} ").and_then(|n| n.parse().ok());
                return (name, labels, number.unwrap_or_else(|| panic!("a number in {line}")));
            }
        }
    }
}

/// A value up to its closing quote, and what follows.
fn quoted(text: &str) -> Option<(String, &str)> {
    let (mut value, mut chars) = (String::new(), text.char_indices());
    loop {
        match chars.next()? {
            (at, '"') => return Some((value, &text[at + 1..])),
            (_, '\\') => value.push(match chars.next()?.1 {
                'n' => '\n',
                c @ ('\\' | '"') => c,
                _ => return None,
            }),
            (_, c) => value.push(c),
        }
    }
}

/// The value with exactly these labels.
fn value(scrape: &Scrape, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    scrape.get(name)?.get(&labels).copied()
}

/// Columns of SHOW BUDGET as metrics, but for those with states.
const BUDGET: [(&str, &str); 9] = [
    ("max_connections", "max_connections"),
    ("superuser_reserved", "superuser_reserved"),
    ("reserved", "reserved"),
    ("others", "others"),
    ("headroom", "headroom"),
    ("ceiling", "ceiling"),
    ("cap", "cap"),
    ("fleet_tokens", "fleet_tokens"),
    ("budget", "backends"),
];

/// What the metrics have else than this row of SHOW BUDGET.
fn budget_differences(scrape: &Scrape, row: &Row) -> Vec<String> {
    let server = ("server", row["server"].as_str());
    let mut found = Vec::new();
    let mut compare = |name: &str, labels: &[(&str, &str)], expected: Option<f64>| {
        let got = value(scrape, &format!("pgsluice_budget_{name}"), labels);
        if got != expected {
            found.push(format!("{name} {labels:?}: {got:?}, not {expected:?}"));
        }
    };
    for (column, name) in BUDGET {
        compare(name, &[server], row[column].parse().ok());
    }
    let permille = row["used_percent"].parse::<f64>().ok().map(|percent| (percent * 10.0).round());
    compare("used_ratio", &[server], permille.map(|n| n / 1000.0));
    for state in ["active", "idle", "connecting", "control"] {
        compare("servers", &[server, ("state", state)], row[&format!("ours_{state}")].parse().ok());
    }
    for state in ["ok", "warning", "critical", "unknown"] {
        compare("state", &[server, ("state", state)], Some(f64::from(u8::from(row["state"] == state))));
    }
    found
}

/// Columns of SHOW POOLS: their metric, and the state there.
const POOLS: [(&str, &str, &str); 13] = [
    ("cl_active", "clients", "active"),
    ("cl_waiting", "clients", "waiting"),
    ("cl_active_cancel_req", "clients", "active_cancel_req"),
    ("cl_waiting_cancel_req", "clients", "waiting_cancel_req"),
    ("sv_active", "servers", "active"),
    ("sv_active_cancel", "servers", "active_cancel"),
    ("sv_being_canceled", "servers", "being_canceled"),
    ("sv_idle", "servers", "idle"),
    ("sv_used", "servers", "used"),
    ("sv_tested", "servers", "tested"),
    ("sv_login", "servers", "login"),
    ("pool_size", "size", ""),
    ("sv_limit", "limit", ""),
];

/// The same of a row of SHOW POOLS. Its clients wait longer and longer, so that is not compared.
fn pool_differences(scrape: &Scrape, row: &Row) -> Vec<String> {
    let pool = [("database", row["database"].as_str()), ("user", row["user"].as_str())];
    let differs = |(column, name, state): &(&str, &str, &str)| {
        let state = (!state.is_empty()).then_some(("state", *state));
        let labels: Vec<_> = pool.into_iter().chain(state).collect();
        let got = value(scrape, &format!("pgsluice_pool_{name}"), &labels);
        (got != row[*column].parse().ok()).then(|| format!("{column}: {got:?}, not {}", row[*column]))
    };
    POOLS.iter().filter_map(differs).collect()
}

/// Columns of SHOW STATS; a time is in microseconds there.
const STATS: [(&str, &str); 12] = [
    ("total_server_assignment_count", "server_assignments_total"),
    ("total_xact_count", "transactions_total"),
    ("total_query_count", "queries_total"),
    ("total_received", "received_bytes_total"),
    ("total_sent", "sent_bytes_total"),
    ("total_xact_time", "transaction_seconds_total"),
    ("total_query_time", "query_seconds_total"),
    ("total_wait_time", "wait_seconds_total"),
    ("total_client_parse_count", "client_parses_total"),
    ("total_server_parse_count", "server_parses_total"),
    ("total_bind_count", "binds_total"),
    ("total_client_login_count", "client_logins_total"),
];

/// The same of a row of SHOW STATS.
fn stats_differences(scrape: &Scrape, row: &Row) -> Vec<String> {
    let differs = |(column, name): &(&str, &str)| {
        let expected: f64 = row[*column].parse().expect("a number");
        let got = value(scrape, &format!("pgsluice_database_{name}"), &[("database", &row["database"])]);
        let scale = if name.contains("seconds") { 1e6 } else { 1.0 };
        let same = got.is_some_and(|got| ((got * scale).round() - expected).abs() < 0.5);
        (!same).then(|| format!("{column}: {got:?}, not {expected}"))
    };
    STATS.iter().filter_map(differs).collect()
}

/// The same of SHOW PIN_STATS, all applications of a pool together.
fn pin_differences(scrape: &Scrape, rows: &[Row], database: &str, user: &str) -> Vec<String> {
    let differs = |column: &&str| {
        let mine = rows.iter().filter(|row| row["database"] == database && row["user"] == user);
        let expected: f64 = mine.map(|row| row[*column].parse::<f64>().expect("a number")).sum();
        let got = value(scrape, &format!("pgsluice_pool_{column}_total"), &[("database", database), ("user", user)]);
        (got != Some(expected)).then(|| format!("{column}: {got:?}, not {expected}"))
    };
    let columns = ["audits", "audit_failures", "pins", "unpins", "replays", "replay_failures"];
    columns.iter().filter_map(differs).collect()
}

/// All that differs between the metrics and the console.
fn differences(pooler: &Pooler, metrics: SocketAddr) -> Vec<String> {
    let scrape = scrape(metrics);
    let (budget, pools, stats) = (pooler.show("SHOW BUDGET"), pooler.show("SHOW POOLS"), pooler.show("SHOW STATS"));
    let pin_stats = pooler.show("SHOW PIN_STATS");
    assert!(!budget.is_empty() && pools.len() > 1 && !stats.is_empty() && !pin_stats.is_empty());
    let of_budget = budget.iter().flat_map(|row| budget_differences(&scrape, row));
    // The console counts the session that asks it.
    let pools = pools.iter().filter(|row| row["user"] != "pgbouncer");
    let of_pools = pools.flat_map(|row| {
        let pins = pin_differences(&scrape, &pin_stats, &row["database"], &row["user"]);
        pool_differences(&scrape, row).into_iter().chain(pins)
    });
    of_budget.chain(of_pools).chain(stats.iter().flat_map(|row| stats_differences(&scrape, row))).collect()
}

#[test]
fn the_endpoint_tells_what_the_console_tells() {
    let postgres = Postgres::start(&[("max_connections", "30")]);
    let databases = [postgres.database(), postgres.database()];
    let names: Vec<_> = databases.iter().map(|name| (name.as_str(), name.as_str())).collect();
    let (pooler, metrics) = pooler(&postgres, &names, "default_pool_size = 2\nmax_server_connections = 9");
    let _other = postgres.connect(APP, &databases[0]);
    let mut clients: Vec<_> = (0..3).map(|_| pooler.connect(APP, &databases[0])).collect();
    // A replay each, an audit, and a pin.
    for (number, client) in clients.iter_mut().enumerate() {
        client.run(&format!("SET work_mem = '{}MB'", number + 1));
        client.run("SELECT 1");
    }
    pooler.connect(APP_MD5, &databases[1]).run("CREATE TEMP TABLE t (id int)");
    clients[0].run("BEGIN");
    clients[1].run("BEGIN");
    clients[2].send(&m::query("SELECT 'waits'")).expect("it can be sent");
    let pool = [("database", databases[0].as_str()), ("user", "app")];
    let waits = || value(&scrape(metrics), "pgsluice_pool_maxwait_seconds", &pool).is_some_and(|wait| wait > 0.0);
    assert!(eventually(SOON, waits), "{:?}", scrape(metrics));
    let counted = || pooler.show("SHOW BUDGET").iter().all(|row| row["others"] == "1");
    assert!(eventually(SOON, counted), "{:?}", pooler.show("SHOW BUDGET"));
    let agree = || differences(&pooler, metrics).is_empty();
    assert!(eventually(SOON, agree), "{:#?}", differences(&pooler, metrics));
    let scrape = scrape(metrics);
    let of_pool = |name: &str, state| value(&scrape, name, &[pool[0], pool[1], ("state", state)]);
    assert_eq!(of_pool("pgsluice_pool_clients", "waiting"), Some(1.0));
    assert_eq!(of_pool("pgsluice_pool_servers", "active"), Some(2.0));
    assert!(value(&scrape, "pgsluice_pool_replays_total", &pool) > Some(0.0), "{scrape:?}");
    let console = [("database", "pgbouncer"), ("user", "pgbouncer"), ("state", "active")];
    assert!(value(&scrape, "pgsluice_pool_clients", &console).is_some());
    let versions: Vec<_> = scrape["pgsluice_build_info"].iter().collect();
    assert_eq!(versions, [(&BTreeMap::from([("version".into(), env!("CARGO_PKG_VERSION").into())]), &1.0)]);
}

#[test]
fn pools_that_differ_in_settings_at_start_are_one_in_the_metrics() {
    let postgres = Postgres::shared();
    let database = postgres.database();
    let (pooler, metrics) = pooler(postgres, &[(&database, &database)], "");
    let _plain = pooler.connect(APP, &database);
    let parameters = [("user", APP.user), ("database", &database), ("ignore_system_indexes", "on")];
    let _special = Raw::connect_with(pooler.addr(), APP.password, &parameters).expect("a login");
    let rows = pooler.show("SHOW POOLS").into_iter().filter(|row| row["database"] == database).count();
    assert_eq!(rows, 2, "{:?}", pooler.show("SHOW POOLS"));
    let labels = [("database", database.as_str()), ("user", "app"), ("state", "active")];
    let both = || value(&scrape(metrics), "pgsluice_pool_clients", &labels) == Some(2.0);
    assert!(eventually(SOON, both), "{:?}", scrape(metrics));
}

#[test]
fn the_state_is_a_warning_from_80_percent_and_critical_from_95() {
    // 17 slots for ordinary roles: 14 are 82 %, 17 are all.
    let postgres = Postgres::start(&[("max_connections", "20")]);
    let database = postgres.database();
    let (pooler, metrics) = pooler(&postgres, &[(&database, &database)], "");
    pooler.connect(APP, &database).run("SELECT 1");
    let holds = |state: &str| {
        let scrape = scrape(metrics);
        let states = &scrape["pgsluice_budget_state"];
        let on: Vec<_> =
            states.iter().filter(|(_, on)| **on == 1.0).map(|(labels, _)| labels["state"].clone()).collect();
        on == [state] && pooler.show("SHOW BUDGET")[0]["state"] == state
    };
    assert!(eventually(SOON, || holds("ok")), "{:?}", scrape(metrics));
    let mut others = Vec::new();
    for (count, state, level, least) in [(13, "warning", "WARN", 0.8), (17, "critical", "ERROR", 0.95)] {
        others.resize_with(count, || postgres.admin(&database));
        assert!(eventually(SOON, || holds(state)), "{state}: {:?}", scrape(metrics));
        let ratio = scrape(metrics)["pgsluice_budget_used_ratio"].values().copied().next();
        assert!(ratio >= Some(least), "{state}: {ratio:?}");
        let said = |log: String| log.lines().any(|line| line.contains(level) && line.contains("slots are in use"));
        assert!(eventually(SOON, || said(pooler.log())), "{}", pooler.log());
    }
    drop(others);
    assert!(eventually(SOON, || holds("ok")), "{:?}", scrape(metrics));
}

#[test]
fn a_fleet_is_told_as_show_fleet_has_it() {
    let postgres = Postgres::shared();
    let database = postgres.database();
    let (pooler, metrics) = pooler(postgres, &[(&database, &database)], "fleet = \"e\\\"u\"");
    pooler.connect(APP, &database).run("SELECT 1");
    let agree = || {
        let (scrape, rows) = (scrape(metrics), pooler.show("SHOW FLEET"));
        let Some(row) = rows.iter().find(|row| row["self"] == "1") else { return false };
        let labels = [("fleet", "e\"u"), ("server", row["server"].as_str())];
        let same = |name: &str, expected: &str| {
            value(&scrape, &format!("pgsluice_fleet_{name}"), &labels) == expected.parse().ok()
        };
        let columns = ["tokens", "wanted", "entitled"].iter().all(|column| same(column, &row[*column]));
        let budget = pooler.show("SHOW BUDGET");
        columns && same("members", &rows.len().to_string()) && budget_differences(&scrape, &budget[0]).is_empty()
    };
    assert!(eventually(SOON, agree), "{:?} and {:?}", scrape(metrics), pooler.show("SHOW FLEET"));
}

#[test]
fn names_with_quotes_and_backslashes_come_through() {
    let postgres = Postgres::shared();
    let name = "we\"ird\\n{a=\"b\"} 1";
    let mut admin = postgres.admin("postgres");
    admin.run(&format!("CREATE DATABASE \"{}\"", name.replace('"', "\"\"")));
    let (pooler, metrics) = pooler(postgres, &[(name, name)], "");
    pooler.connect(APP, name).run("SELECT 1");
    let scrape = scrape(metrics);
    assert!(value(&scrape, "pgsluice_database_queries_total", &[("database", name)]) > Some(0.0), "{scrape:?}");
    assert!(value(&scrape, "pgsluice_pool_size", &[("database", name), ("user", "app")]).is_some(), "{scrape:?}");
}

#[test]
fn only_metrics_can_be_got() {
    let postgres = Postgres::shared();
    let database = postgres.database();
    let (_pooler, metrics) = pooler(postgres, &[(&database, &database)], "");
    for path in ["/", "/metrics/", "/Metrics", "/metricsx", "/%6detrics"] {
        assert_eq!(get(metrics, path).status, 404, "{path}");
    }
    let answer = get(metrics, "/metrics?job=pgsluice");
    assert_eq!((answer.status, answer.body.is_empty()), (200, false));
    assert!(answer.head.contains("connection: close"), "{}", answer.head);
    for method in ["POST", "HEAD", "PUT", "DELETE", "OPTIONS"] {
        let answer = ask(metrics, &format!("{method} /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"));
        assert_eq!((answer.status, answer.body.as_str()), (405, ""), "{method}");
        assert!(answer.head.contains("allow: get"), "{}", answer.head);
    }
    assert_eq!(ask(metrics, "GET /metrics HTTP/1.0\r\n\r\n").status, 200);
    assert_eq!(ask(metrics, "\x16\x03\x01\x02\r\n\r\n").status, 400);
    let long = format!("GET /metrics HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(20 << 10));
    assert_eq!(ask(metrics, &long).status, 431);
}

fn is_open(stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).expect("it can be asked without waiting");
    // What it was answered may be there to be read; only the end is of interest.
    let end = stream.peek(&mut [0]);
    stream.set_nonblocking(false).expect("it can wait again");
    end.is_err_and(|e| e.kind() == std::io::ErrorKind::WouldBlock)
}

#[test]
fn who_holds_connections_keeps_nobody_from_being_served() {
    let postgres = Postgres::shared();
    let database = postgres.database();
    let (pooler, metrics) = pooler(postgres, &[(&database, &database)], "");
    let mut client = pooler.connect(APP, &database);
    // Nothing, half a request, a request whose answer is not read, and a body that never comes.
    for sent in
        ["", "GET /metr", "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", "POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\n"]
    {
        let hold = |_| {
            let mut stream = TcpStream::connect(metrics).expect("the endpoint listens");
            stream.write_all(sent.as_bytes()).expect("it can be sent");
            stream
        };
        let mut held: Vec<_> = (0..100).map(hold).collect();
        let start = Instant::now();
        assert!(eventually(BRIEF, || held.iter().filter(|stream| is_open(stream)).count() <= 16), "with {sent:?}");
        assert!(scrape(metrics).contains_key("pgsluice_build_info"));
        assert_eq!(client.value("SELECT 1"), "1");
        assert_eq!(pooler.connect(APP, &database).value("SELECT 1"), "1", "a login is served on the same thread");
        assert!(start.elapsed() < BRIEF, "{:?} with {sent:?}", start.elapsed());
        // And none of them is held for ever.
        for stream in &mut held {
            stream.set_read_timeout(Some(SOON)).expect("a timeout can be set");
            let end = stream.read_to_end(&mut Vec::new());
            let timed_out = end.as_ref().is_err_and(|e| e.kind() == std::io::ErrorKind::WouldBlock);
            assert!(!timed_out, "with {sent:?}");
        }
    }
}

#[test]
fn however_often_somebody_asks_the_answer_is_made_once_a_second() {
    let postgres = Postgres::shared();
    let database = postgres.database();
    let (pooler, metrics) = pooler(postgres, &[(&database, &database)], "");
    let mut client = pooler.connect(APP, &database);
    let start = Instant::now();
    let mut answers = BTreeSet::new();
    for _ in 0..200 {
        client.run("SELECT 1");
        answers.insert(get(metrics, "/metrics").body);
    }
    let most = start.elapsed().as_secs() as usize + 2;
    assert!(answers.len() <= most, "{} answers in {:?}", answers.len(), start.elapsed());
    let newest = || {
        let counted = value(&scrape(metrics), "pgsluice_database_queries_total", &[("database", &database)]);
        counted == Some(200.0)
    };
    assert!(eventually(SOON, newest), "{:?}", scrape(metrics));
}

#[test]
fn an_address_in_use_is_an_error_that_names_the_key() {
    let postgres = Postgres::shared();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let metrics = taken.local_addr().expect("it has an address");
    let text = config(postgres, &[("app", "app")], metrics, "").replace("{port}", &free_port().to_string());
    let directory = Directory::fresh("metrics");
    let mut command = Command::new(program());
    command.arg("--config").arg(directory.write("pgsluice.toml", &text));
    let outcome = run(command, SOON);
    let said = format!("cannot listen on {metrics}: ");
    assert!(!outcome.ok && outcome.err.contains(&said), "{}", outcome.err);
    assert!(outcome.err.contains("Choose another address with metrics_listen."), "{}", outcome.err);
}

#[test]
fn the_endpoint_stays_where_it_is_until_a_restart_and_closes_with_the_other_listeners() {
    let postgres = Postgres::shared();
    let database = postgres.database();
    let names = [(database.as_str(), database.as_str())];
    let (mut pooler, metrics) = pooler(postgres, &names, "");
    let elsewhere = SocketAddr::from(([127, 0, 0, 1], free_port()));
    pooler.rewrite(&config(postgres, &names, elsewhere, "max_client_conn = 77"));
    assert_eq!(show(&pooler.console().query("RELOAD")), ["C RELOAD", "Z I"]);
    let said = format!("metrics_listen stays {metrics} until a restart (the file says {elsewhere})");
    assert!(pooler.wait_for_line(&said, SOON), "{}", pooler.log());
    assert!(TcpStream::connect(elsewhere).is_err());
    assert!(scrape(metrics).contains_key("pgsluice_build_info"));
    // A new process may take the address while the old one finishes its work.
    let mut client = pooler.connect(APP, &database);
    client.run("BEGIN");
    pooler.signal(rustix::process::Signal::INT);
    assert!(eventually(SOON, || TcpStream::connect(metrics).is_err()), "it is closed");
    client.run("COMMIT");
    assert!(pooler.wait_exit(SOON).is_some());
}

#[test]
fn without_the_setting_there_is_no_endpoint() {
    let postgres = Postgres::shared();
    let database = postgres.database();
    let pooler = Pooler::url(postgres, APP, &database, &[]);
    assert!(!pooler.log().contains("metrics"), "{}", pooler.log());
    let rows = pooler.show("SHOW CONFIG");
    let row = rows.iter().find(|row| row["key"] == "metrics_listen").expect("it is in SHOW CONFIG");
    assert_eq!((row["value"].as_str(), row["changeable"].as_str()), ("", "no"));
}
