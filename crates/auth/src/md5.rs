//! MD5 authentication: the answer to a challenge, and its check. It is not a recommendation: the stored hash is enough
//! to log in, so a leaked one is as good as the password.
//!
//! Source: `src/common/md5_common.c` (pg_md5_encrypt), `src/backend/libpq/crypt.c` (md5_crypt_verify).

use crate::Secret;
use md5::{Digest, Md5};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// Length in bytes of an MD5 response: `md5` and 32 hexadecimal digits, without the terminating NUL of the message.
pub const MD5_RESPONSE_LEN: usize = 35;

/// What a client answers to AuthenticationMD5Password with `salt`. `None` if the secret is a SCRAM secret, from which
/// no such answer can be made, or an empty password, which PostgreSQL refuses anyway.
pub fn md5_response(user: &[u8], secret: &Secret, salt: [u8; 4]) -> Option<[u8; MD5_RESPONSE_LEN]> {
    let inner = match secret {
        Secret::Md5(digits) => Zeroizing::new(*digits),
        Secret::Plain(password) if !password.is_empty() => digest(password.as_bytes(), user),
        Secret::Plain(_) | Secret::Scram(_) => return None,
    };
    let mut response = [0; MD5_RESPONSE_LEN];
    let (prefix, digits) = response.split_at_mut(3);
    prefix.copy_from_slice(b"md5");
    digits.copy_from_slice(&*digest(&*inner, &salt));
    Some(response)
}

/// Whether `response`, the payload of a PasswordMessage without its NUL, answers the challenge `salt`. Takes the same
/// time wherever the response differs. Always false for a SCRAM secret.
pub fn verify_md5(secret: &Secret, user: &[u8], salt: [u8; 4], response: &[u8]) -> bool {
    md5_response(user, secret, salt).is_some_and(|expected| expected.ct_eq(response).into())
}

/// Lower-case hexadecimal MD5 of `text` followed by `salt`; of a password and its user it is as good as the password.
pub(crate) fn digest(text: &[u8], salt: &[u8]) -> Zeroizing<[u8; 32]> {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let hash = Md5::new().chain_update(text).chain_update(salt).finalize();
    let mut hex = Zeroizing::new([0; 32]);
    for (pair, byte) in hex.chunks_exact_mut(2).zip(hash) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
    hex
}
