//! Core sync: the inbox and the groups of `channels_redis.core`, kept in Redis.

use std::time::Duration;

use redis::RedisResult;
use redis::aio::MultiplexedConnection;

use super::channels_redis_core;
use super::connection::{Connection, ConnectionEnd};
use super::redis_stream;
use super::refusals::CommandLabel;

/// How long Redis waits for a message before it replies that there is none.
const INBOX_SECONDS: u64 = 5;

impl Connection {
    /// Takes messages out of the inbox for as long as the connection lives.
    pub(super) async fn drain_inbox(self, mut connection: MultiplexedConnection) -> ConnectionEnd {
        let inbox = self.remote.0.core.inbox();
        let longest = self.remote.0.timeout + Duration::from_secs(INBOX_SECONDS);
        loop {
            let take = channels_redis_core::take_messages(&mut connection, &inbox, INBOX_SECONDS);
            let messages = match tokio::time::timeout(longest, take).await {
                Ok(Ok(messages)) => messages,
                Ok(Err(error)) => {
                    let asked = CommandLabel::new("BZPOPMIN", &inbox);
                    return (self.remote.named(error, &asked), Vec::new());
                }
                Err(_) => return (redis_stream::timed_out(), Vec::new()),
            };
            for message in messages {
                self.remote.on_inbox_message(&message).await;
            }
        }
    }

    /// Joins and leaves groups as they are created and removed, and joins all of them again before
    /// Redis expires them.
    pub(super) async fn sync_core_groups(self) -> ConnectionEnd {
        let inner = &self.remote.0;
        let again = (inner.group_expiry / 3).min(Duration::from_secs(3600));
        let mut next = tokio::time::Instant::now() + again;
        loop {
            if tokio::time::timeout_at(next, inner.core.changed())
                .await
                .is_err()
            {
                inner.core.reapply_all();
                next = tokio::time::Instant::now() + again;
            }
            if let Err(error) = self.apply_core_groups().await {
                return (error, Vec::new());
            }
        }
    }

    /// Joins the groups that are wanted and leaves the others, until there is no difference.
    pub(super) async fn apply_core_groups(&self) -> RedisResult<()> {
        let inner = &self.remote.0;
        loop {
            let changes = inner.core.changes();
            if changes.join.is_empty() && changes.leave.is_empty() {
                return Ok(());
            }
            let joined = inner.names.joined_key(inner.node);
            self.query(inner.core.commands(&changes, &joined)).await?;
            inner.core.confirmed(&changes);
            for (group, _) in &changes.join {
                self.notify_ready(group.as_str());
            }
        }
    }
}
