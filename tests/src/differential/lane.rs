//! Where cases run: a database with a table or two per client, three direct connections, a pooler with two servers and
//! three connections through it. Everything is kept from case to case and put back by cheap means.

use std::io::Write;
use std::time::{Duration, Instant};

use crate::pooler::Pooler;
use crate::postgres::{APP, Postgres, Version};
use crate::wire::{Raw, Reply};

use super::case::{CLIENTS, Step};

/// How long a backend may take to notice that its client has gone.
const BACKEND_END_TIMEOUT: Duration = Duration::from_secs(10);

/// Cases between two VACUUMs: every case leaves dead rows, in the catalog above all, and PostgreSQL would take ever longer.
const CASES_PER_VACUUM: usize = 1_000;

/// What a client works on: `t0` of two rows and `d0`, whose column changes its type, for client 0; `x0` may be created.
/// `reset()` brings all of it back without new oids, which would show in row descriptions.
const SCHEMA: &str = "
CREATE TABLE t0 (id int PRIMARY KEY, v text);
CREATE TABLE t1 (id int PRIMARY KEY, v text);
CREATE TABLE t2 (id int PRIMARY KEY, v text);
CREATE TABLE d0 (a int);
CREATE TABLE d1 (a int);
CREATE TABLE d2 (a int);
CREATE FUNCTION reset() RETURNS void LANGUAGE plpgsql AS $$
DECLARE n int;
BEGIN
    FOR n IN 0..2 LOOP
        EXECUTE format('DROP TABLE IF EXISTS x%s', n);
        EXECUTE format('DELETE FROM t%s', n);
        EXECUTE format('INSERT INTO t%s VALUES (1, ''one''), (2, NULL)', n);
        EXECUTE format('DELETE FROM d%s', n);
        IF (SELECT atttypid <> 'int'::regtype FROM pg_attribute
            WHERE attrelid = format('d%s', n)::regclass AND attname = 'a') THEN
            EXECUTE format('ALTER TABLE d%s ALTER a TYPE int USING a::int', n);
        END IF;
        EXECUTE format('INSERT INTO d%s VALUES (7)', n);
    END LOOP;
END $$;";

/// What is left in the tables.
const CONTENTS: &str = "SELECT (SELECT array_agg(t ORDER BY id) FROM t0 t), (SELECT array_agg(t ORDER BY id) FROM t1 t), \
    (SELECT array_agg(t ORDER BY id) FROM t2 t), (SELECT array_agg(d::text ORDER BY d::text) FROM d0 d), \
    (SELECT array_agg(d::text ORDER BY d::text) FROM d1 d), (SELECT array_agg(d::text ORDER BY d::text) FROM d2 d)";

/// Something a client saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A message, all of it.
    Reply(Reply),
    /// The end of the connection.
    Closed,
    /// Nothing, for as long as we waited.
    Silence,
}

/// A connection that may have ended.
pub struct Link(Option<Raw>);

impl Link {
    /// Is it at its end?
    pub fn is_closed(&self) -> bool {
        self.0.is_none()
    }

    /// Writes a step, cut into parts as it says if `split`; and hangs up if it says so.
    pub fn send(&mut self, step: &Step, split: bool) {
        let Some(raw) = &mut self.0 else { return };
        let bytes = step.bytes();
        let cuts = if split { step.cuts(bytes.len()) } else { Vec::new() };
        let pause = cuts.len() < 16;
        let mut at = 0;
        for cut in cuts.into_iter().chain([bytes.len()]) {
            // A peer that has closed takes nothing, which shows when its answers are read.
            let _ = raw.stream().write_all(&bytes[at..cut]);
            at = cut;
            if pause && at < bytes.len() {
                std::thread::sleep(Duration::from_micros(150));
            }
        }
        if step.ops.last() == Some(&super::op::Op::HangUp) {
            self.0 = None;
        }
    }

    /// The next thing that happens within `limit`.
    pub fn receive(&mut self, limit: Duration) -> Event {
        let Some(raw) = &mut self.0 else { return Event::Closed };
        if raw.silent_for(limit) {
            return Event::Silence;
        }
        match raw.recv() {
            Ok(reply) => Event::Reply(reply),
            Err(_) => {
                self.0 = None;
                Event::Closed
            }
        }
    }

    /// Is there something to be received already?
    pub fn has_more(&mut self) -> bool {
        let Some(raw) = &mut self.0 else { return false };
        raw.stream().set_nonblocking(true).expect("a socket can be asked without waiting");
        let more = !raw.silent_for(Duration::from_secs(1));
        raw.stream().set_nonblocking(false).expect("a socket can be waited for");
        more
    }

    fn pid(&self) -> Option<i32> {
        self.0.as_ref().map(|raw| raw.pid)
    }
}

