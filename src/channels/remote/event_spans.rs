//! Event spans: the spans of the senders of events that are about to arrive.
//!
//! A span has a channel of its own, so that a process that does not read it, such as one of an
//! earlier version, never gets it. It is published before its event. In a cluster the two may
//! overtake each other: then the event is delivered without a span.

use std::collections::VecDeque;

use parking_lot::Mutex;

use super::wire::EventNumbers;

/// The most spans that wait; then the oldest go. Those of groups without members in this process
/// have no event to wait for.
const SPANS_MAX: usize = 1_024;

/// The spans whose events have not arrived, oldest first.
#[derive(Debug, Default)]
pub(super) struct EventSpans(Mutex<VecDeque<EventSpan>>);

#[derive(Debug)]
struct EventSpan {
    numbers: EventNumbers,
    group: Box<str>,
    span: [u8; 24],
}

impl EventSpans {
    pub(super) fn add(&self, numbers: EventNumbers, group: &str, span: [u8; 24]) {
        let mut spans = self.0.lock();
        if spans.len() >= SPANS_MAX {
            spans.pop_front();
        }
        spans.push_back(EventSpan {
            numbers,
            group: group.into(),
            span,
        });
    }

    /// Takes the span of an event.
    pub(super) fn take(&self, numbers: &EventNumbers, group: &str) -> Option<[u8; 24]> {
        let mut spans = self.0.lock();
        let is_its = |found: &EventSpan| found.numbers == *numbers && *found.group == *group;
        let index = spans.iter().rposition(is_its)?;
        spans.remove(index).map(|found| found.span)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channels::event_id::EventId;

    fn numbers(seq: u64) -> EventNumbers {
        EventNumbers {
            id: EventId { node: 1, seq },
            sequence: 0,
            number: 0,
        }
    }

    #[test]
    fn a_span_is_taken_once_by_its_event_and_the_oldest_go() {
        let spans = EventSpans::default();
        for seq in 0..=SPANS_MAX as u64 {
            spans.add(numbers(seq), "a", [1; 24]);
        }
        assert_eq!(spans.take(&numbers(0), "a"), None);
        assert_eq!(spans.take(&numbers(1), "b"), None);
        assert_eq!(spans.take(&numbers(1), "a"), Some([1; 24]));
        assert_eq!(spans.take(&numbers(1), "a"), None);
    }
}
