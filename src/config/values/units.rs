//! Units: durations and sizes as written, `"10s"` and `"64 KiB"`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{Deserialize, Deserializer, Error, Visitor};

const MILLIS_PER_SECOND: u64 = 1_000;
const MILLIS_PER_MINUTE: u64 = 60 * MILLIS_PER_SECOND;
const MILLIS_PER_HOUR: u64 = 60 * MILLIS_PER_MINUTE;
const MILLIS_PER_DAY: u64 = 24 * MILLIS_PER_HOUR;

/// Longer than any useful deadline, and short enough that `Instant::now() + duration` cannot
/// overflow.
const MILLIS_MAX: u64 = 36_500 * MILLIS_PER_DAY;

/// Largest first, the order in which [`WrittenDuration`] is displayed.
const DURATION_UNITS: [(&str, u64); 5] = [
    ("d", MILLIS_PER_DAY),
    ("h", MILLIS_PER_HOUR),
    ("m", MILLIS_PER_MINUTE),
    ("s", MILLIS_PER_SECOND),
    ("ms", 1),
];

/// Largest first within each family, the order in which [`Size`] is displayed.
const SIZE_UNITS: [(&str, u64); 7] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

/// A duration with its unit: `"500ms"`, `"10s"`, `"5m"`, `"2h"`, `"14d"`, or several in a row,
/// `"1m30s"`.
///
/// Displayed in the largest unit that needs no fraction.
///
/// ```
/// use oneport::config::WrittenDuration;
/// let written: WrittenDuration = "1m30s".parse()?;
/// assert_eq!(written.0.as_secs(), 90);
/// assert_eq!(written.to_string(), "90s");
/// # Ok::<(), oneport::config::UnitError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct WrittenDuration(pub Duration);

/// A number of bytes with its unit: `"512 B"`, `"64 KiB"`, `"1 MiB"`, `"1 GiB"`, or the decimal
/// `kB`, `MB`, `GB`.
///
/// The space may be left out. Displayed in the largest unit that needs no fraction.
///
/// ```
/// use oneport::config::Size;
/// let size: Size = "64KiB".parse()?;
/// assert_eq!(size, Size(65_536));
/// assert_eq!(size.to_string(), "64 KiB");
/// # Ok::<(), oneport::config::UnitError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Size(pub u64);

/// Why a text is not a duration or a size.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0}")]
pub struct UnitError(pub(super) String);

impl Size {
    /// Returns the number of bytes.
    pub fn bytes(self) -> u64 {
        self.0
    }

    /// Returns the number of bytes as a `usize`, saturating.
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }

    /// A size in KiB.
    pub const fn kib(count: u64) -> Self {
        Self(count << 10)
    }

    /// A size in MiB.
    pub const fn mib(count: u64) -> Self {
        Self(count << 20)
    }
}

impl FromStr for WrittenDuration {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let refuse = |why: &str| {
            UnitError(format!(
                "expected a duration such as \"10s\", found {text:?}{why}"
            ))
        };
        let mut rest = text.trim();
        let mut total: u64 = 0;
        if rest.is_empty() {
            return Err(refuse(""));
        }
        while !rest.is_empty() {
            let (digits, after) = split_number(rest);
            if digits.is_empty() {
                return Err(refuse(""));
            }
            let unit_end = after
                .find(|c: char| c.is_ascii_digit())
                .unwrap_or(after.len());
            let (unit, next) = after.split_at(unit_end);
            let unit = unit.trim();
            let Some((_, millis)) = DURATION_UNITS.iter().find(|(name, _)| *name == unit) else {
                return Err(refuse(match unit {
                    "" => ", which has no unit: ms, s, m, h or d",
                    _ if unit.starts_with(['.', ',']) => {
                        "; fractions are not known, use a smaller unit"
                    }
                    _ => "; the units are ms, s, m, h and d",
                }));
            };
            total = number(digits)
                .and_then(|count| count.checked_mul(*millis))
                .and_then(|millis| millis.checked_add(total))
                .filter(|millis| *millis <= MILLIS_MAX)
                .ok_or_else(|| refuse("; the longest is \"36500d\""))?;
            rest = next;
        }
        Ok(Self(Duration::from_millis(total)))
    }
}

impl FromStr for Size {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let refuse = |why: &str| {
            UnitError(format!(
                "expected a size such as \"64 KiB\", found {text:?}{why}"
            ))
        };
        let (digits, unit) = split_number(text.trim());
        if digits.is_empty() {
            return Err(refuse(""));
        }
        let unit = unit.trim();
        let Some((_, bytes)) = SIZE_UNITS.iter().find(|(name, _)| *name == unit) else {
            return Err(refuse(match unit {
                "" => ", which has no unit: B, KiB, MiB, GiB, kB, MB or GB",
                _ if unit.starts_with(['.', ',']) => {
                    "; fractions are not known, use a smaller unit"
                }
                _ => "; the units are B, KiB, MiB, GiB, kB, MB and GB",
            }));
        };
        number(digits)
            .and_then(|count| count.checked_mul(*bytes))
            .map(Self)
            .ok_or_else(|| refuse(", which is more than 64 bits can count"))
    }
}

