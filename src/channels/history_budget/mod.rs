//! HistoryBudget: the memory of all groups' histories in this process, and which of them are
//! evicted.
//!
//! A history is charged in steps of [`STEP`] bytes, so most events take no lock of the budget.
//! Locks are taken in this order: a group's shard, its members, its outgoing events, then the
//! ledger. So a sender that evicts first picks a victim, then releases the ledger, and only then
//! looks up the group.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use metrics::{Counter, Gauge, counter, gauge};
use parking_lot::{Mutex, MutexGuard};

use super::GroupName;
use super::room_limit::{ClientNetwork, RoomPermit};

/// The step in which a history is charged.
pub(super) const STEP: usize = 1024;

/// The memory of a group besides its events: the group, its name, its entries in the tables.
pub(super) const GROUP_BYTES: usize = 1024;

/// How long a group without members and events is kept: a client that lost its connection before
/// the first event may return.
pub(super) const EMPTY_KEPT: Duration = Duration::from_secs(10);

/// The most such groups; beyond it, the oldest are removed at once.
const EMPTY_MAX: usize = 4096;

/// The memory of all histories.
pub(super) struct HistoryBudget {
    size_max: AtomicUsize,
    group_size_max: AtomicUsize,
    /// The sum of all charges. Written under the ledger's lock, and read without it for each event.
    bytes: AtomicUsize,
    state: Mutex<Ledger>,
    /// Held by the sender that evicts; other senders continue in the meantime.
    evicting: Mutex<()>,
    metrics: OnceLock<(Gauge, Gauge, Counter)>,
}

#[derive(Default)]
struct Ledger {
    slots: Vec<Option<AccountedGroup>>,
    free: Vec<usize>,
    /// Incremented with each use of a group.
    tick: u64,
    /// Groups without members, by the network of the client that began them.
    left: HashMap<Option<ClientNetwork>, Share>,
    /// The same networks, ordered by the memory of their groups.
    shares: BTreeSet<(usize, Option<ClientNetwork>)>,
    /// Groups with members, by their [`eviction_key`].
    joined: BTreeSet<(u32, u64, usize)>,
    /// Groups that were left before they had an event.
    empty: VecDeque<(Instant, GroupName)>,
}

/// The groups without members that clients of one network began.
#[derive(Default)]
struct Share {
    bytes: usize,
    /// Least recently used first.
    by_use: BTreeSet<(u64, usize)>,
}

/// A group that has a history.
struct AccountedGroup {
    group: GroupName,
    network: Option<ClientNetwork>,
    bytes: usize,
    tick: u64,
    has_members: bool,
}

/// The history to evict from next.
pub(super) struct Victim {
    pub(super) group: GroupName,
    /// The bytes by which all histories exceed the limit.
    pub(super) excess: usize,
    slot: usize,
}

impl HistoryBudget {
    /// Creates a budget of `size_max` bytes for all groups, of which one may take `group_size_max`.
    pub(super) fn new(size_max: usize, group_size_max: usize) -> Arc<Self> {
        Arc::new(Self {
            size_max: size_max.into(),
            group_size_max: group_size_max.min(size_max).into(),
            bytes: AtomicUsize::new(0),
            state: Mutex::default(),
            evicting: Mutex::default(),
            metrics: OnceLock::new(),
        })
    }

    /// Sets other sizes.
    pub(super) fn set_sizes(&self, size_max: usize, group_size_max: usize) {
        self.size_max.store(size_max, Ordering::Relaxed);
        let of_group = group_size_max.min(size_max);
        self.group_size_max.store(of_group, Ordering::Relaxed);
    }

    fn size_max(&self) -> usize {
        self.size_max.load(Ordering::Relaxed)
    }

    /// Returns whether histories exceed the limit.
    pub(super) fn is_over(&self) -> bool {
        self.bytes.load(Ordering::Relaxed) > self.size_max()
    }

