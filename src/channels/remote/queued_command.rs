//! QueuedCommand: a command for Redis, and the state of its execution.

use std::sync::Arc;
use std::time::Duration;

use redis::{Cmd, RedisError, Value};
use tokio::sync::oneshot;

use super::channels_redis_codec::EncodedEvent;
use super::command_connections::is_redirect;
use super::wire::Head;
use crate::channels::append::{AppendOutcome, NewEvent, Retention};
use crate::channels::group::Group;
use crate::channels::local_groups::LocalGroups;
use crate::channels::presence::PresenceChange;
use crate::channels::{Event, GroupName};
use crate::telemetry::trace;

/// The bytes charged for a command besides its event.
pub(super) const COMMAND_BYTES: usize = 256;

/// A command for Redis.
#[derive(Debug)]
pub(super) struct QueuedCommand {
    pub(super) kind: CommandKind,
    /// The bytes charged for it.
    pub(super) size: usize,
    /// The channel for the reply. Dropped without a reply when the connection is lost.
    pub(super) reply: Option<oneshot::Sender<Vec<Value>>>,
}

#[derive(Debug)]
pub(super) enum CommandKind {
    /// Publishes an event to a channel.
    Publish { channel: String, payload: Vec<u8> },
    /// Publishes a message between Oneports that is not an event.
    NodeMessage { channel: String, payload: Vec<u8> },
    /// Sends an event to a group that may keep a history.
    Append(Box<HistoryAppend>),
    /// Sends an event to a group of `channels_redis.core`.
    CoreGroupSend {
        group: GroupName,
        event: EncodedEvent,
    },
    /// Changes the members that Redis lists; not sent again on another connection.
    Presence(Box<PresenceCommand>),
    /// Any other command; not sent again on another connection.
    Raw(Vec<Cmd>),
}

/// A change of the members that Redis lists.
#[derive(Debug)]
pub(super) struct PresenceCommand {
    pub(super) group: GroupName,
    pub(super) commands: Vec<Cmd>,
    /// Sends the event of the change, after the commands.
    pub(super) event: Option<CommandKind>,
    /// The change, if the members of this process receive the event from Redis.
    pub(super) change: Option<PresenceChange>,
}

/// An event for a group that may keep a history.
#[derive(Debug)]
pub(super) struct HistoryAppend {
    pub(super) group: GroupName,
    pub(super) head: Head,
    pub(super) event: Event,
    pub(super) retention: Retention,
    /// How many events the group keeps and for how long, if this process knows.
    pub(super) bounds: Option<(usize, Duration)>,
    pub(super) attempt: Attempt,
    /// The sender's span, if its trace is recorded.
    pub(super) span: Option<[u8; 24]>,
    /// True if the members of this process have it, without waiting for Redis.
    is_delivered_early: bool,
}

/// Whether Redis may have executed an append already.
///
/// ```text
///   Unsent ── begin ──▶ First ── begin (after a loss) ──▶ Repeated
///     ▲                   │                                  │
///     └── not_executed ───┘          not_executed: unchanged ┘
/// ```
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Attempt {
    /// It was never sent, or Redis refused it.
    Unsent,
    /// It was sent once. The script need not look for it.
    First,
    /// It was sent before and may have been executed. The script drops it if it was. If there is no
    /// history to check, the script drops it in any case: delivery is at most once.
    Repeated,
}

impl CommandKind {
    /// Called before the command is sent.
    pub(super) fn begin_attempt(&mut self) {
        if let Self::Append(append) = self {
            append.attempt = match append.attempt {
                Attempt::Unsent => Attempt::First,
                Attempt::First | Attempt::Repeated => Attempt::Repeated,
            };
        }
    }

    /// Called when Redis replies that it did not execute the command.
    pub(super) fn not_executed(&mut self) {
        if let Self::Append(append) = self
            && append.attempt == Attempt::First
        {
            append.attempt = Attempt::Unsent;
        }
    }

    /// Returns whether the command is sent again after an error that its keys are moving to another
    /// master. A query is not: its caller repeats it.
    pub(super) fn is_retried_after(&self, error: &RedisError) -> bool {
        is_redirect(error) && matches!(self, Self::Append(_) | Self::Presence(_))
    }

    /// Returns the group of `channels_redis.core` whose members the command is sent to.
    pub(super) fn core_group(&self) -> Option<&GroupName> {
        match self {
            Self::CoreGroupSend { group, .. } => Some(group),
            Self::Presence(presence) => presence.event.as_ref()?.core_group(),
            _ => None,
        }
    }

