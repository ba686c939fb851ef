//! The statements that programs are made of. Names come from small pools, so that clients meet in them.

use std::fmt;

use crate::random::Random;
use crate::wire::message as m;

use super::place::Theme;

/// Stands for the database in names that all databases share.
const DATABASE: &str = "{database}";

/// Settings, and values as SQL writes them.
const SETTINGS: &[(&str, &[&str])] = &[
    ("work_mem", &["'1MB'", "'2MB'", "2048", "'nonsense'"]),
    ("statement_timeout", &["'20s'", "30000"]),
    ("DateStyle", &["German", "'SQL, DMY'", "ISO"]),
    ("TimeZone", &["'UTC'", "'Asia/Tokyo'", "'America/New_York'"]),
    ("search_path", &["red", "blue", "'red', 'blue'", "'nowhere'", "blue, public"]),
    ("application_name", &["'a'", "'b c'"]),
    ("bytea_output", &["'escape'", "hex"]),
    ("IntervalStyle", &["iso_8601", "postgres"]),
    ("client_encoding", &["'LATIN1'", "'UTF8'"]),
    ("standard_conforming_strings", &["off", "on"]),
    ("default_transaction_isolation", &["'serializable'", "'repeatable read'"]),
    ("default_transaction_read_only", &["on", "off"]),
    ("extra_float_digits", &["0", "3"]),
    ("app.tenant", &["'one'", "'two'", "'it''s'", "'back\\slash'", "'new\nline'", "''"]),
    ("app.other", &["'one'", "$$dollar$$", "E'\\''"]),
    ("no_such_setting", &["1"]),
    ("max_connections", &["1"]),
];

/// What does not keep a server, outside a transaction.
const FREE: &[&str] = &[
    "RESET ALL",
    "SET TIME ZONE 'Europe/Rome'",
    "SET TIME ZONE LOCAL",
    "SET NAMES 'UTF8'",
    "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
    "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE, ISOLATION LEVEL REPEATABLE READ",
    "SET TRANSACTION READ ONLY",
    "SET CONSTRAINTS ALL DEFERRED",
    "SET ROLE state_reader",
    "SET ROLE state_writer",
    "SET LOCAL ROLE state_writer",
    "SET ROLE NONE",
    "RESET ROLE",
    "SET ROLE no_such_role",
    "SELECT set_config('role', 'state_reader', false)",
    "SET SESSION AUTHORIZATION app",
    "SET SESSION AUTHORIZATION postgres",
    "RESET SESSION AUTHORIZATION",
    "SELECT become('by a function')",
    "SELECT become_here('only here')",
    "SELECT inside()",
    "SELECT tenant FROM changing",
    "INSERT INTO public.visit VALUES ('triggered')",
    "DO $$ BEGIN PERFORM set_config('app.tenant', 'done', false); SET work_mem = '3MB'; END $$",
    "DO $$ BEGIN SET work_mem = '5MB'; RAISE EXCEPTION 'no'; END $$",
    "DO $$ BEGIN BEGIN SET work_mem = '6MB'; RAISE EXCEPTION 'no'; EXCEPTION WHEN OTHERS THEN NULL; END; END $$",
    "UPDATE pg_settings SET setting = '4321' WHERE name = 'lock_timeout'",
    "INSERT INTO child VALUES (1000)",
    "DISCARD PLANS",
    "DISCARD SEQUENCES",
    "DISCARD TEMP",
    "DEALLOCATE p",
    "DEALLOCATE q",
    "DEALLOCATE ALL",
    "CLOSE c",
    "CLOSE ALL",
    "UNLISTEN news",
    "UNLISTEN *",
    "SELECT pg_advisory_unlock(1)",
    "SELECT pg_advisory_unlock(2)",
    "SELECT pg_advisory_unlock_all()",
    "SELECT pg_try_advisory_xact_lock(1)",
    "DROP TABLE t",
    "NOTIFY news, 'a payload'",
    "SELECT pg_notify('other', 'another')",
    "SELECT 1/0",
    "SELEC 1",
    "COMMIT PREPARED 'first of {database}'",
    "ROLLBACK PREPARED 'first of {database}'",
];

/// What ends all that keeps a server.
const CLEAN: &str = "DISCARD ALL";

