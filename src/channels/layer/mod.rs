//! ChannelLayer: groups by name, channels by name, in this process and with Redis beyond it.

mod sweep;

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::{Mutex, MutexGuard};

use super::channel_registry::ChannelRegistry;
use super::group::Group;
use super::history_budget::HistoryBudget;
use super::mailbox;
use super::remote::Remote;
use super::room_limit::RoomLimit;
use super::{
    GroupMember, GroupName, GroupOptions, Joined, LayerError, LayerSettings, Mailbox, Position,
    Present, Start, Subscriber,
};
use crate::auth::User;
use crate::tasks::Tasks;

const SHARDS: usize = 16;

/// The groups and channels of one process, and through Redis those of the others (cheap to clone).
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// use oneport::channels::{ChannelLayer, Event, GroupName, GroupOptions, LayerSettings};
/// let layer = ChannelLayer::new(LayerSettings::default(), oneport::tasks::Tasks::default());
/// let room = GroupName::new("chat_lobby").unwrap();
/// let mailbox = layer.mailbox();
/// let member: std::sync::Arc<dyn oneport::channels::Subscriber> = mailbox.clone();
/// layer.group_add(&room, 7, &member, None, GroupOptions::default());
/// layer.group_send(&room, Event::text("hi"), None).await.unwrap();
/// assert_eq!(mailbox.receive().await.event.shown(), oneport::channels::event::Shown::Text("hi"));
/// # });
/// ```
#[derive(Clone)]
pub struct ChannelLayer(Arc<LayerInner>);

struct LayerInner {
    settings: LayerSettings,
    last_member: AtomicU64,
    /// Where the history of a new group begins.
    first_offset: AtomicU64,
    /// Names this process's life: no other has it, and none had it before.
    node: u64,
    hasher: RandomState,
    groups: [Mutex<HashMap<GroupName, Arc<Group>>>; SHARDS],
    channels: ChannelRegistry,
    history_budget: Arc<HistoryBudget>,
    room_limit: Arc<RoomLimit>,
    tasks: Tasks,
    remote: OnceLock<Remote>,
}

impl std::fmt::Debug for ChannelLayer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChannelLayer")
            .field("settings", &self.0.settings)
            .finish_non_exhaustive()
    }
}

/// Keeps a group from being let go until it was joined.
#[must_use]
pub struct PreparedJoin {
    layer: ChannelLayer,
    group: GroupName,
    member: u64,
    found: Arc<Group>,
}

impl Drop for PreparedJoin {
    fn drop(&mut self) {
        self.found.remove_pending_join(self.member);
        self.layer.remove_if_unused(&self.group);
    }
}

impl std::fmt::Debug for PreparedJoin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("PreparedJoin").field(&self.group).finish()
    }
}

impl ChannelLayer {
    /// An empty layer whose deliveries run among `tasks`.
    #[must_use]
    pub fn new(settings: LayerSettings, tasks: Tasks) -> Self {
        Self(Arc::new(LayerInner {
            history_budget: HistoryBudget::new(settings.history_size, settings.group_history_size),
            room_limit: RoomLimit::new(settings.max_rooms),
            settings,
            last_member: AtomicU64::new(0),
            first_offset: AtomicU64::new(0),
            node: fastrand::u64(1..) >> 12, // 52 bits: a browser can hold it as a number, as can Lua
            hasher: RandomState::new(),
            groups: Default::default(),
            channels: ChannelRegistry::default(),
            tasks,
            remote: OnceLock::new(),
        }))
    }

    /// Makes the layer one of several at a Redis. Called once, before anybody uses it.
    pub(crate) fn connect(&self, remote: Remote) {
        let run = remote.clone().run(self.clone());
        if self.0.remote.set(remote).is_ok() {
            self.0.tasks.spawn_last("channel layer's Redis", run);
        }
    }

    /// Returns the way to the other processes, when there is one.
    #[must_use]
    pub fn remote(&self) -> Option<&Remote> {
        self.0.remote.get()
    }

