//! The `name=value,name=value` grammar shared by all SCRAM messages, read in place. It knows neither which attributes a
//! message has nor what their values mean.
//!
//! Source: `src/backend/libpq/auth-scram.c` (read_attr_value, read_any_attr).

use super::error::{Fault, ScramError};

/// Reads a message from front to back.
pub(crate) struct Attributes<'a> {
    rest: &'a [u8],
}

impl<'a> Attributes<'a> {
    pub(crate) fn new(message: &'a [u8]) -> Self {
        Attributes { rest: message }
    }

    /// What has not been read yet.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Reads the value of the attribute that must come next.
    pub(crate) fn read(&mut self, expected: u8) -> Result<&'a [u8], ScramError> {
        match self.rest.first() {
            Some(&found) if found == expected => self.read_value(expected),
            Some(b'm') => Err(ScramError::MandatoryExtension),
            found => Err(ScramError::UnexpectedAttribute { expected, found: found.copied() }),
        }
    }

    /// Reads the next attribute, whichever it is, while looking for `sought`.
    pub(crate) fn read_any(&mut self, sought: u8) -> Result<(u8, &'a [u8]), ScramError> {
        match self.rest.first() {
            Some(&name) if name.is_ascii_alphabetic() => Ok((name, self.read_value(name)?)),
            found => Err(ScramError::UnexpectedAttribute { expected: sought, found: found.copied() }),
        }
    }

    /// Reads optional extensions to the end of the message, which are for nobody here.
    pub(crate) fn skip_extensions(&mut self) -> Result<(), ScramError> {
        while !self.rest.is_empty() {
            self.read_any(b'x')?;
        }
        Ok(())
    }

    fn read_value(&mut self, attribute: u8) -> Result<&'a [u8], ScramError> {
        let value = self.rest[1..].strip_prefix(b"=").ok_or(ScramError::MissingEquals { attribute })?;
        let end = value.iter().position(|&byte| byte == b',').unwrap_or(value.len());
        self.rest = value.get(end + 1..).unwrap_or_default();
        Ok(&value[..end])
    }
}

/// Checks that a nonce is not empty and all of it is printable ASCII (RFC 5802, section 7: `printable`).
pub(crate) fn check_nonce(nonce: &[u8]) -> Result<&str, ScramError> {
    let bad = |fault| ScramError::BadValue { attribute: b'r', fault };
    match nonce {
        [] => Err(bad(Fault::WrongLength)),
        _ if !nonce.iter().all(|&byte| is_printable(byte)) => Err(bad(Fault::NotPrintable)),
        _ => std::str::from_utf8(nonce).map_err(|_| bad(Fault::NotPrintable)),
    }
}

/// Whether a byte may stand in a nonce: printable ASCII except the comma.
pub(crate) fn is_printable(byte: u8) -> bool {
    byte.is_ascii_graphic() && byte != b','
}
