//! Rows as they were read and as they were decided to be.

use std::collections::BTreeMap;

/// What was read under lock, sorted by key, and what became of it.
#[derive(Debug, Clone)]
pub struct Tracked<K, V> {
    before: BTreeMap<K, V>,
    after: BTreeMap<K, V>,
}

impl<K: Ord + Clone, V: Clone + PartialEq> Tracked<K, V> {
    /// Rows as they were read.
    pub fn read(rows: impl IntoIterator<Item = (K, V)>) -> Self {
        let before: BTreeMap<K, V> = rows.into_iter().collect();
        Self { after: before.clone(), before }
    }

    /// A row as decided so far.
    pub fn get(&self, key: &K) -> Option<&V> {
        self.after.get(key)
    }

    /// A row to change as decided so far.
    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.after.get_mut(key)
    }

    /// Decides what a row becomes.
    pub fn put(&mut self, key: K, value: V) {
        self.after.insert(key, value);
    }

    /// Every row as decided so far.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.after.iter()
    }

    /// The rows that were not there, sorted by key.
    pub fn new_rows(&self) -> impl Iterator<Item = (&K, &V)> {
        self.after.iter().filter(|(key, _)| !self.before.contains_key(key))
    }

    /// The rows that were there and are different now, sorted by key: as they were, and as they are to be.
    pub fn changed_rows(&self) -> impl Iterator<Item = (&K, &V, &V)> {
        let pairs = self.after.iter().filter_map(|(key, after)| Some((key, self.before.get(key)?, after)));
        pairs.filter(|(_, before, after)| before != after)
    }

    /// How many rows were there.
    pub fn found(&self) -> usize {
        self.before.len()
    }

    /// Whether every row that was there is different now.
    pub fn all_changed(&self) -> bool {
        self.changed_rows().count() == self.found()
    }
}
