//! What a rule is compared with, and how: connections, addresses, databases and users (`check_hba` and what it calls in
//! PostgreSQL's `src/backend/libpq/hba.c`).

use std::net::IpAddr;

use regex_lite::{Captures, Regex, RegexBuilder};

use super::rule::HbaRule;
use super::tokens::Token;
use crate::problem::ProblemKind;

/// Longest pattern, as text and when it is made ready, in bytes.
pub const PATTERN_BYTES_MAX: usize = 65_536;

/// How a client is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    /// A Unix socket.
    Local,
    /// TCP without encryption.
    Plain,
    /// TLS over TCP.
    Tls,
}

/// A login that asks for its rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt<'a> {
    /// How the client is connected.
    pub channel: Channel,
    /// Its address; none for a Unix socket.
    pub address: Option<IpAddr>,
    /// The database it asks for.
    pub database: &'a str,
    /// The user it says it is.
    pub user: &'a str,
    /// Whether it wants physical replication. Only the keyword `replication` matches that, no name of a database and
    /// not `all`. Logical replication is of a database, and `false` here.
    pub replication: bool,
}

/// The types of connection a rule is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Type {
    Local,
    Host,
    HostSsl,
    HostNoSsl,
    /// Encryption by GSSAPI, which we do not have: never.
    HostGss,
    HostNoGss,
}

/// The addresses a rule is for: those that are the network's where the mask has ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Address {
    All,
    V4 { network: u32, mask: u32 },
    V6 { network: u128, mask: u128 },
}

/// The databases a rule is for.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum DatabaseName {
    All,
    SameUser,
    Replication,
    Named(Name),
}

/// The users a rule or a map is for.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum UserName {
    All,
    Named(Name),
}

/// A name or a pattern for names.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Name {
    Literal(String),
    Pattern(Pattern),
}

/// A pattern, which may match any part of a name unless it says `^` and `$`.
#[derive(Clone, Debug)]
pub(super) struct Pattern(Regex);

impl HbaRule {
    pub(super) fn matches(&self, attempt: &Attempt<'_>) -> bool {
        self.kind.matches(attempt.channel)
            && self.address.matches(attempt.address)
            && self.databases.iter().any(|name| name.matches(attempt))
            && self.users.iter().any(|name| name.matches(attempt.user))
    }
}

impl Type {
    fn matches(self, channel: Channel) -> bool {
        match self {
            Self::Local => channel == Channel::Local,
            Self::Host | Self::HostNoGss => channel != Channel::Local,
            Self::HostSsl => channel == Channel::Tls,
            Self::HostNoSsl => channel == Channel::Plain,
            Self::HostGss => false,
        }
    }
}

impl Address {
    /// An address and a mask, one family.
    pub(super) fn new(address: IpAddr, mask: IpAddr) -> Option<Self> {
        match (address, mask) {
            (IpAddr::V4(network), IpAddr::V4(mask)) => Some(Self::V4 { network: network.into(), mask: mask.into() }),
            (IpAddr::V6(network), IpAddr::V6(mask)) => Some(Self::v6(network.into(), mask.into())),
            _ => None,
        }
    }

    /// An address and how many of its first bits count. `None` if it has not so many.
    pub(super) fn with_prefix(address: IpAddr, bits: u32) -> Option<Self> {
        match address {
            IpAddr::V4(network) if bits <= u32::BITS => {
                let mask = u32::MAX.checked_shl(u32::BITS - bits).unwrap_or(0);
                Some(Self::V4 { network: network.into(), mask })
            }
            IpAddr::V6(network) if bits <= u128::BITS => {
                let mask = u128::MAX.checked_shl(u128::BITS - bits).unwrap_or(0);
                Some(Self::v6(network.into(), mask))
            }
            _ => None,
        }
    }

    /// A part of `::ffff:0:0/96` is a network of IPv4, as clients that come so are taken for clients over IPv4.
    fn v6(network: u128, mask: u128) -> Self {
        let is_mapped = mask >> 32 == u128::MAX >> 32 && network >> 32 == 0xffff;
        match (u32::try_from(network & 0xffff_ffff), u32::try_from(mask & 0xffff_ffff)) {
            (Ok(network), Ok(mask)) if is_mapped => Self::V4 { network, mask },
            _ => Self::V6 { network, mask },
        }
    }

    fn matches(self, peer: Option<IpAddr>) -> bool {
        match (self, peer.map(|ip| ip.to_canonical())) {
            (Self::All, _) => true,
            (Self::V4 { network, mask }, Some(IpAddr::V4(ip))) => (u32::from(ip) ^ network) & mask == 0,
            (Self::V6 { network, mask }, Some(IpAddr::V6(ip))) => (u128::from(ip) ^ network) & mask == 0,
            _ => false,
        }
    }
}

