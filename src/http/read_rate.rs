//! ReadRate: measures how fast a client sends the body of its request.

use std::sync::{Arc, Weak};
use std::task::Context;

use futures_util::task::AtomicWaker;
use metrics::Counter;

use crate::clock::{Clock, Millis, Tick, TimerKey};

/// The grace period before the rate counts, in milliseconds.
const GRACE: Millis = 5_000;

/// Returns the total time allowed for a client that has sent or received `bytes`, in milliseconds.
/// `rate` is in bytes per second; 0 means no bound.
pub(crate) fn allowed_wait(bytes: u64, rate: u64) -> Millis {
    bytes
        .saturating_mul(1_000)
        .checked_div(rate)
        .unwrap_or(Millis::MAX)
}

/// Measures one body. Only the time spent waiting for the client counts, so a slow view is not
/// counted against the client.
#[derive(Debug)]
pub(crate) struct ReadRate {
    clock: Clock,
    rate: u64,
    received: u64,
    /// Counts the bytes of the route's bodies.
    counter: Option<Counter>,
    waited: Millis,
    waiting_since: Option<Millis>,
    call: Option<TimerKey>,
    reader: Arc<ReaderWaker>,
}

/// Wakes the reader when the body has become too slow.
#[derive(Debug, Default)]
struct ReaderWaker(AtomicWaker);

impl Tick for ReaderWaker {
    fn tick(&self) {
        self.0.wake();
    }
}

impl ReadRate {
    pub(crate) fn new(clock: Clock, rate: u64) -> Self {
        Self {
            clock,
            rate,
            received: 0,
            counter: None,
            waited: 0,
            waiting_since: None,
            call: None,
            reader: Arc::default(),
        }
    }

    /// Counts the bytes that are received from now on.
    pub(crate) fn count_into(&mut self, counter: &Counter) {
        self.counter = Some(counter.clone());
    }

    /// Records received bytes.
    pub(crate) fn received(&mut self, bytes: usize) {
        self.received = self.received.saturating_add(bytes as u64);
        if let Some(counter) = &self.counter {
            counter.increment(bytes as u64);
        }
        if let Some(since) = self.waiting_since.take() {
            self.waited += self.clock.now().saturating_sub(since);
        }
    }

    /// Returns whether the client is too slow, after a poll without data. If not, the reader is
    /// woken once it is.
    pub(crate) fn is_too_slow(&mut self, cx: &Context<'_>) -> bool {
        let now = self.clock.now();
        let since = *self.waiting_since.get_or_insert(now);
        let left = GRACE.saturating_add(allowed_wait(self.received, self.rate));
        let left = left.saturating_sub(self.waited);
        let deadline = since.saturating_add(left);
        if now >= deadline {
            return true;
        }
        if deadline == Millis::MAX {
            return false;
        }
        self.reader.0.register(cx.waker());
        // A timer that fires too early is set again.
        if self.call.is_none_or(|call| call.at() <= now) {
            self.cancel();
            let reader: Weak<dyn Tick> = Arc::downgrade(&(self.reader.clone() as Arc<dyn Tick>));
            self.call = Some(self.clock.wake_at(deadline, reader));
        }
        false
    }

    fn cancel(&mut self) {
        if let Some(call) = self.call.take() {
            self.clock.cancel(call);
        }
    }
}

impl Drop for ReadRate {
    fn drop(&mut self) {
        self.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_earn_time() {
        for (bytes, rate, expected) in [
            (0, 240, 0),
            (240, 240, 1_000),
            (24_000, 240, 100_000),
            (1, 0, Millis::MAX),
            (u64::MAX, 1, Millis::MAX),
            (u64::MAX, 1_000, Millis::MAX / 1_000),
        ] {
            assert_eq!(allowed_wait(bytes, rate), expected, "{bytes} at {rate}");
        }
    }
}
