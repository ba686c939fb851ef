//! Identifiers as they stand in a text, and how they compare.

/// Bytes of an identifier that PostgreSQL looks at (`NAMEDATALEN` less one).
const IDENTIFIER_LEN: usize = 63;

/// Values of [`hash`].
pub(crate) const HASHES: usize = 1024;

/// An identifier or a keyword in a text.
#[derive(Clone, Copy)]
pub(crate) struct Name<'a> {
    /// As written, between the quotes if there are any.
    pub(crate) raw: &'a [u8],
    /// It has quotes, and two quotes in it are one.
    pub(crate) quoted: bool,
}

impl Name<'_> {
    /// The identifier in lower case, as much of it as PostgreSQL looks at.
    pub(crate) fn fold(self, buffer: &mut [u8; IDENTIFIER_LEN]) -> &[u8] {
        let mut len = 0;
        let mut second = false;
        for byte in self.raw {
            second = self.quoted && *byte == b'"' && !second;
            if second {
                continue;
            }
            if len == IDENTIFIER_LEN {
                break;
            }
            buffer[len] = byte.to_ascii_lowercase();
            len += 1;
        }
        &buffer[..len]
    }

    /// Whether [`Name::fold`] changes nothing but the case.
    pub(crate) fn is_plain(self) -> bool {
        self.raw.len() <= IDENTIFIER_LEN && !(self.quoted && self.raw.contains(&b'"'))
    }
}

/// A buffer for [`Name::fold`].
pub(crate) const fn buffer() -> [u8; IDENTIFIER_LEN] {
    [0; IDENTIFIER_LEN]
}

/// A cheap hash of a word that is not empty, the same in any case.
pub(crate) const fn hash(word: &[u8]) -> usize {
    let last = word.len() - 1;
    let first = (word[0] | 0x20) as usize;
    let middle = (word[last / 2] | 0x20) as usize;
    let end = (word[last] | 0x20) as usize;
    (first * 37 + middle * 151 + end * 67 + last * 331) % HASHES
}
