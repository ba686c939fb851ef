//! What differs between two configurations, for a reload to apply and to report. It applies nothing itself.

use std::collections::BTreeMap;

use crate::model::Config;
use crate::settings::SETTINGS;

/// What a reload changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diff {
    /// Settings with another value, in the order of the reference.
    pub settings: Vec<SettingChange>,
    /// Databases by name.
    pub databases: Changes,
    /// Users by name; a new secret is a change too.
    pub users: Changes,
    /// Whether the rules of auth_hba_file or the maps of auth_ident_file differ, be it by their lines' numbers only.
    pub rules: bool,
}

/// A setting with another value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingChange {
    /// The key.
    pub key: &'static str,
    /// The value in force, as in `SHOW CONFIG`.
    pub old: String,
    /// The value to come.
    pub new: String,
    /// Whether a reload applies it; otherwise a restart does.
    pub changeable: bool,
}

/// Names that came, went, or stand for something else now; each list sorted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// New names.
    pub added: Vec<String>,
    /// Names no longer there.
    pub removed: Vec<String>,
    /// Names whose entry differs.
    pub changed: Vec<String>,
}

impl Config {
    /// What differs in `new`. The source file does not count.
    pub fn diff(&self, new: &Config) -> Diff {
        let change = |setting: &&'static crate::settings::Setting| {
            let (old, new) = (setting.show(&self.settings), setting.show(&new.settings));
            (old != new).then_some(SettingChange { key: setting.key, old, new, changeable: setting.changeable })
        };
        Diff {
            settings: SETTINGS.iter().filter_map(|s| change(&s)).collect(),
            databases: Changes::between(&self.databases, &new.databases),
            users: Changes::between(&self.users, &new.users),
            rules: self.hba != new.hba || self.ident != new.ident,
        }
    }
}

impl Diff {
    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Changes {
    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn between<T: PartialEq>(old: &BTreeMap<String, T>, new: &BTreeMap<String, T>) -> Self {
        let missing = |from: &BTreeMap<String, T>, name: &&String| !from.contains_key(*name);
        let differs = |(name, entry): &(&String, &T)| old.get(*name).is_some_and(|before| before != *entry);
        Self {
            added: new.keys().filter(|n| missing(old, n)).cloned().collect(),
            removed: old.keys().filter(|n| missing(new, n)).cloned().collect(),
            changed: new.iter().filter(differs).map(|(name, _)| name.clone()).collect(),
        }
    }
}
