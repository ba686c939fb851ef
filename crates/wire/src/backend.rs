//! Views of the backend messages that pgsluice looks into.

use crate::head::{Malformed, cstr, u16_be, u32_be};

/// Transaction status of a ReadyForQuery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TxStatus {
    /// 'I': not in a transaction block.
    Idle,
    /// 'T': in a transaction block.
    InBlock,
    /// 'E': in a failed transaction block.
    Failed,
}

impl TxStatus {
    /// The status byte on the wire.
    pub fn byte(self) -> u8 {
        match self {
            Self::Idle => b'I',
            Self::InBlock => b'T',
            Self::Failed => b'E',
        }
    }
}

/// Reads the body of a ReadyForQuery.
///
/// # Errors
/// [`Malformed`] for anything but one known status byte.
#[inline]
pub fn ready_status(body: &[u8]) -> Result<TxStatus, Malformed> {
    match body {
        b"I" => Ok(TxStatus::Idle),
        b"T" => Ok(TxStatus::InBlock),
        b"E" => Ok(TxStatus::Failed),
        _ => Err(Malformed { message: "ReadyForQuery" }),
    }
}

/// A ParameterStatus message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParameterStatus<'a> {
    /// Name of the parameter.
    pub name: &'a [u8],
    /// Its value as PostgreSQL reports it.
    pub value: &'a [u8],
}

impl<'a> ParameterStatus<'a> {
    /// Reads a whole body.
    ///
    /// # Errors
    /// [`Malformed`] when it is not two strings.
    pub fn read(body: &'a [u8]) -> Result<Self, Malformed> {
        let pair = cstr(body).and_then(|(name, rest)| cstr(rest).map(|(value, rest)| (name, value, rest)));
        match pair {
            Some((name, value, b"")) => Ok(Self { name, value }),
            _ => Err(Malformed { message: "ParameterStatus" }),
        }
    }
}

/// Longest secret of a BackendKeyData or CancelRequest, in bytes; the manual's limit of protocol 3.2.
pub const SECRET_LEN_MAX: usize = 256;

/// A BackendKeyData message: what a cancel request has to present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackendKeyData<'a> {
    /// Process id of the backend.
    pub pid: u32,
    /// The secret: 4 bytes in protocol 3.0, up to 256 in 3.2.
    pub secret: &'a [u8],
}

impl<'a> BackendKeyData<'a> {
    /// Reads a whole body.
    ///
    /// # Errors
    /// [`Malformed`] when the secret is not 4 to 256 bytes.
    pub fn read(body: &'a [u8]) -> Result<Self, Malformed> {
        match u32_be(body) {
            Some((pid, secret)) if (4..=SECRET_LEN_MAX).contains(&secret.len()) => Ok(Self { pid, secret }),
            _ => Err(Malformed { message: "BackendKeyData" }),
        }
    }
}

/// A NegotiateProtocolVersion message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NegotiateVersion {
    /// The version that the server speaks instead of the one asked for, major and minor, 16 bits each.
    pub version: u32,
    /// Options it does not know.
    pub unknown: u32,
}

impl NegotiateVersion {
    /// Reads a whole body; the names of the options are not looked at.
    ///
    /// # Errors
    /// [`Malformed`] when it is too short.
    pub fn read(body: &[u8]) -> Result<Self, Malformed> {
        let two = u32_be(body).and_then(|(version, rest)| u32_be(rest).map(|(unknown, _)| (version, unknown)));
        let (version, unknown) = two.ok_or(Malformed { message: "NegotiateProtocolVersion" })?;
        Ok(Self { version, unknown })
    }
}

/// A NotificationResponse message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notification<'a> {
    /// Process id of the backend that sent it.
    pub pid: u32,
    /// The channel's name.
    pub channel: &'a [u8],
    /// What was sent with it.
    pub payload: &'a [u8],
}

impl<'a> Notification<'a> {
    /// Reads a whole body.
    ///
    /// # Errors
    /// [`Malformed`] when it is not a number and two strings.
    pub fn read(body: &'a [u8]) -> Result<Self, Malformed> {
        let parts = u32_be(body).and_then(|(pid, rest)| {
            let (channel, rest) = cstr(rest)?;
            let (payload, rest) = cstr(rest)?;
            rest.is_empty().then_some(Self { pid, channel, payload })
        });
        parts.ok_or(Malformed { message: "NotificationResponse" })
    }
}

/// A CommandComplete message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommandComplete<'a> {
    /// The command tag, for instance `INSERT 0 1`.
    pub tag: &'a [u8],
}

impl<'a> CommandComplete<'a> {
    /// Reads a whole body.
    ///
    /// # Errors
    /// [`Malformed`] when it is not one string.
    #[inline]
    pub fn read(body: &'a [u8]) -> Result<Self, Malformed> {
        match body.split_last() {
            Some((0, tag)) => Ok(Self { tag }),
            _ => Err(Malformed { message: "CommandComplete" }),
        }
    }
}

/// An authentication request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authentication<'a> {
    /// 0: the client is in.
    Ok,
    /// 3: send the password as it is.
    CleartextPassword,
    /// 5: send the MD5 of password, user and this salt.
    Md5Password {
        /// The salt.
        salt: [u8; 4],
    },
    /// 10: choose one of these, see [`sasl_mechanisms`].
    Sasl {
        /// The list, each zero-terminated, a zero at the end.
        mechanisms: &'a [u8],
    },
    /// 11: the mechanism's next message.
    SaslContinue {
        /// Data of the mechanism.
        data: &'a [u8],
    },
    /// 12: the mechanism's last message.
    SaslFinal {
        /// Data of the mechanism.
        data: &'a [u8],
    },
    /// Anything else (Kerberos, GSSAPI, SSPI): its code.
    Other(u32),
}

