//! Framing: the fields that delimit a message and manage its connection. Only the server sends
//! them.

use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::client::is_hop_by_hop;

/// Returns whether a response field belongs to the server: it delimits the message (RFC 9112 §6),
/// manages the connection (RFC 9110 §7.6.1) or is part of the WebSocket handshake (RFC 6455 §11.3).
///
/// ```
/// use http::header;
/// use oneport::http::framing::is_framing;
/// assert!(is_framing(&header::TRANSFER_ENCODING));
/// assert!(is_framing(&header::SEC_WEBSOCKET_EXTENSIONS));
/// assert!(!is_framing(&header::CONTENT_TYPE));
/// ```
#[must_use]
pub fn is_framing(name: &HeaderName) -> bool {
    is_hop_by_hop(name)
        || *name == header::CONTENT_LENGTH
        || name.as_str().starts_with("sec-websocket-")
}

/// The names of the trailer fields that a response announces, the value of its `Trailer`: an
/// extension of a response that is passed on. The gateway removes the field itself as one of the
/// server's, and sets it again from this value.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct AnnouncedTrailers(pub(crate) HeaderValue);

/// Removes the server's fields and returns their names.
pub(crate) fn remove_framing(headers: &mut HeaderMap) -> Vec<HeaderName> {
    let removed: Vec<HeaderName> = headers
        .keys()
        .filter(|name| is_framing(name))
        .cloned()
        .collect();
    for name in &removed {
        headers.remove(name);
    }
    removed
}

/// Returns the error for a configuration that sets such a field.
pub(crate) fn refusal(name: &str) -> Option<String> {
    let parsed = HeaderName::from_bytes(name.as_bytes()).ok()?;
    is_framing(&parsed).then(|| format!("the server sets {name:?} itself"))
}
