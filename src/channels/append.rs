//! Append: the ways an event comes into a group, and whose turn it is to deliver it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::batch::{Audience, Entry, Tally};
use super::group::{Group, OUTGOING_BYTES_MAX, Outgoing};
use super::past::Place;
use super::{Event, Position};

/// Is an event kept for those who join later?
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Keep {
    /// As far as the group keeps a history.
    History,
    /// It is news only to those who are there.
    Nothing,
}

/// Who has to deliver after an event was appended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Turn {
    /// The caller: nobody delivers.
    Mine,
    /// Another is at it and will take this event too.
    Theirs,
    /// Too much waits already; the event was not appended.
    Full,
}

/// What an event from elsewhere was to a group whose history is shared.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Shared {
    /// News, and this is whose turn it is to deliver.
    Appended(Turn),
    /// Nothing new.
    Known,
    /// There are others before it that have not come.
    Behind,
    /// The same, but the members have it: the history was not read yet.
    Early(Turn),
}

/// What is appended.
pub(super) struct News<'a> {
    pub(super) event: &'a Event,
    pub(super) except: Option<u64>,
    pub(super) tally: Option<Arc<Tally>>,
}

impl Group {
    /// Appends an event and says whose turn it is to deliver.
    pub(super) fn append(&self, news: &News<'_>, keep: Keep) -> Turn {
        let mut outgoing = self.outgoing.lock();
        if outgoing.is_full(news.event) {
            return Turn::Full;
        }
        let mut entry = outgoing.entry(news);
        if keep == Keep::History {
            outgoing.past.remember(&mut entry);
        }
        outgoing.enqueue(entry)
    }

    /// Appends an event that this process sends while it has no place in the shared history yet.
    pub(super) fn append_early(&self, news: &News<'_>, node: u64, seq: u64) -> Turn {
        let mut outgoing = self.outgoing.lock();
        if outgoing.past.has_seen(node, seq) {
            return Turn::Theirs; // it came back meanwhile
        }
        let entry = outgoing.entry(news);
        outgoing.past.remember_early(node, seq, &entry);
        outgoing.enqueue(entry) // even over the bound: nobody can wait here, and it is one event
    }

    /// Appends an event that will have no place; even over the bound, for nobody can wait here.
    pub(super) fn append_unplaced(&self, news: &News<'_>) -> Turn {
        let mut outgoing = self.outgoing.lock();
        let entry = outgoing.entry(news);
        outgoing.enqueue(entry)
    }

    /// Appends an event that has its place in the shared history.
    pub(super) fn append_shared(
        &self,
        news: &News<'_>,
        node: u64,
        seq: u64,
        position: Position,
        age: Duration,
    ) -> Shared {
        let mut outgoing = self.outgoing.lock();
        if outgoing.is_full(news.event) {
            return Shared::Appended(Turn::Full);
        }
        match outgoing.past.place(position) {
            Place::Next => {}
            Place::Known => return Shared::Known,
            Place::Behind if outgoing.past.is_loaded() => return Shared::Behind,
            Place::Behind => {
                // Who did not ask for the history hears now what comes now; the others have it when it is read.
                if !outgoing.past.see(node, seq) {
                    return Shared::Behind;
                }
                let mut entry = outgoing.entry(news);
                entry.position = position;
                entry.audience = Audience::Others;
                return Shared::Early(outgoing.push(entry)); // who is about to join reads it
            }
        }
        let mut entry = outgoing.entry(news);
        let is_news = outgoing
            .past
            .remember_shared(node, seq, position, age, &mut entry);
        if !is_news {
            return Shared::Known;
        }
        Shared::Appended(outgoing.enqueue(entry))
    }

    /// Takes over an event of the shared history that is read for the first time: those who wait for it get it. Whoever else is
    /// there has heard it, or came later.
    pub(super) fn append_past(
        &self,
        news: &News<'_>,
        node: u64,
        seq: u64,
        position: Position,
        age: Duration,
    ) -> Shared {
        let mut outgoing = self.outgoing.lock();
        let is_awaited = outgoing.past.is_awaited();
        if is_awaited && outgoing.is_full(news.event) {
            return Shared::Appended(Turn::Full);
        }
        if !outgoing.past.follows(position) {
            return Shared::Known;
        }
        let mut entry = outgoing.entry(news);
        entry.audience = Audience::Waiting;
        let is_missing = outgoing
            .past
            .remember_read(node, seq, position, age, &mut entry);
        if !is_awaited || !is_missing {
            return Shared::Known;
        }
        Shared::Appended(outgoing.push(entry))
    }
}

impl Outgoing {
    fn is_full(&self, event: &Event) -> bool {
        self.delivering && self.bytes + event.size() > OUTGOING_BYTES_MAX
    }

    fn entry(&mut self, news: &News<'_>) -> Entry {
        self.number += 1;
        self.touched = Instant::now();
        Entry {
            number: self.number,
            position: self.past.position(),
            event: news.event.clone(),
            except: news.except,
            audience: Audience::All,
            tally: news.tally.clone(),
        }
    }

    fn enqueue(&mut self, entry: Entry) -> Turn {
        self.holds.retain(&entry);
        self.push(entry)
    }

    fn push(&mut self, entry: Entry) -> Turn {
        self.bytes += entry.event.size();
        self.entries.push(entry);
        if self.delivering {
            return Turn::Theirs;
        }
        self.delivering = true;
        Turn::Mine
    }
}
