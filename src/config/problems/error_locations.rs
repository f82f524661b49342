//! Error locations: the parts of a file that already have an error, so that consequences are not
//! reported.

use crate::config::problems::problem::{Problem, Problems, Severity};
use crate::config::read::source_location::SourceLocation;

/// The locations that already have an error. Values there are placeholders or left out, so nothing
/// can be checked about them, about the values around them, or about those inside them.
#[derive(Clone, Debug, Default)]
pub struct ErrorLocations(Vec<SourceLocation>);

impl ErrorLocations {
    /// Collects the locations of all errors, except those that point at a piece of text instead of
    /// a value, such as a duplicate key.
    pub(in crate::config) fn of(problems: &Problems) -> Self {
        let errors = problems
            .iter()
            .filter(|problem| problem.severity() == Severity::Error);
        let locations = errors.flat_map(Problem::error_locations);
        Self(locations.filter(|location| !location.is_text()).collect())
    }

    /// Adds a location.
    pub(in crate::config) fn add(&mut self, location: SourceLocation) {
        self.0.push(location);
    }

    /// Returns whether there is no error.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns whether there is an error at this location, around it, or inside it.
    #[must_use]
    pub fn overlaps(&self, location: &SourceLocation) -> bool {
        self.0.iter().any(|wrong| {
            wrong.document().name() == location.document().name()
                && (is_around(wrong.path(), location.path())
                    || is_around(location.path(), wrong.path()))
        })
    }
}

/// Returns whether `outer` is the path of the value at `inner`, or of a value around it.
fn is_around(outer: &str, inner: &str) -> bool {
    inner
        .strip_prefix(outer)
        .is_some_and(|rest| outer.is_empty() || rest.is_empty() || rest.starts_with(['.', '[']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_around_itself_and_what_it_holds() {
        assert!(is_around("", "http"));
        assert!(is_around("http.route[1]", "http.route[1]"));
        assert!(is_around("http.route[1]", "http.route[1].view"));
        assert!(is_around("http.route", "http.route[1]"));
        assert!(!is_around("http.route[1]", "http.route[10]"));
        assert!(!is_around("http", "https"));
    }
}