    /// Returns a number that no other member of this process has had.
    #[must_use]
    pub fn next_member(&self) -> u64 {
        self.0.last_member.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Makes a mailbox with this layer's bounds.
    #[must_use]
    pub fn mailbox(&self) -> Arc<Mailbox> {
        let LayerSettings {
            capacity, expiry, ..
        } = self.0.settings;
        Arc::new(Mailbox::new(capacity, mailbox::BYTES_MAX, expiry))
    }

    /// Waits until events from other processes reach a group here, and its shared history is known: what a member should do
    /// before it joins, while it holds what is returned. What is sent from then on it gets when it joins. Two seconds at most;
    /// without Redis at once.
    pub async fn prepare(
        &self,
        group: &GroupName,
        options: &GroupOptions,
        member: u64,
    ) -> PreparedJoin {
        let prepared = self.prepare_join(group, options, member);
        self.wait_until_ready(group, &prepared, member).await;
        prepared
    }

    /// Does the same for a client of that address. Fails when the group would be one too many with a history that clients of the
    /// address have begun.
    pub async fn begin(
        &self,
        group: &GroupName,
        options: &GroupOptions,
        member: u64,
        client: Option<IpAddr>,
    ) -> Result<PreparedJoin, LayerError> {
        let prepared = self.prepare_join(group, options, member);
        if options.history > 0
            && let Some(client) = client
            && prepared
                .found
                .claim_room(&self.0.room_limit, client)
                .is_err()
        {
            drop(prepared);
            self.remove_empty(group); // nobody may come back to it
            metrics::counter!("oneport_rooms_refused_total").increment(1);
            return Err(LayerError::TooManyRooms);
        }
        self.wait_until_ready(group, &prepared, member).await;
        Ok(prepared)
    }

    async fn wait_until_ready(&self, group: &GroupName, prepared: &PreparedJoin, member: u64) {
        if let Some(remote) = self.remote() {
            Box::pin(remote.wait_until_ready(group, &prepared.found)).await;
            prepared.found.advance_pending_join(member);
        }
    }

    /// Adds a member to a group; a member that is in it already stays as it was.
    ///
    /// The group's history reaches the subscriber first. `member` is the number that names it in the process. Events from
    /// other processes may come only a moment later, unless the group is [prepared](ChannelLayer::prepare).
    pub fn group_add(
        &self,
        group: &GroupName,
        member: u64,
        subscriber: &Arc<dyn Subscriber>,
        user: Option<Arc<User>>,
        options: GroupOptions,
    ) {
        self.group_resume(group, member, subscriber, user, options, Start::History);
    }

    /// Adds a member that says from where on it wants the group's events.
    ///
    /// Returns where it starts; `None` when it is in the group already.
    pub fn group_resume(
        &self,
        group: &GroupName,
        member: u64,
        subscriber: &Arc<dyn Subscriber>,
        user: Option<Arc<User>>,
        options: GroupOptions,
        start: Start,
    ) -> Option<Joined> {
        let name = user.as_ref().map(|user| user.name.clone());
        let joined = {
            // Under the shard's lock, so that the group is not let go between being found and being joined.
            let mut shard = self.shard(group);
            let found = self.find_or_create(&mut shard, group);
            found.join(member, subscriber, user, &options, start)
        };
        if joined.is_some()
            && let Some(remote) = self.remote()
        {
            remote.member_joined(group, member, name.as_deref(), options.presence);
        }
        joined
    }

    /// Removes a member from a group. Once this returns it is sent nothing more of it.
    pub fn group_discard(&self, group: &GroupName, member: u64) {
        let presence = {
            let shard = self.shard(group);
            shard.get(group).and_then(|found| found.leave(member))
        };
        if let (Some(remote), Some(presence)) = (self.remote(), presence) {
            remote.member_left(group, member, presence);
        }
        self.remove_if_unused(group);
    }

    /// Returns how many members a group has in this process.
    #[must_use]
    pub fn group_len(&self, group: &GroupName) -> usize {
        self.find(group.as_str()).map_or(0, |found| found.len())
    }

    /// Returns who the members of a group are, in this process.
    #[must_use]
    pub fn group_members(&self, group: &GroupName) -> Vec<GroupMember> {
        self.find(group.as_str())
            .map(|found| found.members())
            .unwrap_or_default()
    }

    /// Returns who is in a group, in all processes: those who joined with [`Presence::Tracked`](super::Presence::Tracked) or more. While Redis is away,
    /// those of this process.
    pub async fn group_present(&self, group: &GroupName) -> Present {
        if let Some(remote) = self.remote()
            && let Some(present) = Box::pin(remote.group_present(group)).await
        {
            return present;
        }
        let members = self.group_members(group).into_iter();
        Present {
            users: members
                .map(|member| member.user.map(|user| user.name.clone()))
                .collect(),
        }
    }

    /// Returns how many are in a group, as [`ChannelLayer::group_present`].
    pub async fn group_present_len(&self, group: &GroupName) -> usize {
        if let Some(remote) = self.remote()
            && let Some(len) = Box::pin(remote.group_present_len(group)).await
        {
            return len;
        }
        self.group_len(group)
    }

    /// Returns the place of a group's newest event in its history.
    #[must_use]
    pub fn group_position(&self, group: &GroupName) -> Position {
        self.find(group.as_str())
            .map_or_else(|| self.first_position(), |found| found.position())
    }

    /// Returns where the history of a new group begins: behind every position of the groups that were removed. If offsets began
    /// again, a client could return with a position of the group's last life, find it in the new one, and miss events silently.
    fn first_position(&self) -> Position {
        Position {
            epoch: self.0.node,
            offset: self.0.first_offset.load(Ordering::Relaxed),
        }
    }

    /// Returns the number that names this process's life.
    #[must_use]
    pub fn node(&self) -> u64 {
        self.0.node
    }

    /// Returns how many groups there are in this process.
    #[must_use]
    pub fn groups(&self) -> usize {
        self.0.groups.iter().map(|shard| shard.lock().len()).sum()
    }

    /// Returns the groups of this process.
    pub(super) fn all_groups(&self) -> Vec<(GroupName, Arc<Group>)> {
        let shards = self.0.groups.iter();
        shards
            .flat_map(|shard| {
                let shard = shard.lock();
                let groups = shard.iter();
                groups
                    .map(|(name, found)| (name.clone(), found.clone()))
                    .collect::<Vec<_>>()
            })
            .collect()
    }

    #[cfg(test)]
    pub(super) fn history_budget(&self) -> &HistoryBudget {
        &self.0.history_budget
    }

    pub(super) fn channels(&self) -> &ChannelRegistry {
        &self.0.channels
    }

    pub(super) fn tasks(&self) -> &Tasks {
        &self.0.tasks
    }

    fn prepare_join(&self, group: &GroupName, options: &GroupOptions, member: u64) -> PreparedJoin {
        let mut shard = self.shard(group);
        let found = self.find_or_create(&mut shard, group);
        found.add_pending_join(member);
        found.set_options(options);
        PreparedJoin {
            layer: self.clone(),
            group: group.clone(),
            member,
            found,
        }
    }

    fn find_or_create(
        &self,
        shard: &mut HashMap<GroupName, Arc<Group>>,
        group: &GroupName,
    ) -> Arc<Group> {
        if let Some(found) = shard.get(group) {
            return found.clone();
        }
        let remote = self.remote();
        let is_shared = remote.is_some_and(Remote::shares_history);
        let made = Arc::new(Group::new(
            group.clone(),
            self.first_position(),
            is_shared,
            self.0.history_budget.clone(),
        ));
        shard.insert(group.clone(), made.clone());
        if let Some(remote) = remote {
            remote.subscribe_group(group);
        }
        made
    }

    pub(super) fn find(&self, group: &str) -> Option<Arc<Group>> {
        self.shard(group).get(group).cloned()
    }

    fn shard(
        &self,
        group: &(impl std::borrow::Borrow<str> + ?Sized),
    ) -> MutexGuard<'_, HashMap<GroupName, Arc<Group>>> {
        let at = usize::try_from(self.0.hasher.hash_one(group.borrow())).unwrap_or(0) % SHARDS;
        self.0.groups[at].lock()
    }
}
