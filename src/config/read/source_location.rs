//! Source location: a value in a document, by its path, for problems to point at.

use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use crate::config::read::document::{Document, Position};
use crate::config::read::path::{self, Segment};
use crate::config::read::value::{Node, Value};

/// The location of a value, written or not: a document and a path in it.
///
/// Creating one costs a short string; line and column are computed only when a problem is shown. A
/// path that does not exist in the file, such as that of a default, resolves to the nearest value
/// around it.
///
/// ```
/// # use oneport::config::{Config, SourceLocation};
/// # let text = "[[websocket.route]]\npath = \"/ws/\"\nconsumer = \"chat\"\n";
/// # let (config, _) = Config::parse("oneport.toml", text, ".".as_ref(), &|_| None)?;
/// let location: SourceLocation = config.websocket_routes[0].location.key("consumer");
/// assert_eq!(location.to_string(), "oneport.toml:3:12: websocket.route[0].consumer");
/// # Ok::<(), oneport::config::Problems>(())
/// ```
#[derive(Clone)]
pub struct SourceLocation {
    document: Arc<Document>,
    path: String,
    part: Part,
}

/// The part of the value that a location points at.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Part {
    Value,
    Key,
    Text(Range<usize>),
    WholeFile,
}

impl SourceLocation {
    /// The document itself.
    pub(in crate::config) fn root(document: &Arc<Document>) -> Self {
        Self {
            document: Arc::clone(document),
            path: String::new(),
            part: Part::Value,
        }
    }

    /// A whole file, without a line: a file that cannot be read.
    pub(in crate::config) fn whole_file(document: &Arc<Document>) -> Self {
        Self {
            part: Part::WholeFile,
            ..Self::root(document)
        }
    }

    /// Returns the location at the end of a path in this document.
    pub(in crate::config) fn of_path(document: &Arc<Document>, path: String) -> Self {
        Self {
            path,
            ..Self::root(document)
        }
    }

    /// Returns the location of a key's value in this table.
    #[must_use]
    pub fn key(&self, key: &str) -> Self {
        let mut location = self.clone();
        path::push_key(&mut location.path, key);
        location.part = Part::Value;
        location
    }

    /// Returns the location of an item of this array, counted from 0.
    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        let mut location = self.clone();
        path::push_index(&mut location.path, index);
        location.part = Part::Value;
        location
    }

    /// Returns the location at the end of a path such as `tokens[0].groups`, which begins with a
    /// key of this table.
    #[must_use]
    pub fn below(&self, way: &str) -> Self {
        self.join(&path::segments(way))
    }

    /// Returns the location of this value's key.
    #[must_use]
    pub fn of_key(mut self) -> Self {
        self.part = Part::Key;
        self
    }

    /// Returns the location several segments down.
    pub(in crate::config) fn join(&self, segments: &[Segment]) -> Self {
        let mut location = self.clone();
        for segment in segments {
            path::push(&mut location.path, segment);
        }
        location.part = Part::Value;
        location
    }

    /// A piece of the text, independent of values.
    pub(in crate::config) fn at(mut self, span: Range<usize>) -> Self {
        self.part = Part::Text(span);
        self
    }

    /// Returns whether it is a piece of the text without a known value.
    pub(in crate::config) fn is_text(&self) -> bool {
        matches!(self.part, Part::Text(_))
    }

    /// Returns the location of the text number `index` in the array at this location, not counting
    /// items that are not texts.
    #[must_use]
    pub fn text(&self, index: usize) -> Self {
        let items = self.items().unwrap_or_default().iter().enumerate();
        let mut texts = items.filter(|(_, item)| matches!(item.value, Value::String(_)));
        self.index(texts.nth(index).map_or(index, |(at, _)| at))
    }

    /// Returns the document.
    pub fn document(&self) -> &Arc<Document> {
        &self.document
    }

    /// Returns the path, such as `websocket.route[1].consumer`; empty for the document itself.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Returns the directory that relative paths at this location start from.
    pub fn base(&self) -> &Path {
        self.document.base()
    }

    /// Returns whether this path is written in the file; `false` for a default.
    pub fn is_written(&self) -> bool {
        self.node().is_some()
    }

    /// Returns the line and column, or those of the nearest value around it; `None` for a file that
    /// cannot be read.
    pub fn position(&self) -> Option<Position> {
        (self.part != Part::WholeFile).then(|| self.document.position(self.span().start))
    }

    /// Returns the path's segments.
    pub(in crate::config) fn segments(&self) -> Vec<Segment> {
        path::segments(&self.path)
    }

    /// Returns the value at this location.
    pub(in crate::config) fn node(&self) -> Option<&Node> {
        self.document.root().find(&path::segments(&self.path))
    }

    /// Returns the items of the array at this location, as they are written.
    pub(in crate::config) fn items(&self) -> Option<&[Node]> {
        match self.node().map(|node| &node.value) {
            Some(Value::Array(items)) => Some(items),
            _ => None,
        }
    }

    /// Returns the text at this location.
    pub(in crate::config) fn span(&self) -> Range<usize> {
        if let Part::Text(span) = &self.part {
            return span.clone();
        }
        let mut node = self.document.root();
        let mut span = node.span.clone();
        let mut key_span = node.span.clone();
        for segment in path::segments(&self.path) {
            if let Segment::Key(key) = &segment
                && let Some(entry) = node.entry(key)
            {
                key_span = entry.key_span.clone();
            }
            let Some(child) = node.child(&segment) else {
                return span;
            };
            span = child.span.clone();
            node = child;
        }
        if self.part == Part::Key {
            key_span
        } else {
            span
        }
    }
}

impl Default for SourceLocation {
    /// The location of defaults.
    fn default() -> Self {
        Self::whole_file(&Document::blank("defaults", Path::new(".")))
    }
}

impl PartialEq for SourceLocation {
    fn eq(&self, other: &Self) -> bool {
        self.document.name() == other.document.name()
            && self.path == other.path
            && self.part == other.part
    }
}

impl Eq for SourceLocation {}

impl fmt::Display for SourceLocation {
    /// Displays `file:line:column: path`, as far as these exist.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.document.name())?;
        if let Some(Position { line, column }) = self.position() {
            write!(f, ":{line}:{column}")?;
        }
        if !self.path.is_empty() {
            write!(f, ": {}", self.path)?;
        }
        Ok(())
    }
}

impl fmt::Debug for SourceLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SourceLocation({self})")
    }
}
