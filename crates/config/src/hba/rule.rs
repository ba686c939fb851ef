//! One line of a pg_hba.conf to a rule (`parse_hba_line` in PostgreSQL's `src/backend/libpq/hba.c`). A line has one problem
//! at most: what follows a mistake would be guessed.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use super::matching::{Address, DatabaseName, Name, Type, UserName};
use super::tokens::{Field, Line, Token, shown};
use crate::problem::{Conflict, ProblemKind, Syntax};

/// How a client that a rule is for has to prove who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HbaMethod {
    /// Not at all.
    Trust,
    /// It is refused.
    Reject,
    /// The password in clear text.
    Password,
    /// MD5 challenge; SCRAM for a user whose secret is a SCRAM secret.
    Md5,
    /// SCRAM-SHA-256.
    ScramSha256,
    /// The common name of its TLS certificate is the user, or mapped to it.
    Cert,
    /// The system's user at the other end of the Unix socket is the user, or mapped to it.
    Peer,
}

/// What a rule asks of a client's TLS certificate, besides the method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientCert {
    /// One that client_tls_ca_file vouches for.
    VerifyCa,
    /// The same, and its common name is the user, or mapped to it.
    VerifyFull,
}

/// A rule: for whom, and how they prove who they are.
#[derive(Clone, Debug, PartialEq)]
pub struct HbaRule {
    /// The file it stands in.
    pub file: Arc<Path>,
    /// The line, from 1; of several that are one, the first.
    pub line: u32,
    /// How clients prove who they are.
    pub method: HbaMethod,
    /// The map of names, for `cert` and `peer`.
    pub map: Option<String>,
    /// What the certificate has to be; with the method `cert` always [`ClientCert::VerifyFull`], as in PostgreSQL.
    pub client_cert: Option<ClientCert>,
    pub(super) kind: Type,
    pub(super) databases: Vec<DatabaseName>,
    pub(super) users: Vec<UserName>,
    pub(super) address: Address,
}

/// The part of a line that is wrong, and how.
pub(super) type Wrong = (String, ProblemKind);

const TYPES: &[&str] = &["local", "host", "hostssl", "hostnossl", "hostgssenc", "hostnogssenc"];
const OPTIONS: &[&str] = &["map", "clientcert", "clientname"];

const NO_ROLE: ProblemKind = ProblemKind::Unsupported(
    "only PostgreSQL knows who is a member of a role; name the users, or list them in a file and write @file",
);
const NO_OWN_ADDRESS: ProblemKind = ProblemKind::Unsupported(
    "this machine's addresses are not looked up; write them, such as 127.0.0.1/32 or 10.1.0.0/16",
);
const NO_METHOD: ProblemKind = ProblemKind::Unsupported(
    "this way of authenticating is not supported, and a weaker one will not be used in its place; use scram-sha-256, md5, \
     password, cert, peer or reject, or remove the line",
);
const NO_DN: ProblemKind =
    ProblemKind::Unsupported("only the common name of a certificate is looked at; write clientname=CN");

impl HbaMethod {
    /// Every name, as written in files. PgBouncer's `plain` is read as `password`.
    pub const NAMES: &'static [&'static str] = &["trust", "reject", "password", "md5", "scram-sha-256", "cert", "peer"];

    /// The name, as written in files.
    pub fn as_str(self) -> &'static str {
        Self::NAMES[self as usize]
    }
}

impl HbaRule {
    /// Whether it is for clients over TLS and for no others.
    pub fn is_for_tls(&self) -> bool {
        self.kind == Type::HostSsl
    }
}

/// The fields of a line, from the left.
pub(super) struct Fields<'a>(std::slice::Iter<'a, Field>);

impl<'a> Fields<'a> {
    pub(super) fn of(line: &'a Line) -> Self {
        Self(line.fields.iter())
    }

