//! Connection: one HTTP/1.1 connection, driven by the request that uses it.
//!
//! hyper splits a connection into a sender and a driver, and expects the driver to run in a task of
//! its own. Here the request polls the driver, in its own task: no task for each connection, no
//! wake-up of another thread, and dropping the request or its body closes the connection.
//!
//! ```text
//!  Connection::send ──> Exchange ── head ──> response, and the connection: idle again, or
//!                       polls the driver     still needed by the body, which polls the driver
//! ```
//!
//! The driver wakes through [`Relay`], which knows the task that uses the connection at the moment.
//! Taking a part of a body wakes the driver; as the driver is polled by the same task anyway, that
//! wake-up is suppressed.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body as _, Frame};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::task::unconstrained;

use super::body::{RequestBody, ResponseBody};
use super::error::ClientError;
use super::limited_io::{LimitedIo, Progress};
use crate::net::Stream;

type Io = TokioIo<LimitedIo<Stream>>;
type Driver = http1::Connection<Io, RequestBody>;
type Sent = Result<Response<Incoming>, TrySendError<Request<RequestBody>>>;

/// An HTTP/1.1 connection without a request in flight, or whose request's body is being read.
pub(super) struct Connection {
    sender: http1::SendRequest<RequestBody>,
    /// Boxed, because the connection moves between the pool and its requests. `None` after its end.
    driver: Option<Box<Driver>>,
    /// True once the driver has returned: it must not be polled again.
    is_over: bool,
    /// True from the first request on.
    is_used: bool,
    progress: Arc<Progress>,
    relay: Arc<Relay>,
    /// The relay as a waker.
    waker: Waker,
}

/// The answer to a request that asks for another protocol.
#[derive(Debug)]
pub(crate) enum Upgraded {
    /// 101: the connection speaks the other protocol from now on.
    Switched {
        /// The head.
        response: Response<()>,
        /// The connection.
        stream: Stream,
        /// The bytes that were read behind the head: the first ones of the other protocol.
        read: Bytes,
    },
    /// Any other status.
    Refused(Response<ResponseBody>),
}

/// A request failed before its response's head.
#[derive(Debug)]
pub(crate) struct SendError {
    pub(crate) error: ClientError,
    /// The request, if no byte of it was written.
    pub(crate) request: Option<Request<RequestBody>>,
    /// Whether the connection was idle before, and failed without a byte of a response: the peer
    /// has probably closed it when the request was sent.
    pub(crate) is_stale: bool,
}

/// Passes wake-ups on to the task that uses the connection.
struct Relay {
    task: Mutex<Option<Waker>>,
    /// While true, wake-ups are noted in `has_missed`, and not passed on.
    is_muted: AtomicBool,
    has_missed: AtomicBool,
}

impl Wake for Relay {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.is_muted.load(Ordering::SeqCst) {
            self.has_missed.store(true, Ordering::SeqCst);
            // Race: the polling thread may have read `has_missed` in between. It does so after it has
            // cleared `is_muted`, so if that is still set, it will see the wake-up.
            if self.is_muted.load(Ordering::SeqCst) {
                return;
            }
        }
        let task = self.task.lock();
        if let Some(task) = &*task {
            task.wake_by_ref();
        }
    }
}

impl Relay {
    /// Sets the task that is woken from now on.
    fn attach(&self, task: &Waker) {
        let mut current = self.task.lock();
        match &mut *current {
            Some(current) => current.clone_from(task), // compares first
            None => *current = Some(task.clone()),
        }
    }

    fn detach(&self) {
        *self.task.lock() = None;
    }

    /// Calls `poll` without waking the task; returns whether a wake-up was suppressed.
    fn muted<T>(&self, poll: impl FnOnce() -> T) -> (T, bool) {
        self.is_muted.store(true, Ordering::SeqCst);
        let value = poll();
        self.is_muted.store(false, Ordering::SeqCst);
        (value, self.has_missed.swap(false, Ordering::SeqCst))
    }
}

