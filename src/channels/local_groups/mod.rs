//! LocalGroups: the groups and channels of this process, by name.
//!
//! Both the layer and the link to Redis work on it; it knows neither. Code that needs to know which
//! groups exist registers a [`GroupObserver`].

mod delivery;
mod sweep;

use std::cmp::Reverse;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::{Mutex, MutexGuard};

use super::channel_registry::ChannelRegistry;
use super::group::Group;
use super::history_budget::HistoryBudget;
use super::room_limit::RoomLimit;
use super::{
    GroupMember, GroupName, GroupOptions, Joined, LayerError, LayerSettings, Position, Presence,
    Start, Subscriber,
};
use crate::auth::User;
use crate::first_items::{FirstItems, ITEMS_PER_TURN};
use crate::tasks::Tasks;

/// Enough that a walk over 100,000 groups holds each lock for a moment only.
const SHARDS: usize = 64;

type Shard = HashMap<GroupName, Arc<Group>>;

/// Observes which groups this process has.
///
/// Both calls are made under the lock of the group's shard, so calls about one group come in the
/// order of its changes. They must not block and must not call into [`LocalGroups`].
pub(super) trait GroupObserver: Send + Sync {
    /// Called when a group gets its first member, or a member is about to join it.
    fn group_created(&self, group: &GroupName);

    /// Called when a group is removed: it has no member and keeps no events.
    fn group_removed(&self, group: &GroupName);

    /// Returns whether groups share their histories with other processes.
    fn shares_history(&self) -> bool;
}

/// The groups and channels of this process.
pub(super) struct LocalGroups {
    /// Identifies this process among all that ever ran: 52 random bits, which Lua and browsers
    /// represent exactly as a number.
    node: u64,
    /// The offset at which the history of a new group starts: after every offset that a removed
    /// group has used. If offsets started at 0 again, a client could return with a position of the
    /// removed group, find it in the new one, and miss events without noticing.
    first_offset: AtomicU64,
    hasher: RandomState,
    shards: Box<[Mutex<Shard>]>,
    channels: ChannelRegistry,
    history_budget: Arc<HistoryBudget>,
    room_limit: Arc<RoomLimit>,
    tasks: Tasks,
    observer: OnceLock<Arc<dyn GroupObserver>>,
}

/// A member that is about to join a group. While it exists, the group stays and retains the events
/// that the member would miss.
#[must_use]
pub struct PreparedJoin {
    groups: Arc<LocalGroups>,
    name: GroupName,
    member: u64,
    group: Arc<Group>,
}

impl Drop for PreparedJoin {
    fn drop(&mut self) {
        self.group.remove_pending_join(self.member);
        self.groups.remove_if_unused(&self.name);
    }
}

impl std::fmt::Debug for PreparedJoin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("PreparedJoin").field(&self.name).finish()
    }
}

impl PreparedJoin {
    pub(super) fn group(&self) -> &Group {
        &self.group
    }
}

impl LocalGroups {
    /// Creates an empty table; deliveries to large groups run among `tasks`.
    pub(super) fn new(settings: &LayerSettings, tasks: Tasks) -> Self {
        Self {
            node: fastrand::u64(1..) >> 12,
            first_offset: AtomicU64::new(0),
            hasher: RandomState::new(),
            shards: std::iter::repeat_with(Mutex::default)
                .take(SHARDS)
                .collect(),
            channels: ChannelRegistry::default(),
            history_budget: HistoryBudget::new(settings.history_size, settings.group_history_size),
            room_limit: RoomLimit::new(settings.max_rooms),
            tasks,
            observer: OnceLock::new(),
        }
    }

    /// Applies other bounds. The next event evicts the histories that exceed them.
    pub(super) fn reconfigure(&self, settings: &LayerSettings) {
        let (size, of_group) = (settings.history_size, settings.group_history_size);
        self.history_budget.set_sizes(size, of_group);
        self.room_limit.set_max(settings.max_rooms);
    }

    /// Sets the observer of the groups. Called once, before there is a group.
    pub(super) fn set_observer(&self, observer: Arc<dyn GroupObserver>) {
        let _ = self.observer.set(observer);
    }

    pub(super) fn node(&self) -> u64 {
        self.node
    }

    pub(super) fn channels(&self) -> &ChannelRegistry {
        &self.channels
    }

    pub(super) fn tasks(&self) -> &Tasks {
        &self.tasks
    }

    // --- Joining and leaving --------------------------------------------------------------------------------------------

    /// Creates the group if there is none, and retains events sent to it from now on until the
    /// member joins.
    pub(super) fn prepare_join(
        self: &Arc<Self>,
        name: &GroupName,
        options: &GroupOptions,
        member: u64,
    ) -> PreparedJoin {
        let mut shard = self.shard(name.as_str());
        let group = self.find_or_create(&mut shard, name);
        group.add_pending_join(member);
        group.set_options(options);
        if options.presence == Presence::Announced {
            group.begin_presence();
        }
        PreparedJoin {
            groups: self.clone(),
            name: name.clone(),
            member,
            group,
        }
    }

