//! The five bytes in front of every message but the first, and the primitive readers that views share.

use std::fmt;

/// Bytes of a message head: the type byte and the length.
pub const HEAD_LEN: usize = 5;

/// Largest value of a length field that is believed, in bytes: PostgreSQL's own limit for a message
/// (`PQ_LARGE_MESSAGE_LIMIT` in `src/include/libpq/libpq.h` is `MaxAllocSize`, 1 GiB − 1; with room for its framing).
pub const MESSAGE_LEN_MAX: u32 = 0x4000_0000 + 1024;

/// Type and length of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The type byte, see [`crate::tag`].
    pub tag: u8,
    /// Bytes of the body that follows the head.
    pub body_len: u32,
}

impl Head {
    /// Reads the head at the front of `bytes`; `None` while fewer than [`HEAD_LEN`] bytes are there.
    ///
    /// # Errors
    /// [`BadLength`] when the length field is under 4 or over [`MESSAGE_LEN_MAX`]. Nothing is ever allocated for it.
    #[inline]
    pub fn read(bytes: &[u8]) -> Result<Option<Self>, BadLength> {
        let Some(&[tag, a, b, c, d]) = bytes.first_chunk::<HEAD_LEN>() else { return Ok(None) };
        let len = u32::from_be_bytes([a, b, c, d]);
        if !(4..=MESSAGE_LEN_MAX).contains(&len) {
            return Err(BadLength { tag, len });
        }
        Ok(Some(Self { tag, body_len: len - 4 }))
    }

    /// Bytes of the whole message, head included.
    #[inline]
    pub fn total(self) -> usize {
        HEAD_LEN + self.body_len as usize
    }
}

/// A length field that no PostgreSQL message can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadLength {
    /// Type byte of the message.
    pub tag: u8,
    /// The length field as it came.
    pub len: u32,
}

impl fmt::Display for BadLength {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "invalid message length {} in message type \"{}\"", self.len, self.tag.escape_ascii())
    }
}

impl std::error::Error for BadLength {}

/// A body that does not follow its message's format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// The message's name in the manual.
    pub message: &'static str,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "malformed {} message", self.message)
    }
}

impl std::error::Error for Malformed {}

/// Splits a zero-terminated string off the front: (string without its zero, rest).
pub(crate) fn cstr(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|&b| b == 0)?;
    Some((&bytes[..end], &bytes[end + 1..]))
}

/// Splits a big-endian `u32` off the front.
pub(crate) fn u32_be(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (head, rest) = bytes.split_first_chunk::<4>()?;
    Some((u32::from_be_bytes(*head), rest))
}

/// Splits a big-endian `u16` off the front.
pub(crate) fn u16_be(bytes: &[u8]) -> Option<(u16, &[u8])> {
    let (head, rest) = bytes.split_first_chunk::<2>()?;
    Some((u16::from_be_bytes(*head), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_read_and_bad_lengths_refused() {
        assert_eq!(Head::read(b"Q\0\0\0"), Ok(None));
        assert_eq!(Head::read(b"S\0\0\0\x04rest"), Ok(Some(Head { tag: b'S', body_len: 0 })));
        assert_eq!(Head::read(b"S\0\0\0\x04").unwrap().unwrap().total(), 5);
        for len in [0u32, 3, MESSAGE_LEN_MAX + 1, u32::MAX, 0x8000_0000] {
            let mut m = vec![b'Q'];
            m.extend(len.to_be_bytes());
            assert_eq!(Head::read(&m), Err(BadLength { tag: b'Q', len }));
        }
    }
}
