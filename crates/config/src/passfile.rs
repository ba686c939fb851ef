//! Passwords for PostgreSQL that stand outside of the configuration, found as libpq finds them: the environment variable
//! PGPASSWORD, then the password file. It does not decide which servers they may be used for: [`Config`](crate::Config)
//! does.
//!
//! Manual: "The Password File"; source: `src/interfaces/libpq/fe-connect.c` (passwordFromFile, connectOptions2).

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::external::{of_variable, usable};
use crate::files::Files;
use crate::problem::{SecretFault, WarningKind};
use crate::secret::Secret;

/// Directories of Unix sockets that are the default of some libpq: PostgreSQL's own, and that of most distributions. Such
/// a host is `localhost` in a password file.
const SOCKET_DIRECTORIES: [&str; 3] = ["/tmp", "/var/run/postgresql", "/run/postgresql"];

/// The bits of a mode that say what kind of file it is, and those of a regular one.
const KIND: u32 = 0o170_000;
const REGULAR: u32 = 0o100_000;
/// The rights of everybody but the owner.
const OTHERS: u32 = 0o077;

/// The environment variable that holds the password, and what it is called in messages.
pub(crate) const VARIABLE: &str = "PGPASSWORD";
const FILE_VARIABLE: &str = "PGPASSFILE";
const FILE_AT_HOME: &str = "~/.pgpass";

/// Why a password file is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PassfileFault {
    /// Group or others have rights to it.
    Exposed,
    /// It is a directory, a pipe or the like.
    NotAFile,
    /// It could not be read.
    Unreadable(io::ErrorKind),
}

/// PGPASSWORD, and the lines of the password file in their order. Its `Debug` shows neither.
#[derive(Clone, Default, PartialEq)]
pub struct ServerPasswords {
    variable: Option<Secret>,
    lines: Vec<Line>,
}

/// What a line of a password file is looked up by.
pub(crate) struct Server<'a> {
    pub(crate) host: &'a str,
    pub(crate) port: u16,
    pub(crate) dbname: &'a str,
    pub(crate) user: &'a str,
}

/// `host:port:database:user:password`. No `Debug`: where a colon is missing the password is taken for something else.
#[derive(Clone, PartialEq)]
struct Line {
    /// Host, port, database and user.
    fields: [Field; 4],
    /// `None`: the line ends the search, and there is no password.
    password: Option<Secret>,
}

#[derive(Clone, PartialEq)]
enum Field {
    Any,
    Text(String),
}

impl ServerPasswords {
    /// Those of the environment; the password file only if `with_file` and PGPASSWORD is not set. Also what the operator
    /// should know, each with what it is about.
    pub(crate) fn of_environment(files: &dyn Files, with_file: bool) -> (Self, Vec<(&'static str, WarningKind)>) {
        let mut found = Self::default();
        let mut warnings = Vec::new();
        match files.variable(VARIABLE).map(of_variable) {
            Some(Ok(text)) => found.variable = Some(Secret::new(text)),
            None | Some(Err(SecretFault::Empty)) => {}
            Some(Err(fault)) => warnings.push((VARIABLE, WarningKind::UselessVariable(fault))),
        }
        if let Some((name, path)) = default_file(files).filter(|_| with_file && found.variable.is_none()) {
            match read_private(files, &path) {
                Ok(text) => found.lines = parse(&text),
                // As in libpq: nobody has asked for it.
                Err(PassfileFault::Unreadable(io::ErrorKind::NotFound)) => {}
                Err(why) => warnings.push((name, WarningKind::PassfileIgnored { path, why })),
            }
        }
        (found, warnings)
    }

    /// Reads the password file that a configuration names, near the file that names it as other files are.
    ///
    /// # Errors
    /// It is not to be used: its path, and why.
    pub(crate) fn read(
        &mut self,
        files: &dyn Files,
        path: &Path,
        named_by: &Path,
    ) -> Result<(), (PathBuf, PassfileFault)> {
        let mut path = path.to_path_buf();
        let mut outcome = read_private(files, &path);
        if path.is_relative() && outcome == Err(PassfileFault::Unreadable(io::ErrorKind::NotFound)) {
            path = named_by.parent().unwrap_or(Path::new("")).join(path);
            outcome = read_private(files, &path);
        }
        self.lines = parse(&outcome.map_err(|why| (path, why))?);
        Ok(())
    }

    /// The password for a server; of the lines the first that matches counts.
    pub(crate) fn find(&self, server: &Server<'_>) -> Option<Secret> {
        let from_file = || self.lines.iter().find(|line| line.is_for(server)).and_then(|line| line.password.clone());
        self.variable.clone().or_else(from_file)
    }

    /// Whether [`find`](Self::find) answers with PGPASSWORD.
    pub(crate) fn is_variable(&self) -> bool {
        self.variable.is_some()
    }
}

impl fmt::Debug for ServerPasswords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServerPasswords(.., {} lines)", self.lines.len())
    }
}

/// The file that is looked into when the configuration names none, and what it is called in messages.
fn default_file(files: &dyn Files) -> Option<(&'static str, PathBuf)> {
    let named = files.variable(FILE_VARIABLE).filter(|path| !path.is_empty());
    let at_home = || Some((FILE_AT_HOME, files.home()?.join(".pgpass")));
    named.map(|path| (FILE_VARIABLE, PathBuf::from(path))).or_else(at_home)
}

