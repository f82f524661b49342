//! Problems: errors and warnings of a configuration, with their locations and hints.

use std::fmt;

use serde::ser::{Serialize, SerializeStruct, Serializer};

use crate::config::problems::error_locations::ErrorLocations;
use crate::config::problems::snippet::Snippet;
use crate::config::problems::suggest::did_you_mean;
use crate::config::problems::unknown;
use crate::config::read::document::Position;
use crate::config::read::source_location::SourceLocation;

/// How bad a [`Problem`] is.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Severity {
    /// The configuration cannot be used.
    Error,
    /// It can, but it is probably not what is meant.
    Warning,
}

/// One thing that is wrong, with its location.
///
/// Displayed in one line: `config/oneport.toml:41:12: websocket.route[1].consumer: unknown consumer "caht" (did you mean
/// "chat"?)`. [`Problem::long`] also shows the line of the file. Values that look secret
/// are hidden when a problem is made.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Problem {
    severity: Severity,
    location: SourceLocation,
    message: String,
    hint: Option<String>,
    details: Option<Box<Details>>,
}

/// What a problem of a key is about.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Details {
    /// The key that is missing at the location.
    missing: Option<&'static str>,
    /// The key that an unknown one was probably meant to be.
    meant: Option<SourceLocation>,
    /// All words that are known where this one is not; the message shows some of them at most.
    known: Vec<String>,
}

/// All problems of a configuration: what a failed read returns, and a list to add to.
///
/// Displayed one in a line, by file and position.
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
    /// An error. The message says what was expected and what was found, in lower case and
    /// without a full stop.
    pub fn error(location: SourceLocation, message: impl Into<String>) -> Self {
        Self::new(Severity::Error, location, &message.into())
    }

    /// A warning: it works, but is probably not what is meant.
    pub fn warning(location: SourceLocation, message: impl Into<String>) -> Self {
        Self::new(Severity::Warning, location, &message.into())
    }

    /// A name that is not known: suggests the nearest, or lists the known ones when none is near.
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

    /// A key that must be there, in the table at this location.
    pub(in crate::config) fn missing(location: SourceLocation, key: &'static str) -> Self {
        let mut problem = Self::error(location, format!("missing key {key:?}"));
        problem.details.get_or_insert_default().missing = Some(key);
        problem
    }

    /// Adds the key that was probably meant.
    #[must_use]
    pub(in crate::config) fn with_meant(mut self, meant: Option<SourceLocation>) -> Self {
        self.details.get_or_insert_default().meant = meant;
        self
    }

    /// Adds the words that are known at this location.
    #[must_use]
    pub(in crate::config) fn with_known(mut self, known: &[&str]) -> Self {
        let known = known.iter().map(|&word| word.to_owned());
        self.details.get_or_insert_default().known = known.collect();
        self
    }

    /// What the problem is about: the location itself, or where the missing key would be.
    pub(in crate::config) fn subject(&self) -> SourceLocation {
        match self.missing_key() {
            Some(key) => self.location.key(key),
            None => self.location.clone(),
        }
    }

    /// Everything that is wrong because of it: the subject, and the key that was meant.
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

    /// How bad it is.
    pub fn severity(&self) -> Severity {
        self.severity
    }

    /// Where it is.
    pub fn location(&self) -> &SourceLocation {
        &self.location
    }

    /// What is wrong.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// The words that are known where an unknown one was found; empty for other problems. The message shows some of
    /// them, or only the nearest.
    pub fn known(&self) -> &[String] {
        self.details.as_ref().map_or(&[], |details| &details.known)
    }

    /// The form for a terminal: the message, the line of the file, and a caret under the value.
    pub fn snippet(&self) -> Snippet<'_> {
        Snippet::new(self)
    }

    /// By file, then by position; problems of one location stay in their order.
    fn order(&self) -> (&str, Option<Position>) {
        (self.location.document().name(), self.location.position())
    }
}

impl Problems {
    /// Adds a problem.
    pub fn push(&mut self, problem: Problem) {
        self.0.push(problem);
    }

    /// Adds an error; use [`Problem::error`] and [`push`](Self::push) to give it a hint.
    pub fn error(&mut self, location: SourceLocation, message: impl Into<String>) {
        self.push(Problem::error(location, message));
    }

    /// Adds a warning.
    pub fn warning(&mut self, location: SourceLocation, message: impl Into<String>) {
        self.push(Problem::warning(location, message));
    }

    /// Takes over all problems of another list.
    pub fn append(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// Removes the problems at, around or inside a location that has an error already: they may be consequences of it.
    #[must_use]
    pub fn without(mut self, error_locations: &ErrorLocations) -> Self {
        self.0
            .retain(|problem| !error_locations.overlaps(&problem.subject()));
        self
    }

    /// Whether there is nothing to say.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether the configuration cannot be used: one of the problems is an error.
    pub fn is_fatal(&self) -> bool {
        self.0
            .iter()
            .any(|problem| problem.severity == Severity::Error)
    }

    /// The problems one by one.
    pub fn iter(&self) -> std::slice::Iter<'_, Problem> {
        self.0.iter()
    }

    /// Sorts by file and position, and removes duplicates: a misspelt key is not reported as missing too.
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

    /// The value together with the warnings, or all problems if one of them is an error; sorted.
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
