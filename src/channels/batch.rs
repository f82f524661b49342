//! Batch: the events of one group that leave together, rendered once for all members.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use tokio::sync::Notify;

use super::{Event, GroupName, Membership, Position};

/// One event on its way to a group's members.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its number among all that this process delivers to the group, from 1.
    pub(super) number: u64,
    /// Its place in the group's history; that of the newest event there for one that is not kept.
    pub position: Position,
    /// What is sent.
    pub event: Event,
    /// The member that shall not have it: the sender, when it asked so.
    pub except: Option<u64>,
    pub(super) audience: Audience,
    /// Counts what became of it, when somebody wants to know.
    pub(super) tally: Option<Arc<Tally>>,
}

/// Which members an event is for, while a shared history is read for the first time.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) enum Audience {
    #[default]
    All,
    /// Those who joined before it could be read, and wait for it.
    AwaitingHistory,
    /// Those who did not ask for it: they have what comes when it comes.
    NotAwaiting,
}

/// Counts what became of one event at the members of this process.
#[derive(Debug, Default)]
pub(super) struct Tally {
    queued: AtomicUsize,
    dropped: AtomicUsize,
    is_done: AtomicUsize,
    done: Notify,
}

impl Tally {
    pub(super) fn count(&self, delivery: super::Delivery) {
        match delivery {
            super::Delivery::Queued => self.queued.fetch_add(1, Ordering::Relaxed),
            super::Delivery::Dropped => self.dropped.fetch_add(1, Ordering::Relaxed),
        };
    }

    pub(super) fn finish(&self) {
        self.is_done.store(1, Ordering::Release);
        self.done.notify_waiters();
    }

    /// Waits until all members were served; returns how many have it, and how many had no room.
    pub(super) async fn counted(&self) -> (usize, usize) {
        loop {
            let done = self.done.notified();
            if self.is_done.load(Ordering::Acquire) == 1 {
                let counts = (&self.queued, &self.dropped);
                return (
                    counts.0.load(Ordering::Relaxed),
                    counts.1.load(Ordering::Relaxed),
                );
            }
            done.await;
        }
    }
}

/// Which form of its events a member takes: a number below [`FORMS`]. Members that take the same form share its bytes.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Form(pub u8);

/// How many forms there are.
pub const FORMS: usize = 16;

/// The events of one group that leave together.
///
/// What members need in one form (WebSocket frames, plain or compressed with a certain window) is made once, by the first that asks, and
/// shared by all.
#[derive(Debug)]
pub struct Batch {
    group: GroupName,
    entries: Vec<Entry>,
    /// Form 0, which most take.
    first: OnceLock<Rendered>,
    others: OnceLock<Box<[OnceLock<Rendered>; FORMS - 1]>>,
}

/// All entries in one form, one after the other.
#[derive(Debug)]
struct Rendered {
    bytes: Bytes,
    ends: Vec<usize>,
}

impl Batch {
    pub(super) fn new(group: GroupName, entries: Vec<Entry>) -> Self {
        Self {
            group,
            entries,
            first: OnceLock::new(),
            others: OnceLock::new(),
        }
    }

    /// Returns the group.
    #[must_use]
    pub fn group(&self) -> &GroupName {
        &self.group
    }

    /// Returns the entries that a member shall have: those sent after it joined, and not excepting it.
    pub fn entries<'a>(&'a self, member: &'a Membership) -> impl Iterator<Item = &'a Entry> + 'a {
        self.entries.iter().filter(|entry| member.receives(entry))
    }

    /// Returns all entries in the form that `render` writes, when the member shall have all of them.
    pub fn whole(
        &self,
        member: &Membership,
        form: Form,
        render: impl Fn(&Entry, &mut Vec<u8>),
    ) -> Option<&Bytes> {
        let all = self.entries.iter().all(|entry| member.receives(entry));
        all.then(|| &self.rendered(form, render).bytes)
    }

    /// Returns each entry that the member shall have, in the form that `render` writes.
    pub fn pieces<'a>(
        &'a self,
        member: &'a Membership,
        form: Form,
        render: impl Fn(&Entry, &mut Vec<u8>),
    ) -> impl Iterator<Item = (&'a Entry, Bytes)> + 'a {
        let rendered = self.rendered(form, render);
        let of_member = move |(at, entry): (usize, &'a Entry)| {
            member
                .receives(entry)
                .then(|| (entry, rendered.bytes.slice(rendered.range(at))))
        };
        self.entries.iter().enumerate().filter_map(of_member)
    }

    pub(super) fn last_number(&self) -> u64 {
        self.entries.last().map_or(0, |entry| entry.number)
    }

    /// Returns what counts the batch: an event that is counted leaves alone.
    pub(super) fn tally(&self) -> Option<&Arc<Tally>> {
        self.entries.first()?.tally.as_ref()
    }

    fn rendered(&self, form: Form, render: impl Fn(&Entry, &mut Vec<u8>)) -> &Rendered {
        let place = match usize::from(form.0) {
            0 => &self.first,
            form => &self.others.get_or_init(Box::default)[(form - 1).min(FORMS - 2)],
        };
        place.get_or_init(|| {
            // Ten octets are the longest header of a frame from a server.
            let mut bytes = Vec::with_capacity(
                self.entries
                    .iter()
                    .map(|entry| entry.event.size() + 10)
                    .sum(),
            );
            let mut ends = Vec::with_capacity(self.entries.len());
            for entry in &self.entries {
                render(entry, &mut bytes);
                ends.push(bytes.len());
            }
            Rendered {
                bytes: Bytes::from(bytes),
                ends,
            }
        })
    }
}

impl Rendered {
    fn range(&self, at: usize) -> Range<usize> {
        let start = if at == 0 { 0 } else { self.ends[at - 1] };
        start..self.ends[at]
    }
}
