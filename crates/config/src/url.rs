//! Start without a file: a `postgres://` URL and listen addresses make a whole configuration. The URL's grammar is
//! libpq's (manual section 34.1.1.2, connection URIs) for one host.

use std::path::PathBuf;
use std::str::FromStr;

use crate::check::{is_local, is_reserved};
use crate::files::Files;
use crate::hba::IdentMaps;
use crate::listen::listener;
use crate::model::{AuthType, Config, Database, FALLBACK, User};
use crate::passfile::{Server, ServerPasswords, VARIABLE};
use crate::problem::{Conflict, Problem, ProblemKind, Problems, Syntax, Warning, WarningKind};
use crate::secret::Secret;
use crate::settings::Settings;
use crate::tls::{SslMode, SslNegotiation};

/// Where the URL's configuration listens if nothing is said.
pub const LISTEN_DEFAULT: &str = "127.0.0.1:6432";

const PARAMETERS: [&str; 8] =
    ["application_name", "host", "port", "sslcert", "sslkey", "sslmode", "sslnegotiation", "sslrootcert"];

/// A PostgreSQL server, a database and a user on it.
#[derive(Clone, Debug, PartialEq)]
pub struct Url {
    /// Name, address without brackets, or directory of a Unix socket; 127.0.0.1 if the URL has none.
    pub host: String,
    /// TCP port, or the number in the socket's name.
    pub port: u16,
    /// The database; the user's name if the URL has none, as in libpq.
    pub dbname: String,
    /// The user.
    pub user: String,
    /// The user's password.
    pub password: Option<Secret>,
    /// `?application_name=`.
    pub application_name: Option<String>,
    /// `?sslmode=`: `server_tls_sslmode`.
    pub sslmode: SslMode,
    /// `?sslnegotiation=`: `server_tls_sslnegotiation`.
    pub sslnegotiation: SslNegotiation,
    /// `?sslrootcert=`: `server_tls_ca_file`.
    pub sslrootcert: Option<PathBuf>,
    /// `?sslcert=`: `server_tls_cert_file`.
    pub sslcert: Option<PathBuf>,
    /// `?sslkey=`: `server_tls_key_file`.
    pub sslkey: Option<PathBuf>,
}

/// Reads a `postgres://` or `postgresql://` URL.
///
/// # Errors
/// Everything wrong with it; no message holds the password.
pub fn parse_url(url: &str) -> Result<Url, Problems> {
    let rest = url.strip_prefix("postgres://").or_else(|| url.strip_prefix("postgresql://"));
    let Some(rest) = rest else {
        return Err(Problems(vec![problem("URL", ProblemKind::Syntax(Syntax::UrlScheme))]));
    };
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let mut reading = Reading::default();
    reading.authority(authority);
    reading.dbname = reading.decode("dbname", path);
    for parameter in query.split('&').filter(|p| !p.is_empty()) {
        reading.parameter(parameter);
    }
    reading.finish()
}

impl Url {
    /// Looks for the password where libpq does if the URL has none: in PGPASSWORD, then in the password file. Clients need
    /// one that was found as if it stood in the URL: it opens the server to nobody who does not know it.
    pub fn find_password(&mut self, files: &dyn Files) -> Vec<Warning> {
        if self.password.is_some() {
            return Vec::new();
        }
        let warning = |(key, kind): (&str, _)| Warning { file: None, line: None, key: key.to_string(), kind };
        let (passwords, warnings) = ServerPasswords::of_environment(files, true);
        let mut warnings: Vec<Warning> = warnings.into_iter().map(warning).collect();
        let server = Server { host: &self.host, port: self.port, dbname: &self.dbname, user: &self.user };
        self.password = passwords.find(&server);
        if self.password.is_some() {
            let from = if passwords.is_variable() { VARIABLE } else { "password file" };
            warnings.push(warning((from, WarningKind::PasswordFound)));
        }
        warnings
    }
}

