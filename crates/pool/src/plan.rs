//! What the broker orders: each pool gets what it needs, or its fair share where all together need more than there is.
//!
//! A fair share is rarely a whole number. Of the pools that have a part of a server more than others, the one that is owed
//! most time gets it, and gives it up when another is owed clearly more: so over time everybody has its share, also where
//! there are more pools than servers.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::broker::{Action, Broker, ClusterId, PoolId};
use crate::fair::{self, Claim};
use crate::pool::ShedTo;
use crate::share::{Entry, Share};

/// How long clients of a worker without a server wait before another worker's clients let them have one.
const TURN: Duration = Duration::from_millis(100);

/// A pool keeps a server of which others have a part for about that long: in itself, and as a multiple of what a login takes,
/// since a server that changes hands is out of use meanwhile.
const KEEP_MIN: Duration = Duration::from_millis(500);
const KEEP_LOGINS: u32 = 10;
const KEEP_MAX: Duration = Duration::from_secs(30);

/// What a pool is owed is remembered for so many times that long.
const CREDIT_TURNS: f64 = 4.0;

/// What is lost in adding up shares, in servers.
const EPSILON: f64 = 1e-6;

/// What a limit over several pools is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Scope {
    /// The budget.
    Cluster,
    /// `max_db_connections`.
    Database,
    /// `max_user_connections`.
    User,
    /// `datconnlimit`.
    Catalog,
    /// `rolconnlimit`.
    Role,
}

/// A limit over several pools.
#[derive(Debug)]
struct Cap {
    limit: u32,
    /// Permits that the pools under it hold.
    held: u32,
    /// Of these, those to be given back.
    closing: u32,
    /// Servers that pools under it lack.
    unmet: u32,
}

/// A pool that has servers or wants some.
#[derive(Debug)]
struct Member {
    pool: usize,
    caps: Vec<usize>,
    /// Servers it is to have.
    target: u32,
}

/// One PostgreSQL as it is now.
#[derive(Debug, Default)]
struct Ground {
    members: Vec<Member>,
    caps: Vec<Cap>,
    connecting: u32,
    /// Server-seconds that a pool has to be owed more than another to take a server over.
    keep: f64,
}

impl Ground {
    /// The first limit under which there is no room for one more server of a member.
    fn full(&self, member: usize) -> Option<usize> {
        self.members[member].caps.iter().copied().find(|&cap| self.caps[cap].held >= self.caps[cap].limit)
    }
}

impl Broker {
    /// Orders whatever demand, limits and budget allow.
    pub(crate) fn plan(&mut self, cluster: ClusterId, now: Instant) {
        let before = self.clusters[cluster.0].planned_at.replace(now).unwrap_or(now);
        let elapsed = now.saturating_duration_since(before);
        let keep = self.keep(cluster, now).as_secs_f64();
        for entry in self.pools.iter_mut().filter(|p| p.cluster == cluster) {
            entry.settle_credit(elapsed, keep * CREDIT_TURNS);
        }
        let mut ground = Ground { keep, ..self.survey(cluster, self.clusters[cluster.0].budget.servers()) };
        self.aim(&mut ground, now);
        self.shrink(&mut ground, now);
        let mut wanting = self.wanting(&ground);
        while !wanting.is_empty() {
            wanting.retain(|&(member, worker)| self.serve(&mut ground, member, worker, now));
        }
        self.fill_minimums(&mut ground, now);
    }

    /// Servers that all pools together could use, those their minimums keep open included, if only the budget were larger.
    pub fn wanted(&self, cluster: ClusterId, now: Instant) -> u32 {
        let budget = &self.clusters[cluster.0].budget;
        let most = budget.cap().map_or(u32::MAX, |cap| cap.saturating_sub(budget.control()));
        let ground = self.survey(cluster, most);
        let claims = ground.members.iter().map(|member| {
            let claim = self.claim(member, now);
            let entry = &self.pools[member.pool];
            let kept = if entry.is_backing_off(now) { 0 } else { claim.minimum.min(entry.size(now)) };
            Claim { need: claim.need.max(kept), ..claim }
        });
        let limits: Vec<_> = ground.caps.iter().map(|c| c.limit).collect();
        let wanted: f64 = fair::shares(&claims.collect::<Vec<_>>(), &limits).into_iter().sum();
        // A part of a server is of use as a whole one.
        (wanted - EPSILON).ceil() as u32
    }

