//! What a worker has to know of a pool, resolved from the configuration once.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use pgsluice_auth::Secret;
use pgsluice_config::{Config, Database, PoolMode, SslMode, SslNegotiation, TlsProtocols};
use pgsluice_pool::{PoolId, PoolLimits};
use pgsluice_session::{Audit, PinPolicy, PinReason, Pooling, ServerCredential, Settings, Tracking};

/// Where a PostgreSQL is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Address {
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// How to log in to a server: everything that, when it changes, makes open servers obsolete.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Target {
    /// The entry of the configuration that it is of, by the name that clients use.
    pub(crate) database: String,
    pub(crate) address: Address,
    pub(crate) dbname: String,
    pub(crate) user: String,
    /// The user is the client's own, and not one that the configuration names: what clients proved may open it.
    pub(crate) is_own: bool,
    pub(crate) secret: Option<pgsluice_config::Secret>,
    pub(crate) params: Vec<(&'static str, String)>,
    pub(crate) connect_query: Option<String>,
    /// Servers that were opened with another one are obsolete.
    pub(crate) tls: ServerTls,
}

/// How connections to servers are to be encrypted, as configured: mode, beginning, versions, and files of authorities, certificate
/// and key.
pub(crate) type ServerTls = (SslMode, SslNegotiation, TlsProtocols, [Option<PathBuf>; 3]);

impl Target {
    pub(crate) fn credential(&self, known: Option<pgsluice_auth::SaltedKeys>) -> ServerCredential {
        match &self.secret {
            Some(secret) => ServerCredential::Secret(Secret::parse(secret.expose()), known),
            None => ServerCredential::None,
        }
    }
}

/// Timeouts of a pool; zero is off.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Timeouts {
    pub(crate) query_wait_notify: Duration,
    pub(crate) query: Duration,
    pub(crate) idle_transaction: Duration,
    pub(crate) transaction: Duration,
    pub(crate) server_idle: Duration,
    pub(crate) server_lifetime: Duration,
    pub(crate) cleanup: Duration,
}

/// One pool.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PoolSpec {
    pub(crate) id: PoolId,
    /// Name of the database as clients know it.
    pub(crate) database: String,
    pub(crate) target: Target,
    /// Settings of its clients that only a server's start can take.
    pub(crate) at_start: Settings,
    pub(crate) pooling: Pooling,
    pub(crate) max_prepared: usize,
    pub(crate) tracking: Tracking,
    pub(crate) limits: PoolLimits,
    /// Clients that may wait on one worker, and how many that is on all of them; 0: no limit.
    pub(crate) waiting: (usize, u32),
    pub(crate) timeouts: Timeouts,
    pub(crate) reset_query: String,
    pub(crate) round_robin: bool,
    pub(crate) log_disconnections: bool,
    pub(crate) log_errors: bool,
}

impl PoolSpec {
    /// The pool of `user`, as the server knows it, on the configured database `name`.
    pub(crate) fn resolve(
        config: &Config,
        name: &str,
        user: &str,
        at_start: &Settings,
        id: PoolId,
    ) -> Option<Arc<Self>> {
        let (database, _) = config.database(name)?;
        let s = &config.settings;
        let zero_is_everything = |d: Duration| if d.is_zero() { Duration::from_secs(3600) } else { d };
        Some(Arc::new(Self {
            id,
            database: name.into(),
            target: target(config, database, name, user),
            at_start: at_start.clone(),
            pooling: match config.pool_mode(name, user) {
                PoolMode::Session => Pooling::Session,
                PoolMode::Transaction => Pooling::Transaction,
                PoolMode::Statement => Pooling::Statement,
            },
            max_prepared: s.max_prepared_statements as usize,
            tracking: tracking(config, name, user),
            limits: PoolLimits {
                size: config.pool_size(name, user),
                // What a client's own parameters made is kept for nobody.
                min: if at_start.is_empty() { config.pool_minimum(name, user) } else { 0 },
                weight: config.pool_weight(name, user),
                reserve: config.reserve_pool_size(name, user),
                reserve_timeout: s.reserve_pool_timeout,
                retry_max: s.server_login_retry,
                database: (name.into(), config.max_db_connections(name)),
                user: (user.to_owned(), config.max_user_connections(user)),
                dbname: database.dbname.clone().unwrap_or_else(|| name.into()),
            },
            waiting: {
                let most = config.max_pool_waiting(name, user);
                (most.div_ceil(s.workers.max(1)) as usize, most)
            },
            timeouts: Timeouts {
                query_wait_notify: s.query_wait_notify,
                query: config.query_timeout(user),
                idle_transaction: config.idle_transaction_timeout(user),
                transaction: config.transaction_timeout(user),
                server_idle: s.server_idle_timeout,
                server_lifetime: config.server_lifetime(name),
                cleanup: zero_is_everything(s.cancel_wait_timeout),
            },
            reset_query: s.server_reset_query.clone(),
            round_robin: s.server_round_robin,
            log_disconnections: s.log_disconnections,
            log_errors: s.log_pooler_errors,
        }))
    }
}

