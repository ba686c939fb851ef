//! Where programs run: two databases that are alike, one reached directly and one through a pooler with two servers,
//! three connections to each. They are kept from program to program and cleaned in between.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::pooler::Pooler;
use crate::postgres::{APP, Postgres, Version};
use crate::session_state;
use crate::wire::{Raw, message as m};

use super::statements::Step;

/// Clients of a program.
pub(super) const CLIENTS: usize = 3;

/// What programs are about, as it decides how many servers they need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Theme {
    /// All state but that of sequences, on two servers.
    Sessions,
    /// That of sequences, too. For how long it keeps a server the pooler decides, so there is one for each client.
    Sequences,
}

impl Theme {
    /// The servers of the pool.
    fn servers(self) -> usize {
        match self {
            Theme::Sessions => 2,
            Theme::Sequences => CLIENTS,
        }
    }

    /// Lines of the pooler's configuration. Nobody ever has to wait for a server.
    fn config(self) -> &'static str {
        match self {
            Theme::Sessions => "query_wait_timeout = \"3s\"\npin_policy = \"sequence=ignore\"",
            Theme::Sequences => "query_wait_timeout = \"3s\"",
        }
    }
}

/// How long PostgreSQL may take to tell a backend that listens.
const NOTIFY_TIME: Duration = Duration::from_millis(2);
/// How long a notification may take to a client that does nothing.
const HEAR_TIME: Duration = Duration::from_millis(500);

/// Puts back what programs change for good.
const RESTORE: &str = "TRUNCATE visit, counted; ALTER SEQUENCE ticket RESTART; ALTER SEQUENCE counted_id_seq RESTART";

/// Whether a session has what keeps its server.
const AUDIT: &str = "
SELECT EXISTS (SELECT FROM pg_prepared_statements WHERE from_sql) OR EXISTS (SELECT FROM pg_cursors WHERE is_holdable)
    OR EXISTS (SELECT FROM pg_listening_channels())
    OR EXISTS (SELECT FROM pg_class WHERE relnamespace = pg_my_temp_schema())
    OR EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid())";

/// What a step showed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Trace {
    /// The replies, a line each, notifications left out.
    pub(super) lines: Vec<String>,
    /// What the client knows of the parameters that PostgreSQL reports.
    pub(super) parameters: BTreeMap<String, String>,
}

impl Trace {
    /// Did it leave a transaction open?
    pub(super) fn in_block(&self) -> bool {
        self.lines.last().is_some_and(|line| line != "Z I")
    }

    /// Was there an error with this SQLSTATE?
    pub(super) fn has_failed(&self, state: &str) -> bool {
        self.lines.iter().any(|line| line.strip_prefix("E ") == Some(state))
    }
}

/// A connection, and what it was notified of.
pub(super) struct Link {
    raw: Raw,
    closed: bool,
    notified: Vec<String>,
}

impl Link {
    /// Sends bytes and takes all answers.
    pub(super) fn perform(&mut self, bytes: &[u8]) -> Trace {
        let mut trace = Trace::default();
        self.closed |= self.raw.send(bytes).is_err();
        while !self.closed && trace.lines.last().is_none_or(|line| !line.starts_with("Z ")) {
            match self.raw.recv() {
                Ok(reply) if reply.tag == b'A' => self.notified.push(reply.body[4..].escape_ascii().to_string()),
                Ok(reply) if reply.tag == b'S' => {}
                Ok(reply) => trace.lines.push(reply.to_string()),
                Err(error) => {
                    self.closed = true;
                    trace.lines.push(format!("(closed: {error})"));
                }
            }
        }
        trace.parameters = self.raw.parameters.clone();
        trace
    }

    /// Takes the notifications that come while the client does nothing.
    fn hear(&mut self) {
        while !self.closed && !self.raw.silent_for(HEAR_TIME) {
            match self.raw.recv() {
                Ok(reply) if reply.tag == b'A' => self.notified.push(reply.body[4..].escape_ascii().to_string()),
                Ok(reply) => self.notified.push(reply.to_string()),
                Err(_) => self.closed = true,
            }
        }
    }

    /// Does its session have what keeps a server? For direct links outside a transaction.
    pub(super) fn keeps(&mut self) -> bool {
        let trace = self.perform(&m::query(AUDIT));
        assert_eq!(trace.lines.len(), 4, "the audit works: {trace:?}");
        trace.lines[1] == "D t"
    }
}

