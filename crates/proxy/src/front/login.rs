//! How a client has to prove who it is.

use std::rc::Rc;

use pgsluice_auth::{Nonce, ScramSecret, ScramServer, Secret};
use pgsluice_session::{AuthMethod, Identity, Refusal, ServerCredential};

use super::Front;
use crate::caller::Caller;
use crate::demand::{Method, check_certificate, demand};
use crate::random;

/// What a client has to pass.
pub(super) struct Gate {
    pub(super) method: AuthMethod,
    /// What PostgreSQL told us of the user, if that opens a server.
    pub(super) found: Option<ServerCredential>,
}

/// What is known of a user.
struct Known {
    exists: bool,
    text: Option<pgsluice_config::Secret>,
    /// Told by PostgreSQL, and not by the configuration.
    is_asked: bool,
}

impl Front {
    /// What this user has to pass, known or not: an unknown one is asked the same, and fails.
    ///
    /// # Errors
    /// Whatever it could send, it is not let in.
    pub(super) async fn gate_for(self: &Rc<Self>, identity: &Identity, caller: Caller) -> Result<Gate, Refusal> {
        let config = self.config();
        let demand = demand(&config, identity, &caller)?;
        check_certificate(&config, &demand, identity, &caller)?;
        let user = identity.user.as_str();
        if demand.method == Method::Any {
            return Ok(Gate { method: AuthMethod::Trust, found: None });
        }
        if demand.method == Method::Peer {
            let name = caller.system_user().await;
            if !name.is_some_and(|name| config.ident.allows(demand.map.as_deref(), &name, user)) {
                return Err(Refusal::NotAdmitted(format!("Peer authentication failed for user \"{user}\"").into()));
            }
        }
        if matches!(demand.method, Method::Password | Method::Md5 | Method::Scram) {
            // Those that are listed, too, or the difference would tell who is.
            self.check_failures(&caller.place(), user)?;
        }
        let known = self.known(&identity.database, user, &caller.place()).await?;
        let secret = known.text.as_ref().map(|s| Secret::parse(s.expose()));
        let found = secret.clone().filter(|_| known.is_asked).map(|secret| ServerCredential::Secret(secret, None));
        let method = match demand.method {
            Method::Any | Method::Trust | Method::Cert | Method::Peer if known.exists => AuthMethod::Trust,
            Method::Any | Method::Trust | Method::Cert | Method::Peer => return Err(Refusal::UnknownRole(user.into())),
            Method::Password => AuthMethod::Plain(secret),
            Method::Md5 if !matches!(secret, Some(Secret::Scram(_))) => AuthMethod::Md5(secret, random()),
            Method::Md5 | Method::Scram => {
                let server = self.scram(user, known.text, secret).await?;
                AuthMethod::Scram(Box::new(server.with_end_point(caller.end_point)))
            }
        };
        Ok(Gate { method, found: found.filter(ServerCredential::is_password) })
    }

    async fn known(self: &Rc<Self>, database: &str, user: &str, place: &str) -> Result<Known, Refusal> {
        let listed = self.config().users.get(user).map(|listed| listed.password.clone());
        let (answer, is_asked) = match listed {
            Some(text) => (Some(text), false),
            None => (self.ask_for_secret(database, user, place).await?, true),
        };
        Ok(Known { exists: answer.is_some(), text: answer.flatten(), is_asked })
    }

    async fn scram(
        &self,
        user: &str,
        text: Option<pgsluice_config::Secret>,
        secret: Option<Secret>,
    ) -> Result<ScramServer, Refusal> {
        let verifier = match text.zip(secret) {
            Some((text, secret)) => self.verifier(user, text, secret).await?,
            None => None,
        };
        let nonce = Nonce::from_entropy(random());
        Ok(match verifier {
            Some(verifier) => ScramServer::new(verifier, nonce),
            None => {
                let mock_key = self.reception.book().mock_key.clone();
                let iterations = self.config().settings.scram_iterations;
                ScramServer::mock(&mock_key, user.as_bytes(), iterations, nonce)
            }
        })
    }

    /// The SCRAM secret of a user; derived from a plain password once.
    async fn verifier(
        &self,
        user: &str,
        text: pgsluice_config::Secret,
        secret: Secret,
    ) -> Result<Option<ScramSecret>, Refusal> {
        if let Secret::Scram(stored) = &secret {
            return Ok(Some(stored.clone()));
        }
        let recent = || {
            let book = self.reception.book();
            let (_, verifier) = book.verifiers.get(user).filter(|(of, _)| *of == text)?;
            Some(verifier.clone())
        };
        if let Some(verifier) = recent() {
            return Ok(Some(verifier));
        }
        let iterations = self.config().settings.scram_iterations;
        let salt = random::<16>();
        let Some(verifier) = self.aside(move || secret.to_scram(&salt, iterations)).await? else { return Ok(None) };
        // Several may have come at once: one salt for all from now on, as PostgreSQL has.
        if let Some(verifier) = recent() {
            return Ok(Some(verifier));
        }
        self.reception.book().verifiers.insert(user.into(), (text.clone(), verifier.clone()));
        Ok(Some(verifier))
    }
}
