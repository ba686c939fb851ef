//! Nobody ever sees another's state, whatever breaks: servers are killed, clients vanish in the middle of transactions,
//! statements are cancelled or time out within a millisecond, so that audits and replays fail, and roles are dropped, so that
//! no replay can take them. Every client has a tenant, a role, a temporary table and a lock of its own, and looks at all four
//! after everything it does. What it had been told that it has, it must have, until it is told of an error.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use pgsluice_tests::random::Random;
use pgsluice_tests::session_state::{FINGERPRINT, database, pooler};
use pgsluice_tests::wire::{Reply, cancel, message as m};
use pgsluice_tests::{APP, Postgres, Raw, Version, eventually};

const SERVERS: usize = 4;
const CLIENTS: usize = 8;
/// Roles, taken by the clients in turn, so that two clients have the same.
const ROLES: usize = 4;
/// How often all clients together look while things break, and how long that may take.
const LOOKS: usize = 1200;
const LIMIT: Duration = Duration::from_secs(60);
/// Numbers clients, over all their lives.
static NEXT: AtomicUsize = AtomicUsize::new(1);

/// What a client knows of one of the things that it may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    No,
    /// It does not know: an error was in the way.
    Maybe,
    Yes,
}

/// The things that a client may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Thing {
    Tenant,
    Role,
    Table,
    Lock,
}

const THINGS: [Thing; 4] = [Thing::Tenant, Thing::Role, Thing::Table, Thing::Lock];

/// How often what was seen.
#[derive(Debug, Default)]
struct Count {
    /// Looks that found a thing that was certain to be there.
    found: BTreeMap<Thing, usize>,
    looks: usize,
    /// Errors by SQLSTATE.
    errors: BTreeMap<String, usize>,
    lives: usize,
}

/// Why a statement did not work.
enum Fault {
    Error(Reply),
    Closed,
}

/// One life of a client.
struct Client {
    raw: Raw,
    number: usize,
    role: usize,
    known: [Known; 4],
    /// Has it asked for a time limit that hits anything?
    is_hasty: bool,
    in_block: bool,
    failures: usize,
    /// What it said last, for the report.
    history: Vec<String>,
}

impl Client {
    fn login(addr: SocketAddr, database: &str, role: usize) -> Client {
        let raw = Raw::connect(addr, APP.user, APP.password, database).expect("a login");
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let known = [Known::No; 4];
        Client { raw, number, role, known, is_hasty: false, in_block: false, failures: 0, history: Vec::new() }
    }

    /// A Query; `Err` with the first error, when all replies have come.
    fn query(&mut self, sql: &str, count: &mut Count) -> Result<Vec<Vec<Option<String>>>, Fault> {
        self.history.push(sql.to_owned());
        if self.raw.send(&m::query(sql)).is_err() {
            return Err(Fault::Closed);
        }
        let (mut rows, mut fault) = (Vec::new(), None);
        loop {
            let Ok(reply) = self.raw.recv() else { return Err(Fault::Closed) };
            match reply.tag {
                b'D' => rows.push(reply.values()),
                b'E' => {
                    *count.errors.entry(reply.sqlstate()).or_default() += 1;
                    self.history.push(format!("    {reply:?}"));
                    fault = fault.or(Some(reply));
                }
                b'Z' => {
                    self.in_block = reply.body != b"I";
                    return fault.map_or(Ok(rows), |error| Err(Fault::Error(error)));
                }
                _ => {}
            }
        }
    }

    fn set(&mut self, thing: Thing, known: Known) {
        self.known[thing as usize] = known;
    }

    /// A statement that gives or takes a thing. An error leaves that in doubt, and more if it was the server's end.
    fn change(&mut self, thing: Thing, sql: &str, then: Known, count: &mut Count) -> Result<(), Fault> {
        match self.query(sql, count) {
            Ok(_) => self.set(thing, then),
            Err(fault) => {
                self.set(thing, Known::Maybe);
                self.suffer(fault)?;
            }
        }
        Ok(())
    }

