//! Group: its members, and the way an event takes to each of them.
//!
//! Two locks, always in this order: `members`, then `outgoing`. A sender takes only the second, for as long as it takes to
//! append; whoever finds nobody delivering becomes the one who delivers. While it writes to the members, further events
//! gather and leave as one batch. So an event costs each member one write at the most, and less when the group is busy.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::Event;
use super::batch::{Batch, Entry};
use crate::auth::User;

/// How many members are served before others may use the lock, and the worker.
const MEMBERS_AT_ONCE: usize = 32;

/// How many bytes may wait for the one who delivers before senders have to wait.
const OUTGOING_BYTES_MAX: usize = 1 << 20;

/// Takes what a group's members are sent.
///
/// `deliver` never blocks and never waits for a slow reader: what does not fit is dropped by the subscriber's own policy,
/// and counted there.
pub trait Subscriber: Send + Sync {
    /// Takes the part of a batch that the membership shall have.
    fn deliver(&self, batch: &Batch, membership: &Membership) -> Delivery;
}

/// What became of a batch at one member.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Delivery {
    /// All of it is written or waits in the member's queue.
    Queued,
    /// Some or all of it was dropped.
    Dropped,
}

/// One member's place in one group.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Membership {
    /// Names the member: the number of its connection or mailbox, unique in the process.
    pub member: u64,
    /// The group's offset when the member joined; it has only what came later.
    pub since: u64,
}

impl Membership {
    pub(super) fn shall_have(&self, entry: &Entry) -> bool {
        entry.offset > self.since && entry.except != Some(self.member)
    }
}

struct Member {
    membership: Membership,
    subscriber: Arc<dyn Subscriber>,
    user: Option<Arc<User>>,
}

#[derive(Default)]
struct Members {
    /// A member keeps its place, so that a walk in steps meets each exactly once; places of those who left are reused.
    places: Vec<Option<Member>>,
    free: Vec<usize>,
    /// Where each member's place is.
    place_of: HashMap<u64, usize>,
}

struct Outgoing {
    offset: u64,
    entries: Vec<Entry>,
    bytes: usize,
    delivering: bool,
    history: VecDeque<(Instant, Entry)>,
    history_max: usize,
    /// The newest event that a history was to keep and does not hold any more.
    forgotten: u64,
    /// When somebody last joined, left or sent.
    touched: Instant,
    history_expiry: Duration,
}

/// Is an event kept for those who join later?
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Keep {
    /// As far as the group keeps a history.
    History,
    /// It is news only to those who are there.
    Nothing,
}

/// Who has to deliver after an event was appended.
pub(super) enum Turn {
    /// The caller: nobody delivers.
    Mine,
    /// Another is at it and will take this event too.
    Theirs,
    /// Too much waits already; the event was not appended.
    Full,
}

pub(super) struct Group {
    members: Mutex<Members>,
    outgoing: Mutex<Outgoing>,
    count: AtomicUsize,
    room: Notify,
}

impl Group {
    pub(super) fn new() -> Self {
        let outgoing = Outgoing {
            offset: 0,
            entries: Vec::new(),
            bytes: 0,
            delivering: false,
            history: VecDeque::new(),
            history_max: 0,
            forgotten: 0,
            touched: Instant::now(),
            history_expiry: Duration::ZERO,
        };
        Self {
            members: Mutex::default(),
            outgoing: Mutex::new(outgoing),
            count: AtomicUsize::new(0),
            room: Notify::new(),
        }
    }

    /// Adds a member; one that is there already stays as it was.
    ///
    /// What the history holds after `after` (all of it without) reaches the subscriber before anything newer does, and
    /// before this returns. Returns whether nothing after `after` was missing.
    pub(super) fn join(
        &self,
        member: u64,
        subscriber: &Arc<dyn Subscriber>,
        user: Option<Arc<User>>,
        options: &super::GroupOptions,
        after: Option<u64>,
    ) -> bool {
        let mut members = lock(&self.members);
        if members.place_of.contains_key(&member) {
            return true;
        }
        let mut outgoing = lock(&self.outgoing);
        if options.history > 0 {
            outgoing.history_max = options.history;
            outgoing.history_expiry = options.history_expiry;
        }
        outgoing.forget_old(Instant::now());
        let since = outgoing.offset;
        let wanted = after.unwrap_or(0);
        let past: Vec<Entry> = if options.history > 0 || after.is_some() {
            outgoing
                .history
                .iter()
                .map(|(_, entry)| entry.clone())
                .filter(|entry| entry.offset > wanted)
                .collect()
        } else {
            Vec::new()
        };
        let complete = after.is_none() || wanted >= outgoing.forgotten;
        drop(outgoing);
        if !past.is_empty() {
            subscriber.deliver(
                &Batch::new(past),
                &Membership {
                    member,
                    since: wanted,
                },
            );
        }
        let place = Some(Member {
            membership: Membership { member, since },
            subscriber: subscriber.clone(),
            user,
        });
        let at = members.free.pop().unwrap_or(members.places.len());
        match members.places.get_mut(at) {
            Some(free) => *free = place,
            None => members.places.push(place),
        }
        members.place_of.insert(member, at);
        self.count.fetch_add(1, Ordering::Relaxed);
        complete
    }

