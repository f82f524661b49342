//! Channels: named groups of sockets and mailboxes, and the events sent to them.
//!
//! The vocabulary is Django Channels': an [`Event`] is a dictionary with a `type`; a group has a [`GroupName`]; the
//! [`ChannelLayer`] adds members to groups and sends events to them. Delivery is at most once and in order for each sender.

mod batch;
pub mod event;
mod group;
mod layer;
pub mod mailbox;
pub mod name;

pub use batch::{Batch, FORMS, Form};
pub use event::Event;
pub use group::{Delivery, Membership, Subscriber};
pub use layer::{ChannelLayer, GroupOptions, LayerError, LayerSettings, Sent};
pub use mailbox::{Mailbox, Received};
pub use name::{ChannelName, GroupName};
