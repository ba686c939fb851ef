//! The exchange from a client's first byte to its identity proven: startup, requests for encryption, password.
//!
//! Which method a client has to pass is the caller's to say ([`ClientLogin::authenticate`]); parameters of the server and
//! the key for cancel requests are sent by the caller afterwards.

use pgsluice_auth::{ScramKeys, ScramServer, Secret, verify_md5, verify_plain};
use pgsluice_wire::{
    BackendWriter, BadStartup, HEAD_LEN, Head, Malformed, PROTOCOL_3_2, SSL_CODE, SaslInitial, Startup, StartupParams,
    tag::frontend,
};

use crate::error::{Refusal, StartupFault, Violation};
use crate::identity::Identity;

/// Longest password message that is read, in bytes; PostgreSQL's `PG_MAX_AUTH_TOKEN_LENGTH`.
const PASSWORD_MAX: usize = 65_535;
/// SSLRequest and GSSENCRequest a client may send, each.
const ENCRYPTION_REQUESTS_MAX: u32 = 2;
/// What TLS begins with: the type of its handshake's records.
const TLS_HANDSHAKE: u8 = 0x16;

/// What a client has to prove.
#[derive(Debug)]
pub enum AuthMethod {
    /// Nothing.
    Trust,
    /// The password itself; `None` for a user that does not exist.
    Plain(Option<Secret>),
    /// The MD5 of password, user and this salt; `None` for a user that does not exist.
    Md5(Option<Secret>, [u8; 4]),
    /// SCRAM-SHA-256.
    Scram(Box<ScramServer>),
}

/// What the login wants.
#[derive(Debug, PartialEq, Eq)]
pub enum LoginWant {
    /// More bytes.
    More,
    /// To be encrypted: the client is told so by what is to be sent to it, and nothing of its was read since; or it has begun with TLS
    /// without asking (PostgreSQL 17), and all of the input is that.
    Encryption,
    /// To be told how this client is authenticated.
    Method,
    /// A cancel request was received; nothing is answered.
    Cancel {
        /// Process id.
        pid: u32,
        /// Secret.
        secret: Box<[u8]>,
    },
    /// The identity is proven. The rest of the input is the session's.
    Done,
}

#[derive(Debug)]
enum State {
    Startup,
    Method,
    Plain(Option<Secret>),
    Md5(Option<Secret>, [u8; 4]),
    ScramFirst(Box<ScramServer>),
    ScramFinal(Box<ScramServer>),
    /// What it sent was no proof.
    Failed,
    Done,
}

/// What becomes of a client's request for TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tls {
    Declined,
    Offered,
    /// All that comes and goes is encrypted.
    InForce,
}

/// A login under way.
#[derive(Debug)]
pub struct ClientLogin {
    state: State,
    tls: Tls,
    encryption_requests: u32,
    identity: Identity,
    keys: Option<ScramKeys>,
}

impl Default for ClientLogin {
    fn default() -> Self {
        let (state, tls) = (State::Startup, Tls::Declined);
        Self { state, tls, encryption_requests: 0, identity: Identity::default(), keys: None }
    }
}

impl ClientLogin {
    /// A client that asks for TLS gets it.
    pub fn offering_tls() -> Self {
        Self { tls: Tls::Offered, ..Self::default() }
    }

    /// Answers [`LoginWant::Encryption`]; or the client has begun with TLS. What is read from now on was encrypted.
    pub fn set_encrypted(&mut self) {
        self.tls = Tls::InForce;
    }

    /// Is it encrypted?
    pub fn is_encrypted(&self) -> bool {
        self.tls == Tls::InForce
    }

    /// Would [`ClientLogin::handle`] find in this what is to prove who the client is?
    pub fn is_proving(&self, input: &[u8]) -> bool {
        !matches!(self.state, State::Startup | State::Method | State::Failed | State::Done)
            && matches!(password_message(input), Ok(Some(_)))
    }

