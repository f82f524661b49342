//! Group: its members, and the delivery of its events to them.
//!
//! Two locks, always taken in this order: `members`, then `outgoing`. A sender takes only
//! `outgoing`, for as long as it takes to append. Delivery is a flag in `outgoing`:
//!
//! ```text
//!                    append (returns Deliver)
//!         idle ────────────────────────────────▶ delivering ──┐
//!          ▲                                        │  ▲      │ append (AlreadyDelivering, or Full over 1 MiB)
//!          └──── take_batch finds nothing waiting ──┘  └──────┘
//! ```
//!
//! The caller that gets `Deliver` takes everything that waits as one [`Batch`], writes it to every
//! member, and repeats until nothing waits. So a busy group costs each member one write per batch
//! instead of one per event. The flag is cleared in the same critical section that finds the queue
//! empty: an event is either in the batch or its sender becomes the next deliverer, so none is left
//! behind, and two batches never overlap.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use metrics::{Histogram, histogram};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::batch::{Batch, Entry};
use super::history::GroupHistory;
use super::history_budget::{Account, HistoryBudget};
use super::pace::{self, Pace};
use super::pending_joins::PendingJoins;
use super::presence_view::PresenceView;
use super::room_limit::{RoomLimit, RoomLimitReached, RoomPermit};
use super::sender_sequences::SenderSequences;
use super::{GroupName, GroupOptions, Membership, Position, Presence, Subscriber};
use crate::auth::User;
use crate::telemetry;

/// The number of members served before the lock and the worker are yielded to others.
const MEMBERS_AT_ONCE: usize = 32;

/// The most bytes of events that may wait while a batch is being delivered. Beyond it, senders
/// wait.
pub(super) const WAITING_BYTES_MAX: usize = 1 << 20;

pub(super) struct Member {
    pub(super) membership: Membership,
    pub(super) subscriber: Arc<dyn Subscriber>,
    pub(super) user: Option<Arc<User>>,
    pub(super) presence: Presence,
}

#[derive(Default)]
pub(super) struct MemberSlots {
    /// A member never changes its slot, so a walk that releases the lock in between visits each
    /// member exactly once. Slots of members that left are reused.
    pub(super) slots: Vec<Option<Member>>,
    free: Vec<usize>,
    slot_of: HashMap<u64, usize>,
}

impl MemberSlots {
    pub(super) fn contains(&self, member: u64) -> bool {
        self.slot_of.contains_key(&member)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.slot_of.is_empty()
    }

    pub(super) fn insert(&mut self, member: Member) {
        let number = member.membership.member;
        let at = self.free.pop().unwrap_or(self.slots.len());
        match self.slots.get_mut(at) {
            Some(free) => *free = Some(member),
            None => self.slots.push(Some(member)),
        }
        self.slot_of.insert(number, at);
    }
}

/// The events that await delivery, and the history.
pub(super) struct Outgoing {
    /// The number of the newest entry.
    pub(super) number: u64,
    pub(super) entries: Vec<Entry>,
    /// The size of `entries`.
    pub(super) bytes: usize,
    pub(super) is_delivering: bool,
    pub(super) history: GroupHistory,
    pub(super) pending_joins: PendingJoins,
    pace: Pace,
    /// When the first of `entries` was appended.
    pub(super) waiting_since: Instant,
    /// When the last member left or the last event was sent.
    pub(super) last_used: Instant,
}

/// Whether a group without members is still needed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum IdleState {
    /// It has events that a client may return for.
    HasHistory,
    /// It has no events, but a client that lost its connection may soon return.
    Empty,
    /// It can be removed.
    Expired,
}

/// A member of a group.
#[derive(Clone, Debug)]
pub struct GroupMember {
    /// The number of its connection or mailbox in the process.
    pub member: u64,
    /// Its user; `None` for an anonymous member.
    pub user: Option<Arc<User>>,
    pub(super) presence: Presence,
}

