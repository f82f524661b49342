//! Body: the bytes of a request or a response, complete or streamed.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use metrics::Counter;
use parking_lot::Mutex;

use super::ClientEnd;
use super::file_body::FileBody;
use super::open_file::FileRange;
use super::read_rate::ReadRate;
use crate::clock::Clock;

/// An error of a body's source.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// The bytes of a request or a response.
///
/// ```
/// use oneport::http::Body;
/// let body = Body::full("hello");
/// assert_eq!(http_body::Body::size_hint(&body).exact(), Some(5));
/// ```
#[derive(Debug)]
pub struct Body(Source);

#[derive(Debug)]
enum Source {
    Full(Full<Bytes>),
    Incoming(Incoming),
    /// A request's body, which leaves unread bytes to its connection or its stream.
    Watched(Watched),
    /// A range of a file, which the server may have the kernel send.
    File(Box<FileBody>),
    /// The lock only makes a request `Sync`; it is never contended.
    Stream(Mutex<UnsyncBoxBody<Bytes, BodyError>>),
}

impl Body {
    /// Returns whether all bytes are in memory: polling it runs no code of an application.
    pub(crate) fn is_in_memory(&self) -> bool {
        matches!(self.0, Source::Full(_))
    }

    /// Creates an empty body.
    #[must_use]
    pub fn empty() -> Self {
        Self(Source::Full(Full::default()))
    }

    /// Creates a body from complete bytes.
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        Self(Source::Full(Full::new(bytes.into())))
    }

    /// Creates a streamed body. An error aborts the connection, so that the client notices the
    /// truncation.
    pub fn stream<B>(body: B) -> Self
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<BodyError>,
    {
        Self(Source::Stream(Mutex::new(
            body.map_err(Into::into).boxed_unsync(),
        )))
    }

    /// Creates a body of a range of a file, which is read `step` bytes at once unless the kernel
    /// sends it.
    pub(crate) fn file(range: FileRange, step: u32) -> Self {
        Self(Source::File(Box::new(FileBody::new(range, step))))
    }

    /// Returns whether the body is a stream, whose frames come from elsewhere.
    pub(crate) fn is_streamed(&self) -> bool {
        matches!(self.0, Source::Stream(_))
    }

    /// Returns the complete bytes; the body as it is if it is streamed, or longer than `max`.
    pub(crate) fn into_whole(self, max: usize) -> Result<Bytes, Self> {
        match self.0 {
            Source::Full(full) => match full.into_inner() {
                Some(bytes) if bytes.len() <= max => Ok(bytes),
                rest => Err(Self::full(rest.unwrap_or_default())),
            },
            other => Err(Self(other)),
        }
    }

    /// Takes out the range of a file that the kernel can send.
    pub(crate) fn take_file(&mut self) -> Option<FileRange> {
        match &self.0 {
            Source::File(body) if body.can_be_sent() => {}
            _ => return None,
        }
        match std::mem::take(self) {
            Self(Source::File(body)) => Some(body.into_range()),
            _ => None,
        }
    }
}

/// A body that reports whether it was read to its end.
#[derive(Debug)]
struct Watched {
    /// `None` after the end or a failure.
    incoming: Option<Incoming>,
    carrier: Carrier,
    client: ClientEnd,
    read_rate: Box<ReadRate>,
}

/// What a request came on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Carrier {
    /// A connection of HTTP/1.1.
    Connection,
    /// A stream of HTTP/2.
    Stream,
}

/// The client closed its sending side before the request was complete.
#[derive(Debug, thiserror::Error)]
#[error("the client closed the connection before the end of the body")]
struct Broken;

/// The client reset its stream before the request was complete.
#[derive(Debug, thiserror::Error)]
#[error("the client reset the stream before the end of the body")]
struct Reset;

/// The client sends its body slower than `server.limits.min_rate`.
#[derive(Debug, thiserror::Error)]
#[error("the body came slower than server.limits.min_rate")]
pub(crate) struct TooSlow;

