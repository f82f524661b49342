//! Log throttle: logs a line that may recur many times a second only once per interval.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// The usual interval.
pub(crate) const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Counts how often a line recurs, and decides when to log it.
///
/// Use it for each line that a client can cause at will, such as a connection over a limit;
/// otherwise a client could fill the log.
#[derive(Debug)]
pub(crate) struct LogThrottle {
    interval: Duration,
    times: AtomicU64,
    logged_at: Mutex<Option<Instant>>,
}

impl LogThrottle {
    /// Creates a throttle that logs once per [`LOG_INTERVAL`].
    pub(crate) const fn new() -> Self {
        Self::every(LOG_INTERVAL)
    }

    pub(crate) const fn every(interval: Duration) -> Self {
        Self {
            interval,
            times: AtomicU64::new(0),
            logged_at: Mutex::new(None),
        }
    }

    /// Counts one occurrence. If a line is due, returns the number of occurrences since the last
    /// line, including this one.
    pub(crate) fn count(&self) -> Option<u64> {
        self.count_at(Instant::now())
    }

    fn count_at(&self, now: Instant) -> Option<u64> {
        self.times.fetch_add(1, Ordering::Relaxed);
        let mut logged_at = self.logged_at.lock();
        if logged_at.is_some_and(|at| now.saturating_duration_since(at) < self.interval) {
            return None;
        }
        *logged_at = Some(now);
        Some(self.times.swap(0, Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_due_once_per_interval() {
        let minute = Duration::from_secs(60);
        for (throttle, interval) in [
            (LogThrottle::new(), LOG_INTERVAL),
            (LogThrottle::every(minute), minute),
        ] {
            let start = Instant::now();
            assert_eq!(throttle.count_at(start), Some(1));
            for milliseconds in 1..10 {
                let at = start + interval - Duration::from_millis(milliseconds);
                assert_eq!(throttle.count_at(at), None);
            }
            assert_eq!(throttle.count_at(start + interval), Some(10));
            assert_eq!(throttle.count_at(start), None);
        }
    }
}
