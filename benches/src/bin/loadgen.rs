//! The load generator as a program of its own: for trying a pooler by hand, and for loads that the comparison does
//! not cover. What it measures and how is the library's `load`.

use std::io;
use std::time::Duration;

use clap::Parser;
use pgsluice_benches::load::{Load, Mode, Report, Script, Target, open_idle, run};
use pgsluice_benches::login::Credentials;
use pgsluice_benches::net::Addr;
use pgsluice_benches::usage;

/// A load generator for PostgreSQL servers and poolers.
///
/// Opens --clients connections. Each sends a request, waits for its ReadyForQuery, and sends the next. With --rate
/// the requests follow a Poisson schedule instead, and latency counts from when a request was due.
#[derive(Parser)]
struct Options {
    /// ADDRESS:PORT or unix:PATH.
    #[arg(long, default_value = "127.0.0.1:6432")]
    connect: Addr,
    /// Role name.
    #[arg(long, default_value = "postgres")]
    user: String,
    /// Database name.
    #[arg(long, default_value = "postgres")]
    database: String,
    /// Password, if the server asks for one.
    #[arg(long, default_value = "")]
    password: String,
    /// Connections under load.
    #[arg(long, default_value_t = 16)]
    clients: usize,
    /// Generator threads.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Seconds that are measured.
    #[arg(long, default_value_t = 5.0)]
    duration: f64,
    /// Seconds before that.
    #[arg(long, default_value_t = 1.0)]
    warmup: f64,
    /// simple, extended (unnamed), prepared (named, parsed once per connection) or transaction (three requests).
    #[arg(long, default_value = "simple")]
    mode: Mode,
    /// The statement.
    #[arg(long, default_value = "SELECT 1")]
    query: String,
    /// Requests sent at once.
    #[arg(long, default_value_t = 1)]
    pipeline: u32,
    /// Open loop: transactions per second of all connections together.
    #[arg(long)]
    rate: Option<f64>,
    /// Further connections that run one query and then stay idle.
    #[arg(long, default_value_t = 0)]
    idle: usize,
    /// Report CPU per request and memory of this process (repeatable).
    #[arg(long)]
    watch: Vec<u32>,
}

impl Options {
    fn load(&self) -> Load {
        let credentials =
            Credentials { user: self.user.clone(), database: self.database.clone(), password: self.password.clone() };
        Load {
            target: Target { addr: self.connect.clone(), credentials, tls: None },
            script: Script::new(self.mode, &self.query, self.pipeline.max(1)),
            clients: self.clients,
            threads: self.threads,
            warmup: Duration::from_secs_f64(self.warmup),
            duration: Duration::from_secs_f64(self.duration),
            rate: self.rate,
            watch: self.watch.clone(),
        }
    }
}

fn main() -> io::Result<()> {
    let options = Options::parse();
    usage::raise_open_files(65_536);
    let load = options.load();
    let idle = open_idle(&load.target, options.idle, &load.script)?;
    let report = run(&load)?;
    println!("{}, {} clients (+{} idle)", options.mode, options.clients, idle.len());
    print(&report, &options.watch);
    Ok(())
}

fn print(report: &Report, watch: &[u32]) {
    let q = |p| report.latency.quantile_us(p);
    println!(
        "{:.0} requests/s, {} requests, {} errors, {} late",
        report.rate(),
        report.requests,
        report.errors,
        report.late
    );
    println!(
        "latency us: p50 {:.1}  p90 {:.1}  p99 {:.1}  p99.9 {:.1}  max {:.1}",
        q(0.5),
        q(0.9),
        q(0.99),
        q(0.999),
        report.latency.max_us()
    );
    for (pid, (spent, usage)) in watch.iter().zip(&report.watched) {
        println!(
            "process {pid}: {:.2} us CPU per request (user {:.2}), {:.3} context switches, {} threads, RSS {} KiB",
            spent.cpu_us, spent.user_us, spent.switches, usage.threads, usage.rss_kib
        );
    }
}
