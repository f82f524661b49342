//! GroupHistory: a group's newest events, kept by this process alone or shared with others through
//! Redis.
//!
//! A shared history is a copy of the one in Redis. Events reach it in the order of their offsets,
//! from two sources: published events as they are sent, and pages that `remote/history_sync.rs`
//! reads. Offsets have no gaps, so a gap means that an event was missed, whatever the reason. The
//! history is then read again from its newest event on.
//!
//! ```text
//!              requested              read to its end, no gap meanwhile
//!   Unread ─────────────────▶ Reading ─────────────────────────────────▶ Current ◀─────┐
//!     ▲   gap, failure, loss    │                                          │           │
//!     ├─────────────────────────┘                                gap, loss │           │ read to its end
//!     │ read to its end: gap meanwhile                                     ▼  requested│
//!     └──────────────────────────────────────────────────────────────▶ Behind ─────▶ Rereading
//!                                                                          ▲           │
//!                                                                          └───────────┘
//!                                                                       gap, failure, loss
//! ```
//!
//! *Loss* is that of the connection. A history that is Current, Behind or Rereading is *loaded*.
//!
//! - Until it is loaded, all members await it: the process does not know what precedes a published
//!   event. They receive events without an offset as they come. Once it is loaded, each receives
//!   its part of the history at once ([`AwaitedHistory`]), and follows
//!   the group from then on.
//! - Once it is loaded, each event is delivered when its offset is the next one.
//!
//! While Redis is away, members receive the events of this process *early*
//! ([`append_early`](GroupHistory::append_early)). An event is in one of these states:
//!
//! ```text
//!   sent, Redis away ─▶ early: shown, no offset ──▶ kept at its offset, not delivered again
//!   sent, Redis up ──────────────────────────────▶ delivered and kept at its offset
//!   repeated in another epoch, after Redis has lost it ─▶ kept, not delivered again
//! ```
//!
//! Its [`EventId`] shows which. What a client has seen is a position and, for events that have no
//! offset yet, the marks of their senders ([`Seen`](crate::channels::Seen)).

mod awaited;
mod bounds;
mod early;
mod epochs;
mod replay;
mod senders;
mod shared;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(super) use self::awaited::{AwaitedHistory, AwaitedPart};
use self::epochs::EarlierEpochs;
pub(super) use self::replay::Replay;
pub use self::replay::{Joined, Start};
use self::senders::Senders;
use self::shared::{LoadState, SharedHistory};
use super::batch::Entry;
use super::event_id::EventId;
use super::history_budget::{Account, EMPTY_KEPT};
use super::position::new_epoch;
use super::{GroupOptions, Marks, Position, Seen};

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

/// Which members lack an event that has been kept at its offset.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum LackedBy {
    /// All that follow the group.
    Followers,
    /// Those that know only the present epoch.
    PresentEpoch,
    /// None: they have it, or await the history.
    None,
}

/// A group's newest events, and the position of the newest.
pub(super) struct GroupHistory {
    /// The process's number.
    node: u64,
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
    /// An empty history whose first event follows a position. The position's epoch is the process's
    /// number.
    pub(super) fn new(position: Position, is_shared: bool, account: Account) -> Self {
        Self {
            node: position.epoch,
            position,
            events: VecDeque::new(),
            bytes: 0,
            account,
            max: 0,
            expiry: Duration::ZERO,
            shared: is_shared.then(Box::default),
        }
    }

    /// Sets how much is kept. `newest` is the number of the group's newest entry.
    pub(super) fn set_bounds(&mut self, options: &GroupOptions, newest: u64) {
        if self.max == 0
            && let Some(shared) = &mut self.shared
        {
            shared.before.ended = Some((tokio::time::Instant::now(), newest));
        }
        self.max = options.history;
        self.expiry = options.history_expiry;
    }

    /// Returns how many events are kept, and for how long.
    pub(super) fn bounds(&self) -> (usize, Duration) {
        (self.max, self.expiry)
    }