    fn list(&mut self, part: &str) -> Result<&'a [Token], Wrong> {
        let field = self.0.next().ok_or_else(|| (part.to_string(), ProblemKind::Syntax(Syntax::RuleEnds)))?;
        Ok(field)
    }

    fn one(&mut self, part: &str) -> Result<&'a Token, Wrong> {
        one(self.list(part)?, part)
    }
}

/// The word of a field that may not be a list.
pub(super) fn one<'a>(field: &'a [Token], part: &str) -> Result<&'a Token, Wrong> {
    match field {
        [token] => Ok(token),
        _ => Err((part.to_string(), ProblemKind::Syntax(Syntax::OneWord))),
    }
}

/// Reads a rule.
pub(super) fn rule(line: &Line) -> Result<HbaRule, Wrong> {
    let mut fields = Fields::of(line);
    let kind = kind(fields.one("type")?)?;
    let databases = fields.list("database")?.iter().map(database).collect::<Result<_, _>>()?;
    let users = fields.list("user")?.iter().map(user).collect::<Result<_, _>>()?;
    let address = if kind == Type::Local { Address::All } else { address(&mut fields)? };
    let method = method(fields.one("method")?, kind)?;
    let client_cert = (method == HbaMethod::Cert).then_some(ClientCert::VerifyFull);
    let file = Arc::clone(&line.place.file);
    let mut rule =
        HbaRule { file, line: line.place.line, method, map: None, client_cert, kind, databases, users, address };
    for token in fields.0.flatten() {
        rule.option(token)?;
    }
    Ok(rule)
}

fn kind(token: &Token) -> Result<Type, Wrong> {
    let all = [Type::Local, Type::Host, Type::HostSsl, Type::HostNoSsl, Type::HostGss, Type::HostNoGss];
    let found = TYPES.iter().zip(all).find(|(name, _)| **name == token.text);
    let wrong = || ("type".to_string(), ProblemKind::NotAllowed { found: shown(token), allowed: TYPES });
    found.map(|(_, kind)| kind).ok_or_else(wrong)
}

fn database(token: &Token) -> Result<DatabaseName, Wrong> {
    Ok(match token.text.as_str() {
        "all" if !token.quoted => DatabaseName::All,
        "sameuser" if !token.quoted => DatabaseName::SameUser,
        "replication" if !token.quoted => DatabaseName::Replication,
        "samerole" | "samegroup" if !token.quoted => return Err((format!("database {}", token.text), NO_ROLE)),
        _ => DatabaseName::Named(name(token, "database")?),
    })
}

/// A user of a rule or a map: `all`, a name or a pattern.
pub(super) fn user(token: &Token) -> Result<UserName, Wrong> {
    match token {
        _ if token.is("all") => Ok(UserName::All),
        _ if token.is_group() => Err((format!("user {}", shown(token)), NO_ROLE)),
        _ => name(token, "user").map(UserName::Named),
    }
}

pub(super) fn name(token: &Token, part: &str) -> Result<Name, Wrong> {
    Name::of(token).map_err(|kind| (format!("{part} {}", shown(token)), kind))
}

fn address(fields: &mut Fields<'_>) -> Result<Address, Wrong> {
    let token = fields.one("address")?;
    let wrong = |kind| ("address".to_string(), kind);
    if token.is("all") {
        return Ok(Address::All);
    }
    if token.is("samehost") || token.is("samenet") {
        return Err((format!("address {}", token.text), NO_OWN_ADDRESS));
    }
    let (host, bits) = match token.text.split_once('/') {
        Some((host, bits)) => (host, Some(bits)),
        None => (token.text.as_str(), None),
    };
    let Ok(ip) = host.parse::<IpAddr>() else {
        let expected = "all, or an address such as 10.1.0.0/16, 10.1.2.3/32 or ::1/128 (names are not looked up)";
        return Err(wrong(ProblemKind::Expected { expected, found: shown(token) }));
    };
    let Some(bits) = bits else {
        return netmask(ip, fields.one("netmask")?);
    };
    let max = if ip.is_ipv4() { u32::BITS } else { u128::BITS };
    let is_number = !bits.is_empty() && bits.bytes().all(|b| b.is_ascii_digit());
    let count = bits.parse().ok().filter(|_| is_number);
    let found = || ProblemKind::OutOfRange { found: shown(token), min: 0, max };
    count.and_then(|count| Address::with_prefix(ip, count)).ok_or_else(|| wrong(found()))
}

