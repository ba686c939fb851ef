//! What can be wrong with a configuration, and the sentences that say so. Each names the file, the line, the key and what
//! to do. A message never holds a secret's text. Nothing here decides what is wrong.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::kinds::{Raw, Wrong, quoted};
use crate::nearest::nearest;
use crate::passfile::PassfileFault;
use crate::settings::SETTINGS;
use crate::userlist::SECRET_BYTES_MAX;

/// Everything that keeps a configuration from being used, in the order of file and line. Never empty.
#[derive(Clone, Debug, PartialEq)]
pub struct Problems(pub Vec<Problem>);

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    /// The file it stands in; none if it came from the command line or the console.
    pub file: Option<PathBuf>,
    /// The line, from 1; none if it is about something that is absent.
    pub line: Option<u32>,
    /// The key, such as `databases.app.port`; empty if the line has none.
    pub key: String,
    /// What is wrong.
    pub kind: ProblemKind,
}

/// Something that does not stop the start but that the operator should know.
#[derive(Clone, Debug, PartialEq)]
pub struct Warning {
    /// The file it stands in.
    pub file: Option<PathBuf>,
    /// The line, from 1.
    pub line: Option<u32>,
    /// The key.
    pub key: String,
    /// What to know.
    pub kind: WarningKind,
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq)]
pub enum ProblemKind {
    /// The file could not be read.
    Unreadable(io::ErrorKind),
    /// The line does not follow the file's grammar.
    Syntax(Syntax),
    /// The TOML parser's own sentence.
    Toml(String),
    /// No such key.
    UnknownKey {
        /// The known key it resembles.
        nearest: Option<&'static str>,
        /// The keys there are, when they are few enough to list.
        allowed: Vec<&'static str>,
    },
    /// The value is of another kind.
    Expected {
        /// What the key takes.
        expected: &'static str,
        /// What was there, shortened.
        found: String,
    },
    /// The number is out of range.
    OutOfRange {
        /// What was there.
        found: String,
        /// The least allowed.
        min: u32,
        /// The most allowed.
        max: u32,
    },
    /// The value is none of a fixed list.
    NotAllowed {
        /// What was there, or which part of it, shortened.
        found: String,
        /// The list.
        allowed: &'static [&'static str],
    },
    /// A regular expression cannot be used: why.
    Pattern(String),
    /// The key or value asks for something that pgsluice cannot do: what to do instead.
    Unsupported(&'static str),
    /// The key was given before.
    Duplicate {
        /// The line of the first, in the same file.
        first: u32,
    },
    /// Two parts of the configuration contradict each other.
    Conflict(Conflict),
    /// A file that the key names is of no use.
    BadFile {
        /// The file; empty if it is the value that is of none.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// What a password names is of no use.
    BadSecret {
        /// The file, or the environment variable with these words before its name.
        origin: String,
        /// Why.
        fault: SecretFault,
    },
}

/// Why a file or an environment variable is no password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecretFault {
    /// The file could not be read.
    Unreadable(io::ErrorKind),
    /// The variable is not set.
    Unset,
    /// There is nothing in it.
    Empty,
    /// It is not UTF-8.
    NotUtf8,
    /// It is longer than [`SECRET_BYTES_MAX`].
    TooLong,
    /// It contains a NUL, at which the protocol's strings end.
    Nul,
}

