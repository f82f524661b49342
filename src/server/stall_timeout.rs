//! Stall timeout: resets an HTTP/2 stream whose client gives no window for its response.
//!
//! A TCP socket that takes no bytes blocks its connection, which has timeouts. A stream without
//! window blocks nothing: it would keep its body, and the open file behind it, forever.

use std::cell::RefCell;
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
    /// The stream whose task is being polled. hyper passes no stream handle to its service.
    static POLLED: RefCell<Polled> = const { RefCell::new(Polled::NoStream) };
}

enum Polled {
    NoStream,
    /// With the timeout of its response, once there is one.
    Stream(Option<Arc<StallTimeout>>),
}

/// Runs the task of an HTTP/2 stream until the timeout of its response ends it. Dropping the task
/// resets the stream.
pub(super) async fn resettable(stream: impl Future<Output = ()>) {
    let mut stream = pin!(stream);
    let mut timeout: Option<Arc<StallTimeout>> = None;
    poll_fn(|cx| {
        let before = POLLED.replace(Polled::Stream(timeout.take()));
        let polled = stream.as_mut().poll(cx);
        if let Polled::Stream(made) = POLLED.replace(before) {
            timeout = made;
        }
        match &timeout {
            Some(timeout) if polled.is_pending() => timeout.poll_expired(cx),
            _ => polled,
        }
    })
    .await;
}

/// The timeout of one response, dropped with it.
pub(super) struct StallTimeout {
    clock: Clock,
    write: Millis,
    /// The stream's task.
    task: AtomicWaker,
    has_expired: AtomicBool,
    /// When hyper took the last frame and began to wait for window; `NEVER` while the body has no
    /// frame to send.
    waiting_since: AtomicU64,
    /// Set when the stream first waits: most responses are sent at once.
    timer: Mutex<Option<TimerKey>>,
    me: Weak<Self>,
}

impl StallTimeout {
    /// Watches the response of the stream that is being polled; `None` if no stream is. The stream
    /// is reset after `write` without window.
    pub(super) fn watch(clock: &Clock, write: Millis) -> Option<Arc<Self>> {
        POLLED.with_borrow_mut(|polled| {
            let Polled::Stream(timeout) = polled else {
                return None;
            };
            let watch = Arc::new_cyclic(|me| Self {
                clock: clock.clone(),
                write,
                task: AtomicWaker::new(),
                has_expired: AtomicBool::new(false),
                waiting_since: AtomicU64::new(clock.now()),
                timer: Mutex::default(),
                me: me.clone(),
            });
            *timeout = Some(watch.clone());
            Some(watch)
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

    /// Records that hyper has polled the body, which it does once the previous frame has found
    /// window. `is_ready` is whether it got a frame.
    pub(super) fn polled(&self, is_ready: bool) {
        let since = if is_ready { self.clock.now() } else { NEVER };
        self.waiting_since.store(since, Ordering::Relaxed);
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
