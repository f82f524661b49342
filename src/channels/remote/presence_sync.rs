//! Presence sync: compares this process's members, and what its members have been told, with Redis.
//!
//! A change may be lost: with a connection, with a process that dies, with the data of Redis. So a
//! process compares each group with the hash in Redis, and makes up for the differences in both
//! directions: it adds and removes its own entries, and tells its members of those of others.
//!
//! | when | which groups |
//! |---|---|
//! | a process connects | all of its own, before it counts as connected |
//! | its lease was lost, or a change found no space in the outbox | all of its own |
//! | another process has registered its members | those with announced members here |
//! | a group gets its first announced member | that group, before the member joins |
//!
//! Only what differs is written, so that others never see the members of a living process vanish.
//! After it has registered, a process publishes that on the channel of all processes, and they
//! compare too.

use std::collections::{HashMap, HashSet};

use redis::{Cmd, RedisResult, Value};

use super::Remote;
use super::connection::{Connection, ConnectionEnd};
use super::names::RedisNames;
use super::outbox::PresencePush;
use super::presence::PresenceEntry;
use super::queued_command::{COMMAND_BYTES, CommandKind, PresenceCommand, QueuedCommand};
use super::scripts::NODE_MEMBERS;
use super::wire;
use crate::channels::group::Group;
use crate::channels::{ConnectionId, GroupName, Presence};

/// The most groups in one pipeline.
pub(super) const GROUPS_AT_ONCE: usize = 500;

/// The way in which the differences are written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum WriteOrder {
    /// At once: the process is not yet connected, and later changes wait in the outbox.
    BeforeOutbox,
    /// Through the outbox, between the changes of members that join and leave.
    InOutbox,
}

/// The members of a group in Redis.
#[derive(Default)]
struct Listed {
    /// The entries of this process, by the member's number.
    own: HashMap<u64, String>,
    /// The announced members of other processes.
    foreign: HashMap<ConnectionId, Option<Box<str>>>,
}

impl Connection {
    /// Compares queued groups for as long as the connection lives.
    pub(super) async fn sync_presence(self) -> ConnectionEnd {
        let inner = &self.remote.0;
        let queue = &inner.presence_queue;
        loop {
            let names = queue.take(GROUPS_AT_ONCE);
            if names.is_empty() {
                queue.work().await;
                continue;
            }
            let synced = self.sync_groups(&names, None, WriteOrder::InOutbox).await;
            if let Err(error) = synced {
                return (error, Vec::new());
            }
            for name in &names {
                queue.finish(name);
                self.notify_ready(name.as_str());
            }
        }
    }

    /// Registers all members of this process in Redis, and compares what its members have been told
    /// with those of other processes. Returns whether there was something to register or compare.
    pub(super) async fn register(&self, order: WriteOrder) -> RedisResult<bool> {
        let inner = &self.remote.0;
        self.query(vec![self.renew_lease_command()]).await?;
        let listed: HashSet<String> = self.groups_of(inner.node).await?.into_iter().collect();
        let mut names: Vec<GroupName> = listed
            .iter()
            .filter_map(|name| GroupName::new(name).ok())
            .collect();
        let own = inner.local.all().into_iter();
        let own = own.filter(|(name, group)| {
            !listed.contains(name.as_str()) && (group.has_presence() || has_tracked(group))
        });
        names.extend(own.map(|(name, _)| name));
        for names in names.chunks(GROUPS_AT_ONCE) {
            self.sync_groups(names, Some(&listed), order).await?;
        }
        Ok(!names.is_empty())
    }

    /// Compares groups with Redis. `listed`: the groups in which Redis lists this process, if they
    /// were read.
    async fn sync_groups(
        &self,
        names: &[GroupName],
        listed: Option<&HashSet<String>>,
        order: WriteOrder,
    ) -> RedisResult<()> {
        let inner = &self.remote.0;
        let mut asked = Vec::with_capacity(names.len());
        let groups: Vec<_> = names
            .iter()
            .map(|name| {
                // Before the group is subscribed to, the reply would miss later changes: it is read
                // when it is.
                let viewed = inner.local.find(name.as_str()).filter(|group| {
                    let is_unread = group.is_presence_unread();
                    group.has_presence() && (!is_unread || self.remote.is_subscribed(name))
                });
                if let Some(group) = &viewed {
                    group.begin_presence_read();
                }
                asked.push(self.remote.read_members(name, viewed.is_some()));
                (name, viewed)
            })
            .collect();
        let replies = self.query(asked).await?;
        let mut commands = Vec::new();
        for ((name, viewed), reply) in groups.into_iter().zip(replies) {
            let read = self.remote.parse_members(reply);
            if let Some(read) = &read {
                let is_listed = listed.map(|listed| listed.contains(name.as_str()));
                commands.extend(self.write_difference(name, &read.own, is_listed, order));
            }
            if let Some(group) = &viewed {
                let foreign = read.map(|read| read.foreign);
                let outcome = group.end_presence_read(inner.node, foreign);
                inner.local.deliver(group, outcome);
            }
        }
        self.query(commands).await.map(drop)
    }

