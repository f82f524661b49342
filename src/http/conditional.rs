//! Conditional: evaluates a request's preconditions against a representation's validators (RFC 9110
//! §13).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::header;

use crate::scope::{Headers, Scope};

/// The validators of one state of a representation.
///
/// The entity tag is strong and quoted, such as `"5f3-1a"`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Validators {
    /// `ETag`.
    pub etag: String,
    /// `Last-Modified`, in whole seconds since 1970; `None` if unknown, before 1970, or in the
    /// future.
    pub modified: Option<SystemTime>,
}

/// The outcome of a request's preconditions.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Precondition {
    /// Perform the method.
    Holds,
    /// 304: the client already has this state.
    NotModified,
    /// 412: the client expects another state.
    Failed,
}

impl Validators {
    /// Creates validators from an entity tag and the time of the last change.
    ///
    /// A time before 1970 has no HTTP date, and one in the future must not be sent (RFC 9110
    /// §8.8.2.1).
    #[must_use]
    pub fn new(etag: String, modified: Option<SystemTime>, now: SystemTime) -> Self {
        let modified = modified
            .filter(|modified| *modified <= now)
            .and_then(|modified| modified.duration_since(UNIX_EPOCH).ok())
            .map(|since| UNIX_EPOCH + Duration::from_secs(since.as_secs()));
        Self { etag, modified }
    }

    /// Evaluates the preconditions in the order of RFC 9110 §13.2.2. Invalid HTTP dates are
    /// ignored.
    ///
    /// ```
    /// use std::time::SystemTime;
    /// use http::{HeaderMap, Method};
    /// use oneport::http::conditional::{Precondition, Validators};
    /// use oneport::scope::{Scope, ScopeType};
    ///
    /// let validators = Validators::new("\"a\"".to_owned(), None, SystemTime::now());
    /// let mut scope = Scope::new(ScopeType::Http, Method::GET, "/".parse().unwrap());
    /// let mut headers = HeaderMap::new();
    /// headers.insert("if-none-match", "W/\"b\", W/\"a\"".parse().unwrap());
    /// scope.headers = headers.into();
    /// assert_eq!(validators.evaluate(&scope), Precondition::NotModified);
    /// ```
    #[must_use]
    pub fn evaluate(&self, scope: &Scope) -> Precondition {
        let headers = &scope.headers;
        if let Some(matches) = self.matches(headers, &header::IF_MATCH, Self::is_strongly) {
            if !matches {
                return Precondition::Failed;
            }
        } else if let Some(since) = date(headers, &header::IF_UNMODIFIED_SINCE)
            && self.modified.is_some_and(|modified| modified > since)
        {
            return Precondition::Failed;
        }
        let is_read = matches!(scope.method, http::Method::GET | http::Method::HEAD);
        match self.matches(headers, &header::IF_NONE_MATCH, Self::is_weakly) {
            Some(true) if is_read => Precondition::NotModified,
            Some(true) => Precondition::Failed,
            Some(false) => Precondition::Holds,
            None => match date(headers, &header::IF_MODIFIED_SINCE) {
                Some(since) if is_read && self.modified.is_some_and(|at| at <= since) => {
                    Precondition::NotModified
                }
                _ => Precondition::Holds,
            },
        }
    }

    /// Returns whether a `Range` applies: there is no `If-Range`, or it matches this state (RFC
    /// 9110 §13.1.5).
    ///
    /// A date counts only if the state is older than a second: within one second it could have
    /// changed twice.
    #[must_use]
    pub fn allows_range(&self, headers: &Headers, now: SystemTime) -> bool {
        let mut fields = headers.all(&header::IF_RANGE);
        let (Some(field), None) = (fields.next(), fields.next()) else {
            return headers.get(&header::IF_RANGE).is_none();
        };
        let field = field.trim_ascii();
        if field.ends_with(b"\"") {
            return self.is_strongly(field);
        }
        let Some(modified) = self.modified else {
            return false;
        };
        let is_old = now
            .duration_since(modified)
            .is_ok_and(|age| age > Duration::from_secs(1));
        is_old && parse_date(field) == Some(modified)
    }

    /// Returns whether a list of entity tags, or `*`, matches this one; `None` without the field.
    fn matches(
        &self,
        headers: &Headers,
        name: &http::HeaderName,
        is_same: fn(&Self, &[u8]) -> bool,
    ) -> Option<bool> {
        let mut fields = headers.all(name).peekable();
        fields.peek()?;
        Some(fields.any(|field| {
            field.trim_ascii() == b"*" || entity_tags(field).any(|tag| is_same(self, tag))
        }))
    }

    fn is_strongly(&self, tag: &[u8]) -> bool {
        tag == self.etag.as_bytes()
    }

    fn is_weakly(&self, tag: &[u8]) -> bool {
        tag.strip_prefix(b"W/").unwrap_or(tag) == self.etag.as_bytes()
    }
}

/// Iterates over a list of entity tags. A tag can contain commas, so the quotes decide where it
/// ends.
fn entity_tags(mut list: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let start = list
            .iter()
            .position(|byte| !matches!(byte, b' ' | b'\t' | b','))?;
        list = &list[start..];
        let quote = if list.starts_with(b"W/") { 2 } else { 0 };
        if list.get(quote) != Some(&b'"') {
            return None; // not an entity tag: the rest cannot be split
        }
        let inside = &list[quote + 1..];
        let end = quote + 1 + inside.iter().position(|byte| *byte == b'"')? + 1;
        let (tag, rest) = list.split_at(end);
        list = rest;
        Some(tag)
    })
}

