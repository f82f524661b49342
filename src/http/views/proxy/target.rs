//! Target: the path and query that the upstream gets for a request.

use http::uri::PathAndQuery;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use crate::config::{OptionError, OptionErrors};
use crate::http::Failure;
use crate::routing::{ParamNames, RoutePattern};
use crate::scope::Scope;

/// The characters of a parameter to encode. A slash in a parameter is part of its segment.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'@')
    .remove(b':')
    .remove(b'!')
    .remove(b'$')
    .remove(b'&')
    .remove(b'\'')
    .remove(b'(')
    .remove(b')')
    .remove(b'*')
    .remove(b'+')
    .remove(b',')
    .remove(b'=');

/// How the path of a request becomes the path for the upstream.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) enum PathRule {
    /// As received.
    #[default]
    Keep,
    /// Without `server.root_path` and this prefix, which begins with a slash and does not end with
    /// one.
    Strip(Box<str>),
    /// Another path.
    Rewrite(PathTemplate),
}

/// A path with parameters of the route: `/v2/{path}`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct PathTemplate {
    parts: Box<[Part]>,
    /// The catch-all of the route, with the number of slashes in front of it.
    rest: Option<(Box<str>, usize)>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum Part {
    Literal(Box<str>),
    Param(Box<str>),
}

impl PathRule {
    /// Parses the options `strip_prefix` and `rewrite`.
    pub(crate) fn parse(
        strip_prefix: &str,
        rewrite: Option<&str>,
        errors: &mut OptionErrors,
    ) -> Self {
        let strip = strip_prefix.trim_end_matches('/');
        if !strip_prefix.is_empty() && !is_plain_path(strip_prefix) {
            let message = format!(
                "expected a path such as \"/api\", decoded and without a query, found {strip_prefix:?}"
            );
            errors.error("strip_prefix", message);
        }
        let Some(rewrite) = rewrite else {
            return match strip {
                "" => Self::Keep,
                prefix => Self::Strip(prefix.into()),
            };
        };
        if !strip.is_empty() {
            let error = OptionError::new("rewrite", "\"strip_prefix\" has no effect beside it");
            errors.push(error.with_hint("remove one of them"));
        }
        match PathTemplate::parse(rewrite) {
            Some(template) => Self::Rewrite(template),
            None => {
                let message = format!(
                    "expected a path such as \"/v2/{{path}}\", without a query, found {rewrite:?}"
                );
                errors.error("rewrite", message);
                Self::Keep
            }
        }
    }

    /// Attaches the rule to its route.
    pub(crate) fn mount(
        &mut self,
        pattern: Option<&RoutePattern>,
        params: &ParamNames,
    ) -> Vec<OptionError> {
        match self {
            Self::Keep => Vec::new(),
            Self::Strip(prefix) => {
                let written = pattern.filter(|pattern| !pattern.is_regex());
                let written = written.map(ToString::to_string);
                match written.filter(|written| !is_below(written, prefix)) {
                    Some(written) => {
                        let message = format!(
                            "expected the start of the route's path {written:?}, found {prefix:?}"
                        );
                        vec![OptionError::new("strip_prefix", message)]
                    }
                    None => Vec::new(),
                }
            }
            Self::Rewrite(template) => template.mount(pattern, params),
        }
    }

    /// Returns the prefix that is removed, without the root path; "" for none.
    pub(crate) fn stripped(&self) -> &str {
        match self {
            Self::Strip(prefix) => prefix,
            Self::Keep | Self::Rewrite(_) => "",
        }
    }

    /// Returns the start of the path that replaces the route's, before its first parameter.
    pub(crate) fn rewritten(&self) -> Option<&str> {
        match self {
            Self::Rewrite(template) => match template.parts.first() {
                Some(Part::Literal(text)) => Some(text),
                _ => Some("/"),
            },
            Self::Keep | Self::Strip(_) => None,
        }
    }

