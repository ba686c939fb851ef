//! Prepared statements: shared by content among the clients of a worker, and what each server has of them.
//!
//! Identity is content, byte by byte: text and parameter types; and the settings under which the text means what it means.
//! Hashes (keyed, by the standard library) only find it.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::{Hash, Hasher};
use std::sync::{Arc, OnceLock};

use lru::LruCache;
use pgsluice_sql::{Reading, Readings};

use crate::params::{Interned, Params};
use crate::settings::Settings;
use crate::shape::Shape;

/// Prepared statements a registry holds before it first looks for those that nobody uses any more.
const REGISTRY_SWEEP_MIN: usize = 1024;
/// The same in bytes of their content.
const REGISTRY_SWEEP_BYTES_MIN: usize = 4 << 20;
/// Bytes of content of the statements that a server keeps prepared.
const PREPARED_BYTES_MAX: usize = 4 << 20;

/// Names of custom settings that are looked at wherever a function may have made one, see `docs/limits.md`.
const CUSTOM_MAX: usize = 256;

/// Names of statements that clients share, in bytes.
const SHARED_NAME_MAX: usize = 64;

/// What every name of ours on a server begins with.
pub(crate) const RESERVED_PREFIX: &str = "pgsluice_";
/// Content of a statement that is only there for its name. A failed transaction takes this, too.
pub(crate) const STAND_IN: &[u8] = b"ROLLBACK\0\0\0";
/// What goes in front of a client's name that begins like ours and is none it has.
pub(crate) const GUARD: &str = "?";

/// One prepared statement.
#[derive(Debug)]
pub struct Statement {
    id: u64,
    content: Box<[u8]>,
    /// What decides what its names refer to, see [`Settings::context`].
    context: Box<str>,
    server_name: Box<str>,
    /// Of its rows, once a client has been told.
    shape: OnceLock<Shape>,
    /// What its text may do to a session, as far as the text alone says.
    reading: OnceLock<(Reading, bool)>,
}

impl Statement {
    /// Text, its zero, number and oids of parameter types: the body of Parse behind the name.
    pub fn content(&self) -> &[u8] {
        &self.content
    }

    /// Its name on every server.
    pub fn server_name(&self) -> &str {
        &self.server_name
    }

    /// Its text.
    pub(crate) fn text(&self) -> &[u8] {
        self.content.split(|&b| b == 0).next().unwrap_or_default()
    }

    /// Whether it is a FETCH, whose rows are those of a cursor: whatever has that name when it runs.
    pub(crate) fn fetches(&self) -> bool {
        is_fetch(&self.content)
    }

    /// What its text may do to a session, whatever is in the catalog.
    pub(crate) fn reading(&self) -> &Reading {
        &self.readings().0
    }

    /// Can it end a transaction block?
    pub(crate) fn may_end_transaction(&self) -> bool {
        self.readings().1
    }

    fn readings(&self) -> &(Reading, bool) {
        self.reading
            .get_or_init(|| (pgsluice_sql::read(self.text(), None), pgsluice_sql::may_end_transaction(self.text())))
    }

    /// The shape of its rows, as its clients know it.
    pub(crate) fn shape(&self) -> Option<&Shape> {
        self.shape.get()
    }

    /// The same; if nobody knows one, it is this from now on.
    pub(crate) fn shape_or(&self, shape: Shape) -> &Shape {
        self.shape.get_or_init(|| shape)
    }

    /// Number that no other content has, in this process.
    pub fn id(&self) -> u64 {
        self.id
    }
}

/// Whether a text begins with FETCH.
pub(crate) fn is_fetch(text: &[u8]) -> bool {
    text.trim_ascii_start().get(..5).is_some_and(|word| word.eq_ignore_ascii_case(b"fetch"))
}

/// Finds a statement by its content.
#[derive(Debug)]
struct ByContent(Arc<Statement>);

impl std::borrow::Borrow<[u8]> for ByContent {
    fn borrow(&self) -> &[u8] {
        &self.0.content
    }
}

impl Hash for ByContent {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.content.hash(state);
    }
}

impl PartialEq for ByContent {
    fn eq(&self, other: &Self) -> bool {
        self.0.content == other.0.content
    }
}

impl Eq for ByContent {}

