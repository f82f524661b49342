//! Channel send: an event for one reader in another process.

use metrics::counter;
use redis::Value;

use super::channels_redis_codec::Recipients;
use super::channels_redis_core::random_hex;
use super::queued_command::{COMMAND_BYTES, CommandKind, QueuedCommand};
use super::{READY_TIMEOUT, Remote, wire};
use crate::channels::{ChannelName, Event, LayerError};
use crate::config::LayerFormat;

impl Remote {
    /// Returns a name for a channel of this process.
    pub(in crate::channels) fn new_channel_name(&self) -> String {
        match self.0.format {
            LayerFormat::Oneport => format!("specific.{:016x}!{}", self.0.node, random_hex()),
            LayerFormat::Pubsub => format!("{}specific.{}", self.0.names.prefix(), random_hex()),
            LayerFormat::Core => self.0.core.channel(&self.0.core.new_local()),
        }
    }

    /// Waits briefly until a new channel is subscribed to; not at all without a connection.
    pub(in crate::channels) async fn wait_for_channel(&self, name: &ChannelName) {
        if self.0.format != LayerFormat::Pubsub {
            return; // the name contains the process that reads it
        }
        let deadline = tokio::time::Instant::now() + self.0.timeout.min(READY_TIMEOUT);
        let subscriptions = &self.0.subscriptions;
        subscriptions.set_wanted(name.as_str().to_owned(), true);
        loop {
            let changed = self.0.changed.notified();
            if !self.is_connected() || subscriptions.is_subscribed(name.as_str()) {
                return;
            }
            if tokio::time::timeout_at(deadline, changed).await.is_err() {
                return;
            }
        }
    }

    /// Unsubscribes from a channel whose reader was dropped.
    pub(in crate::channels) fn channel_closed(&self, name: &ChannelName) {
        if self.0.format == LayerFormat::Pubsub {
            let subscriptions = &self.0.subscriptions;
            subscriptions.set_wanted(name.as_str().to_owned(), false);
        }
    }

    /// Sends an event to a channel of another process.
    pub(in crate::channels) async fn channel_send(
        &self,
        channel: &ChannelName,
        event: Event,
    ) -> Result<(), LayerError> {
        let name = channel.as_str();
        let (redis_channel, payload) = match self.0.format {
            LayerFormat::Oneport => {
                let node = name
                    .strip_prefix("specific.")
                    .and_then(|rest| rest.split_once('!'))
                    .and_then(|(node, _)| u64::from_str_radix(node, 16).ok());
                let Some(node) = node.filter(|node| *node != self.0.node) else {
                    return Err(LayerError::NoReader {
                        channel: channel.clone(),
                    });
                };
                let redis_channel = self.0.names.node_channel(node);
                (redis_channel, wire::channel(name, &event))
            }
            LayerFormat::Pubsub => {
                let encoded = self.0.codec.encode(&event)?;
                (name.to_owned(), self.0.codec.seal(&encoded, None))
            }
            LayerFormat::Core => return self.core_channel_send(channel, &event).await,
        };
        let is_queued = self.0.outbox.push_if_connected(QueuedCommand {
            size: payload.len() + COMMAND_BYTES,
            kind: CommandKind::Publish {
                channel: redis_channel,
                payload,
            },
            reply: None,
        });
        if !is_queued {
            return Err(LayerError::Disconnected);
        }
        counter!("oneport_layer_published_total").increment(1);
        Ok(())
    }

    /// Puts an event into a channel of `channels_redis.core`, unless the channel is full.
    async fn core_channel_send(
        &self,
        channel: &ChannelName,
        event: &Event,
    ) -> Result<(), LayerError> {
        let name = channel.as_str();
        // Several channels of a process share one key, so the message names its recipient.
        let recipient = name.contains('!').then_some(Recipients::One(name));
        let encoded = self.0.codec.encode(event)?;
        let content = self.0.codec.seal(&encoded, recipient.as_ref());
        let key = self.0.core.key_of(name);
        let reply = self.query_redis(vec![self.0.core.enqueue(&key, &content)]);
        let reply = reply.await.ok_or(LayerError::Disconnected)?;
        counter!("oneport_layer_published_total").increment(1);
        match reply.first() {
            Some(Value::Int(0)) => Err(LayerError::ChannelFull {
                channel: channel.clone(),
            }),
            _ => Ok(()),
        }
    }
}