    /// Returns an event with the span of its sender.
    pub(super) fn traced(&self) -> Option<(&HistoryAppend, &[u8; 24])> {
        match self {
            Self::Append(append) => Some((append, append.span.as_ref()?)),
            _ => None,
        }
    }

    pub(super) fn is_event(&self) -> bool {
        !matches!(
            self,
            Self::NodeMessage { .. } | Self::Presence(_) | Self::Raw(_)
        )
    }

    /// Returns whether the command waits while Redis is away: an event of a history, or of a group
    /// that this process does not have and that may keep one.
    pub(super) fn survives_outage(&self) -> bool {
        matches!(self, Self::Append(append)
            if append.retention == Retention::History && !append.head.is_delivered_by_sender)
    }
}

impl HistoryAppend {
    pub(super) fn new(
        group: &GroupName,
        head: Head,
        event: Event,
        retention: Retention,
        bounds: Option<(usize, Duration)>,
    ) -> Self {
        Self {
            group: group.clone(),
            head,
            event,
            retention,
            bounds,
            attempt: Attempt::Unsent,
            span: trace::current_bytes(),
            is_delivered_early: false,
        }
    }

    /// Returns whether the event gets no offset, as far as this process knows. Then it is numbered
    /// in its group.
    pub(super) fn is_sent_at_most_once(&self) -> bool {
        self.retention == Retention::Transient || self.bounds.is_none()
    }

    /// Delivers the event to the members of this process, which will not receive it from Redis. If
    /// they have it, the group no longer waits for its offset.
    pub(super) fn deliver_without_offset(
        &self,
        local: &LocalGroups,
    ) -> Option<(Arc<Group>, AppendOutcome)> {
        let group = self.waiting_group(local)?;
        if self.is_delivered_early {
            group.with_history(|history| history.give_up_early(self.head.id));
            return None;
        }
        let new = NewEvent::new(&self.event, self.head.except);
        let outcome = group.append_without_offset(&new);
        Some((group, outcome))
    }

    /// Delivers the event to the members of this process, once, without waiting for Redis.
    pub(super) fn deliver_early(
        &mut self,
        local: &LocalGroups,
    ) -> Option<(Arc<Group>, AppendOutcome)> {
        if std::mem::replace(&mut self.is_delivered_early, true) {
            return None;
        }
        let group = self.waiting_group(local)?;
        let new = NewEvent::new(&self.event, self.head.except);
        let outcome = group.append_early(&new, self.head.id);
        Some((group, outcome))
    }

    /// Returns the group, if its members would receive the event from Redis.
    fn waiting_group(&self, local: &LocalGroups) -> Option<Arc<Group>> {
        if self.head.is_delivered_by_sender {
            return None;
        }
        let group = local.find(self.group.as_str())?;
        group
            .with_history(|history| history.is_shared())
            .then_some(group)
    }
}

#[cfg(test)]
mod tests {
    use redis::ErrorKind;

    use super::*;
    use crate::channels::event_id::EventId;

    fn append() -> CommandKind {
        let head = Head {
            id: EventId { node: 1, seq: 1 },
            ..Head::default()
        };
        let group = GroupName::new("room").unwrap();
        let event = Event::text("x");
        let append = HistoryAppend::new(&group, head, event, Retention::History, None);
        CommandKind::Append(Box::new(append))
    }

    fn attempt(kind: &CommandKind) -> Attempt {
        match kind {
            CommandKind::Append(append) => append.attempt,
            _ => panic!("expected an append"),
        }
    }

    #[test]
    fn only_an_append_that_may_have_been_executed_is_repeated() {
        let mut kind = append();
        kind.begin_attempt();
        assert_eq!(attempt(&kind), Attempt::First);
        kind.not_executed();
        assert_eq!(attempt(&kind), Attempt::Unsent);
        kind.begin_attempt();
        kind.begin_attempt(); // after a loss without a reply
        assert_eq!(attempt(&kind), Attempt::Repeated);
        kind.not_executed();
        assert_eq!(attempt(&kind), Attempt::Repeated);
    }

    #[test]
    fn a_command_that_is_no_append_is_not_sent_again() {
        let moved = RedisError::from((ErrorKind::Io, "x"));
        assert!(!append().is_retried_after(&moved));
        assert!(append().survives_outage());
        assert!(!CommandKind::Raw(Vec::new()).survives_outage());
    }
}
