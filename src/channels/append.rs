//! Append: the ways an event comes into a group, and whose turn it is to deliver it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::batch::{Audience, Entry, Tally};
use super::group::{Group, OUTGOING_BYTES_MAX, Outgoing};
use super::history::PositionCheck;
use super::{Event, Position};

/// Is an event kept for those who join later?
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Retention {
    /// As far as the group keeps a history.
    History,
    /// It is news only to those who are there.
    Transient,
}

/// Who has to deliver after an event was appended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum AppendOutcome {
    /// The caller: nobody delivers.
    Deliver,
    /// Another is at it and will take this event too.
    AlreadyDelivering,
    /// Too much waits already; the event was not appended.
    Full,
}

/// What an event from elsewhere was to a group whose history is shared.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum SharedAppend {
    /// News, and this is whose turn it is to deliver.
    Appended(AppendOutcome),
    /// Nothing new.
    Duplicate,
    /// There are others before it that have not come.
    Gap,
    /// The same, but the members have it: the history was not read yet.
    AppendedEarly(AppendOutcome),
}

/// What is appended.
pub(super) struct NewEvent<'a> {
    pub(super) event: &'a Event,
    pub(super) except: Option<u64>,
    pub(super) tally: Option<Arc<Tally>>,
}

impl Group {
    /// Appends an event and says whose turn it is to deliver.
    pub(super) fn append(&self, new: &NewEvent<'_>, keep: Retention) -> AppendOutcome {
        let mut outgoing = self.outgoing.lock();
        if outgoing.is_full(new.event) {
            return AppendOutcome::Full;
        }
        let mut entry = outgoing.entry(new);
        if keep == Retention::History {
            outgoing.history.append(&mut entry);
        }
        outgoing.enqueue(entry)
    }

    /// Appends an event that this process sends while it has no place in the shared history yet.
    pub(super) fn append_early(&self, new: &NewEvent<'_>, node: u64, seq: u64) -> AppendOutcome {
        let mut outgoing = self.outgoing.lock();
        if outgoing.history.is_seen(node, seq) {
            return AppendOutcome::AlreadyDelivering; // it came back meanwhile
        }
        let entry = outgoing.entry(new);
        outgoing.history.append_early(node, seq, &entry);
        outgoing.enqueue(entry) // even over the bound: nobody can wait here, and it is one event
    }

    /// Appends an event that will have no place; even over the bound, for nobody can wait here.
    pub(super) fn append_without_offset(&self, new: &NewEvent<'_>) -> AppendOutcome {
        let mut outgoing = self.outgoing.lock();
        let entry = outgoing.entry(new);
        outgoing.enqueue(entry)
    }

    /// Appends an event that has its place in the shared history.
    pub(super) fn append_shared(
        &self,
        new: &NewEvent<'_>,
        node: u64,
        seq: u64,
        position: Position,
        age: Duration,
    ) -> SharedAppend {
        let mut outgoing = self.outgoing.lock();
        if outgoing.is_full(new.event) {
            return SharedAppend::Appended(AppendOutcome::Full);
        }
        match outgoing.history.check_position(position) {
            PositionCheck::Next => {}
            PositionCheck::Duplicate => return SharedAppend::Duplicate,
            PositionCheck::Gap if outgoing.history.is_loaded() => return SharedAppend::Gap,
            PositionCheck::Gap => {
                // Who did not ask for the history hears now what comes now; the others have it when it is read.
                if !outgoing.history.mark_seen(node, seq) {
                    return SharedAppend::Gap;
                }
                let mut entry = outgoing.entry(new);
                entry.position = position;
                entry.audience = Audience::NotAwaiting;
                return SharedAppend::AppendedEarly(outgoing.push(entry)); // who is about to join reads it
            }
        }
        let mut entry = outgoing.entry(new);
        let is_news = outgoing
            .history
            .append_shared(node, seq, position, age, &mut entry);
        if !is_news {
            return SharedAppend::Duplicate;
        }
        SharedAppend::Appended(outgoing.enqueue(entry))
    }

    /// Takes over an event of the shared history that is read for the first time: those who wait for it get it. Whoever else is
    /// there has heard it, or came later.
    pub(super) fn append_loaded(
        &self,
        new: &NewEvent<'_>,
        node: u64,
        seq: u64,
        position: Position,
        age: Duration,
    ) -> SharedAppend {
        let mut outgoing = self.outgoing.lock();
        let is_awaited = outgoing.history.is_awaited();
        if is_awaited && outgoing.is_full(new.event) {
            return SharedAppend::Appended(AppendOutcome::Full);
        }
        if !outgoing.history.follows(position) {
            return SharedAppend::Duplicate;
        }
        let mut entry = outgoing.entry(new);
        entry.audience = Audience::AwaitingHistory;
        let is_missing = outgoing
            .history
            .append_loaded(node, seq, position, age, &mut entry);
        if !is_awaited || !is_missing {
            return SharedAppend::Duplicate;
        }
        SharedAppend::Appended(outgoing.push(entry))
    }
}

impl Outgoing {
    fn is_full(&self, event: &Event) -> bool {
        self.delivering && self.bytes + event.size() > OUTGOING_BYTES_MAX
    }

    fn entry(&mut self, new: &NewEvent<'_>) -> Entry {
        self.number += 1;
        self.touched = Instant::now();
        Entry {
            number: self.number,
            position: self.history.position(),
            event: new.event.clone(),
            except: new.except,
            audience: Audience::All,
            tally: new.tally.clone(),
        }
    }

    fn enqueue(&mut self, entry: Entry) -> AppendOutcome {
        self.pending_joins.retain(&entry);
        self.push(entry)
    }

    fn push(&mut self, entry: Entry) -> AppendOutcome {
        self.bytes += entry.event.size();
        self.entries.push(entry);
        if self.delivering {
            return AppendOutcome::AlreadyDelivering;
        }
        self.delivering = true;
        AppendOutcome::Deliver
    }
}
