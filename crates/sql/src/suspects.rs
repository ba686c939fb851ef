//! The names of one database that reach session state: of functions whose source may change it, and of whatever calls
//! those. A statement that mentions none of them does to its session what its own text says, and no more.
//!
//! What each function does is read in its source, in the grammar of its language; where there is no source to read, in
//! other languages, it is suspect. Then suspicion spreads from names to what mentions them, along the rows of
//! [`Suspects::QUERY`]. What runs without being named, such as a trigger or an operator, concerns all that writes, or all.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::effects::Effects;
use crate::name::{self, HASHES, Name};
use crate::read::{Language, read_as};

/// What makes a function suspect. The rest is not session state, or shows in the text of the client's statement.
const SUSPICIOUS: Effects = Effects::SETTINGS
    .union(Effects::PREPARE)
    .union(Effects::CURSOR)
    .union(Effects::LISTEN)
    .union(Effects::LISTEN_READ)
    .union(Effects::TEMP)
    .union(Effects::ADVISORY)
    .union(Effects::LOAD)
    .union(Effects::DISCARD)
    .union(Effects::OPAQUE)
    .union(Effects::DDL);

/// The suspect names of a database.
#[derive(Clone, Default)]
pub struct Suspects {
    /// In lower case, ASCII only.
    names: HashSet<Box<[u8]>>,
    /// Whether one of them has this hash.
    hashes: Hashes,
    /// The others. What these are in a client's encoding is not known, so that any such name is taken for one of them.
    other_names: Vec<Box<str>>,
    writes: bool,
    all: bool,
    custom: Vec<Box<str>>,
    /// Functions that call `nextval` or `setval`: their names, in lower case.
    counters: HashSet<Box<[u8]>>,
    /// Zero if there are none, otherwise that of no others but its copies.
    id: u64,
}

impl Suspects {
    /// Asks the catalog of a database, for PostgreSQL 13 and later. Any role may run it, with any `search_path`; it takes
    /// no lock that waits for anybody but DDL on system catalogs. Three columns of type text, none null: what the row is,
    /// a name, and a source. See [`Suspects::from_rows`].
    pub const QUERY: &str = include_str!("suspects.sql");

    /// Asks, in well under a millisecond, for a number that changes when what [`Suspects::QUERY`] reads has changed: its second
    /// column, in one row of the same shape. There is no row where PostgreSQL does not count (`track_counts`, a standby).
    /// Backends report what they wrote when a transaction ends, but not more often than once a second, and then up to 10 s
    /// later if they are idle.
    ///
    /// Source: manual, "The Cumulative Statistics System"; `pgstat_report_stat` in
    /// `src/backend/utils/activity/pgstat.c`.
    pub const WRITTEN: &str = include_str!("written.sql");

    /// The suspects according to the rows of [`Suspects::QUERY`]: kind, name, source.
    ///
    /// | kind | what is named | source |
    /// |---|---|---|
    /// | `sql`, `plpgsql` | a function | its body |
    /// | `unknown` | a function that nobody can read: suspect | empty |
    /// | `refers` | a view, a function, an aggregate, a foreign table | names of what it calls and reads |
    /// | `table` | a table with defaults, constraints, policies, indexes: concerns all that writes, too | such names |
    /// | `trigger` | a table: concerns all that writes | such names |
    /// | `always` | an operator, a cast, a type, a domain, an event trigger: concerns all statements | such names |
    ///
    /// A row of another kind is taken for `unknown`. Time and memory are linear in the size of the rows.
    pub fn from_rows<'a>(rows: impl IntoIterator<Item = [&'a [u8]; 3]>) -> Self {
        let rows = rows.into_iter().collect::<Vec<_>>();
        let mut graph = Graph::of(&rows);
        for row in &rows {
            graph.read(row);
        }
        graph.spread();
        graph.finish(&rows)
    }

    /// Tells these from all others in this process: zero if there are none.
    pub(crate) fn id(&self) -> u64 {
        if self.is_empty() { 0 } else { self.id }
    }

    /// Whether nothing in the database is suspect: then no statement is.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty() && self.other_names.is_empty() && !self.writes && !self.all
    }

    /// Whether no name says anything that the text itself does not.
    pub fn is_silent(&self) -> bool {
        self.is_empty() && self.counters.is_empty()
    }

    /// The names, in lower case and without schema, in no particular order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let ascii = self.names.iter().map(|name| std::str::from_utf8(name).expect("ASCII is UTF-8"));
        ascii.chain(self.other_names.iter().map(|name| &**name))
    }

    /// Whether every statement that writes is suspect, because of a trigger, a default, a constraint or an index.
    pub fn concern_writes(&self) -> bool {
        self.writes
    }

    /// Whether every statement is suspect, because of an operator, a cast, a type, a domain or an event trigger.
    pub fn concern_all(&self) -> bool {
        self.all
    }

    /// Names of settings with a dot that the sources set, as in [`crate::Reading::custom`].
    pub fn custom(&self) -> &[Box<str>] {
        &self.custom
    }

    /// Whether an identifier is a suspect name.
    pub(crate) fn has(&self, name: Name<'_>) -> bool {
        if !name.raw.is_ascii() {
            return !self.other_names.is_empty();
        }
        // Nearly all names end here.
        if name.is_plain() && !self.hashes.has(name.raw) {
            return false;
        }
        self.names.contains(name.fold(&mut name::buffer()))
    }

    /// Whether an identifier is the name of a function that calls `nextval` itself.
    pub(crate) fn counts(&self, name: Name<'_>) -> bool {
        !self.counters.is_empty() && name.raw.is_ascii() && self.counters.contains(name.fold(&mut name::buffer()))
    }

    /// Whether a statement with these effects is suspect, whatever it names.
    pub(crate) fn concern(&self, effects: Effects) -> bool {
        self.all || self.writes && effects.contains(Effects::WRITE)
    }
}

