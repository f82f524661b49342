//! Lint: finds origin patterns that do not allow what they seem to allow.

use crate::http::origin::urlparse::{Port, Url};

/// Returns a warning for a pattern that does not allow what it seems to allow.
///
/// ```
/// use oneport::http::origin::lint;
///
/// assert_eq!(lint("http://localhost:3000"), None);
/// assert_eq!(
///     lint("localhost:3000").unwrap(),
///     "\"localhost:3000\" can never match, \"localhost\" is read as its scheme; \
///      write http://localhost:3000 or localhost",
/// );
/// ```
pub fn lint(pattern: &str) -> Option<String> {
    if pattern == "*" {
        return None;
    }
    let quoted = format!("{pattern:?} can never match");
    if pattern.trim().is_empty() {
        return Some(format!(
            "{quoted}; write a host such as example.com, or * for all"
        ));
    }
    if let Some((front, domain)) = pattern.split_once("*.") {
        return Some(format!(
            "{quoted} a subdomain, only a literal star; write {front}.{domain}"
        ));
    }
    if matches!(pattern.to_ascii_lowercase().as_str(), "null" | "file://") {
        return Some(format!(
            "{quoted}, such an origin has no host; only * allows it"
        ));
    }
    let Some(url) = Url::split(pattern) else {
        return Some(format!(
            "{quoted}, its brackets hold no IPv6 address; write http://[::1]"
        ));
    };
    let (front, behind) = pattern.split_once(':').unwrap_or((pattern, ""));
    if !url.scheme.is_empty() && url.host.is_none() {
        return Some(match behind.starts_with("//") {
            true => format!("{quoted}, it has no host; write {front}://example.com"),
            false => format!(
                "{quoted}, {front:?} is read as its scheme; write http://{pattern} or {front}"
            ),
        });
    }
    if !url.scheme.is_empty() {
        return match url.port {
            Port::Bad => Some(format!("{quoted}, its port is no number up to 65535")),
            Port::None | Port::Number(_) => None,
        };
    }
    match Url::split(&format!("//{pattern}")) {
        Some(Url {
            host: Some(host),
            port: Port::Number(_) | Port::Bad,
            ..
        }) => Some(format!(
            "{pattern:?} matches with every port, because it has no scheme; write http://{pattern}, or {} without the port",
            if host.contains(':') {
                format!("[{host}]")
            } else {
                host
            },
        )),
        Some(Url { host: Some(_), .. }) => None,
        _ => Some(format!(
            "{quoted}, it has no host; write example.com or https://example.com"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lint_names_the_trap_and_the_way_out() {
        let check = |pattern: &str, expected: &str| {
            let sentence = lint(pattern).unwrap_or_default();
            assert!(sentence.ends_with(expected), "{pattern}: {sentence}");
        };
        check("*.example.com", "write .example.com");
        check("https://*.example.com", "write https://.example.com");
        check(
            "allowed.com:8080",
            "write http://allowed.com:8080 or allowed.com",
        );
        check(
            "127.0.0.1:8000",
            "write http://127.0.0.1:8000, or 127.0.0.1 without the port",
        );
        check(
            "[::1]:8000",
            "write http://[::1]:8000, or [::1] without the port",
        );
        check("http://a:abc", "its port is no number up to 65535");
        check("http://", "write http://example.com");
        check("null", "only * allows it");
        check("", "or * for all");
        check("http://[::1", "write http://[::1]");
        for fine in [
            "*",
            "example.com",
            ".example.com",
            "https://a:8443",
            "[::1]",
            "chrome-extension://abc",
        ] {
            assert_eq!(lint(fine), None);
        }
    }
}
