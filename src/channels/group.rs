//! Group: its members, and the way an event takes to each of them.
//!
//! Two locks, always in this order: `members`, then `outgoing`. A sender takes only the second, for as long as it takes to
//! append; whoever finds nobody delivering becomes the one who delivers. While it writes to the members, further events
//! gather and leave as one batch. So an event costs each member one write at the most, and less when the group is busy.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::batch::{Batch, Entry};
use super::history::{GroupHistory, Joined, Start};
use super::history_budget::{Account, HistoryBudget};
use super::pending_joins::PendingJoins;
use super::room_limit::{RoomLimit, RoomLimitReached, RoomPermit};
use super::{GroupName, GroupOptions, Membership, Position, Presence, Subscriber};
use crate::auth::User;

/// How many members are served before others may use the lock, and the worker.
const MEMBERS_AT_ONCE: usize = 32;

/// How many bytes may wait for the one who delivers before senders have to wait.
pub(super) const OUTGOING_BYTES_MAX: usize = 1 << 20;

struct Member {
    membership: Membership,
    subscriber: Arc<dyn Subscriber>,
    user: Option<Arc<User>>,
    presence: Presence,
}

#[derive(Default)]
struct MemberSlots {
    /// A member keeps its place, so that a walk in steps meets each exactly once; places of those who left are reused.
    slots: Vec<Option<Member>>,
    free: Vec<usize>,
    /// Where each member's place is.
    slot_of: HashMap<u64, usize>,
}

pub(super) struct Outgoing {
    pub(super) number: u64,
    pub(super) entries: Vec<Entry>,
    pub(super) bytes: usize,
    pub(super) delivering: bool,
    pub(super) history: GroupHistory,
    /// Those who are about to join.
    pub(super) pending_joins: PendingJoins,
    /// When somebody last joined, left or sent.
    pub(super) touched: Instant,
}

/// What is to become of a group without members.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum IdleState {
    /// It has events that a client may come back for.
    HasHistory,
    /// It has none, and a client that lost its connection may come back in a moment.
    Empty,
    /// It can be removed.
    Expired,
}

/// One who is in a group.
#[derive(Clone, Debug)]
pub struct GroupMember {
    /// The number of its connection or mailbox in the process.
    pub member: u64,
    /// Who it is; `None` for somebody anonymous.
    pub user: Option<Arc<User>>,
    pub(super) presence: Presence,
}

pub(super) struct Group {
    name: GroupName,
    members: Mutex<MemberSlots>,
    pub(super) outgoing: Mutex<Outgoing>,
    len: AtomicUsize,
    space: Notify,
    /// It is heard, or its shared history was read.
    changed: Notify,
    /// Held by who counts the members and tells them.
    presence: tokio::sync::Mutex<()>,
}

impl Group {
    pub(super) fn new(
        name: GroupName,
        first: Position,
        is_shared: bool,
        history_budget: Arc<HistoryBudget>,
    ) -> Self {
        let account = Account::new(history_budget, name.clone());
        let outgoing = Outgoing {
            number: 0,
            entries: Vec::new(),
            bytes: 0,
            delivering: false,
            history: GroupHistory::new(first, is_shared, account),
            pending_joins: PendingJoins::default(),
            touched: Instant::now(),
        };
        Self {
            name,
            members: Mutex::default(),
            outgoing: Mutex::new(outgoing),
            len: AtomicUsize::new(0),
            space: Notify::new(),
            changed: Notify::new(),
            presence: tokio::sync::Mutex::default(),
        }
    }

    /// Waits for one's turn to count the members and tell them.
    pub(super) async fn lock_presence(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.presence.lock().await
    }

    /// Says what the group shall keep; the last that asks for a history decides.
    pub(super) fn set_options(&self, options: &GroupOptions) {
        if options.history > 0 {
            self.outgoing.lock().history.keep(options);
        }
    }

