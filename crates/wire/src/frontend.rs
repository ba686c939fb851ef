//! Views of the frontend messages whose names pgsluice has to read or rewrite. Bodies may be incomplete: a view asks
//! only for the bytes it shows.

use crate::head::{Malformed, cstr, u32_be};

/// A Parse message, whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parse<'a> {
    /// Name of the statement, empty for the unnamed one.
    pub name: &'a [u8],
    /// What the statement is: text, its zero, the number of parameter types and their oids. Identity of a statement.
    pub content: &'a [u8],
}

impl<'a> Parse<'a> {
    /// Reads a whole body.
    ///
    /// # Errors
    /// [`Malformed`] when a string has no end or the list of types is not as long as it says.
    pub fn read(body: &'a [u8]) -> Result<Self, Malformed> {
        let bad = Malformed { message: "Parse" };
        let (name, content) = cstr(body).ok_or(bad)?;
        let (_text, types) = cstr(content).ok_or(bad)?;
        let (&[a, b], oids) = types.split_first_chunk::<2>().ok_or(bad)?;
        if oids.len() != usize::from(u16::from_be_bytes([a, b])) * 4 {
            return Err(bad);
        }
        Ok(Self { name, content })
    }
}

/// The two names at the front of a Bind message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bind<'a> {
    /// Name of the portal it makes.
    pub portal: &'a [u8],
    /// Name of the statement it takes.
    pub statement: &'a [u8],
}

impl<'a> Bind<'a> {
    /// Reads the names from what has come of a body; `None` while they are not whole.
    pub fn read(body: &'a [u8]) -> Option<Self> {
        let (portal, rest) = cstr(body)?;
        let (statement, _) = cstr(rest)?;
        Some(Self { portal, statement })
    }

    /// Bytes that the two names take in the body, their zeros included.
    pub fn names_len(&self) -> usize {
        self.portal.len() + self.statement.len() + 2
    }
}

/// What a Describe or Close names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target<'a> {
    /// A prepared statement.
    Statement(&'a [u8]),
    /// A portal.
    Portal(&'a [u8]),
}

impl<'a> Target<'a> {
    /// Reads a whole body of Describe or Close.
    ///
    /// # Errors
    /// [`Malformed`] when the kind is neither 'S' nor 'P', or the name is not the rest of the body.
    pub fn read(body: &'a [u8], message: &'static str) -> Result<Self, Malformed> {
        let bad = Malformed { message };
        let (&kind, rest) = body.split_first().ok_or(bad)?;
        let (name, rest) = cstr(rest).ok_or(bad)?;
        match kind {
            _ if !rest.is_empty() => Err(bad),
            b'S' => Ok(Self::Statement(name)),
            b'P' => Ok(Self::Portal(name)),
            _ => Err(bad),
        }
    }
}

/// A SASLInitialResponse message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SaslInitial<'a> {
    /// The mechanism the client chose.
    pub mechanism: &'a [u8],
    /// The mechanism's first message.
    pub response: &'a [u8],
}

impl<'a> SaslInitial<'a> {
    /// Reads a whole body.
    ///
    /// # Errors
    /// [`Malformed`] when the name has no end, or the response is not as long as it says (−1, none, included).
    pub fn read(body: &'a [u8]) -> Result<Self, Malformed> {
        let bad = Malformed { message: "SASLInitialResponse" };
        let (mechanism, rest) = cstr(body).ok_or(bad)?;
        let (len, response) = u32_be(rest).ok_or(bad)?;
        if response.len() != len as usize {
            return Err(bad);
        }
        Ok(Self { mechanism, response })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_wants_its_list_of_types_whole() {
        let ok = b"s1\0select $1\0\0\x01\0\0\0\x17";
        assert_eq!(Parse::read(ok).unwrap().name, b"s1");
        assert_eq!(Parse::read(ok).unwrap().content, b"select $1\0\0\x01\0\0\0\x17");
        for cut in 0..ok.len() {
            assert_eq!(Parse::read(&ok[..cut]), Err(Malformed { message: "Parse" }), "cut at {cut}");
        }
    }

    #[test]
    fn bind_is_read_as_soon_as_its_names_are_there() {
        assert_eq!(Bind::read(b"p\0stm"), None);
        let b = Bind::read(b"p\0stm\0\0\0").unwrap();
        assert_eq!((b.portal, b.statement, b.names_len()), (&b"p"[..], &b"stm"[..], 6));
    }

    #[test]
    fn targets() {
        assert_eq!(Target::read(b"Sx\0", "Close"), Ok(Target::Statement(b"x")));
        assert_eq!(Target::read(b"P\0", "Close"), Ok(Target::Portal(b"")));
        for bad in [&b""[..], b"S", b"Sx", b"Xx\0", b"Sx\0y"] {
            assert!(Target::read(bad, "Close").is_err(), "{bad:?}");
        }
    }
}
