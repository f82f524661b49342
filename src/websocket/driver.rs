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

use super::close::{Cause, Close, CloseCode, Ending};
use super::consumer::Consumer;
use super::context::Context;
use super::extension::Deflate;
use super::link::Link;
use super::route::Route;
use super::running::Running;
use super::socket::{Next, Socket};
use super::sockets::Sockets;
use super::transport::Transport;
use crate::channels::Held;
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
    /// The groups that `open` will join.
    pub(crate) prepared: Prepared,
    /// What is let go when the socket ends: its place among the connections.
    pub(crate) held: Box<dyn Any + Send>,
}

/// Groups that are kept ready until they were joined; mostly none, so it takes one word of a socket's task.
pub(crate) type Prepared = Option<Box<Vec<Held>>>;

/// A consumer's call that did not come to its end.
enum Abandoned {
    Panicked,
    TookTooLong,
}

/// One socket that is open, all of it but its consumer.
struct Life {
    socket: Socket,
    link: Arc<Link>,
    sockets: Sockets,
    prepared: Prepared,
    held: Box<dyn Any + Send>,
}

/// Leads one socket from the upgrade to the end: runs the consumer until something ends the socket, then tells both sides.
///
/// While the socket lives its task is this future and no more: what happens before is done, and what happens at the end gets its own memory then.
pub(crate) fn drive<C: Consumer>(mut consumer: C, start: Start) -> Running {
    let mut life = Life::begin(start);
    Running::new(async move {
        let ending = 'live: {
            {
                let mut cx = Context::new(&life.link);
                let outcome = attend(&mut life.socket, pin!(consumer.open(&mut cx))).await;
                life.prepared = None;
                if let Some(ending) = ending_of(outcome, &mut life.socket) {
                    break 'live ending;
                }
            }
            loop {
                let mut cx;
                // Nothing but the call itself is kept while it runs.
                let call = {
                    let next = poll_fn(|task| life.socket.poll_next(task)).await;
                    cx = Context::new(&life.link);
                    match next {
                        Next::Message(message) => Either::Left(consumer.receive(&mut cx, message)),
                        Next::Event(received) => {
                            Either::Right(consumer.group_event(&mut cx, received))
                        }
                        Next::End(ending) => break 'live ending,
                    }
                };
                let outcome = attend(&mut life.socket, pin!(call)).await;
                if let Some(ending) = ending_of(outcome, &mut life.socket) {
                    break 'live ending;
                }
            }
        };
        Box::pin(life.end(consumer, ending)).await;
        None
    })
}

impl Life {
    fn begin(start: Start) -> Self {
        let link = Link::new(
            start.transport,
            start.route,
            start.services,
            start.deflate,
            start.scope,
        );
        let socket = Socket::new(link.clone(), &start.read_already, start.deflate);
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
        Self {
            socket,
            link,
            sockets: start.sockets,
            prepared: start.prepared,
            held: start.held,
        }
    }

    /// Tells the consumer, then the client, and lets go of everything.
    async fn end<C: Consumer>(mut self, mut consumer: C, ending: Ending) {
        let link = self.link.clone();
        self.leave_groups();
        self.socket.say_close(&ending);
        {
            let mut cx = Context::of_end(&link, &ending);
            let told = pin!(consumer.disconnect(&mut cx, ending.code));
            if let Err(Abandoned::Panicked) = attend(&mut self.socket, told).await {
                report_panic(&link);
            }
        }
        self.save_session().await;
        self.socket.finish_turn();
        // A consumer may have joined again while it was told; nothing may be left behind.
        self.leave_groups();
        self.socket.leave(&ending).await;
        link.kill();
        self.sockets.remove(link.id());
        link.route().metrics.open.decrement(1.0);
        drop(self.held);
        log_end(&self.socket, &ending);
    }

    /// Saves what the consumer changed in the session and did not save itself.
    async fn save_session(&mut self) {
        let Some(session) = self.link.scope().session.clone() else {
            return;
        };
        if session.is_modified()
            && let Ok(Err(error)) = attend(&mut self.socket, pin!(session.save())).await
        {
            let link = &self.link;
            tracing::warn!(route = %link.route().label, socket = link.id(), %error, "what the consumer changed in the session was not saved");
        }
    }

    fn leave_groups(&mut self) {
        let link = &self.link;
        for group in link.take_groups() {
            link.services().layer.group_discard(&group, link.id());
        }
    }
}

/// Lets a consumer's call run to its end and serves the socket meanwhile.
///
/// A call that goes on after its socket ended is dropped after the route's `disconnect_timeout`.
fn attend<'a, F: Future>(
    socket: &'a mut Socket,
    mut call: Pin<&'a mut F>,
) -> impl Future<Output = Result<F::Output, Abandoned>> + use<'a, F> {
    let mut grace: Option<Pin<Box<tokio::time::Sleep>>> = None;
    poll_fn(move |cx| {
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
}

/// Says whether a call's outcome ends the socket, and how.
#[inline]
fn ending_of(outcome: Result<Result<(), Close>, Abandoned>, socket: &mut Socket) -> Option<Ending> {
    match outcome {
        Ok(Ok(())) => None,
        other => ending_of_end(other, socket),
    }
}

#[cold]
fn ending_of_end(
    outcome: Result<Result<(), Close>, Abandoned>,
    socket: &mut Socket,
) -> Option<Ending> {
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

fn log_end(socket: &Socket, ending: &Ending) {
    let link = socket.link();
    let scope = link.scope();
    let route = &*link.route().label;
    link.route().count_closed(ending.cause);
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
        reason = Some(&*ending.reason).filter(|reason| !reason.is_empty()),
        seconds = link.age().as_secs_f64(),
        messages = received.messages,
        bytes_in = received.bytes,
        bytes_out = sent.bytes,
        dropped = sent.dropped,
        "websocket"
    );
}
