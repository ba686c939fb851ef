//! The nonce of one side of an exchange. It is made from bytes the caller drew; nothing here is random.

use super::attributes::check_nonce;
use super::encode_base64;

/// Random bytes in a nonce that PostgreSQL makes (`src/include/common/scram-common.h`, SCRAM_RAW_NONCE_LEN).
pub const NONCE_ENTROPY_LEN: usize = 18;

/// One side's part of the nonce: printable ASCII without comma, never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nonce(String);

impl Nonce {
    /// Makes a nonce of 24 characters from bytes of a cryptographic random source, new ones for every exchange.
    pub fn from_entropy(entropy: [u8; NONCE_ENTROPY_LEN]) -> Nonce {
        Nonce(encode_base64(&entropy))
    }

    /// Takes a nonce as it is; `None` if it is empty or not printable ASCII without comma.
    pub fn from_printable(text: &str) -> Option<Nonce> {
        check_nonce(text.as_bytes()).ok().map(|nonce| Nonce(nonce.to_owned()))
    }

    /// The nonce as it stands in a message.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
