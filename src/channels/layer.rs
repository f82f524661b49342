//! ChannelLayer: groups by name, channels by name, in this process.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use thiserror::Error;

use super::group::{Group, Keep, Turn};
use super::mailbox::Received;
use super::{ChannelName, Delivery, Event, GroupName, Mailbox, Subscriber};
use crate::auth::User;
use crate::tasks::Tasks;
use crate::telemetry;

/// Up to this many members are served by the sender itself, at once; more by a task that shares the worker.
const MEMBERS_SERVED_INLINE: usize = 16;

/// How long a sender waits for room in a group whose members are being served.
const ROOM_DEADLINE: Duration = Duration::from_secs(5);

/// How often groups that nobody needs are let go.
const SWEEP_EVERY: Duration = Duration::from_secs(10);

/// How many groups without members may keep their history.
const REMEMBERED_GROUPS_MAX: usize = 10_000;

const SHARDS: usize = 16;

/// The bounds of a layer: `[channel_layer]` in the file.
#[derive(Clone, Debug)]
pub struct LayerSettings {
    /// Events that wait in one mailbox at most.
    pub capacity: usize,
    /// How long an event may wait in a channel before it is of no use.
    pub expiry: Duration,
}

impl Default for LayerSettings {
    fn default() -> Self {
        Self {
            capacity: 100,
            expiry: Duration::from_secs(60),
        }
    }
}

/// What a group keeps beyond its members; the last member that joins with a history decides.
#[derive(Clone, Copy, Debug)]
pub struct GroupOptions {
    /// How many of the newest events are kept; 0 keeps none.
    pub history: usize,
    /// How long they are kept.
    pub history_expiry: Duration,
}

impl Default for GroupOptions {
    fn default() -> Self {
        Self {
            history: 0,
            history_expiry: Duration::from_secs(3600),
        }
    }
}

/// What became of an event sent to a group.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Sent {
    /// How many members the group had.
    pub matched: usize,
}

/// Why an event was not taken.
#[derive(Debug, Error)]
pub enum LayerError {
    /// The reader of the channel is too slow (Channels' `ChannelFull`).
    #[error("expected room in channel {channel}, found it full")]
    ChannelFull {
        /// The channel.
        channel: ChannelName,
    },
    /// Nobody reads the channel.
    #[error("expected a reader of channel {channel}, found none")]
    NoReader {
        /// The channel.
        channel: ChannelName,
    },
    /// Events for the group come faster than its members can be served.
    #[error("expected room in group {group} within {} seconds, found none", ROOM_DEADLINE.as_secs())]
    GroupFull {
        /// The group.
        group: GroupName,
    },
}

/// The groups and channels of one process (cheap to clone).
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
pub struct ChannelLayer(Arc<Inner>);

struct Inner {
    settings: LayerSettings,
    last_member: AtomicU64,
    /// Tells apart the offsets of this process's life from those of an earlier one.
    epoch: u64,
    hasher: RandomState,
    groups: [Mutex<HashMap<GroupName, Arc<Group>>>; SHARDS],
    channels: Mutex<HashMap<ChannelName, Weak<Mailbox>>>,
    tasks: Tasks,
}

impl std::fmt::Debug for ChannelLayer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChannelLayer")
            .field("settings", &self.0.settings)
            .finish_non_exhaustive()
    }
}

impl ChannelLayer {
    /// An empty layer whose deliveries run among `tasks`.
    #[must_use]
    pub fn new(settings: LayerSettings, tasks: Tasks) -> Self {
        Self(Arc::new(Inner {
            settings,
            last_member: AtomicU64::new(0),
            epoch: fastrand::u64(..) >> 12, // 52 bits: a browser can hold it as a number
            hasher: RandomState::new(),
            groups: Default::default(),
            channels: Mutex::default(),
            tasks,
        }))
    }

