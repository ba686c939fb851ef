//! What the figures were measured on: processor, kernel, versions, load.

use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;

use crate::bench::Bench;

/// The first lines of the report. Some parts do without PgBouncer; those that do not say what is wrong with it.
///
/// # Errors
/// When pgsluice cannot be run.
pub(crate) fn describe(bench: &Bench) -> io::Result<String> {
    let pgsluice = version(&bench.pgsluice)?;
    let pgbouncer = version(&bench.pgbouncer).unwrap_or_else(|_| "no PgBouncer".into());
    Ok(format!(
        "{pgsluice} against {pgbouncer}, {} pairs of {:.1} s per row.\n\n{} × {}, Linux {}, load average {}.",
        bench.rounds,
        bench.duration.as_secs_f64(),
        std::thread::available_parallelism().map_or(0, usize::from),
        processor(),
        first_line("/proc/sys/kernel/osrelease"),
        load_average(),
    ))
}

/// The first line of `program --version`.
///
/// # Errors
/// When it cannot be run, with what to do.
pub(crate) fn version(program: &Path) -> io::Result<String> {
    let output = Command::new(program).arg("--version").output().map_err(|e| {
        let advice = "pgbouncer is a Debian package (apt-get install pgbouncer); pgsluice is built by `make bench`";
        io::Error::new(e.kind(), format!("{}: {e}; {advice}", program.display()))
    })?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().next().unwrap_or("unknown version").trim().to_owned())
}

/// Whether this PgBouncer takes part in prepared statements in transaction mode, which it does since 1.21.
pub(crate) fn knows_prepared_statements(version: &str) -> bool {
    let mut numbers = version.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse::<u32>().ok());
    let (major, minor) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    (major, minor) >= (1, 21)
}

/// The three load averages.
pub(crate) fn load_average() -> String {
    first_line("/proc/loadavg").split_whitespace().take(3).collect::<Vec<_>>().join(" ")
}

fn processor() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find(|l| l.starts_with("model name")).and_then(|l| l.split_once(": "));
    name.map_or("unknown processor", |(_, name)| name).to_owned()
}

fn first_line(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().lines().next().unwrap_or("?").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_pgbouncer() {
        assert!(!knows_prepared_statements("PgBouncer 1.18.0"));
        assert!(knows_prepared_statements("PgBouncer 1.21.0"));
        assert!(knows_prepared_statements("PgBouncer 2.0"));
        assert!(!knows_prepared_statements("unknown version"));
    }
}
