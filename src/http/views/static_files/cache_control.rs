//! Cache control: the `Cache-Control` of files by patterns of their names.

use http::HeaderValue;
use regex::Regex;

/// What `[hash]` matches, if it has a digit: ordinary words have none.
const HASH: &str = "([0-9A-Za-z_-]{8,64})";

/// What `[hex]` matches.
const HEX: &str = "[0-9A-Fa-f]{8,64}";

/// One rule of `cache_rules`.
#[derive(Clone, Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenRule {
    /// The pattern.
    pub(super) files: String,
    /// The value for the files that it matches.
    pub(super) cache_control: String,
}

/// Chooses the value for a file: that of the first rule that matches its name.
#[derive(Debug)]
pub(super) struct CacheControl {
    rules: Vec<(Regex, HeaderValue)>,
    default: HeaderValue,
}

impl CacheControl {
    pub(super) fn new(default: HeaderValue) -> Self {
        Self {
            rules: Vec::new(),
            default,
        }
    }

    /// Appends a rule. Fails with a sentence about a malformed pattern or value.
    pub(super) fn push(&mut self, rule: &WrittenRule) -> Result<(), String> {
        let value = value(&rule.cache_control)?;
        let pattern = pattern(&rule.files).ok_or_else(|| {
            let found = &rule.files;
            format!("expected a pattern such as \"*.{{css,js}}\", found {found:?}")
        })?;
        self.rules.push((pattern, value));
        Ok(())
    }

    /// Returns the value for a name below the directory.
    pub(super) fn of(&self, name: &str) -> &HeaderValue {
        let mut rules = self.rules.iter();
        let found = rules.find(|(pattern, _)| matches(pattern, name));
        found.map_or(&self.default, |(_, value)| value)
    }
}

/// Parses a value of `Cache-Control`.
pub(super) fn value(text: &str) -> Result<HeaderValue, String> {
    HeaderValue::from_str(text)
        .map_err(|_| format!("expected a header field's value, found {text:?}"))
}

/// Compiles a pattern: `*` and `?` match within a segment, `**` across segments, `{a,b}` one of
/// several, `[hash]` and `[hex]` the hash that a bundler puts into a name. A pattern without a slash
/// is matched against the last segment. Only `[hash]` is a group that captures.
fn pattern(text: &str) -> Option<Regex> {
    let mut regex = String::from(if text.contains('/') { "^" } else { "(?:^|/)" });
    let mut rest = text.trim_start_matches('/');
    let mut is_in_braces = false;
    if rest.is_empty() {
        return None;
    }
    while let Some(next) = rest.chars().next() {
        let (taken, part) = match next {
            '*' if rest.starts_with("**/") => (3, "(?:.*/)?"),
            '*' if rest.starts_with("**") => (2, ".*"),
            '*' => (1, "[^/]*"),
            '?' => (1, "[^/]"),
            '[' if rest.starts_with("[hash]") => (6, HASH),
            '[' if rest.starts_with("[hex]") => (5, HEX),
            '{' if !is_in_braces => {
                is_in_braces = true;
                (1, "(?:")
            }
            '}' if is_in_braces => {
                is_in_braces = false;
                (1, ")")
            }
            ',' if is_in_braces => (1, "|"),
            '[' | ']' | '{' | '}' => return None,
            literal => {
                regex.push_str(&regex::escape(literal.encode_utf8(&mut [0; 4])));
                rest = &rest[literal.len_utf8()..];
                continue;
            }
        };
        regex.push_str(part);
        rest = &rest[taken..];
    }
    regex.push('$');
    match is_in_braces {
        true => None,
        false => Regex::new(&regex).ok(),
    }
}

fn matches(pattern: &Regex, name: &str) -> bool {
    let has_digit =
        |hash: regex::Match<'_>| hash.as_str().bytes().any(|byte| byte.is_ascii_digit());
    pattern
        .captures(name)
        .is_some_and(|found| found.iter().skip(1).flatten().all(has_digit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_names_as_documented() {
        let check = |text: &str, name: &str, expected: bool| {
            let found = matches(&pattern(text).unwrap(), name);
            assert_eq!(found, expected, "{text} {name}");
        };
        check("*.css", "a.css", true);
        check("*.css", "deep/er/a.css", true);
        check("*.css", "a.css.map", false);
        check("*.{css,js}", "x/a.js", true);
        check("*.{css,js}", "x/a.jsx", false);
        check("assets/*", "assets/a.js", true);
        check("assets/*", "assets/b/a.js", false);
        check("assets/*", "other/assets/a.js", false);
        check("/assets/**", "assets/b/a.js", true);
        check("**/img/*.png", "img/a.png", true);
        check("**/img/*.png", "x/y/img/a.png", true);
        check("**/img/*.png", "x/yimg/a.png", false);
        check("*.[hash].{css,js}", "base.55e7cbb9ba48.css", true);
        check("*.[hash].css", "base.min.css", false);
        check("*-[hash].js", "assets/index-BwX3k2Lq.js", true);
        check("*-[hash].js", "assets/my-app-BwX3k2Lq.js", true);
        check("*.[hash].js", "main.application.js", false);
        check("*-[hash].js", "date-formatter.js", false);
        check("*-[hash].js", "v2-application.js", false);
        check("*{-[hash],.min}.js", "a.min.js", true);
        check("*{-[hash],.min}.js", "a-component.js", false);
        check("[hash]/*.[hash].js", "9f86d081/a.884c7d65.js", true);
        check("[hash]/*.[hash].js", "9f86d081/a.component.js", false);
        check("*.[hex].css", "base.55e7cbb9ba48.css", true);
        check("*.[hex].css", "base.55e7cbb9ba4x.css", false);
        check("*.[hex].css", "base.55e7cb.css", false);
        check("a?c", "abc", true);
        check("a?c", "a/c", false);
        check("a.c", "abc", false);
        check("a,b", "a,b", true);
    }

    #[test]
    fn a_malformed_pattern_is_refused() {
        for text in ["", "/", "{a", "a}", "{a{b}}", "[a-z]", "]"] {
            assert!(pattern(text).is_none(), "{text}");
        }
    }
}
