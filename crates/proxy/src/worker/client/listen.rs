//! A client that listens: it is handed to its pool's hub and taken back, and told what that hears.

use pgsluice_session::{HubEvent, Refusal};

use super::end::End;
use super::{Block, Client, OUTBOX_MAX, Phase};
use crate::worker::State;
use crate::worker::conn::Linked;
use crate::worker::slot::Doing;

/// Bytes of notifications, and of whatever else it does not read, that wait for a client whose server is shared.
const NOTIFICATIONS_MAX: usize = 4 << 20;

impl Client {
    /// News from the hub.
    pub(super) fn take_mail(&mut self, state: &mut State, mail: Vec<HubEvent>, late: Option<u64>) -> Result<(), End> {
        let late = late == Some(self.session.mark());
        if mail.is_empty() && !late {
            return Ok(());
        }
        for event in mail {
            self.session.hear(event).map_err(End::Refused)?;
        }
        if let Some(Linked { server, .. }) = &mut self.link {
            self.session.settle_listening(server);
        }
        if late && self.session.waits_for_hub() {
            self.session.abandon_switch().map_err(End::Refused)?;
        } else if late && self.session.is_switching() {
            // Its server is busy, perhaps with somebody else's lock.
            state.switches.push((state.now, self.slot.clone(), self.session.mark()));
        }
        self.tell_notifications();
        let waits = self.outbox.len() + self.session.untold();
        if waits > NOTIFICATIONS_MAX {
            return Err(End::Refused(Refusal::TooManyNotifications { max: NOTIFICATIONS_MAX }));
        }
        if self.block == Block::Server { self.process_inbox(state) } else { Ok(()) }
    }

    /// Between two commands the client is told what has come. Was there anything?
    pub(super) fn tell_notifications(&mut self) -> bool {
        let server = self.link.as_ref().map(|l| &*l.server);
        let told = self.phase == Phase::Open
            && self.outbox.len() < OUTBOX_MAX
            && self.session.write_notifications(server, self.outbox.tail());
        if told {
            self.hold = false;
        }
        told
    }

    /// The session is done for now, and nothing is to be asked of its server: the hub listens for it, or it for itself. Is
    /// there anything more to do?
    pub(super) fn listen(&mut self, state: &mut State) -> bool {
        if self.session.take_left_hub() {
            self.leave_hub(state);
        }
        let Some(Linked { conn, server }) = &mut self.link else { return false };
        if self.session.channels().is_none() && !self.slot.seeks_hub.get() {
            return false;
        }
        self.session.settle_listening(server);
        let wants_hub = self.session.wants_hub(server);
        if !wants_hub && self.slot.seeks_hub.take() {
            state.pool(self.pool).candidates.remove(&self.slot.id);
        }
        if self.session.wants_return(server) {
            self.session.write_return(server, conn.outbox.tail());
        } else if self.session.wants_move(server) {
            self.session.write_move(server, conn.outbox.tail());
        } else {
            if wants_hub {
                self.seek_hub(state);
            }
            return false;
        }
        self.note_mark(state);
        true
    }

    /// Only channels keep it on its server: the hub listens for it, if there is one, or its server becomes one.
    fn seek_hub(&mut self, state: &mut State) {
        let (Some(Linked { server, .. }), Some(channels)) = (&self.link, self.session.channels()) else { return };
        let entry = state.pool(self.pool);
        let another = entry.add_candidate(&self.slot, server);
        match &entry.hub {
            Some(hub) if hub.suits(server) && hub.live.info.epoch >= entry.epoch => {
                hub.join(&self.slot, channels);
                entry.candidates.remove(&self.slot.id);
                self.slot.seeks_hub.set(false);
                self.session.join();
            }
            Some(_) => {}
            None if another => self.found_hub(state),
            None => {}
        }
    }

    /// Its server becomes the hub.
    fn found_hub(&mut self, state: &mut State) {
        let (Some(link), Some(channels)) = (self.link.take(), self.session.channels().cloned()) else { return };
        self.slot.link.borrow_mut().take();
        self.slot.set_doing(Doing::Idle, state.now);
        let marks_by = self.worker.clone().found_hub(state, self.pool, &self.slot, &channels, link);
        self.session.found(marks_by);
        self.tell_state(state);
    }

    /// The hub is to look out for the mark that has just been sent.
    pub(super) fn note_mark(&mut self, state: &mut State) {
        let (Some(mark), Some(Linked { server, .. })) = (self.session.take_mark(), &self.link) else { return };
        let pid = server.cancel_key().pid;
        state.switches.push((state.now, self.slot.clone(), mark));
        if let Some(hub) = &state.pool(self.pool).hub {
            hub.expect(self.slot.id, mark, pid);
        }
    }

    pub(super) fn leave_hub(&mut self, state: &mut State) {
        let entry = state.pool(self.pool);
        entry.candidates.remove(&self.slot.id);
        if let Some(hub) = &entry.hub {
            hub.leave(self.slot.id);
        }
    }
}
