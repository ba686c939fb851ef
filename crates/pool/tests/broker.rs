//! The broker, alone and against random histories.

use std::time::{Duration, Instant};

use pgsluice_pool::{Action, Broker, Budget, ClusterId, Demand, Failure, Limits, PoolId, PoolLimits, ShedTo};
use proptest::collection::vec;
use proptest::prelude::*;

fn limits(size: u32) -> PoolLimits {
    PoolLimits {
        size,
        retry_max: Duration::from_secs(3),
        database: ("d".into(), 0),
        user: ("u".into(), 0),
        ..PoolLimits::default()
    }
}

fn broker(workers: usize, servers: u32, sizes: &[u32]) -> (Broker, ClusterId, Vec<PoolId>, Instant) {
    let mut broker = Broker::new(workers);
    let mut budget = Budget::new(0, None);
    budget.set_limits(Limits { max_connections: servers + 4, superuser_reserved: 3, reserved: 0, others: 0 }, 1);
    let cluster = broker.add_cluster(budget, 100);
    let pools = sizes.iter().map(|&s| broker.add_pool(cluster, limits(s))).collect();
    (broker, cluster, pools, Instant::now())
}

fn actions(broker: &mut Broker, now: Instant) -> Vec<Action> {
    std::iter::from_fn(|| broker.poll_action(now)).collect()
}

fn waiting(waiting: u32) -> Demand {
    Demand { waiting, ..Demand::default() }
}

fn since(waiting: u32, oldest: Instant) -> Demand {
    Demand { waiting, oldest: Some(oldest), ..Demand::default() }
}

fn spare(spare: u32, since: Instant) -> Demand {
    Demand { spare, spare_since: Some(since), ..Demand::default() }
}

#[test]
fn demand_opens_servers_up_to_the_pool_size() {
    let (mut broker, _, pools, now) = broker(1, 50, &[3]);
    broker.set_demand(pools[0], 0, waiting(10));
    let connect = Action::Connect { pool: pools[0], worker: 0 };
    assert_eq!(actions(&mut broker, now), [connect; 3]);
    broker.set_demand(pools[0], 0, waiting(12));
    assert_eq!(actions(&mut broker, now), [], "nothing is ordered twice");
}

#[test]
fn a_waiting_pool_takes_from_one_that_is_idle_then_from_one_that_has_more() {
    let (mut broker, _, pools, now) = broker(1, 4, &[10, 10]);
    broker.set_demand(pools[0], 0, waiting(9));
    assert_eq!(actions(&mut broker, now).len(), 4);
    (0..4).for_each(|_| broker.handle_connected(pools[0], 0, now));
    actions(&mut broker, now);
    broker.set_demand(pools[0], 0, waiting(5));
    assert_eq!(actions(&mut broker, now), []);
    broker.set_demand(pools[1], 0, waiting(7));
    let shed = Action::Shed { pool: pools[0], worker: 0, to: ShedTo::Close };
    assert_eq!(actions(&mut broker, now), [shed; 2], "busy, but it has more than a fair share");
    let connect = Action::Connect { pool: pools[1], worker: 0 };
    for _ in 0..2 {
        broker.handle_closed(pools[0], 0, true);
        assert_eq!(actions(&mut broker, now), [connect]);
        broker.handle_connected(pools[1], 0, now);
    }
    broker.set_demand(pools[0], 0, waiting(5));
    assert_eq!(actions(&mut broker, now), [], "two to two is fair");
}

#[test]
fn a_pool_that_is_busy_and_has_its_share_keeps_it_where_another_has_servers_to_spare() {
    let (mut broker, _, pools, now) = broker(1, 9, &[10, 10, 10]);
    for pool in &pools {
        broker.set_demand(*pool, 0, waiting(3));
        assert_eq!(actions(&mut broker, now).len(), 3);
        (0..3).for_each(|_| broker.handle_connected(*pool, 0, now));
    }
    // Nobody waits for the first pool, but its servers are in use; one of the second's is not.
    broker.set_demand(pools[1], 0, spare(1, now));
    broker.set_demand(pools[2], 0, waiting(3));
    let shed = Action::Shed { pool: pools[1], worker: 0, to: ShedTo::Close };
    assert_eq!(actions(&mut broker, now), [shed]);
    broker.handle_closed(pools[1], 0, true);
    assert_eq!(actions(&mut broker, now), [Action::Connect { pool: pools[2], worker: 0 }]);
    broker.handle_connected(pools[2], 0, now);
    assert_eq!(actions(&mut broker, now), [], "3, 2 and 4: who wants more has more than they have");
}

