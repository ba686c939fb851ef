//! Background clients that keep a pool's servers changing hands while a test runs, so that state which should
//! follow its session shows when it does not. They prepare statements under the very names drivers use, with
//! other texts, and check every answer they get: a foreign answer is a failure too.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::pooler::Pooler;
use crate::postgres::Login;
use crate::wire::{Raw, message, show};

/// Names that psycopg, asyncpg, tokio-postgres, pgbench, node-postgres, JDBC, pgx and sqlx programs give their first
/// statements.
const NAMES: [&str; 9] =
    ["_pg3_0", "__asyncpg_stmt_1__", "s0", "P_0", "P0_0", "by_id", "S_1", "lrupsc_1_0", "sqlx_s_1"];

/// The running clients; stopped on drop, which fails the test if any of them saw something wrong.
pub struct Shuffle {
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Shuffle {
    /// Starts `count` clients.
    pub fn start(pooler: &Pooler, login: Login, database: &str, count: usize) -> Shuffle {
        let (stop, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let threads = (0..count).map(|number| {
            let mut raw = pooler.connect(login, database);
            let (stop, rounds) = (Arc::clone(&stop), Arc::clone(&rounds));
            std::thread::spawn(move || {
                prepare(&mut raw, number);
                while !stop.load(Ordering::Relaxed) {
                    let round = rounds.fetch_add(1, Ordering::Relaxed);
                    step(&mut raw, number, round);
                    std::thread::sleep(Duration::from_millis(round % 4));
                }
            })
        });
        Shuffle { threads: threads.collect(), stop, rounds }
    }

    /// How many rounds they have made so far.
    pub fn rounds(&self) -> u64 {
        self.rounds.load(Ordering::Relaxed)
    }

    /// Ends the clients and returns how many rounds they made.
    ///
    /// # Panics
    /// When one of them saw an error or an answer that was not its own.
    pub fn finish(mut self) -> u64 {
        self.join();
        self.rounds()
    }

    fn join(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let outcome = thread.join();
            assert!(outcome.is_ok() || std::thread::panicking(), "a background client saw something wrong");
        }
    }
}

impl Drop for Shuffle {
    fn drop(&mut self) {
        self.join();
    }
}

fn prepare(raw: &mut Raw, number: usize) {
    for name in NAMES {
        let sql = format!("SELECT 'shuffle {number} {name}', $1::int");
        let replies = raw.exchange(&[message::parse(name, &sql, &[]), message::sync()].concat());
        assert_eq!(show(&replies), ["1", "Z I"]);
    }
}

fn step(raw: &mut Raw, number: usize, round: u64) {
    let value = round.to_string();
    match round % 3 {
        0 => assert_eq!(raw.value(&format!("SELECT 'mine {number} {round}'")), format!("mine {number} {round}")),
        1 => {
            let name = NAMES[(round / 3) as usize % NAMES.len()];
            let batch = [message::bind("", name, &[Some(&value)]), message::execute("", 0), message::sync()].concat();
            let expected =
                ["2".into(), format!("D shuffle {number} {name}|{value}"), "C SELECT 1".into(), "Z I".into()];
            assert_eq!(show(&raw.exchange(&batch)), expected);
        }
        _ => {
            raw.run("BEGIN");
            let first = raw.value("SELECT pg_backend_pid()");
            assert_eq!(raw.value("SELECT pg_backend_pid()"), first, "one transaction, one server");
            raw.run("COMMIT");
        }
    }
}
