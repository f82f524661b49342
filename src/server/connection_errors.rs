//! Connection errors: counts the connections that the server ends because of their client.

use std::error::Error;

use h2::Reason;
use metrics::counter;

/// Counts a connection that ended with an error, if it is the client's over HTTP/2: the server has
/// sent GOAWAY.
pub(super) fn count(error: &(dyn Error + 'static)) {
    if let Some(reason) = reason(error) {
        counter!("oneport_http2_goaways_total", "reason" => reason).increment(1);
    }
}

/// Returns the word for the error of a client; `None` for another error.
fn reason(error: &(dyn Error + 'static)) -> Option<&'static str> {
    let mut error = error;
    let error = loop {
        match error.downcast_ref::<h2::Error>() {
            Some(error) => break error,
            None => error = error.source()?,
        }
    };
    if !error.is_library() {
        return None; // the client's own GOAWAY, or the end of its stream
    }
    Some(match error.reason()? {
        Reason::ENHANCE_YOUR_CALM => "enhance_your_calm",
        Reason::PROTOCOL_ERROR => "protocol_error",
        Reason::FLOW_CONTROL_ERROR => "flow_control_error",
        Reason::FRAME_SIZE_ERROR => "frame_size_error",
        Reason::COMPRESSION_ERROR => "compression_error",
        _ => "other",
    })
}
