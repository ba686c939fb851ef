//! Where the log goes, and how much of it.

use std::fs::OpenOptions;
use std::io;
use std::path::Path;
use std::sync::Mutex;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

/// `level` is PgBouncer's `verbose`, 0 to 3; `PGSLUICE_LOG` says it in more detail.
///
/// # Errors
/// When the log file cannot be opened; the message names it.
pub(crate) fn init(level: u32, quiet: bool, file: Option<&Path>) -> io::Result<()> {
    let default = match level {
        _ if quiet => "error",
        0 => "info",
        1 => "debug",
        _ => "trace",
    };
    let filter = EnvFilter::try_from_env("PGSLUICE_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let to_terminal = file.is_none() && io::IsTerminal::is_terminal(&io::stderr());
    let writer = match file {
        None => BoxMakeWriter::new(io::stderr),
        Some(path) => {
            let opened = OpenOptions::new().create(true).append(true).open(path);
            let named =
                |e: io::Error| io::Error::new(e.kind(), format!("{}: cannot open the logfile: {e}", path.display()));
            BoxMakeWriter::new(Mutex::new(opened.map_err(named)?))
        }
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_ansi(to_terminal)
        .with_writer(writer)
        .init();
    Ok(())
}
