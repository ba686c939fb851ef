//! The untyped first message of a connection: StartupMessage, SSLRequest, GSSENCRequest, CancelRequest.

use std::fmt;

use crate::backend::SECRET_LEN_MAX;
use crate::head::{cstr, u32_be};

/// Largest first message, in bytes: PostgreSQL's `MAX_STARTUP_PACKET_LENGTH` (`src/include/libpq/pqcomm.h`).
pub const STARTUP_LEN_MAX: usize = 10_000;

/// Code of a CancelRequest.
pub const CANCEL_CODE: u32 = 80_877_102;
/// Code of an SSLRequest.
pub const SSL_CODE: u32 = 80_877_103;
/// Code of a GSSENCRequest.
pub const GSSENC_CODE: u32 = 80_877_104;
/// Protocol version 3.0.
pub const PROTOCOL_3_0: u32 = 3 << 16;
/// Protocol version 3.2.
pub const PROTOCOL_3_2: u32 = (3 << 16) | 2;

/// A first message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Startup<'a> {
    /// The client asks for TLS.
    SslRequest,
    /// The client asks for GSSAPI encryption.
    GssencRequest,
    /// Cancel what this backend is doing.
    Cancel {
        /// Process id from BackendKeyData.
        pid: u32,
        /// Secret from BackendKeyData.
        secret: &'a [u8],
    },
    /// Start a session.
    Message {
        /// Major and minor version, 16 bits each.
        version: u32,
        /// Parameters: user, database, options, settings.
        params: StartupParams<'a>,
    },
}

/// Why a first message is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadStartup {
    /// The length is under 8 or over [`STARTUP_LEN_MAX`].
    Length(u32),
    /// Neither a request code nor major version 3.
    Version(u32),
    /// The list of parameters is not pairs of strings closed by a zero.
    Layout,
}

impl fmt::Display for BadStartup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length(n) => write!(f, "invalid length of startup packet: {n}"),
            Self::Version(v) => {
                write!(f, "unsupported frontend protocol {}.{}: server supports 3.0 to 3.2", v >> 16, v & 0xffff)
            }
            Self::Layout => write!(f, "invalid startup packet layout: expected terminator as last byte"),
        }
    }
}

impl std::error::Error for BadStartup {}

impl<'a> Startup<'a> {
    /// Reads the first message from the front of `bytes`: the message and its length, `None` while it is incomplete.
    ///
    /// # Errors
    /// [`BadStartup`], as PostgreSQL refuses it in `ProcessStartupPacket` (`src/backend/tcop/backend_startup.c`).
    pub fn read(bytes: &'a [u8]) -> Result<Option<(Self, usize)>, BadStartup> {
        let Some((len, _)) = u32_be(bytes) else { return Ok(None) };
        let total = len as usize;
        if !(8..=STARTUP_LEN_MAX).contains(&total) {
            return Err(BadStartup::Length(len));
        }
        let Some(body) = bytes.get(4..total) else { return Ok(None) };
        let (code, rest) = u32_be(body).ok_or(BadStartup::Length(len))?;
        Ok(Some((Self::of(code, rest)?, total)))
    }

    fn of(code: u32, rest: &'a [u8]) -> Result<Self, BadStartup> {
        match code {
            SSL_CODE => Ok(Self::SslRequest),
            GSSENC_CODE => Ok(Self::GssencRequest),
            CANCEL_CODE => match u32_be(rest) {
                Some((pid, secret)) if (4..=SECRET_LEN_MAX).contains(&secret.len()) => Ok(Self::Cancel { pid, secret }),
                _ => Err(BadStartup::Layout),
            },
            version if version >> 16 == 3 => Ok(Self::Message { version, params: StartupParams::read(rest)? }),
            other => Err(BadStartup::Version(other)),
        }
    }
}

/// The parameters of a StartupMessage, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StartupParams<'a> {
    pairs: &'a [u8],
}

impl<'a> StartupParams<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self, BadStartup> {
        let mut rest = bytes;
        loop {
            match rest {
                [0] => return Ok(Self { pairs: bytes }),
                [] | [0, ..] => return Err(BadStartup::Layout),
                _ => {
                    let (_, tail) = cstr(rest).ok_or(BadStartup::Layout)?;
                    rest = cstr(tail).ok_or(BadStartup::Layout)?.1;
                }
            }
        }
    }

    /// Name and value of each, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        let mut rest = self.pairs;
        std::iter::from_fn(move || {
            let (name, tail) = cstr(rest).filter(|(name, _)| !name.is_empty())?;
            let (value, tail) = cstr(tail)?;
            rest = tail;
            Some((name, value))
        })
    }

    /// The last value given for `name`, as PostgreSQL takes it.
    pub fn get(&self, name: &str) -> Option<&'a [u8]> {
        self.iter().filter(|(n, _)| *n == name.as_bytes()).last().map(|(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(code: u32, rest: &[u8]) -> Vec<u8> {
        let mut m = (8 + rest.len() as u32).to_be_bytes().to_vec();
        m.extend(code.to_be_bytes());
        m.extend(rest);
        m
    }

    #[test]
    fn requests() {
        assert_eq!(Startup::read(&message(SSL_CODE, b"")), Ok(Some((Startup::SslRequest, 8))));
        assert_eq!(Startup::read(&message(GSSENC_CODE, b"")), Ok(Some((Startup::GssencRequest, 8))));
        let cancel = message(CANCEL_CODE, &[0, 0, 0, 7, 1, 2, 3, 4]);
        assert_eq!(Startup::read(&cancel), Ok(Some((Startup::Cancel { pid: 7, secret: &[1, 2, 3, 4] }, 16))));
        assert_eq!(Startup::read(&message(2 << 16, b"x")), Err(BadStartup::Version(2 << 16)));
        assert_eq!(Startup::read(b"GET / HTTP/1.1\r\n"), Err(BadStartup::Length(u32::from_be_bytes(*b"GET "))));
    }

    #[test]
    fn parameters() {
        let m = message(PROTOCOL_3_0, b"user\0bob\0options\0-c a=b\0user\0eve\0\0");
        let Ok(Some((Startup::Message { version, params }, n))) = Startup::read(&m) else { panic!("not read") };
        assert_eq!((version, n), (PROTOCOL_3_0, m.len()));
        assert_eq!(params.get("user"), Some(&b"eve"[..]));
        assert_eq!(params.iter().count(), 3);
        for cut in 1..m.len() {
            assert_eq!(Startup::read(&m[..cut]), Ok(None), "cut at {cut}");
        }
        assert_eq!(Startup::read(&message(PROTOCOL_3_0, b"user\0bob\0")), Err(BadStartup::Layout));
        assert_eq!(Startup::read(&message(PROTOCOL_3_0, b"user\0bob\0\0x")), Err(BadStartup::Layout));
    }
}
