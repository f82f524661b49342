//! Param names: which parameters a route gives to its view or consumer.

use std::collections::BTreeSet;

use crate::routing::pattern::RoutePattern;

/// The names of the parameters that a route gives to its view or consumer: those of its pattern and its `defaults`.
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
pub struct ParamNames(Option<BTreeSet<String>>);

impl ParamNames {
    /// Takes the names of a pattern and of a route's defaults.
    pub fn new<'n>(pattern: &'n RoutePattern, defaults: impl IntoIterator<Item = &'n str>) -> Self {
        let names = pattern.param_names().chain(defaults).map(str::to_owned);
        Self(Some(names.collect()))
    }

    /// The names of a route whose pattern is broken: it may have any, so nothing more is wrong with those that use them.
    #[must_use]
    pub fn unknown() -> Self {
        Self(None)
    }

    /// Tells whether the route has a parameter of this name.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.0.as_ref().is_none_or(|names| names.contains(name))
    }

    /// Walks the names, sorted.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().flatten().map(String::as_str)
    }
}
