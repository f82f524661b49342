//! Pub/sub: the connections that subscriptions and their messages go through, one to each server.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::{FutureExt, StreamExt};
use redis::aio::{PubSubSink, PubSubStream};
use redis::{RedisResult, Value};
use tokio::task::unconstrained;

use super::connection::{Connection, ConnectionEnd, closed};
use super::redis_stream::{self, ReadAhead};
use super::refusals::CommandLabel;

/// How many messages are handled before others may use the worker.
const MESSAGES_AT_ONCE: u64 = 64;

/// One connection that is heard.
pub(super) struct PubSubConnection {
    pub(super) sink: PubSubSink,
    /// How many messages it brought, twice; odd while one is handled.
    pub(super) activity: Arc<AtomicU64>,
}

impl Connection {
    pub(super) async fn read_pubsub(
        self,
        mut stream: PubSubStream,
        ahead: Arc<ReadAhead>,
        activity: Arc<AtomicU64>,
    ) -> ConnectionEnd {
        loop {
            // Beside the runtime's budget: nothing there has to mean that there is nothing.
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
            self.remote.on_message(&self.layer, channel, payload).await;
            let count = activity.fetch_add(1, Ordering::Relaxed) / 2;
            ahead.handled(channel.len() + payload.len());
            if count.is_multiple_of(MESSAGES_AT_ONCE) {
                tokio::task::yield_now().await;
            }
        }
    }

    /// Waits for an answer that comes behind all that is heard before it: as long as there is something, Redis is not away.
    async fn reply_after_pending<T>(
        &self,
        activity: &AtomicU64,
        answer: impl Future<Output = RedisResult<T>>,
    ) -> RedisResult<T> {
        tokio::pin!(answer);
        loop {
            let before = activity.load(Ordering::Relaxed);
            match tokio::time::timeout(self.remote.0.timeout, &mut answer).await {
                Ok(answer) => return answer,
                // What is handled has a deadline of its own.
                Err(_) if before % 2 == 1 || activity.load(Ordering::Relaxed) != before => {}
                Err(_) => return Err(redis_stream::timed_out()),
            }
        }
    }

    pub(super) async fn sync_subscriptions(
        self,
        mut sinks: Vec<PubSubConnection>,
    ) -> ConnectionEnd {
        let pause = self.remote.0.lease / 3;
        loop {
            let changed = self.remote.0.subscriptions.changed();
            let said = match tokio::time::timeout(pause, changed).await {
                Ok(()) => self.apply_subscriptions(&mut sinks).await,
                Err(_) => self.ping_all(&mut sinks).await,
            };
            if let Err(error) = said {
                return (error, Vec::new());
            }
        }
    }

    /// Sees whether the connections are alive.
    async fn ping_all(&self, sinks: &mut [PubSubConnection]) -> RedisResult<()> {
        for PubSubConnection { sink, activity } in sinks {
            self.reply_after_pending(activity, sink.ping::<Value>())
                .await?;
        }
        Ok(())
    }

    pub(super) async fn apply_subscriptions(
        &self,
        sinks: &mut [PubSubConnection],
    ) -> RedisResult<()> {
        let inner = &self.remote.0;
        loop {
            let changes = inner.subscriptions.changes();
            if changes.subscribe.is_empty() && changes.unsubscribe.is_empty() {
                return Ok(());
            }
            for (server, PubSubConnection { sink, activity }) in sinks.iter_mut().enumerate() {
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
                    self.reply_after_pending(activity, sink.unsubscribe(&unsubscribe))
                        .await?;
                }
            }
            inner.subscriptions.confirmed(&changes);
            for channel in &changes.subscribe {
                match self.remote.group_of(channel) {
                    Some(group) => self.notify_changed(group),
                    None => inner.changed.notify_waiters(),
                }
            }
        }
    }

    pub(super) fn notify_changed(&self, group: &str) {
        if let Some(found) = self.layer.find(group) {
            found.notify_changed();
        }
    }
}
