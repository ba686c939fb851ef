//! How long reading takes: `cargo run --release -p pgsluice-sql --example speed`.

use std::hint::black_box;
use std::time::Instant;

use pgsluice_sql::{Suspects, may_end_transaction, read};

const TEXTS: [&str; 5] = [
    "SELECT 1",
    "SELECT abalance FROM pgbench_accounts WHERE aid = 123456;",
    "UPDATE pgbench_accounts SET abalance = abalance + -3456 WHERE aid = 123456;",
    "INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES (1, 2, 123456, -3456, CURRENT_TIMESTAMP);",
    "SELECT u.id, u.email, u.created_at, coalesce(p.name, 'nobody') AS name, count(o.id) FILTER (WHERE o.paid) AS orders \
     FROM users u LEFT JOIN profiles p ON p.user_id = u.id LEFT JOIN orders o ON o.user_id = u.id AND o.created_at > $1 \
     WHERE u.tenant_id = $2 AND u.email LIKE '%' || $3 || '%' GROUP BY u.id, p.name ORDER BY u.created_at DESC LIMIT 50",
];

fn main() {
    let suspects = Suspects::from_rows([[&b"unknown"[..], b"suspect", b""]]);
    println!("{:>6} {:>10} {:>14} {:>12}", "bytes", "read, ns", "suspects, ns", "ends, ns");
    for text in TEXTS {
        let text = text.as_bytes();
        let plain = nanoseconds(|| read(black_box(text), None).effects);
        let watched = nanoseconds(|| read(black_box(text), Some(&suspects)).effects);
        let ends = nanoseconds(|| may_end_transaction(black_box(text)));
        println!("{:>6} {plain:>10.1} {watched:>14.1} {ends:>12.1}", text.len());
    }
}

/// The best of ten runs, of one call.
fn nanoseconds<T>(call: impl Fn() -> T) -> f64 {
    const CALLS: u32 = 200_000;
    let run = || {
        let start = Instant::now();
        for _ in 0..CALLS {
            black_box(call());
        }
        start.elapsed().as_secs_f64() * 1e9 / f64::from(CALLS)
    };
    (0..10).map(|_| run()).fold(f64::INFINITY, f64::min)
}
