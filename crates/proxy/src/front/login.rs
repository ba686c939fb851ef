//! How a client has to prove who it is.

use std::rc::Rc;

use pgsluice_auth::{Nonce, ScramSecret, ScramServer, Secret};
use pgsluice_config::AuthType;
use pgsluice_session::{AuthMethod, Identity, Refusal, ServerCredential};

use super::{Front, random};

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
    /// What this user has to pass, known or not: an unknown one is asked the same, and fails. `end_point`: what an encrypted
    /// channel can be bound by.
    pub(super) async fn gate_for(
        self: &Rc<Self>,
        identity: &Identity,
        end_point: Option<Vec<u8>>,
    ) -> Result<Gate, Refusal> {
        let (user, auth_type) = (identity.user.as_str(), self.config().settings.auth_type);
        if auth_type == AuthType::Any {
            return Ok(Gate { method: AuthMethod::Trust, found: None });
        }
        let known = self.known(&identity.database, user).await?;
        let secret = known.text.as_ref().map(|s| Secret::parse(s.expose()));
        let found = secret.clone().filter(|_| known.is_asked).map(|secret| ServerCredential::Secret(secret, None));
        let method = match auth_type {
            AuthType::Any | AuthType::Trust if known.exists => AuthMethod::Trust,
            AuthType::Any | AuthType::Trust => return Err(Refusal::UnknownRole(user.into())),
            AuthType::Plain => AuthMethod::Plain(secret),
            AuthType::Md5 if !matches!(secret, Some(Secret::Scram(_))) => AuthMethod::Md5(secret, random()),
            AuthType::Hba | AuthType::Cert => {
                return Err(Refusal::Unsupported("auth_type hba and cert are not in force yet".into()));
            }
            AuthType::Md5 | AuthType::ScramSha256 => {
                AuthMethod::Scram(Box::new(self.scram(user, known.text, secret).with_end_point(end_point)))
            }
        };
        Ok(Gate { method, found: found.filter(ServerCredential::is_password) })
    }

    async fn known(self: &Rc<Self>, database: &str, user: &str) -> Result<Known, Refusal> {
        let listed = self.config().users.get(user).map(|listed| listed.password.clone());
        let (answer, is_asked) = match listed {
            Some(text) => (Some(text), false),
            None => (self.ask_for_secret(database, user).await?, true),
        };
        Ok(Known { exists: answer.is_some(), text: answer.flatten(), is_asked })
    }

    fn scram(&self, user: &str, text: Option<pgsluice_config::Secret>, secret: Option<Secret>) -> ScramServer {
        let nonce = Nonce::from_entropy(random());
        match text.zip(secret).and_then(|(text, secret)| self.verifier(user, text, &secret)) {
            Some(verifier) => ScramServer::new(verifier, nonce),
            None => {
                let iterations = self.config().settings.scram_iterations;
                ScramServer::mock(&self.mock_key, user.as_bytes(), iterations, nonce)
            }
        }
    }

    /// The SCRAM secret of a user; derived from a plain password once.
    fn verifier(&self, user: &str, text: pgsluice_config::Secret, secret: &Secret) -> Option<ScramSecret> {
        if let Secret::Scram(stored) = secret {
            return Some(stored.clone());
        }
        let mut state = self.cell.borrow_mut();
        if let Some((_, verifier)) = state.verifiers.get(user).filter(|(of, _)| *of == text) {
            return Some(verifier.clone());
        }
        let iterations = self.config().settings.scram_iterations;
        let verifier = secret.to_scram(&random::<16>(), iterations)?;
        state.verifiers.insert(user.into(), (text, verifier.clone()));
        Some(verifier)
    }
}
