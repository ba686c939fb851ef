//! What the configuration asks of a client that says to be somebody, as far as that follows from itself and the rules.

use pgsluice_config::{Attempt, AuthType, Channel, ClientCert, Config, HbaMethod, RESERVED_DATABASES};
use pgsluice_session::{Identity, Refusal, Replication};
use tracing::debug;

use crate::caller::Caller;

/// What the configuration asks of a client.
#[derive(Debug)]
pub(crate) struct Demand {
    pub(crate) method: Method,
    pub(crate) map: Option<String>,
    pub(crate) client_cert: Option<ClientCert>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    /// Nothing, not even that the user is known.
    Any,
    Trust,
    Password,
    Md5,
    Scram,
    /// What `client_cert` says is enough.
    Cert,
    Peer,
}

/// What this client has to pass.
///
/// # Errors
/// It is not let in, whatever it could show.
pub(crate) fn demand(config: &Config, identity: &Identity, caller: &Caller) -> Result<Demand, Refusal> {
    if config.settings.client_tls_sslmode.is_strict() && caller.channel == Channel::Plain {
        return Err(Refusal::TlsRequired);
    }
    if identity.replication != Replication::No && RESERVED_DATABASES.contains(&identity.database.as_str()) {
        // Rules for replication name no database, and those for the console would not be asked.
        return Err(Refusal::Unsupported("replication from the console".into()));
    }
    let plain = |method| Ok(Demand { method, map: None, client_cert: None });
    match config.settings.auth_type {
        AuthType::Any => plain(Method::Any),
        AuthType::Trust => plain(Method::Trust),
        AuthType::Plain => plain(Method::Password),
        AuthType::Md5 => plain(Method::Md5),
        AuthType::ScramSha256 => plain(Method::Scram),
        AuthType::Cert => Ok(Demand { method: Method::Cert, map: None, client_cert: Some(ClientCert::VerifyFull) }),
        AuthType::Hba => by_rules(config, identity, caller),
    }
}

/// What the first rule says that is for this client. Its texts are those of `ClientAuthentication` in `src/backend/libpq/auth.c`.
fn by_rules(config: &Config, identity: &Identity, caller: &Caller) -> Result<Demand, Refusal> {
    let Identity { user, database, replication, .. } = identity;
    let (is_physical, (host, encryption)) = (*replication == Replication::Physical, caller.describe());
    let attempt =
        Attempt { channel: caller.channel, address: caller.address, database, user, replication: is_physical };
    let what = || match is_physical {
        true => format!("replication connection from host \"{host}\", user \"{user}\", {encryption}"),
        false => format!("host \"{host}\", user \"{user}\", database \"{database}\", {encryption}"),
    };
    let Some(rule) = config.hba.as_ref().and_then(|hba| hba.find(&attempt)) else {
        return Err(Refusal::NotAdmitted(format!("no pg_hba.conf entry for {}", what()).into()));
    };
    debug!(%user, %database, "rule {}:{}", rule.file.display(), rule.line);
    let method = match rule.method {
        HbaMethod::Trust => Method::Trust,
        HbaMethod::Reject if is_physical => {
            return Err(Refusal::NotAdmitted(format!("pg_hba.conf rejects {}", what()).into()));
        }
        HbaMethod::Reject => {
            return Err(Refusal::NotAdmitted(format!("pg_hba.conf rejects connection for {}", what()).into()));
        }
        HbaMethod::Password => Method::Password,
        HbaMethod::Md5 => Method::Md5,
        HbaMethod::ScramSha256 => Method::Scram,
        HbaMethod::Cert => Method::Cert,
        HbaMethod::Peer => Method::Peer,
    };
    Ok(Demand { method, map: rule.map.clone(), client_cert: rule.client_cert })
}

/// The certificate that the client showed, or did not.
///
/// # Errors
/// It is not the one that is asked for.
pub(crate) fn check_certificate(
    config: &Config,
    demand: &Demand,
    identity: &Identity,
    caller: &Caller,
) -> Result<(), Refusal> {
    let user = identity.user.as_str();
    let refused = |text: String| Err(Refusal::NotAdmitted(text.into()));
    match demand.client_cert {
        Some(_) if !caller.has_certificate() => refused("connection requires a valid client certificate".into()),
        Some(ClientCert::VerifyFull) => match caller.common_name() {
            Some(name) if config.ident.allows(demand.map.as_deref(), &name, user) => Ok(()),
            _ => refused(format!("certificate authentication failed for user \"{user}\"")),
        },
        Some(ClientCert::VerifyCa) | None => Ok(()),
    }
}
