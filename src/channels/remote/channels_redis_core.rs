//! Core: the format of `channels_redis.core`, in which each process has an inbox and a group is a
//! list of channels.
//!
//! A process joins a group with one channel of its own, however many members it has in the group.
//! So a sender writes one message into the inbox of each process.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use memchr::memmem;
use parking_lot::Mutex;
use redis::Value;
use tokio::sync::Notify;

use super::channels_redis_codec::{ChannelsRedisCodec, EncodedEvent, Recipients};
use super::hash_ring::HashRing;
use super::scripts::ENQUEUE;
use crate::channels::GroupName;
use crate::config::ChannelLayerConfig;
use crate::telemetry;

/// The random bytes before each message: a sorted set keeps equal members only once.
pub(super) const RANDOM_PREFIX: usize = 12;

/// The number of groups that join or leave in one pipeline.
const CHANGES_AT_ONCE: usize = 1000;

/// The number of commands that join a group.
const JOIN_COMMANDS: usize = 3;

/// Keeps this process in its groups, and makes the keys and commands of the format.
pub(super) struct ChannelsRedisCore {
    prefix: String,
    /// Identifies this process among all that use the Redis.
    client: String,
    capacity: AtomicUsize,
    expiry: AtomicU64,
    group_expiry: u64,
    ring: HashRing,
    state: Mutex<CoreGroups>,
    work: Notify,
    /// The score of the newest message in microseconds: no two messages of this process have the
    /// same score.
    last_score: Mutex<u64>,
}

#[derive(Default)]
struct CoreGroups {
    groups: HashMap<GroupName, CoreGroup>,
    /// The group of each local part of our channels' names.
    of_local: HashMap<String, GroupName>,
    changed: BTreeSet<GroupName>,
}

struct CoreGroup {
    local: String,
    is_wanted: bool,
    listing: Listing,
}

/// Whether Redis lists this process in a group.
///
/// ```text
///           changes, if wanted       confirmed         changes, if wanted
///   New,  ─────────────────────▶ Joining ────▶ Listed ────────────────────▶ Confirming
///   None                                       │ │  ▲                           │
///    ▲                                         │ │  └───────── confirmed ───────┘
///    ├──── confirmed ──── Leaving ◀────────────┘ │
///    │                changes, if not wanted     │
///    └───── reset, rejoin ───────────────────────┘
/// ```
///
/// A group that is New was never sent to Redis: without a connection, one that is no longer wanted
/// leaves nothing.
///
/// A process that joins again learns from the reply to ZADD whether it was still listed. If it was
/// not, events of others may be missing since.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Listing {
    New,
    None,
    Joining,
    Listed,
    Confirming,
    Leaving,
}

/// Groups to join and to leave, with the name of our channel in each.
pub(super) struct GroupChanges {
    pub(super) join: Vec<(GroupName, String)>,
    pub(super) leave: Vec<(GroupName, String)>,
}

/// The length of the unique part of a channel's name.
const LOCAL_LEN: usize = 32;

/// Groups that this process has joined, and that did not list it before.
#[derive(Default)]
pub(super) struct ConfirmedJoins {
    pub(super) added: Vec<GroupName>,
    /// Those of them that it had joined earlier.
    pub(super) lost: Vec<GroupName>,
}

