//! Membership: one member's state in one group.

/// One member's state in one group.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Membership {
    /// The number of the member's connection or mailbox, unique in the process.
    pub member: u64,
    /// Whether the member receives each event's position.
    pub shows_positions: bool,
    /// Whether the member joined before the group's shared history could be read. It receives the
    /// history once it has been read.
    pub(super) awaits_history: bool,
    /// The number of the newest entry when the member joined; it receives only later ones.
    pub(super) since: u64,
}
