//! SCRAM-SHA-256 (RFC 5802, RFC 7677) as PostgreSQL speaks it: the user name in the exchange is empty or ignored, there
//! is no authorization identity, optional extensions are skipped and mandatory ones refused. Over TLS both roles bind the channel
//! by `tls-server-end-point` where the other side can, and neither lets itself be talked out of it.

pub(crate) mod attributes;
pub(crate) mod binding;
pub(crate) mod client;
pub(crate) mod error;
pub(crate) mod keys;
pub(crate) mod nonce;
pub(crate) mod secret;
pub(crate) mod server;

use error::{Fault, ScramError};

/// The mechanism's name in AuthenticationSASL and SASLInitialResponse.
pub const MECHANISM: &str = "SCRAM-SHA-256";

/// The same with channel binding; offered over TLS only.
pub const MECHANISM_PLUS: &str = "SCRAM-SHA-256-PLUS";

/// Iterations PostgreSQL uses unless `scram_iterations` says otherwise (`src/include/common/scram-common.h`).
pub const ITERATIONS_DEFAULT: u32 = 4096;

/// Most iterations we compute for a server that asks, about an eighth of a second of CPU: the number is the peer's
/// choice and the work is ours.
pub const ITERATIONS_MAX: u32 = 1_000_000;

/// Longest SCRAM message accepted from a client, in bytes (`src/include/libpq/sasl.h`, PG_MAX_SASL_MESSAGE_LENGTH).
pub const CLIENT_MESSAGE_MAX: usize = 1024;

/// Longest SCRAM message accepted from a server, in bytes: many times what PostgreSQL sends.
pub const SERVER_MESSAGE_MAX: usize = 2000;

/// Length in bytes of the salt shown for an unknown user, that of a secret PostgreSQL makes (SCRAM_DEFAULT_SALT_LEN).
pub const MOCK_SALT_LEN: usize = 16;

/// Checks what PostgreSQL checks before it looks into a message.
fn check_size(message: &[u8], max: usize) -> Result<(), ScramError> {
    match message.len() {
        0 => Err(ScramError::Empty),
        len if len > max => Err(ScramError::TooLong { len, max }),
        _ if message.contains(&0) => Err(ScramError::EmbeddedNul),
        _ => Ok(()),
    }
}

/// Decodes padded, canonical base64, the value of `attribute`. Strictness is deliberate: one proof has one spelling.
fn decode_base64(attribute: u8, value: &[u8]) -> Result<Vec<u8>, ScramError> {
    use base64::{Engine, engine::general_purpose::STANDARD};
    STANDARD.decode(value).map_err(|_| ScramError::BadValue { attribute, fault: Fault::NotBase64 })
}

fn encode_base64(bytes: &[u8]) -> String {
    use base64::{Engine, engine::general_purpose::STANDARD};
    STANDARD.encode(bytes)
}

/// Decodes a base64 value that must hold one SHA-256 output.
fn decode_digest(attribute: u8, value: &[u8]) -> Result<[u8; 32], ScramError> {
    let bytes = decode_base64(attribute, value)?;
    bytes.try_into().map_err(|_| ScramError::BadValue { attribute, fault: Fault::WrongLength })
}
