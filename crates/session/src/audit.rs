//! What a transaction left in its server's session, asked of PostgreSQL itself before the server goes to anybody else.
//!
//! Texts, command tags and reports only say what *may* have changed ([`Server::touched`]). One hidden query behind the
//! client's last answer then reads back the settings, and looks for what cannot be moved to another server. Settings become
//! the client's map; anything else pins the session to its server until a later audit finds it gone.

use std::collections::{BTreeSet, HashSet};

use std::sync::Arc;

use pgsluice_sql::Effects;
use pgsluice_wire::{BackendWriter, DataRow, FrontendWriter, Severity, tag::frontend};

use crate::Ctx;
use crate::follow::Catalog;
use crate::frontend::Session;
use crate::ledger::Owed;
use crate::listen::Channels;
use crate::params::PARAMS_BYTES_MAX;
use crate::server::Server;
use crate::settings::Settings;
use crate::statement::Registry;
use crate::tracking::{PinPolicy, PinReason};

/// The audit's name among the prepared statements of a server.
const STATEMENT: &str = "pgsluice_audit";

/// Longest message of an audit's answer that is looked into, in bytes.
pub(crate) const AUDIT_ROW_MAX: usize = 1 << 20;

/// The audit. Parameters: custom settings to look at; then which parts are wanted: settings; prepared statements, cursors
/// and channels; temporary objects; advisory locks; names of all prepared statements; and whether custom settings are looked
/// for in the sources of all functions (those with an oid of `FirstNormalObjectId` or more). Rows: kind, name, and the value in
/// hexadecimal digits, in the database's encoding. Whatever the client's `search_path` is, nothing here is looked up in it.
///
/// Source: manual, "System Views"; custom settings without a library are not in `pg_settings` (`GUC_NO_SHOW_ALL` in
/// `src/backend/utils/misc/guc.c`).
const QUERY: &str = "\
SELECT 's'::pg_catalog.text, s.n, pg_catalog.encode(pg_catalog.convert_to(s.v, pg_catalog.getdatabaseencoding()), 'hex') \
FROM (SELECT name, setting FROM pg_catalog.pg_settings WHERE $2 AND source OPERATOR(pg_catalog.=) 'session' \
UNION ALL SELECT c, pg_catalog.current_setting(c, true) FROM pg_catalog.unnest($1) u(c) WHERE $2 \
UNION ALL SELECT m[1], pg_catalog.current_setting(m[1], true) FROM pg_catalog.pg_proc p, \
pg_catalog.regexp_matches(p.prosrc, '[[:alpha:]_][\\w$]*(?:\\.[[:alpha:]_][\\w$]*)+', 'g') r(m) WHERE $7 \
AND p.oid OPERATOR(pg_catalog.>=) 16384::pg_catalog.oid AND p.prosrc OPERATOR(pg_catalog.~) '(?i)set_config|set\\s' \
UNION ALL SELECT 'role', pg_catalog.current_setting('role') WHERE $2 \
UNION ALL SELECT 'session_authorization', SESSION_USER::pg_catalog.text WHERE $2) s(n, v) \
UNION ALL SELECT 'p', NULL, NULL FROM pg_catalog.pg_prepared_statements WHERE $3 AND from_sql \
UNION ALL SELECT 'c', NULL, NULL FROM pg_catalog.pg_cursors WHERE $3 AND is_holdable \
UNION ALL SELECT 'l', l.c, NULL FROM pg_catalog.pg_listening_channels() l(c) WHERE $3 \
UNION ALL (SELECT 't', NULL, NULL FROM pg_catalog.pg_depend d WHERE $4 \
AND d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_namespace'::pg_catalog.regclass::pg_catalog.oid \
AND d.refobjid OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema() LIMIT 1) \
UNION ALL (SELECT 'a', NULL, NULL FROM pg_catalog.pg_locks WHERE $5 AND locktype OPERATOR(pg_catalog.=) 'advisory' \
AND pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid() LIMIT 1) \
UNION ALL SELECT 'q', name, NULL FROM pg_catalog.pg_prepared_statements WHERE $6 AND NOT from_sql";

