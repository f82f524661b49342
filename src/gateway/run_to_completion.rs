//! RunToCompletion: runs a request to its end even if its client disconnects.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use metrics::counter;

use crate::http::Response;
use crate::tasks::Tasks;

/// The most requests without a client at once. Any others are dropped.
const ABANDONED_MAX: usize = 1_024;

type Work = Pin<Box<dyn Future<Output = Response> + Send>>;

/// Counts the requests that run without their client (cheap to clone).
#[derive(Clone, Default)]
pub(super) struct AbandonedRequests(Arc<AtomicUsize>);

/// A request's work. If dropped before its end, it continues in its own task, within the route's
/// deadline.
pub(super) struct RunToCompletion {
    work: Option<Work>,
    tasks: Tasks,
    abandoned: AbandonedRequests,
}

impl RunToCompletion {
    pub(super) fn new(
        work: impl Future<Output = Response> + Send + 'static,
        tasks: Tasks,
        abandoned: AbandonedRequests,
    ) -> Self {
        Self {
            work: Some(Box::pin(work)),
            tasks,
            abandoned,
        }
    }
}

impl Future for RunToCompletion {
    type Output = Response;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Response> {
        let Some(work) = &mut self.work else {
            return Poll::Pending; // polled after its end
        };
        let polled = work.as_mut().poll(cx);
        if polled.is_ready() {
            self.work = None;
        }
        polled
    }
}

impl Drop for RunToCompletion {
    fn drop(&mut self) {
        let Some(work) = self.work.take() else { return };
        if std::thread::panicking() {
            return; // the work itself panicked
        }
        let count = self.abandoned.0.clone();
        if count.fetch_add(1, Ordering::Relaxed) >= ABANDONED_MAX {
            count.fetch_sub(1, Ordering::Relaxed);
            counter!("oneport_requests_abandoned_total", "outcome" => "dropped").increment(1);
            return;
        }
        counter!("oneport_requests_abandoned_total", "outcome" => "finished").increment(1);
        self.tasks.spawn("abandoned request", async move {
            let _count_guard = CountGuard(count);
            let _ = work.await;
        });
    }
}

/// Decrements the count when the task ends, even by a panic.
struct CountGuard(Arc<AtomicUsize>);

impl Drop for CountGuard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
