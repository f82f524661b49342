//! Driver: one WebSocket's life, from the upgrade to its one `disconnect`.
//!
//! One wake-up reads what is there once, runs every complete message through the consumer and writes all answers once. While a
//! consumer takes its time the socket is still served: pings are answered, what waits is written, deadlines are kept, and up
//! to [`AHEAD_MESSAGES_MAX`] messages are read ahead; then the client has to wait.

use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use bytes::Bytes;

use super::close::{Cause, Close, CloseCode, Ending};
use super::consumer::Consumer;
use super::context::{Context, Open};
use super::extension::Deflate;
use super::link::Link;
use super::route::Route;
use super::socket::{Next, Socket};
use super::sockets::Sockets;
use super::transport::Transport;
use crate::scope::Scope;
use crate::services::Services;
use crate::telemetry::ACCESS;

/// What a socket starts with.
pub(crate) struct Start {
    pub(crate) transport: Transport,
    /// What the client sent right behind its handshake.
    pub(crate) read_already: Bytes,
    pub(crate) scope: Arc<Scope>,
    pub(crate) route: Arc<Route>,
    pub(crate) services: Services,
    pub(crate) sockets: Sockets,
    /// What was agreed about compression.
    pub(crate) deflate: Option<Deflate>,
    /// What is let go when the socket ends: its place among the connections.
    pub(crate) held: Box<dyn Any + Send>,
}

/// A consumer's call that did not come to its end.
enum Abandoned {
    Panicked,
    TookTooLong,
}

/// Leads one socket from the upgrade to the end.
pub(crate) async fn drive<C: Consumer>(mut consumer: C, start: Start) {
    let started = Instant::now();
    let (reader, writer) = start.transport.split();
    let link = Link::new(
        start.services.layer.next_member(),
        writer,
        start.route,
        start.services,
        start.deflate,
    );
    let mut socket = Socket::new(link.clone(), reader, start.read_already, start.deflate);
    let mut open = Open {
        link: link.clone(),
        scope: start.scope,
        groups: Vec::new(),
    };
    start.sockets.add(&link);
    if link.services().tasks.is_draining() {
        // It was accepted while the others were told.
        link.end(Ending::new(
            CloseCode::GOING_AWAY,
            Cause::ServerDrain,
            "the server goes down",
        ));
    }
    if !start.sockets.is_kept(link.route().fingerprint) {
        // It was accepted while the table was replaced.
        link.end(Ending::new(
            CloseCode::SERVICE_RESTART,
            Cause::Reload,
            "the route changed",
        ));
    }
    link.route().metrics.open.increment(1.0);

    let ending = live(&mut consumer, &mut socket, &mut open).await;

    for group in std::mem::take(&mut open.groups) {
        link.services().layer.group_discard(&group, link.id());
    }
    socket.say_close(&ending);
    if let Err(Abandoned::Panicked) = attend(
        &mut socket,
        consumer.disconnect(&mut Context::new(&mut open), ending.code),
    )
    .await
    {
        report_panic(&link);
    }
    socket.finish_turn();
    // A consumer may have joined again while it was told; nothing may be left behind.
    for group in std::mem::take(&mut open.groups) {
        link.services().layer.group_discard(&group, link.id());
    }
    Box::pin(socket.leave(&ending)).await;
    link.kill();
    start.sockets.remove(link.id());
    link.route().metrics.open.decrement(1.0);
    drop(start.held);
    log_end(&socket, &open.scope, &ending, started);
}

/// Runs the consumer until something ends the socket.
async fn live<C: Consumer>(consumer: &mut C, socket: &mut Socket, open: &mut Open) -> Ending {
    let outcome = attend(socket, consumer.open(&mut Context::new(open))).await;
    if let Some(ending) = ending_of(outcome, socket) {
        return ending;
    }
    loop {
        let outcome = match std::future::poll_fn(|cx| socket.poll_next(cx)).await {
            Next::Message(message) => {
                attend(socket, consumer.receive(&mut Context::new(open), message)).await
            }
            Next::Event(event) => {
                attend(socket, consumer.event(&mut Context::new(open), event)).await
            }
            Next::End(ending) => return ending,
        };
        if let Some(ending) = ending_of(outcome, socket) {
            return ending;
        }
    }
}

/// Lets a consumer's call run to its end and serves the socket meanwhile.
///
/// A call that goes on after its socket ended is dropped after the route's `disconnect_timeout`.
async fn attend<F: Future>(socket: &mut Socket, call: F) -> Result<F::Output, Abandoned> {
    let mut call = pin!(call);
    let mut grace: Option<Pin<Box<tokio::time::Sleep>>> = None;
    std::future::poll_fn(|cx| {
        socket.begin_turn();
        match catch_unwind(AssertUnwindSafe(|| call.as_mut().poll(cx))) {
            Ok(Poll::Ready(output)) => return Poll::Ready(Ok(output)),
            Ok(Poll::Pending) => {}
            Err(_) => return Poll::Ready(Err(Abandoned::Panicked)),
        }
        socket.serve(cx);
        if socket.has_ended() {
            let wait = socket.link().route().settings.disconnect_timeout;
            let grace = grace.get_or_insert_with(|| Box::pin(tokio::time::sleep(wait)));
            if grace.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Err(Abandoned::TookTooLong));
            }
        }
        Poll::Pending
    })
    .await
}

/// Says whether a call's outcome ends the socket, and how.
fn ending_of(outcome: Result<Result<(), Close>, Abandoned>, socket: &mut Socket) -> Option<Ending> {
    let close = match outcome {
        Ok(Ok(())) => return None,
        Ok(Err(close)) => close,
        Err(Abandoned::Panicked) => {
            report_panic(socket.link());
            return Some(Ending::new(
                CloseCode::INTERNAL_ERROR,
                Cause::ConsumerPanic,
                "",
            ));
        }
        Err(Abandoned::TookTooLong) => {
            tracing::warn!(route = %socket.link().route().label, socket = socket.link().id(), "the consumer went on after its socket ended and was dropped");
            return Some(socket.take_ending());
        }
    };
    let cause = match close.cause() {
        Some(error) => {
            tracing::error!(route = %socket.link().route().label, socket = socket.link().id(), %error, "the consumer failed");
            Cause::ConsumerError
        }
        None => Cause::ConsumerClose,
    };
    Some(Ending::new(close.code(), cause, close.reason().to_owned()))
}

fn report_panic(link: &Link) {
    metrics::counter!("oneport_panics_total").increment(1);
    tracing::error!(route = %link.route().label, socket = link.id(), "the consumer panicked");
}

fn log_end(socket: &Socket, scope: &Scope, ending: &Ending, started: Instant) {
    let link = socket.link();
    let route = &*link.route().label;
    metrics::counter!("oneport_websockets_closed_total", "route" => route.to_owned(), "cause" => ending.cause.as_str()).increment(1);
    let (sent, received) = (link.counted(), socket.received());
    tracing::info!(
        target: ACCESS,
        id = %scope.request_id,
        client = scope.client.map(tracing::field::display),
        path = scope.target.path(),
        route,
        user = scope.user.as_ref().map(|user| user.name.as_str()),
        code = ending.code.get(),
        cause = ending.cause.as_str(),
        reason = &*ending.reason,
        seconds = started.elapsed().as_secs_f64(),
        messages = received.messages,
        bytes_in = received.bytes,
        bytes_out = sent.bytes,
        dropped = sent.dropped,
        "websocket"
    );
}
