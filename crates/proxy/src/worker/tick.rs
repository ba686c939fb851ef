//! What has to be done as time passes, once per tick and worker: no timer per query.

use std::rc::Rc;
use std::time::{Duration, Instant};

use pgsluice_pool::PoolId;
use pgsluice_session::Refusal;

use super::slot::{Doing, Grant, Slot};
use super::{PoolState, State, Worker};
use crate::message::{Drain, ToFront};
use crate::spec::Timeouts;

/// How long an order to give up a server waits for one to come back.
const SHED_AGE: Duration = Duration::from_secs(2);

/// How long a client that may call `currval` keeps its server, if it does nothing.
pub(super) const LEASE: Duration = Duration::from_secs(1);

/// How long a client may be on its way to a hub or back.
const SWITCH: Duration = Duration::from_secs(5);

impl Worker {
    pub(super) fn tick(&self, now: Instant) {
        let mut state = self.cell.borrow_mut();
        for index in 0..state.pools.len() {
            if let Some(entry) = &mut state.pools[index] {
                self.tick_waiters(entry, now);
                let expired = entry.pool.expire_sheds(now, SHED_AGE);
                for to in expired {
                    self.tell(ToFront::ShedExpired { pool: PoolId(index), worker: self.index, to });
                }
                self.tick_idle(&mut state, PoolId(index), now);
            }
        }
        let over = |since: Instant| now.saturating_duration_since(since) >= LEASE;
        for (_, slot) in state.leases.extract_if(.., |(since, _)| over(*since)) {
            slot.lease_over.set(true);
            slot.wake();
        }
        self.tick_hubs(&mut state, now);
        self.tick_clients(&mut state, now);
        self.answer_those_who_wait(&mut state);
    }

    /// Hubs that are not to go on, and clients whose move to or from one takes too long.
    fn tick_hubs(&self, state: &mut State, now: Instant) {
        let draining = state.draining == Some(Drain::Servers);
        for entry in state.pools() {
            let Some(hub) = &entry.hub else { continue };
            if draining {
                hub.end_idle(&Refusal::ShuttingDown);
            } else if hub.live.info.epoch < entry.epoch {
                hub.end_idle(&Refusal::HubReplaced);
            }
            hub.tick();
        }
        let late = |since: Instant| now.saturating_duration_since(since) >= SWITCH;
        for (_, slot, mark) in state.switches.extract_if(.., |(since, ..)| late(*since)) {
            slot.order(|orders| orders.switch_late = Some(mark));
        }
    }

    fn tick_waiters(&self, entry: &mut PoolState, now: Instant) {
        let query_wait_notify = entry.spec.timeouts.query_wait_notify;
        let too_long = |slot: &Rc<Slot>, since: Instant| {
            !slot.query_wait().is_zero() && now.saturating_duration_since(since) >= slot.query_wait()
        };
        for slot in entry.pool.expire_waiters(too_long) {
            slot.grant(Grant::Refused(Refusal::WaitTimeout { seconds: slot.query_wait().as_secs() }));
        }
        let overdue = |since: Instant| now.saturating_duration_since(since) >= query_wait_notify;
        if !query_wait_notify.is_zero() && entry.pool.oldest_wait().is_some_and(overdue) {
            for (slot, _) in entry.pool.iter_waiting().take_while(|(_, since)| overdue(*since)) {
                if !slot.noticed.replace(true) {
                    slot.order(|orders| orders.notice_due = true);
                }
            }
        }
        self.report_demand(entry, false, now);
    }

