//! Accept and Denial: the two outcomes of a consumer's `connect`.

use std::borrow::Cow;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use crate::channels::{GroupName, GroupOptions};
use crate::http::Failure;

/// Accepts the handshake, with the fields of the 101 response.
#[derive(Clone, Debug, Default)]
pub struct Accept {
    /// The subprotocol, one of those that the client offered. `None` picks the first offered one
    /// that the route lists.
    pub subprotocol: Option<String>,
    /// More header fields, such as `Set-Cookie`.
    pub headers: HeaderMap,
    /// The groups that `open` joins. Their events are retained from before the 101 on, so the
    /// client misses none.
    pub groups: Vec<(GroupName, GroupOptions)>,
}

impl Accept {
    /// Accepts with a subprotocol.
    pub fn with_subprotocol(subprotocol: impl Into<String>) -> Self {
        Self {
            subprotocol: Some(subprotocol.into()),
            ..Self::default()
        }
    }

    /// Adds a group that `open` joins.
    #[must_use]
    pub fn with_group(mut self, group: GroupName, options: GroupOptions) -> Self {
        self.groups.push((group, options));
        self
    }

    /// Adds a header field.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.append(name, value);
        self
    }
}

/// Denies the handshake with an HTTP response (ASGI's `websocket.http.response`).
///
/// `?` turns any error into 500 with that error for the log; the client never sees it.
#[derive(Debug)]
pub struct Denial(Failure);

impl Denial {
    /// Denies with a status and a sentence. A status below 400 would not deny, so it becomes 403.
    pub fn new(status: StatusCode, sentence: impl Into<Cow<'static, str>>) -> Self {
        let status = if status.as_u16() < 400 {
            StatusCode::FORBIDDEN
        } else {
            status
        };
        Self(Failure::new(status, sentence))
    }

    /// Denies with a status and a body, which is plain text unless a header field names another
    /// type. A status below 300 becomes 403.
    pub(super) fn with_body(status: StatusCode, body: impl Into<Bytes>) -> Self {
        let status = if status.as_u16() < 300 {
            StatusCode::FORBIDDEN
        } else {
            status
        };
        Self(Failure::new(status, "the application denied the handshake").with_body(body))
    }

    pub(super) fn of(failure: Failure) -> Self {
        Self(failure)
    }

    /// Denies with 403 and a sentence, the equivalent of Channels' `close()` before `accept()`.
    pub fn forbidden(sentence: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::FORBIDDEN, sentence)
    }

    /// Adds a header field.
    #[must_use]
    pub fn with_header(self, name: HeaderName, value: HeaderValue) -> Self {
        Self(self.0.with_header(name, value))
    }

    /// Returns the failure that the client gets.
    #[must_use]
    pub fn into_failure(self) -> Failure {
        self.0
    }
}

impl<E: Into<Box<dyn std::error::Error + Send + Sync>>> From<E> for Denial {
    fn from(cause: E) -> Self {
        Self(Failure::from(cause))
    }
}