/// How a line breaks the grammar of pgbouncer.ini, userlist.txt, pg_hba.conf, pg_ident.conf or a URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Syntax {
    /// No `=` after the key.
    NoEquals,
    /// A key that is neither plain nor in quotes.
    BadKey,
    /// A quote that does not end.
    OpenQuote,
    /// `[section` without its end.
    BadSection,
    /// A key before any section.
    NoSection,
    /// A line beginning with `%` that is no `%include file`.
    BadDirective,
    /// Includes inside includes, deeper than allowed.
    IncludeDepth,
    /// More files included than allowed.
    IncludeFiles,
    /// A pair in a connection string that is not `key=value`.
    BadPair,
    /// A line of the auth_file that is not `"user" "secret"`.
    BadUser,
    /// An empty user name in the auth_file.
    NoUserName,
    /// A user name or secret in the auth_file that is too long.
    LongUser,
    /// A rule that ends before this part of it.
    RuleEnds,
    /// Several words where one is expected.
    OneWord,
    /// A line of auth_ident_file that has not three fields.
    MapLine,
    /// A `\1` without a group that it could stand for.
    NoGroup,
    /// An `@file` without a word in it.
    EmptyList,
    /// More files, or longer ones, included in rules or maps than allowed.
    RuleFiles,
    /// The URL does not begin with `postgres://` or `postgresql://`.
    UrlScheme,
    /// A `%` in the URL that is not followed by two hex digits, or encodes a NUL or no UTF-8.
    UrlEscape,
    /// The URL names no user.
    UrlUser,
    /// The URL's host is malformed.
    UrlHost,
    /// A parameter of the URL without `=`.
    UrlParameter,
    /// A listen address that is not `host`, `host:port` or `/directory`.
    ListenAddress,
}

/// Parts that contradict each other.
#[derive(Clone, Debug, PartialEq)]
pub enum Conflict {
    /// Nowhere to listen.
    NoListener,
    /// No database at all.
    NoDatabases,
    /// The name belongs to the console.
    ReservedName,
    /// More servers kept open than the pool may have.
    PoolSizes {
        /// min_pool_size.
        min: u32,
        /// pool_size or default_pool_size.
        size: u32,
    },
    /// auth_type any, and no forced user.
    NeedsForcedUser,
    /// A database without a host, while unix_socket_dir is off.
    NoHost,
    /// budget_warning above budget_critical.
    WarningAboveCritical,
    /// A fleet, and fleet_dbname is empty.
    FleetWithoutDatabase,
    /// TLS for clients without the certificate or key that it takes.
    TlsWithoutCertificate,
    /// A certificate without a key, or the reverse: the other setting.
    TlsHalf(&'static str),
    /// Certificates are to be verified, and there is no authority: the setting.
    TlsWithoutAuthority(&'static str),
    /// Direct TLS, where it is not always to be TLS.
    DirectWithoutTls,
    /// auth_dbname names no entry of the databases that could be asked.
    AuthDatabase(String),
    /// No password is asked for, and the address can be reached from elsewhere.
    TrustOnNetwork(String),
    /// auth_type hba, and no file of rules.
    HbaWithoutFile,
    /// auth_type became hba without a reading of the rules.
    HbaNotRead,
    /// auth_type cert, and clients need not show a certificate.
    CertWithoutTls,
    /// A rule asks for a certificate, and there is no authority for clients, or no TLS.
    RuleWithoutAuthority,
    /// A method or option goes with another type of rule: which.
    OnlyOnType(&'static str),
    /// An option goes with other methods: which.
    OnlyWithMethods(&'static str),
}

/// What to know.
#[derive(Clone, Debug, PartialEq)]
pub enum WarningKind {
    /// PgBouncer has this; pgsluice goes on without it.
    NotSupported,
    /// Given before in another file, as an include does to override; this one counts.
    Overridden {
        /// Where it was given first.
        first: PathBuf,
        /// The line there.
        line: u32,
    },
    /// No password is asked for, and the address can be reached from elsewhere.
    TrustOnNetwork(String),
    /// A console user without an entry among the users: cannot log in.
    UnknownConsoleUser(String),
    /// A password without a user does nothing.
    PasswordWithoutUser,
    /// auth_type scram-sha-256 cannot use an MD5 secret: the user cannot log in.
    Md5SecretForScram,
    /// Nobody can log in: no user is known.
    NoUsers,
    /// A file of rules or maps that does nothing, as auth_type is not hba.
    UnusedRules,
    /// auth_hba_file has no rule.
    NoRules,
    /// A rule for clients over TLS, and TLS is off.
    RuleWithoutTls,
    /// A rule names a map that auth_ident_file does not have.
    UnknownMap(String),
    /// auth_type cert, and no TCP address to listen on.
    CertWithoutTcp,
    /// So many databases are asked about their users themselves.
    AskedInEach(usize),
    /// A name that no client can ask for.
    LongName,
    /// This file holds a password, and everybody can read it.
    ExposedSecret(PathBuf),
    /// The environment variable is no password.
    UselessVariable(SecretFault),
    /// The password file is not used.
    PassfileIgnored {
        /// The file.
        path: PathBuf,
        /// Why.
        why: PassfileFault,
    },
    /// Started with a URL that has no password; it was found elsewhere, and clients need it.
    PasswordFound,
}

impl ProblemKind {
    /// The problem that a kind of value found, with the value unless it is a secret.
    pub(crate) fn of(wrong: Wrong, raw: &Raw, secret: bool) -> Self {
        let found = raw.describe(secret);
        match wrong {
            Wrong::Expected(expected) => Self::Expected { expected, found },
            Wrong::Range { min, max } => Self::OutOfRange { found, min, max },
            Wrong::Choice(allowed) => Self::NotAllowed { found, allowed },
            Wrong::Part { found, allowed } => Self::NotAllowed { found, allowed },
            Wrong::Unsupported(instead) => Self::Unsupported(instead),
        }
    }

    /// The problem of a top-level key that is unknown.
    pub(crate) fn unknown_setting(key: &str) -> Self {
        let tables = ["databases", "users"];
        let keys = SETTINGS.iter().map(|s| s.key).chain(tables);
        Self::UnknownKey { nearest: nearest(key, keys), allowed: Vec::new() }
    }

    /// The problem of a key that is none of `allowed`.
    pub(crate) fn unknown_among(key: &str, allowed: Vec<&'static str>) -> Self {
        match nearest(key, allowed.iter().copied()) {
            Some(near) => Self::UnknownKey { nearest: Some(near), allowed: Vec::new() },
            None => Self::UnknownKey { nearest: None, allowed },
        }
    }
}

impl std::error::Error for Problems {}

impl fmt::Display for Problems {
    /// One line per problem.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.0.iter().enumerate() {
            write!(f, "{}{problem}", if i == 0 { "" } else { "\n" })?;
        }
        Ok(())
    }
}

impl std::error::Error for Problem {}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_place(f, self.file.as_deref(), self.line, &self.key)?;
        self.kind.fmt(f)
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_place(f, self.file.as_deref(), self.line, &self.key)?;
        self.kind.fmt(f)
    }
}

