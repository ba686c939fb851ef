//! A server that is gone, or of no use to its client.

use pgsluice_session::{AfterLoss, Refusal};
use pgsluice_wire::Report;
use tracing::info;

use super::end::End;
use super::{Block, Client, LOST_REPLAYS_MAX, Phase};
use crate::worker::State;
use crate::worker::recover::Left;
use crate::worker::slot::Doing;

impl Client {
    /// The server connection ended. The client is told what its session makes of that.
    pub(super) fn lose_server(&mut self, state: &mut State, why: Refusal) -> Result<(), End> {
        let Some(mut link) = self.link.take() else { return Ok(()) };
        self.slot.link.borrow_mut().take();
        let report = link.server.last_words().and_then(|body| Report::read(body).ok());
        let why = report.map_or(why, Refusal::from_report);
        info!(client = self.slot.id, server = link.conn.live.info.id, reason = %why, "server lost");
        state.pool(self.pool).pool.lose();
        self.slot.set_doing(Doing::Idle, state.now);
        self.hold = false;
        let after = if self.phase == Phase::Welcome {
            Err(End::Refused(why.clone()))
        } else {
            match self.session.handle_server_lost(&mut link.server, &why, self.outbox.tail()) {
                AfterLoss::GoOn => Ok(()),
                AfterLoss::Close => Err(End::Told("server lost")),
            }
        };
        self.lost_replays = if link.server.is_replaying() { self.lost_replays + 1 } else { 0 };
        self.worker.lose(self.pool, *link.conn);
        after?;
        if self.lost_replays > LOST_REPLAYS_MAX {
            self.lost_replays = 0;
            return self.refuse(state, why);
        }
        self.process_inbox(state)
    }

    /// The server did not take the client's settings: it is put right without the client, or closed.
    pub(super) fn take_back(&mut self, state: &mut State) {
        if let Some(mut link) = self.link.take() {
            self.slot.link.borrow_mut().take();
            self.block = Block::None;
            link.server.distrust_settings();
            self.worker.recover(state, self.pool, link, Left::default());
        }
    }
}
