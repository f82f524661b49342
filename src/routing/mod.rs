//! Routing: resolves a path to a route of a table, and reverses a route's name to its path.
//!
//! This module knows neither views nor consumers: a table is a [`UrlRouter<T>`] over any value.
//!
//! # Precedence
//!
//! If two patterns match a path, the first segment in which they differ decides. The order is:
//!
//! 1. literal text;
//! 2. a parameter with text around it: more literal characters first, then the longer text before
//!    the parameter;
//! 3. a parameter alone;
//! 4. a catch-all.
//!
//! Routes whose patterns differ only in parameter names and converters are tried in file order.
//! `regex` routes come last, in file order. A route whose converter, host or method rejects the
//! request is skipped, and the next pattern in this order is tried.
//!
//! # Paths
//!
//! The raw path is split into segments, then percent-decoded once: `%66oo` is `foo`, but `a%2Fb`
//! stays one segment. Slashes are never merged, so `//foo/` is not `/foo/`.

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
mod readings;
mod regex_pattern;
mod resolution;
mod reverse;
mod route;
mod route_context;
mod route_summary;
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
pub use route_summary::{RouteSummaries, RouteSummary};
pub use router::UrlRouter;