fn write_place(f: &mut fmt::Formatter<'_>, file: Option<&Path>, line: Option<u32>, key: &str) -> fmt::Result {
    if let Some(file) = file {
        write!(f, "{}:", file.display())?;
        match line {
            Some(line) => write!(f, "{line}: ")?,
            None => f.write_str(" ")?,
        }
    }
    if key.is_empty() {
        return Ok(());
    }
    let visible = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
    write!(f, "{}: ", key.chars().map(visible).collect::<String>())
}

impl fmt::Display for ProblemKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(kind) => write!(f, "cannot be read: {kind}"),
            Self::Syntax(syntax) => f.write_str(syntax.message()),
            Self::Toml(message) => f.write_str(message),
            Self::UnknownKey { nearest: Some(near), .. } => write!(f, "unknown key; did you mean {near}?"),
            Self::UnknownKey { allowed, .. } if !allowed.is_empty() => {
                write!(f, "unknown key; allowed: {}", allowed.join(", "))
            }
            Self::UnknownKey { .. } => f.write_str("unknown key; config/reference.toml lists all there are"),
            Self::Expected { expected, found } => write!(f, "expects {expected}, found {found}"),
            Self::OutOfRange { found, min, max } => write!(f, "{found} is out of range; allowed: {min} to {max}"),
            Self::NotAllowed { found, allowed } => write!(f, "{found} is not allowed; allowed: {}", allowed.join(", ")),
            Self::Pattern(why) => write!(
                f,
                "the pattern cannot be used: {why}; it has Perl's syntax without look-around and back-references, and stands \
                 in quotes if it has blanks or commas"
            ),
            Self::Unsupported(instead) => f.write_str(instead),
            Self::BadFile { path, why } if path.as_os_str().is_empty() => f.write_str(why),
            Self::BadFile { path, why } => write!(f, "{}: {why}", path.display()),
            Self::BadSecret { origin, fault } => write!(f, "{origin} {fault}"),
            Self::Duplicate { first } => write!(f, "given before, in line {first}; remove one of the two"),
            Self::Conflict(conflict) => conflict.fmt(f),
        }
    }
}

