//! Resolution: what is asked of a table, and what it answers.

use http::Method;

use crate::routing::canonical::BadPath;
use crate::routing::params::Params;
use crate::routing::route::Route;

/// What of a request decides on its route.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// The path as it came, percent-encoded and without query.
    pub raw_path: &'a str,
    /// The host without port.
    pub host: Option<&'a str>,
    /// The method; `None` for a WebSocket.
    pub method: Option<&'a Method>,
}

/// What a table says about a target.
#[derive(Debug)]
pub enum Resolution<'r, T> {
    /// This route serves it.
    Found(Match<'r, T>),
    /// The path is known, the method is not: 405, or the automatic answer to `OPTIONS`.
    MethodNotAllowed {
        /// Every method that some route of this path and host takes, sorted; `HEAD` comes with `GET`, and
        /// `OPTIONS` always.
        allow: Vec<Method>,
    },
    /// The path would be known with its trailing slash the other way round: 308.
    SlashRedirect {
        /// That path, still encoded as it came, without query.
        raw_path: String,
    },
    /// The path is refused: 400.
    BadPath(BadPath),
    /// No route: 404.
    NotFound,
}

/// The route that serves a target.
#[derive(Debug)]
pub struct Match<'r, T> {
    /// The route.
    pub route: &'r Route<T>,
    /// Its place in the table.
    pub index: usize,
    /// What the path said, with the route's defaults over it.
    pub params: Params,
}

/// Returns what an `Allow` header should list.
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
