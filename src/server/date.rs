//! Date: corrects hyper's `Date` field (RFC 9110 §6.6.1) after the clock was set back.

use std::cell::Cell;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::HeaderValue;

thread_local! {
    /// The latest second in which this thread created a response.
    static LATEST: Cell<u64> = const { Cell::new(0) };
}

/// Returns the value for a response created at `now` if hyper would send a different one.
///
/// hyper caches a value per thread until its second is over. If the clock is set back, it would
/// send that value until the clock has caught up. Every response has to look at the time: hyper may
/// have put a later one into its cache with any of them.
pub(super) fn correction(now: SystemTime) -> Option<HeaderValue> {
    let second = now
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO)
        .as_secs();
    let latest = LATEST.get();
    if second >= latest {
        LATEST.set(second);
        return None;
    }
    let text = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(second));
    HeaderValue::from_str(&text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_date_follows_the_clock_back_too() {
        let at = |second| UNIX_EPOCH + Duration::from_secs(second);
        assert_eq!(correction(at(784_111_777)), None);
        assert_eq!(correction(at(784_111_778)), None);
        let back = correction(at(784_108_177)).unwrap();
        assert_eq!(back, "Sun, 06 Nov 1994 07:49:37 GMT");
        let back = correction(at(784_108_178)).unwrap();
        assert_eq!(back, "Sun, 06 Nov 1994 07:49:38 GMT");
        let before = correction(UNIX_EPOCH - Duration::from_secs(5)).unwrap();
        assert_eq!(before, "Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(correction(at(784_111_779)), None);
    }
}
