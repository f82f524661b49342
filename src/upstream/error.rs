//! UpstreamError: the reasons why no server has answered, and the status that each of them means.

use std::error::Error;
use std::io;
use std::sync::Arc;

use http::StatusCode;

use crate::client::ClientError;

/// The reason why there is no response, or why its body ended early.
///
/// No message contains a header field, a query or a body, so it may be logged.
#[derive(Clone, Debug, thiserror::Error)]
pub enum UpstreamError {
    /// Every server is down.
    #[error("no server is available")]
    NoServer,
    /// A server has not answered as it should.
    #[error("{server}: {source}")]
    Server {
        /// The server's URL.
        server: Arc<str>,
        /// What has happened.
        source: ClientError,
    },
}

impl UpstreamError {
    /// Returns the status for the client: 502, 503 or 504; 400 or 408 if the client's own body has
    /// failed.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        let Self::Server { source, .. } = self else {
            return StatusCode::SERVICE_UNAVAILABLE;
        };
        match source {
            ClientError::CircuitOpen { .. } | ClientError::Busy { .. } => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            ClientError::Timeout { .. } => StatusCode::GATEWAY_TIMEOUT,
            ClientError::Connect { source } if is_timeout(&**source) => StatusCode::GATEWAY_TIMEOUT,
            ClientError::RequestBody { .. } => StatusCode::BAD_REQUEST,
            ClientError::UploadTimeout { .. } => StatusCode::REQUEST_TIMEOUT,
            ClientError::Connect { .. }
            | ClientError::Connection { .. }
            | ClientError::TooLarge(_)
            | ClientError::Invalid(_) => StatusCode::BAD_GATEWAY,
        }
    }

    /// Returns whether the request's own body has failed: the client has left, or is too slow.
    #[must_use]
    pub fn is_request_body(&self) -> bool {
        let Self::Server { source, .. } = self else {
            return false;
        };
        matches!(
            source,
            ClientError::RequestBody { .. } | ClientError::UploadTimeout { .. }
        )
    }
}

fn is_timeout(error: &(dyn Error + 'static)) -> bool {
    let io = error.downcast_ref::<io::Error>();
    io.is_some_and(|error| error.kind() == io::ErrorKind::TimedOut)
}
