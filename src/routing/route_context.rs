//! Route context: what a route tells the code behind it.

use super::param_names::ParamNames;
use super::pattern::RoutePattern;

/// What a route tells its view or consumer about itself, once, when the file is compiled.
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
    /// The pattern. `None` if the file's `path` or `regex` is invalid: the options are still checked, and the route is
    /// never served.
    pub pattern: Option<&'r RoutePattern>,
    /// The names of the parameters, and whether the route has a user to give.
    pub params: ParamNames,
}
