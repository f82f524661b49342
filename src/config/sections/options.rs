//! Options: the part of a route that only its view or consumer understands.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::path::Path;

use serde::de::DeserializeOwned;

use crate::config::problems::problem::Problems;
use crate::config::read::collect;
use crate::config::read::document::Document;
use crate::config::read::source_location::SourceLocation;
use crate::config::read::value::{Node, Value};

/// A route's `options`, not yet read as the type that its view or consumer declares.
#[derive(Clone, Default)]
pub struct Options {
    location: SourceLocation,
}

impl Options {
    /// The table at this location, or an empty one.
    pub(in crate::config) fn new(location: SourceLocation) -> Self {
        Self { location }
    }

    /// Parses options from a text, for tests of a view or a consumer. Variables are not expanded.
    ///
    /// ```
    /// # use oneport::config::Options;
    /// let options = Options::from_toml("history = 50")?;
    /// assert!(!options.is_empty());
    /// # Ok::<(), oneport::config::Problems>(())
    /// ```
    pub fn from_toml(text: &str) -> Result<Self, Problems> {
        let parsed = Document::parse("options", Path::new("."), text, &|_| None);
        let options = Self::new(SourceLocation::root(&parsed.document));
        parsed
            .problems
            .into_result(options)
            .map(|(options, _)| options)
    }

    /// Reads the options as a type. Fails with all their errors, each with its location.
    ///
    /// Absent options read as an empty table. A type that refuses unknown keys has the attribute
    /// `#[serde(deny_unknown_fields)]`; a type without options is an empty struct with that
    /// attribute.
    ///
    /// ```
    /// # use oneport::config::Options;
    /// #[derive(Debug, serde::Deserialize)]
    /// #[serde(deny_unknown_fields)]
    /// struct Chat {
    ///     history: usize,
    /// }
    ///
    /// let problems = Options::from_toml("history = -1\nhistroy = 2")?.read::<Chat>().unwrap_err();
    /// assert_eq!(problems.to_string(), "\
    /// options:1:11: history: expected a whole number, 0 or more, found integer -1
    /// options:2:1: histroy: unknown key \"histroy\" (did you mean \"history\"?)");
    /// # Ok::<(), oneport::config::Problems>(())
    /// ```
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, Problems> {
        let mut problems = Problems::default();
        let node = self
            .location
            .node()
            .cloned()
            .unwrap_or_else(|| Node::empty_table(0..0));
        match collect::read(&self.location, node, &mut problems) {
            Some(value) => problems.into_result(value).map(|(value, _)| value),
            None => Err(problems.sorted()),
        }
    }

    /// Returns the directory of their file, from which relative paths resolve.
    pub fn base(&self) -> &Path {
        self.location.base()
    }

    /// Returns the location of the options; `location().key("group")` is that of one of them.
    pub fn location(&self) -> &SourceLocation {
        &self.location
    }

    /// Returns whether there are none.
    pub fn is_empty(&self) -> bool {
        match self.location.node().map(|node| &node.value) {
            Some(Value::Table(entries)) => entries.is_empty(),
            _ => true,
        }
    }
}

/// Two options are equal if they hold the same values and resolve relative paths from the same
/// directory, regardless of their location and order.
impl PartialEq for Options {
    fn eq(&self, other: &Self) -> bool {
        let (one, two) = (self.location.node(), other.location.node());
        match (self.is_empty(), other.is_empty()) {
            (true, true) => true,
            (false, false) => {
                self.base() == other.base() && one.zip(two).is_some_and(|(a, b)| a.value == b.value)
            }
            _ => false,
        }
    }
}

impl Eq for Options {}

impl Hash for Options {
    fn hash<H: Hasher>(&self, state: &mut H) {
        if let Some(node) = self.location.node().filter(|_| !self.is_empty()) {
            self.base().hash(state);
            node.value.hash(state);
        }
    }
}

impl fmt::Debug for Options {
    /// Shows only the location: options may contain secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Options({})", self.location)
    }
}
