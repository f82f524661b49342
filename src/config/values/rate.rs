//! Rates: how much of something in a time, as written: `"10/s"`, `"64 KiB/s"`.

use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{Deserialize, Deserializer, Error, Visitor};

use crate::config::values::checked::checked;
use crate::config::values::units::{Size, UnitError, number, split_number};
use crate::rate_limiter::Quota;

/// A number in a second, a minute, an hour or a day: `"10/s"`, `"600/m"`, `"1000/h"`, `"5000/d"`.
///
/// ```
/// use oneport::config::Rate;
/// let rate: Rate = "600/m".parse()?;
/// assert_eq!((rate.count.get(), rate.per().as_secs()), (600, 60));
/// assert_eq!(rate.to_string(), "600/m");
/// # Ok::<(), oneport::config::UnitError>(())
/// ```
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Rate {
    /// The number.
    pub count: NonZeroU64,
    unit: RateUnit,
}

/// A size in a second, a minute, an hour or a day: `"64 KiB/s"`.
///
/// ```
/// use oneport::config::ByteRate;
/// let rate: ByteRate = "64 KiB/s".parse()?;
/// assert_eq!(rate.bytes.get(), 65_536);
/// assert_eq!(rate.to_string(), "64 KiB/s");
/// # Ok::<(), oneport::config::UnitError>(())
/// ```
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct ByteRate {
    /// The number of bytes.
    pub bytes: NonZeroU64,
    unit: RateUnit,
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
enum RateUnit {
    Second,
    Minute,
    Hour,
    Day,
}

impl Rate {
    /// Returns the time in which `count` are allowed.
    #[must_use]
    pub fn per(self) -> Duration {
        self.unit.duration()
    }

    /// Returns how many are allowed in a second, on average.
    #[must_use]
    pub fn per_second(self) -> f64 {
        self.count.get() as f64 / self.per().as_secs_f64()
    }

    /// Returns the quota of this rate. Without a burst, as many may come at once as the rate names.
    pub(crate) fn quota(self, burst: Option<NonZeroU64>) -> Quota {
        Quota::new(self.count, self.per(), burst.unwrap_or(self.count))
    }

    /// Returns the quota of this rate with a burst of a tenth of a second, at least 1.
    pub(crate) fn smooth_quota(self) -> Quota {
        let tenths = self.unit.duration().as_secs() * 10;
        let burst = NonZeroU64::new(self.count.get() / tenths);
        self.quota(burst.or(Some(NonZeroU64::MIN)))
    }
}

impl ByteRate {
    /// Returns the quota of this rate. As much may come at once as the rate names, at least
    /// `burst_min` bytes.
    pub(crate) fn quota(self, burst_min: u64) -> Quota {
        let burst = NonZeroU64::new(burst_min).map_or(self.bytes, |min| min.max(self.bytes));
        Quota::new(self.bytes, self.unit.duration(), burst)
    }
}

impl RateUnit {
    fn duration(self) -> Duration {
        Duration::from_secs(match self {
            Self::Second => 1,
            Self::Minute => 60,
            Self::Hour => 3_600,
            Self::Day => 86_400,
        })
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Second => "s",
            Self::Minute => "m",
            Self::Hour => "h",
            Self::Day => "d",
        }
    }

    /// Parses a unit, or returns why it is none.
    fn parse(text: &str) -> Result<Self, &'static str> {
        match text {
            "s" => Ok(Self::Second),
            "m" => Ok(Self::Minute),
            "h" => Ok(Self::Hour),
            "d" => Ok(Self::Day),
            _ => Err("; the units of time are s, m, h and d"),
        }
    }
}

