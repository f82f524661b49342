//! TtlCache: rows that were read a moment ago, bounded in number and age.
//!
//! The crates for it (moka, mini-moka, quick_cache) bound and expire as well, but none of them
//! refuses a value that was read before its key was removed. A logout must not be undone by a read
//! that began before it, so the cache is ours.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};

const SHARDS: usize = 16;

/// The most values of one shard. When it is full, expired values are evicted, or all if none has
/// expired.
const SHARD_ENTRIES_MAX: usize = 1024;

/// Values by key, for a time to live.
pub struct TtlCache<K, V> {
    ttl: Duration,
    shards: [Mutex<Shard<K, V>>; SHARDS],
    hasher: RandomState,
}

struct Shard<K, V> {
    values: HashMap<K, (V, Instant)>,
    /// The number of removals: a [`Generation`].
    removed: u64,
}

/// A point in time before a value is read. A value whose key was removed since then may be stale.
#[derive(Clone, Copy, Debug)]
pub struct Generation(u64);

impl<K, V> Default for Shard<K, V> {
    fn default() -> Self {
        Self {
            values: HashMap::new(),
            removed: 0,
        }
    }
}

impl<K, V> std::fmt::Debug for TtlCache<K, V> {
    /// Without keys and values, which are secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TtlCache")
            .field("ttl", &self.ttl)
            .finish_non_exhaustive()
    }
}

impl<K: Hash + Eq, V: Clone> TtlCache<K, V> {
    /// Returns the time to live.
    pub(crate) fn ttl(&self) -> Duration {
        self.ttl
    }

    /// Makes a cache with a time to live; zero caches nothing.
    ///
    /// ```
    /// use std::time::Duration;
    /// let cache = oneport::ttl_cache::TtlCache::new(Duration::from_secs(60));
    /// let before = cache.generation("a");
    /// cache.insert("a".to_owned(), 1, before);
    /// assert_eq!(cache.get("a"), Some(1));
    /// ```
    #[must_use]
    pub fn new(ttl: Duration) -> Self {
        Self {
            ttl,
            shards: std::array::from_fn(|_| Mutex::default()),
            hasher: RandomState::new(),
        }
    }

    /// Returns a value that has not expired.
    pub fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        if self.ttl.is_zero() {
            return None;
        }
        let shard = self.shard(key);
        let (value, at) = shard.values.get(key)?;
        (at.elapsed() < self.ttl).then(|| value.clone())
    }

    /// Returns the current generation, to be taken before a value is read from the store.
    pub fn generation<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Generation
    where
        K: Borrow<Q>,
    {
        Generation(self.shard(key).removed)
    }

    /// Inserts a value that was read after `before`.
    ///
    /// Race: if its key was removed meanwhile, the value may be from before the removal, and is
    /// dropped. Removals are counted by shard, so the removal of another key may drop it too, which
    /// costs one more read.
    pub fn insert(&self, key: K, value: V, before: Generation) {
        if self.ttl.is_zero() {
            return;
        }
        let mut shard = self.shard(&key);
        if shard.removed != before.0 {
            return;
        }
        if shard.values.len() >= SHARD_ENTRIES_MAX {
            shard.values.retain(|_, (_, at)| at.elapsed() < self.ttl);
            if shard.values.len() >= SHARD_ENTRIES_MAX {
                shard.values.clear();
            }
        }
        shard.values.insert(key, (value, Instant::now()));
    }

    /// Removes a value, and makes `insert` drop one that is being read.
    pub fn remove<Q: Hash + Eq + ?Sized>(&self, key: &Q)
    where
        K: Borrow<Q>,
    {
        let mut shard = self.shard(key);
        shard.values.remove(key);
        shard.removed += 1;
    }

    /// Removes all values.
    pub fn clear(&self) {
        for shard in &self.shards {
            let mut shard = shard.lock();
            shard.values.clear();
            shard.removed += 1;
        }
    }

    /// Evicts expired values, and frees their memory.
    pub fn evict_expired(&self) {
        for shard in &self.shards {
            let mut shard = shard.lock();
            shard.values.retain(|_, (_, at)| at.elapsed() < self.ttl);
            shard.values.shrink_to_fit();
        }
    }

    fn shard<Q: Hash + ?Sized>(&self, key: &Q) -> MutexGuard<'_, Shard<K, V>> {
        let at = usize::try_from(self.hasher.hash_one(key) % SHARDS as u64).unwrap_or(0);
        self.shards[at].lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_bounded_and_grow_old() {
        let cache = TtlCache::new(Duration::from_secs(60));
        for number in 0..100_000 {
            cache.insert(number, number, cache.generation(&number));
        }
        let kept = (0..100_000)
            .filter(|number| cache.get(number).is_some())
            .count();
        assert!((1..=SHARDS * SHARD_ENTRIES_MAX).contains(&kept), "{kept}");
        let none = TtlCache::new(Duration::ZERO);
        none.insert(1, 1, none.generation(&1));
        assert_eq!(none.get(&1), None);
        let brief = TtlCache::new(Duration::from_millis(1));
        brief.insert(1, 1, brief.generation(&1));
        std::thread::sleep(Duration::from_millis(5));
        assert_eq!(brief.get(&1), None);
    }

    #[test]
    fn what_was_removed_while_it_was_read_is_not_kept() {
        let cache = TtlCache::new(Duration::from_secs(60));
        let before = cache.generation(&1);
        cache.remove(&1);
        cache.insert(1, "old", before);
        assert_eq!(cache.get(&1), None);
        cache.insert(1, "new", cache.generation(&1));
        assert_eq!(cache.get(&1), Some("new"));
        let before = cache.generation(&1);
        cache.clear();
        cache.insert(1, "old", before);
        assert_eq!(cache.get(&1), None);
    }
}
