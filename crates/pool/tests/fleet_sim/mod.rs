//! A fleet of instances on one PostgreSQL, simulated: logins, transactions and round trips take time; instances crash, are cut
//! off and come back; what they could use changes. Times are in microseconds since the beginning.
//!
//! At every step it is checked that PostgreSQL is not promised to more servers than it has room for; see [`World::check`].

mod check;
mod instance;
mod postgres;
mod random;
mod weather;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use instance::{Flight, Instance, Server};
pub(crate) use postgres::{Postgres, count};
pub(crate) use random::Random;

pub(crate) const MS: u64 = 1_000;
pub(crate) const SECOND: u64 = 1_000 * MS;
/// No transaction is longer, and no lost connection stays longer with PostgreSQL.
pub(crate) const TRANSACTION_MAX: u64 = 20 * SECOND;
pub(crate) const ORPHAN_MAX: u64 = 30 * SECOND;
pub(crate) const GHOST_MAX: u64 = 25 * SECOND;
/// A server that nobody needs is closed after that.
const IDLE_MAX: u64 = 60 * SECOND;
const BACKOFF_MIN: u64 = 250 * MS;
const BACKOFF_MAX: u64 = 10 * SECOND;
const OTHERS_MAX: u32 = 5;

/// What happens by itself. All means are those of exponential distributions, in microseconds; 0 stands for never.
#[derive(Clone, Copy, Default)]
pub(crate) struct Weather {
    /// Between two crashes in the fleet, and between two control connections lost.
    pub(crate) crashes: u64,
    pub(crate) cuts: u64,
    /// Between two changes of an instance's demand.
    pub(crate) demand: u64,
    /// How many of these are bursts, in percent.
    pub(crate) bursts: u64,
    /// Between two changes of the number of strangers.
    pub(crate) others: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// An instance starts, or starts again.
    Start(usize),
    Connect(usize, u32),
    Connected(usize, u32),
    /// The plan to look, by its number.
    Tick(usize, u32, u32),
    Wake(usize, u32),
    /// The three ends of an errand: it locks, it reads, it is back.
    Lock(usize, u32),
    Read(usize, u32),
    Return(usize, u32),
    LoggedIn(usize, u32, u32),
    TransactionEnd(usize, u32, u32),
    Reap(usize, u32),
    Closed(usize, u32, u32),
    Orphan(u32),
    Ghost(u32),
    Demand(usize),
    Crash,
    Cut,
    Others,
}

/// What was counted on the way.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) errands: u64,
    pub(crate) logins: u64,
    /// Logins of servers that PostgreSQL refused, each with more newcomers than headroom.
    pub(crate) refused: u64,
    pub(crate) refused_controls: u64,
    pub(crate) crashes: u64,
    pub(crate) cuts: u64,
    /// Errands that met with others.
    pub(crate) collided: u64,
    /// The longest that an instance wanted a server and had none, connected all the time; in microseconds.
    pub(crate) hunger: u64,
}

/// The last reading by which somebody was granted slots: when, and how many backends no slot spoke for.
#[derive(Clone, Copy, Default)]
struct Grant {
    at: u64,
    apart: u32,
}

pub(crate) struct World {
    pub(crate) now: u64,
    pub(crate) postgres: Postgres,
    pub(crate) instances: Vec<Instance>,
    pub(crate) weather: Weather,
    pub(crate) counts: Counts,
    /// How many of the transactions that are met are long ones, in percent.
    pub(crate) long: u64,
    random: Random,
    epoch: Instant,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    sent: u64,
    /// Servers of dead instances, which end with their transactions.
    orphans: u32,
    /// Of all instances, and what each adds to it.
    potential: u32,
    potentials: Vec<u32>,
    grant: Grant,
}

