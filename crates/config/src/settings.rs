//! The scalar settings, each declared once: key, type, default, PgBouncer's default where it differs, whether a reload
//! changes it, and its meaning. Parsing, defaults, `SHOW CONFIG` and the reference file come from this one table. Keys of
//! databases and users are in `model`.

use std::path::PathBuf;
use std::time::Duration;

use crate::kinds::{
    Count, Endpoint, Flag, Fleet, Kind, Mode, Names, Number, OptionalPath, Percent, Port, Raw, Seconds, SocketDir,
    Text, Wrong,
};
use crate::listen::Listener;
use crate::model::{AuthType, PoolMode};
use crate::pins::{Audit, PinPolicies};
use crate::problem::{Problem, ProblemKind};
use crate::tls::{SslMode, SslNegotiation, TlsProtocols};

/// Which of the two file formats, each with its own defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// `pgsluice.toml`: our defaults.
    Toml,
    /// `pgbouncer.ini`: PgBouncer's defaults.
    Ini,
}

/// One setting's place in the table.
pub struct Setting {
    /// Its key, the same in both dialects.
    pub key: &'static str,
    /// The heading it stands under in the reference.
    pub group: &'static str,
    /// Its meaning, a line each.
    pub doc: &'static [&'static str],
    /// Whether a reload applies a new value; otherwise a restart does.
    pub changeable: bool,
    defaults: [&'static str; 2],
    read: fn(&mut Settings, &Raw) -> Result<(), Wrong>,
    show: fn(&Settings) -> String,
    toml: fn(&Settings) -> String,
    copy: fn(&mut Settings, &Settings),
}

/// One row of `SHOW CONFIG`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingRow {
    /// The key.
    pub key: &'static str,
    /// The value in force, in PgBouncer's format (seconds, 0/1, names with commas).
    pub value: String,
    /// The default, in the same format.
    pub default: &'static str,
    /// Whether a reload applies a new value.
    pub changeable: bool,
}

macro_rules! changeable {
    (reload) => {
        true
    };
    (fixed) => {
        false
    };
}

/// The ini default if there is one, else the common default.
macro_rules! ini_default {
    ($default:literal) => {
        $default
    };
    ($default:literal $ini:literal) => {
        $ini
    };
}

