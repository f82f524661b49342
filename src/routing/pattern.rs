//! Route pattern: the paths that a route matches, as written in the file.

use std::fmt;
use std::str::FromStr;

use crate::routing::canonical::CanonicalPath;
use crate::routing::converter::Converter;
use crate::routing::params::Params;
use crate::routing::pattern_parser::{PatternError, parse_path};
use crate::routing::regex_pattern::RegexPattern;
use crate::routing::segment::{Mismatch, Segment, match_whole};

/// The paths that a route matches: a path with parameters, or a regular expression.
///
/// A path is written decoded, begins with a slash, and has at most one parameter in each segment:
/// `{name}` or `{name:str}` (anything without a slash), `{name:int}`, `{name:slug}` or
/// `{name:uuid}`. The last segment can be `{*name}`, which takes the rest of the path. `{{` and
/// `}}` are literal braces.
///
/// ```
/// use oneport::routing::RoutePattern;
///
/// let pattern = RoutePattern::path("/ws/chat/{room:slug}/")?;
/// let params = pattern.params_of("/ws/chat/lobby/").unwrap();
/// assert_eq!(params.get("room"), Some("lobby"));
/// assert!(pattern.params_of("/ws/chat/a.b/").is_none());
///
/// let error = RoutePattern::path("/n/{x:integer}/").unwrap_err();
/// assert_eq!(
///     error.to_string(),
///     "expected a converter (int, slug, str, uuid), found \"integer\", at byte 6 of the pattern",
/// );
/// # Ok::<(), oneport::routing::PatternError>(())
/// ```
#[derive(Clone, Debug)]
pub struct RoutePattern {
    written: String,
    kind: Kind,
    empty_rest: EmptyRest,
}

/// Whether a trailing catch-all matches the empty text.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum EmptyRest {
    No,
    /// `/files/{*path}` matches `/files/`.
    BehindSlash,
    /// It matches `/files` too.
    WithoutSlash,
}

#[derive(Clone, Debug)]
pub(super) enum Kind {
    Path(Vec<Segment>),
    Regex(RegexPattern),
}

impl RoutePattern {
    /// Parses a path pattern.
    pub fn path(text: &str) -> Result<Self, PatternError> {
        Ok(Self {
            written: text.to_owned(),
            kind: Kind::Path(parse_path(text)?),
            empty_rest: EmptyRest::No,
        })
    }

    /// Compiles a regular expression, like Django's `re_path`.
    ///
    /// The expression is applied to the decoded path without its leading slash. It can match
    /// anywhere unless it is anchored; one that ends in `$` must match the whole path. Named groups
    /// become parameters. If no group has a name, the groups become parameters `1`, `2` and so on.
    /// A group that takes no part in the match gives no parameter.
    ///
    /// ```
    /// use oneport::routing::RoutePattern;
    ///
    /// let pattern = RoutePattern::regex(r"^opt/(?:(?P<page>\d+)/)?$")?;
    /// assert_eq!(pattern.params_of("/opt/5/").unwrap().get("page"), Some("5"));
    /// assert!(pattern.params_of("/opt/").unwrap().is_empty());
    /// # Ok::<(), oneport::routing::PatternError>(())
    /// ```
    pub fn regex(source: &str) -> Result<Self, PatternError> {
        Ok(Self {
            written: source.to_owned(),
            kind: Kind::Regex(RegexPattern::compile(source)?),
            empty_rest: EmptyRest::No,
        })
    }

    /// Appends a pattern to this one, which becomes its prefix.
    ///
    /// The slash between them counts once. Each pattern matches its own part, and the match has the
    /// parameters of both. If both have a parameter of the same name, the inner value wins, as with
    /// nested `URLRouter`s in Django Channels. A regular expression or a path with a catch-all
    /// cannot be a prefix.
    ///
    /// ```
    /// use oneport::routing::RoutePattern;
    ///
    /// let prefix = RoutePattern::path("/number/{number:int}/")?;
    /// let pattern = prefix.join(&RoutePattern::path("/test/{page:int}/")?)?;
    /// assert_eq!(pattern.to_string(), "/number/{number:int}/test/{page:int}/");
    /// # Ok::<(), oneport::routing::PatternError>(())
    /// ```
    pub fn join(&self, inner: &Self) -> Result<Self, PatternError> {
        let refuse =
            |found: &str| PatternError::new("a prefix that is a path without catch-all", found, 0);
        let Kind::Path(outer) = &self.kind else {
            return Err(refuse("a regular expression"));
        };
        if let Some(Segment::Rest(param)) = outer.last() {
            return Err(refuse(&format!("\"{{*{}}}\"", param.name)));
        }
        let mut segments = outer.clone();
        if segments
            .last()
            .is_some_and(|last| matches!(last, Segment::Text(text) if text.is_empty()))
        {
            segments.pop();
        }
        let names: Vec<&str> = inner.param_names().collect();
        for param in segments.iter_mut().filter_map(Segment::param_mut) {
            param.shadowed |= names.contains(&&*param.name);
        }
        let front = self.written.strip_suffix('/').unwrap_or(&self.written);
        Ok(match &inner.kind {
            Kind::Path(path) => {
                segments.extend(path.iter().cloned());
                Self {
                    written: format!("{front}{}", inner.written),
                    kind: Kind::Path(segments),
                    empty_rest: inner.empty_rest,
                }
            }
            Kind::Regex(regex) => {
                segments.extend(regex.prefix().iter().cloned());
                let written = match inner.written.strip_prefix('/') {
                    Some(behind) if !regex.prefix().is_empty() => format!("{front}/{behind}"),
                    _ => format!("{front}/ {}", regex.source()),
                };
                Self {
                    written,
                    kind: Kind::Regex(regex.clone().behind(segments)),
                    empty_rest: EmptyRest::No,
                }
            }
        })
    }