impl World {
    pub(crate) fn new(seed: u64, instances: usize, postgres: Postgres) -> Self {
        Self {
            now: 0,
            postgres,
            instances: (0..instances).map(|_| Instance::default()).collect(),
            weather: Weather::default(),
            counts: Counts::default(),
            long: 5,
            random: Random::new(seed),
            epoch: Instant::now(),
            events: BinaryHeap::new(),
            sent: 0,
            orphans: 0,
            potential: 0,
            potentials: vec![0; instances],
            grant: Grant::default(),
        }
    }

    /// All instances start within that time.
    pub(crate) fn start_all(&mut self, within: u64) {
        for i in 0..self.instances.len() {
            let after = self.random.range(0, within);
            self.after(after, Event::Start(i));
        }
    }

    /// From now on these things happen; a kind that was never is begun.
    pub(crate) fn set_weather(&mut self, weather: Weather) {
        self.weather = weather;
        for (mean, event) in
            [(weather.crashes, Event::Crash), (weather.cuts, Event::Cut), (weather.others, Event::Others)]
        {
            self.again(mean, event);
        }
        (0..self.instances.len()).for_each(|i| self.again(weather.demand, Event::Demand(i)));
    }

    /// Runs for a time.
    pub(crate) fn run(&mut self, time: u64) {
        let end = self.now + time;
        while let Some(Reverse((at, _, event))) = self.events.peek().copied().filter(|e| e.0.0 <= end) {
            self.events.pop();
            self.now = at;
            self.happen(event);
            self.check();
        }
        self.now = end;
    }

    fn after(&mut self, time: u64, event: Event) {
        self.sent += 1;
        self.events.push(Reverse((self.now + time, self.sent, event)));
    }

    fn again(&mut self, mean: u64, event: Event) {
        if mean > 0 {
            let after = self.random.around(mean);
            self.after(after, event);
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Start(i) => self.start(i),
            Event::Connect(i, link) if self.instances[i].link == link => self.connect(i),
            Event::Connected(i, link) if self.instances[i].link == link => self.connected(i),
            Event::Tick(i, link, tick) if self.instances[i].link == link && self.instances[i].tick == tick => {
                self.send(i, true);
            }
            Event::Wake(i, link) if self.instances[i].link == link => self.wake(i),
            Event::Lock(i, link) if self.instances[i].link == link => self.lock(i),
            Event::Read(i, link) if self.instances[i].link == link => self.read(i),
            Event::Return(i, link) if self.instances[i].link == link => self.come_back(i),
            Event::LoggedIn(i, life, pid) if self.instances[i].life == life => self.logged_in(i, pid),
            Event::TransactionEnd(i, life, pid) if self.instances[i].life == life => self.end_transaction(i, pid),
            Event::Reap(i, life) if self.instances[i].life == life => self.reap(i),
            Event::Closed(i, life, pid) => self.closed(i, life, pid),
            Event::Orphan(pid) => {
                self.postgres.end_server(pid);
                self.orphans -= 1;
            }
            Event::Ghost(pid) => self.postgres.end_control(pid),
            Event::Demand(i) => self.change_demand(i),
            Event::Crash => self.crash_one(),
            Event::Cut => self.cut_one(),
            Event::Others => self.change_others(),
            // To somebody who is no more.
            _ => {}
        }
    }

    fn at(&self, time: u64) -> Instant {
        self.epoch + Duration::from_micros(time)
    }
}

/// The control connection and what it carries.
impl World {
    fn start(&mut self, i: usize) {
        let instance = &mut self.instances[i];
        if instance.is_up {
            return;
        }
        let (life, link) = (instance.life + 1, instance.link + 1);
        *instance = Instance { is_up: true, life, link, demand: instance.demand, ..Instance::default() };
        self.after(IDLE_MAX / 4, Event::Reap(i, life));
        self.after(0, Event::Connect(i, link));
    }

    fn connect(&mut self, i: usize) {
        let link = self.instances[i].link;
        if let Some(pid) = self.postgres.log_in_control() {
            let login = self.login_time();
            // Should it be cut off or crash before, the connection is lost like any other.
            self.instances[i].control = Some(pid);
            return self.after(login, Event::Connected(i, link));
        }
        self.counts.refused_controls += 1;
        self.connect_later(i);
    }

