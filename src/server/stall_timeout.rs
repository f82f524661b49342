//! Stalled: an HTTP/2 answer whose client gives no window.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};

use metrics::counter;
use parking_lot::{Mutex, MutexGuard};
use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, Millis, NEVER, Tick, TimerKey};

thread_local! {
    /// What cuts the stream that is polled.
    static CUT: RefCell<Option<CancellationToken>> = const { RefCell::new(None) };
}

/// The task of an HTTP/2 stream. What it polls finds out how to cut it; a stream that is cut is reset.
///
/// A socket that takes no bytes is noticed by its connection. A stream without window blocks nothing, so it would hold its body,
/// and the file behind it, for ever.
pub(super) async fn resettable(stream: impl Future<Output = ()>) {
    struct Within<F>(F, CancellationToken);
    impl<F: Future<Output = ()>> Future for Within<Pin<&mut F>> {
        type Output = ();
        fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
            let before = CUT.replace(Some(self.1.clone()));
            let polled = self.0.as_mut().poll(cx);
            CUT.replace(before);
            polled
        }
    }
    let cut = CancellationToken::new();
    let stream = std::pin::pin!(stream);
    tokio::select! {
        () = Within(stream, cut.clone()) => {}
        () = cut.cancelled() => tracing::debug!("an HTTP/2 stream was without window for too long"),
    }
}

/// Watches one answer. Dropped with it.
pub(super) struct StallTimeout {
    clock: Clock,
    write: Millis,
    cut: CancellationToken,
    /// Since when a piece of the body waits for window; never while the body has none.
    waiting_since: AtomicU64,
    call: Mutex<Option<TimerKey>>,
    me: Weak<Self>,
}

impl StallTimeout {
    /// Watches the answer of the stream that is polled; none outside of one. It is cut when `write` passes without window.
    pub(super) fn watch(clock: &Clock, write: Millis) -> Option<Arc<Self>> {
        let cut = CUT.with_borrow(Clone::clone)?;
        let watch = Arc::new_cyclic(|me| Self {
            clock: clock.clone(),
            write,
            cut,
            waiting_since: AtomicU64::new(clock.now()),
            call: Mutex::default(),
            me: me.clone(),
        });
        watch.wake_at(clock.now().saturating_add(write));
        Some(watch)
    }

    /// hyper asks for the next piece once the one before has found window; `is_ready` tells whether there is one.
    pub(super) fn polled(&self, is_ready: bool) {
        let since = if is_ready { self.clock.now() } else { NEVER };
        self.waiting_since.store(since, Ordering::Relaxed);
    }

    fn wake_at(&self, at: Millis) {
        let waiting: Weak<dyn Tick> = self.me.clone();
        *self.call() = Some(self.clock.wake_at(at, waiting));
    }

    fn call(&self) -> MutexGuard<'_, Option<TimerKey>> {
        self.call.lock()
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
            self.cut.cancel();
        } else {
            self.wake_at(deadline);
        }
    }
}

impl Drop for StallTimeout {
    fn drop(&mut self) {
        if let Some(call) = self.call().take() {
            self.clock.cancel(call);
        }
    }
}
