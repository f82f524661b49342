//! PresenceView: what this process has told a group's members about who is in it.
//!
//! A change reaches a process more than once, and from several sources: from the member itself,
//! through Redis, from a process that removes the members of a dead one, and from Redis' list of
//! members. The view makes that harmless. A change that agrees with it is dropped; any other
//! changes the view and is sent to the members. So the view is always what they have been told.
//!
//! ```text
//!           begin_read                  end_read
//!   Unread ────────────▶ (reading) ──────────────▶ Read
//!                            ▲                       │
//!                            └───────────────────────┘
//!                                   begin_read
//! ```
//!
//! Redis is read when the group is created, and whenever changes may have been missed. A reply
//! shows the members at one moment before it arrives. A change that comes while Redis is being read
//! may be newer than the reply, so it wins; an older one agrees with the reply and is dropped, or
//! is followed by the newer change that the reply has shown already.

use std::collections::{HashMap, HashSet};

use super::ConnectionId;
use super::presence::{ChangeKind, PresenceChange};

/// A member's user; `None` for an anonymous one.
type Username = Option<Box<str>>;

/// The members of a group that those of this process have been told of: its own, and those of other
/// processes.
#[derive(Debug, Default)]
pub(super) struct PresenceView {
    told: HashMap<ConnectionId, Username>,
    /// True once Redis was read: before that, no member of another process is known.
    is_read: bool,
    /// The reads under way.
    reads: usize,
    /// While Redis is being read: the members that have changed since the first of these reads.
    changed: HashSet<ConnectionId>,
}

impl PresenceView {
    /// Applies a change. Returns the new number of members; `None` if they have been told of it.
    pub(super) fn apply(&mut self, change: &PresenceChange) -> Option<usize> {
        if self.reads > 0 {
            self.changed.insert(change.member);
        }
        let is_new = match change.kind {
            ChangeKind::Join => {
                let user = change.user.clone();
                self.told.insert(change.member, user).is_none()
            }
            ChangeKind::Leave => self.told.remove(&change.member).is_some(),
        };
        is_new.then_some(self.told.len())
    }

    pub(super) fn len(&self) -> usize {
        self.told.len()
    }

    pub(super) fn is_read(&self) -> bool {
        self.is_read
    }

    /// Called before Redis is read.
    pub(super) fn begin_read(&mut self) {
        self.reads += 1;
    }

    /// Called when no reply will come.
    pub(super) fn abort_reads(&mut self) {
        self.reads = 0;
        self.changed.clear();
    }

    /// Takes the members of other processes that Redis lists; `None` if it could not be read.
    /// Returns the changes that the members have not been told of, in no order. The caller applies
    /// them.
    ///
    /// The first reply changes the view without a word if this process has no announced member yet:
    /// a member learns the number with its own `chat.join`.
    pub(super) fn end_read(
        &mut self,
        node: u64,
        listed: Option<HashMap<ConnectionId, Username>>,
    ) -> Vec<PresenceChange> {
        let is_first = !std::mem::replace(&mut self.is_read, true);
        self.reads = self.reads.saturating_sub(1);
        // What this reply shows is a change for an older one that is still under way.
        let changed = match self.reads {
            0 => std::mem::take(&mut self.changed),
            _ => self.changed.clone(),
        };
        let Some(mut listed) = listed else {
            return Vec::new();
        };
        listed.retain(|member, _| member.node != node && !changed.contains(member));
        if is_first && self.told.keys().all(|member| member.node != node) {
            self.told.extend(listed);
            return Vec::new();
        }
        let is_gone = |member: &ConnectionId| {
            member.node != node && !changed.contains(member) && !listed.contains_key(member)
        };
        let mut changes: Vec<PresenceChange> = self.leaves(is_gone);
        listed.retain(|member, _| !self.told.contains_key(member));
        let joins = listed.into_iter();
        changes.extend(joins.map(|(member, user)| PresenceChange::join(member, user)));
        changes
    }