#[test]
fn the_longest_idle_server_of_all_pools_goes_first() {
    let (mut broker, _, pools, now) = broker(1, 6, &[10, 10, 10]);
    for pool in &pools[..2] {
        broker.set_demand(*pool, 0, waiting(3));
        assert_eq!(actions(&mut broker, now).len(), 3);
        (0..3).for_each(|_| broker.handle_connected(*pool, 0, now));
    }
    broker.set_demand(pools[0], 0, spare(3, now + Duration::from_secs(1)));
    broker.set_demand(pools[1], 0, spare(1, now));
    broker.set_demand(pools[2], 0, waiting(1));
    let shed = Action::Shed { pool: pools[1], worker: 0, to: ShedTo::Close };
    assert_eq!(actions(&mut broker, now + Duration::from_secs(2)), [shed]);
}

#[test]
fn workers_share_a_pool() {
    let (mut broker, _, pools, now) = broker(2, 50, &[4]);
    broker.set_demand(pools[0], 0, waiting(9));
    assert_eq!(actions(&mut broker, now).len(), 4);
    (0..4).for_each(|_| broker.handle_connected(pools[0], 0, now));
    actions(&mut broker, now);
    broker.set_demand(pools[0], 1, waiting(9));
    let shed = Action::Shed { pool: pools[0], worker: 0, to: ShedTo::Worker(1) };
    assert_eq!(actions(&mut broker, now)[0], shed);
    broker.handle_moved(pools[0], 0, 1);
    actions(&mut broker, now);
    assert_eq!(broker.pool_servers(pools[0]), 4, "a move changes nobody's budget");
}

#[test]
fn where_limits_are_unknown_a_refusal_for_want_of_slots_shows_one() {
    let mut broker = Broker::new(1);
    let cluster = broker.add_cluster(Budget::new(3, None), 100);
    let (pool, now) = (broker.add_pool(cluster, limits(20)), Instant::now());
    broker.set_demand(pool, 0, waiting(3));
    assert_eq!(actions(&mut broker, now).len(), 3);
    broker.handle_connected(pool, 0, now);
    broker.handle_failed(pool, 0, Failure::Full, now, 0.5);
    broker.handle_failed(pool, 0, Failure::Full, now, 0.5);
    let later = now + Duration::from_secs(60);
    broker.set_demand(pool, 0, waiting(3));
    assert_eq!(actions(&mut broker, later), [], "one is what PostgreSQL showed to be possible");
    broker.budget_mut(cluster).set_unknown();
    broker.tick();
    assert_eq!(actions(&mut broker, later).len(), 1, "until it is probed again");
}

#[test]
fn a_refusal_for_one_role_leaves_the_other_pools_alone() {
    let (mut broker, _, pools, now) = broker(1, 50, &[20, 20]);
    broker.set_demand(pools[0], 0, waiting(2));
    assert_eq!(actions(&mut broker, now).len(), 2);
    broker.handle_failed(pools[0], 0, Failure::Full, now, 0.5);
    broker.set_demand(pools[1], 0, waiting(3));
    let connect = Action::Connect { pool: pools[1], worker: 0 };
    assert_eq!(actions(&mut broker, now), [connect; 3]);
}

#[test]
fn failed_logins_pause_and_then_are_tried_again() {
    let (mut broker, _, pools, now) = broker(1, 50, &[20]);
    broker.set_demand(pools[0], 0, waiting(1));
    assert_eq!(actions(&mut broker, now).len(), 1);
    broker.handle_failed(pools[0], 0, Failure::Other, now, 1.0);
    assert_eq!(actions(&mut broker, now), []);
    for (ms, orders) in [(99, 0), (101, 1)] {
        broker.tick();
        assert_eq!(actions(&mut broker, now + Duration::from_millis(ms)).len(), orders);
    }
}

