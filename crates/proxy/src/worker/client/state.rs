//! Following the session's state: audits before the server is given back, replays that failed, and what the console is
//! told of both.

use pgsluice_session::{AfterLoss, Ctx, Refusal};
use pgsluice_wire::Report;

use super::Client;
use super::end::End;
use crate::worker::conn::Linked;
use crate::worker::slot::{Doing, Pinned};
use crate::worker::tick::LEASE;
use crate::worker::{PoolState, State};

impl Client {
    /// The session is done for now: is something to be asked of its server first? Then the question is on its way.
    pub(super) fn begin_audit(&mut self, state: &mut State) -> bool {
        let Some(Linked { conn, server }) = &mut self.link else { return false };
        if !self.session.wants_audit(server) {
            return false;
        }
        let State { pools, registry, .. } = state;
        let entry = pools[self.pool.0].as_ref().expect("the pool of a client is known");
        self.session.write_audit(server, entry.knowledge.catalog(), registry, conn.outbox.tail());
        true
    }

    /// A client that keeps its server for a while only: has it done nothing for that long?
    pub(super) fn watch_lease(&mut self, state: &mut State) {
        let Some(Linked { server, .. }) = &mut self.link else { return };
        if self.slot.lease_over.take() {
            self.slot.leased.set(false);
            let idle = self.slot.doing.get() == Doing::Idle
                && state.now.saturating_duration_since(self.slot.since.get()) >= LEASE;
            if server.is_ready() && idle {
                let State { pools, registry, plan, .. } = state;
                let entry = pools[self.pool.0].as_mut().expect("the pool of a client is known");
                let PoolState { counters, knowledge, .. } = &mut **entry;
                self.session.end_lease(server, &mut Ctx { registry, counters, catalog: knowledge.catalog(), plan });
            }
        }
        if self.session.has_lease(server) && !self.slot.leased.replace(true) {
            state.leases.push((state.now, self.slot.clone()));
        }
    }

    /// The console is told whether the session is pinned, and what happened.
    pub(super) fn tell_state(&mut self, state: &mut State) {
        if let Some(counts) = self.session.take_counts() {
            state.pool(self.pool).count_state(self.slot.application_name(), &counts);
        }
        let server = self.link.as_ref().map(|l| &l.server);
        let pinned = server.filter(|s| s.is_pinned());
        if pinned.is_none() && self.slot.pinned.borrow().is_none() {
            return;
        }
        let reasons: Vec<_> = pinned.map(|s| s.pins().map(|reason| reason.name()).collect()).unwrap_or_default();
        let mut shown = self.slot.pinned.borrow_mut();
        if shown.as_ref().map_or(&[][..], |p| &p.reasons[..]) != &reasons[..] {
            *shown = pinned.map(|s| {
                Box::new(Pinned {
                    reasons,
                    since: shown.as_ref().map_or(state.now, |p| p.since),
                    statement: s.last_statement(),
                })
            });
        }
    }

    /// A replay failed that the client's messages were sent behind. They did not run, and are answered with its error; the
    /// server is closed, as its answers to them are still to come.
    pub(super) fn lose_replay(&mut self, state: &mut State) -> Result<(), End> {
        let Some(mut link) = self.link.take() else { return Ok(()) };
        self.slot.link.borrow_mut().take();
        let body = link.server.take_own_error();
        let why = body.as_deref().and_then(|body| Report::read(body).ok());
        let why = why.map_or(Refusal::ServerLost, Refusal::from_report);
        self.session.be_careful();
        state.pool(self.pool).pool.lose();
        self.slot.set_doing(Doing::Idle, state.now);
        self.hold = false;
        let after = self.session.handle_server_lost(&mut link.server, &why, self.outbox.tail());
        self.worker.lose(self.pool, *link.conn);
        if after == AfterLoss::Close {
            return Err(End::Told("settings could not be replayed"));
        }
        self.process_inbox(state)
    }
}
