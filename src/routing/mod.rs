//! Routing: which route of a table a path belongs to, and the way back from a route's name to its path.
//!
//! Nothing here knows what a view or a consumer is: a table is a [`UrlRouter<T>`] of any value.
//!
//! # Precedence
//!
//! Between two patterns that both match a path, the first segment in which they differ decides: literal text
//! comes before text around a parameter (more literal characters first, then the longer text before the
//! parameter), that before a parameter alone, and that before a catch-all. Routes whose patterns differ in
//! parameter names and converters only are tried in file order; `regex` routes come last, in file order. A route
//! whose converter, host or method refuses the request is passed over, and the next pattern in this order is tried.
//!
//! # Paths
//!
//! The raw path is percent-decoded once, after it was cut into segments: `%66oo` is `foo`, but `a%2Fb` stays one
//! segment. Slashes are never merged, so `//foo/` is not `/foo/`.

mod canonical;
mod conflict;
mod converter;
mod explain;
mod foreign;
mod host;
mod language;
mod param_names;
mod params;
mod pattern;
mod pattern_parser;
mod protocol;
mod regex_pattern;
mod resolution;
mod reverse;
mod route;
mod route_context;
mod router;
mod segment;
mod shape;
mod slash;
mod tree;
mod trie;

#[cfg(test)]
mod tests;

pub use canonical::BadPath;
pub use conflict::Conflict;
pub use converter::Converter;
pub use explain::{Explanation, Verdict};
pub use host::{HostPattern, HostPatternError};
pub use param_names::{MissingParam, ParamNames};
pub use params::Params;
pub use pattern::RoutePattern;
pub use pattern_parser::PatternError;
pub use protocol::ProtocolTypeRouter;
pub use resolution::{Match, Resolution, Target};
pub use reverse::ReverseError;
pub use route::Route;
pub use route_context::RouteContext;
pub use router::UrlRouter;