/// A set of hashes of names.
#[derive(Clone)]
struct Hashes(Box<[bool]>);

impl Default for Hashes {
    fn default() -> Self {
        Hashes(vec![false; HASHES].into_boxed_slice())
    }
}

impl Hashes {
    fn add(&mut self, name: &[u8]) {
        if !name.is_empty() {
            self.0[name::hash(name)] = true;
        }
    }

    fn has(&self, name: &[u8]) -> bool {
        !name.is_empty() && self.0[name::hash(name)]
    }
}

impl fmt::Debug for Suspects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut names = self.names().collect::<Vec<_>>();
        names.sort_unstable();
        let mut shown = f.debug_struct("Suspects");
        shown.field("names", &names).field("writes", &self.writes).field("all", &self.all);
        shown.field("custom", &self.custom).finish()
    }
}

/// What is suspect as soon as one of its kind is: statements that write, all statements, names that are not ASCII.
const WRITES: usize = 0;
const ALL: usize = 1;
const OTHER_NAMES: usize = 2;

/// Who becomes suspect with whom. Nodes are names, after the three above.
struct Graph {
    nodes: HashMap<Box<[u8]>, usize>,
    /// For each node those that mention it.
    mentioned_by: Vec<Vec<usize>>,
    suspect: Vec<bool>,
    custom: Vec<Box<str>>,
    counters: HashSet<Box<[u8]>>,
}

impl Graph {
    fn of(rows: &[[&[u8]; 3]]) -> Graph {
        let mut nodes = HashMap::new();
        for [_, name, _] in rows.iter().filter(|[_, name, _]| name.is_ascii()) {
            let next = nodes.len() + OTHER_NAMES + 1;
            nodes.entry(name.to_ascii_lowercase().into_boxed_slice()).or_insert(next);
        }
        let count = nodes.len() + OTHER_NAMES + 1;
        Graph {
            nodes,
            mentioned_by: vec![Vec::new(); count],
            suspect: vec![false; count],
            custom: Vec::new(),
            counters: HashSet::new(),
        }
    }

    fn node(&self, folded: &[u8]) -> Option<usize> {
        if folded.is_ascii() { self.nodes.get(folded).copied() } else { Some(OTHER_NAMES) }
    }

    fn read(&mut self, [kind, name, source]: &[&[u8]; 3]) {
        let named = self.node(&name.to_ascii_lowercase()).expect("every row's name is a node");
        let (language, concerned): (_, &[usize]) = match *kind {
            b"sql" | b"refers" => (Language::Sql, &[named]),
            b"plpgsql" => (Language::Plpgsql, &[named]),
            b"table" => (Language::Sql, &[named, WRITES]),
            b"trigger" => (Language::Sql, &[WRITES]),
            b"always" => (Language::Sql, &[ALL]),
            _ => return self.suspect[named] = true,
        };
        let mut mentioned = Vec::new();
        let reading =
            read_as(language, source, Some(&mut |word| mentioned.extend(self.node(word.fold(&mut name::buffer())))));
        if reading.effects.contains(Effects::WRITE) {
            mentioned.push(WRITES);
        }
        mentioned.sort_unstable();
        mentioned.dedup();
        for node in mentioned {
            self.mentioned_by[node].extend(concerned);
        }
        if reading.effects.intersects(SUSPICIOUS) {
            concerned.iter().for_each(|node| self.suspect[*node] = true);
        }
        if reading.effects.contains(Effects::SEQUENCE) {
            self.counters.insert(name.to_ascii_lowercase().into());
        }
        self.custom.extend(reading.custom);
    }

    fn spread(&mut self) {
        let mut new = (0..self.suspect.len()).filter(|node| self.suspect[*node]).collect::<Vec<_>>();
        while let Some(node) = new.pop() {
            for mention in std::mem::take(&mut self.mentioned_by[node]) {
                if !std::mem::replace(&mut self.suspect[mention], true) {
                    new.push(mention);
                }
            }
        }
    }

    fn finish(mut self, rows: &[[&[u8]; 3]]) -> Suspects {
        let other_names = match self.suspect[OTHER_NAMES] {
            true => rows.iter().map(|[_, name, _]| *name).filter(|name| !name.is_ascii()).collect(),
            false => Vec::new(),
        };
        let mut other_names: Vec<Box<str>> =
            other_names.into_iter().map(|name: &[u8]| String::from_utf8_lossy(name).into()).collect();
        other_names.sort_unstable();
        other_names.dedup();
        self.custom.sort_unstable();
        self.custom.dedup();
        let suspect = &self.suspect;
        let names = self.nodes.into_iter().filter(|(_, node)| suspect[*node]).map(|(name, _)| name);
        let names = names.collect::<HashSet<_>>();
        let mut hashes = Hashes::default();
        names.iter().for_each(|name| hashes.add(name));
        let (writes, all) = (suspect[WRITES], suspect[ALL]);
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        Suspects { names, hashes, other_names, writes, all, custom: self.custom, counters: self.counters, id }
    }
}
