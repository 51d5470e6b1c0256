//! An ordered map that is cheap to copy and cheap to change after a copy.
//!
//! The map of the cluster is shared as `Arc<LusMap>`, and each epoch is a new value. A `BTreeMap` would copy all its
//! entries for each epoch; here the entries stand in sorted chunks behind `Arc`s, so that a copy is one counter and a
//! change after it copies one chunk and the list of chunks: for 10,000 entries about 300 pointers. Two tables
//! that share chunks are compared without looking into those.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

/// Entries in a chunk at most; a full one is split in halves.
const CHUNK_ENTRIES_MAX: usize = 64;
/// Neighbours that together have no more entries than this are joined when one of them shrinks.
const CHUNK_ENTRIES_JOIN: usize = CHUNK_ENTRIES_MAX / 2;

type Chunk<K, V> = Vec<(K, Arc<V>)>;

/// An ordered map of `K` to shared `V`; no chunk is empty, and keys ascend through all chunks.
pub(crate) struct Table<K, V> {
    chunks: Arc<Vec<Arc<Chunk<K, V>>>>,
    len: usize,
}

impl<K, V> Clone for Table<K, V> {
    fn clone(&self) -> Self {
        Self { chunks: Arc::clone(&self.chunks), len: self.len }
    }
}

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Self { chunks: Arc::new(Vec::new()), len: 0 }
    }
}

impl<K: fmt::Debug, V: fmt::Debug> fmt::Debug for Table<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.chunks.iter().flat_map(|chunk| chunk.iter().map(|(k, v)| (k, v)))).finish()
    }
}

impl<K: Ord + Clone, V> Table<K, V> {
    /// How many entries there are.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The index of the chunk that holds `key` if any does: the last one that begins at or before it.
    fn chunk_of<Q: Ord + ?Sized>(&self, key: &Q) -> usize
    where
        K: Borrow<Q>,
    {
        self.chunks.partition_point(|chunk| chunk[0].0.borrow() <= key).saturating_sub(1)
    }

    /// The value under `key`.
    pub(crate) fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&Arc<V>>
    where
        K: Borrow<Q>,
    {
        let chunk = self.chunks.get(self.chunk_of(key))?;
        let index = chunk.binary_search_by(|(k, _)| k.borrow().cmp(key)).ok()?;
        Some(&chunk[index].1)
    }

    /// Sets `key` to `value` and returns what it was before.
    pub(crate) fn insert(&mut self, key: K, value: Arc<V>) -> Option<Arc<V>> {
        let at = self.chunk_of(&key);
        let chunks = Arc::make_mut(&mut self.chunks);
        if chunks.is_empty() {
            chunks.push(Arc::new(vec![(key, value)]));
            self.len = 1;
            return None;
        }
        let chunk = Arc::make_mut(&mut chunks[at]);
        match chunk.binary_search_by(|(k, _)| k.cmp(&key)) {
            Ok(index) => Some(std::mem::replace(&mut chunk[index].1, value)),
            Err(index) => {
                chunk.insert(index, (key, value));
                self.len += 1;
                if chunk.len() > CHUNK_ENTRIES_MAX {
                    let upper = chunk.split_off(chunk.len() / 2);
                    chunks.insert(at + 1, Arc::new(upper));
                }
                None
            }
        }
    }

    /// Removes `key` and returns its value.
    pub(crate) fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<Arc<V>>
    where
        K: Borrow<Q>,
    {
        let at = self.chunk_of(key);
        let index = self.chunks.get(at)?.binary_search_by(|(k, _)| k.borrow().cmp(key)).ok()?;
        let chunks = Arc::make_mut(&mut self.chunks);
        let chunk = Arc::make_mut(&mut chunks[at]);
        let (_, value) = chunk.remove(index);
        self.len -= 1;
        if chunk.is_empty() {
            chunks.remove(at);
        } else if at + 1 < chunks.len() && chunks[at].len() + chunks[at + 1].len() <= CHUNK_ENTRIES_JOIN {
            let upper = chunks.remove(at + 1);
            Arc::make_mut(&mut chunks[at]).extend(upper.iter().cloned());
        }
        Some(value)
    }

    /// The entries in the order of their keys.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &Arc<V>)> {
        self.chunks.iter().flat_map(|chunk| chunk.iter().map(|(k, v)| (k, v)))
    }

    /// The entries from the first one on for which `before` is false; `before` must be true for a first part of the
    /// keys and false for the rest.
    pub(crate) fn iter_from(&self, before: impl Fn(&K) -> bool) -> impl Iterator<Item = (&K, &Arc<V>)> {
        let at = self.chunks.partition_point(|chunk| before(&chunk[0].0)).saturating_sub(1);
        let first = self.chunks.get(at).map_or(0, |chunk| chunk.partition_point(|(k, _)| before(k)));
        self.chunks[at.min(self.chunks.len())..]
            .iter()
            .flat_map(|chunk| chunk.iter().map(|(k, v)| (k, v)))
            .skip(first)
    }

    /// The steps from `self` to `newer`: `(key, old, new)` in the order of the keys, for each key whose value is not the
    /// very same allocation in both. Shared chunks cost one comparison each.
    pub(crate) fn steps<'a>(&'a self, newer: &'a Self) -> Vec<Step<'a, K, V>> {
        let mut steps = Vec::new();
        if Arc::ptr_eq(&self.chunks, &newer.chunks) {
            return steps;
        }
        let (mut old, mut new) = (Cursor::of(&self.chunks), Cursor::of(&newer.chunks));
        loop {
            if let (Some(a), Some(b)) = (old.whole_chunk(), new.whole_chunk())
                && Arc::ptr_eq(a, b)
            {
                old.skip_chunk();
                new.skip_chunk();
                continue;
            }
            let order = match (old.entry(), new.entry()) {
                (None, None) => return steps,
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
                (Some((a, _)), Some((b, _))) => a.cmp(b),
            };
            let before = if order.is_le() { old.next() } else { None };
            let after = if order.is_ge() { new.next() } else { None };
            match (before, after) {
                (Some((_, a)), Some((_, b))) if Arc::ptr_eq(a, b) => {}
                (Some((key, a)), b) => steps.push((key, Some(a), b.map(|(_, b)| b))),
                (None, Some((key, b))) => steps.push((key, None, Some(b))),
                (None, None) => unreachable!("one of the two cursors stands on the lesser key"),
            }
        }
    }
}

