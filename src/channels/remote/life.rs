//! Life: says that this process is alive and who is here, and clears up after those that died.

use std::collections::HashMap;
use std::io;
use std::time::Duration;

use redis::{RedisError, RedisResult, Value};

use super::commands::is_passing;
use super::connection::{Ended, Live};
use super::lock;
use super::scripts::{BEAT, CLEAR};
use crate::channels::GroupName;
use crate::config::LayerFormat;

/// How many commands one pipeline has.
const COMMANDS_AT_ONCE: usize = 1000;

/// How many groups one pipeline is about.
const GROUPS_AT_ONCE: usize = 500;

/// How long the end may take: what waits is said, and that we are gone.
const FAREWELL_MAX: Duration = Duration::from_secs(1);

impl Live {
    /// Says commands to Redis; one that it refuses, which concerns its own key, has nil for an answer.
    pub(super) async fn query(&self, commands: Vec<redis::Cmd>) -> RedisResult<Vec<Value>> {
        let mut answers = Vec::with_capacity(commands.len());
        let mut commands = commands.into_iter().peekable();
        while commands.peek().is_some() {
            let some = commands.by_ref().take(COMMANDS_AT_ONCE).collect();
            for answer in self.within(self.commands.run(some)).await? {
                answers.push(match answer {
                    Err(error) if is_passing(&error) => return Err(error),
                    Err(error) => {
                        tracing::warn!(%error, "Redis refused what the channel layer asked");
                        Value::Nil
                    }
                    Ok(answer) => answer,
                });
            }
        }
        Ok(answers)
    }

    /// Says anew who is here: what was said before may be lost, or wrong.
    pub(super) async fn register(&self) -> RedisResult<()> {
        self.clear(self.remote.0.node).await?;
        self.query(vec![self.beat_command()]).await?;
        for groups in self.layer.all_groups().chunks(GROUPS_AT_ONCE) {
            let said: Vec<_> = groups
                .iter()
                .map(|(group, found)| (group, found, found.members()))
                .collect();
            let commands = said
                .iter()
                .flat_map(|(group, _, members)| self.remote.present_commands(group, members));
            self.query(commands.collect()).await?;
            for (group, found, members) in said {
                self.remote.take_back(group, &members, &found.members());
            }
        }
        Ok(())
    }

    fn beat_command(&self) -> redis::Cmd {
        let inner = &self.remote.0;
        let mut call = BEAT.call(&[&self.remote.lease_key()]);
        // A beat comes every third of the lease, and who looks whether it ran out does so with its own beat.
        let lease = inner.lease * 2 / 3;
        call.arg(format!("{:016x}", inner.node))
            .arg(u64::try_from(lease.as_millis()).unwrap_or(u64::MAX));
        call
    }

    /// Removes all that a process said of its members; returns group and entry of each.
    async fn clear(&self, node: u64) -> RedisResult<Vec<(String, String)>> {
        let list = self.remote.present_groups_key(node);
        let mut ask = redis::cmd("SMEMBERS");
        ask.arg(&list);
        let answer = self.query(vec![ask]).await?.into_iter().next();
        let groups = answer.map(redis::from_redis_value::<Vec<String>>);
        let groups = groups.and_then(Result::ok).unwrap_or_default();
        let mut gone = Vec::new();
        for groups in groups.chunks(GROUPS_AT_ONCE) {
            let calls = groups.iter().map(|group| {
                let mut call = CLEAR.call(&[&self.remote.presence_key(group)]);
                call.arg(format!("{node:016x}."));
                call
            });
            let answers = self.query(calls.collect()).await?;
            for (group, answer) in groups.iter().zip(answers) {
                let entries: Vec<String> = redis::from_redis_value(answer).unwrap_or_default();
                gone.extend(entries.into_iter().map(|entry| (group.clone(), entry)));
            }
        }
        let mut delete = redis::cmd("DEL");
        delete.arg(&list);
        let mut end = redis::cmd("ZREM");
        end.arg(self.remote.lease_key()).arg(format!("{node:016x}"));
        self.query(vec![delete, end]).await?;
        Ok(gone)
    }

