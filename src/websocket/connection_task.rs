//! ConnectionTask: the future of a connection's task, one stage after the other.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

/// The future of a connection's task: HTTP, then perhaps a WebSocket.
///
/// Each stage returns the next one, which replaces it. The task holds only a pointer to the current
/// stage. So the task is as small as possible, and a WebSocket keeps no memory of the HTTP stage
/// before it.
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
