//! Current: the span whose work the thread does, so that calls to others become its children.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::pin;

use super::context::TraceContext;
use super::tracer;

/// The span whose work a thread does.
#[derive(Clone, Debug)]
pub(crate) enum Current {
    /// A request, a handshake, or an event from another process.
    Request(TraceContext),
    /// A socket, which may live for days: what it does are traces of their own.
    Socket(TraceContext),
}

thread_local! {
    static CURRENT: RefCell<Option<Current>> = const { RefCell::new(None) };
}

/// Restores the span before it when it is dropped.
#[must_use = "dropping it leaves the span"]
pub(crate) struct Entered(Option<Current>);

impl Drop for Entered {
    fn drop(&mut self) {
        CURRENT.set(self.0.take());
    }
}

/// Makes a span the current one of this thread.
pub(crate) fn enter(span: Current) -> Entered {
    Entered(CURRENT.replace(Some(span)))
}

/// Returns the current span; `None` while nothing is traced.
pub(crate) fn current() -> Option<Current> {
    if !tracer::is_on() {
        return None;
    }
    CURRENT.with_borrow(Clone::clone)
}

/// Returns the identifiers of the current span, if it is sampled, for another process.
pub(crate) fn current_bytes() -> Option<[u8; 24]> {
    match current()? {
        Current::Request(context) if context.is_sampled => Some(context.to_bytes()),
        Current::Request(_) | Current::Socket(_) => None,
    }
}

/// Runs a future within a span: its polls, on whichever thread.
pub(crate) async fn within<F: Future>(span: Option<Current>, future: F) -> F::Output {
    let mut future = pin!(future);
    poll_fn(|cx| {
        let _entered = span.clone().map(enter);
        future.as_mut().poll(cx)
    })
    .await
}

/// Runs a future within the span that is current now, such as in a task of its own.
pub(crate) fn carry<F: Future>(future: F) -> impl Future<Output = F::Output> {
    within(current(), future)
}
