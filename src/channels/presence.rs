//! Presence: the members of a group that others can see, and the events about them.

use serde::Serialize;
use serde_json::Value;

use super::{ConnectionId, Event};
use crate::timestamp::Timestamp;

/// How much other processes and members learn about a member.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Presence {
    /// Other processes learn nothing.
    #[default]
    Untracked,
    /// Other processes can ask for the members.
    Tracked,
    /// The group receives `chat.join` and `chat.leave` when the member joins and leaves, also when
    /// its process dies.
    Announced,
}

/// The members of a group, over all processes.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Present {
    /// The name of each member's user; `None` for an anonymous one.
    pub users: Vec<Option<String>>,
}

/// A member that joined a group, or left it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct PresenceChange {
    pub(super) kind: ChangeKind,
    pub(super) member: ConnectionId,
    /// The user's name; `None` for an anonymous member.
    pub(super) user: Option<Box<str>>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum ChangeKind {
    Join,
    Leave,
}

impl ChangeKind {
    /// Returns the type of the change's event.
    fn event_type(self) -> &'static str {
        match self {
            Self::Join => "chat.join",
            Self::Leave => "chat.leave",
        }
    }
}

/// The fields of a change's event.
#[derive(Serialize)]
struct ChangeFields<'a> {
    user: Option<&'a str>,
    /// The number of members after the change.
    members: usize,
    at: &'a str,
    member: ConnectionId,
}

impl PresenceChange {
    pub(super) fn join(member: ConnectionId, user: Option<Box<str>>) -> Self {
        let kind = ChangeKind::Join;
        Self { kind, member, user }
    }

    pub(super) fn leave(member: ConnectionId, user: Option<Box<str>>) -> Self {
        let kind = ChangeKind::Leave;
        Self { kind, member, user }
    }

    /// Reads the change from its event; `None` from any other event. One without a `member` is an
    /// event like any other: an application of Django's may send `chat.join` itself.
    pub(super) fn read(event: &Event) -> Option<Self> {
        let kind = match event.event_type() {
            "chat.join" => ChangeKind::Join,
            "chat.leave" => ChangeKind::Leave,
            _ => return None,
        };
        let member = match event.field("member")? {
            Value::String(member) => ConnectionId::read(&member)?,
            _ => return None,
        };
        let user = match event.field("user") {
            Some(Value::String(user)) => Some(user.into()),
            _ => None,
        };
        Some(Self { kind, member, user })
    }

    /// Returns the event of the change, with the number of members after it. `arrived`: the event
    /// that it was read from, which has the time.
    pub(super) fn event(&self, members: usize, arrived: Option<&Event>) -> Option<Event> {
        let at = match arrived.and_then(|arrived| arrived.field("at")) {
            Some(Value::String(at)) => at,
            _ => Timestamp::now().to_string(),
        };
        let fields = ChangeFields {
            user: self.user.as_deref(),
            members,
            at: &at,
            member: self.member,
        };
        Event::new(self.kind.event_type(), &fields).ok() // text and numbers always serialize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_read_from_its_event() {
        let member = ConnectionId { node: 3, number: 9 };
        for change in [
            PresenceChange::join(member, None),
            PresenceChange::leave(member, Some("änna \"☕\"".into())),
        ] {
            let event = change.event(7, None).unwrap();
            assert_eq!(PresenceChange::read(&event).as_ref(), Some(&change));
            let shown = change.event(8, Some(&event)).unwrap();
            assert_eq!(shown.field("members"), Some(8.into()));
            assert_eq!(shown.field("at"), event.field("at"));
        }
    }

    #[test]
    fn an_event_that_names_no_member_is_no_change() {
        for json in [
            r#"{"type":"chat.join","user":"anna","members":1}"#,
            r#"{"type":"chat.join","member":7}"#,
            r#"{"type":"chat.join","member":"somebody"}"#,
            r#"{"type":"chat.message","member":"0000000000000003.9"}"#,
        ] {
            assert_eq!(PresenceChange::read(&Event::from_json(json).unwrap()), None);
        }
    }
}
