//! SharedHistory: the state of a process's copy of a history that Redis keeps for all of them.

use std::sync::Arc;

use tokio::time::Instant;

use super::early::EarlyEvents;
use super::epochs::EarlierEpochs;
use super::senders::Senders;
use crate::channels::event_id::EventId;
use crate::channels::{Marks, Position};

/// How much of a shared history this process has read. The transitions are drawn in
/// [the module](super).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) enum LoadState {
    #[default]
    Unread,
    Reading,
    Current,
    Behind,
    Rereading,
}

impl LoadState {
    /// Returns whether the history has been read to its end at least once.
    pub(super) fn is_loaded(self) -> bool {
        matches!(self, Self::Current | Self::Behind | Self::Rereading)
    }

    /// Called when a page is requested. A history that is read once more for a client that has seen
    /// more of it lacks nothing that this process knows of: others do not wait for it.
    pub(super) fn requested(self) -> Self {
        match self {
            Self::Unread | Self::Reading => Self::Reading,
            Self::Current => Self::Current,
            Self::Behind | Self::Rereading => Self::Rereading,
        }
    }

    /// Called at a gap, after a failure to read, or after a loss of the connection: a reply that is
    /// on its way may lack events.
    pub(super) fn behind(self) -> Self {
        match self {
            Self::Unread | Self::Reading => Self::Unread,
            Self::Current | Self::Behind | Self::Rereading => Self::Behind,
        }
    }

    /// Called when the last page was read.
    pub(super) fn read_to_end(self) -> Self {
        match self {
            Self::Reading | Self::Rereading | Self::Current => Self::Current,
            Self::Unread | Self::Behind => Self::Behind,
        }
    }
}

/// The state of a process's copy of a history that Redis keeps for all of them.
#[derive(Default)]
pub(super) struct SharedHistory {
    pub(super) load: LoadState,
    /// True if this process has sent an event to it, which may still be on its way.
    pub(super) is_used: bool,
    /// The newest event of each sender that has an offset.
    pub(super) seen: Senders,
    /// The event at the group's position.
    pub(super) newest: Option<EventId>,
    pub(super) early: EarlyEvents,
    /// This process's newest event that Redis had after the last outage.
    pub(super) found: Option<EventId>,
    /// Present once Redis has lost events that members have received.
    pub(super) earlier: Option<Box<EarlierEpochs>>,
    /// The marks of the next entry.
    pub(super) marks: Option<Arc<Marks>>,
    /// What members received that joined before the group kept a history.
    pub(super) before: BeforeHistory,
}

/// What members received that joined before the group kept a history.
#[derive(Clone, Default)]
pub(super) struct BeforeHistory {
    /// The position of the newest event that was delivered as it came.
    pub(super) delivered: Position,
    /// This process's newest event that was delivered before it was sent to Redis.
    pub(super) own: EventId,
    /// When the group began to keep a history, and the number of its newest entry then.
    pub(super) ended: Option<(Instant, u64)>,
    /// The position of the first event that was published after that.
    pub(super) first_kept: Option<Position>,
}

impl SharedHistory {
    /// Sets the marks of the next entry.
    pub(super) fn update_marks(&mut self) {
        let mut marks = match &mut self.earlier {
            Some(earlier) => earlier.expected(),
            None => Marks::default(),
        };
        if let Some(early) = self.early.shown().newest() {
            marks.insert(early);
        }
        if self.marks.as_deref().copied().unwrap_or_default() != marks {
            self.marks = marks.shared();
        }
    }
}
