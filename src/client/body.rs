//! Bodies: a request's, whole or streamed, and a response's, within its limits.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use parking_lot::Mutex;
use tokio::time::{Instant, Sleep};

use super::error::{BoxError, ClientError, UploadFailed};
use super::http2;
use super::pool::Lease;
use super::{EndsAt, Permit, span};
use crate::telemetry::trace::Span;

/// The body of a request.
#[derive(Debug)]
pub struct RequestBody(Kind);

#[derive(Debug)]
enum Kind {
    /// The bytes left to send; empty once all are sent.
    Full(Bytes),
    Stream(Stream),
}

#[derive(Debug)]
struct Stream {
    body: UnsyncBoxBody<Bytes, BoxError>,
    left: u64,
    progress: Arc<UploadProgress>,
}

/// How far a streamed body has come. It decides when the response's head is due, and who is at
/// fault if it does not come.
#[derive(Debug, Default)]
pub(super) struct UploadProgress {
    progress: Mutex<Progress>,
    /// See [`RequestBody::stream_held`].
    is_held: Arc<AtomicBool>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    /// When the last part was taken.
    sent_at: Option<Instant>,
    /// Whether the connection waits for the next part.
    is_awaited: bool,
}

impl UploadProgress {
    /// Returns the time from which the endpoint has all that it got.
    pub(super) fn sent_at(&self, started_at: Instant) -> Instant {
        let sent_at = self.progress.lock().sent_at;
        sent_at.map_or(started_at, |at| at.max(started_at))
    }

    /// Returns whether the connection waits for the caller, and the endpoint for the connection.
    pub(super) fn is_awaited(&self) -> bool {
        self.progress.lock().is_awaited && !self.is_held.load(Ordering::Relaxed)
    }
}

impl RequestBody {
    /// Creates an empty body.
    #[must_use]
    pub fn empty() -> Self {
        Self(Kind::Full(Bytes::new()))
    }

    /// Creates a body from bytes in memory; they are not copied.
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        Self(Kind::Full(bytes.into()))
    }

    /// Creates a body that is produced while it is sent. If it fails, the connection is closed and
    /// the request fails with [`ClientError::RequestBody`].
    pub fn stream<B>(body: B) -> Self
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        Self::stream_held(body, Arc::default())
    }

    /// Creates a body like [`Self::stream`] that waits for the endpoint itself while `is_held` is
    /// true: then it is not the caller who is slow.
    pub(crate) fn stream_held<B>(body: B, is_held: Arc<AtomicBool>) -> Self
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        Self(Kind::Stream(Stream {
            body: body.map_err(Into::into).boxed_unsync(),
            left: u64::MAX,
            progress: Arc::new(UploadProgress {
                progress: Mutex::default(),
                is_held,
            }),
        }))
    }

    /// Returns a copy of a body in memory.
    pub(super) fn try_clone(&self) -> Option<Self> {
        match &self.0 {
            Kind::Full(bytes) => Some(Self(Kind::Full(bytes.clone()))),
            Kind::Stream(_) => None,
        }
    }

    /// Sets the most bytes that may be sent; returns the progress of a streamed body.
    pub(super) fn limit(&mut self, max: u64) -> Result<Option<Arc<UploadProgress>>, ClientError> {
        match &mut self.0 {
            Kind::Full(bytes) if bytes.len() as u64 > max => Err(ClientError::RequestBody {
                source: Arc::from(too_long(max)),
            }),
            Kind::Full(_) => Ok(None),
            Kind::Stream(stream) => {
                stream.left = max;
                Ok(Some(stream.progress.clone()))
            }
        }
    }
}

fn too_long(max: u64) -> BoxError {
    format!("more than {max} bytes left to send").into()
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let stream = match &mut self.0 {
            Kind::Full(bytes) if bytes.is_empty() => return Poll::Ready(None),
            Kind::Full(bytes) => return Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Kind::Stream(stream) => stream,
        };
        let Poll::Ready(frame) = Pin::new(&mut stream.body).poll_frame(cx) else {
            stream.progress.progress.lock().is_awaited = true;
            return Poll::Pending;
        };
        *stream.progress.progress.lock() = Progress {
            sent_at: Some(Instant::now()),
            is_awaited: false,
        };
        let result = frame.map(|frame| {
            let frame = frame.map_err(UploadFailed)?;
            let bytes = frame.data_ref().map_or(0, Bytes::len) as u64;
            match stream.left.checked_sub(bytes) {
                Some(left) => stream.left = left,
                None => return Err(UploadFailed(too_long(stream.left)).into()),
            }
            Ok(frame)
        });
        Poll::Ready(result)
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Full(bytes) => bytes.is_empty(),
            Kind::Stream(stream) => stream.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Kind::Stream(stream) => stream.body.size_hint(),
        }
    }
}

/// The body of a response, as its connection delivers it.
#[derive(Debug)]
pub(super) enum Incoming {
    Http1 {
        body: hyper::body::Incoming,
        /// The connection, until the body has been received. Dropping it closes the connection.
        lease: Option<Lease>,
    },
    Http2(Box<http2::Incoming>),
}

impl Incoming {
    pub(super) fn http1(body: hyper::body::Incoming, lease: Lease) -> Self {
        let lease = lease.unless_idle();
        Self::Http1 { body, lease }
    }

    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ClientError>>> {
        match self {
            Self::Http1 { body, lease } => {
                let polled = match lease {
                    Some(lease) => lease.poll_frame(cx, body),
                    None => Pin::new(body).poll_frame(cx),
                };
                // A reader that knows the length does not poll again after the last byte.
                if let Poll::Ready(Some(Ok(_))) = &polled {
                    *lease = lease.take().and_then(Lease::unless_idle);
                }
                polled.map_err(|error| ClientError::classify(&error))
            }
            Self::Http2(body) => body.poll_frame(cx),
        }
    }

