//! Subscriber: who takes what a group's members are sent.

use super::batch::{Audience, Batch, Entry};
use super::{Event, GroupName, Position};

/// Takes what a group's members are sent.
///
/// `deliver` never blocks and never waits for a slow reader: what does not fit is dropped by the subscriber's own policy,
/// and counted there.
pub trait Subscriber: Send + Sync {
    /// Takes the part of a batch that the membership shall have.
    fn deliver(&self, batch: &Batch, membership: &Membership) -> Delivery;

    /// Takes what the group's history holds for it, before anything newer.
    fn deliver_history(&self, batch: &Batch, membership: &Membership) {
        self.deliver(batch, membership);
    }

    /// Learns where in the group's history it starts, before the first event: only those who asked to
    /// ([`GroupOptions::recover`](super::GroupOptions::recover)). `recovered`: whether nothing is missing after what the member had seen.
    fn joined(&self, _from: Position, _recovered: Option<bool>) {}
}

/// Gives one event to one subscriber, whatever groups it is in.
pub fn deliver_direct(subscriber: &dyn Subscriber, event: Event) -> Delivery {
    let Ok(group) = GroupName::new("connection") else {
        return Delivery::Dropped;
    };
    let entry = Entry {
        number: 1,
        position: Position::default(),
        event,
        except: None,
        audience: Audience::All,
        tally: None,
    };
    let membership = Membership {
        member: 0,
        shows_positions: false,
        awaits_history: false,
        since: 0,
    };
    subscriber.deliver(&Batch::new(group, vec![entry]), &membership)
}

/// What became of a batch at one member.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Delivery {
    /// All of it is written or waits in the member's queue.
    Queued,
    /// Some or all of it was dropped.
    Dropped,
}

/// One member's place in one group.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Membership {
    /// Names the member: the number of its connection or mailbox, unique in the process.
    pub member: u64,
    /// Does it want to know each event's position?
    pub shows_positions: bool,
    /// It joined before the group's shared history could be read, and has it as it is read.
    pub(super) awaits_history: bool,
    /// The number of the newest entry when the member joined; it has only what came later.
    pub(super) since: u64,
}

impl Membership {
    pub(super) fn receives(&self, entry: &Entry) -> bool {
        let is_for_it = match entry.audience {
            Audience::All => true,
            Audience::AwaitingHistory => self.awaits_history,
            Audience::NotAwaiting => !self.awaits_history,
        };
        is_for_it && entry.number > self.since && entry.except != Some(self.member)
    }
}