    /// What an error leaves of what is known. The end of the connection is passed on.
    fn suffer(&mut self, fault: Fault) -> Result<(), Fault> {
        let Fault::Error(error) = fault else { return Err(fault) };
        self.failures += 1;
        let state = error.sqlstate();
        let server_lost = state.starts_with("08") || state.starts_with("57P");
        // A role that is no more cannot be taken again.
        let role_lost = ["22023", "42704", "42501"].contains(&state.as_str());
        for thing in THINGS {
            let in_doubt = match thing {
                Thing::Role => server_lost || role_lost,
                Thing::Table | Thing::Lock => server_lost,
                Thing::Tenant => false,
            };
            if in_doubt && self.known[thing as usize] == Known::Yes {
                self.set(thing, Known::Maybe);
            }
        }
        Ok(())
    }

    /// Looks at everything. Errors are possible; another's things are not.
    fn look(&mut self, count: &mut Count) -> Result<(), Fault> {
        let sql = format!(
            "SELECT 'look {}', coalesce(current_setting('app.tenant', true), ''), current_user, \
             (SELECT coalesce(string_agg(relname, ' '), '') FROM pg_class WHERE relnamespace = pg_my_temp_schema()), \
             (SELECT coalesce(string_agg(objid::text, ' '), '') FROM pg_locks \
              WHERE locktype = 'advisory' AND pid = pg_backend_pid())",
            self.number
        );
        let rows = match self.query(&sql, count) {
            Ok(rows) => rows,
            Err(fault) => return self.suffer(fault),
        };
        self.failures = 0;
        count.looks += 1;
        let seen: Vec<_> = rows[0].iter().map(|value| value.clone().unwrap_or_default()).collect();
        assert_eq!(seen[0], format!("look {}", self.number), "an answer to somebody else: {}", self.report());
        let n = self.number;
        let mine = [format!("tenant {n}"), format!("fault_role_{}", self.role), format!("t_{n}"), n.to_string()];
        for thing in THINGS {
            let (seen, mine) = (&seen[1 + thing as usize], &mine[thing as usize]);
            let nothing = if thing == Thing::Role { APP.user } else { "" };
            let right = match self.known[thing as usize] {
                Known::Yes => seen == mine,
                Known::No => seen == nothing,
                Known::Maybe => seen == mine || seen == nothing,
            };
            let known = self.known[thing as usize];
            assert!(right, "{thing:?} of client {n} is {seen:?}, and known: {known:?}\n{}", self.report());
            // What was seen is certain again.
            self.set(thing, if seen == mine { Known::Yes } else { Known::No });
            *count.found.entry(thing).or_default() += usize::from(known == Known::Yes);
        }
        Ok(())
    }

    fn report(&self) -> String {
        self.history[self.history.len().saturating_sub(25)..].join("\n")
    }

    /// One thing done at random.
    fn act(&mut self, random: &mut Random, count: &mut Count) -> Result<(), Fault> {
        let n = self.number;
        let has = |client: &Client, thing: Thing| client.known[thing as usize] != Known::No;
        match random.below(14) {
            0..=2 => {
                let forms = [
                    format!("SET app.tenant = 'tenant {n}'"),
                    format!("SELECT set_config('app.tenant', 'tenant {n}', false)"),
                    format!("SELECT become('tenant {n}')"),
                    format!("DO $$ BEGIN PERFORM become('tenant {n}'); END $$"),
                    format!("INSERT INTO visit VALUES ('tenant {n}')"),
                    format!("BEGIN; SELECT become('tenant {n}'); COMMIT"),
                ];
                self.change(Thing::Tenant, &forms[random.below(forms.len())], Known::Yes, count)
            }
            3 => self.change(Thing::Tenant, "RESET app.tenant", Known::No, count),
            4..=5 => self.change(Thing::Role, &format!("SET ROLE fault_role_{}", self.role), Known::Yes, count),
            6 => self.change(Thing::Role, "RESET ROLE", Known::No, count),
            7 if has(self, Thing::Table) => {
                self.change(Thing::Table, &format!("DROP TABLE IF EXISTS pg_temp.t_{n}"), Known::No, count)
            }
            7 => self.change(Thing::Table, &format!("CREATE TEMP TABLE t_{n} (x int)"), Known::Yes, count),
            8 if has(self, Thing::Lock) => {
                self.change(Thing::Lock, "SELECT pg_advisory_unlock_all()", Known::No, count)
            }
            8 => self.change(Thing::Lock, &format!("SELECT pg_try_advisory_lock({n})"), Known::Yes, count),
            9 => self.hurry(random, count),
            10 => self.be_cancelled(random, count),
            11 => self.roll_back(count),
            12 if random.chance(40) => self.vanish(random, count),
            13 if random.chance(50) => self.forget_all(count),
            _ => Ok(()),
        }
    }

