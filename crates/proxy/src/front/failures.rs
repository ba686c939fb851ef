//! Wrong passwords are answered late, and only so many at once of one place are taken: who guesses is slowed down, however many
//! connections it opens, and whether or not it waits for the answers.

use std::collections::HashMap;

use pgsluice_session::Refusal;

use super::Front;

/// Wrong passwords that are kept waiting at once: of one user and place, and of one place.
const FAILURES_MAX: u32 = 32;
const PLACE_FAILURES_MAX: u32 = 256;

/// Those that are kept waiting, by place and by user; all users of a place are counted under none.
#[derive(Debug, Default)]
pub(super) struct Failures(HashMap<(String, Option<String>), u32>);

impl Failures {
    fn is_full(&self, place: &str, user: &str) -> bool {
        let of = |user: Option<&str>| self.0.get(&(place.to_owned(), user.map(Into::into))).copied().unwrap_or(0);
        of(Some(user)) >= FAILURES_MAX || of(None) >= PLACE_FAILURES_MAX
    }

    fn count(&mut self, place: &str, user: &str, by: i64) {
        for user in [None, Some(user.to_owned())] {
            let key = (place.to_owned(), user);
            let count = self.0.entry(key.clone()).or_default();
            *count = count.saturating_add_signed(i32::try_from(by).unwrap_or(0));
            if *count == 0 {
                self.0.remove(&key);
            }
        }
    }
}

/// One that is kept waiting, for as long as this lives.
struct Held<'a> {
    front: &'a Front,
    place: &'a str,
    user: &'a str,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.front.failures.borrow_mut().count(self.place, self.user, -1);
    }
}

impl Front {
    /// Is anything that proves a user's identity taken from this place now?
    ///
    /// # Errors
    /// It is not.
    pub(super) fn check_failures(&self, place: &str, user: &str) -> Result<(), Refusal> {
        match self.failures.borrow().is_full(place, user) {
            true => Err(Refusal::TooManyFailures(user.into())),
            false => Ok(()),
        }
    }

    /// A password was wrong. Returns when that may be said.
    pub(super) async fn hold_back(&self, place: &str, user: &str) {
        let delay = self.config().settings.auth_failure_delay;
        if !delay.is_zero() {
            self.failures.borrow_mut().count(place, user, 1);
            let _held = Held { front: self, place, user };
            tokio::time::sleep(delay).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_and_a_user_of_it_are_full_for_themselves() {
        let mut failures = Failures::default();
        for _ in 0..FAILURES_MAX {
            assert!(!failures.is_full("10.0.0.1", "bob"));
            failures.count("10.0.0.1", "bob", 1);
        }
        assert!(failures.is_full("10.0.0.1", "bob"));
        assert!(!failures.is_full("10.0.0.1", "eve") && !failures.is_full("10.0.0.2", "bob"));
        for user in FAILURES_MAX..PLACE_FAILURES_MAX {
            failures.count("10.0.0.1", &user.to_string(), 1);
        }
        assert!(failures.is_full("10.0.0.1", "eve") && !failures.is_full("10.0.0.2", "eve"));
        failures.count("10.0.0.1", "bob", -1);
        assert!(!failures.is_full("10.0.0.1", "bob"));
        for _ in 1..FAILURES_MAX {
            failures.count("10.0.0.1", "bob", -1);
        }
        (FAILURES_MAX..PLACE_FAILURES_MAX).for_each(|user| failures.count("10.0.0.1", &user.to_string(), -1));
        assert!(failures.0.is_empty());
    }
}
