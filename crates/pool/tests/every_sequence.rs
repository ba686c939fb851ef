//! Pools and broker against every sequence of what can happen to 3 clients of 2 pools on a PostgreSQL with room for 2
//! servers: clients ask, give back, give up waiting and lose their server; logins succeed and fail; time passes; with two
//! workers every message between them and the broker arrives as late as it likes, which is all that workers share.
//!
//! What is compared with is naive: a list of who waits since when, and a count of servers. From every state it is also
//! tried whether everybody is served in the end. States that are equal in every respect, clocks included, are looked at
//! once. The bounds, [`DEPTH_ONE`] and [`DEPTH_TWO`] operations, are what takes seconds.

use std::collections::hash_map::DefaultHasher;
use std::collections::{HashSet, VecDeque};
use std::hash::{Hash, Hasher};
use std::time::{Duration, Instant};

use pgsluice_pool::{
    Action, Broker, Budget, Checkin, Checkout, Demand, Failure, Limits, Pool, PoolId, PoolLimits, ShedTo, Ticket,
};

/// Operations in a row with one worker, where messages arrive at once.
const DEPTH_ONE: usize = 7;
/// Operations in a row with two workers, the arrival of each message being one.
const DEPTH_TWO: usize = 7;

const CLIENTS: usize = 3;
const POOLS: usize = 2;
const SERVERS: usize = 2;
/// As the workers' and the broker's in the proxy.
const TICK: Duration = Duration::from_millis(200);
const SHED_AGE: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug)]
enum Client {
    Idle,
    /// Its place, and when it came in the order of all who did.
    Waiting(Ticket, usize),
    Linked(u32),
}

#[derive(Clone, Debug)]
enum ToFront {
    Demand(Demand),
    Closed(bool),
    Moved(usize, u32),
    Expired(ShedTo),
}

#[derive(Clone, Debug)]
enum ToWorker {
    Server(u32),
    Shed(ShedTo),
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Ask(usize),
    GiveBack(usize),
    GiveUp(usize),
    Lose(usize),
    LogIn(usize, bool),
    ReachFront(usize),
    ReachWorker(usize),
    Tick,
}

#[derive(Clone, Debug)]
struct World {
    workers: usize,
    /// Whether messages take time.
    is_slow: bool,
    now: Instant,
    broker: Broker,
    /// By worker, then by pool.
    pools: Vec<Vec<Pool<u32, usize>>>,
    reported: Vec<Vec<(u32, u32)>>,
    clients: Vec<Client>,
    to_front: Vec<VecDeque<(usize, ToFront)>>,
    to_worker: Vec<VecDeque<(usize, ToWorker)>>,
    logins: Vec<(usize, usize)>,
    arrivals: usize,
    opened: u32,
}

impl World {
    fn new(workers: usize) -> Self {
        let mut broker = Broker::new(workers);
        let mut budget = Budget::new(0, None);
        let max_connections = SERVERS as u32 + 1;
        budget.set_limits(Limits { max_connections, superuser_reserved: 0, reserved: 0, others: 0 }, 1);
        let cluster = broker.add_cluster(budget, 8);
        let named = |name: &str| (name.to_owned(), 0);
        for name in ["a", "b"] {
            let limits = PoolLimits { size: 2, database: named(name), user: named(name), ..PoolLimits::default() };
            broker.add_pool(cluster, limits);
        }
        Self {
            workers,
            is_slow: workers > 1,
            now: Instant::now(),
            broker,
            pools: vec![vec![Pool::new(false); POOLS]; workers],
            reported: vec![vec![(0, 0); POOLS]; workers],
            clients: vec![Client::Idle; CLIENTS],
            to_front: vec![VecDeque::new(); workers],
            to_worker: vec![VecDeque::new(); workers],
            logins: Vec::new(),
            arrivals: 0,
            opened: 0,
        }
    }

    /// Clients 0 and 2 are of the first pool, and on different workers if there are two.
    fn place(&self, client: usize) -> (usize, usize) {
        (if client == 2 { self.workers - 1 } else { 0 }, client % POOLS)
    }

