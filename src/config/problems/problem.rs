//! Problems: the errors and warnings of a configuration, with location and advice.

use std::fmt;

use serde::ser::{Serialize, SerializeStruct, Serializer};

use crate::config::problems::error_locations::ErrorLocations;
use crate::config::problems::snippet::Snippet;
use crate::config::problems::suggest::did_you_mean;
use crate::config::problems::unknown;
use crate::config::read::document::Position;
use crate::config::read::source_location::SourceLocation;

/// The severity of a [`Problem`].
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Severity {
    /// The configuration cannot be used.
    Error,
    /// The configuration works but is probably a mistake.
    Warning,
}

/// An error or a warning, with its location.
///
/// Displayed in one line:
/// `config/oneport.toml:41:12: websocket.route[1].consumer: unknown consumer "caht" (did you mean "chat"?)`.
/// [`Problem::snippet`] also shows the source line. Values that look secret are hidden when the
/// problem is created.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Problem {
    severity: Severity,
    location: SourceLocation,
    message: String,
    hint: Option<String>,
    details: Option<Box<Details>>,
}

/// Details of a problem with a key.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Details {
    /// The key that is missing at the location.
    missing: Option<&'static str>,
    /// The key that an unknown one was probably meant to be.
    meant: Option<SourceLocation>,
    /// All known words where an unknown one was found; the message shows only some.
    known: Vec<String>,
}

/// All problems of a configuration: the error of a failed read, and a list to add to.
///
/// Displayed one per line, sorted by file and position.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Problems(Vec<Problem>);

impl Severity {
    /// `error` or `warning`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

impl Problem {
    /// An error. The message names what was expected and what was found, in lower case and without
    /// a full stop.
    pub fn error(location: SourceLocation, message: impl Into<String>) -> Self {
        Self::new(Severity::Error, location, &message.into())
    }

    /// A warning: it works but is probably a mistake.
    pub fn warning(location: SourceLocation, message: impl Into<String>) -> Self {
        Self::new(Severity::Warning, location, &message.into())
    }

    /// An unknown name. Suggests the nearest known name, or lists the known ones if none is near.
    ///
    /// ```
    /// # use oneport::config::{SourceLocation, Problem};
    /// let problem = Problem::unknown(SourceLocation::default(), "consumer", "caht", ["chat", "echo"]);
    /// assert_eq!(problem.to_string(), r#"defaults: unknown consumer "caht" (did you mean "chat"?)"#);
    /// let problem = Problem::unknown(SourceLocation::default(), "consumer", "x", ["chat", "echo"]);
    /// assert_eq!(problem.to_string(), r#"defaults: unknown consumer "x"; known: chat, echo"#);
    /// ```
    pub fn unknown<'k>(
        location: SourceLocation,
        what: &str,
        found: &str,
        known: impl IntoIterator<Item = &'k str> + Clone,
    ) -> Self {
        let message = format!("unknown {what} {found:?}");
        let hint = did_you_mean(found, known.clone());
        let known: Vec<&str> = known.into_iter().collect();
        match hint {
            Some(hint) => Self::error(location, message).with_hint(hint),
            None => Self::error(location, format!("{message}; {}", unknown::list(&known))),
        }
        .with_known(&known)
    }

    fn new(severity: Severity, location: SourceLocation, message: &str) -> Self {
        let message = location.document().hide_secrets(message);
        Self {
            severity,
            location,
            message,
            hint: None,
            details: None,
        }
    }

    /// A required key that is missing in the table at this location.
    pub(in crate::config) fn missing(location: SourceLocation, key: &'static str) -> Self {
        let mut problem = Self::error(location, format!("missing key {key:?}"));
        problem.details.get_or_insert_default().missing = Some(key);
        problem
    }

    /// Notes which key an unknown one was probably meant to be.
    #[must_use]
    pub(in crate::config) fn with_meant(mut self, meant: Option<SourceLocation>) -> Self {
        self.details.get_or_insert_default().meant = meant;
        self
    }

    /// Notes the words that are known at this location.
    #[must_use]
    pub(in crate::config) fn with_known(mut self, known: &[&str]) -> Self {
        let known = known.iter().map(|&word| word.to_owned());
        self.details.get_or_insert_default().known = known.collect();
        self
    }

    /// Returns the location itself, or where the missing key would be.
    pub(in crate::config) fn subject(&self) -> SourceLocation {
        match self.missing_key() {
            Some(key) => self.location.key(key),
            None => self.location.clone(),
        }
    }

    /// Returns the locations that have this error: the subject, and the key that was meant.
    pub(in crate::config) fn error_locations(&self) -> impl Iterator<Item = SourceLocation> {
        std::iter::once(self.subject()).chain(self.meant().cloned())
    }

