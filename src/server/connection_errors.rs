//! Connection errors: counts and logs the connections that the server ends because of their client.

use std::error::Error;

use h2::Reason;
use metrics::counter;

use crate::telemetry::LogThrottle;

/// Counts a connection that ended with an error, if it is the client's: over HTTP/1.1 a head over
/// the limit, which hyper has answered with 431; over HTTP/2 what GOAWAY was sent for.
///
/// `is_logged` is whether the cause is in the log already. Returns the word for an error of HTTP/2.
pub(super) fn count(error: &(dyn Error + 'static), is_logged: bool) -> Option<&'static str> {
    static FLOODS: LogThrottle = LogThrottle::new();
    static HEADS: LogThrottle = LogThrottle::new();
    let reason = reason(error);
    if let Some(reason) = reason {
        counter!("oneport_http2_goaways_total", "reason" => reason).increment(1);
        if reason == CALM
            && !is_logged
            && let Some(times) = FLOODS.count()
        {
            tracing::warn!(times, %error, "HTTP/2 connection ended: the client exceeds what a stream or a head may cost");
        }
    } else if find::<hyper::Error>(error).is_some_and(hyper::Error::is_parse_too_large) {
        counter!("oneport_heads_refused_total", "limit" => "header_size").increment(1);
        if let Some(times) = HEADS.count() {
            tracing::warn!(
                times,
                "server.limits.header_size reached: the client gets 431"
            );
        }
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
