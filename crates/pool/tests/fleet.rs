//! Fleets of instances on one simulated PostgreSQL: what they open is never refused, nobody starves, and when nothing happens any
//! more everybody has what is fair. What is true at every step is checked by the simulation itself.

#[allow(dead_code, reason = "the example uses the rest")]
mod fleet_sim;

use fleet_sim::{GHOST_MAX, MS, ORPHAN_MAX, Postgres, SECOND, Weather, World};

/// Room is left for members that are gone for that long.
const MEMBERS_HOLD: u64 = 60 * SECOND;

/// Each instance crashes, and loses its control connection, every five minutes, and has another demand every four seconds.
fn storm(instances: usize) -> Weather {
    let all = 300 * SECOND / instances as u64;
    Weather { crashes: all, cuts: all, demand: 4 * SECOND, bursts: 2, others: 2 * SECOND }
}

/// A storm of so many seconds, with a restart of PostgreSQL in the middle, and the calm after it.
fn weather(seed: u64, instances: usize, ceiling: u32, seconds: u64) {
    let mut world = World::new(seed, instances, Postgres::new(ceiling, 3));
    world.start_all(10 * SECOND);
    world.set_weather(storm(instances));
    world.run(15 * SECOND);
    let refused_at_first = world.counts.refused;
    world.run((seconds / 2 - 15) * SECOND);
    world.restart_postgres();
    world.run(seconds / 2 * SECOND);
    world.set_weather(Weather::default());
    let calm = world.now;
    let is_scarce = world.is_scarce();
    let longest = if is_scarce { 30 * SECOND } else { MEMBERS_HOLD + ORPHAN_MAX.max(GHOST_MAX) + 6 * world.pause() };
    while !world.is_fair() && world.now < calm + longest {
        world.run(50 * MS);
    }
    let after = (world.now - calm) / MS;
    println!("seed {seed}, {instances} on {ceiling}: fair after {after} ms, {:?}", world.counts);
    assert!(is_scarce || world.is_fair(), "it does not come to rest");
    // More newcomers than headroom come only where many start for the first time on a PostgreSQL that is full.
    assert_eq!(world.counts.refused, refused_at_first);
    let (hunger, most) = (world.counts.hunger, world.hunger_max());
    assert!(hunger <= most, "somebody went without for {} ms, which is to be {} at most", hunger / MS, most / MS);
}

#[test]
fn few_instances_in_a_storm() {
    (0..8).for_each(|seed| weather(seed, 10, 50, 120));
}

#[test]
fn a_hundred_instances_in_a_storm() {
    (0..3).for_each(|seed| weather(seed, 100, 300, 60));
}

#[test]
fn three_hundred_instances_in_a_storm() {
    weather(0, 300, 700, 60);
}

/// With the variable PGSLUICE_LONG, as the other tests that take their time.
#[test]
fn two_thousand_instances_in_a_storm() {
    if std::env::var("PGSLUICE_LONG").is_ok_and(|value| value == "1") {
        weather(0, 2_000, 5_000, 300);
    }
}

#[test]
fn where_there_are_fewer_servers_than_instances_everybody_has_its_turn() {
    (0..2).for_each(|seed| weather(seed, 100, 130, 90));
}

/// Where everybody looks seldom, and turns are to be long enough for that.
#[test]
fn nobody_misses_its_turns_in_a_large_fleet() {
    let instances = 300;
    let mut world = World::new(1, instances, Postgres::new(380, 3));
    world.start_all(5 * SECOND);
    world.run(20 * SECOND);
    world.set_weather(Weather { others: 2 * SECOND, ..Weather::default() });
    (0..instances).for_each(|i| world.set_demand(i, 2));
    world.run(30 * SECOND);
    let mut had = vec![0_u32; instances];
    let seconds = 240;
    for _ in 0..seconds {
        world.run(SECOND);
        (0..instances).for_each(|i| had[i] += u32::from(world.instances[i].in_use() > 0));
    }
    let fair = seconds * world.capacity() / fleet_sim::count(instances);
    assert!(had.iter().sum::<u32>() > world.capacity() * seconds * 2 / 3, "most of what there is is used");
    assert!(had.iter().all(|&seconds| seconds > fair / 5), "{:?} of {fair} s", had.iter().min());
}

#[test]
fn where_there_is_less_room_than_the_headroom_one_server_goes_round() {
    let mut world = World::new(1, 5, Postgres::new(8, 3));
    world.start_all(SECOND);
    world.run(5 * SECOND);
    (0..5).for_each(|i| world.set_demand(i, 2));
    let mut served = [false; 5];
    for _ in 0..1_200 {
        world.run(50 * MS);
        (0..5).for_each(|i| served[i] |= world.instances[i].in_use() > 0);
    }
    assert_eq!((served, world.counts.refused), ([true; 5], 0));
}

fn two_instances() -> World {
    let mut world = World::new(1, 2, Postgres::new(25, 3));
    world.start_all(SECOND);
    world.run(2 * SECOND);
    world
}

fn in_use(world: &World) -> [usize; 2] {
    [world.instances[0].in_use(), world.instances[1].in_use()]
}

#[test]
fn idle_servers_are_given_to_who_has_a_burst_and_shared_when_both_have_one() {
    let mut world = two_instances();
    world.set_demand(0, 40);
    world.run(SECOND);
    assert_eq!(in_use(&world), [20, 0]);
    world.set_demand(0, 0);
    world.run(3 * SECOND);
    world.set_demand(1, 40);
    world.run(SECOND);
    assert_eq!(in_use(&world), [0, 20]);
    world.set_demand(0, 40);
    world.run(30 * SECOND);
    assert_eq!(in_use(&world), [10, 10]);
}

/// PostgreSQL takes its time to find out that a control connection is gone, and keeps its locks until then.
#[test]
fn who_lost_its_control_connection_keeps_its_servers_while_postgresql_has_not_heard_of_it() {
    let mut world = two_instances();
    (0..2).for_each(|i| world.set_demand(i, 20));
    world.run(30 * SECOND);
    assert_eq!(in_use(&world), [10, 10]);
    world.cut(0, GHOST_MAX);
    for _ in 0..GHOST_MAX / SECOND {
        world.run(SECOND);
        assert_eq!(in_use(&world)[0], 10, "{} s after it", world.now / SECOND);
    }
    world.run(MEMBERS_HOLD + 30 * SECOND);
    assert_eq!((in_use(&world), world.counts.refused), ([10, 10], 0));
}

#[test]
fn who_is_cut_off_opens_nothing_in_place_of_what_it_closed() {
    let mut world = two_instances();
    world.set_demand(0, 20);
    world.run(SECOND);
    world.postgres.is_cut_off = true;
    world.cut(0, 0);
    world.run(30 * SECOND);
    assert_eq!(in_use(&world), [20, 0], "it keeps what it has");
    world.set_demand(0, 0);
    world.run(90 * SECOND);
    world.set_demand(1, 20);
    world.run(30 * SECOND);
    // Room is kept for the control connection of the other.
    assert_eq!(in_use(&world), [0, 20]);
    world.set_demand(0, 20);
    world.run(30 * SECOND);
    assert_eq!((in_use(&world), world.counts.refused), ([0, 20], 0));
    world.postgres.is_cut_off = false;
    world.run(60 * SECOND);
    assert_eq!(in_use(&world), [10, 10]);
}
