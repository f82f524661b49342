//! Driver: the life of one WebSocket, from the upgrade to its one `disconnect`.
//!
//! ```text
//!   drive ──► open ──► ┌► poll_next ──► receive / event ─┐ ──► start_closing ──► disconnect
//!               │      └─────────────────────────────────┘ ▲       close frame       │
//!               │               │                          │                         ▼
//!               └───────────────┴── an ending: the client, ┘                  finish_closing
//!                                   a deadline, another task,                 access log
//!                                   the consumer's Close, error or panic
//! ```
//!
//! While a call of the consumer is pending, `run_handler` serves the socket: it answers pings,
//! writes queued frames, checks deadlines, and reads up to 32 messages or 128 KiB ahead. Then the
//! client has to wait.

use std::any::Any;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use futures_util::future::Either;

use super::access_log::{self, Counts};
use super::close::{Cause, Close, Ending};
use super::connection_task::ConnectionTask;
use super::consumer::Consumer;
use super::context::Context;
use super::extension::Deflate;
use super::socket::{Next, Socket};
use super::socket_handle::SocketHandle;
use super::socket_route::SocketRoute;
use super::sockets::Sockets;
use crate::channels::PreparedJoin;
use crate::net::Stream;
use crate::scope::Scope;
use crate::services::Services;

/// The parts from which an upgraded connection becomes a socket.
pub(crate) struct SocketParts {
    pub(crate) stream: Stream,
    /// Bytes that the client sent right after its handshake.
    pub(crate) read_already: Bytes,
    pub(crate) scope: Arc<Scope>,
    pub(crate) route: Arc<SocketRoute>,
    pub(crate) services: Services,
    pub(crate) sockets: Sockets,
    /// The parameters of permessage-deflate, if it was negotiated.
    pub(crate) deflate: Option<Deflate>,
    /// The groups that `open` joins.
    pub(crate) prepared_joins: PreparedJoins,
    /// Dropped when the socket ends: its permits among the connections.
    pub(crate) permits: Box<dyn Any + Send>,
}

/// Groups that retain events until `open` has joined them. Usually none, so it takes one word of a
/// socket's task.
pub(crate) type PreparedJoins = Option<Box<Vec<PreparedJoin>>>;

/// A call of the consumer that did not return.
enum HandlerError {
    Panicked,
    /// It was still pending `disconnect_timeout` after its socket ended.
    TimedOut,
}

/// An open socket without its consumer.
struct OpenSocket {
    socket: Socket,
    handle: Arc<SocketHandle>,
    sockets: Sockets,
    prepared_joins: PreparedJoins,
    permits: Box<dyn Any + Send>,
}

/// Runs one socket from the upgrade to the end.
///
/// Generic over the consumer, so a message is dispatched without an allocation. While the socket is
/// open, its task is this future alone: earlier stages are done, and the end is boxed when it is
/// reached.
pub(crate) fn drive<C: Consumer>(consumer: C, parts: SocketParts) -> ConnectionTask {
    ConnectionTask::new(run(consumer, OpenSocket::new(parts)))
}

#[expect(
    clippy::manual_async_fn,
    reason = "the future of an async fn would hold the arguments twice"
)]
fn run<C: Consumer>(
    mut consumer: C,
    mut open: OpenSocket,
) -> impl Future<Output = Option<ConnectionTask>> + Send {
    async move {
        let ending = 'open: {
            {
                let mut cx = Context::new(&open.handle);
                let outcome = run_handler(&mut open.socket, pin!(consumer.open(&mut cx))).await;
                open.prepared_joins = None;
                if let Some(ending) = ending_of(outcome, &mut open.socket) {
                    break 'open ending;
                }
            }
            loop {
                let mut cx;
                // In a block, so that the future holds only the pending call, not the values it was
                // made from.
                let call = {
                    let next = poll_fn(|task| open.socket.poll_next(task)).await;
                    cx = Context::new(&open.handle);
                    match next {
                        Next::Message(message) => Either::Left(consumer.receive(&mut cx, message)),
                        Next::Event(received) => {
                            Either::Right(consumer.group_event(&mut cx, received))
                        }
                        Next::End(ending) => break 'open ending,
                    }
                };
                let outcome = run_handler(&mut open.socket, pin!(call)).await;
                if let Some(ending) = ending_of(outcome, &mut open.socket) {
                    break 'open ending;
                }
            }
        };
        Box::pin(open.end(consumer, ending)).await;
        None
    }
}

impl OpenSocket {
    fn new(parts: SocketParts) -> Self {
        let handle = SocketHandle::new(
            parts.stream,
            parts.route,
            parts.services,
            parts.deflate,
            parts.scope,
        );
        let socket = Socket::new(handle.clone(), &parts.read_already, parts.deflate);
        parts.sockets.open(&handle);
        Self {
            socket,
            handle,
            sockets: parts.sockets,
            prepared_joins: parts.prepared_joins,
            permits: parts.permits,
        }
    }

