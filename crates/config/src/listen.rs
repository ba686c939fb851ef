//! Listen addresses: `host`, `host:port`, `[v6]`, `[v6]:port`, `*`. Names are not resolved here.

use std::fmt;

use crate::problem::{ProblemKind, Syntax};
use crate::settings::Settings;

/// One TCP address to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// A name or an address without brackets; `*` for all addresses.
    pub host: String,
    /// TCP port; 0: a free one.
    pub port: u16,
}

impl fmt::Display for Listener {
    /// `host:port`, an IPv6 address in brackets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

impl Settings {
    /// Every TCP address to listen on; malformed ones are left out ([`Config::check`](crate::Config::check) reports
    /// them).
    pub fn listeners(&self) -> Vec<Listener> {
        self.listen_addr.iter().filter_map(|address| listener(address, self.listen_port).ok()).collect()
    }
}

/// Reads one address; `port` is for those without one of their own.
pub(crate) fn listener(address: &str, port: u16) -> Result<Listener, ProblemKind> {
    let bad = || ProblemKind::Syntax(Syntax::ListenAddress);
    let (host, own_port) = split(address).ok_or_else(bad)?;
    let port = match own_port {
        None => port,
        Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => digits.parse().map_err(|_| bad())?,
        Some(_) => return Err(bad()),
    };
    let blank = host.is_empty() || host.contains(|c: char| c.is_whitespace() || c == '/');
    if blank { Err(bad()) } else { Ok(Listener { host: host.to_string(), port }) }
}

/// The host and the text after its colon. An IPv6 address may stand without brackets when it has no port.
fn split(address: &str) -> Option<(&str, Option<&str>)> {
    if let Some(rest) = address.strip_prefix('[') {
        let (host, rest) = rest.split_once(']')?;
        return if rest.is_empty() { Some((host, None)) } else { Some((host, Some(rest.strip_prefix(':')?))) };
    }
    match address.split_once(':') {
        Some((_, rest)) if rest.contains(':') => Some((address, None)),
        Some((host, port)) => Some((host, Some(port))),
        None => Some((address, None)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for (text, host, port) in [
            ("127.0.0.1", "127.0.0.1", 6432),
            ("localhost:7000", "localhost", 7000),
            ("[::1]:7000", "::1", 7000),
            ("[::1]", "::1", 6432),
            ("::1", "::1", 6432),
            ("*", "*", 6432),
            ("*:0", "*", 0),
        ] {
            let found = Listener { host: host.into(), port };
            assert_eq!(listener(text, 6432).ok(), Some(found.clone()), "{text}");
            assert_eq!(listener(&found.to_string(), 1).ok(), Some(found), "{text}");
        }
        for bad in ["", ":1", "a:", "a:x", "a:70000", "a:+1", "[::1", "[::1]x", "[]", "a b", "/tmp"] {
            assert!(listener(bad, 6432).is_err(), "{bad}");
        }
    }
}
