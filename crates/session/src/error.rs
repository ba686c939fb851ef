//! What can go wrong, by blame: a [`Violation`] is a peer that broke the protocol, a [`Refusal`] is us saying no.

use std::fmt;

use crate::tracking::PinReason;
use pgsluice_wire::{BackendWriter, BadLength, BadStartup, Malformed, Report, Severity, field, sqlstate};

/// Bytes of each text in a server's error that are passed on in one of ours: it may be told once for each response owed.
const RELAYED_MAX: usize = 512;

/// A peer broke the protocol. Its connection cannot go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Violation {
    /// A length field that no message can have.
    Length(BadLength),
    /// A body that does not follow its format.
    Malformed(Malformed),
    /// A message type that a client cannot send here.
    UnknownFrontend(u8),
    /// A message that the server did not owe.
    NotOwed {
        /// Its type byte.
        tag: u8,
        /// Responses that were owed.
        owed: usize,
    },
    /// A server reported more parameters than it can have.
    TooManyParameters,
    /// A message that has to be read whole is too long for that.
    TooLong {
        /// The message's name.
        message: &'static str,
        /// The limit, in bytes.
        max: usize,
    },
}

impl From<BadLength> for Violation {
    fn from(e: BadLength) -> Self {
        Self::Length(e)
    }
}

impl From<Malformed> for Violation {
    fn from(e: Malformed) -> Self {
        Self::Malformed(e)
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length(e) => e.fmt(f),
            Self::Malformed(e) => e.fmt(f),
            Self::UnknownFrontend(tag) => write!(f, "invalid frontend message type {tag}"),
            Self::NotOwed { tag, owed } => {
                write!(f, "server sent message type \"{}\" out of turn, with {owed} responses owed", tag.escape_ascii())
            }
            Self::TooManyParameters => f.write_str("server reported too many parameters, or too long ones"),
            Self::TooLong { message, max } => write!(f, "{message} message is longer than {max} bytes"),
        }
    }
}

impl std::error::Error for Violation {}

/// An error of a server's, as far as it is passed on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerError {
    /// Its SQLSTATE.
    pub sqlstate: String,
    /// Its message.
    pub message: String,
    /// Its detail; empty if it has none.
    pub detail: String,
    /// Its hint; empty if it has none.
    pub hint: String,
}

impl ServerError {
    /// What the fields of an ErrorResponse say.
    pub fn from_report(report: Report<'_>) -> Self {
        let text = |code| report.field(code).map_or(String::new(), relayed);
        Self {
            sqlstate: relayed(report.sqlstate()),
            message: text(field::MESSAGE),
            detail: text(field::DETAIL),
            hint: text(field::HINT),
        }
    }
}

fn relayed(bytes: &[u8]) -> String {
    match bytes.get(..RELAYED_MAX) {
        None => String::from_utf8_lossy(bytes).into_owned(),
        // Half a character may be the last of it.
        Some(front) => String::from_utf8_lossy(front).trim_end_matches(char::REPLACEMENT_CHARACTER).to_owned(),
    }
}

/// What is wrong with a client's first message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StartupFault {
    /// It cannot be read.
    Message(BadStartup),
    /// A parameter that cannot be read.
    Parameter(Box<str>),
    /// A word in the parameter `options` that PostgreSQL does not take.
    Option(Box<str>),
    /// An assignment in the parameter `options` without a value.
    OptionWithoutValue(Box<str>),
    /// A value of the parameter `replication` that is none.
    Replication(Box<str>),
}

impl StartupFault {
    /// As [`Refusal::text`]; PostgreSQL's own words.
    fn text(&self) -> (&str, String, &str) {
        match self {
            Self::Message(bad @ BadStartup::Version(_)) => (sqlstate::FEATURE_NOT_SUPPORTED, bad.to_string(), ""),
            Self::Message(bad) => (sqlstate::PROTOCOL_VIOLATION, bad.to_string(), ""),
            Self::Parameter(why) => (sqlstate::INVALID_PARAMETER_VALUE, why.to_string(), ""),
            Self::Option(word) => (
                sqlstate::SYNTAX_ERROR,
                format!("invalid command-line argument for server process: {word}"),
                "Try \"postgres --help\" for more information.",
            ),
            Self::OptionWithoutValue(word) => (sqlstate::SYNTAX_ERROR, format!("{word} requires a value"), ""),
            Self::Replication(value) => (
                sqlstate::INVALID_PARAMETER_VALUE,
                format!("invalid value for parameter \"replication\": \"{value}\""),
                "Valid values are: \"false\", 0, \"true\", 1, \"database\".",
            ),
        }
    }
}

impl From<StartupFault> for Refusal {
    fn from(fault: StartupFault) -> Self {
        Self::Startup(fault)
    }
}