impl fmt::Display for SecretFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(kind) => write!(
                f,
                "cannot be read: {kind}; correct the path or its permissions, or write plain: before a password that \
                 begins with file:"
            ),
            Self::Unset => {
                f.write_str("is not set; set it for pgsluice, or write plain: before a password that begins with env:")
            }
            Self::Empty => f.write_str("is empty; write the password into it"),
            Self::NotUtf8 => f.write_str("is not UTF-8; a password has to be"),
            Self::TooLong => write!(
                f,
                "is longer than a password may be, {SECRET_BYTES_MAX} bytes; write the password alone into it"
            ),
            Self::Nul => f.write_str("contains a NUL, which no password can; write the password alone into it"),
        }
    }
}

impl Syntax {
    fn message(self) -> &'static str {
        match self {
            Self::NoEquals => "expects key = value",
            Self::BadKey => "a key with other characters than letters, digits and _.-* must stand in quotes",
            Self::OpenQuote => "the quote does not end in this line",
            Self::BadSection => "expects [section]",
            Self::NoSection => "expects a section such as [pgbouncer] before the first key",
            Self::BadDirective => "expects %include file",
            Self::IncludeDepth => "files may include each other 10 levels deep at most",
            Self::IncludeFiles => "100 files may be included at most",
            Self::BadPair => "expects pairs such as host=127.0.0.1 port=5432, values with blanks in single quotes",
            Self::BadUser => "expects \"user\" \"secret\", a quote inside doubled",
            Self::NoUserName => "the user name is empty",
            Self::LongUser => "user names may have 128 bytes at most, secrets 65531",
            Self::RuleEnds => {
                "is missing; a rule is type, database, user, address (not if the type is local), method and options"
            }
            Self::OneWord => "expects one word, found a list",
            Self::MapLine => "expects three words: a map, a system user and a database user",
            Self::NoGroup => "\\1 needs a group in the pattern of the system user, such as /^(.*)@example\\.org$",
            Self::EmptyList => "the file holds no names",
            Self::RuleFiles => "1000 files may be included at most, with 64 MB in all",
            Self::UrlScheme => "expects postgres://user:password@host:port/database",
            Self::UrlEscape => "write special characters as % and two hex digits, such as %40 for @ and %25 for %",
            Self::UrlUser => "names no user; expects postgres://user:password@host:port/database",
            Self::UrlHost => "expects one host, such as db.example.org:5432 or [::1]:5432",
            Self::UrlParameter => "expects parameters such as ?application_name=app",
            Self::ListenAddress => "expects an address such as 127.0.0.1:6432 or [::1]:6432, or a directory",
        }
    }
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoListener => {
                f.write_str("nowhere to listen: unix_socket_dir is off too; set it, or an address such as 127.0.0.1")
            }
            Self::NoDatabases => f.write_str("no database is configured; add one, or \"*\" to serve every name"),
            Self::ReservedName => f.write_str("this name belongs to the admin console; choose another"),
            Self::PoolSizes { min, size } => {
                write!(
                    f,
                    "the minimum of {min} is above the pool's size of {size}; lower the minimum or raise the size"
                )
            }
            Self::NeedsForcedUser => f.write_str("auth_type any needs a user here, as clients' names are not used"),
            Self::NoHost => f.write_str("has no host, and unix_socket_dir is off; name a host"),
            Self::WarningAboveCritical => f.write_str("is above budget_critical; lower it"),
            Self::FleetWithoutDatabase => f.write_str(
                "a fleet needs a database to meet on; name one, such as postgres, the same for all instances",
            ),
            Self::TlsWithoutCertificate => {
                f.write_str("TLS for clients needs client_tls_cert_file and client_tls_key_file; set both, or disable")
            }
            Self::TlsHalf(other) => write!(f, "a certificate and its key go together; set {other}"),
            Self::TlsWithoutAuthority(key) => {
                write!(f, "certificates cannot be verified without an authority; set {key}")
            }
            Self::DirectWithoutTls => {
                f.write_str("direct TLS needs server_tls_sslmode require or stricter, as there is nothing to fall back to")
            }
            Self::AuthDatabase(name) => {
                write!(f, "{} is no database here that could be asked; name an entry of [databases]", quoted(name))
            }
            Self::TrustOnNetwork(address) => write!(
                f,
                "without a password in the URL everybody who can reach {} could log in; listen on 127.0.0.1 or a Unix \
                 socket, or give the password",
                quoted(address)
            ),
            Self::HbaWithoutFile => f.write_str("hba needs rules; set auth_hba_file"),
            Self::HbaNotRead => f.write_str("the rules of auth_hba_file have not been read; set hba in the file and RELOAD"),
            Self::CertWithoutTls => {
                f.write_str("cert needs certificates of clients; set client_tls_sslmode to verify-full or verify-ca")
            }
            Self::RuleWithoutAuthority => f.write_str(
                "certificates of clients cannot be verified; set client_tls_ca_file, and client_tls_sslmode to other than \
                 disable",
            ),
            Self::OnlyOnType(kind) => write!(f, "goes only with lines of type {kind}"),
            Self::OnlyWithMethods(methods) => write!(f, "goes only with the methods {methods}"),
        }
    }
}

