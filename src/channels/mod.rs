//! Channels: named groups of sockets and mailboxes, and the events sent to them.
//!
//! The vocabulary is Django Channels': an [`Event`] is a dictionary with a `type`; a group has a [`GroupName`]; the
//! [`ChannelLayer`] adds members to groups and sends events to them. Delivery is at most once and in order for each sender.
//! A layer is one process's, or with Redis that of all processes there ([`Remote`]).

mod append;
mod batch;
mod channel_registry;
pub mod event;
mod group;
mod history;
mod history_budget;
mod layer;
pub mod mailbox;
pub mod name;
mod options;
mod pending_joins;
mod position;
mod presence;
mod remote;
mod room_limit;
mod send;
mod subscriber;

pub use batch::{Batch, Entry, FORMS, Form};
pub use event::Event;
pub use group::GroupMember;
pub use history::{Joined, Start};
pub use layer::{ChannelLayer, PreparedJoin};
pub use mailbox::{Mailbox, Received};
pub use name::{ChannelName, GroupName};
pub use options::{GroupOptions, LayerError, LayerSettings, Sent};
pub use position::{Position, PositionError};
pub use presence::{Presence, PresenceEvent, Present};
pub use remote::{Remote, RpcHandler, RpcReplies};
pub use subscriber::{Delivery, Membership, Subscriber, deliver_direct};