    /// A client is about to join that asks for a history: its address counts as the one that began the group, when it has no event
    /// yet and no other address did.
    pub(super) fn claim_room(
        &self,
        room_limit: &Arc<RoomLimit>,
        client: IpAddr,
    ) -> Result<(), RoomLimitReached> {
        let history = &mut self.outgoing.lock().history;
        if history.account.room_permit.is_none() && history.is_empty() {
            history.account.room_permit =
                Some(room_limit.begin(&self.name, client, Instant::now())?);
        }
        Ok(())
    }

    /// The group is about to be gone: returns its place among those that an address has begun.
    pub(super) fn take_room_permit(&self) -> Option<RoomPermit> {
        self.outgoing.lock().history.account.room_permit.take()
    }

    /// The history was there before: another process, or another client long ago, began the group.
    pub(super) fn drop_room_permit(&self) {
        let room = &mut self.outgoing.lock().history.account.room_permit;
        drop(room.take_if(|room| !room.has_lingered()));
    }

    /// A member is about to join: it shall have everything from now on.
    pub(super) fn add_pending_join(&self, member: u64) {
        let mut outgoing = self.outgoing.lock();
        let (since, position) = (outgoing.number, outgoing.history.position());
        outgoing.pending_joins.add(member, since, position);
    }

    /// It is later by now: a member that is about to join for the first time shall have what comes from here on.
    pub(super) fn advance_pending_join(&self, member: u64) {
        let mut outgoing = self.outgoing.lock();
        let (since, position) = (outgoing.number, outgoing.history.position());
        outgoing.pending_joins.postpone(member, since, position);
    }

    /// It joined, or will not.
    pub(super) fn remove_pending_join(&self, member: u64) {
        self.outgoing.lock().pending_joins.remove(member);
    }

    /// Adds a member; one that is there already stays as it was.
    ///
    /// What the history holds for it reaches the subscriber before anything newer does, and before this returns. Returns
    /// `None` when it was there already.
    pub(super) fn join(
        &self,
        member: u64,
        subscriber: &Arc<dyn Subscriber>,
        user: Option<Arc<User>>,
        options: &GroupOptions,
        start: Start,
    ) -> Option<Joined> {
        let mut members = self.members.lock();
        if members.slot_of.contains_key(&member) {
            return None;
        }
        let mut outgoing = self.outgoing.lock();
        if options.history > 0 {
            outgoing.history.keep(options);
        }
        if members.slot_of.is_empty() {
            outgoing.history.account.set_members(true);
        }
        let awaits_history =
            options.history > 0 && start != Start::Now && outgoing.history.wanted();
        outgoing.history.forget_old(Instant::now());
        let membership = Membership {
            member,
            shows_positions: options.recover,
            awaits_history,
            since: outgoing.number,
        };
        let mut replay = outgoing.history.resume(start, options.history > 0);
        if start == Start::Now
            && let Some(pending_from) = outgoing.pending_joins.position(member)
        {
            replay.from = pending_from; // what was sent since then is among the entries
        }
        outgoing.pending_joins.complete(member, &mut replay.entries);
        drop(outgoing);
        if options.recover {
            let recovered = matches!(start, Start::After(_)).then_some(replay.is_complete);
            subscriber.joined(replay.from, recovered);
        }
        if !replay.entries.is_empty() {
            let replayed = Membership {
                since: 0,
                awaits_history: false,
                ..membership.clone()
            };
            subscriber.deliver_history(&Batch::new(self.name.clone(), replay.entries), &replayed);
        }
        let slot = Some(Member {
            membership,
            subscriber: subscriber.clone(),
            user,
            presence: options.presence,
        });
        let at = members.free.pop().unwrap_or(members.slots.len());
        match members.slots.get_mut(at) {
            Some(free) => *free = slot,
            None => members.slots.push(slot),
        }
        members.slot_of.insert(member, at);
        self.len.fetch_add(1, Ordering::Relaxed);
        Some(Joined {
            from: replay.from,
            is_complete: replay.is_complete,
        })
    }

