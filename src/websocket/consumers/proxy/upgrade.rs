//! Upgrade: the handshake with the upstream server, as pure functions (RFC 6455 §4).
//!
//! The client's offers of extensions pass unchanged, and so do its subprotocols, without a token or
//! a ticket that `auth` has taken out of them. The upstream's choice passes back. A handshake over
//! HTTP/2 has no key, so the upstream gets one of ours.

use data_encoding::BASE64;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use tungstenite::handshake::derive_accept_key;

use crate::http::upgrade::has_token;

/// Why an upstream's 101 opens no tunnel: the client gets 502.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(super) enum BadUpgrade {
    /// Another protocol, or none.
    #[error("expected \"Upgrade: websocket\" and \"Connection: Upgrade\" with 101")]
    Protocol,
    /// The response of another handshake, or of a server that does not speak WebSocket.
    #[error("expected the Sec-WebSocket-Accept of the key that was sent")]
    Accept,
    /// A client would fail the connection.
    #[error("expected one of the subprotocols that the client offers, found {found:?}")]
    Subprotocol {
        /// The upstream's choice.
        found: String,
    },
    /// A status that is neither 101 nor a refusal. Over HTTP/2, 200 would accept the handshake.
    #[error("expected 101 or a refusal of 300 or more, found {0}")]
    Status(StatusCode),
}

/// The value of `Sec-WebSocket-Accept` that the upstream owes.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct ExpectedAccept(String);

/// Adds the fields of a handshake over HTTP/1.1, which offers these subprotocols.
pub(super) fn write(headers: &mut HeaderMap, subprotocols: &[String]) -> ExpectedAccept {
    headers.remove(header::SEC_WEBSOCKET_PROTOCOL);
    // They are tokens: the handshake was checked.
    if !subprotocols.is_empty()
        && let Ok(offer) = HeaderValue::from_str(&subprotocols.join(", "))
    {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, offer);
    }
    headers.remove(header::TE);
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    let version = HeaderValue::from_static("13");
    headers.insert(header::SEC_WEBSOCKET_VERSION, version);
    if !headers.contains_key(header::SEC_WEBSOCKET_KEY) {
        let nonce = fastrand::u128(..).to_ne_bytes();
        if let Ok(key) = HeaderValue::from_str(&BASE64.encode(&nonce)) {
            headers.insert(header::SEC_WEBSOCKET_KEY, key);
        }
    }
    let key = headers.get(header::SEC_WEBSOCKET_KEY);
    let key = key.map_or(&b""[..], HeaderValue::as_bytes);
    ExpectedAccept(derive_accept_key(key))
}

/// Checks the head of a 101. Returns the subprotocol that the upstream has chosen.
pub(super) fn check(
    response: &Response<()>,
    expected: &ExpectedAccept,
    offered: &[String],
) -> Result<Option<String>, BadUpgrade> {
    let headers = response.headers();
    if !has_token(headers, &header::CONNECTION, "upgrade")
        || !has_token(headers, &header::UPGRADE, "websocket")
    {
        return Err(BadUpgrade::Protocol);
    }
    if one(headers, &header::SEC_WEBSOCKET_ACCEPT) != Some(expected.0.as_bytes()) {
        return Err(BadUpgrade::Accept);
    }
    if !headers.contains_key(header::SEC_WEBSOCKET_PROTOCOL) {
        return Ok(None);
    }
    let chosen = one(headers, &header::SEC_WEBSOCKET_PROTOCOL).unwrap_or_default();
    let known = offered.iter().find(|known| known.as_bytes() == chosen);
    known
        .cloned()
        .map(Some)
        .ok_or_else(|| BadUpgrade::Subprotocol {
            found: String::from_utf8_lossy(chosen).into_owned(),
        })
}

/// Checks the status of any other response.
pub(super) fn check_refusal(status: StatusCode) -> Result<(), BadUpgrade> {
    match status.as_u16() {
        300.. => Ok(()),
        _ => Err(BadUpgrade::Status(status)),
    }
}

