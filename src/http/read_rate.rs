//! Read rate: how fast a client sends the body of its request.

use std::sync::{Arc, Weak};
use std::task::Context;

use futures_util::task::AtomicWaker;

use crate::clock::{Clock, Millis, Tick, TimerKey};

/// How long a body may be waited for before its rate counts, in milliseconds.
const GRACE: Millis = 5_000;

/// Returns how long may be waited for a client that has sent or taken so many bytes, in milliseconds; `rate` is in bytes a
/// second, 0 for no bound.
pub(crate) fn allowed_wait(bytes: u64, rate: u64) -> Millis {
    bytes
        .saturating_mul(1_000)
        .checked_div(rate)
        .unwrap_or(Millis::MAX)
}

/// Measures one body. Only the time counts in which a reader waits for the client, so a view that takes its time costs the client
/// nothing.
#[derive(Debug)]
pub(crate) struct ReadRate {
    clock: Clock,
    rate: u64,
    received: u64,
    waited: Millis,
    waiting_since: Option<Millis>,
    call: Option<TimerKey>,
    reader: Arc<ReaderWaker>,
}

/// Who is woken when a body has become too slow.
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
            waited: 0,
            waiting_since: None,
            call: None,
            reader: Arc::default(),
        }
    }

    /// A piece of the body came.
    pub(crate) fn received(&mut self, bytes: usize) {
        self.received = self.received.saturating_add(bytes as u64);
        if let Some(since) = self.waiting_since.take() {
            self.waited += self.clock.now().saturating_sub(since);
        }
    }

    /// Nothing has come yet. Returns whether the client is too slow; if not, the reader is woken when it has become so.
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
        // A call that comes too early asks again.
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