impl<'a> Authentication<'a> {
    /// Reads a whole body.
    ///
    /// # Errors
    /// [`Malformed`] when it is shorter than its kind asks.
    pub fn read(body: &'a [u8]) -> Result<Self, Malformed> {
        let bad = Malformed { message: "Authentication" };
        let (code, rest) = u32_be(body).ok_or(bad)?;
        Ok(match code {
            0 => Self::Ok,
            3 => Self::CleartextPassword,
            5 => Self::Md5Password { salt: rest.try_into().map_err(|_| bad)? },
            10 => Self::Sasl { mechanisms: rest },
            11 => Self::SaslContinue { data: rest },
            12 => Self::SaslFinal { data: rest },
            other => Self::Other(other),
        })
    }
}

/// The names in the list of an AuthenticationSASL.
pub fn sasl_mechanisms(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    list.split(|&b| b == 0).take_while(|name| !name.is_empty())
}

/// One column of a RowDescription, as far as it is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ColumnView<'a> {
    /// Its name.
    pub name: &'a [u8],
    /// Oid of its type.
    pub type_oid: u32,
    /// The type's modifier, −1 for none.
    pub type_modifier: u32,
}

/// A RowDescription message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowDescription<'a> {
    body: &'a [u8],
}

impl<'a> RowDescription<'a> {
    /// Takes a whole body; columns are checked as they are read.
    pub fn new(body: &'a [u8]) -> Self {
        Self { body }
    }

    /// The columns.
    ///
    /// # Errors
    /// [`Malformed`] when it is cut short.
    pub fn columns(&self) -> Result<Vec<ColumnView<'a>>, Malformed> {
        // Behind the name: table (4), column there (2), type (4), its length (2), modifier (4), format (2).
        const FIXED: usize = 18;
        let bad = Malformed { message: "RowDescription" };
        let (count, mut rest) = u16_be(self.body).ok_or(bad)?;
        let mut columns = Vec::new();
        for _ in 0..count {
            let (name, tail) = cstr(rest).ok_or(bad)?;
            let (fixed, tail) = tail.split_at_checked(FIXED).ok_or(bad)?;
            let number = |at| u32_be(&fixed[at..]).map_or(0, |(n, _)| n);
            columns.push(ColumnView { name, type_oid: number(6), type_modifier: number(12) });
            rest = tail;
        }
        Ok(columns)
    }
}

/// A DataRow message, for the answers to our own questions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataRow<'a> {
    body: &'a [u8],
}

impl<'a> DataRow<'a> {
    /// Takes a whole body; columns are checked as they are read.
    pub fn new(body: &'a [u8]) -> Self {
        Self { body }
    }

    /// The columns, `None` for NULL.
    ///
    /// # Errors
    /// [`Malformed`] when lengths and bytes do not agree.
    pub fn columns(&self) -> Result<Vec<Option<&'a [u8]>>, Malformed> {
        let bad = Malformed { message: "DataRow" };
        let (count, mut rest) = u16_be(self.body).ok_or(bad)?;
        let mut columns = Vec::new();
        for _ in 0..count {
            let (len, tail) = u32_be(rest).ok_or(bad)?;
            if len == u32::MAX {
                columns.push(None);
                rest = tail;
                continue;
            }
            let (value, tail) = tail.split_at_checked(len as usize).ok_or(bad)?;
            columns.push(Some(value));
            rest = tail;
        }
        if rest.is_empty() { Ok(columns) } else { Err(bad) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authentication_kinds() {
        assert_eq!(Authentication::read(&[0, 0, 0, 0]), Ok(Authentication::Ok));
        assert_eq!(
            Authentication::read(&[0, 0, 0, 5, 1, 2, 3, 4]),
            Ok(Authentication::Md5Password { salt: [1, 2, 3, 4] })
        );
        assert!(Authentication::read(&[0, 0, 0, 5, 1]).is_err());
        assert_eq!(Authentication::read(&[0, 0, 0, 7]), Ok(Authentication::Other(7)));
        assert_eq!(sasl_mechanisms(b"A\0B\0\0").collect::<Vec<_>>(), [b"A", b"B"]);
    }

    #[test]
    fn rows() {
        let body = b"\0\x03\0\0\0\x02hi\xff\xff\xff\xff\0\0\0\0";
        assert_eq!(DataRow::new(body).columns().unwrap(), [Some(&b"hi"[..]), None, Some(&b""[..])]);
        for cut in 0..body.len() {
            assert!(DataRow::new(&body[..cut]).columns().is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn keys_of_both_protocols() {
        assert_eq!(
            BackendKeyData::read(&[0, 0, 0, 9, 1, 2, 3, 4]),
            Ok(BackendKeyData { pid: 9, secret: &[1, 2, 3, 4] })
        );
        assert!(BackendKeyData::read(&[0; 4 + 256]).is_ok());
        assert!(BackendKeyData::read(&[0; 4 + 257]).is_err());
        assert!(BackendKeyData::read(&[0; 7]).is_err());
    }
}
