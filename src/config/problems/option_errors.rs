//! Option errors: the options that a view, a consumer or middleware refuses, and why.

use std::fmt;

use super::problem::{Problem, Problems};
use crate::config::Options;

/// A refused option.
///
/// ```
/// use oneport::config::OptionError;
///
/// let error = OptionError::new("tokens[0].name", "expected a name, found \"\"").with_hint("write one");
/// assert_eq!(error.to_string(), "tokens[0].name: expected a name, found \"\" (write one)");
/// ```
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct OptionError {
    key: String,
    message: String,
    hint: Option<String>,
}

impl OptionError {
    /// An error of the option `key`: a key of the options, or a path below it such as
    /// `tokens[0].name`. The key need not be in the file; an empty one means the options as a
    /// whole.
    ///
    /// The message is lower case and has no full stop.
    pub fn new(key: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            key: key.into(),
            message: message.into(),
            hint: None,
        }
    }

    /// Adds a hint: what to write instead, or what to do.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds a hint, if there is one.
    #[must_use]
    pub fn with_hint_if(mut self, hint: Option<String>) -> Self {
        self.hint = hint;
        self
    }
}

/// All refused options: the error of `View::new` and of the other constructors that take options.
///
/// `check`, `serve` and a reload report each of them at the line and column of its key.
///
/// ```
/// use oneport::config::{OptionError, OptionErrors};
///
/// fn retries(retries: u32) -> Result<u32, OptionErrors> {
///     if retries > 10 {
///         return Err(OptionError::new("retries", format!("expected at most 10, found {retries}")).into());
///     }
///     Ok(retries)
/// }
/// assert_eq!(retries(11).unwrap_err().to_string(), "retries: expected at most 10, found 11");
/// ```
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct OptionErrors(Vec<OptionError>);

impl OptionErrors {
    /// Adds an error.
    pub fn push(&mut self, error: OptionError) {
        self.0.push(error);
    }

    /// Adds an error without a hint.
    pub fn error(&mut self, key: impl Into<String>, message: impl Into<String>) {
        self.push(OptionError::new(key, message));
    }

    /// Adds the errors of another check.
    pub fn append(&mut self, mut other: Self) {
        self.0.append(&mut other.0);
    }

    /// Returns whether there is no error.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the value if there is no error.
    pub fn into_result<T>(self, value: T) -> Result<T, Self> {
        if self.0.is_empty() {
            Ok(value)
        } else {
            Err(self)
        }
    }

    /// Locates each error in the file that the options come from.
    #[must_use]
    pub fn into_problems(self, options: &Options) -> Problems {
        let mut problems = Problems::default();
        for error in self.0 {
            let location = match error.key.as_str() {
                "" => options.location().clone(),
                key => options.location().below(key),
            };
            problems.push(Problem::error(location, error.message).with_hint_if(error.hint));
        }
        problems
    }
}

impl From<OptionError> for OptionErrors {
    fn from(error: OptionError) -> Self {
        Self(vec![error])
    }
}

impl Extend<OptionError> for OptionErrors {
    fn extend<T: IntoIterator<Item = OptionError>>(&mut self, errors: T) {
        self.0.extend(errors);
    }
}

impl FromIterator<OptionError> for OptionErrors {
    fn from_iter<T: IntoIterator<Item = OptionError>>(errors: T) -> Self {
        Self(errors.into_iter().collect())
    }
}

impl fmt::Display for OptionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)?;
        match &self.hint {
            Some(hint) => write!(f, " ({hint})"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for OptionErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            error.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for OptionError {}

impl std::error::Error for OptionErrors {}
