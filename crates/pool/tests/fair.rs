//! Fair shares against what they are by definition, and the broker's way of giving them out over time.

use std::time::{Duration, Instant};

use pgsluice_pool::fair::{Claim, shares};
use pgsluice_pool::{Action, Broker, Budget, CatalogLimits, ClusterId, Demand, Limits, PoolId, PoolLimits};
use proptest::collection::vec;
use proptest::prelude::*;

/// The same by the definition, in steps of a part of a server: of all who may have one more, the poorest by weight gets it;
/// minimums before anything else.
fn naive(claims: &[Claim], caps: &[u32], parts: u32) -> Vec<f64> {
    let mut had = vec![0u64; claims.len()];
    let one = u64::from(parts);
    for minimums in [true, false] {
        loop {
            let may = |&i: &usize| {
                let claim = &claims[i];
                let most = if minimums { claim.minimum.min(claim.need) } else { claim.need };
                let under = |cap: usize| {
                    (0..claims.len()).filter(|&j| claims[j].caps.contains(&cap)).map(|j| had[j]).sum::<u64>()
                };
                had[i] < u64::from(most) * one && claim.caps.iter().all(|&cap| under(cap) < u64::from(caps[cap]) * one)
            };
            let level = |&i: &usize| (had[i] * 1_000_000 / u64::from(claims[i].weight), claims[i].weight);
            let Some(poorest) = (0..claims.len()).filter(may).min_by_key(level) else { break };
            had[poorest] += 1;
        }
    }
    had.iter().map(|&parts_had| parts_had as f64 / f64::from(parts)).collect()
}

fn claims() -> impl Strategy<Value = (Vec<Claim>, Vec<u32>)> {
    let claim = (0..9u32, 0..4u32, 1..5u32, any::<[bool; 2]>()).prop_map(|(need, minimum, weight, under)| {
        let caps = (0..3).filter(|&cap| cap == 0 || under[cap - 1]).collect();
        Claim { need, minimum, weight, caps }
    });
    (vec(claim, 1..6), vec(0..14u32, 3..4))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn shares_are_what_the_definition_says((claims, caps) in claims()) {
        let (fast, slow) = (shares(&claims, &caps), naive(&claims, &caps, 60));
        // Each of the naive way's steps can go to one claim or another, and a limit passes that on.
        let near = fast.iter().zip(&slow).all(|(a, b)| (a - b).abs() < 0.3);
        prop_assert!(near, "{fast:?} is not {slow:?} of {claims:?} under {caps:?}");
    }

    #[test]
    fn no_share_can_grow_at_the_expense_of_richer_ones_only((claims, caps) in claims()) {
        let shares = shares(&claims, &caps);
        let sum = |cap: usize| claims.iter().zip(&shares).filter(|(c, _)| c.caps.contains(&cap)).map(|(_, s)| s).sum::<f64>();
        for (cap, &limit) in caps.iter().enumerate() {
            prop_assert!(sum(cap) <= f64::from(limit) + 1e-6);
        }
        for (claim, share) in claims.iter().zip(&shares) {
            prop_assert!(*share <= f64::from(claim.need) + 1e-6);
            let level = share / f64::from(claim.weight);
            let richer = |cap: usize| claims.iter().zip(&shares).any(|(c, s)| {
                c.caps.contains(&cap) && *s > f64::from(c.minimum) + 1e-6 && s / f64::from(c.weight) > level + 1e-6
            });
            let stopped = |&cap: &usize| sum(cap) + 1e-6 >= f64::from(caps[cap]) && !richer(cap);
            let has_all = share + 1e-6 >= f64::from(claim.need);
            prop_assert!(has_all || claim.caps.iter().any(stopped), "{claim:?} has {share} of {shares:?}");
        }
    }
}

/// Pools whose clients always wait, over time: everybody obeys the broker at once, and logins take `login`.
struct Busy {
    broker: Broker,
    pools: Vec<PoolId>,
    open: Vec<u32>,
    logins: Vec<(Instant, PoolId)>,
    now: Instant,
    login: Duration,
    /// Server-seconds had by each pool.
    had: Vec<f64>,
    opened: u32,
}

const STEP: Duration = Duration::from_millis(20);

impl Busy {
    fn new(servers: u32, pools: Vec<PoolLimits>) -> Self {
        let mut broker = Broker::new(1);
        let mut budget = Budget::new(0, None);
        budget.set_limits(Limits { max_connections: servers + 1, superuser_reserved: 0, reserved: 0, others: 0 }, 1);
        let cluster = broker.add_cluster(budget, 8);
        let pools: Vec<_> = pools.into_iter().map(|limits| broker.add_pool(cluster, limits)).collect();
        let (open, had) = (vec![0; pools.len()], vec![0.0; pools.len()]);
        let (now, login) = (Instant::now(), Duration::from_millis(20));
        Self { broker, pools, open, logins: Vec::new(), now, login, had, opened: 0 }
    }