    /// Lets go of histories nobody needs any more, until the server stops.
    pub async fn sweep(self) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(SWEEP_EVERY) => self.forget(Instant::now()),
                () = self.0.tasks.stopping() => return,
            }
        }
    }

    /// Returns a number that no other member of this process has had.
    #[must_use]
    pub fn next_member(&self) -> u64 {
        self.0.last_member.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Makes a mailbox with this layer's bounds.
    #[must_use]
    pub fn mailbox(&self) -> Arc<Mailbox> {
        let LayerSettings { capacity, expiry } = self.0.settings;
        Arc::new(Mailbox::new(capacity, telemetry::MAILBOX_BYTES_MAX, expiry))
    }

    /// Adds a member to a group; a member that is in it already stays as it was.
    ///
    /// The group's history reaches the subscriber first. `member` is the number that names it in the process.
    pub fn group_add(
        &self,
        group: &GroupName,
        member: u64,
        subscriber: &Arc<dyn Subscriber>,
        user: Option<Arc<User>>,
        options: GroupOptions,
    ) {
        self.join(group, member, subscriber, user, &options, None);
    }

    /// Adds a member that was there before and has seen everything up to `after`.
    ///
    /// Returns whether nothing after it was missing from the history.
    pub fn group_resume(
        &self,
        group: &GroupName,
        member: u64,
        subscriber: &Arc<dyn Subscriber>,
        options: GroupOptions,
        after: u64,
    ) -> bool {
        self.join(group, member, subscriber, None, &options, Some(after))
    }

    /// Removes a member from a group. Once this returns it is sent nothing more of it.
    pub fn group_discard(&self, group: &GroupName, member: u64) {
        let mut shard = self.shard(group);
        let Some(found) = shard.get(group) else {
            return;
        };
        found.leave(member);
        if found.len() == 0 && found.remembered_since(Instant::now()).is_none() {
            shard.remove(group);
        }
    }

    /// Sends an event to every member, except the one named; in order for each sender, at most once for each member.
    ///
    /// Never waits for a slow member. When events come faster than the members can be served it waits for room, at most
    /// five seconds; then the event is dropped and counted.
    pub fn group_send<'a>(
        &'a self,
        group: &'a GroupName,
        event: Event,
        except: Option<u64>,
    ) -> impl Future<Output = Result<Sent, LayerError>> + Send + use<'a> {
        self.deliver(group, event, except, Keep::History)
    }

    /// Sends an event to every member, but does not keep it for those who join later.
    pub fn group_send_transient<'a>(
        &'a self,
        group: &'a GroupName,
        event: Event,
    ) -> impl Future<Output = Result<Sent, LayerError>> + Send + use<'a> {
        self.deliver(group, event, None, Keep::Nothing)
    }

    /// The wait for room is rare and stands on the heap: what every sender's task has room for is small.
    async fn deliver(
        &self,
        group: &GroupName,
        event: Event,
        except: Option<u64>,
        keep: Keep,
    ) -> Result<Sent, LayerError> {
        let full = match self.deliver_now(group, &event, except, keep) {
            Ok(sent) => return Ok(sent),
            Err(full) => full,
        };
        Box::pin(self.deliver_later(full, group, event, except, keep)).await
    }

    async fn deliver_later(
        &self,
        full: Arc<Group>,
        group: &GroupName,
        event: Event,
        except: Option<u64>,
        keep: Keep,
    ) -> Result<Sent, LayerError> {
        let mut full = full;
        loop {
            let room = tokio::time::timeout(ROOM_DEADLINE, full.room());
            if room.await.is_err() {
                telemetry::event_dropped("group_full");
                return Err(LayerError::GroupFull {
                    group: group.clone(),
                });
            }
            match self.deliver_now(group, &event, except, keep) {
                Ok(sent) => return Ok(sent),
                Err(still) => full = still,
            }
        }
    }

    /// Appends an event and sees that it is delivered. The error is the group that has no room.
    fn deliver_now(
        &self,
        group: &GroupName,
        event: &Event,
        except: Option<u64>,
        keep: Keep,
    ) -> Result<Sent, Arc<Group>> {
        let Some(found) = self.find(group) else {
            return Ok(Sent::default());
        };
        match found.append(event, except, keep) {
            Turn::Mine if found.len() <= MEMBERS_SERVED_INLINE => found.deliver_now(),
            Turn::Mine => self
                .0
                .tasks
                .spawn("group delivery", found.clone().deliver()),
            Turn::Theirs => {}
            Turn::Full => return Err(found),
        }
        Ok(Sent {
            matched: found.len(),
        })
    }

    /// Returns how many members a group has.
    #[must_use]
    pub fn group_len(&self, group: &GroupName) -> usize {
        self.find(group).map_or(0, |found| found.len())
    }

    /// Returns who the members of a group are, `None` for each that is anonymous.
    #[must_use]
    pub fn group_users(&self, group: &GroupName) -> Vec<Option<Arc<User>>> {
        self.find(group)
            .map(|found| found.users())
            .unwrap_or_default()
    }

    /// Returns the number of a group's newest event; with [`ChannelLayer::epoch`] it names a place in the group's history.
    #[must_use]
    pub fn group_offset(&self, group: &GroupName) -> u64 {
        self.find(group).map_or(0, |found| found.offset())
    }

    /// Returns the number that tells this layer's life from another's.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.0.epoch
    }

    /// Returns how many groups there are.
    #[must_use]
    pub fn groups(&self) -> usize {
        self.0.groups.iter().map(|shard| lock(shard).len()).sum()
    }

    /// Makes a channel of a new name, read through the mailbox; it ends when the mailbox is dropped.
    #[must_use]
    pub fn new_channel(&self) -> (ChannelName, Arc<Mailbox>) {
        let mailbox = self.mailbox();
        let mut channels = lock(&self.0.channels);
        loop {
            let text = format!("specific.{:016x}!{:016x}", self.0.epoch, fastrand::u64(..));
            let Ok(name) = ChannelName::new(&text) else {
                continue;
            };
            if channels.contains_key(&name) {
                continue;
            }
            channels.retain(|_, reader| reader.strong_count() > 0);
            channels.insert(name.clone(), Arc::downgrade(&mailbox));
            return (name, mailbox);
        }
    }

    /// Sends an event to one channel.
    pub fn send(&self, channel: &ChannelName, event: Event) -> Result<(), LayerError> {
        let reader = lock(&self.0.channels).get(channel).and_then(Weak::upgrade);
        let Some(reader) = reader else {
            return Err(LayerError::NoReader {
                channel: channel.clone(),
            });
        };
        match reader.push(Received { offset: 0, event }) {
            Delivery::Queued => Ok(()),
            Delivery::Dropped => Err(LayerError::ChannelFull {
                channel: channel.clone(),
            }),
        }
    }

    fn join(
        &self,
        group: &GroupName,
        member: u64,
        subscriber: &Arc<dyn Subscriber>,
        user: Option<Arc<User>>,
        options: &GroupOptions,
        after: Option<u64>,
    ) -> bool {
        // Under the shard's lock, so that the group is not let go between being found and being joined.
        let mut shard = self.shard(group);
        let found = shard
            .entry(group.clone())
            .or_insert_with(|| Arc::new(Group::new()));
        found.join(member, subscriber, user, options, after)
    }

    fn forget(&self, now: Instant) {
        let mut remembered = Vec::new();
        for shard in &self.0.groups {
            lock(shard).retain(|name, group| {
                if group.len() > 0 {
                    return true;
                }
                let since = group.remembered_since(now);
                remembered.extend(since.map(|since| (since, name.clone())));
                since.is_some()
            });
        }
        if remembered.len() > REMEMBERED_GROUPS_MAX {
            remembered.sort_unstable();
            let surplus = remembered.len() - REMEMBERED_GROUPS_MAX;
            for (_, name) in remembered.into_iter().take(surplus) {
                let mut shard = self.shard(&name);
                if shard.get(&name).is_some_and(|group| group.len() == 0) {
                    shard.remove(&name);
                }
            }
        }
        lock(&self.0.channels).retain(|_, reader| reader.strong_count() > 0);
    }

    fn find(&self, group: &GroupName) -> Option<Arc<Group>> {
        self.shard(group).get(group).cloned()
    }

    fn shard(&self, group: &GroupName) -> MutexGuard<'_, HashMap<GroupName, Arc<Group>>> {
        let at = usize::try_from(self.0.hasher.hash_one(group)).unwrap_or(0) % SHARDS;
        lock(&self.0.groups[at])
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
