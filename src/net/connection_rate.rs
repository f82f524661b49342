//! ConnectionRate: how many connections are accepted in a time.
//!
//! ```text
//! kernel's queue ──> Admission::ready: waits for the rate ──> accept ──> admitted: count ──> ready
//!                                                                └────> refused ──────────> ready
//! ```
//!
//! While accepting pauses, new connections wait in the kernel's queue and none is refused. When
//! that is full as well, the kernel ignores a client's SYN, and the client sends it again.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::rate_limiter::{Bucket, Quota};

/// The longest wait before the rate is looked at again.
const WAIT_MAX: Duration = Duration::from_millis(100);

/// Bounds how many connections all listeners together accept in a time.
pub(super) struct ConnectionRate {
    quota: Quota,
    bucket: Mutex<Bucket>,
}

impl ConnectionRate {
    pub(super) fn new(quota: Quota) -> Self {
        Self {
            quota,
            bucket: Mutex::default(),
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

    /// Counts a connection that was admitted.
    pub(super) fn count(&self) {
        let _ = self.bucket.lock().owe(1, self.quota, Instant::now());
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
        // One more that another listener accepts is waited for as well.
        rate.count();
        assert!(rate.wait_at(Instant::now()) > Duration::from_secs(1));
    }
}