    /// Returns the target for the upstream.
    ///
    /// Refuses a path that some servers resolve to another one: dot segments behind a backslash or
    /// before a parameter (`..;x`). The router has refused plain ones and control characters.
    pub(crate) fn target(&self, scope: &Scope) -> Result<PathAndQuery, Failure> {
        let raw = scope.raw_path();
        let below = || raw.strip_prefix(scope.root_path()).unwrap_or(raw);
        let path = match self {
            Self::Keep => {
                refuse_ambiguous(raw)?;
                return Ok(scope.target.clone());
            }
            Self::Strip(prefix) => match strip(below(), prefix) {
                Some(rest) => format!("/{}", rest.trim_start_matches('/')),
                None => below().to_owned(),
            },
            Self::Rewrite(template) => template.fill(scope, below()),
        };
        refuse_ambiguous(&path)?;
        let target = match scope.target.query() {
            Some(query) => format!("{path}?{query}"),
            None => path,
        };
        PathAndQuery::try_from(target).map_err(Failure::from)
    }
}

impl PathTemplate {
    fn parse(text: &str) -> Option<Self> {
        let is_allowed = |found: char| found > ' ' && !matches!(found, '?' | '#' | '\\' | '\u{7f}');
        if !text.starts_with('/') || !text.chars().all(is_allowed) {
            return None;
        }
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, from)) = rest.split_once('{') {
            let (name, behind) = from.split_once('}')?;
            if name.is_empty() || before.contains('}') {
                return None;
            }
            parts.push(Part::Literal(before.into()));
            parts.push(Part::Param(name.into()));
            rest = behind;
        }
        if rest.contains('}') {
            return None;
        }
        parts.push(Part::Literal(rest.into()));
        Some(Self {
            parts: parts.into(),
            rest: None,
        })
    }

    fn mount(&mut self, pattern: Option<&RoutePattern>, params: &ParamNames) -> Vec<OptionError> {
        let written = pattern.filter(|pattern| !pattern.is_regex());
        let written = written.map(ToString::to_string).unwrap_or_default();
        if let Some((before, rest)) = written.split_once("{*") {
            let name = rest.trim_end_matches('}');
            self.rest = Some((name.into(), before.matches('/').count()));
        }
        let missing = self.parts.iter().filter_map(|part| match part {
            Part::Param(name) => params.missing(name),
            Part::Literal(_) => None,
        });
        missing.map(|missing| missing.at("rewrite")).collect()
    }

    /// Returns the path. The catch-all is taken as received, so that an encoded slash in it stays
    /// encoded; other parameters are percent-encoded.
    fn fill(&self, scope: &Scope, below: &str) -> String {
        let mut path = String::new();
        for part in &self.parts {
            let name = match part {
                Part::Literal(text) => {
                    path.push_str(text);
                    continue;
                }
                Part::Param(name) => name,
            };
            match &self.rest {
                Some((rest, slashes)) if rest == name => {
                    path.push_str(
                        below
                            .splitn(slashes + 1, '/')
                            .nth(*slashes)
                            .unwrap_or_default(),
                    );
                }
                _ => path.extend(utf8_percent_encode(scope.param(name), SEGMENT)),
            }
        }
        // Two slashes at the start would be read as a host.
        format!("/{}", path.trim_start_matches('/'))
    }
}

/// Returns whether a text is a path without anything that has to be encoded or resolved.
fn is_plain_path(text: &str) -> bool {
    let is_allowed = |found: char| {
        found > ' ' && !matches!(found, '?' | '#' | '%' | '\\' | '{' | '}' | '\u{7f}')
    };
    text.starts_with('/')
        && text.chars().all(is_allowed)
        && !text.contains("//")
        && !text.split('/').any(|segment| matches!(segment, "." | ".."))
}

