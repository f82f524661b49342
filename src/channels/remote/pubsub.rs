//! Pub/sub: the connections for subscriptions, one to each server, and their messages.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::{FutureExt, StreamExt};
use redis::aio::{PubSubSink, PubSubStream};
use redis::{RedisResult, Value};
use tokio::task::unconstrained;

use super::connection::{Connection, ConnectionEnd, closed};
use super::redis_stream::{self, ReadAhead};
use super::refusals::CommandLabel;

/// The number of messages handled before the worker is yielded to other tasks.
const MESSAGES_AT_ONCE: u64 = 64;

/// A connection for subscriptions.
pub(super) struct PubSubConnection {
    pub(super) sink: PubSubSink,
    /// Incremented when the handling of a message starts and again when it ends: odd while a
    /// message is being handled.
    pub(super) activity: Arc<AtomicU64>,
}

impl Connection {
    /// Handles messages as they arrive, for as long as the connection lives.
    pub(super) async fn read_pubsub(
        self,
        mut stream: PubSubStream,
        ahead: Arc<ReadAhead>,
        activity: Arc<AtomicU64>,
    ) -> ConnectionEnd {
        loop {
            // Unconstrained: with tokio's budget used up, the stream would look empty, and
            // `ReadAhead` would forget its count.
            let next = match unconstrained(stream.next()).now_or_never() {
                Some(next) => next,
                None => {
                    ahead.await_more();
                    stream.next().await
                }
            };
            let Some(message) = next else {
                return (closed(), Vec::new());
            };
            let (channel, payload) = (message.get_channel_name(), message.get_payload_bytes());
            activity.fetch_add(1, Ordering::Relaxed);
            self.remote.on_message(channel, payload).await;
            let count = activity.fetch_add(1, Ordering::Relaxed) / 2;
            ahead.handled(channel.len() + payload.len());
            if count.is_multiple_of(MESSAGES_AT_ONCE) {
                tokio::task::yield_now().await;
            }
        }
    }

    /// Waits for a reply that comes after the messages sent before it. While those arrive and are
    /// handled, the connection is alive, and the timeout starts again.
    async fn reply_after_pending<T>(
        &self,
        activity: &AtomicU64,
        reply: impl Future<Output = RedisResult<T>>,
    ) -> RedisResult<T> {
        tokio::pin!(reply);
        loop {
            let before = activity.load(Ordering::Relaxed);
            match redis_stream::reply_within(self.remote.0.timeout, &mut reply).await {
                Some(reply) => return reply,
                // A message that is being handled waits for space in its group, which has its own
                // deadline.
                None if before % 2 == 1 || activity.load(Ordering::Relaxed) != before => {}
                None => return Err(redis_stream::timed_out()),
            }
        }
    }

    /// Subscribes and unsubscribes as groups are created and removed. Pings the servers after a
    /// time without changes.
    pub(super) async fn sync_subscriptions(
        self,
        mut connections: Vec<PubSubConnection>,
    ) -> ConnectionEnd {
        let pause = self.remote.0.lease / 3;
        loop {
            let changed = self.remote.0.subscriptions.changed();
            let applied = match tokio::time::timeout(pause, changed).await {
                Ok(()) => self.apply_subscriptions(&mut connections).await,
                Err(_) => self.ping_all(&mut connections).await,
            };
            if let Err(error) = applied {
                return (error, Vec::new());
            }
        }
    }

    /// Checks that the connections are alive.
    async fn ping_all(&self, connections: &mut [PubSubConnection]) -> RedisResult<()> {
        for PubSubConnection { sink, activity } in connections {
            self.reply_after_pending(activity, sink.ping::<Value>())
                .await?;
        }
        Ok(())
    }

    /// Subscribes to the wanted channels and unsubscribes from the others, until there is no
    /// difference.
    pub(super) async fn apply_subscriptions(
        &self,
        connections: &mut [PubSubConnection],
    ) -> RedisResult<()> {
        let inner = &self.remote.0;
        loop {
            let changes = inner.subscriptions.changes();
            if changes.subscribe.is_empty() && changes.unsubscribe.is_empty() {
                return Ok(());
            }
            for (server, PubSubConnection { sink, activity }) in connections.iter_mut().enumerate()
            {
                let own = |channels: &[String]| -> Vec<String> {
                    let is_own = |channel: &&String| {
                        self.commands.subscription_server(channel.as_bytes()) == server
                    };
                    channels.iter().filter(is_own).cloned().collect()
                };
                let (subscribe, unsubscribe) = (own(&changes.subscribe), own(&changes.unsubscribe));
                if !subscribe.is_empty() {
                    let subscribed = self
                        .reply_after_pending(activity, sink.subscribe(&subscribe))
                        .await;
                    let asked = CommandLabel::new("SUBSCRIBE", &subscribe[0]);
                    subscribed.map_err(|error| self.remote.named(error, &asked))?;
                }
                if !unsubscribe.is_empty() {
                    let unsubscribed = self
                        .reply_after_pending(activity, sink.unsubscribe(&unsubscribe))
                        .await;
                    let asked = CommandLabel::new("UNSUBSCRIBE", &unsubscribe[0]);
                    unsubscribed.map_err(|error| self.remote.named(error, &asked))?;
                }
            }
            inner.subscriptions.confirmed(&changes);
            for channel in &changes.subscribe {
                match inner.names.group_of(channel) {
                    Some(group) => self.notify_ready(group),
                    None => inner.changed.notify_waiters(),
                }
            }
        }
    }

    pub(super) fn notify_ready(&self, group: &str) {
        if let Some(group) = self.remote.0.local.find(group) {
            if group.is_presence_unread() {
                self.remote.0.presence_queue.add(group.name());
            }
            group.notify_ready();
        }
    }
}
