//! Holds: members that are about to join a group, and what they shall have when they do.
//!
//! A client learns that its WebSocket is open before its consumer has joined anything. What is sent to the group in between
//! would be lost without a sign, so it is retained until the last hold is gone.

use std::collections::{HashMap, HashSet, VecDeque};

use super::Position;
use super::batch::Entry;

/// How many events are retained; the oldest goes first. A hold lasts as long as a handshake.
const RETAINED_MAX: usize = 256;

/// How many bytes of events, but for one that is longer.
const RETAINED_BYTES_MAX: usize = 1 << 20;

#[derive(Default)]
pub(super) struct PendingJoins {
    by_member: HashMap<u64, PendingJoin>,
    /// What was sent since the first of them.
    retained: VecDeque<Entry>,
    retained_bytes: usize,
}

struct PendingJoin {
    /// The number of the last entry that the member shall not have.
    since: u64,
    /// The group's position after that entry.
    position: Position,
    /// How often it is about to join.
    count: usize,
}

impl PendingJoins {
    pub(super) fn is_empty(&self) -> bool {
        self.by_member.is_empty()
    }

    /// A member shall have what follows an entry; who is held already keeps what it has.
    pub(super) fn add(&mut self, member: u64, since: u64, position: Position) {
        let first = PendingJoin {
            since,
            position,
            count: 0,
        };
        self.by_member.entry(member).or_insert(first).count += 1;
    }

    /// A member that is held once shall have only what follows a later entry.
    pub(super) fn postpone(&mut self, member: u64, since: u64, position: Position) {
        if let Some(hold) = self.by_member.get_mut(&member)
            && hold.count == 1
        {
            hold.since = since;
            hold.position = position;
        }
    }

    pub(super) fn remove(&mut self, member: u64) {
        let Some(hold) = self.by_member.get_mut(&member) else {
            return;
        };
        hold.count -= 1;
        if hold.count == 0 {
            self.by_member.remove(&member);
        }
        if self.by_member.is_empty() {
            *self = Self::default();
        }
    }

    /// Returns the group's position when the hold of a member began; the member gets what follows.
    pub(super) fn position(&self, member: u64) -> Option<Position> {
        self.by_member.get(&member).map(|hold| hold.position)
    }

    /// Takes note of what is sent, if anybody is about to join.
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

    /// Adds what a member shall have beside what it gets from the history, in order.
    pub(super) fn complete(&self, member: u64, entries: &mut Vec<Entry>) {
        let Some(hold) = self.by_member.get(&member) else {
            return;
        };
        let known: HashSet<u64> = entries.iter().map(|entry| entry.number).collect();
        let missing = self
            .retained
            .iter()
            .filter(|entry| entry.number > hold.since && !known.contains(&entry.number));
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

    fn completed(pending_joins: &PendingJoins, member: u64, known: &[u64]) -> Vec<u64> {
        let mut entries: Vec<Entry> = known.iter().copied().map(entry).collect();
        pending_joins.complete(member, &mut entries);
        entries.iter().map(|entry| entry.number).collect()
    }

    #[test]
    fn each_member_has_what_came_since_its_hold() {
        let mut pending_joins = PendingJoins::default();
        pending_joins.retain(&entry(1));
        pending_joins.add(7, 1, at(1));
        pending_joins.retain(&entry(2));
        pending_joins.add(8, 2, at(2));
        pending_joins.retain(&entry(3));
        assert_eq!(completed(&pending_joins, 7, &[]), [2, 3]);
        assert_eq!(completed(&pending_joins, 8, &[]), [3]);
        assert_eq!(completed(&pending_joins, 9, &[]), [0; 0]);
        // The history may have some of it.
        assert_eq!(completed(&pending_joins, 7, &[1, 3]), [1, 2, 3]);
    }

    #[test]
    fn only_a_first_hold_is_postponed() {
        let mut pending_joins = PendingJoins::default();
        pending_joins.add(7, 0, at(0));
        pending_joins.retain(&entry(1));
        pending_joins.postpone(7, 1, at(1));
        assert_eq!(pending_joins.position(7), Some(at(1)));
        pending_joins.retain(&entry(2));
        assert_eq!(completed(&pending_joins, 7, &[]), [2]);
        pending_joins.add(7, 2, at(2));
        pending_joins.postpone(7, 2, at(2));
        assert_eq!(completed(&pending_joins, 7, &[]), [2]);
        assert_eq!(
            (pending_joins.position(7), pending_joins.position(8)),
            (Some(at(1)), None)
        );
    }

    #[test]
    fn nothing_is_retained_for_nobody_and_not_more_than_the_bound() {
        let mut pending_joins = PendingJoins::default();
        pending_joins.add(7, 0, at(0));
        pending_joins.add(7, 0, at(0));
        for number in 1..=RETAINED_MAX as u64 + 2 {
            pending_joins.retain(&entry(number));
        }
        let kept = completed(&pending_joins, 7, &[]);
        assert_eq!((kept.len(), kept[0]), (RETAINED_MAX, 3));
        let long = Event::text("x".repeat(RETAINED_BYTES_MAX / 2));
        for number in 1000..1003 {
            let event = long.clone();
            pending_joins.retain(&Entry {
                event,
                ..entry(number)
            });
        }
        assert_eq!(completed(&pending_joins, 7, &[]), [1001, 1002]);
        pending_joins.remove(7);
        assert!(!pending_joins.is_empty());
        pending_joins.remove(7);
        assert!(pending_joins.is_empty() && pending_joins.retained.is_empty());
        pending_joins.remove(7);
    }
}
