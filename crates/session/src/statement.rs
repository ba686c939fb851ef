//! Prepared statements: shared by content among the clients of a worker, and what each server has of them.
//!
//! Identity is content, byte by byte: text and parameter types. Hashes (keyed, by the standard library) only find it.

use std::collections::{HashMap, HashSet};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use lru::LruCache;

/// Prepared statements a registry holds before it first looks for those that nobody uses any more.
const REGISTRY_SWEEP_MIN: usize = 1024;

/// What every name of ours on a server begins with.
pub(crate) const RESERVED_PREFIX: &str = "pgsluice_";
/// What goes in front of a client's name that begins like ours and is none it has.
pub(crate) const GUARD: &str = "?";

/// One prepared statement.
#[derive(Debug)]
pub struct Statement {
    id: u64,
    content: Box<[u8]>,
    server_name: Box<str>,
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

    /// Number that no other content has, in this process.
    pub fn id(&self) -> u64 {
        self.id
    }
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

/// The statements known to one worker.
#[derive(Debug)]
pub struct Registry {
    known: HashSet<ByContent>,
    next_id: u64,
    step: u64,
    sweep_at: usize,
}

impl Registry {
    /// A registry for worker `index` of `workers`; ids of different workers never meet.
    pub fn new(index: usize, workers: usize) -> Self {
        let (next_id, step) = (index as u64 + 1, workers.max(1) as u64);
        Self { known: HashSet::new(), next_id, step, sweep_at: REGISTRY_SWEEP_MIN }
    }

    /// The statement with this content.
    pub fn intern(&mut self, content: &[u8]) -> Arc<Statement> {
        if let Some(found) = self.known.get(content) {
            return found.0.clone();
        }
        if self.known.len() >= self.sweep_at {
            self.sweep();
        }
        let id = self.next_id;
        self.next_id += self.step;
        let server_name = format!("{RESERVED_PREFIX}{id}").into();
        let statement = Arc::new(Statement { id, content: content.into(), server_name });
        self.known.insert(ByContent(statement.clone()));
        statement
    }

    /// Statements held now.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Is no statement known?
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// Drops what no client and no server uses; the next sweep comes when there are twice as many as are left.
    fn sweep(&mut self) {
        self.known.retain(|s| Arc::strong_count(&s.0) > 1);
        self.sweep_at = (self.known.len() * 2).max(REGISTRY_SWEEP_MIN);
    }
}

/// A client's names.
pub(crate) type Names = HashMap<Arc<[u8]>, Arc<Statement>>;

/// What one server has prepared, the least recently used first to go.
#[derive(Debug)]
pub(crate) struct Prepared {
    known: LruCache<u64, Arc<Statement>>,
    /// Prepared there, but not to be used again: closed before the name is taken anew.
    stale: Vec<Arc<Statement>>,
}

impl Prepared {
    pub(crate) fn new() -> Self {
        Self { known: LruCache::unbounded(), stale: Vec::new() }
    }

    /// Is it there? Then it is the most recently used.
    pub(crate) fn touch(&mut self, id: u64) -> bool {
        self.known.get(&id).is_some()
    }

    pub(crate) fn insert(&mut self, statement: Arc<Statement>) {
        self.known.put(statement.id, statement);
    }

    pub(crate) fn remove(&mut self, id: u64) {
        self.known.pop(&id);
    }

    /// The plan of this statement is of no use any more.
    pub(crate) fn spoil(&mut self, id: u64) {
        self.stale.extend(self.known.pop(&id));
    }

    pub(crate) fn take_stale(&mut self) -> Vec<Arc<Statement>> {
        std::mem::take(&mut self.stale)
    }

    /// The statement to close so that no more than `max` stay.
    pub(crate) fn pop_over(&mut self, max: usize) -> Option<Arc<Statement>> {
        if self.known.len() <= max { None } else { self.known.pop_lru().map(|(_, s)| s) }
    }

    pub(crate) fn clear(&mut self) {
        self.known.clear();
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
        let a = registry.intern(b"select 1\0\0\0");
        let b = registry.intern(b"select 1\0\0\0");
        let c = registry.intern(b"select 1\0\0\x01\0\0\0\x17");
        assert!(Arc::ptr_eq(&a, &b));
        assert_ne!(a.server_name(), c.server_name());
        assert_eq!(a.id() % 2, 0, "ids of worker 1 of 2 are even");
        for i in 0..REGISTRY_SWEEP_MIN * 3 {
            registry.intern(format!("select {i}\0\0\0").as_bytes());
        }
        assert!(registry.len() <= REGISTRY_SWEEP_MIN, "{}", registry.len());
        assert!(Arc::ptr_eq(&a, &registry.intern(b"select 1\0\0\0")), "what is used stays");
    }

    #[test]
    fn the_least_recently_used_goes_first() {
        let mut registry = Registry::new(0, 1);
        let [a, b, c] = ["a", "b", "c"].map(|t| registry.intern(t.as_bytes()));
        let mut prepared = Prepared::new();
        for s in [&a, &b, &c] {
            prepared.insert(s.clone());
        }
        assert!(prepared.touch(a.id()));
        assert_eq!(prepared.pop_over(2).unwrap().id(), b.id());
        assert!(prepared.pop_over(2).is_none());
        prepared.spoil(a.id());
        assert!(!prepared.touch(a.id()));
        assert_eq!(prepared.take_stale().len(), 1);
        assert_eq!(prepared.len(), 1);
    }
}