impl Connection {
    /// Begins HTTP/1.1 on a stream.
    pub(super) async fn begin(
        stream: Stream,
        wire_bytes_max: usize,
        head_bytes_max: Option<usize>,
    ) -> Result<Self, ClientError> {
        let progress = Arc::new(Progress::default());
        let io = TokioIo::new(LimitedIo::new(stream, wire_bytes_max, progress.clone()));
        let mut builder = http1::Builder::new();
        if let Some(max) = head_bytes_max {
            builder.max_buf_size(max);
        }
        let (sender, driver) = builder
            .handshake(io)
            .await
            .map_err(|error| ClientError::classify(&error))?;
        let relay = Arc::new(Relay {
            task: Mutex::new(None),
            is_muted: AtomicBool::new(false),
            has_missed: AtomicBool::new(false),
        });
        Ok(Self {
            sender,
            driver: Some(Box::new(driver)),
            is_over: false,
            is_used: false,
            progress,
            waker: Waker::from(relay.clone()),
            relay,
        })
    }

    /// Sends a request, and waits for the response's head. Dropping the future closes the
    /// connection.
    pub(super) fn send(
        mut self,
        request: Request<RequestBody>,
    ) -> impl Future<Output = Result<(Response<Incoming>, Self), SendError>> + Send {
        let was_used = std::mem::replace(&mut self.is_used, true);
        self.progress.restart();
        async move {
            let sent = self.sender.try_send_request(request);
            let mut sent = std::pin::pin!(unconstrained(sent));
            let sent = std::future::poll_fn(|cx| self.poll_sent(cx, sent.as_mut())).await;
            match sent {
                Ok(response) => {
                    self.progress.head_received();
                    Ok((response, self))
                }
                Err(mut error) => Err(SendError {
                    request: error.take_message(),
                    is_stale: was_used && !self.progress.has_bytes(),
                    error: ClientError::classify(error.error()),
                }),
            }
        }
    }

    fn poll_sent(
        &mut self,
        cx: &mut Context<'_>,
        mut sent: Pin<&mut impl Future<Output = Sent>>,
    ) -> Poll<Sent> {
        loop {
            self.drive(cx);
            // Only the driver completes it, and it is polled after the driver: it needs no waker.
            let mut quiet = Context::from_waker(Waker::noop());
            let (polled, has_missed) = self.relay.muted(|| sent.as_mut().poll(&mut quiet));
            if polled.is_ready() || !(has_missed || self.drop_driver()) {
                return polled;
            }
        }
    }

    /// Polls the next part of the response's body.
    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
        body: &mut Incoming,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        loop {
            self.drive(cx);
            let mut quiet = Context::from_waker(Waker::noop());
            let body = Pin::new(&mut *body);
            let (polled, has_missed) = self.relay.muted(|| body.poll_frame(&mut quiet));
            if polled.is_ready() || !(has_missed || self.drop_driver()) {
                return polled;
            }
        }
    }

    /// Drops the driver if it has returned. That completes the request or the body that waits for
    /// it, so the caller polls again.
    fn drop_driver(&mut self) -> bool {
        self.is_over && self.driver.take().is_some()
    }

    /// Polls the driver, which reads and writes. Its failure is also the outcome of the request, or
    /// of its body.
    fn drive(&mut self, cx: &mut Context<'_>) {
        let Some(driver) = self.driver.as_mut().filter(|_| !self.is_over) else {
            return;
        };
        self.relay.attach(cx.waker());
        let mut cx = Context::from_waker(&self.waker);
        self.is_over = driver.poll_without_shutdown(&mut cx).is_ready();
    }

    /// Returns whether the connection can take a request: the last one and its response have ended,
    /// and the peer keeps the connection open.
    pub(super) fn is_idle(&self) -> bool {
        !self.is_over && self.sender.is_ready()
    }

    /// Separates the connection from the task that used it, before it goes into the pool.
    pub(super) fn park(&self) {
        self.relay.detach();
    }

    /// Returns the stream after a 101, and the bytes that were read behind the head. `None`: the
    /// connection has failed.
    pub(super) fn into_stream(self) -> Option<(Stream, Bytes)> {
        let parts = self.driver?.into_parts();
        Some((parts.io.into_inner().into_inner(), parts.read_buf))
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection")
            .field("is_idle", &self.is_idle())
            .finish_non_exhaustive()
    }
}

impl SendError {
    /// No byte of the request was written.
    pub(crate) fn unsent(error: ClientError, request: Request<RequestBody>) -> Self {
        Self {
            error,
            request: Some(request),
            is_stale: false,
        }
    }
}

impl From<ClientError> for SendError {
    fn from(error: ClientError) -> Self {
        Self {
            error,
            request: None,
            is_stale: false,
        }
    }
}