/// Types of its parameters: `text[]`, then six times `boolean` (`src/include/catalog/pg_type.dat`).
const TYPES: [u32; 7] = [1009, 16, 16, 16, 16, 16, 16];

/// Settings that belong to a transaction, not to its session.
const OF_TRANSACTION: [&str; 3] = ["transaction_deferrable", "transaction_isolation", "transaction_read_only"];

/// An audit under way.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    /// What it looks at, [`Server::touched`] when it was asked.
    touched: Effects,
    /// And [`Server::custom`].
    custom: Vec<Box<str>>,
    settings: Vec<(String, String)>,
    found: Effects,
    channels: Channels,
    statements: HashSet<String>,
    /// All of the answer has come.
    answered: bool,
    /// It cannot be believed.
    failed: bool,
}

impl Session {
    /// Is something to be asked of its server before the session can be without it?
    pub fn wants_audit(&self, server: &Server) -> bool {
        self.is_followed()
            && server.is_quiet()
            && server.audit.is_none()
            && !self.is_mid_message()
            && !server.touched.parts().is_empty()
    }

    /// Appends the question. The answer comes through [`Session::handle_server`]; until then the session takes nothing from
    /// its client.
    pub fn write_audit(&self, server: &mut Server, catalog: Catalog<'_>, registry: &mut Registry, out: &mut Vec<u8>) {
        let touched = std::mem::take(&mut server.touched);
        let custom = std::mem::take(&mut server.custom);
        let (opaque, scope) = (is_opaque(touched), touched.parts());
        let mut names: BTreeSet<&str> = self.settings.custom().chain(server.settings.custom()).collect();
        custom.iter().for_each(|name| registry.note_custom(name));
        names.extend(custom.iter().map(AsRef::as_ref));
        if opaque {
            names.extend(registry.custom());
            if let Catalog::Known(suspects) | Catalog::Outdated(suspects) = catalog {
                names.extend(suspects.custom().iter().map(AsRef::as_ref));
            }
        }
        let has = |part| if scope.contains(part) { "t" } else { "f" };
        let objects = scope.intersects(Effects::PREPARE | Effects::CURSOR | Effects::LISTEN);
        let values = [
            &*array(&names),
            has(Effects::SETTINGS),
            if objects { "t" } else { "f" },
            has(Effects::TEMP),
            has(Effects::ADVISORY),
            if opaque { "t" } else { "f" },
            if opaque && !matches!(catalog, Catalog::Known(_)) { "t" } else { "f" },
        ];
        let mut writer = FrontendWriter(out);
        if !server.has_audit {
            let mut content = QUERY.as_bytes().to_vec();
            content.extend([0, 0, TYPES.len() as u8]);
            TYPES.iter().for_each(|oid| content.extend(oid.to_be_bytes()));
            writer.close_statement(STATEMENT.as_bytes());
            writer.parse_content(STATEMENT.as_bytes(), &content);
            server.owe(Owed::HiddenClose(None));
            server.owe(Owed::HiddenParse(None));
            server.has_audit = true;
        }
        writer.bind_text(STATEMENT.as_bytes(), values.iter().map(|value| Some(value.as_bytes())));
        server.owe(Owed::HiddenBind);
        writer.execute();
        server.owe(Owed::HiddenExecute);
        writer.bare(frontend::SYNC);
        server.owe_hidden_cycle(Owed::HiddenSync);
        server.audit = Some(Box::new(Pending { touched, custom, ..Pending::default() }));
    }

    /// Would this text show the audit's statement to its client?
    pub(crate) fn shows_audit(&self, text: &[u8], server: &Server) -> bool {
        let lists = b"pg_prepared_statement";
        server.has_audit && self.is_followed() && text.windows(lists.len()).any(|part| part.eq_ignore_ascii_case(lists))
    }

    /// Nor is it there while the client looks.
    pub(crate) fn hide_audit(&self, server: &mut Server, ctx: &mut Ctx<'_>) {
        ctx.plan.insert(|out| FrontendWriter(out).close_statement(STATEMENT.as_bytes()));
        server.owe(Owed::HiddenClose(None));
        server.has_audit = false;
    }

