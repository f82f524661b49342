//! Route context: the facts about a route that its view or consumer gets.

use super::param_names::ParamNames;
use super::pattern::RoutePattern;

/// The facts about a route that its view or consumer gets, once, when the file is compiled.
///
/// ```
/// use oneport::routing::{ParamNames, RouteContext, RoutePattern};
///
/// let pattern = RoutePattern::path("/chat/{room:slug}/")?;
/// let route = RouteContext { pattern: Some(&pattern), params: ParamNames::new(&pattern, []) };
/// assert!(route.params.has("room"));
/// # Ok::<(), oneport::routing::PatternError>(())
/// ```
#[derive(Clone, Debug)]
pub struct RouteContext<'r> {
    /// The pattern. `None` if the file's `path` or `regex` is invalid: the options are still
    /// checked, and the route is never served.
    pub pattern: Option<&'r RoutePattern>,
    /// The names of the parameters, and whether the route can provide a user.
    pub params: ParamNames,
}