    /// Sends the close frame, calls the consumer's `disconnect`, waits for the client's close
    /// frame, and releases everything.
    async fn end<C: Consumer>(mut self, mut consumer: C, ending: Ending) {
        let handle = self.handle.clone();
        self.leave_groups();
        self.socket.start_closing(&ending);
        {
            let mut cx = Context::ended(&handle, &ending);
            let call = pin!(consumer.disconnect(&mut cx, ending.code));
            if let Err(HandlerError::Panicked) = run_handler(&mut self.socket, call).await {
                report_panic(&handle);
            }
        }
        self.save_session().await;
        self.socket.release_buffers();
        self.leave_groups(); // again: `disconnect` may have joined some
        self.socket.finish_closing(&ending).await;
        handle.abort();
        self.sockets.remove(handle.id());
        self.permits = Box::new(());
        log_end(&self.socket, &ending);
    }

    /// Saves session changes that the consumer did not save itself.
    async fn save_session(&mut self) {
        let Some(session) = self.handle.scope().session.clone() else {
            return;
        };
        if session.is_modified()
            && let Ok(Err(error)) = run_handler(&mut self.socket, pin!(session.save())).await
        {
            let handle = &self.handle;
            tracing::warn!(route = %handle.route().label, socket = handle.id(), %error, "the consumer's changes to the session are lost");
        }
    }

    fn leave_groups(&self) {
        let handle = &self.handle;
        for group in handle.take_groups() {
            handle.services().layer.group_discard(&group, handle.id());
        }
    }
}

/// Does nothing after [`OpenSocket::end`]. Without it, after a panic of the server itself, the
/// socket must not stay a member of its groups.
impl Drop for OpenSocket {
    fn drop(&mut self) {
        self.leave_groups();
    }
}

/// Polls a call of the consumer until it returns, and serves the socket while it is pending.
///
/// If the socket ends in the meantime, the call has the route's `disconnect_timeout` left; then it
/// is dropped.
fn run_handler<'a, F: Future>(
    socket: &'a mut Socket,
    mut call: Pin<&'a mut F>,
) -> impl Future<Output = Result<F::Output, HandlerError>> + use<'a, F> {
    socket.start_call();
    poll_fn(move |cx| {
        socket.claim_buffers();
        let _entered = socket.handle().enter_span();
        match catch_unwind(AssertUnwindSafe(|| call.as_mut().poll(cx))) {
            Ok(Poll::Ready(output)) => return Poll::Ready(Ok(output)),
            Ok(Poll::Pending) => {}
            Err(_) => return Poll::Ready(Err(HandlerError::Panicked)),
        }
        socket.serve(cx);
        match socket.poll_call_timeout(cx) {
            Poll::Ready(()) => Poll::Ready(Err(HandlerError::TimedOut)),
            Poll::Pending => Poll::Pending,
        }
    })
}

/// Returns how a call's outcome ends the socket, if it does.
#[inline]
fn ending_of(
    outcome: Result<Result<(), Close>, HandlerError>,
    socket: &mut Socket,
) -> Option<Ending> {
    match outcome {
        Ok(Ok(())) => None,
        Ok(Err(close)) => Some(ending_of_close(close, socket.handle())),
        Err(error) => Some(ending_of_error(&error, socket)),
    }
}

#[cold]
fn ending_of_close(close: Close, handle: &SocketHandle) -> Ending {
    if let Some(error) = close.cause() {
        tracing::error!(route = %handle.route().label, socket = handle.id(), %error, "the consumer failed");
    }
    close.into_ending()
}

#[cold]
fn ending_of_error(error: &HandlerError, socket: &mut Socket) -> Ending {
    match error {
        HandlerError::Panicked => {
            report_panic(socket.handle());
            Ending::of(Cause::ConsumerPanic)
        }
        HandlerError::TimedOut => {
            tracing::warn!(route = %socket.handle().route().label, socket = socket.handle().id(), "the consumer did not return within disconnect_timeout after its socket ended; its call is dropped");
            socket.take_ending()
        }
    }
}

fn report_panic(handle: &SocketHandle) {
    metrics::counter!("oneport_panics_total").increment(1);
    tracing::error!(route = %handle.route().label, socket = handle.id(), "the consumer panicked");
}

/// Counts the end and writes the access log line.
fn log_end(socket: &Socket, ending: &Ending) {
    let handle = socket.handle();
    let (sent, received) = (handle.send_stats(), socket.received());
    let counts = Counts {
        messages: received.messages,
        bytes_in: received.bytes,
        bytes_out: sent.bytes,
        dropped: Some(sent.dropped.into()),
        ..Counts::default()
    };
    access_log::log_end(handle, ending, &counts);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::websocket::consumers::Echo;

    /// Every idle socket keeps one, in an allocation of one of jemalloc's size classes.
    #[test]
    fn future_of_an_idle_socket_fits_its_size_class() {
        fn size<F>(_: impl FnOnce(Echo, OpenSocket) -> F) -> usize {
            size_of::<F>()
        }
        let parts = (size_of::<Socket>(), size_of::<OpenSocket>());
        assert!(size(run::<Echo>) <= 256, "{} {parts:?}", size(run::<Echo>));
    }
}