    /// A time limit that its own statements, and what the pooler asks for it, may run into.
    fn hurry(&mut self, random: &mut Random, count: &mut Count) -> Result<(), Fault> {
        self.is_hasty = !self.is_hasty && random.chance(60);
        let limit = i32::from(self.is_hasty);
        match self.query(&format!("SET statement_timeout = {limit}"), count) {
            Ok(_) => Ok(()),
            Err(fault) => self.suffer(fault),
        }
    }

    /// Cancelled soon, in its statement, before it or behind it.
    fn be_cancelled(&mut self, random: &mut Random, count: &mut Count) -> Result<(), Fault> {
        let (addr, pid, secret) = (self.raw.addr(), self.raw.pid, self.raw.secret.clone());
        let delay = Duration::from_millis(random.next_u64() % 8);
        let canceller = std::thread::spawn(move || {
            std::thread::sleep(delay);
            // A pooler that is busy may take it late; what matters is whom it hits.
            let _ = cancel(addr, pid, &secret);
        });
        let result = self.query("SELECT pg_sleep(0.005)", count);
        canceller.join().expect("it does not panic");
        match result {
            Ok(_) => Ok(()),
            Err(fault) => self.suffer(fault),
        }
    }

    /// A transaction that does everything and leaves nothing.
    fn roll_back(&mut self, count: &mut Count) -> Result<(), Fault> {
        let wrong = "BEGIN; SELECT become('never'); RESET ROLE; CREATE TEMP TABLE never (x int); \
                     SELECT pg_advisory_xact_lock(0)";
        let result = self.query(wrong, count).map(drop);
        let ended = self.query("ROLLBACK", count).map(drop);
        for result in [result, ended] {
            if let Err(fault) = result {
                self.suffer(fault)?;
            }
        }
        Ok(())
    }

    /// Goes without a word, with a transaction open and a statement under way.
    fn vanish(&mut self, random: &mut Random, count: &mut Count) -> Result<(), Fault> {
        let n = self.number;
        let sql = format!("BEGIN; SET app.tenant = 'tenant {n}'; CREATE TEMP TABLE vanished_{n} (x int)");
        self.query(&sql, count)?;
        if random.chance(50) {
            let _ = self.raw.send(&m::query("COMMIT; SELECT pg_sleep(0.02)"));
        }
        Err(Fault::Closed)
    }

    fn forget_all(&mut self, count: &mut Count) -> Result<(), Fault> {
        match self.query("DISCARD ALL", count) {
            Ok(_) => {
                self.known = [Known::No; 4];
                self.is_hasty = false;
                Ok(())
            }
            Err(fault) => {
                self.known = [Known::Maybe; 4];
                self.suffer(fault)
            }
        }
    }
}

/// The lives of one client.
fn live(addr: SocketAddr, database: &str, role: usize, seed: u64, looks: &AtomicUsize) -> Count {
    let goes_on = || looks.load(Ordering::Relaxed) < LOOKS;
    let mut random = Random::new(seed);
    let mut count = Count::default();
    while goes_on() {
        count.lives += 1;
        let mut client = Client::login(addr, database, role);
        while goes_on() {
            let done = client.act(&mut random, &mut count).and_then(|()| {
                if client.in_block {
                    client.query("ROLLBACK", &mut count).map(drop).or_else(|fault| client.suffer(fault))?;
                }
                looks.fetch_add(1, Ordering::Relaxed);
                client.look(&mut count)
            });
            // A role that was dropped can be in the way of everything.
            let gives_up = client.failures > 30;
            if done.is_err() || gives_up || random.chance(1) {
                break;
            }
        }
    }
    count
}

