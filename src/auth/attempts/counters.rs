//! Counters: a table of a fixed size that says how often each of many keys may go on.
//!
//! A counter is one instant (the generic cell rate algorithm): when it will be empty again. An attempt moves it on by a period, and may
//! not move it further than a window ahead. A counter whose instant has passed is as none, so nothing has to be swept.

use std::num::NonZeroU32;
use std::time::Duration;

/// The places that one key may have. A full set loses the counter that is empty first, which was used least.
const WAYS: usize = 16;
const SETS: usize = 8_192;

/// The most counters.
pub(super) const COUNTERS_MAX: usize = WAYS * SETS;

/// How often a key may go on: a period for each attempt, a window for all.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Quota {
    /// In nanoseconds.
    period: u64,
    window: u64,
}

/// The counters, by the hashes of what they count.
#[derive(Debug, Default)]
pub(super) struct Counters {
    /// Empty until the first attempt.
    places: Vec<[u64; 2]>,
}

/// What came of an attempt.
#[derive(Debug, Default)]
pub(super) struct Counted {
    /// How long to wait for the next, if it is one too many.
    pub(super) wait: Option<Duration>,
    /// Whether another counter had to go for it.
    pub(super) evicted: bool,
}

impl Quota {
    pub(super) fn new(attempts: NonZeroU32, window: Duration) -> Self {
        let window = u64::try_from(window.as_nanos()).unwrap_or(u64::MAX / 4);
        let period = (window / u64::from(attempts.get())).max(1);
        Self {
            period,
            window: period.saturating_mul(u64::from(attempts.get())),
        }
    }

    /// Moves a counter on, if it may be.
    fn count(self, empty_at: u64, now: u64) -> Result<u64, Duration> {
        let next = empty_at.max(now).saturating_add(self.period);
        let latest = now.saturating_add(self.window);
        if next > latest {
            return Err(Duration::from_nanos(next - latest));
        }
        Ok(next)
    }
}

impl Counters {
    /// Counts an attempt, unless it is one too many.
    pub(super) fn count(&mut self, key: u64, quota: Quota, now: u64) -> Counted {
        let (empty_at, evicted) = self.place(key, now);
        match quota.count(*empty_at, now) {
            Ok(next) => {
                *empty_at = next;
                Counted {
                    wait: None,
                    evicted,
                }
            }
            Err(wait) => Counted {
                wait: Some(wait),
                evicted,
            },
        }
    }

    /// Counts an attempt, also one too many; a window after the last the counter is empty in any case.
    pub(super) fn count_over(&mut self, key: u64, quota: Quota, now: u64) -> Counted {
        let counted = self.count(key, quota, now);
        if counted.wait.is_some() {
            *self.place(key, now).0 = now.saturating_add(quota.window);
        }
        counted
    }

    /// Takes an attempt back. A counter that was dropped meanwhile stays so.
    pub(super) fn give_back(&mut self, key: u64, quota: Quota) {
        let key = key | 1;
        let set = Self::set(key);
        let found = self.places.get_mut(set..set + WAYS).unwrap_or_default();
        if let Some([_, empty_at]) = found.iter_mut().find(|[known, _]| *known == key) {
            *empty_at = empty_at.saturating_sub(quota.period);
        }
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.places.capacity() * size_of::<[u64; 2]>()
    }

    /// Finds a key's counter, or makes one; also whether another had to go for it.
    fn place(&mut self, key: u64, now: u64) -> (&mut u64, bool) {
        if self.places.is_empty() {
            // Zeroed memory costs nothing before it is written.
            self.places = vec![[0; 2]; COUNTERS_MAX];
        }
        let key = key | 1; // zero is no key
        let set = Self::set(key);
        let places = &self.places[set..set + WAYS];
        let known = places.iter().position(|[known, _]| *known == key);
        let first_empty = || {
            let by_instant = places.iter().enumerate().min_by_key(|(_, [_, at])| *at);
            by_instant.map_or(0, |(at, _)| at)
        };
        let at = set + known.unwrap_or_else(first_empty);
        let [known, empty_at] = &mut self.places[at];
        let mut evicted = false;
        if *known != key {
            evicted = *empty_at > now;
            *known = key;
            *empty_at = 0;
        }
        (empty_at, evicted)
    }

    /// Where a key's set begins. Half of the bits that say so are not those that the key is known by.
    fn set(key: u64) -> usize {
        (key >> 32) as usize % SETS * WAYS
    }
}
