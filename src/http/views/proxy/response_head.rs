//! Response head: the header fields that the client gets of an upstream's response.

use http::response::Parts;
use http::{HeaderMap, Method, StatusCode, Version, header};

use super::header_rules::HeaderRules;
use super::trailers::trailer_names;
use crate::client::{is_hop_by_hop, remove_hop_by_hop};
use crate::http::framing::AnnouncedTrailers;

/// A response that cannot be passed on: the client gets 502.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum BadResponse {
    /// An interim status as the final one. 101 would end HTTP on a connection on which the client
    /// has asked for no such thing.
    #[error("expected a final status, found {0}")]
    Status(StatusCode),
    /// Two lengths, of which two servers may believe different ones (RFC 9112 §6.3).
    #[error("expected either Content-Length or Transfer-Encoding, found both")]
    TwoLengths,
    /// Another framing than that which the client's connection and the parser know.
    #[error("expected the transfer coding chunked alone, found another")]
    Coding,
}

/// Removes what belongs to the upstream's connection, and the version of HTTP that it speaks.
/// `rules` are those of the response's fields.
pub(crate) fn clean(
    parts: &mut Parts,
    method: &Method,
    rules: &HeaderRules,
) -> Result<(), BadResponse> {
    if parts.status.is_informational() {
        return Err(BadResponse::Status(parts.status));
    }
    let mut announced = None;
    // Most responses over a kept-alive connection have none of these fields.
    if parts.headers.keys().any(is_hop_by_hop) {
        if parts.version < Version::HTTP_2 {
            check_framing(&parts.headers)?;
        }
        announced = trailer_names(&parts.headers, rules);
        remove_hop_by_hop(&mut parts.headers);
    }
    // A response to HEAD keeps the length of the body that it does not have.
    if *method != Method::HEAD {
        parts.headers.remove(header::CONTENT_LENGTH);
    }
    parts.version = Version::default();
    parts.extensions.clear();
    if let Some(names) = announced {
        parts.extensions.insert(AnnouncedTrailers(names));
    }
    Ok(())
}

fn check_framing(headers: &HeaderMap) -> Result<(), BadResponse> {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let Some(coding) = codings.next() else {
        return Ok(());
    };
    if headers.contains_key(header::CONTENT_LENGTH) {
        return Err(BadResponse::TwoLengths);
    }
    let is_chunked = coding
        .as_bytes()
        .trim_ascii()
        .eq_ignore_ascii_case(b"chunked");
    match is_chunked && codings.next().is_none() {
        true => Ok(()),
        false => Err(BadResponse::Coding),
    }
}

/// Removes the fields with which an application asks its proxy for a file or tells it how to
/// buffer. They are for Oneport, and may name a path of the server.
pub(crate) fn remove_accel(headers: &mut HeaderMap) {
    let mut names = headers.keys();
    while let Some(name) = names.find(|name| is_accel(name.as_str())).cloned() {
        headers.remove(name);
        names = headers.keys();
    }
}

/// Returns whether a field is one of those that [`remove_accel`] removes.
pub(super) fn is_accel(name: &str) -> bool {
    name == "x-sendfile" || (name.starts_with("x-accel-") && name != "x-accel-buffering")
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn parts(status: u16, fields: &[(&'static str, &'static str)]) -> Parts {
        let (mut parts, ()) = http::Response::new(()).into_parts();
        parts.status = StatusCode::from_u16(status).unwrap();
        for (name, value) in fields {
            parts.headers.append(*name, HeaderValue::from_static(value));
        }
        parts
    }

    fn cleaned(method: &Method, mut parts: Parts) -> Result<Vec<String>, BadResponse> {
        clean(&mut parts, method, &HeaderRules::default())?;
        remove_accel(&mut parts.headers);
        let mut names: Vec<String> = parts.headers.keys().map(ToString::to_string).collect();
        names.sort_unstable();
        Ok(names)
    }

    #[test]
    fn fields_of_the_upstreams_connection_are_removed() {
        let sent = [
            ("connection", "close, x-own"),
            ("x-own", "1"),
            ("keep-alive", "timeout=5"),
            ("transfer-encoding", "Chunked"),
            ("trailer", "x-sum"),
            ("upgrade", "h2c"),
            ("x-accel-redirect", "/a"),
            ("x-accel-charset", "utf-8"),
            ("x-accel-buffering", "no"),
            ("x-sendfile", "/srv/a"),
            ("set-cookie", "a=1"),
            ("content-type", "text/html"),
        ];
        let left = cleaned(&Method::GET, parts(200, &sent)).unwrap();
        assert_eq!(left, ["content-type", "set-cookie", "x-accel-buffering"]);
    }

    #[test]
    fn only_a_response_to_head_keeps_its_length() {
        let sent = || parts(200, &[("content-length", "5")]);
        assert_eq!(cleaned(&Method::GET, sent()).unwrap(), [""; 0]);
        assert_eq!(cleaned(&Method::HEAD, sent()).unwrap(), ["content-length"]);
    }

    #[test]
    fn responses_with_uncertain_framing_are_refused() {
        let check =
            |status: u16, fields: &[(&'static str, &'static str)], expected: BadResponse| {
                assert_eq!(
                    cleaned(&Method::GET, parts(status, fields)),
                    Err(expected),
                    "{status} {fields:?}"
                );
            };
        check(
            101,
            &[("upgrade", "websocket")],
            BadResponse::Status(StatusCode::SWITCHING_PROTOCOLS),
        );
        let chunked = ("transfer-encoding", "chunked");
        check(
            200,
            &[chunked, ("content-length", "5")],
            BadResponse::TwoLengths,
        );
        check(200, &[chunked, chunked], BadResponse::Coding);
        check(
            200,
            &[("transfer-encoding", "gzip, chunked")],
            BadResponse::Coding,
        );
        check(
            200,
            &[("transfer-encoding", "identity")],
            BadResponse::Coding,
        );
    }

    #[test]
    fn announced_trailers_and_the_version_are_those_of_the_message() {
        let mut sent = parts(
            200,
            &[
                ("trailer", "x-sum, content-length"),
                ("trailer", "grpc-status"),
            ],
        );
        sent.version = Version::HTTP_10;
        sent.extensions.insert(5_u8);
        clean(&mut sent, &Method::GET, &HeaderRules::default()).unwrap();
        assert_eq!(sent.version, Version::HTTP_11);
        assert_eq!(sent.extensions.len(), 1);
        let announced: Option<&AnnouncedTrailers> = sent.extensions.get();
        assert_eq!(announced.unwrap().0, "x-sum, grpc-status");
    }
}
