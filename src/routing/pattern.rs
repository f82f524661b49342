//! Route pattern: which paths a route answers, as written in the file.

use std::fmt;
use std::str::FromStr;

use crate::routing::canonical::CanonicalPath;
use crate::routing::converter::Converter;
use crate::routing::params::Params;
use crate::routing::pattern_parser::{PatternError, parse_path};
use crate::routing::regex_pattern::RegexPattern;
use crate::routing::segment::{Mismatch, Segment, match_whole};

/// Which paths a route answers: a path with parameters, or a regular expression.
///
/// A path is written decoded, begins with a slash, and has at most one parameter in each segment: `{name}` or
/// `{name:str}` (anything without a slash), `{name:int}`, `{name:slug}`, `{name:uuid}`, and at the end
/// `{*name}` for the rest. `{{` and `}}` are braces that are meant literally.
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
    takes_empty_rest: bool,
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
            takes_empty_rest: false,
        })
    }

    /// Compiles a regular expression, Django's `re_path`.
    ///
    /// It is tried on the decoded path without its leading slash and may match anywhere in it, unless it is
    /// anchored; one that ends in `$` must match all of it. Named groups become params; if no group has a name,
    /// the groups become params `1`, `2` and so on. A group that takes no part in the match gives no param.
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
            takes_empty_rest: false,
        })
    }

    /// Puts a pattern behind this one, which becomes its prefix.
    ///
    /// The slash between them counts once. Both match their own part, and all params arrive together; where both
    /// have one of the same name, the inner value is kept, as with nested `URLRouter`s in Django Channels. A
    /// regular expression and a path with a catch-all cannot be a prefix.
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
                    takes_empty_rest: inner.takes_empty_rest,
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
                    takes_empty_rest: false,
                }
            }
        })
    }

    /// Lets the catch-all at the end match nothing, so that `/files/{*path}` matches `/files/` too. A route whose own path is
    /// `/files/` is still tried first.
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
        self.takes_empty_rest = true;
        self
    }

    /// Returns the segments of the path that ends where the catch-all begins, if the catch-all may be empty.
    pub(super) fn without_rest(&self) -> Option<Vec<Segment>> {
        match &self.kind {
            Kind::Path(segments) if self.takes_empty_rest => match segments.split_last() {
                Some((Segment::Rest(_), before)) => {
                    let end = Segment::Text(Box::default());
                    Some(before.iter().cloned().chain([end]).collect())
                }
                _ => None,
            },
            _ => None,
        }
    }

    /// Returns the params of a raw, percent-encoded path if this pattern alone matches it.
    pub fn params_of(&self, raw_path: &str) -> Option<Params> {
        let path = CanonicalPath::parse(raw_path).ok()?;
        self.capture(&path).ok()
    }

    /// Visits the names of the params that a match can have.
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

    /// Whether it was written as a regular expression.
    pub fn is_regex(&self) -> bool {
        matches!(self.kind, Kind::Regex(_))
    }

    pub(super) fn kind(&self) -> &Kind {
        &self.kind
    }

    /// Holds a path against this pattern alone.
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
                        if self.takes_empty_rest && param.converter == Converter::Path =>
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

    /// Parses a path pattern, see [`RoutePattern::path`].
    fn from_str(text: &str) -> Result<Self, PatternError> {
        Self::path(text)
    }
}

