//! Holds the lexer against what PostgreSQL says: stands between the clients of a command and PostgreSQL, reads every text
//! as the pooler would, lets it run, and asks the same connection what state its session has now. State that has changed
//! where no effect of the texts would have had it audited is a miss.
//!
//! `regress_audit PORT SERVER_PORT LOG COMMAND [ARGUMENT...]` listens on PORT of 127.0.0.1, passes all on to SERVER_PORT, runs
//! the command, and writes what it finds to the file LOG. Exit status 1: something was missed, or could not be asked, or no
//! state ever changed; 2: it could not be done. What the command's own exit status says is the caller's to judge. See
//! docs/regress.md.

mod probe;
mod proxy;
mod report;
mod verdict;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::Arc;

use report::Report;

fn main() -> ExitCode {
    let arguments = std::env::args().skip(1).collect::<Vec<_>>();
    let [port, server, log, program, rest @ ..] = arguments.as_slice() else {
        eprintln!("usage: regress_audit PORT SERVER_PORT LOG COMMAND [ARGUMENT...]");
        return ExitCode::from(2);
    };
    let (Ok(port), Ok(server)) = (port.parse(), server.parse()) else {
        eprintln!("regress_audit: a port is a number");
        return ExitCode::from(2);
    };
    match watch(port, server, Path::new(log), Command::new(program).args(rest)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("regress_audit: {error}");
            ExitCode::from(2)
        }
    }
}

/// Runs the command while its clients are served. Was all well?
fn watch(port: u16, server: u16, log: &Path, command: &mut Command) -> std::io::Result<bool> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
    let server = SocketAddr::from((Ipv4Addr::LOCALHOST, server));
    let report = Arc::new(Report::create(log)?);
    let shared = report.clone();
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let report = shared.clone();
            std::thread::spawn(move || proxy::serve(client, server, &report));
        }
    });
    command.status()?;
    report.finish()?;
    Ok(report.is_good())
}
