//! Hop-by-hop fields: fields of one connection, which are never passed on (RFC 9110 §7.6.1).

use http::{HeaderMap, HeaderName, header};

/// Returns whether a field belongs to one connection. `Connection` may name more such fields.
///
/// ```
/// use oneport::client::is_hop_by_hop;
/// assert!(is_hop_by_hop(&http::header::TRANSFER_ENCODING));
/// assert!(!is_hop_by_hop(&http::header::CONTENT_LENGTH));
/// ```
#[must_use]
pub fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
    )
}

/// Removes the hop-by-hop fields, including those that `Connection` names, from a message that is
/// passed on.
///
/// `Host` stays, although a client may name it: without it, a request would reach another host.
pub fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let named = headers.get_all(header::CONNECTION).iter();
    let named = named
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|option| HeaderName::from_bytes(option.trim().as_bytes()).ok())
        .filter(|name| name != header::HOST);
    let always = headers.keys().filter(|name| is_hop_by_hop(name)).cloned();
    let all: Vec<HeaderName> = named.chain(always).collect();
    for name in all {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_of_a_connection_and_those_it_names_are_removed() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, X-Own"),
            ("connection", "x-other, Host"),
            ("host", "a"),
            ("keep-alive", "timeout=5"),
            ("te", "trailers"),
            ("upgrade", "websocket"),
            ("x-own", "1"),
            ("x-other", "2"),
            ("content-length", "3"),
            ("cookie", "a=1"),
        ] {
            headers.append(name, value.parse().unwrap());
        }
        remove_hop_by_hop(&mut headers);
        let mut left: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["content-length", "cookie", "host"]);
    }
}
