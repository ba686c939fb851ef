//! What the budget costs a query: instructions in user space of the thread that serves it, by callgrind, where PostgreSQL does not
//! tell its limits, so that pools have fixed sizes; with a budget; and in a fleet. From the difference of two runs, one of which
//! has more queries. Prints a table. Needs `valgrind`.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use pgsluice_tests::process::Directory;
use pgsluice_tests::{APP, Pooler, Postgres, Raw, eventually, pooler, program};
use rustix::process::Signal;

const ROUNDS: usize = 3;
/// Queries of each client, in the short run and in the long one.
const QUERIES: [u64; 2] = [500, 2_500];
const SOON: Duration = Duration::from_secs(60);
const OUT: &str = "PGSLUICE_CALLGRIND_DIR";

#[derive(Clone, Copy)]
struct Setting {
    name: &'static str,
    fleet: &'static str,
    /// What SHOW BUDGET has to say.
    state: &'static str,
    is_readable: bool,
}

const SETTINGS: [Setting; 3] = [
    Setting { name: "fixed pool size", fleet: "", state: "unknown", is_readable: false },
    Setting { name: "budget", fleet: "", state: "ok", is_readable: true },
    Setting { name: "fleet of two", fleet: "fleet = \"cost\"", state: "ok", is_readable: true },
];

/// Clients, and servers for them.
const LOADS: [(usize, usize); 2] = [(1, 2), (8, 2)];

fn main() {
    let Some(out) = std::env::var_os(OUT) else { return start_again() };
    program::allow_many_files();
    let postgres = Postgres::start(&[("max_connections", "100")]);
    let mut best: BTreeMap<(usize, usize), f64> = BTreeMap::new();
    for _ in 0..ROUNDS {
        for (l, &load) in LOADS.iter().enumerate() {
            for (s, &setting) in SETTINGS.iter().enumerate() {
                let [few, many] = QUERIES.map(|queries| measure(&postgres, setting, load, queries, out.as_ref()));
                // The thread that has the most to do with queries serves them.
                let more = many.iter().zip(&few).map(|(many, few)| many.saturating_sub(*few)).max().expect("threads");
                let queries = (QUERIES[1] - QUERIES[0]) * load.0 as u64;
                let each = more as f64 / queries as f64;
                best.entry((l, s)).and_modify(|least| *least = least.min(each)).or_insert(each);
            }
        }
    }
    println!("| clients on {} servers | {} |", LOADS[0].1, SETTINGS.map(|s| s.name).join(" | "));
    println!("|---|---|---|---|");
    for (l, (clients, _)) in LOADS.iter().enumerate() {
        let cells = [0, 1, 2].map(|s| format!("{:.0} ({:.3})", best[&(l, s)], best[&(l, s)] / best[&(l, 0)]));
        println!("| {clients} | {} |", cells.join(" | "));
    }
}

/// With a pooler that runs under callgrind.
fn start_again() {
    let files = Directory::fresh("callgrind");
    let text = format!(
        "#!/bin/sh\nexec valgrind -q --tool=callgrind --separate-threads=yes --callgrind-out-file={}/%p {} \"$@\"\n",
        files.path().display(),
        pooler::program().display()
    );
    let wrapper = files.write("pgsluice", &text);
    std::fs::set_permissions(&wrapper, PermissionsExt::from_mode(0o755)).expect("it is ours");
    let this = std::env::current_exe().expect("a running program has a path");
    let status = Command::new(this).env("PGSLUICE_BIN", wrapper).env(OUT, files.path()).status().expect("it starts");
    assert!(status.success());
}

/// Instructions of each thread for as many queries of each client.
fn measure(
    postgres: &Postgres,
    setting: Setting,
    (clients, servers): (usize, usize),
    queries: u64,
    out: &Path,
) -> Vec<u64> {
    let database = postgres.database();
    if !setting.is_readable {
        postgres.admin(&database).run("REVOKE SELECT ON pg_catalog.pg_stat_activity FROM PUBLIC");
    }
    let text = format!(
        "listen_addr = \"127.0.0.1\"\nlisten_port = {{port}}\nadmin_users = [\"app\"]\nlog_stats = false\n\
         workers = 1\ndefault_pool_size = {servers}\n{}\n[databases.{database}]\nhost = \"127.0.0.1\"\nport = {}\n\
         [users.{}]\npassword = \"{}\"\n",
        setting.fleet,
        postgres.port(),
        APP.user,
        APP.password
    );
    let mut pooler = Pooler::file("pgsluice.toml", &text, APP);
    let mut raws: Vec<_> = (0..clients).map(|_| pooler.connect(APP, &database)).collect();
    raws.iter_mut().for_each(|raw| raw.run("SELECT 1"));
    let is_there = || pooler.show("SHOW BUDGET")[0]["state"] == setting.state;
    assert!(eventually(SOON, is_there), "{:?}\n{}", pooler.show("SHOW BUDGET"), pooler.log());
    let other = (!setting.fleet.is_empty()).then(|| neighbour(&text, &database));
    std::thread::scope(|scope| {
        for raw in &mut raws {
            scope.spawn(move || (0..queries).for_each(|_| raw.run("SELECT 1")));
        }
    });
    drop((other, raws));
    pooler.signal(Signal::TERM);
    assert!(pooler.wait_exit(SOON).is_some(), "it ends:\n{}", pooler.log());
    read(out, pooler.pid())
}

/// Another instance of the same fleet, with a client.
fn neighbour(text: &str, database: &str) -> (Pooler, Raw) {
    let pooler = Pooler::file("pgsluice.toml", text, APP);
    let mut raw = pooler.connect(APP, database);
    raw.run("SELECT 1");
    assert!(eventually(SOON, || pooler.show("SHOW FLEET").len() == 2), "{:?}", pooler.show("SHOW FLEET"));
    (pooler, raw)
}

/// Callgrind writes a file for each thread.
fn read(out: &Path, pid: u32) -> Vec<u64> {
    let total = |thread: usize| {
        let text = std::fs::read_to_string(out.join(format!("{pid}-{thread:02}"))).ok()?;
        let line = text.lines().rev().find_map(|line| line.strip_prefix("totals: "))?;
        line.trim().parse().ok()
    };
    (1..).map_while(total).collect()
}
