//! Balance: which of the servers gets a request.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::str::FromStr;

use http::{HeaderName, HeaderValue, header};

use super::Affinity;

/// How the servers share the requests.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Balance {
    /// One after the other.
    RoundRobin,
    /// The one with the fewest requests and tunnels.
    LeastConnections,
    /// Requests with the same key go to the same server.
    Hash(Key),
}

/// The part of a request that its server is chosen by.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Key {
    Address,
    Header(HeaderName),
    Cookie(String),
}

impl FromStr for Balance {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = match text {
            "round_robin" => Some(Self::RoundRobin),
            "least_connections" => Some(Self::LeastConnections),
            "hash:address" => Some(Self::Hash(Key::Address)),
            _ => named_key(text).map(Self::Hash),
        };
        parsed.ok_or_else(|| {
            format!(
                "expected \"round_robin\", \"least_connections\", \"hash:address\", \"hash:header:NAME\" or \"hash:cookie:NAME\", found {text:?}"
            )
        })
    }
}

fn named_key(text: &str) -> Option<Key> {
    if let Some(name) = text.strip_prefix("hash:header:") {
        return HeaderName::from_bytes(name.as_bytes())
            .ok()
            .map(Key::Header);
    }
    let name = text.strip_prefix("hash:cookie:")?;
    // A cookie's name is a token, like a header's (RFC 6265 §4.1.1).
    HeaderName::from_bytes(name.as_bytes()).ok()?;
    Some(Key::Cookie(name.to_owned()))
}

impl Key {
    /// Hashes the key of a request, or the client's address if the request has no such field or
    /// cookie. `None`: there is no address either.
    pub(super) fn hash(&self, affinity: &Affinity<'_>) -> Option<u64> {
        let mut hasher = DefaultHasher::new(); // the same in every process
        let found = match self {
            Self::Address => None,
            Self::Header(name) => affinity.headers.get(name).map(HeaderValue::as_bytes),
            Self::Cookie(name) => cookie(affinity, name),
        };
        match found {
            Some(value) => value.hash(&mut hasher),
            None => affinity.address?.hash(&mut hasher),
        }
        Some(hasher.finish())
    }
}

fn cookie<'a>(affinity: &Affinity<'a>, name: &str) -> Option<&'a [u8]> {
    let fields = affinity.headers.get_all(header::COOKIE).iter();
    let mut pairs = fields.flat_map(|field| field.as_bytes().split(|byte| *byte == b';'));
    pairs.find_map(|pair| {
        let value = pair.trim_ascii().strip_prefix(name.as_bytes())?;
        value.strip_prefix(b"=")
    })
}

/// Returns the rank of a server for a key. The server with the highest rank gets the key's requests
/// (rendezvous hashing): a server that leaves moves only its own keys, and all processes agree.
pub(super) fn rank(key: u64, server: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    (key, server).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    #[test]
    fn each_balance_has_a_name_and_others_are_refused() {
        let check = |text: &str, expected| assert_eq!(text.parse().ok(), expected, "{text}");
        check("round_robin", Some(Balance::RoundRobin));
        check("least_connections", Some(Balance::LeastConnections));
        check("hash:address", Some(Balance::Hash(Key::Address)));
        let header = Key::Header(HeaderName::from_static("x-shard"));
        check("hash:header:X-Shard", Some(Balance::Hash(header)));
        let cookie = Key::Cookie("sid".to_owned());
        check("hash:cookie:sid", Some(Balance::Hash(cookie)));
        for text in ["", "random", "hash:", "hash:header:", "hash:cookie:a b"] {
            check(text, None);
        }
    }

    #[test]
    fn requests_with_the_same_cookie_have_the_same_key() {
        let address = Some("192.0.2.1".parse().unwrap());
        let key = Key::Cookie("sid".to_owned());
        let hash = |cookie: &str, address| {
            let mut headers = HeaderMap::new();
            headers.insert(header::COOKIE, cookie.parse().unwrap());
            let headers = &headers;
            key.hash(&Affinity { address, headers })
        };
        let expected = hash("sid=1", None);
        assert!(expected.is_some());
        assert_eq!(hash("a=b; sid=1", address), expected);
        assert_eq!(hash("a=b;sid=1;c", None), expected);
        assert_ne!(hash("sid=2", None), expected);
        assert_ne!(hash("xsid=1", address), expected);
        assert_eq!(hash("xsid=1", None), None);
        assert_eq!(hash("xsid=1", address), hash("", address));
    }

    #[test]
    fn a_server_that_leaves_moves_only_its_own_keys() {
        let servers = ["http://a", "http://b", "http://c", "http://d"];
        let best = |key: u64, servers: &[&'static str]| {
            *servers
                .iter()
                .max_by_key(|server| rank(key, server))
                .unwrap()
        };
        let mut counts = std::collections::BTreeMap::new();
        for key in 0..1000 {
            let before = best(key, &servers);
            *counts.entry(before).or_insert(0) += 1;
            let after = best(key, &servers[..3]);
            assert!(before == after || before == "http://d");
        }
        assert!(counts.values().all(|count| *count > 150), "{counts:?}");
    }
}
