//! Route keys: those that both tables' routes have in common.

use crate::config::problems::problem::{Problem, Problems};
use crate::config::read::source_location::SourceLocation;
use crate::config::sections::options::Options;

/// The keys that identify a route and its target.
pub(in crate::config) struct RouteHead<'a> {
    pub(in crate::config) path: Option<&'a str>,
    pub(in crate::config) regex: Option<&'a str>,
    pub(in crate::config) name: Option<&'a str>,
    /// `view` or `consumer`.
    pub(in crate::config) target_key: &'static str,
    pub(in crate::config) target: Option<&'a str>,
    pub(in crate::config) prefix: &'a str,
}

impl RouteHead<'_> {
    /// Adds their errors. A key that is written but could not be read has been reported.
    pub(in crate::config) fn check(&self, location: &SourceLocation, problems: &mut Problems) {
        let written = |key: &str| location.key(key).is_written();
        match (written("path"), written("regex")) {
            (true, true) => problems.push(
                Problem::error(
                    location.key("regex").of_key(),
                    "\"path\" and \"regex\" are both set",
                )
                .with_hint("a route has one of them"),
            ),
            (false, false) => problems.push(
                Problem::missing(location.clone(), "path").with_hint("or \"regex\" for a pattern"),
            ),
            _ => {}
        }
        self.check_path(location, problems);
        self.check_words(location, problems);
    }

    fn check_path(&self, location: &SourceLocation, problems: &mut Problems) {
        match self.path {
            Some("") if self.prefix.is_empty() => {
                let problem = Problem::error(
                    location.key("path"),
                    "expected a path that starts with \"/\", found \"\"",
                );
                problems.push(problem.with_hint("an empty path needs a prefix in front of it"));
            }
            // The pattern parser reports paths with parameters.
            Some(path) if path.contains(['<', '{']) && !path.contains("(?") => {}
            Some(path) if !path.is_empty() && !path.starts_with('/') => {
                let message = format!("expected a path that starts with \"/\", found {path:?}");
                let hint = path_hint(path);
                problems.push(Problem::error(location.key("path"), message).with_hint(hint));
            }
            Some(path) if path.contains(['?', '#']) && !path.contains(['{', '<', ':', '(']) => {
                let message = format!("expected a path without query and fragment, found {path:?}");
                problems.error(location.key("path"), message);
            }
            _ => {}
        }
        if self.regex == Some("") {
            problems.error(
                location.key("regex"),
                "expected a regular expression, found \"\"",
            );
        }
    }

    fn check_words(&self, location: &SourceLocation, problems: &mut Problems) {
        let key = self.target_key;
        match self.target {
            Some("") => problems.error(
                location.key(key),
                format!("expected the name of a {key}, found \"\""),
            ),
            None if !location.key(key).is_written() => {
                problems.push(Problem::missing(location.clone(), key));
            }
            _ => {}
        }
        if self.name == Some("") {
            problems.error(location.key("name"), "expected a name, found \"\"");
        }
    }
}

/// Returns what to write in place of a path without its slash.
fn path_hint(path: &str) -> String {
    if let Some((_, rest)) = path.split_once("://") {
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let host = host.split(':').next().unwrap_or_default();
        return format!("write path = \"/{path}\" and host = {host:?}");
    }
    let is_regex = path.starts_with('^') || path.ends_with('$') || path.contains("(?");
    if is_regex {
        return format!("write regex = '{}'", path.replacen("^/", "^", 1));
    }
    format!("write \"/{path}\"")
}

/// Returns the options of the route at this location.
pub(in crate::config) fn options_of(location: &SourceLocation) -> Options {
    Options::new(location.key("options"))
}
