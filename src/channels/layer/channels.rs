//! Channels: sending to one reader, in this process or in another.

use std::sync::Arc;

use super::ChannelLayer;
use crate::channels::{ChannelName, Event, LayerError, Mailbox};

impl ChannelLayer {
    /// Creates a channel with a new name, read through the mailbox. It closes when the mailbox is
    /// dropped. With Redis, other processes can send to it.
    pub async fn new_channel(&self) -> (ChannelName, Arc<Mailbox>) {
        let mailbox = self.mailbox();
        let channels = self.0.local.channels();
        let name = channels.insert(&mailbox, || match self.remote() {
            Some(remote) => remote.new_channel_name(),
            None => format!("specific.{:016x}!{:016x}", self.node(), fastrand::u64(..)),
        });
        if let Some(remote) = self.remote() {
            remote.wait_for_channel(&name).await;
        }
        (name, mailbox)
    }

    /// Sends an event to one channel, of this process or of another.
    ///
    /// In `channels_redis.core`, sending to a full channel of another process fails with
    /// [`LayerError::ChannelFull`], which is not counted: the caller may send the event again. In
    /// the other formats, an event without a reader is lost.
    pub async fn send(&self, channel: &ChannelName, event: Event) -> Result<(), LayerError> {
        if let Some(reader) = self.0.local.channels().get(channel.as_str()) {
            return reader.push(event);
        }
        match self.remote() {
            Some(remote) => remote.channel_send(channel, event).await,
            None => Err(LayerError::NoReader {
                channel: channel.clone(),
            }),
        }
    }
}
