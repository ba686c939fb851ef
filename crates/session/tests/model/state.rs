//! What a session of the model has beyond its transaction: settings, temporary objects, cursors, locks and the like; the
//! commands that change it; and what it says when it is asked for it.

use std::collections::{BTreeMap, BTreeSet};

use pgsluice_wire::{BackendWriter, TxStatus};

use super::commands::{missing_statement, word};
use super::text::{SetConfig, array, set_configs};
use super::{Failure, Model, REPORTED, Values};

/// What a rollback takes back.
#[derive(Clone, Debug, Default)]
struct Kept {
    /// Those that were set in the session.
    settings: Values,
    temp: BTreeSet<String>,
    channels: BTreeSet<String>,
}

/// See the module's documentation.
#[derive(Clone, Debug)]
pub(crate) struct State {
    /// What RESET returns to.
    defaults: Values,
    kept: Kept,
    /// As it was when the transaction began.
    saved: Option<Kept>,
    /// What SET LOCAL set.
    local: Values,
    /// Custom settings that there have ever been: PostgreSQL does not forget them.
    made: BTreeSet<String>,
    prepared: BTreeSet<String>,
    /// Those WITH HOLD, and whether they are of this transaction.
    cursors: BTreeMap<String, bool>,
    locks: BTreeMap<String, u32>,
    /// `nextval` was called.
    counted: bool,
    loaded: bool,
}

impl State {
    pub(super) fn new(settings: &[(&str, &str)]) -> Self {
        let mut defaults: Values = REPORTED.iter().map(|n| (n.to_ascii_lowercase(), "default".to_owned())).collect();
        defaults.extend(settings.iter().map(|(n, v)| (n.to_ascii_lowercase(), (*v).to_owned())));
        Self {
            made: defaults.keys().filter(|name| name.contains('.')).cloned().collect(),
            defaults,
            kept: Kept::default(),
            saved: None,
            local: Values::new(),
            prepared: BTreeSet::new(),
            cursors: BTreeMap::new(),
            locks: BTreeMap::new(),
            counted: false,
            loaded: false,
        }
    }

    /// The value of a setting, by lower-case name.
    pub(super) fn setting(&self, name: &str) -> &str {
        let layers = [&self.local, &self.kept.settings, &self.defaults];
        let value = layers.into_iter().find_map(|layer| layer.get(name)).map(String::as_str);
        value.unwrap_or(if name == "role" { "none" } else { "" })
    }

    /// Settings that differ from the defaults.
    pub(super) fn changed_settings(&self) -> Values {
        let changed = self.kept.settings.iter().filter(|(n, v)| {
            let default = self.defaults.get(*n).map_or(if *n == "role" { "none" } else { "" }, |d| d);
            default != v.as_str()
        });
        changed.map(|(n, v)| (n.clone(), v.clone())).collect()
    }

    /// What another client could find of this one, other than settings.
    pub(super) fn leftovers(&self) -> Vec<String> {
        let mut found = Vec::new();
        if self.saved.is_some() || !self.local.is_empty() {
            found.push("half a transaction".to_owned());
        }
        found.extend(self.kept.temp.iter().map(|t| format!("temporary table {t}")));
        found.extend(self.kept.channels.iter().map(|c| format!("channel {c}")));
        found.extend(self.prepared.iter().map(|s| format!("SQL statement {s}")));
        found.extend(self.cursors.keys().map(|c| format!("cursor {c}")));
        found.extend(self.locks.keys().map(|l| format!("lock {l}")));
        found.extend(self.loaded.then(|| "library".to_owned()));
        found
    }

    pub(super) fn begin(&mut self) {
        if self.saved.is_none() {
            self.saved = Some(self.kept.clone());
        }
    }

    pub(super) fn commit(&mut self) {
        self.saved = None;
        self.local.clear();
        self.cursors.values_mut().for_each(|is_new| *is_new = false);
    }

    pub(super) fn roll_back(&mut self) {
        if let Some(saved) = self.saved.take() {
            self.kept = saved;
        }
        self.local.clear();
        self.cursors.retain(|_, is_new| !*is_new);
    }

    fn set(&mut self, SetConfig { name, value, is_local }: SetConfig) {
        let name = name.to_ascii_lowercase();
        if name.contains('.') {
            self.made.insert(name.clone());
        }
        if name == "session_authorization" {
            self.set_no_role();
        }
        if is_local {
            self.local.insert(name, value);
        } else {
            self.local.remove(&name);
            self.kept.settings.insert(name, value);
        }
    }

    /// Another user's session has no role.
    fn set_no_role(&mut self) {
        self.local.remove("role");
        self.kept.settings.insert("role".to_owned(), "none".to_owned());
    }

    fn reset(&mut self, name: &str) {
        if name.contains('.') {
            self.made.insert(name.to_owned());
        }
        self.local.remove(name);
        self.kept.settings.remove(name);
    }

    fn reset_all(&mut self) {
        // Source: `GUC_NO_RESET_ALL` in `src/backend/utils/misc/guc_tables.c`.
        for values in [&mut self.local, &mut self.kept.settings] {
            values.retain(|name, _| name == "role" || name == "session_authorization");
        }
    }

