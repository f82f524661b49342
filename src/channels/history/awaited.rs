//! AwaitedHistory: the parts of a shared history that members receive when it is loaded.

use std::time::{Duration, Instant};

use super::early::ShownEvents;
use super::senders::Senders;
use super::shared::BeforeHistory;
use crate::channels::batch::Entry;
use crate::channels::event_id::EventId;
use crate::channels::membership::{AwaitedStart, Awaiting};
use crate::channels::{Marks, Position};

/// A shared history at the moment when it is loaded, for the members that await it.
pub(in crate::channels) struct AwaitedHistory {
    pub(super) position: Position,
    pub(super) events: Vec<(Instant, Entry)>,
    /// The early events that have no offset yet, or got one after a member had joined.
    pub(super) shown: ShownEvents,
    pub(super) before: BeforeHistory,
    /// What members received in an earlier epoch that joined before the group kept a history.
    pub(super) earlier: Senders,
}

/// Which part of an awaited history a member receives. Members with the same part share its frames.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::channels) struct AwaitedPart {
    /// The index of the first event.
    first: usize,
    /// The number of the first early entry that the member has received.
    early_from: u64,
    /// Whether the member joined before the group kept a history.
    is_kept: bool,
    /// Whether the member wants only events sent since it joined. Those of this process among them
    /// are early, or follow all early ones.
    is_now: bool,
}

impl AwaitedHistory {
    /// Returns the part for a member.
    pub(in crate::channels) fn part(&self, awaiting: &Awaiting) -> AwaitedPart {
        let first = match awaiting.start {
            AwaitedStart::History => 0,
            AwaitedStart::Now(at) => self.first_sent_after(at.elapsed()),
            AwaitedStart::Kept => self.first_after_delivered(),
        };
        let kept = self.events.iter().skip(first);
        let numbers = kept.filter_map(|(_, entry)| self.shown.number_of(entry.id));
        // The newest one may have no offset yet, but it decides the marks.
        let newest = self.shown.newest().and_then(|id| self.shown.number_of(id));
        let received = numbers
            .chain(newest)
            .filter(|number| *number >= awaiting.early_from);
        AwaitedPart {
            first,
            early_from: received.min().unwrap_or(u64::MAX),
            is_kept: awaiting.start == AwaitedStart::Kept,
            is_now: matches!(awaiting.start, AwaitedStart::Now(_)),
        }
    }

    fn first_sent_after(&self, elapsed: Duration) -> usize {
        let now = Instant::now();
        let elapsed = elapsed + Duration::from_millis(1); // Redis counts in milliseconds
        let is_newer = |(at, _): &(Instant, Entry)| now.saturating_duration_since(*at) < elapsed;
        let first = self.events.iter().position(is_newer);
        first.unwrap_or(self.events.len())
    }

    /// Returns the first event that members lack which joined before the group kept a history.
    fn first_after_delivered(&self) -> usize {
        let is_present = |position: &Position| position.epoch == self.position.epoch;
        let first_from = |offset: u64| {
            let is_from = |(_, entry): &(Instant, Entry)| entry.position.offset >= offset;
            let first = self.events.iter().position(is_from);
            first.unwrap_or(self.events.len())
        };
        let before = &self.before;
        if is_present(&before.delivered) {
            return first_from(before.delivered.offset + 1);
        }
        let published = before.first_kept.filter(is_present);
        let published = published.map(|position| first_from(position.offset));
        let sent = before
            .ended
            .map(|(at, _)| self.first_sent_after(at.elapsed()));
        let first = [published, sent].into_iter().flatten().min();
        first.unwrap_or(self.events.len())
    }

    /// Returns the events of a part: those from its start on, without the early ones that the
    /// member has received.
    ///
    /// An event of this process may have its offset before the early ones, and not be early itself:
    /// it was sent before there was a member to show it to. Marks cannot express that. So the
    /// entries before it have no epoch, and no client can return to them.
    pub(in crate::channels) fn entries(&self, part: &AwaitedPart) -> Vec<Entry> {
        let own = self.before.own;
        let is_received_before = |id: EventId| {
            (id.node == own.node && id.seq <= own.seq) || self.earlier.newest_of(id.node) >= id.seq
        };
        let is_early_or_older = |id: EventId| {
            let newest = self.shown.newest();
            newest.is_some_and(|newest| newest.node == id.node && newest.seq >= id.seq)
        };
        let is_received = |id: EventId| {
            let number = self.shown.number_of(id);
            number.is_some_and(|number| number >= part.early_from)
                || (part.is_kept && id.is_kept() && is_received_before(id))
                || (part.is_now && is_early_or_older(id))
        };
        let newest = self.shown.newest().filter(|id| is_received(*id));
        let precedes_received = |id: EventId| {
            let is_lower = |newest: EventId| id.node == newest.node && id.seq < newest.seq;
            newest.is_some_and(is_lower) && !is_received(id)
        };
        let kept = self.events.iter().map(|(_, entry)| entry).skip(part.first);
        let kept: Vec<&Entry> = kept.collect();
        let last = kept.iter().rposition(|entry| precedes_received(entry.id));
        let mut marks = Marks::default();
        newest.into_iter().for_each(|id| marks.insert(id));
        let mut entries = Vec::new();
        for (at, entry) in kept.into_iter().enumerate() {
            marks.confirm(entry.id);
            if is_received(entry.id) {
                continue;
            }
            let has_position = last.is_none_or(|last| at > last);
            entries.push(Entry {
                position: Position {
                    epoch: if has_position {
                        entry.position.epoch
                    } else {
                        0
                    },
                    ..entry.position
                },
                marks: marks.shared(),
                ..entry.clone()
            });
        }
        entries
    }
}
