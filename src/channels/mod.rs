//! Channels: named groups of sockets and mailboxes, and the events sent to them.
//!
//! The vocabulary is Django Channels': an [`Event`] is a dictionary with a `type`; a group has a
//! [`GroupName`]; the [`ChannelLayer`] adds members to groups and sends events to them. Delivery is
//! at most once and in order for each sender. A layer covers one process or, with Redis, all
//! processes that share it ([`Remote`]).
//!
//! Dependencies point one way: `ChannelLayer` -> [`Remote`] -> `LocalGroups`. If there is a link,
//! the layer's calls go to it first. Layer and link both work on the groups of this process.

mod append;
mod batch;
mod channel_registry;
mod connection_id;
mod delivery;
pub mod event;
mod event_id;
mod group;
mod group_limits;
mod group_presence;
mod history;
mod history_budget;
mod join;
mod json_object;
mod layer;
mod local_groups;
pub mod mailbox;
mod membership;
pub mod name;
mod node_rpc;
mod options;
mod pace;
mod pending_joins;
mod position;
mod presence;
mod presence_view;
pub(crate) mod remote;
mod room_limit;
mod seen;
mod sender_sequences;
mod subscriber;

pub use batch::{Batch, Entry, FORMS, Form};
pub use connection_id::ConnectionId;
pub use delivery::Delivery;
pub use event::Event;
pub use group::GroupMember;
pub(crate) use group_limits::GroupLimits;
pub use group_limits::{GroupLimit, GroupLimitReached};
pub use history::{Joined, Start};
pub use layer::ChannelLayer;
pub use local_groups::PreparedJoin;
pub use mailbox::{Mailbox, Received};
pub use membership::Membership;
pub use name::{ChannelName, GroupName};
pub use node_rpc::{ConnectionInfo, NodeReply, NodeRequest, RpcHandler, RpcReplies, UserInfo};
pub use options::{GroupOptions, LayerError, LayerSettings, Sent};
pub use position::{Position, PositionError};
pub use presence::{Presence, Present};
pub use remote::Remote;
pub use seen::{Marks, Seen};
pub use subscriber::{Subscriber, deliver_direct};
