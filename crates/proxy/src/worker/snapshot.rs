//! A worker's share of what the console shows.

use std::rc::Rc;
use std::time::{Instant, SystemTime};

use pgsluice_console::{ConnKind, ConnRow, ConnState, Holder, Leak, Pin, PinCounters, PinStat};
use pgsluice_pool::PoolId;
use pgsluice_session::{Replication, StateCounts};

use super::conn::Live;
use super::slot::{Doing, Slot};
use super::{PoolState, State, Worker};
use crate::message::{PoolShare, WorkerSnapshot};

impl Worker {
    /// `detail`: every connection too, not just the numbers.
    pub(super) fn snapshot(&self, detail: bool, now: Instant) -> WorkerSnapshot {
        let mut state = self.cell.borrow_mut();
        let pools = state.pools().map(|p| share(p)).collect();
        let mut snapshot = WorkerSnapshot { pools, ..WorkerSnapshot::default() };
        if detail {
            snapshot.clients = state.clients.values().map(|slot| self.client_row(&state, slot, now)).collect();
            snapshot.servers = self.server_rows(&state, now);
            snapshot.leaks = leaks(&state, now);
            snapshot.pins = pins(&state, now);
            snapshot.pin_stats = state.pools.iter().flatten().flat_map(|entry| pin_stats(entry)).collect();
        }
        snapshot
    }

    fn client_row(&self, state: &State, slot: &Slot, now: Instant) -> ConnRow {
        let wait = now.saturating_duration_since(slot.since.get());
        let doing = slot.doing.get();
        let ((addr, port), (local_addr, local_port)) = (slot.ends.peer.describe(), slot.ends.local.describe());
        ConnRow {
            kind: ConnKind::Client,
            user: Some(slot.user.to_string()),
            database: state.pools[slot.pool.0].as_ref().map(|p| p.spec.database.clone()),
            state: match doing {
                Doing::Idle => ConnState::Idle,
                Doing::Waiting => ConnState::Waiting,
                Doing::Active | Doing::IdleInTransaction | Doing::Replicating => ConnState::Active,
            },
            addr,
            port,
            local_addr,
            local_port,
            tls: slot.ends.tls.to_string(),
            connect_time: Some(slot.connected),
            request_time: SystemTime::now().checked_sub(wait),
            wait: if doing == Doing::Idle { std::time::Duration::ZERO } else { wait },
            id: slot.id,
            link: slot.link.borrow().as_ref().map(|l| l.info.id),
            application_name: slot.application_name().to_owned(),
            prepared_statements: slot.statements.get() as u64,
            replication: shown(slot.replication),
            worker: self.index as u64,
            ..ConnRow::default()
        }
    }

    fn server_rows(&self, state: &State, now: Instant) -> Vec<ConnRow> {
        let mut rows = Vec::new();
        for entry in state.pools.iter().flatten() {
            for (idle, since) in entry.pool.iter_idle() {
                let server = idle.server.server();
                let mut row = self.server_row(entry, &idle.conn.live, ConnState::Idle);
                row.prepared_statements = server.prepared_count() as u64;
                row.application_name = server.settings().get("application_name").unwrap_or_default().into();
                row.request_time = SystemTime::now().checked_sub(now.saturating_duration_since(since));
                rows.push(row);
            }
        }
        for slot in state.clients.values() {
            let (link, entry) = (slot.link.borrow(), state.pools[slot.pool.0].as_ref());
            if let (Some(live), Some(entry)) = (link.as_ref(), entry) {
                let wait = now.saturating_duration_since(slot.since.get());
                let mut row = self.server_row(entry, live, ConnState::Active);
                row.link = Some(slot.id);
                row.replication = shown(slot.replication);
                row.application_name = slot.application_name().to_owned();
                row.request_time = SystemTime::now().checked_sub(wait);
                row.wait = wait;
                rows.push(row);
            }
        }
        for entry in state.pools.iter().flatten() {
            if let Some(hub) = &entry.hub {
                let mut row = self.server_row(entry, &hub.live, ConnState::Listening);
                row.application_name = format!("{} clients", hub.len());
                rows.push(row);
            }
        }
        for (pool, live) in state.cleaning.values() {
            rows.extend(entry_of(state, *pool).map(|entry| self.server_row(entry, live, ConnState::Tested)));
        }
        rows
    }