/// Kills servers and drops roles.
fn break_things(postgres: &Postgres, database: &str, seed: u64, looks: &AtomicUsize) {
    let mut random = Random::new(seed);
    let mut admin = postgres.admin(database);
    let start = Instant::now();
    while looks.load(Ordering::Relaxed) < LOOKS {
        if start.elapsed() > LIMIT {
            looks.store(LOOKS, Ordering::Relaxed);
        }
        std::thread::sleep(Duration::from_millis(10 + random.next_u64() % 30));
        let role = random.below(ROLES);
        let sql = match random.below(10) {
            0..=5 => {
                "SELECT pg_terminate_backend((SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND \
                      usename = 'app' ORDER BY random() LIMIT 1))"
                    .to_owned()
            }
            6..=7 => format!("DROP ROLE fault_role_{role}"),
            _ => format!("CREATE ROLE fault_role_{role} ROLE app"),
        };
        // A role may be there already, or in use.
        let _ = admin.rows(&sql);
    }
}

/// As many servers as the pool has, held at once by one client each, and nothing on any of them.
fn all_is_clean(addr: SocketAddr, database: &str, expected: &str) -> Result<(), String> {
    let mut clients: Vec<_> = (0..SERVERS)
        .map(|_| Raw::connect(addr, APP.user, APP.password, database).map_err(|error| format!("{error:?}")))
        .collect::<Result<_, _>>()?;
    for client in &mut clients {
        client.rows("BEGIN").map_err(|error| format!("{error:?}"))?;
        let seen = client.rows(FINGERPRINT).map_err(|error| format!("{error:?}"))?[0][1].clone().unwrap_or_default();
        let lines: Vec<_> = seen.lines().filter(|line| !expected.lines().any(|other| other == *line)).collect();
        if !lines.is_empty() {
            return Err(format!("a new client sees {lines:?}"));
        }
    }
    Ok(())
}

fn faults(version: Version, seed: u64) {
    let postgres = Postgres::shared_version(version);
    let database = database(postgres);
    let mut admin = postgres.admin(&database);
    for role in 0..ROLES {
        admin.run(&format!("DROP ROLE IF EXISTS fault_role_{role}; CREATE ROLE fault_role_{role} ROLE app"));
    }
    let expected = postgres.connect(APP, &database).rows(FINGERPRINT).expect("the fingerprint works");
    let expected = expected[0][1].clone().unwrap_or_default();
    let pooler = pooler(postgres, &database, SERVERS, "query_wait_timeout = \"10s\"");
    let looks = Arc::new(AtomicUsize::new(0));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let (addr, database, looks) = (pooler.addr(), database.clone(), Arc::clone(&looks));
            let seed = seed.wrapping_mul(1000).wrapping_add(number as u64);
            std::thread::spawn(move || live(addr, &database, number % ROLES, seed, &looks))
        })
        .collect();
    break_things(postgres, &database, seed, &looks);
    let counts: Vec<_> =
        clients.into_iter().map(|client| client.join().expect("a client saw what is not its own")).collect();

    let total = |pick: fn(&Count) -> usize| counts.iter().map(pick).sum::<usize>();
    let mut errors: BTreeMap<&str, usize> = BTreeMap::new();
    counts.iter().flat_map(|c| &c.errors).for_each(|(state, n)| *errors.entry(state).or_default() += n);
    let (looks, lives) = (total(|c| c.looks), total(|c| c.lives));
    let found = THINGS.map(|thing| counts.iter().filter_map(|c| c.found.get(&thing)).sum::<usize>());
    eprintln!(
        "{version:?}, seed {seed}: {looks} looks in {lives} lives found {found:?} of {THINGS:?}; errors {errors:?}"
    );
    assert!(looks > LOOKS / 3 && found.iter().all(|&n| n > 30), "{looks} looks that found {found:?}: too few to tell");

    // Everybody has gone, with all that they had.
    let left = format!(
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE \
         datname = '{database}')"
    );
    assert!(eventually(Duration::from_secs(10), || admin.value(&left) == "0"), "locks of clients that have gone");
    let mut last = Ok(());
    let clean = eventually(Duration::from_secs(10), || {
        last = all_is_clean(pooler.addr(), &database, &expected);
        last.is_ok()
    });
    assert!(clean, "{last:?}");
}

#[test]
fn nobody_sees_anothers_state_whatever_breaks() {
    for (version, seeds) in Version::ALL.into_iter().zip([[1, 2], [3, 4]]) {
        seeds.into_iter().for_each(|seed| faults(version, seed));
    }
}
