//! The server's role, towards our clients. It ends with the client's keys or an error; it does not say which user, and
//! a user who does not exist goes through the same motions to the same failure.
//!
//! Source: `src/backend/libpq/auth-scram.c`.

use super::attributes::{Attributes, check_nonce};
use super::binding::END_POINT;
use super::error::ScramError;
use super::keys::{ScramKeys, hmac, recover_client_key, server_signature};
use super::nonce::Nonce;
use super::secret::ScramSecret;
use super::{CLIENT_MESSAGE_MAX, MECHANISM, MECHANISM_PLUS, MOCK_SALT_LEN, check_size, decode_digest, encode_base64};

/// One exchange with one client.
#[derive(Debug)]
pub struct ScramServer {
    secret: ScramSecret,
    /// Whether the secret is a mock one, so that no proof may pass.
    doomed: bool,
    server_nonce: Nonce,
    /// What a channel is bound by, over TLS.
    end_point: Option<Vec<u8>>,
    /// The client chose the mechanism with channel binding.
    plus: bool,
    state: State,
}

#[derive(Debug)]
enum State {
    AwaitFirst,
    AwaitFinal(Challenge),
    Accepted(ScramKeys),
    Failed,
}

/// What the client-final-message is checked against.
#[derive(Debug)]
struct Challenge {
    /// The value `c=` must have.
    binding: String,
    /// Both sides' nonces.
    nonce: String,
    /// The AuthMessage so far: client-first-message-bare, comma, server-first-message, comma.
    auth_message: Vec<u8>,
}

impl ScramServer {
    /// Begins an exchange with a user whose secret is known.
    pub fn new(secret: ScramSecret, server_nonce: Nonce) -> ScramServer {
        ScramServer { secret, doomed: false, server_nonce, end_point: None, plus: false, state: State::AwaitFirst }
    }

    /// Begins an exchange that will fail with [`ScramError::InvalidProof`], for a user without a usable secret. The
    /// salt shown is the same for a user as long as `mock_key`, a random key of this process, is; `iterations` should
    /// be what real users have.
    pub fn mock(mock_key: &[u8; 32], user: &[u8], iterations: u32, server_nonce: Nonce) -> ScramServer {
        let secret = ScramSecret {
            iterations: iterations.max(1),
            salt: hmac(mock_key, [b"salt".as_slice(), user])[..MOCK_SALT_LEN].to_vec(),
            stored_key: hmac(mock_key, [b"stored".as_slice(), user]),
            server_key: hmac(mock_key, [b"server".as_slice(), user]),
        };
        ScramServer { secret, doomed: true, server_nonce, end_point: None, plus: false, state: State::AwaitFirst }
    }

    /// The connection is encrypted, and [`end_point`](crate::end_point) of our certificate is this: channel binding is offered.
    pub fn with_end_point(mut self, data: Option<Vec<u8>>) -> ScramServer {
        self.end_point = data;
        self
    }

    /// Mechanisms to offer, the better one first.
    pub fn mechanisms(&self) -> &'static [&'static str] {
        if self.end_point.is_some() { &[MECHANISM_PLUS, MECHANISM] } else { &[MECHANISM] }
    }

    /// The client chose a mechanism. Was it offered?
    pub fn choose(&mut self, mechanism: &[u8]) -> bool {
        self.plus = mechanism == MECHANISM_PLUS.as_bytes();
        self.mechanisms().iter().any(|offered| offered.as_bytes() == mechanism)
    }

    /// Takes the client-first-message (the data of SASLInitialResponse) and returns the server-first-message (the data
    /// of AuthenticationSASLContinue). After an error the exchange is over.
    pub fn handle_client_first(&mut self, message: &[u8]) -> Result<Vec<u8>, ScramError> {
        let State::AwaitFirst = std::mem::replace(&mut self.state, State::Failed) else {
            return Err(ScramError::OutOfOrder);
        };
        let first = ClientFirst::parse(message)?;
        let binding = self.binding(first.flag)?;
        let nonce = format!("{}{}", first.nonce, self.server_nonce.as_str());
        let reply = format!("r={nonce},s={},i={}", encode_base64(&self.secret.salt), self.secret.iterations);
        let auth_message = [first.bare, b",", reply.as_bytes(), b","].concat();
        self.state = State::AwaitFinal(Challenge { binding, nonce, auth_message });
        Ok(reply.into_bytes())
    }

    /// The value that `c=` must have. As PostgreSQL, we do not let a client be talked out of what both can do.
    fn binding(&self, flag: Flag) -> Result<String, ScramError> {
        match (flag, self.plus, &self.end_point) {
            (Flag::Bound, true, Some(data)) => {
                let header = format!("p={END_POINT},,");
                Ok(encode_base64(&[header.as_bytes(), data].concat()))
            }
            (Flag::Bound, ..) => Err(ScramError::BindingUnsupported),
            (_, true, _) => Err(ScramError::BindingMissing),
            (Flag::NotOffered, false, Some(_)) => Err(ScramError::BindingDowngraded),
            (Flag::NotOffered, false, None) => Ok("eSws".into()),
            (Flag::Unable, false, _) => Ok("biws".into()),
        }
    }

    /// Takes the client-final-message (the data of SASLResponse) and returns the server-final-message (the data of
    /// AuthenticationSASLFinal): the client is authenticated. After an error the exchange is over; PostgreSQL then
    /// sends an ErrorResponse and no server-final-message.
    pub fn handle_client_final(&mut self, message: &[u8]) -> Result<Vec<u8>, ScramError> {
        let State::AwaitFinal(challenge) = std::mem::replace(&mut self.state, State::Failed) else {
            return Err(ScramError::OutOfOrder);
        };
        let last = ClientFinal::parse(message)?;
        let auth_message = challenge.complete(&last)?;
        // The proof is computed for a mock secret too: the time must not tell.
        let client_key = recover_client_key(&self.secret.stored_key, &auth_message, &last.proof);
        let client_key = client_key.filter(|_| !self.doomed).ok_or(ScramError::InvalidProof)?;
        let signature = server_signature(&self.secret.server_key, &auth_message);
        self.state = State::Accepted(ScramKeys { client_key, server_key: self.secret.server_key });
        Ok(format!("v={}", encode_base64(&signature)).into_bytes())
    }

    /// The keys of an authenticated client, `None` before that. They open a server whose secret has the same salt and
    /// iterations.
    pub fn keys(&self) -> Option<&ScramKeys> {
        match &self.state {
            State::Accepted(keys) => Some(keys),
            State::AwaitFirst | State::AwaitFinal(_) | State::Failed => None,
        }
    }
}

