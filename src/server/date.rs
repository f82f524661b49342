//! Date: the value of the `Date` field (RFC 9110 §6.6.1).

use std::cell::RefCell;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::HeaderValue;

/// The last value and its second. hyper's own cache waits for the next second, so a clock that is set back leaves it wrong.
struct Cached {
    second: u64,
    value: HeaderValue,
}

thread_local! {
    static CACHED: RefCell<Cached> = const {
        RefCell::new(Cached { second: u64::MAX, value: HeaderValue::from_static("") })
    };
}

/// Returns the value for an instant, made at most once a second on each thread.
pub(super) fn date(now: SystemTime) -> HeaderValue {
    let second = now
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO)
        .as_secs();
    CACHED.with_borrow_mut(|cached| {
        if cached.second != second {
            let text = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(second));
            if let Ok(value) = HeaderValue::from_str(&text) {
                *cached = Cached { second, value };
            }
        }
        cached.value.clone()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_date_follows_the_clock_back_too() {
        let at = |second| UNIX_EPOCH + Duration::from_secs(second);
        assert_eq!(date(at(784_111_777)), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(date(at(784_111_778)), "Sun, 06 Nov 1994 08:49:38 GMT");
        assert_eq!(date(at(784_108_177)), "Sun, 06 Nov 1994 07:49:37 GMT");
        assert_eq!(
            date(UNIX_EPOCH - Duration::from_secs(5)),
            "Thu, 01 Jan 1970 00:00:00 GMT"
        );
    }
}