    fn server_row(&self, entry: &PoolState, live: &Live, state: ConnState) -> ConnRow {
        let info = &live.info;
        let ((addr, port), (local_addr, local_port)) = (info.ends.peer.describe(), info.ends.local.describe());
        ConnRow {
            kind: ConnKind::Server,
            user: Some(entry.spec.target.user.clone()),
            database: Some(entry.spec.database.clone()),
            state,
            addr,
            port,
            local_addr,
            local_port,
            tls: info.ends.tls.to_string(),
            connect_time: Some(info.connected),
            close_needed: info.epoch < entry.epoch,
            id: info.id,
            remote_pid: info.pid,
            prepared_statements: live.prepared.get() as u64,
            worker: self.index as u64,
            ..ConnRow::default()
        }
    }
}

/// Clients idle inside a transaction.
fn leaks(state: &State, now: Instant) -> Vec<(PoolId, Leak)> {
    let idle = state.clients.values().filter(|slot| slot.doing.get() == Doing::IdleInTransaction);
    let leak = |slot: &Rc<Slot>| {
        let leak = Leak {
            holder: holder(state, slot)?,
            idle: now.saturating_duration_since(slot.since.get()),
            transaction: now.saturating_duration_since(slot.linked_since.get()),
            statement: slot.statement.borrow().to_string(),
            ..Leak::default()
        };
        Some((slot.pool, leak))
    };
    idle.filter_map(leak).collect()
}

/// Clients that keep their server.
fn pins(state: &State, now: Instant) -> Vec<Pin> {
    let pin = |slot: &Rc<Slot>| {
        let pinned = slot.pinned.borrow().clone()?;
        let age = now.saturating_duration_since(pinned.since);
        Some(Pin {
            holder: holder(state, slot)?,
            reasons: pinned.reasons,
            since: SystemTime::now().checked_sub(age),
            age,
            statement: pinned.statement,
        })
    };
    state.clients.values().filter_map(pin).collect()
}

/// What following the state of its clients took, by application.
fn pin_stats(entry: &PoolState) -> impl Iterator<Item = PinStat> + use<'_> {
    entry.state_counts.iter().map(|(application, counts)| PinStat {
        database: entry.spec.database.clone(),
        user: entry.spec.target.user.clone(),
        application_name: application.clone(),
        counters: pin_counters(counts),
    })
}

fn pin_counters(counts: &StateCounts) -> PinCounters {
    PinCounters {
        audits: counts.audits,
        audit_failures: counts.audit_failures,
        pins: counts.pinned,
        reasons: counts.pins,
        unpins: counts.unpins,
        replays: counts.replays,
        replay_failures: counts.replay_failures,
        refused: counts.refused,
        warned: counts.warned,
        ignored: counts.ignored,
    }
}

/// A client and the server it has, if it has one.
fn holder(state: &State, slot: &Slot) -> Option<Holder> {
    let link = slot.link.borrow();
    let server = &link.as_ref()?.info;
    let (addr, port) = slot.ends.peer.describe();
    Some(Holder {
        client: slot.id,
        pid: slot.pid,
        database: entry_of(state, slot.pool)?.spec.database.clone(),
        user: slot.user.to_string(),
        application_name: slot.application_name().to_owned(),
        addr,
        port,
        server: server.id,
        remote_pid: server.pid,
    })
}

fn shown(replication: Replication) -> pgsluice_console::Replication {
    match replication {
        Replication::No => pgsluice_console::Replication::None,
        Replication::Physical => pgsluice_console::Replication::Physical,
        Replication::Logical => pgsluice_console::Replication::Logical,
    }
}

fn entry_of(state: &State, pool: PoolId) -> Option<&PoolState> {
    state.pools.get(pool.0)?.as_deref()
}

fn share(entry: &PoolState) -> PoolShare {
    let mut counters = entry.stats;
    counters.query_count = entry.counters.queries;
    counters.xact_count = entry.counters.xacts;
    counters.client_parse_count = entry.counters.client_parses;
    counters.server_parse_count = entry.counters.server_parses;
    counters.bind_count = entry.counters.binds;
    let mut pins = StateCounts::default();
    entry.state_counts.values().for_each(|counts| pins.add(counts));
    PoolShare {
        pool: entry.spec.id,
        clients: entry.clients as u64,
        waiting: entry.pool.waiting() as u64,
        idle: entry.pool.idle() as u64,
        linked: (entry.pool.linked() - entry.cleaning) as u64,
        cleaning: entry.cleaning as u64,
        oldest: entry.pool.oldest_wait(),
        counters,
        pins: pin_counters(&pins),
    }
}
