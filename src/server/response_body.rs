//! Response body: a body whose end marks the end of its request.

use std::pin::Pin;
use std::task::{Context, Poll};

use http_body::{Frame, SizeHint};

use super::connection_timeouts::InFlight;
use super::early_answer::EarlyAnswer;
use super::sent_files::SendingFile;
use super::stall_timeout::{BodyPolled, note_body_polled};
use crate::gateway::ResponseSpan;
use crate::http::{Body, BodyMeter, Response};
use crate::net::ClientPermit;

/// The body of a response.
pub(super) struct ResponseBody {
    content: Content,
    early: Option<Box<EarlyAnswer>>,
    /// Measures the body, if it is streamed.
    meter: Option<BodyMeter>,
    _in_flight: Option<InFlight>,
    /// Ends the request's span with the body.
    _span: Option<ResponseSpan>,
    /// Counts the client until hyper has taken the response, if it is counted by requests.
    _counted: Option<ClientPermit>,
}

/// What hyper gets of a body.
enum Content {
    Body(Body),
    /// Placeholders for a file that the kernel sends.
    File(Box<SendingFile>),
}

impl ResponseBody {
    pub(super) fn new(
        mut response: Response,
        in_flight: Option<InFlight>,
        counted: Option<ClientPermit>,
        early: Option<Box<EarlyAnswer>>,
    ) -> http::Response<Self> {
        let meter = response.extensions_mut().remove();
        let span = ResponseSpan::take(&mut response);
        response.map(|mut body| {
            let timeouts = in_flight.as_ref().map(|in_flight| &in_flight.0);
            let sending = timeouts.filter(|timeouts| timeouts.sent_files().is_some());
            let file = sending.and_then(|timeouts| {
                let range = body.take_file()?;
                Some(Box::new(SendingFile::new(range, timeouts)))
            });
            Self {
                content: match file {
                    Some(file) => Content::File(file),
                    None => Content::Body(body),
                },
                early,
                meter,
                _in_flight: in_flight,
                _span: span,
                _counted: counted,
            }
        })
    }
}

impl http_body::Body for ResponseBody {
    type Data = bytes::Bytes;
    type Error = crate::http::body::BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<bytes::Bytes>, Self::Error>>> {
        let this = &mut *self;
        let mut frame = match &mut this.content {
            Content::Body(body) => Pin::new(body).poll_frame(cx),
            Content::File(file) => file.poll_placeholder(cx).map_ok(Frame::data),
        };
        if let Some(meter) = &this.meter
            && let Poll::Ready(Some(Ok(frame))) = &frame
        {
            meter.count(frame.data_ref().map_or(0, bytes::Bytes::len));
        }
        if let Some(early) = &mut this.early {
            let is_end = match &frame {
                Poll::Ready(Some(Ok(frame))) => frame.is_trailers(),
                Poll::Ready(end) => end.is_none(),
                Poll::Pending => false,
            };
            if is_end {
                if let Poll::Ready(Some(Ok(trailers))) = frame {
                    early.hold(trailers);
                }
                // A body that passes the request's on keeps it until it is dropped.
                this.content = Content::Body(Body::empty());
                frame = early.poll_end(cx).map(|trailers| trailers.map(Ok));
                if frame.is_ready() {
                    this.early = None;
                }
            }
        }
        note_body_polled(match frame {
            Poll::Ready(_) => BodyPolled::Frame,
            Poll::Pending => BodyPolled::Pending,
        });
        frame
    }

    fn is_end_stream(&self) -> bool {
        let has_sent_all = match &self.content {
            Content::Body(body) => body.is_end_stream(),
            Content::File(file) => file.left() == 0,
        };
        has_sent_all && self.early.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            // hyper would send the length 0, which some responses must not have.
            Content::Body(body) if self.early.is_some() && body.is_end_stream() => {
                SizeHint::default()
            }
            Content::Body(body) => body.size_hint(),
            Content::File(file) => SizeHint::with_exact(file.left()),
        }
    }
}
