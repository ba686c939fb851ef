//! The program: arguments, logging, exit codes.

mod args;
mod log;

use std::path::Path;
use std::process::ExitCode;

use args::{Args, Command};
use clap::Parser;
use pgsluice_config::{Config, PoolMode, Problem, Problems, Warning};
use pgsluice_proxy::Source;

/// Exit code for a configuration that cannot be used.
const BAD_CONFIG: u8 = 2;

fn main() -> ExitCode {
    let args = Args::parse();
    if let Some(Command::Check { file }) = &args.command {
        return check(file);
    }
    match configure(&args) {
        Ok((config, warnings, source)) => start(&args, config, &warnings, source),
        Err(problems) => complain(&problems),
    }
}

fn complain(problems: &Problems) -> ExitCode {
    eprintln!("{problems}");
    ExitCode::from(BAD_CONFIG)
}

fn check(file: &Path) -> ExitCode {
    match pgsluice_config::load(file) {
        Ok((config, warnings)) => {
            warnings.iter().for_each(|warning| eprintln!("{warning}"));
            if let Err(problem) = pgsluice_proxy::check_tls(&config) {
                return complain(&Problems(vec![Problem { file: Some(file.into()), ..problem }]));
            }
            println!("{}: ok, {} databases, {} users", file.display(), config.databases.len(), config.users.len());
            ExitCode::SUCCESS
        }
        Err(problems) => complain(&problems),
    }
}

/// The configuration that the command line asks for.
fn configure(args: &Args) -> Result<(Config, Vec<Warning>, Source), Problems> {
    let (mut config, mut warnings, source) = match (&args.config, &args.target) {
        (Some(file), _) => load(file, args)?,
        (None, Some(target)) if target.contains("://") => {
            let mut url = pgsluice_config::parse_url(target)?;
            let warnings = url.find_password(&pgsluice_config::Disk);
            let listen = if args.listen.is_empty() { vec!["127.0.0.1:6432".to_owned()] } else { args.listen.clone() };
            (pgsluice_config::config_from_url(&url, &listen)?, warnings, Source::CommandLine)
        }
        (None, Some(file)) => load(Path::new(file), args)?,
        (None, None) => unreachable!("clap asks for a URL or a file"),
    };
    override_settings(args, &mut config)?;
    warnings.extend(config.check()?);
    Ok((config, warnings, source))
}

fn load(file: &Path, args: &Args) -> Result<(Config, Vec<Warning>, Source), Problems> {
    let (config, warnings) = pgsluice_config::load(file)?;
    Ok((config, warnings, Source::File { path: file.to_owned(), fleet: args.fleet.clone() }))
}

fn override_settings(args: &Args, config: &mut Config) -> Result<(), Problems> {
    let s = &mut config.settings;
    if !args.listen.is_empty() && args.is_file() {
        s.listen_addr.clone_from(&args.listen);
    }
    if let Some(size) = args.pool_size {
        s.default_pool_size = size;
    }
    if let Some(mode) = args.pool_mode {
        s.pool_mode = match mode {
            args::Mode::Session => PoolMode::Session,
            args::Mode::Transaction => PoolMode::Transaction,
            args::Mode::Statement => PoolMode::Statement,
        };
    }
    if let Some(workers) = args.workers {
        s.workers = workers;
    }
    if let Some(fleet) = &args.fleet {
        s.set("fleet", fleet).map_err(|problem| Problems(vec![problem]))?;
    }
    Ok(())
}

/// Descriptors besides those of clients and servers: listeners, epoll, log, logins under way.
const SPARE_FILES: u64 = 150;

/// As many descriptors as the system lets us have; says so if that is not enough for what is configured.
fn raise_file_limit(config: &Config) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    // If it cannot be raised it stays what it is, and the warning below tells.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let s = &config.settings;
    let needed = u64::from(s.max_client_conn) + u64::from(s.default_pool_size) + SPARE_FILES;
    if files < needed {
        tracing::warn!(
            "{files} open files are allowed and max_client_conn = {} may need {needed}: raise the limit \
             (LimitNOFILE, ulimit -n) or lower max_client_conn",
            s.max_client_conn
        );
    }
}

fn start(args: &Args, config: Config, warnings: &[Warning], source: Source) -> ExitCode {
    let level = config.settings.verbose.max(u32::from(args.verbose));
    if let Err(error) = log::init(level, args.quiet, config.settings.logfile.as_deref()) {
        eprintln!("{error}");
        return ExitCode::from(BAD_CONFIG);
    }
    if !args.quiet {
        warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    }
    raise_file_limit(&config);
    let pidfile = config.settings.pidfile.clone();
    if let Some(path) = &pidfile
        && let Err(error) = std::fs::write(path, format!("{}\n", std::process::id()))
    {
        eprintln!("{}: cannot write the pidfile: {error}", path.display());
        return ExitCode::from(BAD_CONFIG);
    }
    let outcome = pgsluice_proxy::run(config, source);
    if let Some(path) = pidfile {
        let _ = std::fs::remove_file(path);
    }
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pgsluice: {error}");
            ExitCode::FAILURE
        }
    }
}
