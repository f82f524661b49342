//! Date: corrects hyper's `Date` field (RFC 9110 §6.6.1) after the clock was set back.

use std::cell::Cell;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::HeaderValue;

use crate::clock::{Millis, NEVER};

thread_local! {
    /// The latest second in which this thread created a response.
    static LATEST: Cell<u64> = const { Cell::new(0) };
    /// The clock's tick in which this thread last looked at the time.
    static CHECKED: Cell<Millis> = const { Cell::new(NEVER) };
}

/// Returns the value for a response created at `now` if hyper would send a different one. Looks at
/// the time once in a `tick` of the clock.
///
/// hyper caches a value per thread until its second is over. If the clock is set back, it would
/// send that value until the clock has caught up.
pub(super) fn correction(tick: Millis, now: impl FnOnce() -> SystemTime) -> Option<HeaderValue> {
    if CHECKED.get() == tick {
        return None;
    }
    let second = now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO)
        .as_secs();
    if second >= LATEST.get() {
        LATEST.set(second);
        CHECKED.set(tick);
        return None;
    }
    // Until the clock has caught up, every response needs the value.
    let text = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(second));
    HeaderValue::from_str(&text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_date_follows_the_clock_back_too() {
        let at = |second| move || UNIX_EPOCH + Duration::from_secs(second);
        assert_eq!(correction(100, at(784_111_777)), None);
        assert_eq!(correction(200, at(784_111_778)), None);
        let back = correction(300, at(784_108_177)).unwrap();
        assert_eq!(back, "Sun, 06 Nov 1994 07:49:37 GMT");
        let back = correction(300, at(784_108_178)).unwrap();
        assert_eq!(back, "Sun, 06 Nov 1994 07:49:38 GMT");
        let before = correction(300, || UNIX_EPOCH - Duration::from_secs(5)).unwrap();
        assert_eq!(before, "Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(correction(400, at(784_111_779)), None);
    }
}
