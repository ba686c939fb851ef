//! The end of a session, or of one query for want of a server: what it held goes back, and what is to be said is said.

use pgsluice_session::{Pooling, Refusal};
use pgsluice_wire::Severity;
use tracing::info;

use super::{Block, Client, Phase};
use crate::worker::State;
use crate::worker::conn::Linked;
use crate::worker::recover::Left;
use crate::worker::slot::Grant;

/// How a session ends.
#[derive(Debug)]
pub(super) enum End {
    /// The client said Terminate.
    Terminated,
    /// The client hung up.
    Vanished,
    /// We end it, and say why.
    Refused(Refusal),
    /// The last word has been written already.
    Told(&'static str),
}

impl Client {
    /// The message that wants a server is answered with an error. Who is not let in yet has to go.
    pub(super) fn turn_away(&mut self, log: bool, refusal: Refusal) -> Result<(), End> {
        self.hold = false;
        if self.phase == Phase::Welcome {
            return Err(End::Refused(refusal));
        }
        if log {
            info!(client = self.slot.id, error = %refusal, "query refused");
        }
        self.session.handle_refusal(&refusal, self.outbox.tail());
        Ok(())
    }

    pub(super) fn finish(&mut self, state: &mut State, end: &End) {
        if let Block::Queue(ticket) = self.block {
            state.pool(self.pool).pool.leave(ticket);
        }
        if let Some(Grant::Server(idle)) = self.slot.grant.take() {
            let now = state.now;
            self.worker.place(state, self.pool, idle, true, now);
        }
        self.slot.link.borrow_mut().take();
        self.leave_hub(state);
        if let Some(counts) = self.session.take_counts() {
            state.pool(self.pool).count_state(self.slot.application_name(), &counts);
        }
        let mid_message = self.session.is_mid_message();
        let mid_reply = self.link.as_ref().is_some_and(|l| l.server.is_mid_reply());
        if let Some(link) = self.link.take() {
            if mid_message && !matches!(end, End::Terminated) {
                self.abandon(state, link);
            } else {
                let reset = self.session.pooling() == Pooling::Session;
                let finish = matches!(end, End::Terminated);
                self.worker.recover(state, self.pool, link, Left { finish, reset });
            }
        }
        // In the middle of a message our word would be read as a part of it.
        if let End::Refused(refusal) = end
            && !mid_reply
        {
            refusal.write(Severity::Fatal, self.outbox.tail());
        }
        // Whoever does not read does not get the last word.
        self.stream.write_now(self.outbox.as_slice());
        self.stream.say_goodbye();
        state.clients.remove(&self.slot.pid);
        self.session.end(&mut state.registry);
        let entry = state.pool(self.pool);
        entry.clients -= 1;
        if entry.spec.log_disconnections && !self.slot.is_ours {
            let reason = match end {
                End::Terminated => "client said Terminate".to_owned(),
                End::Vanished => "client hung up".to_owned(),
                End::Refused(refusal) => refusal.to_string(),
                End::Told(why) => (*why).to_owned(),
            };
            info!(client = self.slot.id, user = %self.slot.user, database = %entry.spec.database, %reason, "client gone");
        }
        self.worker.reception.leave(self.slot.pid);
    }

    /// Half a message has gone to the server: nothing can follow it. What may run there is cancelled.
    fn abandon(&mut self, state: &mut State, mut link: Linked) {
        let spec = state.pool(self.pool).spec.clone();
        if link.server.owes() {
            self.worker.send_cancel(&mut link.conn, &mut link.server, &spec, None);
        }
        state.pool(self.pool).pool.lose();
        link.conn.deaf = true;
        self.worker.lose(self.pool, *link.conn);
    }
}
