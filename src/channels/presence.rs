//! Presence: who is in a group, and how others learn of it.

use serde::Serialize;

use super::Event;
use super::event::EventError;
use crate::timestamp::Timestamp;

/// How much other processes and members know about a member.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Presence {
    /// Other processes know nothing.
    #[default]
    Untracked,
    /// Other processes can ask who is there.
    Tracked,
    /// The group is told when the member joins and leaves, and also when its process dies.
    Announced,
}

/// Who is in a group, over all processes.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Present {
    /// The name of each member's user; `None` for an anonymous one.
    pub users: Vec<Option<String>>,
}

/// `chat.join` and `chat.leave`: who joined or left, and how many members there are now.
#[derive(Debug, Serialize)]
pub struct PresenceEvent<'a> {
    /// The user's name; `None` for an anonymous member.
    pub user: Option<&'a str>,
    /// How many members there are, over all processes.
    pub members: usize,
    /// When it was.
    pub at: Timestamp,
}

impl PresenceEvent<'_> {
    /// The type of the event for a member that joined.
    pub const JOIN: &'static str = "chat.join";
    /// The type of the event for a member that left.
    pub const LEAVE: &'static str = "chat.leave";

    /// Makes the event.
    pub fn event(&self, event_type: &str) -> Result<Event, EventError> {
        Event::new(event_type, self)
    }
}
