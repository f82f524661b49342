//! Core: the format of `channels_redis.core`, in which each process has an inbox and a group is a
//! list of channels.
//!
//! A process joins a group with one channel of its own, however many members it has in the group.
//! So a sender writes one message into the inbox of each process.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::SystemTime;

use parking_lot::Mutex;
use redis::Value;
use redis::aio::MultiplexedConnection;
use tokio::sync::Notify;

use super::channels_redis_codec::{ChannelsRedisCodec, Recipients};
use super::hash_ring::HashRing;
use super::scripts::ENQUEUE;
use crate::channels::{Event, GroupName};
use crate::config::ChannelLayerConfig;
use crate::telemetry;

/// The random bytes before each message: a sorted set keeps equal members only once.
pub(super) const RANDOM_PREFIX: usize = 12;

/// The number of groups that join or leave in one pipeline.
const CHANGES_AT_ONCE: usize = 1000;

/// Keeps this process in its groups, and makes the keys and commands of the format.
pub(super) struct ChannelsRedisCore {
    prefix: String,
    /// Identifies this process among all that use the Redis.
    client: String,
    capacity: usize,
    expiry: u64,
    group_expiry: u64,
    ring: HashRing,
    state: Mutex<CoreGroups>,
    work: Notify,
    /// The score of the newest message: no two messages of this process have the same score.
    last_score: Mutex<f64>,
}

#[derive(Default)]
struct CoreGroups {
    groups: HashMap<GroupName, CoreGroup>,
    /// The group of each local part of our channels' names.
    of_local: HashMap<String, GroupName>,
    changed: VecDeque<GroupName>,
}

struct CoreGroup {
    local: String,
    is_wanted: bool,
    is_joined: bool,
}

/// Groups to join and to leave, with the name of our channel in each.
pub(super) struct GroupChanges {
    pub(super) join: Vec<(GroupName, String)>,
    pub(super) leave: Vec<(GroupName, String)>,
}

/// Returns the unique part of a channel's name.
pub(super) fn random_hex() -> String {
    format!("{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..))
}

impl ChannelsRedisCore {
    pub(super) fn new(config: &ChannelLayerConfig, servers: usize) -> Self {
        let prefix = config.prefix();
        Self {
            ring: HashRing::new(servers, Some(prefix)),
            prefix: prefix.to_owned(),
            capacity: config.capacity,
            expiry: config.expiry.as_secs(),
            group_expiry: config.group_expiry.as_secs(),
            client: random_hex(),
            state: Mutex::default(),
            work: Notify::new(),
            last_score: Mutex::new(0.0),
        }
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
                is_joined: false,
            };
            state.groups.insert(group.clone(), joined);
        }
        if let Some(joined) = state.groups.get_mut(group)
            && joined.is_wanted != is_wanted
        {
            joined.is_wanted = is_wanted;
            state.changed.push_back(group.clone());
        }
        drop(state);
        self.work.notify_one();
    }

    pub(super) fn is_joined(&self, group: &GroupName) -> bool {
        let state = self.state.lock();
        state
            .groups
            .get(group)
            .is_some_and(|joined| joined.is_joined)
    }

    /// Returns the group of one of our channels.
    pub(super) fn group_of(&self, channel: &str) -> Option<GroupName> {
        let (client, local) = channel.strip_prefix("specific.")?.split_once('!')?;
        if client != self.client {
            return None;
        }
        self.state.lock().of_local.get(local).cloned()
    }

    /// Joins all groups again: on another connection, or before Redis expires them. Returns their
    /// number.
    pub(super) fn reapply_all(&self) -> usize {
        let mut state = self.state.lock();
        let names: Vec<_> = state.groups.keys().cloned().collect();
        let count = names.len();
        state.changed.extend(names);
        drop(state);
        self.work.notify_one();
        count
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
            && let Some(group) = state.changed.pop_front()
        {
            let Some(joined) = state.groups.get_mut(&group) else {
                continue;
            };
            let channel = self.channel(&joined.local);
            if joined.is_wanted {
                changes.join.push((group, channel));
            } else {
                joined.is_joined = false; // from now on: a member that returns waits until it is joined again
                changes.leave.push((group, channel));
            }
        }
        changes
    }

    /// Called when Redis has made the changes. A group whose wanted state has changed since is
    /// changed again.
    pub(super) fn confirmed(&self, changes: &GroupChanges) {
        let mut state = self.state.lock();
        for (groups, is_joined) in [(&changes.join, true), (&changes.leave, false)] {
            for (group, _) in groups {
                let Some(joined) = state.groups.get_mut(group) else {
                    continue;
                };
                joined.is_joined = is_joined;
                if joined.is_wanted != is_joined {
                    state.changed.push_back(group.clone());
                    self.work.notify_one();
                } else if !is_joined {
                    let left = state.groups.remove(group);
                    left.map(|left| state.of_local.remove(&left.local));
                }
            }
        }
    }

    /// Returns the commands that make the changes. They also record in `joined` which groups this
    /// process is in, so that another process can remove it when it dies.
    pub(super) fn commands(&self, changes: &GroupChanges, joined: &str) -> Vec<redis::Cmd> {
        let mut commands = Vec::new();
        for (group, channel) in &changes.join {
            let key = self.group_key(group.as_str());
            let mut add = redis::cmd("ZADD");
            add.arg(&key).arg(time_text(unix_time())).arg(channel);
            let mut expire = redis::cmd("EXPIRE");
            expire.arg(&key).arg(self.group_expiry);
            let mut list = redis::cmd("HSET");
            list.arg(joined).arg(group.as_str()).arg(channel);
            commands.extend([list, add, expire]);
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

    /// Returns the commands that remove a process from the groups that it recorded, and its inbox.
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
        if let Some((_, channel)) = groups.first() {
            delete.arg(self.key_of(channel));
        }
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
            .arg(self.expiry)
            .arg(self.capacity)
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
        event: &Event,
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
                let content = codec.write(event, Some(&Recipients::Several(channels)));
                self.enqueue(key, &content)
            })
            .collect()
    }

    /// Returns the score of a new message: the time, but higher than any score before.
    fn next_score(&self) -> String {
        let mut last = self.last_score.lock();
        *last = unix_time().max(*last + 0.000_001);
        time_text(*last)
    }
}

fn time_text(time: f64) -> String {
    format!("{time:.6}")
}

fn unix_seconds() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

fn unix_time() -> f64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64())
}

/// Counts the messages of one pipeline whose channel was full.
pub(super) fn count_full(replies: &[Value]) {
    let full = replies
        .iter()
        .filter(|reply| matches!(reply, Value::Int(0)));
    telemetry::events_dropped("channel_full", full.count() as u64);
}

/// Takes messages out of the inbox. Redis waits for the first one, at most `seconds`.
pub(super) async fn take_messages(
    connection: &mut MultiplexedConnection,
    inbox: &str,
    seconds: u64,
) -> redis::RedisResult<Vec<Vec<u8>>> {
    let mut wait = redis::cmd("BZPOPMIN");
    wait.arg(inbox).arg(seconds);
    let first: Option<(String, Vec<u8>, String)> = wait.query_async(connection).await?;
    let Some((_, first, _)) = first else {
        return Ok(Vec::new());
    };
    let mut messages = vec![first];
    let mut more = redis::cmd("ZPOPMIN");
    more.arg(inbox).arg(512);
    let rest: Vec<(Vec<u8>, String)> = more.query_async(connection).await?;
    messages.extend(rest.into_iter().map(|(message, _)| message));
    Ok(messages)
}