    /// Idle servers that died, are not wanted any more, or have been idle for too long.
    fn tick_idle(&self, state: &mut State, pool: PoolId, now: Instant) {
        let State { pools, plan, draining, .. } = state;
        let Some(entry) = &mut pools[pool.0] else { return };
        if entry.pool.idle() == 0 {
            return;
        }
        let unwanted = entry.pool.is_paused() || *draining == Some(Drain::Servers);
        let (epoch, linked, min) = (entry.epoch, entry.pool.linked(), entry.spec.limits.min as usize);
        let timeouts = entry.spec.timeouts.clone();
        let due = entry.pool.take_idle_where(|idle, since, left| {
            let too_long = !timeouts.server_idle.is_zero()
                && now.saturating_duration_since(since) >= timeouts.server_idle
                && left + linked >= min;
            unwanted || too_long || idle.is_old(epoch, timeouts.server_lifetime, now) || !idle.is_fit(plan)
        });
        for idle in due {
            self.close(pool, idle, false);
        }
    }

    fn tick_clients(&self, state: &mut State, now: Instant) {
        let watched = |t: &Timeouts| [t.query, t.idle_transaction, t.transaction].iter().any(|d| !d.is_zero());
        let idle_watched = state.clients.values().any(|s| !s.client_idle().is_zero());
        if !idle_watched && !state.pools().any(|p| watched(&p.spec.timeouts)) {
            return;
        }
        for slot in state.clients.values() {
            let timeouts = state.pools[slot.pool.0].as_ref().map(|p| &p.spec.timeouts);
            if let Some(refusal) = timeouts.and_then(|t| overdue(slot, t, now)) {
                slot.kill(refusal);
            }
        }
    }

    /// PAUSE, WAIT_CLOSE and SHUTDOWN are answered when what they wait for is so.
    fn answer_those_who_wait(&self, state: &mut State) {
        for (database, done) in std::mem::take(&mut state.pauses) {
            if state.pools().any(|p| p.serves(database.as_deref()) && p.servers() > 0 && p.pool.is_paused()) {
                state.pauses.push((database, done));
            } else {
                let _ = done.send(());
            }
        }
        for (database, done) in std::mem::take(&mut state.closings) {
            if self.has_obsolete(state, database.as_deref()) {
                state.closings.push((database, done));
            } else {
                let _ = done.send(());
            }
        }
        let over = match state.drain {
            Some((Drain::Clients, _)) => state.clients.is_empty(),
            Some((Drain::Servers, _)) => state.linked() == 0,
            None => false,
        };
        if over && let Some((_, done)) = state.drain.take() {
            let _ = done.send(());
        }
    }

    fn has_obsolete(&self, state: &State, database: Option<&str>) -> bool {
        let old = |pool: PoolId, epoch: u64| {
            state.pools[pool.0].as_ref().is_some_and(|p| p.serves(database) && epoch < p.epoch)
        };
        // A replication client keeps its WAL sender for as long as it likes.
        let mut pooled = state.clients.values().filter(|s| s.doing.get() != Doing::Replicating);
        let linked = pooled.any(|s| s.link.borrow().as_ref().is_some_and(|l| old(s.pool, l.info.epoch)));
        let mut hubs =
            state.pools.iter().flatten().filter(|p| p.serves(database)).filter_map(|p| Some((p, p.hub.as_ref()?)));
        let listening = hubs.any(|(p, hub)| hub.live.info.epoch < p.epoch);
        linked || listening || state.cleaning.values().any(|(pool, live)| old(*pool, live.info.epoch))
    }
}

/// What a client has done for too long, if anything.
fn overdue(slot: &Slot, timeouts: &Timeouts, now: Instant) -> Option<Refusal> {
    let over = |limit: Duration, since: Instant| !limit.is_zero() && now.saturating_duration_since(since) >= limit;
    let since = slot.since.get();
    match slot.doing.get() {
        Doing::Idle => over(slot.client_idle(), since).then_some(Refusal::ClientIdleTimeout),
        Doing::Waiting | Doing::Replicating => None,
        Doing::Active if over(timeouts.query, since) => Some(Refusal::QueryTimeout),
        Doing::IdleInTransaction if over(timeouts.idle_transaction, since) => Some(Refusal::IdleTransactionTimeout),
        Doing::Active | Doing::IdleInTransaction => {
            over(timeouts.transaction, slot.linked_since.get()).then_some(Refusal::TransactionTimeout)
        }
    }
}
