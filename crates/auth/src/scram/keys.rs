//! The keys of RFC 5802, section 3, and what is computed with them. It knows nothing of messages: an AuthMessage is
//! some bytes here.

use crate::saslprep;
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};
use std::fmt;
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// ClientKey and ServerKey: enough to play either role without the password, as dangerous as the password. They are
/// overwritten when they are dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct ScramKeys {
    /// HMAC(SaltedPassword, "Client Key").
    pub client_key: [u8; 32],
    /// HMAC(SaltedPassword, "Server Key").
    pub server_key: [u8; 32],
}

/// Keys together with what they were derived with: good again wherever salt and iterations are the same.
#[derive(Clone, PartialEq, Eq)]
pub struct SaltedKeys {
    /// The keys.
    pub keys: ScramKeys,
    /// The salt, decoded.
    pub salt: Vec<u8>,
    /// The number of iterations.
    pub iterations: u32,
}

impl ScramKeys {
    /// Derives the keys from a password, prepared as PostgreSQL does. The cost is linear in `iterations`: about half
    /// a millisecond for 4096. Zero iterations count as one.
    pub fn derive(password: &[u8], salt: &[u8], iterations: u32) -> ScramKeys {
        let password = saslprep::prepare(password);
        let mut salted = Zeroizing::new([0; 32]);
        pbkdf2::pbkdf2_hmac::<Sha256>(&password, salt, iterations.max(1), &mut *salted);
        ScramKeys {
            client_key: hmac(&salted, [b"Client Key".as_slice()]),
            server_key: hmac(&salted, [b"Server Key".as_slice()]),
        }
    }

    /// H(ClientKey), what a server keeps to check proofs.
    pub fn stored_key(&self) -> [u8; 32] {
        Sha256::digest(self.client_key).into()
    }

    /// ClientProof for an AuthMessage.
    pub(crate) fn proof(&self, auth_message: &[u8]) -> [u8; 32] {
        xor(&self.client_key, &hmac(&self.stored_key(), [auth_message]))
    }
}

impl Drop for ScramKeys {
    fn drop(&mut self) {
        self.client_key.zeroize();
        self.server_key.zeroize();
    }
}

impl ZeroizeOnDrop for ScramKeys {}

// By its keys; salt and iterations are no secrets.
impl ZeroizeOnDrop for SaltedKeys {}

impl fmt::Debug for ScramKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ScramKeys(..)")
    }
}

impl fmt::Debug for SaltedKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SaltedKeys(.., iterations: {})", self.iterations)
    }
}

/// The ClientKey that a proof shows its sender to have, if it hashes to `stored_key`; in constant time.
pub(crate) fn recover_client_key(stored_key: &[u8; 32], auth_message: &[u8], proof: &[u8; 32]) -> Option<[u8; 32]> {
    let client_key = xor(proof, &hmac(stored_key, [auth_message]));
    let matches: bool = Sha256::digest(client_key).ct_eq(stored_key).into();
    matches.then_some(client_key)
}

/// ServerSignature for an AuthMessage.
pub(crate) fn server_signature(server_key: &[u8; 32], auth_message: &[u8]) -> [u8; 32] {
    hmac(server_key, [auth_message])
}

/// HMAC-SHA-256 over `parts`, one after the other.
pub(crate) fn hmac<const N: usize>(key: &[u8; 32], parts: [&[u8]; N]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    parts.into_iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
}

fn xor(a: &[u8; 32], b: &[u8; 32]) -> [u8; 32] {
    std::array::from_fn(|i| a[i] ^ b[i])
}
