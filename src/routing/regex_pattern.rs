//! Regex pattern: a route written as a regular expression, like Django's `re_path`.

use std::sync::Arc;

use regex::Regex;

use crate::routing::canonical::{CanonicalPath, decode};
use crate::routing::language::{Language, Texts};
use crate::routing::params::Params;
use crate::routing::pattern_parser::PatternError;
use crate::routing::segment::{Mismatch, Segment, match_front};

/// A regular expression, after the segments of an include's prefix, if any.
#[derive(Clone, Debug)]
pub(super) struct RegexPattern {
    source: String,
    regex: Regex,
    /// The group numbers that become params, with their names.
    groups: Vec<(usize, Arc<str>)>,
    prefix: Vec<Segment>,
}

impl RegexPattern {
    /// Compiles an expression. As in Django, one that ends in `$` must match the whole path; any
    /// other can match anywhere.
    pub(super) fn compile(source: &str) -> Result<Self, PatternError> {
        // Compiled without our anchors first, so that an error message quotes the user's text.
        let alone = compile(source)?;
        let regex = if source.ends_with('$') {
            compile(&format!("^(?:{source})$"))?
        } else {
            alone
        };
        if let Some(error) = never_matches(source, regex.as_str()) {
            return Err(error);
        }
        let mut groups: Vec<(usize, Arc<str>)> = regex
            .capture_names()
            .enumerate()
            .filter_map(|(index, name)| Some((index, Arc::from(name?))))
            .collect();
        if groups.is_empty() {
            groups = (1..regex.captures_len())
                .map(|index| (index, Arc::from(index.to_string())))
                .collect();
        }
        Ok(Self {
            source: source.to_owned(),
            regex,
            groups,
            prefix: Vec::new(),
        })
    }

    /// Sets the segments of the prefix.
    pub(super) fn behind(mut self, prefix: Vec<Segment>) -> Self {
        self.prefix = prefix;
        self
    }

    /// Returns the regular expression as written.
    pub(super) fn source(&self) -> &str {
        &self.source
    }

    /// Returns whether the expression matches the decoded text after the prefix.
    pub(super) fn matches(&self, text: &str) -> bool {
        self.regex.is_match(text)
    }

    /// Returns the language of the expression, if it can be computed.
    pub(super) fn language(&self) -> Option<Language> {
        Language::new(self.regex.as_str())
    }

    /// Returns the segments of the prefix.
    pub(super) fn prefix(&self) -> &[Segment] {
        &self.prefix
    }

    /// Iterates over the names of the expression's own parameters.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.groups.iter().map(|(_, name)| &**name)
    }

    /// Matches a path. The expression sees decoded text without the leading slash and the prefix.
    pub(super) fn capture<'a>(
        &'a self,
        path: &'a CanonicalPath<'_>,
    ) -> Result<Params, Mismatch<'a>> {
        let mut params = Params::default();
        let left = match_front(&self.prefix, path.relative(), &mut params)?;
        let left = left.ok_or(Mismatch::Ended {
            segment: self.prefix.len() + 1,
        })?;
        let text = decode(left);
        let captures = self.regex.captures(&text).ok_or(Mismatch::Regex)?;
        for (group, name) in &self.groups {
            if let Some(value) = captures.get(*group) {
                params.push(name, value.as_str());
            }
        }
        Ok(params)
    }
}

/// Returns an error if the expression can match no path. `framed` is the expression with our
/// anchors, as used for matching.
fn never_matches(source: &str, framed: &str) -> Option<PatternError> {
    let mut language = Language::new(framed)?;
    let refuse = |expected: &str, why: &str| {
        Some(PatternError::new(expected, format!("{source:?}, {why}"), 0))
    };
    if language.is_empty(Texts::All) {
        refuse(
            "a regular expression that a path can match",
            "which matches no path",
        )
    } else if language.is_empty(Texts::WithoutLeadingSlash) {
        let bare = ["^/", "^\\/", "\\A/", "/"]
            .iter()
            .find_map(|start| source.strip_prefix(start))
            .map(|rest| format!("write '^{rest}'"));
        let error = refuse(
            "a regular expression without the leading slash",
            "which is matched against the path without its leading slash",
        )?;
        Some(PatternError {
            hint: bare,
            ..error
        })
    } else {
        None
    }
}

/// Compiles a regular expression. Condenses the library's multi-line error message into one line.
fn compile(source: &str) -> Result<Regex, PatternError> {
    Regex::new(source).map_err(|error| {
        let text = error.to_string();
        let is_caret_line = |line: &&str| line.trim().starts_with('^');
        // The library indents its excerpt by four spaces. The caret is only right for one-line
        // expressions.
        let caret = text
            .lines()
            .find(is_caret_line)
            .and_then(|line| line.find('^'));
        let position = caret
            .map_or(0, |caret| caret.saturating_sub(4))
            .min(source.len());
        let sentence = text.lines().last().unwrap_or_default().trim();
        let sentence = sentence.strip_prefix("error: ").unwrap_or(sentence);
        let hint = if source.contains("\\Z") {
            " (\"\\z\" or \"$\" for Python's \"\\Z\")"
        } else {
            ""
        };
        PatternError::new(format!("a regular expression{hint}"), sentence, position)
    })
}
