//! Life: says that this process is alive and who is here, and clears up after those that died.

use std::time::Duration;

use redis::{RedisResult, Value};

use super::connection::{Ended, Live};
use super::scripts::{BEAT, CLEAR};
use crate::channels::{GroupName, PresenceEvent};
use crate::config::LayerFormat;

/// How many groups one pipeline is about.
const GROUPS_AT_ONCE: usize = 500;

/// How long the end may take: what waits is said, and that we are gone.
const FAREWELL_MAX: Duration = Duration::from_secs(1);

impl Live {
    pub(super) async fn query(&self, commands: Vec<redis::Cmd>) -> RedisResult<Vec<Value>> {
        let mut pipeline = redis::pipe();
        for command in commands {
            pipeline.add_command(command);
        }
        if pipeline.is_empty() {
            return Ok(Vec::new());
        }
        let mut connection = self.commands.clone();
        self.within(pipeline.query_async(&mut connection)).await
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
        call.arg(format!("{:016x}", inner.node))
            .arg(u64::try_from(inner.lease.as_millis()).unwrap_or(u64::MAX));
        call
    }

    /// Removes all that a process said of its members; returns group and entry of each.
    async fn clear(&self, node: u64) -> RedisResult<Vec<(String, String)>> {
        let list = self.remote.present_groups_key(node);
        let mut ask = redis::cmd("SMEMBERS");
        ask.arg(&list);
        let answer = self.query(vec![ask]).await?.into_iter().next();
        let groups: Vec<String> = answer.map_or(Ok(Vec::new()), redis::from_redis_value)?;
        let mut gone = Vec::new();
        for groups in groups.chunks(GROUPS_AT_ONCE) {
            let calls = groups.iter().map(|group| {
                let mut call = CLEAR.call(&[&self.remote.presence_key(group)]);
                call.arg(format!("{node:016x}."));
                call
            });
            let answers = self.query(calls.collect()).await?;
            for (group, answer) in groups.iter().zip(answers) {
                let entries: Vec<String> = redis::from_redis_value(answer)?;
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

    /// Renews this process's lease, and clears up after those whose lease ran out.
    pub(super) async fn beat(self) -> Ended {
        loop {
            tokio::time::sleep(self.remote.0.lease / 3).await;
            let answer = match self.query(vec![self.beat_command()]).await {
                Ok(answer) => answer.into_iter().next(),
                Err(error) => return (error, Vec::new()),
            };
            let (known, dead): (i64, Vec<String>) = answer.map_or((1, Vec::new()), |answer| {
                redis::from_redis_value(answer).unwrap_or((1, Vec::new()))
            });
            if (known == 0 || self.remote.take_stale())
                && let Err(error) = self.register().await
            {
                return (error, Vec::new());
            }
            for node in dead {
                if let Ok(node) = u64::from_str_radix(&node, 16)
                    && node != self.remote.0.node
                    && let Err(error) = self.bury(node).await
                {
                    return (error, Vec::new());
                }
            }
        }
    }

    /// Removes what a process that died said of its members, and tells their groups that they are gone.
    async fn bury(&self, node: u64) -> RedisResult<()> {
        let gone = self.clear(node).await?;
        tracing::warn!(
            node = format!("{node:016x}"),
            members = gone.len(),
            "another process died: its members are gone"
        );
        for (group, entry) in gone {
            let entry: serde_json::Value = serde_json::from_str(&entry).unwrap_or_default();
            let (Ok(group), Some(true)) = (GroupName::new(&group), entry["announced"].as_bool())
            else {
                continue;
            };
            let told = self.layer.group_tell_presence(
                &group,
                PresenceEvent::LEAVE,
                entry["user"].as_str(),
            );
            let _ = Box::pin(told).await;
        }
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
                self.query(inner.core.farewell()).await?;
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
