//! What a server's way costs in instructions: `pool_instructions SCENARIO N` does a thing N times, to be counted from outside
//! (`scripts/instructions.sh`); without arguments it names the scenarios, with what each is counted by.

use std::error::Error;
use std::hint::black_box;
use std::time::{Duration, Instant};

use pgsluice_pool::{Broker, Budget, Checkin, Checkout, Demand, Limits, Pool, PoolLimits};

type Outcome = Result<(), Box<dyn Error>>;

/// A name, what one of it is, and what does so many.
type Scenario = (&'static str, &'static str, fn(u32) -> Outcome);

const SCENARIOS: &[Scenario] = &[
    ("pool_idle", "server taken from twenty idle ones and given back", idle),
    (
        "pool_queue",
        "server that comes back and goes to the first of a hundred who wait, and another who comes to wait",
        queue,
    ),
    ("broker_demand", "change of what one of a thousand pools wants, and that there is nothing to do about it", demand),
];

fn main() -> Outcome {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [name, count] = arguments.as_slice() else {
        SCENARIOS.iter().for_each(|(name, what, _)| println!("{name}\t{what}"));
        return Ok(());
    };
    let (.., run) = SCENARIOS.iter().find(|(known, ..)| known == name).ok_or("no such scenario")?;
    run(count.parse()?)
}

fn idle(n: u32) -> Outcome {
    let (mut pool, now) = (Pool::<Box<u32>, u32>::new(false), Instant::now());
    (0..20).for_each(|number| drop(pool.add(Box::new(number), now)));
    for client in 0..n {
        match pool.checkout(client, now, |server| **black_box(server) > 100) {
            Checkout::Server(server) => drop(black_box(pool.checkin(server, now))),
            Checkout::Wait(_) => return Err("there are idle ones".into()),
        }
    }
    Ok(())
}

fn queue(n: u32) -> Outcome {
    let (mut pool, now) = (Pool::<Box<u32>, u32>::new(false), Instant::now());
    pool.add(Box::new(0), now);
    let Checkout::Server(mut server) = pool.checkout(0, now, |_| true) else { return Err("it is idle".into()) };
    (0..100).for_each(|client| drop(pool.checkout(client, now, |_| true)));
    for client in 0..n {
        let Checkin::Grant(waiter, granted) = pool.checkin(server, now) else { return Err("somebody waits".into()) };
        server = granted;
        black_box((waiter, pool.checkout(client, now, |_| true)));
    }
    Ok(())
}

fn demand(n: u32) -> Outcome {
    let (mut broker, now) = (Broker::new(1), Instant::now());
    let mut budget = Budget::new(0, None);
    budget.set_limits(Limits { max_connections: 100, superuser_reserved: 3, reserved: 0, others: 0 }, 1);
    let cluster = broker.add_cluster(budget, 100);
    let limits = || PoolLimits { size: 20, retry_max: Duration::from_secs(3), ..PoolLimits::default() };
    let pools: Vec<_> = (0..1_000).map(|_| broker.add_pool(cluster, limits())).collect();
    for number in 0..n {
        let pool = pools[number as usize % pools.len()];
        broker.set_demand(pool, 0, Demand::default());
        if black_box(broker.poll_action(now)).is_some() {
            return Err("nobody waits".into());
        }
    }
    Ok(())
}
