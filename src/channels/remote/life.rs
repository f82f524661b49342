//! Life: says that this process is alive and who is here, and clears up after those that died.

use std::time::Duration;

use redis::{RedisResult, Value};

use super::connection::{Ended, Live};
use super::scripts::{BEAT, CLEAR};
use crate::channels::{GroupName, Presence, PresenceEvent};
use crate::config::LayerFormat;

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
        self.query(vec![
            self.clear_command(self.remote.0.node),
            self.beat_command(),
        ])
        .await?;
        for (group, found) in self.layer.all_groups() {
            let mut commands = Vec::new();
            for member in found.members() {
                if member.presence != Presence::Untracked {
                    let name = member.user.as_ref().map(|user| user.name.as_str());
                    commands.extend(self.remote.present_commands(
                        &group,
                        member.member,
                        name,
                        member.presence,
                    ));
                }
            }
            self.query(commands).await?;
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

    fn clear_command(&self, node: u64) -> redis::Cmd {
        let present = self.remote.present_groups_key(node);
        let mut call = CLEAR.call(&[&present, &self.remote.lease_key()]);
        call.arg(self.remote.presence_key(""))
            .arg(format!("{node:016x}"));
        call
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
            if known == 0
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
        let answer = self.query(vec![self.clear_command(node)]).await?;
        let gone: Vec<(String, String)> = match answer.into_iter().next() {
            Some(answer) => redis::from_redis_value(answer)?,
            None => Vec::new(),
        };
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
            let mut commands = vec![self.clear_command(inner.node)];
            if inner.format == LayerFormat::Core {
                commands.extend(inner.core.farewell());
            }
            self.query(commands).await
        };
        if !matches!(
            tokio::time::timeout(FAREWELL_MAX, farewell).await,
            Ok(Ok(_))
        ) {
            tracing::warn!("the channel layer could not say farewell to Redis");
        }
    }
}
