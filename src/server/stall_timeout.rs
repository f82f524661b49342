//! Stall timeout: resets an HTTP/2 stream whose client gives no window for its response.
//!
//! A TCP socket that takes no bytes blocks its connection, which has timeouts. A stream without
//! window blocks nothing: it would keep its body, and the open file behind it, forever.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};

use metrics::counter;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, Millis, NEVER, Tick, TimerKey};

thread_local! {
    /// The reset of the stream whose task is being polled.
    static RESET: RefCell<Option<CancellationToken>> = const { RefCell::new(None) };
}

/// Runs the task of an HTTP/2 stream. Everything that the task polls can end it through [`RESET`],
/// because hyper passes no stream handle to its service. Dropping the task resets the stream.
pub(super) async fn resettable(stream: impl Future<Output = ()>) {
    struct Within<F>(F, CancellationToken);
    impl<F: Future<Output = ()>> Future for Within<Pin<&mut F>> {
        type Output = ();
        fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
            let before = RESET.replace(Some(self.1.clone()));
            let polled = self.0.as_mut().poll(cx);
            RESET.replace(before);
            polled
        }
    }
    let reset = CancellationToken::new();
    let stream = std::pin::pin!(stream);
    tokio::select! {
        () = Within(stream, reset.clone()) => {}
        () = reset.cancelled() => tracing::debug!("HTTP/2 stream reset: no window for too long"),
    }
}

/// The timeout of one response, dropped with it.
pub(super) struct StallTimeout {
    clock: Clock,
    write: Millis,
    reset: CancellationToken,
    /// When hyper took the last frame and began to wait for window; `NEVER` while the body has no
    /// frame to send.
    waiting_since: AtomicU64,
    timer: Mutex<Option<TimerKey>>,
    me: Weak<Self>,
}

impl StallTimeout {
    /// Watches the response of the stream that is being polled; `None` if no stream is. The stream
    /// is reset after `write` without window.
    pub(super) fn watch(clock: &Clock, write: Millis) -> Option<Arc<Self>> {
        let reset = RESET.with_borrow(Clone::clone)?;
        let watch = Arc::new_cyclic(|me| Self {
            clock: clock.clone(),
            write,
            reset,
            waiting_since: AtomicU64::new(clock.now()),
            timer: Mutex::default(),
            me: me.clone(),
        });
        watch.wake_at(clock.now().saturating_add(write));
        Some(watch)
    }

    /// Records that hyper has polled the body, which it does once the previous frame has found
    /// window. `is_ready` is whether it got a frame.
    pub(super) fn polled(&self, is_ready: bool) {
        let since = if is_ready { self.clock.now() } else { NEVER };
        self.waiting_since.store(since, Ordering::Relaxed);
    }

    fn wake_at(&self, at: Millis) {
        let watch: Weak<dyn Tick> = self.me.clone();
        *self.timer.lock() = Some(self.clock.wake_at(at, watch));
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
            self.reset.cancel();
        } else {
            self.wake_at(deadline);
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
