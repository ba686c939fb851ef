//! How a client has to prove who it is.

use pgsluice_auth::{Nonce, ScramSecret, ScramServer, Secret};
use pgsluice_config::AuthType;
use pgsluice_session::{AuthMethod, Refusal};

use super::{Front, random};

impl Front {
    /// What this user has to pass, known or not: an unknown one is asked the same, and fails. `end_point`: what an encrypted
    /// channel can be bound by.
    pub(super) fn method_for(&self, user: &str, end_point: Option<Vec<u8>>) -> Result<AuthMethod, Refusal> {
        let config = self.config();
        let listed = config.users.get(user);
        let text = listed.and_then(|u| u.password.clone());
        let secret = text.as_ref().map(|s| Secret::parse(s.expose()));
        Ok(match config.settings.auth_type {
            AuthType::Any => AuthMethod::Trust,
            AuthType::Trust if listed.is_some() => AuthMethod::Trust,
            AuthType::Trust => return Err(Refusal::UnknownRole(user.into())),
            AuthType::Plain => AuthMethod::Plain(secret),
            AuthType::Md5 if !matches!(secret, Some(Secret::Scram(_))) => AuthMethod::Md5(secret, random()),
            AuthType::Md5 | AuthType::ScramSha256 => {
                AuthMethod::Scram(Box::new(self.scram(user, text, secret).with_end_point(end_point)))
            }
        })
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