/// What keeps a server, or may.
const KEEPING: &[&str] = &[
    "CREATE TEMP TABLE t (n int)",
    "CREATE TEMP TABLE t (n int) ON COMMIT DELETE ROWS",
    "CREATE TEMP TABLE t (n int) ON COMMIT DROP",
    "CREATE TEMP TABLE item AS SELECT 1 AS id, 'temporary' AS name",
    "SELECT 'chosen' AS word INTO TEMP t",
    "CREATE TEMP VIEW v AS SELECT 1 AS one",
    "CREATE TEMP SEQUENCE s",
    "SELECT scribble('word')",
    "DO $$ BEGIN CREATE TEMP TABLE t (n int); END $$",
    "SELECT pg_try_advisory_lock(1)",
    "SELECT pg_try_advisory_lock(1)",
    "SELECT pg_try_advisory_lock_shared(2)",
    "SELECT take(2)",
    "DECLARE c CURSOR WITH HOLD FOR SELECT n FROM generate_series(1, 5) n",
    "DECLARE c CURSOR FOR SELECT n FROM generate_series(1, 5) n",
    "PREPARE p AS SELECT name FROM item WHERE id = 1",
    "PREPARE q (text) AS SELECT set_config('app.tenant', $1, false)",
    "DO $$ BEGIN EXECUTE 'PREPARE p AS SELECT ''hidden'''; END $$",
    "LISTEN news",
    "LISTEN other",
    "SELECT listen_to('news')",
];

/// What draws from a sequence, or tells of it.
const SEQUENCES: &[&str] = &[
    "SELECT nextval('public.ticket')",
    "SELECT count_on()",
    "INSERT INTO public.counted (note) VALUES ('mine')",
    "SELECT setval('public.ticket', 40)",
    "SELECT currval('public.ticket')",
    "SELECT currval('public.counted_id_seq')",
    "SELECT lastval()",
];

/// What begins a transaction.
const BEGINNING: &[&str] =
    &["BEGIN", "BEGIN", "BEGIN", "START TRANSACTION READ ONLY", "BEGIN ISOLATION LEVEL SERIALIZABLE"];

/// What ends a transaction, or part of one.
const ENDING: &[&str] = &[
    "COMMIT",
    "COMMIT",
    "COMMIT",
    "ROLLBACK",
    "ROLLBACK",
    "SAVEPOINT a",
    "SAVEPOINT a",
    "ROLLBACK TO a",
    "RELEASE a",
    "COMMIT AND CHAIN",
    "ROLLBACK AND CHAIN",
    "PREPARE TRANSACTION 'first of {database}'",
];

/// What tells of state.
const PROBES: &[&str] = &[
    "SELECT string_agg(name || '=' || setting, ' ' ORDER BY name) FROM pg_settings WHERE name IN ('work_mem', \
     'statement_timeout', 'lock_timeout', 'DateStyle', 'TimeZone', 'search_path', 'application_name', 'bytea_output', \
     'IntervalStyle', 'client_encoding', 'standard_conforming_strings', 'default_transaction_isolation', \
     'default_transaction_read_only', 'transaction_isolation', 'transaction_read_only', 'extra_float_digits')",
    "SELECT coalesce(current_setting('app.tenant', true), ''), coalesce(current_setting('app.other', true), '')",
    "SELECT current_user, session_user, current_setting('role'), current_setting('is_superuser')",
    "SELECT array(SELECT name FROM pg_prepared_statements WHERE from_sql ORDER BY 1), \
     array(SELECT name FROM pg_cursors WHERE name = 'c'), array(SELECT pg_listening_channels() ORDER BY 1)",
    "SELECT array(SELECT relname FROM pg_class WHERE relnamespace = pg_my_temp_schema() ORDER BY 1), \
     array(SELECT objid FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid() ORDER BY 1)",
    "SELECT name FROM item WHERE id = 1",
    "SELECT '2026-02-03 04:05:06+00'::timestamptz, '1 day 2 hours'::interval, '\\x01'::bytea, 0.1::float8",
    "SELECT 'a\\b', U&'\\00e9'",
    "SHOW work_mem",
    "SHOW search_path",
    "EXECUTE p",
    "EXECUTE q('executed')",
    "FETCH c",
    "FETCH 2 FROM c",
    "SELECT * FROM t",
    "INSERT INTO t VALUES (1)",
    "SELECT word FROM scratch",
];

/// Texts of the statements that clients prepare by the protocol.
const PREPARED: &[&str] = &[
    "SELECT name FROM item WHERE id = 1",
    "SELECT current_setting('work_mem')",
    "SELECT become('prepared')",
    "SET app.tenant = 'prepared'",
    "RESET ALL",
    "EXECUTE p",
    "FETCH c",
    "SHOW search_path",
    "SELECT * FROM t",
];

const PREPARED_NAMES: &[&str] = &["one", "two"];

