//! Schedule: when a certificate is renewed, and when an order that failed is repeated.
//!
//! Pure functions. `jitter` is a random number from 0 to 1, so that processes and servers that
//! began together do not order together.

use std::ops::Range;
use std::time::{Duration, SystemTime};

/// The first delay after a failure.
const RETRY_MIN: Duration = Duration::from_secs(60);

/// The longest delay after a failure.
const RETRY_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// The longest delay that a CA may ask for. It must not keep a certificate from being renewed.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// The longest wait after a failure, and the difference of two clocks.
pub(super) const WAIT_MAX: Duration = RETRY_AFTER_MAX.saturating_add(Duration::from_secs(60 * 60));

/// Returns when to renew a certificate: after two thirds of its lifetime, and up to a thirtieth of
/// it later.
pub(super) fn renew_at(lifetime: &Range<SystemTime>, jitter: f64) -> SystemTime {
    let total = lifetime
        .end
        .duration_since(lifetime.start)
        .unwrap_or_default();
    lifetime.start + total * 2 / 3 + (total / 30).mul_f64(jitter)
}

/// Returns when to renew a certificate whose CA suggests a window (RFC 9773 §4.2): at a random
/// instant within it, and at once if that has passed. A tenth of the lifetime is left for orders
/// that fail, whatever the CA suggests.
pub(super) fn renew_in_window(
    window: &Range<SystemTime>,
    lifetime: &Range<SystemTime>,
    jitter: f64,
) -> SystemTime {
    let length = window.end.duration_since(window.start).unwrap_or_default();
    let total = lifetime
        .end
        .duration_since(lifetime.start)
        .unwrap_or_default();
    (window.start + length.mul_f64(jitter)).min(lifetime.start + total.mul_f64(0.9))
}

/// Returns how long to wait after a failure, the `failures`-th in a row: one minute, doubled with
/// each further one up to a day, a quarter less or more. A CA that asks for more time gets it.
pub(super) fn retry_after(failures: u32, asked: Option<Duration>, jitter: f64) -> Duration {
    let doubled = RETRY_MIN.saturating_mul(1 << failures.saturating_sub(1).min(16));
    let own = doubled.min(RETRY_MAX).mul_f64(0.75 + jitter / 2.0);
    own.max(asked.unwrap_or_default().min(RETRY_AFTER_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    fn at(days: u32) -> SystemTime {
        SystemTime::UNIX_EPOCH + DAY * days
    }

    #[test]
    fn certificate_is_renewed_after_two_thirds_of_its_lifetime() {
        let lifetime = at(100)..at(190);
        assert_eq!(renew_at(&lifetime, 0.0), at(160));
        assert_eq!(renew_at(&lifetime, 1.0), at(163));
        let short = at(0)..at(0) + Duration::from_secs(30);
        assert_eq!(renew_at(&short, 0.0), at(0) + Duration::from_secs(20));
        let reversed = at(2)..at(1);
        assert_eq!(renew_at(&reversed, 1.0), at(2));
    }

    #[test]
    fn window_of_the_ca_is_spread() {
        let lifetime = at(0)..at(90);
        let window = at(10)..at(12);
        assert_eq!(renew_in_window(&window, &lifetime, 0.0), at(10));
        assert_eq!(renew_in_window(&window, &lifetime, 0.5), at(11));
        let reversed = at(2)..at(1);
        assert_eq!(renew_in_window(&reversed, &lifetime, 0.5), at(2));
        let endless = at(10)..at(1000);
        assert_eq!(renew_in_window(&endless, &lifetime, 0.0), at(10));
        assert_eq!(renew_in_window(&endless, &lifetime, 0.5), at(81));
        let beyond = at(200)..at(201);
        assert_eq!(renew_in_window(&beyond, &lifetime, 0.0), at(81));
    }

    #[test]
    fn delays_double_up_to_a_day() {
        let minutes = |failures| retry_after(failures, None, 0.5).as_secs() / 60;
        let delays: Vec<u64> = (1..=12).map(minutes).collect();
        assert_eq!(delays, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 1440]);
        assert_eq!(minutes(u32::MAX), 1440);
        assert_eq!(retry_after(1, None, 0.0), Duration::from_secs(45));
        assert_eq!(retry_after(1, None, 1.0), Duration::from_secs(75));
    }

    #[test]
    fn ca_may_ask_for_more_time_up_to_a_week() {
        let asked = |time| retry_after(1, Some(time), 0.5);
        assert_eq!(asked(Duration::from_secs(5)), Duration::from_secs(60));
        assert_eq!(asked(DAY), DAY);
        assert_eq!(asked(DAY * 365), DAY * 7);
    }
}