impl fmt::Display for WrittenDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        if millis == 0 {
            return f.write_str("0s");
        }
        let fits = |unit: &&(&str, u64)| millis.is_multiple_of(u128::from(unit.1));
        let (unit, size) = DURATION_UNITS.iter().find(fits).unwrap_or(&("ms", 1));
        write!(f, "{}{unit}", millis / u128::from(*size))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = |unit: &&(&str, u64)| self.0 != 0 && self.0.is_multiple_of(unit.1);
        let (unit, bytes) = SIZE_UNITS.iter().find(fits).unwrap_or(&("B", 1));
        write!(f, "{} {unit}", self.0 / bytes)
    }
}

impl From<WrittenDuration> for Duration {
    fn from(written: WrittenDuration) -> Self {
        written.0
    }
}

impl From<WrittenDuration> for Option<Duration> {
    fn from(written: WrittenDuration) -> Self {
        Some(written.0)
    }
}

impl<'de> Deserialize<'de> for WrittenDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Written;
        impl Visitor<'_> for Written {
            type Value = WrittenDuration;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration such as \"10s\"")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<WrittenDuration, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<WrittenDuration, E> {
                Err(E::custom(format_args!(
                    "expected a duration such as \"10s\", found integer {number}, which has no unit: \
                     ms, s, m, h or d"
                )))
            }
        }
        deserializer.deserialize_str(Written)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Written;
        impl Visitor<'_> for Written {
            type Value = Size;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size such as \"64 KiB\"")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Size, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<Size, E> {
                Err(E::custom(format_args!(
                    "expected a size such as \"64 KiB\", found integer {number}, which has no unit: \
                     B, KiB, MiB, GiB, kB, MB or GB"
                )))
            }
        }
        deserializer.deserialize_str(Written)
    }
}

/// Splits the leading digits (with `_` between them, as in TOML) off a text.
pub(super) fn split_number(text: &str) -> (&str, &str) {
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '_')
        .unwrap_or(text.len());
    text.split_at(end)
}

pub(super) fn number(digits: &str) -> Option<u64> {
    digits.replace('_', "").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_shown() {
        let check = |text: &str, millis: u64, shown: &str| {
            let written: WrittenDuration = text.parse().unwrap();
            assert_eq!(written.0, Duration::from_millis(millis), "{text}");
            assert_eq!(written.to_string(), shown, "{text}");
        };
        check("0s", 0, "0s");
        check("500ms", 500, "500ms");
        check("10s", 10_000, "10s");
        check("60s", 60_000, "1m");
        check("1m30s", 90_000, "90s");
        check("1h 30m", 5_400_000, "90m");
        check("14d", 1_209_600_000, "14d");
        check("1_000ms", 1_000, "1s");
    }

    #[test]
    fn wrong_durations_say_what_is_missing() {
        let check = |text: &str, part: &str| {
            let error = text.parse::<WrittenDuration>().unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        };
        check("10", "no unit");
        check("", "expected a duration");
        check("s", "expected a duration");
        check("-1s", "expected a duration");
        check("1.5s", "smaller unit");
        check("10 sec", "the units are");
        check("10S", "the units are");
        check("99999999999999999999s", "the longest");
        check("36501d", "the longest");
        check("18446744073709551615d", "the longest");
    }

    #[test]
    fn sizes_are_read_and_shown() {
        let check = |text: &str, bytes: u64, shown: &str| {
            let size: Size = text.parse().unwrap();
            assert_eq!(size.bytes(), bytes, "{text}");
            assert_eq!(size.to_string(), shown, "{text}");
        };
        check("64 KiB", 65_536, "64 KiB");
        check("64KiB", 65_536, "64 KiB");
        check("1024 KiB", 1 << 20, "1 MiB");
        check("512 B", 512, "512 B");
        check("1 kB", 1_000, "1 kB");
        check("5 MB", 5_000_000, "5 MB");
        check("0 B", 0, "0 B");
    }

    #[test]
    fn wrong_sizes_say_what_is_missing() {
        let check = |text: &str, part: &str| {
            let error = text.parse::<Size>().unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        };
        check("64", "no unit");
        check("KiB", "expected a size");
        check("1.5 MiB", "smaller unit");
        check("64 kb", "the units are");
        check("99999999999 GiB", "64 bits");
    }
}
