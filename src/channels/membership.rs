//! Membership: one member's place in one group.

/// One member's place in one group.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Membership {
    /// The number of the member's connection or mailbox, unique in the process.
    pub member: u64,
    /// Whether the member wants to know each event's position.
    pub shows_positions: bool,
    /// The member joined before the group's shared history could be read, and receives it once it has been.
    pub(super) awaits_history: bool,
    /// The number of the newest entry when the member joined; it receives only later ones.
    pub(super) since: u64,
}
