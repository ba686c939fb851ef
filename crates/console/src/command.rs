//! The console's commands and their grammar: text in, [`Command`] out. Nothing is carried out here.
//!
//! Source: PgBouncer's manual, chapter "Admin console", and the regular expressions at the top of its `src/admin.c`.
//! Wider than PgBouncer's: several statements in one text, comments, and what drivers send on their own account.

use std::fmt;

use pgsluice_wire::sqlstate;

use crate::lex::{self, Statement, Token};
use crate::parameters::{FULL_VERSION, Parameter};

/// Characters of a text that an error repeats at most.
const ECHO_MAX: usize = 200;

/// One command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Blanks, comments or semicolons only.
    Empty,
    /// Show something; `SELECT x` is the same.
    Show(Subject),
    /// Change a configuration key of the running pooler. Whether the key exists is for the caller to say.
    Set {
        /// The key, in lower case.
        key: String,
        /// The value as written, without its quotes.
        value: String,
    },
    /// Stop using servers, of one database or of all, and answer when none is in use.
    Pause(Option<String>),
    /// Undo [`Command::Pause`] or [`Command::Kill`].
    Resume(Option<String>),
    /// Replace the servers of one database or of all as they become free.
    Reconnect(Option<String>),
    /// Drop clients and servers of one database or of all, which stays paused.
    Kill(Option<String>),
    /// Drop the client with this id, as in the column `id` (or `ptr`) of `SHOW CLIENTS`.
    KillClient(u64),
    /// Refuse new clients of a database.
    Disable(String),
    /// Undo [`Command::Disable`].
    Enable(String),
    /// Read the configuration again.
    Reload,
    /// Answer when all servers of one database or of all that were to be replaced are gone.
    WaitClose(Option<String>),
    /// End the pooler.
    Shutdown(ShutdownMode),
    /// A driver's fixed question such as `SELECT 1`.
    Constant(Constant),
    /// A driver's statement that means nothing here (`BEGIN`, `SET application_name …`); only its tag is answered.
    Ignored(&'static str),
    /// Forget one prepared statement of this console session, or all.
    Deallocate(Option<String>),
    /// Forget all prepared statements of this console session.
    DiscardAll,
}

/// What `SHOW` can show.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Subject {
    /// Pools, one row per (database, user).
    Pools,
    /// Client connections.
    Clients,
    /// Server connections.
    Servers,
    /// Totals and averages per database.
    Stats,
    /// Totals per database.
    StatsTotals,
    /// Averages per database.
    StatsAverages,
    /// Totals and averages over all databases, as key and value.
    Totals,
    /// Configured databases.
    Databases,
    /// Known users.
    Users,
    /// Configuration keys and values.
    Config,
    /// Sizes of internal lists.
    Lists,
    /// The backend budget, one row per PostgreSQL. Not in PgBouncer.
    Budget,
    /// The instances of the fleet, one row per instance and PostgreSQL. Not in PgBouncer.
    Fleet,
    /// Pinned sessions. Not in PgBouncer.
    Pins,
    /// Audits, pins and replays per application. Not in PgBouncer.
    PinStats,
    /// Clients idle inside a transaction. Not in PgBouncer.
    Leaks,
    /// The version text, see [`crate::VERSION`].
    Version,
    /// Whether the pooler is active or paused.
    State,
    /// A notice that lists the commands.
    Help,
    /// Peers: always without a row, there are none here.
    Peers,
    /// Pools of peers: always without a row.
    PeerPools,
    /// A parameter of the console itself.
    Param(Parameter),
}

/// How to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ShutdownMode {
    /// At once; the command gets no answer.
    Immediate,
    /// When all servers are released.
    WaitForServers,
    /// When all clients have gone.
    WaitForClients,
}

/// A row of one text or int4 that never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Constant {
    /// Name of the column.
    pub name: &'static str,
    /// Is it an int4? Otherwise it is text.
    pub is_int: bool,
    /// The value in text form.
    pub value: &'static str,
}

/// A text that is no command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BadCommand {
    /// No such command; the start of what was written.
    Unknown(String),
    /// A PgBouncer command that pgsluice does not have.
    NotSupported(&'static str),
    /// The command needs the name of a database.
    DatabaseRequired,
    /// `KILL_CLIENT` without a number.
    InvalidClient,
    /// More than one command where the extended protocol allows one.
    Multiple,
}