/// A configuration that serves the URL's server to clients that log in as the URL's user with its password. Every
/// database name leads to the same server with that user. Without a password nobody is asked for one, which is allowed
/// only where no other machine can connect.
///
/// `listen` holds addresses (`host:port`; the port of the first is the default of those without one, 6432 if it has none
/// either) or at most one directory for a Unix socket; empty means [`LISTEN_DEFAULT`].
///
/// # Errors
/// A malformed or unsafe listen address, a database name that belongs to the console.
pub fn config_from_url(url: &Url, listen: &[String]) -> Result<Config, Problems> {
    let mut problems = Vec::new();
    let mut settings = Settings { admin_users: vec![url.user.clone()], ..Settings::default() };
    settings.auth_type = if url.password.is_some() { AuthType::ScramSha256 } else { AuthType::Trust };
    let default = [LISTEN_DEFAULT.to_string()];
    listen_on(&mut settings, if listen.is_empty() { &default } else { listen }, &mut problems);
    settings.server_tls_sslmode = url.sslmode;
    settings.server_tls_sslnegotiation = url.sslnegotiation;
    settings.server_tls_ca_file.clone_from(&url.sslrootcert);
    settings.server_tls_cert_file.clone_from(&url.sslcert);
    settings.server_tls_key_file.clone_from(&url.sslkey);
    if is_reserved(&url.dbname) {
        problems.push(problem("dbname", ProblemKind::Conflict(Conflict::ReservedName)));
    }
    if !problems.is_empty() {
        return Err(Problems(problems));
    }
    let fallback = Database {
        host: Some(url.host.clone()),
        port: url.port,
        user: Some(url.user.clone()),
        password: url.password.clone(),
        application_name: url.application_name.clone(),
        ..Database::default()
    };
    let named = Database { dbname: Some(url.dbname.clone()), ..fallback.clone() };
    let mut user = User::default();
    user.password.clone_from(&url.password);
    Ok(Config {
        settings,
        databases: [(url.dbname.clone(), named), (FALLBACK.to_string(), fallback)].into(),
        users: [(url.user.clone(), user)].into(),
        hba: None,
        ident: IdentMaps::default(),
        server_passwords: ServerPasswords::default(),
        source: None,
    })
}

fn listen_on(settings: &mut Settings, listen: &[String], problems: &mut Vec<Problem>) {
    settings.listen_addr.clear();
    for address in listen {
        if settings.auth_type == AuthType::Trust && !is_local(address) {
            let kind = ProblemKind::Conflict(Conflict::TrustOnNetwork(address.clone()));
            problems.push(problem("listen", kind));
        }
        if address.starts_with('/') && settings.unix_socket_dir.is_none() {
            settings.unix_socket_dir = Some(PathBuf::from(address));
            continue;
        }
        match listener(address, settings.listen_port) {
            Err(kind) => problems.push(problem("listen", kind)),
            Ok(found) => {
                if settings.listen_addr.is_empty() {
                    settings.listen_port = found.port;
                }
                settings.listen_addr.push(written(&found, settings.listen_port));
            }
        }
    }
}

/// The address as `listen_addr` has it: the port only where it is not `listen_port`.
fn written(found: &crate::listen::Listener, listen_port: u16) -> String {
    if found.port == listen_port { found.host.clone() } else { found.to_string() }
}

fn problem(key: &str, kind: ProblemKind) -> Problem {
    Problem { file: None, line: None, key: key.to_string(), kind }
}

/// The parts of a URL while it is read; an empty text is an absent one.
#[derive(Default)]
struct Reading {
    host: String,
    port: Option<u16>,
    dbname: String,
    user: String,
    password: Option<Secret>,
    application_name: Option<String>,
    sslmode: Option<SslMode>,
    sslnegotiation: Option<SslNegotiation>,
    sslrootcert: Option<PathBuf>,
    sslcert: Option<PathBuf>,
    sslkey: Option<PathBuf>,
    problems: Vec<Problem>,
}

impl Reading {
    fn blame(&mut self, key: &str, kind: ProblemKind) {
        self.problems.push(problem(key, kind));
    }

    fn decode(&mut self, key: &str, text: &str) -> String {
        percent_decode(text).unwrap_or_else(|| {
            self.blame(key, ProblemKind::Syntax(Syntax::UrlEscape));
            String::new()
        })
    }

