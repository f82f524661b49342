//! Location: builds the value of a `Location` field.

use http::HeaderValue;
use http::header::InvalidHeaderValue;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

/// The characters to encode in a URL (WHATWG URL §1.3, the query percent-encode set and the
/// backslash). `%` and `#` stay, so that nothing is encoded twice. Non-ASCII characters are always
/// encoded, as UTF-8.
const NOT_IN_A_URL: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'<')
    .add(b'>')
    .add(b'\\')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

/// Returns the field's value for a path or a URL. Characters that a URL cannot contain are
/// percent-encoded.
pub(crate) fn location(to: &str) -> Result<HeaderValue, InvalidHeaderValue> {
    HeaderValue::from_str(&utf8_percent_encode(to, NOT_IN_A_URL).to_string())
}

/// Appends to the query of a path or a URL: after an existing query and before the fragment (RFC
/// 3986 §3.4).
pub(crate) fn with_query(to: &str, query: &str) -> String {
    if query.is_empty() {
        return to.to_owned();
    }
    let (before, fragment) = match to.find('#') {
        Some(at) => to.split_at(at),
        None => (to, ""),
    };
    let separator = match before.split_once('?') {
        None => "?",
        Some((_, own)) if own.is_empty() || own.ends_with('&') => "",
        Some(_) => "&",
    };
    format!("{before}{separator}{query}{fragment}")
}

/// Returns whether a target is a path of this server, below `root_path`: it begins with exactly one
/// slash. `//host` names another host, and browsers read `/\host` the same way.
pub(crate) fn is_own_path(to: &str) -> bool {
    to.starts_with('/') && !to.starts_with("//") && !to.starts_with("/\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn query_goes_before_the_fragment_and_behind_the_query_that_is_there() {
        for (to, query, expected) in [
            ("/a", "", "/a"),
            ("/a#f", "", "/a#f"),
            ("/a", "x=1", "/a?x=1"),
            ("/a#f", "x=1", "/a?x=1#f"),
            ("/a?y=2#f", "x=1", "/a?y=2&x=1#f"),
            ("/a?", "x=1", "/a?x=1"),
            ("/a?y=2&", "x=1", "/a?y=2&x=1"),
            ("/a#f?g", "x=1", "/a?x=1#f?g"),
        ] {
            assert_eq!(with_query(to, query), expected, "{to} {query}");
        }
    }

    #[test]
    fn only_what_no_url_holds_is_encoded() {
        for (to, expected) in [
            ("/café/?q=é#ß", "/caf%C3%A9/?q=%C3%A9#%C3%9F"),
            ("/caf%C3%A9/", "/caf%C3%A9/"),
            (
                "https://example.com/a b\r\nx: y",
                "https://example.com/a%20b%0D%0Ax:%20y",
            ),
            ("http://[::1]:80/a;b,c'd", "http://[::1]:80/a;b,c'd"),
        ] {
            assert_eq!(location(to).unwrap(), expected, "{to}");
        }
    }

    #[test]
    fn paths_of_this_server_begin_with_one_slash() {
        for (to, expected) in [
            ("/", true),
            ("/a//b", true),
            ("//a.example/", false),
            ("/\\a.example/", false),
            ("a", false),
            ("https://a.example/", false),
            ("", false),
        ] {
            assert_eq!(is_own_path(to), expected, "{to}");
        }
    }
}