    /// Returns a guard for the sender that evicts; `None` while another one does.
    pub(super) fn try_evict(&self) -> Option<MutexGuard<'_, ()>> {
        self.evicting.try_lock()
    }

    /// Returns the history to evict from, while all of them exceed the limit.
    ///
    /// Groups without members go first: the least recently used group of the network whose groups
    /// take the most. Then the largest group with members. Groups that no address began (clients on
    /// unix sockets, the server API, consumers of applications) count as one network, which is
    /// spared while it takes no more than half of the limit: otherwise many networks with small
    /// shares would evict it first.
    pub(super) fn victim(&self) -> Option<Victim> {
        let excess = self
            .bytes
            .load(Ordering::Relaxed)
            .checked_sub(self.size_max());
        let excess = excess.filter(|excess| *excess > 0)?;
        let state = self.state();
        let slot = state.first_left(self.size_max() / 2).or_else(|| {
            let (_, _, slot) = state.joined.last()?;
            Some(*slot)
        })?;
        let known = state.slots.get(slot)?.as_ref()?;
        Some(Victim {
            group: known.group.clone(),
            excess,
            slot,
        })
    }

    /// Moves a victim that freed nothing to the back of the queue.
    pub(super) fn postpone(&self, victim: &Victim) {
        let mut state = self.state();
        let is_it = |known: &AccountedGroup| known.group == victim.group;
        if state.known(victim.slot).is_some_and(is_it) {
            state.touch(victim.slot, |_| {});
        }
    }

    /// Counts events that were evicted.
    pub(super) fn count_evicted(&self, events: usize) {
        self.metrics().2.increment(events as u64);
    }

    /// Records a group that was left empty; if the list is full, returns the oldest group, to be
    /// removed.
    pub(super) fn left_empty(&self, group: &GroupName, now: Instant) -> Option<GroupName> {
        let mut state = self.state();
        state.empty.push_back((now, group.clone()));
        let is_full = state.empty.len() > EMPTY_MAX;
        let first = is_full.then(|| state.empty.pop_front()).flatten();
        first.map(|(_, group)| group)
    }

    /// Forgets groups that were left without events, once that is long enough ago.
    pub(super) fn forget_empty(&self, now: Instant) {
        let mut state = self.state();
        let is_due = |(left, _): &(Instant, GroupName)| now.duration_since(*left) >= EMPTY_KEPT;
        while state.empty.front().is_some_and(is_due) {
            state.empty.pop_front();
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "gauges")]
    fn publish(&self, bytes: usize, groups: usize) {
        let (of_bytes, of_groups, _) = self.metrics();
        of_bytes.set(bytes as f64);
        of_groups.set(groups as f64);
    }

    fn metrics(&self) -> &(Gauge, Gauge, Counter) {
        self.metrics.get_or_init(|| {
            (
                gauge!("oneport_history_bytes"),
                gauge!("oneport_history_groups"),
                counter!("oneport_history_evicted_total"),
            )
        })
    }

    fn state(&self) -> MutexGuard<'_, Ledger> {
        self.state.lock()
    }

    /// Asserts that all indexes agree; returns bytes charged and number of groups.
    #[cfg(test)]
    pub(super) fn audit(&self) -> (usize, usize) {
        let state = self.state();
        let known: Vec<&AccountedGroup> = state.slots.iter().flatten().collect();
        let sum: usize = known.iter().map(|known| known.bytes).sum();
        assert_eq!(sum, self.bytes.load(Ordering::Relaxed));
        assert_eq!(known.len(), state.len());
        let left = known.iter().filter(|known| !known.has_members);
        let of_left: usize = left.clone().map(|known| known.bytes).sum();
        let of_shares: usize = state.left.values().map(|share| share.bytes).sum();
        let uses: usize = state.left.values().map(|share| share.by_use.len()).sum();
        assert_eq!((of_shares, uses), (of_left, left.count()));
        let shares = state
            .left
            .iter()
            .map(|(network, share)| (share.bytes, *network));
        assert_eq!(shares.collect::<BTreeSet<_>>(), state.shares);
        assert_eq!(state.joined.len(), known.len() - uses);
        (sum, known.len())
    }

    /// Returns whether a group without members has a history.
    #[cfg(test)]
    pub(super) fn has_left(&self) -> bool {
        !self.state().left.is_empty()
    }
}

impl Ledger {
    fn known(&self, slot: usize) -> Option<&AccountedGroup> {
        self.slots.get(slot)?.as_ref()
    }

    /// `reserved`: how many bytes of groups that no address began are spared while there are
    /// others.
    fn first_left(&self, reserved: usize) -> Option<usize> {
        let is_spared = |(bytes, network): &&(usize, Option<ClientNetwork>)| {
            network.is_none() && *bytes <= reserved
        };
        let mut largest = self.shares.iter().rev();
        let (_, network) = largest
            .find(|share| !is_spared(share))
            .or_else(|| self.shares.last())?;
        let (_, slot) = self.left.get(network)?.by_use.first()?;
        Some(*slot)
    }

    fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    fn add(&mut self, known: AccountedGroup) -> usize {
        let slot = self.free.pop().unwrap_or(self.slots.len());
        match self.slots.get_mut(slot) {
            Some(free) => *free = Some(known),
            None => self.slots.push(Some(known)),
        }
        self.enter(slot);
        slot
    }

    fn remove(&mut self, slot: usize) {
        self.withdraw(slot);
        self.slots[slot] = None;
        self.free.push(slot);
        if self.free.len() == self.slots.len() {
            (self.slots, self.free) = (Vec::new(), Vec::new());
        }
    }

