//! A secret that does not print itself. It keeps passwords out of logs, panics and the console; it is not encryption,
//! and it does not interpret the text (plain, `md5…` or `SCRAM-SHA-256$…`: `pgsluice-auth` does).

use std::fmt;

use subtle::ConstantTimeEq;
use zeroize::{ZeroizeOnDrop, Zeroizing};

/// A password or stored secret: plain text, `md5` + 32 hex digits, or `SCRAM-SHA-256$…`, as in `pg_authid.rolpassword`.
/// `Debug` and `Display` print eight asterisks whatever the text. It is overwritten when it is dropped, and comparing takes the
/// same time wherever two texts of one length differ.
#[derive(Clone, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Wraps a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// The text itself. The name is meant to stand out in review.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether the text is an MD5 hash by PostgreSQL's rule (`get_password_type` in `src/backend/libpq/crypt.c`).
    pub fn is_md5(&self) -> bool {
        let digits = self.0.strip_prefix("md5").unwrap_or_default();
        digits.len() == 32 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    }

    /// Whether the text is meant to be a SCRAM secret, by its beginning: clients are checked against it, but it opens no
    /// server.
    pub(crate) fn is_scram(&self) -> bool {
        self.0.starts_with("SCRAM-SHA-256$")
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_bytes().ct_eq(other.0.as_bytes()).into()
    }
}

impl ZeroizeOnDrop for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("********")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("********")
    }
}
