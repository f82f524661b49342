//! Connection errors: counts and logs the connections that the server ends because of their client.

use std::error::Error;

use h2::Reason;
use metrics::counter;

use super::connection::BUFFER_BYTES_MIN;
use super::connection_timeouts::ConnectionTimeouts;
use crate::telemetry::LogThrottle;

/// The longest target that hyper takes over HTTP/1.1.
pub(super) const TARGET_BYTES_MAX: usize = 65_534;

/// The limit that a head over HTTP/1.1 exceeds. The gateway refuses what hyper takes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum HeadLimit {
    /// `server.limits.uri_size`; hyper has answered with 414.
    UriSize,
    /// `server.limits.header_count`; hyper has answered with 431.
    HeaderCount,
    /// `server.limits.header_size`, likewise.
    HeaderSize,
}

impl HeadLimit {
    /// Returns the limit that made hyper end a connection.
    ///
    /// hyper has one error for too many fields and too many bytes. The bytes fill its buffer, but
    /// too many fields are an error as soon as they are parsed.
    pub(super) fn of(
        error: &(dyn Error + 'static),
        timeouts: &ConnectionTimeouts,
        header_size: usize,
    ) -> Option<Self> {
        let error = find::<hyper::Error>(error).filter(|error| error.is_parse_too_large())?;
        Some(if error.to_string() == "URI too long" {
            Self::UriSize
        } else if timeouts.head_bytes() < header_size.max(BUFFER_BYTES_MIN) {
            Self::HeaderCount
        } else {
            Self::HeaderSize
        })
    }

    fn count(self) {
        static LOGGED: [LogThrottle; 3] = [const { LogThrottle::new() }; 3];
        let (limit, status) = match self {
            Self::UriSize => ("uri_size", 414),
            Self::HeaderCount => ("header_count", 431),
            Self::HeaderSize => ("header_size", 431),
        };
        counter!("oneport_heads_refused_total", "limit" => limit).increment(1);
        if let Some(times) = LOGGED[self as usize].count() {
            tracing::warn!(
                times,
                "server.limits.{limit} reached: the client gets {status}"
            );
        }
    }
}

/// Counts a connection that ended with an error, if it is the client's: over HTTP/1.1 a head over a
/// limit; over HTTP/2 what GOAWAY was sent for.
///
/// `is_logged` is whether the cause is in the log already. Returns the word for an error of HTTP/2.
pub(super) fn count(
    error: &(dyn Error + 'static),
    exceeded: Option<HeadLimit>,
    is_logged: bool,
) -> Option<&'static str> {
    static FLOODS: LogThrottle = LogThrottle::new();
    let reason = reason(error);
    if let Some(reason) = reason {
        counter!("oneport_http2_goaways_total", "reason" => reason).increment(1);
        if reason == CALM
            && !is_logged
            && let Some(times) = FLOODS.count()
        {
            tracing::warn!(times, %error, "HTTP/2 connection ended: the client exceeds what a stream or a head may cost");
        }
    } else if let Some(limit) = exceeded {
        limit.count();
    }
    reason
}

const CALM: &str = "enhance_your_calm";

/// Returns the word for the error of a client over HTTP/2; `None` for another error.
fn reason(error: &(dyn Error + 'static)) -> Option<&'static str> {
    let error = find::<h2::Error>(error)?;
    if !error.is_library() {
        return None; // the client's own GOAWAY, or the end of its stream
    }
    Some(match error.reason()? {
        Reason::ENHANCE_YOUR_CALM => CALM,
        Reason::PROTOCOL_ERROR => "protocol_error",
        Reason::FLOW_CONTROL_ERROR => "flow_control_error",
        Reason::FRAME_SIZE_ERROR => "frame_size_error",
        Reason::COMPRESSION_ERROR => "compression_error",
        _ => "other",
    })
}

/// Returns the error of a type among an error and its sources.
fn find<'e, E: Error + 'static>(error: &'e (dyn Error + 'static)) -> Option<&'e E> {
    let mut error = error;
    loop {
        match error.downcast_ref() {
            Some(found) => return Some(found),
            None => error = error.source()?,
        }
    }
}
