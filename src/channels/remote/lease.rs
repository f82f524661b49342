//! Life: says that this process is alive and who is here, and clears up after those that died.

use std::io;
use std::sync::atomic::Ordering;
use std::time::Duration;

use redis::{RedisError, RedisResult};

use super::connection::{Connection, ConnectionEnd};
use super::scripts::{REMOVE_NODE_MEMBERS, RENEW_LEASE};
use crate::channels::GroupName;
use crate::config::LayerFormat;

/// How many groups one pipeline is about.
const GROUPS_AT_ONCE: usize = 500;

/// How long the end may take: what waits is said, and that we are gone.
const DEREGISTER_TIMEOUT: Duration = Duration::from_secs(1);

impl Connection {
    /// Says anew who is here: what was said before may be lost, or wrong.
    pub(super) async fn register(&self) -> RedisResult<()> {
        let node = self.remote.0.node;
        for groups in self.groups_of(node).await?.chunks(GROUPS_AT_ONCE) {
            self.remove_members_of(node, groups).await?;
        }
        self.remove_node(node).await?;
        self.query(vec![self.renew_lease_command()]).await?;
        for groups in self.layer.all_groups().chunks(GROUPS_AT_ONCE) {
            let said: Vec<_> = groups
                .iter()
                .map(|(group, found)| (group, found, found.members()))
                .collect();
            let commands = said
                .iter()
                .flat_map(|(group, _, members)| self.remote.presence_commands(group, members));
            self.query(commands.collect()).await?;
            for (group, found, members) in said {
                self.remote
                    .remove_departed(group, &members, &found.members());
            }
        }
        Ok(())
    }

    fn renew_lease_command(&self) -> redis::Cmd {
        let inner = &self.remote.0;
        let mut call = RENEW_LEASE.call(&[&self.remote.lease_key()]);
        // A beat comes every third of the lease, and who looks whether it ran out does so with its own beat.
        let lease = inner.lease * 2 / 3;
        call.arg(format!("{:016x}", inner.node))
            .arg(u64::try_from(lease.as_millis()).unwrap_or(u64::MAX));
        call
    }

    /// Returns the groups that a process has members in.
    async fn groups_of(&self, node: u64) -> RedisResult<Vec<String>> {
        let mut ask = redis::cmd("SMEMBERS");
        ask.arg(self.remote.present_groups_key(node));
        let answer = self.query(vec![ask]).await?.into_iter().next();
        let groups = answer.map(redis::from_redis_value::<Vec<String>>);
        Ok(groups.and_then(Result::ok).unwrap_or_default())
    }

    /// Removes what a process said of its members in some groups; returns the entries of each.
    async fn remove_members_of(
        &self,
        node: u64,
        groups: &[String],
    ) -> RedisResult<Vec<Vec<String>>> {
        let calls = groups.iter().map(|group| {
            let mut call = REMOVE_NODE_MEMBERS.call(&[&self.remote.presence_key(group)]);
            call.arg(format!("{node:016x}."));
            call
        });
        let answers = self.query(calls.collect()).await?.into_iter();
        let entries = |answer| redis::from_redis_value(answer).unwrap_or_default();
        Ok(answers.map(entries).collect())
    }

    /// Removes the last that is known of a process.
    async fn remove_node(&self, node: u64) -> RedisResult<()> {
        let mut delete = redis::cmd("DEL");
        delete.arg(self.remote.present_groups_key(node));
        let mut end = redis::cmd("ZREM");
        end.arg(self.remote.lease_key()).arg(format!("{node:016x}"));
        self.query(vec![delete, end]).await.map(drop)
    }

    /// Renews this process's lease, and does nothing else that takes time: whoever is busy must not be taken for dead.
    pub(super) async fn renew_lease(self) -> ConnectionEnd {
        let inner = &self.remote.0;
        let mut moved_to = None;
        loop {
            tokio::time::sleep(inner.lease / 3).await;
            let answer = match self.query(vec![self.renew_lease_command()]).await {
                Ok(answer) => answer.into_iter().next(),
                Err(error) => return (error, Vec::new()),
            };
            let (known, dead): (i64, Vec<String>) = answer.map_or((1, Vec::new()), |answer| {
                redis::from_redis_value(answer).unwrap_or((1, Vec::new()))
            });
            if known == 0 {
                // Somebody flushed Redis, or took us for dead.
                self.remote.mark_presence_stale();
                inner.core.reapply_all();
            }
            self.remote.queue_for_reaping(&dead);
            inner.reaper_wakeup.notify_one();
            let now = match self.within(self.commands.moved_slots()).await {
                Ok(now) => now,
                Err(error) => return (error, Vec::new()),
            };
            let is_resharding = self.commands.is_resharding();
            inner.is_resharding.store(is_resharding, Ordering::Relaxed);
            if now.is_some() && now == moved_to {
                return (moved(), Vec::new()); // it has come to rest
            }
            moved_to = now;
        }
    }