    /// Returns the commands that make a group's entries those of this process's members; or queues
    /// them. `listed`: whether the set of this process's groups in Redis has the group, if known.
    fn write_difference(
        &self,
        name: &GroupName,
        entries: &HashMap<u64, String>,
        listed: Option<bool>,
        order: WriteOrder,
    ) -> Vec<Cmd> {
        let (remote, inner) = (&self.remote, &self.remote.0);
        // Members that join or leave later queue their commands behind these.
        let _counts = inner.presence.lock();
        let group = inner.local.find(name.as_str());
        let members = group.map(|group| group.members()).unwrap_or_default();
        let tracked: HashMap<u64, PresenceEntry> = members
            .iter()
            .filter(|member| member.presence != Presence::Untracked)
            .map(|member| (member.member, PresenceEntry::of(member)))
            .collect();
        let mut commands = Vec::new();
        for (member, entry) in &tracked {
            let found = entries.get(member).map(|found| PresenceEntry::read(found));
            if found.as_ref() != Some(entry) {
                commands.push(remote.add_command(name, *member, entry));
            }
        }
        let is_missing = !commands.is_empty();
        if is_missing {
            commands.push(remote.ensure_lease_command());
        }
        let gone = entries
            .keys()
            .filter(|member| !tracked.contains_key(member));
        commands.extend(gone.map(|member| remote.remove_command(name, *member)));
        match listed {
            Some(true) if tracked.is_empty() => commands.push(remote.list_command("SREM", name)),
            Some(false) if !tracked.is_empty() => commands.push(remote.list_command("SADD", name)),
            None if is_missing => commands.push(remote.list_command("SADD", name)),
            _ => {}
        }
        if order == WriteOrder::BeforeOutbox || commands.is_empty() {
            return commands;
        }
        let pushed = inner.outbox.push_presence(QueuedCommand {
            size: commands.len() * COMMAND_BYTES,
            kind: CommandKind::Presence(Box::new(PresenceCommand {
                group: name.clone(),
                commands,
                event: None,
                change: None,
            })),
            reply: None,
        });
        if pushed == PresencePush::Full {
            inner.presence.mark_stale();
        }
        Vec::new()
    }
}

impl Remote {
    /// Compares all groups with announced members of this process with Redis, soon.
    pub(super) fn compare_presence(&self) {
        for (name, group) in self.0.local.all() {
            if group.has_presence() {
                self.0.presence_queue.add(&name);
            }
        }
    }

    /// Compares some of them, if the process is connected: one that connects compares all.
    pub(super) fn compare_presence_of(&self, names: &[GroupName]) {
        if names.is_empty() || !self.is_connected() {
            return;
        }
        for name in names {
            let group = self.0.local.find(name.as_str());
            if group.is_some_and(|group| group.has_presence()) {
                self.0.presence_queue.add(name);
            }
        }
    }

    /// Reads the groups that got their first announced member while the process connected.
    pub(super) fn read_unread_presence(&self) {
        for (name, group) in self.0.local.all() {
            if group.is_presence_unread() {
                self.0.presence_queue.add(&name);
            }
        }
    }

    /// Tells the other processes that this one has registered its members, so that they compare.
    pub(super) fn publish_registered(&self) {
        let payload = wire::registered(self.0.node);
        self.0.outbox.push_if_connected(QueuedCommand {
            size: payload.len() + COMMAND_BYTES,
            kind: CommandKind::NodeMessage {
                channel: self.0.names.nodes_channel(),
                payload,
            },
            reply: None,
        });
    }

    /// Called without a link: tells the members of those of this process whose change was on its
    /// way.
    pub(super) fn tell_own_presence(&self) {
        for (_, group) in self.0.local.all() {
            let outcome = group.tell_own_presence(self.0.node);
            self.0.local.deliver(&group, outcome);
        }
    }

    /// Returns the command that reads the members of a group: all of them, or those of this process.
    fn read_members(&self, name: &GroupName, all: bool) -> Cmd {
        let key = self.0.names.presence_key(name.as_str());
        if !all {
            let mut call = NODE_MEMBERS.call(&[&key]);
            call.arg(RedisNames::presence_fields(self.0.node));
            return call;
        }
        let mut ask = redis::cmd("HGETALL");
        ask.arg(key);
        ask
    }

    /// Reads the reply; `None` if the key holds something else.
    fn parse_members(&self, reply: Value) -> Option<Listed> {
        let entries = redis::from_redis_value::<Vec<(String, String)>>(reply).ok()?;
        let mut listed = Listed::default();
        for (field, entry) in entries {
            let Some(member) = ConnectionId::read(&field) else {
                continue;
            };
            if member.node == self.0.node {
                listed.own.insert(member.number, entry);
            } else if let PresenceEntry {
                user,
                announced: true,
            } = PresenceEntry::read(&entry)
            {
                listed.foreign.insert(member, user);
            }
        }
        Some(listed)
    }
}

fn has_tracked(group: &Group) -> bool {
    let members = group.members();
    members
        .iter()
        .any(|member| member.presence != Presence::Untracked)
}
