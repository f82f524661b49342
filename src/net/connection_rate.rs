//! ConnectionRate: how many connections are accepted in a time.
//!
//! ```text
//! kernel's queue ──> Admission::ready: waits for the rate ──> accept ──> count ─────────────> ready
//!                                         refused by a limit of its client └──> not counted ──> ready
//! ```
//!
//! While accepting pauses, new connections wait in the kernel's queue and none is refused for the
//! rate. When the queue is full as well, the kernel ignores a client's SYN, and the client sends it
//! again.
//!
//! A connection whose client a proxy names later is counted first, and given back if that client is
//! over a limit of its own.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use crate::rate_limiter::{Bucket, Quota};

/// The longest wait before the rate is looked at again.
const WAIT_MAX: Duration = Duration::from_millis(100);

/// Bounds how many connections all listeners together accept in a time.
pub(super) struct ConnectionRate {
    quota: Quota,
    bucket: Mutex<Bucket>,
    given_back: Notify,
}

impl ConnectionRate {
    pub(super) fn new(quota: Quota) -> Self {
        Self {
            quota,
            bucket: Mutex::default(),
            given_back: Notify::new(),
        }
    }

    pub(super) fn quota(&self) -> Quota {
        self.quota
    }

    /// Returns how long to wait before another connection is accepted; `None`: not at all. Several
    /// listeners may each accept one then; all of them wait for it afterwards.
    pub(super) fn wait(&self) -> Option<Duration> {
        let wait = self.wait_at(Instant::now());
        (!wait.is_zero()).then(|| wait.min(WAIT_MAX))
    }

    /// Counts a connection.
    pub(super) fn count(&self) {
        let _ = self.bucket.lock().owe(1, self.quota, Instant::now());
    }

    /// Takes back a connection that was counted a moment ago.
    pub(super) fn give_back(&self) {
        self.bucket.lock().give_back(1, self.quota);
        self.given_back.notify_waiters();
    }

    /// Completes when a connection is taken back after this call.
    pub(super) fn given_back(&self) -> Notified<'_> {
        self.given_back.notified()
    }

    fn wait_at(&self, now: Instant) -> Duration {
        self.bucket.lock().wait(self.quota, now)
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use super::*;

    #[test]
    fn accepting_pauses_for_the_rate() {
        let number = |number| NonZeroU64::new(number).unwrap();
        let per = Duration::from_secs(3_600);
        let rate = ConnectionRate::new(Quota::new(number(3_600), per, number(3)));
        for _ in 0..3 {
            assert_eq!(rate.wait(), None);
            rate.count();
        }
        assert_eq!(rate.wait(), Some(WAIT_MAX));
        assert!(rate.wait_at(Instant::now()) <= Duration::from_secs(1));
        // One that is taken back makes room for another.
        rate.give_back();
        assert_eq!(rate.wait(), None);
        rate.count();
        // One more that another listener accepts is waited for as well.
        rate.count();
        assert!(rate.wait_at(Instant::now()) > Duration::from_secs(1));
    }
}