#[test]
fn the_reserve_is_for_those_who_waited_long() {
    let (mut broker, _, pools, now) = broker(1, 50, &[1]);
    let reserve = PoolLimits { reserve: 2, reserve_timeout: Duration::from_secs(5), ..limits(1) };
    broker.configure_pool(pools[0], reserve);
    broker.set_demand(pools[0], 0, since(9, now));
    assert_eq!(actions(&mut broker, now).len(), 1);
    broker.set_demand(pools[0], 0, since(9, now));
    assert_eq!(actions(&mut broker, now + Duration::from_secs(5)).len(), 2);
}

#[test]
fn a_pool_that_may_be_no_larger_gives_up_what_it_has_too_many() {
    let (mut broker, _, pools, now) = broker(1, 50, &[5]);
    broker.set_demand(pools[0], 0, waiting(9));
    assert_eq!(actions(&mut broker, now).len(), 5);
    (0..5).for_each(|_| broker.handle_connected(pools[0], 0, now));
    actions(&mut broker, now);
    broker.configure_pool(pools[0], limits(3));
    broker.tick();
    let shed = Action::Shed { pool: pools[0], worker: 0, to: ShedTo::Close };
    assert_eq!(actions(&mut broker, now), [shed; 2]);
}

#[test]
fn limits_of_a_database_hold_over_its_pools() {
    let (mut broker, _, pools, now) = broker(1, 50, &[5, 5]);
    for &pool in &pools {
        broker.configure_pool(pool, PoolLimits { database: ("d".into(), 6), ..limits(5) });
    }
    broker.set_demand(pools[0], 0, waiting(9));
    broker.set_demand(pools[1], 0, waiting(9));
    assert_eq!(actions(&mut broker, now).iter().filter(|a| matches!(a, Action::Connect { .. })).count(), 6);
}

#[test]
fn minimums_are_filled_and_an_overdrawn_budget_is_paid_back() {
    let (mut broker, cluster, pools, now) = broker(1, 50, &[20]);
    broker.configure_pool(pools[0], PoolLimits { min: 4, ..limits(20) });
    broker.tick();
    assert_eq!(actions(&mut broker, now).len(), 4);
    (0..4).for_each(|_| broker.handle_connected(pools[0], 0, now));
    broker
        .budget_mut(cluster)
        .set_limits(Limits { max_connections: 6, superuser_reserved: 3, reserved: 0, others: 0 }, 1);
    broker.tick();
    let shed = Action::Shed { pool: pools[0], worker: 0, to: ShedTo::Close };
    assert_eq!(actions(&mut broker, now), [shed; 2]);
}

/// What may happen to the broker.
#[derive(Clone, Debug)]
enum Event {
    Demand(usize, usize, u32),
    Finish(bool),
    Fail(bool),
    Shed(bool),
    Lose(usize, usize),
    Budget(u32),
    Time(u64),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        (0..3usize, 0..2usize, 0..8u32).prop_map(|(p, w, n)| Event::Demand(p, w, n)),
        any::<bool>().prop_map(Event::Finish),
        any::<bool>().prop_map(Event::Fail),
        any::<bool>().prop_map(Event::Shed),
        (0..3usize, 0..2usize).prop_map(|(p, w)| Event::Lose(p, w)),
        (0..12u32).prop_map(Event::Budget),
        (0..5000u64).prop_map(Event::Time),
    ]
}

/// A world that obeys the broker: what is open, being opened, and to be shed.
struct World {
    broker: Broker,
    cluster: ClusterId,
    pools: Vec<PoolId>,
    open: [[u32; 2]; 3],
    connecting: Vec<(usize, usize)>,
    sheds: Vec<(usize, usize, ShedTo)>,
    allowed: u32,
    now: Instant,
}

impl World {
    fn new() -> Self {
        let (broker, cluster, pools, now) = broker(2, 8, &[5, 5, 3]);
        Self { broker, cluster, pools, open: [[0; 2]; 3], connecting: vec![], sheds: vec![], allowed: 8, now }
    }