    /// Would [`ClientLogin::handle`] hash a password with this, for as long as the secret wants that?
    pub fn takes_long(&self, input: &[u8]) -> bool {
        matches!(self.state, State::Plain(Some(Secret::Scram(_)))) && matches!(password_message(input), Ok(Some(_)))
    }

    /// Who it is; meaningful from [`LoginWant::Method`] on.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The same, to be taken or changed once [`LoginWant::Done`] is reached.
    pub fn identity_mut(&mut self) -> &mut Identity {
        &mut self.identity
    }

    /// The SCRAM keys that the client proved to have, whether it sent a proof or the password itself.
    pub fn keys(&self) -> Option<&ScramKeys> {
        self.keys.as_ref()
    }

    /// Reads from the client; answers are appended to `out`. Returns the bytes consumed, and what is next.
    ///
    /// # Errors
    /// The [`Refusal`] to send before the connection is closed.
    pub fn handle(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<(usize, LoginWant), Refusal> {
        let mut at = 0;
        loop {
            let rest = &input[at..];
            let want = match self.state {
                // No length of a first message begins like this.
                State::Startup
                    if self.tls == Tls::Offered
                        && self.encryption_requests == 0
                        && rest.first() == Some(&TLS_HANDSHAKE) =>
                {
                    LoginWant::Encryption
                }
                State::Startup => match Startup::read(rest).map_err(StartupFault::Message)? {
                    None => LoginWant::More,
                    Some((message, len)) => {
                        at += len;
                        match self.handle_startup(message, &input[at..], out)? {
                            Some(want) => want,
                            None => continue,
                        }
                    }
                },
                State::Method => LoginWant::Method,
                State::Done => LoginWant::Done,
                State::Failed => return Err(Refusal::BadPassword(self.identity.user.as_str().into())),
                _ => match password_message(rest)? {
                    None => LoginWant::More,
                    Some(body) => {
                        at += HEAD_LEN + body.len();
                        self.handle_password(body, out)?;
                        continue;
                    }
                },
            };
            return Ok((at, want));
        }
    }

    /// Answers [`LoginWant::Method`].
    pub fn authenticate(&mut self, method: AuthMethod, out: &mut Vec<u8>) {
        let mut writer = BackendWriter(out);
        self.state = match method {
            AuthMethod::Trust => {
                writer.auth_ok();
                State::Done
            }
            AuthMethod::Plain(secret) => {
                writer.auth_cleartext();
                State::Plain(secret)
            }
            AuthMethod::Md5(secret, salt) => {
                writer.auth_md5(salt);
                State::Md5(secret, salt)
            }
            AuthMethod::Scram(server) => {
                writer.auth_sasl(server.mechanisms());
                State::ScramFirst(server)
            }
        };
    }

    fn handle_startup(
        &mut self,
        message: Startup<'_>,
        rest: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Option<LoginWant>, Refusal> {
        match message {
            Startup::SslRequest | Startup::GssencRequest => {
                // Bytes that came along in the clear were meant to be read after encryption began (CVE-2021-23222).
                self.encryption_requests += 1;
                if !rest.is_empty() || self.encryption_requests > 2 * ENCRYPTION_REQUESTS_MAX {
                    return Err(Refusal::Unencrypted);
                }
                match (message, self.tls) {
                    // A layer in a layer is, to PostgreSQL, a protocol that it does not know.
                    (_, Tls::InForce) => Err(StartupFault::Message(BadStartup::Version(SSL_CODE)).into()),
                    (Startup::SslRequest, Tls::Offered) => {
                        out.push(b'S');
                        Ok(Some(LoginWant::Encryption))
                    }
                    _ => {
                        out.push(b'N');
                        Ok(None)
                    }
                }
            }
            Startup::Cancel { pid, secret } => Ok(Some(LoginWant::Cancel { pid, secret: secret.into() })),
            Startup::Message { version, params } => {
                negotiate(version, &params, out);
                self.identity = Identity::read(version, &params)?;
                self.state = State::Method;
                Ok(None)
            }
        }
    }

    fn handle_password(&mut self, body: &[u8], out: &mut Vec<u8>) -> Result<(), Refusal> {
        let user = self.identity.user.clone();
        let wrong = || Refusal::BadPassword(user.as_str().into());
        let password = body.strip_suffix(&[0]).unwrap_or(body);
        let state = std::mem::replace(&mut self.state, State::Failed);
        match state {
            State::Plain(secret) => match &secret {
                Some(Secret::Scram(stored)) => self.keys = Some(stored.keys_of(password).ok_or_else(wrong)?),
                other => {
                    let good = other.as_ref().is_some_and(|s| verify_plain(s, user.as_bytes(), password));
                    good.then_some(()).ok_or_else(wrong)?;
                }
            },
            State::Md5(secret, salt) => {
                let good = secret.is_some_and(|s| verify_md5(&s, user.as_bytes(), salt, password));
                good.then_some(()).ok_or_else(wrong)?;
            }
            State::ScramFirst(mut server) => {
                let initial = SaslInitial::read(body).map_err(Violation::from)?;
                if !server.choose(initial.mechanism) {
                    return Err(Refusal::Violation(Malformed { message: "SASLInitialResponse" }.into()));
                }
                let reply = server.handle_client_first(initial.response).map_err(|_| wrong())?;
                BackendWriter(out).auth_sasl_continue(&reply);
                self.state = State::ScramFinal(server);
                return Ok(());
            }
            State::ScramFinal(mut server) => {
                let reply = server.handle_client_final(body).map_err(|_| wrong())?;
                self.keys = server.keys().cloned();
                BackendWriter(out).auth_sasl_final(&reply);
            }
            State::Startup | State::Method | State::Failed | State::Done => {
                unreachable!("only called in states that wait for a password")
            }
        }
        self.state = State::Done;
        BackendWriter(out).auth_ok();
        Ok(())
    }
}

/// The body of a password message at the front of `bytes`, once it is whole.
fn password_message(bytes: &[u8]) -> Result<Option<&[u8]>, Violation> {
    let Some(head) = Head::read(bytes)? else { return Ok(None) };
    if head.tag != frontend::PASSWORD {
        return Err(Violation::UnknownFrontend(head.tag));
    }
    if head.total() > PASSWORD_MAX {
        return Err(Violation::TooLong { message: "password", max: PASSWORD_MAX });
    }
    Ok(bytes.get(HEAD_LEN..head.total()))
}

/// Says what we do not speak: newer minor versions, and options of protocol extensions.
fn negotiate(version: u32, params: &StartupParams<'_>, out: &mut Vec<u8>) {
    let unknown: Vec<_> = params.iter().map(|(name, _)| name).filter(|name| name.starts_with(b"_pq_.")).collect();
    if version > PROTOCOL_3_2 || !unknown.is_empty() {
        BackendWriter(out).negotiate_version(version.min(PROTOCOL_3_2), &unknown);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgsluice_wire::{FrontendWriter, GSSENC_CODE, NegotiateVersion, PROTOCOL_3_0};

    fn startup(params: &[(&str, &str)]) -> Vec<u8> {
        let mut m = Vec::new();
        FrontendWriter(&mut m).startup(PROTOCOL_3_2, params.iter().map(|(n, v)| (n.as_bytes(), v.as_bytes())));
        m
    }

    fn request(code: u32) -> Vec<u8> {
        [8u32.to_be_bytes(), code.to_be_bytes()].concat()
    }

    #[test]
    fn encryption_is_declined_then_the_identity_is_read() {
        let mut login = ClientLogin::default();
        let mut out = Vec::new();
        assert_eq!(login.handle(&request(SSL_CODE), &mut out), Ok((8, LoginWant::More)));
        assert_eq!(login.handle(&request(GSSENC_CODE), &mut out), Ok((8, LoginWant::More)));
        assert_eq!(out, b"NN");
        out.clear();
        let m = startup(&[("user", "bob"), ("TimeZone", "UTC"), ("options", "-c app.tenant=7")]);
        assert_eq!(login.handle(&m, &mut out), Ok((m.len(), LoginWant::Method)));
        assert!(out.is_empty(), "3.2 needs no negotiation");
        let identity = login.identity();
        assert_eq!((identity.user.as_str(), identity.database.as_str()), ("bob", "bob"));
        assert_eq!(identity.settings.get("timezone"), Some("UTC"));
        assert_eq!(identity.settings.get("app.tenant"), Some("7"));
        login.authenticate(AuthMethod::Trust, &mut out);
        assert_eq!(login.handle(b"Qrest", &mut out), Ok((0, LoginWant::Done)));
    }

    #[test]
    fn tls_is_begun_once_where_it_is_offered() {
        let mut login = ClientLogin::offering_tls();
        let mut out = Vec::new();
        assert_eq!(login.handle(&request(GSSENC_CODE), &mut out), Ok((8, LoginWant::More)));
        assert_eq!(login.handle(&request(SSL_CODE), &mut out), Ok((8, LoginWant::Encryption)));
        assert_eq!((out.as_slice(), login.is_encrypted()), (&b"NS"[..], false));
        login.set_encrypted();
        let again = login.handle(&request(SSL_CODE), &mut out);
        assert_eq!(again, Err(StartupFault::Message(BadStartup::Version(SSL_CODE)).into()));
        assert!(login.is_encrypted());
    }

    #[test]
    fn tls_may_be_begun_without_asking_where_it_is_offered() {
        let hello = [TLS_HANDSHAKE, 3, 1, 2, 0];
        let begin = |mut login: ClientLogin| login.handle(&hello, &mut Vec::new());
        assert_eq!(begin(ClientLogin::offering_tls()), Ok((0, LoginWant::Encryption)));
        assert!(begin(ClientLogin::default()).is_err());
        let mut late = ClientLogin::offering_tls();
        assert_eq!(late.handle(&request(GSSENC_CODE), &mut Vec::new()), Ok((8, LoginWant::More)));
        assert!(begin(late).is_err(), "it is the first thing or nothing");
        let mut encrypted = ClientLogin::offering_tls();
        encrypted.set_encrypted();
        assert!(begin(encrypted).is_err());
    }

    #[test]
    fn bytes_behind_a_request_for_encryption_are_refused() {
        let mut both = request(SSL_CODE);
        both.extend(startup(&[("user", "bob")]));
        assert!(matches!(ClientLogin::default().handle(&both, &mut Vec::new()), Err(Refusal::Unencrypted)));
    }

    #[test]
    fn a_newer_version_and_unknown_options_are_negotiated() {
        type Case = (u32, &'static [(&'static str, &'static str)], Option<(u32, u32)>);
        let cases: [Case; 5] = [
            (PROTOCOL_3_0, &[], None),
            (PROTOCOL_3_2, &[], None),
            (PROTOCOL_3_2 + 1, &[], Some((PROTOCOL_3_2, 0))),
            (PROTOCOL_3_0, &[("_pq_.a", "1"), ("_pq_.b", "")], Some((PROTOCOL_3_0, 2))),
            (PROTOCOL_3_0 + 9999, &[("_pq_.a", "1")], Some((PROTOCOL_3_2, 1))),
        ];
        for (version, options, expected) in cases {
            let (mut m, mut out) = (Vec::new(), Vec::new());
            let params = [("user", "bob")].iter().chain(options).map(|(n, v)| (n.as_bytes(), v.as_bytes()));
            FrontendWriter(&mut m).startup(version, params);
            let mut login = ClientLogin::default();
            assert_eq!(login.handle(&m, &mut out), Ok((m.len(), LoginWant::Method)));
            let told = (!out.is_empty()).then(|| NegotiateVersion::read(&out[HEAD_LEN..]).unwrap());
            assert_eq!(told.map(|t| (t.version, t.unknown)), expected, "{version:x}");
            assert_eq!(login.identity().version, version.min(PROTOCOL_3_2));
        }
    }

    #[test]
    fn no_user_no_session() {
        let m = startup(&[("database", "x")]);
        assert_eq!(ClientLogin::default().handle(&m, &mut Vec::new()), Err(Refusal::NoUser));
    }

    #[test]
    fn passwords_are_checked_and_unknown_users_fail_alike() {
        for (secret, sent, good) in [
            (Some(Secret::parse("sesame")), "sesame", true),
            (Some(Secret::parse("sesame")), "other", false),
            (None, "sesame", false),
        ] {
            let mut login = ClientLogin::default();
            let mut out = Vec::new();
            login.handle(&startup(&[("user", "bob")]), &mut out).unwrap();
            login.authenticate(AuthMethod::Plain(secret), &mut out);
            let mut m = Vec::new();
            FrontendWriter(&mut m).password(sent.as_bytes());
            let result = login.handle(&m, &mut out);
            if good {
                assert_eq!(result, Ok((m.len(), LoginWant::Done)));
            } else {
                assert_eq!(result, Err(Refusal::BadPassword("bob".into())));
            }
        }
    }

    #[test]
    fn only_a_whole_password_against_a_scram_secret_takes_long() {
        let stored = Secret::Scram(Secret::parse("sesame").to_scram(b"salt", 1).unwrap());
        for (secret, long) in [(Some(stored), true), (Some(Secret::parse("sesame")), false), (None, false)] {
            let mut login = ClientLogin::default();
            let mut out = Vec::new();
            let startup = startup(&[("user", "bob")]);
            assert!(!login.takes_long(&startup));
            login.handle(&startup, &mut out).unwrap();
            login.authenticate(AuthMethod::Plain(secret.clone()), &mut out);
            let mut m = Vec::new();
            FrontendWriter(&mut m).password(b"sesame");
            assert_eq!(login.takes_long(&m), long, "{secret:?}");
            assert!(!login.takes_long(&m[..m.len() - 1]) && !login.takes_long(b"Q\0\0\0\x05\0"));
        }
    }

    #[test]
    fn nothing_but_a_password_is_read_while_one_is_due() {
        let mut login = ClientLogin::default();
        let mut out = Vec::new();
        login.handle(&startup(&[("user", "bob")]), &mut out).unwrap();
        login.authenticate(AuthMethod::Plain(None), &mut out);
        assert!(matches!(login.handle(b"Q\0\0\0\x05\0", &mut out), Err(Refusal::Violation(_))));
        assert!(matches!(login.handle(b"p\0\x02\0\0", &mut out), Err(Refusal::Violation(Violation::TooLong { .. }))));
    }

    #[test]
    fn who_was_wrong_once_is_never_let_in() {
        for method in
            [AuthMethod::Plain(Some(Secret::parse("sesame"))), AuthMethod::Md5(Some(Secret::parse("sesame")), [7; 4])]
        {
            let (mut login, mut out) = (ClientLogin::default(), Vec::new());
            login.handle(&startup(&[("user", "bob")]), &mut out).unwrap();
            login.authenticate(method, &mut out);
            let mut wrong = Vec::new();
            FrontendWriter(&mut wrong).password(b"other");
            assert!(!login.is_proving(&wrong[..wrong.len() - 1]) && login.is_proving(&wrong));
            for input in [&wrong[..], &[], &wrong, b"Q"] {
                assert!(matches!(login.handle(input, &mut out), Err(Refusal::BadPassword(_))));
            }
            assert!(!login.is_proving(&wrong));
        }
    }
}
