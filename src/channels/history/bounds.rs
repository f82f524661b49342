//! Bounds: how a past stays within its number of events, their age and their bytes.

use std::time::{Duration, Instant};

use super::{GroupHistory, SharedHistory};
use crate::channels::batch::{Audience, Entry};

impl GroupHistory {
    pub(in crate::channels) fn push(&mut self, entry: &Entry, age: Duration) {
        if self.max == 0 {
            return;
        }
        let now = Instant::now();
        let at = now.checked_sub(age).unwrap_or(now);
        self.forget_expired(now);
        while self.events.len() >= self.max {
            self.forget_first();
        }
        let entry = kept(entry);
        self.bytes += memory_of(&entry);
        self.events.push_back((at, entry));
        self.trim(self.account.group_size_max());
        self.settle();
    }

    pub(in crate::channels) fn forget_old(&mut self, now: Instant) {
        self.forget_expired(now);
        self.settle();
    }

    fn forget_expired(&mut self, now: Instant) {
        let expiry = self.expiry;
        let is_old = |(at, _): &(Instant, Entry)| now.duration_since(*at) > expiry;
        while self.events.front().is_some_and(is_old) {
            self.forget_first();
        }
    }

    /// Forgets the oldest events until so many bytes are free, or nothing is left. Returns how many events went.
    pub(in crate::channels) fn evict(&mut self, bytes: usize) -> usize {
        let count = self.count();
        self.trim(self.memory().saturating_sub(bytes));
        self.settle();
        count - self.count()
    }

    /// Forgets the oldest events until no more than so many bytes are left. An event that is longer alone is not kept.
    pub(in crate::channels) fn trim(&mut self, bytes_max: usize) {
        while self.bytes > 0 && self.memory() > bytes_max {
            match &mut self.shared {
                Some(shared) if self.events.is_empty() => forget_early(shared, &mut self.bytes),
                _ => self.forget_first(),
            }
        }
    }

    fn forget_first(&mut self) {
        if let Some((_, entry)) = self.events.pop_front() {
            self.bytes -= memory_of(&entry);
        }
        // What was set aside for a longer history is given back, and not for each event that goes.
        if self.events.capacity() > 16 + 4 * self.events.len() {
            self.events.shrink_to(2 * self.events.len());
        }
    }

    pub(in crate::channels) fn count(&self) -> usize {
        let early = self.shared.as_ref().map_or(0, |shared| shared.early.len());
        self.events.len() + early
    }

    /// Returns what the history takes, places set aside included.
    pub(in crate::channels) fn memory(&self) -> usize {
        if self.bytes == 0 {
            return 0;
        }
        let set_aside = self.events.capacity() - self.events.len();
        self.bytes + set_aside * size_of::<(Instant, Entry)>()
    }

    /// Returns what the events take, counted anew.
    #[cfg(test)]
    pub(in crate::channels) fn recount(&self) -> usize {
        let of_events = self.events.iter().map(|(_, entry)| memory_of(entry));
        let early = self.shared.iter().flat_map(|shared| &shared.early);
        let sum: usize = of_events
            .chain(early.map(|early| memory_of(&early.entry)))
            .sum();
        assert_eq!(sum, self.bytes);
        self.memory()
    }

    pub(in crate::channels) fn settle(&mut self) {
        self.account.settle(self.memory());
    }
}

/// An entry as a history keeps it.
pub(super) fn kept(entry: &Entry) -> Entry {
    Entry {
        event: entry.event.compact(),
        audience: Audience::All,
        tally: None,
        ..entry.clone()
    }
}

/// Returns what an entry takes with its place in a history.
pub(super) fn memory_of(entry: &Entry) -> usize {
    size_of::<(Instant, Entry)>() + entry.event.memory()
}

pub(super) fn forget_early(shared: &mut SharedHistory, bytes: &mut usize) {
    if let Some(early) = shared.early.pop_front() {
        *bytes -= memory_of(&early.entry);
    }
}
