//! Options: the bounds of a layer, what a member asks of a group, and what becomes of an event.

use std::time::Duration;

use thiserror::Error;

use super::{ChannelName, GroupName, Presence};

/// How long a sender waits for room in a group whose members are being served, or in the queue for Redis.
pub(super) const ROOM_DEADLINE: Duration = Duration::from_secs(5);

/// The bounds of a layer: `[channel_layer]` in the file.
#[derive(Clone, Debug)]
pub struct LayerSettings {
    /// Events that wait in one mailbox at most.
    pub capacity: usize,
    /// How long an event may wait in a channel before it is of no use.
    pub expiry: Duration,
    /// The memory that the histories of all groups may take in this process.
    pub history_size: usize,
    /// The memory that one group's history may take.
    pub group_history_size: usize,
    /// How many groups with a history the clients of one address may have begun that are still there.
    pub max_rooms: usize,
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

/// What a group keeps beyond its members, and what a member wants of it; the last member that joins with a history decides how
/// much is kept.
#[derive(Clone, Copy, Debug)]
pub struct GroupOptions {
    /// How many of the newest events are kept; 0 keeps none.
    pub history: usize,
    /// How long they are kept.
    pub history_expiry: Duration,
    /// Does the member want to know the position of each event, so that it can come back and go on there?
    pub recover: bool,
    /// How much others know of the member.
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

/// What became of an event sent to a group.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Sent {
    /// How many members the group had: in this process, and where it was counted ([`ChannelLayer::group_send_counted`](super::ChannelLayer::group_send_counted))
    /// in all.
    pub matched: usize,
    /// How many have it, or will when they read. Counted only on request.
    pub queued: usize,
    /// How many had no room for it. Counted only on request.
    pub dropped: usize,
    /// How many processes did not say in time what became of it. Counted only on request.
    pub unanswered: usize,
}

/// Why an event was not taken.
#[derive(Debug, Error)]
pub enum LayerError {
    /// The reader of the channel is too slow (Channels' `ChannelFull`).
    #[error("expected room in channel {channel}, found it full")]
    ChannelFull {
        /// The channel.
        channel: ChannelName,
    },
    /// Nobody reads the channel.
    #[error("expected a reader of channel {channel}, found none")]
    NoReader {
        /// The channel.
        channel: ChannelName,
    },
    /// Events for the group come faster than its members can be served.
    #[error("expected room in group {group} within {} seconds, found none", ROOM_DEADLINE.as_secs())]
    GroupFull {
        /// The group.
        group: GroupName,
    },
    /// Events come faster than Redis takes them, or too many wait until it is back.
    #[error("expected room in the queue for Redis, found it full")]
    QueueFull,
    /// The clients of an address have begun as many groups with a history as they may (`max_rooms`).
    #[error("too many groups with a history begun by clients of the same address")]
    TooManyRooms,
    /// Redis is away.
    #[error("expected Redis to answer, found it away")]
    Disconnected,
}
