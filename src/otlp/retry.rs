//! Retry: when a batch is sent again, as the OTLP specification says.

use std::time::{Duration, SystemTime};

use http::HeaderMap;
use http::header::RETRY_AFTER;
use tokio::time::Instant;

/// The first pause, which doubles with each attempt.
const PAUSE_MIN: Duration = Duration::from_secs(1);

/// The longest pause, unless the collector asks for a longer one.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// The attempts of one batch.
#[derive(Debug)]
pub(super) struct Retry {
    ends_at: Instant,
    attempts: u32,
}

impl Retry {
    /// Creates those of a batch that is sent until then.
    pub(super) fn new(ends_at: Instant) -> Self {
        Self {
            ends_at,
            attempts: 0,
        }
    }

    /// Returns how long to wait before the next attempt; `None` if there is none. `asked`: how long
    /// the collector asks to wait.
    pub(super) fn pause(&mut self, asked: Option<Duration>) -> Option<Duration> {
        let doubled = PAUSE_MIN.saturating_mul(2_u32.saturating_pow(self.attempts));
        self.attempts += 1;
        // Spread, so that processes do not try in step.
        let own = doubled.min(PAUSE_MAX).mul_f64(0.5 + fastrand::f64() / 2.0);
        let pause = asked.map_or(own, |asked| asked.max(own));
        let left = self.ends_at.saturating_duration_since(Instant::now());
        (pause < left).then_some(pause)
    }
}

/// Parses `Retry-After`: seconds or a date.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?;
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = httpdate::parse_http_date(value).ok()?;
    at.duration_since(SystemTime::now()).ok()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_until_the_batch_is_given_up() {
        let mut retry = Retry::new(Instant::now() + Duration::from_secs(60));
        let mut waited = Vec::new();
        while let Some(pause) = retry.pause(None) {
            waited.push(pause);
            tokio::time::sleep(pause).await;
        }
        assert!((5..=9).contains(&waited.len()), "{waited:?}");
        assert!(waited.iter().sum::<Duration>() < Duration::from_secs(60));
        let mut retry = Retry::new(Instant::now() + Duration::from_secs(60));
        let asked = Duration::from_secs(20);
        assert_eq!(retry.pause(Some(asked)), Some(asked));
        assert_eq!(retry.pause(Some(Duration::from_secs(61))), None);
        assert_eq!(Retry::new(Instant::now()).pause(None), None);
    }

    #[test]
    fn collector_names_seconds_or_a_date() {
        let parse = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, HeaderValue::from_str(value).unwrap());
            retry_after(&headers)
        };
        assert_eq!(parse("7"), Some(Duration::from_secs(7)));
        let date = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(90));
        assert!(parse(&date).is_some_and(|wait| wait > Duration::from_secs(60)));
        for wrong in ["", "-1", "soon", "Thu, 01 Jan 1970 00:00:00 GMT"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