/// Returns the value of a field that comes once.
fn one<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h [u8]> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => Some(value.as_bytes().trim_ascii()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
    const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

    fn fields(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn client_over_http1_keeps_its_key_and_its_offers() {
        let mut headers = fields(&[
            ("sec-websocket-key", KEY),
            ("sec-websocket-version", "13"),
            (
                "sec-websocket-extensions",
                "permessage-deflate, x; a=\"b, c\"",
            ),
            ("sec-websocket-protocol", "a, ticket, secret, b"),
            ("te", "trailers"),
            ("connection", "te"),
        ]);
        let offered = ["a", "ticket", "b"].map(str::to_owned);
        let expected = write(&mut headers, &offered);
        assert_eq!(expected, ExpectedAccept(ACCEPT.to_owned()));
        let mut written: Vec<String> = headers
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect();
        written.sort_unstable();
        assert_eq!(
            written,
            [
                "connection: Upgrade",
                "sec-websocket-extensions: permessage-deflate, x; a=\"b, c\"",
                "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==",
                "sec-websocket-protocol: a, ticket, b",
                "sec-websocket-version: 13",
                "upgrade: websocket",
            ]
        );
    }

    #[test]
    fn client_over_http2_gets_a_key_of_its_own() {
        let mut keys = std::collections::HashSet::new();
        for _ in 0..3 {
            let mut headers = HeaderMap::new();
            let ExpectedAccept(expected) = write(&mut headers, &[]);
            assert!(!headers.contains_key(header::SEC_WEBSOCKET_PROTOCOL));
            let key = headers[header::SEC_WEBSOCKET_KEY].clone();
            assert_eq!(BASE64.decode(key.as_bytes()).unwrap().len(), 16);
            assert_eq!(expected, derive_accept_key(key.as_bytes()));
            keys.insert(key);
        }
        assert_eq!(keys.len(), 3);
    }

    #[test]
    fn only_the_response_to_this_handshake_opens_a_tunnel() {
        let ok = [
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "WebSocket"),
            ("sec-websocket-accept", ACCEPT),
        ];
        let check = |added: &[(&'static str, &'static str)]| {
            let mut response = Response::new(());
            *response.headers_mut() = fields(added);
            let expected = ExpectedAccept(ACCEPT.to_owned());
            check(&response, &expected, &["a".to_owned(), "b".to_owned()])
        };
        let subprotocol = |found: &str| {
            Err(BadUpgrade::Subprotocol {
                found: found.to_owned(),
            })
        };
        let with = |more: &[(&'static str, &'static str)]| check(&[&ok[..], more].concat());
        assert_eq!(with(&[]), Ok(None));
        assert_eq!(
            with(&[("sec-websocket-protocol", "b")]),
            Ok(Some("b".to_owned()))
        );
        assert_eq!(with(&[("sec-websocket-protocol", "c")]), subprotocol("c"));
        assert_eq!(
            with(&[("sec-websocket-protocol", "a, b")]),
            subprotocol("a, b")
        );
        assert_eq!(with(&[("sec-websocket-protocol", "")]), subprotocol(""));
        assert_eq!(
            with(&[("sec-websocket-accept", ACCEPT)]),
            Err(BadUpgrade::Accept)
        );
        assert_eq!(check(&ok[..2]), Err(BadUpgrade::Accept));
        assert_eq!(check(&ok[1..]), Err(BadUpgrade::Protocol));
        assert_eq!(
            check(&[ok[0], ("upgrade", "h2c"), ok[2]]),
            Err(BadUpgrade::Protocol)
        );
        assert_eq!(
            check(&[ok[0], ok[1], ("sec-websocket-accept", "AAAA")]),
            Err(BadUpgrade::Accept)
        );
    }

    #[test]
    fn success_is_not_a_refusal() {
        for status in [200, 204, 100, 103] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(check_refusal(status), Err(BadUpgrade::Status(status)));
        }
        for status in [300, 302, 401, 404, 426, 500, 503, 999] {
            assert_eq!(check_refusal(StatusCode::from_u16(status).unwrap()), Ok(()));
        }
    }
}
