//! ChannelLayer: groups and channels by name, in this process and, with Redis, in all others.

mod channels;
mod send;

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

use super::local_groups::{LocalGroups, PreparedJoin};
use super::mailbox;
use super::presence::PresenceChange;
use super::remote::Remote;
use super::{
    ConnectionId, GroupMember, GroupName, GroupOptions, Joined, LayerError, LayerSettings, Mailbox,
    Position, Presence, Present, Seen, Start, Subscriber,
};
use crate::auth::User;
use crate::config::ChannelLayerConfig;
use crate::tasks::Tasks;

/// How often groups that are no longer needed are removed.
const SWEEP_INTERVAL: Duration = Duration::from_secs(10);

/// The groups and channels of one process and, through Redis, those of the others (cheap to clone).
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
    /// The bounds of new mailboxes; the others are where they are kept.
    settings: ArcSwap<LayerSettings>,
    last_member: AtomicU64,
    local: Arc<LocalGroups>,
    remote: OnceLock<Remote>,
}

impl std::fmt::Debug for ChannelLayer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChannelLayer")
            .field("settings", &self.0.settings)
            .finish_non_exhaustive()
    }
}

impl ChannelLayer {
    /// Creates a layer for this process alone. Deliveries to large groups run among `tasks`.
    #[must_use]
    pub fn new(settings: LayerSettings, tasks: Tasks) -> Self {
        Self(Arc::new(LayerInner {
            local: Arc::new(LocalGroups::new(&settings, tasks)),
            settings: ArcSwap::from_pointee(settings),
            last_member: AtomicU64::new(0),
            remote: OnceLock::new(),
        }))
    }

    /// Connects the layer to those of other processes, if the configuration names a Redis. Called
    /// once, before the layer is used.
    pub(crate) fn connect(&self, config: &ChannelLayerConfig) {
        let Some(remote) = Remote::new(config, self.0.local.clone()) else {
            return;
        };
        let run = remote.clone().run();
        if self.0.remote.set(remote).is_ok() {
            let tasks = self.0.local.tasks();
            tasks.spawn_last("channel layer's Redis", run);
        }
    }

    /// Applies the bounds of a configuration: to new mailboxes, and to the histories and groups that
    /// there are.
    pub(crate) fn reconfigure(&self, config: &ChannelLayerConfig) {
        let settings = LayerSettings::from(config);
        self.0.local.reconfigure(&settings);
        if let Some(remote) = self.remote() {
            remote.reconfigure(&settings);
        }
        self.0.settings.store(Arc::new(settings));
    }

    /// Returns the link to the other processes; `None` without Redis.
    #[must_use]
    pub fn remote(&self) -> Option<&Remote> {
        self.0.remote.get()
    }

