//! PendingJoins: members that are about to join a group, and the events they would miss until they
//! do.
//!
//! A client learns that its WebSocket is open before its consumer has joined a group. An event sent
//! in between would be lost silently, so the group retains events while a join is pending.

use std::collections::{HashMap, HashSet, VecDeque};

use super::Position;
use super::batch::Entry;

/// The most events retained; beyond it, the oldest are dropped. A join is pending for as long as a
/// handshake takes.
const RETAINED_MAX: usize = 256;

/// The most bytes of events retained, unless a single event is longer.
const RETAINED_BYTES_MAX: usize = 1 << 20;

/// Members that are about to join a group, and the events they would miss.
#[derive(Default)]
pub(super) struct PendingJoins {
    by_member: HashMap<u64, PendingJoin>,
    /// The events since the first of them.
    retained: VecDeque<Entry>,
    retained_bytes: usize,
}

struct PendingJoin {
    /// The number of the last entry before the join.
    since: u64,
    /// The group's position after that entry.
    position: Position,
    /// The number of the member's pending joins.
    count: usize,
}

impl PendingJoins {
    pub(super) fn is_empty(&self) -> bool {
        self.by_member.is_empty()
    }

    /// Adds a join that starts after an entry. If the member already has a pending join, that one
    /// decides.
    pub(super) fn add(&mut self, member: u64, since: u64, position: Position) {
        let first = PendingJoin {
            since,
            position,
            count: 0,
        };
        self.by_member.entry(member).or_insert(first).count += 1;
    }

    /// Moves the start of a join to a later entry, if it is the member's only one.
    pub(super) fn advance(&mut self, member: u64, since: u64, position: Position) {
        if let Some(join) = self.by_member.get_mut(&member)
            && join.count == 1
        {
            join.since = since;
            join.position = position;
        }
    }

    pub(super) fn remove(&mut self, member: u64) {
        let Some(join) = self.by_member.get_mut(&member) else {
            return;
        };
        join.count -= 1;
        if join.count == 0 {
            self.by_member.remove(&member);
        }
        if self.by_member.is_empty() {
            *self = Self::default();
        }
    }

    /// Returns the group's position at the start of a member's join.
    pub(super) fn position(&self, member: u64) -> Option<Position> {
        self.by_member.get(&member).map(|join| join.position)
    }

    /// Retains an entry, if a join is pending.
    pub(super) fn retain(&mut self, entry: &Entry) {
        if self.by_member.is_empty() {
            return;
        }
        self.retained_bytes += entry.event.size();
        while (self.retained.len() >= RETAINED_MAX || self.retained_bytes > RETAINED_BYTES_MAX)
            && let Some(oldest) = self.retained.pop_front()
        {
            self.retained_bytes -= oldest.event.size();
        }
        self.retained.push_back(Entry {
            tally: None,
            ..entry.clone()
        });
    }

    /// Adds the retained entries that a member lacks to those from the history, in order.
    pub(super) fn complete(&self, member: u64, entries: &mut Vec<Entry>) {
        let Some(join) = self.by_member.get(&member) else {
            return;
        };
        let known: HashSet<u64> = entries.iter().map(|entry| entry.number).collect();
        let missing = self
            .retained
            .iter()
            .filter(|entry| entry.number > join.since && !known.contains(&entry.number));
        entries.extend(missing.cloned());
        entries.sort_by_key(|entry| entry.number);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::channels::Event;
    use crate::channels::batch::Audience;

    fn entry(number: u64) -> Entry {
        Entry {
            number,
            position: Position::default(),
            event: Event::new("a.b", &json!({"n": number})).unwrap(),
            except: None,
            audience: Audience::All,
            tally: None,
        }
    }

    fn at(offset: u64) -> Position {
        Position { epoch: 1, offset }
    }

    fn completed(joins: &PendingJoins, member: u64, known: &[u64]) -> Vec<u64> {
        let mut entries: Vec<Entry> = known.iter().copied().map(entry).collect();
        joins.complete(member, &mut entries);
        entries.iter().map(|entry| entry.number).collect()
    }

    #[test]
    fn each_member_has_what_came_since_its_join_began() {
        let mut joins = PendingJoins::default();
        joins.retain(&entry(1));
        joins.add(7, 1, at(1));
        joins.retain(&entry(2));
        joins.add(8, 2, at(2));
        joins.retain(&entry(3));
        assert_eq!(completed(&joins, 7, &[]), [2, 3]);
        assert_eq!(completed(&joins, 8, &[]), [3]);
        assert_eq!(completed(&joins, 9, &[]), [0; 0]);
        // The history may have some of it.
        assert_eq!(completed(&joins, 7, &[1, 3]), [1, 2, 3]);
    }

    #[test]
    fn only_a_first_join_is_advanced() {
        let mut joins = PendingJoins::default();
        joins.add(7, 0, at(0));
        joins.retain(&entry(1));
        joins.advance(7, 1, at(1));
        assert_eq!(joins.position(7), Some(at(1)));
        joins.retain(&entry(2));
        assert_eq!(completed(&joins, 7, &[]), [2]);
        joins.add(7, 2, at(2));
        joins.advance(7, 2, at(2));
        assert_eq!(completed(&joins, 7, &[]), [2]);
        assert_eq!((joins.position(7), joins.position(8)), (Some(at(1)), None));
    }

    #[test]
    fn events_are_retained_only_for_pending_joins_and_up_to_the_bound() {
        let mut joins = PendingJoins::default();
        joins.add(7, 0, at(0));
        joins.add(7, 0, at(0));
        for number in 1..=RETAINED_MAX as u64 + 2 {
            joins.retain(&entry(number));
        }
        let kept = completed(&joins, 7, &[]);
        assert_eq!((kept.len(), kept[0]), (RETAINED_MAX, 3));
        let long = Event::text("x".repeat(RETAINED_BYTES_MAX / 2));
        for number in 1000..1003 {
            let event = long.clone();
            joins.retain(&Entry {
                event,
                ..entry(number)
            });
        }
        assert_eq!(completed(&joins, 7, &[]), [1001, 1002]);
        joins.remove(7);
        assert!(!joins.is_empty());
        joins.remove(7);
        assert!(joins.is_empty() && joins.retained.is_empty());
        joins.remove(7);
    }
}