/// We said no. Severity is the caller's choice: a session that can go on gets an ERROR.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// What PostgreSQL said to us, passed on.
    Server(Box<ServerError>),
    /// No server became free before `query_wait_timeout`.
    WaitTimeout {
        /// How long it waited, in seconds.
        seconds: u64,
    },
    /// More clients would wait for the pool than `max_pool_waiting`.
    QueueFull {
        /// The limit.
        max: u32,
    },
    /// The query ran longer than `query_timeout`.
    QueryTimeout,
    /// The transaction ran longer than `transaction_timeout`.
    TransactionTimeout,
    /// Idle in a transaction for longer than `idle_transaction_timeout`.
    IdleTransactionTimeout,
    /// Idle for longer than `client_idle_timeout`.
    ClientIdleTimeout,
    /// Not logged in before `client_login_timeout`.
    LoginTimeout,
    /// The client's own cancel request reached it in the queue.
    Canceled,
    /// `max_client_conn` is reached.
    TooManyClients {
        /// The limit.
        max: u32,
    },
    /// No such database in the configuration.
    UnknownDatabase(Box<str>),
    /// The password, or whatever else was to be proven, is wrong; or there is no such user.
    BadPassword(Box<str>),
    /// Whether the password is right cannot be found out now.
    CannotAuthenticate(Box<str>),
    /// No rule lets it in, or it has not what the rule asks for: PostgreSQL's words for it.
    NotAdmitted(Box<str>),
    /// Too many wrong passwords of this user came from the same place in the last moment.
    TooManyFailures(Box<str>),
    /// The startup message names no user.
    NoUser,
    /// The user may not log in to the console.
    NotAdmin(Box<str>),
    /// We are going down.
    ShuttingDown,
    /// An administrator closed it (KILL, KILL_CLIENT).
    Killed,
    /// The database is disabled (DISABLE).
    Disabled(Box<str>),
    /// The server was lost while it worked for the client.
    ServerLost,
    /// The server that listened for the client was lost.
    HubLost,
    /// The server that listened for the client is to be closed.
    HubReplaced,
    /// The client does not read its notifications.
    TooManyNotifications {
        /// The limit, in bytes.
        max: usize,
    },
    /// The server cannot be reached.
    Unreachable(Box<str>),
    /// Statement pooling, and the client opened a transaction block.
    BlockInStatementPooling,
    /// A named statement that is too long to be kept.
    /// A statement would leave state that keeps its session on a server, which this pool does not allow.
    StateRefused(PinReason),
    /// A named statement is too long to be kept.
    StatementTooLong {
        /// The limit, in bytes of its Parse message.
        max: usize,
    },
    /// Something PostgreSQL can do and we cannot yet.
    Unsupported(Box<str>),
    /// Bytes came in the clear behind a request for encryption.
    Unencrypted,
    /// It has to be encrypted, and is not.
    TlsRequired,
    /// A role that is not in the configuration, where nobody is asked for a password.
    UnknownRole(Box<str>),
    /// A first message that cannot be read, or asks for what cannot be.
    Startup(StartupFault),
    /// The peer broke the protocol.
    Violation(Violation),
}

impl From<Violation> for Refusal {
    fn from(v: Violation) -> Self {
        Self::Violation(v)
    }
}

impl Refusal {
    /// Passes on what PostgreSQL said.
    pub fn from_report(report: Report<'_>) -> Self {
        Self::Server(Box::new(ServerError::from_report(report)))
    }

