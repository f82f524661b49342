//! Errors: invalid settings, and subrequests that failed.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;

use crate::client::ClientTlsError;
use crate::config::hide_url;

/// The reason why the settings are invalid.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ForwardSettingsError {
    /// The URL has another scheme, no host, or a port that is not a number from 1 to 65535.
    #[error(
        "expected an http:// or https:// URL with a host, such as \"http://127.0.0.1:9000/auth\", found {:?}",
        hide_url(.found)
    )]
    Url {
        /// The text.
        found: String,
    },
    /// The URL has a user name or a password, which would not be sent.
    #[error("expected a URL without a user name and a password, found one with an @ sign")]
    Credentials,
    /// The trusted certificates cannot be read.
    #[error("{0}")]
    Tls(#[from] ClientTlsError),
    /// No header is listed, so every client would be anonymous.
    #[error("expected at least one request header that identifies the client, found none")]
    NoRequestHeader,
    /// A listed header belongs to the connection or to the message, not to the client.
    #[error("expected a request header that identifies the client, found {found:?}")]
    RequestHeader {
        /// The name of the header.
        found: HeaderName,
    },
}

/// The reason why the app did not identify the client. The response is 503.
///
/// It contains no header value, so it may be logged.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ForwardError {
    /// The response has another status. Redirects are not followed.
    #[error("the auth URL returned the status {found}, expected 2xx, 401 or 403")]
    Status {
        /// The status.
        found: u16,
    },
    /// There was no response, or no free slot, in time.
    #[error("no response from the auth URL within {timeout:?}")]
    Timeout {
        /// The time allowed.
        timeout: Duration,
    },
    /// The connection failed, or the response is not HTTP.
    #[error("connection to the auth URL failed")]
    Connection {
        /// The cause.
        source: Arc<dyn Error + Send + Sync>,
    },
    /// The header with the id occurs twice, or its value cannot be an id.
    #[error(
        "expected one id of at most 256 bytes in the header {header} of the auth URL, found {found}"
    )]
    IdHeader {
        /// The name of the header.
        header: HeaderName,
        /// The kind of value found.
        found: &'static str,
    },
    /// The body is JSON, but does not describe a user.
    #[error("expected {expected} in the JSON body of the auth URL, found {found}")]
    Body {
        /// The expected part.
        expected: &'static str,
        /// The part that was found.
        found: &'static str,
    },
    /// The original request cannot be described in a header.
    #[error("control characters in the value for the header {header}")]
    Subject {
        /// The name of the header.
        header: HeaderName,
    },
}
