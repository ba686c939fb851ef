//! The exchange from our first byte to a server's first ReadyForQuery, with us as the client.

use std::fmt;

use pgsluice_auth::{
    ChannelBinding, MECHANISM, MECHANISM_PLUS, Nonce, SaltedKeys, ScramClient, ScramCredential, ScramKeys, Secret,
    md5_response,
};
use pgsluice_wire::{
    Authentication, BackendKeyData, FrontendWriter, HEAD_LEN, Head, NegotiateVersion, PROTOCOL_3_0, ParameterStatus,
    Report, sasl_mechanisms, sqlstate, tag::backend,
};

use crate::error::{Refusal, ServerError, Violation};
use crate::params::Params;
use crate::server::{CancelKey, Server};

/// Longest message a server may send before ReadyForQuery, in bytes.
const LOGIN_MESSAGE_MAX: usize = 1 << 16;

/// What we can prove.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerCredential {
    /// Nothing: trust or peer only.
    None,
    /// A password, or its MD5; with keys derived earlier, if there are any.
    Secret(Secret, Option<SaltedKeys>),
    /// SCRAM keys without the password.
    Keys(ScramKeys),
}

impl ServerCredential {
    /// Is it a password, or its MD5? Neither is a SCRAM secret, which opens nothing.
    pub fn is_password(&self) -> bool {
        matches!(self, Self::Secret(Secret::Plain(_) | Secret::Md5(_), _))
    }
}

/// Why a login failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoginFailure {
    /// PostgreSQL refused it.
    Refused(Box<ServerError>),
    /// It asks for something we cannot give.
    NoCredential {
        /// What it asked for.
        method: &'static str,
    },
    /// It could not prove that it knows the password.
    Impostor,
    /// It broke the protocol.
    Violation(Violation),
    /// It cannot be reached, or went away: what the system says.
    Unreachable(String),
}

impl LoginFailure {
    /// As the refusal that waiting clients get.
    pub fn refusal(&self) -> Refusal {
        match self {
            Self::Refused(error) => Refusal::Server(error.clone()),
            other => Refusal::Unreachable(other.to_string().into()),
        }
    }
}

impl From<Violation> for LoginFailure {
    fn from(v: Violation) -> Self {
        Self::Violation(v)
    }
}

impl fmt::Display for LoginFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(error) => write!(f, "{} ({})", error.message, error.sqlstate),
            Self::NoCredential { method } => {
                write!(f, "server asks for {method} and no password is configured that can answer it")
            }
            Self::Impostor => write!(f, "server failed to prove that it knows the password (SCRAM)"),
            Self::Violation(v) => v.fmt(f),
            Self::Unreachable(why) => f.write_str(why),
        }
    }
}

/// A login under way.
#[derive(Debug)]
pub struct ServerLogin {
    user: String,
    credential: ServerCredential,
    nonce: Option<Nonce>,
    /// What the channel can be bound by, if it is encrypted.
    end_point: Option<Vec<u8>>,
    scram: Option<ScramClient>,
    /// The version asked for, until the server has said something else than an error.
    asked: Option<u32>,
    authenticated: bool,
    key: Option<CancelKey>,
    params: Params,
}

