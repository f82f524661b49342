//! Gcra: rate limits for many keys, in a table of fixed size (generic cell rate algorithm).
//!
//! A counter is one instant: the time at which it is empty again. An attempt moves it by a period,
//! and is refused if that is more than a window ahead. An expired counter equals an absent one, so
//! no sweep is needed.

use std::num::NonZeroU32;
use std::time::Duration;

/// The number of slots that one key may use. A full set evicts the counter that becomes empty
/// first, which was used least.
const WAYS: usize = 16;
const SETS: usize = 8_192;

/// The most counters.
pub(super) const COUNTERS_MAX: usize = WAYS * SETS;

/// The allowed rate of a key: a period for each attempt, a window for all.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Quota {
    /// In nanoseconds.
    period: u64,
    window: u64,
}

/// The counters, by the hash of their key.
#[derive(Debug, Default)]
pub(super) struct Counters {
    /// Empty until the first attempt.
    places: Vec<[u64; 2]>,
}

/// The outcome of an attempt.
#[derive(Debug, Default)]
pub(super) struct Counted {
    /// How long to wait for the next attempt, if this one exceeds the limit.
    pub(super) wait: Option<Duration>,
    /// Whether another counter was evicted for it.
    pub(super) evicted: bool,
    /// How far it has moved its counter.
    pub(super) charge: Charge,
}

/// How far an attempt has moved a counter: the amount that can be returned.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Charge {
    by: u64,
    to: u64,
    /// The position to which an attempt over the limit would have moved it.
    bound: u64,
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

    /// Moves a counter forward, if the limit allows.
    fn count(self, empty_at: u64, now: u64) -> Result<Charge, Duration> {
        let from = empty_at.max(now);
        let charge = Charge::between(from, from.saturating_add(self.period));
        let latest = now.saturating_add(self.window);
        if charge.to > latest {
            return Err(Duration::from_nanos(charge.to - latest));
        }
        Ok(charge)
    }
}

impl Charge {
    fn between(from: u64, to: u64) -> Self {
        Self {
            by: to.saturating_sub(from),
            to,
            bound: u64::MAX,
        }
    }

    /// Returns how much of the charge is still in a counter.
    ///
    /// The drained part is gone. Older attempts drain first, so the part above `to` was added by
    /// later ones. A later attempt that went to its bound would be there without this one as well,
    /// so nothing is left of this one.
    fn left(self, empty_at: u64, now: u64) -> u64 {
        if empty_at > self.to && empty_at >= self.bound {
            return 0;
        }
        self.by.min(self.to.saturating_sub(now))
    }
}

impl Counters {
    /// Counts an attempt, unless it exceeds the limit.
    pub(super) fn count(&mut self, key: u64, quota: Quota, now: u64) -> Counted {
        let (empty_at, evicted) = self.place(key, now);
        let (wait, charge) = match quota.count(*empty_at, now) {
            Ok(charge) => {
                *empty_at = charge.to;
                (None, charge)
            }
            Err(wait) => (Some(wait), Charge::default()),
        };
        Counted {
            wait,
            evicted,
            charge,
        }
    }

    /// Counts an attempt even if it exceeds the limit; the counter is empty a window after the last
    /// attempt in any case.
    pub(super) fn count_over(&mut self, key: u64, quota: Quota, now: u64) -> Counted {
        let latest = now.saturating_add(quota.window);
        let mut counted = self.count(key, quota, now);
        if counted.wait.is_some() {
            let (empty_at, _) = self.place(key, now);
            counted.charge = Charge::between(now.max(*empty_at), latest);
            *empty_at = counted.charge.to;
        }
        counted.charge.bound = latest;
        counted
    }

    /// Takes an attempt back: only the amount it has added itself. A counter that was evicted in
    /// the meantime stays evicted.
    pub(super) fn give_back(&mut self, key: u64, charge: Charge, now: u64) {
        let key = key | 1;
        let set = Self::set(key);
        let found = self.places.get_mut(set..set + WAYS).unwrap_or_default();
        if let Some([_, empty_at]) = found.iter_mut().find(|[known, _]| *known == key) {
            *empty_at = empty_at.saturating_sub(charge.left(*empty_at, now));
        }
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.places.capacity() * size_of::<[u64; 2]>()
    }

    #[cfg(test)]
    pub(super) fn empty_at(&mut self, key: u64) -> u64 {
        *self.place(key, 0).0
    }

    #[cfg(test)]
    pub(super) fn used(&self) -> usize {
        self.places.iter().filter(|[key, _]| *key != 0).count()
    }

    /// Finds or creates a key's counter; also returns whether another counter was evicted for it.
    fn place(&mut self, key: u64, now: u64) -> (&mut u64, bool) {
        if self.places.is_empty() {
            // Zeroed memory costs nothing until it is written.
            self.places = vec![[0; 2]; COUNTERS_MAX];
        }
        let key = key | 1; // zero is not a key
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

    /// Returns the start of a key's set. Uses the high 32 bits of the key.
    fn set(key: u64) -> usize {
        (key >> 32) as usize % SETS * WAYS
    }
}
