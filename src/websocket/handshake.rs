//! Handshake: checks an upgrade request, as a pure function (RFC 6455 §4.2).

use std::collections::HashSet;

use data_encoding::BASE64;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header};

use crate::http::Failure;

/// The most subprotocols a client may offer. The check runs before routing and middleware, so its
/// cost must be bounded.
pub const SUBPROTOCOLS_MAX: usize = 64;

/// A valid request for a WebSocket.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Handshake {
    /// The value of `Sec-WebSocket-Accept`; over HTTP/2 there is none.
    pub accept: Option<String>,
    /// The subprotocols the client offers, in its order.
    pub subprotocols: Vec<String>,
}

/// Checks a request for `websocket`: over HTTP/1.1 an upgrade, over HTTP/2 an extended CONNECT (RFC
/// 8441 §5), which has no key.
///
/// It refuses, in this order:
///
/// - a method other than GET, or over HTTP/2 other than CONNECT (405)
/// - HTTP/1.0 (400)
/// - a body (400)
/// - a missing `Sec-WebSocket-Version` (400) or one other than 13 (426), both with
///   `Sec-WebSocket-Version: 13`
/// - a missing or repeated `Sec-WebSocket-Key` (400), and more than one `Origin` (400)
/// - a key that is not 16 bytes of base64 (400)
/// - subprotocols that are not tokens, are repeated, or are more than [`SUBPROTOCOLS_MAX`] (400)
///
/// It ignores offers of extensions; [`extension::negotiate`](super::extension::negotiate) reads
/// them.
///
/// ```
/// use http::{HeaderMap, Method, Version};
/// use oneport::websocket::handshake::check;
/// let mut headers = HeaderMap::new();
/// headers.insert("sec-websocket-version", "13".parse().unwrap());
/// headers.insert("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==".parse().unwrap());
/// let handshake = check(&Method::GET, Version::HTTP_11, &headers).unwrap();
/// assert_eq!(handshake.accept.as_deref(), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
/// headers.insert("sec-websocket-version", "12".parse().unwrap());
/// assert_eq!(check(&Method::GET, Version::HTTP_11, &headers).unwrap_err().status(), 426);
/// ```
pub fn check(method: &Method, version: Version, headers: &HeaderMap) -> Result<Handshake, Failure> {
    let is_http2 = version >= Version::HTTP_2;
    let wanted = if is_http2 { "CONNECT" } else { "GET" };
    if method != wanted {
        let refusal = Failure::new(
            StatusCode::METHOD_NOT_ALLOWED,
            format!("expected {wanted} for a WebSocket, found {method}"),
        );
        return Err(refusal.with_header(header::ALLOW, HeaderValue::from_static(wanted)));
    }
    if version < Version::HTTP_11 {
        return Err(Failure::bad_request(
            "expected HTTP/1.1 or later for a WebSocket, found HTTP/1.0",
        ));
    }
    if has_body(headers) {
        return Err(Failure::bad_request(
            "expected a handshake without a body, found one",
        ));
    }
    check_version(headers)?;
    let key = if is_http2 {
        None
    } else {
        Some(one(headers, &header::SEC_WEBSOCKET_KEY)?)
    };
    if headers.get_all(header::ORIGIN).iter().count() > 1 {
        return Err(Failure::bad_request(
            "expected one Origin at most, found several",
        ));
    }
    key.map(check_key).transpose()?;
    Ok(Handshake {
        accept: key.map(|key| tungstenite::handshake::derive_accept_key(key.as_bytes())),
        subprotocols: subprotocols(headers)?,
    })
}

fn has_body(headers: &HeaderMap) -> bool {
    headers.contains_key(header::TRANSFER_ENCODING)
        || headers
            .get(header::CONTENT_LENGTH)
            .is_some_and(|length| length != "0")
}

fn check_version(headers: &HeaderMap) -> Result<(), Failure> {
    let supported = |failure: Failure| {
        Err(failure.with_header(
            header::SEC_WEBSOCKET_VERSION,
            HeaderValue::from_static("13"),
        ))
    };
    let mut versions = headers.get_all(header::SEC_WEBSOCKET_VERSION).iter();
    let first = versions.next();
    if versions.next().is_some() {
        return supported(Failure::bad_request(
            "expected one Sec-WebSocket-Version, found several",
        ));
    }
    match first {
        Some(version) if version.as_bytes().trim_ascii() == b"13" => Ok(()),
        Some(version) => supported(Failure::new(
            StatusCode::UPGRADE_REQUIRED,
            format!(
                "expected Sec-WebSocket-Version 13, found {:?}",
                String::from_utf8_lossy(version.as_bytes())
            ),
        )),
        None => supported(Failure::bad_request(
            "expected Sec-WebSocket-Version 13, found none",
        )),
    }
}

fn one<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<&'a HeaderValue, Failure> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => Ok(value),
        (None, _) => Err(Failure::bad_request(
            "expected a Sec-WebSocket-Key, found none",
        )),
        (Some(_), Some(_)) => Err(Failure::bad_request(
            "expected one Sec-WebSocket-Key, found several",
        )),
    }
}

fn check_key(key: &HeaderValue) -> Result<(), Failure> {
    match BASE64.decode(key.as_bytes()) {
        Ok(nonce) if nonce.len() == 16 => Ok(()),
        Ok(nonce) => Err(Failure::bad_request(format!(
            "expected 16 bytes of base64 in Sec-WebSocket-Key, found {}",
            nonce.len()
        ))),
        Err(_) => Err(Failure::bad_request(format!(
            "expected 16 bytes of base64 in Sec-WebSocket-Key, found {:?}",
            String::from_utf8_lossy(key.as_bytes())
        ))),
    }
}

/// Reads the offer in one pass, and stops at the first invalid subprotocol.
fn subprotocols(headers: &HeaderMap) -> Result<Vec<String>, Failure> {
    let words = headers
        .get_all(header::SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|word| !word.is_empty());
    let mut found: Vec<String> = Vec::new();
    let mut known: HashSet<&[u8]> = HashSet::new();
    for word in words {
        let quoted = || format!("{:?}", String::from_utf8_lossy(word));
        if !word.iter().copied().all(is_token_octet) {
            return Err(Failure::bad_request(format!(
                "expected tokens in Sec-WebSocket-Protocol, found {}",
                quoted()
            )));
        }
        if !known.insert(word) {
            return Err(Failure::bad_request(format!(
                "expected each subprotocol once, found {} again",
                quoted()
            )));
        }
        if found.len() == SUBPROTOCOLS_MAX {
            return Err(Failure::bad_request(format!(
                "expected at most {SUBPROTOCOLS_MAX} subprotocols, found more"
            )));
        }
        found.push(String::from_utf8_lossy(word).into_owned());
    }
    Ok(found)
}

/// Returns whether an octet may be in a token (RFC 9110 §5.6.2).
pub(crate) fn is_token_octet(octet: u8) -> bool {
    octet.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&octet)
}

#[cfg(test)]
mod tests;