    /// Says anew who is here where that is needed, and clears up after processes that died.
    pub(super) async fn run_reaper(self) -> ConnectionEnd {
        let inner = &self.remote.0;
        loop {
            inner.reaper_wakeup.notified().await;
            if let Err(error) = self.renew_empty().await {
                return (error, Vec::new());
            }
            if self.remote.take_presence_stale()
                && let Err(error) = self.register().await
            {
                return (error, Vec::new());
            }
            loop {
                let Some(node) = inner.dead_nodes.lock().pop() else {
                    break;
                };
                if let Err(error) = self.reap_node(node).await {
                    return (error, Vec::new());
                }
            }
        }
    }

    /// Removes what a process that died said of its members, and tells their groups that they are gone.
    async fn reap_node(&self, node: u64) -> RedisResult<()> {
        self.leave_core_groups_of(node).await?;
        let mut members = 0;
        // Whoever takes over, should we not come to the end, tells the groups that we did not tell.
        for groups in self.groups_of(node).await?.chunks(GROUPS_AT_ONCE) {
            let gone = self.remove_members_of(node, groups).await?;
            for (group, entries) in groups.iter().zip(gone) {
                members += entries.len();
                self.announce_left(group, &entries).await;
            }
        }
        self.remove_node(node).await?;
        tracing::warn!(
            node = format!("{node:016x}"),
            members,
            "another process died: its members are gone"
        );
        Ok(())
    }

    /// Tells a group that members of a process that died are gone, as far as it heard that they came.
    async fn announce_left(&self, group: &str, entries: &[String]) {
        let mut users = Vec::new();
        for entry in entries {
            let entry: serde_json::Value = serde_json::from_str(entry).unwrap_or_default();
            if entry["announced"].as_bool() == Some(true) {
                users.push(entry["user"].as_str().map(str::to_owned));
            }
        }
        if let Ok(group) = GroupName::new(group)
            && !users.is_empty()
        {
            Box::pin(self.layer.group_send_left(&group, &users)).await;
        }
    }

    /// Takes a process that died out of the groups of `channels_redis.core`, so that nobody writes into its inbox.
    async fn leave_core_groups_of(&self, node: u64) -> RedisResult<()> {
        let inner = &self.remote.0;
        if inner.format == LayerFormat::Oneport {
            return Ok(());
        }
        let joined = self.remote.joined_key(node);
        let mut ask = redis::cmd("HGETALL");
        ask.arg(&joined);
        let answer = self.query(vec![ask]).await?.into_iter().next();
        let groups = answer.map(redis::from_redis_value::<Vec<(String, String)>>);
        let groups = groups.and_then(Result::ok).unwrap_or_default();
        self.query(inner.core.leave_for_node(&joined, &groups))
            .await?;
        Ok(())
    }

    /// Says what still waits, and that this process is gone.
    pub(super) async fn deregister(self) {
        let inner = &self.remote.0;
        let deregister = async {
            while !inner.outbox.is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            if inner.format == LayerFormat::Core {
                let joined = self.remote.joined_key(inner.node);
                self.query(inner.core.leave_all(&joined)).await?;
            }
            for groups in self.groups_of(inner.node).await?.chunks(GROUPS_AT_ONCE) {
                self.remove_members_of(inner.node, groups).await?;
            }
            self.remove_node(inner.node).await
        };
        if !matches!(
            tokio::time::timeout(DEREGISTER_TIMEOUT, deregister).await,
            Ok(Ok(_))
        ) {
            tracing::warn!("the channel layer could not deregister from Redis");
        }
    }
}

/// The masters of the cluster have other slots than when the connections began: they begin anew, so that each is where it should be.
fn moved() -> RedisError {
    RedisError::from(io::Error::other("the cluster's slots have moved"))
}
