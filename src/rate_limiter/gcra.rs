//! Gcra: how much of a rate is used up, and the table of the keys that use it (generic cell rate
//! algorithm).
//!
//! A counter is one instant: the time at which it is empty again. Each unit moves it by a period,
//! and is over the limit if that is more than a window ahead. It behaves like a token bucket of
//! `burst` units that refills at the rate. An expired counter equals an absent one, so no sweep is
//! needed.

use std::num::NonZeroU64;
use std::time::Duration;

/// The number of slots that one key may use. A full set evicts the counter that becomes empty
/// first, which was used least.
const WAYS: usize = 16;

/// A rate, and how many units may come at once.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Quota {
    /// `units` in each `per` nanoseconds.
    units: u64,
    per: u64,
    /// How far ahead of now a counter may be, in nanoseconds.
    window: u64,
}

/// The counters of a table, by the hash of their key.
#[derive(Debug)]
pub(super) struct Counters {
    /// Empty until the first key.
    places: Vec<[u64; 2]>,
    sets: usize,
}

/// The counter of one key.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counter {
    pub(super) empty_at: u64,
}

/// What became of some units.
#[derive(Clone, Copy, Debug, Default)]
#[must_use]
pub(crate) struct Counted {
    /// How long until they are within the limit, if they exceed it.
    pub(crate) wait: Option<Duration>,
    /// How long until the counter is empty.
    pub(crate) empty_in: Duration,
    /// Whether the counter of another key was evicted for this one.
    pub(crate) evicted: bool,
    /// How far they have moved the counter.
    pub(crate) charge: Charge,
}

/// How far a counter was moved: the amount that can be returned.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Charge {
    by: u64,
    to: u64,
    /// The position to which units over the limit would have moved it.
    bound: u64,
}

/// What happens to units over the limit.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Over {
    /// They are not counted.
    Refuse,
    /// They fill the counter up to the window, but not beyond it.
    Fill,
    /// They are counted: the counter goes beyond the window.
    Owe,
}

impl Quota {
    /// Allows `units` in each `per`, and up to `burst` of them at once.
    pub(crate) fn new(units: NonZeroU64, per: Duration, burst: NonZeroU64) -> Self {
        let per = nanos(per).max(1);
        let mut quota = Self {
            units: units.get(),
            per,
            window: 0,
        };
        quota.window = quota.cost(burst.get());
        quota
    }

    /// Allows as many units at once as in each `per`.
    pub(crate) fn per_window(units: NonZeroU64, per: Duration) -> Self {
        Self::new(units, per, units)
    }

    /// Returns how many whole units are left in a counter that is empty after some time.
    pub(crate) fn remaining(self, empty_in: Duration) -> u64 {
        self.window.saturating_sub(nanos(empty_in)) / self.cost(1)
    }

    /// Returns how many units may come at once.
    pub(crate) fn burst(self) -> u64 {
        self.window / self.cost(1)
    }

    /// Returns the time in which an unused burst comes back.
    pub(crate) fn window(self) -> Duration {
        Duration::from_nanos(self.window)
    }

    /// Returns how far some units move a counter.
    fn cost(self, units: u64) -> u64 {
        let nanos = u128::from(units) * u128::from(self.per) / u128::from(self.units);
        u64::try_from(nanos).unwrap_or(u64::MAX / 4).max(1)
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
    /// The drained part is gone. Older units drain first, so the part above `to` was added by later
    /// ones. Later units that went to their bound would be there without these as well, so nothing
    /// is left of these.
    fn left(self, empty_at: u64, now: u64) -> u64 {
        if empty_at > self.to && empty_at >= self.bound {
            return 0;
        }
        self.by.min(self.to.saturating_sub(now))
    }
}

impl Counter {
    /// Counts some units.
    pub(super) fn count(&mut self, units: u64, quota: Quota, now: u64, over: Over) -> Counted {
        let latest = now.saturating_add(quota.window);
        let from = self.empty_at.max(now);
        let to = from.saturating_add(quota.cost(units));
        let wait = (to > latest).then(|| Duration::from_nanos(to - latest));
        let mut charge = match (wait, over) {
            (None, _) | (Some(_), Over::Owe) => Charge::between(from, to),
            (Some(_), Over::Fill) => Charge::between(from, latest),
            (Some(_), Over::Refuse) => Charge::default(),
        };
        if over == Over::Fill {
            charge.bound = latest;
        }
        if charge.to > self.empty_at {
            self.empty_at = charge.to;
        }
        Counted {
            wait,
            empty_in: Duration::from_nanos(self.empty_at.saturating_sub(now)),
            evicted: false,
            charge,
        }
    }

    /// Returns how far the counter is beyond the window.
    pub(super) fn debt(self, quota: Quota, now: u64) -> Duration {
        let latest = now.saturating_add(quota.window);
        Duration::from_nanos(self.empty_at.saturating_sub(latest))
    }

    /// Returns how long until some units are within the limit.
    pub(super) fn wait(self, units: u64, quota: Quota, now: u64) -> Duration {
        let to = self.empty_at.max(now).saturating_add(quota.cost(units));
        Duration::from_nanos(to.saturating_sub(now.saturating_add(quota.window)))
    }

    /// Takes units back that are still in the counter.
    pub(super) fn take_back(&mut self, units: u64, quota: Quota) {
        self.empty_at = self.empty_at.saturating_sub(quota.cost(units));
    }

    fn give_back(&mut self, charge: Charge, now: u64) {
        self.empty_at = self
            .empty_at
            .saturating_sub(charge.left(self.empty_at, now));
    }
}

impl Counters {
    /// Creates a table of at least `counters` counters.
    pub(super) fn new(counters: usize) -> Self {
        Self {
            places: Vec::new(),
            sets: counters.div_ceil(WAYS).max(1),
        }
    }

    /// Counts some units of a key.
    pub(super) fn count(
        &mut self,
        key: u64,
        units: u64,
        quota: Quota,
        now: u64,
        over: Over,
    ) -> Counted {
        let (empty_at, evicted) = self.place(key, now);
        let mut counter = Counter {
            empty_at: *empty_at,
        };
        let counted = counter.count(units, quota, now, over);
        *empty_at = counter.empty_at;
        Counted { evicted, ..counted }
    }

    /// Returns the counter of a key; an empty one if it has none.
    pub(super) fn get(&self, key: u64) -> Counter {
        let key = key | 1;
        let set = self.set(key);
        let places = self.places.get(set..set + WAYS).unwrap_or_default();
        let known = places.iter().find(|[known, _]| *known == key);
        known.map_or_else(Counter::default, |[_, empty_at]| Counter {
            empty_at: *empty_at,
        })
    }

    /// Takes a charge back: only the amount it has added itself. A counter that was evicted in the
    /// meantime stays evicted.
    pub(super) fn give_back(&mut self, key: u64, charge: Charge, now: u64) {
        let key = key | 1;
        let set = self.set(key);
        let found = self.places.get_mut(set..set + WAYS).unwrap_or_default();
        if let Some([_, empty_at]) = found.iter_mut().find(|[known, _]| *known == key) {
            let mut counter = Counter {
                empty_at: *empty_at,
            };
            counter.give_back(charge, now);
            *empty_at = counter.empty_at;
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
            self.places = vec![[0; 2]; self.sets * WAYS];
        }
        let key = key | 1; // zero is not a key
        let set = self.set(key);
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
    fn set(&self, key: u64) -> usize {
        (key >> 32) as usize % self.sets * WAYS
    }
}

/// Returns a duration in nanoseconds; the longest is some hundred years.
pub(super) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX / 4)
}
