//! The fields of ErrorResponse and NoticeResponse.

use crate::head::{Malformed, cstr};

/// Field codes, see the manual's "Error and Notice Message Fields".
pub mod field {
    /// Severity, localized.
    pub const SEVERITY: u8 = b'S';
    /// Severity, never localized (9.6 and later).
    pub const SEVERITY_PLAIN: u8 = b'V';
    /// SQLSTATE.
    pub const CODE: u8 = b'C';
    /// Primary message.
    pub const MESSAGE: u8 = b'M';
    /// Detail.
    pub const DETAIL: u8 = b'D';
    /// Hint.
    pub const HINT: u8 = b'H';
    /// Where in PostgreSQL's source it was reported: the file.
    pub const FILE: u8 = b'F';
    /// The routine.
    pub const ROUTINE: u8 = b'R';
}

/// The body of an ErrorResponse or NoticeResponse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report<'a> {
    body: &'a [u8],
}

impl<'a> Report<'a> {
    /// Takes a whole body.
    ///
    /// # Errors
    /// [`Malformed`] unless it is a list of (code, string) closed by a zero.
    pub fn read(body: &'a [u8]) -> Result<Self, Malformed> {
        let bad = Malformed { message: "ErrorResponse" };
        let mut rest = body;
        loop {
            match rest {
                [0] => return Ok(Self { body }),
                [0, ..] | [] => return Err(bad),
                [_, tail @ ..] => rest = cstr(tail).ok_or(bad)?.1,
            }
        }
    }

    /// Code and text of every field, in order.
    pub fn fields(&self) -> impl Iterator<Item = (u8, &'a [u8])> + use<'a> {
        let mut rest = self.body;
        std::iter::from_fn(move || {
            let (&code, tail) = rest.split_first()?;
            if code == 0 {
                return None;
            }
            let (text, tail) = cstr(tail)?;
            rest = tail;
            Some((code, text))
        })
    }

    /// The text of one field.
    pub fn field(&self, code: u8) -> Option<&'a [u8]> {
        self.fields().find(|&(c, _)| c == code).map(|(_, text)| text)
    }

    /// The SQLSTATE; `XX000` when the sender left it out, or empty.
    pub fn sqlstate(&self) -> &'a [u8] {
        self.field(field::CODE).filter(|code| !code.is_empty()).unwrap_or(b"XX000")
    }

    /// The primary message.
    pub fn message(&self) -> &'a [u8] {
        self.field(field::MESSAGE).unwrap_or_default()
    }

    /// Does the sender hang up after this (severity FATAL or PANIC)?
    pub fn is_fatal(&self) -> bool {
        let severity = self.field(field::SEVERITY_PLAIN).or_else(|| self.field(field::SEVERITY));
        matches!(severity, Some(b"FATAL" | b"PANIC"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_and_framing_is_checked() {
        let body = b"SFEHLER\0VFATAL\0C57P01\0Mbye\0\0";
        let report = Report::read(body).unwrap();
        assert_eq!(report.sqlstate(), b"57P01");
        assert_eq!(report.message(), b"bye");
        assert!(report.is_fatal(), "the severity that is never localized decides");
        assert_eq!(report.field(b'D'), None);
        for cut in 0..body.len() {
            assert!(Report::read(&body[..cut]).is_err(), "cut at {cut}");
        }
    }
}
