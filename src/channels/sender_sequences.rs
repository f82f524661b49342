//! SenderSequences: the newest event that a group has received from each other process, which shows
//! how many were missed.
//!
//! An event of a shared history has an offset, and what was missed is read again. All other events
//! are sent at most once. Their sender numbers them without a gap in each group, also those that it
//! could not send, so a jump is the number of events that did not arrive.
//!
//! The first number of a sender shows nothing by itself: the events before it may have been sent
//! before the group had members here. They were missed if the sender began to count when the group
//! was here already.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// The most senders remembered in a group; beyond it, the one that was silent for longest is
/// forgotten.
const SENDERS_MAX: usize = 64;

/// How much earlier than a sender's first event the group must have existed. The age of a sequence
/// is exact when it is sent; this is the time that a message may take.
const TRANSIT_MAX: Duration = Duration::from_millis(50);

/// A sender's number for an event in a group.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct SequenceNumber {
    /// Identifies the sequence: a sender that has forgotten a group starts another one.
    pub(crate) sequence: u32,
    /// Counts up by one, from 1.
    pub(crate) number: u64,
    /// When the sequence began.
    pub(crate) began: Instant,
}

/// What the number of an event shows.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Arrival {
    /// So many events before it did not arrive.
    After { missed: u64 },
    /// A later one has arrived, and this one was counted as missed.
    Late,
}

/// The newest event that a group has received from each other process.
#[derive(Debug)]
pub(super) struct SenderSequences {
    /// When the group was created in this process.
    created: Instant,
    /// The one that was silent for longest is first.
    senders: Mutex<Vec<Sender>>,
}

#[derive(Clone, Copy, Debug)]
struct Sender {
    node: u64,
    sequence: u32,
    number: u64,
}

impl SenderSequences {
    pub(super) fn new() -> Self {
        Self {
            created: Instant::now(),
            senders: Mutex::default(),
        }
    }

    /// Called when an event has arrived that is sent at most once.
    pub(super) fn arrived(&self, node: u64, found: SequenceNumber) -> Arrival {
        match self.replace(node, found) {
            None => Arrival::After { missed: 0 },
            Some(last) if found.number <= last => Arrival::Late,
            Some(last) => Arrival::After {
                missed: found.number - last - 1,
            },
        }
    }

    /// Called when a sender has announced the number of its newest event. Returns how many events
    /// up to that one did not arrive.
    pub(super) fn announced(&self, node: u64, found: SequenceNumber) -> u64 {
        let last = self.replace(node, found);
        last.map_or(0, |last| found.number.saturating_sub(last))
    }

    /// Called when an event has arrived, or was read, that has an offset: the offsets show what was
    /// missed.
    pub(super) fn recovered(&self, node: u64, found: SequenceNumber) {
        self.replace(node, found);
    }

    /// Remembers a number if it is newer. Returns the number of the last event in the sequence that
    /// has arrived, or was not meant for this group's members; `None` if that is not known.
    fn replace(&self, node: u64, found: SequenceNumber) -> Option<u64> {
        match self.replace_sender(node, found) {
            Some(before) if before.sequence == found.sequence => Some(before.number),
            // The sender has begun another sequence after the event that is known.
            Some(_) => Some(0),
            None => (found.began > self.created + TRANSIT_MAX).then_some(0),
        }
    }

    fn replace_sender(&self, node: u64, found: SequenceNumber) -> Option<Sender> {
        let SequenceNumber {
            sequence, number, ..
        } = found;
        let mut senders = self.senders.lock();
        if let Some(last) = senders.last_mut()
            && last.node == node
        {
            let before = *last;
            last.advance(sequence, number);
            return Some(before);
        }
        let at = senders.iter().position(|sender| sender.node == node);
        let before = at.map(|at| senders.remove(at));
        let mut sender = before.unwrap_or(Sender {
            node,
            sequence,
            number,
        });
        sender.advance(sequence, number);
        if senders.len() >= SENDERS_MAX {
            senders.remove(0);
        }
        senders.push(sender);
        before
    }
}

impl Sender {
    fn advance(&mut self, sequence: u32, number: u64) {
        if self.sequence != sequence || self.number < number {
            (self.sequence, self.number) = (sequence, number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(sequence: u32, number: u64, began: Instant) -> SequenceNumber {
        SequenceNumber {
            sequence,
            number,
            began,
        }
    }

    #[test]
    fn a_jump_is_the_number_of_missed_events() {
        let senders = SenderSequences::new();
        let began = Instant::now();
        let arrived = |node, number| senders.arrived(node, at(1, number, began));
        let after = |missed| Arrival::After { missed };
        assert_eq!(arrived(1, 40), after(0), "what was before is not known");
        assert_eq!(arrived(1, 41), after(0));
        assert_eq!(arrived(2, 7), after(0));
        assert_eq!(arrived(1, 45), after(3));
        assert_eq!(arrived(1, 44), Arrival::Late);
        assert_eq!(arrived(1, 45), Arrival::Late);
        assert_eq!(arrived(1, 46), after(0));
        assert_eq!(arrived(2, 9), after(1));
    }

    #[test]
    fn what_a_history_gives_back_is_not_missed() {
        let senders = SenderSequences::new();
        let began = Instant::now();
        senders.arrived(1, at(1, 1, began));
        senders.recovered(1, at(1, 5, began));
        senders.recovered(1, at(1, 3, began));
        let found = senders.arrived(1, at(1, 7, began));
        assert_eq!(found, Arrival::After { missed: 1 });
    }

    #[test]
    fn an_announcement_counts_the_events_up_to_it() {
        let senders = SenderSequences::new();
        let began = Instant::now();
        assert_eq!(senders.announced(1, at(1, 3, began)), 0, "not known");
        assert_eq!(senders.announced(1, at(1, 5, began)), 2);
        assert_eq!(senders.announced(1, at(1, 5, began)), 0);
        let found = senders.arrived(1, at(1, 6, began));
        assert_eq!(found, Arrival::After { missed: 0 });
    }

    #[test]
    fn a_sender_that_began_when_the_group_was_here_is_missed_from_its_first_event() {
        let senders = SenderSequences::new();
        let began = senders.created + 2 * TRANSIT_MAX;
        let found = senders.arrived(1, at(1, 4, began));
        assert_eq!(found, Arrival::After { missed: 3 });
        let found = senders.arrived(1, at(2, 3, began));
        assert_eq!(found, Arrival::After { missed: 2 }, "another sequence");
    }

    #[test]
    fn the_sender_that_was_silent_for_longest_is_forgotten() {
        let senders = SenderSequences::new();
        let began = Instant::now();
        for node in 0..=SENDERS_MAX as u64 {
            senders.arrived(node, at(1, 1, began));
            senders.arrived(1, at(1, 1, began));
        }
        let missed = |node| senders.arrived(node, at(1, 3, began));
        assert_eq!(missed(0), Arrival::After { missed: 0 }, "forgotten");
        assert_eq!(missed(1), Arrival::After { missed: 1 });
        assert!(senders.senders.lock().len() <= SENDERS_MAX);
    }
}
