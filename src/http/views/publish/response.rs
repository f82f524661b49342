//! Response: the server API's responses, always JSON.

use std::borrow::Cow;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode, header};
use serde_json::{Value, json};

use crate::http::{Failure, Response, respond};

/// A failed call: a status, a code for programs, a sentence for people.
#[derive(Clone, Debug)]
pub(super) struct ApiError {
    pub(super) status: StatusCode,
    code: &'static str,
    message: Cow<'static, str>,
    header: Option<(HeaderName, HeaderValue)>,
}

impl ApiError {
    pub(super) fn new(
        status: StatusCode,
        code: &'static str,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            status,
            code,
            message: message.into(),
            header: None,
        }
    }

    pub(super) fn bad_request(code: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message)
    }

    pub(super) fn not_found(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", message)
    }

    pub(super) fn unavailable(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message)
            .with_header(header::RETRY_AFTER, HeaderValue::from_static("1"))
    }

    pub(super) fn too_large(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message)
    }

    pub(super) fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.header = Some((name, value));
        self
    }

    /// Converts a failure to read the body.
    pub(super) fn of_failure(failure: &Failure) -> Self {
        let sentence = failure.sentence().to_owned();
        match failure.status() {
            StatusCode::PAYLOAD_TOO_LARGE => Self::too_large(sentence),
            status if status.is_client_error() => Self::new(status, "invalid_request", sentence),
            status => Self::new(status, "internal_error", sentence),
        }
    }

    pub(super) fn body(&self) -> Value {
        json!({"error": {"code": self.code, "message": self.message}})
    }

    /// Converts the error for `oneport resolve`.
    pub(super) fn into_failure(self) -> Failure {
        let failure = Failure::new(self.status, self.message);
        match self.header {
            Some((name, value)) => failure.with_header(name, value),
            None => failure,
        }
    }

    pub(super) fn into_response(self) -> Response {
        let mut response = json_response(self.status, &self.body());
        if let Some((name, value)) = self.header {
            response.headers_mut().insert(name, value);
        }
        response
    }
}

pub(super) fn json_response(status: StatusCode, body: &Value) -> Response {
    json_bytes(status, body.to_string().into())
}

/// Returns a response with serialised JSON.
pub(super) fn json_bytes(status: StatusCode, body: Bytes) -> Response {
    let mut response = respond(status.as_u16(), "application/json", body);
    let no_store = HeaderValue::from_static("no-store");
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, no_store);
    response
}