pub(super) struct Group {
    name: GroupName,
    pub(super) members: Mutex<MemberSlots>,
    pub(super) outgoing: Mutex<Outgoing>,
    /// The number of members, readable without a lock.
    pub(super) len: AtomicUsize,
    /// What has arrived from other processes.
    senders: SenderSequences,
    /// Notified when waiting events were taken for delivery.
    space: Notify,
    /// Notified when the subscription is confirmed or the shared history was read.
    ready: Notify,
    /// What the members have been told of each other; only in a group with announced ones.
    pub(super) presence: Mutex<Option<Box<PresenceView>>>,
}

impl Group {
    pub(super) fn new(
        name: GroupName,
        first: Position,
        is_shared: bool,
        budget: Arc<HistoryBudget>,
    ) -> Self {
        let account = Account::new(budget, name.clone());
        let outgoing = Outgoing {
            number: 0,
            entries: Vec::new(),
            bytes: 0,
            is_delivering: false,
            history: GroupHistory::new(first, is_shared, account),
            pending_joins: PendingJoins::default(),
            pace: Pace::default(),
            waiting_since: Instant::now(),
            last_used: Instant::now(),
        };
        Self {
            name,
            members: Mutex::default(),
            outgoing: Mutex::new(outgoing),
            len: AtomicUsize::new(0),
            senders: SenderSequences::new(),
            space: Notify::new(),
            ready: Notify::new(),
            presence: Mutex::default(),
        }
    }

    /// Returns what has arrived from other processes.
    pub(super) fn senders(&self) -> &SenderSequences {
        &self.senders
    }

    pub(super) fn name(&self) -> &GroupName {
        &self.name
    }

    // --- History --------------------------------------------------------------------------------------------------------

    /// Sets how much history the group keeps. The last caller that asks for a history decides.
    pub(super) fn set_options(&self, options: &GroupOptions) {
        if options.history > 0 {
            let outgoing = &mut *self.outgoing.lock();
            outgoing.history.set_bounds(options, outgoing.number);
        }
    }

    /// Counts the group for a client's address, if it has no event yet and counts for no other.
    pub(super) fn claim_room(
        &self,
        limit: &Arc<RoomLimit>,
        client: IpAddr,
    ) -> Result<(), RoomLimitReached> {
        let history = &mut self.outgoing.lock().history;
        if history.account.room_permit.is_none() && history.is_empty() {
            let permit = limit.begin(&self.name, client, Instant::now())?;
            history.account.room_permit = Some(permit);
        }
        Ok(())
    }

    /// Takes the permit from a group that is being removed.
    pub(super) fn take_room_permit(&self) -> Option<RoomPermit> {
        self.outgoing.lock().history.account.room_permit.take()
    }

    /// Drops the permit of a client that did not begin the group after all: the shared history has
    /// older events. A group that lingered keeps its permit: its older events are there because the
    /// same client began it.
    pub(super) fn drop_room_permit(&self) {
        let permit = &mut self.outgoing.lock().history.account.room_permit;
        drop(permit.take_if(|permit| !permit.has_lingered()));
    }

    /// Returns the position of the newest event kept.
    pub(super) fn position(&self) -> Position {
        self.outgoing.lock().history.position()
    }

    /// Runs a closure on the history, under the lock.
    pub(super) fn with_history<T>(&self, act: impl FnOnce(&mut GroupHistory) -> T) -> T {
        act(&mut self.outgoing.lock().history)
    }

    /// Returns whether a group without members is still needed. A group with a history stays until
    /// its newest event has expired: a client may return for events that were sent while it was
    /// away.
    pub(super) fn idle_state(&self, now: Instant) -> IdleState {
        let mut outgoing = self.outgoing.lock();
        outgoing.history.forget_old(now);
        let last_used = outgoing.last_used;
        match outgoing.history.is_worth_keeping(last_used, now) {
            false => IdleState::Expired,
            true if outgoing.history.is_empty() => IdleState::Empty,
            true => IdleState::HasHistory,
        }
    }