    /// The audit is in.
    pub(crate) fn take_audit(&mut self, server: &mut Server, ctx: &mut Ctx<'_>) {
        let Some(pending) = server.audit.take() else { return };
        server.unheard = false;
        let before = server.pins;
        let fails_next = std::mem::take(&mut server.fails_next);
        if pending.failed || !pending.answered {
            self.count().audit_failures += 1;
            server.has_audit = false;
            if fails_next {
                // That was the one: it is asked again.
                server.touched |= pending.touched;
                server.custom = pending.custom;
            } else {
                server.pins |= Effects::OPAQUE;
            }
        } else {
            self.count().audits += 1;
            let scope = pending.scope();
            if is_opaque(pending.touched) {
                server.prepared.retain(|statement| pending.statements.contains(statement.server_name()));
                server.stain = Some(self.id);
            }
            server.pins = server.pins.without(scope | Effects::OPAQUE) | self.kept(pending.found, server);
            if scope.contains(Effects::LISTEN) || !pending.channels.is_empty() {
                self.take_channels(pending.channels, server);
            }
            let settings_wanted = scope.contains(Effects::SETTINGS);
            if settings_wanted && !self.take_settings(pending.settings, server, ctx.registry) {
                server.pins |= Effects::OPAQUE;
            }
        }
        self.note_pins(before, server.pins, ctx);
    }

    /// A library was loaded: that is for good.
    pub(crate) fn note_loaded(&mut self, server: &mut Server, ctx: &mut Ctx<'_>) {
        if std::mem::take(&mut server.loaded) {
            let before = server.pins;
            let kept = self.kept(Effects::LOAD, server);
            server.pins |= kept;
            self.note_pins(before, server.pins, ctx);
        }
    }

    /// Of what was found, what keeps the session where it is. The rest is to be removed.
    fn kept(&mut self, found: Effects, server: &mut Server) -> Effects {
        let mut kept = Effects::default();
        for reason in PinReason::ALL.into_iter().filter(|reason| found.contains(reason.effect())) {
            if self.tracking.policy(reason) == PinPolicy::Ignore {
                server.residue |= reason.effect();
                self.count().ignored += 1;
            } else {
                kept |= reason.effect();
            }
        }
        kept
    }

    /// Counts what is new, and warns the client where it is to be.
    pub(crate) fn note_pins(&mut self, before: Effects, now: Effects, ctx: &mut Ctx<'_>) {
        if now.is_empty() != before.is_empty() {
            let counts = self.count();
            *(if now.is_empty() { &mut counts.unpins } else { &mut counts.pinned }) += 1;
        }
        let new = now.without(before);
        for reason in PinReason::ALL.into_iter().filter(|reason| new.contains(reason.effect())) {
            self.count().pins[reason as usize] += 1;
            if self.tracking.policy(reason) == PinPolicy::Warn && !self.warned.contains(reason.effect()) {
                self.warned |= reason.effect();
                self.count().warned += 1;
                let text = format!(
                    "this session keeps its server connection for session state of the kind \"{}\"",
                    reason.name()
                );
                let hint = "Connections that keep a server are not pooled; see SHOW PINS.";
                ctx.plan.insert(|out| BackendWriter(out).report(Severity::Warning, "01000", &text, "", hint));
            }
        }
    }

    /// The settings that the server has become the session's. What the startup message set and is not among them was reset:
    /// it is what it was at first, once it is replayed. Are there not too many?
    fn take_settings(&mut self, found: Vec<(String, String)>, server: &mut Server, registry: &mut Registry) -> bool {
        let login = server.login_user.clone();
        let was_reset = std::mem::take(&mut server.reset);
        let mut settings = Settings::default();
        for (name, value) in found {
            let name = name.to_ascii_lowercase();
            let as_at_first = match &*name {
                "role" => value == "none",
                "session_authorization" => login.as_deref() == Some(&*value),
                // PostgreSQL cannot forget that there was one: it is empty.
                custom if custom.contains('.') => value.is_empty(),
                other if OF_TRANSACTION.contains(&other) => continue,
                _ => false,
            };
            // A client that has something else at first may have asked for this.
            if !as_at_first || (self.base.get(&name).is_some() && !was_reset) {
                settings.set(&name, &value);
            }
        }
        if settings.bytes() > PARAMS_BYTES_MAX {
            return false;
        }
        let on_server = registry.intern_settings(&Arc::new(settings.clone()));
        let reset: Vec<_> = self.base.iter().filter(|(name, _)| settings.get(name).is_none()).collect();
        reset.into_iter().for_each(|(name, value)| settings.set(name, value));
        server.settings = on_server;
        self.settings = registry.intern_settings(&Arc::new(settings));
        true
    }
}

