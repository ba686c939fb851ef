//! The settings a client asked for, as a map that is shared by pointer and compared by content, and the difference
//! between two of them as commands.
//!
//! Only what PostgreSQL itself told us is in such a map: what the client's startup message set, and what
//! ParameterStatus reported since. A setting that PostgreSQL does not report is not followed.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use pgsluice_wire::FrontendWriter;

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

/// Messages that bring a server from one map to another.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Replay<'a> {
    resets: Vec<&'a str>,
    sets: Vec<(&'a str, &'a str)>,
}

impl<'a> Replay<'a> {
    pub(crate) fn between(from: &'a Settings, to: &'a Settings) -> Self {
        let resets = from.map.keys().filter(|name| !to.map.contains_key(*name)).map(AsRef::as_ref).collect();
        let sets = to.iter().filter(|(name, value)| from.get(name) != Some(*value)).collect();
        Self { resets, sets }
    }

    /// Text of the RESETs, if there are any. Names are quoted part by part, so that a name is only ever a name.
    pub(crate) fn reset_query(&self) -> Option<String> {
        let quoted = |name: &str| name.split('.').map(quote_ident).collect::<Vec<_>>().join(".");
        let commands: Vec<_> = self.resets.iter().map(|name| format!("RESET {}", quoted(name))).collect();
        (!commands.is_empty()).then(|| commands.join(";"))
    }

    /// Parse, Bind and Execute of one `set_config` per value, if there are any. Values travel as parameters.
    pub(crate) fn write_sets(&self, out: &mut Vec<u8>) -> bool {
        if self.sets.is_empty() {
            return false;
        }
        let (mut calls, mut values) = (Vec::new(), Vec::new());
        for (name, value) in &self.sets {
            let (name, value) = (argument(name, &mut values), argument(value, &mut values));
            calls.push(format!("pg_catalog.set_config({name}, {value}, false)"));
        }
        let mut content = format!("SELECT {}", calls.join(", ")).into_bytes();
        content.extend([0; 3]);
        let mut writer = FrontendWriter(out);
        writer.parse_content(b"", &content);
        writer.bind_text(values.iter().map(|v| Some(v.as_bytes())));
        writer.execute();
        true
    }
}

/// A text argument: the expression for it, which takes the next of `values`. PostgreSQL reads a startup message in the
/// encoding of the database; a parameter of Bind it would convert from whatever client_encoding is in force just now.
fn argument(text: &str, values: &mut Vec<String>) -> String {
    let n = values.len() + 1;
    if text.is_ascii() {
        values.push(text.to_owned());
        return format!("${n}");
    }
    values.push(text.bytes().fold("\\x".to_owned(), |hex, byte| hex + &format!("{byte:02x}")));
    format!("pg_catalog.convert_from(${n}, pg_catalog.getdatabaseencoding())")
}

/// An SQL identifier in double quotes.
pub(crate) fn quote_ident(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replay_names_what_differs() {
        let from = Settings::default().with("TimeZone", "UTC").with("app.a\"b", "x").with("datestyle", "ISO, MDY");
        let to = Settings::default().with("timezone", "Europe/Rome").with("DateStyle", "ISO, MDY").with("x", "'; drop");
        let replay = Replay::between(&from, &to);
        assert_eq!(replay.reset_query().as_deref(), Some("RESET \"app\".\"a\"\"b\""));
        assert_eq!(replay.sets, [("timezone", "Europe/Rome"), ("x", "'; drop")]);
        let mut out = Vec::new();
        assert!(replay.write_sets(&mut out));
        let text = String::from_utf8_lossy(&out).into_owned();
        assert!(text.contains("set_config($1, $2, false), pg_catalog.set_config($3, $4, false)"), "{text}");
        assert_eq!(Replay::between(&to, &to), Replay::default());
        let (mut values, encoded) = (Vec::new(), "pg_catalog.convert_from($2, pg_catalog.getdatabaseencoding())");
        assert_eq!([argument("a", &mut values), argument("\u{e9}!", &mut values)], ["$1", encoded]);
        assert_eq!(values, ["a", "\\xc3a921"]);
        assert!(!Replay::between(&to, &to).write_sets(&mut out));
    }

    #[test]
    fn names_are_compared_as_postgresql_does() {
        let s = Settings::default().with("TimeZone", "UTC");
        assert_eq!(s.get("timezone"), Some("UTC"));
        assert!(s.without("TIMEZONE").is_empty());
        assert!(!is_settable("is_superuser") && is_settable("TimeZone"));
    }
}
