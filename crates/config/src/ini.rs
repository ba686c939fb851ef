//! The dialect of pgbouncer.ini, after PgBouncer's own parser (`lib/usual/cfparser.c`) without its defects: names may
//! stand in double quotes, and every bad line is reported, not only the first. What keys mean is decided in `build`.

use std::path::Path;
use std::sync::Arc;

use crate::document::{Document, Entry, Place, Report, Section, entry_path};
use crate::files::{Files, read_near};
use crate::kinds::Raw;
use crate::nearest::nearest;
use crate::problem::{ProblemKind, Syntax, WarningKind};

/// How deep files may include each other, as in PgBouncer.
pub const INCLUDE_DEPTH_MAX: u32 = 10;

/// Files included in all. Depth alone would allow a number of readings exponential in it.
pub const INCLUDE_FILES_MAX: u32 = 100;

const SECTIONS: [&str; 4] = ["databases", "users", "peers", "pgbouncer"];

/// Parses a text and all it includes as far as it can be, reporting what cannot.
pub(crate) fn parse(text: &str, files: &dyn Files, report: &mut Report) -> Document {
    let file = report.main();
    let mut parser = Parser { files, report, document: Document::default(), section: Current::None, included: 0 };
    parser.file(text, &file, 0);
    parser.document
}

/// The section that the next key belongs to. An included file goes on in its includer's section, and the other way round.
#[derive(Clone, Copy, PartialEq)]
enum Current {
    None,
    /// One that does not exist: reported once, its keys are skipped.
    Unknown,
    Databases,
    Users,
    Peers,
    Settings,
}

struct Parser<'a> {
    files: &'a dyn Files,
    report: &'a mut Report,
    document: Document,
    section: Current,
    included: u32,
}

impl Parser<'_> {
    fn file(&mut self, text: &str, file: &Arc<Path>, depth: u32) {
        for (number, line) in (1..).zip(text.lines()) {
            let place = Place { file: Arc::clone(file), line: number };
            let line = line.trim();
            match line.chars().next() {
                None | Some('#' | ';') => {}
                Some('[') => self.section(line, &place),
                Some('%') => self.directive(line, &place, depth),
                Some(_) => self.key_value(line, &place),
            }
        }
    }

    fn fault(&mut self, place: &Place, key: &str, syntax: Syntax) {
        self.report.problem(place, key, ProblemKind::Syntax(syntax));
    }

    fn section(&mut self, line: &str, place: &Place) {
        self.section = Current::Unknown;
        let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) else {
            return self.fault(place, "", Syntax::BadSection);
        };
        self.section = match name {
            "databases" => Current::Databases,
            "users" => Current::Users,
            "peers" => Current::Peers,
            "pgbouncer" => Current::Settings,
            _ => {
                let near = nearest(name, SECTIONS);
                let allowed = if near.is_some() { Vec::new() } else { SECTIONS.to_vec() };
                let kind = ProblemKind::UnknownKey { nearest: near, allowed };
                return self.report.problem(place, &format!("[{name}]"), kind);
            }
        };
    }

    fn directive(&mut self, line: &str, place: &Place, depth: u32) {
        let argument = line.strip_prefix("%include").filter(|rest| rest.starts_with([' ', '\t']));
        let Some(path) = argument.map(str::trim).filter(|path| !path.is_empty()) else {
            return self.fault(place, "", Syntax::BadDirective);
        };
        self.included += 1;
        if depth >= INCLUDE_DEPTH_MAX {
            return self.fault(place, "%include", Syntax::IncludeDepth);
        }
        if self.included > INCLUDE_FILES_MAX {
            return self.fault(place, "%include", Syntax::IncludeFiles);
        }
        match read_near(self.files, Path::new(path), &place.file) {
            Ok((path, text)) => self.file(&text, &path.into(), depth + 1),
            Err(e) => self.report.problem(place, &format!("%include {path}"), ProblemKind::Unreadable(e.kind())),
        }
    }

    fn key_value(&mut self, line: &str, place: &Place) {
        let (key, rest) = match key(line) {
            Ok(split) => split,
            Err(syntax) => return self.fault(place, "", syntax),
        };
        let Some(value) = rest.trim_start().strip_prefix('=').map(str::trim_start) else {
            return self.fault(place, &key, Syntax::NoEquals);
        };
        let place = place.clone();
        match self.section {
            Current::None => self.fault(&place, &key, Syntax::NoSection),
            Current::Unknown => {}
            Current::Settings => {
                self.document.settings.push(Entry { place, key, value: Raw::Text(value.to_string()) });
            }
            Current::Peers => self.report.warning(&place, &format!("peers.{key}"), WarningKind::NotSupported),
            Current::Databases => {
                let entries = self.pairs(&entry_path("databases", &key), value, &place);
                self.document.databases.push(Section { place, name: key, entries });
            }
            Current::Users => {
                let entries = self.pairs(&entry_path("users", &key), value, &place);
                self.document.users.push(Section { place, name: key, entries });
            }
        }
    }

    fn pairs(&mut self, path: &str, text: &str, place: &Place) -> Vec<Entry> {
        let (pairs, fault) = connection_string(text);
        if let Some(syntax) = fault {
            self.fault(place, path, syntax);
        }
        let entry = |(key, value): (String, String)| Entry { place: place.clone(), key, value: Raw::Text(value) };
        pairs.into_iter().map(entry).collect()
    }
}