    fn discard_all(&mut self) {
        self.kept = Kept::default();
        self.local.clear();
        self.saved = Some(Kept::default());
        self.prepared.clear();
        self.cursors.clear();
        self.locks.clear();
        self.counted = false;
    }

    pub(super) fn deallocate_all(&mut self) {
        self.prepared.clear();
    }

    /// The audit's rows. Whose names these are is `named`: statements by the protocol.
    fn audit(&self, values: &[String], named: &[String]) -> Vec<[Option<String>; 3]> {
        let wanted = |n: usize| values[n - 1] == "t";
        let hex = |value: &str| Some(value.bytes().map(|b| format!("{b:02x}")).collect());
        let of_kind = |kind: &str| [Some(kind.to_owned()), None, None];
        let mut rows = Vec::new();
        let mut setting = |name: &str, value| rows.push([Some("s".to_owned()), Some(name.to_owned()), value]);
        if wanted(2) {
            let listed = |name: &&String| !name.contains('.') && *name != "role" && *name != "session_authorization";
            self.kept.settings.iter().filter(|(n, _)| listed(n)).for_each(|(n, v)| setting(n, hex(v)));
            for name in array(&values[0]) {
                setting(&name, self.made.contains(&name).then(|| self.setting(&name)).and_then(hex));
            }
            ["role", "session_authorization"].iter().for_each(|name| setting(name, hex(self.setting(name))));
        }
        if wanted(3) {
            rows.extend(self.prepared.iter().map(|_| of_kind("p")));
            rows.extend(self.cursors.iter().map(|_| of_kind("c")));
            rows.extend(self.kept.channels.iter().map(|c| [Some("l".to_owned()), Some(c.clone()), None]));
        }
        rows.extend((wanted(4) && !self.kept.temp.is_empty()).then(|| of_kind("t")));
        rows.extend((wanted(5) && !self.locks.is_empty()).then(|| of_kind("a")));
        if wanted(6) {
            rows.extend(named.iter().map(|name| [Some("q".to_owned()), Some(name.clone()), None]));
        }
        rows
    }
}

fn exists(what: &str, name: &str) -> Failure {
    ("42710", format!("{what} \"{name}\" already exists"))
}

fn missing(what: &str, name: &str) -> Failure {
    ("42704", format!("{what} \"{name}\" does not exist"))
}

/// What stands between the parentheses of a call.
fn argument(text: &str) -> String {
    text.split(['(', ')']).nth(1).unwrap_or_default().to_owned()
}

