//! Where the log goes, and how much of it.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Mutex;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
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
        .with_writer(Lines(writer))
        .init();
    Ok(())
}

struct Lines(BoxMakeWriter);

impl<'a> MakeWriter<'a> for Lines {
    type Writer = OneLine<<BoxMakeWriter as MakeWriter<'a>>::Writer>;

    fn make_writer(&'a self) -> Self::Writer {
        OneLine(self.0.make_writer())
    }
}

/// Keeps every event on its line: it is written at once, with a line feed behind it, and whatever else in it could end a line or
/// move a terminal's cursor, such as a name that a client made up, is shown as an escape. tracing does that with ESC and its like only.
struct OneLine<W>(W);

impl<W: Write> Write for OneLine<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = event.strip_suffix(b"\n").unwrap_or(event);
        // ESC begins the colours, which are tracing's own.
        let is_harmful = |b: &u8| b.is_ascii_control() && *b != b'\t' && *b != 0x1b;
        if text.iter().any(is_harmful) {
            let mut line = Vec::with_capacity(text.len() + 8);
            for byte in text {
                if is_harmful(byte) { line.extend(byte.escape_ascii()) } else { line.push(*byte) }
            }
            line.extend_from_slice(&event[text.len()..]);
            self.0.write_all(&line)?;
        } else {
            self.0.write_all(event)?;
        }
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line_whatever_names_are_in_it() {
        let mut out = Vec::new();
        let mut line = OneLine(&mut out);
        line.write_all("client logged in user=bob\n2026 INFO client logged in user=admin\r\x08\x00 é\n".as_bytes())
            .unwrap();
        line.write_all(b"\x1b[32mcoloured\x1b[0m and\tplain\n").unwrap();
        line.flush().unwrap();
        let expected = "client logged in user=bob\\n2026 INFO client logged in user=admin\\r\\x08\\x00 é\n\
                        \x1b[32mcoloured\x1b[0m and\tplain\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}
