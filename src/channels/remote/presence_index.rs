//! Present: what the other processes know of the members here.
//!
//! In Redis a group has a hash of its members, and each process a set of the groups that it has members in: what is left of a
//! process that died is found by it.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use redis::Cmd;

use super::Remote;
use super::outbox::{COMMAND_BYTES, CommandKind, QueuedCommand};
use crate::channels::{GroupMember, GroupName, Presence, Present};

/// The members of this process that others know of.
#[derive(Default)]
pub(super) struct Here {
    /// How many each group has. Its lock is held while Redis is told, so that a group's first and last are told in their order.
    members: Mutex<HashMap<GroupName, usize>>,
    /// Something could not be told: all is to be told again.
    is_stale: AtomicBool,
}

impl Remote {
    /// A member came.
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
        let mut counts = self.0.presence.members.lock();
        let members = counts.entry(group.clone()).or_default();
        *members += 1;
        let mut commands = vec![self.add(group, member, user, presence)];
        if *members == 1 {
            commands.push(self.list(group, "SADD"));
        }
        self.push_commands(commands);
    }

    /// A member went.
    pub(in crate::channels) fn member_left(
        &self,
        group: &GroupName,
        member: u64,
        presence: Presence,
    ) {
        if presence == Presence::Untracked {
            return;
        }
        let mut counts = self.0.presence.members.lock();
        let mut commands = vec![self.remove(group, member)];
        match counts.get_mut(group) {
            Some(members) if *members > 1 => *members -= 1,
            _ => {
                counts.remove(group);
                commands.push(self.list(group, "SREM"));
            }
        }
        self.push_commands(commands);
    }

    /// Processes died; what is left of them is for somebody to clear up who has the time.
    pub(super) fn queue_for_reaping(&self, nodes: &[String]) {
        let mut dead = self.0.dead_nodes.lock();
        let nodes = nodes
            .iter()
            .filter_map(|node| u64::from_str_radix(node, 16).ok());
        for node in nodes.filter(|node| *node != self.0.node) {
            if !dead.contains(&node) {
                dead.push(node);
            }
        }
    }

    /// All is to be told again.
    pub(super) fn mark_presence_stale(&self) {
        self.0.presence.is_stale.store(true, Ordering::Relaxed);
    }

    /// Tells whether something could not be told since this was asked last.
    pub(super) fn take_presence_stale(&self) -> bool {
        self.0.presence.is_stale.swap(false, Ordering::Relaxed)
    }

    /// Returns the commands that say who of a group's members is here.
    pub(super) fn presence_commands(&self, group: &GroupName, members: &[GroupMember]) -> Vec<Cmd> {
        let tracked = members
            .iter()
            .filter(|member| member.presence != Presence::Untracked);
        let mut commands: Vec<Cmd> = tracked
            .map(|member| {
                let name = member.user.as_ref().map(|user| user.name.as_str());
                self.add(group, member.member, name, member.presence)
            })
            .collect();
        if !commands.is_empty() {
            commands.push(self.list(group, "SADD"));
        }
        commands
    }

    /// Members were said to be here; those who went meanwhile may have been taken back before that, and are taken back again.
    pub(super) fn remove_departed(
        &self,
        group: &GroupName,
        said: &[GroupMember],
        now: &[GroupMember],
    ) {
        let now: HashSet<u64> = now.iter().map(|member| member.member).collect();
        let gone = said.iter().filter(|member| {
            member.presence != Presence::Untracked && !now.contains(&member.member)
        });
        let mut commands: Vec<Cmd> = gone
            .map(|member| self.remove(group, member.member))
            .collect();
        if commands.is_empty() {
            return;
        }
        let counts = self.0.presence.members.lock();
        if !counts.contains_key(group) {
            commands.push(self.list(group, "SREM"));
        }
        self.push_commands(commands);
    }

    pub(in crate::channels) async fn group_present(&self, group: &GroupName) -> Option<Present> {
        let mut ask = redis::cmd("HVALS");
        ask.arg(self.presence_key(group.as_str()));
        let answer = self.query_redis(vec![ask]).await?;
        let entries: Vec<String> = redis::from_redis_value(answer.into_iter().next()?).ok()?;
        let users = entries.iter().map(|entry| {
            let entry: serde_json::Value = serde_json::from_str(entry).unwrap_or_default();
            entry["user"].as_str().map(str::to_owned)
        });
        Some(Present {
            users: users.collect(),
        })
    }

    pub(in crate::channels) async fn group_present_len(&self, group: &GroupName) -> Option<usize> {
        let mut ask = redis::cmd("HLEN");
        ask.arg(self.presence_key(group.as_str()));
        let answer = self.query_redis(vec![ask]).await?;
        redis::from_redis_value(answer.into_iter().next()?).ok()
    }

    /// Says a change to Redis, in its turn, without waiting.
    fn push_commands(&self, commands: Vec<Cmd>) {
        let is_told = self.0.outbox.push_presence(QueuedCommand {
            size: commands.len() * COMMAND_BYTES,
            kind: CommandKind::Raw(commands),
            reply: None,
        });
        if !is_told {
            self.mark_presence_stale();
        }
    }

    fn add(&self, group: &GroupName, member: u64, user: Option<&str>, presence: Presence) -> Cmd {
        let is_announced = presence == Presence::Announced;
        let entry = serde_json::json!({"user": user, "announced": is_announced}).to_string();
        let mut add = redis::cmd("HSET");
        add.arg(self.presence_key(group.as_str()))
            .arg(self.presence_field(member))
            .arg(entry);
        add
    }

    fn remove(&self, group: &GroupName, member: u64) -> Cmd {
        let mut remove = redis::cmd("HDEL");
        remove
            .arg(self.presence_key(group.as_str()))
            .arg(self.presence_field(member));
        remove
    }

    /// Enters a group into the list of those that this process has members in, or takes it out.
    fn list(&self, group: &GroupName, command: &str) -> Cmd {
        let mut list = redis::cmd(command);
        list.arg(self.present_groups_key(self.0.node))
            .arg(group.as_str());
        list
    }

    pub(super) fn presence_key(&self, group: &str) -> String {
        format!("{}:presence:{group}", self.0.own_prefix)
    }

    fn presence_field(&self, member: u64) -> String {
        format!("{:016x}.{member}", self.0.node)
    }

    pub(super) fn present_groups_key(&self, node: u64) -> String {
        format!("{}:present:{node:016x}", self.0.own_prefix)
    }

    pub(super) fn lease_key(&self) -> String {
        format!("{}:lease", self.0.own_prefix)
    }
}
