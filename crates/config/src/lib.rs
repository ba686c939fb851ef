//! Configuration: `pgsluice.toml` or an existing `pgbouncer.ini` read into one validated [`Config`], everything wrong with
//! it reported at once with file, line and remedy. It reads files and environment variables when asked to and does nothing
//! else: no watching, no clock, no applying of what it read.

mod build;
mod check;
mod diff;
mod document;
mod external;
mod files;
mod hba;
mod ini;
mod kinds;
mod listen;
mod model;
mod nearest;
mod passfile;
mod pgbouncer;
mod pins;
mod problem;
mod reference;
mod secret;
mod settings;
mod tls;
mod toml_file;
mod url;
mod userlist;

use std::path::Path;

use zeroize::Zeroizing;

use crate::document::Report;

pub use crate::diff::{Changes, Diff, SettingChange};
pub use crate::files::{Disk, FILE_BYTES_MAX, Files, NoFiles};
pub use crate::hba::{
    Attempt, Channel, ClientCert, Hba, HbaMethod, HbaRule, IdentMaps, PATTERN_BYTES_MAX, RULE_FILES_MAX,
};
pub use crate::ini::{INCLUDE_DEPTH_MAX, INCLUDE_FILES_MAX};
pub use crate::kinds::{COUNT_MAX, FLEET_BYTES_MAX, SECONDS_MAX};
pub use crate::listen::Listener;
pub use crate::model::{
    AuthType, Config, DATABASE_KEYS, Database, EntryKey, FALLBACK, PoolMode, RESERVED_DATABASES, USER_KEYS,
    UnknownName, User,
};
pub use crate::passfile::{PassfileFault, ServerPasswords};
pub use crate::pins::{Audit, PinPolicies, PinPolicy, PinReason};
pub use crate::problem::{Conflict, Problem, ProblemKind, Problems, SecretFault, Syntax, Warning, WarningKind};
pub use crate::reference::reference_toml;
pub use crate::secret::Secret;
pub use crate::settings::{Dialect, SETTINGS, Setting, SettingRow, Settings};
pub use crate::tls::{SslMode, SslNegotiation, TlsProtocols};
pub use crate::url::{LISTEN_DEFAULT, Url, config_from_url, parse_url};
pub use crate::userlist::{SECRET_BYTES_MAX, USER_BYTES_MAX};

/// A configuration with what the operator should know of it, or everything that is wrong.
pub type Loaded = Result<(Config, Vec<Warning>), Problems>;

impl Dialect {
    /// By the file's name: `.toml` is TOML, everything else is an ini file.
    pub fn of(path: &Path) -> Self {
        let toml = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("toml"));
        if toml { Self::Toml } else { Self::Ini }
    }
}

/// Reads a file in the dialect its name says ([`Dialect::of`]).
///
/// # Errors
/// Everything wrong with the file and with those it names.
pub fn load(path: &Path) -> Loaded {
    load_as(Dialect::of(path), path)
}

/// Reads a TOML file.
///
/// # Errors
/// Everything wrong with the file and with those it names.
pub fn load_toml(path: &Path) -> Loaded {
    load_as(Dialect::Toml, path)
}

/// Reads a file in PgBouncer's format.
///
/// # Errors
/// Everything wrong with the file and with those it names.
pub fn load_ini(path: &Path) -> Loaded {
    load_as(Dialect::Ini, path)
}

/// Parses TOML text without touching any file: an `auth_file` is reported as not found. `path` is for messages.
///
/// # Errors
/// Everything wrong with the text.
pub fn parse_toml(text: &str, path: &Path) -> Loaded {
    parse(Dialect::Toml, text, path, &NoFiles)
}

/// Parses text in PgBouncer's format without touching any file: `%include` and `auth_file` are reported as not found.
/// `path` is for messages.
///
/// # Errors
/// Everything wrong with the text.
pub fn parse_ini(text: &str, path: &Path) -> Loaded {
    parse(Dialect::Ini, text, path, &NoFiles)
}

/// Parses text, taking the files it names from `files`. `path` is for messages and for finding those files.
///
/// # Errors
/// Everything wrong with the text and with those files.
pub fn parse(dialect: Dialect, text: &str, path: &Path, files: &dyn Files) -> Loaded {
    let mut report = Report::new(path);
    // Editors on some systems begin a file with a byte order mark.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let document = match dialect {
        Dialect::Toml => toml_file::parse(text, &mut report),
        Dialect::Ini => ini::parse(text, files, &mut report),
    };
    build::build(document, dialect, files, report)
}

fn load_as(dialect: Dialect, path: &Path) -> Loaded {
    let unreadable = |e: std::io::Error| {
        let kind = ProblemKind::Unreadable(e.kind());
        Problems(vec![Problem { file: Some(path.to_path_buf()), line: None, key: String::new(), kind }])
    };
    let text = Zeroizing::new(Disk.read(path).map_err(unreadable)?);
    parse(dialect, &text, path, &Disk)
}
