//! ConnectionTask: what a connection's task runs.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

/// What a connection's task runs; when one stage is over, the next may follow in the same task.
///
/// A task with a pointer to what it runs is as small as tasks can be, and a stage takes no room for the others: a WebSocket none for the HTTP
/// that it came from.
pub struct ConnectionTask(Pin<Box<dyn Future<Output = Option<Self>> + Send>>);

impl ConnectionTask {
    /// A stage that may name the next.
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