/// The statements known to one worker, and the sets of parameters.
#[derive(Debug)]
pub struct Registry {
    /// By context, most often none.
    known: HashMap<Box<str>, HashSet<ByContent>>,
    /// Statements held.
    len: usize,
    next_id: u64,
    step: u64,
    params: Interned<Params>,
    settings: Interned<Settings>,
    /// Names that clients give to their statements. Drivers count, so all clients have the same.
    names: Interned<[u8]>,
    /// What texts of clients may do.
    pub(crate) readings: Readings,
    /// Names of custom settings that clients have made.
    custom: BTreeSet<Box<str>>,
    /// Bytes of content held.
    bytes: usize,
    /// Statements, and bytes of content, at which those that nobody uses are looked for.
    sweep_at: (usize, usize),
}

impl Registry {
    /// A registry for worker `index` of `workers`; ids of different workers never meet.
    pub fn new(index: usize, workers: usize) -> Self {
        let (next_id, step) = (index as u64 + 1, workers.max(1) as u64);
        Self {
            known: HashMap::new(),
            len: 0,
            params: Interned::default(),
            settings: Interned::default(),
            names: Interned::default(),
            readings: Readings::default(),
            custom: BTreeSet::new(),
            next_id,
            step,
            bytes: 0,
            sweep_at: (REGISTRY_SWEEP_MIN, REGISTRY_SWEEP_BYTES_MIN),
        }
    }

    /// The statement with this content, as it is meant under a client's settings.
    pub fn intern(&mut self, content: &[u8], settings: &Settings) -> Arc<Statement> {
        self.intern_in(content, &settings.context())
    }

    /// The same for a statement that is nobody's but this session's.
    pub(crate) fn intern_for(&mut self, session: u64, content: &[u8], settings: &Settings) -> Arc<Statement> {
        self.intern_in(content, &format!("{session}\0{}", settings.context()))
    }

    fn intern_in(&mut self, content: &[u8], context: &str) -> Arc<Statement> {
        if let Some(found) = self.known.get(context).and_then(|known| known.get(content)) {
            return found.0.clone();
        }
        if self.len >= self.sweep_at.0 || self.bytes + content.len() > self.sweep_at.1 {
            self.sweep();
        }
        self.bytes += content.len();
        self.len += 1;
        let statement = self.new_statement(content, context);
        self.known.entry(statement.context.clone()).or_default().insert(ByContent(statement.clone()));
        statement
    }

    /// A statement that is like no other, whatever its content.
    pub(crate) fn make(&mut self, content: &[u8], settings: &Settings) -> Arc<Statement> {
        self.new_statement(content, &settings.context())
    }

    fn new_statement(&mut self, content: &[u8], context: &str) -> Arc<Statement> {
        let id = self.next_id;
        self.next_id += self.step;
        let server_name = format!("{RESERVED_PREFIX}{id}").into();
        let (shape, reading) = (OnceLock::new(), OnceLock::new());
        Arc::new(Statement { id, content: content.into(), context: context.into(), server_name, shape, reading })
    }

    /// The one copy of these parameters.
    pub fn intern_params(&mut self, params: &Arc<Params>) -> Arc<Params> {
        self.params.intern(params)
    }

    /// The one copy of these settings.
    pub fn intern_settings(&mut self, settings: &Arc<Settings>) -> Arc<Settings> {
        self.settings.intern(settings)
    }

    /// The one copy of a name, if it is short: some that nobody has any more are kept for a while.
    pub(crate) fn intern_name(&mut self, name: &[u8]) -> Arc<[u8]> {
        if name.len() > SHARED_NAME_MAX {
            return name.into();
        }
        self.names.intern_as(name, || name.into())
    }

    /// A client may have made a custom setting of this name.
    pub(crate) fn note_custom(&mut self, name: &str) {
        if self.custom.len() < CUSTOM_MAX && !self.custom.contains(name) {
            self.custom.insert(name.into());
        }
    }

    /// Names of custom settings that clients have made.
    pub(crate) fn custom(&self) -> impl Iterator<Item = &str> {
        self.custom.iter().map(AsRef::as_ref)
    }

