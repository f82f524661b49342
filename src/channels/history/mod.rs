//! GroupHistory: a group's newest events, kept by this process alone or shared with others through
//! Redis.
//!
//! A shared history is a copy of the one in Redis. Events reach it in the order of their offsets,
//! from two sources: published events as they are sent, and pages that `remote/history_sync.rs`
//! reads. Offsets have no gaps, so a gap means that an event was missed, whatever the reason. The
//! history is then read again from its newest event on.
//!
//! ```text
//!            read_from                 loaded
//!   Unread ─────────────▶ Reading ─────────────▶ Loaded
//!     │                     │                      │
//!     │ event: Gap          │ event: Next or Gap   │ event: Next, Duplicate or Gap
//!     ▼                     ▼                      ▼
//!   is_behind is set at a gap and when the connection is lost, and cleared before a page is
//!   requested: a gap noticed while the reply is on its way sets it again, and the history is
//!   read once more.
//! ```
//!
//! While Redis is away, members receive the events of this process at once (`append_early`). They
//! wait in `early` until Redis gives them an offset; then they move to `events`, and their
//! [`EventId`] shows that the members have them.

mod bounds;
mod shared;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use self::shared::{EarlyEvent, LoadState, SharedHistory};
use super::batch::Entry;
use super::event_id::EventId;
use super::history_budget::{Account, EMPTY_KEPT};
use super::position::new_epoch;
use super::{GroupOptions, Position};

/// The part of a group's history that a member asks for when it joins.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Start {
    /// All events that are kept.
    History,
    /// Only events from now on.
    Now,
    /// The events after a position that the member has seen.
    After(Position),
}

/// The point in a group's history at which a member has started.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Joined {
    /// The position before the first event that it receives. A client that returns with it misses
    /// no event since.
    pub from: Position,
    /// True if no event is missing after the position that it asked for.
    pub is_complete: bool,
}

/// The history that a member receives when it joins.
pub(super) struct Replay {
    /// The position before the first entry.
    pub(super) from: Position,
    pub(super) entries: Vec<Entry>,
    /// True if no event is missing after the position that the member asked for.
    pub(super) is_complete: bool,
}

/// How an event's position relates to the newest one in the history.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum PositionCheck {
    /// It is the one that follows.
    Next,
    /// It is not newer.
    Duplicate,
    /// Events before it are missing, or it is of another epoch.
    Gap,
}

/// A group's newest events, and the position of the newest.
pub(super) struct GroupHistory {
    /// The position of the newest event. In a shared history, Redis sets it.
    position: Position,
    /// The events with an offset, and the time each was sent.
    events: VecDeque<(Instant, Entry)>,
    /// The memory of `events` and of the early ones.
    bytes: usize,
    pub(super) account: Account,
    max: usize,
    expiry: Duration,
    /// Boxed: most groups share no history.
    shared: Option<Box<SharedHistory>>,
}

impl GroupHistory {
    /// An empty history whose first event follows a position.
    pub(super) fn new(position: Position, is_shared: bool, account: Account) -> Self {
        Self {
            position,
            events: VecDeque::new(),
            bytes: 0,
            account,
            max: 0,
            expiry: Duration::ZERO,
            shared: is_shared.then(Box::default),
        }
    }

    pub(super) fn set_bounds(&mut self, options: &GroupOptions) {
        self.max = options.history;
        self.expiry = options.history_expiry;
    }

    /// Returns how many events are kept, and for how long.
    pub(super) fn bounds(&self) -> (usize, Duration) {
        (self.max, self.expiry)
    }

