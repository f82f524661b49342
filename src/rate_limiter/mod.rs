//! RateLimiter: rate limits for many keys, in memory of a fixed size.
//!
//! Logins, the middleware `rate_limit`, connections and the messages of sockets are counted by it.

mod gcra;
mod registry;
#[cfg(test)]
mod tests;

use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

pub(crate) use gcra::{Charge, Counted, Quota};
use gcra::{Counter, Counters, Over};
pub(crate) use registry::RateLimiters;

/// The most counters of one limiter: 2 MiB.
pub(crate) const COUNTERS_MAX: usize = 131_072;

/// The parts of a limiter, each with a lock of its own.
const SHARDS: usize = 16;

/// Counts the units of many keys, such as the requests of each address.
///
/// Memory is bounded: at most [`COUNTERS_MAX`] keys have a counter, and no memory is used before
/// the first. Keys share sets of 16 counters; if the set of a new key is full, the counter that
/// becomes empty first is evicted, which was used least. So a new key is always counted, and never
/// refused because of others; an evicted key starts again with an empty counter.
///
/// A key is its hash with a random seed, so a client cannot choose a key that evicts another's
/// counter. It never waits: each lock is held for one look-up.
#[derive(Debug)]
pub(crate) struct RateLimiter {
    shards: [Mutex<Counters>; SHARDS],
    hasher: RandomState,
}

/// A key of a [`RateLimiter`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Key(u64);

/// The counter of a single key: a token bucket.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Bucket(Counter);

/// The instant from which counters are measured, some time before the first of them.
static EPOCH: LazyLock<Instant> = LazyLock::new(|| {
    let now = Instant::now();
    now.checked_sub(Duration::from_secs(60)).unwrap_or(now)
});

impl Default for RateLimiter {
    fn default() -> Self {
        Self {
            shards: std::array::from_fn(|_| Mutex::new(Counters::new(COUNTERS_MAX / SHARDS))),
            hasher: RandomState::new(),
        }
    }
}

impl RateLimiter {
    /// Returns the key of a value.
    pub(crate) fn key(&self, value: impl Hash) -> Key {
        Key(self.hasher.hash_one(value))
    }

    /// Counts one unit, unless it exceeds the limit.
    pub(crate) fn count(&self, key: Key, quota: Quota, now: Instant) -> Counted {
        self.count_with(key, 1, quota, now, Over::Refuse)
    }

    /// Counts one unit even if it exceeds the limit; the counter is empty a window after the last
    /// one in any case.
    pub(crate) fn count_over(&self, key: Key, quota: Quota, now: Instant) -> Counted {
        self.count_with(key, 1, quota, now, Over::Fill)
    }

    /// Counts some units, unless they exceed the limit.
    pub(crate) fn count_units(&self, key: Key, units: u64, quota: Quota, now: Instant) -> Counted {
        self.count_with(key, units, quota, now, Over::Refuse)
    }

    /// Counts some units in any case. `wait` then is the time after which the limit is kept.
    pub(crate) fn owe_units(&self, key: Key, units: u64, quota: Quota, now: Instant) -> Counted {
        self.count_with(key, units, quota, now, Over::Owe)
    }

    /// Returns how long until what is owed is paid off.
    pub(crate) fn debt(&self, key: Key, quota: Quota, now: Instant) -> Duration {
        let counter = self.shard(key).lock().get(key.0);
        counter.debt(quota, nanos(now))
    }

    /// Takes back units that were counted: only the amount that they have added themselves.
    pub(crate) fn give_back(&self, key: Key, charge: Charge, now: Instant) {
        self.shard(key).lock().give_back(key.0, charge, nanos(now));
    }

    fn count_with(&self, key: Key, units: u64, quota: Quota, now: Instant, over: Over) -> Counted {
        let mut counters = self.shard(key).lock();
        counters.count(key.0, units, quota, nanos(now), over)
    }

    /// Uses other bits of the key than its set does.
    fn shard(&self, Key(key): Key) -> &Mutex<Counters> {
        &self.shards[(key >> 8) as usize % SHARDS]
    }

    #[cfg(test)]
    pub(crate) fn bytes(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().bytes()).sum()
    }

    #[cfg(test)]
    pub(crate) fn used(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().used()).sum()
    }

    #[cfg(test)]
    pub(crate) fn empty_in(&self, key: Key, now: Instant) -> Duration {
        let empty_at = self.shard(key).lock().empty_at(key.0);
        Duration::from_nanos(empty_at.saturating_sub(nanos(now)))
    }
}

impl Bucket {
    /// Counts some units, unless they exceed the limit.
    pub(crate) fn count(&mut self, units: u64, quota: Quota, now: Instant) -> Counted {
        self.0.count(units, quota, nanos(now), Over::Refuse)
    }

    /// Counts some units in any case. `wait` then is the time after which the limit is kept.
    pub(crate) fn owe(&mut self, units: u64, quota: Quota, now: Instant) -> Counted {
        self.0.count(units, quota, nanos(now), Over::Owe)
    }

    /// Takes back units that were counted a moment ago.
    pub(crate) fn give_back(&mut self, units: u64, quota: Quota) {
        self.0.take_back(units, quota);
    }

    /// Returns how long until what is owed is paid off.
    pub(crate) fn debt(&self, quota: Quota, now: Instant) -> Duration {
        self.0.debt(quota, nanos(now))
    }

    /// Returns how long until one unit is within the limit.
    pub(crate) fn wait(&self, quota: Quota, now: Instant) -> Duration {
        self.0.wait(1, quota, nanos(now))
    }
}

fn nanos(now: Instant) -> u64 {
    gcra::nanos(now.saturating_duration_since(*EPOCH))
}
