//! ClientEnd: tracks whether a connection's client still sends, and keeps a request body that was
//! dropped unread.

use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;
use hyper::body::Incoming;
use parking_lot::Mutex;

/// The client's end of an HTTP/1.1 connection during the current request (cheap to clone).
///
/// A client may close its sending side after its request and still read the response (RFC 9112
/// §9.6), so the request is not dropped then. A response without an end of its own, such as an
/// event stream, ends at that point.
///
/// Over HTTP/2, a client ends a request by resetting its stream, which drops the request:
/// [`ClientEnd::gone`] never completes. There, each request with a body has a `ClientEnd` of its
/// own beside, which keeps the unread body.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// use oneport::http::ClientEnd;
/// let client = ClientEnd::default();
/// client.end();
/// client.gone().await;
/// # });
/// ```
#[derive(Clone, Default)]
pub struct ClientEnd(Arc<ClientState>);

#[derive(Default)]
struct ClientState {
    has_ended: AtomicBool,
    /// Wakes the task that waits for the end: the one that reads the body, then the one that sends
    /// the response. A connection has one request at a time.
    waiting: AtomicWaker,
    is_awaited: AtomicBool,
    unread: Mutex<Option<Incoming>>,
    /// Whether `unread` is set. Most requests leave nothing, and then need no lock.
    is_unread: AtomicBool,
    has_broken: AtomicBool,
    has_read: AtomicBool,
    is_reading: AtomicBool,
}

impl ClientEnd {
    /// Marks the client's sending side as closed.
    pub fn end(&self) {
        self.0.has_ended.store(true, Ordering::Release);
        self.0.waiting.wake();
    }

    /// Marks the client's sending side as open again: it was closed behind bytes that are unread,
    /// and the next request begins with them.
    pub(crate) fn resume(&self) {
        self.0.is_awaited.store(false, Ordering::Relaxed);
        self.0.has_ended.store(false, Ordering::Release);
    }

    /// Returns whether something has waited for the client's end.
    pub(crate) fn is_awaited(&self) -> bool {
        self.0.is_awaited.load(Ordering::Relaxed)
    }

    /// Returns whether the client's sending side is closed.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.0.has_ended.load(Ordering::Acquire)
    }

    /// Completes when the client disconnects or closes its sending side. Cancel-safe.
    pub async fn gone(&self) {
        poll_fn(|cx| self.poll_gone(cx)).await;
    }

    /// Polls like [`gone`](Self::gone), for a body's `poll_frame`. Only the last task that polled
    /// is woken.
    pub fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.is_awaited.store(true, Ordering::Relaxed);
        self.0.waiting.register(cx.waker());
        match self.has_ended() {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }

    /// Marks the request's body as truncated, so that nothing after it can be parsed.
    pub(super) fn break_off(&self) {
        self.0.has_broken.store(true, Ordering::Relaxed);
    }

    /// Returns whether a request's body was truncated.
    pub(crate) fn has_broken(&self) -> bool {
        self.0.has_broken.load(Ordering::Relaxed)
    }

    /// Records whether a view holds a request's body that has not ended.
    pub(super) fn record_reading(&self, is_reading: bool) {
        self.0.is_reading.store(is_reading, Ordering::Relaxed);
    }

    /// Returns whether a view holds a request's body that has not ended. Over HTTP/2, that of the
    /// connection itself never does.
    pub(crate) fn is_reading_body(&self) -> bool {
        self.0.is_reading.load(Ordering::Relaxed)
    }

    /// Marks the request's body as read to its end.
    pub(super) fn finish_body(&self) {
        self.0.has_read.store(true, Ordering::Release);
    }

    /// Returns whether the body of a request over HTTP/2 was read to its end.
    pub(crate) fn has_read_body(&self) -> bool {
        self.0.has_read.load(Ordering::Acquire)
    }

    /// Stores a body that was dropped before its end.
    pub(super) fn leave_unread(&self, body: Incoming) {
        *self.0.unread.lock() = Some(body);
        self.0.is_unread.store(true, Ordering::Release);
    }

    /// Takes the body of the last request, if it was dropped before its end.
    pub(crate) fn take_unread(&self) -> Option<Incoming> {
        if !self.0.is_unread.load(Ordering::Acquire) {
            return None;
        }
        self.0.is_unread.store(false, Ordering::Relaxed);
        self.0.unread.lock().take()
    }
}

impl fmt::Debug for ClientEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientEnd")
            .field("has_ended", &self.has_ended())
            .finish_non_exhaustive()
    }
}