    fn authority(&mut self, authority: &str) {
        // The last @: a password may hold others, although it should not.
        let (credentials, location) = authority.rsplit_once('@').unwrap_or(("", authority));
        let (user, password) = match credentials.split_once(':') {
            Some((user, password)) => (user, Some(password)),
            None => (credentials, None),
        };
        self.user = self.decode("user", user);
        let password = password.map(|p| self.decode("password", p));
        self.password = password.filter(|p| !p.is_empty()).map(Secret::new);
        let (host, port) = match (location.starts_with('['), location.rfind(']'), location.rsplit_once(':')) {
            (true, Some(end), _) => (&location[1..end], location[end + 1..].strip_prefix(':')),
            (true, None, _) => return self.blame("host", ProblemKind::Syntax(Syntax::UrlHost)),
            (false, _, Some((host, port))) => (host, Some(port)),
            (false, _, None) => (location, None),
        };
        if location.starts_with('[') && port.is_none() && !location.ends_with(']') {
            return self.blame("host", ProblemKind::Syntax(Syntax::UrlHost));
        }
        self.host = self.decode("host", host);
        self.port(port.unwrap_or_default());
    }

    fn port(&mut self, text: &str) {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        match text.parse() {
            Ok(port @ 1..) if digits => self.port = Some(port),
            _ if text.is_empty() => {}
            // Not the text: in a URL with an unescaped password it is a piece of that.
            _ => self.blame("port", ProblemKind::OutOfRange { found: "this".to_string(), min: 1, max: 65_535 }),
        }
    }

    fn parameter(&mut self, parameter: &str) {
        let Some((key, value)) = parameter.split_once('=') else {
            return self.blame("URL", ProblemKind::Syntax(Syntax::UrlParameter));
        };
        let value = self.decode(key, value);
        match key {
            "application_name" => self.application_name = Some(value).filter(|v| !v.is_empty()),
            "host" => self.host = value,
            "port" => self.port(&value),
            "sslmode" => match SslMode::from_str(&value) {
                Ok(mode) => self.sslmode = Some(mode),
                Err(_) => self.blame("sslmode", ProblemKind::NotAllowed { found: value, allowed: SslMode::NAMES }),
            },
            "sslnegotiation" => match SslNegotiation::from_str(&value) {
                Ok(way) => self.sslnegotiation = Some(way),
                Err(_) => {
                    let allowed = SslNegotiation::NAMES;
                    self.blame("sslnegotiation", ProblemKind::NotAllowed { found: value, allowed });
                }
            },
            "sslrootcert" => self.sslrootcert = path(value),
            "sslcert" => self.sslcert = path(value),
            "sslkey" => self.sslkey = path(value),
            _ => self.blame(key, ProblemKind::unknown_among(key, PARAMETERS.to_vec())),
        }
    }

    fn finish(mut self) -> Result<Url, Problems> {
        if self.user.is_empty() && !self.problems.iter().any(|p| p.key == "user") {
            self.blame("user", ProblemKind::Syntax(Syntax::UrlUser));
        }
        let socket = self.host.starts_with('/');
        let bad = |c: char| c.is_whitespace() || matches!(c, ',' | '@' | '/' | '[' | ']');
        if !socket && self.host.contains(bad) {
            self.blame("host", ProblemKind::Syntax(Syntax::UrlHost));
        }
        if !self.problems.is_empty() {
            return Err(Problems(self.problems));
        }
        let or = |text: String, default: &str| if text.is_empty() { default.to_string() } else { text };
        Ok(Url {
            host: or(self.host, "127.0.0.1"),
            port: self.port.unwrap_or(5432),
            dbname: or(self.dbname, &self.user),
            user: self.user,
            password: self.password,
            application_name: self.application_name,
            sslmode: self.sslmode.unwrap_or(SslMode::Prefer),
            sslnegotiation: self.sslnegotiation.unwrap_or(SslNegotiation::Postgres),
            sslrootcert: self.sslrootcert,
            sslcert: self.sslcert,
            sslkey: self.sslkey,
        })
    }
}

fn path(text: String) -> Option<PathBuf> {
    Some(text).filter(|text| !text.is_empty()).map(PathBuf::from)
}

fn percent_decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let digit = |b: u8| char::from(b).to_digit(16);
        let (high, low) = (digit(bytes.next()?)?, digit(bytes.next()?)?);
        out.push(u8::try_from(high * 16 + low).ok().filter(|b| *b != 0)?);
    }
    String::from_utf8(out).ok()
}