/// The place.
pub struct Lane {
    version: Version,
    postgres: &'static Postgres,
    database: String,
    max_prepared: usize,
    /// That it was made ready for.
    cases: usize,
    admin: Raw,
    pooler: Pooler,
    direct: Vec<Link>,
    pooled: Vec<Link>,
    /// Backends of direct connections in use, to know when they are gone.
    pids: [Option<i32>; CLIENTS],
}

impl Lane {
    /// A lane of its own; `max_prepared` is the pooler's `max_prepared_statements`.
    pub fn new(version: Version, max_prepared: usize) -> Lane {
        let postgres = Postgres::shared_version(version);
        let database = postgres.database();
        postgres.connect(APP, &database).run(SCHEMA);
        let pooler = start_pooler(postgres, &database, max_prepared);
        let mut admin = postgres.connect(APP, &database);
        admin.run("SET client_min_messages = error");
        let links = || (0..CLIENTS).map(|_| Link(None)).collect();
        Lane {
            version,
            admin,
            cases: 0,
            postgres,
            max_prepared,
            pooler,
            direct: links(),
            pooled: links(),
            pids: [None; CLIENTS],
            database,
        }
    }

    /// Of its PostgreSQL.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Another pooler and other connections: nothing of what went before is left.
    pub fn renew(&mut self) {
        self.direct.iter_mut().chain(&mut self.pooled).for_each(|link| link.0 = None);
        self.pooler = start_pooler(self.postgres, &self.database, self.max_prepared);
        self.await_closed_backends();
    }

    /// The tables as they were, and connections that are open.
    pub fn prepare_direct(&mut self) -> &mut [Link] {
        self.cases += 1;
        if self.cases.is_multiple_of(CASES_PER_VACUUM) {
            self.postgres.admin(&self.database).run("VACUUM");
        }
        self.admin.run("SELECT reset()");
        for (link, pid) in self.direct.iter_mut().zip(&mut self.pids) {
            let raw = link.0.get_or_insert_with(|| self.postgres.connect(APP, &self.database));
            *pid = Some(raw.pid);
        }
        &mut self.direct
    }

    /// The tables as they were, and connections that are open.
    pub fn prepare_pooled(&mut self) -> &mut [Link] {
        self.admin.run("SELECT reset()");
        for link in &mut self.pooled {
            link.0.get_or_insert_with(|| self.pooler.connect(APP, &self.database));
        }
        &mut self.pooled
    }

    /// The direct client that is told more, although all should have been said.
    pub fn talks_on(&mut self) -> Option<usize> {
        self.direct.iter_mut().position(Link::has_more)
    }

    /// The pooled clients are in the middle of something: new ones take their places.
    pub fn disconnect_pooled(&mut self) {
        self.pooled.iter_mut().for_each(|link| link.0 = None);
        // What they were doing may go on for a moment: it is not to change the next case's tables.
        let busy = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                    AND pid <> pg_backend_pid() AND state <> 'idle'";
        let start = Instant::now();
        while self.admin.value(busy) != "0" {
            assert!(start.elapsed() < BACKEND_END_TIMEOUT, "what the clients left does not end");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// What is in the tables when all that was begun is over.
    pub fn contents(&mut self) -> Vec<Option<String>> {
        self.await_closed_backends();
        self.admin.rows(CONTENTS).expect("the tables can be read").remove(0)
    }

    /// What the pooler has logged.
    pub fn log(&self) -> String {
        self.pooler.log()
    }

    fn await_closed_backends(&mut self) {
        for (link, pid) in self.direct.iter().zip(&mut self.pids) {
            let Some(gone) = pid.filter(|&pid| link.pid() != Some(pid)) else { continue };
            let start = Instant::now();
            let sql = format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {gone}");
            while self.admin.value(&sql) != "0" {
                assert!(start.elapsed() < BACKEND_END_TIMEOUT, "backend {gone} does not end");
                std::thread::sleep(Duration::from_millis(1));
            }
            *pid = None;
        }
    }
}

fn start_pooler(postgres: &Postgres, database: &str, max_prepared: usize) -> Pooler {
    let config = format!(
        "listen_port = {{port}}\nauth_type = \"trust\"\nadmin_users = [\"{user}\"]\ndefault_pool_size = 2\n\
         max_prepared_statements = {max_prepared}\nlog_connections = false\nlog_disconnections = false\n\
         log_stats = false\n\
         [databases.{database}]\nhost = \"127.0.0.1\"\nport = {port}\n[users.{user}]\npassword = \"{password}\"\n",
        user = APP.user,
        password = APP.password,
        port = postgres.port()
    );
    Pooler::file("pgsluice.toml", &config, APP)
}
