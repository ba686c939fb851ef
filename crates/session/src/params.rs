//! The parameters a server reports, and one copy of each set of them for all who have been told the same.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::Arc;

use crate::Violation;

/// Values at which those that nobody has any more are looked for.
const SWEEP_MIN: usize = 64;

/// Parameters a server may report.
const PARAMS_MAX: usize = 256;
/// Bytes of their names and values, or of those that a client's settings have.
pub(crate) const PARAMS_BYTES_MAX: usize = 256 << 10;

/// Parameters as last reported by ParameterStatus, in order of first report.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Params(Vec<(Box<str>, Box<str>)>);

impl Params {
    /// Takes a report.
    ///
    /// # Errors
    /// [`Violation::TooManyParameters`] when there are more than a server is to have, in number or in bytes.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), Violation> {
        match self.0.iter_mut().find(|(n, _)| **n == *name) {
            Some((_, v)) => *v = value.into(),
            None => self.0.push((name.into(), value.into())),
        }
        let bytes: usize = self.iter().map(|(n, v)| n.len() + v.len()).sum();
        if self.0.len() > PARAMS_MAX || bytes > PARAMS_BYTES_MAX {
            return Err(Violation::TooManyParameters);
        }
        Ok(())
    }

    /// The value of one.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| &**v)
    }

    /// With one value changed, or added.
    ///
    /// # Errors
    /// As [`Params::set`].
    pub fn with(&self, name: &str, value: &str) -> Result<Self, Violation> {
        let mut params = self.clone();
        params.set(name, value)?;
        Ok(params)
    }

    /// Those of them that `told` has not, or with another value.
    pub(crate) fn news<'a>(&'a self, told: &'a Self) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.iter().filter(|(name, value)| told.get(name) != Some(*value))
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(n, v)| (&**n, &**v))
    }
}

/// Values in use, each once: those that are the same have the same pointer.
#[derive(Debug)]
pub(crate) struct Interned<T: ?Sized> {
    known: HashSet<Arc<T>>,
    sweep_at: usize,
}

impl<T: ?Sized> Default for Interned<T> {
    fn default() -> Self {
        Self { known: HashSet::new(), sweep_at: 0 }
    }
}

impl<T: Eq + Hash + ?Sized> Interned<T> {
    /// The one copy of this.
    pub(crate) fn intern(&mut self, value: &Arc<T>) -> Arc<T> {
        self.intern_as(value, || value.clone())
    }

    /// The same where it may have to be made first.
    pub(crate) fn intern_as(&mut self, value: &T, make: impl FnOnce() -> Arc<T>) -> Arc<T> {
        if let Some(found) = self.known.get(value) {
            return found.clone();
        }
        if self.known.len() >= self.sweep_at.max(SWEEP_MIN) {
            self.known.retain(|p| Arc::strong_count(p) > 1);
            self.sweep_at = self.known.len() * 2;
        }
        let made = make();
        self.known.insert(made.clone());
        made
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_parameters_are_one_and_those_of_nobody_are_forgotten() {
        let mut sets = Interned::default();
        let of = |value: &str| Arc::new(Params::default().with("TimeZone", value).unwrap());
        let rome = sets.intern(&of("Europe/Rome"));
        assert!(Arc::ptr_eq(&rome, &sets.intern(&of("Europe/Rome"))));
        for i in 0..SWEEP_MIN * 3 {
            sets.intern(&of(&i.to_string()));
        }
        assert!(sets.known.len() <= SWEEP_MIN, "{}", sets.known.len());
        assert!(Arc::ptr_eq(&rome, &sets.intern(&of("Europe/Rome"))), "what is used stays");
        let news: Vec<_> = of("UTC").news(&rome).map(|(n, v)| format!("{n}={v}")).collect();
        assert_eq!(news, ["TimeZone=UTC"]);
        assert_eq!(rome.news(&rome).count(), 0);
    }
}
