//! FirstItems: the first few of many items in their order, without a copy of the others.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// After so many items a walk lets the worker serve others: some 100 µs.
pub(crate) const ITEMS_PER_TURN: usize = 4_096;

/// Keeps the items with the smallest keys that it gets, as many as its limit.
#[derive(Debug)]
pub(crate) struct FirstItems<K, V> {
    limit: usize,
    /// The largest key is on top.
    kept: BinaryHeap<Entry<K, V>>,
}

#[derive(Debug)]
struct Entry<K, V> {
    key: K,
    value: V,
}

impl<K: Ord, V> FirstItems<K, V> {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            limit,
            kept: BinaryHeap::new(),
        }
    }

    /// Returns the last key once there are as many items as the limit: only a smaller one is kept.
    /// Ask before you make an item that is not free.
    pub(crate) fn last_of_full(&self) -> Option<&K> {
        let last = self.kept.peek().filter(|_| self.kept.len() == self.limit);
        last.map(|entry| &entry.key)
    }

    /// Adds an item; the last one makes room.
    pub(crate) fn push(&mut self, key: K, value: V) {
        self.kept.push(Entry { key, value });
        if self.kept.len() > self.limit {
            self.kept.pop();
        }
    }

    /// Returns the items in the order of their keys.
    pub(crate) fn into_sorted(self) -> impl Iterator<Item = (K, V)> {
        let entries = self.kept.into_sorted_vec().into_iter();
        entries.map(|Entry { key, value }| (key, value))
    }
}

impl<K: Ord, V> Ord for Entry<K, V> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key.cmp(&other.key)
    }
}

impl<K: Ord, V> PartialOrd for Entry<K, V> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<K: Ord, V> Eq for Entry<K, V> {}

impl<K: Ord, V> PartialEq for Entry<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_items_are_those_of_a_sorted_copy() {
        let mut random = fastrand::Rng::with_seed(7);
        for (len, limit) in [(0, 3), (2, 3), (3, 3), (500, 20), (5, 0)] {
            let mut keys: Vec<u8> = (0..len).map(|_| random.u8(..)).collect();
            let mut first = FirstItems::new(limit);
            for key in &keys {
                if first.last_of_full().is_none_or(|last| key < last) {
                    first.push(*key, u16::from(*key) + 1);
                }
            }
            keys.sort_unstable();
            keys.truncate(limit);
            let expected: Vec<_> = keys.iter().map(|key| (*key, u16::from(*key) + 1)).collect();
            let found: Vec<_> = first.into_sorted().collect();
            assert_eq!(found, expected, "{len} items, limit {limit}");
        }
    }
}
