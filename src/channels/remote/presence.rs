//! Presence: the members of a group, over all processes.
//!
//! In Redis each group has a hash of its members, and each process a set of the groups in which it
//! has members. Through that set, the entries of a dead process are found and removed (`lease.rs`).
//!
//! A change goes to Redis as one queued command: it changes the hash, then publishes the event. In
//! Oneport's format the members of this process receive the event from Redis too, so that a
//! member's last message comes before its leave. Without a link, and in Django's formats, they
//! receive it at once. What is lost on the way is found by a comparison with the hash
//! (`presence_sync.rs`).

use metrics::counter;
use redis::{Cmd, Value};
use serde::{Deserialize, Serialize};

use super::history_sync::millis;
use super::outbox::PresencePush;
use super::presence_index::PresenceCounts;
use super::queued_command::{COMMAND_BYTES, CommandKind, PresenceCommand, QueuedCommand};
use super::scripts::ENSURE_LEASE;
use super::{Remote, wire};
use crate::channels::presence::{ChangeKind, PresenceChange};
use crate::channels::{ConnectionId, Event, GroupMember, GroupName, Presence, Present};
use crate::config::LayerFormat;

/// A member as Redis keeps it.
#[derive(Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub(super) struct PresenceEntry {
    pub(super) user: Option<Box<str>>,
    /// Whether the group is notified when the member joins and leaves.
    pub(super) announced: bool,
}

impl PresenceEntry {
    /// Reads an entry. An unreadable one counts as an anonymous member.
    pub(super) fn read(json: &str) -> Self {
        serde_json::from_str(json).unwrap_or_default()
    }

    pub(super) fn of(member: &GroupMember) -> Self {
        Self {
            user: member.user_name(),
            announced: member.presence == Presence::Announced,
        }
    }
}

impl Remote {
    /// Registers in Redis a member that joined, and tells the group of it.
    pub(in crate::channels) fn member_joined(&self, group: &GroupName, member: &GroupMember) {
        let entry = PresenceEntry::of(member);
        let (id, is_announced) = (member.id(self.0.node), entry.announced);
        let change = is_announced.then(|| PresenceChange::join(id, entry.user.clone()));
        self.send_change(group, change, |counts| {
            counts.add(group);
            // The entry last: if this process dies in between, all of its entries are found.
            vec![
                self.ensure_lease_command(),
                self.list_command("SADD", group),
                self.add_command(group, member.member, &entry),
            ]
        });
    }

    /// Removes a member that left, and tells the group of it.
    pub(in crate::channels) fn member_left(&self, group: &GroupName, member: &GroupMember) {
        let is_announced = member.presence == Presence::Announced;
        let id = member.id(self.0.node);
        let change = is_announced.then(|| PresenceChange::leave(id, member.user_name()));
        self.send_change(group, change, |counts| {
            let mut commands = vec![self.remove_command(group, member.member)];
            if counts.remove(group) {
                commands.push(self.list_command("SREM", group));
            }
            commands
        });
    }

    /// Tells a group that a member of a dead process has left. `members` counts those that remain,
    /// for processes that do not count by themselves.
    pub(super) fn send_leave(
        &self,
        group: &GroupName,
        member: ConnectionId,
        user: Option<Box<str>>,
        members: usize,
    ) {
        let change = PresenceChange::leave(member, user);
        if self.0.format != LayerFormat::Oneport {
            self.0.local.change_presence(group, &change, None);
        }
        if let Some(change) = self.push_change(group, Vec::new(), Some((change, members))) {
            self.0.local.change_presence(group, &change, None);
        }
    }

    /// Handles an event of another process or, through Redis, of this one; returns whether it was a
    /// change that this process counts by itself.
    pub(super) fn on_presence_event(&self, group: &GroupName, event: &Event) -> bool {
        let Some(change) = PresenceChange::read(event) else {
            return false;
        };
        if change.member.node == self.0.node && self.is_outdated(group, &change) {
            return true;
        }
        self.0.local.change_presence(group, &change, Some(event))
    }

    /// Returns whether a change of this process's own member says nothing new. In Django's formats
    /// the members here were told at once. A leave of a member that is in the group comes from a
    /// process that took this one for dead.
    fn is_outdated(&self, group: &GroupName, change: &PresenceChange) -> bool {
        self.0.format != LayerFormat::Oneport
            || (change.kind == ChangeKind::Leave
                && self
                    .0
                    .local
                    .find(group.as_str())
                    .is_some_and(|group| group.contains(change.member.number)))
    }

    /// Called when Redis has executed a change. In `channels_redis.core` an inbox may have been
    /// full: then its process misses the change, and has to compare.
    pub(super) fn on_presence_sent(&self, presence: &PresenceCommand, replies: &[Value]) {
        let sent = replies.get(presence.commands.len()..).unwrap_or_default();
        let is_core = self.0.format == LayerFormat::Core;
        if is_core && sent.contains(&Value::Int(0)) {
            self.0.presence.mark_missed();
        }
    }

    /// Called when Redis refused a change: then it will not come back to the members here.
    pub(super) fn on_presence_refused(&self, presence: &PresenceCommand) {
        if let Some(change) = &presence.change {
            self.0.local.change_presence(&presence.group, change, None);
        }
    }