    /// Removes a member. Once this returns it is sent nothing more. Tells whether it was there.
    pub(super) fn leave(&self, member: u64) -> bool {
        let mut members = lock(&self.members);
        let Some(at) = members.place_of.remove(&member) else {
            return false;
        };
        members.places[at] = None;
        members.free.push(at);
        if members.free.len() == members.places.len() {
            *members = Members::default();
        }
        lock(&self.outgoing).touched = Instant::now();
        self.count.fetch_sub(1, Ordering::Relaxed);
        true
    }

    /// Returns how many members there are.
    pub(super) fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Returns who the members are, `None` for each that is anonymous.
    pub(super) fn users(&self) -> Vec<Option<Arc<User>>> {
        lock(&self.members)
            .places
            .iter()
            .flatten()
            .map(|member| member.user.clone())
            .collect()
    }

    /// Returns the number of the newest event.
    pub(super) fn offset(&self) -> u64 {
        lock(&self.outgoing).offset
    }

    /// Tells when a group without members was last of use to anybody: `None` when it can go. One that keeps a history is kept
    /// as long as its newest event would be: somebody may come back for what is sent meanwhile.
    pub(super) fn remembered_since(&self, now: Instant) -> Option<Instant> {
        let mut outgoing = lock(&self.outgoing);
        outgoing.forget_old(now);
        let is_kept = outgoing.history_max > 0
            && now.saturating_duration_since(outgoing.touched) <= outgoing.history_expiry;
        is_kept.then_some(outgoing.touched)
    }

    /// Appends an event and says whose turn it is to deliver.
    pub(super) fn append(&self, event: &Event, except: Option<u64>, keep: Keep) -> Turn {
        let mut outgoing = lock(&self.outgoing);
        let size = event.size();
        if outgoing.delivering && outgoing.bytes + size > OUTGOING_BYTES_MAX {
            return Turn::Full;
        }
        outgoing.offset += 1;
        outgoing.touched = Instant::now();
        let entry = Entry {
            offset: outgoing.offset,
            event: event.clone(),
            except,
        };
        if keep == Keep::History {
            outgoing.remember(&entry);
        }
        outgoing.entries.push(entry);
        outgoing.bytes += size;
        if outgoing.delivering {
            return Turn::Theirs;
        }
        outgoing.delivering = true;
        Turn::Mine
    }

    /// Completes when the one who delivers has taken what waited.
    pub(super) async fn room(&self) {
        let waiting = self.room.notified();
        if lock(&self.outgoing).delivering {
            waiting.await;
        }
    }

    /// Delivers all that waits, in this call. For small groups.
    pub(super) fn deliver_now(&self) {
        while let Some(batch) = self.take() {
            let mut from = 0;
            while let Some(next) = self.deliver_some(&batch, from) {
                from = next;
            }
        }
    }

    /// Delivers all that waits, letting others have the worker in between. For large groups.
    pub(super) async fn deliver(self: Arc<Self>) {
        while let Some(batch) = self.take() {
            let mut from = 0;
            while let Some(next) = self.deliver_some(&batch, from) {
                from = next;
                tokio::task::yield_now().await;
            }
        }
    }

    fn take(&self) -> Option<Batch> {
        let mut outgoing = lock(&self.outgoing);
        outgoing.bytes = 0;
        let entries = std::mem::take(&mut outgoing.entries);
        outgoing.delivering = !entries.is_empty();
        drop(outgoing);
        self.room.notify_waiters();
        (!entries.is_empty()).then(|| Batch::new(entries))
    }

    fn deliver_some(&self, batch: &Batch, from: usize) -> Option<usize> {
        let members = lock(&self.members);
        let to = members.places.len().min(from + MEMBERS_AT_ONCE);
        for member in members.places[from.min(to)..to].iter().flatten() {
            if member.membership.since < batch.last_offset() {
                member.subscriber.deliver(batch, &member.membership);
            }
        }
        (to < members.places.len()).then_some(to)
    }
}

impl Outgoing {
    fn remember(&mut self, entry: &Entry) {
        if self.history_max == 0 {
            self.forgotten = entry.offset;
            return;
        }
        let now = Instant::now();
        self.forget_old(now);
        while self.history.len() >= self.history_max {
            self.forget_oldest();
        }
        self.history.push_back((now, entry.clone()));
    }

    fn forget_old(&mut self, now: Instant) {
        while self
            .history
            .front()
            .is_some_and(|(at, _)| now.duration_since(*at) > self.history_expiry)
        {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((_, entry)) = self.history.pop_front() {
            self.forgotten = entry.offset;
        }
    }
}

/// A panic elsewhere leaves these values whole: nothing is half done when one can happen.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
