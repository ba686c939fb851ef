//! What both dialects are parsed into before anything is checked: keys and values with the place they stand in, and the
//! report that collects everything wrong with them.

use std::path::Path;
use std::sync::Arc;

use crate::kinds::{Raw, toml_string};
use crate::model::FALLBACK;
use crate::problem::{Problem, ProblemKind, Problems, Warning, WarningKind};

/// A line of a file, from 1.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Place {
    pub(crate) file: Arc<Path>,
    pub(crate) line: u32,
}

/// A key with its value.
pub(crate) struct Entry {
    pub(crate) place: Place,
    pub(crate) key: String,
    pub(crate) value: Raw,
}

/// A database or a user.
pub(crate) struct Section {
    pub(crate) place: Place,
    pub(crate) name: String,
    pub(crate) entries: Vec<Entry>,
}

/// A whole configuration, includes read in.
#[derive(Default)]
pub(crate) struct Document {
    pub(crate) settings: Vec<Entry>,
    pub(crate) databases: Vec<Section>,
    pub(crate) users: Vec<Section>,
}

/// The full name of a database or user, such as `databases.app` or `databases."my.app"`, quoted so that the key of one
/// entry is never the name of another.
pub(crate) fn entry_path(parent: &str, name: &str) -> String {
    let plain = name == FALLBACK || name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
    if plain && !name.is_empty() { format!("{parent}.{name}") } else { format!("{parent}.{}", toml_string(name)) }
}

/// Everything found so far.
pub(crate) struct Report {
    main: Arc<Path>,
    problems: Vec<Problem>,
    warnings: Vec<Warning>,
    /// Whether part of a file could not be parsed, so that what is absent may only be unreadable.
    incomplete: bool,
}

impl Report {
    pub(crate) fn new(main: &Path) -> Self {
        Self { main: main.into(), problems: Vec::new(), warnings: Vec::new(), incomplete: false }
    }

    /// The file that was asked for, as opposed to those it includes.
    pub(crate) fn main(&self) -> Arc<Path> {
        Arc::clone(&self.main)
    }

    pub(crate) fn problem(&mut self, place: &Place, key: &str, kind: ProblemKind) {
        let unparsed = matches!(kind, ProblemKind::Syntax(_) | ProblemKind::Toml(_) | ProblemKind::Unreadable(_));
        self.incomplete |= unparsed;
        let (file, line) = (Some(place.file.to_path_buf()), Some(place.line));
        self.problems.push(Problem { file, line, key: key.to_string(), kind });
    }

    pub(crate) fn warning(&mut self, place: &Place, key: &str, kind: WarningKind) {
        let (file, line) = (Some(place.file.to_path_buf()), Some(place.line));
        self.warnings.push(Warning { file, line, key: key.to_string(), kind });
    }

    pub(crate) fn add(&mut self, problem: Problem) {
        self.problems.push(problem);
    }

    pub(crate) fn add_warning(&mut self, warning: Warning) {
        self.warnings.push(warning);
    }

    /// Whether something is already wrong with this key, so that a conflict with its default would be noise.
    pub(crate) fn blames(&self, key: &str) -> bool {
        self.problems.iter().any(|p| p.key == key)
    }

    pub(crate) fn is_incomplete(&self) -> bool {
        self.incomplete
    }

    /// The warnings if nothing is wrong, else the problems; both by file (the main one first) and line.
    pub(crate) fn finish(mut self) -> Result<Vec<Warning>, Problems> {
        let main = Some(self.main.to_path_buf());
        self.problems.sort_by_key(|p| (p.file != main, p.file.clone(), p.line));
        self.warnings.sort_by_key(|w| (w.file != main, w.file.clone(), w.line));
        // A file that is included twice has its mistakes twice.
        self.problems.dedup();
        if self.problems.is_empty() { Ok(self.warnings) } else { Err(Problems(self.problems)) }
    }
}
