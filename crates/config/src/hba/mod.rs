//! Rules of who may log in from where and how (pg_hba.conf), and maps from the names that certificates and the system
//! give to names of users (pg_ident.conf), read as PostgreSQL 18 reads them: the chapters "The pg_hba.conf File" and "User
//! Name Maps" of its manual. What only PostgreSQL can know (members of roles) or what would take a look-up (names of hosts)
//! is an error and never a rule that silently does not match. Nothing here authenticates anybody.

mod ident;
mod matching;
mod rule;
mod tokens;

use std::path::Path;
use std::sync::Arc;

use crate::document::Report;
use crate::files::Files;

pub use ident::IdentMaps;
pub use matching::{Attempt, Channel, PATTERN_BYTES_MAX};
pub use rule::{ClientCert, HbaMethod, HbaRule};
pub use tokens::RULE_FILES_MAX;

/// The rules of a pg_hba.conf.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Hba {
    rules: Vec<HbaRule>,
}

impl Hba {
    /// The first rule that matches, which decides alone. `None`: nobody is let in that way, as in PostgreSQL.
    pub fn find(&self, attempt: &Attempt<'_>) -> Option<&HbaRule> {
        self.rules.iter().find(|rule| rule.matches(attempt))
    }

    /// All rules, in the order they are tried.
    pub fn rules(&self) -> &[HbaRule] {
        &self.rules
    }
}

/// Reads rules and all that they include, reporting every line that cannot be used.
pub(crate) fn read_rules(text: &str, file: Arc<Path>, files: &dyn Files, report: &mut Report) -> Hba {
    let mut rules = Vec::new();
    for line in tokens::read(text, file, files, report) {
        match rule::rule(&line) {
            Ok(rule) => rules.push(rule),
            Err((key, kind)) => report.problem(&line.place, &key, kind),
        }
    }
    Hba { rules }
}

/// Reads maps and all that they include, reporting every line that cannot be used.
pub(crate) fn read_maps(text: &str, file: Arc<Path>, files: &dyn Files, report: &mut Report) -> IdentMaps {
    let mut maps = IdentMaps::default();
    for line in tokens::read(text, file, files, report) {
        if let Err((key, kind)) = maps.add(&line) {
            report.problem(&line.place, &key, kind);
        }
    }
    maps
}
