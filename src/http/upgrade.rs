//! Upgrade: the protocol type that a request asks for.

use http::{HeaderMap, HeaderName, Version, header};

use crate::scope::ScopeType;

/// The `:protocol` of an extended CONNECT (RFC 8441 §4), as an extension of its request.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ConnectProtocol(pub Box<str>);

impl ConnectProtocol {
    /// Returns whether the protocol is `websocket`.
    #[must_use]
    pub fn is_websocket(&self) -> bool {
        self.0.eq_ignore_ascii_case("websocket")
    }
}

/// Returns the protocol type of a request that is not an extended CONNECT (RFC 9110 §7.8, RFC 6455
/// §4.1).
///
/// A WebSocket handshake over HTTP/1.1 has the token `websocket` in `Upgrade` and the token
/// `upgrade` in `Connection`. Both are lists, possibly over several fields, and case-insensitive. A
/// server may ignore any other upgrade (h2c, an unknown protocol), so such a request is an ordinary
/// one. HTTP/2 has no `Upgrade`.
///
/// ```
/// use http::{HeaderMap, Version};
/// use oneport::{http::upgrade::protocol_type, scope::ScopeType};
/// let mut headers = HeaderMap::new();
/// headers.insert("connection", "keep-alive, Upgrade".parse().unwrap());
/// headers.insert("upgrade", "WebSocket".parse().unwrap());
/// assert_eq!(protocol_type(Version::HTTP_11, &headers), ScopeType::Websocket);
/// headers.insert("upgrade", "h2c".parse().unwrap());
/// assert_eq!(protocol_type(Version::HTTP_11, &headers), ScopeType::Http);
/// ```
#[must_use]
pub fn protocol_type(version: Version, headers: &HeaderMap) -> ScopeType {
    if version >= Version::HTTP_2 || !headers.contains_key(header::UPGRADE) {
        return ScopeType::Http;
    }
    if has_token(headers, &header::UPGRADE, "websocket")
        && has_token(headers, &header::CONNECTION, "upgrade")
    {
        ScopeType::Websocket
    } else {
        ScopeType::Http
    }
}

/// Returns whether a list field contains a token, in any case, on any of its lines (RFC 9110
/// §5.6.1).
pub(crate) fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .any(|part| part.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(version: Version, fields: &[(&'static str, &'static str)], expected: ScopeType) {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, value.parse().unwrap());
        }
        assert_eq!(
            protocol_type(version, &headers),
            expected,
            "{version:?} {fields:?}"
        );
    }

    #[test]
    fn upgrade_tokens_are_read_as_lists_in_any_case_over_several_lines() {
        use ScopeType::{Http, Websocket};
        let v11 = Version::HTTP_11;
        check(
            v11,
            &[("upgrade", "websocket"), ("connection", "Upgrade")],
            Websocket,
        );
        check(
            v11,
            &[
                ("upgrade", "foo, WEBSOCKET"),
                ("connection", "keep-alive"),
                ("connection", "UPGRADE"),
            ],
            Websocket,
        );
        check(
            v11,
            &[
                ("upgrade", "h2c"),
                ("upgrade", "websocket"),
                ("connection", "close,upgrade "),
            ],
            Websocket,
        );
        check(v11, &[("upgrade", "websocket")], Http);
        check(v11, &[("connection", "upgrade")], Http);
        check(
            v11,
            &[
                ("upgrade", "h2c"),
                ("connection", "Upgrade, HTTP2-Settings"),
            ],
            Http,
        );
        check(
            v11,
            &[("upgrade", "websockets"), ("connection", "upgrade")],
            Http,
        );
        check(
            Version::HTTP_10,
            &[("upgrade", "websocket"), ("connection", "upgrade")],
            Websocket,
        );
        check(
            Version::HTTP_2,
            &[("upgrade", "websocket"), ("connection", "upgrade")],
            Http,
        );
    }
}
