//! Senders: the newest event of each sender of a group.

use std::collections::VecDeque;

use crate::channels::event_id::EventId;

/// How many senders are remembered by the number of their newest event. Beyond it, the sender that
/// has been silent longest is forgotten.
pub(super) const SENDERS_MAX: usize = 64;

/// The newest event of each sender; the one that sent last is at the back.
#[derive(Clone, Default)]
pub(super) struct Senders(VecDeque<EventId>);

impl Senders {
    /// Returns the number of a sender's newest event, 0 when there is none.
    pub(super) fn newest_of(&self, node: u64) -> u64 {
        let found = self.0.iter().rev().find(|seen| seen.node == node);
        found.map_or(0, |seen| seen.seq)
    }

    pub(super) fn newest_first(&self) -> impl Iterator<Item = EventId> {
        self.0.iter().rev().copied()
    }

    /// Records an event, unless a newer one of its sender is known.
    pub(super) fn mark(&mut self, id: EventId) {
        if let Some(last) = self.0.back_mut()
            && last.node == id.node
        {
            last.seq = last.seq.max(id.seq);
            return;
        }
        let seq = self.newest_of(id.node).max(id.seq);
        self.0.retain(|seen| seen.node != id.node);
        if self.0.len() >= SENDERS_MAX {
            self.0.pop_front();
        }
        self.0.push_back(EventId { seq, ..id });
    }
}
