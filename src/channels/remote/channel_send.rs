//! Channel: what is sent to one reader in another process.

use metrics::counter;
use redis::Value;

use super::Remote;
use super::channels_redis_codec::Recipients;
use super::channels_redis_core::random_hex;
use super::outbox::{COMMAND_BYTES, CommandKind, QueuedCommand};
use super::{READY_MAX, wire};
use crate::channels::{ChannelName, Event, LayerError};
use crate::config::LayerFormat;
use crate::telemetry;

impl Remote {
    /// Returns a name for a channel of this process.
    pub(in crate::channels) fn new_channel_name(&self) -> String {
        match self.0.format {
            LayerFormat::Oneport => format!("specific.{:016x}!{}", self.0.node, random_hex()),
            LayerFormat::Pubsub => format!("{}specific.{}", self.0.prefix, random_hex()),
            LayerFormat::Core => self.0.core.channel(&self.0.core.new_local()),
        }
    }

    /// Waits until what is sent to a channel comes here.
    pub(in crate::channels) async fn channel_ready(&self, name: &ChannelName) {
        if self.0.format != LayerFormat::Pubsub {
            return; // its name says where it goes
        }
        let deadline = tokio::time::Instant::now() + self.0.timeout.min(READY_MAX);
        self.0.subscriptions.want(name.as_str().to_owned(), true);
        loop {
            let changed = self.0.changed.notified();
            if !self.is_connected() || self.0.subscriptions.is_subscribed(name.as_str()) {
                return;
            }
            if tokio::time::timeout_at(deadline, changed).await.is_err() {
                return;
            }
        }
    }

    pub(in crate::channels) fn channel_gone(&self, name: &ChannelName) {
        if self.0.format == LayerFormat::Pubsub {
            self.0.subscriptions.want(name.as_str().to_owned(), false);
        }
    }

    /// Sends an event to a channel of another process.
    pub(in crate::channels) async fn channel_send(
        &self,
        channel: &ChannelName,
        event: Event,
    ) -> Result<(), LayerError> {
        let no_reader = || LayerError::NoReader {
            channel: channel.clone(),
        };
        let name = channel.as_str();
        let (channel_name, payload) = match self.0.format {
            LayerFormat::Oneport => {
                let node = name
                    .strip_prefix("specific.")
                    .and_then(|rest| rest.split_once('!'))
                    .and_then(|(node, _)| u64::from_str_radix(node, 16).ok());
                let Some(node) = node.filter(|node| *node != self.0.node) else {
                    return Err(no_reader());
                };
                (self.node_channel(node), wire::channel(name, &event))
            }
            LayerFormat::Pubsub => (name.to_owned(), self.0.codec.write(&event, None)),
            LayerFormat::Core => {
                let in_it = name.contains('!').then_some(Recipients::One(name));
                let content = self.0.codec.write(&event, in_it.as_ref());
                let key = self.0.core.key_of(name);
                let command = self.0.core.enqueue(self, &key, &content);
                let answer = self
                    .query_redis(vec![command])
                    .await
                    .ok_or(LayerError::Disconnected)?;
                counter!("oneport_layer_published_total").increment(1);
                return match answer.first() {
                    Some(Value::Int(0)) => {
                        telemetry::event_dropped("channel_full");
                        Err(LayerError::ChannelFull {
                            channel: channel.clone(),
                        })
                    }
                    _ => Ok(()),
                };
            }
        };
        let command = QueuedCommand {
            size: payload.len() + COMMAND_BYTES,
            kind: CommandKind::Publish {
                channel: channel_name,
                payload,
            },
            reply: None,
        };
        match self.0.outbox.push_if_connected(command) {
            true => {
                counter!("oneport_layer_published_total").increment(1);
                Ok(())
            }
            false => Err(LayerError::Disconnected),
        }
    }
}
