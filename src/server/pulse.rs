//! Pulse: when something last happened on a connection that speaks HTTP, and when that is too long ago.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use http_body::{Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::clock::{Call, Clock, Millis, NEVER, Tick};
use crate::config::TimeoutsConfig;
use crate::http::Body;

/// What is known of a connection's progress.
pub(super) struct Pulse {
    clock: Clock,
    timeouts: Timeouts,
    /// Requests whose answer is not written whole.
    in_flight: AtomicU32,
    has_served: AtomicBool,
    is_http2: AtomicBool,
    /// When the connection was accepted, or the last answer was written.
    idle_since: AtomicU64,
    /// When the first byte of a head came that is not whole yet.
    head_since: AtomicU64,
    /// Since when a write makes no progress.
    blocked_since: AtomicU64,
    /// Since when the server stops.
    draining_since: AtomicU64,
    task: AtomicWaker,
}

#[derive(Clone, Copy, Debug)]
struct Timeouts {
    handshake: Millis,
    keep_alive: Millis,
    write: Millis,
}

/// One request on a connection, until its answer is written.
pub(super) struct InFlight(Arc<Pulse>);

impl Pulse {
    pub(super) fn new(clock: Clock, timeouts: &TimeoutsConfig) -> Arc<Self> {
        let now = clock.now();
        Arc::new(Self {
            clock,
            timeouts: Timeouts {
                handshake: millis(timeouts.handshake),
                keep_alive: millis(timeouts.keep_alive),
                write: millis(timeouts.request),
            },
            in_flight: AtomicU32::new(0),
            has_served: AtomicBool::new(false),
            is_http2: AtomicBool::new(false),
            idle_since: AtomicU64::new(now),
            head_since: AtomicU64::new(NEVER),
            blocked_since: AtomicU64::new(NEVER),
            draining_since: AtomicU64::new(NEVER),
            task: AtomicWaker::new(),
        })
    }

    /// A request's head is whole.
    pub(super) fn request(self: &Arc<Self>, version: http::Version) -> InFlight {
        if version >= http::Version::HTTP_2 {
            self.is_http2.store(true, Ordering::Relaxed);
        }
        self.has_served.store(true, Ordering::Relaxed);
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        self.head_since.store(NEVER, Ordering::Relaxed);
        InFlight(self.clone())
    }

    /// Completes when nothing has happened for too long.
    pub(super) async fn expired(self: &Arc<Self>) {
        let mut called_at = 0;
        let mut call = Promised {
            clock: self.clock.clone(),
            call: None,
        };
        std::future::poll_fn(|cx| {
            self.task.register(cx.waker());
            let now = self.clock.now();
            let deadline = self.deadline();
            if now >= deadline {
                return Poll::Ready(());
            }
            if now >= called_at || deadline < called_at {
                // Without a deadline now there may be one later; it is at least as long as the shortest of them.
                let at = deadline.min(
                    now + self
                        .timeouts
                        .handshake
                        .min(self.timeouts.keep_alive)
                        .min(self.timeouts.write),
                );
                called_at = at;
                let waiting: std::sync::Weak<dyn Tick> =
                    Arc::downgrade(&(self.clone() as Arc<dyn Tick>));
                call.replace(at, waiting);
            }
            Poll::Pending
        })
        .await;
    }

    /// Tells whether no request is under way on a connection that carries one at a time.
    pub(super) fn is_idle(&self) -> bool {
        self.in_flight.load(Ordering::Relaxed) == 0 && !self.is_http2.load(Ordering::Relaxed)
    }

    /// The server stops: what is idle has no more time than a handshake.
    pub(super) fn drain(&self) {
        self.draining_since
            .store(self.clock.now(), Ordering::Relaxed);
    }

    fn deadline(&self) -> Millis {
        let load = |cell: &AtomicU64| cell.load(Ordering::Relaxed);
        let blocked = load(&self.blocked_since);
        if blocked != NEVER {
            return blocked.saturating_add(self.timeouts.write);
        }
        if self.in_flight.load(Ordering::Relaxed) > 0 {
            return NEVER;
        }
        let idle = load(&self.idle_since);
        let draining = load(&self.draining_since);
        if draining != NEVER {
            // HTTP/2 takes leave in two steps, and a client that is gone answers neither.
            return idle.max(draining).saturating_add(self.timeouts.handshake);
        }
        if !self.has_served.load(Ordering::Relaxed) {
            return idle.saturating_add(self.timeouts.handshake);
        }
        let head = load(&self.head_since);
        if head != NEVER && !self.is_http2.load(Ordering::Relaxed) {
            head.saturating_add(self.timeouts.handshake)
        } else {
            idle.saturating_add(self.timeouts.keep_alive)
        }
    }

    fn has_read(&self) {
        if self.in_flight.load(Ordering::Relaxed) == 0
            && self.head_since.load(Ordering::Relaxed) == NEVER
        {
            self.head_since.store(self.clock.now(), Ordering::Relaxed);
        }
    }

    fn has_written(&self) {
        if self.blocked_since.load(Ordering::Relaxed) != NEVER {
            self.blocked_since.store(NEVER, Ordering::Relaxed);
        }
    }

    fn is_blocked(&self) {
        if self.blocked_since.load(Ordering::Relaxed) == NEVER {
            self.blocked_since
                .store(self.clock.now(), Ordering::Relaxed);
        }
    }
}

/// The clock's promise to a connection; it is called off when the connection ends.
struct Promised {
    clock: Clock,
    call: Option<Call>,
}

impl Promised {
    fn replace(&mut self, at: Millis, waiting: std::sync::Weak<dyn Tick>) {
        if let Some(before) = self.call.replace(self.clock.wake_at(at, waiting)) {
            self.clock.call_off(before);
        }
    }
}

impl Drop for Promised {
    fn drop(&mut self) {
        if let Some(call) = self.call {
            self.clock.call_off(call);
        }
    }
}

impl Tick for Pulse {
    fn tick(&self) {
        self.task
            .take()
            .as_ref()
            .map(Waker::wake_by_ref)
            .unwrap_or_default();
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0
            .idle_since
            .store(self.0.clock.now(), Ordering::Relaxed);
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

fn millis(duration: Duration) -> Millis {
    Millis::try_from(duration.as_millis()).unwrap_or(NEVER)
}

/// A stream whose progress is noted.
pub(super) struct Observed<S> {
    pub(super) stream: S,
    pulse: Arc<Pulse>,
}

impl<S> Observed<S> {
    pub(super) fn new(stream: S, pulse: Arc<Pulse>) -> Self {
        Self { stream, pulse }
    }

    fn note(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match &written {
            Poll::Pending => self.pulse.is_blocked(),
            Poll::Ready(_) => self.pulse.has_written(),
        }
        written
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Observed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if read.is_ready() {
            self.pulse.has_read();
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Observed<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.note(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.note(written)
    }
}

/// A body whose end is the end of its request.
pub(super) struct Answered {
    body: Body,
    _in_flight: Option<InFlight>,
}

impl Answered {
    pub(super) fn new(body: Body, in_flight: Option<InFlight>) -> Self {
        Self {
            body,
            _in_flight: in_flight,
        }
    }
}

impl http_body::Body for Answered {
    type Data = bytes::Bytes;
    type Error = crate::http::body::BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<bytes::Bytes>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
