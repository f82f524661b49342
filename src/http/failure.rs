//! Failure: an error of a view or middleware, with a sentence for the client and a cause for the
//! log.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use super::framing::remove_framing;
use crate::database::StoreError;

/// A failed request: a status and a sentence for the client, and a cause for the log.
///
/// `?` turns any error into 500 with that error as its cause; the client never sees the cause. An
/// unavailable store becomes 503.
///
/// ```
/// use oneport::http::Failure;
/// fn parse(text: &str) -> Result<u32, Failure> {
///     if text.is_empty() {
///         return Err(Failure::new(http::StatusCode::BAD_REQUEST, "expected a number, found nothing"));
///     }
///     Ok(text.parse()?) // a ParseIntError becomes 500
/// }
/// assert_eq!(parse("").unwrap_err().status(), 400);
/// assert_eq!(parse("x").unwrap_err().status(), 500);
/// ```
#[derive(Debug)]
pub struct Failure(Box<FailureParts>);

#[derive(Debug)]
struct FailureParts {
    status: StatusCode,
    sentence: Cow<'static, str>,
    headers: HeaderMap,
    cause: Option<Box<dyn Error + Send + Sync>>,
    /// The whole body of the response, in place of an error page.
    body: Option<Bytes>,
}

impl Failure {
    /// Creates a failure with a status and a sentence for the client.
    pub fn new(status: StatusCode, sentence: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(FailureParts {
            status,
            sentence: sentence.into(),
            headers: HeaderMap::new(),
            cause: None,
            body: None,
        }))
    }

    /// Creates a 404 with a sentence.
    pub fn not_found(sentence: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::NOT_FOUND, sentence)
    }

    /// Creates a 400 with a sentence.
    pub fn bad_request(sentence: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, sentence)
    }

    /// Creates a 403 with a sentence.
    pub fn forbidden(sentence: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::FORBIDDEN, sentence)
    }

    /// Creates a 429 for a client whose address has started too many groups. The channel layer logs
    /// it.
    pub(crate) fn too_many_rooms() -> Self {
        let sentence = "too many rooms were begun from this address; try again later";
        Self::new(StatusCode::TOO_MANY_REQUESTS, sentence)
            .with_header(header::RETRY_AFTER, HeaderValue::from_static("10"))
    }

    /// Creates a 429 of a socket or an event stream that would be in too many groups.
    pub(crate) fn too_many_groups() -> Self {
        Self::new(
            StatusCode::TOO_MANY_REQUESTS,
            "too many groups; try again later",
        )
        .with_header(header::RETRY_AFTER, HeaderValue::from_static("10"))
    }

    /// Creates a 503 of a server that stops. `seconds`: when the client may come back, at the
    /// earliest.
    pub(crate) fn stopping(seconds: Option<u64>) -> Self {
        let failure = Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "the server is shutting down",
        );
        match seconds {
            // "0" would be an invitation to come back at once.
            Some(seconds) => failure.with_header(header::RETRY_AFTER, seconds.max(1).into()),
            None => failure,
        }
    }

    /// Adds the cause, which is logged but never sent to the client.
    #[must_use]
    pub fn because(mut self, cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.0.cause = Some(cause.into());
        self
    }

    /// Adds a header field to the response.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.0.headers.append(name, value);
        self
    }

    /// Removes the fields that only the server may send.
    #[must_use]
    pub(crate) fn without_framing(mut self) -> Self {
        remove_framing(&mut self.0.headers);
        self
    }

    /// Sets the whole body of the response, which then has no error page.
    #[must_use]
    pub(crate) fn with_body(mut self, body: impl Into<Bytes>) -> Self {
        self.0.body = Some(body.into());
        self
    }

    /// Returns the whole body of the response; without one it has an error page.
    #[must_use]
    pub(crate) fn body(&self) -> Option<&Bytes> {
        self.0.body.as_ref()
    }

    /// Returns the status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.0.status
    }

    /// Returns the sentence for the client.
    #[must_use]
    pub fn sentence(&self) -> &str {
        &self.0.sentence
    }

    /// Returns the header fields for the response.
    #[must_use]
    pub fn headers(&self) -> &HeaderMap {
        &self.0.headers
    }

    /// Returns the cause for the log.
    #[must_use]
    pub fn cause(&self) -> Option<&(dyn Error + Send + Sync)> {
        self.0.cause.as_deref()
    }
}

/// For the log: status, sentence and cause.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.0.status.as_u16(), self.0.sentence)?;
        match &self.0.cause {
            Some(cause) => write!(f, ": {cause}"),
            None => Ok(()),
        }
    }
}

impl<E: Into<Box<dyn Error + Send + Sync>>> From<E> for Failure {
    fn from(cause: E) -> Self {
        let cause = cause.into();
        let failure = match cause.downcast_ref::<StoreError>() {
            Some(error) if error.is_unavailable() => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "what this needs does not answer; try again",
            )
            .with_header(header::RETRY_AFTER, HeaderValue::from_static("1")),
            Some(StoreError::Gone) => {
                Self::bad_request("the session was ended while this request was under way")
            }
            _ => Self::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "the server could not finish this request",
            ),
        };
        failure.because(cause)
    }
}
