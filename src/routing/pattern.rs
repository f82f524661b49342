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
    end: End,
}

/// The ends of a path that the pattern matches.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum End {
    /// As it is written; a catch-all is not empty.
    AsWritten,
    /// `/files/{*path}` matches `/files/` too.
    EmptyRest,
    /// It matches `/files` too, and `/one` matches `/one/`, and the reverse.
    Optional,
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
            end: End::AsWritten,
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
            end: End::AsWritten,
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
        if segments.last().is_some_and(Segment::is_empty_text) {
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
                    end: inner.end,
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
                    end: End::AsWritten,
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
        self.end = End::EmptyRest;
        self
    }

    /// Lets the trailing catch-all be left out together with its slash, so that `/admin/{*path}`
    /// matches `/admin/` and `/admin` too. A path without catch-all may end with a slash or not. For
    /// a route whose paths are another application's, which may take the two for the same.
    ///
    /// ```
    /// use oneport::routing::RoutePattern;
    ///
    /// let pattern = RoutePattern::path("/admin/{*path}")?.with_optional_end();
    /// assert_eq!(pattern.params_of("/admin").unwrap().get("path"), Some(""));
    /// assert_eq!(pattern.params_of("/admin/").unwrap().get("path"), Some(""));
    /// assert!(pattern.params_of("/admins").is_none());
    /// let pattern = RoutePattern::path("/users/{id:int}")?.with_optional_end();
    /// assert_eq!(pattern.params_of("/users/7/").unwrap().get("id"), Some("7"));
    /// # Ok::<(), oneport::routing::PatternError>(())
    /// ```
    #[must_use]
    pub fn with_optional_end(mut self) -> Self {
        self.end = End::Optional;
        self
    }

    /// Returns the other paths that the pattern matches because of its end.
    pub(super) fn other_ends(&self) -> Vec<Vec<Segment>> {
        let Kind::Path(segments) = &self.kind else {
            return Vec::new();
        };
        let Some((last, before)) = segments.split_last() else {
            return Vec::new();
        };
        let with_slash = |segments: &[Segment]| {
            let end = Segment::Text(Box::default());
            segments.iter().cloned().chain([end]).collect()
        };
        match (self.end, last) {
            (End::AsWritten, _) => Vec::new(),
            (End::EmptyRest, Segment::Rest(_)) => vec![with_slash(before)],
            (End::EmptyRest, _) => Vec::new(),
            (End::Optional, Segment::Rest(_)) if !before.is_empty() => {
                vec![with_slash(before), before.to_vec()]
            }
            (End::Optional, Segment::Rest(_)) => vec![with_slash(before)],
            (End::Optional, last) if !last.is_empty_text() => vec![with_slash(segments)],
            (End::Optional, _) if !before.is_empty() => vec![before.to_vec()],
            (End::Optional, _) => Vec::new(),
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
                        if self.end != End::AsWritten && param.converter == Converter::Path =>
                    {
                        params.push(&param.name, "");
                    }
                    Err(Mismatch::Ended { segment })
                        if self.end == End::Optional
                            && segment == segments.len()
                            && let Some(Segment::Rest(param)) = segments.last() =>
                    {
                        params.push(&param.name, "");
                    }
                    Err(mismatch) if self.end == End::Optional => {
                        params = capture_other_slash(segments, path.relative()).ok_or(mismatch)?;
                    }
                    outcome => outcome?,
                }
                Ok(params)
            }
        }
    }
}

/// Matches a path without catch-all whose trailing slash is missing, or too many.
fn capture_other_slash(segments: &[Segment], path: &str) -> Option<Params> {
    let (last, before) = segments.split_last()?;
    let (segments, path) = match last {
        Segment::Rest(_) => return None,
        last if last.is_empty_text() && !before.is_empty() => (before, path),
        last if last.is_empty_text() => return None,
        _ => (segments, path.strip_suffix('/')?),
    };
    let mut params = Params::default();
    match_whole(segments, path, &mut params).ok()?;
    Some(params)
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
