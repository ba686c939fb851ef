//! `currval` and `lastval` tell what the session's own `nextval` returned, which no other server knows, and which cannot be
//! brought there. To keep every session that ever wrote a row would be to pool nothing, as few applications ask.
//!
//! So a session that may have called `nextval` keeps its server for a little while, in which those that ask do: as long as
//! it is not known of its pool that nobody asks. And nobody is told another session's value: what was left there is
//! discarded in front of a statement that may ask.

use pgsluice_sql::Effects;
use pgsluice_wire::{FrontendWriter, TxStatus};

use crate::frontend::Session;
use crate::ledger::Owed;
use crate::server::Server;
use crate::tracking::{PinPolicy, PinReason};
use crate::{Counters, Ctx};

/// Leases that ended without anybody having asked, after which a pool is believed not to ask.
const PROOFS: u64 = 20;
/// Transactions that a lease lasts where it is not known whether anybody asks.
const SHORT_LEASE: u32 = 8;
/// The same where somebody did.
const LONG_LEASE: u32 = 32;
/// The same where somebody asked in vain.
const ENDLESS_LEASE: u32 = u32::MAX;

/// The statement that discards, among a server's prepared statements, and its portal.
const STATEMENT: &[u8] = b"pgsluice_discard";
/// The end of a Bind without parameters: no format, no value, no format of a column.
const NO_VALUES: [u8; 6] = [0; 6];
/// What may have called `nextval`.
const CALLS: Effects = Effects::SEQUENCE;
/// What a session's sequences may have been changed by. Functions that call `nextval` are known by name, and have the effect
/// of it; [`Effects::SUSPECT`] is said of too much.
const CHANGES: [Effects; 3] = [CALLS, Effects::WRITE, Effects::OPAQUE];

/// Whose values of sequences a server may have.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sequences {
    /// The session that used it last.
    user: Option<u64>,
    /// Others did before, and may have called `nextval`.
    others: bool,
    /// It may have done so since.
    own: bool,
}

impl Server {
    /// Nobody's values are left.
    pub(crate) fn forget_sequences(&mut self) {
        self.sequences = Sequences { others: false, own: false, ..self.sequences };
    }

    /// A session is about to use it: whose values are here?
    pub(crate) fn enter_sequences(&mut self, session: u64) {
        if self.sequences.user != Some(session) {
            self.sequences = Sequences { user: Some(session), others: self.sequences.user.is_some(), own: false };
        }
    }

    /// What was to discard them did not run.
    pub(crate) fn keep_sequences(&mut self) {
        self.sequences.others = true;
    }

    /// A session sends what may do this.
    pub(crate) fn note_sequences(&mut self, effects: Effects, session: u64) {
        self.enter_sequences(session);
        if CHANGES.into_iter().any(|change| effects.contains(change)) {
            self.sequences.own = true;
            self.leasable |= effects.intersects(CALLS | Effects::WRITE);
        }
    }
}

impl Session {
    /// A statement that may do this is to be sent, and is not in what is known of the server yet. Has what another session
    /// left there to be discarded first?
    pub(crate) fn has_foreign_sequences(
        &mut self,
        effects: Effects,
        server: &mut Server,
        counters: &mut Counters,
    ) -> bool {
        if !self.is_followed() || !effects.contains(Effects::SEQUENCE_READ) {
            return false;
        }
        server.enter_sequences(self.id);
        let Sequences { user, others, own } = server.sequences;
        let mine = own && user == Some(self.id);
        if server.pins.contains(Effects::SEQUENCE) {
            counters.sequence_reads += 1;
            self.lease = self.lease.max(LONG_LEASE);
        } else if self.called_nextval && !mine {
            counters.sequence_losses += 1;
        }
        !mine && others && server.tx != TxStatus::Failed
    }

    /// Discards it, in front of a Query.
    pub(crate) fn discard_sequences(&self, server: &mut Server, ctx: &mut Ctx<'_>) {
        server.forget_sequences();
        ctx.plan.insert(|out| FrontendWriter(out).query(b"DISCARD SEQUENCES"));
        server.owe_hidden_cycle(Owed::HiddenQuery);
    }

    /// The same within a batch, in front of a Bind.
    pub(crate) fn discard_sequences_in_batch(&self, server: &mut Server, ctx: &mut Ctx<'_>) {
        server.forget_sequences();
        ctx.plan.insert(|out| {
            let mut writer = FrontendWriter(out);
            writer.close_statement(STATEMENT);
            writer.parse_content(STATEMENT, b"DISCARD SEQUENCES\0\0\0");
            // The unnamed portal may be in use.
            writer.bind_front(STATEMENT, STATEMENT, NO_VALUES.len());
            writer.0.extend(NO_VALUES);
            writer.execute_portal(STATEMENT);
            // `pg_prepared_statements` would show it.
            writer.close_statement(STATEMENT);
        });
        for owed in [Owed::HiddenClose(None), Owed::HiddenParse(None), Owed::HiddenBind, Owed::HiddenExecute] {
            server.owe(owed);
        }
        server.owe(Owed::HiddenClose(None));
    }

    /// A transaction of the client's ended.
    pub(crate) fn note_sequence_use(&mut self, server: &mut Server, ctx: &mut Ctx<'_>) {
        let before = server.pins;
        if std::mem::take(&mut server.leasable) {
            self.called_nextval = true;
            if ctx.counters.sequence_reads > 0 {
                // Somebody asks here: what is left is removed before the server is lent again.
                server.residue |= Effects::SEQUENCE;
            }
            let wanted = self.tracking.policy(PinReason::Sequence) != PinPolicy::Ignore;
            let lease = lease(ctx.counters);
            if wanted && lease > 0 {
                self.lease = lease;
                server.pins |= Effects::SEQUENCE;
            }
        } else if server.pins.contains(Effects::SEQUENCE) && self.lease != ENDLESS_LEASE {
            self.lease = self.lease.saturating_sub(1);
            if self.lease == 0 {
                return self.end_lease(server, ctx);
            }
        }
        if server.pins != before {
            self.note_pins(before, server.pins, ctx);
        }
    }

    /// Nobody asked in time.
    pub fn end_lease(&mut self, server: &mut Server, ctx: &mut Ctx<'_>) {
        if server.pins.contains(Effects::SEQUENCE) && self.lease != ENDLESS_LEASE {
            ctx.counters.sequence_proofs += 1;
            let before = server.pins;
            server.pins = before.without(Effects::SEQUENCE);
            self.lease = 0;
            self.note_pins(before, server.pins, ctx);
        }
    }

    /// Does it keep its server for a while only?
    pub fn has_lease(&self, server: &Server) -> bool {
        server.pins.contains(Effects::SEQUENCE) && self.lease != ENDLESS_LEASE
    }
}

/// For how many transactions a session of the pool keeps its server behind a `nextval`.
fn lease(counters: &Counters) -> u32 {
    match counters {
        Counters { sequence_losses: 1.., .. } => ENDLESS_LEASE,
        Counters { sequence_reads: 1.., .. } => LONG_LEASE,
        Counters { sequence_proofs: PROOFS.., .. } => 0,
        _ => SHORT_LEASE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_that_never_asks_keeps_nobody() {
        let mut counters = Counters::default();
        assert_eq!(lease(&counters), SHORT_LEASE);
        counters.sequence_proofs = PROOFS;
        assert_eq!(lease(&counters), 0);
        counters.sequence_reads = 1;
        assert_eq!(lease(&counters), LONG_LEASE);
        counters.sequence_losses = 1;
        assert_eq!(lease(&counters), ENDLESS_LEASE);
    }
}
