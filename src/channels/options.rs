//! Options: the bounds of a layer, the options of a member, and the outcome of a send.

use std::time::Duration;

use thiserror::Error;

use super::{ChannelName, GroupName, Presence};
use crate::config::ChannelLayerConfig;
use crate::telemetry;

/// How long a sender waits for space in a group whose members are being served, or in the queue for
/// Redis.
pub(super) const SPACE_TIMEOUT: Duration = Duration::from_secs(5);

/// The bounds of a layer: `[channel_layer]` in the file.
#[derive(Clone, Debug)]
pub struct LayerSettings {
    /// How many events may wait in one mailbox.
    pub capacity: usize,
    /// How long an event may wait in a channel before it is dropped.
    pub expiry: Duration,
    /// The memory that the histories of all groups may take in this process.
    pub history_size: usize,
    /// The memory that one group's history may take.
    pub group_history_size: usize,
    /// The most groups with a history that clients of one address may begin.
    pub max_rooms: usize,
}

impl From<&ChannelLayerConfig> for LayerSettings {
    fn from(config: &ChannelLayerConfig) -> Self {
        Self {
            capacity: config.capacity,
            expiry: config.expiry,
            history_size: config.history_size.as_usize(),
            group_history_size: config.group_history_size.as_usize(),
            max_rooms: config.max_rooms,
        }
    }
}

impl Default for LayerSettings {
    fn default() -> Self {
        Self {
            capacity: 100,
            expiry: Duration::from_secs(60),
            history_size: 128 << 20,
            group_history_size: 1 << 20,
            max_rooms: 1000,
        }
    }
}

/// The options of a member in a group. The last member that joins with a history decides how much
/// the group keeps.
#[derive(Clone, Copy, Debug)]
pub struct GroupOptions {
    /// How many of the newest events are kept; 0 keeps none.
    pub history: usize,
    /// How long they are kept.
    pub history_expiry: Duration,
    /// Whether the member receives the position of each event, so that it can return and continue
    /// from it.
    pub recover: bool,
    /// How much other processes and members learn about the member.
    pub presence: Presence,
}

impl Default for GroupOptions {
    fn default() -> Self {
        Self {
            history: 0,
            history_expiry: Duration::from_secs(3600),
            recover: false,
            presence: Presence::Untracked,
        }
    }
}

/// The outcome of a send to a group.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Sent {
    /// The number of members in this process; in all processes after
    /// [`ChannelLayer::group_send_counted`](super::ChannelLayer::group_send_counted).
    pub matched: usize,
    /// The number of members that have the event, or will when they read. Only if counted.
    pub queued: usize,
    /// The number of members that had no space for it. Only if counted.
    pub dropped: usize,
    /// The number of processes that did not report their counts in time. Only if counted.
    pub unanswered: usize,
}

/// The reason why an event was not sent, or a group not joined.
#[derive(Debug, Error)]
pub enum LayerError {
    /// The reader of the channel is too slow (Channels' `ChannelFull`).
    #[error("channel {channel} is full")]
    ChannelFull {
        /// The channel.
        channel: ChannelName,
    },
    /// The channel has no reader.
    #[error("channel {channel} has no reader")]
    NoReader {
        /// The channel.
        channel: ChannelName,
    },
    /// Events for the group come faster than its members can be served.
    #[error("group {group} is full: its members were not served within {} seconds", SPACE_TIMEOUT.as_secs())]
    GroupFull {
        /// The group.
        group: GroupName,
    },
    /// Events come faster than Redis takes them, or too many await the connection.
    #[error("the queue for Redis is full")]
    QueueFull,
    /// The clients of an address have already begun as many groups with a history as they may
    /// (`max_rooms`).
    #[error("too many groups with a history begun by clients of the same address")]
    TooManyRooms,
    /// The format that is shared with Django cannot carry the event. No member has it.
    #[error("the format shared with Django cannot carry the event: {problem}")]
    InvalidEvent {
        /// What was expected, and what was found.
        problem: String,
    },
    /// There is no connection to Redis.
    #[error("not connected to Redis")]
    Disconnected,
}

impl LayerError {
    /// Counts an event that the caller gives up. Attempts that fail are not counted: the event may
    /// be sent again.
    pub(crate) fn count_dropped(&self) {
        if let Self::ChannelFull { .. } = self {
            telemetry::event_dropped("channel_full");
        }
    }
}