impl BadCommand {
    /// The SQLSTATE it is reported with; PgBouncer's is always `08P01`.
    pub fn sqlstate(&self) -> &'static str {
        match self {
            Self::Unknown(_) | Self::DatabaseRequired | Self::InvalidClient => sqlstate::PROTOCOL_VIOLATION,
            Self::NotSupported(_) => sqlstate::FEATURE_NOT_SUPPORTED,
            Self::Multiple => sqlstate::SYNTAX_ERROR,
        }
    }
}

impl fmt::Display for BadCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(text) => write!(f, "invalid command '{text}', use SHOW HELP;"),
            Self::NotSupported(command) => write!(f, "{command} is not supported by pgsluice"),
            Self::DatabaseRequired => f.write_str("a database is required"),
            Self::InvalidClient => f.write_str("invalid client pointer supplied"),
            Self::Multiple => f.write_str("cannot insert multiple commands into a prepared statement"),
        }
    }
}

impl std::error::Error for BadCommand {}

/// Parses a text that holds at most one command.
///
/// # Errors
/// [`BadCommand`], [`BadCommand::Multiple`] for more than one.
pub fn parse(text: &str) -> Result<Command, BadCommand> {
    match &mut *parse_all(text)? {
        [] => Ok(Command::Empty),
        [one] => Ok(std::mem::replace(one, Command::Empty)),
        _ => Err(BadCommand::Multiple),
    }
}

/// Parses a text of commands separated by semicolons; empty ones are left out.
///
/// # Errors
/// [`BadCommand`] of the first that is none: nothing of a text with a mistake in it should run.
pub fn parse_all(text: &str) -> Result<Vec<Command>, BadCommand> {
    let statements = lex::statements(text).map_err(|lex::Unterminated| unknown(text))?;
    statements.iter().map(command).collect()
}

fn unknown(text: &str) -> BadCommand {
    let mut echo: String = text.trim().chars().take(ECHO_MAX).collect();
    if echo.len() < text.trim().len() {
        echo.push('…');
    }
    BadCommand::Unknown(echo)
}

fn command(statement: &Statement<'_>) -> Result<Command, BadCommand> {
    let [Token::Word(verb), rest @ ..] = &*statement.tokens else { return Err(unknown(statement.text)) };
    let verb = verb.to_ascii_lowercase();
    if let Some(command) = session_command(&verb, rest) {
        return Ok(command);
    }
    let command = match &*verb {
        "show" | "select" => show(rest)?,
        "set" => set(rest),
        "kill_client" => Some(Command::KillClient(client_id(rest)?)),
        "disable" => required_database(rest)?.map(Command::Disable),
        "enable" => required_database(rest)?.map(Command::Enable),
        "shutdown" => shutdown_mode(rest).map(Command::Shutdown),
        "reload" => rest.is_empty().then_some(Command::Reload),
        "suspend" => return Err(BadCommand::NotSupported("SUSPEND")),
        _ => optional_database(&verb, rest),
    };
    command.ok_or_else(|| unknown(statement.text))
}

/// Statements that drivers and pools of connections send unasked, to begin, to end or to tidy up.
fn session_command(verb: &str, rest: &[Token]) -> Option<Command> {
    let first = rest.first().and_then(word).unwrap_or_default();
    Some(match (verb, &*first) {
        ("begin", _) => Command::Ignored("BEGIN"),
        ("start", "transaction") => Command::Ignored("START TRANSACTION"),
        ("commit" | "end", _) => Command::Ignored("COMMIT"),
        ("rollback" | "abort", _) => Command::Ignored("ROLLBACK"),
        ("reset", _) => Command::Ignored("RESET"),
        ("close", "all") => Command::Ignored("CLOSE CURSOR ALL"),
        ("unlisten", _) => Command::Ignored("UNLISTEN"),
        ("discard", "all") => Command::DiscardAll,
        ("deallocate", "prepare") => return deallocate(&rest[1..]),
        ("deallocate", _) => return deallocate(rest),
        _ => return None,
    })
}

