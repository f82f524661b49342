//! Param names: the parameters that a route passes to its view or consumer.

use std::collections::BTreeSet;

use thiserror::Error;

use crate::config::{OptionError, nearest};
use crate::routing::pattern::RoutePattern;

/// The names of the parameters that a route passes to its view or consumer: those of its pattern
/// and of its `defaults`.
///
/// ```
/// use oneport::routing::{ParamNames, RoutePattern};
///
/// let pattern = RoutePattern::path("/chat/{room:slug}/")?;
/// let names = ParamNames::new(&pattern, ["lang"]);
/// assert!(names.has("room") && names.has("lang") && !names.has("topic"));
/// # Ok::<(), oneport::routing::PatternError>(())
/// ```
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ParamNames {
    /// `None` if the pattern is invalid.
    names: Option<BTreeSet<String>>,
    gives_user: bool,
}

impl ParamNames {
    /// Collects the names of a pattern and of a route's defaults.
    pub fn new<'n>(pattern: &'n RoutePattern, defaults: impl IntoIterator<Item = &'n str>) -> Self {
        let names = pattern.param_names().chain(defaults).map(str::to_owned);
        Self {
            names: Some(names.collect()),
            gives_user: true,
        }
    }

    /// Names for a route whose pattern is invalid. Every name counts as present, so its uses cause
    /// no further errors.
    #[must_use]
    pub fn unknown() -> Self {
        Self {
            names: None,
            gives_user: true,
        }
    }

    /// Sets whether the route can provide a user. Default: `true`. It cannot if none of its
    /// middleware reads one.
    #[must_use]
    pub fn with_user(self, gives_user: bool) -> Self {
        Self { gives_user, ..self }
    }

    /// Returns whether the route can provide a user.
    #[must_use]
    pub fn gives_user(&self) -> bool {
        self.gives_user
    }

    /// Returns whether the route has a parameter of this name.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.names.as_ref().is_none_or(|names| names.contains(name))
    }

    /// Returns an error if the route has no parameter of this name.
    ///
    /// ```
    /// use oneport::routing::{ParamNames, RoutePattern};
    ///
    /// let pattern = RoutePattern::path("/chat/{room:slug}/")?;
    /// let names = ParamNames::new(&pattern, []);
    /// assert_eq!(names.missing("roon").unwrap().hint(), "did you mean {room}?");
    /// assert_eq!(names.missing("x").unwrap().to_string(), "the route has no parameter {x} (it has {room})");
    /// assert!(names.missing("room").is_none());
    /// # Ok::<(), oneport::routing::PatternError>(())
    /// ```
    #[must_use]
    pub fn missing(&self, name: &str) -> Option<MissingParam> {
        if self.has(name) {
            return None;
        }
        // `{*rest}` and `{room:slug}` declare a parameter in a path; a use is written `{rest}`.
        let plain = name.trim_start_matches('*');
        let plain = plain.split(':').next().unwrap_or(plain);
        let own: Vec<String> = self.iter().map(|own| format!("{{{own}}}")).collect();
        let hint = match nearest(plain, self.iter()) {
            _ if self.has(plain) => format!("write {{{plain}}}"),
            Some(near) => format!("did you mean {{{near}}}?"),
            None if own.is_empty() => "it has none".to_owned(),
            None => format!("it has {}", own.join(", ")),
        };
        Some(MissingParam {
            name: name.to_owned(),
            hint,
        })
    }

    /// Returns an error of the option `key` for each `{name}` in its text that is not a parameter
    /// of the route.
    #[must_use]
    pub fn missing_in(&self, key: &str, text: &str) -> Vec<OptionError> {
        let names = text.split('{').skip(1);
        let names = names.filter_map(|rest| Some(rest.split_once('}')?.0));
        names
            .filter_map(|name| self.missing(name))
            .map(|missing| missing.at(key))
            .collect()
    }

    /// Iterates over the names in sorted order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.names.iter().flatten().map(String::as_str)
    }
}

/// A parameter that a route does not have.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[error("the route has no parameter {{{name}}} ({hint})")]
pub struct MissingParam {
    name: String,
    hint: String,
}

impl MissingParam {
    /// Returns a correction.
    #[must_use]
    pub fn hint(&self) -> &str {
        &self.hint
    }

    /// Returns the error of the option `key`, whose value uses the parameter.
    #[must_use]
    pub fn at(self, key: &str) -> OptionError {
        let message = format!("the route has no parameter {{{}}}", self.name);
        OptionError::new(key, message).with_hint(self.hint)
    }
}