/// The key at the start of a line and what follows it. Quotes: `'…'` as PgBouncer has it (no escape), `"…"` with `""`.
fn key(line: &str) -> Result<(String, &str), Syntax> {
    if let Some(rest) = line.strip_prefix('\'') {
        let (key, rest) = rest.split_once('\'').ok_or(Syntax::OpenQuote)?;
        return Ok((key.to_string(), rest));
    }
    if let Some(rest) = line.strip_prefix('"') {
        return unquote(rest, '"').ok_or(Syntax::OpenQuote);
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-' | '*');
    let end = line.find(|c| !plain(c)).unwrap_or(line.len());
    let (key, rest) = line.split_at(end);
    let follows = rest.chars().next().is_none_or(|c| c.is_whitespace() || c == '=');
    if key.is_empty() || !follows { Err(Syntax::BadKey) } else { Ok((key.to_string(), rest)) }
}

/// Text up to an ending quote, a doubled quote standing for one, and what follows. `text` begins after the first quote.
pub(crate) fn unquote(text: &str, quote: char) -> Option<(String, &str)> {
    let mut out = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        if c != quote {
            out.push(c);
        } else if text[at + 1..].starts_with(quote) {
            chars.next();
            out.push(quote);
        } else {
            return Some((out, &text[at + 1..]));
        }
    }
    None
}

/// The pairs of `k=v k2='v 2'`, and what stopped the reading before the end.
fn connection_string(text: &str) -> (Vec<(String, String)>, Option<Syntax>) {
    let mut pairs = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        match pair(rest) {
            Ok((key, value, after)) => {
                pairs.push((key, value));
                rest = after.trim_start();
            }
            Err(syntax) => return (pairs, Some(syntax)),
        }
    }
    (pairs, None)
}

fn pair(text: &str) -> Result<(String, String, &str), Syntax> {
    let (key, rest) = text.split_once('=').ok_or(Syntax::BadPair)?;
    let key = key.trim_end();
    if key.is_empty() || key.contains(char::is_whitespace) {
        return Err(Syntax::BadPair);
    }
    let rest = rest.trim_start();
    let (value, after) = match rest.strip_prefix('\'') {
        Some(quoted) => unquote(quoted, '\'').ok_or(Syntax::OpenQuote)?,
        None => {
            let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
            (rest[..end].to_string(), &rest[end..])
        }
    };
    let ends = after.chars().next().is_none_or(char::is_whitespace);
    if ends { Ok((key.to_string(), value, after)) } else { Err(Syntax::BadPair) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys() {
        assert_eq!(key("a.b-c_* = 1"), Ok(("a.b-c_*".into(), " = 1")));
        assert_eq!(key("'a \"b' = 1"), Ok(("a \"b".into(), " = 1")));
        assert_eq!(key("\"a \"\"b\"=1"), Ok(("a \"b".into(), "=1")));
        assert_eq!(key("\"open = 1"), Err(Syntax::OpenQuote));
        assert_eq!(key("bär = 1"), Err(Syntax::BadKey));
        assert_eq!(key("= 1"), Err(Syntax::BadKey));
    }

    #[test]
    fn connection_strings() {
        let pairs = |text| {
            let (pairs, fault) = connection_string(text);
            let flat: Vec<String> = pairs.into_iter().map(|(k, v)| format!("{k}={v}")).collect();
            (flat.join("|"), fault)
        };
        assert_eq!(pairs("host=a  port = 1"), ("host=a|port=1".into(), None));
        assert_eq!(pairs("password='it''s a = b' user=x"), ("password=it's a = b|user=x".into(), None));
        assert_eq!(pairs("user="), ("user=".into(), None));
        assert_eq!(pairs(""), (String::new(), None));
        assert_eq!(pairs("host=a port"), ("host=a".into(), Some(Syntax::BadPair)));
        assert_eq!(pairs("host='a"), (String::new(), Some(Syntax::OpenQuote)));
        assert_eq!(pairs("host='a'b"), (String::new(), Some(Syntax::BadPair)));
        assert_eq!(pairs("ho st=a"), (String::new(), Some(Syntax::BadPair)));
    }
}
