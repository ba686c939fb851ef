//! The client's role, towards PostgreSQL. It proves knowledge of the secret and demands the same of the server: a
//! server that sends AuthenticationOk before [`ScramClient::is_verified`] is an impostor. It does not choose the
//! mechanism.
//!
//! Source: `src/interfaces/libpq/fe-auth-scram.c`.

use super::attributes::{Attributes, check_nonce, is_printable};
use super::binding::END_POINT;
use super::error::{Fault, ScramError};
use super::keys::{SaltedKeys, ScramKeys, server_signature};
use super::nonce::Nonce;
use super::secret::parse_iterations;
use super::{ITERATIONS_MAX, SERVER_MESSAGE_MAX, check_size, decode_base64, decode_digest, encode_base64};
use std::fmt;
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// Longest `e=` value kept for the operator, in bytes.
const ERROR_VALUE_MAX: usize = 64;

/// What the client's role knows. It is overwritten when it is dropped.
#[derive(Clone, PartialEq, Eq)]
pub enum ScramCredential {
    /// The password, and keys derived from it earlier, which spare the salted hash where the server still has the same
    /// salt and iterations.
    Password {
        /// The password, in the bytes the user typed.
        password: Vec<u8>,
        /// Keys from [`ScramClient::salted_keys`] of an earlier exchange.
        known: Option<SaltedKeys>,
    },
    /// Keys without a password, used whatever salt and iterations the server names.
    Keys(ScramKeys),
}

/// What the client's role says of the channel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ChannelBinding {
    /// Not encrypted, or by a certificate that nothing is bound by: SCRAM-SHA-256.
    #[default]
    None,
    /// It could be bound, and the server does not offer to: SCRAM-SHA-256. A server that does offer it notices that somebody has
    /// taken the offer away.
    NotOffered,
    /// By [`end_point`](crate::end_point) of the server's certificate: SCRAM-SHA-256-PLUS.
    EndPoint(Vec<u8>),
}

impl ChannelBinding {
    /// The gs2-header.
    fn header(&self) -> String {
        match self {
            ChannelBinding::None => "n,,".into(),
            ChannelBinding::NotOffered => "y,,".into(),
            ChannelBinding::EndPoint(_) => format!("p={END_POINT},,"),
        }
    }

    /// The value of `c=`.
    fn repeated(&self) -> String {
        let data = if let ChannelBinding::EndPoint(data) = self { data.as_slice() } else { &[] };
        encode_base64(&[self.header().as_bytes(), data].concat())
    }
}

/// One exchange with one server.
pub struct ScramClient {
    credential: ScramCredential,
    client_nonce: Nonce,
    binding: ChannelBinding,
    state: State,
    salted_keys: Option<SaltedKeys>,
}

enum State {
    AwaitFirst,
    AwaitFinal { signature: [u8; 32] },
    Verified,
    Failed,
}

impl ScramClient {
    /// Begins an exchange.
    pub fn new(credential: ScramCredential, client_nonce: Nonce) -> ScramClient {
        ScramClient {
            credential,
            client_nonce,
            binding: ChannelBinding::default(),
            state: State::AwaitFirst,
            salted_keys: None,
        }
    }

    /// The same over a channel that this is to be said of.
    pub fn with_binding(mut self, binding: ChannelBinding) -> ScramClient {
        self.binding = binding;
        self
    }

    /// The client-first-message, the data of SASLInitialResponse. PostgreSQL takes the user from the startup message,
    /// so none is named here.
    pub fn client_first(&self) -> Vec<u8> {
        format!("{}{}", self.binding.header(), self.first_bare()).into_bytes()
    }

    /// Takes the server-first-message (the data of AuthenticationSASLContinue) and returns the client-final-message
    /// (the data of SASLResponse). After an error the exchange is over.
    ///
    /// Costs the salted hash, with as many iterations as the server asks for and at most [`ITERATIONS_MAX`], unless the
    /// keys are known.
    pub fn handle_server_first(&mut self, message: &[u8]) -> Result<Vec<u8>, ScramError> {
        let State::AwaitFirst = std::mem::replace(&mut self.state, State::Failed) else {
            return Err(ScramError::OutOfOrder);
        };
        let first = ServerFirst::parse(message)?;
        if first.nonce.strip_prefix(self.client_nonce.as_str()).is_none_or(str::is_empty) {
            return Err(ScramError::NonceMismatch);
        }
        let without_proof = format!("c={},r={}", self.binding.repeated(), first.nonce);
        let bare = self.first_bare();
        let auth_message = [bare.as_bytes(), b",", message, b",", without_proof.as_bytes()].concat();
        let keys = self.settle_keys(first)?;
        let reply = format!("{without_proof},p={}", encode_base64(&keys.proof(&auth_message)));
        self.state = State::AwaitFinal { signature: server_signature(&keys.server_key, &auth_message) };
        Ok(reply.into_bytes())
    }