    /// Renews this process's lease, and does nothing else that takes time: whoever is busy must not be taken for dead.
    pub(super) async fn beat(self) -> Ended {
        let inner = &self.remote.0;
        let mut has_moved = false;
        loop {
            tokio::time::sleep(inner.lease / 3).await;
            let answer = match self.query(vec![self.beat_command()]).await {
                Ok(answer) => answer.into_iter().next(),
                Err(error) => return (error, Vec::new()),
            };
            let (known, dead): (i64, Vec<String>) = answer.map_or((1, Vec::new()), |answer| {
                redis::from_redis_value(answer).unwrap_or((1, Vec::new()))
            });
            if known == 0 {
                // Somebody flushed Redis, or took us for dead.
                self.remote.present_is_stale();
                inner.core.say_again();
            }
            self.remote.bury_later(&dead);
            inner.tidying.notify_one();
            match self.within(self.commands.has_moved()).await {
                Ok(false) => has_moved = false,
                Ok(true) if has_moved => return (moved(), Vec::new()), // it has come to rest
                Ok(true) => has_moved = true,
                Err(error) => return (error, Vec::new()),
            }
        }
    }

    /// Says anew who is here where that is needed, and clears up after processes that died.
    pub(super) async fn tidy(self) -> Ended {
        let inner = &self.remote.0;
        loop {
            inner.tidying.notified().await;
            if self.remote.take_stale()
                && let Err(error) = self.register().await
            {
                return (error, Vec::new());
            }
            loop {
                let Some(node) = lock(&inner.dead).pop() else {
                    break;
                };
                if let Err(error) = self.bury(node).await {
                    return (error, Vec::new());
                }
            }
        }
    }

    /// Removes what a process that died said of its members, and tells their groups that they are gone.
    async fn bury(&self, node: u64) -> RedisResult<()> {
        self.leave_for(node).await?;
        let gone = self.clear(node).await?;
        tracing::warn!(
            node = format!("{node:016x}"),
            members = gone.len(),
            "another process died: its members are gone"
        );
        let mut of_group: HashMap<String, Vec<Option<String>>> = HashMap::new();
        for (group, entry) in gone {
            let entry: serde_json::Value = serde_json::from_str(&entry).unwrap_or_default();
            if entry["announced"].as_bool() == Some(true) {
                let user = entry["user"].as_str().map(str::to_owned);
                of_group.entry(group).or_default().push(user);
            }
        }
        for (group, users) in of_group {
            if let Ok(group) = GroupName::new(&group) {
                Box::pin(self.layer.group_tell_left(&group, &users)).await;
            }
        }
        Ok(())
    }

    /// Takes a process that died out of the groups of `channels_redis.core`, so that nobody writes into its inbox.
    async fn leave_for(&self, node: u64) -> RedisResult<()> {
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
        self.query(inner.core.leave_for(&joined, &groups)).await?;
        Ok(())
    }

    /// Says what still waits, and that this process is gone.
    pub(super) async fn farewell(self) {
        let inner = &self.remote.0;
        let farewell = async {
            while !inner.outbox.is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            if inner.format == LayerFormat::Core {
                let joined = self.remote.joined_key(inner.node);
                self.query(inner.core.farewell(&joined)).await?;
            }
            self.clear(inner.node).await
        };
        if !matches!(
            tokio::time::timeout(FAREWELL_MAX, farewell).await,
            Ok(Ok(_))
        ) {
            tracing::warn!("the channel layer could not say farewell to Redis");
        }
    }
}

/// The masters of the cluster have other slots than when the connections began: they begin anew, so that each is where it should be.
fn moved() -> RedisError {
    RedisError::from(io::Error::other("the cluster's slots have moved"))
}
