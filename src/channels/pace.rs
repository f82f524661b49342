//! Pace: how long events of other processes wait for more, so that one delivery carries several.
//!
//! A delivery costs one write for each member, however many events it carries. Events of this
//! process that are sent together are also delivered together. Those of others arrive one by one,
//! as fast as their sender sends: the first would be delivered alone, and so would be most of them.
//! So a group in which events come faster than they are delivered gathers as many as its last
//! delivery carried, for at most as long as that delivery took.
//!
//! A group whose events come one at a time never waits, nor does one that is delivered in less
//! than a millisecond.

use std::time::{Duration, Instant};

/// How often the waiting events are counted, and the shortest delivery that is worth it.
pub(super) const STEP: Duration = Duration::from_millis(1);

/// The longest wait.
const WAIT_MAX: Duration = Duration::from_millis(10);

/// The last delivery to a group.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    /// The number of its events.
    events: usize,
    took: Duration,
    ended_at: Option<Instant>,
}

impl Pace {
    /// Called when a batch was delivered.
    pub(super) fn delivered(&mut self, events: usize, started_at: Instant, now: Instant) {
        *self = Self {
            events,
            took: now.saturating_duration_since(started_at),
            ended_at: Some(now),
        };
    }

    /// Returns until when the waiting events wait for more; `None` if they are delivered at once.
    pub(super) fn deadline(&self, waiting: usize, now: Instant) -> Option<Instant> {
        let idle = now.saturating_duration_since(self.ended_at?);
        let is_busy = self.events > 1 && idle <= self.took;
        let is_worth_it = self.took >= STEP && waiting > 0 && !self.is_enough(waiting);
        (is_busy && is_worth_it).then(|| now + self.took.min(WAIT_MAX))
    }

    /// Returns whether as many events wait as the last delivery carried.
    pub(super) fn is_enough(&self, waiting: usize) -> bool {
        waiting >= self.events
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_group_gathers_as_many_events_as_it_delivered_last() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut pace = Pace::default();
        assert_eq!(pace.deadline(1, start), None);
        pace.delivered(1, start, at(5));
        assert_eq!(pace.deadline(1, at(5)), None); // one at a time
        pace.delivered(3, at(5), at(10));
        assert_eq!(pace.deadline(1, at(11)), Some(at(16)));
        assert_eq!(pace.deadline(3, at(11)), None); // enough
        assert_eq!(pace.deadline(0, at(11)), None); // nothing to deliver
        assert_eq!(pace.deadline(1, at(16)), None); // it was idle
        pace.delivered(3, at(20), at(90));
        assert_eq!(pace.deadline(1, at(90)), Some(at(100))); // the longest wait
        pace.delivered(3, at(100), at(100));
        assert_eq!(pace.deadline(1, at(100)), None); // a small group
    }
}
