//! Seen: how much of a group's events a client has seen.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::event_id::EventId;
use super::{Position, PositionError};

/// The most senders whose early events a client has seen at once: one for each process that it was
/// connected to during one outage.
const MARKS_MAX: usize = 4;

/// The early events that a client has seen beyond its position: of each sender, those up to a
/// number.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Marks([EventId; MARKS_MAX]); // the used ones come first

/// How much of a group's events a client has seen: everything up to a position and, during an
/// outage, early events that have no offset yet.
///
/// It is written `EPOCH.OFFSET`, followed by `~NODE.SEQ` for each sender of early events, the node
/// in hexadecimal. That is the `offset` of an event as a client sees it, the id of a server-sent
/// event, and what a client returns with in `?since=`.
///
/// ```
/// use oneport::channels::Seen;
/// let seen: Seen = "1f.42~a1b2.7".parse().unwrap();
/// assert_eq!(seen.position.to_string(), "1f.42");
/// assert_eq!(seen.to_string(), "1f.42~a1b2.7");
/// assert!("1f.42~".parse::<Seen>().is_err());
/// ```
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Seen {
    /// The position up to which it has seen everything.
    pub position: Position,
    /// The early events that it has seen besides.
    pub marks: Marks,
}

impl Marks {
    /// Returns the mark of one event.
    #[cfg(test)]
    pub(super) fn of(id: EventId) -> Self {
        let mut marks = Self::default();
        marks.insert(id);
        marks
    }

    /// Adds an event, and all lower ones of its sender. If all marks are used, the oldest is
    /// dropped: its client may receive events of that sender again.
    pub(super) fn insert(&mut self, id: EventId) {
        if id.node == 0 {
            return;
        }
        if let Some(mark) = self.0.iter_mut().find(|mark| mark.node == id.node) {
            mark.seq = mark.seq.max(id.seq);
            return;
        }
        if self.len() == MARKS_MAX {
            self.0.rotate_left(1);
            self.0[MARKS_MAX - 1] = id;
        } else {
            self.0[self.len()] = id;
        }
    }

    /// Returns the marks of both.
    pub(super) fn merged(mut self, others: &Self) -> Self {
        others.iter().for_each(|id| self.insert(id));
        self
    }

    /// Removes the marks for which the closure returns false.
    pub(super) fn retain(&mut self, keeps: impl Fn(EventId) -> bool) {
        let mut kept = Self::default();
        self.iter()
            .filter(|id| keeps(*id))
            .for_each(|id| kept.insert(id));
        *self = kept;
    }

    /// Called when an event has its offset: it and all lower ones of its sender need no mark.
    pub(super) fn confirm(&mut self, id: EventId) {
        self.retain(|mark| mark.node != id.node || mark.seq > id.seq);
    }

    /// Returns whether an event is among those that the client has seen.
    pub(super) fn cover(&self, id: EventId) -> bool {
        self.iter()
            .any(|mark| mark.node == id.node && mark.seq >= id.seq)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = EventId> {
        self.0.into_iter().filter(|mark| mark.node != 0)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn len(&self) -> usize {
        self.iter().count()
    }

    /// Returns the marks for an entry, where most have none.
    pub(super) fn shared(self) -> Option<Arc<Self>> {
        (!self.is_empty()).then(|| Arc::new(self))
    }
}

impl From<Position> for Seen {
    fn from(position: Position) -> Self {
        Self {
            position,
            marks: Marks::default(),
        }
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.position)?;
        self.marks
            .iter()
            .try_for_each(|mark| write!(f, "~{:x}.{}", mark.node, mark.seq))
    }
}

impl FromStr for Seen {
    type Err = PositionError;

    fn from_str(text: &str) -> Result<Self, PositionError> {
        let read = || {
            let mut parts = text.split('~');
            let mut seen = Self::from(parts.next()?.parse::<Position>().ok()?);
            for part in parts {
                // A mark is written as a position is.
                let mark: Position = part.parse().ok()?;
                if mark.epoch == 0 || seen.marks.len() == MARKS_MAX {
                    return None;
                }
                seen.marks.insert(EventId {
                    node: mark.epoch,
                    seq: mark.offset,
                });
            }
            Some(seen)
        };
        read().ok_or_else(|| PositionError::new(text))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(node: u64, seq: u64) -> EventId {
        EventId { node, seq }
    }

    #[test]
    fn what_is_written_is_read() {
        for text in ["1f.42", "0.0", "1f.42~a1b2.7", "1.2~a.1~b.2~c.3~d.4"] {
            let seen: Seen = text.parse().unwrap();
            assert_eq!(seen.to_string(), text);
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "~",
            "1f.42~",
            "1f.42~~a.1",
            "1f.42~a",
            "1f.42~a.",
            "1f.42~.1",
            "1f.42~0.1",
            "1f.42~a.-1",
            "1f.42~a.+1",
            "1f.42~g.1",
            "~a.1",
            "1f.42 ~a.1",
            "1.2~a.1~b.2~c.3~d.4~e.5",
            "1f.42~11111111111111111.1",
            "1f.42~a.18446744073709551616",
        ] {
            assert!(text.parse::<Seen>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_refusal_quotes_the_beginning_of_a_long_text() {
        let error = "~".repeat(100_000).parse::<Seen>().unwrap_err();
        assert!(error.to_string().len() < 200);
    }

    #[test]
    fn a_mark_covers_lower_numbers_of_its_sender() {
        let mut marks = Marks::of(id(1, 7));
        assert!(marks.cover(id(1, 7)) && marks.cover(id(1, 1)));
        assert!(!marks.cover(id(1, 8)) && !marks.cover(id(2, 1)) && !marks.cover(id(0, 0)));
        marks.insert(id(1, 5));
        marks.insert(id(2, 3));
        assert!(marks.cover(id(1, 7)) && marks.cover(id(2, 3)));
        marks.confirm(id(1, 6));
        assert!(marks.cover(id(1, 7)));
        marks.confirm(id(1, 7));
        assert_eq!(marks, Marks::of(id(2, 3)));
    }

    #[test]
    fn a_fifth_sender_replaces_the_first() {
        let mut marks = Marks::default();
        (1..=5).for_each(|node| marks.insert(id(node, 1)));
        assert!(!marks.cover(id(1, 1)));
        assert!((2..=5).all(|node| marks.cover(id(node, 1))));
    }

    proptest! {
        #[test]
        fn any_marks_are_written_and_read(epoch: u64, offset: u64, senders in proptest::collection::vec((1_u64.., any::<u64>()), 0..4)) {
            let mut seen = Seen::from(Position { epoch, offset });
            senders.iter().for_each(|(node, seq)| seen.marks.insert(id(*node, *seq)));
            prop_assert_eq!(seen.to_string().parse::<Seen>().unwrap(), seen);
        }

        #[test]
        fn garbage_is_read_or_refused(text in "[0-9a-f.~ +-]{0,60}") {
            if let Ok(seen) = text.parse::<Seen>() {
                prop_assert_eq!(seen.to_string().parse::<Seen>().unwrap(), seen);
            }
        }
    }
}
