//! Trailers: the fields behind a body that are passed on.

use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::header_rules::{HeaderRules, is_odd, variable};
use super::response_head::is_accel;
use crate::http::forwarded::is_forwarded;
use crate::http::framing::is_framing;

/// Returns whether a field may come behind a body. One that frames the message, controls it, or
/// tells how to handle its body is of no use there, and dangerous if a server merges it into the
/// head (RFC 9110 §6.5.1). So are the fields that Oneport writes into the head, those of its rules
/// among them, in any spelling.
fn is_allowed(name: &HeaderName, rules: &HeaderRules) -> bool {
    if name.as_str().contains('_') {
        return false; // as in the head
    }
    match is_odd(name) {
        true => HeaderName::try_from(variable(name.as_str()))
            .is_ok_and(|name| is_allowed_spelling(&name, rules)),
        false => is_allowed_spelling(name, rules),
    }
}

fn is_allowed_spelling(name: &HeaderName, rules: &HeaderRules) -> bool {
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
            | header::STRICT_TRANSPORT_SECURITY
            | header::WWW_AUTHENTICATE
    );
    let text = name.as_str();
    !is_forbidden
        && !is_framing(name)
        && !is_forwarded(text)
        && !is_accel(text)
        && !matches!(text, "x-request-id" | "proxy" | "daphne-root-path")
        && !rules.names_variable(text)
}

/// Returns the names of the trailer fields that a head announces and that may be passed on, as the
/// value of `Trailer`.
pub(super) fn trailer_names(headers: &HeaderMap, rules: &HeaderRules) -> Option<HeaderValue> {
    let fields = headers.get_all(header::TRAILER).iter();
    let names = fields
        .filter_map(|field| field.to_str().ok())
        .flat_map(|field| field.split(','))
        .filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok())
        .filter(|name| is_allowed(name, rules));
    let names: Vec<String> = names.map(|name| name.to_string()).collect();
    match names.is_empty() {
        true => None,
        false => HeaderValue::from_str(&names.join(", ")).ok(),
    }
}

/// Removes the trailer fields that are not passed on.
pub(super) fn clean(trailers: &mut HeaderMap, rules: &HeaderRules) {
    let is_unwanted = |name: &&HeaderName| !is_allowed(name, rules);
    let unwanted: Vec<HeaderName> = trailers.keys().filter(is_unwanted).cloned().collect();
    for name in unwanted {
        trailers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{OptionErrors, Options};

    /// The rules of a proxy that names the user to its application.
    fn rules() -> HeaderRules {
        let written = Options::from_toml("x-user = 'a'\nx_group = 'b'\n").unwrap();
        let mut errors = OptionErrors::default();
        HeaderRules::parse("request_headers", &written.read().unwrap(), &mut errors)
    }

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
            "x-user",
            "x.user",
            "x-group",
            "x-request-id",
            "x_request_id",
            "x.forwarded.proto",
            "content_length",
            "x-real-ip",
            "x-accel-redirect",
            "x-sendfile",
            "proxy",
            "connection",
            "x-checksum",
            "grpc-status",
        ] {
            trailers.append(name, HeaderValue::from_static("1"));
            trailers.append(name, HeaderValue::from_static("2"));
        }
        clean(&mut trailers, &rules());
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
            let found = trailer_names(&headers, &rules());
            assert_eq!(
                found.as_ref().map(|value| value.to_str().unwrap()),
                expected
            );
        };
        check(&[], None);
        check(&[""], None);
        check(&["Host, content-length,,"], None);
        check(&["X-User, X_User, X-Group, X-Request-ID"], None);
        check(&["X-Sum , Host", "grpc-status"], Some("x-sum, grpc-status"));
    }
}
