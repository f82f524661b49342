//! Replay: the part of a history that a member receives when it joins.

use std::time::Duration;

use tokio::time::Instant;

use super::GroupHistory;
use crate::channels::batch::Entry;
use crate::channels::membership::Marked;
use crate::channels::{Position, Seen};

/// How long the early events that a client has seen elsewhere are expected to come with an offset.
const MARKS_EXPECTED: Duration = Duration::from_secs(3600);

/// The part of a group's history that a member asks for when it joins.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Start {
    /// All events that are kept.
    History,
    /// Only events from now on.
    Now,
    /// The events that the member has not seen.
    After(Seen),
}

/// The point in a group's history at which a member has started.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Joined {
    /// What the member has seen before the first event that it receives. A client that returns with
    /// it misses no event since.
    pub from: Seen,
    /// True if no event is missing after what it had seen, if it said so.
    pub is_complete: bool,
}

/// The history that a member receives when it joins.
pub(in crate::channels) struct Replay {
    /// What the member has seen before the first entry.
    pub(in crate::channels) from: Seen,
    pub(in crate::channels) entries: Vec<Entry>,
    /// True if no event is missing after what the member had seen.
    pub(in crate::channels) is_complete: bool,
    /// How the member differs from those that follow the group.
    pub(in crate::channels) marked: Marked,
}

impl Replay {
    /// Sets what the member has seen with each entry of a shared history: the position of the last
    /// one before it that has an offset, and the marks of the early ones so far.
    ///
    /// The order differs from that of the members who have been there: an event that they received
    /// early, and then others with an offset, comes behind those.
    pub(in crate::channels) fn set_positions(&mut self) {
        let mut seen = self.from;
        for entry in &mut self.entries {
            let is_behind = entry.position.epoch == seen.position.epoch
                && entry.position.offset < seen.position.offset;
            if entry.id.is_kept() && !is_behind {
                seen.position = entry.position;
            }
            entry.position = seen.position;
            if entry.is_early {
                seen.marks.insert(entry.id);
            }
            let of_group = entry.marks.as_deref().copied().unwrap_or_default();
            let marks = self.marked.merged(of_group).merged(&seen.marks);
            entry.marks = marks.shared();
        }
    }
}

impl GroupHistory {
    /// Returns the history for a member that joins. If it is not loaded, these are only the early
    /// events; the member awaits the others.
    pub(in crate::channels) fn replay(&mut self, start: Start, wants_history: bool) -> Replay {
        let since = match start {
            Start::History if wants_history => None,
            Start::Now | Start::History => {
                return Replay {
                    from: self.seen(),
                    entries: Vec::new(),
                    is_complete: true,
                    marked: Marked::default(),
                };
            }
            Start::After(seen) => Some(seen),
        };
        if let Some(since) = since
            && self.is_loaded()
            && let Some(entries) = self.after(&since)
        {
            return Replay {
                from: since,
                entries,
                is_complete: true,
                marked: self.marked(&since),
            };
        }
        let mut entries = Vec::new();
        let mut from = Seen::from(self.shown_position());
        if self.is_loaded() {
            entries.extend(self.events.iter().map(|(_, entry)| entry.clone()));
            if let Some(first) = entries.first() {
                from.position = Position {
                    offset: first.position.offset.saturating_sub(1),
                    ..first.position
                };
            }
        }
        entries.extend(self.early_kept());
        Replay {
            from,
            entries,
            is_complete: since.is_none(),
            marked: Marked::default(),
        }
    }

    /// Returns the early events, for a member that receives all kept ones before them.
    fn early_kept(&self) -> impl Iterator<Item = Entry> {
        let position = self.shown_position();
        let early = self.shared.iter().flat_map(|shared| shared.early.kept());
        early.map(move |entry| Entry {
            position,
            ..entry.clone()
        })
    }

