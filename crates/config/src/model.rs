//! What a configuration is once it is read: settings, databases, users, and which of them wins. It does not read files
//! and does not know which dialect it came from.

use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use crate::hba::{Hba, IdentMaps};
use crate::kinds::{Count, Host, Kind, Maybe, Port, Raw, Seconds, Text, Weight, Wrong};
use crate::passfile::{Server, ServerPasswords};
use crate::pins::{Audit, PinPolicies};
use crate::secret::Secret;
use crate::settings::{Dialect, SettingRow, Settings};

/// The name of the fallback entry in [`Config::databases`].
pub const FALLBACK: &str = "*";

/// Names of the console's own databases, which no entry may take.
pub const RESERVED_DATABASES: &[&str] = &["pgbouncer", "pgsluice"];

/// When a server goes back to its pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolMode {
    /// When the client leaves.
    Session,
    /// At the end of the transaction.
    Transaction,
    /// After every statement; transactions of several statements are refused.
    Statement,
}

/// How clients prove who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthType {
    /// No proof, and the name is not looked up: every database needs a forced user.
    Any,
    /// No proof, but the user must be known.
    Trust,
    /// The password in clear text.
    Plain,
    /// MD5 challenge; SCRAM for a user whose secret is a SCRAM secret.
    Md5,
    /// SCRAM-SHA-256.
    ScramSha256,
    /// A TLS certificate whose common name is the user.
    Cert,
    /// As the rules of auth_hba_file say.
    Hba,
}

/// One validated configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The scalar settings.
    pub settings: Settings,
    /// Databases by the name clients ask for; the key [`FALLBACK`] serves all other names.
    pub databases: BTreeMap<String, Database>,
    /// Users by name, those of the auth_file included.
    pub users: BTreeMap<String, User>,
    /// The rules of auth_hba_file, if auth_type is `hba`.
    pub hba: Option<Hba>,
    /// The maps of auth_ident_file, if auth_type is `hba`.
    pub ident: IdentMaps,
    /// Passwords for servers that stand outside of it; see [`Config::server_password`].
    pub server_passwords: ServerPasswords,
    /// The file it was read from.
    pub source: Option<PathBuf>,
}

/// A key of a `[databases]` or `[users]` entry.
pub struct EntryKey<T> {
    /// The key, the same in both dialects.
    pub key: &'static str,
    /// Its meaning, a line each.
    pub doc: &'static [&'static str],
    /// Whether its value must not appear in messages.
    pub secret: bool,
    pub(crate) read: fn(&mut T, &Raw) -> Result<(), Wrong>,
}

