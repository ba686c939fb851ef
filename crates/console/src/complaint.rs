//! Why a console command was not done, and how that reads on the wire. [`Failure`] is what the one who carries commands
//! out can say; a complaint is any reason in its final form.

use std::fmt;

use pgsluice_wire::{BackendWriter, Malformed, Severity, sqlstate};

use crate::command::BadCommand;

/// invalid_cursor_name: no such portal.
const INVALID_CURSOR_NAME: &str = "34000";
/// duplicate_cursor: a portal of that name exists.
const DUPLICATE_CURSOR: &str = "42P03";
/// character_not_in_repertoire: the text is not UTF-8.
const CHARACTER_NOT_IN_REPERTOIRE: &str = "22021";

/// Why a command that was run did not succeed. Texts and SQLSTATEs are PgBouncer's where it has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// SET of a key that does not exist or cannot change, or of a value it cannot have; why.
    Set(String),
    /// RELOAD of a configuration with a mistake in it; which. Nothing of it was applied.
    Reload(String),
    /// There is no such database.
    NoSuchDatabase(String),
    /// The command is not for the console's own database.
    AdminDatabase {
        /// What was to be done: `pause`, `kill`, …
        verb: &'static str,
        /// The console's database.
        database: String,
    },
    /// PAUSE while paused.
    AlreadyPaused,
    /// RESUME while nothing is paused.
    NotPaused,
    /// RESUME of a database that is not paused.
    DatabaseNotPaused(String),
    /// The pooler is ending.
    ShuttingDown,
    /// KILL_CLIENT of an id that no client has.
    ClientNotFound,
    /// The command was waiting and a cancel request, or another command, ended that.
    Canceled,
}

impl Failure {
    /// SQLSTATE, message and detail (empty for none).
    fn parts(&self) -> (&'static str, String, &str) {
        let violation = |text: &str| (sqlstate::PROTOCOL_VIOLATION, text.to_owned(), "");
        match self {
            Self::Set(why) => (sqlstate::PROTOCOL_VIOLATION, "SET failed".to_owned(), why),
            Self::Reload(why) => {
                (sqlstate::CONFIG_FILE_ERROR, "RELOAD failed, see logs for additional details".to_owned(), why)
            }
            Self::NoSuchDatabase(name) => violation(&format!("no such database: {name}")),
            Self::AdminDatabase { verb, database } => violation(&format!("cannot {verb} admin db: {database}")),
            Self::AlreadyPaused => violation("already suspended/paused"),
            Self::NotPaused => violation("pooler is not paused/suspended"),
            Self::DatabaseNotPaused(name) => violation(&format!("database {name} is not paused")),
            Self::ShuttingDown => violation("pooler is shutting down"),
            Self::ClientNotFound => violation("client not found"),
            Self::Canceled => (sqlstate::QUERY_CANCELED, "canceling statement due to user request".to_owned(), ""),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (_, message, detail) = self.parts();
        f.write_str(&message)?;
        if detail.is_empty() { Ok(()) } else { write!(f, ": {detail}") }
    }
}

impl std::error::Error for Failure {}

/// An error for the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Complaint {
    BadCommand(BadCommand),
    Failure(Failure),
    Malformed(Malformed),
    NeedsAdmin,
    NotUtf8,
    FunctionCall,
    NoStatement(String),
    StatementExists(String),
    NoPortal(String),
    PortalExists(String),
    PortalDone(String),
    HasNoParameters(u16),
    WrongFormatCount {
        formats: usize,
        columns: usize,
    },
    UnknownFormat(u16),
    /// A limit was met: how many of what.
    TooMany(usize, &'static str),
}

impl From<BadCommand> for Complaint {
    fn from(bad: BadCommand) -> Self {
        Self::BadCommand(bad)
    }
}

impl From<Malformed> for Complaint {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed)
    }
}

impl Complaint {
    /// Writes the ErrorResponse.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        let detail = match self {
            Self::Failure(failure) => failure.parts().2,
            _ => "",
        };
        BackendWriter(out).report(Severity::Error, self.sqlstate(), &self.message(), detail, "");
    }

    fn sqlstate(&self) -> &'static str {
        match self {
            Self::BadCommand(bad) => bad.sqlstate(),
            Self::Failure(failure) => failure.parts().0,
            Self::Malformed(_) | Self::HasNoParameters(_) | Self::WrongFormatCount { .. } => {
                sqlstate::PROTOCOL_VIOLATION
            }
            Self::NeedsAdmin => sqlstate::INSUFFICIENT_PRIVILEGE,
            Self::NotUtf8 => CHARACTER_NOT_IN_REPERTOIRE,
            Self::FunctionCall => sqlstate::FEATURE_NOT_SUPPORTED,
            Self::NoStatement(_) => sqlstate::INVALID_STATEMENT_NAME,
            Self::StatementExists(_) => sqlstate::DUPLICATE_PREPARED_STATEMENT,
            Self::NoPortal(_) => INVALID_CURSOR_NAME,
            Self::PortalExists(_) => DUPLICATE_CURSOR,
            Self::PortalDone(_) => sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE,
            Self::UnknownFormat(_) => sqlstate::INVALID_PARAMETER_VALUE,
            Self::TooMany(..) => sqlstate::PROGRAM_LIMIT_EXCEEDED,
        }
    }

    fn message(&self) -> String {
        match self {
            Self::BadCommand(bad) => bad.to_string(),
            Self::Failure(failure) => failure.parts().1,
            Self::Malformed(malformed) => malformed.to_string(),
            Self::NeedsAdmin => "admin access needed".to_owned(),
            Self::NotUtf8 => "invalid byte sequence for encoding \"UTF8\"".to_owned(),
            Self::FunctionCall => "function calls are not supported by the console".to_owned(),
            Self::NoStatement(name) => format!("prepared statement \"{name}\" does not exist"),
            Self::StatementExists(name) => format!("prepared statement \"{name}\" already exists"),
            Self::NoPortal(name) => format!("portal \"{name}\" does not exist"),
            Self::PortalExists(name) => format!("portal \"{name}\" already exists"),
            Self::PortalDone(name) => format!("portal \"{name}\" cannot be run again"),
            Self::HasNoParameters(n) => format!("bind message supplies {n} parameters, but a console command has none"),
            Self::WrongFormatCount { formats, columns } => {
                format!("bind message has {formats} result formats but the command has {columns} columns")
            }
            Self::UnknownFormat(code) => format!("unsupported format code: {code}"),
            Self::TooMany(max, what) => format!("the console allows no more than {max} {what}"),
        }
    }
}
