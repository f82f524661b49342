//! Queue: the events of one connection that the backend has not acknowledged, in order.

use std::collections::VecDeque;

use serde_json::value::RawValue;

/// Where an event comes from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Origin {
    /// The client, or a group.
    Socket,
    /// A response of the backend itself: `group.refused`.
    Response,
}

struct QueuedEvent {
    seq: u64,
    origin: Origin,
    event: Box<RawValue>,
}

#[derive(Default)]
pub(super) struct EventQueue {
    events: VecDeque<QueuedEvent>,
    bytes: usize,
    /// The length of the events that come from responses.
    bytes_of_responses: usize,
}

/// What left the queue.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Released {
    pub(super) events: usize,
    pub(super) bytes: usize,
    /// How many of the events came from responses.
    pub(super) of_responses: usize,
}

impl EventQueue {
    /// Returns the length of all events.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns the length of the events that come from responses.
    pub(super) fn bytes_of_responses(&self) -> usize {
        self.bytes_of_responses
    }

    /// Returns the number of the first event.
    pub(super) fn first(&self) -> Option<u64> {
        self.events.front().map(|queued| queued.seq)
    }

    /// Adds an event whose number is the highest.
    pub(super) fn push(&mut self, seq: u64, origin: Origin, event: Box<RawValue>) {
        self.bytes += event.get().len();
        if origin == Origin::Response {
            self.bytes_of_responses += event.get().len();
        }
        self.events.push_back(QueuedEvent { seq, origin, event });
    }

    /// Returns the numbers of the first and the last event of the next request.
    pub(super) fn batch(&self, events_max: usize, bytes_max: usize) -> Option<(u64, u64)> {
        let first = self.first()?;
        let (mut bytes, mut last) = (0, first);
        for queued in self.events.iter().take(events_max) {
            bytes += queued.event.get().len();
            if queued.seq > first && bytes > bytes_max {
                break;
            }
            last = queued.seq;
        }
        Some((first, last))
    }

    /// Returns the events up to a number.
    pub(super) fn up_to(&self, last: u64) -> impl Iterator<Item = &RawValue> {
        let queued = self.events.iter();
        queued
            .take_while(move |queued| queued.seq <= last)
            .map(|queued| &*queued.event)
    }

    /// Removes the events up to a number.
    pub(super) fn release(&mut self, last: u64) -> Released {
        let mut released = Released::default();
        while self.first().is_some_and(|first| first <= last)
            && let Some(queued) = self.events.pop_front()
        {
            let length = queued.event.get().len();
            released.events += 1;
            released.bytes += length;
            if queued.origin == Origin::Response {
                released.of_responses += 1;
                self.bytes_of_responses -= length;
            }
        }
        self.bytes -= released.bytes;
        released
    }
}