impl Model {
    /// Runs a command, if it is one about the session's state.
    pub(super) fn run_state(&mut self, text: &str, values: &[String], simple: bool) -> Result<bool, Failure> {
        let name = word(text, 1).replace('"', "");
        match word(text, 0).as_str() {
            "select" => return self.select_state(text, values, simple),
            "show" => {
                let value = self.state.setting(&name).to_owned();
                self.answer_row(&value, "SHOW", simple);
            }
            "set" => self.set(text),
            "reset" if name == "all" => {
                self.state.reset_all();
                self.complete("RESET");
            }
            "reset" => {
                self.state.reset(&name);
                self.complete("RESET");
            }
            "create" => {
                let made = word(text, 2);
                if !self.state.kept.temp.insert(made.clone()) {
                    return Err(exists("relation", &made));
                }
                self.complete("CREATE TABLE");
            }
            "drop" => {
                if !self.state.kept.temp.remove(&name) {
                    return Err(missing("table", &name));
                }
                self.complete("DROP TABLE");
            }
            "prepare" => {
                if !self.state.prepared.insert(name.clone()) && word(text, 2) != "or" {
                    return Err(exists("prepared statement", &name));
                }
                self.complete("PREPARE");
            }
            "execute" => {
                if !self.state.prepared.contains(&name) {
                    return Err(missing_statement(name.as_bytes()));
                }
                self.complete("INSERT 0 1");
            }
            "deallocate" if name == "all" => {
                self.statements.retain(|name, _| name.is_empty());
                self.state.deallocate_all();
                self.complete("DEALLOCATE ALL");
            }
            "deallocate" => {
                if !self.state.prepared.remove(&name) && self.statements.remove(name.as_bytes()).is_none() {
                    return Err(missing_statement(name.as_bytes()));
                }
                self.complete("DEALLOCATE");
            }
            "declare" | "close" | "fetch" => self.cursor(text, &name)?,
            "listen" => {
                self.state.kept.channels.insert(name);
                self.complete("LISTEN");
            }
            "unlisten" => {
                self.state.kept.channels.retain(|channel| name != "*" && *channel != name);
                self.complete("UNLISTEN");
            }
            "load" => {
                self.state.loaded = true;
                self.complete("LOAD");
            }
            "discard" => self.discard(&name)?,
            "do" if word(text, 1) == "$$" => self.do_block(text)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn select_state(&mut self, text: &str, values: &[String], simple: bool) -> Result<bool, Failure> {
        if text.contains("pg_catalog.pg_settings") {
            let named: Vec<_> = self.statements.keys().map(|n| String::from_utf8_lossy(n).into_owned()).collect();
            for row in self.state.audit(values, &named) {
                let columns: Vec<_> = row.iter().map(|c| c.as_deref().map(str::as_bytes)).collect();
                BackendWriter(&mut self.held).data_row(columns.into_iter());
            }
            self.complete("SELECT 1");
            return Ok(true);
        }
        if let Some(calls) = set_configs(text) {
            calls.into_iter().for_each(|call| self.state.set(call));
            self.answer_row("set", "SELECT 1", simple);
            return Ok(true);
        }
        let key = argument(text);
        match word(text, 1).split('(').next().unwrap_or_default() {
            "pg_advisory_lock" => {
                *self.state.locks.entry(key).or_default() += 1;
                self.answer_row("", "SELECT 1", simple);
            }
            "pg_advisory_unlock" => {
                let held = self.state.locks.remove(&key);
                match held {
                    Some(2..) => drop(self.state.locks.insert(key, held.unwrap_or(0) - 1)),
                    Some(_) => {}
                    None => self.warn("01000", "you don't own a lock of type ExclusiveLock"),
                }
                self.answer_row(if held.is_some() { "t" } else { "f" }, "SELECT 1", simple);
            }
            "pg_catalog.pg_advisory_unlock_all" => {
                self.state.locks.clear();
                self.answer_row("", "SELECT 1", simple);
            }
            "pg_listening_channels" => {
                let channels: Vec<_> = self.state.kept.channels.iter().cloned().collect();
                self.answer_row(&channels.join(" "), "SELECT 1", simple);
            }
            "nextval" => {
                self.state.counted = true;
                self.answer_row("1", "SELECT 1", simple);
            }
            "lastval" if !self.state.counted => {
                return Err(("55000", "lastval is not yet defined in this session".into()));
            }
            "lastval" => self.answer_row("1", "SELECT 1", simple),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn answer_row(&mut self, value: &str, tag: &str, simple: bool) {
        self.describe_if(simple);
        self.row(value);
        self.complete(tag);
    }

    fn set(&mut self, text: &str) {
        let is_local = word(text, 1) == "local";
        let rest: Vec<_> = text.split_whitespace().skip(if is_local { 2 } else { 1 }).collect();
        let last = rest.last().copied().unwrap_or_default();
        let name = if word(text, 2) == "authorization" { "session_authorization" } else { rest[0] };
        let name = name.replace('"', "").to_ascii_lowercase();
        if is_local && self.tx == TxStatus::Idle && !self.in_list {
            self.warn("25P01", "SET LOCAL can only be used in transaction blocks");
        }
        match (name.as_str(), last.to_ascii_lowercase().as_str()) {
            ("session_authorization", "default") => {
                self.state.reset("session_authorization");
                self.state.set_no_role();
            }
            _ => self.state.set(SetConfig { name, value: last.to_owned(), is_local }),
        }
        self.complete("SET");
    }

    /// `declare c with hold`; without it the cursor is gone by the end of the transaction, and is of no interest.
    fn cursor(&mut self, text: &str, name: &str) -> Result<(), Failure> {
        let cursors = &mut self.state.cursors;
        match word(text, 0).as_str() {
            "declare" => {
                let holds = word(text, 2) == "with";
                if holds && cursors.contains_key(name) && word(text, 4) != "or" {
                    return Err(("42P03", format!("cursor \"{name}\" already exists")));
                }
                if holds {
                    cursors.insert(name.to_owned(), true);
                }
                self.complete("DECLARE CURSOR");
            }
            "close" if name == "all" => {
                cursors.clear();
                self.complete("CLOSE CURSOR ALL");
            }
            verb if !cursors.contains_key(name) => {
                debug_assert!(verb == "close" || verb == "fetch");
                return Err(("34000", format!("cursor \"{name}\" does not exist")));
            }
            "close" => {
                cursors.remove(name);
                self.complete("CLOSE CURSOR");
            }
            _ => self.complete("FETCH 0"),
        }
        Ok(())
    }

    fn discard(&mut self, what: &str) -> Result<(), Failure> {
        match what {
            "temp" => self.state.kept.temp.clear(),
            "sequences" => self.state.counted = false,
            _ if self.tx != TxStatus::Idle || self.in_list => {
                return Err(("25001", "DISCARD ALL cannot run inside a transaction block".into()));
            }
            _ => {
                self.state.discard_all();
                self.portals.clear();
                self.statements.retain(|name, _| name.is_empty());
            }
        }
        self.complete(&format!("DISCARD {}", what.to_ascii_uppercase()));
        Ok(())
    }

    /// `do $$ command $$`: what it does no command tag shows.
    fn do_block(&mut self, text: &str) -> Result<(), Failure> {
        let shown = self.held.len();
        let inner = text.split("$$").nth(1).unwrap_or_default().trim();
        let outcome = self.run_state(inner, &[], false);
        self.held.truncate(shown);
        outcome?;
        self.complete("DO");
        Ok(())
    }
}
