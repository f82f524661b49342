//! Delivery: the outcome of an event at the members of this process.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::sync::Notify;

/// The outcome of a batch at one member.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Delivery {
    /// All of it is written or waits in the member's queue.
    Queued,
    /// Some or all of it was dropped.
    Dropped,
}

/// Counts the outcomes of one event at the members of this process.
#[derive(Debug, Default)]
pub(super) struct DeliveryTally {
    queued: AtomicUsize,
    dropped: AtomicUsize,
    is_finished: AtomicBool,
    finished: Notify,
}

impl DeliveryTally {
    pub(super) fn count(&self, delivery: Delivery) {
        match delivery {
            Delivery::Queued => self.queued.fetch_add(1, Ordering::Relaxed),
            Delivery::Dropped => self.dropped.fetch_add(1, Ordering::Relaxed),
        };
    }

    /// Marks that all members have been served.
    pub(super) fn finish(&self) {
        self.is_finished.store(true, Ordering::Release);
        self.finished.notify_waiters();
    }

    /// Waits until all members have been served; returns how many queued the event, and how many
    /// dropped it.
    pub(super) async fn finished(&self) -> (usize, usize) {
        loop {
            // Registered before the flag is read: `finish` in between wakes it.
            let finished = self.finished.notified();
            if self.is_finished.load(Ordering::Acquire) {
                return (
                    self.queued.load(Ordering::Relaxed),
                    self.dropped.load(Ordering::Relaxed),
                );
            }
            finished.await;
        }
    }
}
