//! Subscriber: receives the events of the groups it is a member of.

use super::batch::{Batch, Entry};
use super::{Delivery, Event, GroupName, Membership, Seen};

/// Receives the events of the groups it is a member of.
///
/// `deliver` never blocks. Events for which a slow reader has no room are dropped by the
/// subscriber's own policy, and counted there.
pub trait Subscriber: Send + Sync {
    /// Takes the entries of a batch that are for the membership.
    fn deliver(&self, batch: &Batch, membership: &Membership) -> Delivery;

    /// Takes the history of the group for the membership, before anything newer.
    fn deliver_history(&self, batch: &Batch, membership: &Membership) {
        self.deliver(batch, membership);
    }

    /// Takes the position at which it starts, before the first event. Called only if it joined with
    /// [`GroupOptions::recover`](super::GroupOptions::recover). `recovered`: whether it gets all
    /// events after the position that it had seen, if it gave one.
    fn joined(&self, _from: &Seen, _recovered: Option<bool>) {}
}

/// Delivers one event to one subscriber, regardless of its groups.
pub fn deliver_direct(subscriber: &dyn Subscriber, event: Event) -> Delivery {
    let Ok(group) = GroupName::new("connection") else {
        return Delivery::Dropped;
    };
    let entry = Entry {
        number: 1,
        ..Entry::new(event)
    };
    let membership = Membership::new(0, false, 0);
    subscriber.deliver(&Batch::new(group, vec![entry]), &membership)
}