    /// Returns the position of the newest event.
    pub(super) fn position(&self) -> Position {
        self.position
    }

    /// Returns whether a client that has seen a position has seen more than this process has: it
    /// was at another process, and events since are on their way to this one.
    pub(super) fn is_behind_client(&self, seen: Position) -> bool {
        if !self.is_shared() || !self.is_loaded() || seen.epoch == 0 {
            return false;
        }
        if seen.epoch == self.position.epoch {
            return seen.offset > self.position.offset;
        }
        let of_epoch = |(_, entry): &(Instant, Entry)| entry.position.epoch == seen.epoch;
        !self.events.iter().any(of_epoch)
    }

    /// Returns what a client has seen that has received all events. Until a shared history is
    /// loaded, that is a position to which no client can return.
    pub(super) fn seen(&self) -> Seen {
        Seen {
            position: self.shown_position(),
            marks: self.marks().as_deref().copied().unwrap_or_default(),
        }
    }

    /// Returns the position that members are shown.
    pub(super) fn shown_position(&self) -> Position {
        if self.is_loaded() {
            self.position
        } else {
            Position::default()
        }
    }

    /// Returns the marks of the next entry.
    pub(super) fn marks(&self) -> Option<Arc<Marks>> {
        self.shared.as_ref()?.marks.clone()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Returns whether a client may return to a group without members: while there are events, and
    /// for a short time if there are none yet. Redis keeps a shared history, except its early
    /// events.
    pub(super) fn is_worth_keeping(&self, last_used: Instant, now: Instant) -> bool {
        match &self.shared {
            _ if self.max == 0 => false,
            Some(shared) => {
                shared.early.kept_len() > 0
                    && now.saturating_duration_since(last_used) < self.expiry
            }
            None => {
                !self.events.is_empty() || now.saturating_duration_since(last_used) < EMPTY_KEPT
            }
        }
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

    /// Keeps an event of this process that has no offset yet, and sets its marks.
    pub(super) fn append_early(&mut self, entry: &mut Entry) {
        let Some(shared) = &mut self.shared else {
            return;
        };
        shared.early.push(entry.to_kept());
        shared.update_marks();
        entry.marks.clone_from(&shared.marks);
        shared.early.mark_newest(entry.marks.clone());
        self.bytes += entry.to_kept().memory();
        while shared.early.kept_len() > self.max {
            self.bytes -= shared.early.forget_first();
        }
        self.trim(self.account.group_size_max());
        self.settle();
    }

    /// Called after an outage with this process's newest event that Redis has. Once the history has
    /// been read, no event up to it is early: Redis may have trimmed those that were not read.
    pub(super) fn found_in_redis(&mut self, seq: u64) {
        let node = self.node;
        if let Some(shared) = &mut self.shared {
            shared.found = Some(EventId { node, seq });
        }
    }

    /// Called when Redis will never have an early event.
    pub(super) fn give_up_early(&mut self, id: EventId) {
        if let Some(shared) = &mut self.shared {
            self.bytes -= shared.early.remove(id);
            shared.update_marks();
        }
        self.settle();
    }

    /// Keeps an event at its position, and sets its marks. Returns which members lack it.
    pub(super) fn append_shared(
        &mut self,
        position: Position,
        age: Duration,
        entry: &mut Entry,
    ) -> LackedBy {
        self.position = position;
        entry.position = position;
        let Some(shared) = &mut self.shared else {
            return LackedBy::Followers;
        };
        let id = entry.id;
        let is_loaded = shared.load.is_loaded();
        let is_early = shared.early.shown().number_of(id).is_some();
        let earlier = shared.earlier.as_mut();
        let is_repeat = !is_early && earlier.is_some_and(|earlier| earlier.is_seen(id));
        shared.newest = Some(id);
        shared.seen.mark(id);
        if is_loaded {
            // Members that await the history are compared with the early events once more.
            self.bytes -= shared.early.confirm(id);
        }
        let mut is_lacked = false;
        if let Some(earlier) = &mut shared.earlier {
            is_lacked = earlier.is_lacked(id);
            earlier.confirm(id);
        }
        shared.update_marks();
        entry.marks.clone_from(&shared.marks);
        if is_repeat && self.events.iter().any(|(_, kept)| kept.id == id) {
            if let Some(earlier) = &mut shared.earlier {
                earlier.add_repeat(position.offset, id, self.max);
            }
        } else {
            self.push(entry, age);
        }
        self.settle();
        match () {
            () if is_early || !is_loaded => LackedBy::None,
            () if is_repeat && is_lacked => LackedBy::PresentEpoch,
            () if is_repeat => LackedBy::None,
            () => LackedBy::Followers,
        }
    }

    /// Returns whether members have an event of this process, or will receive it with the history.
    pub(super) fn is_known(&self, id: EventId) -> bool {
        self.shared.as_ref().is_some_and(|shared| {
            let early = shared.early.shown().newest();
            shared.seen.newest_of(id.node) >= id.seq
                || early.is_some_and(|early| early.node == id.node && early.seq >= id.seq)
        })
    }

    /// Records that members receive an event of a history that this process does not keep. Returns
    /// whether it is new to them, and how many events before it they have missed.
    pub(super) fn mark_delivered(&mut self, id: EventId, position: Position) -> (bool, u64) {
        let Some(shared) = &mut self.shared else {
            return (true, 0);
        };
        let is_new = shared.seen.newest_of(id.node) < id.seq;
        shared.seen.mark(id);
        let before = std::mem::replace(&mut shared.before.delivered, position);
        let missed = match before.epoch == position.epoch {
            true => position
                .offset
                .saturating_sub(before.offset.saturating_add(1)),
            false => 0,
        };
        (is_new, missed)
    }

    /// Records that members received an event of this process before it was sent to Redis.
    pub(super) fn mark_sent(&mut self, id: EventId) {
        if let Some(shared) = &mut self.shared
            && shared.before.own.seq < id.seq
        {
            shared.before.own = id;
        }
    }

    // --- Sharing with Redis ---------------------------------------------------------------------------------------------

    /// Returns whether Redis keeps the history for all processes and gives its events their
    /// positions.
    pub(super) fn is_shared(&self) -> bool {
        self.shared.is_some() && self.max > 0
    }

    /// Returns whether other processes keep a history of the group, but no member of this one has
    /// asked for it.
    pub(super) fn is_kept_elsewhere(&self) -> bool {
        let shared = self.shared.as_ref().filter(|_| self.max == 0);
        shared.is_some_and(|shared| shared.before.delivered.offset > 0)
    }

    /// Returns whether members have received events beyond an offset before the group kept a
    /// history.
    pub(super) fn is_delivered_beyond(&self, offset: u64) -> bool {
        let shared = self.shared.as_ref();
        shared.is_some_and(|shared| shared.before.delivered.offset > offset)
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

    /// Returns the number of the group's newest entry when it began to keep a history.
    pub(super) fn kept_from(&self) -> u64 {
        let ended = self.shared.as_ref().and_then(|shared| shared.before.ended);
        ended.map_or(0, |(_, number)| number)
    }

    /// Compares an event's position with the newest one.
    pub(super) fn check_position(&mut self, position: Position) -> PositionCheck {
        let newest = self.position;
        let Some(shared) = &mut self.shared else {
            return PositionCheck::Next;
        };
        if !shared.load.is_loaded() {
            shared.before.first_kept.get_or_insert(position);
        }
        if position.epoch == newest.epoch && position.offset <= newest.offset {
            return PositionCheck::Duplicate;
        }
        if position.epoch == newest.epoch && position.offset.checked_sub(1) == Some(newest.offset) {
            return PositionCheck::Next;
        }
        shared.load = shared.load.behind();
        PositionCheck::Gap
    }

    /// Takes the epoch of a page that was read, and the offset before the page's first event.
    /// Returns the number of events lost: those between the newest one of the history and the page.
    pub(super) fn read_from(&mut self, epoch: u64, before: u64) -> u64 {
        let Some(shared) = &mut self.shared else {
            return 0;
        };
        let is_loaded = shared.load.is_loaded();
        let is_same_epoch = self.position.epoch == epoch;
        if !is_same_epoch {
            self.position = Position { epoch, offset: 0 };
            shared.newest = None;
            // Until the history is loaded, members have only received events that were published
            // before the group kept one.
            let delivered = shared.before.delivered.epoch;
            if is_loaded || (delivered != 0 && delivered != epoch) {
                match &mut shared.earlier {
                    Some(earlier) => earlier.end_epoch(&shared.seen),
                    None => shared.earlier = Some(Box::new(EarlierEpochs::new(&shared.seen))),
                }
            } else {
                shared.seen = Senders::default();
            }
            shared.update_marks();
            if !is_loaded {
                self.forget_kept();
            }
        }
        let missing = before.saturating_sub(self.position.offset);
        if missing > 0 {
            self.position.offset = before;
            if let Some(shared) = &mut self.shared {
                shared.newest = None;
            }
            if is_loaded {
                self.forget_kept(); // a client that returns to a position before the gap cannot recover
            }
        }
        // Events from before the first read, or of another epoch, were never expected.
        if is_loaded && is_same_epoch {
            missing
        } else {
            0
        }
    }

    /// Called when the history was read to its end. For the first time, returns it for the members
    /// that await it; from then on, they follow the group.
    pub(super) fn read_to_end(&mut self) -> Option<AwaitedHistory> {
        let shared = self.shared.as_mut()?;
        let was_loaded = shared.load.is_loaded();
        shared.load = shared.load.read_to_end();
        let found = shared.found.take();
        if was_loaded {
            if let Some(found) = found {
                self.bytes -= shared.early.confirm(found);
                shared.update_marks();
                self.settle();
            }
            return None;
        }
        let awaited = AwaitedHistory {
            position: self.position,
            events: self.events.iter().cloned().collect(),
            shown: shared.early.shown().clone(),
            before: shared.before.clone(),
            earlier: shared
                .earlier
                .as_ref()
                .map(|earlier| earlier.seen().clone())
                .unwrap_or_default(),
        };
        if let Some(early) = shared.early.shown().newest() {
            let seq = shared.seen.newest_of(early.node);
            let seq = seq.max(found.map_or(0, |found| found.seq));
            self.bytes -= shared.early.confirm(EventId { seq, ..early });
        }
        shared.update_marks();
        self.settle();
        Some(awaited)
    }

    /// Returns whether a shared history has been read to its end, or there is none to read.
    pub(super) fn is_loaded(&self) -> bool {
        let shared = self.shared.as_ref().filter(|_| self.max > 0);
        shared.is_none_or(|shared| shared.load.is_loaded())
    }

    /// Returns whether the history is loaded and no event is known to be missing.
    pub(super) fn is_current(&self) -> bool {
        let shared = self.shared.as_ref().filter(|_| self.max > 0);
        shared.is_none_or(|shared| shared.load == LoadState::Current)
    }

    /// Called before a page is requested: events missed from now on may not be in the reply.
    pub(super) fn mark_requested(&mut self) {
        if let Some(shared) = &mut self.shared {
            shared.load = shared.load.requested();
        }
    }

    /// Records that events may be missing. A history of this process alone has no other source for
    /// them, so it starts another epoch: that shows a returning client that it may have missed
    /// events.
    pub(super) fn mark_behind(&mut self) {
        match &mut self.shared {
            Some(shared) => shared.load = shared.load.behind(),
            None => self.position.epoch = new_epoch(),
        }
    }
}