fn netmask(ip: IpAddr, token: &Token) -> Result<Address, Wrong> {
    let mask = token.text.parse().ok();
    mask.and_then(|mask| Address::new(ip, mask)).ok_or_else(|| {
        let expected = if ip.is_ipv4() {
            "a netmask such as 255.255.255.0 behind the address; or write that as 10.1.2.3/32"
        } else {
            "a netmask such as ffff:ffff:: behind the address; or write that as ::1/128"
        };
        ("netmask".to_string(), ProblemKind::Expected { expected, found: shown(token) })
    })
}

fn method(token: &Token, kind: Type) -> Result<HbaMethod, Wrong> {
    let method = match token.text.as_str() {
        "trust" => HbaMethod::Trust,
        "reject" => HbaMethod::Reject,
        "password" | "plain" => HbaMethod::Password,
        "md5" => HbaMethod::Md5,
        "scram-sha-256" => HbaMethod::ScramSha256,
        "cert" => HbaMethod::Cert,
        "peer" => HbaMethod::Peer,
        // Over a Unix socket PostgreSQL takes this old name for peer.
        "ident" if kind == Type::Local => HbaMethod::Peer,
        "ident" | "gss" | "sspi" | "ldap" | "radius" | "pam" | "bsd" | "oauth" => {
            return Err((format!("method {}", token.text), NO_METHOD));
        }
        _ => {
            let kind = ProblemKind::NotAllowed { found: shown(token), allowed: HbaMethod::NAMES };
            return Err(("method".to_string(), kind));
        }
    };
    let only_on = match method {
        HbaMethod::Peer if kind != Type::Local => "local",
        HbaMethod::Cert if kind != Type::HostSsl => "hostssl",
        _ => return Ok(method),
    };
    Err((format!("method {}", token.text), ProblemKind::Conflict(Conflict::OnlyOnType(only_on))))
}

impl HbaRule {
    /// Takes `name=value` in.
    fn option(&mut self, token: &Token) -> Result<(), Wrong> {
        let Some((key, value)) = token.text.split_once('=') else {
            let expected = "options such as map=name behind the method";
            return Err(("option".to_string(), ProblemKind::Expected { expected, found: shown(token) }));
        };
        let wrong = |kind| Err((key.to_string(), kind));
        match key {
            "map" if !matches!(self.method, HbaMethod::Cert | HbaMethod::Peer) => {
                return wrong(ProblemKind::Conflict(Conflict::OnlyWithMethods("cert and peer")));
            }
            // An empty one is none, as in PostgreSQL.
            "map" => self.map = Some(value.to_string()).filter(|map| !map.is_empty()),
            "clientcert" | "clientname" if self.kind != Type::HostSsl => {
                return wrong(ProblemKind::Conflict(Conflict::OnlyOnType("hostssl")));
            }
            "clientcert" => {
                let allowed: &[&str] =
                    if self.method == HbaMethod::Cert { &["verify-full"] } else { &["verify-ca", "verify-full"] };
                self.client_cert = match value {
                    "verify-full" => Some(ClientCert::VerifyFull),
                    "verify-ca" if self.method != HbaMethod::Cert => Some(ClientCert::VerifyCa),
                    _ => return wrong(ProblemKind::NotAllowed { found: crate::kinds::quoted(value), allowed }),
                };
            }
            "clientname" if value == "CN" => {}
            "clientname" if value == "DN" => return wrong(NO_DN),
            "clientname" => {
                return wrong(ProblemKind::NotAllowed { found: crate::kinds::quoted(value), allowed: &["CN"] });
            }
            _ => return wrong(ProblemKind::unknown_among(key, OPTIONS.to_vec())),
        }
        Ok(())
    }
}
