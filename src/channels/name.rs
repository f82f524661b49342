//! Names of groups and channels: valid by construction.

use std::fmt;
use std::sync::Arc;

use thiserror::Error;

/// The most characters of a name (Channels: "less than 100").
const NAME_CHARACTERS_MAX: usize = 99;

/// The name of a group: 1 to 99 of `A-Z a-z 0-9 - _ .` (Channels' rule).
///
/// ```
/// use oneport::channels::GroupName;
/// assert_eq!(GroupName::new("chat_lobby").unwrap().as_str(), "chat_lobby");
/// assert!(GroupName::new("chat lobby").is_err());
/// ```
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct GroupName(Arc<str>);

/// The name of one channel: a group's characters, and at most one `!` before the part that is local
/// to a process.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ChannelName(Arc<str>);

/// The reason why a text is not a name.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum NameError {
    /// It is empty.
    #[error("expected a name of 1 to 99 characters, found none")]
    Empty,
    /// It is too long.
    #[error("expected a name of 1 to 99 characters, found {found}")]
    Long {
        /// Its length.
        found: usize,
    },
    /// It has a character that names must not have.
    #[error(
        "expected ASCII letters, digits, \"-\", \"_\" and \".\", found {found:?} at character {at}"
    )]
    Character {
        /// The character.
        found: char,
        /// The character's number, from 1.
        at: usize,
    },
}

impl GroupName {
    /// Parses a name.
    pub fn new(text: &str) -> Result<Self, NameError> {
        check(text, None)?;
        Ok(Self(Arc::from(text)))
    }

    /// Returns the text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl ChannelName {
    /// Parses a name.
    pub fn new(text: &str) -> Result<Self, NameError> {
        check(text, text.find('!'))?;
        Ok(Self(Arc::from(text)))
    }

    /// Creates a name that a layer made itself: the prefix of `channels_redis.pubsub` may be any
    /// text.
    pub(super) fn made(text: &str) -> Self {
        Self(Arc::from(text))
    }

    /// Returns the text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn check(text: &str, mark: Option<usize>) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    let allowed = |at: usize, found: char| {
        found.is_ascii_alphanumeric() || matches!(found, '-' | '_' | '.') || Some(at) == mark
    };
    if let Some((at, (_, found))) = text
        .char_indices()
        .enumerate()
        .find(|(_, (at, found))| !allowed(*at, *found))
    {
        return Err(NameError::Character { found, at: at + 1 });
    }
    if text.len() > NAME_CHARACTERS_MAX {
        return Err(NameError::Long { found: text.len() });
    }
    Ok(())
}

/// Allows lookups in tables of channels without creating a name.
impl std::borrow::Borrow<str> for ChannelName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// Allows lookups in tables of groups without creating a name.
impl std::borrow::Borrow<str> for GroupName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for GroupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for ChannelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_rules_of_channels() {
        for good in ["chat", "a", ".-_", "specific.x", &"a".repeat(99)] {
            assert!(
                GroupName::new(good).is_ok() && ChannelName::new(good).is_ok(),
                "{good}"
            );
        }
        for bad in ["", "a b", "x/y", "chat\n", "¯\\_(ツ)_/¯", &"a".repeat(100)] {
            assert!(
                GroupName::new(bad).is_err() && ChannelName::new(bad).is_err(),
                "{bad}"
            );
        }
        assert!(ChannelName::new("specific.abc!def").is_ok());
        assert!(ChannelName::new("a!b!c").is_err());
        assert!(GroupName::new("a!b").is_err());
    }

    #[test]
    fn refusal_names_the_character_and_where_it_is() {
        assert_eq!(
            GroupName::new("chat room").unwrap_err().to_string(),
            "expected ASCII letters, digits, \"-\", \"_\" and \".\", found ' ' at character 5"
        );
    }
}
