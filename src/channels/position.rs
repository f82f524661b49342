//! Position: a point in a group's history.

use std::fmt;
use std::str::FromStr;

/// A point in a group's history: after the event with this offset, in this epoch.
///
/// It is written `EPOCH.OFFSET`, the epoch in hexadecimal. Clients see it as part of
/// [`Seen`](super::Seen).
///
/// ```
/// use oneport::channels::Position;
/// let position: Position = "1f.42".parse().unwrap();
/// assert_eq!((position.epoch, position.offset), (31, 42));
/// assert_eq!(position.to_string(), "1f.42");
/// assert!("42".parse::<Position>().is_err());
/// ```
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Position {
    /// Identifies one run of the history. If the history is lost, it starts again with another
    /// epoch.
    pub epoch: u64,
    /// The number of the event, from 1; 0 before the first.
    pub offset: u64,
}

/// A text that is not a position.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("expected a position such as \"1f.42\", found {found:?}")]
pub struct PositionError {
    found: String,
}

impl PositionError {
    /// Quotes the beginning of the text.
    pub(super) fn new(text: &str) -> Self {
        Self {
            found: text.chars().take(64).collect(),
        }
    }
}

/// Returns a random epoch of 52 bits, which browsers and Lua represent exactly as a number.
pub(super) fn new_epoch() -> u64 {
    fastrand::u64(1..) >> 12
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}.{}", self.epoch, self.offset)
    }
}

impl FromStr for Position {
    type Err = PositionError;

    fn from_str(text: &str) -> Result<Self, PositionError> {
        let read = || {
            let (epoch, offset) = text.split_once('.')?;
            let is_hex = epoch.bytes().all(|digit| digit.is_ascii_hexdigit());
            let is_decimal = offset.bytes().all(|digit| digit.is_ascii_digit());
            if !is_hex || !is_decimal {
                return None; // `parse` would accept a sign
            }
            Some(Self {
                epoch: u64::from_str_radix(epoch, 16).ok()?,
                offset: offset.parse().ok()?,
            })
        };
        read().ok_or_else(|| PositionError::new(text))
    }
}