    /// Lets the trailing catch-all match the empty text, so that `/files/{*path}` matches `/files/`
    /// too. A route whose pattern is `/files/` is still tried first.
    ///
    /// ```
    /// use oneport::routing::RoutePattern;
    ///
    /// let pattern = RoutePattern::path("/files/{*path}")?;
    /// assert!(pattern.params_of("/files/").is_none());
    /// let pattern = pattern.with_empty_rest();
    /// assert_eq!(pattern.params_of("/files/").unwrap().get("path"), Some(""));
    /// # Ok::<(), oneport::routing::PatternError>(())
    /// ```
    #[must_use]
    pub fn with_empty_rest(mut self) -> Self {
        self.empty_rest = EmptyRest::BehindSlash;
        self
    }

    /// Lets the trailing catch-all be left out together with its slash, so that `/admin/{*path}`
    /// matches `/admin/` and `/admin` too. For a route whose paths are another application's, which
    /// may take the two for the same.
    ///
    /// ```
    /// use oneport::routing::RoutePattern;
    ///
    /// let pattern = RoutePattern::path("/admin/{*path}")?.with_optional_rest();
    /// assert_eq!(pattern.params_of("/admin").unwrap().get("path"), Some(""));
    /// assert_eq!(pattern.params_of("/admin/").unwrap().get("path"), Some(""));
    /// assert!(pattern.params_of("/admins").is_none());
    /// # Ok::<(), oneport::routing::PatternError>(())
    /// ```
    #[must_use]
    pub fn with_optional_rest(mut self) -> Self {
        self.empty_rest = EmptyRest::WithoutSlash;
        self
    }

    /// Returns the paths that the pattern matches without its catch-all.
    pub(super) fn without_rest(&self) -> Vec<Vec<Segment>> {
        let Kind::Path(segments) = &self.kind else {
            return Vec::new();
        };
        let Some((Segment::Rest(_), before)) = segments.split_last() else {
            return Vec::new();
        };
        let end = Segment::Text(Box::default());
        let with_slash = before.iter().cloned().chain([end]).collect();
        match self.empty_rest {
            EmptyRest::No => Vec::new(),
            EmptyRest::WithoutSlash if !before.is_empty() => vec![with_slash, before.to_vec()],
            EmptyRest::BehindSlash | EmptyRest::WithoutSlash => vec![with_slash],
        }
    }

    /// Returns the parameters of a raw, percent-encoded path if this pattern matches it.
    pub fn params_of(&self, raw_path: &str) -> Option<Params> {
        let path = CanonicalPath::parse(raw_path).ok()?;
        self.capture(&path).ok()
    }

    /// Iterates over the names of the parameters that a match can have.
    pub fn param_names(&self) -> impl Iterator<Item = &str> {
        let (segments, regex) = match &self.kind {
            Kind::Path(segments) => (segments.as_slice(), None),
            Kind::Regex(regex) => (regex.prefix(), Some(regex)),
        };
        let params = segments
            .iter()
            .filter_map(Segment::param)
            .filter(|param| !param.shadowed);
        params
            .map(|param| &*param.name)
            .chain(regex.into_iter().flat_map(RegexPattern::names))
    }

    /// Returns whether the pattern is a regular expression.
    pub fn is_regex(&self) -> bool {
        matches!(self.kind, Kind::Regex(_))
    }

    pub(super) fn kind(&self) -> &Kind {
        &self.kind
    }

    /// Matches a path against this pattern alone.
    pub(super) fn capture<'a>(
        &'a self,
        path: &'a CanonicalPath<'_>,
    ) -> Result<Params, Mismatch<'a>> {
        match &self.kind {
            Kind::Regex(regex) => regex.capture(path),
            Kind::Path(segments) => {
                let mut params = Params::default();
                match match_whole(segments, path.relative(), &mut params) {
                    Err(Mismatch::Converter { param, found: "" })
                        if self.empty_rest != EmptyRest::No
                            && param.converter == Converter::Path =>
                    {
                        params.push(&param.name, "");
                    }
                    Err(Mismatch::Ended { segment })
                        if self.empty_rest == EmptyRest::WithoutSlash
                            && segment == segments.len()
                            && let Some(Segment::Rest(param)) = segments.last() =>
                    {
                        params.push(&param.name, "");
                    }
                    outcome => outcome?,
                }
                Ok(params)
            }
        }
    }
}

impl FromStr for RoutePattern {
    type Err = PatternError;

    /// Parses a path pattern; see [`RoutePattern::path`].
    fn from_str(text: &str) -> Result<Self, PatternError> {
        Self::path(text)
    }
}

impl fmt::Display for RoutePattern {
    /// Writes the pattern as in the file: the path, or the regular expression.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written)
    }
}

#[cfg(test)]
#[path = "tests/pattern.rs"]
mod tests;