impl fmt::Display for RoutePattern {
    /// Writes it as in the file: the path, or the regular expression.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(pattern: &str, raw_path: &str) -> Option<Vec<(String, String)>> {
        let pattern = RoutePattern::path(pattern).unwrap();
        let params = pattern.params_of(raw_path)?;
        Some(
            params
                .iter()
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
        )
    }

    fn value(pattern: &str, raw_path: &str) -> Option<String> {
        params(pattern, raw_path).map(|params| params[0].1.clone())
    }

    #[test]
    fn literal_text_is_compared_decoded() {
        assert!(params("/café/", "/caf%C3%A9/").is_some());
        assert!(params("/foo/", "/%66oo/").is_some());
        assert!(params("/foo/", "//foo/").is_none());
        assert!(params("/100%/", "/100%25/").is_some());
        assert!(params("/{{x}}/", "/%7Bx%7D/").is_some());
        assert!(params("/a/b/", "/a%2Fb/").is_none());
    }

    #[test]
    fn an_encoded_slash_makes_no_segment_and_only_a_catch_all_takes_it() {
        assert_eq!(value("/s/{name}/", "/s/a%2Fb/"), None);
        assert_eq!(value("/s/{name}/", "/s/a%252Fb/").as_deref(), Some("a%2Fb"));
        assert_eq!(value("/p/{*rest}", "/p/a%2Fb/c").as_deref(), Some("a/b/c"));
    }

    #[test]
    fn text_around_a_parameter_is_held_against_whole_characters() {
        assert_eq!(
            value("/img-{id:int}.png", "/img-7.png").as_deref(),
            Some("7")
        );
        assert_eq!(value("/img-{id}.png", "/img-.png"), None);
        assert_eq!(value("/{x}5", "/a%25"), None);
        assert_eq!(value("/{x}F", "/a%2F"), None);
        assert_eq!(value("/{x}%", "/a%25").as_deref(), Some("a"));
    }

    #[test]
    fn a_catch_all_is_not_empty() {
        assert_eq!(value("/p/{*rest}", "/p/"), None);
        assert_eq!(value("/p/{*rest}", "/p"), None);
        assert_eq!(value("/p/{*rest}", "/p//").as_deref(), Some("/"));
    }

    #[test]
    fn a_bad_regex_says_where() {
        let error = RoutePattern::regex("ab(c").unwrap_err();
        assert_eq!(
            error.to_string(),
            "expected a regular expression, found unclosed group, at byte 2 of the pattern"
        );
        let error = RoutePattern::regex(r"a\Z").unwrap_err();
        assert!(error.to_string().contains(r"\z"), "{error}");
    }

    #[test]
    fn a_regex_searches_unless_it_ends_in_a_dollar() {
        let matches = |source: &str, path: &str| {
            RoutePattern::regex(source)
                .unwrap()
                .params_of(path)
                .is_some()
        };
        assert!(matches("bar", "/foo/bar/baz/"));
        assert!(!matches("bar/$", "/foo/bar/"));
        assert!(matches("foo|bar$", "/bar"));
        assert!(!matches("foo|bar$", "/foo/x"));
    }

    #[test]
    fn named_groups_hide_unnamed_ones() {
        let pattern = RoutePattern::regex(r"^(\d+)/(?P<b>\w+)/$").unwrap();
        assert_eq!(
            pattern
                .params_of("/1/x/")
                .unwrap()
                .iter()
                .collect::<Vec<_>>(),
            [("b", "x")]
        );
        let pattern = RoutePattern::regex(r"^(\d+)/(\w+)/$").unwrap();
        assert_eq!(
            pattern
                .params_of("/1/x/")
                .unwrap()
                .iter()
                .collect::<Vec<_>>(),
            [("1", "1"), ("2", "x")]
        );
    }

    #[test]
    fn the_inner_value_wins_behind_a_prefix() {
        let prefix = RoutePattern::path("/{k}/").unwrap();
        let joined = prefix
            .join(&RoutePattern::path("/{k:slug}/").unwrap())
            .unwrap();
        assert_eq!(
            joined
                .params_of("/a/b/")
                .unwrap()
                .iter()
                .collect::<Vec<_>>(),
            [("k", "b")]
        );
        let joined = prefix
            .join(&RoutePattern::regex("^(?P<k>x+)$").unwrap())
            .unwrap();
        assert_eq!(
            joined
                .params_of("/a/xx")
                .unwrap()
                .iter()
                .collect::<Vec<_>>(),
            [("k", "xx")]
        );
        assert!(joined.params_of("/xx").is_none());
    }

    #[test]
    fn prefixes_nest_and_the_slash_between_counts_once() {
        let path = |text: &str| RoutePattern::path(text).unwrap();
        let check = |joined: RoutePattern, raw_path: &str| {
            assert!(joined.params_of(raw_path).is_some(), "{joined}");
        };
        check(path("/chat").join(&path("/")).unwrap(), "/chat/");
        check(path("/").join(&path("/x")).unwrap(), "/x");
        check(
            path("/a/")
                .join(&path("/b/").join(&path("/c")).unwrap())
                .unwrap(),
            "/a/b/c",
        );
        let regex = RoutePattern::regex("^x$").unwrap();
        let nested = path("/a/").join(&path("/b").join(&regex).unwrap()).unwrap();
        assert_eq!(nested.to_string(), "/a/b/ ^x$");
        check(nested, "/a/b/x");
        assert!(path("/{*rest}").join(&path("/x")).is_err());
        assert!(regex.join(&path("/x")).is_err());
    }
}