/// What [`Table::steps`] says of one key: its value before and after.
pub(crate) type Step<'a, K, V> = (&'a K, Option<&'a Arc<V>>, Option<&'a Arc<V>>);

/// A place in a list of chunks.
struct Cursor<'a, K, V> {
    chunks: &'a [Arc<Chunk<K, V>>],
    index: usize,
}

impl<'a, K, V> Cursor<'a, K, V> {
    fn of(chunks: &'a [Arc<Chunk<K, V>>]) -> Self {
        Self { chunks, index: 0 }
    }

    /// The chunk that the cursor stands at the beginning of.
    fn whole_chunk(&self) -> Option<&'a Arc<Chunk<K, V>>> {
        if self.index == 0 { self.chunks.first() } else { None }
    }

    fn skip_chunk(&mut self) {
        self.chunks = &self.chunks[1..];
        self.index = 0;
    }

    fn entry(&self) -> Option<(&'a K, &'a Arc<V>)> {
        self.chunks.first().map(|chunk| (&chunk[self.index].0, &chunk[self.index].1))
    }

    fn next(&mut self) -> Option<(&'a K, &'a Arc<V>)> {
        let entry = self.entry()?;
        self.index += 1;
        if self.index == self.chunks[0].len() {
            self.skip_chunk();
        }
        Some(entry)
    }
}

impl<K: Ord + Clone, V> FromIterator<(K, Arc<V>)> for Table<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, Arc<V>)>>(entries: I) -> Self {
        let mut table = Self::default();
        for (key, value) in entries {
            table.insert(key, value);
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn valid(table: &Table<u16, u16>) {
        assert!(table.chunks.iter().all(|chunk| !chunk.is_empty() && chunk.len() <= CHUNK_ENTRIES_MAX));
        let keys: Vec<u16> = table.iter().map(|(k, _)| *k).collect();
        assert!(keys.is_sorted_by(|a, b| a < b));
        assert_eq!(keys.len(), table.len());
    }

    proptest! {
        #[test]
        fn behaves_as_a_btreemap(acts in proptest::collection::vec((0u16..400, any::<Option<u16>>()), 0..1500)) {
            let mut table = Table::default();
            let mut model = BTreeMap::new();
            let mut kept = Vec::new();
            for (n, (key, value)) in acts.into_iter().enumerate() {
                if n % 50 == 0 {
                    kept.push((table.clone(), model.clone()));
                }
                match value {
                    Some(value) => {
                        let was = table.insert(key, Arc::new(value)).map(|v| *v);
                        prop_assert_eq!(was, model.insert(key, value));
                    }
                    None => prop_assert_eq!(table.remove(&key).map(|v| *v), model.remove(&key)),
                }
            }
            valid(&table);
            for key in 0..400 {
                prop_assert_eq!(table.get(&key).map(|v| **v), model.get(&key).copied());
                let rest: Vec<u16> = table.iter_from(|k| *k < key).map(|(k, _)| *k).collect();
                prop_assert_eq!(rest, model.range(key..).map(|(k, _)| *k).collect::<Vec<_>>());
            }
            for (old_table, old_model) in kept {
                valid(&old_table);
                prop_assert!(old_table.iter().map(|(k, v)| (*k, **v)).eq(old_model.iter().map(|(k, v)| (*k, *v))));
                let mut patched = old_model.clone();
                for (key, old, new) in old_table.steps(&table) {
                    prop_assert_eq!(old.map(|v| **v), old_model.get(key).copied());
                    match new {
                        Some(new) => patched.insert(*key, **new),
                        None => patched.remove(key),
                    };
                }
                prop_assert_eq!(&patched, &model);
            }
        }
    }

    #[test]
    fn an_entry_costs_what_changed() {
        let mut table: Table<u32, u32> = (0..10_000).map(|n| (n, Arc::new(n))).collect();
        let before = table.clone();
        table.insert(5_000, Arc::new(1));
        let shared = table.chunks.iter().filter(|a| before.chunks.iter().any(|b| Arc::ptr_eq(a, b))).count();
        assert_eq!(shared, table.chunks.len() - 1);
        assert_eq!(before.steps(&table).len(), 1);
    }
}
