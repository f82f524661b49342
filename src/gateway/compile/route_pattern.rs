//! Route pattern: parses the path or regular expression of a route, its prefix and its host.

use std::collections::BTreeMap;

use super::compiler::Compiler;
use crate::config::{Options, Problem, SourceLocation};
use crate::gateway::registry::Mount;
use crate::routing::{HostPattern, ParamNames, PatternError, RouteContext, RoutePattern};

/// The keys of a route, of either table, that decide which requests it matches.
pub(super) struct RouteKeys<'r> {
    pub(super) path: Option<&'r str>,
    pub(super) regex: Option<&'r str>,
    pub(super) host: Option<&'r str>,
    pub(super) prefix: &'r str,
    pub(super) location: &'r SourceLocation,
}

impl Compiler<'_> {
    pub(super) fn pattern(&mut self, keys: &RouteKeys<'_>) -> Option<RoutePattern> {
        if self.is_wrong(keys.location, &["path", "regex"]) {
            return None;
        }
        let (key, parsed) = match (keys.path, keys.regex) {
            // The path is the prefix alone.
            (Some(""), _) => return self.prefix_alone(keys),
            (Some(path), _) => ("path", RoutePattern::path(path)),
            (None, Some(regex)) => ("regex", RoutePattern::regex(regex)),
            (None, None) => return None, // refused when the file was read
        };
        let location = keys.location.key(key);
        let pattern = parsed
            .map_err(|error| {
                let problem = Problem::error(location.clone(), error.sentence());
                self.problems.push(problem.with_hint_if(error.hint));
            })
            .ok()?;
        if let (None, Some(regex)) = (keys.path, keys.regex)
            && let Some(rest) = regex.strip_prefix('/')
        {
            let message = "a regex sees the path without its leading slash";
            let hint = format!("write '^{rest}'");
            self.problems
                .push(Problem::warning(location.clone(), message).with_hint(hint));
        }
        if keys.prefix.is_empty() {
            return Some(pattern);
        }
        let joined = RoutePattern::path(keys.prefix).and_then(|prefix| prefix.join(&pattern));
        joined
            .map_err(|error| {
                self.problems
                    .error(location, format!("prefix {:?}: {error}", keys.prefix));
            })
            .ok()
    }

    fn prefix_alone(&mut self, keys: &RouteKeys<'_>) -> Option<RoutePattern> {
        let refuse = |error: PatternError| {
            let message = format!("prefix {:?}: {error}", keys.prefix);
            self.problems
                .push(Problem::error(keys.location.key("path"), message));
        };
        RoutePattern::path(keys.prefix).map_err(refuse).ok()
    }

    #[expect(
        clippy::option_option,
        reason = "None: a Problem was found; Some(None): the route is for every host"
    )]
    pub(super) fn host(&mut self, keys: &RouteKeys<'_>) -> Option<Option<HostPattern>> {
        let Some(written) = keys.host else {
            return Some(None);
        };
        match written.parse() {
            Ok(host) => Some(Some(host)),
            Err(error) => {
                self.problems.push(Problem::error(
                    keys.location.key("host"),
                    format!("{error}"),
                ));
                None
            }
        }
    }

    /// Returns the facts about a route that its view or consumer gets.
    pub(super) fn mount<'r>(
        &self,
        pattern: Option<&'r RoutePattern>,
        defaults: &BTreeMap<String, String>,
        options: &Options,
        location: &SourceLocation,
    ) -> Mount<'r> {
        let names = defaults.keys().map(String::as_str);
        let pattern_of_params = pattern.filter(|_| !self.is_wrong(location, &["defaults"]));
        let params = pattern_of_params.map_or_else(ParamNames::unknown, |pattern| {
            ParamNames::new(pattern, names)
        });
        Mount {
            route: RouteContext { pattern, params },
            has_invalid_options: self.error_locations.overlaps(options.location()),
        }
    }
}