    /// Statements held now.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Is no statement known?
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// A client that used it does not any more: without others that do, it is dropped.
    pub(crate) fn release(&mut self, statement: Arc<Statement>) {
        const OURS_AND_THIS: usize = 2;
        if Arc::strong_count(&statement) == OURS_AND_THIS {
            self.retire(&statement);
        }
    }

    /// Whoever prepares this content anew gets another statement: what servers have of this one is out of date.
    pub(crate) fn retire(&mut self, statement: &Arc<Statement>) {
        let Some(known) = self.known.get_mut(&statement.context) else { return };
        if known.get(statement.content()).is_some_and(|found| Arc::ptr_eq(&found.0, statement)) {
            known.remove(statement.content());
            self.bytes -= statement.content().len();
            self.len -= 1;
            if known.is_empty() {
                self.known.remove(&statement.context);
            }
        }
    }

    /// Tables have changed: whoever prepares anything anew gets another statement.
    pub(crate) fn retire_all(&mut self) {
        self.known.clear();
        (self.len, self.bytes) = (0, 0);
    }

    /// Drops what no client and no server uses; the next sweep comes when there is twice as much as is left.
    fn sweep(&mut self) {
        self.known.retain(|_, known| {
            known.retain(|s| Arc::strong_count(&s.0) > 1);
            !known.is_empty()
        });
        self.len = self.known.values().map(HashSet::len).sum();
        self.bytes = self.known.values().flatten().map(|s| s.0.content().len()).sum();
        let twice = (self.len * 2, self.bytes * 2);
        self.sweep_at = (twice.0.max(REGISTRY_SWEEP_MIN), twice.1.max(REGISTRY_SWEEP_BYTES_MIN));
    }
}

/// A client's names.
pub(crate) type Names = HashMap<Arc<[u8]>, Arc<Statement>>;

/// What one server has prepared, the least recently used first to go.
#[derive(Debug)]
pub(crate) struct Prepared {
    known: LruCache<u64, Arc<Statement>>,
    /// Bytes of their content.
    bytes: usize,
    /// Prepared there, but not to be used again: closed before the name is taken anew.
    stale: Vec<Arc<Statement>>,
}

impl Prepared {
    pub(crate) fn new() -> Self {
        Self { known: LruCache::unbounded(), bytes: 0, stale: Vec::new() }
    }

    /// Is it there? Then it is the most recently used.
    pub(crate) fn touch(&mut self, id: u64) -> bool {
        self.known.get(&id).is_some()
    }

    pub(crate) fn insert(&mut self, statement: Arc<Statement>) {
        self.bytes += statement.content.len();
        let same = self.known.put(statement.id, statement);
        self.count_out(same);
    }

    pub(crate) fn remove(&mut self, id: u64) {
        let gone = self.known.pop(&id);
        self.count_out(gone);
    }

    fn count_out(&mut self, gone: Option<Arc<Statement>>) -> Option<Arc<Statement>> {
        self.bytes -= gone.as_ref().map_or(0, |s| s.content.len());
        gone
    }

    /// Only those that are still there, as the server says.
    pub(crate) fn retain(&mut self, is_there: impl Fn(&Statement) -> bool) {
        let gone: Vec<_> = self.known.iter().filter(|(_, s)| !is_there(s)).map(|(id, _)| *id).collect();
        gone.into_iter().for_each(|id| self.remove(id));
        self.stale.retain(|s| is_there(s));
    }

    /// The plan of this statement is of no use any more.
    pub(crate) fn spoil(&mut self, id: u64) {
        let spoilt = self.known.pop(&id);
        let spoilt = self.count_out(spoilt);
        self.stale.extend(spoilt);
    }

    pub(crate) fn take_stale(&mut self) -> Vec<Arc<Statement>> {
        std::mem::take(&mut self.stale)
    }

    /// The statement to close so that no more than `max` stay, and there is room for one of so many bytes.
    pub(crate) fn pop_over(&mut self, max: usize, bytes: usize) -> Option<Arc<Statement>> {
        if self.known.len() <= max && self.bytes + bytes <= PREPARED_BYTES_MAX {
            return None;
        }
        let oldest = self.known.pop_lru().map(|(_, statement)| statement);
        self.count_out(oldest)
    }

    pub(crate) fn clear(&mut self) {
        self.known.clear();
        self.bytes = 0;
        self.stale.clear();
    }