impl FromStr for Rate {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let refuse = |why: &str| {
            UnitError(format!(
                "expected a rate such as \"10/s\", found {text:?}{why}"
            ))
        };
        let Some((count, unit)) = text.split_once('/') else {
            return Err(refuse(", which has no unit of time: /s, /m, /h or /d"));
        };
        let unit = RateUnit::parse(unit.trim()).map_err(refuse)?;
        let (digits, rest) = split_number(count.trim());
        if digits.is_empty() || !rest.is_empty() {
            return Err(refuse("; the part before the / is a whole number"));
        }
        match number(digits).map(NonZeroU64::new) {
            Some(Some(count)) => Ok(Self { count, unit }),
            Some(None) => Err(refuse(
                "; the lowest is 1 in a unit of time, such as \"1/h\"",
            )),
            None => Err(refuse(", which is more than 64 bits can count")),
        }
    }
}

impl FromStr for ByteRate {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let refuse = |why: &str| {
            UnitError(format!(
                "expected bytes in a time such as \"64 KiB/s\", found {text:?}{why}"
            ))
        };
        let Some((size, unit)) = text.split_once('/') else {
            return Err(refuse(", which has no unit of time: /s, /m, /h or /d"));
        };
        let unit = RateUnit::parse(unit.trim()).map_err(refuse)?;
        let size: Size = size.parse()?;
        let bytes = NonZeroU64::new(size.bytes()).ok_or_else(|| refuse("; the lowest is 1 B"))?;
        Ok(Self { bytes, unit })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.count, self.unit.as_str())
    }
}

impl fmt::Display for ByteRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Size(self.bytes.get()), self.unit.as_str())
    }
}

/// Reads a rate from a string; a number has no unit.
macro_rules! read_rate {
    ($Rate:ident, $expected:literal) => {
        impl<'de> Deserialize<'de> for $Rate {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Written;
                impl Visitor<'_> for Written {
                    type Value = $Rate;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expected)
                    }

                    fn visit_str<E: Error>(self, text: &str) -> Result<$Rate, E> {
                        text.parse().map_err(E::custom)
                    }

                    fn visit_i64<E: Error>(self, number: i64) -> Result<$Rate, E> {
                        Err(E::custom(format_args!(
                            "expected {}, found integer {number}, which has no unit of time: /s, /m, /h or /d",
                            $expected
                        )))
                    }
                }
                deserializer.deserialize_str(Written)
            }
        }
    };
}

read_rate!(Rate, "a rate such as \"10/s\"");
read_rate!(ByteRate, "bytes in a time such as \"64 KiB/s\"");

checked! {
    /// A rate, or nothing.
    OptionalRate(Option<Rate>) from String as "String", |text| match text.as_str() {
        "" => Ok(None),
        text => text.parse().map(Some).map_err(|error: UnitError| error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_and_shown() {
        for (text, count, seconds) in [
            ("10/s", 10, 1),
            ("600/m", 600, 60),
            ("1000/h", 1_000, 3_600),
            ("1/d", 1, 86_400),
        ] {
            let rate: Rate = text.parse().unwrap();
            assert_eq!((rate.count.get(), rate.per().as_secs()), (count, seconds));
            assert_eq!(rate.to_string(), text);
        }
        assert_eq!("1_000 / s".parse::<Rate>().unwrap().to_string(), "1000/s");
        let bytes: ByteRate = "65536 B/m".parse().unwrap();
        assert_eq!(bytes.to_string(), "64 KiB/m");
    }

    #[test]
    fn wrong_rates_say_what_is_missing() {
        let check = |text: &str, part: &str| {
            let error = text.parse::<Rate>().unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        };
        check("10", "no unit of time");
        check("", "no unit of time");
        check("/s", "whole number");
        check("1.5/s", "whole number");
        check("-1/s", "whole number");
        check("10/sec", "units of time are");
        check("10/", "units of time are");
        check("0/s", "the lowest is 1");
        check("99999999999999999999/s", "64 bits");
        let check = |text: &str, part: &str| {
            let error = text.parse::<ByteRate>().unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        };
        check("64 KiB", "no unit of time");
        check("64/s", "no unit: B, KiB");
        check("64 KiB/x", "units of time are");
        check("0 B/s", "the lowest is 1 B");
    }
}
