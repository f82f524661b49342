//! Timestamp: wall-clock time, written in RFC 3339's format in UTC with milliseconds.

use std::fmt;
use std::time::SystemTime;

use serde::{Serialize, Serializer};

/// A point in wall-clock time, written as `2026-11-23T10:00:00.123Z`.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Timestamp(SystemTime);

impl Timestamp {
    /// Returns the current time.
    #[must_use]
    pub fn now() -> Self {
        Self(SystemTime::now())
    }

    /// Returns the time `elapsed` ago.
    #[must_use]
    pub fn ago(elapsed: std::time::Duration) -> Self {
        let now = SystemTime::now();
        Self(now.checked_sub(elapsed).unwrap_or(now))
    }
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        Self(time)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_rfc3339_millis(self.0.max(SystemTime::UNIX_EPOCH)).fmt(f)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
