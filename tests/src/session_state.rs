//! Where the state of sessions is put to the test: a database with tables, functions and triggers that change such
//! state, and the ways to it. Directly is how PostgreSQL has it; through a pooler in transaction mode, two servers change
//! hands all the time. It says what a neighbour must see, and knows nothing of the features themselves.

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

use crate::pooler::Pooler;
use crate::postgres::{APP, Login, Postgres, SUPERUSER, Version};
use crate::shuffle::Shuffle;

/// Servers of each pool.
const SERVERS: usize = 2;

/// Background clients of each user.
const CLIENTS: usize = 2;

/// Roles that [`APP`] may take.
const ROLES: &str = "
DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'state_reader') THEN
        CREATE ROLE state_reader;
        CREATE ROLE state_writer;
        GRANT state_reader, state_writer TO app;
    END IF;
END $$;";

/// What the features work on. `item` is another table in each schema; every function changes state of the session.
const SCHEMA: &str = "
CREATE TABLE item (id int PRIMARY KEY, name text);
INSERT INTO item VALUES (1, 'public'), (2, 'two');
CREATE SCHEMA red;
CREATE TABLE red.item AS SELECT 1 AS id, 'red' AS name;
CREATE SCHEMA blue;
CREATE TABLE blue.item AS SELECT 1 AS id, 'blue' AS name;
CREATE TABLE parent (id int PRIMARY KEY);
CREATE TABLE child (parent int REFERENCES parent DEFERRABLE INITIALLY IMMEDIATE);
CREATE TABLE counted (id serial, note text);
CREATE SEQUENCE ticket;
CREATE SEQUENCE coupon START 1000;
CREATE FUNCTION become(tenant text) RETURNS text LANGUAGE sql AS $$ SELECT set_config('app.tenant', tenant, false) $$;
CREATE FUNCTION become_here(tenant text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN PERFORM set_config('app.tenant', tenant, true); END $$;
CREATE FUNCTION inside() RETURNS text LANGUAGE plpgsql SET app.tenant = 'inside' SET work_mem = '3MB' AS $$
BEGIN RETURN current_setting('app.tenant') || ' ' || current_setting('work_mem'); END $$;
CREATE FUNCTION take(key bigint) RETURNS void LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_advisory_lock(key); END $$;
CREATE FUNCTION give(key bigint) RETURNS boolean LANGUAGE sql AS $$ SELECT pg_advisory_unlock(key) $$;
CREATE FUNCTION scribble(word text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN CREATE TEMP TABLE IF NOT EXISTS scratch (word text); INSERT INTO scratch VALUES (word); END $$;
CREATE FUNCTION listen_to(channel text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN EXECUTE format('LISTEN %I', channel); END $$;
CREATE FUNCTION count_on() RETURNS bigint LANGUAGE sql AS $$ SELECT nextval('ticket') $$;
CREATE FUNCTION on_visit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN PERFORM set_config('app.tenant', NEW.tenant, false); RETURN NEW; END $$;
CREATE TABLE visit (tenant text);
CREATE TRIGGER on_visit BEFORE INSERT ON visit FOR EACH ROW EXECUTE FUNCTION on_visit();
CREATE VIEW changing AS SELECT become('by a view') AS tenant;
GRANT ALL ON SCHEMA red, blue TO PUBLIC;
GRANT ALL ON ALL TABLES IN SCHEMA public, red, blue TO PUBLIC;
GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO PUBLIC;";

/// What a session sees of state, a line each: the second column; the first is the backend. Asked on a connection that has
/// changed nothing it must never change. What PL/pgSQL adds to the settings when it is first used is nobody's state, and
/// a custom setting that somebody once set stays known as empty.
pub const FINGERPRINT: &str = "
SELECT pg_backend_pid(), concat_ws(E'\\n',
    'user ' || current_user, 'session_user ' || session_user,
    'app.tenant ' || coalesce(current_setting('app.tenant', true), ''),
    'app.other ' || coalesce(current_setting('app.other', true), ''),
    'item ' || coalesce((SELECT relnamespace::regnamespace::text FROM pg_class WHERE oid = to_regclass('item')), ''),
    (SELECT string_agg('prepared ' || name, E'\\n' ORDER BY name) FROM pg_prepared_statements WHERE from_sql),
    (SELECT string_agg('cursor ' || name, E'\\n' ORDER BY name) FROM pg_cursors WHERE is_holdable),
    (SELECT string_agg('channel ' || c, E'\\n' ORDER BY c) FROM pg_listening_channels() c),
    (SELECT string_agg('temp ' || relname, E'\\n' ORDER BY relname) FROM pg_class WHERE relnamespace = pg_my_temp_schema()),
    (SELECT string_agg('lock ' || objid, E'\\n' ORDER BY objid) FROM pg_locks
     WHERE locktype = 'advisory' AND pid = pg_backend_pid()),
    (SELECT string_agg(name || ' ' || setting, E'\\n' ORDER BY name) FROM pg_settings WHERE name NOT LIKE 'plpgsql.%'))";

/// How a client gets to its database.
#[derive(Clone, Debug)]
pub struct Way {
    /// In words: how, and to which version.
    pub name: String,
    /// Where to connect to.
    pub addr: SocketAddr,
    /// The database.
    pub database: String,
    /// Is there a pooler in between?
    pub pooled: bool,
}

impl Way {
    /// A connection URL for a user.
    pub fn url(&self, login: Login) -> String {
        format!("postgres://{}:{}@{}/{}?sslmode=disable", login.user, login.password, self.addr, self.database)
    }
}

/// A database as [`Way`] describes it, for one way each; roles included.
pub fn database(postgres: &Postgres) -> String {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let name = postgres.database();
    let mut admin = postgres.admin(&name);
    let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    admin.run(ROLES);
    drop(turn);
    admin.run(SCHEMA);
    name
}

/// The pooler in front of `database`: so many servers for each user, and nobody is asked for a password. `more` are lines of
/// the configuration.
pub fn pooler(postgres: &Postgres, database: &str, servers: usize, more: &str) -> Pooler {
    let user = |login: Login| format!("[users.{}]\npassword = \"{}\"\n", login.user, login.password);
    let config = format!(
        "listen_port = {{port}}\nauth_type = \"trust\"\nadmin_users = [\"{}\"]\ndefault_pool_size = {servers}\n\
         {more}\nlog_connections = false\nlog_disconnections = false\nlog_stats = false\n\
         [databases.{database}]\nhost = \"127.0.0.1\"\nport = {}\n{}{}",
        SUPERUSER.user,
        postgres.port(),
        user(APP),
        user(SUPERUSER),
    );
    Pooler::file("pgsluice.toml", &config, SUPERUSER)
}

/// Something that did not work.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The feature's name; empty when it is about all of them.
    pub feature: String,
    /// Why.
    pub text: String,
}

/// Does `work` with all features (`None`) directly, which proves it right, and then through a pooler whose servers change
/// hands. What fails there is tried again with a pooler of its own, as what one feature leaves behind spoils others.
/// `PGSLUICE_STATE_FEATURE` names the only feature to try.
///
/// # Panics
/// With all failures, and when a background client saw anything that was not its own.
pub fn both_ways(version: Version, work: impl Fn(&Way, Option<&str>) -> Vec<Failure>) {
    let postgres = Postgres::shared_version(version);
    let only = std::env::var("PGSLUICE_STATE_FEATURE").ok();
    let direct = Way {
        name: format!("directly, {version:?}"),
        addr: postgres.addr(),
        database: database(postgres),
        pooled: false,
    };
    let tell = |way: &str, failure: &Failure| format!("{way}: {}: {}", failure.feature, failure.text);
    let mut wrong: Vec<_> = work(&direct, only.as_deref()).iter().map(|failure| tell(&direct.name, failure)).collect();
    let name = format!("through the pooler, {version:?}");
    for failure in under_shuffle(postgres, &name, |way| work(way, only.as_deref())) {
        let again = Some(failure.feature.as_str()).filter(|feature| !feature.is_empty());
        let alone = again.map(|_| under_shuffle(postgres, &name, |way| work(way, again)));
        wrong.push(match alone.as_deref() {
            None => tell(&name, &failure),
            Some([]) => tell(&name, &failure) + " (but not alone)",
            Some([alone, ..]) => tell(&name, alone),
        });
    }
    let log = postgres.log();
    let crashes: Vec<_> = log.lines().filter(|line| line.contains(") was terminated by signal")).collect();
    assert!(wrong.is_empty() && crashes.is_empty(), "failures:\n{}\n{}", crashes.join("\n"), wrong.join("\n"));
}

fn under_shuffle(postgres: &Postgres, name: &str, work: impl FnOnce(&Way) -> Vec<Failure>) -> Vec<Failure> {
    let database = database(postgres);
    let pooler = pooler(postgres, &database, SERVERS, "query_wait_timeout = \"8s\"");
    let shuffles = [APP, SUPERUSER].map(|login| Shuffle::start(&pooler, login, &database, CLIENTS));
    let mut wrong = work(&Way { name: name.to_owned(), addr: pooler.addr(), database, pooled: true });
    let rounds = shuffles.map(Shuffle::finish);
    if rounds.contains(&0) {
        wrong.push(Failure { feature: String::new(), text: "the background clients did not get their turns".into() });
    }
    wrong
}
