//! Who was wrong is kept waiting; see [`crate::failures`].

use std::rc::Rc;

use pgsluice_session::Refusal;

use super::Front;

/// One that is kept waiting, for as long as this lives.
struct Held<'a> {
    front: &'a Front,
    place: &'a str,
    user: &'a str,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.front.reception.book().failures.count(self.place, self.user, -1);
    }
}

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
        tokio::task::spawn_local(async move { front.hold_back(&place, &user).await });
    }

    /// A password was wrong. Returns when that may be said.
    pub(super) async fn hold_back(&self, place: &str, user: &str) {
        let delay = self.config().settings.auth_failure_delay;
        if !delay.is_zero() {
            self.reception.book().failures.count(place, user, 1);
            let _held = Held { front: self, place, user };
            tokio::time::sleep(delay).await;
        }
    }
}
