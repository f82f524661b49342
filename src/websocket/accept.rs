//! Accept and Denial: a consumer's two answers to a handshake.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use crate::channels::{GroupName, GroupOptions};
use crate::http::Failure;

/// Yes, with what the 101 response shall say.
#[derive(Clone, Debug, Default)]
pub struct Accept {
    /// The subprotocol; it must be one the client offered. `None`: the first offered that the route lists.
    pub subprotocol: Option<String>,
    /// Further header fields, `Set-Cookie` for example.
    pub headers: HeaderMap,
    /// The groups that `open` will join: what other processes send to them is heard before the client learns that it is open.
    pub groups: Vec<(GroupName, GroupOptions)>,
}

impl Accept {
    /// Yes, speaking a subprotocol.
    pub fn with_subprotocol(subprotocol: impl Into<String>) -> Self {
        Self {
            subprotocol: Some(subprotocol.into()),
            ..Self::default()
        }
    }

    /// Names a group that `open` will join.
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

/// No, with the HTTP response that says so (ASGI's `websocket.http.response`).
///
/// `?` turns any error into 500 with that error as its cause; the client never sees the cause.
#[derive(Debug)]
pub struct Denial(Failure);

impl Denial {
    /// A status and a sentence. Statuses below 400 would not deny: they become 403.
    pub fn new(status: StatusCode, sentence: impl Into<Cow<'static, str>>) -> Self {
        let status = if status.as_u16() < 400 {
            StatusCode::FORBIDDEN
        } else {
            status
        };
        Self(Failure::new(status, sentence))
    }

    /// A status below 400 becomes 403; the body is what the client gets, as plain text unless a header field says otherwise.
    pub(super) fn with_body(status: StatusCode, body: impl Into<Cow<'static, str>>) -> Self {
        let status = if status.as_u16() < 300 {
            StatusCode::FORBIDDEN
        } else {
            status
        };
        Self(Failure::new(status, body).verbatim())
    }

    pub(super) fn of(failure: Failure) -> Self {
        Self(failure)
    }

    /// 403 with a sentence: what Channels' `close()` before `accept()` comes to.
    pub fn forbidden(sentence: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::FORBIDDEN, sentence)
    }

    /// Adds a header field.
    #[must_use]
    pub fn with_header(self, name: HeaderName, value: HeaderValue) -> Self {
        Self(self.0.with_header(name, value))
    }

    /// Returns the failure that the client is answered with.
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