/// Fails a pending body that arrives too slowly.
fn paced(
    read_rate: &mut ReadRate,
    polled: Poll<Option<Result<Frame<Bytes>, hyper::Error>>>,
    cx: &Context<'_>,
) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
    match &polled {
        Poll::Ready(Some(Ok(frame))) => read_rate.received(frame.data_ref().map_or(0, Bytes::len)),
        Poll::Pending if read_rate.is_too_slow(cx) => {
            metrics::counter!("oneport_slow_clients_total", "direction" => "request").increment(1);
            return Poll::Ready(Some(Err(TooSlow.into())));
        }
        _ => {}
    }
    polled.map_err(Into::into)
}

impl Watched {
    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Some(incoming) = &mut self.incoming else {
            return Poll::Ready(None);
        };
        let mut polled = Pin::new(&mut *incoming).poll_frame(cx);
        if polled.is_pending() && self.client.poll_gone(cx).is_ready() {
            // The connection hides the end of the stream during a request, so hyper waits for more.
            // The last chunk may have arrived just before the end, after the poll above, so poll
            // again.
            polled = Pin::new(&mut *incoming).poll_frame(cx);
            if polled.is_pending() {
                self.end();
                self.client.break_off();
                return Poll::Ready(Some(Err(Broken.into())));
            }
        }
        let Poll::Ready(mut frame) = paced(&mut self.read_rate, polled, cx) else {
            return Poll::Pending;
        };
        if self.carrier == Carrier::Stream {
            let has_ended = incoming.is_end_stream();
            if has_ended {
                self.client.finish_body();
            } else if frame.is_none() {
                // hyper takes a reset with NO_ERROR for the end of the body.
                frame = Some(Err(Reset.into()));
            }
        }
        if !matches!(frame, Some(Ok(_))) || incoming.is_end_stream() {
            self.end();
        }
        if let Some(Err(_)) = frame {
            self.client.break_off();
        }
        Poll::Ready(frame)
    }

    fn end(&mut self) {
        self.incoming = None;
        self.client.record_reading(false);
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if let Some(incoming) = self.incoming.take() {
            self.client.record_reading(false);
            self.client.leave_unread(incoming);
        }
    }
}

impl Body {
    /// Returns the body of a request. It fails below `rate`, in bytes per second. Unread bytes are
    /// left with the `ClientEnd`, which over HTTP/2 is of this request alone.
    pub(crate) fn watched(
        incoming: Incoming,
        carrier: Carrier,
        client: &ClientEnd,
        clock: &Clock,
        rate: u64,
    ) -> Self {
        if incoming.is_end_stream() {
            client.finish_body();
            return Self::empty();
        }
        client.record_reading(true);
        Self(Source::Watched(Watched {
            incoming: Some(incoming),
            carrier,
            client: client.clone(),
            read_rate: Box::new(ReadRate::new(clock.clone(), rate)),
        }))
    }
}

impl Body {
    /// Counts the bytes of a request's body.
    pub(crate) fn count_into(&mut self, counter: &Counter) {
        if let Source::Watched(body) = &mut self.0 {
            body.read_rate.count_into(counter);
        }
    }
}

impl Default for Body {
    fn default() -> Self {
        Self::empty()
    }
}

impl From<Incoming> for Body {
    fn from(body: Incoming) -> Self {
        Self(Source::Incoming(body))
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.0 {
            Source::Full(body) => Pin::new(body)
                .poll_frame(cx)
                .map_err(|never| match never {}),
            Source::Incoming(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
            Source::Watched(body) => body.poll_frame(cx),
            Source::File(body) => body.poll_step(cx).map_ok(Frame::data),
            Source::Stream(body) => Pin::new(body.get_mut()).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Source::Full(body) => body.is_end_stream(),
            Source::Incoming(body) => body.is_end_stream(),
            Source::Watched(body) => body.incoming.is_none(),
            Source::File(body) => body.left() == 0,
            Source::Stream(body) => body.lock().is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Source::Full(body) => body.size_hint(),
            Source::Incoming(body) => body.size_hint(),
            Source::Watched(body) => match &body.incoming {
                Some(incoming) => incoming.size_hint(),
                None => SizeHint::with_exact(0),
            },
            Source::File(body) => SizeHint::with_exact(body.left()),
            Source::Stream(body) => body.lock().size_hint(),
        }
    }
}