    /// Compares the view with the announced members of this process; returns the changes that the
    /// members have not been told of. The caller applies them.
    pub(super) fn own_changes(
        &self,
        node: u64,
        own: &HashMap<ConnectionId, Username>,
    ) -> Vec<PresenceChange> {
        let is_gone = |member: &ConnectionId| member.node == node && !own.contains_key(member);
        let mut changes = self.leaves(is_gone);
        let new = own
            .iter()
            .filter(|(member, _)| !self.told.contains_key(member));
        changes.extend(new.map(|(member, user)| PresenceChange::join(*member, user.clone())));
        changes
    }

    /// Returns the users of the members of other processes.
    pub(super) fn foreign_users(&self, node: u64) -> Vec<Option<String>> {
        let foreign = self.told.iter().filter(|(member, _)| member.node != node);
        foreign
            .map(|(_, user)| user.as_deref().map(str::to_owned))
            .collect()
    }

    fn leaves(&self, is_gone: impl Fn(&ConnectionId) -> bool) -> Vec<PresenceChange> {
        let gone = self.told.iter().filter(|(member, _)| is_gone(member));
        gone.map(|(member, user)| PresenceChange::leave(*member, user.clone()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NODE: u64 = 1;

    fn id(node: u64, number: u64) -> ConnectionId {
        ConnectionId { node, number }
    }

    fn join(node: u64, number: u64) -> PresenceChange {
        PresenceChange::join(id(node, number), Some(format!("user{number}").into()))
    }

    fn leave(node: u64, number: u64) -> PresenceChange {
        PresenceChange::leave(id(node, number), None)
    }

    fn listed(members: &[(u64, u64)]) -> Option<HashMap<ConnectionId, Username>> {
        let user = |number| Some(format!("user{number}").into());
        let members = members.iter();
        Some(
            members
                .map(|(node, number)| (id(*node, *number), user(*number)))
                .collect(),
        )
    }

    /// Takes a reply, and applies what it shows.
    fn end_read(view: &mut PresenceView, members: &[(u64, u64)]) -> Vec<PresenceChange> {
        let mut changes = view.end_read(NODE, listed(members));
        changes.sort_by_key(|change| (change.member, change.kind == ChangeKind::Join));
        for change in &changes {
            assert!(view.apply(change).is_some());
        }
        changes
    }

    #[test]
    fn a_change_is_told_once() {
        let mut view = PresenceView::default();
        assert_eq!(view.apply(&join(1, 1)), Some(1));
        assert_eq!(view.apply(&join(2, 1)), Some(2));
        assert_eq!(view.apply(&join(2, 1)), None);
        assert_eq!(view.apply(&leave(2, 1)), Some(1));
        assert_eq!(view.apply(&leave(2, 1)), None);
    }

    #[test]
    fn the_first_reply_is_told_only_if_a_member_has_been_told_of_itself() {
        let mut view = PresenceView::default();
        view.begin_read();
        assert_eq!(end_read(&mut view, &[(1, 7), (2, 1), (3, 1)]), []);
        assert_eq!(
            view.apply(&join(1, 1)),
            Some(3),
            "its own entry is not one of others"
        );

        let mut late = PresenceView::default();
        late.apply(&join(1, 1));
        late.begin_read();
        assert_eq!(end_read(&mut late, &[(1, 1), (2, 1)]), [join(2, 1)]);
    }

    #[test]
    fn later_replies_show_what_was_missed() {
        let mut view = PresenceView::default();
        view.begin_read();
        end_read(&mut view, &[(2, 1), (3, 1)]);
        view.apply(&join(1, 1));
        view.begin_read();
        let left = PresenceChange::leave(id(2, 1), Some("user1".into()));
        assert_eq!(end_read(&mut view, &[(3, 1), (3, 2)]), [left, join(3, 2)]);
        view.begin_read();
        assert_eq!(end_read(&mut view, &[(3, 1), (3, 2)]), []);
    }

    #[test]
    fn a_change_that_comes_during_a_read_wins_over_a_stale_reply() {
        let mut view = PresenceView::default();
        view.begin_read();
        end_read(&mut view, &[(2, 1), (2, 2)]);
        view.apply(&join(1, 1));
        view.begin_read();
        view.apply(&leave(2, 1));
        view.apply(&join(3, 1));
        view.apply(&join(2, 2)); // known, and not yet in the reply
        assert_eq!(end_read(&mut view, &[(2, 1)]), []);
        assert_eq!(view.len(), 3);
    }

    #[test]
    fn a_reply_that_does_not_come_changes_nothing() {
        let mut view = PresenceView::default();
        view.begin_read();
        assert_eq!(view.end_read(NODE, None), []);
        assert!(view.is_read());
        view.begin_read();
        view.apply(&join(2, 1));
        view.abort_reads();
        view.begin_read();
        let left = PresenceChange::leave(id(2, 1), Some("user1".into()));
        assert_eq!(end_read(&mut view, &[]), [left]);
    }

    #[test]
    fn of_two_reads_the_older_reply_takes_nothing_back() {
        let mut view = PresenceView::default();
        view.begin_read();
        end_read(&mut view, &[(2, 1)]);
        view.apply(&join(1, 1));
        view.begin_read();
        view.apply(&join(2, 2));
        view.begin_read();
        view.apply(&leave(2, 1));
        assert_eq!(end_read(&mut view, &[(2, 1), (3, 1)]), [join(3, 1)]);
        assert_eq!(end_read(&mut view, &[(2, 1)]), []);
        assert_eq!(view.len(), 3);
    }

    #[test]
    fn own_members_are_compared_with_those_that_are_there() {
        let mut view = PresenceView::default();
        for change in [join(1, 1), join(1, 2), join(2, 1)] {
            view.apply(&change);
        }
        let own = listed(&[(1, 2), (1, 3)]).unwrap();
        let mut changes = view.own_changes(NODE, &own);
        changes.sort_by_key(|change| change.member);
        let left = PresenceChange::leave(id(1, 1), Some("user1".into()));
        assert_eq!(changes, [left, join(1, 3)]);
    }

    proptest! {
        /// Changes repeat, and replies come late or early; once a reply arrives with no change
        /// during the read, the view is what Redis lists.
        #[test]
        fn the_view_converges_and_what_is_told_adds_up(
            steps in proptest::collection::vec((0..4_u8, 2..4_u64, 0..4_u64), 0..40),
            last in proptest::collection::btree_set((2..4_u64, 0..4_u64), 0..8),
        ) {
            let mut view = PresenceView::default();
            view.apply(&join(1, 1));
            let mut told = 1;
            let mut count = |members: Option<usize>, change: &PresenceChange| {
                let Some(members) = members else { return };
                match change.kind {
                    ChangeKind::Join => told += 1,
                    ChangeKind::Leave => told -= 1,
                }
                assert_eq!(members, told);
            };
            for (step, node, number) in steps {
                let change = match step {
                    0 => join(node, number),
                    1 => leave(node, number),
                    2 => {
                        view.begin_read();
                        continue;
                    }
                    _ => {
                        for change in view.end_read(NODE, listed(&[(node, number)])) {
                            count(view.apply(&change), &change);
                        }
                        continue;
                    }
                };
                count(view.apply(&change), &change);
            }
            let last: Vec<_> = last.into_iter().collect();
            view.abort_reads();
            view.begin_read();
            for change in view.end_read(NODE, listed(&last)) {
                count(view.apply(&change), &change);
            }
            prop_assert_eq!(view.len(), last.len() + 1);
            prop_assert_eq!(told, last.len() + 1);
        }
    }
}
