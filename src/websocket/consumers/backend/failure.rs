//! Failure: why a conversation ends its connection.

use crate::websocket::close::Cause;

/// The reason why the connection has to close.
pub(super) struct Failure {
    pub(super) cause: Cause,
    pub(super) sentence: String,
}

/// The backend responds, but violates the protocol.
pub(super) fn backend_error(sentence: impl Into<String>) -> Failure {
    Failure {
        cause: Cause::BackendError,
        sentence: sentence.into(),
    }
}

/// The backend has been unavailable for too long.
pub(super) fn backend_away(sentence: impl Into<String>) -> Failure {
    Failure {
        cause: Cause::BackendAway,
        sentence: sentence.into(),
    }
}
