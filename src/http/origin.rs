//! Origin: the origins whose pages may open a WebSocket.

mod lint;
mod urlparse;

use crate::host::is_same_domain;
use crate::http::origin::urlparse::Url;

pub use crate::config::MissingOrigin;
pub use crate::http::origin::lint::lint;

/// Why an origin is refused with 403.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum OriginRefused {
    /// The header is missing.
    #[error("missing Origin header")]
    Missing,
    /// The origin has no host.
    #[error("expected an origin with a host, found {found:?}")]
    NoHost {
        /// The value of the header.
        found: String,
    },
    /// The origin is not allowed.
    #[error("origin {found:?} is not allowed")]
    NotAllowed {
        /// The value of the header.
        found: String,
    },
}

/// The origins that may open a WebSocket, by the rules of Django Channels' `OriginValidator`.
///
/// `*` allows all. A pattern without scheme, `example.com` or `.example.com`, is compared with the
/// host alone. One with a scheme, `https://example.com`, must also match scheme and port.
///
/// ```
/// use oneport::http::origin::{AllowedOrigins, MissingOrigin};
///
/// let allowed = AllowedOrigins::new(&["example.com".into(), "https://.example.org".into()]);
/// let check = |origin: &str| allowed.check(Some(origin.as_bytes()), MissingOrigin::Refuse);
/// assert!(check("http://example.com:8000").is_ok());
/// assert!(check("https://a.example.org").is_ok());
/// assert!(check("http://a.example.org").is_err());
/// ```
#[derive(Clone, Debug, Default)]
pub struct AllowedOrigins {
    patterns: Vec<OriginPattern>,
}

/// One parsed pattern.
#[derive(Clone, Debug, Eq, PartialEq)]
enum OriginPattern {
    All,
    Host(String),
    Exact {
        scheme: String,
        host: String,
        port: Option<u16>,
    },
    /// The pattern matches nothing; [`lint`] reports why.
    Nothing,
}

impl AllowedOrigins {
    /// Parses the patterns. One that can match nothing is kept, and matches nothing.
    pub fn new(patterns: &[String]) -> Self {
        Self {
            patterns: patterns
                .iter()
                .map(|pattern| OriginPattern::parse(pattern))
                .collect(),
        }
    }

    /// Checks whether a page of this origin may open a WebSocket. The bytes are the header's value.
    pub fn check(
        &self,
        origin: Option<&[u8]>,
        missing: MissingOrigin,
    ) -> Result<(), OriginRefused> {
        if self.patterns.contains(&OriginPattern::All) {
            return Ok(());
        }
        let Some(origin) = origin else {
            return match missing {
                MissingOrigin::Allow => Ok(()),
                MissingOrigin::Refuse => Err(OriginRefused::Missing),
            };
        };
        // Decoded as Latin-1, like any header value.
        let found: String = origin.iter().copied().map(char::from).collect();
        let Some(url) = Url::split(&found).filter(|url| url.host.is_some()) else {
            return Err(OriginRefused::NoHost { found });
        };
        match self.patterns.iter().any(|pattern| pattern.matches(&url)) {
            true => Ok(()),
            false => Err(OriginRefused::NotAllowed { found }),
        }
    }
}

impl OriginPattern {
    fn parse(pattern: &str) -> Self {
        if pattern == "*" {
            return Self::All;
        }
        let lower = pattern.to_lowercase();
        let Some(url) = Url::split(&lower) else {
            return Self::Nothing;
        };
        if url.scheme.is_empty() {
            return match Url::split(&format!("//{lower}")) {
                // A pattern without host, such as "/x", is compared unchanged, and no host equals
                // it.
                Some(url) => url.host.map_or(Self::Nothing, Self::Host),
                None => Self::Nothing,
            };
        }
        match (url.host, url.port.or_default_of(&url.scheme)) {
            (Some(host), Ok(port)) => Self::Exact {
                scheme: url.scheme,
                host,
                port,
            },
            _ => Self::Nothing,
        }
    }

