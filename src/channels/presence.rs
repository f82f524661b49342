//! Presence: who is in a group, and how the group hears of it.

use serde::Serialize;

use super::Event;
use super::event::EventError;
use crate::timestamp::Timestamp;

/// How much the others know of a member.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Presence {
    /// Nothing beyond this process.
    #[default]
    Untracked,
    /// Other processes can ask who is there.
    Tracked,
    /// The group hears who comes and goes, and of those whose process died too.
    Announced,
}

/// Who is in a group, over all processes.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Present {
    /// The name of each member's user, `None` for each that is anonymous.
    pub users: Vec<Option<String>>,
}

/// `chat.join` and `chat.leave`: who came or went, and how many there are now.
#[derive(Debug, Serialize)]
pub struct PresenceEvent<'a> {
    /// The user's name; `None` for somebody anonymous.
    pub user: Option<&'a str>,
    /// How many members there are, over all processes.
    pub members: usize,
    /// When it was.
    pub at: Timestamp,
}

impl PresenceEvent<'_> {
    /// The type of the event when somebody came.
    pub const JOIN: &'static str = "chat.join";
    /// The type of the event when somebody went.
    pub const LEAVE: &'static str = "chat.leave";

    /// Makes the event.
    pub fn event(&self, event_type: &str) -> Result<Event, EventError> {
        Event::new(event_type, self)
    }
}
