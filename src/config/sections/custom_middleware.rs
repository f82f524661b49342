//! The `[middleware.NAME]` sections: the options of an application's own middleware.

use crate::config::read::source_location::SourceLocation;
use crate::config::sections::options::Options;

/// The `[middleware.NAME]` sections, unread until the middleware that they are for is known.
#[derive(Clone, Debug, Default)]
pub struct CustomMiddlewareSections {
    names: Vec<String>,
    /// Where the sections are.
    pub location: SourceLocation,
}

impl CustomMiddlewareSections {
    pub(in crate::config) fn new(names: Vec<String>, location: SourceLocation) -> Self {
        Self { names, location }
    }

    /// Walks the names of the sections, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }

    /// Returns the options of a name; empty if it has no section.
    #[must_use]
    pub fn options(&self, name: &str) -> Options {
        Options::new(self.location.key(name))
    }
}