    fn operations(&self) -> Vec<Op> {
        let mut all = vec![Op::Tick];
        for (i, client) in self.clients.iter().enumerate() {
            match client {
                Client::Idle => all.push(Op::Ask(i)),
                Client::Waiting(..) => all.push(Op::GiveUp(i)),
                Client::Linked(_) => all.extend([Op::GiveBack(i), Op::Lose(i)]),
            }
        }
        all.extend((0..self.logins.len()).flat_map(|i| [Op::LogIn(i, true), Op::LogIn(i, false)]));
        all.extend((0..self.workers).filter(|&w| !self.to_front[w].is_empty()).map(Op::ReachFront));
        all.extend((0..self.workers).filter(|&w| !self.to_worker[w].is_empty()).map(Op::ReachWorker));
        all
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Ask(client) => self.ask(client),
            Op::GiveBack(client) => {
                let (worker, pool) = self.place(client);
                let Client::Linked(server) = std::mem::replace(&mut self.clients[client], Client::Idle) else { return };
                let placed = self.pools[worker][pool].checkin(server, self.now);
                self.placed(worker, pool, placed);
            }
            Op::GiveUp(client) => {
                let (worker, pool) = self.place(client);
                let Client::Waiting(ticket, _) = std::mem::replace(&mut self.clients[client], Client::Idle) else {
                    return;
                };
                assert!(self.pools[worker][pool].leave(ticket), "who waits is in the queue");
            }
            Op::Lose(client) => {
                let (worker, pool) = self.place(client);
                self.clients[client] = Client::Idle;
                self.pools[worker][pool].lose();
                self.tell(worker, pool, ToFront::Closed(false));
            }
            Op::LogIn(which, works) => {
                let (worker, pool) = self.logins.remove(which);
                if works {
                    self.broker.handle_connected(PoolId(pool), worker, self.now);
                    self.opened += 1;
                    self.to_worker[worker].push_back((pool, ToWorker::Server(self.opened)));
                } else {
                    self.broker.handle_failed(PoolId(pool), worker, Failure::Other, self.now, 0.5);
                }
                self.pump();
            }
            Op::ReachFront(worker) => self.reach_front(worker),
            Op::ReachWorker(worker) => self.reach_worker(worker),
            Op::Tick => self.tick(),
        }
        if !self.is_slow {
            self.deliver();
        }
    }

    fn ask(&mut self, client: usize) {
        let (worker, pool) = self.place(client);
        let idle = self.pools[worker][pool].idle();
        match self.pools[worker][pool].checkout(client, self.now, |_| true) {
            Checkout::Server(server) => {
                assert!(idle > 0 && self.first(worker, pool).is_none(), "somebody was there before");
                self.clients[client] = Client::Linked(server);
            }
            Checkout::Wait(ticket) => {
                assert_eq!(idle, 0, "a client waits beside an idle server");
                self.arrivals += 1;
                self.clients[client] = Client::Waiting(ticket, self.arrivals);
                self.report(worker, pool, true);
            }
        }
    }

    /// The client that has waited longest for this pool on this worker.
    fn first(&self, worker: usize, pool: usize) -> Option<usize> {
        let waiting = self.clients.iter().enumerate().filter_map(|(i, client)| match client {
            Client::Waiting(_, came) if self.place(i) == (worker, pool) => Some((*came, i)),
            _ => None,
        });
        waiting.min().map(|(_, i)| i)
    }

    fn placed(&mut self, worker: usize, pool: usize, placed: Checkin<u32, usize>) {
        match placed {
            Checkin::Kept => assert_eq!(self.first(worker, pool), None, "a server is idle beside a client that waits"),
            Checkin::Grant(client, server) => {
                assert_eq!(self.first(worker, pool), Some(client), "first come, first served");
                self.clients[client] = Client::Linked(server);
            }
            Checkin::Shed(server, to) => self.shed(worker, pool, server, to),
        }
    }

    fn shed(&mut self, worker: usize, pool: usize, server: u32, to: ShedTo) {
        let message = match to {
            ShedTo::Close => ToFront::Closed(true),
            ShedTo::Worker(other) => ToFront::Moved(other, server),
        };
        self.tell(worker, pool, message);
    }

    fn tell(&mut self, worker: usize, pool: usize, message: ToFront) {
        self.to_front[worker].push_back((pool, message));
    }

    /// As the proxy's workers do.
    fn report(&mut self, worker: usize, pool: usize, begun: bool) {
        let here = &self.pools[worker][pool];
        let (waiting, reported) = (here.waiting() as u32, self.reported[worker][pool]);
        let room = here.idle() + here.linked() + (reported.0 as usize) < 2;
        let (spare, spare_since) = here.spare(self.now, TICK);
        let news = waiting != reported.0 || waiting > 0 || spare as u32 != reported.1;
        if news && (!begun || (waiting > reported.0 && room)) {
            let demand = Demand { waiting, oldest: here.oldest_wait(), spare: spare as u32, spare_since };
            self.reported[worker][pool] = (waiting, spare as u32);
            self.tell(worker, pool, ToFront::Demand(demand));
        }
    }

    fn tick(&mut self) {
        self.now += TICK;
        for worker in 0..self.workers {
            for pool in 0..POOLS {
                self.report(worker, pool, false);
                for to in self.pools[worker][pool].expire_sheds(self.now, SHED_AGE) {
                    self.tell(worker, pool, ToFront::Expired(to));
                }
            }
        }
        self.broker.tick();
        self.pump();
    }

    fn pump(&mut self) {
        while let Some(action) = self.broker.poll_action(self.now) {
            match action {
                Action::Connect { pool, worker } => {
                    self.logins.push((worker, pool.0));
                    assert!(self.servers() <= SERVERS, "more servers than PostgreSQL has room for: {self:#?}");
                }
                Action::Shed { pool, worker, to } => self.to_worker[worker].push_back((pool.0, ToWorker::Shed(to))),
            }
        }
    }

    fn reach_front(&mut self, worker: usize) {
        let Some((pool, message)) = self.to_front[worker].pop_front() else { return };
        let id = PoolId(pool);
        match message {
            ToFront::Demand(demand) => self.broker.set_demand(id, worker, demand),
            ToFront::Closed(shed) => self.broker.handle_closed(id, worker, shed),
            ToFront::Expired(to) => self.broker.handle_shed_expired(id, worker, to),
            ToFront::Moved(to, server) => {
                self.broker.handle_moved(id, worker, to);
                self.to_worker[to].push_back((pool, ToWorker::Server(server)));
            }
        }
        self.pump();
    }

    fn reach_worker(&mut self, worker: usize) {
        let Some((pool, message)) = self.to_worker[worker].pop_front() else { return };
        match message {
            ToWorker::Server(server) => {
                self.reported[worker][pool].0 = self.reported[worker][pool].0.saturating_sub(1);
                let placed = self.pools[worker][pool].add(server, self.now);
                self.placed(worker, pool, placed);
            }
            ToWorker::Shed(to) => {
                if let Some(server) = self.pools[worker][pool].shed(to, self.now) {
                    self.shed(worker, pool, server, to);
                }
            }
        }
    }

    /// All messages that are under way arrive, and those that follow from them.
    fn deliver(&mut self) {
        for worker in (0..self.workers).cycle().take(self.workers * 64) {
            self.reach_front(worker);
            self.reach_worker(worker);
        }
        assert!(self.to_front.iter().all(VecDeque::is_empty) && self.to_worker.iter().all(VecDeque::is_empty));
    }

    /// Permits in use, counted where the servers are.
    fn servers(&self) -> usize {
        let pooled = self.pools.iter().flatten().map(|p| p.idle() + p.linked()).sum::<usize>();
        let leaving = |(_, m): &&(usize, ToFront)| matches!(m, ToFront::Moved(..));
        let coming = |(_, m): &&(usize, ToWorker)| matches!(m, ToWorker::Server(_));
        let under_way = self.to_front.iter().flatten().filter(leaving).count()
            + self.to_worker.iter().flatten().filter(coming).count();
        pooled + under_way + self.logins.len()
    }

    fn waiting(&self) -> usize {
        self.clients.iter().filter(|c| matches!(c, Client::Waiting(..))).count()
    }

    /// What has to be so at any time.
    fn check(&self) {
        assert!(self.servers() <= SERVERS);
        let mut linked: Vec<u32> =
            self.clients.iter().filter_map(|c| if let Client::Linked(s) = c { Some(*s) } else { None }).collect();
        assert_eq!(self.pools.iter().flatten().map(Pool::linked).sum::<usize>(), linked.len());
        assert_eq!(self.pools.iter().flatten().map(Pool::waiting).sum::<usize>(), self.waiting());
        linked.extend(self.pools.iter().flatten().flat_map(|p| p.iter_idle().map(|(s, _)| *s)));
        let all = linked.len();
        assert_eq!(linked.into_iter().collect::<HashSet<_>>().len(), all, "a server is in two places");
    }

    /// Does nobody wait beside a server or a permit that nobody uses?
    fn is_well(&self) -> bool {
        let idle: usize = self.pools.iter().flatten().map(Pool::idle).sum();
        self.waiting() == 0 || (idle == 0 && self.servers() == SERVERS && self.logins.is_empty())
    }

    /// Time passes and everything goes well, but no client does anything: for long enough that orders to give up expire.
    fn settle(&mut self) {
        for _ in 0..14 {
            self.apply(Op::Tick);
            self.deliver();
            while !self.logins.is_empty() {
                self.apply(Op::LogIn(0, true));
                self.deliver();
            }
            if self.is_well() {
                return;
            }
        }
        panic!("a client waits in vain: {self:#?}");
    }

    /// Nobody waits in vain; and when clients give back, nobody waits for ever.
    fn ends_well(mut self) {
        for _ in 0..=CLIENTS {
            self.settle();
            self.check();
            if self.waiting() == 0 {
                return;
            }
            for client in 0..CLIENTS {
                if matches!(self.clients[client], Client::Linked(_)) {
                    self.apply(Op::GiveBack(client));
                }
            }
        }
        panic!("a client waits for ever: {self:#?}");
    }

    fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        format!("{self:?}").hash(&mut hasher);
        hasher.finish()
    }
}

/// Tries every sequence of `depth` operations; returns how many states there were.
fn try_all(workers: usize, depth: usize) -> usize {
    let (mut seen, mut front) = (HashSet::new(), vec![World::new(workers)]);
    for _ in 0..depth {
        let mut next = Vec::new();
        for world in &front {
            for op in world.operations() {
                let mut after = world.clone();
                after.apply(op);
                after.check();
                if seen.insert(after.fingerprint()) {
                    after.clone().ends_well();
                    next.push(after);
                }
            }
        }
        front = next;
    }
    seen.len()
}

#[test]
fn every_sequence_with_one_worker() {
    let states = try_all(1, DEPTH_ONE);
    assert!(states > 10_000, "{states} states");
}

#[test]
fn every_sequence_with_messages_under_way_between_two_workers() {
    let states = try_all(2, DEPTH_TWO);
    assert!(states > 10_000, "{states} states");
}