/// `name: type as kind = default;` for the entries of databases and users; without a default the type's own.
macro_rules! entry {
    (
        $(#[doc = $entry_doc:literal])+ $entry:ident $keys:ident
        { $( $(#[doc = $doc:literal])+ $name:ident: $ty:ty as $kind:ty = $default:expr; )+ }
    ) => {
        $(#[doc = $entry_doc])+
        #[derive(Clone, Debug, PartialEq)]
        pub struct $entry { $( $(#[doc = $doc])+ pub $name: $ty, )+ }

        entry!(keys $entry $keys { $( $(#[doc = $doc])+ $name as $kind; )+ });

        impl Default for $entry {
            fn default() -> Self {
                Self { $( $name: $default, )+ }
            }
        }
    };
    // The same with all but the first in a part that is there only if one of them is set.
    (
        $(#[doc = $entry_doc:literal])+ $entry:ident $keys:ident
        { $(#[doc = $first_doc:literal])+ $first:ident: $first_ty:ty as $first_kind:ty; }
        $(#[doc = $part_doc:literal])+ $part:ident
        { $( $(#[doc = $doc:literal])+ $name:ident: $ty:ty as $kind:ty; )+ }
    ) => {
        $(#[doc = $entry_doc])+
        #[derive(Clone, Debug, Default)]
        pub struct $entry { $(#[doc = $first_doc])+ pub $first: $first_ty, own: Option<Box<$part>> }

        $(#[doc = $part_doc])+
        #[derive(Clone, Debug, Default, PartialEq)]
        pub struct $part { $( $(#[doc = $doc])+ pub $name: $ty, )+ }

        entry!(keys $entry $keys { $(#[doc = $first_doc])+ $first as $first_kind; $( $(#[doc = $doc])+ $name as $kind; )+ });

        impl Deref for $entry {
            type Target = $part;

            fn deref(&self) -> &$part {
                static NONE: $part = $part { $( $name: None, )+ };
                self.own.as_deref().unwrap_or(&NONE)
            }
        }

        impl DerefMut for $entry {
            fn deref_mut(&mut self) -> &mut $part {
                self.own.get_or_insert_default()
            }
        }

        impl PartialEq for $entry {
            fn eq(&self, other: &Self) -> bool {
                self.$first == other.$first && **self == **other
            }
        }
    };
    (keys $entry:ident $keys:ident { $( $(#[doc = $doc:literal])+ $name:ident as $kind:ty; )+ }) => {
        #[doc = concat!("Every key of a [`", stringify!($entry), "`] entry.")]
        pub static $keys: &[EntryKey<$entry>] = &[ $( EntryKey {
            key: stringify!($name),
            doc: &[$($doc),+],
            secret: <$kind>::SECRET,
            read: |entry, raw| <$kind>::read(raw).map(|value| entry.$name = value),
        }, )+ ];
    };
}

entry! {
    /// Where a database is, and its own limits. `None`: the setting of the same name applies.
    Database DATABASE_KEYS {
        /// Name, address, or directory of a Unix socket (begins with `/`). Filled in when a file is read: 127.0.0.1 in
        /// TOML, in an ini file PgBouncer's rule, the directory unix_socket_dir.
        host: Option<String> as Maybe<Host> = None;
        /// TCP port, or the number in the Unix socket's name.
        port: u16 as Port<1> = 5432;
        /// The database's name on the server; none: the name the client asked for.
        dbname: Option<String> as Maybe<Text> = None;
        /// Forced user: every client of this entry uses it on the server.
        user: Option<String> as Maybe<Text> = None;
        /// The forced user's password on the server. In TOML also "file:/path" (what the file holds), "env:NAME" (an
        /// environment variable), and "plain:..." for one that begins with one of these words.
        password: Option<Secret> as Maybe<Secret> = None;
        /// User who asks PostgreSQL for the secrets of users that are not listed.
        auth_user: Option<String> as Maybe<Text> = None;
        /// How it asks.
        auth_query: Option<String> as Maybe<Text> = None;
        /// Entry of the databases on whose PostgreSQL it asks.
        auth_dbname: Option<String> as Maybe<Text> = None;
        /// Pool mode; a user's own wins.
        pool_mode: Option<PoolMode> as Maybe<PoolMode> = None;
        /// Servers per pool; a user's own wins.
        pool_size: Option<u32> as Maybe<Count> = None;
        /// Servers kept open per pool, and had before other pools get more than their share; a user's own wins.
        min_pool_size: Option<u32> as Maybe<Count> = None;
        /// What its pools get in proportion to others where all want more servers than there are, from 1 to 1000; 1 if left
        /// out. A user's own wins.
        pool_weight: Option<u32> as Maybe<Weight> = None;
        /// Further servers for a pool whose clients wait; a user's own wins.
        reserve_pool_size: Option<u32> as Maybe<Count> = None;
        /// Clients of one pool that may wait at once; a user's own wins.
        max_pool_waiting: Option<u32> as Maybe<Count> = None;
        /// Servers over all pools of this entry.
        max_db_connections: Option<u32> as Maybe<Count> = None;
        /// Age at which an unused server is closed.
        server_lifetime: Option<Duration> as Maybe<Seconds> = None;
        /// What is done about state that cannot move to another server; a user's own wins.
        pin_policy: Option<PinPolicies> as Maybe<PinPolicies> = None;
        /// When servers are audited; a user's own wins.
        audit: Option<Audit> as Maybe<Audit> = None;
        /// How long a client may wait for a server; a user's own wins.
        query_wait_timeout: Option<Duration> as Maybe<Seconds> = None;
        /// Run on every new server after its login.
        connect_query: Option<String> as Maybe<Text> = None;
        /// Sent in the server's startup message.
        client_encoding: Option<String> as Maybe<Text> = None;
        /// Sent in the server's startup message.
        datestyle: Option<String> as Maybe<Text> = None;
        /// Sent in the server's startup message.
        timezone: Option<String> as Maybe<Text> = None;
        /// Sent in the server's startup message.
        application_name: Option<String> as Maybe<Text> = None;
    }
}

entry! {
    /// A user's secret and own limits. `None`: the database's value or the setting of the same name applies.
    User USER_KEYS {
        /// The secret that clients of this name are checked against, and that servers are opened with if it is plain. In
        /// TOML also "file:/path" or "env:NAME", as a database's.
        password: Option<Secret> as Maybe<Secret>;
    }
    /// Limits of a user's own. Most of those in a user list have none, and take no room for it.
    UserLimits {
        /// Pool mode; wins over the database's.
        pool_mode: Option<PoolMode> as Maybe<PoolMode>;
        /// Servers per pool of this user; wins over the database's.
        pool_size: Option<u32> as Maybe<Count>;
        /// Servers kept open per pool of this user; wins over the database's.
        min_pool_size: Option<u32> as Maybe<Count>;
        /// What this user's pools get in proportion to others; wins over the database's.
        pool_weight: Option<u32> as Maybe<Weight>;
        /// Clients of one pool that may wait at once; wins over the database's.
        max_pool_waiting: Option<u32> as Maybe<Count>;
        /// Further servers for a pool whose clients wait; wins over the database's.
        reserve_pool_size: Option<u32> as Maybe<Count>;
        /// Servers of this user over all databases.
        max_user_connections: Option<u32> as Maybe<Count>;
        /// What is done about state that cannot move to another server; wins over the database's.
        pin_policy: Option<PinPolicies> as Maybe<PinPolicies>;
        /// When servers are audited; wins over the database's.
        audit: Option<Audit> as Maybe<Audit>;
        /// How long a query may run.
        query_timeout: Option<Duration> as Maybe<Seconds>;
        /// How long a client may wait for a server; wins over the database's.
        query_wait_timeout: Option<Duration> as Maybe<Seconds>;
        /// How long a client may be idle inside a transaction.
        idle_transaction_timeout: Option<Duration> as Maybe<Seconds>;
        /// How long a transaction may take.
        transaction_timeout: Option<Duration> as Maybe<Seconds>;
        /// How long a client may be idle.
        client_idle_timeout: Option<Duration> as Maybe<Seconds>;
    }
}

impl PoolMode {
    /// Every name, as written in files.
    pub const NAMES: &'static [&'static str] = &["session", "transaction", "statement"];

    /// The name, as written in files.
    pub fn as_str(self) -> &'static str {
        Self::NAMES[self as usize]
    }
}

/// The text names no pool mode or authentication type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownName;

impl FromStr for PoolMode {
    type Err = UnknownName;

    /// Case does not matter, as in PgBouncer.
    fn from_str(text: &str) -> Result<Self, UnknownName> {
        let all = [Self::Session, Self::Transaction, Self::Statement];
        all.into_iter().find(|m| m.as_str().eq_ignore_ascii_case(text)).ok_or(UnknownName)
    }
}

impl AuthType {
    /// Every name, as written in files.
    pub const NAMES: &'static [&'static str] = &["any", "trust", "plain", "md5", "scram-sha-256", "cert", "hba"];

    /// The name, as written in files.
    pub fn as_str(self) -> &'static str {
        Self::NAMES[self as usize]
    }
}

impl FromStr for AuthType {
    type Err = UnknownName;

    /// Case does not matter, as in PgBouncer.
    fn from_str(text: &str) -> Result<Self, UnknownName> {
        let all = [Self::Any, Self::Trust, Self::Plain, Self::Md5, Self::ScramSha256, Self::Cert, Self::Hba];
        all.into_iter().find(|a| a.as_str().eq_ignore_ascii_case(text)).ok_or(UnknownName)
    }
}

/// Which value wins, as in PgBouncer. `database` is the name the client asked for. `user` is the pool's user (the forced
/// one if there is one), except for `query_wait_timeout` and `client_idle_timeout`, where it is the user who logged in.
impl Config {
    /// The entry that serves a database name, and whether it is the fallback.
    pub fn database(&self, name: &str) -> Option<(&Database, bool)> {
        match self.databases.get(name) {
            Some(database) => Some((database, name == FALLBACK)),
            None => self.databases.get(FALLBACK).map(|database| (database, true)),
        }
    }

    /// The rows of `SHOW CONFIG`, with the defaults of the dialect this configuration was written in.
    pub fn rows(&self) -> Vec<SettingRow> {
        let dialect = self.source.as_deref().map_or(Dialect::Toml, Dialect::of);
        self.settings.rows_in(dialect)
    }

    /// Who asks PostgreSQL for the secrets of this database's users, if anybody does.
    pub fn auth_user(&self, database: &str) -> Option<&str> {
        let own = self.database(database).and_then(|(entry, _)| entry.auth_user.as_deref());
        Some(own.unwrap_or(&self.settings.auth_user)).filter(|user| !user.is_empty())
    }

    /// With which query, and on which entry's PostgreSQL, if the configuration says so.
    pub fn auth_query(&self, database: &str) -> (&str, Option<&str>) {
        let (entry, s) = (self.database(database).map(|(entry, _)| entry), &self.settings);
        let query = entry.and_then(|e| e.auth_query.as_deref()).unwrap_or(&s.auth_query);
        let place: &str = entry.and_then(|e| e.auth_dbname.as_deref()).unwrap_or(&s.auth_dbname);
        (query, Some(place).filter(|place| !place.is_empty()))
    }

    /// When a server of this pool goes back.
    pub fn pool_mode(&self, database: &str, user: &str) -> PoolMode {
        self.winner(database, user, |u| u.pool_mode, |d| d.pool_mode).unwrap_or(self.settings.pool_mode)
    }

    /// Servers in this pool at most; 0: no limit of its own.
    pub fn pool_size(&self, database: &str, user: &str) -> u32 {
        self.winner(database, user, |u| u.pool_size, |d| d.pool_size).unwrap_or(self.settings.default_pool_size)
    }

    /// Servers a pool of this database keeps open.
    pub fn min_pool_size(&self, database: &str) -> u32 {
        self.of_database(database, |d| d.min_pool_size).unwrap_or(self.settings.min_pool_size)
    }

    /// Servers this pool keeps open.
    pub fn pool_minimum(&self, database: &str, user: &str) -> u32 {
        self.of_user(user, |u| u.min_pool_size).unwrap_or_else(|| self.min_pool_size(database))
    }

    /// What this pool gets in proportion to others.
    pub fn pool_weight(&self, database: &str, user: &str) -> u32 {
        self.winner(database, user, |u| u.pool_weight, |d| d.pool_weight).unwrap_or(1)
    }

    /// Clients of this pool that may wait at once; 0: no limit.
    pub fn max_pool_waiting(&self, database: &str, user: &str) -> u32 {
        let own = self.winner(database, user, |u| u.max_pool_waiting, |d| d.max_pool_waiting);
        own.unwrap_or(self.settings.max_pool_waiting)
    }

    /// Further servers for this pool when its clients wait.
    pub fn reserve_pool_size(&self, database: &str, user: &str) -> u32 {
        let own = self.winner(database, user, |u| u.reserve_pool_size, |d| d.reserve_pool_size);
        own.unwrap_or(self.settings.reserve_pool_size)
    }

    /// Servers over all pools of this database; 0: no limit.
    pub fn max_db_connections(&self, database: &str) -> u32 {
        self.of_database(database, |d| d.max_db_connections).unwrap_or(self.settings.max_db_connections)
    }

    /// Servers of this user over all databases; 0: no limit.
    pub fn max_user_connections(&self, user: &str) -> u32 {
        self.of_user(user, |u| u.max_user_connections).unwrap_or(self.settings.max_user_connections)
    }

    /// Age at which an unused server of this database is closed; zero: used once.
    pub fn server_lifetime(&self, database: &str) -> Duration {
        self.of_database(database, |d| d.server_lifetime).unwrap_or(self.settings.server_lifetime)
    }

    /// What is done about state that cannot move to another server, in this pool.
    pub fn pin_policies(&self, database: &str, user: &str) -> PinPolicies {
        self.winner(database, user, |u| u.pin_policy, |d| d.pin_policy).unwrap_or(self.settings.pin_policy)
    }

    /// When servers of this pool are audited.
    pub fn audit(&self, database: &str, user: &str) -> Audit {
        self.winner(database, user, |u| u.audit, |d| d.audit).unwrap_or(self.settings.audit)
    }

    /// How long a client may wait for a server; zero: no limit.
    pub fn query_wait_timeout(&self, database: &str, user: &str) -> Duration {
        let own = self.winner(database, user, |u| u.query_wait_timeout, |d| d.query_wait_timeout);
        own.unwrap_or(self.settings.query_wait_timeout)
    }

    /// How long a query may run; zero: no limit.
    pub fn query_timeout(&self, user: &str) -> Duration {
        self.of_user(user, |u| u.query_timeout).unwrap_or(self.settings.query_timeout)
    }

    /// How long a client may be idle inside a transaction; zero: no limit.
    pub fn idle_transaction_timeout(&self, user: &str) -> Duration {
        self.of_user(user, |u| u.idle_transaction_timeout).unwrap_or(self.settings.idle_transaction_timeout)
    }

    /// How long a transaction may take; zero: no limit.
    pub fn transaction_timeout(&self, user: &str) -> Duration {
        self.of_user(user, |u| u.transaction_timeout).unwrap_or(self.settings.transaction_timeout)
    }

    /// How long a client may be idle; zero: no limit.
    pub fn client_idle_timeout(&self, user: &str) -> Duration {
        self.of_user(user, |u| u.client_idle_timeout).unwrap_or(self.settings.client_idle_timeout)
    }

    /// The password with which servers of a database are opened for a user. It is, of a forced user and of auth_user, the entry's
    /// own (of a forced one) or that of [`Config::users`]; where neither can open a server, PGPASSWORD or a line of the password
    /// file. Of any
    /// other user it is that of [`Config::users`] alone: a client may be known by its name only, and must not get
    /// anywhere by passwords that the operator keeps for himself.
    pub fn server_password(&self, database: &str, user: &str) -> Option<Secret> {
        let listed = self.of_user(user, |u| u.password.clone());
        let is_asker = self.auth_user(database) == Some(user);
        let entry = self.database(database).map(|(entry, _)| entry);
        let Some(entry) = entry.filter(|d| is_asker || d.user.as_deref() == Some(user)) else { return listed };
        let own = entry.password.clone().filter(|_| entry.user.as_deref() == Some(user));
        let configured = own.or(listed);
        if configured.as_ref().is_some_and(|secret| !secret.is_scram()) {
            return configured;
        }
        // Nobody's entry is the database that the control connection takes.
        let own_name = if database == FALLBACK { "postgres" } else { database };
        let server = Server {
            host: entry.host.as_deref().unwrap_or("127.0.0.1"),
            port: entry.port,
            dbname: entry.dbname.as_deref().unwrap_or(own_name),
            user,
        };
        self.server_passwords.find(&server).or(configured)
    }

    /// Whether the configuration names a user of servers and no password that could open one for it.
    pub(crate) fn lacks_server_password(&self) -> bool {
        let opens = |secret: &Option<Secret>| secret.as_ref().is_some_and(|s| !s.is_scram());
        let listed = |user: &str| self.users.get(user).is_some_and(|u| opens(&u.password));
        let lacks = |(name, d): (&String, &Database)| {
            d.user.as_ref().is_some_and(|user| !opens(&d.password) && !listed(user))
                || self.auth_user(name).is_some_and(|asker| !listed(asker))
        };
        self.databases.iter().any(lacks)
    }

    fn of_user<T>(&self, user: &str, pick: impl Fn(&User) -> Option<T>) -> Option<T> {
        self.users.get(user).and_then(pick)
    }

    fn of_database<T>(&self, database: &str, pick: impl Fn(&Database) -> Option<T>) -> Option<T> {
        self.database(database).and_then(|(entry, _)| pick(entry))
    }

    fn winner<T>(
        &self,
        database: &str,
        user: &str,
        from_user: impl Fn(&User) -> Option<T>,
        from_database: impl Fn(&Database) -> Option<T>,
    ) -> Option<T> {
        self.of_user(user, from_user).or_else(|| self.of_database(database, from_database))
    }
}