fn read_private(files: &dyn Files, path: &Path) -> Result<Zeroizing<String>, PassfileFault> {
    match files.mode(path) {
        Some(mode) if mode & KIND != REGULAR => Err(PassfileFault::NotAFile),
        Some(mode) if mode & OTHERS != 0 => Err(PassfileFault::Exposed),
        _ => files.read(path).map(Zeroizing::new).map_err(|e| PassfileFault::Unreadable(e.kind())),
    }
}

fn parse(text: &str) -> Vec<Line> {
    let lines = text.split('\n').map(|line| line.trim_end_matches('\r'));
    // The protocol's strings end at a NUL: what stands behind it would be lost.
    lines.filter(|line| !line.starts_with('#') && !line.contains('\0')).filter_map(Line::parse).collect()
}

impl Line {
    /// `None` for a line with fewer than four colons, which matches nothing.
    fn parse(line: &str) -> Option<Self> {
        let (host, rest) = Field::parse(line)?;
        let (port, rest) = Field::parse(rest)?;
        let (dbname, rest) = Field::parse(rest)?;
        let (user, rest) = Field::parse(rest)?;
        let password = usable(unescape(rest).0).ok().map(Secret::new);
        Some(Self { fields: [host, port, dbname, user], password })
    }

    fn is_for(&self, server: &Server<'_>) -> bool {
        let Server { host, port, dbname, user } = server;
        let [own_host, own_port, own_dbname, own_user] = &self.fields;
        let is_local = own_host.is("localhost") && SOCKET_DIRECTORIES.contains(host);
        (own_host.is(host) || is_local) && own_port.is(&port.to_string()) && own_dbname.is(dbname) && own_user.is(user)
    }
}

impl Field {
    /// The field at the front of a line, and what follows its colon.
    fn parse(text: &str) -> Option<(Self, &str)> {
        if let Some(rest) = text.strip_prefix("*:") {
            return Some((Self::Any, rest));
        }
        let (field, rest) = unescape(text);
        Some((Self::Text(field), rest?))
    }

    fn is(&self, text: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Text(own) => own == text,
        }
    }
}

/// The text before the first colon that no backslash escapes, without its backslashes, and what follows that colon.
fn unescape(text: &str) -> (String, Option<&str>) {
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            ':' => return (plain, text.get(at + 1..)),
            '\\' => plain.push(chars.next().map_or('\\', |(_, escaped)| escaped)),
            _ => plain.push(c),
        }
    }
    (plain, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(file: &str, server: (&str, u16, &str, &str)) -> Option<String> {
        let (host, port, dbname, user) = server;
        let passwords = ServerPasswords { variable: None, lines: parse(file) };
        passwords.find(&Server { host, port, dbname, user }).map(|s| s.expose().to_owned())
    }

    #[test]
    fn lines_are_read_as_libpq_reads_them() {
        let server = ("db", 5432, "shop", "app");
        for (file, password) in [
            ("db:5432:shop:app:pw", Some("pw")),
            ("db:5432:shop:app:pw\r\n", Some("pw")),
            ("*:*:*:*:pw\n", Some("pw")),
            ("db:*:*:app:first\ndb:5432:shop:app:second\n", Some("first")),
            ("other:*:*:app:first\ndb:5432:shop:app:second\n", Some("second")),
            ("#db:5432:shop:app:pw\n", None),
            (" db:5432:shop:app:pw\n", None),
            ("db:5432:shop:app\n", None),
            ("db:5432:shop:pw\n\n:\n", None),
            ("db:05432:shop:app:pw\n", None),
            ("d*:5432:shop:app:pw\n", None),
            (r"\*:*:*:*:pw", None),
            (r"d\b:5432:shop:app:p\:w\\", Some(r"p:w\")),
            ("db:5432:shop:app:pw:more", Some("pw")),
            (r"db:5432:shop:app:pw\", Some(r"pw\")),
            ("db:5432:shop:app: p w ", Some(" p w ")),
            // The first that matches counts, and it has none.
            ("db:5432:shop:app:\n*:*:*:*:pw\n", None),
            ("*:*:*:*:p\0w\n*:*:*:*:second", Some("second")),
            ("", None),
        ] {
            assert_eq!(found(file, server).as_deref(), password, "{file:?}");
        }
        assert_eq!(found(r"\:\:1:1:a\\b:ü\:x:pw", ("::1", 1, r"a\b", "ü:x")).as_deref(), Some("pw"));
        assert_eq!(found("*:1:a:*:pw", ("*", 1, "*", "*")), None);
    }

    #[test]
    fn localhost_is_also_the_default_directory_of_unix_sockets() {
        for (host, line, good) in [
            ("/tmp", "localhost", true),
            ("/var/run/postgresql", "localhost", true),
            ("/run/postgresql", "/run/postgresql", true),
            ("/srv/socket", "localhost", false),
            ("/srv/socket", "/srv/socket", true),
            ("localhost", "localhost", true),
            ("localhost", "/tmp", false),
            ("127.0.0.1", "localhost", false),
        ] {
            let answer = found(&format!("{line}:*:*:*:pw"), (host, 5432, "a", "a"));
            assert_eq!(answer.is_some(), good, "{host} {line}");
        }
    }

    #[test]
    fn nothing_is_shown() {
        let passwords = ServerPasswords { variable: Some(Secret::new("hunter2")), lines: parse("a:b:c:d:hunter2") };
        assert_eq!(format!("{passwords:?}"), "ServerPasswords(.., 1 lines)");
    }
}