    pub(in crate::channels) async fn group_present(&self, group: &GroupName) -> Option<Present> {
        let mut ask = redis::cmd("HVALS");
        ask.arg(self.0.names.presence_key(group.as_str()));
        let reply = self.query_redis(vec![ask]).await?;
        let entries: Vec<String> = redis::from_redis_value(reply.into_iter().next()?).ok()?;
        let users = entries.iter().map(|entry| PresenceEntry::read(entry).user);
        Some(Present {
            users: users
                .map(|user| user.as_deref().map(str::to_owned))
                .collect(),
        })
    }

    /// Sends a change of this process's members. `commands` are made under the lock that orders
    /// them.
    fn send_change(
        &self,
        group: &GroupName,
        change: Option<PresenceChange>,
        commands: impl FnOnce(&mut PresenceCounts) -> Vec<Cmd>,
    ) {
        let members = change.as_ref().map_or(0, |change| {
            if self.0.format != LayerFormat::Oneport {
                self.0.local.change_presence(group, change, None);
            }
            self.members_after(group, change)
        });
        let untold = {
            let mut counts = self.0.presence.lock();
            let commands = commands(&mut counts);
            self.push_change(group, commands, change.map(|change| (change, members)))
        };
        if let Some(change) = untold {
            self.0.local.change_presence(group, &change, None);
        }
    }

    /// Returns the number of members after a change, as far as this process knows.
    fn members_after(&self, group: &GroupName, change: &PresenceChange) -> usize {
        let found = self.0.local.find(group.as_str());
        let members = found.and_then(|found| found.presence_len()).unwrap_or(0);
        match (self.0.format, change.kind) {
            (LayerFormat::Oneport, ChangeKind::Join) => members + 1,
            (LayerFormat::Oneport, ChangeKind::Leave) => members.saturating_sub(1),
            _ => members, // it is counted already
        }
    }

    /// Queues commands, and behind them a change's event, without waiting. If there is no space,
    /// all members are registered again later, and the other processes compare then. Returns the
    /// change if the members of this process will not receive it from Redis.
    fn push_change(
        &self,
        group: &GroupName,
        commands: Vec<Cmd>,
        change: Option<(PresenceChange, usize)>,
    ) -> Option<PresenceChange> {
        let event = change
            .as_ref()
            .and_then(|(change, members)| self.change_event(group, change, *members));
        let echo = event.as_ref().and_then(|event| self.expect_echo(event));
        let size = commands.len() * COMMAND_BYTES + event.as_ref().map_or(0, |event| event.size);
        let is_published = event.is_some();
        let change = change.map(|(change, _)| change);
        let pushed = self.0.outbox.push_presence(QueuedCommand {
            size,
            kind: CommandKind::Presence(Box::new(PresenceCommand {
                group: group.clone(),
                commands,
                event: event.map(|event| event.kind),
                change: change
                    .clone()
                    .filter(|_| self.0.format == LayerFormat::Oneport),
            })),
            reply: None,
        });
        if pushed == PresencePush::Queued {
            counter!("oneport_layer_published_total").increment(u64::from(is_published));
            return None;
        }
        if let Some((channel, hash)) = echo {
            self.0.echoes.cancel(&channel, hash);
        }
        if pushed == PresencePush::Full {
            self.0.presence.mark_stale();
        }
        change
    }

    /// Returns the command that sends a change's event to the processes that have the group.
    fn change_event(
        &self,
        group: &GroupName,
        change: &PresenceChange,
        members: usize,
    ) -> Option<QueuedCommand> {
        let event = change.event(members, None)?;
        if self.0.format != LayerFormat::Oneport {
            return self.channels_redis_command(group, &event).ok(); // both formats have texts and numbers
        }
        let payload = wire::event(&self.head(None, false), &event);
        Some(QueuedCommand {
            size: payload.len() + COMMAND_BYTES,
            kind: CommandKind::Publish {
                channel: self.0.names.channel_of(group),
                payload,
            },
            reply: None,
        })
    }

    /// Returns the command that gives this process a lease if it has none: if Redis lost its data and
    /// this process then dies, its entries must still be found.
    pub(super) fn ensure_lease_command(&self) -> Cmd {
        let mut call = ENSURE_LEASE.call(&[&self.0.names.lease_key()]);
        call.arg(format!("{:016x}", self.0.node))
            .arg(millis(self.lease_in_redis()));
        call
    }

    pub(super) fn add_command(&self, group: &GroupName, member: u64, entry: &PresenceEntry) -> Cmd {
        let mut add = redis::cmd("HSET");
        add.arg(self.0.names.presence_key(group.as_str()))
            .arg(self.0.names.presence_field(member))
            .arg(serde_json::to_string(entry).unwrap_or_default());
        add
    }

    pub(super) fn remove_command(&self, group: &GroupName, member: u64) -> Cmd {
        let mut remove = redis::cmd("HDEL");
        remove
            .arg(self.0.names.presence_key(group.as_str()))
            .arg(self.0.names.presence_field(member));
        remove
    }

    /// Adds a group to the set of those in which this process has members (SADD), or removes it
    /// (SREM).
    pub(super) fn list_command(&self, command: &str, group: &GroupName) -> Cmd {
        let mut list = redis::cmd(command);
        list.arg(self.0.names.present_groups_key(self.0.node))
            .arg(group.as_str());
        list
    }
}
