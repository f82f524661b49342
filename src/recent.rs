//! Recent: what was read a moment ago, kept for a moment; bounded.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

const SHARDS: usize = 16;

/// The most values of one shard; more throw out those that are too old, or else all.
const SHARD_ENTRIES_MAX: usize = 1024;

/// Values that were read a moment ago.
#[derive(Debug)]
pub struct Recent<K, V> {
    ttl: Duration,
    shards: [Mutex<HashMap<K, (V, Instant)>>; SHARDS],
    hasher: RandomState,
}

impl<K: Hash + Eq, V: Clone> Recent<K, V> {
    /// Keeps values for a time; zero keeps none.
    ///
    /// ```
    /// use std::time::Duration;
    /// let recent = oneport::recent::Recent::new(Duration::from_secs(60));
    /// recent.put("a".to_owned(), 1);
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
        let (value, at) = shard.get(key)?;
        (at.elapsed() < self.ttl).then(|| value.clone())
    }

    /// Keeps a value.
    pub fn put(&self, key: K, value: V) {
        if self.ttl.is_zero() {
            return;
        }
        let mut shard = self.shard(&key);
        if shard.len() >= SHARD_ENTRIES_MAX {
            shard.retain(|_, (_, at)| at.elapsed() < self.ttl);
            if shard.len() >= SHARD_ENTRIES_MAX {
                shard.clear();
            }
        }
        shard.insert(key, (value, Instant::now()));
    }

    /// Forgets a value.
    pub fn remove<Q: Hash + Eq + ?Sized>(&self, key: &Q)
    where
        K: Borrow<Q>,
    {
        self.shard(key).remove(key);
    }

    /// Lets go of values that are too old.
    pub fn forget_old(&self) {
        for shard in &self.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            shard.retain(|_, (_, at)| at.elapsed() < self.ttl);
            shard.shrink_to_fit();
        }
    }

    fn shard<Q: Hash + ?Sized>(&self, key: &Q) -> MutexGuard<'_, HashMap<K, (V, Instant)>> {
        let at = usize::try_from(self.hasher.hash_one(key) % SHARDS as u64).unwrap_or(0);
        self.shards[at]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_bounded_and_grow_old() {
        let recent = Recent::new(Duration::from_secs(60));
        for number in 0..100_000 {
            recent.put(number, number);
        }
        let kept = (0..100_000)
            .filter(|number| recent.get(number).is_some())
            .count();
        assert!((1..=SHARDS * SHARD_ENTRIES_MAX).contains(&kept), "{kept}");
        let none = Recent::new(Duration::ZERO);
        none.put(1, 1);
        assert_eq!(none.get(&1), None);
        let brief = Recent::new(Duration::from_millis(1));
        brief.put(1, 1);
        std::thread::sleep(Duration::from_millis(5));
        assert_eq!(brief.get(&1), None);
    }
}
