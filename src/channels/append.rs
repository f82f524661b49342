//! Append: how an event gets into a group's queue, and who delivers it.
//!
//! An event arrives in one of four ways. They differ in whether the event has an offset in a shared
//! history, and in which members still lack it:
//!
//! ```text
//! append                 sent by this process; its own history, if there is one, gives the offset
//! append_early           sent by this process while Redis is away; gets its offset from Redis later
//! append_without_offset  given up: Redis will never have it; the members of this process still get it
//! append_shared          came from Redis with its offset, published or in a page of the history
//! ```
//!
//! A caller that appends to a group with no delivery under way becomes its deliverer
//! ([`AppendOutcome::Deliver`]).

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::batch::{Audience, Entry};
use super::delivery::DeliveryTally;
use super::event_id::EventId;
use super::group::{Group, Outgoing, WAITING_BYTES_MAX};
use super::history::{LackedBy, PositionCheck};
use super::{Event, Position};

/// Whether an event is kept for members that join later.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Retention {
    /// Kept as far as the group keeps a history.
    History,
    /// Only for the members at this moment.
    Transient,
}

/// The caller that delivers after an append.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum AppendOutcome {
    /// The caller has to deliver; no other does.
    Deliver,
    /// Another caller is delivering and takes this event too.
    AlreadyDelivering,
    /// Too much is waiting already; the event was not appended.
    Full,
}

/// The outcome for an event with an offset in a shared history.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum SharedAppend {
    /// It was the next one, or the group is full.
    Appended(AppendOutcome),
    /// The members have it already.
    Duplicate,
    /// The members will receive it once the history is loaded.
    Kept,
    /// Events before it are missing: the history has to be read.
    Gap,
}

/// An event that is about to be appended.
pub(super) struct NewEvent<'a> {
    pub(super) event: &'a Event,
    /// The member that does not receive it.
    pub(super) except: Option<u64>,
    /// The members that received it before it had an offset do not receive it again.
    pub(super) is_delivered: bool,
    /// Counts the event's deliveries, if the sender asked for counts.
    pub(super) tally: Option<Arc<DeliveryTally>>,
}

impl<'a> NewEvent<'a> {
    /// Creates an event whose deliveries are not counted.
    pub(super) fn new(event: &'a Event, except: Option<u64>) -> Self {
        Self {
            event,
            except,
            is_delivered: false,
            tally: None,
        }
    }
}

impl Group {
    /// Appends an event that this process sends.
    pub(super) fn append(&self, new: &NewEvent<'_>, retention: Retention) -> AppendOutcome {
        let mut outgoing = self.outgoing.lock();
        if outgoing.is_full(new.event) {
            return AppendOutcome::Full;
        }
        let mut entry = outgoing.entry(new);
        if retention == Retention::History {
            outgoing.history.append(&mut entry);
        }
        outgoing.enqueue(entry)
    }

    /// Appends an event that this process sends and that Redis has not given an offset yet.
    ///
    /// May exceed the bound by this one event: the caller holds the outbox's lock and cannot wait.
    pub(super) fn append_early(&self, new: &NewEvent<'_>, id: EventId) -> AppendOutcome {
        let mut outgoing = self.outgoing.lock();
        // Redis may have published it before the connection was lost: then the members already have
        // it.
        if outgoing.history.is_known(id) {
            return AppendOutcome::AlreadyDelivering;
        }
        let mut entry = outgoing.entry(new);
        entry.id = id;
        entry.is_early = true;
        outgoing.history.append_early(&mut entry);
        outgoing.enqueue(entry)
    }

    /// Appends an event that will never have an offset. May exceed the bound, as
    /// [`append_early`](Self::append_early) does.
    ///
    /// It is not marked as seen. Marking a number covers all lower ones of the same sender, and
    /// some of those may still be on their way through Redis.
    pub(super) fn append_without_offset(&self, new: &NewEvent<'_>) -> AppendOutcome {
        let mut outgoing = self.outgoing.lock();
        let entry = outgoing.entry(new);
        outgoing.enqueue(entry)
    }

    /// Appends an event that came with its offset in the shared history.
    pub(super) fn append_shared(
        &self,
        new: &NewEvent<'_>,
        id: EventId,
        position: Position,
        age: Duration,
    ) -> SharedAppend {
        let mut outgoing = self.outgoing.lock();
        let is_loaded = outgoing.history.is_loaded();
        if is_loaded && outgoing.is_full(new.event) {
            return SharedAppend::Appended(AppendOutcome::Full);
        }
        match outgoing.history.check_position(position) {
            PositionCheck::Next => {}
            PositionCheck::Duplicate => return SharedAppend::Duplicate,
            PositionCheck::Gap => return SharedAppend::Gap,
        }
        let mut entry = outgoing.entry(new);
        entry.id = id;
        match outgoing.history.append_shared(position, age, &mut entry) {
            LackedBy::Followers => SharedAppend::Appended(outgoing.enqueue(entry)),
            LackedBy::PresentEpoch => {
                entry.audience = Audience::PresentEpoch;
                SharedAppend::Appended(outgoing.push(entry))
            }
            LackedBy::None if is_loaded => SharedAppend::Duplicate,
            LackedBy::None => {
                // A member whose join is pending may join when the history is loaded.
                outgoing.pending_joins.retain(&entry, age);
                SharedAppend::Kept
            }
        }
    }
}

impl Outgoing {
    /// A single event always fits: a group where nothing is being delivered is never full.
    fn is_full(&self, event: &Event) -> bool {
        self.is_delivering && self.bytes + event.size() > WAITING_BYTES_MAX
    }

    fn entry(&mut self, new: &NewEvent<'_>) -> Entry {
        self.number += 1;
        self.last_used = Instant::now();
        Entry {
            number: self.number,
            position: self.history.shown_position(),
            marks: self.history.marks(),
            except: new.except,
            audience: match new.is_delivered {
                false => Audience::All,
                true => Audience::JoinedFrom(self.history.kept_from()),
            },
            tally: new.tally.clone(),
            ..Entry::new(new.event.clone())
        }
    }

    fn enqueue(&mut self, entry: Entry) -> AppendOutcome {
        self.pending_joins.retain(&entry, Duration::ZERO);
        self.push(entry)
    }

    fn push(&mut self, entry: Entry) -> AppendOutcome {
        self.bytes += entry.event.size();
        if self.entries.is_empty() {
            self.waiting_since = self.last_used;
        }
        self.entries.push(entry);
        if self.is_delivering {
            return AppendOutcome::AlreadyDelivering;
        }
        self.is_delivering = true;
        AppendOutcome::Deliver
    }
}
