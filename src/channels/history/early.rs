//! EarlyEvents: events of this process that its members have and that have no offset yet.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::channels::Marks;
use crate::channels::batch::Entry;
use crate::channels::event_id::EventId;

/// Events of this process that its members have and that have no offset yet, in the order of their
/// numbers.
///
/// All of them are remembered by their number, for as long as the outbox has them. The newest are
/// also kept for members that join.
#[derive(Default)]
pub(super) struct EarlyEvents {
    shown: ShownEvents,
    /// The last ones of `shown`, as entries.
    kept: VecDeque<Entry>,
}

/// The ids of early events that members have received, each with the number of its entry.
#[derive(Clone, Default)]
pub(super) struct ShownEvents(VecDeque<(EventId, u64)>);

impl ShownEvents {
    /// Returns the entry's number of an early event.
    pub(super) fn number_of(&self, id: EventId) -> Option<u64> {
        if self.newest()?.node != id.node {
            return None;
        }
        let found = self.0.binary_search_by_key(&id.seq, |(shown, _)| shown.seq);
        found.ok().map(|at| self.0[at].1)
    }

    pub(super) fn newest(&self) -> Option<EventId> {
        self.0.back().map(|(id, _)| *id)
    }
}

impl EarlyEvents {
    pub(super) fn push(&mut self, entry: Entry) {
        self.shown.0.push_back((entry.id, entry.number));
        self.kept.push_back(entry);
    }

    /// Sets the marks of the newest event.
    pub(super) fn mark_newest(&mut self, marks: Option<Arc<Marks>>) {
        if let Some(newest) = self.kept.back_mut() {
            newest.marks = marks;
        }
    }

    pub(super) fn shown(&self) -> &ShownEvents {
        &self.shown
    }

    /// Returns the newest event that is not kept any more.
    pub(super) fn newest_forgotten(&self) -> Option<EventId> {
        let forgotten = self.shown.0.len() - self.kept.len();
        let newest = self.shown.0.get(forgotten.checked_sub(1)?);
        newest.map(|(id, _)| *id)
    }

    /// Called when an event has its offset: it is not early any more, and lower numbers of the same
    /// sender will never have one. Returns the memory of the entries that were kept.
    pub(super) fn confirm(&mut self, id: EventId) -> usize {
        let mut freed = 0;
        while let Some((first, _)) = self.shown.0.front()
            && first.node == id.node
            && first.seq <= id.seq
        {
            if self.kept.len() == self.shown.0.len() {
                freed += self.forget_first();
            }
            self.shown.0.pop_front();
        }
        freed
    }

    /// Removes an event that will never have an offset. Returns the memory of its entry.
    pub(super) fn remove(&mut self, id: EventId) -> usize {
        if self.shown.number_of(id).is_none() {
            return 0;
        }
        let shown = &mut self.shown.0;
        if let Ok(at) = shown.binary_search_by_key(&id.seq, |(shown, _)| shown.seq) {
            shown.remove(at);
        }
        let kept = self
            .kept
            .binary_search_by_key(&id.seq, |entry| entry.id.seq);
        let removed = kept.ok().and_then(|at| self.kept.remove(at));
        removed.map_or(0, |entry| entry.memory())
    }

    /// Stops keeping the oldest event; returns the memory that it took.
    pub(super) fn forget_first(&mut self) -> usize {
        let first = self.kept.pop_front();
        first.map_or(0, |entry| entry.memory())
    }

    pub(super) fn kept(&self) -> impl Iterator<Item = &Entry> {
        self.kept.iter()
    }

    /// Returns the number of events that are kept.
    pub(super) fn kept_len(&self) -> usize {
        self.kept.len()
    }
}