    fn connect_later(&mut self, i: usize) {
        let instance = &mut self.instances[i];
        instance.attempts += 1;
        let (link, most) = (instance.link, (BACKOFF_MIN << instance.attempts.min(8)).min(BACKOFF_MAX));
        let after = self.random.range(most / 2, most);
        self.after(after, Event::Connect(i, link));
    }

    fn connected(&mut self, i: usize) {
        self.instances[i].attempts = 0;
        self.send(i, true);
    }

    fn login_time(&mut self) -> u64 {
        self.random.range(5 * MS, 50 * MS)
    }

    /// What it does when something has changed: nothing, if that changes no lock.
    fn wake(&mut self, i: usize) {
        self.instances[i].will_wake = false;
        if self.instances[i].flight.is_some() {
            return self.wake_soon(i);
        }
        self.send(i, false);
    }

    fn wake_soon(&mut self, i: usize) {
        let instance = &mut self.instances[i];
        if instance.control.is_some() && instance.fleet.view().is_some() && !instance.will_wake {
            instance.will_wake = true;
            let (link, after) = (instance.link, self.random.range(50 * MS, 100 * MS));
            self.after(after, Event::Wake(i, link));
        }
    }

    fn send(&mut self, i: usize, is_reading_needed: bool) {
        let now = self.at(self.now);
        let instance = &mut self.instances[i];
        if instance.flight.is_some() {
            return;
        }
        let errand = instance.fleet.prepare(&instance.need(), now);
        if is_reading_needed || !errand.is_empty() {
            instance.flight = Some(Flight { errand, got: Vec::new(), view: None });
            let (link, trip) = (instance.link, self.random.range(MS, 5 * MS));
            let (lock, read) = (self.random.range(0, trip), self.random.range(0, trip));
            self.after(lock.min(read), Event::Lock(i, link));
            self.after(lock.max(read), Event::Read(i, link));
            self.after(trip, Event::Return(i, link));
        }
        self.settle(i);
    }

    fn lock(&mut self, i: usize) {
        self.counts.errands += 1;
        let instance = &mut self.instances[i];
        if let (Some(flight), Some(me)) = (&mut instance.flight, instance.control) {
            flight.got = self.postgres.lock(me, &flight.errand);
        }
    }

    fn read(&mut self, i: usize) {
        let instance = &mut self.instances[i];
        if let (Some(flight), Some(me)) = (&mut instance.flight, instance.control) {
            let view = self.postgres.view(me, 1_000_000 + self.now / SECOND);
            flight.view = Some((view, self.now, self.postgres.apart()));
        }
    }

    fn come_back(&mut self, i: usize) {
        let now = self.at(self.now);
        let instance = &mut self.instances[i];
        let flight = instance.flight.take().expect("it was sent");
        let (view, at, apart) = flight.view.expect("it was read");
        let before = instance.potential();
        instance.fleet.handle(&flight.got, view, now);
        // A slot for a server that an instance has kept while it was cut off grants nothing.
        if instance.potential() > before && at >= self.grant.at {
            self.grant = Grant { at, apart };
        }
        self.counts.collided += u64::from(instance.fleet.has_collided());
        instance.tick += 1;
        let pause = u64::try_from(instance.fleet.pause().as_micros()).expect("seconds");
        let pause = self.random.range(pause * 3 / 4, pause * 5 / 4);
        let instance = &self.instances[i];
        let (has_news, has_collided) = (instance.fleet.has_news(), instance.fleet.has_collided());
        self.after(pause, Event::Tick(i, instance.link, instance.tick));
        if has_news {
            self.send(i, false);
        } else if has_collided {
            self.wake_soon(i);
        }
        self.settle(i);
    }
}