    /// SQLSTATE, message and hint, in one place for all.
    pub fn text(&self) -> (&str, String, &str) {
        use Refusal::*;
        match self {
            Server(e) => (&e.sqlstate, e.message.clone(), &e.hint),
            WaitTimeout { seconds } => (
                sqlstate::INSUFFICIENT_RESOURCES,
                format!("query_wait_timeout: no server became free within {seconds} s"),
                "The pool is busy: see SHOW POOLS and SHOW BUDGET on the admin console.",
            ),
            QueueFull { max } => (
                sqlstate::INSUFFICIENT_RESOURCES,
                format!("too many clients wait for a server of this pool (max_pool_waiting = {max})"),
                "Try again in a moment. Why they wait: see SHOW POOLS and SHOW BUDGET on the admin console.",
            ),
            QueryTimeout => (sqlstate::QUERY_CANCELED, "query_timeout".into(), ""),
            TransactionTimeout => (sqlstate::TRANSACTION_TIMEOUT, "transaction timeout".into(), ""),
            IdleTransactionTimeout => (sqlstate::IDLE_IN_TRANSACTION_TIMEOUT, "idle transaction timeout".into(), ""),
            ClientIdleTimeout => (sqlstate::IDLE_SESSION_TIMEOUT, "client_idle_timeout".into(), ""),
            LoginTimeout => (sqlstate::PROTOCOL_VIOLATION, "client_login_timeout".into(), ""),
            Canceled => (sqlstate::QUERY_CANCELED, "canceling statement due to user request".into(), ""),
            TooManyClients { max } => (
                sqlstate::TOO_MANY_CONNECTIONS,
                format!("no more connections allowed (max_client_conn = {max})"),
                "Raise max_client_conn in the configuration of pgsluice.",
            ),
            UnknownDatabase(name) => (
                sqlstate::INVALID_CATALOG_NAME,
                format!("no such database: {name}"),
                "Add it to [databases] in the configuration of pgsluice, or a fallback \"*\".",
            ),
            BadPassword(user) => {
                (sqlstate::INVALID_PASSWORD, format!("password authentication failed for user \"{user}\""), "")
            }
            CannotAuthenticate(user) => (
                sqlstate::CANNOT_CONNECT_NOW,
                format!("cannot authenticate user \"{user}\" at the moment"),
                "The log of pgsluice says why.",
            ),
            NotAdmitted(why) => (sqlstate::INVALID_AUTHORIZATION, why.to_string(), ""),
            TooManyFailures(user) => (
                sqlstate::INVALID_AUTHORIZATION,
                format!("too many wrong passwords for user \"{user}\" from here"),
                "Try again in a moment (auth_failure_delay).",
            ),
            NoUser => {
                (sqlstate::INVALID_AUTHORIZATION, "no PostgreSQL user name specified in startup packet".into(), "")
            }
            NotAdmin(user) => (
                sqlstate::INSUFFICIENT_PRIVILEGE,
                format!("user \"{user}\" may not use the console"),
                "Name the user in admin_users or stats_users.",
            ),
            ShuttingDown => (sqlstate::ADMIN_SHUTDOWN, "terminating connection: pgsluice is shutting down".into(), ""),
            Killed => (sqlstate::ADMIN_SHUTDOWN, "terminating connection due to administrator command".into(), ""),
            Disabled(name) => {
                (sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE, format!("database \"{name}\" is disabled"), "")
            }
            ServerLost => (sqlstate::CONNECTION_FAILURE, "server closed the connection unexpectedly".into(), ""),
            HubLost => (
                sqlstate::CONNECTION_FAILURE,
                "the server connection that listened for this session was lost".into(),
                "Notifications may have been lost: connect and LISTEN again.",
            ),
            HubReplaced => (
                sqlstate::ADMIN_SHUTDOWN,
                "terminating connection: the server connection that listens for this session is to be replaced".into(),
                "Connect and LISTEN again.",
            ),
            TooManyNotifications { max } => (
                sqlstate::PROGRAM_LIMIT_EXCEEDED,
                format!("this client does not read its notifications: {max} bytes wait for it"),
                "",
            ),
            Unreachable(why) => (sqlstate::UNABLE_TO_CONNECT, format!("cannot connect to PostgreSQL: {why}"), ""),
            BlockInStatementPooling => {
                (sqlstate::PROTOCOL_VIOLATION, "transaction blocks not allowed in statement pooling mode".into(), "")
            }
            StateRefused(reason) => (
                sqlstate::FEATURE_NOT_SUPPORTED,
                format!("session state of the kind \"{}\" is not allowed in this pool", reason.name()),
                "It would keep this session on its server; see \"pin_policy\" in the configuration of pgsluice.",
            ),
            StatementTooLong { max } => (
                sqlstate::PROGRAM_LIMIT_EXCEEDED,
                format!("a named prepared statement may not be longer than {max} bytes"),
                "Send its data as parameters, or use the unnamed statement, which has no such limit.",
            ),
            Unsupported(what) => {
                (sqlstate::FEATURE_NOT_SUPPORTED, format!("{what} is not supported by pgsluice yet"), "")
            }
            Unencrypted => {
                (sqlstate::PROTOCOL_VIOLATION, "received unencrypted data after SSL or GSSAPI request".into(), "")
            }
            TlsRequired => (
                sqlstate::INVALID_AUTHORIZATION,
                "connections have to be encrypted here (client_tls_sslmode)".into(),
                "Connect with sslmode=require or stricter.",
            ),
            UnknownRole(role) => (sqlstate::INVALID_AUTHORIZATION, format!("role \"{role}\" does not exist"), ""),
            Startup(fault) => fault.text(),
            Violation(v) => (sqlstate::PROTOCOL_VIOLATION, v.to_string(), ""),
        }
    }

    /// Appends the ErrorResponse.
    pub fn write(&self, severity: Severity, out: &mut Vec<u8>) {
        let (code, message, hint) = self.text();
        let detail = if let Self::Server(e) = self { &e.detail } else { "" };
        BackendWriter(out).report(severity, code, &message, detail, hint);
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (code, message, _) = self.text();
        write!(f, "{message} ({code})")
    }
}
