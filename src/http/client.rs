//! Client: whether the other end of a connection still sends, and what it sent that no view has read.

use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;
use hyper::body::Incoming;
use parking_lot::Mutex;

/// The client's end of an HTTP/1.1 connection, as its current request sees it (cheap to clone).
///
/// A client that has sent its request may close its sending side and still read the answer (RFC 9112 §9.6), so that is no
/// reason to drop a request. An answer without an end of its own, such as an event stream, ends with it.
///
/// Over HTTP/2 a stream has its own end, and a client that resets it drops the request: [`Client::gone`] never completes.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// use oneport::http::Client;
/// let client = Client::default();
/// client.end();
/// client.gone().await;
/// # });
/// ```
#[derive(Clone, Default)]
pub struct Client(Arc<ClientState>);

#[derive(Default)]
struct ClientState {
    has_ended: AtomicBool,
    /// Who waits for the end: the request's body while it is read, then its answer. A connection has one request at a time.
    waiting: AtomicWaker,
    unread: Mutex<Option<Incoming>>,
    /// Whether there is one: most requests leave nothing, and need no lock.
    is_unread: AtomicBool,
    has_broken: AtomicBool,
}

impl Client {
    /// Notes that nothing more comes from the client.
    pub fn end(&self) {
        self.0.has_ended.store(true, Ordering::Release);
        self.0.waiting.wake();
    }

    /// Returns whether nothing more comes from the client.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.0.has_ended.load(Ordering::Acquire)
    }

    /// Completes when nothing more comes from the client: it has left, or closed its sending side. Cancel-safe.
    pub async fn gone(&self) {
        poll_fn(|cx| self.poll_gone(cx)).await;
    }

    /// Returns the same for a body's `poll_frame`. The last task that asks is the one that is woken.
    pub fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.waiting.register(cx.waker());
        match self.has_ended() {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }

    /// Notes that the body of a request broke off, so that nothing after it can be understood.
    pub(super) fn break_off(&self) {
        self.0.has_broken.store(true, Ordering::Relaxed);
    }

    /// Returns whether the body of a request broke off.
    pub(crate) fn has_broken(&self) -> bool {
        self.0.has_broken.load(Ordering::Relaxed)
    }

    /// Keeps a body that was dropped before its end.
    pub(super) fn leave_unread(&self, body: Incoming) {
        *self.0.unread.lock() = Some(body);
        self.0.is_unread.store(true, Ordering::Release);
    }

    /// Returns the body of the last request, if it was dropped before its end.
    pub(crate) fn take_unread(&self) -> Option<Incoming> {
        if !self.0.is_unread.load(Ordering::Acquire) {
            return None;
        }
        self.0.is_unread.store(false, Ordering::Relaxed);
        self.0.unread.lock().take()
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("has_ended", &self.has_ended())
            .finish_non_exhaustive()
    }
}
