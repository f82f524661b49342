//! ChannelRegistry: the channels that are read in this process; each has one reader.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::mailbox::Received;
use super::{ChannelName, Delivery, Event, LayerError, Mailbox, Position};
use crate::telemetry;

/// The channels that are read in this process.
#[derive(Default)]
pub(super) struct ChannelRegistry(Mutex<HashMap<ChannelName, Weak<Mailbox>>>);

/// A channel that was found, and its reader.
pub(super) struct ChannelReader {
    name: ChannelName,
    mailbox: Arc<Mailbox>,
}

impl ChannelRegistry {
    /// Adds a channel, under the first name from `new_name` that no other channel has.
    pub(super) fn insert(
        &self,
        mailbox: &Arc<Mailbox>,
        new_name: impl Fn() -> String,
    ) -> ChannelName {
        loop {
            let name = ChannelName::made(&new_name());
            let mut channels = self.0.lock();
            if !channels.contains_key(&name) {
                channels.insert(name.clone(), Arc::downgrade(mailbox));
                return name;
            }
        }
    }

    /// Returns the reader of a channel, if it has one in this process.
    pub(super) fn get(&self, name: &str) -> Option<ChannelReader> {
        let channels = self.0.lock();
        let (name, mailbox) = channels.get_key_value(name)?;
        Some(ChannelReader {
            name: name.clone(),
            mailbox: mailbox.upgrade()?,
        })
    }

    /// Puts an event from another process into a channel of this one. An event that is dropped is
    /// counted.
    pub(super) fn receive(&self, name: &str, event: Event) {
        match self.get(name) {
            Some(reader) => {
                let _ = reader.push(event); // the mailbox counts dropped events
            }
            None => telemetry::event_dropped("no_reader"), // closed in the meantime, or never existed
        }
    }

    /// Removes channels whose mailbox was dropped; returns their names.
    pub(super) fn remove_closed(&self) -> Vec<ChannelName> {
        let mut closed = Vec::new();
        self.0.lock().retain(|name, mailbox| {
            let is_open = mailbox.strong_count() > 0;
            if !is_open {
                closed.push(name.clone());
            }
            is_open
        });
        closed
    }
}

impl ChannelReader {
    /// Puts an event into the mailbox; fails when that is full.
    pub(super) fn push(self, event: Event) -> Result<(), LayerError> {
        let received = Received {
            position: Position::default(),
            marks: None,
            group: None,
            event,
        };
        match self.mailbox.push(received) {
            Delivery::Queued => Ok(()),
            Delivery::Dropped => Err(LayerError::ChannelFull { channel: self.name }),
        }
    }
}