/// Returns the unique part of a channel's name.
pub(super) fn random_hex() -> String {
    format!("{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..))
}

impl CoreGroups {
    fn remove(&mut self, group: &GroupName) {
        self.changed.remove(group);
        if let Some(removed) = self.groups.remove(group) {
            self.of_local.remove(&removed.local);
        }
    }
}

impl ChannelsRedisCore {
    pub(super) fn new(config: &ChannelLayerConfig, servers: usize) -> Self {
        let prefix = config.prefix();
        Self {
            ring: HashRing::new(servers, Some(prefix)),
            prefix: prefix.to_owned(),
            capacity: config.capacity.into(),
            expiry: config.expiry.as_secs().into(),
            group_expiry: config.group_expiry.as_secs(),
            client: random_hex(),
            state: Mutex::default(),
            work: Notify::new(),
            last_score: Mutex::default(),
        }
    }

    /// Sets the bounds of messages that are sent from now on.
    pub(super) fn set_bounds(&self, capacity: usize, expiry: Duration) {
        self.capacity.store(capacity, Ordering::Relaxed);
        self.expiry.store(expiry.as_secs(), Ordering::Relaxed);
    }

    /// Returns the local part of a new channel's name.
    ///
    /// With several servers, Django's `send` hashes the whole name to choose a server, and
    /// `group_send` the part before the `!`. Only a name for which both choose the same server is
    /// returned.
    pub(super) fn new_local(&self) -> String {
        let shared = self.ring.hash(&self.channel(""));
        loop {
            let local = random_hex();
            if self.ring.hash(&self.channel(&local)) == shared {
                return local;
            }
        }
    }

    /// Returns the name of one of our channels.
    pub(super) fn channel(&self, local: &str) -> String {
        format!("specific.{}!{local}", self.client)
    }

    /// Returns the key of our inbox.
    pub(super) fn inbox(&self) -> String {
        format!("{}specific.{}!", self.prefix, self.client)
    }

    /// Returns the key of a channel's messages. The channels of a process share one.
    pub(super) fn key_of(&self, channel: &str) -> String {
        let shared = channel.find('!').map_or(channel, |mark| &channel[..=mark]);
        format!("{}{shared}", self.prefix)
    }

    pub(super) fn group_key(&self, group: &str) -> String {
        format!("{}:group:{group}", self.prefix)
    }

    pub(super) fn set_wanted(&self, group: &GroupName, is_wanted: bool) {
        let mut state = self.state.lock();
        if !state.groups.contains_key(group) {
            let local = self.new_local();
            state.of_local.insert(local.clone(), group.clone());
            let joined = CoreGroup {
                local,
                is_wanted: !is_wanted,
                listing: Listing::New,
            };
            state.groups.insert(group.clone(), joined);
        }
        if let Some(joined) = state.groups.get_mut(group)
            && joined.is_wanted != is_wanted
        {
            joined.is_wanted = is_wanted;
            if joined.listing == Listing::New && !is_wanted {
                state.remove(group);
            } else {
                state.changed.insert(group.clone());
            }
        }
        drop(state);
        self.work.notify_one();
    }

    /// Returns whether Redis lists this process in a group, as far as this process knows. Not while
    /// it asks.
    pub(super) fn is_joined(&self, group: &GroupName) -> bool {
        let state = self.state.lock();
        let found = state.groups.get(group);
        found.is_some_and(|joined| joined.listing == Listing::Listed)
    }

    /// Returns the command that asks whether Redis lists this process in a group.
    pub(super) fn ask_listed(&self, group: &GroupName) -> Option<redis::Cmd> {
        let state = self.state.lock();
        let joined = state.groups.get(group)?;
        let mut ask = redis::cmd("ZSCORE");
        ask.arg(self.group_key(group.as_str()))
            .arg(self.channel(&joined.local));
        Some(ask)
    }

    /// Returns the group of one of our channels.
    pub(super) fn group_of(&self, channel: &str) -> Option<GroupName> {
        let (client, local) = channel.strip_prefix("specific.")?.split_once('!')?;
        if client != self.client {
            return None;
        }
        self.state.lock().of_local.get(local).cloned()
    }

    /// Returns the group that a message is for, if its content could not be read.
    pub(super) fn group_in(&self, message: &[u8]) -> Option<GroupName> {
        let client = self.channel("");
        let at = memmem::find(message, client.as_bytes())? + client.len();
        let local = message.get(at..at + LOCAL_LEN)?;
        let local = std::str::from_utf8(local).ok()?;
        self.state.lock().of_local.get(local).cloned()
    }

    /// Joins all groups as if for the first time, on another connection. Returns their number.
    pub(super) fn reset(&self) -> usize {
        for joined in self.state.lock().groups.values_mut() {
            if joined.listing != Listing::New {
                joined.listing = Listing::None;
            }
        }
        self.reapply_all()
    }

    /// Joins all groups again: before Redis expires them, or because it may list this process no
    /// longer. Returns their number.
    pub(super) fn reapply_all(&self) -> usize {
        let mut state = self.state.lock();
        let names: Vec<_> = state.groups.keys().cloned().collect();
        let count = names.len();
        state.changed.extend(names);
        drop(state);
        self.work.notify_one();
        count
    }

    /// Called when Redis does not list this process in a group: joins the group again. Returns
    /// false if another task is already asking Redis about it.
    pub(super) fn rejoin(&self, group: &GroupName) -> bool {
        let mut state = self.state.lock();
        let found = state.groups.get_mut(group);
        let Some(joined) = found.filter(|joined| joined.listing == Listing::Listed) else {
            return false;
        };
        joined.listing = Listing::None;
        state.changed.insert(group.clone());
        drop(state);
        self.work.notify_one();
        true
    }

    pub(super) async fn changed(&self) {
        self.work.notified().await;
    }

    /// Takes the next changes; empty if there is no difference.
    pub(super) fn changes(&self) -> GroupChanges {
        let mut state = self.state.lock();
        let mut changes = GroupChanges {
            join: Vec::new(),
            leave: Vec::new(),
        };
        while changes.join.len() + changes.leave.len() < CHANGES_AT_ONCE
            && let Some(group) = state.changed.pop_first()
        {
            let Some(joined) = state.groups.get_mut(&group) else {
                continue;
            };
            let channel = self.channel(&joined.local);
            if joined.is_wanted {
                joined.listing = match joined.listing {
                    Listing::Listed | Listing::Confirming => Listing::Confirming,
                    _ => Listing::Joining,
                };
                changes.join.push((group, channel));
            } else {
                joined.listing = Listing::Leaving;
                changes.leave.push((group, channel));
            }
        }
        changes
    }

    /// Called when Redis has made the changes. A group whose wanted state has changed since is
    /// changed again.
    pub(super) fn confirmed(&self, changes: &GroupChanges, replies: &[Value]) -> ConfirmedJoins {
        let mut joins = ConfirmedJoins::default();
        let mut state = self.state.lock();
        // `commands` has the reply to ZADD after that to HSET.
        let added = replies.chunks(JOIN_COMMANDS).map(|own| own.get(1));
        for ((group, _), added) in changes.join.iter().zip(added) {
            let Some(joined) = state.groups.get_mut(group) else {
                continue;
            };
            if added == Some(&Value::Int(1)) {
                joins.added.push(group.clone());
                if joined.listing == Listing::Confirming {
                    joins.lost.push(group.clone());
                }
            }
            joined.listing = Listing::Listed;
            if !joined.is_wanted {
                state.changed.insert(group.clone());
                self.work.notify_one();
            }
        }
        for (group, _) in &changes.leave {
            let Some(joined) = state.groups.get_mut(group) else {
                continue;
            };
            joined.listing = Listing::None;
            if joined.is_wanted {
                state.changed.insert(group.clone());
                self.work.notify_one();
            } else {
                state.remove(group);
            }
        }
        joins
    }

    /// Returns the commands that make the changes, first those that join. They also record in
    /// `joined` which groups this process is in, so that another process can remove it when it
    /// dies.
    pub(super) fn commands(&self, changes: &GroupChanges, joined: &str) -> Vec<redis::Cmd> {
        let mut commands = Vec::new();
        for (group, channel) in &changes.join {
            let key = self.group_key(group.as_str());
            let mut add = redis::cmd("ZADD");
            add.arg(&key).arg(seconds_text(unix_micros())).arg(channel);
            let mut expire = redis::cmd("EXPIRE");
            expire.arg(&key).arg(self.group_expiry);
            let mut list = redis::cmd("HSET");
            list.arg(joined).arg(group.as_str()).arg(channel);
            let join: [redis::Cmd; JOIN_COMMANDS] = [list, add, expire];
            commands.extend(join);
        }
        for (group, channel) in &changes.leave {
            let mut remove = redis::cmd("ZREM");
            remove.arg(self.group_key(group.as_str())).arg(channel);
            let mut unlist = redis::cmd("HDEL");
            unlist.arg(joined).arg(group.as_str());
            commands.extend([remove, unlist]);
        }
        commands
    }

    /// Returns the commands that remove a process from the groups that it recorded.
    ///
    /// Its inbox stays, and expires by itself: a process that only stood still drains it when it
    /// returns.
    pub(super) fn leave_for_node(
        &self,
        joined: &str,
        groups: &[(String, String)],
    ) -> Vec<redis::Cmd> {
        let mut commands = Vec::new();
        for (group, channel) in groups {
            let mut remove = redis::cmd("ZREM");
            remove.arg(self.group_key(group)).arg(channel);
            commands.push(remove);
        }
        let mut delete = redis::cmd("DEL");
        delete.arg(joined);
        commands.push(delete);
        commands
    }

    /// Returns the commands that remove this process from its groups, and its inbox.
    pub(super) fn leave_all(&self, joined: &str) -> Vec<redis::Cmd> {
        let state = self.state.lock();
        let mut commands: Vec<_> = state
            .groups
            .iter()
            .map(|(group, joined)| {
                let mut remove = redis::cmd("ZREM");
                remove
                    .arg(self.group_key(group.as_str()))
                    .arg(self.channel(&joined.local));
                remove
            })
            .collect();
        let mut delete = redis::cmd("DEL");
        delete.arg(self.inbox()).arg(joined);
        commands.push(delete);
        commands
    }

    /// Returns the command that puts a message into a channel, unless the channel is full.
    pub(super) fn enqueue(&self, key: &str, content: &[u8]) -> redis::Cmd {
        let mut member = vec![0; RANDOM_PREFIX];
        fastrand::fill(&mut member);
        member.extend(content);
        let mut call = ENQUEUE.call(&[key]);
        call.arg(self.next_score())
            .arg(self.expiry.load(Ordering::Relaxed))
            .arg(self.capacity.load(Ordering::Relaxed))
            .arg(member);
        call
    }

    /// Returns the commands that remove a group's expired members and list the others.
    pub(super) fn list_members(&self, group: &GroupName) -> [redis::Cmd; 2] {
        let key = self.group_key(group.as_str());
        let mut purge = redis::cmd("ZREMRANGEBYSCORE");
        purge
            .arg(&key)
            .arg(0)
            .arg(unix_seconds().saturating_sub(self.group_expiry));
        let mut ask = redis::cmd("ZRANGE");
        ask.arg(&key).arg(0).arg(-1);
        [purge, ask]
    }

    /// Returns the commands that send an event to the members of a group in other processes, one
    /// for each inbox.
    pub(super) fn deliveries(
        &self,
        codec: &ChannelsRedisCodec,
        event: &EncodedEvent,
        members: &[String],
    ) -> Vec<redis::Cmd> {
        let inbox = self.inbox();
        let mut by_key: BTreeMap<String, Vec<&str>> = BTreeMap::new();
        for channel in members {
            let key = self.key_of(channel);
            if key != inbox {
                by_key.entry(key).or_default().push(channel);
            }
        }
        by_key
            .iter()
            .map(|(key, channels)| {
                let content = codec.seal(event, Some(&Recipients::Several(channels)));
                self.enqueue(key, &content)
            })
            .collect()
    }

    /// Returns the score of a new message: the time, but higher than any score before.
    fn next_score(&self) -> String {
        let mut last = self.last_score.lock();
        *last = unix_micros().max(*last + 1);
        seconds_text(*last)
    }
}

/// Writes a time in seconds. Redis reads it as a double, which tells microseconds apart.
fn seconds_text(micros: u64) -> String {
    format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000)
}