/// `name: type as kind = "default" / "ini default" => reload|fixed;` in groups. Defaults are ini text, read by the kind.
macro_rules! settings {
    ($( $group:literal { $(
        $(#[doc = $doc:literal])+
        $name:ident: $ty:ty as $kind:ty = $default:literal $(/ $ini:literal)? => $changeable:ident;
    )+ } )+) => {
        /// The scalar settings: PgBouncer's names and meanings, then ours. A zero duration or count means "off" or
        /// "no limit" where the key's text says so.
        #[derive(Clone, Debug, PartialEq)]
        pub struct Settings { $($( $(#[doc = $doc])+ pub $name: $ty, )+)+ }

        /// Every setting, in the order of the reference.
        pub static SETTINGS: &[Setting] = &[ $($( Setting {
            key: stringify!($name),
            group: $group,
            doc: &[$($doc),+],
            changeable: changeable!($changeable),
            defaults: [$default, ini_default!($default $($ini)?)],
            read: |settings, raw| <$kind>::read(raw).map(|value| settings.$name = value),
            show: |settings| <$kind>::show(&settings.$name),
            toml: |settings| <$kind>::toml(&settings.$name),
            copy: |to, from| to.$name.clone_from(&from.$name),
        }, )+)+ ];

        impl Settings {
            /// All defaults of a dialect.
            pub fn defaults(dialect: Dialect) -> Self {
                Self { $($( $name: {
                    let text = [$default, ini_default!($default $($ini)?)][dialect as usize];
                    <$kind>::read(&Raw::Text(text.to_string())).ok().expect("a default in the table is valid")
                }, )+)+ }
            }
        }
    };
}

settings! {
    "Listening" {
        /// Addresses or names to listen on; `*` means all, empty means no TCP.
        /// An entry may carry its own port, as in `127.0.0.1:6433` or `[::1]:6433`.
        listen_addr: Vec<String> as Names = "127.0.0.1" / "" => fixed;
        /// TCP port, and the number in the Unix socket's name (`.s.PGSQL.<port>`). 0: a free one of the system's choice.
        listen_port: u16 as Port<0> = "6432" => fixed;
        /// Directory of the Unix socket to listen on; empty: none.
        unix_socket_dir: Option<PathBuf> as SocketDir = "" / "/tmp" => fixed;
        /// Permissions of that socket, in octal.
        unix_socket_mode: u32 as Mode = "0777" => fixed;
        /// Connections that may wait to be accepted, per listening socket; listen(2).
        listen_backlog: u32 as Number<1, 65_535> = "128" => fixed;
        /// Address and port, as in `127.0.0.1:9127`, where `GET /metrics` is answered for Prometheus, without a password;
        /// empty: nowhere.
        metrics_listen: Option<Listener> as Endpoint = "" => fixed;
        /// Whether TCP keepalive is on, for clients and servers.
        tcp_keepalive: bool as Flag = "1" => reload;
    }
    "Pools" {
        /// When a server goes back to its pool: after the `session`, the `transaction` or the `statement`.
        /// A database's or a user's own pool_mode wins.
        pool_mode: PoolMode as PoolMode = "transaction" / "session" => reload;
        /// Clients at most; one more is refused.
        max_client_conn: u32 as Number<1, 10_000_000> = "10000" / "100" => reload;
        /// Servers per pool, a pool being one (database, user); 0: no limit of its own.
        default_pool_size: u32 as Count = "20" => reload;
        /// Servers kept open per pool even when idle, unless clients of other pools wait for them; a pool whose clients wait
        /// has so many before others get more than their share.
        min_pool_size: u32 as Count = "0" => reload;
        /// Further servers for a pool whose first client has waited for reserve_pool_timeout.
        reserve_pool_size: u32 as Count = "0" => reload;
        /// How long that is, in seconds; 0: no reserve.
        reserve_pool_timeout: Duration as Seconds = "5" => reload;
        /// Clients of one pool that may wait for a server at once; one more gets an error at once and stays connected.
        /// Where there are several I/O threads, each takes its part. 0: as many as there are.
        max_pool_waiting: u32 as Count = "0" => reload;
        /// Servers per database over all its pools; 0: no limit.
        max_db_connections: u32 as Count = "0" => reload;
        /// Servers per user over all databases; 0: no limit.
        max_user_connections: u32 as Count = "0" => reload;
        /// Prepared statements kept per server; 0: they are passed through as they are.
        max_prepared_statements: u32 as Count = "200" => reload;
        /// In transaction mode, what is done about state of a session that cannot be brought to another server: pairs
        /// `reason=policy` separated by blanks, such as "listen=error temp=warn".
        /// Reasons: temp (temporary tables and other temporary objects), advisory_lock (those held by the session), cursor
        /// (WITH HOLD), prepare (SQL's PREPARE), listen, load, sequence (what currval() and lastval() tell); all, which
        /// stands first, is for every reason not named.
        /// Policies: pin (the session keeps its server until the state is gone; of those that listen one server of the
        /// pool takes care), error (SQLSTATE 0A000), warn (the session keeps its server, and gets one WARNING), ignore
        /// (the state is not kept for the client, and is removed before the server goes to anybody else). A reason that
        /// nothing names is pinned.
        pin_policy: PinPolicies as PinPolicies = "all=pin" => reload;
        /// In transaction mode, when a server is asked, before anybody else gets it, for the state that its client left:
        /// suspects (after what may have changed some, judged by statements, command tags and the catalog's functions,
        /// triggers and views), always (after every transaction), never (as suspects, but without the catalog: state that
        /// a statement changes by calling a function, trigger or view is not noticed then).
        audit: Audit as Audit = "suspects" => reload;
        /// Whether idle servers are used in turn instead of the last used first.
        server_round_robin: bool as Flag = "0" => reload;
        /// Startup parameters that are accepted and dropped.
        ignore_startup_parameters: Vec<String> as Names = "" => reload;
    }
    "Authentication" {
        /// How clients prove who they are: scram-sha-256, md5 (a user with a SCRAM secret is asked for SCRAM), plain
        /// (the password travels as it is), trust (no password; the user must be known), any (no password, any name;
        /// every database needs a user of its own), cert (a TLS certificate whose common name is the user; needs
        /// client_tls_sslmode verify-ca or verify-full), hba (as the rules of auth_hba_file say).
        auth_type: AuthType as AuthType = "scram-sha-256" / "md5" => reload;
        /// File of users and their secrets, a line `"user" "secret"` each (userlist.txt).
        auth_file: Option<PathBuf> as OptionalPath = "" => reload;
        /// File of the rules for auth_type hba, in the format of PostgreSQL's pg_hba.conf.
        auth_hba_file: Option<PathBuf> as OptionalPath = "" => reload;
        /// File of the maps that these rules name, in the format of PostgreSQL's pg_ident.conf.
        auth_ident_file: Option<PathBuf> as OptionalPath = "" => reload;
        /// User who asks PostgreSQL for the secrets of users that are not listed here; a database's own wins. Its own password is
        /// to be listed. Empty: nobody is asked for.
        auth_user: String as Text = "" => reload;
        /// How it asks: a query with the user's name in the place of `$1` that returns one row of name and secret, or none.
        auth_query: String as Text = "SELECT rolname, CASE WHEN rolvaliduntil OPERATOR(pg_catalog.<) pg_catalog.now() \
            THEN NULL ELSE rolpassword END FROM pg_catalog.pg_authid WHERE rolname OPERATOR(pg_catalog.=) $1 AND rolcanlogin" => reload;
        /// Entry of the databases on whose PostgreSQL it asks; empty: the one that the client wants.
        auth_dbname: String as Text = "" => reload;
        /// Seconds for which an answer is used again, unless a password was wrong meanwhile; 0: it is asked at every login.
        auth_query_cache: Duration as Seconds = "10" => reload;
        /// Seconds that the answer to a wrong password is kept back; 0: it is not.
        auth_failure_delay: Duration as Seconds = "1" => reload;
        /// File of passwords for servers, in libpq's format (`.pgpass`), for databases whose user has none here; empty: that
        /// of PGPASSFILE, or else ~/.pgpass.
        passfile: Option<PathBuf> as OptionalPath = "" => reload;
        /// Users who may do everything in the console.
        admin_users: Vec<String> as Names = "" => reload;
        /// Users who may only look.
        stats_users: Vec<String> as Names = "" => reload;
        /// Iterations of SCRAM secrets made from plain passwords.
        scram_iterations: u32 as Number<1, 1_000_000> = "4096" => reload;
    }
    "TLS" {
        /// Whether clients over TCP may or must use TLS: disable, allow or prefer (who wants to), require (all must), verify-ca or
        /// verify-full (all must, with a certificate that client_tls_ca_file vouches for).
        client_tls_sslmode: SslMode as SslMode = "disable" => reload;
        /// Our certificate for clients, with those between it and its authority's behind it, in PEM; read again when it changes.
        client_tls_cert_file: Option<PathBuf> as OptionalPath = "" => reload;
        /// Its private key, in PEM, not encrypted.
        client_tls_key_file: Option<PathBuf> as OptionalPath = "" => reload;
        /// Certificates of the authorities that may have signed clients' certificates, in PEM.
        client_tls_ca_file: Option<PathBuf> as OptionalPath = "" => reload;
        /// Versions of TLS for clients: secure (all that are), tlsv1.2, tlsv1.3.
        client_tls_protocols: TlsProtocols as TlsProtocols = "secure" => reload;
        /// Whether TCP connections to PostgreSQL use TLS: disable, allow or prefer (if it can), require (else they fail), verify-ca
        /// (and its certificate has to be signed by one of server_tls_ca_file), verify-full (and be for the host's name).
        server_tls_sslmode: SslMode as SslMode = "prefer" => reload;
        /// Certificates of the authorities that may have signed PostgreSQL's, in PEM.
        server_tls_ca_file: Option<PathBuf> as OptionalPath = "" => reload;
        /// Our certificate for PostgreSQL, in PEM; empty: none.
        server_tls_cert_file: Option<PathBuf> as OptionalPath = "" => reload;
        /// Its private key, in PEM, not encrypted.
        server_tls_key_file: Option<PathBuf> as OptionalPath = "" => reload;
        /// Versions of TLS for PostgreSQL: secure (all that are), tlsv1.2, tlsv1.3.
        server_tls_protocols: TlsProtocols as TlsProtocols = "secure" => reload;
        /// How TLS with PostgreSQL is begun: postgres (it is asked first), direct (at once, which saves a round trip; from version 17
        /// on, and with server_tls_sslmode require or stricter).
        server_tls_sslnegotiation: SslNegotiation as SslNegotiation = "postgres" => reload;
    }
    "Logging" {
        /// Whether logins are logged.
        log_connections: bool as Flag = "1" => reload;
        /// Whether the end of a connection is logged, with its reason.
        log_disconnections: bool as Flag = "1" => reload;
        /// Whether errors sent to clients are logged.
        log_pooler_errors: bool as Flag = "1" => reload;
        /// How much more is logged, from 0 to 3.
        verbose: u32 as Number<0, 3> = "0" => fixed;
        /// Seconds over which averages are taken, and between lines of statistics in the log.
        stats_period: Duration as Seconds = "60" => reload;
        /// Whether those lines are written.
        log_stats: bool as Flag = "1" => reload;
        /// Log file; empty: standard error.
        logfile: Option<PathBuf> as OptionalPath = "" => fixed;
        /// File that holds the process id while the program runs; empty: none.
        pidfile: Option<PathBuf> as OptionalPath = "" => fixed;
    }
    "Servers" {
        /// What a server runs between two clients in session mode.
        server_reset_query: String as Text = "DISCARD ALL" => reload;
        /// Age in seconds at which an unused server is closed; 0: used once.
        server_lifetime: Duration as Seconds = "3600" => reload;
        /// Idle seconds after which a server is closed; 0: never.
        server_idle_timeout: Duration as Seconds = "600" => reload;
        /// Seconds a login to PostgreSQL may take.
        server_connect_timeout: Duration as Seconds = "15" => reload;
        /// Longest pause between attempts after failed logins, in seconds; pauses begin at 0.1 and double.
        server_login_retry: Duration as Seconds = "3" / "15" => reload;
    }
    "Timeouts" {
        /// Seconds a client's login may take; 0: no limit.
        client_login_timeout: Duration as Seconds = "60" => reload;
        /// Seconds a query may run; 0: no limit.
        query_timeout: Duration as Seconds = "0" => reload;
        /// Seconds a client may wait for a server; 0: no limit.
        query_wait_timeout: Duration as Seconds = "120" => reload;
        /// Seconds of waiting after which the client is told with a NOTICE; 0: never.
        query_wait_notify: Duration as Seconds = "5" => reload;
        /// Seconds a cancel request may wait; 0: no limit.
        cancel_wait_timeout: Duration as Seconds = "10" => reload;
        /// Seconds a client may be idle; 0: no limit.
        client_idle_timeout: Duration as Seconds = "0" => reload;
        /// Seconds a client may be idle inside a transaction; 0: no limit.
        idle_transaction_timeout: Duration as Seconds = "0" => reload;
        /// Seconds a transaction may take; 0: no limit.
        transaction_timeout: Duration as Seconds = "0" => reload;
        /// Seconds a graceful shutdown waits for clients to finish; 0: no limit.
        shutdown_timeout: Duration as Seconds = "60" => reload;
    }
    "Budget and workers" {
        /// I/O threads.
        workers: u32 as Number<1, 1024> = "1" => fixed;
        /// Backends of each PostgreSQL left free so that a person can always log in.
        budget_headroom: u32 as Count = "3" => reload;
        /// Servers at most to one PostgreSQL over all pools; 0: as many as PostgreSQL's own limits leave.
        max_server_connections: u32 as Count = "0" => reload;
        /// Name of the fleet: the instances that share the budget of a PostgreSQL, this one among them. At most 63 bytes;
        /// empty: this instance is alone.
        fleet: String as Fleet = "" => fixed;
        /// Database on which the control connections of a fleet meet, as advisory locks belong to a database; the same
        /// for all its instances.
        fleet_dbname: String as Text = "postgres" => fixed;
        /// Seconds between two readings of PostgreSQL's limits.
        budget_interval: Duration as Seconds = "10" => reload;
        /// Percent of PostgreSQL's backends in use from which a warning is given.
        budget_warning: u32 as Percent = "80" => reload;
        /// Percent from which the state is critical.
        budget_critical: u32 as Percent = "95" => reload;
        /// Logins to one PostgreSQL under way at once.
        connect_concurrency: u32 as Number<1, 10_000> = "8" => reload;
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self::defaults(Dialect::Toml)
    }
}

impl Setting {
    /// The default in a dialect, in PgBouncer's format.
    pub fn default(&self, dialect: Dialect) -> &'static str {
        self.defaults[dialect as usize]
    }

    /// The value, in PgBouncer's format.
    pub fn show(&self, settings: &Settings) -> String {
        (self.show)(settings)
    }

    /// The value as TOML.
    pub fn toml(&self, settings: &Settings) -> String {
        (self.toml)(settings)
    }

    pub(crate) fn read(&self, settings: &mut Settings, raw: &Raw) -> Result<(), Wrong> {
        (self.read)(settings, raw)
    }
}

/// The setting of that key.
pub(crate) fn setting(key: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|s| s.key == key)
}

impl Settings {
    /// The rows of `SHOW CONFIG`, by key, with the defaults of a TOML file. No setting holds a secret.
    pub fn rows(&self) -> Vec<SettingRow> {
        self.rows_in(Dialect::Toml)
    }

    /// The same with the defaults of a dialect.
    pub fn rows_in(&self, dialect: Dialect) -> Vec<SettingRow> {
        let row = |s: &Setting| SettingRow {
            key: s.key,
            value: s.show(self),
            default: s.default(dialect),
            changeable: s.changeable,
        };
        let mut rows: Vec<SettingRow> = SETTINGS.iter().map(row).collect();
        rows.sort_by_key(|r| r.key);
        rows
    }

    /// Sets one key from text in PgBouncer's format, for `SET` in the console and options of the command line. Whether
    /// the key may change while the program runs is the caller's question ([`Setting::changeable`]), and so is
    /// [`Config::check`](crate::Config::check) afterwards.
    ///
    /// # Errors
    /// An unknown key or a value its kind does not take; nothing is changed then.
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), Problem> {
        let raw = Raw::Text(value.to_string());
        let outcome = match setting(key) {
            None => Err(ProblemKind::unknown_setting(key)),
            Some(setting) => setting.read(self, &raw).map_err(|wrong| ProblemKind::of(wrong, &raw, false)),
        };
        outcome.map_err(|kind| Problem { file: None, line: None, key: key.to_string(), kind })
    }

    /// Takes every setting that only a restart changes from those in force, so that a reload applies the others alone.
    pub fn keep_fixed(&mut self, in_force: &Settings) {
        for setting in SETTINGS.iter().filter(|s| !s.changeable) {
            (setting.copy)(self, in_force);
        }
    }
}