    fn missing_key(&self) -> Option<&'static str> {
        self.details.as_ref()?.missing
    }

    fn meant(&self) -> Option<&SourceLocation> {
        self.details.as_ref()?.meant.as_ref()
    }

    /// Adds a hint: what to write, or what to do.
    #[must_use]
    pub fn with_hint(self, hint: impl Into<String>) -> Self {
        self.with_hint_if(Some(hint.into()))
    }

    /// Adds a hint, if there is one.
    #[must_use]
    pub fn with_hint_if(mut self, hint: Option<String>) -> Self {
        self.hint = hint.map(|hint| self.location.document().hide_secrets(&hint));
        self
    }

    /// Returns the severity.
    pub fn severity(&self) -> Severity {
        self.severity
    }

    /// Returns the location.
    pub fn location(&self) -> &SourceLocation {
        &self.location
    }

    /// Returns the message.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Returns the hint.
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// Returns the words that are known where an unknown one was found; none for other problems.
    /// The message shows only some of them, or the nearest.
    pub fn known(&self) -> &[String] {
        self.details.as_ref().map_or(&[], |details| &details.known)
    }

    /// Returns the form for a terminal: the message, the source line, and carets under the value.
    pub fn snippet(&self) -> Snippet<'_> {
        Snippet::new(self)
    }

    /// Sorts by file, then by position; the first problem at a location stays first.
    fn order(&self) -> (&str, Option<Position>) {
        (self.location.document().name(), self.location.position())
    }
}

impl Problems {
    /// Adds a problem.
    pub fn push(&mut self, problem: Problem) {
        self.0.push(problem);
    }

    /// Adds an error without a hint. With a hint, use [`Problem::error`] and [`push`](Self::push).
    pub fn error(&mut self, location: SourceLocation, message: impl Into<String>) {
        self.push(Problem::error(location, message));
    }

    /// Adds a warning without a hint.
    pub fn warning(&mut self, location: SourceLocation, message: impl Into<String>) {
        self.push(Problem::warning(location, message));
    }

    /// Moves all problems of another list into this one.
    pub fn append(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// Drops the problems at, around or inside these locations: they may be consequences of the
    /// errors there.
    #[must_use]
    pub fn without(mut self, error_locations: &ErrorLocations) -> Self {
        self.0
            .retain(|problem| !error_locations.overlaps(&problem.subject()));
        self
    }

    /// Returns whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns how many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns whether the configuration cannot be used: one of the problems is an error.
    pub fn is_fatal(&self) -> bool {
        self.0
            .iter()
            .any(|problem| problem.severity == Severity::Error)
    }

    /// Iterates over the problems.
    pub fn iter(&self) -> std::slice::Iter<'_, Problem> {
        self.0.iter()
    }

    /// Sorts by file and position, and drops repetitions: a misspelt key is not also missing.
    #[must_use]
    pub fn sorted(mut self) -> Self {
        let meant: Vec<SourceLocation> = self
            .0
            .iter()
            .filter_map(|one| one.meant().cloned())
            .collect();
        self.0.retain(|problem| {
            problem.missing_key().is_none() || !meant.contains(&problem.subject())
        });
        self.0.sort_by(|a, b| a.order().cmp(&b.order()));
        let mut kept: Vec<Problem> = Vec::with_capacity(self.0.len());
        for problem in self.0 {
            let first = kept.partition_point(|earlier| earlier.order() < problem.order());
            if !kept[first..].contains(&problem) {
                kept.push(problem);
            }
        }
        Self(kept)
    }

    /// Returns the value with the warnings, or all problems if one of them is an error.
    pub fn into_result<T>(self, value: T) -> Result<(T, Self), Self> {
        let problems = self.sorted();
        if problems.is_fatal() {
            Err(problems)
        } else {
            Ok((value, problems))
        }
    }
}

impl IntoIterator for Problems {
    type Item = Problem;
    type IntoIter = std::vec::IntoIter<Problem>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a> IntoIterator for &'a Problems {
    type Item = &'a Problem;
    type IntoIter = std::slice::Iter<'a, Problem>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl std::error::Error for Problem {}

impl std::error::Error for Problems {}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.location)?;
        if self.severity == Severity::Warning {
            f.write_str("warning: ")?;
        }
        f.write_str(&self.message)?;
        match &self.hint {
            Some(hint) => write!(f, " ({hint})"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl Serialize for Problem {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let position = self.location.position();
        let mut fields = serializer.serialize_struct("Problem", 8)?;
        fields.serialize_field("file", self.location.document().name())?;
        fields.serialize_field("line", &position.map(|position| position.line))?;
        fields.serialize_field("column", &position.map(|position| position.column))?;
        fields.serialize_field("path", self.location.path())?;
        fields.serialize_field("severity", self.severity.as_str())?;
        fields.serialize_field("message", &self.message)?;
        fields.serialize_field("hint", &self.hint)?;
        fields.serialize_field("known", self.known())?;
        fields.end()
    }
}

impl Serialize for Problems {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(&self.0)
    }
}
