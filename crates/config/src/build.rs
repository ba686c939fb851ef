//! From a document to a configuration: every key is looked up and its value read, the auth_file is taken in, and what the
//! dialect implies is filled in. Contradictions between values are `check`'s business.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::check;
use crate::document::{Document, Entry, Place, Report, Section, entry_path};
use crate::external;
use crate::files::{Files, read_near};
use crate::hba::{self, Hba, IdentMaps};
use crate::kinds::Raw;
use crate::model::{AuthType, Config, Database, EntryKey, User};
use crate::nearest::nearest;
use crate::passfile::{PassfileFault, ServerPasswords};
use crate::pgbouncer::{self, Verdict};
use crate::problem::{ProblemKind, Problems, Warning, WarningKind};
use crate::settings::{Dialect, SETTINGS, Settings, setting};
use crate::userlist;
use crate::{DATABASE_KEYS, USER_KEYS};

/// Where each key was given, by its full name such as `databases.app.port`.
pub(crate) type Places = BTreeMap<String, Place>;

/// Reads a document into a configuration and checks it.
pub(crate) fn build(
    document: Document,
    dialect: Dialect,
    files: &dyn Files,
    report: Report,
) -> Result<(Config, Vec<Warning>), Problems> {
    let mut builder = Builder { dialect, files, report, places: Places::new() };
    let settings = builder.settings(document.settings);
    let mut databases = builder.sections("databases", document.databases, DATABASE_KEYS, pgbouncer::database_key);
    let mut users = builder.sections("users", document.users, USER_KEYS, pgbouncer::user_key);
    if let Some((path, text)) = builder.named("auth_file", settings.auth_file.as_deref()) {
        let warns = settings.auth_type == AuthType::ScramSha256;
        builder.user_list(path, &Zeroizing::new(text), warns, &mut users);
    }
    let (hba, ident) = builder.rules(&settings);
    builder.hosts(&settings, &mut databases);
    let source = Some(builder.report.main().to_path_buf());
    let server_passwords = ServerPasswords::default();
    let mut config = Config { settings, databases, users, hba, ident, server_passwords, source };
    config.server_passwords = builder.server_passwords(&config);
    if !builder.report.is_incomplete() {
        check::run(&config, &builder.places, &mut builder.report);
    }
    let warnings = builder.report.finish()?;
    Ok((config, warnings))
}

struct Builder<'a> {
    dialect: Dialect,
    files: &'a dyn Files,
    report: Report,
    places: Places,
}