    /// Takes the server-final-message (the data of AuthenticationSASLFinal) and checks that the server knows the
    /// secret too. After an error the exchange is over.
    pub fn handle_server_final(&mut self, message: &[u8]) -> Result<(), ScramError> {
        let State::AwaitFinal { signature } = std::mem::replace(&mut self.state, State::Failed) else {
            return Err(ScramError::OutOfOrder);
        };
        let matches: bool = parse_server_final(message)?.ct_eq(&signature).into();
        if !matches {
            return Err(ScramError::InvalidSignature);
        }
        self.state = State::Verified;
        Ok(())
    }

    /// Whether the server has proved that it knows the secret.
    pub fn is_verified(&self) -> bool {
        matches!(self.state, State::Verified)
    }

    /// The keys this exchange derived from the password or reused, once the server is verified: worth keeping for the
    /// next one.
    pub fn salted_keys(&self) -> Option<&SaltedKeys> {
        self.salted_keys.as_ref().filter(|_| self.is_verified())
    }

    fn first_bare(&self) -> String {
        format!("n=,r={}", self.client_nonce.as_str())
    }

    fn settle_keys(&mut self, first: ServerFirst<'_>) -> Result<ScramKeys, ScramError> {
        let (password, known) = match &self.credential {
            ScramCredential::Keys(keys) => return Ok(keys.clone()),
            ScramCredential::Password { password, known } => (password, known),
        };
        let fits = |known: &&SaltedKeys| known.salt == first.salt && known.iterations == first.iterations;
        let salted = match known.as_ref().filter(fits) {
            Some(known) => known.clone(),
            None => first.derive(password)?,
        };
        Ok(self.salted_keys.insert(salted).keys.clone())
    }
}

impl fmt::Debug for ScramClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScramClient").field("credential", &self.credential).finish_non_exhaustive()
    }
}

impl Drop for ScramCredential {
    fn drop(&mut self) {
        match self {
            ScramCredential::Password { password, .. } => password.zeroize(),
            // Do it themselves.
            ScramCredential::Keys(_) => {}
        }
    }
}

impl ZeroizeOnDrop for ScramCredential {}

impl fmt::Debug for ScramCredential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ScramCredential::Password { .. } => "Password(..)",
            ScramCredential::Keys(_) => "Keys(..)",
        })
    }
}

struct ServerFirst<'a> {
    nonce: &'a str,
    salt: Vec<u8>,
    iterations: u32,
}

impl<'a> ServerFirst<'a> {
    fn parse(message: &'a [u8]) -> Result<Self, ScramError> {
        check_size(message, SERVER_MESSAGE_MAX)?;
        let mut attributes = Attributes::new(message);
        let nonce = check_nonce(attributes.read(b'r')?)?;
        let salt = decode_base64(b's', attributes.read(b's')?)?;
        let iterations = parse_iterations(attributes.read(b'i')?)
            .ok_or(ScramError::BadValue { attribute: b'i', fault: Fault::NotANumber })?;
        attributes.skip_extensions()?;
        if salt.is_empty() {
            return Err(ScramError::BadValue { attribute: b's', fault: Fault::WrongLength });
        }
        Ok(ServerFirst { nonce, salt, iterations })
    }

    fn derive(self, password: &[u8]) -> Result<SaltedKeys, ScramError> {
        let ServerFirst { salt, iterations, .. } = self;
        if iterations > ITERATIONS_MAX {
            return Err(ScramError::TooManyIterations { iterations });
        }
        Ok(SaltedKeys { keys: ScramKeys::derive(password, &salt, iterations), salt, iterations })
    }
}

/// The server's signature, or the error it ended the exchange with.
fn parse_server_final(message: &[u8]) -> Result<[u8; 32], ScramError> {
    check_size(message, SERVER_MESSAGE_MAX)?;
    let mut attributes = Attributes::new(message);
    if message.starts_with(b"e=") {
        return Err(ScramError::ServerRefused { value: clean(attributes.read(b'e')?) });
    }
    let signature = decode_digest(b'v', attributes.read(b'v')?)?;
    attributes.skip_extensions()?;
    Ok(signature)
}

/// A peer's word made fit for a log: empty unless short and printable.
fn clean(value: &[u8]) -> String {
    let fit = value.len() <= ERROR_VALUE_MAX && value.iter().copied().all(is_printable);
    if fit { value.iter().copied().map(char::from).collect() } else { String::new() }
}