    /// Returns a number that no other member of this process has had.
    #[must_use]
    pub fn next_member(&self) -> u64 {
        self.0.last_member.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Creates a mailbox with the layer's bounds.
    #[must_use]
    pub fn mailbox(&self) -> Arc<Mailbox> {
        let LayerSettings {
            capacity, expiry, ..
        } = **self.0.settings.load();
        Arc::new(Mailbox::new(capacity, mailbox::BYTES_MAX, expiry))
    }

    /// Periodically removes expired events and unneeded groups and channels, until the server
    /// stops.
    pub async fn sweep(self) {
        let tasks = self.0.local.tasks().clone();
        loop {
            tokio::select! {
                () = tokio::time::sleep(SWEEP_INTERVAL) => self.sweep_expired(Instant::now()),
                () = tasks.stopping() => return,
            }
        }
    }

    pub(in crate::channels) fn sweep_expired(&self, now: Instant) {
        self.0.local.sweep_expired(now);
        let closed = self.0.local.channels().remove_closed();
        if let Some(remote) = self.remote() {
            closed
                .iter()
                .for_each(|channel| remote.channel_closed(channel));
        }
    }

    // --- Joining and leaving --------------------------------------------------------------------------------------------

    /// Waits until events from other processes reach the group and its shared history has been
    /// read: at most two seconds, and not at all without Redis. Call it before the member joins,
    /// and keep the result until it has joined: the member receives everything sent since this
    /// returned.
    pub async fn prepare(
        &self,
        group: &GroupName,
        options: &GroupOptions,
        member: u64,
    ) -> PreparedJoin {
        let prepared = self.0.local.prepare_join(group, options, member);
        self.wait_until_ready(group, &prepared, member).await;
        prepared
    }

    /// Like [`prepare`](ChannelLayer::prepare), for a client of that address. Fails if clients of
    /// the address have already begun as many groups with a history as they may, and this would be
    /// one more.
    pub async fn begin(
        &self,
        group: &GroupName,
        options: &GroupOptions,
        member: u64,
        client: Option<IpAddr>,
    ) -> Result<PreparedJoin, LayerError> {
        let mut prepared = self.0.local.prepare_join(group, options, member);
        if options.history > 0
            && let Some(client) = client
        {
            prepared = self.0.local.claim_room(prepared, client)?;
        }
        self.wait_until_ready(group, &prepared, member).await;
        Ok(prepared)
    }

    /// Checks, before a client returns with a position, that this process has received the group's
    /// events up to it. If the client has seen more of a shared history, that is read first. In
    /// `channels_redis.core`, if this process may have missed events since, the history starts
    /// another epoch, and the client learns that it cannot be recovered. Call it after the group was
    /// prepared. Waits for Redis only in these cases.
    pub async fn confirm_history(&self, group: &GroupName, prepared: &PreparedJoin, since: &Seen) {
        if let Some(remote) = self.remote() {
            let found = prepared.group();
            Box::pin(remote.confirm_membership(group, found)).await;
            Box::pin(remote.catch_up(group, found, since.position)).await;
        }
    }

    async fn wait_until_ready(&self, group: &GroupName, prepared: &PreparedJoin, member: u64) {
        if let Some(remote) = self.remote() {
            Box::pin(remote.wait_until_ready(group, prepared.group())).await;
            prepared.group().advance_pending_join(member);
        }
    }

    /// Adds a member to a group. A member that is already in it is left unchanged.
    ///
    /// The group's history reaches the subscriber first. `member` is the number that names it in
    /// the process. Events from other processes may start to arrive a moment later, unless the
    /// group is [prepared](ChannelLayer::prepare).
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

    /// Adds a member that chooses where in the group's history it starts.
    ///
    /// Returns its start; `None` if it is already in the group.
    pub fn group_resume(
        &self,
        group: &GroupName,
        member: u64,
        subscriber: &Arc<dyn Subscriber>,
        user: Option<Arc<User>>,
        options: GroupOptions,
        start: Start,
    ) -> Option<Joined> {
        let local = &self.0.local;
        let presence = options.presence;
        let new = GroupMember {
            member,
            user: user.clone(),
            presence,
        };
        let joined = local.join(group, member, subscriber, user, &options, start);
        if joined.is_some() && presence != Presence::Untracked {
            match self.remote() {
                Some(remote) => remote.member_joined(group, &new),
                None => self.change_presence(group, &new, PresenceChange::join),
            }
        }
        joined
    }

    /// Removes a member from a group. Once this returns, the member receives nothing more from it.
    pub fn group_discard(&self, group: &GroupName, member: u64) {
        if let Some(left) = self.0.local.leave(group, member)
            && left.presence != Presence::Untracked
        {
            match self.remote() {
                Some(remote) => remote.member_left(group, &left),
                None => self.change_presence(group, &left, PresenceChange::leave),
            }
        }
        self.0.local.remove_if_unused(group);
    }

    /// Tells the group that a member joined or left, if it is announced.
    fn change_presence(
        &self,
        group: &GroupName,
        member: &GroupMember,
        change: fn(ConnectionId, Option<Box<str>>) -> PresenceChange,
    ) {
        if member.presence == Presence::Announced {
            let change = change(member.id(self.node()), member.user_name());
            self.0.local.change_presence(group, &change, None);
        }
    }

    // --- Looking up -----------------------------------------------------------------------------------------------------

    /// Returns the number of members that a group has in this process.
    #[must_use]
    pub fn group_len(&self, group: &GroupName) -> usize {
        self.0.local.members_len(group)
    }

    /// Returns the members of a group in this process.
    #[must_use]
    pub fn group_members(&self, group: &GroupName) -> Vec<GroupMember> {
        self.0.local.members(group)
    }

    /// Returns the users in a group, over all processes: the members that joined with
    /// [`Presence::Tracked`](super::Presence::Tracked) or more. Without a connection to Redis, those
    /// of this process, and the announced ones of the others that its members have been told of.
    pub async fn group_present(&self, group: &GroupName) -> Present {
        if let Some(remote) = self.remote()
            && let Some(present) = Box::pin(remote.group_present(group)).await
        {
            return present;
        }
        let local = &self.0.local;
        let mut users: Vec<_> = local
            .members(group)
            .into_iter()
            .filter(|member| member.presence != Presence::Untracked)
            .map(|member| member.user.map(|user| user.name.clone()))
            .collect();
        if let Some(found) = local.find(group.as_str()) {
            users.extend(found.foreign_users(self.node()));
        }
        Present { users }
    }

    /// Returns the position of the newest event in a group's history.
    #[must_use]
    pub fn group_position(&self, group: &GroupName) -> Position {
        self.0.local.position(group)
    }

    /// Returns the number that identifies this process among all that ever ran.
    #[must_use]
    pub fn node(&self) -> u64 {
        self.0.local.node()
    }

    /// Returns the names and sizes of at most `limit` groups of this process whose names contain a
    /// text, the largest first, and how many there are.
    pub async fn largest_groups(
        &self,
        contains: &str,
        limit: usize,
    ) -> (Vec<(GroupName, usize)>, usize) {
        self.0.local.largest(contains, limit).await
    }

    /// Returns the number of groups in this process.
    #[must_use]
    pub fn groups(&self) -> usize {
        self.0.local.len()
    }

    #[cfg(test)]
    pub(super) fn local(&self) -> &LocalGroups {
        &self.0.local
    }
}

#[cfg(test)]
mod tests;