    /// Evicts events to free memory: `bytes` in a group with members, everything in one without.
    /// Returns the number of events.
    pub(super) fn evict(&self, bytes: usize) -> usize {
        let mut outgoing = self.outgoing.lock();
        let bytes = if self.len() == 0 { usize::MAX } else { bytes };
        outgoing.history.evict(bytes)
    }

    // --- Members -----------------------------------------------------------------------------------------------------

    /// Retains events from now on for a member that is about to join.
    pub(super) fn add_pending_join(&self, member: u64) {
        let mut outgoing = self.outgoing.lock();
        let (since, seen) = (outgoing.number, outgoing.history.seen());
        outgoing.pending_joins.add(member, since, seen);
    }

    /// Moves the start of a pending join to now.
    pub(super) fn advance_pending_join(&self, member: u64) {
        let mut outgoing = self.outgoing.lock();
        let (since, seen) = (outgoing.number, outgoing.history.seen());
        outgoing.pending_joins.advance(member, since, seen);
    }

    /// Ends a pending join: the member has joined, or never will.
    pub(super) fn remove_pending_join(&self, member: u64) {
        self.outgoing.lock().pending_joins.remove(member);
    }

    /// Removes a member, and returns it. Once this returns, it receives nothing more.
    pub(super) fn leave(&self, member: u64) -> Option<GroupMember> {
        let mut members = self.members.lock();
        let at = members.slot_of.remove(&member)?;
        let left = members.slots[at].take();
        members.free.push(at);
        let mut outgoing = self.outgoing.lock();
        outgoing.last_used = Instant::now();
        if members.free.len() == members.slots.len() {
            *members = MemberSlots::default();
            outgoing.history.account.set_members(false);
        }
        drop(outgoing);
        self.len.fetch_sub(1, Ordering::Relaxed);
        left.map(|left| GroupMember {
            member,
            user: left.user,
            presence: left.presence,
        })
    }

    /// Returns the number of members.
    pub(super) fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    /// Returns whether the group has a member, or one is about to join.
    pub(super) fn is_needed(&self) -> bool {
        self.len() > 0 || !self.outgoing.lock().pending_joins.is_empty()
    }

    pub(super) fn contains(&self, member: u64) -> bool {
        self.members.lock().contains(member)
    }

    /// Returns the members.
    pub(super) fn members(&self) -> Vec<GroupMember> {
        self.members
            .lock()
            .slots
            .iter()
            .flatten()
            .map(|slot| GroupMember {
                member: slot.membership.member,
                user: slot.user.clone(),
                presence: slot.presence,
            })
            .collect()
    }

