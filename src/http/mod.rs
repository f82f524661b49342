//! HTTP: requests, responses, views and failures.

pub mod body;
mod body_meter;
mod client_end;
pub mod conditional;
pub mod csrf;
pub(crate) mod encoding;
pub(crate) mod event_streams;
pub(crate) mod exposition;
pub mod failure;
mod file_body;
pub(crate) mod file_threads;
pub mod form;
pub mod forwarded;
pub mod framing;
pub(crate) mod location;
pub(crate) mod open_file;
pub mod origin;
pub mod page;
pub mod range;
pub(crate) mod read_rate;
pub mod request;
pub(crate) mod spare_fields;
pub mod upgrade;
pub mod view;
pub mod views;

pub use body::Body;
pub use client_end::ClientEnd;
pub use failure::Failure;
pub use request::Request;
pub use view::{Mapped, OnDisconnect, View};

pub(crate) use body_meter::BodyMeter;

/// A response: a status, header fields and a body.
pub type Response = http::Response<Body>;

/// Creates a response with a complete body.
///
/// ```
/// use oneport::http::respond;
/// let response = respond(200, "text/plain; charset=utf-8", "hello");
/// assert_eq!(response.headers()["content-type"], "text/plain; charset=utf-8");
/// ```
///
/// A status outside 100 to 999, or a content type that is not a valid header value, becomes 500.
pub fn respond(status: u16, content_type: &str, body: impl Into<bytes::Bytes>) -> Response {
    let made = http::Response::builder()
        .status(status)
        .header(http::header::CONTENT_TYPE, content_type)
        .body(Body::full(body));
    made.unwrap_or_else(|_| {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = http::StatusCode::INTERNAL_SERVER_ERROR;
        response
    })
}