/// Returns whether a path is `prefix` or below it.
pub(super) fn is_below(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Returns the rest of a raw path behind a prefix, however the client encoded the prefix.
fn strip<'p>(raw: &'p str, prefix: &str) -> Option<&'p str> {
    let mut rest = raw;
    for expected in prefix.split('/').skip(1) {
        rest = rest.strip_prefix('/')?;
        let end = rest.find('/').unwrap_or(rest.len());
        let (segment, behind) = rest.split_at(end);
        if !percent_decode_str(segment).eq(expected.bytes()) {
            return None;
        }
        rest = behind;
    }
    Some(rest)
}

fn refuse_ambiguous(path: &str) -> Result<(), Failure> {
    // Most paths have none of these bytes.
    if !path
        .bytes()
        .any(|byte| matches!(byte, b'%' | b';' | b'\\' | b'.'))
    {
        return Ok(());
    }
    let decoded: Vec<u8> = percent_decode_str(path).collect();
    let is_dots = |segment: &[u8]| {
        let end = segment.iter().position(|byte| *byte == b';');
        matches!(&segment[..end.unwrap_or(segment.len())], b"." | b"..")
    };
    match decoded
        .split(|byte| matches!(byte, b'/' | b'\\'))
        .any(is_dots)
    {
        true => Err(Failure::bad_request(
            "expected no \".\" or \"..\" segment in the path",
        )),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http::Method;

    use super::*;
    use crate::scope::{App, ScopeType};
    use crate::state::State;

    fn rule(strip_prefix: &str, rewrite: Option<&str>) -> PathRule {
        let mut errors = OptionErrors::default();
        let rule = PathRule::parse(strip_prefix, rewrite, &mut errors);
        assert!(errors.is_empty(), "{errors}");
        rule
    }

    /// The target that the upstream gets for a request to a route.
    fn target(rule: &PathRule, pattern: &str, root_path: &str, target: &str) -> String {
        let pattern = RoutePattern::path(pattern).unwrap().with_empty_rest();
        let mut rule = rule.clone();
        let params = ParamNames::new(&pattern, []);
        assert_eq!(rule.mount(Some(&pattern), &params), []);
        let mut scope = Scope::new(ScopeType::Http, Method::GET, target.parse().unwrap());
        let raw = scope.raw_path().strip_prefix(root_path).unwrap().to_owned();
        scope.url_route.params = pattern.params_of(&raw).unwrap();
        if !root_path.is_empty() {
            scope.app = Some(Arc::new(App {
                root_path: root_path.into(),
                state: State::default(),
            }));
        }
        match rule.target(&scope) {
            Ok(target) => target.to_string(),
            Err(failure) => failure.status().to_string(),
        }
    }

    #[test]
    fn the_path_is_kept_as_received() {
        for path in [
            "/",
            "/a%2Fb//c/%41?x=%20&y",
            "//a",
            "/a;v=1/b",
            "/?",
            "/caf%C3%A9/...",
        ] {
            assert_eq!(target(&rule("", None), "/{*path}", "", path), path);
        }
        assert_eq!(
            target(&rule("", None), "/{*path}", "/sub", "/sub/a"),
            "/sub/a"
        );
    }

    #[test]
    fn a_prefix_is_removed_with_the_root_path() {
        let check = |path: &str, expected: &str| {
            let strip = rule("/api", None);
            assert_eq!(target(&strip, "/api/{*path}", "", path), expected, "{path}");
        };
        check("/api/users/?a=b", "/users/?a=b");
        check("/api/", "/");
        check("/%61pi/x", "/x");
        check("/api/a%2Fb", "/a%2Fb");
        // Two slashes would be read as a host.
        check("/api//evil.test/", "/evil.test/");
        check("/api///", "/");
        let two = rule("/api/v1/", None);
        assert_eq!(target(&two, "/api/v1/{*path}", "", "/api/v1/x"), "/x");
        assert_eq!(
            target(&two, "/api/v1/{*path}", "/sub", "/sub/api/v1/x?q"),
            "/x?q"
        );
        assert_eq!(target(&rule("/a", None), "/a", "", "/a"), "/");
        assert_eq!(target(&rule("/a", None), "/a", "", "/a?x"), "/?x");
    }

    #[test]
    fn a_path_is_rewritten_with_the_parameters_of_the_route() {
        let check = |rewrite: &str, pattern: &str, path: &str, expected: &str| {
            let rewrite = rule("", Some(rewrite));
            assert_eq!(target(&rewrite, pattern, "", path), expected, "{path}");
        };
        check("/v2/{path}", "/api/{*path}", "/api/a/b?c=d", "/v2/a/b?c=d");
        check(
            "/v2/{path}",
            "/api/{*path}",
            "/api/a%2Fb/%C3%A9",
            "/v2/a%2Fb/%C3%A9",
        );
        check("/v2/{path}", "/api/{*path}", "/api/", "/v2/");
        check("/v2/{path}", "/api/{*path}", "/api//x", "/v2//x");
        check("/{path}", "/api/{*path}", "/api//evil.test/", "/evil.test/");
        check(
            "/user-{id}.json",
            "/u/{id}/",
            "/u/a%25b%3Fc%23/",
            "/user-a%25b%3Fc%23.json",
        );
        check("/u/{id}/x", "/u/{id}/", "/u/%C3%A9/", "/u/%C3%A9/x");
        check("/fixed", "/u/{id}/", "/u/1/?q", "/fixed?q");
        // The parameter is not a dot segment in the route's path, but would be one in the other.
        check("/files/{id}/x", "/u-{id}/", "/u-../", "400 Bad Request");
    }

    #[test]
    fn paths_that_servers_resolve_differently_are_refused() {
        for path in [
            "/a/..;/b",
            "/a/..%3Bx=1/b",
            "/a/..\\b",
            "/a/..%5Cb",
            "/a%5C..%5Cb",
            "/a/.;/b",
            "/a/%2e%2e;x/b",
        ] {
            assert_eq!(
                target(&rule("", None), "/{*path}", "", path),
                "400 Bad Request",
                "{path}"
            );
        }
    }

    #[test]
    fn options_that_do_not_fit_are_errors() {
        let check = |strip: &str, rewrite: Option<&str>, pattern: &str, expected: &str| {
            let mut errors = OptionErrors::default();
            let mut rule = PathRule::parse(strip, rewrite, &mut errors);
            let pattern = RoutePattern::path(pattern).unwrap();
            let params = ParamNames::new(&pattern, []);
            errors.extend(rule.mount(Some(&pattern), &params));
            assert_eq!(errors.to_string(), expected);
        };
        let not_a_path =
            "strip_prefix: expected a path such as \"/api\", decoded and without a query, found";
        for strip in ["api", "/a?b", "/a%20b", "/a/../b", "//a", "/{x}", "/a b"] {
            let expected = format!("{not_a_path} {strip:?}");
            let mut errors = OptionErrors::default();
            PathRule::parse(strip, None, &mut errors);
            assert_eq!(errors.to_string(), expected);
        }
        check(
            "/api",
            None,
            "/apis/{*path}",
            "strip_prefix: expected the start of the route's path \"/apis/{*path}\", found \"/api\"",
        );
        check("/api", None, "/api/{*path}", "");
        check(
            "/api",
            Some("/x"),
            "/api/{*path}",
            "rewrite: \"strip_prefix\" has no effect beside it (remove one of them)",
        );
        check(
            "",
            Some("/x/{pth}"),
            "/api/{*path}",
            "rewrite: the route has no parameter {pth} (did you mean {path}?)",
        );
        for rewrite in ["x", "/x?y", "/{x", "/x}", "/{}", "/a b", "/a\\b"] {
            let expected = format!(
                "rewrite: expected a path such as \"/v2/{{path}}\", without a query, found {rewrite:?}"
            );
            check("", Some(rewrite), "/{x}/", &expected);
        }
    }
}
