//! Direct: channels that have one reader each, and what is sent to them.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::mailbox::Received;
use super::{ChannelLayer, ChannelName, Delivery, Event, LayerError, Mailbox, Position};
use crate::telemetry;

/// The channels that are read in this process.
#[derive(Default)]
pub(super) struct ChannelRegistry(Mutex<HashMap<ChannelName, Weak<Mailbox>>>);

impl ChannelLayer {
    /// Makes a channel of a new name, read through the mailbox; it ends when the mailbox is dropped. With Redis, other processes
    /// can send to it.
    pub async fn new_channel(&self) -> (ChannelName, Arc<Mailbox>) {
        let mailbox = self.mailbox();
        let name = loop {
            let text = match self.remote() {
                Some(remote) => remote.new_channel_name(),
                None => format!("specific.{:016x}!{:016x}", self.node(), fastrand::u64(..)),
            };
            let name = ChannelName::made(&text);
            let mut channels = self.channels().0.lock();
            if channels.contains_key(&name) {
                continue;
            }
            channels.insert(name.clone(), Arc::downgrade(&mailbox));
            break name;
        };
        if let Some(remote) = self.remote() {
            remote.channel_ready(&name).await;
        }
        (name, mailbox)
    }

    /// Sends an event to one channel, of this process or of another.
    ///
    /// Whether it is read in another process is known only where Redis tells: in `channels_redis.core` a full channel is
    /// [`LayerError::ChannelFull`]; elsewhere an event that nobody reads is lost.
    pub async fn send(&self, channel: &ChannelName, event: Event) -> Result<(), LayerError> {
        let reader = self
            .channels()
            .0
            .lock()
            .get(channel)
            .and_then(Weak::upgrade);
        match (reader, self.remote()) {
            (Some(reader), _) => push(&reader, channel, event),
            (None, Some(remote)) => remote.channel_send(channel, event).await,
            (None, None) => Err(LayerError::NoReader {
                channel: channel.clone(),
            }),
        }
    }

    /// Takes an event that came for a channel of this process.
    pub(super) fn receive(&self, channel: &str, event: Event) -> Result<(), LayerError> {
        let reader = self
            .channels()
            .0
            .lock()
            .get_key_value(channel)
            .and_then(|(name, reader)| Some((name.clone(), reader.upgrade()?)));
        let Some((name, reader)) = reader else {
            telemetry::event_dropped("no_reader"); // it ended meanwhile, or there never was one
            return Ok(());
        };
        push(&reader, &name, event)
    }

    pub(super) fn forget_channels(&self) {
        let mut gone = Vec::new();
        self.channels().0.lock().retain(|name, reader| {
            let is_read = reader.strong_count() > 0;
            if !is_read {
                gone.push(name.clone());
            }
            is_read
        });
        if let Some(remote) = self.remote() {
            gone.iter().for_each(|name| remote.channel_gone(name));
        }
    }
}

fn push(reader: &Mailbox, channel: &ChannelName, event: Event) -> Result<(), LayerError> {
    let received = Received {
        position: Position::default(),
        group: None,
        event,
    };
    match reader.push(received) {
        Delivery::Queued => Ok(()),
        Delivery::Dropped => Err(LayerError::ChannelFull {
            channel: channel.clone(),
        }),
    }
}
