//! Wrong passwords are answered late, and only so many at once of one place are taken: who guesses is slowed down, however many
//! connections it opens, and whether or not it waits for the answers. Names that PostgreSQL had to be asked for and that nobody has
//! count the same.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use crate::reception::Reception;

/// Wrong passwords that are kept waiting at once: of one user and place, and of one place.
const FAILURES_MAX: u32 = 32;
const PLACE_FAILURES_MAX: u32 = 256;

/// Those that are kept waiting, by place and by user; all users of a place are counted under none.
#[derive(Debug, Default)]
pub(crate) struct Failures(HashMap<(String, Option<String>), u32>);

impl Failures {
    /// Is nothing that proves who somebody is taken from this place, or of this user there?
    pub(crate) fn is_full(&self, place: &str, user: &str) -> bool {
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

/// One that is kept waiting, for as long as this lives. Not to be dropped by who has the book open.
#[derive(Debug)]
pub(crate) struct Held {
    reception: Arc<Reception>,
    place: String,
    user: String,
}

impl Held {
    /// One more of this place and user; if `strict`, and there are as many as there may be, none.
    pub(crate) fn new(reception: &Arc<Reception>, place: String, user: &str, strict: bool) -> Option<Self> {
        let mut book = reception.book();
        if strict && book.failures.is_full(&place, user) {
            return None;
        }
        book.failures.count(&place, user, 1);
        drop(book);
        Some(Self { reception: reception.clone(), place, user: user.to_owned() })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.reception.book().failures.count(&self.place, &self.user, -1);
    }
}

/// Where somebody comes from, as far as it can be counted on: of an IPv6 address the network, as all of that is mostly one's own.
/// No address is this machine's.
pub(crate) fn place_of(address: Option<IpAddr>) -> String {
    let Some(address) = address else { return "unix".into() };
    match address.to_canonical() {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => {
            let network = u128::from(address) & !u128::from(u64::MAX);
            format!("{}/64", Ipv6Addr::from(network))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv6_network_is_one_place() {
        let place_of = |address: &str| super::place_of(Some(address.parse().expect("an address")));
        assert_eq!(place_of("192.0.2.7"), "192.0.2.7");
        assert_eq!(place_of("::ffff:192.0.2.7"), "192.0.2.7", "the same machine");
        assert_eq!(place_of("2001:db8:1:2:3:4:5:6"), place_of("2001:db8:1:2::99"));
        assert_ne!(place_of("2001:db8:1:2::99"), place_of("2001:db8:1:3::99"));
        assert_eq!(super::place_of(None), "unix");
    }

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
