//! Present: what the other processes know of the members here.

use super::Remote;
use crate::channels::{GroupName, Presence, Present};

impl Remote {
    /// A member came.
    pub(in crate::channels) fn present(
        &self,
        group: &GroupName,
        member: u64,
        user: Option<&str>,
        presence: Presence,
    ) {
        if presence != Presence::Untracked && self.is_connected() {
            self.command(self.present_commands(group, member, user, presence));
        }
    }

    /// A member went.
    pub(in crate::channels) fn absent(&self, group: &GroupName, member: u64, presence: Presence) {
        if presence == Presence::Untracked {
            return;
        }
        let mut remove = redis::cmd("HDEL");
        remove
            .arg(self.presence_key(group.as_str()))
            .arg(self.presence_field(member));
        self.command(vec![remove]);
    }

    pub(super) fn present_commands(
        &self,
        group: &GroupName,
        member: u64,
        user: Option<&str>,
        presence: Presence,
    ) -> Vec<redis::Cmd> {
        let is_announced = presence == Presence::Announced;
        let entry = serde_json::json!({"user": user, "announced": is_announced}).to_string();
        let mut add = redis::cmd("HSET");
        add.arg(self.presence_key(group.as_str()))
            .arg(self.presence_field(member))
            .arg(entry);
        let mut remember = redis::cmd("SADD");
        remember
            .arg(self.present_groups_key(self.0.node))
            .arg(group.as_str());
        vec![add, remember]
    }

    pub(in crate::channels) async fn group_present(&self, group: &GroupName) -> Option<Present> {
        let mut ask = redis::cmd("HVALS");
        ask.arg(self.presence_key(group.as_str()));
        let answer = self.ask_redis(vec![ask]).await?;
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
        let answer = self.ask_redis(vec![ask]).await?;
        redis::from_redis_value(answer.into_iter().next()?).ok()
    }

    pub(super) fn presence_key(&self, group: &str) -> String {
        format!("{}:presence:{group}", self.0.own_prefix)
    }

    pub(super) fn presence_field(&self, member: u64) -> String {
        format!("{:016x}.{member}", self.0.node)
    }

    pub(super) fn present_groups_key(&self, node: u64) -> String {
        format!("{}:present:{node:016x}", self.0.own_prefix)
    }

    pub(super) fn lease_key(&self) -> String {
        format!("{}:lease", self.0.own_prefix)
    }
}