    /// Returns the events that a client lacks, in order; `None` if any of them is not kept.
    fn after(&self, since: &Seen) -> Option<Vec<Entry>> {
        let (position, marks) = (since.position, since.marks);
        let forgotten = self.shared.as_ref();
        let forgotten = forgotten.and_then(|shared| shared.early.newest_forgotten());
        if forgotten.is_some_and(|id| !marks.cover(id)) {
            return None;
        }
        let mut entries = if position.epoch == self.position.epoch {
            self.after_in_present_epoch(since)?
        } else if self.shared.is_some() {
            self.after_in_earlier_epoch(since)?
        } else {
            return None;
        };
        entries.extend(self.early_kept());
        entries.retain(|entry| !marks.cover(entry.id));
        Some(entries)
    }

    /// Every offset up to the newest must be known: as an event that is kept, or as one that is
    /// kept with its position in an earlier epoch.
    fn after_in_present_epoch(&self, since: &Seen) -> Option<Vec<Entry>> {
        let missing = self.position.offset.checked_sub(since.position.offset)?;
        let earlier = self.shared.as_ref();
        let earlier = earlier.and_then(|shared| shared.earlier.as_deref());
        let is_newer = |entry: &&Entry| {
            entry.position.epoch == since.position.epoch
                && entry.position.offset > since.position.offset
        };
        let kept = self.events.iter().map(|(_, entry)| entry);
        let mut kept = kept.rev().take_while(is_newer).collect::<Vec<_>>();
        if kept.len() as u64 > missing || (earlier.is_none() && (kept.len() as u64) < missing) {
            return None;
        }
        let mut entries = Vec::new();
        for offset in since.position.offset + 1..=self.position.offset {
            if let Some(entry) = kept.pop_if(|entry| entry.position.offset == offset) {
                entries.push(entry.clone());
                continue;
            }
            let id = earlier?.repeat_at(offset)?;
            if since.marks.cover(id) {
                continue;
            }
            let found = self.events.iter().find(|(_, entry)| entry.id == id);
            entries.push(Entry {
                position: Position {
                    offset,
                    ..self.position
                },
                ..found?.1.clone()
            });
        }
        Some(entries)
    }

    /// The events of the epoch of `since` must follow it. Those of later epochs are all kept, apart
    /// from the ones that repeat an event.
    fn after_in_earlier_epoch(&self, since: &Seen) -> Option<Vec<Entry>> {
        let position = since.position;
        let is_at_or_after = |entry: &Entry| {
            entry.position.epoch == position.epoch && entry.position.offset >= position.offset
        };
        let at = self
            .events
            .iter()
            .position(|(_, entry)| is_at_or_after(entry))?;
        let first = self.events[at].1.position.offset;
        let from = match first - position.offset {
            0 => at + 1,
            1 => at,
            _ => return None,
        };
        let entries = self.events.iter().skip(from);
        let entries: Vec<Entry> = entries.map(|(_, entry)| entry.clone()).collect();
        let of_epoch = entries
            .iter()
            .take_while(|entry| entry.position.epoch == position.epoch);
        let mut expected = position.offset;
        for entry in of_epoch {
            expected += 1;
            if entry.position.offset != expected {
                return None;
            }
        }
        Some(entries)
    }

    /// Returns how a client that has received all events after `since` differs from the members
    /// that follow the group.
    fn marked(&mut self, since: &Seen) -> Marked {
        let mut marked = Marked {
            marks: since.marks,
            marks_until: Some(Instant::now() + MARKS_EXPECTED),
            lacks_earlier_until: None,
            node: self.node,
        };
        let Some(shared) = &mut self.shared else {
            return Marked::default();
        };
        let early = shared.early.shown().newest();
        marked.marks.retain(|mark| {
            let is_early = early.is_some_and(|id| id.node == mark.node && id.seq >= mark.seq);
            let is_confirmed = shared.seen.newest_of(mark.node) >= mark.seq;
            !is_early && !is_confirmed
        });
        if since.position.epoch == self.position.epoch
            && let Some(earlier) = &mut shared.earlier
        {
            marked.lacks_earlier_until = earlier.lacked();
            // It may have seen what the others have seen, or come from a process that has not.
            marked.marks = marked.marks.merged(&since.marks);
        }
        marked
    }
}
