//! Mailbox: a bounded queue of events for one reader.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};

use super::batch::Entry;
use super::{Batch, Delivery, Event, GroupName, Marks, Membership, Position, Seen, Subscriber};
use crate::telemetry;

/// The most bytes of events in one mailbox.
pub(super) const BYTES_MAX: usize = 1 << 20;

/// An event read from a mailbox.
#[derive(Clone, Debug)]
pub struct Received {
    /// Its position in its group's history; the default if it was sent to a channel.
    pub position: Position,
    pub(super) marks: Option<Arc<Marks>>,
    /// The group that it was sent to; `None` if it was sent to a channel.
    pub group: Option<GroupName>,
    /// The event.
    pub event: Event,
}

impl Received {
    /// Returns what a client has seen that has read the event and everything before it.
    #[must_use]
    pub fn seen(&self) -> Seen {
        Seen {
            position: self.position,
            marks: self.marks.as_deref().copied().unwrap_or_default(),
        }
    }
}

/// A queue of events for one reader, bounded in number and in bytes.
///
/// Writers never wait. An event that does not fit is dropped (the newest, as in Channels) and
/// counted in `oneport_events_dropped_total{reason="mailbox_full"}`. An event that has waited
/// longer than the layer's `expiry` is dropped when its turn to be read comes, and counted as
/// `expired`.
#[derive(Debug)]
pub struct Mailbox {
    events_max: usize,
    bytes_max: usize,
    expiry: Duration,
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    events: VecDeque<(Instant, Received)>,
    bytes: usize,
    has_dropped: bool,
    reader: Option<Waker>,
}

impl Mailbox {
    /// Creates a mailbox for at most `events_max` events and `bytes_max` bytes, none of them older
    /// than `expiry`.
    #[must_use]
    pub fn new(events_max: usize, bytes_max: usize, expiry: Duration) -> Self {
        Self {
            events_max,
            bytes_max,
            expiry,
            queue: Mutex::default(),
        }
    }

    /// Adds an event.
    pub fn push(&self, received: Received) -> Delivery {
        let size = received.event.size();
        let mut queue = self.queue();
        if queue.events.len() >= self.events_max || queue.bytes + size > self.bytes_max {
            queue.has_dropped = true;
            drop(queue);
            telemetry::event_dropped("mailbox_full");
            return Delivery::Dropped;
        }
        self.put(queue, received);
        Delivery::Queued
    }

    fn put(&self, mut queue: MutexGuard<'_, Queue>, received: Received) {
        queue.bytes += received.event.size();
        queue.events.push_back((Instant::now(), received));
        let reader = queue.reader.take();
        drop(queue);
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    /// Takes the next event, or registers the waker.
    pub fn poll_receive(&self, cx: &mut Context<'_>) -> Poll<Received> {
        let mut queue = self.queue();
        while let Some((at, received)) = queue.events.pop_front() {
            queue.bytes -= received.event.size();
            if at.elapsed() <= self.expiry {
                return Poll::Ready(received);
            }
            queue.has_dropped = true;
            telemetry::event_dropped("expired");
        }
        if !queue
            .reader
            .as_ref()
            .is_some_and(|reader| reader.will_wake(cx.waker()))
        {
            queue.reader = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Returns whether an event was dropped since the last call.
    pub fn take_dropped(&self) -> bool {
        std::mem::take(&mut self.queue().has_dropped)
    }

    /// Waits for the next event. Cancel-safe: an event is taken only when this returns.
    pub async fn receive(&self) -> Received {
        poll_fn(|cx| self.poll_receive(cx)).await
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock()
    }
}

impl Subscriber for Mailbox {
    fn deliver(&self, batch: &Batch, membership: &Membership) -> Delivery {
        let mut delivery = Delivery::Queued;
        for entry in batch.entries(membership) {
            if self.push(received(batch, entry)) == Delivery::Dropped {
                delivery = Delivery::Dropped;
            }
        }
        delivery
    }

    /// Takes a whole history: it is bounded by what the group keeps, and the reader has had no
    /// chance to read any of it.
    fn deliver_history(&self, batch: &Batch, membership: &Membership) {
        for entry in batch.entries(membership) {
            self.put(self.queue(), received(batch, entry));
        }
    }
}

fn received(batch: &Batch, entry: &Entry) -> Received {
    Received {
        position: entry.position,
        marks: entry.marks.clone(),
        group: Some(batch.group().clone()),
        event: entry.event.clone(),
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn push(mailbox: &Mailbox, text: &str) -> Delivery {
        mailbox.push(Received {
            position: Position::default(),
            marks: None,
            group: None,
            event: Event::text(text),
        })
    }

    #[test]
    fn newest_is_dropped_at_either_bound() {
        let mailbox = Mailbox::new(2, 5, Duration::from_secs(60));
        assert_eq!(push(&mailbox, "abc"), Delivery::Queued);
        assert_eq!(push(&mailbox, "abc"), Delivery::Dropped);
        assert_eq!(push(&mailbox, "a"), Delivery::Queued);
        assert_eq!(push(&mailbox, "a"), Delivery::Dropped);
        assert_eq!(
            mailbox
                .receive()
                .now_or_never()
                .map(|received| received.event.size()),
            Some(3)
        );
        assert_eq!(push(&mailbox, "abcd"), Delivery::Queued);
    }

    #[test]
    fn event_older_than_the_expiry_is_never_read() {
        let mailbox = Mailbox::new(2, 5, Duration::ZERO);
        push(&mailbox, "a");
        let later = Instant::now();
        while later.elapsed().is_zero() {}
        assert!(mailbox.receive().now_or_never().is_none());
    }
}
