//! What is stored for a user, in any of PostgreSQL's three forms, and the check of a cleartext password against it. It
//! does not look secrets up, and its `Debug` never shows one.
//!
//! Source: `src/backend/libpq/crypt.c` (get_password_type, plain_crypt_verify).

use crate::md5;
use crate::scram::secret::ScramSecret;
use sha2::{Digest, Sha256};
use std::fmt;
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// The stored secret of a user. It is overwritten when it is dropped.
#[derive(Clone, PartialEq, Eq)]
pub enum Secret {
    /// The password itself. An empty one stands for no password: it admits nobody.
    Plain(String),
    /// The 32 hexadecimal digits that follow `md5` in the stored form.
    Md5([u8; 32]),
    /// Salt, iterations, StoredKey and ServerKey.
    Scram(ScramSecret),
}

impl Secret {
    /// Classifies a stored password by PostgreSQL's rules: `md5` and 32 lower-case hexadecimal digits, a well-formed
    /// `SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey`, and anything else is the password itself.
    pub fn parse(text: &str) -> Secret {
        if let Some(digits) = parse_md5(text) {
            return Secret::Md5(digits);
        }
        ScramSecret::parse(text).map_or_else(|| Secret::Plain(text.to_owned()), Secret::Scram)
    }

    /// The SCRAM secret with which to run a server-role exchange: the stored one, or one made from a plaintext
    /// password with `salt` and `iterations`. `None` for an MD5 secret or an empty password: run the mock exchange.
    ///
    /// Making one costs the salted hash (see [`crate::ScramKeys::derive`]): make it once per user, not once per login.
    pub fn to_scram(&self, salt: &[u8], iterations: u32) -> Option<ScramSecret> {
        match self {
            Secret::Scram(secret) => Some(secret.clone()),
            Secret::Plain(password) if !password.is_empty() => {
                Some(ScramSecret::derive(password.as_bytes(), salt, iterations))
            }
            Secret::Plain(_) | Secret::Md5(_) => None,
        }
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        match self {
            Secret::Plain(password) => password.zeroize(),
            Secret::Md5(digits) => digits.zeroize(),
            // Does it itself.
            Secret::Scram(_) => {}
        }
    }
}

impl ZeroizeOnDrop for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Secret::Plain(_) => f.write_str("Plain(..)"),
            Secret::Md5(_) => f.write_str("Md5(..)"),
            Secret::Scram(secret) => secret.fmt(f),
        }
    }
}

/// Whether `password`, sent in clear by `user`, is the one the secret was made from. Takes the same time wherever it
/// differs. An empty password is never right (`src/backend/libpq/auth.c`, recv_password_packet).
///
/// Against a SCRAM secret this costs the salted hash, with the secret's own number of iterations.
pub fn verify_plain(secret: &Secret, user: &[u8], password: &[u8]) -> bool {
    if password.is_empty() {
        return false;
    }
    match secret {
        // Hashes are compared so that the time does not depend on how long the common prefix is.
        Secret::Plain(stored) => hash(stored.as_bytes()).ct_eq(&*hash(password)).into(),
        Secret::Md5(digits) => digits.ct_eq(&*md5::digest(password, user)).into(),
        Secret::Scram(stored) => stored.keys_of(password).is_some(),
    }
}

fn hash(password: &[u8]) -> Zeroizing<[u8; 32]> {
    Zeroizing::new(Sha256::digest(password).into())
}

fn parse_md5(text: &str) -> Option<[u8; 32]> {
    let digits: [u8; 32] = text.strip_prefix("md5")?.as_bytes().try_into().ok()?;
    digits.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')).then_some(digits)
}
