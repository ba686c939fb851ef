//! Who was wrong is kept waiting; see [`crate::failures`].

use std::rc::Rc;

use pgsluice_session::Refusal;

use super::Front;
use crate::failures::Held;

impl Front {
    /// Is anything that proves a user's identity taken from this place now?
    ///
    /// # Errors
    /// It is not.
    pub(super) fn check_failures(&self, place: &str, user: &str) -> Result<(), Refusal> {
        match self.reception.book().failures.is_full(place, user) {
            true => Err(Refusal::TooManyFailures(user.into())),
            false => Ok(()),
        }
    }

    /// PostgreSQL was asked for a user that there is not. Who asks like that again and again is at some point not listened to.
    pub(super) fn note_stranger(self: &Rc<Self>, place: &str, user: &str) {
        let (front, place, user) = (self.clone(), place.to_owned(), user.to_owned());
        tokio::task::spawn_local(async move { front.hold_back(place, &user, None).await });
    }

    /// A password was wrong. Returns when that may be said. `held`: it is counted already.
    pub(super) async fn hold_back(&self, place: String, user: &str, held: Option<Held>) {
        let delay = self.config().settings.auth_failure_delay;
        if !delay.is_zero() {
            let _held = held.or_else(|| Held::new(&self.reception, place, user, false));
            tokio::time::sleep(delay).await;
        }
    }
}
