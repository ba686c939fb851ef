//! A SCRAM secret as PostgreSQL stores it in `pg_authid.rolpassword`: read, made and written. It does not run
//! exchanges.
//!
//! Source: `src/backend/libpq/auth-scram.c` (parse_scram_secret), `src/common/scram-common.c` (scram_build_secret).

use super::keys::ScramKeys;
use super::{ITERATIONS_MAX, MECHANISM, decode_base64, decode_digest, encode_base64};
use std::fmt;
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// What a server needs to authenticate a user with SCRAM, and cannot log in with itself. It is overwritten when it is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct ScramSecret {
    pub(crate) iterations: u32,
    pub(crate) salt: Vec<u8>,
    pub(crate) stored_key: [u8; 32],
    pub(crate) server_key: [u8; 32],
}

impl ScramSecret {
    /// Reads PostgreSQL's stored form; `None` if the text is anything else.
    pub fn parse(text: &str) -> Option<ScramSecret> {
        let rest = text.strip_prefix(MECHANISM)?.strip_prefix('$')?;
        let (parameters, keys) = rest.split_once('$')?;
        let (iterations, salt) = parameters.split_once(':')?;
        let (stored_key, server_key) = keys.split_once(':')?;
        let salt = decode_base64(b's', salt.as_bytes()).ok().filter(|salt| !salt.is_empty())?;
        Some(ScramSecret {
            iterations: parse_iterations(iterations.as_bytes())?,
            salt,
            stored_key: decode_digest(b'p', stored_key.as_bytes()).ok()?,
            server_key: decode_digest(b'v', server_key.as_bytes()).ok()?,
        })
    }

    /// Makes a secret from a password. Costs the salted hash, see [`ScramKeys::derive`].
    pub fn derive(password: &[u8], salt: &[u8], iterations: u32) -> ScramSecret {
        let keys = ScramKeys::derive(password, salt, iterations);
        let stored_key = keys.stored_key();
        ScramSecret { iterations: iterations.max(1), salt: salt.to_vec(), stored_key, server_key: keys.server_key }
    }

    /// The number of iterations, at least 1.
    pub fn iterations(&self) -> u32 {
        self.iterations
    }

    /// The salt, decoded.
    pub fn salt(&self) -> &[u8] {
        &self.salt
    }

    /// PostgreSQL's stored form. It is a secret: not for logs.
    pub fn to_stored(&self) -> String {
        let [salt, stored, server] = [self.salt.as_slice(), &self.stored_key, &self.server_key].map(encode_base64);
        format!("{MECHANISM}${}:{salt}${stored}:{server}", self.iterations)
    }

    /// The keys of who knows the password, if this is it: they open a server that has the same secret. In constant time after the
    /// salted hash. An empty password is never right, and none is with more than [`ITERATIONS_MAX`].
    pub fn keys_of(&self, password: &[u8]) -> Option<ScramKeys> {
        // Users choose the number for themselves, and everybody would wait.
        if self.iterations > ITERATIONS_MAX {
            return None;
        }
        let keys = ScramKeys::derive(password, &self.salt, self.iterations);
        let matches: bool = keys.server_key.ct_eq(&self.server_key).into();
        (matches && !password.is_empty()).then_some(keys)
    }
}

impl Drop for ScramSecret {
    fn drop(&mut self) {
        self.salt.zeroize();
        self.stored_key.zeroize();
        self.server_key.zeroize();
    }
}

impl ZeroizeOnDrop for ScramSecret {}

impl fmt::Debug for ScramSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Scram(.., iterations: {})", self.iterations)
    }
}

/// Builds the form PostgreSQL stores: `SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey`. The salt should be 16 random
/// bytes. Costs the salted hash, see [`ScramKeys::derive`].
pub fn scram_secret(password: &[u8], salt: &[u8], iterations: u32) -> String {
    ScramSecret::derive(password, salt, iterations).to_stored()
}

/// A positive decimal number that fits PostgreSQL's `int`.
pub(crate) fn parse_iterations(digits: &[u8]) -> Option<u32> {
    let all_digits = digits.iter().all(u8::is_ascii_digit);
    let number: i32 = std::str::from_utf8(digits).ok().filter(|_| all_digits)?.parse().ok()?;
    u32::try_from(number).ok().filter(|&number| number > 0)
}