    pub(crate) fn len(&self) -> usize {
        self.known.len() + self.stale.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_identity_and_the_unused_are_forgotten() {
        let mut registry = Registry::new(1, 2);
        let a = registry.intern(b"select 1\0\0\0", &Settings::default());
        let b = registry.intern(b"select 1\0\0\0", &Settings::default());
        let c = registry.intern(b"select 1\0\0\x01\0\0\0\x17", &Settings::default());
        assert!(Arc::ptr_eq(&a, &b));
        assert_ne!(a.server_name(), c.server_name());
        assert_eq!(a.id() % 2, 0, "ids of worker 1 of 2 are even");
        for i in 0..REGISTRY_SWEEP_MIN * 3 {
            registry.intern(format!("select {i}\0\0\0").as_bytes(), &Settings::default());
        }
        assert!(registry.len() <= REGISTRY_SWEEP_MIN, "{}", registry.len());
        assert!(Arc::ptr_eq(&a, &registry.intern(b"select 1\0\0\0", &Settings::default())), "what is used stays");
    }

    #[test]
    fn one_text_under_two_search_paths_is_two_statements_and_a_retired_one_is_not_found_again() {
        let mut registry = Registry::new(0, 1);
        let of = |name: &str, value: &str| Settings::default().with(name, value);
        let plain = registry.intern(b"select\0\0\0", &of("TimeZone", "UTC"));
        let (a, b) = (of("search_path", "a"), of("Search_Path", "b"));
        let [first, second] = [&a, &b].map(|s| registry.intern(b"select\0\0\0", s));
        assert!(first.id() != plain.id() && first.id() != second.id());
        assert!(Arc::ptr_eq(&first, &registry.intern(b"select\0\0\0", &a)));
        registry.retire(&first);
        assert_eq!(registry.len(), 2);
        let anew = registry.intern(b"select\0\0\0", &a);
        assert_ne!(anew.id(), first.id());
        registry.retire(&first);
        registry.release(first);
        assert!(Arc::ptr_eq(&anew, &registry.intern(b"select\0\0\0", &a)), "the retired one takes nobody along");
        assert_eq!((registry.len(), registry.bytes), (3, 3 * 9));
    }

    #[test]
    fn a_few_long_ones_are_forgotten_as_well() {
        let mut registry = Registry::new(0, 1);
        let long = |i: usize| format!("{i}{}", "x".repeat(1 << 20)).into_bytes();
        (0..100).for_each(|i| drop(registry.intern(&long(i), &Settings::default())));
        assert!(registry.len() <= 4, "{}", registry.len());
        let kept: Vec<_> = (0..10).map(|i| registry.intern(&long(i), &Settings::default())).collect();
        let shared = kept[0].clone();
        let held = registry.len();
        kept.into_iter().for_each(|statement| registry.release(statement));
        assert_eq!(registry.len(), held - 9, "one has another user");
        registry.release(shared);
        assert_eq!(registry.len(), held - 10);
    }

    #[test]
    fn the_least_recently_used_goes_first() {
        let mut registry = Registry::new(0, 1);
        let [a, b, c] = ["a", "b", "c"].map(|t| registry.intern(t.as_bytes(), &Settings::default()));
        let mut prepared = Prepared::new();
        for s in [&a, &b, &c] {
            prepared.insert(s.clone());
        }
        assert!(prepared.touch(a.id()));
        assert_eq!(prepared.pop_over(2, 1).unwrap().id(), b.id());
        assert!(prepared.pop_over(2, 1).is_none());
        assert!(prepared.pop_over(2, PREPARED_BYTES_MAX - 2).is_none());
        prepared.spoil(a.id());
        assert!(!prepared.touch(a.id()));
        assert_eq!(prepared.take_stale().len(), 1);
        assert_eq!(prepared.len(), 1);
        prepared.insert(c.clone());
        assert_eq!(prepared.bytes, 1, "it was there already");
        assert_eq!(prepared.pop_over(2, PREPARED_BYTES_MAX).unwrap().id(), c.id());
        assert!(prepared.pop_over(2, PREPARED_BYTES_MAX + 1).is_none(), "a long one has the place to itself");
    }
}
