//! Response body: a body whose end marks the end of its request.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http_body::{Frame, SizeHint};

use super::connection_timeouts::InFlight;
use super::stall_timeout::StallTimeout;
use crate::http::{Body, Response};
use crate::net::ClientPermit;

/// The body of a response.
pub(super) struct ResponseBody {
    body: Body,
    stall_timeout: Option<Arc<StallTimeout>>,
    _in_flight: Option<InFlight>,
    /// Counts the client behind a trusted proxy until hyper has taken the response.
    _permit: Option<Arc<ClientPermit>>,
}

impl ResponseBody {
    pub(super) fn new(response: Response, in_flight: Option<InFlight>) -> http::Response<Self> {
        let (mut parts, body) = response.into_parts();
        let timeouts = in_flight.as_ref().map(|in_flight| &in_flight.0);
        let has_more = !http_body::Body::is_end_stream(&body);
        let answered = Self {
            stall_timeout: timeouts
                .filter(|_| has_more)
                .and_then(|timeouts| timeouts.watch_stalls()),
            body,
            _in_flight: in_flight,
            _permit: parts.extensions.remove(),
        };
        http::Response::from_parts(parts, answered)
    }
}

impl http_body::Body for ResponseBody {
    type Data = bytes::Bytes;
    type Error = crate::http::body::BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<bytes::Bytes>, Self::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        if let Some(stall_timeout) = &self.stall_timeout {
            stall_timeout.polled(frame.is_ready());
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