    /// The body has ended: a connection that can take another request goes into the pool.
    fn end(self) {
        if let Self::Http1 {
            lease: Some(lease), ..
        } = self
        {
            lease.release();
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1 { body, .. } => body.is_end_stream(),
            Self::Http2(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1 { body, .. } => body.size_hint(),
            Self::Http2(body) => body.size_hint(),
        }
    }
}

/// The body of a response. It fails with [`ClientError::TooLarge`] after `response_bytes_max`, and
/// with [`ClientError::Timeout`] after `idle_timeout` or `total_timeout`; after a failure it has
/// ended.
#[derive(Debug)]
pub struct ResponseBody {
    incoming: Option<Incoming>,
    max: u64,
    left: u64,
    deadline: Option<Deadline>,
    permit: Option<Permit>,
    /// The request's span; `None` while nothing is traced.
    span: Option<Box<Span>>,
}

/// The deadlines of a body. The idle timeout runs only while the reader waits for the endpoint: a
/// reader that does not poll is slow itself.
#[derive(Debug)]
struct Deadline {
    idle_timeout: Option<Duration>,
    ends_at: Option<EndsAt>,
    /// The time from which the reader waits. `None` if it has got a part since.
    waits_since: Option<Instant>,
    /// Created when the reader waits for the first time. It may be due before the deadline, which
    /// each part puts off; then it is set again.
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Deadline {
    fn new(idle_timeout: Option<Duration>, ends_at: Option<EndsAt>) -> Option<Self> {
        (idle_timeout.is_some() || ends_at.is_some()).then(|| Self {
            idle_timeout,
            ends_at,
            waits_since: None,
            sleep: None,
        })
    }

    /// A part has arrived. Returns the total timeout if it has passed: data that is always ready
    /// must not put it off.
    fn received(&mut self) -> Option<Duration> {
        self.waits_since = None;
        let ends_at = self.ends_at?;
        (Instant::now() >= ends_at.at).then_some(ends_at.timeout)
    }

    /// The reader waits. Returns the timeout that has passed.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Duration> {
        let since = *self.waits_since.get_or_insert_with(Instant::now);
        loop {
            let idle = self.idle_timeout.map(|idle| (since + idle, idle));
            let total = self.ends_at.map(|ends_at| (ends_at.at, ends_at.timeout));
            let Some((due_at, timeout)) = idle.into_iter().chain(total).min() else {
                return Poll::Pending;
            };
            let sleep = self
                .sleep
                .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due_at)));
            if sleep.deadline() > due_at {
                sleep.as_mut().reset(due_at);
            }
            std::task::ready!(sleep.as_mut().poll(cx));
            if Instant::now() >= due_at {
                return Poll::Ready(timeout);
            }
            sleep.as_mut().reset(due_at);
        }
    }
}

impl ResponseBody {
    pub(super) fn new(
        incoming: Incoming,
        max: u64,
        idle_timeout: Option<Duration>,
        ends_at: Option<EndsAt>,
    ) -> Self {
        Self {
            incoming: Some(incoming),
            max,
            left: max,
            deadline: Deadline::new(idle_timeout, ends_at),
            permit: None,
            span: None,
        }
    }

    /// Keeps the request's slot occupied until the body has ended or is dropped.
    #[must_use]
    pub fn hold(mut self, permit: Permit) -> Self {
        self.permit = Some(permit);
        self
    }

    /// Ends a span with the body.
    pub(super) fn within(mut self, span: Option<Box<Span>>) -> Self {
        self.span = span;
        self
    }

    fn end(&mut self) {
        if let Some(incoming) = self.incoming.take() {
            incoming.end();
        }
        (self.permit, self.span) = (None, None);
    }

    fn fail(&mut self, error: ClientError) -> Poll<Option<Result<Frame<Bytes>, ClientError>>> {
        span::failed(&mut self.span, &error);
        (self.incoming, self.permit) = (None, None); // closes the connection, or resets the stream
        Poll::Ready(Some(Err(error)))
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = ClientError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ClientError>>> {
        let this = self.get_mut();
        let Some(incoming) = &mut this.incoming else {
            return Poll::Ready(None);
        };
        let too_large = |max: u64| {
            ClientError::TooLarge(format!(
                "expected an answer of at most {max} bytes, found more"
            ))
        };
        // `Content-Length` may exceed the limit before any byte is read.
        if incoming.size_hint().lower() > this.left {
            return this.fail(too_large(this.max));
        }
        match incoming.poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                let bytes = frame.data_ref().map_or(0, Bytes::len) as u64;
                let Some(left) = this.left.checked_sub(bytes) else {
                    return this.fail(too_large(this.max));
                };
                this.left = left;
                let passed = this.deadline.as_mut().and_then(Deadline::received);
                if let Some(timeout) = passed {
                    return this.fail(ClientError::Timeout { timeout });
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => this.fail(error),
            Poll::Ready(None) => {
                this.end();
                Poll::Ready(None)
            }
            Poll::Pending => match this.deadline.as_mut().map(|deadline| deadline.poll(cx)) {
                Some(Poll::Ready(timeout)) => this.fail(ClientError::Timeout { timeout }),
                Some(Poll::Pending) | None => Poll::Pending,
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.as_ref().is_none_or(Incoming::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming
            .as_ref()
            .map_or_else(|| SizeHint::with_exact(0), Incoming::size_hint)
    }
}