fn deallocate(rest: &[Token]) -> Option<Command> {
    match rest {
        // PostgreSQL folds bare names to lower case; statement names on the wire are as they are.
        [Token::Word(all)] if all.eq_ignore_ascii_case("all") => Some(Command::Deallocate(None)),
        [Token::Word(name)] => Some(Command::Deallocate(Some(name.to_lowercase()))),
        [Token::Name(name)] => Some(Command::Deallocate(Some(name.clone()))),
        _ => None,
    }
}

/// A bare word in lower case.
fn word(token: &Token) -> Option<String> {
    match token {
        Token::Word(w) => Some(w.to_ascii_lowercase()),
        _ => None,
    }
}

/// A word or a name as written: PgBouncer does not fold names of databases to lower case.
fn name(token: &Token) -> Option<&String> {
    match token {
        Token::Word(text) | Token::Name(text) => Some(text),
        _ => None,
    }
}

fn show(rest: &[Token]) -> Result<Option<Command>, BadCommand> {
    if let [Token::Word(subject)] | [Token::Name(subject)] = rest
        && let Some(found) = Subject::named(&subject.to_ascii_lowercase())?
    {
        return Ok(Some(Command::Show(found)));
    }
    Ok(question(&compact(rest)))
}

impl Subject {
    /// The subject of that name, in lower case.
    fn named(name: &str) -> Result<Option<Self>, BadCommand> {
        Ok(Some(match name {
            "pools" => Self::Pools,
            "clients" => Self::Clients,
            "servers" => Self::Servers,
            "stats" => Self::Stats,
            "stats_totals" => Self::StatsTotals,
            "stats_averages" => Self::StatsAverages,
            "totals" => Self::Totals,
            "databases" => Self::Databases,
            "users" => Self::Users,
            "config" => Self::Config,
            "lists" => Self::Lists,
            "budget" => Self::Budget,
            "fleet" => Self::Fleet,
            "pins" => Self::Pins,
            "pin_stats" => Self::PinStats,
            "leaks" => Self::Leaks,
            "version" => Self::Version,
            "state" => Self::State,
            "help" => Self::Help,
            "peers" => Self::Peers,
            "peer_pools" => Self::PeerPools,
            "sockets" => return Err(BadCommand::NotSupported("SHOW SOCKETS")),
            "active_sockets" => return Err(BadCommand::NotSupported("SHOW ACTIVE_SOCKETS")),
            "mem" => return Err(BadCommand::NotSupported("SHOW MEM")),
            "dns_hosts" => return Err(BadCommand::NotSupported("SHOW DNS_HOSTS")),
            "dns_zones" => return Err(BadCommand::NotSupported("SHOW DNS_ZONES")),
            "fds" => return Err(BadCommand::NotSupported("SHOW FDS")),
            other => return Ok(Parameter::find(other).map(Self::Param)),
        }))
    }
}

/// The tokens in lower case, without blanks: what [`question`] compares.
fn compact(tokens: &[Token]) -> String {
    let mut text = String::new();
    for token in tokens {
        match token {
            Token::Word(w) => text.push_str(&w.to_ascii_lowercase()),
            Token::Symbol(c) => text.push(*c),
            // No question has quotes: make sure that it matches none.
            Token::Name(_) | Token::Literal(_) => text.push('\''),
        }
    }
    text
}

/// What drivers and frameworks ask to see whether a server is alive, and what it is.
fn question(compact: &str) -> Option<Command> {
    let text = |name, value| Constant { name, is_int: false, value };
    let constant = match compact {
        "1" => Constant { name: "?column?", is_int: true, value: "1" },
        "version()" | "pg_catalog.version()" => text("version", FULL_VERSION),
        "current_schema()" => text("current_schema", "public"),
        "current_database()" => text("current_database", "pgbouncer"),
        "pg_advisory_unlock_all()" => text("pg_advisory_unlock_all", ""),
        "transactionisolationlevel" => text("transaction_isolation", "read committed"),
        _ => return None,
    };
    Some(Command::Constant(constant))
}

