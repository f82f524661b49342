//! ConnectionTask: the future of a connection's task, one stage after the other.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

/// The future of a connection's task: HTTP, then perhaps a WebSocket.
///
/// Each stage returns the next one, which replaces it. The task holds only a pointer to the current stage, so
/// it is as small as a task can be, and a WebSocket takes no room for the HTTP that it came from.
pub struct ConnectionTask(Pin<Box<dyn Future<Output = Option<Self>> + Send>>);

impl ConnectionTask {
    /// A stage, which returns the next one if there is one.
    pub fn new(stage: impl Future<Output = Option<Self>> + Send + 'static) -> Self {
        Self(Box::pin(stage))
    }
}

impl Future for ConnectionTask {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        while let Some(next) = ready!(self.0.as_mut().poll(cx)) {
            *self = next;
        }
        Poll::Ready(())
    }
}
