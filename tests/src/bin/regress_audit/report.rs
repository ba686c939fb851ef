//! What all connections found, and how it is told.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::probe::Change;
use crate::verdict::{Block, Cause};

/// Bytes of a text that are written down.
const SHOWN_TEXT: usize = 600;
/// Changes that are written down of each statement.
const SHOWN_CHANGES: usize = 5;

/// Counts, and a file that has the statements that need a look.
#[derive(Debug)]
pub(crate) struct Report {
    counts: Mutex<Counts>,
    log: File,
}

/// In units of what was run between two questions, a statement or a transaction block, but for the first two.
#[derive(Debug, Default)]
struct Counts {
    connections: u64,
    texts: u64,
    asked: u64,
    /// The pooler would have asked, for what the texts alone say.
    due: u64,
    changed: u64,
    by_text: u64,
    by_definition: u64,
    by_name: u64,
    by_write: u64,
    by_any: u64,
    missed: u64,
    failed: u64,
    /// Names that could be those of custom settings.
    names: BTreeSet<String>,
    /// Names of custom settings that a text set.
    noted: BTreeSet<String>,
}

impl Report {
    /// With a new file at this path.
    pub(crate) fn create(path: &Path) -> io::Result<Report> {
        Ok(Report { counts: Mutex::default(), log: File::create(path)? })
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A client has logged in.
    pub(crate) fn connected(&self) {
        self.counts().connections += 1;
    }

    /// A text was sent that has these names.
    pub(crate) fn sent(&self, names: BTreeSet<String>) {
        let mut counts = self.counts();
        counts.texts += 1;
        counts.names.extend(names);
    }

    /// All names so far.
    pub(crate) fn names(&self) -> BTreeSet<String> {
        self.counts().names.clone()
    }

    /// The names of custom settings that texts set, before these.
    pub(crate) fn noted(&self, block: &Block) -> BTreeSet<String> {
        let mut counts = self.counts();
        let before = counts.noted.clone();
        let reading = block.read(None);
        counts.asked += 1;
        counts.due += u64::from(!reading.effects.with_unread().parts().is_empty());
        counts.noted.extend(reading.custom.iter().map(ToString::to_string));
        before
    }

    /// State has changed, and would have been found for this cause. What the texts alone do not explain is written down.
    pub(crate) fn changed(&self, script: &str, block: &Block, changes: &[Change], cause: Option<Cause>) {
        let mut counts = self.counts();
        counts.changed += 1;
        let (word, count) = match cause {
            Some(Cause::Text) => return counts.by_text += 1,
            Some(Cause::Definition) => ("found by definition", &mut counts.by_definition),
            Some(Cause::Name) => ("found by a suspect name", &mut counts.by_name),
            Some(Cause::Write) => ("found as a write", &mut counts.by_write),
            Some(Cause::Any) => ("found as any statement", &mut counts.by_any),
            None => ("MISSED", &mut counts.missed),
        };
        *count += 1;
        let mut entry = format!("{word}: {script}: read as {:?}\n", block.read(None).effects);
        for change in changes.iter().take(SHOWN_CHANGES) {
            entry += &format!("    {:?} {}: {:?} -> {:?}\n", change.part, change.name, change.before, change.after);
        }
        self.write(entry, block);
    }

    /// PostgreSQL did not answer.
    pub(crate) fn failed(&self, script: &str, block: &Block, why: &str) {
        self.counts().failed += 1;
        self.write(format!("NOT ASKED: {script}: {why}\n"), block);
    }

    /// In one write, as there may be several connections.
    fn write(&self, mut entry: String, block: &Block) {
        for text in &block.texts {
            entry += &format!("    | {}\n", shorten(text).replace('\n', "\n    | "));
        }
        (&self.log).write_all(entry.as_bytes()).expect("a finding can be written down");
    }

    /// Writes the counts below.
    pub(crate) fn finish(&self) -> io::Result<()> {
        writeln!(&self.log, "{self}")
    }

    /// Nothing was missed, and there was something to miss. What was found only because all statements are suspect proves
    /// nothing: with the suite's own types and operators in the database they are, soon.
    pub(crate) fn is_good(&self) -> bool {
        let counts = self.counts();
        counts.missed + counts.by_any + counts.failed == 0 && counts.changed > 0
    }
}

/// One line for each count.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = self.counts();
        writeln!(f, "Counts:")?;
        writeln!(f, "{:>7} texts, of {} connections", counts.texts, counts.connections)?;
        writeln!(
            f,
            "{:>7} statements or transaction blocks after which the session's state was asked for",
            counts.asked
        )?;
        writeln!(f, "{:>7} of them would have been audited", counts.due)?;
        writeln!(f, "{:>7} of them changed the session's state:", counts.changed)?;
        writeln!(f, "{:>7}     the text says so", counts.by_text)?;
        writeln!(f, "{:>7}     the text defines something, which is always audited", counts.by_definition)?;
        writeln!(f, "{:>7}     the text names a suspect of the catalog", counts.by_name)?;
        writeln!(f, "{:>7}     the text writes, and all writes are suspect", counts.by_write)?;
        writeln!(f, "{:>7}     all statements are suspect", counts.by_any)?;
        writeln!(f, "{:>7}     missed", counts.missed)?;
        write!(f, "{:>7} questions failed", counts.failed)
    }
}

fn shorten(text: &[u8]) -> String {
    let shown = String::from_utf8_lossy(&text[..text.len().min(SHOWN_TEXT)]).into_owned();
    if text.len() > SHOWN_TEXT { shown + " ..." } else { shown }
}