    fn total(&self) -> u32 {
        self.open.iter().flatten().sum::<u32>() + self.connecting.len() as u32
    }

    fn apply(&mut self, event: &Event) {
        let (b, now) = (&mut self.broker, self.now);
        match *event {
            Event::Demand(p, w, n) => b.set_demand(self.pools[p], w, waiting(n)),
            Event::Finish(_) if self.connecting.is_empty() => {}
            Event::Finish(last) => {
                let (p, w) = self.connecting.remove(if last { self.connecting.len() - 1 } else { 0 });
                self.open[p][w] += 1;
                b.handle_connected(self.pools[p], w, now);
            }
            Event::Fail(full) => {
                if let Some((p, w)) = self.connecting.pop() {
                    let failure = if full { Failure::Full } else { Failure::Other };
                    b.handle_failed(self.pools[p], w, failure, now, 0.3);
                }
            }
            Event::Shed(expire) => {
                let due = self.sheds.iter().position(|&(p, w, _)| expire || self.open[p][w] > 0);
                let Some((p, w, to)) = due.map(|i| self.sheds.remove(i)) else { return };
                match to {
                    _ if expire => b.handle_shed_expired(self.pools[p], w, to),
                    ShedTo::Close => {
                        self.open[p][w] -= 1;
                        b.handle_closed(self.pools[p], w, true);
                    }
                    ShedTo::Worker(other) => {
                        self.open[p][w] -= 1;
                        self.open[p][other] += 1;
                        b.handle_moved(self.pools[p], w, other);
                    }
                }
            }
            Event::Lose(p, w) => {
                if self.open[p][w] > 0 {
                    self.open[p][w] -= 1;
                    b.handle_closed(self.pools[p], w, false);
                }
            }
            Event::Budget(n) => {
                self.allowed = n;
                let limits = Limits { max_connections: n + 4, superuser_reserved: 3, reserved: 0, others: 0 };
                b.budget_mut(self.cluster).set_limits(limits, 1);
                b.tick();
            }
            Event::Time(ms) => {
                self.now += Duration::from_millis(ms);
                b.tick();
            }
        }
    }

    /// Carries out orders; a connection may only be ordered within the budget.
    fn obey(&mut self) -> Result<(), TestCaseError> {
        while let Some(action) = self.broker.poll_action(self.now) {
            match action {
                Action::Connect { pool, worker } => {
                    prop_assert!(self.total() < self.allowed, "{} open of {}", self.total(), self.allowed);
                    self.connecting.push((pool.0, worker));
                }
                Action::Shed { pool, worker, to } => self.sheds.push((pool.0, worker, to)),
            }
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn the_budget_is_never_exceeded_and_nobody_starves(events in vec(event(), 1..120)) {
        let mut world = World::new();
        for event in &events {
            world.apply(event);
            world.obey()?;
        }
        // From here on everything goes well, and every pool has demand on both workers.
        world.apply(&Event::Budget(8));
        world.obey()?;
        let mut had = [[0; 2]; 3];
        for round in 0..400 {
            if round >= 200 {
                (0..6).for_each(|i| had[i / 2][i % 2] += world.open[i / 2][i % 2]);
            }
            for p in 0..3 {
                for w in 0..2 {
                    world.apply(&Event::Demand(p, w, 5));
                }
            }
            world.obey()?;
            for event in [Event::Finish(false), Event::Shed(false), Event::Time(500)] {
                world.apply(&event);
                world.obey()?;
            }
            if world.connecting.is_empty() && world.sheds.iter().all(|&(p, w, _)| world.open[p][w] == 0) {
                for _ in 0..world.sheds.len() {
                    world.apply(&Event::Shed(true));
                    world.obey()?;
                }
            }
        }
        let per_pool: Vec<u32> = had.iter().map(|p| p.iter().sum::<u32>() / 200).collect();
        prop_assert!(per_pool.iter().all(|&n| n >= 2), "a pool starves: {per_pool:?}");
        prop_assert!(world.total() <= 8);
        prop_assert!(had.iter().flatten().all(|&n| n >= 100), "a worker starves: {had:?}");
    }
}
