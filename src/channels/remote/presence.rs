//! Presence: the members of a group, over all processes.
//!
//! In Redis each group has a hash of its members, and each process a set of the groups in which it
//! has members. Through that set, the entries of a dead process are found and removed (`lease.rs`).

use std::collections::HashSet;

use redis::Cmd;
use serde::{Deserialize, Serialize};

use super::Remote;
use super::queued_command::{COMMAND_BYTES, CommandKind, QueuedCommand};
use crate::channels::append::Retention;
use crate::channels::{GroupMember, GroupName, Presence, PresenceEvent, Present};
use crate::timestamp::Timestamp;

/// A member as Redis keeps it.
#[derive(Default, Deserialize, Serialize)]
#[serde(default)]
pub(super) struct PresenceEntry {
    pub(super) user: Option<String>,
    /// Whether the group is notified when the member joins and leaves.
    pub(super) announced: bool,
}

impl PresenceEntry {
    /// Reads an entry. An unreadable one counts as an anonymous member.
    pub(super) fn read(json: &str) -> Self {
        serde_json::from_str(json).unwrap_or_default()
    }
}

impl Remote {
    /// Registers in Redis a member that joined.
    pub(in crate::channels) fn member_joined(
        &self,
        group: &GroupName,
        member: u64,
        user: Option<&str>,
        presence: Presence,
    ) {
        if presence == Presence::Untracked {
            return;
        }
        let mut counts = self.0.presence.lock();
        let mut commands = vec![self.add_command(group, member, user, presence)];
        if counts.add(group) {
            commands.push(self.list_command("SADD", group));
        }
        self.push_presence(commands);
    }

    /// Removes a member that left.
    pub(in crate::channels) fn member_left(
        &self,
        group: &GroupName,
        member: u64,
        presence: Presence,
    ) {
        if presence == Presence::Untracked {
            return;
        }
        let mut counts = self.0.presence.lock();
        let mut commands = vec![self.remove_command(group, member)];
        if counts.remove(group) {
            commands.push(self.list_command("SREM", group));
        }
        self.push_presence(commands);
    }

    /// Returns the commands that register the members of a group.
    pub(super) fn presence_commands(&self, group: &GroupName, members: &[GroupMember]) -> Vec<Cmd> {
        let tracked = members
            .iter()
            .filter(|member| member.presence != Presence::Untracked);
        let mut commands: Vec<Cmd> = tracked
            .map(|member| {
                let name = member.user.as_ref().map(|user| user.name.as_str());
                self.add_command(group, member.member, name, member.presence)
            })
            .collect();
        if !commands.is_empty() {
            commands.push(self.list_command("SADD", group));
        }
        commands
    }

    /// Removes members that left while the process was registering all its members. Their own
    /// removal may have come before the registration, and then had no effect.
    pub(super) fn remove_departed(
        &self,
        group: &GroupName,
        told: &[GroupMember],
        now: &[GroupMember],
    ) {
        let now: HashSet<u64> = now.iter().map(|member| member.member).collect();
        let departed = told.iter().filter(|member| {
            member.presence != Presence::Untracked && !now.contains(&member.member)
        });
        let mut commands: Vec<Cmd> = departed
            .map(|member| self.remove_command(group, member.member))
            .collect();
        if commands.is_empty() {
            return;
        }
        let counts = self.0.presence.lock();
        if !counts.contains(group) {
            commands.push(self.list_command("SREM", group));
        }
        self.push_presence(commands);
    }

    pub(in crate::channels) async fn group_present(&self, group: &GroupName) -> Option<Present> {
        let mut ask = redis::cmd("HVALS");
        ask.arg(self.0.names.presence_key(group.as_str()));
        let reply = self.query_redis(vec![ask]).await?;
        let entries: Vec<String> = redis::from_redis_value(reply.into_iter().next()?).ok()?;
        Some(Present {
            users: entries
                .iter()
                .map(|entry| PresenceEntry::read(entry).user)
                .collect(),
        })
    }

    pub(in crate::channels) async fn group_present_len(&self, group: &GroupName) -> Option<usize> {
        let mut ask = redis::cmd("HLEN");
        ask.arg(self.0.names.presence_key(group.as_str()));
        let reply = self.query_redis(vec![ask]).await?;
        redis::from_redis_value(reply.into_iter().next()?).ok()
    }

    /// Notifies a group that these members of a dead process have left. They are no longer counted.
    pub(super) async fn announce_left(&self, group: &GroupName, users: Vec<Option<String>>) {
        let found = self.0.local.find(group.as_str());
        let _presence = match &found {
            Some(found) => found.lock_presence().await,
            None => None,
        };
        let members = match self.group_present_len(group).await {
            Some(members) => members,
            None => self.0.local.members_len(group),
        };
        for user in users {
            let left = PresenceEvent {
                user: user.as_deref(),
                members,
                at: Timestamp::now(),
            };
            if let Ok(event) = left.event(PresenceEvent::LEAVE) {
                let sent = self.send(group, event, None, Retention::Transient);
                let _ = sent.await; // dropped events are counted
            }
        }
    }

    /// Queues commands without waiting. If there is no space, all members are registered again
    /// later.
    fn push_presence(&self, commands: Vec<Cmd>) {
        let is_queued = self.0.outbox.push_presence(QueuedCommand {
            size: commands.len() * COMMAND_BYTES,
            kind: CommandKind::Raw(commands),
            reply: None,
        });
        if !is_queued {
            self.0.presence.mark_stale();
        }
    }

    fn add_command(
        &self,
        group: &GroupName,
        member: u64,
        user: Option<&str>,
        presence: Presence,
    ) -> Cmd {
        let entry = PresenceEntry {
            user: user.map(str::to_owned),
            announced: presence == Presence::Announced,
        };
        let mut add = redis::cmd("HSET");
        add.arg(self.0.names.presence_key(group.as_str()))
            .arg(self.0.names.presence_field(member))
            .arg(serde_json::to_string(&entry).unwrap_or_default());
        add
    }

    fn remove_command(&self, group: &GroupName, member: u64) -> Cmd {
        let mut remove = redis::cmd("HDEL");
        remove
            .arg(self.0.names.presence_key(group.as_str()))
            .arg(self.0.names.presence_field(member));
        remove
    }

    /// Adds a group to the set of those in which this process has members (SADD), or removes it
    /// (SREM).
    fn list_command(&self, command: &str, group: &GroupName) -> Cmd {
        let mut list = redis::cmd(command);
        list.arg(self.0.names.present_groups_key(self.0.node))
            .arg(group.as_str());
        list
    }
}
