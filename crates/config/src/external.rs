//! Passwords of a TOML file that stand elsewhere: `"file:/path"`, `"env:NAME"`, and `"plain:…"` for one that begins like
//! that itself. It finds the text and says why it is of no use; what the text means is `kinds`' and `pgsluice-auth`'s
//! business.

use std::ffi::OsString;
use std::io;
use std::path::Path;

use crate::files::{Files, read_near};
use crate::problem::{ProblemKind, SecretFault, WarningKind};
use crate::userlist::SECRET_BYTES_MAX;

/// The right of everybody to read a file, in its mode.
const OTHERS_READ: u32 = 0o004;

const NO_PATH: &str = "the path of a file after file:, or plain: before a password that begins so";
const NO_NAME: &str = "the name of an environment variable after env:, or plain: before a password that begins so";

/// The password that a value stands for, and what the operator should know of where it was found. `named_by` is the file
/// that holds the value.
///
/// # Errors
/// What is wrong with the file or variable; never with the text in it.
pub(crate) fn resolve(
    value: &str,
    files: &dyn Files,
    named_by: &Path,
) -> Result<(String, Option<WarningKind>), ProblemKind> {
    if let Some(path) = value.strip_prefix("file:") {
        from_file(path, files, named_by)
    } else if let Some(name) = value.strip_prefix("env:") {
        from_variable(name, files).map(|text| (text, None))
    } else {
        Ok((value.strip_prefix("plain:").unwrap_or(value).to_string(), None))
    }
}

fn from_file(path: &str, files: &dyn Files, named_by: &Path) -> Result<(String, Option<WarningKind>), ProblemKind> {
    if path.is_empty() {
        return Err(not_found_in_value(NO_PATH));
    }
    let bad = |fault| ProblemKind::BadSecret { origin: path.to_string(), fault };
    let (found, mut text) = read_near(files, path.as_ref(), named_by).map_err(|e| bad(unreadable(&e)))?;
    // Editors and `echo` end a file so; a password ends in a line break by mistake only.
    let end = text.strip_suffix('\n').map(|t| t.strip_suffix('\r').unwrap_or(t).len());
    text.truncate(end.unwrap_or(text.len()));
    let exposed = files.mode(&found).is_some_and(|mode| mode & OTHERS_READ != 0);
    let warning = exposed.then_some(WarningKind::ExposedSecret(found));
    usable(text).map(|text| (text, warning)).map_err(bad)
}

fn from_variable(name: &str, files: &dyn Files) -> Result<String, ProblemKind> {
    // Anything else is no name but perhaps a password, and must not appear in a message.
    let is_name = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if name.is_empty() || !is_name {
        return Err(not_found_in_value(NO_NAME));
    }
    let text = files.variable(name).ok_or(SecretFault::Unset).and_then(of_variable);
    text.map_err(|fault| ProblemKind::BadSecret { origin: format!("environment variable {name}"), fault })
}

/// The password in a variable's value.
pub(crate) fn of_variable(value: OsString) -> Result<String, SecretFault> {
    value.into_string().map_err(|_| SecretFault::NotUtf8).and_then(usable)
}

/// A text that can be a password.
pub(crate) fn usable(text: String) -> Result<String, SecretFault> {
    match text.len() {
        0 => Err(SecretFault::Empty),
        len if len > SECRET_BYTES_MAX => Err(SecretFault::TooLong),
        // The protocol's strings end at the first NUL.
        _ if text.contains('\0') => Err(SecretFault::Nul),
        _ => Ok(text),
    }
}

fn unreadable(error: &io::Error) -> SecretFault {
    match error.kind() {
        io::ErrorKind::InvalidData => SecretFault::NotUtf8,
        io::ErrorKind::FileTooLarge => SecretFault::TooLong,
        kind => SecretFault::Unreadable(kind),
    }
}

fn not_found_in_value(expected: &'static str) -> ProblemKind {
    ProblemKind::Expected { expected, found: "something else".to_string() }
}