    fn run(&mut self, seconds: u64) {
        self.had.fill(0.0);
        self.opened = 0;
        let end = self.now + Duration::from_secs(seconds);
        while self.now < end {
            self.now += STEP;
            let (now, login) = (self.now, self.login);
            for (_, pool) in self.logins.extract_if(.., |(since, _)| now - *since >= login) {
                self.open[pool.0] += 1;
                self.broker.handle_connected(pool, 0, now);
            }
            for &pool in &self.pools {
                self.broker.set_demand(pool, 0, Demand { waiting: 20, oldest: Some(now), ..Demand::default() });
                self.had[pool.0] += f64::from(self.open[pool.0]) * STEP.as_secs_f64();
            }
            self.broker.tick();
            while let Some(action) = self.broker.poll_action(now) {
                match action {
                    Action::Connect { pool, .. } => {
                        self.opened += 1;
                        self.logins.push((now, pool));
                    }
                    Action::Shed { pool, .. } => {
                        self.open[pool.0] -= 1;
                        self.broker.handle_closed(pool, 0, true);
                    }
                }
            }
        }
    }
}

fn pool(name: &str, weight: u32) -> PoolLimits {
    PoolLimits { size: 20, weight, database: (name.into(), 0), user: (name.into(), 0), ..PoolLimits::default() }
}

/// Jain's index of fairness: 1 when all have the same.
fn jain(had: &[f64]) -> f64 {
    let (sum, squares) = had.iter().fold((0.0, 0.0), |(sum, squares), x| (sum + x, squares + x * x));
    sum * sum / (had.len() as f64 * squares)
}

#[test]
fn a_part_of_a_server_is_had_in_turns() {
    for (servers, count) in [(23, 12), (8, 3), (3, 5), (1, 7), (2, 40)] {
        let mut busy = Busy::new(servers, (0..count).map(|i| pool(&format!("p{i}"), 1)).collect());
        busy.run(20);
        busy.run(200);
        assert!(jain(&busy.had) > 0.98, "{count} pools on {servers}: {:?}", busy.had);
        let used = busy.had.iter().sum::<f64>() / 200.0 / f64::from(servers);
        assert!(used > 0.9, "{count} pools on {servers}: {used} of the servers' time is of use");
        assert!(busy.opened <= servers * 2 * 200, "{} logins", busy.opened);
    }
}

#[test]
fn weights_are_honoured_over_time() {
    for (servers, weights) in [(7, &[1, 2, 3][..]), (3, &[1, 3]), (2, &[1, 1, 2, 4])] {
        let mut busy = Busy::new(servers, weights.iter().map(|&w| pool(&format!("w{w}"), w)).collect());
        busy.run(20);
        busy.run(300);
        let sum: f64 = busy.had.iter().sum();
        let weighed = f64::from(weights.iter().sum::<u32>());
        for (had, &weight) in busy.had.iter().zip(weights) {
            let due = sum * f64::from(weight) / weighed;
            assert!((had / due - 1.0).abs() < 0.1, "weights {weights:?} on {servers}: {:?}", busy.had);
        }
    }
}

#[test]
fn where_logins_are_slow_servers_change_hands_rarely() {
    let mut busy = Busy::new(4, (0..6).map(|i| pool(&format!("p{i}"), 1)).collect());
    busy.login = Duration::from_secs(1);
    busy.run(60);
    busy.run(600);
    let used = busy.had.iter().sum::<f64>() / 600.0 / 4.0;
    assert!(used > 0.8 && jain(&busy.had) > 0.95, "{used} of the time is of use: {:?}", busy.had);
}

#[test]
fn limits_of_the_catalog_hold_for_the_pools_of_a_role_and_of_a_database() {
    let under = |database: &str, user: &str| PoolLimits {
        user: (user.into(), 0),
        dbname: database.into(),
        ..pool(&format!("{database}/{user}"), 1)
    };
    let mut busy = Busy::new(20, vec![under("a", "x"), under("a", "y"), under("b", "x"), under("b", "y")]);
    let limits = CatalogLimits { databases: [("a".to_owned(), 4)].into(), roles: [("y".to_owned(), 3)].into() };
    busy.broker.set_catalog_limits(ClusterId(0), limits);
    busy.run(5);
    busy.run(100);
    let had: Vec<_> = busy.had.iter().map(|seconds| seconds / 100.0).collect();
    // Of "y"'s three servers, half are for "a", which has four: the rest of these are for "x".
    let due = [2.5, 1.5, 14.5, 1.5];
    assert!(had.iter().zip(due).all(|(had, due)| (had - due).abs() < 0.4), "{had:?} is not {due:?}");
    assert_eq!(busy.broker.catalog_limit(PoolId(1)), Some(3));
    assert_eq!(busy.broker.catalog_limit(PoolId(2)), None);
}

#[test]
fn a_minimum_is_had_before_others_get_more() {
    let mut busy = Busy::new(9, vec![PoolLimits { min: 5, ..pool("m", 1) }, pool("a", 1), pool("b", 1)]);
    busy.run(5);
    busy.run(50);
    let had: Vec<_> = busy.had.iter().map(|seconds| (seconds / 50.0).round() as u32).collect();
    assert_eq!(had, [5, 2, 2]);
}
