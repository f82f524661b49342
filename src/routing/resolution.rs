//! Resolution: the target to look up in a table, and the result.

use http::Method;

use crate::routing::canonical::BadPath;
use crate::routing::params::Params;
use crate::routing::route::Route;

/// The parts of a request that select its route.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// The path as received: percent-encoded, without query.
    pub raw_path: &'a str,
    /// The host without port.
    pub host: Option<&'a str>,
    /// The method; `None` for a WebSocket.
    pub method: Option<&'a Method>,
}

/// The result of looking up a target in a table.
#[derive(Debug)]
pub enum Resolution<'r, T> {
    /// This route serves the target.
    Found(Match<'r, T>),
    /// A route matches the path but not the method: 405, or the automatic response to `OPTIONS`.
    MethodNotAllowed {
        /// Every method that some route for this path and host takes, sorted. `GET` adds `HEAD`;
        /// `OPTIONS` is always included.
        allow: Vec<Method>,
    },
    /// A route matches the path with its trailing slash added or removed: 308.
    SlashRedirect {
        /// That path, encoded as received, without query.
        raw_path: String,
    },
    /// The path is invalid: 400.
    BadPath(BadPath),
    /// No route: 404.
    NotFound,
}

/// The route that serves a target.
#[derive(Debug)]
pub struct Match<'r, T> {
    /// The route.
    pub route: &'r Route<T>,
    /// The route's index in the table.
    pub index: usize,
    /// The parameters of the path. The route's defaults override them.
    pub params: Params,
}

/// Returns the methods for an `Allow` header.
pub(super) fn allow_of(listed: &[&Method]) -> Vec<Method> {
    let mut allow: Vec<Method> = listed.iter().copied().cloned().collect();
    if allow.contains(&Method::GET) {
        allow.push(Method::HEAD);
    }
    allow.push(Method::OPTIONS);
    allow.sort_unstable_by(|one, other| one.as_str().cmp(other.as_str()));
    allow.dedup();
    allow
}
