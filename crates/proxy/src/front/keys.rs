//! Pass-through: what a client proved at its login opens its servers, so that no password need be stored.

use pgsluice_session::{LoginFailure, ServerCredential};
use pgsluice_wire::sqlstate;
use tracing::debug;

use super::Front;
use crate::reception::{is_teaching, learnt_for};
use crate::spec::Target;

impl Front {
    /// A client has proven to know this: good for servers if they are its user's own.
    pub(super) fn learn(&self, database: &str, user: &str, learnt: Option<ServerCredential>) {
        let config = self.config();
        let (Some(learnt), Some((entry, _))) = (learnt, config.database(database)) else { return };
        let target = crate::spec::target(&config, entry, database, user);
        if !is_teaching(&config, &target) {
            return;
        }
        let key = learnt_for(&target);
        let mut book = self.reception.book();
        if book.learnt.get(&key) == Some(&learnt) {
            return;
        }
        book.learnt.insert(key.clone(), learnt);
        drop(book);
        let mut state = self.cell.borrow_mut();
        // Logins that failed for want of it are no reason to wait any more, nor to refuse anybody.
        for index in 0..state.pools.len() {
            let pool = &mut state.pools[index];
            if learnt_for(&pool.spec.target) == key {
                pool.failed = None;
                let id = pool.spec.id;
                state.broker.forget_failures(id);
            }
        }
    }

    /// What we can prove to the target's server.
    pub(super) fn credential(&self, target: &Target) -> ServerCredential {
        let key = learnt_for(target);
        let state = self.cell.borrow();
        let place = (target.address.clone(), target.user.clone());
        let salted = state.salted.get(&place).filter(|(secret, _)| *secret == target.secret);
        match target.credential(salted.map(|(_, keys)| keys.clone())) {
            own if own.is_password() || !target.is_own => own,
            own => self.reception.book().learnt.get(&key).cloned().unwrap_or(own),
        }
    }

    /// A login failed with this credential: if it was a client's, it is good no more.
    pub(super) fn unlearn(&self, target: &Target, tried: &ServerCredential, failure: &LoginFailure) {
        let is_wrong = match failure {
            LoginFailure::Refused(error) => error.sqlstate == sqlstate::INVALID_PASSWORD,
            LoginFailure::Impostor => true,
            _ => false,
        };
        let key = learnt_for(target);
        let mut book = self.reception.book();
        if is_wrong && book.learnt.get(&key) == Some(tried) {
            debug!(user = %target.user, server = %target.address, "what a client proved at its login is good no more");
            book.learnt.remove(&key);
        }
    }
}
