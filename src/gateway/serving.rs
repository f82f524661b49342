//! Serving: a request or a handshake in progress. A request may run to its end even if its client
//! disconnects.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use metrics::counter;

use super::running::Gateway;
use super::upgrade::Reply;
use crate::http::{OnDisconnect, Response};
use crate::net::ClientPermit;
use crate::telemetry::trace::{self, ScopeSpan};

/// The most requests without a client at once. Any others are dropped.
const ABANDONED_MAX: usize = 1_024;

/// A request or a handshake in progress. Completes with the reply; dropping it is the client's
/// disconnect.
#[must_use = "nothing runs unless it is polled"]
pub struct Serving {
    state: State,
    /// Counts the client against `connections_per_ip` until its response or its socket ends, if it
    /// is counted by requests.
    counted: Option<ClientPermit>,
    /// The span that its work belongs to; `None` while nothing is traced.
    span: Option<ScopeSpan>,
}

enum State {
    /// Has its response without waiting; `None` once it has been taken.
    Done(Option<Response>),
    /// Ends with its client.
    Cancel(Work),
    /// Runs to its end.
    Finish(RunToCompletion),
}

type Work = Pin<Box<dyn Future<Output = Reply> + Send>>;

impl Serving {
    /// Creates one that has its response.
    #[inline]
    pub(crate) fn done(response: Response) -> Self {
        Self::of(State::Done(Some(response)))
    }

    /// Returns whether the whole response is in memory.
    #[inline]
    pub(crate) fn is_done(&self) -> bool {
        matches!(&self.state, State::Done(Some(response)) if response.body().is_in_memory())
    }

    /// Creates one that ends with its client.
    pub(super) fn new(work: impl Future<Output = Reply> + Send + 'static) -> Self {
        Self::of(State::Cancel(Box::pin(work)))
    }

    /// Takes the response of one that has it, which saves its poll.
    #[inline]
    pub(crate) fn take_response(&mut self) -> Option<Response> {
        match &mut self.state {
            State::Done(response) => response.take(),
            State::Cancel(_) | State::Finish(_) => None,
        }
    }

    #[inline]
    fn of(state: State) -> Self {
        Self {
            state,
            counted: None,
            span: None,
        }
    }

    /// Sets the span that its work belongs to.
    #[inline]
    pub(super) fn within(mut self, span: Option<ScopeSpan>) -> Self {
        self.span = span;
        self
    }

    /// Counts the client until its response or its socket ends.
    #[inline]
    pub(super) fn count(&mut self, counted: Option<ClientPermit>) {
        self.counted = counted;
    }

    /// Takes what counts the client until its response ends.
    #[inline]
    pub(crate) fn take_counted(&mut self) -> Option<ClientPermit> {
        self.counted.take()
    }

    /// Creates one of a view's call.
    pub(super) fn call(
        gateway: &Gateway,
        on_disconnect: OnDisconnect,
        work: impl Future<Output = Reply> + Send + 'static,
    ) -> Self {
        match on_disconnect {
            OnDisconnect::Cancel => Self::new(work),
            OnDisconnect::Finish => Self::of(State::Finish(RunToCompletion {
                work: Some(Box::pin(work)),
                gateway: gateway.clone(),
            })),
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        if let Some(span) = &self.span {
            let _entered = span.enter(); // work that goes on belongs to it
            self.state = State::Done(None);
        }
    }
}

impl Future for Serving {
    type Output = Reply;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Reply> {
        let _entered = self.span.as_ref().map(ScopeSpan::enter);
        let mut reply = match &mut self.state {
            State::Done(response) => match response.take() {
                Some(response) => Reply::Response(response),
                None => return Poll::Pending, // polled after its end
            },
            State::Cancel(work) => ready!(work.as_mut().poll(cx)),
            State::Finish(work) => ready!(work.poll(cx)),
        };
        if let Reply::Upgrade(_, upgrade) = &mut reply {
            upgrade.counted = self.counted.take();
        }
        Poll::Ready(reply)
    }
}

/// A request's work. If dropped before its end, it continues in its own task, within the route's
/// deadline.
struct RunToCompletion {
    work: Option<Work>,
    gateway: Gateway,
}

impl RunToCompletion {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Reply> {
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
        let count = self.gateway.abandoned().clone();
        if count.fetch_add(1, Ordering::Relaxed) >= ABANDONED_MAX {
            count.fetch_sub(1, Ordering::Relaxed);
            counter!("oneport_requests_abandoned_total", "outcome" => "dropped").increment(1);
            return;
        }
        counter!("oneport_requests_abandoned_total", "outcome" => "finished").increment(1);
        let tasks = &self.gateway.services().tasks;
        let finished = async move {
            let _count_guard = CountGuard(count);
            let _ = work.await;
        };
        match trace::is_on() {
            true => tasks.spawn("abandoned request", trace::carry(finished)),
            false => tasks.spawn("abandoned request", finished),
        };
    }
}

/// Decrements the count when the task ends, even by a panic.
struct CountGuard(Arc<AtomicUsize>);

impl Drop for CountGuard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
