//! Driver: one WebSocket's life, from the upgrade to its one `disconnect`.
//!
//! One wake-up reads what is there once, runs every complete message through the consumer and writes all answers once. While a
//! consumer takes its time the socket is still served: pings are answered, what waits is written, deadlines are kept, and up
//! to 32 messages or 128 KiB are read ahead; then the client has to wait.

use std::any::Any;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use futures_util::future::Either;

use super::close::{Cause, Close, Ending};
use super::connection_task::ConnectionTask;
use super::consumer::Consumer;
use super::context::Context;
use super::extension::Deflate;
use super::route::Route;
use super::socket::{Next, Socket};
use super::socket_handle::SocketHandle;
use super::sockets::Sockets;
use crate::channels::PreparedJoin;
use crate::net::Stream;
use crate::scope::Scope;
use crate::services::Services;
use crate::telemetry::ACCESS;

/// What a socket starts with.
pub(crate) struct SocketParts {
    pub(crate) stream: Stream,
    /// What the client sent right behind its handshake.
    pub(crate) read_already: Bytes,
    pub(crate) scope: Arc<Scope>,
    pub(crate) route: Arc<Route>,
    pub(crate) services: Services,
    pub(crate) sockets: Sockets,
    /// What was agreed about compression.
    pub(crate) deflate: Option<Deflate>,
    /// The groups that `open` will join.
    pub(crate) pending_joins: PendingJoins,
    /// What is let go when the socket ends: its place among the connections.
    pub(crate) held: Box<dyn Any + Send>,
}

/// Groups that are kept ready until they were joined; mostly none, so it takes one word of a socket's task.
pub(crate) type PendingJoins = Option<Box<Vec<PreparedJoin>>>;

/// A consumer's call that did not come to its end.
enum HandlerError {
    Panicked,
    TookTooLong,
}

/// One socket that is open, all of it but its consumer.
struct OpenSocket {
    socket: Socket,
    handle: Arc<SocketHandle>,
    sockets: Sockets,
    pending_joins: PendingJoins,
    held: Box<dyn Any + Send>,
}

/// Leads one socket from the upgrade to the end: runs the consumer until something ends the socket, then tells both sides.
///
/// While the socket lives its task is this future and no more: what happens before is done, and what happens at the end gets its own memory then.
pub(crate) fn drive<C: Consumer>(mut consumer: C, parts: SocketParts) -> ConnectionTask {
    let mut open_socket = OpenSocket::begin(parts);
    ConnectionTask::new(async move {
        let ending = 'live: {
            {
                let mut cx = Context::new(&open_socket.handle);
                let outcome =
                    run_handler(&mut open_socket.socket, pin!(consumer.open(&mut cx))).await;
                open_socket.pending_joins = None;
                if let Some(ending) = ending_of(outcome, &mut open_socket.socket) {
                    break 'live ending;
                }
            }
            loop {
                let mut cx;
                // Nothing but the call itself is kept while it runs.
                let call = {
                    let next = poll_fn(|task| open_socket.socket.poll_next(task)).await;
                    cx = Context::new(&open_socket.handle);
                    match next {
                        Next::Message(message) => Either::Left(consumer.receive(&mut cx, message)),
                        Next::Event(received) => {
                            Either::Right(consumer.group_event(&mut cx, received))
                        }
                        Next::End(ending) => break 'live ending,
                    }
                };
                let outcome = run_handler(&mut open_socket.socket, pin!(call)).await;
                if let Some(ending) = ending_of(outcome, &mut open_socket.socket) {
                    break 'live ending;
                }
            }
        };
        Box::pin(open_socket.end(consumer, ending)).await;
        None
    })
}

impl OpenSocket {
    fn begin(parts: SocketParts) -> Self {
        let handle = SocketHandle::new(
            parts.stream,
            parts.route,
            parts.services,
            parts.deflate,
            parts.scope,
        );
        let socket = Socket::new(handle.clone(), &parts.read_already, parts.deflate);
        parts.sockets.add(&handle);
        if handle.services().tasks.is_draining() {
            // It was accepted while the others were told.
            handle.end(Ending::of(Cause::ServerDrain));
        }
        if !parts.sockets.is_kept(handle.route().fingerprint) {
            // It was accepted while the table was replaced.
            handle.end(Ending::of(Cause::Reload));
        }
        handle.route().metrics.open.increment(1.0);
        Self {
            socket,
            handle,
            sockets: parts.sockets,
            pending_joins: parts.pending_joins,
            held: parts.held,
        }
    }