    fn matches(&self, origin: &Url) -> bool {
        let Some(origin_host) = &origin.host else {
            return false;
        };
        match self {
            Self::All => true,
            Self::Nothing => false,
            Self::Host(host) => is_same_domain(origin_host, host),
            Self::Exact { scheme, host, port } => {
                *scheme == origin.scheme
                    && origin.port.or_default_of(&origin.scheme) == Ok(*port)
                    && is_same_domain(origin_host, host)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    /// The vectors that differ from Channels: pattern, origin, and our result.
    const DIFFERENCES: &[(&str, &str, &str)] = &[
        (
            "http://other.com:abc",
            "http://other.com",
            "403, not 500: a bad port in a pattern",
        ),
        (
            "http://allowed.com",
            "http://allowed.com:notaport",
            "403, not 500: a bad port",
        ),
        (
            "http://allowed.com",
            "http://allowed.com:99999",
            "403, not 500: a port out of range",
        ),
    ];

    /// The vectors that are not about one origin, and the code that handles them.
    const ELSEWHERE: &[(&str, &str)] = &[
        (
            "note",
            "two Origin headers: the handshake refuses them with 400 before this is asked",
        ),
        (
            "scope_type",
            "an http scope: the step is asked for HTTP requests too, and never crashes",
        ),
    ];

    fn check(patterns: &[String], origin: Option<&str>) -> bool {
        let origin = origin.map(str::as_bytes);
        AllowedOrigins::new(patterns)
            .check(origin, MissingOrigin::Refuse)
            .is_ok()
    }

    fn vectors(key: &str) -> Vec<Value> {
        let vectors: Value =
            serde_json::from_str(include_str!("../../tests/vectors/routing.json")).unwrap();
        vectors[key].as_array().unwrap().clone()
    }

    #[test]
    fn every_origin_vector_has_the_same_outcome_but_for_crashes() {
        for vector in vectors("origin_validator") {
            if ELSEWHERE.iter().any(|(key, _)| vector.get(*key).is_some()) {
                continue;
            }
            let patterns: Vec<String> =
                serde_json::from_value(vector["allowed_origins"].clone()).unwrap();
            let accepted = check(&patterns, vector["origin"].as_str());
            assert_eq!(accepted, vector["accepted"], "{vector}");
            let is_listed = DIFFERENCES.iter().any(|(pattern, origin, _)| {
                patterns.iter().any(|known| known == pattern) && vector["origin"] == **origin
            });
            assert_eq!(vector.get("exception").is_some(), is_listed, "{vector}");
        }
    }

    #[test]
    fn every_allowed_hosts_vector_has_the_same_outcome() {
        for vector in vectors("allowed_hosts_origin_validator") {
            let mut patterns: Vec<String> =
                serde_json::from_value(vector["ALLOWED_HOSTS"].clone()).unwrap();
            if patterns.is_empty() && vector["DEBUG"] == true {
                patterns = ["localhost", "127.0.0.1", "[::1]"]
                    .map(str::to_owned)
                    .to_vec();
            }
            assert_eq!(
                check(&patterns, vector["origin"].as_str()),
                vector["accepted"],
                "{vector}"
            );
        }
    }

    #[test]
    fn refuses_an_origin_that_cannot_be_understood() {
        let patterns = ["a".to_owned(), "http://a".to_owned(), ".b".to_owned()];
        for origin in [
            "",
            "null",
            "something-invalid",
            "http://[::1",
            "http://b]",
            "http://[a]",
            "http://[::1]x",
        ] {
            assert!(!check(&patterns, Some(origin)), "{origin}");
        }
        assert!(!check(&["http://a".to_owned()], Some("http://a:notaport")));
        let raw: &[u8] = b"http://\xff\xfe";
        assert!(
            AllowedOrigins::new(&patterns)
                .check(Some(raw), MissingOrigin::Allow)
                .is_err()
        );
    }

    #[test]
    fn a_missing_origin_passes_where_that_is_said() {
        let allowed = AllowedOrigins::new(&["example.com".to_owned()]);
        assert_eq!(
            allowed.check(None, MissingOrigin::Refuse),
            Err(OriginRefused::Missing)
        );
        assert_eq!(allowed.check(None, MissingOrigin::Allow), Ok(()));
    }

    #[test]
    fn a_port_without_scheme_says_nothing_and_user_and_path_are_ignored() {
        assert!(check(
            &["127.0.0.1:8000".to_owned()],
            Some("https://127.0.0.1")
        ));
        assert!(check(
            &["allowed.com".to_owned()],
            Some("http://user@allowed.com/x?y#z")
        ));
        assert!(!check(
            &["allowed.com".to_owned()],
            Some("http://allowed.com@evil.com")
        ));
    }
}
