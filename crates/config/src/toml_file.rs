//! The TOML dialect: settings at the top level, `[databases.NAME]` and `[users.NAME]` tables. It only sorts the parser's
//! tree into a document with line numbers; what keys mean is decided in `build`.

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use crate::document::{Document, Entry, Place, Report, Section, entry_path};
use crate::kinds::Raw;
use crate::problem::ProblemKind;

/// Parses a text as far as it can be, reporting what cannot.
pub(crate) fn parse(text: &str, report: &mut Report) -> Document {
    let lines = Lines::new(text);
    let place = |offset: usize, report: &Report| Place { file: report.main(), line: lines.of(offset) };
    let (root, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        // The message alone: the full text would quote the line, which may hold a password.
        let offset = error.span().map_or(0, |s| s.start);
        report.problem(&place(offset, report), "", ProblemKind::Toml(error.message().to_string()));
    }
    let mut document = Document::default();
    for (key, value) in root.get_ref() {
        let at = place(key.span().start, report);
        match (key.get_ref().as_ref(), value.get_ref()) {
            ("databases", DeValue::Table(table)) => document.databases = sections("databases", table, &lines, report),
            ("users", DeValue::Table(table)) => document.users = sections("users", table, &lines, report),
            (name @ ("databases" | "users"), other) => expects_table(&at, name, &raw(other), report),
            (name, other) => document.settings.push(Entry { place: at, key: name.to_string(), value: raw(other) }),
        }
    }
    document
}

/// Byte offsets at which lines begin.
struct Lines(Vec<usize>);

impl Lines {
    fn new(text: &str) -> Self {
        Self(text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(i, _)| i).collect())
    }

    fn of(&self, offset: usize) -> u32 {
        u32::try_from(self.0.partition_point(|end| *end < offset) + 1).unwrap_or(u32::MAX)
    }
}

fn sections(parent: &str, table: &DeTable<'_>, lines: &Lines, report: &mut Report) -> Vec<Section> {
    let mut found = Vec::new();
    for (key, value) in table {
        let place = Place { file: report.main(), line: lines.of(key.span().start) };
        let name = key.get_ref().to_string();
        match value.get_ref() {
            DeValue::Table(inner) => {
                let entries = inner.iter().map(|(k, v)| entry(k, v, lines, report)).collect();
                found.push(Section { place, name, entries });
            }
            other => expects_table(&place, &entry_path(parent, &name), &raw(other), report),
        }
    }
    found
}

fn entry(key: &Spanned<DeString<'_>>, value: &Spanned<DeValue<'_>>, lines: &Lines, report: &Report) -> Entry {
    let place = Place { file: report.main(), line: lines.of(key.span().start) };
    Entry { place, key: key.get_ref().to_string(), value: raw(value.get_ref()) }
}

fn expects_table(place: &Place, key: &str, found: &Raw, report: &mut Report) {
    let expected = "a table such as [databases.app] or [users.app]";
    report.problem(place, key, ProblemKind::Expected { expected, found: found.describe(true) });
}

fn raw(value: &DeValue<'_>) -> Raw {
    match value {
        DeValue::String(text) => Raw::Quoted(text.to_string()),
        DeValue::Integer(n) => {
            let number = i64::from_str_radix(n.as_str(), n.radix());
            number.map_or(Raw::Other("a number that is too large"), |i| Raw::Integer(i, n.radix()))
        }
        DeValue::Float(x) => x.as_str().parse().map_or(Raw::Other("a number that is too large"), Raw::Float),
        DeValue::Boolean(b) => Raw::Bool(*b),
        DeValue::Datetime(_) => Raw::Other("a date"),
        DeValue::Array(items) => Raw::List(items.iter().map(|i| raw(i.get_ref())).collect()),
        DeValue::Table(table) => {
            Raw::Table(table.iter().map(|(k, v)| (k.get_ref().to_string(), raw(v.get_ref()))).collect())
        }
    }
}
