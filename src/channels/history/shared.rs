//! SharedHistory: the state of a process's copy of a history that Redis keeps for all of them.

use std::collections::VecDeque;

use crate::channels::batch::Entry;
use crate::channels::event_id::EventId;

/// How many senders are remembered by the number of their newest event. Beyond it, the sender that
/// has been silent longest is forgotten.
pub(super) const SENDERS_MAX: usize = 64;

/// How much of a shared history this process has read.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) enum LoadState {
    /// Nothing: offsets that arrive do not show what is missing.
    #[default]
    Unread,
    /// From its beginning, but not to its end.
    Reading,
    /// To its end, at least once.
    Loaded,
}

/// The state of a process's copy of a history that Redis keeps for all of them.
#[derive(Default)]
pub(super) struct SharedHistory {
    pub(super) load: LoadState,
    /// True if members joined before the history was loaded, and wait for it.
    pub(super) is_awaited: bool,
    /// True if an event arrived after a gap, or the connection was lost: events may be missing
    /// until the history is read again.
    pub(super) is_behind: bool,
    /// True if this process has sent an event to it, which may still be on its way.
    pub(super) is_used: bool,
    /// The newest event of each sender; the one that sent last is at the back.
    seen: VecDeque<EventId>,
    /// The event at the group's position.
    pub(super) newest: Option<EventId>,
    /// Events of this process that its members have and that Redis has not given an offset yet.
    pub(super) early: VecDeque<EarlyEvent>,
}

pub(super) struct EarlyEvent {
    pub(super) id: EventId,
    pub(super) entry: Entry,
}

impl SharedHistory {
    /// Returns the number of a sender's newest event, 0 when there is none.
    pub(super) fn newest_of(&self, node: u64) -> u64 {
        let found = self.seen.iter().find(|seen| seen.node == node);
        found.map_or(0, |seen| seen.seq)
    }

    pub(super) fn mark_seen(&mut self, id: EventId) {
        if let Some(last) = self.seen.back_mut()
            && last.node == id.node
        {
            last.seq = id.seq;
            return;
        }
        self.seen.retain(|seen| seen.node != id.node);
        if self.seen.len() >= SENDERS_MAX {
            self.seen.pop_front();
        }
        self.seen.push_back(id);
    }

    /// Forgets the oldest early event; returns the memory that it took.
    pub(super) fn forget_early(&mut self) -> usize {
        let early = self.early.pop_front();
        early.map_or(0, |early| early.entry.memory())
    }

    /// Forgets early events of a sender up to one that has its offset now; returns the memory that
    /// they took.
    pub(super) fn forget_early_up_to(&mut self, id: EventId) -> Option<usize> {
        let before = self.early.len();
        let mut freed = 0;
        self.early.retain(|early| {
            let is_later = early.id.node != id.node || early.id.seq > id.seq;
            if !is_later {
                freed += early.entry.memory();
            }
            is_later
        });
        (self.early.len() < before).then_some(freed)
    }
}