/// How a step is sent.
#[derive(Clone, Debug)]
pub(super) enum Way {
    /// By Query, any number of statements.
    Simple(String),
    /// By Parse, Bind, Execute, Sync, without names.
    Extended(String),
    /// Parse and Describe under a name, after a Close of that name.
    Prepare(&'static str, String),
    /// Bind and Execute of a name.
    Execute(&'static str),
}

/// What a client does at once and waits for.
#[derive(Clone, Debug)]
pub(super) struct Step {
    /// Which client.
    pub(super) client: usize,
    /// What it sends.
    pub(super) way: Way,
    /// May the client keep its server for it, or because of it?
    pub(super) keeps: bool,
}

impl Step {
    /// What ends all that a client began.
    pub(super) fn cleaning(client: usize) -> [Step; 2] {
        ["ROLLBACK", CLEAN].map(|sql| Step { client, way: Way::Simple(sql.to_owned()), keeps: false })
    }

    /// What goes over the wire to a database.
    pub(super) fn bytes(&self, database: &str) -> Vec<u8> {
        let fill = |sql: &str| sql.replace(DATABASE, database);
        match &self.way {
            Way::Simple(sql) => m::query(&fill(sql)),
            Way::Extended(sql) => [
                m::parse("", &fill(sql), &[]),
                m::bind("", "", &[]),
                m::describe(b'P', ""),
                m::execute("", 0),
                m::sync(),
            ]
            .concat(),
            Way::Prepare(name, sql) => {
                [m::close(b'S', name), m::parse(name, sql, &[]), m::describe(b'S', name), m::sync()].concat()
            }
            Way::Execute(name) => {
                [m::bind("", name, &[]), m::describe(b'P', ""), m::execute("", 0), m::sync()].concat()
            }
        }
    }
}

impl Step {
    /// May it notify those who listen?
    pub(super) fn may_notify(&self) -> bool {
        match &self.way {
            Way::Simple(sql) | Way::Extended(sql) => {
                ["NOTIFY", "notify", "COMMIT"].iter().any(|word| sql.contains(word))
            }
            Way::Prepare(..) | Way::Execute(_) => false,
        }
    }

    /// Does it ask what a sequence returned last?
    pub(super) fn prepares_transaction(&self) -> bool {
        matches!(&self.way, Way::Simple(sql) | Way::Extended(sql) if sql.contains("PREPARE TRANSACTION"))
    }

    pub(super) fn asks_sequences(&self) -> bool {
        match &self.way {
            Way::Simple(sql) | Way::Extended(sql) => ["currval", "lastval"].iter().any(|word| sql.contains(word)),
            Way::Prepare(..) | Way::Execute(_) => false,
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "client {}: ", self.client)?;
        match &self.way {
            Way::Simple(sql) => write!(f, "{sql}"),
            Way::Extended(sql) => write!(f, "(extended) {sql}"),
            Way::Prepare(name, sql) => write!(f, "(prepare {name}) {sql}"),
            Way::Execute(name) => write!(f, "(execute {name})"),
        }
    }
}

/// A step for `client`. `may_keep` says whether it may do what keeps a server, `in_block` that it is in a transaction.
pub(super) fn step(random: &mut Random, client: usize, theme: Theme, may_keep: bool, in_block: bool) -> Step {
    let mut step = Step { client, way: Way::Simple(String::new()), keeps: false };
    let name = PREPARED_NAMES[random.below(PREPARED_NAMES.len())];
    let sql = match random.below(100) {
        0..=4 => {
            step.way = Way::Prepare(name, random.text(PREPARED));
            return step;
        }
        5..=9 => {
            step.way = Way::Execute(name);
            return step;
        }
        10..=29 => {
            let count = 2 + random.below(3);
            let parts: Vec<_> = (0..count).map(|_| statement(random, &mut step, theme, may_keep, in_block)).collect();
            step.way = Way::Simple(parts.join("; "));
            return step;
        }
        30..=37 => CLEAN.to_owned(),
        _ => statement(random, &mut step, theme, may_keep, in_block),
    };
    step.way = if random.chance(30) { Way::Extended(sql) } else { Way::Simple(sql) };
    step
}

fn statement(random: &mut Random, step: &mut Step, theme: Theme, may_keep: bool, in_block: bool) -> String {
    let ending = if in_block { 15 } else { 1 };
    let keeping = if may_keep { [14, 10] } else { [0; 2] };
    let sequences = if theme == Theme::Sequences { 20 } else { 0 };
    match random.weighted(&[30, 18, 18, ending, sequences, keeping[0], keeping[1]]) {
        0 => random.text(PROBES),
        1 => set(random),
        2 => random.text(FREE),
        3 => random.text(ENDING),
        4 => random.text(SEQUENCES),
        kind => {
            step.keeps = true;
            random.text([KEEPING, BEGINNING][kind - 5])
        }
    }
}

/// A setting changed in one of many ways.
fn set(random: &mut Random) -> String {
    let (name, values) = *random.pick(SETTINGS);
    let value = random.text(values);
    // As an argument it must be one literal.
    let literal = if value.starts_with(['\'', '$', 'E']) && !value.contains("', '") {
        value.clone()
    } else {
        format!("'{}'", value.replace('\'', ""))
    };
    match random.below(10) {
        0..=3 => format!("SET {name} = {value}"),
        4 => format!("SET LOCAL {name} TO {value}"),
        5 => format!("RESET {name}"),
        6 => format!("SET {name} TO DEFAULT"),
        7 => format!("SELECT set_config('{name}', {literal}, true)"),
        _ => format!("SELECT set_config('{name}', {literal}, false)"),
    }
}
