//! EarlierEpochs: events that members have seen in an earlier epoch of a shared history.
//!
//! After Redis has lost events, the history goes on in another epoch, and the processes send again
//! what they still know. Members of this process have received some of it before, in an earlier
//! epoch; a client that comes from a process which knows only the present epoch has not.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::senders::Senders;
use crate::channels::Marks;
use crate::channels::event_id::EventId;

/// How long events of an earlier epoch are expected to be sent again.
const REPEATS_EXPECTED: Duration = Duration::from_secs(600);

/// The most senders of which events are expected, so that positions stay short.
const EXPECTED_MAX: usize = 3;

/// What members have seen in earlier epochs.
pub(super) struct EarlierEpochs {
    /// The newest event of each sender in the earlier epochs.
    seen: Senders,
    /// Those of them that may be sent again.
    expected: Marks,
    expected_until: Instant,
    /// Until when there may be members that have not seen the events of earlier epochs.
    lacked_until: Option<Instant>,
    /// The newest event of each sender in the present epoch, and in those before it that such
    /// members know.
    present: Senders,
    known: Senders,
    /// Events in the present epoch that are kept with their position in an earlier one.
    repeats: VecDeque<(u64, EventId)>,
}

impl EarlierEpochs {
    pub(super) fn new(seen: &Senders) -> Self {
        let mut expected = Marks::default();
        let newest: Vec<EventId> = seen.newest_first().take(EXPECTED_MAX).collect();
        newest.into_iter().rev().for_each(|id| expected.insert(id));
        Self {
            seen: seen.clone(),
            expected,
            expected_until: Instant::now() + REPEATS_EXPECTED,
            lacked_until: None,
            present: Senders::default(),
            known: Senders::default(),
            repeats: VecDeque::new(),
        }
    }

    /// Returns the newest event of each sender that members have received in earlier epochs.
    pub(super) fn seen(&self) -> &Senders {
        &self.seen
    }

    /// Returns whether members have received an event in an earlier epoch.
    pub(super) fn is_seen(&self, id: EventId) -> bool {
        self.seen.newest_of(id.node) >= id.seq
    }

    /// Called when an event has its offset in the present epoch.
    pub(super) fn confirm(&mut self, id: EventId) {
        self.expected.confirm(id);
        self.present.mark(id);
    }

    /// Returns whether there are members that have not seen a repeated event: those that joined
    /// from a process that knew only their epoch.
    pub(super) fn is_lacked(&self, id: EventId) -> bool {
        self.lacked_until
            .is_some_and(|until| Instant::now() < until)
            && self.known.newest_of(id.node) < id.seq
    }

    /// Called when a member joins that has not seen the events of earlier epochs. Returns when they
    /// are no longer expected.
    pub(super) fn lacked(&mut self) -> Option<Instant> {
        if Instant::now() < self.expected_until {
            self.lacked_until = Some(self.expected_until);
        }
        self.lacked_until
    }

    /// Returns the events that members have seen and that may come again.
    pub(super) fn expected(&mut self) -> Marks {
        if !self.expected.is_empty() && Instant::now() >= self.expected_until {
            self.expected = Marks::default();
        }
        self.expected
    }

    /// Remembers the offset of an event that is kept with its position in an earlier epoch.
    pub(super) fn add_repeat(&mut self, offset: u64, id: EventId, max: usize) {
        while self.repeats.len() >= max.max(1) {
            self.repeats.pop_front();
        }
        self.repeats.push_back((offset, id));
    }

    /// Returns the event at an offset of the present epoch, if it is kept with a position in an
    /// earlier one.
    pub(super) fn repeat_at(&self, offset: u64) -> Option<EventId> {
        let at = self.repeats.binary_search_by_key(&offset, |(at, _)| *at);
        at.ok().map(|at| self.repeats[at].1)
    }

    /// Called when the present epoch ends.
    pub(super) fn end_epoch(&mut self, seen: &Senders) {
        let ended = std::mem::replace(self, Self::new(seen));
        self.lacked_until = ended.lacked_until;
        if self.lacked_until.is_some() {
            self.known = ended.known;
            let present: Vec<EventId> = ended.present.newest_first().collect();
            present.into_iter().rev().for_each(|id| self.known.mark(id));
        }
    }
}