impl Builder<'_> {
    fn settings(&mut self, entries: Vec<Entry>) -> Settings {
        let dialect = self.dialect;
        let mut settings = Settings::defaults(dialect);
        for entry in &entries {
            if !self.is_first(&entry.key, &entry.place) {
                continue;
            }
            let Some(setting) = setting(&entry.key) else {
                self.foreign(entry, &entry.key, pgbouncer::setting, || unknown_setting(&entry.key, dialect));
                continue;
            };
            if let Err(wrong) = setting.read(&mut settings, &entry.value) {
                self.report.problem(&entry.place, &entry.key, ProblemKind::of(wrong, &entry.value, false));
            }
        }
        settings
    }

    /// Notes where a key stands. `false` if it is a repetition to be left out, which is reported: in one file that is a
    /// mistake; an included file may override, or be overridden.
    fn is_first(&mut self, key: &str, place: &Place) -> bool {
        let Some(first) = self.places.insert(key.to_string(), place.clone()) else {
            return true;
        };
        if first.file == place.file {
            self.report.problem(place, key, ProblemKind::Duplicate { first: first.line });
            return false;
        }
        let kind = WarningKind::Overridden { first: first.file.to_path_buf(), line: first.line };
        self.report.warning(place, key, kind);
        true
    }

    /// A key that is not ours: PgBouncer's, perhaps.
    fn foreign(
        &mut self,
        entry: &Entry,
        key: &str,
        verdict: impl Fn(&str, &str) -> Option<Verdict>,
        unknown: impl Fn() -> ProblemKind,
    ) {
        let text = match &entry.value {
            Raw::Text(text) | Raw::Quoted(text) => text.as_str(),
            _ => "other",
        };
        match (verdict(&entry.key, text), self.dialect) {
            (None, _) => self.report.problem(&entry.place, key, unknown()),
            (Some(Verdict::Refused(instead)), _) => {
                self.report.problem(&entry.place, key, ProblemKind::Unsupported(instead));
            }
            (Some(_), Dialect::Toml) => {
                let instead = "PgBouncer's setting is not supported yet; remove it";
                self.report.problem(&entry.place, key, ProblemKind::Unsupported(instead));
            }
            (Some(Verdict::Dropped), Dialect::Ini) => {
                self.report.warning(&entry.place, key, WarningKind::NotSupported);
            }
            (Some(Verdict::Agreed), Dialect::Ini) => {}
        }
    }

    fn sections<T: Default>(
        &mut self,
        parent: &str,
        sections: Vec<Section>,
        keys: &'static [EntryKey<T>],
        verdict: impl Fn(&str, &str) -> Option<Verdict>,
    ) -> BTreeMap<String, T> {
        let mut all = BTreeMap::new();
        for section in sections {
            let path = entry_path(parent, &section.name);
            if self.is_first(&path, &section.place) {
                self.places.retain(|key, _| !key.starts_with(&format!("{path}.")));
                all.insert(section.name, self.entries(&path, &section.entries, keys, &verdict));
            }
        }
        all
    }

    fn entries<T: Default>(
        &mut self,
        path: &str,
        entries: &[Entry],
        keys: &'static [EntryKey<T>],
        verdict: &impl Fn(&str, &str) -> Option<Verdict>,
    ) -> T {
        let mut value = T::default();
        for entry in entries {
            // PgBouncer's older name for it.
            let alias = self.dialect == Dialect::Ini && entry.key == "reserve_pool";
            let name = if alias { "reserve_pool_size" } else { entry.key.as_str() };
            let full = format!("{path}.{name}");
            if !self.is_first(&full, &entry.place) {
                continue;
            }
            let Some(key) = keys.iter().find(|k| k.key == name) else {
                let allowed = || keys.iter().map(|k| k.key).collect();
                self.foreign(entry, &full, verdict, || ProblemKind::unknown_among(name, allowed()));
                continue;
            };
            let Some(raw) = self.found(entry, &full, key.secret) else { continue };
            if let Err(wrong) = (key.read)(&mut value, &raw) {
                self.report.problem(&entry.place, &full, ProblemKind::of(wrong, &raw, key.secret));
            }
        }
        value
    }

    /// The value of an entry; of a password in TOML what it stands for. `None` if that is of no use, which is reported.
    fn found<'e>(&mut self, entry: &'e Entry, key: &str, secret: bool) -> Option<Cow<'e, Raw>> {
        let Some(text) = entry.value.text().filter(|_| secret && self.dialect == Dialect::Toml) else {
            return Some(Cow::Borrowed(&entry.value));
        };
        match external::resolve(text, self.files, &entry.place.file) {
            Ok((text, warning)) => {
                warning.into_iter().for_each(|kind| self.report.warning(&entry.place, key, kind));
                Some(Cow::Owned(Raw::Quoted(text)))
            }
            Err(kind) => {
                self.report.problem(&entry.place, key, kind);
                None
            }
        }
    }

    /// The file that a setting names, if it does and the file can be read.
    fn named(&mut self, key: &str, path: Option<&Path>) -> Option<(PathBuf, String)> {
        let path = path?;
        let place = self.places.get(key).cloned();
        let place = place.unwrap_or(Place { file: self.report.main(), line: 1 });
        let read = read_near(self.files, path, &place.file);
        let unreadable = |e: &io::Error| {
            let key = format!("{key} {}", path.display());
            self.report.problem(&place, &key, ProblemKind::Unreadable(e.kind()));
        };
        read.inspect_err(unreadable).ok()
    }

    /// The rules and maps, which are not looked at unless they are used, as in PgBouncer.
    fn rules(&mut self, settings: &Settings) -> (Option<Hba>, IdentMaps) {
        if settings.auth_type != AuthType::Hba {
            return (None, IdentMaps::default());
        }
        let rules = self.named("auth_hba_file", settings.auth_hba_file.as_deref());
        let rules = rules.map(|(path, text)| hba::read_rules(&text, path.into(), self.files, &mut self.report));
        let maps = self.named("auth_ident_file", settings.auth_ident_file.as_deref());
        let maps = maps.map(|(path, text)| hba::read_maps(&text, path.into(), self.files, &mut self.report));
        (rules, maps.unwrap_or_default())
    }

    /// `warns_of_md5`: it has to be known where such secrets stand.
    fn user_list(&mut self, path: PathBuf, text: &str, warns_of_md5: bool, users: &mut BTreeMap<String, User>) {
        let file = path.into();
        // Where names stand first: a list can be long, so that is looked up only once one is repeated.
        let mut lines = None;
        for (line, user) in userlist::parse(text) {
            let place = Place { file: std::sync::Arc::clone(&file), line };
            let (name, secret) = match user {
                Ok(user) => user,
                Err(syntax) => {
                    self.report.problem(&place, "", ProblemKind::Syntax(syntax));
                    continue;
                }
            };
            let Some(User { password: Some(_), .. }) = users.get(&name) else {
                if warns_of_md5 && secret.is_md5() {
                    self.places.insert(entry_path("users", &name) + ".password", place);
                }
                users.entry(name).or_default().password = Some(secret);
                continue;
            };
            let key = entry_path("users", &name) + ".password";
            if !self.places.contains_key(&key) {
                let line = lines.get_or_insert_with(|| first_lines(text)).get(&name).copied().unwrap_or(line);
                self.places.insert(key.clone(), Place { file: std::sync::Arc::clone(&file), line });
            }
            if self.is_first(&key, &place) {
                users.entry(name).or_default().password = Some(secret);
            }
        }
    }

    /// Passwords for servers that stand outside of the configuration, where there is use for them.
    fn server_passwords(&mut self, config: &Config) -> ServerPasswords {
        let named = config.settings.passfile.as_deref();
        let mut found = ServerPasswords::default();
        if config.lacks_server_password() {
            let warnings;
            (found, warnings) = ServerPasswords::of_environment(self.files, named.is_none());
            for (key, kind) in warnings {
                self.report.add_warning(Warning { file: None, line: None, key: key.to_string(), kind });
            }
        }
        let Some(path) = named else { return found };
        let place = self.places.get("passfile").cloned();
        let place = place.unwrap_or(Place { file: self.report.main(), line: 1 });
        match found.read(self.files, path, &place.file) {
            Ok(()) => {}
            Err((path, PassfileFault::Unreadable(kind))) => {
                let key = format!("passfile {}", path.display());
                self.report.problem(&place, &key, ProblemKind::Unreadable(kind));
            }
            Err((path, why)) => self.report.warning(&place, "passfile", WarningKind::PassfileIgnored { path, why }),
        }
        found
    }

    /// Fills in the hosts left out.
    fn hosts(&mut self, settings: &Settings, databases: &mut BTreeMap<String, Database>) {
        let host = match self.dialect {
            Dialect::Toml => Some("127.0.0.1".to_string()),
            Dialect::Ini => settings.unix_socket_dir.as_ref().map(|dir| dir.display().to_string()),
        };
        for (name, database) in databases {
            if database.host.is_none() && !self.report.blames(&(entry_path("databases", name) + ".host")) {
                database.host.clone_from(&host);
            }
        }
    }
}

fn first_lines(list: &str) -> HashMap<String, u32> {
    let mut first = HashMap::new();
    for (line, user) in userlist::parse(list) {
        if let Ok((name, _)) = user {
            first.entry(name).or_insert(line);
        }
    }
    first
}

fn unknown_setting(key: &str, dialect: Dialect) -> ProblemKind {
    match dialect {
        Dialect::Toml => ProblemKind::unknown_setting(key),
        Dialect::Ini => {
            let keys = SETTINGS.iter().map(|s| s.key).chain(pgbouncer::keys());
            ProblemKind::UnknownKey { nearest: nearest(key, keys), allowed: Vec::new() }
        }
    }
}
