//! Trailers: the fields behind a body that are passed on.

use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::http::forwarded::is_forwarded;
use crate::http::framing::is_framing;

/// Returns whether a field may come behind a body. One that frames the message, controls it, or
/// tells how to handle its body is of no use there, and dangerous if a server merges it into the
/// head (RFC 9110 §6.5.1).
fn is_allowed(name: &HeaderName) -> bool {
    let is_forbidden = matches!(
        *name,
        header::AUTHORIZATION
            | header::CACHE_CONTROL
            | header::CONTENT_ENCODING
            | header::CONTENT_RANGE
            | header::CONTENT_TYPE
            | header::COOKIE
            | header::EXPECT
            | header::HOST
            | header::MAX_FORWARDS
            | header::PRAGMA
            | header::PROXY_AUTHENTICATE
            | header::PROXY_AUTHORIZATION
            | header::RANGE
            | header::SET_COOKIE
            | header::WWW_AUTHENTICATE
    );
    !is_forbidden
        && !is_framing(name)
        && !is_forwarded(name.as_str())
        && !name.as_str().contains('_')
}

/// Returns the names of the trailer fields that a head announces and that may be passed on, as the
/// value of `Trailer`.
pub(super) fn trailer_names(headers: &HeaderMap) -> Option<HeaderValue> {
    let fields = headers.get_all(header::TRAILER).iter();
    let names = fields
        .filter_map(|field| field.to_str().ok())
        .flat_map(|field| field.split(','))
        .filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok())
        .filter(is_allowed);
    let names: Vec<String> = names.map(|name| name.to_string()).collect();
    match names.is_empty() {
        true => None,
        false => HeaderValue::from_str(&names.join(", ")).ok(),
    }
}

/// Removes the trailer fields that are not passed on.
pub(super) fn clean(trailers: &mut HeaderMap) {
    while let Some(name) = trailers.keys().find(|name| !is_allowed(name)).cloned() {
        trailers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_fields_that_control_nothing_pass_behind_a_body() {
        let mut trailers = HeaderMap::new();
        for name in [
            "content-length",
            "transfer-encoding",
            "host",
            "set-cookie",
            "authorization",
            "x-forwarded-for",
            "x_user",
            "connection",
            "x-checksum",
            "grpc-status",
        ] {
            trailers.append(name, HeaderValue::from_static("1"));
            trailers.append(name, HeaderValue::from_static("2"));
        }
        clean(&mut trailers);
        let mut left: Vec<&str> = trailers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["grpc-status", "x-checksum"]);
    }

    #[test]
    fn a_head_without_usable_names_announces_nothing() {
        let check = |fields: &[&'static str], expected: Option<&str>| {
            let mut headers = HeaderMap::new();
            for field in fields {
                headers.append(header::TRAILER, HeaderValue::from_static(field));
            }
            let found = trailer_names(&headers);
            assert_eq!(
                found.as_ref().map(|value| value.to_str().unwrap()),
                expected
            );
        };
        check(&[], None);
        check(&[""], None);
        check(&["Host, content-length,,"], None);
        check(&["X-Sum , Host", "grpc-status"], Some("x-sum, grpc-status"));
    }
}
