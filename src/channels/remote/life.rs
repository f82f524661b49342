//! Life: says that this process is alive and who is here, and clears up after those that died.

use std::io;
use std::sync::atomic::Ordering;
use std::time::Duration;

use redis::{RedisError, RedisResult, Value};

use super::commands::is_passing;
use super::connection::{Ended, Live};
use super::refusals::Asked;
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
            let some: Vec<_> = commands.by_ref().take(COMMANDS_AT_ONCE).collect();
            let asked: Vec<_> = some.iter().map(Asked::of).collect();
            let answered = self.within(self.commands.run(some)).await?;
            for (answer, asked) in answered.into_iter().zip(asked) {
                answers.push(match answer {
                    Err(error) if is_passing(&error) => return Err(error),
                    Err(error) => {
                        self.remote.tell_refused(&error, || asked);
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
        let node = self.remote.0.node;
        for groups in self.listed(node).await?.chunks(GROUPS_AT_ONCE) {
            self.clear(node, groups).await?;
        }
        self.end(node).await?;
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

    /// Returns the groups that a process has members in.
    async fn listed(&self, node: u64) -> RedisResult<Vec<String>> {
        let mut ask = redis::cmd("SMEMBERS");
        ask.arg(self.remote.present_groups_key(node));
        let answer = self.query(vec![ask]).await?.into_iter().next();
        let groups = answer.map(redis::from_redis_value::<Vec<String>>);
        Ok(groups.and_then(Result::ok).unwrap_or_default())
    }

    /// Removes what a process said of its members in some groups; returns the entries of each.
    async fn clear(&self, node: u64, groups: &[String]) -> RedisResult<Vec<Vec<String>>> {
        let calls = groups.iter().map(|group| {
            let mut call = CLEAR.call(&[&self.remote.presence_key(group)]);
            call.arg(format!("{node:016x}."));
            call
        });
        let answers = self.query(calls.collect()).await?.into_iter();
        let entries = |answer| redis::from_redis_value(answer).unwrap_or_default();
        Ok(answers.map(entries).collect())
    }

    /// Removes the last that is known of a process.
    async fn end(&self, node: u64) -> RedisResult<()> {
        let mut delete = redis::cmd("DEL");
        delete.arg(self.remote.present_groups_key(node));
        let mut end = redis::cmd("ZREM");
        end.arg(self.remote.lease_key()).arg(format!("{node:016x}"));
        self.query(vec![delete, end]).await.map(drop)
    }

    /// Renews this process's lease, and does nothing else that takes time: whoever is busy must not be taken for dead.
    pub(super) async fn beat(self) -> Ended {
        let inner = &self.remote.0;
        let mut moved_to = None;
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
            let now = match self.within(self.commands.moved()).await {
                Ok(now) => now,
                Err(error) => return (error, Vec::new()),
            };
            let is_in_flux = self.commands.is_in_flux();
            inner.in_flux.store(is_in_flux, Ordering::Relaxed);
            if now.is_some() && now == moved_to {
                return (moved(), Vec::new()); // it has come to rest
            }
            moved_to = now;
        }
    }

    /// Says anew who is here where that is needed, and clears up after processes that died.
    pub(super) async fn tidy(self) -> Ended {
        let inner = &self.remote.0;
        loop {
            inner.tidying.notified().await;
            if let Err(error) = self.renew_empty().await {
                return (error, Vec::new());
            }
            if self.remote.take_stale()
                && let Err(error) = self.register().await
            {
                return (error, Vec::new());
            }
            loop {
                let Some(node) = inner.dead.lock().pop() else {
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
        let mut members = 0;
        // Whoever takes over, should we not come to the end, tells the groups that we did not tell.
        for groups in self.listed(node).await?.chunks(GROUPS_AT_ONCE) {
            let gone = self.clear(node, groups).await?;
            for (group, entries) in groups.iter().zip(gone) {
                members += entries.len();
                self.tell_left(group, &entries).await;
            }
        }
        self.end(node).await?;
        tracing::warn!(
            node = format!("{node:016x}"),
            members,
            "another process died: its members are gone"
        );
        Ok(())
    }

    /// Tells a group that members of a process that died are gone, as far as it heard that they came.
    async fn tell_left(&self, group: &str, entries: &[String]) {
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
            Box::pin(self.layer.group_tell_left(&group, &users)).await;
        }
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
            for groups in self.listed(inner.node).await?.chunks(GROUPS_AT_ONCE) {
                self.clear(inner.node, groups).await?;
            }
            self.end(inner.node).await
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
