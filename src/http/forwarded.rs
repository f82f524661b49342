//! Forwarded: what trusted proxies say of the client, and what nobody else may say.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName, header};
use ipnet::IpNet;

use crate::scope::Scheme;

/// What a chain of trusted proxies said.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Forwarded {
    /// The right-most address that is no trusted proxy; port 0 when none was given.
    pub client: Option<SocketAddr>,
    /// Plain or TLS on the client's side.
    pub scheme: Option<Scheme>,
    /// The host the client asked for.
    pub host: Option<String>,
}

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");

/// Reads `Forwarded` (RFC 7239) or, without it, `X-Forwarded-For`, `-Proto`, `-Host` and `-Port`.
///
/// Called only when the peer itself is trusted. The list is walked from the right, past every trusted address; the first
/// that is not trusted is the client, whatever stands to its left (a client can write that).
#[must_use]
pub fn read(headers: &HeaderMap, trusted: &[IpNet]) -> Forwarded {
    if headers.contains_key(header::FORWARDED) {
        rfc7239(headers, trusted)
    } else {
        x_forwarded(headers, trusted)
    }
}

/// Tells whether an address is one of the trusted proxies.
#[must_use]
pub fn is_trusted(address: IpAddr, trusted: &[IpNet]) -> bool {
    let address = address.to_canonical();
    trusted.iter().any(|net| net.contains(&address))
}

/// Removes the fields that only a trusted proxy may send.
pub fn strip(headers: &mut HeaderMap) {
    remove(headers, |name| match name.as_str().as_bytes().first() {
        Some(b'x') => name.as_str().starts_with("x-forwarded-") || name == "x-real-ip",
        Some(b'f') => *name == header::FORWARDED,
        _ => false,
    });
}

/// Removes what nobody may send: names with `_`, which some applications cannot tell from `-`, and `Daphne-Root-Path`, which
/// would move the root.
pub fn strip_ambiguous(headers: &mut HeaderMap) {
    remove(headers, |name| {
        name.as_str().bytes().any(|byte| byte == b'_') || name == "daphne-root-path"
    });
}

fn remove(headers: &mut HeaderMap, unwanted: impl Fn(&HeaderName) -> bool) {
    while let Some(name) = headers.keys().find(|name| unwanted(name)).cloned() {
        headers.remove(name);
    }
}

fn rfc7239(headers: &HeaderMap, trusted: &[IpNet]) -> Forwarded {
    let mut found = Forwarded::default();
    for element in list(headers, &header::FORWARDED).rev() {
        let parameter = |wanted: &str| {
            element.split(';').find_map(|pair| {
                let (name, value) = pair.split_once('=')?;
                name.trim()
                    .eq_ignore_ascii_case(wanted)
                    .then(|| value.trim().trim_matches('"').to_owned())
            })
        };
        found.scheme = parameter("proto")
            .and_then(|word| scheme(&word))
            .or(found.scheme);
        found.host = parameter("host").or(found.host);
        let Some(address) = parameter("for").and_then(|node| address(&node)) else {
            break;
        };
        found.client = Some(address);
        if !is_trusted(address.ip(), trusted) {
            break;
        }
    }
    found
}

fn x_forwarded(headers: &HeaderMap, trusted: &[IpNet]) -> Forwarded {
    let mut client = None;
    for element in list(headers, &FORWARDED_FOR).rev() {
        let Some(found) = address(element) else { break };
        client = Some(found);
        if !is_trusted(found.ip(), trusted) {
            break;
        }
    }
    if let (Some(address), Some(port)) = (
        client.as_mut(),
        list(headers, &FORWARDED_PORT)
            .next_back()
            .and_then(|port| port.parse().ok()),
    ) && address.port() == 0
    {
        address.set_port(port);
    }
    Forwarded {
        client,
        scheme: list(headers, &FORWARDED_PROTO).next_back().and_then(scheme),
        host: list(headers, &FORWARDED_HOST)
            .next_back()
            .map(str::to_owned),
    }
}

fn list<'a>(headers: &'a HeaderMap, name: &HeaderName) -> std::vec::IntoIter<&'a str> {
    let all: Vec<&str> = headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|text| text.split(','))
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .collect();
    all.into_iter()
}

fn scheme(word: &str) -> Option<Scheme> {
    match word.to_ascii_lowercase().as_str() {
        "http" | "ws" => Some(Scheme::Plain),
        "https" | "wss" => Some(Scheme::Secure),
        _ => None,
    }
}

fn address(text: &str) -> Option<SocketAddr> {
    let text = text.trim_matches('"');
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Some(address);
    }
    let bare = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(text);
    bare.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(
        fields: &[(&'static str, &'static str)],
        client: Option<&str>,
        scheme: Option<Scheme>,
        host: Option<&str>,
    ) {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, value.parse().unwrap());
        }
        let trusted: Vec<IpNet> = vec!["10.0.0.0/8".parse().unwrap()];
        let expected = Forwarded {
            client: client.map(|text| text.parse().unwrap()),
            scheme,
            host: host.map(str::to_owned),
        };
        assert_eq!(read(&headers, &trusted), expected, "{fields:?}");
    }

    #[test]
    fn right_most_untrusted_address_is_the_client() {
        check(
            &[("x-forwarded-for", "evil, 203.0.113.9, 10.1.1.1")],
            Some("203.0.113.9:0"),
            None,
            None,
        );
        check(
            &[("x-forwarded-for", "198.51.100.1, 203.0.113.9")],
            Some("203.0.113.9:0"),
            None,
            None,
        );
        check(
            &[
                ("x-forwarded-for", "203.0.113.9"),
                ("x-forwarded-port", "44"),
            ],
            Some("203.0.113.9:44"),
            None,
            None,
        );
        check(&[("x-forwarded-for", "not an address")], None, None, None);
        check(
            &[("x-forwarded-for", "10.2.2.2, 10.1.1.1")],
            Some("10.2.2.2:0"),
            None,
            None,
        );
    }

    #[test]
    fn scheme_takes_known_words_only() {
        check(
            &[
                ("x-forwarded-proto", "HTTPS"),
                ("x-forwarded-host", "a.example"),
            ],
            None,
            Some(Scheme::Secure),
            Some("a.example"),
        );
        check(&[("x-forwarded-proto", "javascript")], None, None, None);
    }

    #[test]
    fn standard_field_comes_before_the_x_fields() {
        check(
            &[
                (
                    "forwarded",
                    "for=203.0.113.9;proto=https;host=a.example, for=10.0.0.2",
                ),
                ("x-forwarded-for", "1.2.3.4"),
            ],
            Some("203.0.113.9:0"),
            Some(Scheme::Secure),
            Some("a.example"),
        );
        check(
            &[("forwarded", "for=\"[2001:db8::1]:4711\"")],
            Some("[2001:db8::1]:4711"),
            None,
            None,
        );
    }

    #[test]
    fn fields_of_proxies_are_stripped() {
        let mut headers = HeaderMap::new();
        for name in [
            "x-forwarded-for",
            "x-forwarded-proto",
            "x-real-ip",
            "forwarded",
            "daphne-root-path",
            "x_under",
        ] {
            headers.insert(HeaderName::from_static(name), "1".parse().unwrap());
        }
        headers.insert("accept", "*/*".parse().unwrap());
        strip(&mut headers);
        strip_ambiguous(&mut headers);
        assert_eq!(
            headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(),
            ["accept"]
        );
    }
}