impl DatabaseName {
    fn matches(&self, attempt: &Attempt<'_>) -> bool {
        match self {
            Self::Replication => attempt.replication,
            _ if attempt.replication => false,
            Self::All => true,
            Self::SameUser => attempt.database == attempt.user,
            Self::Named(name) => name.matches(attempt.database),
        }
    }
}

impl UserName {
    pub(super) fn matches(&self, user: &str) -> bool {
        match self {
            Self::All => true,
            Self::Named(name) => name.matches(user),
        }
    }
}

impl Name {
    /// The name or pattern that a word is.
    pub(super) fn of(token: &Token) -> Result<Self, ProblemKind> {
        match token.pattern() {
            Some(pattern) => Pattern::new(pattern).map(Self::Pattern),
            None => Ok(Self::Literal(token.text.clone())),
        }
    }

    pub(super) fn matches(&self, name: &str) -> bool {
        match self {
            Self::Literal(literal) => literal == name,
            Self::Pattern(pattern) => pattern.0.is_match(name),
        }
    }
}

impl Pattern {
    fn new(pattern: &str) -> Result<Self, ProblemKind> {
        if pattern.len() > PATTERN_BYTES_MAX {
            return Err(ProblemKind::Pattern("it is too long".to_string()));
        }
        // In PostgreSQL a dot is any character and ^ and $ are the name's ends.
        let regex = RegexBuilder::new(pattern).dot_matches_new_line(true).size_limit(PATTERN_BYTES_MAX).build();
        regex.map(Self).map_err(|e| ProblemKind::Pattern(e.to_string()))
    }

    /// Whether it has a group, for `\1` to stand for.
    pub(super) fn has_group(&self) -> bool {
        self.0.captures_len() > 1
    }

    pub(super) fn captures<'n>(&self, name: &'n str) -> Option<Captures<'n>> {
        self.0.captures(name)
    }
}

impl PartialEq for Pattern {
    /// By the text: all are made alike.
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn networks() {
        for (network, bits, inside, outside) in [
            ("10.0.0.0", 8, "10.255.1.2", "11.0.0.1"),
            ("10.9.9.9", 8, "10.255.1.2", "11.0.0.1"),
            ("10.1.2.3", 32, "10.1.2.3", "10.1.2.2"),
            ("0.0.0.0", 0, "255.1.2.3", "::1"),
            ("::", 0, "fe80::1", "::ffff:10.0.0.1"),
            ("::1", 128, "::1", "::2"),
            ("2001:db8::", 32, "2001:db8:ffff::", "2001:db9::"),
            ("10.0.0.0", 8, "::ffff:10.1.1.1", "::10.1.1.1"),
            ("::ffff:10.0.0.0", 104, "10.1.1.1", "11.1.1.1"),
            ("::ffff:10.0.0.0", 104, "::ffff:10.1.1.1", "::10.1.1.1"),
        ] {
            let address = Address::with_prefix(ip(network), bits).expect("so many bits");
            assert!(address.matches(Some(ip(inside))), "{network}/{bits} {inside}");
            assert!(!address.matches(Some(ip(outside))), "{network}/{bits} {outside}");
            assert!(!address.matches(None), "{network}/{bits}");
        }
        assert_eq!(Address::with_prefix(ip("10.0.0.0"), 33), None);
        assert_eq!(Address::with_prefix(ip("::"), 129), None);
        assert_eq!(Address::new(ip("::"), ip("255.0.0.0")), None);
        let masked = |peer| Address::new(ip("10.0.5.0"), ip("255.0.255.0")).is_some_and(|a| a.matches(Some(ip(peer))));
        assert!(masked("10.77.5.1") && !masked("10.77.6.1"));
    }

    #[test]
    fn patterns_match_a_part_and_are_bounded() {
        let pattern = |text: &str| Pattern::new(text).map(|p| p.0);
        assert!(pattern("b").is_ok_and(|p| p.is_match("abc")));
        assert!(pattern("^a.c$").is_ok_and(|p| p.is_match("a\nc") && !p.is_match("abc\n")));
        for bad in ["(", "a{1000}{1000}{1000}", "(?=a)", r"(a)\1", &"a".repeat(PATTERN_BYTES_MAX + 1)] {
            assert!(matches!(Pattern::new(bad), Err(ProblemKind::Pattern(_))), "{}", &bad[..1]);
        }
    }
}
