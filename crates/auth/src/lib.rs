//! Password authentication as PostgreSQL does it, for both roles: cleartext and MD5 are functions, SCRAM-SHA-256 is a
//! pair of state machines that take the bytes of one message and return the bytes of the next. Nothing here reads a
//! socket, a clock or a random source: salts and nonces come in as arguments. It does not frame messages, decide which
//! method a connection uses, look secrets up, or write logs.
//!
//! Manual: "SASL Authentication" and "Password Authentication"; PostgreSQL source: `src/backend/libpq/crypt.c`,
//! `src/backend/libpq/auth-scram.c`, `src/interfaces/libpq/fe-auth-scram.c`.
//!
//! What holds a password, or what is as good as one, is overwritten when it is dropped, and so is what is computed on the way.
//! The hash functions' own state on the stack is not.
//!
//! Cost: everything is a few microseconds except the salted hash of SCRAM ([`ScramKeys::derive`]), which is about half a
//! millisecond at PostgreSQL's default of 4096 iterations. What calls it says so, and offers a way around it.

mod md5;
mod saslprep;
mod scram;
mod secret;

pub use md5::{MD5_RESPONSE_LEN, md5_response, verify_md5};
pub use scram::binding::end_point;
pub use scram::client::{ChannelBinding, ScramClient, ScramCredential};
pub use scram::error::{Blame, Fault, ScramError};
pub use scram::keys::{SaltedKeys, ScramKeys};
pub use scram::nonce::{NONCE_ENTROPY_LEN, Nonce};
pub use scram::secret::{ScramSecret, scram_secret};
pub use scram::server::ScramServer;
pub use scram::{
    CLIENT_MESSAGE_MAX, ITERATIONS_DEFAULT, ITERATIONS_MAX, MECHANISM, MECHANISM_PLUS, MOCK_SALT_LEN,
    SERVER_MESSAGE_MAX,
};
pub use secret::{Secret, verify_plain};
