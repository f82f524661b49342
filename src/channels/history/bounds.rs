//! Bounds: how a history stays within its number of events, their age and their bytes.

use std::time::{Duration, Instant};

use super::GroupHistory;
use crate::channels::batch::Entry;

impl GroupHistory {
    pub(super) fn push(&mut self, entry: &Entry, age: Duration) {
        if self.max == 0 {
            return;
        }
        let now = Instant::now();
        let at = now.checked_sub(age).unwrap_or(now);
        self.forget_expired(now);
        while self.events.len() >= self.max {
            self.forget_first();
        }
        let entry = entry.to_kept();
        self.bytes += entry.memory();
        self.events.push_back((at, entry));
        self.trim(self.account.group_size_max());
        self.settle();
    }

    /// Forgets expired events.
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

    /// Forgets the oldest events until `bytes` are free, or nothing is left. Returns the number of
    /// events.
    pub(in crate::channels) fn evict(&mut self, bytes: usize) -> usize {
        let count = self.count();
        self.trim(self.memory().saturating_sub(bytes));
        self.settle();
        count - self.count()
    }

    /// Forgets all events that have an offset.
    pub(super) fn forget_kept(&mut self) {
        while !self.events.is_empty() {
            self.forget_first();
        }
        self.settle();
    }

    /// Forgets the oldest events until the rest takes at most `bytes_max`. An event larger than
    /// that is not kept at all.
    pub(super) fn trim(&mut self, bytes_max: usize) {
        while self.bytes > 0 && self.memory() > bytes_max {
            match &mut self.shared {
                Some(shared) if self.events.is_empty() => self.bytes -= shared.early.forget_first(),
                _ => self.forget_first(),
            }
        }
    }

    fn forget_first(&mut self) {
        if let Some((_, entry)) = self.events.pop_front() {
            self.bytes -= entry.memory();
        }
        // A history that has become much shorter frees memory, but does not reallocate for each
        // event that it forgets.
        if self.events.capacity() > 16 + 4 * self.events.len() {
            self.events.shrink_to(2 * self.events.len());
        }
    }

    pub(in crate::channels) fn count(&self) -> usize {
        let shared = self.shared.as_ref();
        let early = shared.map_or(0, |shared| shared.early.kept_len());
        self.events.len() + early
    }

    /// Returns the memory of the history, reserved capacity included.
    pub(in crate::channels) fn memory(&self) -> usize {
        if self.bytes == 0 {
            return 0;
        }
        let reserved = self.events.capacity() - self.events.len();
        self.bytes + reserved * size_of::<(Instant, Entry)>()
    }

    /// Returns the memory of the history, counted event by event.
    #[cfg(test)]
    pub(in crate::channels) fn recount(&self) -> usize {
        let of_events = self.events.iter().map(|(_, entry)| entry.memory());
        let early = self.shared.iter().flat_map(|shared| shared.early.kept());
        let sum: usize = of_events.chain(early.map(Entry::memory)).sum();
        assert_eq!(sum, self.bytes);
        self.memory()
    }

    pub(super) fn settle(&mut self) {
        self.account.settle(self.memory());
    }
}