impl Challenge {
    /// Checks what the client repeats, and appends its last part to the AuthMessage.
    fn complete(mut self, last: &ClientFinal<'_>) -> Result<Vec<u8>, ScramError> {
        if last.binding != self.binding.as_bytes() {
            return Err(ScramError::BindingMismatch);
        }
        if last.nonce != self.nonce.as_bytes() {
            return Err(ScramError::NonceMismatch);
        }
        self.auth_message.extend_from_slice(last.without_proof);
        Ok(self.auth_message)
    }
}

/// What a client says of channel binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flag {
    /// `n`: it cannot.
    Unable,
    /// `y`: it could, but the mechanism was not offered.
    NotOffered,
    /// `p=tls-server-end-point`.
    Bound,
}

struct ClientFirst<'a> {
    flag: Flag,
    bare: &'a [u8],
    nonce: &'a str,
}

impl<'a> ClientFirst<'a> {
    fn parse(message: &'a [u8]) -> Result<Self, ScramError> {
        check_size(message, CLIENT_MESSAGE_MAX)?;
        let (flag, bare) = parse_header(message)?;
        let mut attributes = Attributes::new(bare);
        // The user is the startup message's; libpq sends an empty name here, others send anything.
        attributes.read(b'n')?;
        let nonce = check_nonce(attributes.read(b'r')?)?;
        attributes.skip_extensions()?;
        Ok(ClientFirst { flag, bare, nonce })
    }
}

/// Splits the gs2-header off: `n,,`, `y,,` or `p=tls-server-end-point,,`.
fn parse_header(message: &[u8]) -> Result<(Flag, &[u8]), ScramError> {
    let (flag, rest) = match message {
        [b'n', rest @ ..] => (Flag::Unable, rest),
        [b'y', rest @ ..] => (Flag::NotOffered, rest),
        [b'p', b'=', rest @ ..] => match rest.strip_prefix(END_POINT.as_bytes()) {
            Some(rest) => (Flag::Bound, rest),
            None => return Err(ScramError::BindingUnsupported),
        },
        [b'p', ..] => return Err(ScramError::BindingUnsupported),
        _ => return Err(ScramError::BadBindingFlag { found: message.first().copied() }),
    };
    let [b',', rest @ ..] = rest else {
        return Err(ScramError::BadBindingFlag { found: rest.first().copied() });
    };
    match rest {
        [b',', bare @ ..] => Ok((flag, bare)),
        [b'a', ..] => Err(ScramError::AuthorizationIdentity),
        _ => Err(ScramError::UnexpectedAttribute { expected: b',', found: rest.first().copied() }),
    }
}

struct ClientFinal<'a> {
    binding: &'a [u8],
    nonce: &'a [u8],
    without_proof: &'a [u8],
    proof: [u8; 32],
}

impl<'a> ClientFinal<'a> {
    fn parse(message: &'a [u8]) -> Result<Self, ScramError> {
        check_size(message, CLIENT_MESSAGE_MAX)?;
        let mut attributes = Attributes::new(message);
        let binding = attributes.read(b'c')?;
        let nonce = attributes.read(b'r')?;
        let (without_proof, proof) = read_proof(message, &mut attributes)?;
        if !attributes.rest().is_empty() {
            return Err(ScramError::TrailingBytes);
        }
        Ok(ClientFinal { binding, nonce, without_proof, proof: decode_digest(b'p', proof)? })
    }
}

/// Skips extensions up to `p=`; returns what stands before its comma, and its value.
fn read_proof<'a>(message: &'a [u8], attributes: &mut Attributes<'a>) -> Result<(&'a [u8], &'a [u8]), ScramError> {
    loop {
        let start = message.len() - attributes.rest().len();
        let (name, value) = attributes.read_any(b'p')?;
        if name == b'p' {
            return Ok((&message[..start - 1], value));
        }
    }
}
