//! Host pattern: the hosts that a route serves.

use std::fmt;
use std::str::FromStr;

/// The hosts that a route serves: one name, a domain with its subdomains, or all.
///
/// ```
/// use oneport::routing::HostPattern;
///
/// let pattern: HostPattern = ".example.com".parse()?;
/// assert!(pattern.matches("example.com"));
/// assert!(pattern.matches("a.b.Example.com."));
/// assert!(!pattern.matches("notexample.com"));
/// # Ok::<(), oneport::routing::HostPatternError>(())
/// ```
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct HostPattern(Kind);

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
enum Kind {
    Any,
    /// The domain itself and its subdomains.
    Domain(String),
    Exact(String),
}

/// A host pattern that can never match.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("expected {expected}, found {found:?}")]
pub struct HostPatternError {
    /// The expected text.
    pub expected: &'static str,
    /// The text found.
    pub found: String,
}

impl HostPattern {
    /// Returns whether this host, without port, matches. Case and one trailing dot are ignored.
    pub fn matches(&self, host: &str) -> bool {
        let host = host.strip_suffix('.').unwrap_or(host);
        match &self.0 {
            Kind::Any => true,
            Kind::Exact(name) => host.eq_ignore_ascii_case(name),
            Kind::Domain(domain) => is_within(host, domain),
        }
    }

    /// Returns whether this pattern matches every host that `other` matches.
    pub(super) fn covers(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Kind::Any, _) => true,
            (Kind::Domain(domain), Kind::Exact(name) | Kind::Domain(name)) => {
                is_within(name, domain)
            }
            (mine, theirs) => mine == theirs,
        }
    }

    /// Returns whether every request matches, even one without a host.
    pub(super) fn is_any(&self) -> bool {
        self.0 == Kind::Any
    }
}

impl FromStr for HostPattern {
    type Err = HostPatternError;

    fn from_str(text: &str) -> Result<Self, HostPatternError> {
        let refuse = |expected| {
            Err(HostPatternError {
                expected,
                found: text.to_owned(),
            })
        };
        if text == "*" {
            return Ok(Self(Kind::Any));
        }
        if text.starts_with("*.") {
            return refuse("\".example.com\" for a domain and its subdomains");
        }
        if text.contains("//") {
            return refuse("a host without a scheme");
        }
        let lower = text.to_ascii_lowercase();
        let name = lower.strip_suffix('.').unwrap_or(&lower);
        if name.starts_with('[') {
            return match name.ends_with(']') {
                true => Ok(Self(Kind::Exact(name.to_owned()))),
                false => refuse("a host without a port, an IPv6 address in brackets"),
            };
        }
        if name.contains(':') {
            return refuse("a host without a port, an IPv6 address in brackets");
        }
        let (domain, kind): (&str, fn(String) -> Kind) = match name.strip_prefix('.') {
            Some(domain) => (domain, Kind::Domain),
            None => (name, Kind::Exact),
        };
        let is_host_byte = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
        if domain.is_empty() || !domain.bytes().all(is_host_byte) {
            return refuse("letters, digits, hyphens and dots");
        }
        Ok(Self(kind(domain.to_owned())))
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Any => f.write_str("*"),
            Kind::Exact(name) => f.write_str(name),
            Kind::Domain(domain) => write!(f, ".{domain}"),
        }
    }
}

/// Returns whether the host is the domain or ends in a dot and the domain.
fn is_within(host: &str, domain: &str) -> bool {
    let Some(cut) = host.len().checked_sub(domain.len()) else {
        return false;
    };
    let (front, back) = host.as_bytes().split_at(cut);
    back.eq_ignore_ascii_case(domain.as_bytes()) && (front.is_empty() || front.ends_with(b"."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_a_name_a_domain_or_all() {
        let check = |pattern: &str, host: &str, expected: bool| {
            let pattern: HostPattern = pattern.parse().unwrap();
            assert_eq!(pattern.matches(host), expected, "{pattern} on {host}");
        };
        check("api.example.com", "api.example.com", true);
        check("API.example.com.", "api.EXAMPLE.com", true);
        check("api.example.com", "example.com", false);
        check(".example.com", "example.com", true);
        check(".example.com", "a.b.example.com", true);
        check(".example.com", "xexample.com", false);
        check(".example.com", "com", false);
        check("*", "anything", true);
        check("[::1]", "[::1]", true);
    }

    #[test]
    fn refuses_patterns_that_could_never_match() {
        for text in [
            "",
            ".",
            "*.example.com",
            "http://a",
            "a:80",
            "[::1]:80",
            "a b",
            "a_b",
            "é",
        ] {
            assert!(text.parse::<HostPattern>().is_err(), "{text}");
        }
    }
}