/// Settings of a PostgreSQL session that drivers set, and words that open other forms of SET. They have no effect here
/// and are not keys of our configuration.
const CLIENT_SETTINGS: [&str; 20] = [
    "application_name",
    "bytea_output",
    "characteristics",
    "client_encoding",
    "client_min_messages",
    "datestyle",
    "default_transaction_isolation",
    "default_transaction_read_only",
    "extra_float_digits",
    "idle_in_transaction_session_timeout",
    "intervalstyle",
    "jit",
    "lock_timeout",
    "names",
    "search_path",
    "standard_conforming_strings",
    "statement_timeout",
    "time",
    "timezone",
    "transaction",
];

fn set(rest: &[Token]) -> Option<Command> {
    let scoped = rest.first().and_then(word).is_some_and(|w| w == "session" || w == "local");
    let rest = &rest[usize::from(scoped)..];
    let key = name(rest.first()?)?.to_ascii_lowercase();
    if CLIENT_SETTINGS.contains(&&*key) && rest.len() > 1 {
        return Some(Command::Ignored("SET"));
    }
    let value = match &rest[1..] {
        [Token::Symbol('='), value] => value,
        [Token::Word(to), value] if to.eq_ignore_ascii_case("to") => value,
        _ => return None,
    };
    match value {
        Token::Word(value) | Token::Name(value) | Token::Literal(value) => {
            Some(Command::Set { key, value: value.clone() })
        }
        Token::Symbol(_) => None,
    }
}

/// The number in the columns `id` (decimal) or `ptr` (hexadecimal, after `0x`).
fn client_id(rest: &[Token]) -> Result<u64, BadCommand> {
    let [Token::Word(text) | Token::Name(text) | Token::Literal(text)] = rest else {
        return Err(BadCommand::InvalidClient);
    };
    let number = match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => text.parse(),
    };
    number.map_err(|_| BadCommand::InvalidClient)
}

fn required_database(rest: &[Token]) -> Result<Option<String>, BadCommand> {
    match rest {
        [] => Err(BadCommand::DatabaseRequired),
        [one] => Ok(name(one).cloned()),
        _ => Ok(None),
    }
}

fn shutdown_mode(rest: &[Token]) -> Option<ShutdownMode> {
    match rest {
        [] => Some(ShutdownMode::Immediate),
        [one] => match &*word(one)? {
            "wait_for_servers" => Some(ShutdownMode::WaitForServers),
            "wait_for_clients" => Some(ShutdownMode::WaitForClients),
            _ => None,
        },
        _ => None,
    }
}

fn optional_database(verb: &str, rest: &[Token]) -> Option<Command> {
    let database = match rest {
        [] => None,
        [one] => Some(name(one)?.clone()),
        _ => return None,
    };
    Some(match verb {
        "pause" => Command::Pause(database),
        "resume" => Command::Resume(database),
        "reconnect" => Command::Reconnect(database),
        "kill" => Command::Kill(database),
        "wait_close" => Command::WaitClose(database),
        _ => return None,
    })
}

impl Command {
    /// Does it change the pooler, so that it needs [`crate::Access::Admin`] and comes out as [`crate::Want::Run`]?
    pub fn needs_admin(&self) -> bool {
        !matches!(
            self,
            Self::Empty | Self::Show(_) | Self::Constant(_) | Self::Ignored(_) | Self::Deallocate(_) | Self::DiscardAll
        )
    }

    /// The tag of its CommandComplete.
    pub fn tag(&self) -> String {
        let tag = match self {
            Self::Empty => "",
            Self::Show(_) => "SHOW",
            Self::Set { key, value } => return format!("SET {key}={value}"),
            Self::Pause(_) => "PAUSE",
            Self::Resume(_) => "RESUME",
            Self::Reconnect(_) => "RECONNECT",
            Self::Kill(_) => "KILL",
            Self::KillClient(_) => "KILL_CLIENT",
            Self::Disable(_) => "DISABLE",
            Self::Enable(_) => "ENABLE",
            Self::Reload => "RELOAD",
            Self::WaitClose(_) => "WAIT_CLOSE",
            Self::Shutdown(_) => "SHUTDOWN",
            Self::Constant(_) => "SELECT 1",
            Self::Ignored(tag) => tag,
            Self::Deallocate(None) => "DEALLOCATE ALL",
            Self::Deallocate(Some(_)) => "DEALLOCATE",
            Self::DiscardAll => "DISCARD ALL",
        };
        tag.to_owned()
    }
}
