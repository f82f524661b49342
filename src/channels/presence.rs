//! Presence: the members of a group that others can see, and the events about them.

use serde::Serialize;

use super::Event;
use super::event::EventError;
use crate::timestamp::Timestamp;

/// How much other processes and members learn about a member.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Presence {
    /// Other processes learn nothing.
    #[default]
    Untracked,
    /// Other processes can ask for the members.
    Tracked,
    /// The group receives an event when the member joins and leaves, also when its process dies.
    Announced,
}

/// The members of a group, over all processes.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Present {
    /// The name of each member's user; `None` for an anonymous one.
    pub users: Vec<Option<String>>,
}

/// `chat.join` and `chat.leave`: the member's user, and the new number of members.
#[derive(Debug, Serialize)]
pub struct PresenceEvent<'a> {
    /// The user's name; `None` for an anonymous member.
    pub user: Option<&'a str>,
    /// The number of members, over all processes.
    pub members: usize,
    /// The time of the join or leave.
    pub at: Timestamp,
}

impl PresenceEvent<'_> {
    /// The type of the event for a member that joined.
    pub const JOIN: &'static str = "chat.join";
    /// The type of the event for a member that left.
    pub const LEAVE: &'static str = "chat.leave";

    /// Builds the event.
    pub fn event(&self, event_type: &str) -> Result<Event, EventError> {
        Event::new(event_type, self)
    }
}