    /// Removes a member. Once this returns it is sent nothing more. Tells how it was present, if it was there.
    pub(super) fn leave(&self, member: u64) -> Option<Presence> {
        let mut members = self.members.lock();
        let at = members.slot_of.remove(&member)?;
        let left = members.slots[at].take();
        members.free.push(at);
        let mut outgoing = self.outgoing.lock();
        outgoing.touched = Instant::now();
        if members.free.len() == members.slots.len() {
            *members = MemberSlots::default();
            outgoing.history.account.set_members(false);
        }
        drop(outgoing);
        self.len.fetch_sub(1, Ordering::Relaxed);
        left.map(|left| left.presence)
    }

    /// Returns how many members there are.
    pub(super) fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    /// Tells whether somebody is there, or about to be.
    pub(super) fn is_needed(&self) -> bool {
        self.len() > 0 || !self.outgoing.lock().pending_joins.is_empty()
    }

    /// Returns who is there.
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

    /// Returns the place of the newest event that was kept.
    pub(super) fn position(&self) -> Position {
        self.outgoing.lock().history.position()
    }

    /// Does what is to be done with the history, under its lock.
    pub(super) fn with_history<T>(&self, act: impl FnOnce(&mut GroupHistory) -> T) -> T {
        act(&mut self.outgoing.lock().history)
    }

    /// Tells what is to become of a group without members. One that keeps a history is kept until its newest event has expired:
    /// a client may come back for what is sent meanwhile.
    pub(super) fn idle_state(&self, now: Instant) -> IdleState {
        let mut outgoing = self.outgoing.lock();
        outgoing.history.forget_old(now);
        let touched = outgoing.touched;
        match outgoing.history.is_worth_keeping(touched, now) {
            false => IdleState::Expired,
            true if outgoing.history.is_empty() => IdleState::Empty,
            true => IdleState::HasHistory,
        }
    }

    /// Forgets events to free memory: so many bytes of a group with members, all of one without. Returns how many events went.
    pub(super) fn evict(&self, bytes: usize) -> usize {
        let mut outgoing = self.outgoing.lock();
        let bytes = if self.len() == 0 { usize::MAX } else { bytes };
        outgoing.history.evict(bytes)
    }

    /// Completes when there is something new for those who wait until the group can be joined.
    pub(super) fn changed(&self) -> impl Future<Output = ()> + '_ {
        self.changed.notified()
    }

    /// It is heard, or its shared history was read.
    pub(super) fn notify_changed(&self) {
        self.changed.notify_waiters();
    }

    /// Returns its name.
    pub(super) fn name(&self) -> &GroupName {
        &self.name
    }

    /// Completes when the one who delivers has taken what waited.
    pub(super) async fn space(&self) {
        let waiting = self.space.notified();
        if self.outgoing.lock().delivering {
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
            finish(&batch);
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
            finish(&batch);
        }
    }

    fn take(&self) -> Option<Batch> {
        let mut outgoing = self.outgoing.lock();
        let mut entries = std::mem::take(&mut outgoing.entries);
        // One that is counted leaves alone.
        if let Some(at) = entries.iter().position(|entry| entry.tally.is_some())
            && at.max(1) < entries.len()
        {
            outgoing.entries = entries.split_off(at.max(1));
        }
        outgoing.bytes = outgoing.entries.iter().map(|left| left.event.size()).sum();
        outgoing.delivering = !entries.is_empty();
        drop(outgoing);
        self.space.notify_waiters();
        (!entries.is_empty()).then(|| Batch::new(self.name.clone(), entries))
    }

    fn deliver_some(&self, batch: &Batch, from: usize) -> Option<usize> {
        let members = self.members.lock();
        let to = members.slots.len().min(from + MEMBERS_AT_ONCE);
        for member in members.slots[from.min(to)..to].iter().flatten() {
            if member.membership.since < batch.last_number() {
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

fn finish(batch: &Batch) {
    if let Some(tally) = batch.tally() {
        tally.finish();
    }
}