    /// Changes a group that is in use.
    fn touch(&mut self, slot: usize, change: impl FnOnce(&mut AccountedGroup)) {
        self.withdraw(slot);
        self.tick += 1;
        let tick = self.tick;
        if let Some(known) = self.slots.get_mut(slot).and_then(Option::as_mut) {
            change(known);
            known.tick = tick;
        }
        self.enter(slot);
    }

    /// Adds a group to the indexes.
    fn enter(&mut self, slot: usize) {
        let Some(known) = self.slots.get(slot).and_then(Option::as_ref) else {
            return;
        };
        if known.has_members {
            self.joined.insert(eviction_key(known, slot));
            return;
        }
        let share = self.left.entry(known.network).or_default();
        self.shares.remove(&(share.bytes, known.network));
        share.bytes += known.bytes;
        share.by_use.insert((known.tick, slot));
        self.shares.insert((share.bytes, known.network));
    }

    /// Removes a group from the indexes.
    fn withdraw(&mut self, slot: usize) {
        let Some(known) = self.slots.get(slot).and_then(Option::as_ref) else {
            return;
        };
        if known.has_members {
            self.joined.remove(&eviction_key(known, slot));
            return;
        }
        let Some(share) = self.left.get_mut(&known.network) else {
            return;
        };
        self.shares.remove(&(share.bytes, known.network));
        share.bytes -= known.bytes;
        share.by_use.remove(&(known.tick, slot));
        if share.by_use.is_empty() {
            self.left.remove(&known.network);
        } else {
            self.shares.insert((share.bytes, known.network));
        }
    }
}

/// Orders groups with members: by the power of two of their size, then most recently used first.
/// The last one is evicted first.
fn eviction_key(known: &AccountedGroup, slot: usize) -> (u32, u64, usize) {
    (known.bytes.ilog2(), u64::MAX - known.tick, slot)
}

/// The charge for one group's history, returned on drop.
pub(super) struct Account {
    history_budget: Arc<HistoryBudget>,
    group: GroupName,
    /// Held while the group counts for the address that began it.
    pub(super) room_permit: Option<RoomPermit>,
    has_members: bool,
    charged: usize,
    slot: Option<usize>,
}

impl Account {
    pub(super) fn new(history_budget: Arc<HistoryBudget>, group: GroupName) -> Self {
        Self {
            history_budget,
            group,
            room_permit: None,
            has_members: false,
            charged: 0,
            slot: None,
        }
    }

    pub(super) fn group_size_max(&self) -> usize {
        self.history_budget.group_size_max.load(Ordering::Relaxed)
    }

    /// Called when the group gets its first member, and when its last one has left.
    pub(super) fn set_members(&mut self, has_members: bool) {
        self.has_members = has_members;
        if let Some(slot) = self.slot {
            let mut state = self.history_budget.state();
            state.touch(slot, |known| known.has_members = has_members);
        }
    }

    /// Charges the bytes that the history takes now; 0 if it is empty.
    #[inline]
    pub(super) fn settle(&mut self, bytes: usize) {
        let charged = charge_for(bytes);
        if charged != self.charged {
            self.charge(charged);
        }
    }

    fn charge(&mut self, charged: usize) {
        let before = std::mem::replace(&mut self.charged, charged);
        let history_budget = &self.history_budget;
        let mut state = history_budget.state();
        match self.slot {
            Some(slot) if charged == 0 => {
                state.remove(slot);
                self.slot = None;
            }
            Some(slot) => change(&mut state, slot, charged),
            None => {
                state.tick += 1;
                let known = AccountedGroup {
                    group: self.group.clone(),
                    network: self.room_permit.as_ref().map(RoomPermit::network),
                    bytes: charged,
                    tick: state.tick,
                    has_members: self.has_members,
                };
                self.slot = Some(state.add(known));
            }
        }
        // Under the ledger's lock, so that the sum and the gauges agree with it.
        let bytes = history_budget.bytes.load(Ordering::Relaxed) + charged - before;
        history_budget.bytes.store(bytes, Ordering::Relaxed);
        history_budget.publish(bytes, state.len());
    }
}

/// Returns the charge for a history of `bytes`.
pub(super) fn charge_for(bytes: usize) -> usize {
    if bytes == 0 {
        return 0;
    }
    (bytes + GROUP_BYTES).next_multiple_of(STEP)
}

/// Changes the charge of a history.
fn change(state: &mut Ledger, slot: usize, charged: usize) {
    let known = state.slots.get_mut(slot).and_then(Option::as_mut);
    if let Some(known) = known
        && known.has_members
        && known.bytes.ilog2() == charged.ilog2()
    {
        known.bytes = charged; // its eviction key is the same
        return;
    }
    state.touch(slot, |known| known.bytes = charged);
}

impl Drop for Account {
    fn drop(&mut self) {
        self.settle(0);
    }
}

#[cfg(test)]
mod tests;
