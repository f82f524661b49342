//! Errors: why the app cannot be asked, and why it gave no answer.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;

use crate::config::hide_url;

/// Why nobody can be asked with these settings.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ForwardSettingsError {
    /// The URL is none, has another scheme, no host, or a port that is no number up to 65535.
    #[error(
        "expected an http:// URL with a host, such as \"http://127.0.0.1:9000/auth\", found {:?}",
        hide_url(.found)
    )]
    Url {
        /// What was written.
        found: String,
    },
    /// The URL holds a password; it would not be sent.
    #[error("expected a URL without a user name and a password, found one with an @ sign")]
    Credentials,
    /// No header is listed, so everybody would be anonymous.
    #[error("expected at least one request header that says who the client is, found none")]
    NoRequestHeader,
    /// A listed header is about the connection and not about the client.
    #[error("expected a request header that says who the client is, found {found:?}")]
    RequestHeader {
        /// The name of the header.
        found: HeaderName,
    },
}

/// Why the app has not said who a request is from. The answer is 503.
///
/// No value of a header is part of it, so it may be logged.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ForwardError {
    /// The answer has another status. Redirects are not followed.
    #[error("expected the status 2xx, 401 or 403 from the auth URL, found {found}")]
    Status {
        /// The status.
        found: u16,
    },
    /// The answer, or the turn to ask, has not come in time.
    #[error("expected an answer from the auth URL within {timeout:?}, found none")]
    Timeout {
        /// The time it had.
        timeout: Duration,
    },
    /// The connection could not be made, or has ended too early.
    #[error("expected an answer from the auth URL, found a connection that failed")]
    Connection {
        /// What has failed.
        source: Arc<dyn Error + Send + Sync>,
    },
    /// The header with the id is there twice, or cannot be an id.
    #[error(
        "expected one id of at most 256 bytes in the header {header} of the auth URL, found {found}"
    )]
    IdHeader {
        /// The name of the header.
        header: HeaderName,
        /// What it has instead.
        found: &'static str,
    },
    /// The body says that it is JSON and does not say who the user is.
    #[error("expected {expected} in the JSON body of the auth URL, found {found}")]
    Body {
        /// What is missing.
        expected: &'static str,
        /// What is there instead.
        found: &'static str,
    },
    /// The request itself cannot be described in a header.
    #[error("expected a request that fits in the header {header}, found control characters")]
    Subject {
        /// The name of the header.
        header: HeaderName,
    },
}
