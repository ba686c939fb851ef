//! Whether what was read in the texts would have had the pooler find what has changed. No I/O.

use std::collections::BTreeSet;

use pgsluice_sql::{Effects, Reading, Suspects, read};

use crate::probe::Change;

/// What a session was sent since it was asked for its state.
#[derive(Clone, Debug, Default)]
pub(crate) struct Block {
    /// Texts of Query and Parse messages.
    pub(crate) texts: Vec<Vec<u8>>,
    /// A FunctionCall was among the messages, which has no text: the pooler takes it for [`Effects::OPAQUE`].
    pub(crate) call: bool,
}

/// Why the pooler would have asked for what has changed: the first that suffices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The texts say that it may change.
    Text,
    /// The texts make or change something in the catalog, which may be run before the catalog is read again.
    Definition,
    /// The texts name what the catalog shows to change such state.
    Name,
    /// The texts write, and the catalog shows a trigger, a default or the like that changes state, at whatever table.
    Write,
    /// The catalog shows an operator, a type or the like that makes every statement suspect.
    Any,
}

/// A row of [`Suspects::QUERY`]: kind, name, source.
pub(crate) type Row = [String; 3];

/// The kinds of rows that make more suspect than names, with the cause where it takes all others to find a change.
const BEYOND_NAMES: [(Cause, &[&str]); 3] =
    [(Cause::Name, &["table", "trigger", "always"]), (Cause::Write, &["always"]), (Cause::Any, &[])];

impl Block {
    /// What all texts may do.
    pub(crate) fn read(&self, suspects: Option<&Suspects>) -> Reading {
        let mut all = Reading::default();
        for text in &self.texts {
            let reading = read(text, suspects);
            all.effects |= reading.effects;
            all.custom.extend(reading.custom);
        }
        if self.call {
            all.effects |= Effects::OPAQUE;
        }
        all
    }

    /// Why each of the changes would have been found; `None`: one of them would not. `noted` are names of custom settings
    /// that the texts of this process had before. The catalog is asked for only where it decides.
    pub(crate) fn cause(
        &self,
        changes: &[Change],
        noted: &BTreeSet<String>,
        catalog: impl FnOnce() -> Vec<Row>,
    ) -> Option<Cause> {
        let none = Suspects::default();
        let finds = |reading: &Reading, suspects: &Suspects| {
            changes.iter().all(|change| self.finds(reading, change, noted, suspects))
        };
        let mut reading = self.read(None);
        if finds(&reading, &none) {
            return Some(Cause::Text);
        }
        reading.effects = reading.effects.with_unread();
        if finds(&reading, &none) {
            return Some(Cause::Definition);
        }
        let rows = catalog();
        let found_with = |left_out: &[&str]| {
            let rows = rows.iter().filter(|[kind, ..]| !left_out.contains(&&**kind));
            let suspects = Suspects::from_rows(rows.map(|row| row.each_ref().map(|column| column.as_bytes())));
            let mut reading = self.read(Some(&suspects));
            reading.effects = reading.effects.with_unread();
            finds(&reading, &suspects)
        };
        BEYOND_NAMES.into_iter().find(|(_, left_out)| found_with(left_out)).map(|(cause, _)| cause)
    }

    /// Would an audit of what was read have found this change? It asks for a setting that no view lists only by its name: where
    /// a text has it, where the session had it, and, if anything may have run, those noted before, those in the sources of
    /// functions, and those that stand anywhere in a text.
    fn finds(&self, reading: &Reading, change: &Change, noted: &BTreeSet<String>, suspects: &Suspects) -> bool {
        let name = &*change.name;
        let known = || suspects.custom().iter().any(|custom| **custom == *name) || noted.contains(name);
        let asked = !change.custom
            || change.before.is_some()
            || reading.custom.iter().any(|custom| **custom == *name)
            || reading.effects.intersects(Effects::ANYTHING) && (known() || self.mentions(name));
        reading.effects.parts().contains(change.part) && asked
    }

    fn mentions(&self, name: &str) -> bool {
        self.texts.iter().any(|text| String::from_utf8_lossy(text).to_ascii_lowercase().contains(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(texts: &[&str]) -> Block {
        Block { texts: texts.iter().map(|text| text.as_bytes().to_vec()).collect(), call: false }
    }

    fn change(part: Effects, name: &str) -> Change {
        Change { part, name: name.to_owned(), custom: name.contains('.'), before: None, after: Some("x".to_owned()) }
    }

    /// The cause, in a database with the function `sets`, which a trigger calls.
    fn cause(texts: &[&str], changes: &[Change]) -> Option<Cause> {
        cause_with(&[["trigger", "t", "sets"]], texts, changes)
    }

    fn cause_with(rows: &[[&str; 3]], texts: &[&str], changes: &[Change]) -> Option<Cause> {
        let sets = ["plpgsql", "sets", "begin perform set_config('app.b', 'x', false); end"];
        let rows = rows.iter().chain([&sets]).map(|row| row.map(str::to_owned));
        block(texts).cause(changes, &BTreeSet::new(), || rows.collect())
    }

    #[test]
    fn what_the_text_says_is_found() {
        let work_mem = change(Effects::SETTINGS, "work_mem");
        assert_eq!(cause(&["set work_mem = 1"], std::slice::from_ref(&work_mem)), Some(Cause::Text));
        assert_eq!(cause(&["begin", "set work_mem = 1", "end"], std::slice::from_ref(&work_mem)), Some(Cause::Text));
        assert_eq!(cause(&["do $$x$$"], &[work_mem, change(Effects::LISTEN, "c")]), Some(Cause::Text));
        assert_eq!(cause(&["set app.a = 'x'"], &[change(Effects::SETTINGS, "app.a")]), Some(Cause::Text));
        let call = Block { call: true, ..Block::default() };
        let temp = [change(Effects::TEMP, "pg_class 1")];
        assert_eq!(call.cause(&temp, &BTreeSet::new(), Vec::new), Some(Cause::Text));
    }

    #[test]
    fn what_the_text_does_not_say_is_found_by_what_it_names() {
        let b = [change(Effects::SETTINGS, "app.b")];
        assert_eq!(cause(&["select sets()"], &b), Some(Cause::Name));
        assert_eq!(cause(&["select sets()", "delete from t"], &b), Some(Cause::Name));
        assert_eq!(cause(&["delete from t"], &b), Some(Cause::Write));
        assert_eq!(cause_with(&[["always", "===", "sets"]], &["select 1 === 2"], &b), Some(Cause::Any));
        assert_eq!(cause(&["create table t (a int)"], &[change(Effects::TEMP, "pg_class 1")]), Some(Cause::Definition));
    }

    #[test]
    fn the_rest_is_missed() {
        assert_eq!(cause(&["select 1"], &[change(Effects::LISTEN, "c")]), None);
        assert_eq!(cause(&["set local work_mem = 1"], &[change(Effects::SETTINGS, "work_mem")]), None);
        assert_eq!(cause(&["listen c"], &[change(Effects::LISTEN, "c"), change(Effects::TEMP, "pg_class 1")]), None);
        assert_eq!(cause(&["select sots()"], &[change(Effects::SETTINGS, "app.b")]), None);
        // Its name is nowhere.
        assert_eq!(cause(&["select sets()"], &[change(Effects::SETTINGS, "app.c")]), None);
        assert_eq!(cause(&["set app.a = 'x'"], &[change(Effects::SETTINGS, "app.c")]), None);
    }
}
