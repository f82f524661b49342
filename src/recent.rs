//! Recent: what was read a moment ago, kept for a moment; bounded.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};

const SHARDS: usize = 16;

/// The most values of one shard; more throw out those that are too old, or else all.
const SHARD_ENTRIES_MAX: usize = 1024;

/// Values that were read a moment ago.
pub struct Recent<K, V> {
    ttl: Duration,
    shards: [Mutex<Shard<K, V>>; SHARDS],
    hasher: RandomState,
}

struct Shard<K, V> {
    values: HashMap<K, (V, Instant)>,
    /// Counts what was removed.
    removed: u64,
}

/// A moment before a value was read: what was removed since then was perhaps read before.
#[derive(Clone, Copy, Debug)]
pub struct Moment(u64);

impl<K, V> Default for Shard<K, V> {
    fn default() -> Self {
        Self {
            values: HashMap::new(),
            removed: 0,
        }
    }
}

impl<K, V> std::fmt::Debug for Recent<K, V> {
    /// Without what it keeps: keys and users.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recent")
            .field("ttl", &self.ttl)
            .finish_non_exhaustive()
    }
}

impl<K: Hash + Eq, V: Clone> Recent<K, V> {
    /// Keeps values for a time; zero keeps none.
    ///
    /// ```
    /// use std::time::Duration;
    /// let recent = oneport::recent::Recent::new(Duration::from_secs(60));
    /// let before = recent.moment("a");
    /// recent.put("a".to_owned(), 1, before);
    /// assert_eq!(recent.get("a"), Some(1));
    /// ```
    #[must_use]
    pub fn new(ttl: Duration) -> Self {
        Self {
            ttl,
            shards: std::array::from_fn(|_| Mutex::default()),
            hasher: RandomState::new(),
        }
    }

    /// Returns a value that is not too old.
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

    /// Returns the moment before a value is read, for [`Recent::put`].
    pub fn moment<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Moment
    where
        K: Borrow<Q>,
    {
        Moment(self.shard(key).removed)
    }

    /// Keeps a value, unless something was removed since the moment before it was read.
    pub fn put(&self, key: K, value: V, before: Moment) {
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

    /// Forgets a value, and whatever is being read now.
    pub fn remove<Q: Hash + Eq + ?Sized>(&self, key: &Q)
    where
        K: Borrow<Q>,
    {
        let mut shard = self.shard(key);
        shard.values.remove(key);
        shard.removed += 1;
    }

    /// Forgets everything.
    pub fn clear(&self) {
        for shard in &self.shards {
            let mut shard = shard.lock();
            shard.values.clear();
            shard.removed += 1;
        }
    }

    /// Lets go of values that are too old.
    pub fn forget_old(&self) {
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
        let recent = Recent::new(Duration::from_secs(60));
        for number in 0..100_000 {
            recent.put(number, number, recent.moment(&number));
        }
        let kept = (0..100_000)
            .filter(|number| recent.get(number).is_some())
            .count();
        assert!((1..=SHARDS * SHARD_ENTRIES_MAX).contains(&kept), "{kept}");
        let none = Recent::new(Duration::ZERO);
        none.put(1, 1, none.moment(&1));
        assert_eq!(none.get(&1), None);
        let brief = Recent::new(Duration::from_millis(1));
        brief.put(1, 1, brief.moment(&1));
        std::thread::sleep(Duration::from_millis(5));
        assert_eq!(brief.get(&1), None);
    }

    #[test]
    fn what_was_removed_while_it_was_read_is_not_kept() {
        let recent = Recent::new(Duration::from_secs(60));
        let before = recent.moment(&1);
        recent.remove(&1);
        recent.put(1, "old", before);
        assert_eq!(recent.get(&1), None);
        recent.put(1, "new", recent.moment(&1));
        assert_eq!(recent.get(&1), Some("new"));
        let before = recent.moment(&1);
        recent.clear();
        recent.put(1, "old", before);
        assert_eq!(recent.get(&1), None);
    }
}