    /// How long a pool keeps what others have a part of.
    fn keep(&self, cluster: ClusterId, now: Instant) -> Duration {
        let waits = self.pools.iter().filter(|p| p.cluster == cluster).filter_map(|p| p.ordered.front());
        let longest = waits.map(|&since| now.saturating_duration_since(since)).max().unwrap_or_default();
        (self.clusters[cluster.0].login.max(longest) * KEEP_LOGINS).clamp(KEEP_MIN, KEEP_MAX)
    }

    /// The pools that matter, and the limits they are under.
    fn survey(&self, cluster: ClusterId, budget: u32) -> Ground {
        let matters = |p: &Entry| p.cluster == cluster && (p.held() > 0 || p.limits.min > 0 || p.waits());
        let mut ground = Ground::default();
        let mut known: HashMap<(Scope, &str), usize> = HashMap::new();
        for (pool, entry) in self.pools.iter().enumerate().filter(|(_, p)| matters(p)) {
            let mut caps = Vec::new();
            for (scope, name, limit) in self.limits_of(entry, budget) {
                let cap = *known.entry((scope, name)).or_insert_with(|| {
                    let elsewhere = if scope == Scope::User { self.held_elsewhere(name, cluster) } else { 0 };
                    let limit = limit.saturating_sub(elsewhere);
                    ground.caps.push(Cap { limit, held: 0, closing: 0, unmet: 0 });
                    ground.caps.len() - 1
                });
                ground.caps[cap].held += entry.held();
                ground.caps[cap].closing += entry.closing();
                caps.push(cap);
            }
            ground.connecting += entry.connecting();
            ground.members.push(Member { pool, caps, target: 0 });
        }
        ground
    }

