//! DjangoClock: decides whether a row of a Django project has expired if its column has no time
//! zone.
//!
//! Django writes such a column in the local time of `TIME_ZONE` (or in UTC), and compares it with
//! the same clock. The row does not name the zone. But the row's data is signed with the time in
//! UTC and expires `SESSION_COOKIE_AGE` later, so the difference is the offset of the clock that
//! wrote the row.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use serde_json::{Map, Value};

use crate::config::{TimeZone, clock_seconds, shown_offset};

/// The key under which a session stores its own expiry (`SessionBase.set_expiry`).
const OWN_EXPIRY: &str = "_session_expiry";

/// Offsets from UTC are multiples of `OFFSET_STEP` seconds, and at most `OFFSET_MAX` in either
/// direction.
const OFFSET_STEP: i64 = 15 * 60;
const OFFSET_MAX: i64 = 14 * 3600;

/// The maximum time in seconds between signing the data and computing the expiry.
const WRITTEN_WITHIN: i64 = 5;

/// The clock by which rows expire.
#[derive(Debug)]
pub(super) struct DjangoClock {
    zone: TimeZone,
    /// `SESSION_COOKIE_AGE`.
    max_age: Duration,
    /// Whether the log line about another zone was written.
    is_logged: AtomicBool,
}

impl DjangoClock {
    pub(super) fn new(zone: TimeZone, max_age: Duration) -> Self {
        Self {
            zone,
            max_age,
            is_logged: AtomicBool::new(false),
        }
    }

    /// Returns the current local time as text.
    pub(super) fn now(&self) -> String {
        self.zone.shown(SystemTime::now())
    }

    /// Returns whether `check` still inspects rows, which it does until it has logged a mismatch.
    pub(super) fn is_in_doubt(&self) -> bool {
        !self.is_logged.load(Ordering::Relaxed)
    }

    /// Checks whether a row was written by this clock. Logs once which offset would fit instead.
    pub(super) fn check(&self, expire_date: &str, signed_at: i64, data: &Map<String, Value>) {
        if !self.is_in_doubt() {
            return;
        }
        let Some(offset) = self.other_offset(expire_date, signed_at, data) else {
            return;
        };
        if self.is_logged.swap(true, Ordering::Relaxed) {
            return;
        }
        tracing::warn!(
            "session.django.time_zone is {:?}, an offset of {} from UTC, but the project's sessions are written with an offset of {}: \
             set it to the TIME_ZONE of the project, or sessions expire too early or too late",
            self.zone.name(),
            shown_offset(self.zone.offset(signed_at)),
            shown_offset(offset),
        );
    }

    /// Returns the offset that a row was written with, if it certainly differs from this clock's.
    fn other_offset(
        &self,
        expire_date: &str,
        signed_at: i64,
        data: &Map<String, Value>,
    ) -> Option<i64> {
        let age = match data.get(OWN_EXPIRY) {
            None | Some(Value::Null) => self.max_age.as_secs().try_into().ok()?,
            Some(own) => match own.as_i64()? {
                0 => self.max_age.as_secs().try_into().ok()?, // until the browser closes
                own => own,
            },
        };
        let left = clock_seconds(expire_date)? - signed_at - age;
        let offset = (left + OFFSET_STEP / 2).div_euclid(OFFSET_STEP) * OFFSET_STEP;
        let is_offset = (left - offset).abs() <= WRITTEN_WITHIN && offset.abs() <= OFFSET_MAX;
        // Without USE_TZ, Django adds the age to the local time of signing; with USE_TZ, to the
        // instant.
        let fits = [signed_at, signed_at + age]
            .iter()
            .any(|at| self.zone.offset(*at) == offset);
        (is_offset && !fits).then_some(offset)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// 2026-01-01T00:00:00Z.
    const SIGNED_AT: i64 = 1_767_225_600;

    fn clock(zone: &str) -> DjangoClock {
        let zone = TimeZone::try_from(zone.to_owned()).unwrap();
        DjangoClock::new(zone, Duration::from_secs(3600))
    }

    fn check(zone: &str, expire_date: &str, data: &Value, expected: Option<i64>) {
        let data = data.as_object().unwrap();
        let found = clock(zone).other_offset(expire_date, SIGNED_AT, data);
        assert_eq!(found, expected, "{zone} {expire_date} {data:?}");
    }

    #[test]
    fn the_offset_of_a_row_is_the_difference_to_the_signed_time() {
        let hour = 3600;
        // An hour after signing, by three clocks.
        for (written_in, expire_date, offset) in [
            ("", "2026-01-01 01:00:00.25", 0),
            ("Asia/Tokyo", "2026-01-01 10:00:01", 9 * hour),
            ("America/Los_Angeles", "2025-12-31 17:00:00", -8 * hour),
        ] {
            for zone in ["", "Asia/Tokyo", "America/Los_Angeles"] {
                let expected = (zone != written_in).then_some(offset);
                check(zone, expire_date, &json!({}), expected);
            }
        }
    }

    #[test]
    fn an_age_of_its_own_counts() {
        check("", "2026-01-01 00:05:00", &json!({OWN_EXPIRY: 300}), None);
        check("", "2026-01-01 01:00:00", &json!({OWN_EXPIRY: 0}), None);
        check("", "2026-01-01 01:00:00", &json!({OWN_EXPIRY: null}), None);
        let tokyo = Some(9 * 3600);
        check("", "2026-01-01 09:05:00", &json!({OWN_EXPIRY: 300}), tokyo);
        // An absolute expiry reveals no offset.
        let instant = json!({OWN_EXPIRY: "2026-01-01T09:00:00+09:00"});
        check("", "2026-01-01 09:00:00", &instant, None);
    }

    #[test]
    fn a_difference_that_is_not_an_offset_is_ignored() {
        // Another SESSION_COOKIE_AGE: ten minutes, or two weeks.
        check("", "2026-01-01 00:10:00", &json!({}), None);
        check("", "2026-01-15 00:00:00", &json!({}), None);
        check("", "someday", &json!({}), None);
    }

    #[test]
    fn an_age_over_a_change_of_clocks_fits_either_way() {
        let clock = DjangoClock::new(
            TimeZone::try_from("America/Los_Angeles".to_owned()).unwrap(),
            Duration::from_secs(14 * 24 * 3600),
        );
        // Signed on 2026-03-01 at noon in Los Angeles; clocks are set forward on the 8th.
        let signed_at = 1_772_395_200;
        for expire_date in ["2026-03-15 12:00:00", "2026-03-15 13:00:00"] {
            let found = clock.other_offset(expire_date, signed_at, &Map::new());
            assert_eq!(found, None, "{expire_date}");
        }
    }
}