    pub(super) fn position(&self) -> Position {
        self.position
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Returns whether a client may return to a group without members: while there are events, and
    /// for a short time if there are none yet. Redis keeps a shared history.
    pub(super) fn is_worth_keeping(&self, last_used: Instant, now: Instant) -> bool {
        self.max > 0
            && self.shared.is_none()
            && (!self.events.is_empty() || now.saturating_duration_since(last_used) < EMPTY_KEPT)
    }

    // --- Reading --------------------------------------------------------------------------------------------------------

    /// Returns the history for a member that joins.
    pub(super) fn replay(&self, start: Start, wants_history: bool) -> Replay {
        let since = match start {
            Start::Now => None,
            Start::History if !wants_history => None,
            Start::History => Some(None),
            Start::After(position) => Some(Some(position)),
        };
        let Some(since) = since else {
            return Replay {
                from: self.position,
                entries: Vec::new(),
                is_complete: true,
            };
        };
        let known = since
            .filter(|since| self.shared.is_some() || since.epoch == self.position.epoch)
            .and_then(|since| self.index_after(since));
        let kept = self.events.iter().skip(known.unwrap_or(0));
        let mut entries: Vec<Entry> = kept.map(|(_, entry)| entry.clone()).collect();
        let from = match (known, since, entries.first()) {
            (Some(_), Some(since), _) => since,
            (_, _, Some(first)) => Position {
                offset: first.position.offset.saturating_sub(1),
                ..first.position
            },
            _ => self.position,
        };
        if let Some(shared) = &self.shared {
            entries.extend(shared.early.iter().map(|early| early.entry.clone()));
        }
        Replay {
            from,
            entries,
            is_complete: since.is_none() || (known.is_some() && self.is_complete()),
        }
    }

    /// Returns the index of the first event after a position, if no event in between was forgotten.
    fn index_after(&self, since: Position) -> Option<usize> {
        if since == self.position {
            return Some(self.events.len());
        }
        let follows = |(_, entry): &(Instant, Entry)| {
            entry.position.epoch == since.epoch && entry.position.offset == since.offset + 1
        };
        self.events.iter().position(follows).or_else(|| {
            // The next epoch may have started after it.
            let is_it = |(_, entry): &(Instant, Entry)| entry.position == since;
            self.events.iter().position(is_it).map(|at| at + 1)
        })
    }

    // --- Appending ------------------------------------------------------------------------------------------------------

    /// Gives an event of this process its position and keeps it. In a shared history, Redis does
    /// both.
    pub(super) fn append(&mut self, entry: &mut Entry) {
        if self.is_shared() {
            return;
        }
        self.position.offset += 1;
        entry.position = self.position;
        self.push(entry, Duration::ZERO);
    }

    /// Keeps an event of this process that has no offset yet.
    pub(super) fn append_early(&mut self, id: EventId, entry: &Entry) {
        if let Some(shared) = &mut self.shared {
            shared.mark_seen(id);
            let entry = entry.to_kept();
            self.bytes += entry.memory();
            shared.early.push_back(EarlyEvent { id, entry });
            while shared.early.len() > self.max {
                self.bytes -= shared.forget_early();
            }
            self.trim(self.account.group_size_max());
            self.settle();
        }
    }

    /// Keeps an event of a history that is read for the first time. Returns whether the members
    /// that wait for the history lack it: they already have the early events of this process.
    pub(super) fn append_loaded(
        &mut self,
        id: EventId,
        position: Position,
        age: Duration,
        entry: &mut Entry,
    ) -> bool {
        let shared = self.shared.as_ref();
        let is_early = shared.is_some_and(|shared| shared.early.iter().any(|early| early.id == id));
        self.append_shared(id, position, age, entry);
        !is_early
    }

    /// Keeps an event at its position. Returns whether it is new to the members.
    pub(super) fn append_shared(
        &mut self,
        id: EventId,
        position: Position,
        age: Duration,
        entry: &mut Entry,
    ) -> bool {
        self.position = position;
        entry.position = position;
        let Some(shared) = &mut self.shared else {
            return true;
        };
        shared.newest = Some(id);
        let freed = shared.forget_early_up_to(id);
        self.bytes -= freed.unwrap_or(0);
        let was_early = freed.is_some();
        let is_new = shared.newest_of(id.node) < id.seq;
        if is_new {
            shared.mark_seen(id);
        }
        let first = self.events.front();
        let has_older_epoch =
            first.is_some_and(|(_, first)| first.position.epoch != position.epoch);
        // After Redis lost events, a new epoch repeats some that are kept with their position in
        // the older one.
        if is_new || was_early || !has_older_epoch {
            self.push(entry, age);
        }
        self.settle();
        is_new
    }

    /// Returns whether the members have an event.
    pub(super) fn is_seen(&self, id: EventId) -> bool {
        let shared = self.shared.as_ref();
        shared.is_some_and(|shared| shared.newest_of(id.node) >= id.seq)
    }

    /// Records that the members have an event from a source other than the history; returns whether
    /// it is new to them.
    pub(super) fn mark_seen(&mut self, id: EventId) -> bool {
        let is_new = !self.is_seen(id);
        if let Some(shared) = &mut self.shared
            && is_new
        {
            shared.mark_seen(id);
        }
        is_new
    }

    // --- Sharing with Redis ---------------------------------------------------------------------------------------------

    /// Returns whether Redis keeps the history for all processes and gives its events their
    /// positions.
    pub(super) fn is_shared(&self) -> bool {
        self.shared.is_some() && self.max > 0
    }

    /// Records that this process sends an event that Redis will keep.
    pub(super) fn mark_used(&mut self) {
        if let Some(shared) = &mut self.shared {
            shared.is_used = true;
        }
    }

    /// Returns whether Redis keeps an event of the history, or is about to.
    pub(super) fn has_shared_events(&self) -> bool {
        let shared = self.shared.as_ref().filter(|_| self.max > 0);
        shared.is_some_and(|shared| shared.is_used || self.position.offset > 0)
    }

    /// Returns the position up to which this process has a shared history, and the event at that
    /// position.
    pub(super) fn shared_position(&self) -> Option<(Position, Option<EventId>)> {
        let shared = self.shared.as_ref().filter(|_| self.max > 0)?;
        Some((self.position, shared.newest))
    }

    /// Compares an event's position with the newest one.
    pub(super) fn check_position(&mut self, position: Position) -> PositionCheck {
        let newest = self.position;
        let Some(shared) = &mut self.shared else {
            return PositionCheck::Next;
        };
        if position.epoch == newest.epoch && position.offset <= newest.offset {
            return PositionCheck::Duplicate;
        }
        let is_next = position.epoch == newest.epoch && position.offset == newest.offset + 1;
        if is_next && shared.load != LoadState::Unread {
            return PositionCheck::Next;
        }
        shared.is_behind = true;
        PositionCheck::Gap
    }

    /// Returns whether a position is after the newest one, or of another epoch.
    pub(super) fn is_after_newest(&self, position: Position) -> bool {
        position.epoch != self.position.epoch || position.offset > self.position.offset
    }

    /// Takes the epoch of a page that was read, and the offset before the page's first event.
    /// Returns the number of events lost: those between the newest one of the history and the page.
    pub(super) fn read_from(&mut self, epoch: u64, before: u64) -> u64 {
        let Some(shared) = &mut self.shared else {
            return 0;
        };
        let is_first = shared.load == LoadState::Unread;
        if is_first {
            shared.load = LoadState::Reading;
        }
        let is_same_epoch = self.position.epoch == epoch;
        if !is_same_epoch {
            self.position = Position { epoch, offset: 0 };
        }
        let missing = before.saturating_sub(self.position.offset);
        if missing > 0 {
            self.position.offset = before;
            shared.newest = None;
        }
        // Events from before the first read, or of another epoch, were never expected.
        if is_first || !is_same_epoch {
            0
        } else {
            missing
        }
    }

    /// Records that the history was read to its end.
    pub(super) fn loaded(&mut self) {
        if let Some(shared) = &mut self.shared {
            shared.load = LoadState::Loaded;
            shared.is_awaited = false;
        }
    }

    /// Returns whether a shared history has been read to its end, or there is none to read.
    pub(super) fn is_loaded(&self) -> bool {
        let shared = self.shared.as_ref().filter(|_| self.max > 0);
        shared.is_none_or(|shared| shared.load == LoadState::Loaded)
    }

    /// Returns whether the history is loaded and no event is known to be missing.
    pub(super) fn is_complete(&self) -> bool {
        self.is_loaded() && !self.is_behind()
    }

    /// Called when a member joins that wants the history. Returns whether it has to wait until the
    /// history is loaded.
    pub(super) fn await_loaded(&mut self) -> bool {
        let is_loaded = self.is_loaded();
        if let Some(shared) = &mut self.shared {
            shared.is_awaited |= !is_loaded;
        }
        !is_loaded
    }

    /// Returns whether members wait until the history is loaded.
    pub(super) fn is_awaited(&self) -> bool {
        self.shared.as_ref().is_some_and(|shared| shared.is_awaited)
    }

    /// Called before the history is requested: events missed from now on may not be in the reply.
    pub(super) fn clear_behind(&mut self) {
        if let Some(shared) = &mut self.shared {
            shared.is_behind = false;
        }
    }

    /// Records that events may be missing. A history of this process alone has no other source for
    /// them, so it starts another epoch: that shows a returning client that it may have missed
    /// events.
    pub(super) fn mark_behind(&mut self) {
        match &mut self.shared {
            Some(shared) => shared.is_behind = true,
            None => self.position.epoch = new_epoch(),
        }
    }

    /// Returns whether events may be missing.
    pub(super) fn is_behind(&self) -> bool {
        self.is_shared() && self.shared.as_ref().is_some_and(|shared| shared.is_behind)
    }
}