    /// Tells the consumer, then the client, and lets go of everything.
    async fn end<C: Consumer>(mut self, mut consumer: C, ending: Ending) {
        let handle = self.handle.clone();
        self.leave_groups();
        self.socket.start_closing(&ending);
        {
            let mut cx = Context::of_end(&handle, &ending);
            let told = pin!(consumer.disconnect(&mut cx, ending.code));
            if let Err(HandlerError::Panicked) = run_handler(&mut self.socket, told).await {
                report_panic(&handle);
            }
        }
        self.save_session().await;
        self.socket.release_buffers();
        // A consumer may have joined again while it was told; nothing may be left behind.
        self.leave_groups();
        self.socket.finish_closing(&ending).await;
        handle.abort();
        self.sockets.remove(handle.id());
        handle.route().metrics.open.decrement(1.0);
        drop(self.held);
        log_end(&self.socket, &ending);
    }

    /// Saves what the consumer changed in the session and did not save itself.
    async fn save_session(&mut self) {
        let Some(session) = self.handle.scope().session.clone() else {
            return;
        };
        if session.is_modified()
            && let Ok(Err(error)) = run_handler(&mut self.socket, pin!(session.save())).await
        {
            let handle = &self.handle;
            tracing::warn!(route = %handle.route().label, socket = handle.id(), %error, "what the consumer changed in the session was not saved");
        }
    }

    fn leave_groups(&mut self) {
        let handle = &self.handle;
        for group in handle.take_groups() {
            handle.services().layer.group_discard(&group, handle.id());
        }
    }
}

/// Lets a consumer's call run to its end and serves the socket meanwhile.
///
/// A call that goes on after its socket ended is dropped after the route's `disconnect_timeout`.
fn run_handler<'a, F: Future>(
    socket: &'a mut Socket,
    mut call: Pin<&'a mut F>,
) -> impl Future<Output = Result<F::Output, HandlerError>> + use<'a, F> {
    let mut grace: Option<Pin<Box<tokio::time::Sleep>>> = None;
    poll_fn(move |cx| {
        socket.claim_buffers();
        match catch_unwind(AssertUnwindSafe(|| call.as_mut().poll(cx))) {
            Ok(Poll::Ready(output)) => return Poll::Ready(Ok(output)),
            Ok(Poll::Pending) => {}
            Err(_) => return Poll::Ready(Err(HandlerError::Panicked)),
        }
        socket.serve(cx);
        if socket.has_ended() {
            let wait = socket.handle().route().settings.disconnect_timeout;
            let grace = grace.get_or_insert_with(|| Box::pin(tokio::time::sleep(wait)));
            if grace.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Err(HandlerError::TookTooLong));
            }
        }
        Poll::Pending
    })
}

/// Says whether a call's outcome ends the socket, and how.
#[inline]
fn ending_of(
    outcome: Result<Result<(), Close>, HandlerError>,
    socket: &mut Socket,
) -> Option<Ending> {
    match outcome {
        Ok(Ok(())) => None,
        other => ending_of_failure(other, socket),
    }
}

#[cold]
fn ending_of_failure(
    outcome: Result<Result<(), Close>, HandlerError>,
    socket: &mut Socket,
) -> Option<Ending> {
    let close = match outcome {
        Ok(Ok(())) => return None,
        Ok(Err(close)) => close,
        Err(HandlerError::Panicked) => {
            report_panic(socket.handle());
            return Some(Ending::of(Cause::ConsumerPanic));
        }
        Err(HandlerError::TookTooLong) => {
            tracing::warn!(route = %socket.handle().route().label, socket = socket.handle().id(), "the consumer went on after its socket ended and was dropped");
            return Some(socket.take_ending());
        }
    };
    if let Some(error) = close.cause() {
        tracing::error!(route = %socket.handle().route().label, socket = socket.handle().id(), %error, "the consumer failed");
    }
    Some(close.into_ending())
}

fn report_panic(handle: &SocketHandle) {
    metrics::counter!("oneport_panics_total").increment(1);
    tracing::error!(route = %handle.route().label, socket = handle.id(), "the consumer panicked");
}

fn log_end(socket: &Socket, ending: &Ending) {
    let handle = socket.handle();
    let scope = handle.scope();
    let route = &*handle.route().label;
    handle.route().count_closed(ending.cause);
    let (sent, received) = (handle.send_stats(), socket.received());
    tracing::info!(
        target: ACCESS,
        id = %scope.request_id,
        client = scope.client.map(tracing::field::display),
        path = scope.target.path(),
        route,
        user = scope.user.as_ref().map(|user| user.name.as_str()),
        code = ending.code.get(),
        cause = ending.cause.as_str(),
        reason = Some(&*ending.reason).filter(|reason| !reason.is_empty()),
        seconds = handle.age().as_secs_f64(),
        messages = received.messages,
        bytes_in = received.bytes,
        bytes_out = sent.bytes,
        dropped = sent.dropped,
        "websocket"
    );
}