impl ServerLogin {
    /// Begins: appends the StartupMessage. `params` are those besides user and database; `nonce` is fresh. A server that
    /// speaks less than `version` says so and is taken at its word.
    pub fn new<'p>(
        version: u32,
        (user, database): (&'p str, &'p str),
        params: impl Iterator<Item = (&'p str, &'p str)>,
        (credential, nonce): (ServerCredential, Nonce),
        out: &mut Vec<u8>,
    ) -> Self {
        let pairs = [("user", user), ("database", database)].into_iter().chain(params);
        FrontendWriter(out).startup(version, pairs.map(|(n, v)| (n.as_bytes(), v.as_bytes())));
        Self {
            user: user.into(),
            credential,
            nonce: Some(nonce),
            end_point: None,
            scram: None,
            asked: Some(version),
            authenticated: false,
            key: None,
            params: Params::default(),
        }
    }

    /// The connection is encrypted, and [`pgsluice_auth::end_point`] of the server's certificate is this.
    pub fn with_end_point(mut self, data: Option<Vec<u8>>) -> Self {
        self.end_point = data;
        self
    }

    /// Reads from the server; answers are appended to `out`. Returns the bytes consumed, and the server once it is ready.
    ///
    /// # Errors
    /// [`LoginFailure`]; the connection is of no more use.
    pub fn handle(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<(usize, Option<Server>), LoginFailure> {
        let mut at = 0;
        while let Some(head) = Head::read(&input[at..]).map_err(Violation::from)? {
            if head.total() > LOGIN_MESSAGE_MAX {
                return Err(Violation::TooLong { message: "login", max: LOGIN_MESSAGE_MAX }.into());
            }
            let Some(body) = input[at..].get(HEAD_LEN..head.total()) else { break };
            at += head.total();
            if self.handle_message(head.tag, body, out)? {
                let key = self.key.take().unwrap_or(CancelKey { pid: 0, secret: Box::new([]) });
                return Ok((at, Some(Server::new(key, std::mem::take(&mut self.params)))));
            }
        }
        Ok((at, None))
    }

    /// Could it be the protocol version alone that this server failed us for? PostgreSQL negotiates since 9.3 and calls a
    /// major version it does not know 0A000; others hang up, or call it a violation.
    pub fn may_be_for_version(&self, failure: &LoginFailure) -> bool {
        self.asked.is_some_and(|version| version > PROTOCOL_3_0)
            && match failure {
                LoginFailure::Refused(error) => {
                    [sqlstate::FEATURE_NOT_SUPPORTED, sqlstate::PROTOCOL_VIOLATION].contains(&error.sqlstate.as_str())
                }
                LoginFailure::Unreachable(_) => true,
                _ => false,
            }
    }

    /// Keys derived in this login, to spare the next one the work.
    pub fn salted_keys(&self) -> Option<&SaltedKeys> {
        self.scram.as_ref().filter(|s| s.is_verified()).and_then(ScramClient::salted_keys)
    }

    /// Takes one message. Is the server ready?
    fn handle_message(&mut self, tag: u8, body: &[u8], out: &mut Vec<u8>) -> Result<bool, LoginFailure> {
        if tag == backend::NEGOTIATE_PROTOCOL_VERSION {
            let asked = self.asked.take().filter(|_| !self.authenticated);
            let told = NegotiateVersion::read(body).map_err(Violation::from)?.version;
            return match asked {
                Some(asked) if (PROTOCOL_3_0..=asked).contains(&told) => Ok(false),
                _ => Err(Violation::NotOwed { tag, owed: 0 }.into()),
            };
        }
        if tag != backend::ERROR_RESPONSE {
            self.asked = None;
        }
        match tag {
            backend::AUTHENTICATION if !self.authenticated => {
                self.handle_authentication(Authentication::read(body).map_err(Violation::from)?, out)?;
            }
            backend::ERROR_RESPONSE => return Err(refused(body)),
            backend::NOTICE_RESPONSE => {}
            backend::PARAMETER_STATUS if self.authenticated => {
                let report = ParameterStatus::read(body).map_err(Violation::from)?;
                self.params.set(&String::from_utf8_lossy(report.name), &String::from_utf8_lossy(report.value))?;
            }
            backend::BACKEND_KEY_DATA if self.authenticated => {
                let data = BackendKeyData::read(body).map_err(Violation::from)?;
                self.key = Some(CancelKey { pid: data.pid, secret: data.secret.into() });
            }
            backend::READY_FOR_QUERY if self.authenticated => return Ok(true),
            tag => return Err(Violation::NotOwed { tag, owed: 0 }.into()),
        }
        Ok(false)
    }

    fn handle_authentication(&mut self, request: Authentication<'_>, out: &mut Vec<u8>) -> Result<(), LoginFailure> {
        let mut writer = FrontendWriter(out);
        match request {
            Authentication::Ok => {
                // A server that began SCRAM and never proved itself does not know the password.
                if self.scram.as_ref().is_some_and(|s| !s.is_verified()) {
                    return Err(LoginFailure::Impostor);
                }
                self.authenticated = true;
            }
            Authentication::CleartextPassword => match &self.credential {
                ServerCredential::Secret(Secret::Plain(password), _) => writer.password(password.as_bytes()),
                _ => return Err(LoginFailure::NoCredential { method: "a cleartext password" }),
            },
            Authentication::Md5Password { salt } => {
                let response = match &self.credential {
                    ServerCredential::Secret(secret, _) => md5_response(self.user.as_bytes(), secret, salt),
                    _ => None,
                };
                let Some(response) = response else {
                    return Err(LoginFailure::NoCredential { method: "an MD5 password" });
                };
                writer.password(&response);
            }
            Authentication::Sasl { mechanisms } => {
                let offers = |wanted: &str| sasl_mechanisms(mechanisms).any(|offered| offered == wanted.as_bytes());
                let (mechanism, binding) = match self.end_point.take() {
                    Some(data) if offers(MECHANISM_PLUS) => (MECHANISM_PLUS, ChannelBinding::EndPoint(data)),
                    _ if !offers(MECHANISM) => {
                        return Err(LoginFailure::NoCredential { method: "a SASL mechanism other than SCRAM-SHA-256" });
                    }
                    Some(_) => (MECHANISM, ChannelBinding::NotOffered),
                    None => (MECHANISM, ChannelBinding::None),
                };
                let client = self.begin_scram()?.with_binding(binding);
                writer.sasl_initial(mechanism, &client.client_first());
                self.scram = Some(client);
            }
            Authentication::SaslContinue { data } => {
                let scram = self.scram.as_mut().ok_or(LoginFailure::Impostor)?;
                let reply = scram.handle_server_first(data).map_err(|_| LoginFailure::Impostor)?;
                writer.sasl_response(&reply);
            }
            Authentication::SaslFinal { data } => {
                let scram = self.scram.as_mut().ok_or(LoginFailure::Impostor)?;
                scram.handle_server_final(data).map_err(|_| LoginFailure::Impostor)?;
            }
            Authentication::Other(_) => {
                return Err(LoginFailure::NoCredential { method: "GSSAPI, SSPI or another method we do not have" });
            }
        }
        Ok(())
    }

    fn begin_scram(&mut self) -> Result<ScramClient, LoginFailure> {
        let missing = LoginFailure::NoCredential { method: "SCRAM-SHA-256" };
        let credential = match &self.credential {
            ServerCredential::Secret(Secret::Plain(password), known) => {
                ScramCredential::Password { password: password.clone().into_bytes(), known: known.clone() }
            }
            ServerCredential::Keys(keys) => ScramCredential::Keys(keys.clone()),
            _ => return Err(missing),
        };
        let nonce = self.nonce.take().ok_or(LoginFailure::Impostor)?;
        Ok(ScramClient::new(credential, nonce))
    }
}

fn refused(body: &[u8]) -> LoginFailure {
    match Report::read(body) {
        Ok(report) => LoginFailure::Refused(Box::new(ServerError::from_report(report))),
        Err(e) => Violation::from(e).into(),
    }
}