    /// Counts the group for the client's address, if no other address began it. If the address has
    /// reached its limit, refuses the join and removes an empty group.
    pub(super) fn claim_room(
        &self,
        prepared: PreparedJoin,
        client: IpAddr,
    ) -> Result<PreparedJoin, LayerError> {
        if prepared.group.claim_room(&self.room_limit, client).is_ok() {
            return Ok(prepared);
        }
        let name = prepared.name.clone();
        drop(prepared);
        self.remove_empty(&name); // no client has a position in it to return with
        metrics::counter!("oneport_rooms_refused_total").increment(1);
        Err(LayerError::TooManyRooms)
    }

    /// Adds a member. Returns its start; `None` if it is already in the group.
    pub(super) fn join(
        &self,
        name: &GroupName,
        member: u64,
        subscriber: &Arc<dyn Subscriber>,
        user: Option<Arc<User>>,
        options: &GroupOptions,
        start: Start,
    ) -> Option<Joined> {
        // Joins under the shard's lock: otherwise the group could be removed between lookup and
        // join.
        let mut shard = self.shard(name.as_str());
        let group = self.find_or_create(&mut shard, name);
        if options.presence == Presence::Announced {
            group.begin_presence();
        }
        group.join(member, subscriber, user, options, start)
    }

    /// Removes a member, and returns it if it was in the group. Once this returns, it receives
    /// nothing more.
    pub(super) fn leave(&self, name: &GroupName, member: u64) -> Option<GroupMember> {
        let shard = self.shard(name.as_str());
        shard.get(name).and_then(|group| group.leave(member))
    }

    // --- Looking up -----------------------------------------------------------------------------------------------------

    pub(super) fn find(&self, name: &str) -> Option<Arc<Group>> {
        self.shard(name).get(name).cloned()
    }

    /// Returns the number of groups.
    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }

    /// Returns the number of members of a group.
    pub(super) fn members_len(&self, name: &GroupName) -> usize {
        self.find(name.as_str()).map_or(0, |group| group.len())
    }

    /// Returns the members of a group.
    pub(super) fn members(&self, name: &GroupName) -> Vec<GroupMember> {
        let group = self.find(name.as_str());
        group.map(|group| group.members()).unwrap_or_default()
    }

    /// Returns the position of a group's newest event.
    pub(super) fn position(&self, name: &GroupName) -> Position {
        let group = self.find(name.as_str());
        group.map_or_else(|| self.first_position(), |group| group.position())
    }

    /// Returns the names and sizes of at most `limit` groups whose names contain a text, the
    /// largest first, and how many there are. A walk over many groups lets the worker serve others.
    pub(super) async fn largest(
        &self,
        contains: &str,
        limit: usize,
    ) -> (Vec<(GroupName, usize)>, usize) {
        let mut first = FirstItems::new(limit);
        let (mut matched, mut walked) = (0, 0);
        for shard in &self.shards {
            for (name, group) in shard.lock().iter() {
                walked += 1;
                if !name.as_str().contains(contains) {
                    continue;
                }
                matched += 1;
                let len = Reverse(group.len());
                let is_kept = |(last_len, last): &(_, GroupName)| (len, name) < (*last_len, last);
                if first.last_of_full().is_none_or(is_kept) {
                    first.push((len, name.clone()), ());
                }
            }
            if walked > ITEMS_PER_TURN {
                walked = 0;
                tokio::task::yield_now().await;
            }
        }
        let found = first.into_sorted();
        let found = found.map(|((Reverse(len), name), ())| (name, len));
        (found.collect(), matched)
    }

    /// Returns all groups.
    pub(super) fn all(&self) -> Vec<(GroupName, Arc<Group>)> {
        let mut all = Vec::new();
        for shard in &self.shards {
            let shard = shard.lock();
            all.extend(
                shard
                    .iter()
                    .map(|(name, group)| (name.clone(), group.clone())),
            );
        }
        all
    }

    #[cfg(test)]
    pub(super) fn history_budget(&self) -> &HistoryBudget {
        &self.history_budget
    }

    fn first_position(&self) -> Position {
        Position {
            epoch: self.node,
            offset: self.first_offset.load(Ordering::Relaxed),
        }
    }

    fn find_or_create(&self, shard: &mut Shard, name: &GroupName) -> Arc<Group> {
        if let Some(group) = shard.get(name) {
            return group.clone();
        }
        let observer = self.observer.get();
        let group = Arc::new(Group::new(
            name.clone(),
            self.first_position(),
            observer.is_some_and(|observer| observer.shares_history()),
            self.history_budget.clone(),
        ));
        shard.insert(name.clone(), group.clone());
        if let Some(observer) = observer {
            observer.group_created(name);
        }
        group
    }

    fn shard(&self, name: &str) -> MutexGuard<'_, Shard> {
        let at = usize::try_from(self.hasher.hash_one(name)).unwrap_or(0) % SHARDS;
        self.shards[at].lock()
    }
}
