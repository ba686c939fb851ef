//! The load generator against the fake PostgreSQL, both as they are used: every kind of request is answered, and a
//! result has the size that was asked for.

#![allow(clippy::unwrap_used, reason = "a panic is how these tests fail")]

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use pgsluice_benches::load::{Load, Mode, Report, Script, Storm, Target, run, storm};
use pgsluice_benches::login::{Credentials, log_in};
use pgsluice_benches::net::{Addr, Stream};
use pgsluice_benches::proto;

struct FakePg {
    child: Child,
    addr: Addr,
}

impl FakePg {
    /// Another test may take the port in between: then this one's process ends, and the next port is tried.
    fn start() -> Self {
        loop {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let addr: Addr = format!("127.0.0.1:{port}").parse().unwrap();
            let mut command = Command::new(env!("CARGO_BIN_EXE_fakepg"));
            let child = command.args(["--listen", &addr.to_string()]).stderr(Stdio::null()).spawn().unwrap();
            let mut fake = Self { child, addr };
            let deadline = Instant::now() + Duration::from_secs(10);
            while Stream::connect(&fake.addr).is_err() {
                assert!(Instant::now() < deadline, "fakepg does not listen");
                std::thread::sleep(Duration::from_millis(10));
            }
            std::thread::sleep(Duration::from_millis(50));
            if fake.child.try_wait().unwrap().is_none() {
                return fake;
            }
        }
    }

    fn target(&self) -> Target {
        let credentials = Credentials { user: "u".into(), database: "d".into(), password: String::new() };
        Target { addr: self.addr.clone(), credentials, tls: None }
    }

    fn load(&self, mode: Mode, pipeline: u32, rate: Option<f64>) -> Report {
        let load = Load {
            target: self.target(),
            script: Script::new(mode, "SELECT 1", pipeline),
            clients: 8,
            threads: 2,
            warmup: Duration::from_millis(20),
            duration: Duration::from_millis(200),
            rate,
            watch: vec![self.child.id()],
        };
        run(&load).unwrap()
    }

    /// Everything that answers a query, up to ReadyForQuery.
    fn answer(&self, sql: &str) -> Vec<u8> {
        let stream = Stream::connect(&self.addr).unwrap();
        log_in(&stream, &self.target().credentials, &[]).unwrap();
        (&stream).write_all(&proto::query(sql)).unwrap();
        let (mut all, mut chunk) = (Vec::new(), [0; 65_536]);
        while !all.ends_with(b"Z\0\0\0\x05I") {
            let n = (&stream).read(&mut chunk).unwrap();
            assert!(n > 0, "closed after {} bytes", all.len());
            all.extend_from_slice(&chunk[..n]);
        }
        all
    }
}

impl Drop for FakePg {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

#[test]
fn every_kind_of_request_is_answered_and_accounted_for() {
    let fake = FakePg::start();
    for mode in [Mode::Simple, Mode::Extended, Mode::Prepared, Mode::Transaction] {
        let report = fake.load(mode, 1, None);
        assert_eq!(report.errors, 0, "{mode}");
        assert!(report.requests > 100, "{mode}: {}", report.requests);
        assert!(report.latency.total() > 100 && report.latency.quantile_us(0.5) > 0.0, "{mode}");
        assert!(report.watched[0].0.cpu_us > 0.1, "{mode}: {:?}", report.watched);
    }
}

#[test]
fn pipelined_requests_count_one_by_one() {
    let report = FakePg::start().load(Mode::Simple, 10, None);
    assert_eq!(report.requests % 10, 0);
    assert!(report.requests > report.latency.total(), "latency is per batch, requests are not");
}

#[test]
fn an_open_loop_keeps_its_rate() {
    let report = FakePg::start().load(Mode::Simple, 1, Some(500.0));
    // 100 are due on average; a Poisson process stays within five standard deviations.
    assert!((50..150).contains(&report.requests), "{}", report.requests);
}

#[test]
fn connections_that_live_for_one_query() {
    let fake = FakePg::start();
    let report = storm(&Storm {
        target: fake.target(),
        script: Script::new(Mode::Simple, "SELECT 1", 1),
        clients: 2,
        gives_way: false,
        warmup: Duration::from_millis(20),
        duration: Duration::from_millis(200),
        watch: vec![fake.child.id()],
    });
    assert!(report.unwrap().requests > 20);
}

#[test]
fn results_have_the_size_that_was_asked_for() {
    let fake = FakePg::start();
    let small = fake.answer("SELECT 1").len();
    let large = fake.answer("SELECT repeat('x', 102400)").len();
    assert_eq!(large - small, 102_400 - 40);
    let copied = fake.answer("COPY (SELECT 1000) TO STDOUT");
    assert_eq!(copied.iter().filter(|b| **b == b'\n').count(), 10);
    assert!(copied.windows(7).any(|w| w == b"COPY 10"));
}

#[test]
fn several_statements_in_one_query_are_answered_one_by_one_and_a_new_time_zone_is_reported() {
    let fake = FakePg::start();
    let sql = "RESET ALL;SELECT pg_catalog.set_config('timezone','Asia/Tokyo',false);COMMIT";
    let answer = String::from_utf8_lossy(&fake.answer(sql)).into_owned();
    let places = ["SET\0", "SELECT 1\0", "COMMIT\0", "TimeZone\0Asia/Tokyo\0"].map(|part| answer.find(part).unwrap());
    assert!(places.is_sorted(), "{answer:?}");
}
