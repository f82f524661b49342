//! ClientError: the reasons why there is no response.

use std::error::Error;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Duration;

use super::limited_io::LimitExceeded;

/// A cause of any type.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// The reason why there is no response, or why its body ended early.
///
/// No message contains a header field, a query or a body, so it may be logged.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ClientError {
    /// The breaker is open. The request was not sent.
    #[error("the circuit is open for another {} ms", .left.as_millis())]
    CircuitOpen {
        /// How long the circuit stays open.
        left: Duration,
    },
    /// All slots are taken. The request was not sent.
    #[error("{}", busy(*.waited))]
    Busy {
        /// How long the request waited for a slot.
        waited: Duration,
    },
    /// The connection could not be opened. The request was not sent.
    #[error("{}", deepest(&**.source))]
    Connect {
        /// The cause.
        source: Arc<dyn Error + Send + Sync>,
    },
    /// A deadline has passed; the endpoint may have handled the request.
    #[error("no answer within {timeout:?}")]
    Timeout {
        /// The time allowed.
        timeout: Duration,
    },
    /// A deadline has passed while the request's own body did not come.
    #[error("no part of the request's body within {timeout:?}")]
    UploadTimeout {
        /// The time allowed.
        timeout: Duration,
    },
    /// The connection failed; the endpoint may have handled the request.
    #[error("{}", deepest(&**.source))]
    Connection {
        /// The cause.
        source: Arc<dyn Error + Send + Sync>,
    },
    /// The response is longer than a limit.
    #[error("{0}")]
    TooLarge(String),
    /// The response is not HTTP.
    #[error("{0}")]
    Invalid(String),
    /// The request's own body failed, or is longer than `request_bytes_max`.
    #[error("request body: {}", deepest(&**.source))]
    RequestBody {
        /// The cause.
        source: Arc<dyn Error + Send + Sync>,
    },
}

fn busy(waited: Duration) -> String {
    if waited.is_zero() {
        return "too many requests in flight, and too many that wait".to_owned();
    }
    format!("too many requests in flight: none ended within {waited:?}")
}

/// The request's body failed. A separate type, so that it can be found among the causes of hyper's
/// error.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct UploadFailed(#[source] pub(super) BoxError);

impl ClientError {
    /// Returns whether no byte of the request can have reached the endpoint.
    #[must_use]
    pub fn is_unsent(&self) -> bool {
        matches!(
            self,
            Self::CircuitOpen { .. } | Self::Busy { .. } | Self::Connect { .. }
        )
    }

    /// Returns whether the endpoint is at fault and the same request may succeed later.
    #[must_use]
    pub fn is_endpoint_failure(&self) -> bool {
        matches!(
            self,
            Self::Connect { .. } | Self::Timeout { .. } | Self::Connection { .. }
        )
    }

    /// Distinguishes a response that breaks the rules from a connection that failed, by the causes
    /// of an error.
    pub(super) fn classify(error: &(dyn Error + 'static)) -> Self {
        let mut next = Some(error);
        let mut sentence = String::new();
        let mut kind: Option<fn(String) -> Self> = None;
        let mut io_kind = None;
        while let Some(cause) = next {
            sentence = cause.to_string();
            if let Some(UploadFailed(source)) = cause.downcast_ref() {
                return Self::RequestBody {
                    source: Arc::from(BoxError::from(deepest(&**source))),
                };
            }
            if let Some(cause) = cause.downcast_ref::<hyper::Error>() {
                if cause.is_parse_too_large() {
                    kind = Some(Self::TooLarge);
                } else if cause.is_parse() {
                    kind = Some(Self::Invalid);
                }
            }
            if let Some(cause) = cause.downcast_ref::<io::Error>() {
                io_kind = Some(cause.kind());
                if cause
                    .get_ref()
                    .is_some_and(<dyn Error + Send + Sync>::is::<LimitExceeded>)
                {
                    kind = Some(Self::TooLarge);
                } else if matches!(
                    cause.kind(),
                    ErrorKind::InvalidInput | ErrorKind::InvalidData
                ) {
                    kind = Some(Self::Invalid); // hyper's error for a bad chunk
                }
            }
            next = cause.source();
        }
        match kind {
            Some(kind) => kind(sentence),
            None => Self::Connection {
                source: match io_kind {
                    Some(io_kind) => Arc::new(io::Error::new(io_kind, sentence)),
                    None => Arc::from(BoxError::from(sentence)),
                },
            },
        }
    }
}

/// Returns the message of the innermost cause, which is the most specific.
fn deepest(error: &(dyn Error + 'static)) -> String {
    let mut deepest = error;
    while let Some(cause) = deepest.source() {
        deepest = cause;
    }
    deepest.to_string()
}
