//! Stall timeout: resets an HTTP/2 stream whose client gives no window for its response.
//!
//! A TCP socket that takes no bytes blocks its connection, which has timeouts. A stream without
//! window blocks nothing: it would keep its body, and the open file behind it, forever.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;
use metrics::counter;
use parking_lot::Mutex;

use crate::clock::{Clock, Millis, NEVER, Tick, TimerKey};

thread_local! {
    /// How the last poll of a response body on this thread ended: the body of the stream whose task
    /// is being polled. hyper passes no stream handle to its service.
    static BODY_POLLED: Cell<Option<BodyPolled>> = const { Cell::new(None) };
}

/// How a poll of a response body ended.
#[derive(Clone, Copy, Debug)]
pub(super) enum BodyPolled {
    /// hyper has a frame, and perhaps waits for window.
    Frame,
    /// The body has none yet.
    Pending,
}

/// Records that hyper has polled a response body, which it does once the previous frame has found
/// window.
pub(super) fn note_body_polled(polled: BodyPolled) {
    BODY_POLLED.set(Some(polled));
}

/// Polls the task of a stream, and returns how it polled the body of its response.
pub(super) fn poll_stream<T>(poll: impl FnOnce() -> T) -> (T, Option<BodyPolled>) {
    let before = BODY_POLLED.take();
    let polled = poll();
    (polled, BODY_POLLED.replace(before))
}

/// Runs the task of an HTTP/2 stream until it has waited for window for the time `write`. Dropping
/// the task resets the stream. `body` is how the task has polled its body before.
pub(super) async fn resettable(
    stream: impl Future<Output = ()>,
    clock: Clock,
    write: Millis,
    body: Option<BodyPolled>,
) {
    let mut stream = pin!(stream);
    let watch = |body| StallTimeout::new(&clock, write, body);
    let mut timeout: Option<Arc<StallTimeout>> = body.map(watch);
    poll_fn(|cx| {
        let (polled, body) = poll_stream(|| stream.as_mut().poll(cx));
        if polled.is_ready() {
            return polled;
        }
        match (&timeout, body) {
            (Some(timeout), Some(body)) => timeout.record(body),
            (None, Some(body)) => timeout = Some(watch(body)),
            (_, None) => {}
        }
        match &timeout {
            Some(timeout) => timeout.poll_expired(cx),
            None => Poll::Pending,
        }
    })
    .await;
}

impl BodyPolled {
    /// Returns since when hyper waits for window; `NEVER` if it has no frame to send.
    fn waiting_since(self, clock: &Clock) -> Millis {
        match self {
            Self::Frame => clock.now(),
            Self::Pending => NEVER,
        }
    }
}

/// The timeout of one response that waits.
pub(super) struct StallTimeout {
    clock: Clock,
    write: Millis,
    /// The stream's task.
    task: AtomicWaker,
    has_expired: AtomicBool,
    /// When hyper took the last frame and began to wait for window; `NEVER` while the body has no
    /// frame to send.
    waiting_since: AtomicU64,
    timer: Mutex<Option<TimerKey>>,
    me: Weak<Self>,
}

impl StallTimeout {
    fn new(clock: &Clock, write: Millis, body: BodyPolled) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            clock: clock.clone(),
            write,
            task: AtomicWaker::new(),
            has_expired: AtomicBool::new(false),
            waiting_since: AtomicU64::new(body.waiting_since(clock)),
            timer: Mutex::default(),
            me: me.clone(),
        })
    }

    /// Completes when the stream must be reset.
    fn poll_expired(&self, cx: &Context<'_>) -> Poll<()> {
        self.task.register(cx.waker());
        if self.has_expired.load(Ordering::Acquire) {
            tracing::debug!("HTTP/2 stream reset: no window for too long");
            return Poll::Ready(());
        }
        let mut timer = self.timer.lock();
        if timer.is_none() {
            *timer = Some(self.wake_at(self.clock.now().saturating_add(self.write)));
        }
        Poll::Pending
    }

    /// Records how hyper has polled the body.
    fn record(&self, body: BodyPolled) {
        self.waiting_since
            .store(body.waiting_since(&self.clock), Ordering::Relaxed);
    }

    fn wake_at(&self, at: Millis) -> TimerKey {
        let watch: Weak<dyn Tick> = self.me.clone();
        self.clock.wake_at(at, watch)
    }
}

impl Tick for StallTimeout {
    fn tick(&self) {
        let now = self.clock.now();
        let since = self.waiting_since.load(Ordering::Relaxed);
        let deadline = match since {
            NEVER => now.saturating_add(self.write),
            since => since.saturating_add(self.write),
        };
        if now >= deadline {
            counter!("oneport_streams_stalled_total").increment(1);
            self.has_expired.store(true, Ordering::Release);
            self.task.wake();
        } else {
            *self.timer.lock() = Some(self.wake_at(deadline));
        }
    }
}

impl Drop for StallTimeout {
    fn drop(&mut self) {
        if let Some(key) = self.timer.lock().take() {
            self.clock.cancel(key);
        }
    }
}