fn unix_seconds() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

fn unix_micros() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| {
            since.as_secs() * 1_000_000 + u64::from(since.subsec_micros())
        })
}

/// Counts the messages of one pipeline whose channel was full.
pub(super) fn count_full(replies: &[Value]) {
    let full = replies
        .iter()
        .filter(|reply| matches!(reply, Value::Int(0)));
    telemetry::events_dropped("channel_full", full.count() as u64);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_one_moment_keep_their_order() {
        let core = ChannelsRedisCore::new(&ChannelLayerConfig::default(), 1);
        let scores: Vec<f64> = (0..10_000)
            .map(|_| core.next_score().parse().unwrap())
            .collect();
        assert!(scores.is_sorted_by(|earlier, later| earlier < later));
    }
    #[test]
    fn groups_that_come_and_go_without_a_connection_leave_nothing() {
        let core = ChannelsRedisCore::new(&ChannelLayerConfig::default(), 1);
        let group = |number| GroupName::new(&format!("room_{number}")).unwrap();
        for number in 0..100 {
            core.set_wanted(&group(number), true);
            core.set_wanted(&group(number), false);
        }
        let state = core.state.lock();
        assert!(state.groups.is_empty() && state.of_local.is_empty() && state.changed.is_empty());
        drop(state);
        // One that Redis may list is left there.
        core.set_wanted(&group(1), true);
        assert_eq!(core.changes().join.len(), 1);
        core.reset();
        core.set_wanted(&group(1), false);
        assert_eq!(core.changes().leave.len(), 1);
    }
}
