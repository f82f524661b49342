//! Scope span: the span of a request, a handshake or a socket, which its scope holds.

use std::sync::Arc;

use http::Extensions;
use parking_lot::Mutex;

use super::context::TraceContext;
use super::current::{Current, Entered, enter};
use super::span::Span;
use super::tracer;

/// The span of a request, a handshake or a socket (cheap to clone). A scope holds it among its
/// extensions.
#[derive(Clone, Debug)]
pub(crate) struct ScopeSpan(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    context: TraceContext,
    is_socket: bool,
    /// Taken at the end.
    span: Mutex<Option<Span>>,
}

impl ScopeSpan {
    /// Creates that of a request or a handshake.
    pub(crate) fn request(span: Span) -> Self {
        Self::new(span, false)
    }

    /// Creates that of a socket.
    pub(crate) fn socket(span: Span) -> Self {
        Self::new(span, true)
    }

    fn new(span: Span, is_socket: bool) -> Self {
        Self(Arc::new(Inner {
            context: span.context().clone(),
            is_socket,
            span: Mutex::new(Some(span)),
        }))
    }

    /// Returns that of a scope; `None` while nothing is traced.
    pub(crate) fn of(extensions: &Extensions) -> Option<&Self> {
        if !tracer::is_on() {
            return None;
        }
        extensions.get()
    }

    /// Returns its identity.
    pub(crate) fn context(&self) -> &TraceContext {
        &self.0.context
    }

    /// Returns what its work is done within.
    pub(crate) fn as_current(&self) -> Current {
        let context = self.0.context.clone();
        match self.0.is_socket {
            true => Current::Socket(context),
            false => Current::Request(context),
        }
    }

    /// Makes it the current span of this thread.
    pub(crate) fn enter(&self) -> Entered {
        enter(self.as_current())
    }

    /// Changes the span, unless it has ended or is not recorded.
    pub(crate) fn change(&self, change: impl FnOnce(&mut Span)) {
        if let Some(span) = &mut *self.0.span.lock()
            && span.is_recorded()
        {
            change(span);
        }
    }

    /// Takes the span at its end; `None` if it has ended.
    pub(crate) fn take(&self) -> Option<Span> {
        self.0.span.lock().take()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // The client has left before the end.
        if let Some(mut span) = self.span.get_mut().take() {
            span.set("error.type", "cancelled");
        }
    }
}
