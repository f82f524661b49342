//! EventId: recognizes an event that reaches a process twice.

/// The process that sent an event, and its own number for it.
///
/// A sender numbers its events in order, over all groups, and every process sees those of one group
/// in that order. So a seen number covers all lower ones of the same sender in the group.
///
/// The default, with node 0, is the id of an event that no shared history keeps.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub(crate) struct EventId {
    pub(crate) node: u64,
    pub(crate) seq: u64,
}

impl EventId {
    /// Returns whether a shared history keeps the event, or will.
    pub(super) fn is_kept(self) -> bool {
        self.node != 0
    }
}