/// Servers.
impl World {
    /// Closes what is too much, opens what is allowed, and sees to it that PostgreSQL hears of it.
    fn settle(&mut self, i: usize) {
        let (now, instance) = (self.now, &mut self.instances[i]);
        if !instance.is_up {
            return self.weigh(i);
        }
        let allowed = instance.fleet.allowed();
        let idle = instance.open.len() - instance.in_use();
        let surplus = instance.kept().saturating_sub(allowed) as usize;
        let closed = instance.open.split_off(instance.open.len() - idle.min(surplus));
        closed.into_iter().for_each(|server| self.close(i, server.pid));
        if surplus > idle {
            for pid in self.instances[i].begin_ending() {
                let (life, rest) = (self.instances[i].life, self.rest_of_transaction());
                self.after(rest, Event::TransactionEnd(i, life, pid));
            }
        }
        if self.instances[i].demand > allowed {
            self.wake_soon(i);
        }
        while self.instances[i].may_open() && self.open(i) {}
        self.instances[i].note_hunger(now, &mut self.counts.hunger);
        self.weigh(i);
    }

    /// How long one of its transactions still takes: most are short, but those that are not are more often met.
    fn rest_of_transaction(&mut self) -> u64 {
        if self.random.chance(self.long) { self.random.range(0, TRANSACTION_MAX) } else { self.random.around(50 * MS) }
    }

    fn open(&mut self, i: usize) -> bool {
        self.counts.logins += 1;
        let Some(pid) = self.postgres.log_in_server() else {
            self.counts.refused += 1;
            let newcomers = self.postgres.apart().saturating_sub(self.grant.apart);
            assert!(newcomers > self.postgres.headroom, "refused, with {newcomers} newcomers, at {}", self.now);
            return false;
        };
        let (login, life) = (self.login_time(), self.instances[i].life);
        self.instances[i].opening.insert(pid);
        self.after(login, Event::LoggedIn(i, life, pid));
        self.wake_soon(i);
        true
    }

    fn logged_in(&mut self, i: usize, pid: u32) {
        let instance = &mut self.instances[i];
        instance.opening.remove(&pid);
        if instance.kept() >= instance.fleet.allowed() {
            self.close(i, pid);
        } else {
            instance.open.push(Server { pid, idle_since: self.now, is_ending: false });
            self.wake_soon(i);
        }
        self.settle(i);
    }

    fn end_transaction(&mut self, i: usize, pid: u32) {
        let instance = &mut self.instances[i];
        let Some(at) = instance.open.iter().position(|s| s.pid == pid) else { return };
        instance.open[at].is_ending = false;
        if instance.kept() > instance.fleet.allowed() {
            instance.open.remove(at);
            self.close(i, pid);
        }
        self.settle(i);
    }

    /// It counts as held until PostgreSQL has closed its end.
    fn close(&mut self, i: usize, pid: u32) {
        let (life, after) = (self.instances[i].life, self.random.range(100, 2 * MS));
        self.instances[i].closing.insert(pid);
        self.after(after, Event::Closed(i, life, pid));
    }

    fn closed(&mut self, i: usize, life: u32, pid: u32) {
        self.postgres.end_server(pid);
        if self.instances[i].life == life {
            self.instances[i].closing.remove(&pid);
            self.wake_soon(i);
            self.settle(i);
        }
    }

    fn reap(&mut self, i: usize) {
        let (now, instance) = (self.now, &mut self.instances[i]);
        let life = instance.life;
        let in_use = instance.in_use();
        let old: Vec<_> = instance.open.extract_if(in_use.., |s| s.idle_since + IDLE_MAX < now).collect();
        old.into_iter().for_each(|server| self.close(i, server.pid));
        self.after(IDLE_MAX / 4, Event::Reap(i, life));
        self.settle(i);
    }

    pub(crate) fn set_demand(&mut self, i: usize, demand: u32) {
        let now = self.now;
        let instance = &mut self.instances[i];
        let in_use = instance.in_use();
        instance.demand = demand;
        instance.open.iter_mut().take(in_use).skip(demand as usize).for_each(|s| s.idle_since = now);
        self.settle(i);
    }
}