    /// Completes with the next [`notify_ready`](Self::notify_ready).
    pub(super) fn ready(&self) -> impl Future<Output = ()> + '_ {
        self.ready.notified()
    }

    /// Wakes those that wait until the group can be joined: its subscription is confirmed, or its
    /// history has been read.
    pub(super) fn notify_ready(&self) {
        self.ready.notify_waiters();
    }

    // --- Delivery -------------------------------------------------------------------------------------------------------

    /// Completes when waiting events have been taken for delivery; at once if no delivery is under
    /// way.
    pub(super) async fn space(&self) {
        // Registered before the flag is read: a batch taken in between wakes it.
        let space = self.space.notified();
        if self.outgoing.lock().is_delivering {
            space.await;
        }
    }

    /// Delivers all waiting events in this call. For small groups.
    pub(super) fn deliver_now(&self) {
        while let Some((batch, since)) = self.take_batch() {
            let mut from = 0;
            while let Some(next) = self.deliver_some(&batch, from) {
                from = next;
            }
            finish(&batch, since);
        }
    }

    /// Delivers all waiting events and yields the worker in between. For large groups.
    pub(super) async fn deliver(self: Arc<Self>) {
        while let Some((batch, since)) = self.take_batch() {
            let mut from = 0;
            while let Some(next) = self.deliver_some(&batch, from) {
                from = next;
                tokio::task::yield_now().await;
            }
            finish(&batch, since);
        }
    }

    /// The same for events of other processes, of which each delivery carries several if they come
    /// fast.
    pub(super) async fn deliver_paced(self: Arc<Self>) {
        loop {
            self.gather().await;
            let Some((batch, since)) = self.take_batch() else {
                return;
            };
            let started_at = Instant::now();
            let mut from = 0;
            while let Some(next) = self.deliver_some(&batch, from) {
                from = next;
                tokio::task::yield_now().await;
            }
            finish(&batch, since);
            let pace = &mut self.outgoing.lock().pace;
            pace.delivered(batch.len(), started_at, Instant::now());
        }
    }

    /// Waits until enough events wait for one delivery.
    async fn gather(&self) {
        let deadline = {
            let outgoing = self.outgoing.lock();
            let waiting = outgoing.entries.len();
            outgoing.pace.deadline(waiting, Instant::now())
        };
        let Some(deadline) = deadline else { return };
        while Instant::now() < deadline {
            tokio::time::sleep(pace::STEP).await;
            let outgoing = self.outgoing.lock();
            if outgoing.pace.is_enough(outgoing.entries.len()) {
                return;
            }
        }
    }

    /// Takes the waiting events, with the time since which they wait; ends the delivery if there
    /// are none.
    fn take_batch(&self) -> Option<(Batch, Instant)> {
        let mut outgoing = self.outgoing.lock();
        let since = outgoing.waiting_since;
        let mut entries = std::mem::take(&mut outgoing.entries);
        // A counted event is a batch of its own: a tally counts one event.
        if let Some(at) = entries.iter().position(|entry| entry.tally.is_some())
            && at.max(1) < entries.len()
        {
            outgoing.entries = entries.split_off(at.max(1));
        }
        outgoing.bytes = outgoing.entries.iter().map(|left| left.event.size()).sum();
        outgoing.is_delivering = !entries.is_empty();
        drop(outgoing);
        self.space.notify_waiters();
        (!entries.is_empty()).then(|| (Batch::new(self.name.clone(), entries), since))
    }

    /// Serves the members in the next slots; returns the slot to continue with.
    ///
    /// Members may join and leave between two calls. A member that joins is skipped by this batch,
    /// because its `since` is not lower than the batch's last number; it has received those events
    /// from the history or from the retained events.
    fn deliver_some(&self, batch: &Batch, from: usize) -> Option<usize> {
        let mut members = self.members.lock();
        let to = members.slots.len().min(from + MEMBERS_AT_ONCE);
        for member in members.slots[from.min(to)..to].iter_mut().flatten() {
            if member.membership.since < batch.last_number() {
                let membership = &mut member.membership;
                let is_marked = membership.marked().is_some();
                let of_marked = is_marked.then(|| batch.of_marked(membership));
                let batch = of_marked.as_ref().unwrap_or(batch);
                if batch.is_empty() {
                    continue; // it has seen all of it
                }
                let delivery = member.subscriber.deliver(batch, &member.membership);
                if let Some(tally) = batch.tally()
                    && batch.entries(&member.membership).next().is_some()
                {
                    tally.count(delivery);
                }
            }
        }
        (to < members.slots.len()).then_some(to)
    }
}

/// Looked up once: each lookup takes a lock that all share.
static DELIVERY_DURATION: LazyLock<Histogram> =
    LazyLock::new(|| histogram!("oneport_group_delivery_duration_seconds"));

fn finish(batch: &Batch, since: Instant) {
    if telemetry::measures_time() {
        let seconds = since.elapsed().as_secs_f64();
        DELIVERY_DURATION.record(seconds);
    }
    if let Some(tally) = batch.tally() {
        tally.finish();
    }
}
