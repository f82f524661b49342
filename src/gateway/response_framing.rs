//! Response framing: removes the header fields of a response that only the server sends.

use std::sync::atomic::Ordering;

use http::{HeaderMap, HeaderName, Method, StatusCode, header};

use super::table::RouteEntry;
use crate::http::framing::{AnnouncedTrailers, is_framing, remove_framing};
use crate::http::{Body, Response};
use crate::scope::Scope;

/// Removes the fields that only the server sends, and warns once per route. A correct
/// `Content-Length` gives no warning. A response to HEAD keeps it, because the length of its body
/// cannot be measured. An interim status (1xx) becomes 500.
pub(super) fn enforce<H>(scope: &Scope, entry: &RouteEntry<H>, response: &mut Response) {
    if response.status().is_informational() {
        tracing::error!(route = %entry.label, status = response.status().as_u16(), "the handler returned an interim status; sending 500");
        *response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        return;
    }
    let trailers: Option<AnnouncedTrailers> = response.extensions().get().cloned();
    if trailers.is_some() {
        // Set below, if this is the second time for the response.
        response.headers_mut().remove(header::TRAILER);
    }
    if response.headers().keys().any(is_framing) {
        remove(scope, entry, response);
    }
    if let Some(AnnouncedTrailers(names)) = trailers {
        response.headers_mut().insert(header::TRAILER, names);
    }
}

fn remove<H>(scope: &Scope, entry: &RouteEntry<H>, response: &mut Response) {
    let length = http_body::Body::size_hint(response.body()).exact();
    let is_head = scope.method == Method::HEAD && length == Some(0);
    let written = content_length(response.headers());
    let is_right = is_head || (written.is_some() && written == length);
    let kept = response
        .headers()
        .get(header::CONTENT_LENGTH)
        .filter(|_| is_head && written.is_some())
        .cloned();
    let removed = remove_framing(response.headers_mut());
    if let Some(kept) = kept {
        response.headers_mut().insert(header::CONTENT_LENGTH, kept);
    }
    let is_harmless = is_right && removed.iter().all(|name| *name == header::CONTENT_LENGTH);
    if !is_harmless && !entry.has_warned.swap(true, Ordering::Relaxed) {
        tracing::warn!(
            route = %entry.label,
            fields = removed.iter().map(HeaderName::as_str).collect::<Vec<_>>().join(", "),
            "the response has header fields that only the server sends; they are removed"
        );
    }
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    let mut fields = headers.get_all(header::CONTENT_LENGTH).iter();
    let (Some(field), None) = (fields.next(), fields.next()) else {
        return None;
    };
    field.to_str().ok()?.parse().ok()
}