fn date(headers: &Headers, name: &http::HeaderName) -> Option<SystemTime> {
    let mut fields = headers.all(name);
    let (field, None) = (fields.next()?, fields.next()) else {
        return None;
    };
    parse_date(field)
}

fn parse_date(field: &[u8]) -> Option<SystemTime> {
    httpdate::parse_http_date(std::str::from_utf8(field).ok()?.trim()).ok()
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderName, Method};

    use super::*;
    use crate::scope::ScopeType;

    const AT: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const EARLIER: &str = "Sun, 06 Nov 1994 08:49:36 GMT";
    const LATER: &str = "Sun, 06 Nov 1994 08:49:38 GMT";

    fn scope(method: Method, fields: &[(&'static str, &str)]) -> Scope {
        let mut scope = Scope::new(ScopeType::Http, method, "/".parse().unwrap());
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(HeaderName::from_static(name), value.parse().unwrap());
        }
        scope.headers = headers.into();
        scope
    }

    fn validators() -> Validators {
        let modified = httpdate::parse_http_date(AT).unwrap() + Duration::from_millis(700);
        Validators::new("\"a,b\"".to_owned(), Some(modified), SystemTime::now())
    }

    #[test]
    fn preconditions_are_evaluated_in_the_order_of_the_rfc() {
        use Precondition::{Failed, Holds, NotModified};
        let check = |fields: &[(&'static str, &str)], expected| {
            let found = validators().evaluate(&scope(Method::GET, fields));
            assert_eq!(found, expected, "{fields:?}");
        };
        check(&[], Holds);
        check(&[("if-match", "\"a,b\"")], Holds);
        check(&[("if-match", "\"x\", \"a,b\"")], Holds);
        check(&[("if-match", "\"x\""), ("if-match", "\"a,b\"")], Holds);
        check(&[("if-match", "*")], Holds);
        check(&[("if-match", "W/\"a,b\"")], Failed); // strong comparison
        check(&[("if-match", "\"a\", \"b\"")], Failed);
        check(&[("if-match", "")], Failed);
        check(&[("if-match", "a,b")], Failed);
        check(&[("if-match", "\"a,b")], Failed);
        check(&[("if-unmodified-since", AT)], Holds);
        check(&[("if-unmodified-since", EARLIER)], Failed);
        check(&[("if-unmodified-since", "yesterday")], Holds);
        check(
            &[("if-match", "\"a,b\""), ("if-unmodified-since", EARLIER)],
            Holds,
        );
        check(&[("if-none-match", "\"a,b\"")], NotModified);
        check(&[("if-none-match", "W/\"a,b\"")], NotModified);
        check(&[("if-none-match", "*")], NotModified);
        check(&[("if-none-match", "\"x\"")], Holds);
        // With If-None-Match the date is ignored.
        check(
            &[("if-none-match", "\"x\""), ("if-modified-since", LATER)],
            Holds,
        );
        check(&[("if-modified-since", AT)], NotModified);
        check(&[("if-modified-since", LATER)], NotModified);
        check(&[("if-modified-since", EARLIER)], Holds);
        check(
            &[("if-modified-since", "Sunday, 06-Nov-94 08:49:37 GMT")],
            NotModified,
        );
        check(
            &[("if-modified-since", "Sun Nov  6 08:49:37 1994")],
            NotModified,
        );
        check(&[("if-modified-since", "nonsense")], Holds);
        check(
            &[("if-modified-since", AT), ("if-modified-since", AT)],
            Holds,
        );
        check(
            &[("if-match", "\"x\""), ("if-none-match", "\"a,b\"")],
            Failed,
        );
    }

    #[test]
    fn a_method_that_changes_something_fails_where_a_get_is_not_modified() {
        let fields = [("if-none-match", "*")];
        let found = validators().evaluate(&scope(Method::PUT, &fields));
        assert_eq!(found, Precondition::Failed);
        let fields = [("if-modified-since", AT)];
        let found = validators().evaluate(&scope(Method::PUT, &fields));
        assert_eq!(found, Precondition::Holds);
    }

    #[test]
    fn if_range_asks_for_this_very_state() {
        let check = |fields: &[(&'static str, &str)], expected| {
            let scope = scope(Method::GET, fields);
            let found = validators().allows_range(&scope.headers, SystemTime::now());
            assert_eq!(found, expected, "{fields:?}");
        };
        check(&[], true);
        check(&[("if-range", "\"a,b\"")], true);
        check(&[("if-range", "W/\"a,b\"")], false);
        check(&[("if-range", "\"x\"")], false);
        check(&[("if-range", AT)], true);
        check(&[("if-range", LATER)], false);
        check(&[("if-range", "nonsense")], false);
        check(&[("if-range", "")], false);
        check(&[("if-range", "\"a,b\""), ("if-range", "\"x\"")], false);
    }

    #[test]
    fn a_date_in_if_range_counts_once_its_second_is_over() {
        let validators = validators();
        let scope = scope(Method::GET, &[("if-range", AT)]);
        let just_now = validators.modified.unwrap() + Duration::from_millis(900);
        assert!(!validators.allows_range(&scope.headers, just_now));
    }

    #[test]
    fn a_time_before_1970_or_in_the_future_is_not_sent() {
        let now = SystemTime::now();
        for modified in [
            UNIX_EPOCH - Duration::from_nanos(1),
            UNIX_EPOCH - Duration::from_secs(3_000_000_000),
            now + Duration::from_secs(5),
        ] {
            let validators = Validators::new(String::new(), Some(modified), now);
            assert_eq!(validators.modified, None, "{modified:?}");
        }
    }
}
