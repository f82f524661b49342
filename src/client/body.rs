//! Bodies: a request's, whole or streamed, and a response's, within its limits.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use parking_lot::Mutex;
use tokio::time::{Instant, Sleep};

use super::Permit;
use super::error::{BoxError, ClientError, UploadFailed};
use super::pool::Lease;

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
    upload: Arc<Upload>,
}

/// The time at which the last part of a streamed body was sent: it extends the deadline of the
/// response's head.
#[derive(Debug, Default)]
pub(super) struct Upload(Mutex<Option<Instant>>);

impl Upload {
    pub(super) fn progress_at(&self, started_at: Instant) -> Instant {
        self.0.lock().unwrap_or(started_at)
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
        Self(Kind::Stream(Stream {
            body: body.map_err(Into::into).boxed_unsync(),
            left: u64::MAX,
            upload: Arc::default(),
        }))
    }

    /// Sets the most bytes that may be sent; returns the progress of a streamed body.
    pub(super) fn limit(&mut self, max: u64) -> Result<Option<Arc<Upload>>, ClientError> {
        match &mut self.0 {
            Kind::Full(bytes) if bytes.len() as u64 > max => Err(ClientError::RequestBody {
                source: Arc::from(too_long(max)),
            }),
            Kind::Full(_) => Ok(None),
            Kind::Stream(stream) => {
                stream.left = max;
                Ok(Some(stream.upload.clone()))
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
        let frame = std::task::ready!(Pin::new(&mut stream.body).poll_frame(cx));
        let result = frame.map(|frame| {
            let frame = frame.map_err(UploadFailed)?;
            let bytes = frame.data_ref().map_or(0, Bytes::len) as u64;
            match stream.left.checked_sub(bytes) {
                Some(left) => stream.left = left,
                None => return Err(UploadFailed(too_long(stream.left)).into()),
            }
            *stream.upload.0.lock() = Some(Instant::now());
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

/// The body of a response. It fails with [`ClientError::TooLarge`] after `response_bytes_max`, and
/// with [`ClientError::Timeout`] after `idle_timeout` or `total_timeout`; after a failure it has
/// ended.
#[derive(Debug)]
pub struct ResponseBody {
    incoming: Option<Incoming>,
    /// The connection, until the body has been received. Dropped at a failure, which closes it.
    lease: Option<Lease>,
    max: u64,
    left: u64,
    deadline: Option<Deadline>,
    permit: Option<Permit>,
}

/// The deadlines of a body. The idle timeout runs only while the reader waits for the endpoint: a
/// reader that does not poll is slow itself.
#[derive(Debug)]
struct Deadline {
    started_at: Instant,
    idle_timeout: Option<Duration>,
    ends_at: Option<Instant>,
    /// The time from which the reader waits. `None` if it has got a part since.
    waits_since: Option<Instant>,
    /// Created when the reader waits for the first time. It may be due before the deadline, which
    /// each part puts off; then it is set again.
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Deadline {
    fn new(idle_timeout: Option<Duration>, ends_at: Option<Instant>) -> Option<Self> {
        (idle_timeout.is_some() || ends_at.is_some()).then(|| Self {
            started_at: Instant::now(),
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
        (Instant::now() >= ends_at).then(|| ends_at - self.started_at)
    }

    /// The reader waits. Returns the timeout that has passed.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Duration> {
        let since = *self.waits_since.get_or_insert_with(Instant::now);
        loop {
            let idle = self.idle_timeout.map(|idle| (since + idle, idle));
            let total = self.ends_at.map(|at| (at, at - self.started_at));
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
        lease: Option<Lease>,
        max: u64,
        idle_timeout: Option<Duration>,
        ends_at: Option<Instant>,
    ) -> Self {
        Self {
            incoming: Some(incoming),
            lease,
            max,
            left: max,
            deadline: Deadline::new(idle_timeout, ends_at),
            permit: None,
        }
    }

    /// Keeps the request's slot occupied until the body has ended or is dropped.
    #[must_use]
    pub fn hold(mut self, permit: Permit) -> Self {
        self.permit = Some(permit);
        self
    }

    /// Ends the body. A connection that can take another request goes into the pool.
    fn end(&mut self) {
        self.incoming = None;
        if let Some(lease) = self.lease.take() {
            lease.release();
        }
        self.permit = None;
    }

    fn fail(&mut self, error: ClientError) -> Poll<Option<Result<Frame<Bytes>, ClientError>>> {
        (self.incoming, self.lease, self.permit) = (None, None, None);
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
        let polled = match &mut this.lease {
            Some(lease) => lease.poll_frame(cx, incoming),
            None => Pin::new(incoming).poll_frame(cx),
        };
        match polled {
            Poll::Ready(Some(Ok(frame))) => {
                let bytes = frame.data_ref().map_or(0, Bytes::len) as u64;
                let Some(left) = this.left.checked_sub(bytes) else {
                    return this.fail(too_large(this.max));
                };
                this.left = left;
                // A reader that knows the length does not poll again after the last byte.
                this.lease = this.lease.take().and_then(Lease::unless_idle);
                let passed = this.deadline.as_mut().and_then(Deadline::received);
                if let Some(timeout) = passed {
                    return this.fail(ClientError::Timeout { timeout });
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => this.fail(ClientError::classify(&error)),
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
        self.incoming.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming
            .as_ref()
            .map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}
