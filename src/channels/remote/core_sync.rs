//! Core sync: the inbox and the groups of `channels_redis.core`, kept in Redis.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{RedisResult, Value};

use super::connection::{Connection, ConnectionEnd};
use super::refusals::CommandLabel;
use super::{Remote, redis_stream};
use crate::channels::GroupName;
use crate::channels::group::Group;
use crate::channels::history::GroupHistory;
use crate::config::LayerFormat;

/// How long Redis waits for a message before it replies that there is none.
const INBOX_SECONDS: u64 = 5;

impl Remote {
    /// In `channels_redis.core`, checks that Redis still lists this process in a group, before a
    /// client resumes from a position: what others sent since it was lost is not in the history
    /// here. Waits for the reply, and until the process is listed again.
    pub(in crate::channels) async fn confirm_membership(&self, name: &GroupName, group: &Group) {
        if self.0.format != LayerFormat::Core || !self.0.core.is_joined(name) {
            return;
        }
        let Some(ask) = self.0.core.ask_listed(name) else {
            return;
        };
        if let Some(reply) = self.query_redis(vec![ask]).await
            && matches!(reply[..], [Value::Nil])
            && self.0.core.rejoin(name)
        {
            self.core_memberships_lost(std::slice::from_ref(name));
        }
        // If another task joins the group again, its reply shows that it was lost, not this one.
        self.wait_until_ready(name, group).await;
    }

    /// Called when this process was in groups that did not list it: Redis has lost its data, or
    /// another process took this one for dead. Events that others sent in the meantime are lost, so
    /// the histories start another epoch.
    fn core_memberships_lost(&self, groups: &[GroupName]) {
        for name in groups {
            if let Some(group) = self.0.local.find(name.as_str()) {
                group.with_history(GroupHistory::mark_behind);
            }
        }
        if !groups.is_empty()
            && let Some(times) = self.0.memberships_lost.count()
        {
            tracing::warn!(
                groups = groups.len(),
                times,
                "Redis no longer listed this process in its groups: events of other processes since then are lost"
            );
        }
    }
}

impl Connection {
    /// Takes messages out of the inbox for as long as the connection lives.
    pub(super) async fn drain_inbox(self, mut connection: MultiplexedConnection) -> ConnectionEnd {
        let inbox = self.remote.0.core.inbox();
        let longest = self.remote.0.timeout + Duration::from_secs(INBOX_SECONDS);
        loop {
            let take = take_messages(&mut connection, &inbox, INBOX_SECONDS);
            let messages = match redis_stream::reply_within(longest, take).await {
                Some(Ok(messages)) => messages,
                Some(Err(error)) => {
                    let asked = CommandLabel::new("BZPOPMIN", &inbox);
                    return (self.remote.named(error, &asked), Vec::new());
                }
                None => return (redis_stream::timed_out(), Vec::new()),
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
            let replies = self.query(inner.core.commands(&changes, &joined)).await?;
            let joins = inner.core.confirmed(&changes, &replies);
            self.remote.core_memberships_lost(&joins.lost);
            // Changes of presence were lost before; from now on they arrive.
            self.remote.compare_presence_of(&joins.added);
            for (group, _) in &changes.join {
                self.notify_ready(group.as_str());
            }
        }
    }
}

/// Takes messages out of the inbox. Redis waits for the first one, at most `seconds`.
async fn take_messages(
    connection: &mut MultiplexedConnection,
    inbox: &str,
    seconds: u64,
) -> RedisResult<Vec<Vec<u8>>> {
    let mut wait = redis::cmd("BZPOPMIN");
    wait.arg(inbox).arg(seconds);
    let first: Option<(String, Vec<u8>, String)> = wait.query_async(connection).await?;
    let Some((_, first, _)) = first else {
        return Ok(Vec::new());
    };
    let mut messages = vec![first];
    let mut more = redis::cmd("ZPOPMIN");
    more.arg(inbox).arg(512);
    let rest: Vec<(Vec<u8>, String)> = more.query_async(connection).await?;
    messages.extend(rest.into_iter().map(|(message, _)| message));
    Ok(messages)
}
