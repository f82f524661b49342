//! Time zone: the zone of the local times that a Django project stores in columns without one.

use std::time::SystemTime;

use jiff::civil::DateTime;
use jiff::{Timestamp, tz};
use serde::Deserialize;

use crate::config::problems::suggest::nearest;

/// A time zone by its IANA name; the empty one is UTC.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(try_from = "String")]
pub struct TimeZone {
    name: String,
    zone: tz::TimeZone,
}

impl Default for TimeZone {
    fn default() -> Self {
        Self {
            name: String::new(),
            zone: tz::TimeZone::UTC,
        }
    }
}

impl TryFrom<String> for TimeZone {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        if name.is_empty() {
            return Ok(Self::default());
        }
        match tz::TimeZone::get(&name) {
            Ok(zone) => Ok(Self { name, zone }),
            Err(_) => {
                let mut known: Vec<_> = tz::db().available().map(|it| it.to_string()).collect();
                known.sort_unstable();
                let hint = nearest(&name, known.iter().map(String::as_str))
                    .map_or(String::new(), |meant| format!("; did you mean {meant:?}?"));
                Err(format!(
                    "expected the IANA name of a time zone such as \"Asia/Tokyo\", found {name:?}{hint}"
                ))
            }
        }
    }
}

impl TimeZone {
    /// Returns the name as written; empty for UTC.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the local time at an instant as a database stores it: `2026-11-30 18:00:00.000000`.
    /// When clocks are set back, a local time occurs twice, as it does for Django.
    #[must_use]
    pub fn shown(&self, at: SystemTime) -> String {
        let at = Timestamp::try_from(at).unwrap_or(Timestamp::MAX);
        let local = self.zone.to_datetime(at);
        local.strftime("%Y-%m-%d %H:%M:%S.%6f").to_string()
    }

    /// Returns the zone's offset from UTC in seconds at an instant, given in seconds.
    #[must_use]
    pub fn offset(&self, unix_seconds: i64) -> i64 {
        let at = Timestamp::from_second(unix_seconds).unwrap_or(Timestamp::MAX);
        self.zone.to_offset(at).seconds().into()
    }
}

/// Parses a local time such as `2026-11-30 18:00:00.5`; returns the seconds it would be in UTC.
pub(crate) fn clock_seconds(text: &str) -> Option<i64> {
    let shown: DateTime = text.parse().ok()?;
    let at = tz::TimeZone::UTC.to_timestamp(shown).ok()?;
    Some(at.as_second())
}

/// Formats an offset: `+09:00`.
pub(crate) fn shown_offset(seconds: i64) -> String {
    let sign = if seconds < 0 { '-' } else { '+' };
    let minutes = seconds.abs() / 60;
    format!("{sign}{:02}:{:02}", minutes / 60, minutes % 60)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn zone(name: &str) -> TimeZone {
        TimeZone::try_from(name.to_owned()).unwrap()
    }

    #[test]
    fn a_clock_shows_local_time_also_where_clocks_are_set() {
        let check = |name: &str, at: &str, expected: &str| {
            let at: Timestamp = at.parse().unwrap();
            let at = SystemTime::UNIX_EPOCH + Duration::from_micros(at.as_microsecond() as u64);
            assert_eq!(zone(name).shown(at), expected, "{name} {at:?}");
        };
        check(
            "",
            "2026-11-30T01:02:03.000004Z",
            "2026-11-30 01:02:03.000004",
        );
        check(
            "Asia/Tokyo",
            "2026-11-30T20:00:00Z",
            "2026-12-01 05:00:00.000000",
        );
        // Clocks in Los Angeles go from 01:59:59 to 03:00:00, and back from 01:59:59 to 01:00:00.
        let city = "America/Los_Angeles";
        check(city, "2026-03-08T09:59:59Z", "2026-03-08 01:59:59.000000");
        check(city, "2026-03-08T10:00:00Z", "2026-03-08 03:00:00.000000");
        check(city, "2026-11-01T08:30:00Z", "2026-11-01 01:30:00.000000");
        check(city, "2026-11-01T09:30:00Z", "2026-11-01 01:30:00.000000");
        check(
            "Asia/Kathmandu",
            "2026-01-01T00:00:00Z",
            "2026-01-01 05:45:00.000000",
        );
        assert_eq!(zone(city).offset(1_767_225_600), -8 * 3600);
        assert_eq!(zone("").offset(0), 0);
    }

    #[test]
    fn what_a_clock_shows_is_read() {
        let check = |text: &str, expected: Option<i64>| {
            assert_eq!(clock_seconds(text), expected, "{text}");
        };
        check("1970-01-01 00:01:00", Some(60));
        check("1970-01-01 00:01:00.999999", Some(60));
        check("2026-01-01 00:00:00.5", Some(1_767_225_600));
        check("tomorrow", None);
        check("", None);
    }

    #[test]
    fn an_unknown_zone_is_refused_with_the_nearest() {
        let said = |name: &str| TimeZone::try_from(name.to_owned()).unwrap_err();
        assert!(said("Asia/Tokio").ends_with("; did you mean \"Asia/Tokyo\"?"));
        assert!(
            said("Tokyo").ends_with("found \"Tokyo\""),
            "{}",
            said("Tokyo")
        );
    }

    #[test]
    fn offsets_are_shown_with_their_sign() {
        for (seconds, expected) in [
            (0, "+00:00"),
            (32_400, "+09:00"),
            (-28_800, "-08:00"),
            (-12_600, "-03:30"),
        ] {
            assert_eq!(shown_offset(seconds), expected);
        }
    }
}
