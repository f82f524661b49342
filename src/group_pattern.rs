//! GroupPattern: a group's name with placeholders for a route's parameters and the user, such as
//! `chat_{room}`.

use std::fmt;
use std::sync::Arc;

use serde::de::{Deserialize, Deserializer, Error};
use thiserror::Error;

use crate::channels::GroupName;
use crate::config::OptionError;
use crate::routing::ParamNames;
use crate::scope::Scope;

/// A pattern for a group's name: `chat_{room}`, `user_{user.id}`.
///
/// `{name}` is a parameter of the route, `{user.id}` and `{user.name}` are the user's. Read from a
/// route's `options`; cheap to clone.
///
/// ```
/// use oneport::group_pattern::GroupPattern;
/// let pattern: GroupPattern = "user_{user.id}".parse().unwrap();
/// assert_eq!(pattern.to_string(), "user_{user.id}");
/// assert!("chat_{room".parse::<GroupPattern>().is_err());
/// ```
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct GroupPattern(Arc<[Part]>);

#[derive(Clone, Debug, Eq, PartialEq)]
enum Part {
    Literal(String),
    Param(String),
    UserId,
    UserName,
}

/// The reason why a text is not a pattern.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum PatternError {
    /// The text is empty.
    #[error("expected the name of a group, such as \"chat_{{room}}\", found an empty text")]
    Empty,
    /// A `{` without its `}`, or the reverse.
    #[error("expected each \"{{\" to have its \"}}\" in group pattern {pattern:?}")]
    Unbalanced {
        /// The pattern.
        pattern: String,
    },
    /// A character that no group name has.
    #[error(
        "expected ASCII letters, digits, \"-\", \"_\" and \".\" around the placeholders of group pattern {pattern:?}, found {found:?}"
    )]
    Character {
        /// The pattern.
        pattern: String,
        /// The character.
        found: char,
    },
    /// A placeholder for the user that does not exist.
    #[error(
        "expected {{user.id}}, {{user.name}} or a parameter of the route in group pattern {pattern:?}, found {{{found}}}"
    )]
    Place {
        /// The pattern.
        pattern: String,
        /// The placeholder.
        found: String,
    },
}

/// The reason why a pattern gives no group for a scope.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum GroupError {
    /// The pattern needs a user, but the visitor is anonymous.
    #[error("group {pattern} needs a user, but the visitor is anonymous")]
    Anonymous {
        /// The pattern.
        pattern: String,
    },
    /// The pattern needs a parameter that the route does not have.
    #[error("the route has no parameter {name:?}")]
    NoParam {
        /// The parameter.
        name: String,
    },
    /// The result is not a valid name.
    #[error("expected the name of a group, found {found:?}")]
    NotAName {
        /// The result.
        found: String,
    },
}

impl GroupPattern {
    /// Returns an error of the option `key` for each parameter that the route does not have, and
    /// for a user that the route cannot provide.
    #[must_use]
    pub fn check(&self, key: &str, params: &ParamNames) -> Vec<OptionError> {
        let check = |part: &Part| match part {
            Part::Param(name) => params.missing(name).map(|missing| missing.at(key)),
            Part::UserId | Part::UserName if !params.gives_user() => {
                let message =
                    "a group of the user needs the middleware \"auth\", which is not in the list";
                Some(OptionError::new(key, message).with_hint("add \"auth\""))
            }
            Part::Literal(_) | Part::UserId | Part::UserName => None,
        };
        self.0.iter().filter_map(check).collect()
    }

    /// Returns the group for a scope.
    pub fn group(&self, scope: &Scope) -> Result<GroupName, GroupError> {
        let user = || {
            scope.user.as_ref().ok_or_else(|| GroupError::Anonymous {
                pattern: self.to_string(),
            })
        };
        let mut name = String::new();
        for part in &*self.0 {
            match part {
                Part::Literal(text) => name.push_str(text),
                Part::Param(param) => match scope.url_route.params.get(param) {
                    Some(value) => name.push_str(value),
                    None => {
                        return Err(GroupError::NoParam {
                            name: param.clone(),
                        });
                    }
                },
                Part::UserId => name.push_str(&user()?.id),
                Part::UserName => name.push_str(&user()?.name),
            }
        }
        GroupName::new(&name).map_err(|_| GroupError::NotAName { found: name })
    }
}

impl std::str::FromStr for GroupPattern {
    type Err = PatternError;

    fn from_str(pattern: &str) -> Result<Self, PatternError> {
        let unbalanced = || PatternError::Unbalanced {
            pattern: pattern.to_owned(),
        };
        if pattern.is_empty() {
            return Err(PatternError::Empty);
        }
        let mut parts = Vec::new();
        let mut rest = pattern;
        while !rest.is_empty() {
            let (literal, after) = rest.split_once('{').unwrap_or((rest, ""));
            if literal.contains('}') {
                return Err(unbalanced());
            }
            if let Some(found) = literal
                .chars()
                .find(|found| !(found.is_ascii_alphanumeric() || matches!(found, '-' | '_' | '.')))
            {
                return Err(PatternError::Character {
                    pattern: pattern.to_owned(),
                    found,
                });
            }
            if !literal.is_empty() {
                parts.push(Part::Literal(literal.to_owned()));
            }
            if literal.len() == rest.len() {
                break;
            }
            let (place, after) = after.split_once('}').ok_or_else(unbalanced)?;
            parts.push(match place {
                "user.id" => Part::UserId,
                "user.name" => Part::UserName,
                _ if place.is_empty()
                    || !place
                        .chars()
                        .all(|found| found.is_ascii_alphanumeric() || found == '_') =>
                {
                    return Err(PatternError::Place {
                        pattern: pattern.to_owned(),
                        found: place.to_owned(),
                    });
                }
                _ => Part::Param(place.to_owned()),
            });
            rest = after;
        }
        Ok(Self(parts.into()))
    }
}

impl fmt::Display for GroupPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|part| match part {
            Part::Literal(text) => f.write_str(text),
            Part::Param(name) => write!(f, "{{{name}}}"),
            Part::UserId => f.write_str("{user.id}"),
            Part::UserName => f.write_str("{user.name}"),
        })
    }
}

impl<'de> Deserialize<'de> for GroupPattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(D::Error::custom)
    }
}
