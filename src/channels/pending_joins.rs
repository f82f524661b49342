//! PendingJoins: members that are about to join a group, and the events they would miss until they
//! do.
//!
//! A client learns that its WebSocket is open before its consumer has joined a group. An event sent
//! in between would be lost silently, so the group retains events while a join is pending.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::Seen;
use super::batch::Entry;
use super::event_id::EventId;

/// The most events retained; beyond it, the oldest are dropped. A join is pending for as long as a
/// handshake takes.
const RETAINED_MAX: usize = 256;

/// The most bytes of events retained, unless a single event is longer.
const RETAINED_BYTES_MAX: usize = 1 << 20;

/// Members that are about to join a group, and the events they would miss.
#[derive(Default)]
pub(super) struct PendingJoins {
    by_member: HashMap<u64, PendingJoin>,
    /// The events since the first of them, and when each was sent.
    retained: VecDeque<(Instant, Entry)>,
    retained_bytes: usize,
}

struct PendingJoin {
    /// The number of the last entry before the join.
    since: u64,
    /// When that was.
    at: Instant,
    /// What a client has seen that has received everything up to that entry.
    seen: Seen,
    /// The number of the member's pending joins.
    count: usize,
}

impl PendingJoins {
    pub(super) fn is_empty(&self) -> bool {
        self.by_member.is_empty()
    }

    /// Adds a join that starts after an entry. If the member already has a pending join, that one
    /// decides.
    pub(super) fn add(&mut self, member: u64, since: u64, seen: Seen) {
        let first = PendingJoin {
            since,
            at: Instant::now(),
            seen,
            count: 0,
        };
        self.by_member.entry(member).or_insert(first).count += 1;
    }

    /// Moves the start of a join to a later entry, if it is the member's only one.
    pub(super) fn advance(&mut self, member: u64, since: u64, seen: Seen) {
        if let Some(join) = self.by_member.get_mut(&member)
            && join.count == 1
        {
            join.since = since;
            join.at = Instant::now();
            join.seen = seen;
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

    /// Returns when a member's join began, and what a client has seen that knows everything up to
    /// then.
    pub(super) fn start(&self, member: u64) -> Option<(Instant, Seen)> {
        let join = self.by_member.get(&member)?;
        Some((join.at, join.seen))
    }

    /// Retains an entry, if a join is pending that began before the event was sent.
    pub(super) fn retain(&mut self, entry: &Entry, age: Duration) {
        if self.by_member.is_empty() {
            return;
        }
        let now = Instant::now();
        let sent_at = now.checked_sub(age).unwrap_or(now);
        if !age.is_zero() && self.by_member.values().all(|join| join.at > sent_at) {
            return;
        }
        self.retained_bytes += entry.event.size();
        while (self.retained.len() >= RETAINED_MAX || self.retained_bytes > RETAINED_BYTES_MAX)
            && let Some((_, oldest)) = self.retained.pop_front()
        {
            self.retained_bytes -= oldest.event.size();
        }
        let entry = Entry {
            tally: None,
            ..entry.clone()
        };
        self.retained.push_back((sent_at, entry));
    }

    /// Adds the retained entries that a member lacks to those from the history, which keep their
    /// order: each comes before the first of them with a higher number.
    pub(super) fn complete(&self, member: u64, entries: &mut Vec<Entry>) {
        let Some(join) = self.by_member.get(&member) else {
            return;
        };
        let known: HashSet<u64> = entries.iter().map(|entry| entry.number).collect();
        // An early event gets another number with its offset.
        let known_ids: HashSet<EventId> = entries.iter().map(|entry| entry.id).collect();
        let is_known = |entry: &Entry| {
            known.contains(&entry.number) || (entry.id.is_kept() && known_ids.contains(&entry.id))
        };
        let missing = self.retained.iter().filter(|(sent_at, entry)| {
            entry.number > join.since && *sent_at >= join.at && !is_known(entry)
        });
        let mut missing = missing.map(|(_, entry)| entry.clone()).peekable();
        for entry in std::mem::take(entries) {
            while let Some(retained) = missing.next_if(|retained| retained.number < entry.number) {
                entries.push(retained);
            }
            entries.push(entry);
        }
        entries.extend(missing);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::channels::{Event, Position};

    fn entry(number: u64) -> Entry {
        Entry {
            number,
            ..Entry::new(Event::new("a.b", &json!({"n": number})).unwrap())
        }
    }

    fn at(offset: u64) -> Seen {
        Position { epoch: 1, offset }.into()
    }

    fn seen(joins: &PendingJoins, member: u64) -> Option<Seen> {
        joins.start(member).map(|(_, seen)| seen)
    }

    fn completed(joins: &PendingJoins, member: u64, known: &[u64]) -> Vec<u64> {
        let mut entries: Vec<Entry> = known.iter().copied().map(entry).collect();
        joins.complete(member, &mut entries);
        entries.iter().map(|entry| entry.number).collect()
    }

    #[test]
    fn each_member_has_what_came_since_its_join_began() {
        let mut joins = PendingJoins::default();
        joins.retain(&entry(1), Duration::ZERO);
        joins.add(7, 1, at(1));
        joins.retain(&entry(2), Duration::ZERO);
        joins.add(8, 2, at(2));
        joins.retain(&entry(3), Duration::ZERO);
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
        joins.retain(&entry(1), Duration::ZERO);
        joins.advance(7, 1, at(1));
        assert_eq!(seen(&joins, 7), Some(at(1)));
        joins.retain(&entry(2), Duration::ZERO);
        assert_eq!(completed(&joins, 7, &[]), [2]);
        joins.add(7, 2, at(2));
        joins.advance(7, 2, at(2));
        assert_eq!(completed(&joins, 7, &[]), [2]);
        assert_eq!((seen(&joins, 7), seen(&joins, 8)), (Some(at(1)), None));
    }

    #[test]
    fn events_are_retained_only_for_pending_joins_and_up_to_the_bound() {
        let mut joins = PendingJoins::default();
        joins.add(7, 0, at(0));
        joins.add(7, 0, at(0));
        for number in 1..=RETAINED_MAX as u64 + 2 {
            joins.retain(&entry(number), Duration::ZERO);
        }
        let kept = completed(&joins, 7, &[]);
        assert_eq!((kept.len(), kept[0]), (RETAINED_MAX, 3));
        let long = Event::text("x".repeat(RETAINED_BYTES_MAX / 2));
        for number in 1000..1003 {
            let event = long.clone();
            let entry = Entry {
                event,
                ..entry(number)
            };
            joins.retain(&entry, Duration::ZERO);
        }
        assert_eq!(completed(&joins, 7, &[]), [1001, 1002]);
        joins.remove(7);
        assert!(!joins.is_empty());
        joins.remove(7);
        assert!(joins.is_empty() && joins.retained.is_empty());
        joins.remove(7);
    }

    #[test]
    fn an_older_event_that_is_read_late_is_retained_for_joins_that_began_before_it() {
        let mut joins = PendingJoins::default();
        joins.add(7, 0, at(0));
        joins.retain(&entry(1), Duration::from_secs(1));
        joins.by_member.get_mut(&7).unwrap().at -= Duration::from_secs(9);
        joins.retain(&entry(2), Duration::from_secs(1));
        joins.add(8, 0, at(0));
        assert_eq!(completed(&joins, 7, &[]), [2]);
        assert_eq!(completed(&joins, 8, &[]), [0; 0]);
    }
}