impl Server {
    /// A row of the audit's answer.
    pub(crate) fn take_audit_row(&mut self, body: &[u8]) {
        let Some(pending) = &mut self.audit else { return };
        pending.failed |= pending.take_row(body).is_none();
    }

    /// The answer is complete.
    pub(crate) fn end_audit_rows(&mut self) {
        if let Some(pending) = &mut self.audit {
            pending.answered = true;
        }
    }

    /// The audit failed, whatever the reason.
    pub(crate) fn fail_audit(&mut self) -> bool {
        match &mut self.audit {
            // The first of its messages may be a Close, which is not counted among commands of ours.
            Some(pending) if self.ledger.front().is_some_and(Owed::is_hidden) => {
                pending.failed = true;
                true
            }
            _ => false,
        }
    }
}

impl Pending {
    /// What it was to look for.
    pub(crate) fn scope(&self) -> Effects {
        self.touched.parts()
    }

    fn take_row(&mut self, body: &[u8]) -> Option<()> {
        let columns = DataRow::new(body).columns().ok()?;
        let &[kind, name_bytes, value] = columns.as_slice() else { return None };
        let name = || Some(std::str::from_utf8(name_bytes?).ok()?.to_owned());
        match kind? {
            b"s" => {
                // A custom setting that nobody has made.
                let Some(value) = value else { return Some(()) };
                self.settings.push((name()?, unhex(value)?));
            }
            b"p" => self.found |= Effects::PREPARE,
            b"c" => self.found |= Effects::CURSOR,
            b"l" => {
                self.found |= Effects::LISTEN;
                self.channels.insert(name_bytes?.into());
            }
            b"t" => self.found |= Effects::TEMP,
            b"a" => self.found |= Effects::ADVISORY,
            b"q" => drop(self.statements.insert(name()?)),
            _ => return None,
        }
        Some(())
    }
}

/// Can anything have run? Then settings of any name may have been made, and statements of ours deallocated.
fn is_opaque(touched: Effects) -> bool {
    touched.intersects(Effects::ANYTHING)
}

/// The text behind hexadecimal digits; `None` if it is not UTF-8.
fn unhex(digits: &[u8]) -> Option<String> {
    let digit = |b: &u8| char::from(*b).to_digit(16);
    let byte = |pair: &[u8]| u8::try_from(digit(pair.first()?)? * 16 + digit(pair.get(1)?)?).ok();
    String::from_utf8(digits.chunks(2).map(byte).collect::<Option<Vec<u8>>>()?).ok()
}

/// An array of texts, as PostgreSQL reads it.
fn array(names: &BTreeSet<&str>) -> String {
    let quoted: Vec<_> =
        names.iter().map(|name| format!("\"{}\"", name.replace('\\', "\\\\").replace('"', "\\\""))).collect();
    format!("{{{}}}", quoted.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_in_digits_and_names_go_as_an_array() {
        assert_eq!(unhex(b"c3a921").as_deref(), Some("\u{e9}!"));
        assert_eq!(unhex(b"").as_deref(), Some(""));
        assert_eq!([unhex(b"6"), unhex(b"zz"), unhex(b"ff")], [None, None, None]);
        assert_eq!(array(&BTreeSet::from(["a.b", "a.\"c\\"])), r#"{"a.\"c\\","a.b"}"#);
        assert_eq!(array(&BTreeSet::new()), "{}");
    }
}
