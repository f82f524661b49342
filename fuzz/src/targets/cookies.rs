//! Cookies against Django's `parse_cookie`: the input is `Cookie` fields in lines.

use std::collections::HashMap;

use http::{HeaderMap, HeaderValue, Method, header};
use oneport::scope::{Scope, ScopeType};

pub fn run(data: &[u8]) {
    let mut headers = HeaderMap::new();
    for line in data.split(|byte| *byte == b'\n').take(8) {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            headers.append(header::COOKIE, value);
        }
    }
    let target = http::uri::PathAndQuery::from_static("/");
    let mut scope = Scope::new(ScopeType::Http, Method::GET, target);
    let texts: Vec<String> = headers
        .get_all(header::COOKIE)
        .iter()
        .map(|field| String::from_utf8_lossy(field.as_bytes()).into_owned())
        .collect();
    scope.headers = headers.into();
    // Several fields are one list (RFC 9113 §8.2.3).
    let expected = parse_cookie(&texts.join(";"));
    let found: Vec<(String, String)> = scope.cookies().collect();
    let names: HashMap<&str, &str> = found
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    assert_eq!(names.len(), expected.len());
    let is_text = |name: &str| !name.contains(char::REPLACEMENT_CHARACTER);
    for (name, value) in expected.iter().filter(|(name, _)| is_text(name)) {
        assert_eq!(names.get(name.as_str()), Some(&value.as_str()));
        assert_eq!(scope.cookie(name).as_ref(), Some(value), "{name:?}");
    }
}

/// Python's `http.cookies._unquote` without its escapes: no browser sends them.
fn parse_cookie(text: &str) -> HashMap<String, String> {
    let is_space = |found: char| found.is_ascii_whitespace();
    let pairs = text.split(';').filter_map(|pair| pair.split_once('='));
    pairs
        .map(|(name, value)| (name.trim_matches(is_space), value.trim_matches(is_space)))
        .filter(|(name, _)| !name.is_empty())
        .map(|(name, value)| {
            let inside = value
                .strip_prefix('"')
                .and_then(|rest| rest.strip_suffix('"'));
            (name.to_owned(), inside.unwrap_or(value).to_owned())
        })
        .collect()
}
