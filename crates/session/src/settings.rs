//! The settings a client asked for, as a map that is shared by pointer and compared by content.
//!
//! Only what PostgreSQL itself told us is in such a map: what the client's startup message set, and what was read back
//! from its server since.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Reported parameters that no session can set.
const FIXED: [&str; 6] = [
    "in_hot_standby",
    "integer_datetimes",
    "is_superuser",
    "server_encoding",
    "server_version",
    "session_authorization",
];

/// Settings under which one text can be two statements.
const CONTEXT: [&str; 3] = ["role", "search_path", "session_authorization"];

/// Names (folded to lower case, as PostgreSQL compares them) and values that differ from the server's defaults.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Settings {
    map: BTreeMap<Box<str>, Box<str>>,
    /// Bytes of all that is in it.
    bytes: usize,
}

impl Settings {
    /// The map with one more value.
    #[must_use]
    pub fn with(&self, name: &str, value: &str) -> Self {
        let mut settings = self.clone();
        settings.set(name, value);
        settings
    }

    /// The map without a name.
    #[must_use]
    pub fn without(&self, name: &str) -> Self {
        let mut settings = self.clone();
        if let Some((name, value)) = settings.map.remove_entry(&*name.to_ascii_lowercase()) {
            settings.bytes -= name.len() + value.len();
        }
        settings
    }

    /// Those with a dot in their names, which PostgreSQL lists nowhere.
    pub(crate) fn custom(&self) -> impl Iterator<Item = &str> {
        self.iter().map(|(name, _)| name).filter(|name| name.contains('.'))
    }

    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.bytes += value.len();
        match self.map.insert(name.to_ascii_lowercase().into(), value.into()) {
            Some(before) => self.bytes -= before.len(),
            None => self.bytes += name.len(),
        }
    }

    /// Bytes of its names and values.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The value of a name, if it is here.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.map.get(&*name.to_ascii_lowercase()).map(AsRef::as_ref)
    }

    /// Those values that decide what the names in a statement refer to, in one text; empty if none of them is set.
    pub(crate) fn context(&self) -> Cow<'_, str> {
        let set = CONTEXT.iter().filter_map(|name| self.map.get(*name).map(|value| (name, value)));
        set.fold(Cow::Borrowed(""), |text, (name, value)| Cow::Owned(format!("{text}{name}={value}\0")))
    }

    /// Is nothing set?
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// The names, for people to read.
    pub fn names(&self) -> String {
        self.iter().map(|(name, _)| name).collect::<Vec<_>>().join(", ")
    }

    /// Names and values, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.map.iter().map(|(name, value)| (&**name, &**value))
    }
}

/// Can a session change this reported parameter?
pub(crate) fn is_settable(name: &str) -> bool {
    !FIXED.contains(&name)
}

/// Are two maps the same? The pointer first, then the content.
pub(crate) fn same(a: &Arc<Settings>, b: &Arc<Settings>) -> bool {
    Arc::ptr_eq(a, b) || a == b
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_compared_as_postgresql_does() {
        let s = Settings::default().with("TimeZone", "UTC").with("App.Tenant", "7");
        assert_eq!(s.get("timezone"), Some("UTC"));
        assert_eq!(s.custom().collect::<Vec<_>>(), ["app.tenant"]);
        assert!(s.without("TIMEZONE").without("app.tenant").is_empty());
        assert!(!is_settable("is_superuser") && is_settable("TimeZone"));
    }
}