/// One of the two databases, with its clients.
pub(super) struct Side {
    pub(super) database: String,
    pub(super) links: Vec<Link>,
    admin: Raw,
}

impl Side {
    fn new(postgres: &Postgres, connect: impl Fn(&str) -> Raw) -> Side {
        let database = session_state::database(postgres);
        Side::of(postgres, database, connect)
    }

    fn of(postgres: &Postgres, database: String, connect: impl Fn(&str) -> Raw) -> Side {
        let link = || Link { raw: connect(&database), closed: false, notified: Vec::new() };
        Side { links: (0..CLIENTS).map(|_| link()).collect(), admin: postgres.admin(&database), database }
    }

    /// Performs a step.
    pub(super) fn perform(&mut self, step: &Step) -> Trace {
        let bytes = step.bytes(&self.database);
        let trace = self.links[step.client].perform(&bytes);
        if step.may_notify() {
            // Whoever listens is to be told now, and not when it listens no more.
            std::thread::sleep(NOTIFY_TIME);
        }
        trace
    }

    /// Rolls back, takes the notifications that are due, and says what each client was notified of. Waits for as many as
    /// `expected` says.
    pub(super) fn notifications(&mut self, expected: Option<&[Vec<String>]>) -> Vec<Vec<String>> {
        for (client, link) in self.links.iter_mut().enumerate() {
            link.perform(&m::query("ROLLBACK"));
            link.perform(&m::query("SELECT 1"));
            if expected.is_some_and(|expected| link.notified.len() < expected[client].len()) {
                link.hear();
            }
        }
        self.links.iter().map(|link| link.notified.clone()).collect()
    }

    /// Ends all that a program began; false when a client does not take it.
    pub(super) fn clean(&mut self) -> bool {
        let texts = ["ROLLBACK", "DISCARD ALL"].map(m::query);
        let clean = self.links.iter_mut().all(|link| {
            let traces = [link.perform(&texts[0]), link.perform(&texts[1])];
            link.notified.clear();
            traces.iter().all(|trace| trace.lines.last().is_some_and(|line| line == "Z I"))
        });
        let left = "SELECT gid FROM pg_prepared_xacts WHERE database = current_database()";
        for row in self.admin.rows(left).expect("the list of prepared transactions") {
            self.admin.run(&format!("ROLLBACK PREPARED '{}'", row[0].as_deref().unwrap_or_default()));
        }
        self.admin.run(RESTORE);
        clean && self.all_servers_are_free()
    }

    /// Whether two transactions at a time work, each client's with each other's.
    fn all_servers_are_free(&mut self) -> bool {
        let ready = |trace: Trace, end: &str| trace.lines.last().is_some_and(|line| line == end);
        (0..CLIENTS).all(|one| {
            let pair = [one, (one + 1) % CLIENTS];
            let begun = pair.map(|at| ready(self.links[at].perform(&m::query("BEGIN")), "Z T"));
            let ended = pair.map(|at| ready(self.links[at].perform(&m::query("COMMIT")), "Z I"));
            begun == [true; 2] && ended == [true; 2]
        })
    }
}

/// Both sides.
pub(super) struct Place {
    /// What its programs are about.
    pub(super) theme: Theme,
    postgres: &'static Postgres,
    pooler: Pooler,
    /// Reached directly.
    pub(super) direct: Side,
    /// Reached through the pooler.
    pub(super) pooled: Side,
}

impl Place {
    /// A place of its own.
    pub(super) fn new(version: Version, theme: Theme) -> Place {
        let postgres = Postgres::shared_version(version);
        let direct = Side::new(postgres, |database| postgres.connect(APP, database));
        let database = session_state::database(postgres);
        let pooler = session_state::pooler(postgres, &database, theme.servers(), theme.config());
        let pooled = Side::of(postgres, database, |database| pooler.connect(APP, database));
        Place { theme, postgres, pooler, direct, pooled }
    }

    /// Another pooler and other connections: nothing of what went before is left.
    pub(super) fn renew(&mut self) {
        let postgres = self.postgres;
        self.direct = Side::of(postgres, self.direct.database.clone(), |database| postgres.connect(APP, database));
        let pooler = session_state::pooler(postgres, &self.pooled.database, self.theme.servers(), self.theme.config());
        self.pooled = Side::of(postgres, self.pooled.database.clone(), |database| pooler.connect(APP, database));
        self.pooler = pooler;
        self.direct.clean();
        self.pooled.clean();
    }

    /// What the pooler has logged.
    pub(super) fn log(&self) -> String {
        self.pooler.log()
    }
}
