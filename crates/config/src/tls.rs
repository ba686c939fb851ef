//! The kinds of value that the settings of TLS have, as PgBouncer names them.

use std::str::FromStr;

use crate::kinds::{Kind, Raw, Wrong};
use crate::model::UnknownName;

/// Whether connections are encrypted, and what the other side has to prove.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SslMode {
    /// Never.
    Disable,
    /// If the other side wants to.
    Allow,
    /// The same; servers are asked for it.
    Prefer,
    /// Always.
    Require,
    /// Always, with a certificate of a known authority.
    VerifyCa,
    /// The same, and a server's certificate is for its host name.
    VerifyFull,
}

impl SslMode {
    /// Every name, as written in files.
    pub const NAMES: &'static [&'static str] = &["disable", "allow", "prefer", "require", "verify-ca", "verify-full"];

    /// The name, as written in files.
    pub fn as_str(self) -> &'static str {
        Self::NAMES[self as usize]
    }

    /// Is a connection without TLS refused?
    pub fn is_strict(self) -> bool {
        self >= Self::Require
    }

    /// Has the other side to show a certificate of a known authority?
    pub fn verifies(self) -> bool {
        self >= Self::VerifyCa
    }
}

impl FromStr for SslMode {
    type Err = UnknownName;

    /// Case does not matter, as in PgBouncer.
    fn from_str(text: &str) -> Result<Self, UnknownName> {
        let all = [Self::Disable, Self::Allow, Self::Prefer, Self::Require, Self::VerifyCa, Self::VerifyFull];
        all.into_iter().find(|mode| mode.as_str().eq_ignore_ascii_case(text)).ok_or(UnknownName)
    }
}

impl Kind for SslMode {
    type Value = SslMode;

    fn read(raw: &Raw) -> Result<SslMode, Wrong> {
        let text = raw.text().ok_or(Wrong::Choice(SslMode::NAMES))?;
        SslMode::from_str(text).map_err(|_| Wrong::Choice(SslMode::NAMES))
    }

    fn show(value: &SslMode) -> String {
        value.as_str().to_string()
    }
}

/// How TLS is begun, as libpq's `sslnegotiation` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SslNegotiation {
    /// The server is asked first.
    Postgres,
    /// At once, which PostgreSQL knows since version 17.
    Direct,
}

impl SslNegotiation {
    /// Every name, as written in files.
    pub const NAMES: &'static [&'static str] = &["postgres", "direct"];

    /// The name, as written in files.
    pub fn as_str(self) -> &'static str {
        Self::NAMES[self as usize]
    }
}

impl FromStr for SslNegotiation {
    type Err = UnknownName;

    fn from_str(text: &str) -> Result<Self, UnknownName> {
        let all = [Self::Postgres, Self::Direct];
        all.into_iter().find(|way| way.as_str().eq_ignore_ascii_case(text)).ok_or(UnknownName)
    }
}

impl Kind for SslNegotiation {
    type Value = SslNegotiation;

    fn read(raw: &Raw) -> Result<SslNegotiation, Wrong> {
        let text = raw.text().ok_or(Wrong::Choice(SslNegotiation::NAMES))?;
        SslNegotiation::from_str(text).map_err(|_| Wrong::Choice(SslNegotiation::NAMES))
    }

    fn show(value: &SslNegotiation) -> String {
        value.as_str().to_string()
    }
}

/// Which versions of TLS are spoken; one at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TlsProtocols {
    /// TLS 1.2.
    pub tls12: bool,
    /// TLS 1.3.
    pub tls13: bool,
}

const PROTOCOLS: &[&str] = &["secure", "tlsv1.2", "tlsv1.3"];
const OLD_PROTOCOL: Wrong =
    Wrong::Unsupported("TLS 1.0 and 1.1 are broken and not supported; allowed: secure, tlsv1.2, tlsv1.3");

impl Kind for TlsProtocols {
    type Value = TlsProtocols;

    fn read(raw: &Raw) -> Result<TlsProtocols, Wrong> {
        let text = raw.text().ok_or(Wrong::Choice(PROTOCOLS))?.to_ascii_lowercase();
        let mut read = TlsProtocols { tls12: false, tls13: false };
        for part in text.split([',', ' ', ':']).filter(|part| !part.is_empty()) {
            match part {
                // PgBouncer's "all" and "legacy" have the old ones besides.
                "secure" | "default" | "all" | "legacy" => (read.tls12, read.tls13) = (true, true),
                "tlsv1.2" => read.tls12 = true,
                "tlsv1.3" => read.tls13 = true,
                "tlsv1.0" | "tlsv1.1" | "tlsv1" => return Err(OLD_PROTOCOL),
                other => return Err(Wrong::Part { found: other.to_string(), allowed: PROTOCOLS }),
            }
        }
        if read.tls12 || read.tls13 { Ok(read) } else { Err(Wrong::Choice(PROTOCOLS)) }
    }

    fn show(value: &TlsProtocols) -> String {
        match (value.tls12, value.tls13) {
            (true, false) => "tlsv1.2",
            (false, true) => "tlsv1.3",
            _ => "secure",
        }
        .to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_ordered_by_what_they_ask_for() {
        let modes = SslMode::NAMES.iter().map(|name| SslMode::from_str(name).expect("a mode")).collect::<Vec<_>>();
        assert!(modes.is_sorted());
        let strict = modes.iter().filter(|mode| mode.is_strict()).map(|mode| mode.as_str()).collect::<Vec<_>>();
        assert_eq!(strict, ["require", "verify-ca", "verify-full"]);
        assert!(SslMode::VerifyCa.verifies() && !SslMode::Require.verifies());
    }

    #[test]
    fn protocols_are_read_as_pgbouncer_writes_them() {
        let read = |text: &str| TlsProtocols::read(&Raw::Text(text.into())).map(|read| TlsProtocols::show(&read));
        for (text, shown) in [
            ("secure", "secure"),
            ("all", "secure"),
            ("TLSv1.3", "tlsv1.3"),
            ("tlsv1.2, tlsv1.3", "secure"),
            ("tlsv1.2", "tlsv1.2"),
        ] {
            assert_eq!(read(text), Ok(shown.to_string()), "{text}");
        }
        assert_eq!(read("tlsv1.0,tlsv1.3"), Err(OLD_PROTOCOL));
        assert!(read("ssl3").is_err() && read("").is_err());
    }
}