/// Where the servers of a configured database are, for a user.
pub(crate) fn target(config: &Config, database: &Database, name: &str, user: &str) -> Target {
    let params = [
        ("client_encoding", &database.client_encoding),
        ("datestyle", &database.datestyle),
        ("timezone", &database.timezone),
        ("application_name", &database.application_name),
    ];
    Target {
        database: name.into(),
        address: Address { host: database.host.clone().unwrap_or_else(|| "127.0.0.1".into()), port: database.port },
        dbname: database.dbname.clone().unwrap_or_else(|| name.into()),
        user: user.into(),
        is_own: database.user.as_deref() != Some(user) && config.auth_user(name) != Some(user),
        secret: config.server_password(name, user),
        params: params.into_iter().filter_map(|(n, v)| v.clone().map(|v| (n, v))).collect(),
        connect_query: database.connect_query.clone(),
        tls: server_tls(&config.settings),
    }
}

/// What the settings say of it.
pub(crate) fn server_tls(settings: &pgsluice_config::Settings) -> ServerTls {
    let files = [&settings.server_tls_ca_file, &settings.server_tls_cert_file, &settings.server_tls_key_file];
    let s = settings;
    (s.server_tls_sslmode, s.server_tls_sslnegotiation, s.server_tls_protocols, files.map(Clone::clone))
}

/// How the state of a pool's sessions is followed.
fn tracking(config: &Config, database: &str, user: &str) -> Tracking {
    let policies = config.pin_policies(database, user);
    let of = |reason: PinReason| {
        let Some(named) = pgsluice_config::PinReason::ALL.into_iter().find(|r| r.name() == reason.name()) else {
            // What an audit could not find out is not to be chosen.
            return PinPolicy::Pin;
        };
        match policies.get(named) {
            pgsluice_config::PinPolicy::Pin => PinPolicy::Pin,
            pgsluice_config::PinPolicy::Error => PinPolicy::Error,
            pgsluice_config::PinPolicy::Warn => PinPolicy::Warn,
            pgsluice_config::PinPolicy::Ignore => PinPolicy::Ignore,
        }
    };
    let audit = match config.audit(database, user) {
        pgsluice_config::Audit::Suspects => Audit::Suspects,
        pgsluice_config::Audit::Always => Audit::Always,
        pgsluice_config::Audit::Never => Audit::Never,
    };
    Tracking { policies: PinReason::ALL.map(of), audit }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn configured(settings: &str) -> Tracking {
        let text = format!("[databases]\n* = host=127.0.0.1\n\n[pgbouncer]\nauth_type = trust\n{settings}");
        let (config, _) = pgsluice_config::parse_ini(&text, Path::new("pgsluice.ini")).expect("a configuration");
        tracking(&config, "d", "u")
    }

    #[test]
    fn following_can_be_turned_off_as_a_whole() {
        assert_eq!(configured(""), Tracking::default());
        assert_eq!(configured("pin_policy = all=ignore\naudit = never\n"), Tracking::OFF);
        assert!(configured("pin_policy = all=ignore\n").is_on() && configured("audit = never\n").is_on());
    }
}