    /// What limits a pool together with others.
    fn limits_of<'a>(&'a self, entry: &'a Entry, budget: u32) -> impl Iterator<Item = (Scope, &'a str, u32)> {
        let cluster = &self.clusters[entry.cluster.0];
        let limits = &entry.limits;
        let (database, user, dbname) = (limits.database.0.as_str(), limits.user.0.as_str(), limits.dbname.as_str());
        let configured = |limit: u32| (limit > 0).then_some(limit);
        [
            (Scope::Catalog, dbname, cluster.catalog.databases.get(dbname).copied()),
            (Scope::Role, user, cluster.catalog.roles.get(user).copied()),
            (Scope::Database, database, configured(limits.database.1)),
            (Scope::User, user, configured(limits.user.1)),
            (Scope::Cluster, "", Some(budget)),
        ]
        .into_iter()
        .filter_map(|(scope, name, limit)| Some((scope, name, limit?)))
    }

    /// Servers of a user on other PostgreSQLs: `max_user_connections` is for all of them.
    fn held_elsewhere(&self, user: &str, cluster: ClusterId) -> u32 {
        self.pools.iter().filter(|p| p.cluster != cluster && p.limits.user.0 == user).map(Entry::held).sum()
    }

    /// How many servers each pool is to have.
    fn aim(&mut self, ground: &mut Ground, now: Instant) {
        let claims: Vec<_> = ground.members.iter().map(|member| self.claim(member, now)).collect();
        let limits: Vec<_> = ground.caps.iter().map(|c| c.limit).collect();
        let shares = fair::shares(&claims, &limits);
        let mut room = limits;
        for ((member, claim), &share) in ground.members.iter_mut().zip(&claims).zip(&shares) {
            let is_short = share + EPSILON < f64::from(claim.need);
            self.pools[member.pool].fair = is_short.then_some(share);
            // A share is never negative, and never above a need.
            member.target = (share + EPSILON) as u32;
            member.caps.iter().for_each(|&cap| room[cap] = room[cap].saturating_sub(member.target));
        }
        self.hand_out_parts(ground, &claims, &mut room);
        for (member, claim) in ground.members.iter().zip(&claims) {
            let lacks = member.target.saturating_sub(self.pools[member.pool].held());
            claim.caps.iter().for_each(|&cap| ground.caps[cap].unmet += lacks);
        }
    }

    fn claim(&self, member: &Member, now: Instant) -> Claim {
        let entry = &self.pools[member.pool];
        let (minimum, weight) = (entry.limits.min, entry.limits.weight);
        Claim { need: entry.need(now), minimum, weight, caps: member.caps.clone() }
    }

    /// The servers of which several pools have a part go to those that are owed most.
    fn hand_out_parts(&self, ground: &mut Ground, claims: &[Claim], room: &mut [u32]) {
        let mut order: Vec<_> = (0..claims.len()).filter(|&i| ground.members[i].target < claims[i].need).collect();
        order.sort_by_cached_key(|&i| {
            let Member { pool, target, .. } = ground.members[i];
            let entry = &self.pools[pool];
            let has_part = entry.fair.is_some_and(|fair| fair > f64::from(target) + EPSILON);
            let stick = if entry.settled() > target { ground.keep } else { 0.0 };
            // In whole milliseconds, since a key has to be comparable.
            let owed = ((entry.credit + stick) * 1000.0) as i64;
            (!has_part, -owed, entry.oldest().is_none(), entry.oldest())
        });
        while !order.is_empty() {
            order.retain(|&i| {
                let more = ground.members[i].target < claims[i].need && claims[i].caps.iter().all(|&cap| room[cap] > 0);
                if more {
                    ground.members[i].target += 1;
                    claims[i].caps.iter().for_each(|&cap| room[cap] -= 1);
                }
                more
            });
        }
    }

    /// More open than a limit allows by now, or than a pool may have: those furthest over their share give up.
    fn shrink(&mut self, ground: &mut Ground, now: Instant) {
        for member in 0..ground.members.len() {
            let entry = &self.pools[ground.members[member].pool];
            let most = entry.size(now).saturating_add(entry.limits.reserve);
            for _ in most..entry.settled().max(most) {
                self.shed_one(ground, member);
            }
        }
        for cap in 0..ground.caps.len() {
            while ground.caps[cap].held.saturating_sub(ground.caps[cap].closing) > ground.caps[cap].limit {
                if !self.shed_from(ground, cap) {
                    break;
                }
            }
        }
    }

    /// The workers whose clients wait, those with the fewest servers first.
    fn wanting(&self, ground: &Ground) -> Vec<(usize, usize)> {
        let mut wanting = Vec::new();
        for (i, member) in ground.members.iter().enumerate() {
            let shares = self.pools[member.pool].shares.iter().enumerate();
            wanting.extend(shares.filter(|(_, s)| s.unmet() > 0).map(|(worker, _)| (i, worker)));
        }
        wanting.sort_by_cached_key(|&(member, worker)| {
            let entry = &self.pools[ground.members[member].pool];
            let share = &entry.shares[worker];
            (entry.settled(), share.settled(), share.demand.oldest.is_none(), share.demand.oldest)
        });
        wanting
    }

    /// One more server for a worker of a pool, or a step towards it. May there be more to do for it?
    fn serve(&mut self, ground: &mut Ground, member: usize, worker: usize, now: Instant) -> bool {
        let Member { pool, target, .. } = ground.members[member];
        let entry = &self.pools[pool];
        if entry.shares[worker].unmet() == 0 {
            return false;
        }
        if entry.settled() >= target {
            return self.balance(pool, worker, now);
        }
        if entry.is_backing_off(now) || ground.connecting >= self.clusters[entry.cluster.0].concurrency {
            return false;
        }
        match ground.full(member) {
            None => {
                self.order(ground, member, worker, now);
                true
            }
            Some(_) if self.take_spare(pool, worker) => true,
            // What is being given up already is for those who lack servers already.
            Some(cap) if ground.caps[cap].closing >= ground.caps[cap].unmet => false,
            Some(cap) => self.shed_from(ground, cap) || self.balance(pool, worker, now),
        }
    }

    fn order(&mut self, ground: &mut Ground, member: usize, worker: usize, now: Instant) {
        let Member { pool, caps, .. } = &ground.members[member];
        caps.iter().for_each(|&cap| ground.caps[cap].held += 1);
        ground.connecting += 1;
        self.pools[*pool].shares[worker].connecting += 1;
        self.pools[*pool].ordered.push_back(now);
        self.actions.push_back(Action::Connect { pool: PoolId(*pool), worker });
    }

    /// The pool is to have no more: another worker gives one up, if it has a spare one, or two more, or has had its turn while
    /// this one has none at all.
    fn balance(&mut self, pool: usize, worker: usize, now: Instant) -> bool {
        let share = &self.pools[pool].shares[worker];
        let mine = share.settled();
        let long = |since: Instant| now.saturating_duration_since(since) >= TURN;
        let starves = mine == 0 && share.demand.oldest.is_some_and(long);
        self.take_spare(pool, worker) || self.take(pool, worker, |s| s.left() > mine + 1 || starves)
    }

    fn take_spare(&mut self, pool: usize, worker: usize) -> bool {
        self.take(pool, worker, |s| s.spare() > 0)
    }

    /// The worker with most servers of those that can spare one sends one to another. Was there one?
    fn take(&mut self, pool: usize, to: usize, can: impl Fn(&Share) -> bool) -> bool {
        let shares = &mut self.pools[pool].shares;
        let rich = shares.iter().enumerate().filter(|&(w, s)| w != to && s.left() > 0 && can(s));
        let Some((from, _)) = rich.max_by_key(|(_, s)| s.left()) else { return false };
        shares[from].leaving += 1;
        shares[to].arriving += 1;
        let to = ShedTo::Worker(to);
        self.actions.push_back(Action::Shed { pool: PoolId(pool), worker: from, to });
        true
    }

    /// A pool under this limit that is to have less than it has gives up a server: the longest idle, else one of the pool
    /// furthest over its share. Was one found?
    fn shed_from(&mut self, ground: &mut Ground, cap: usize) -> bool {
        let over = |m: &Member| self.pools[m.pool].settled().saturating_sub(m.target);
        let can =
            |m: &Member| m.caps.contains(&cap) && over(m) > 0 && self.pools[m.pool].shares.iter().any(|s| s.left() > 0);
        let giver = ground.members.iter().enumerate().filter(|(_, m)| can(m)).min_by_key(|(_, m)| {
            let entry = &self.pools[m.pool];
            let keeps = entry.settled() > entry.limits.min;
            (entry.spare() == 0, !keeps, entry.spare_since(), u32::MAX - over(m))
        });
        let Some((member, _)) = giver else { return false };
        self.shed_one(ground, member)
    }

    /// A worker of a pool closes one: who has the longest idle, else who has most. Was there one?
    fn shed_one(&mut self, ground: &mut Ground, member: usize) -> bool {
        let Member { pool, caps, .. } = &ground.members[member];
        let shares = &mut self.pools[*pool].shares;
        let giver = shares.iter().enumerate().filter(|(_, s)| s.left() > 0).min_by_key(|(_, s)| {
            let idle = s.spare() > 0;
            (!idle, s.demand.spare_since.filter(|_| idle), u32::MAX - s.left())
        });
        let Some((worker, _)) = giver else { return false };
        shares[worker].closing += 1;
        caps.iter().for_each(|&cap| ground.caps[cap].closing += 1);
        self.actions.push_back(Action::Shed { pool: PoolId(*pool), worker, to: ShedTo::Close });
        true
    }

    /// What there is room for when all who wait are served.
    fn fill_minimums(&mut self, ground: &mut Ground, now: Instant) {
        for member in 0..ground.members.len() {
            loop {
                let entry = &self.pools[ground.members[member].pool];
                let busy = ground.connecting >= self.clusters[entry.cluster.0].concurrency || entry.is_backing_off(now);
                if busy || entry.held() >= entry.limits.min.min(entry.size(now)) || ground.full(member).is_some() {
                    break;
                }
                let poorest = entry.shares.iter().enumerate().min_by_key(|(_, s)| s.held()).map_or(0, |(w, _)| w);
                self.order(ground, member, poorest, now);
            }
        }
    }
}