impl fmt::Display for WarningKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotSupported => f.write_str("PgBouncer's setting is not supported yet; going on without it"),
            Self::Overridden { first, line } => {
                write!(f, "given before, in {}:{line}; this one counts", first.display())
            }
            Self::TrustOnNetwork(address) => {
                write!(f, "everybody who can reach {} can log in without a password", quoted(address))
            }
            Self::UnknownConsoleUser(user) => write!(f, "{} is not among the users and cannot log in", quoted(user)),
            Self::PasswordWithoutUser => f.write_str("a password without a user does nothing; add user"),
            Self::Md5SecretForScram => {
                f.write_str("auth_type scram-sha-256 cannot use an MD5 secret: this user cannot log in")
            }
            Self::UnusedRules => f.write_str("does nothing, as auth_type is not hba"),
            Self::NoRules => f.write_str("has no rule: nobody can log in"),
            Self::RuleWithoutTls => {
                f.write_str("this rule is for TLS only, and client_tls_sslmode is disable: it matches nobody")
            }
            Self::UnknownMap(map) => {
                write!(f, "the map {} has no line in auth_ident_file: nobody passes this rule", quoted(map))
            }
            Self::CertWithoutTcp => {
                f.write_str("cert needs TLS, which Unix sockets have not: nobody can log in; set listen_addr")
            }
            Self::LongName => f.write_str(
                "names are cut at 63 bytes, as PostgreSQL does, so nobody can ask for this one; write the part that is left of it",
            ),
            Self::AskedInEach(count) => write!(
                f,
                "auth_query is asked in {count} databases, and who owns one of them decides which users that are not listed get in \
                 there; set auth_dbname to a database that nobody else owns"
            ),
            Self::NoUsers => f.write_str("no user is known: nobody can log in; set auth_file or add users"),
            Self::ExposedSecret(path) => write!(
                f,
                "everybody on this machine can read {}; take that right away, as with chmod o-r",
                path.display()
            ),
            Self::UselessVariable(fault) => write!(f, "this environment variable {fault}"),
            Self::PassfileIgnored { path, why } => write!(f, "{} is not used: {why}", path.display()),
            Self::PasswordFound => f.write_str("the password comes from here; clients need it to log in"),
        }
    }
}

impl fmt::Display for PassfileFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exposed => f.write_str("group or others have rights to it; take them away, as with chmod 0600"),
            Self::NotAFile => f.write_str("it is not a regular file"),
            Self::Unreadable(kind) => write!(f, "it cannot be read: {kind}"),
        }
    }
}
