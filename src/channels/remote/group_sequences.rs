//! GroupSequences: numbers the events of this process that are sent at most once, in each group.
//!
//! ```text
//!            number                  settled
//!   (none) ─────────▶ Unsettled ─────────────────▶ Settled
//!                        ▲        announced             │
//!                        └──────────────────────────────┘
//!                  numbered while the link is not settled
//! ```
//!
//! A receiver learns of lost events by the next number. After an outage the newest number of each
//! group that was used meanwhile is announced, since the next event may be long in coming. This
//! happens once the link has settled: by then the other processes have reconnected too.

use std::collections::HashMap;

use tokio::time::Instant;

use crate::channels::GroupName;
use crate::channels::sender_sequences::SequenceNumber;

/// The number of groups remembered in each of two generations. A group that is in neither starts
/// another sequence.
const GROUPS_MAX: usize = 16_384;

/// The most groups announced after an outage.
const ANNOUNCED_MAX: usize = 4096;

/// The sequences of the groups that this process has sent to.
#[derive(Debug, Default)]
pub(super) struct GroupSequences {
    recent: HashMap<GroupName, Sequence>,
    /// The groups that were recent before `recent` was full.
    older: HashMap<GroupName, Sequence>,
    link: Link,
}

#[derive(Clone, Copy, Debug)]
struct Sequence {
    newest: SequenceNumber,
    is_announced: bool,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Link {
    /// There is none, or it has not lasted yet: events may not reach all processes.
    #[default]
    Unsettled,
    Settled,
}

impl GroupSequences {
    /// Numbers an event, whether it is sent or not.
    pub(super) fn number(&mut self, group: &GroupName) -> SequenceNumber {
        let is_announced = self.link == Link::Settled;
        if let Some(known) = self.recent.get_mut(group) {
            known.newest.number += 1;
            known.is_announced &= is_announced;
            return known.newest;
        }
        let mut sequence = self.older.remove(group).unwrap_or_else(|| Sequence {
            newest: SequenceNumber {
                sequence: fastrand::u32(..),
                number: 0,
                began: Instant::now(),
            },
            is_announced: true,
        });
        sequence.newest.number += 1;
        sequence.is_announced &= is_announced;
        if self.recent.len() >= GROUPS_MAX {
            self.older = std::mem::take(&mut self.recent);
        }
        self.recent.insert(group.clone(), sequence);
        sequence.newest
    }

    /// Called when the link is lost.
    pub(super) fn lost(&mut self) {
        self.link = Link::Unsettled;
    }

    /// Called when the link has settled. Returns the numbers to announce.
    pub(super) fn settled(&mut self) -> Vec<(GroupName, SequenceNumber)> {
        self.link = Link::Settled;
        let mut announced = Vec::new();
        for (group, sequence) in self.recent.iter_mut().chain(&mut self.older) {
            if !sequence.is_announced && announced.len() < ANNOUNCED_MAX {
                sequence.is_announced = true;
                announced.push((group.clone(), sequence.newest));
            }
        }
        announced
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(number: usize) -> GroupName {
        GroupName::new(&format!("g{number}")).unwrap()
    }

    #[test]
    fn the_events_of_a_group_are_numbered_without_a_gap() {
        let mut sequences = GroupSequences::default();
        for number in 1..=3 {
            assert_eq!(sequences.number(&group(1)).number, number);
        }
        assert_eq!(sequences.number(&group(2)).number, 1);
        let first = sequences.number(&group(1));
        for other in 10..10 + GROUPS_MAX {
            sequences.number(&group(other));
        }
        let kept = sequences.number(&group(1));
        assert_eq!((kept.sequence, kept.number), (first.sequence, 5));
        for other in 10..10 + 3 * GROUPS_MAX {
            sequences.number(&group(other));
        }
        assert_eq!(sequences.number(&group(1)).number, 1, "another sequence");
        assert!(sequences.recent.len() <= GROUPS_MAX && sequences.older.len() <= GROUPS_MAX);
    }

    #[test]
    fn what_was_numbered_without_a_settled_link_is_announced_once() {
        let mut sequences = GroupSequences::default();
        sequences.number(&group(1));
        assert_eq!(sequences.settled().len(), 1);
        sequences.number(&group(1));
        assert_eq!(sequences.settled(), []);
        sequences.lost();
        sequences.number(&group(2));
        let newest = sequences.number(&group(2));
        assert_eq!(sequences.settled(), [(group(2), newest)]);
        assert_eq!(sequences.settled(), []);
    }
}
