//! The command line.

use std::path::PathBuf;

use clap::{ArgAction, Parser, Subcommand, ValueEnum};

const EXAMPLES: &str = "\
Examples:
  pgsluice postgres://app:secret@127.0.0.1:5432/app
      Serve that server on 127.0.0.1:6432; clients log in as app with the same password.
  pgsluice postgres://app:secret@db.internal/app --listen 0.0.0.0:6432 --pool-size 40
  pgsluice postgres://app@db.internal/app
      The password is that of PGPASSWORD or ~/.pgpass, as psql finds it; clients need it too.
  pgsluice --config /etc/pgsluice.toml
  pgsluice -q /etc/pgbouncer/pgbouncer.ini
      Run what you have: PgBouncer's own file, with its userlist.txt.
  pgsluice check /etc/pgsluice.toml
      Say what is wrong with a file, all of it, and start nothing.
  psql postgres://app:secret@127.0.0.1:6432/pgsluice -c 'SHOW POOLS'
      Ask the running pooler; SHOW HELP lists the rest.

Signals: HUP reads the file again; TERM waits for clients, INT for running transactions; a second one ends at once.";

/// A PostgreSQL connection pooler: many clients on few backends.
#[derive(Debug, Parser)]
#[command(version, about, after_help = EXAMPLES, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Args {
    /// postgres://user:password@host:port/database, or a pgbouncer.ini
    #[arg(value_name = "URL or FILE", required_unless_present = "config")]
    pub(crate) target: Option<String>,
    /// Configuration file (TOML, or PgBouncer's ini)
    #[arg(short, long, value_name = "FILE", conflicts_with = "target")]
    pub(crate) config: Option<PathBuf>,
    /// Address to listen on: host:port, or the directory of a Unix socket (default: 127.0.0.1:6432)
    #[arg(short, long, value_name = "ADDRESS")]
    pub(crate) listen: Vec<String>,
    /// Servers per pool (default: 20, or fewer if the server has not that many slots)
    #[arg(long, value_name = "N")]
    pub(crate) pool_size: Option<u32>,
    /// When a server goes back to the pool (default: transaction)
    #[arg(long, value_name = "MODE")]
    pub(crate) pool_mode: Option<Mode>,
    /// I/O threads (default: 1)
    #[arg(long, value_name = "N")]
    pub(crate) workers: Option<u32>,
    /// Name of the fleet: the instances that share the budget of a PostgreSQL (default: none)
    #[arg(long, value_name = "NAME")]
    pub(crate) fleet: Option<String>,
    /// Log errors only
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Log more; twice for all of it
    #[arg(short, long, action = ArgAction::Count)]
    pub(crate) verbose: u8,
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

/// What else it can do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Say what is wrong with a configuration file, and start nothing
    Check {
        /// The file (TOML, or PgBouncer's ini)
        file: PathBuf,
    },
}

/// Pool modes.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Mode {
    /// When the client leaves
    Session,
    /// When its transaction ends
    Transaction,
    /// When its statement ends
    Statement,
}

impl Args {
    /// Is it a file, not a URL, that says what to do?
    pub(crate) fn is_file(&self) -> bool {
        self.config.is_some() || self.target.as_ref().is_some_and(|t| !t.contains("://"))
    }
}
