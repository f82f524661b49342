//! Respond: passes one request of a connection from hyper to the gateway, and the response back.

use std::any::Any;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::SystemTime;

use http::header::{self, HeaderValue};
use http::request::Parts;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::connection_timeouts::{ConnectionTimeouts, InFlight};
use super::date;
use super::early_answer::EarlyAnswer;
use super::hyper_tasks::{end_writer_with, next_is_done};
use super::open_connections::OpenConnection;
use super::response_body::ResponseBody;
use super::unread_body::{announce_close, finish_request};
use crate::gateway::{ConnectionInfo, Gateway, Reply, Serving, Upgrade};
use crate::http::body::Carrier;
use crate::http::upgrade::ConnectProtocol;
use crate::http::{Body, ClientEnd, Response};
use crate::net::{Admission, ConnectionPermit, Stream};

/// State that the requests of one connection share.
pub(super) struct Shared {
    pub(super) gateway: Gateway,
    pub(super) info: ConnectionInfo,
    pub(super) pending_upgrade: Arc<PendingUpgrade>,
    pub(super) timeouts: Arc<ConnectionTimeouts>,
    pub(super) admission: Admission,
    /// Counts the connection while it speaks HTTP.
    pub(super) open: OpenConnection,
    /// The value of `Strict-Transport-Security`, over TLS.
    pub(super) hsts: Option<HeaderValue>,
}

/// A WebSocket over HTTP/1.1 whose 101 is not written yet.
pub(super) type PendingUpgrade = Mutex<Option<(Box<Upgrade>, OnUpgrade)>>;

/// One request, until hyper has its response.
pub(super) struct Responding {
    shared: Arc<Shared>,
    serving: Serving,
    /// Dropped when hyper has taken the whole response.
    in_flight: Option<InFlight>,
    handshake: Option<Handshake>,
    waits_for_continue: bool,
    /// The request's body over HTTP/2.
    stream_body: Option<ClientEnd>,
    /// The response, while the rest of the request's body is read.
    finishing: Option<Finishing>,
}

/// A request that may switch protocols.
struct Handshake {
    on_upgrade: OnUpgrade,
    /// Over HTTP/2, the permit of the WebSocket: each counts as a connection, although several may
    /// share one.
    stream: Option<ConnectionPermit>,
}

type Finishing = Pin<Box<dyn Future<Output = Response> + Send>>;

/// Answers one request. `has_body` is whether it has more than its head.
pub(super) fn respond(
    shared: Arc<Shared>,
    head: &mut Parts,
    incoming: Incoming,
    has_body: bool,
    in_flight: InFlight,
) -> Responding {
    let Shared {
        gateway,
        info,
        timeouts,
        admission,
        ..
    } = &*shared;
    let clock = &gateway.services().clock;
    let extensions = &mut head.extensions;
    let on_upgrade = extensions.remove::<OnUpgrade>();
    let mut stream = None;
    let mut is_overloaded = false;
    if let Some(protocol) = extensions.remove::<hyper::ext::Protocol>() {
        // The gateway counts it by its client's address.
        stream = admission.admit(None).ok();
        is_overloaded = stream.is_none();
        extensions.insert(ConnectProtocol(protocol.as_str().into()));
    }
    let waits_for_continue = has_body && head.headers.contains_key(header::EXPECT);
    let is_http1 = head.version < http::Version::HTTP_2;
    let rate = timeouts.min_rate();
    let mut stream_body = None;
    let body = match (has_body, is_http1) {
        (false, _) => Body::empty(),
        (true, true) => Body::watched(incoming, Carrier::Connection, &info.client, clock, rate),
        (true, false) => {
            let client = stream_body.insert(ClientEnd::default());
            Body::watched(incoming, Carrier::Stream, client, clock, rate)
        }
    };
    let mut serving = match is_overloaded {
        true => Serving::done(overloaded()),
        false => gateway.serve_parts(head, body, info),
    };
    // A request with a body is left to a task: the body may still prove malformed.
    if !is_http1 && !has_body && serving.is_done() {
        // It is over before the next request of this read is counted.
        drop(serving.take_counted());
        next_is_done();
    }
    Responding {
        serving,
        in_flight: Some(in_flight),
        handshake: on_upgrade.map(|on_upgrade| Handshake { on_upgrade, stream }),
        waits_for_continue,
        stream_body,
        finishing: None,
        shared,
    }
}

impl Future for Responding {
    type Output = Result<http::Response<ResponseBody>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let response = loop {
            if let Some(finishing) = &mut this.finishing {
                let mut response = ready!(finishing.as_mut().poll(cx));
                this.shared.complete(&mut response);
                break response;
            }
            let mut response = match this.serving.take_response() {
                Some(response) => response,
                None => match ready!(Pin::new(&mut this.serving).poll(cx)) {
                    Reply::Response(response) => response,
                    Reply::Upgrade(mut response, upgrade) => {
                        this.switch(upgrade);
                        this.shared.complete(&mut response);
                        break response;
                    }
                },
            };
            if let Some(client) = this.shared.timeouts.client_with_body() {
                if let Some(unread) = client.take_unread() {
                    let (waits, client) = (this.waits_for_continue, client.clone());
                    this.finishing = Some(Box::pin(async move {
                        finish_request(&mut response, unread, waits, &client).await;
                        response
                    }));
                    continue;
                }
                if client.has_broken() {
                    announce_close(&mut response);
                }
            }
            this.shared.complete(&mut response);
            break response;
        };
        let counted = this.serving.take_counted();
        // A client that waits for `100 Continue` sends nothing more.
        let stream_body = this.stream_body.take().filter(|_| !this.waits_for_continue);
        let tasks = &this.shared.gateway.services().tasks;
        let early = stream_body.and_then(|body| EarlyAnswer::of(body, tasks));
        let in_flight = this.in_flight.take();
        Poll::Ready(Ok(ResponseBody::new(response, in_flight, counted, early)))
    }
}

impl Responding {
    /// Prepares the WebSocket, which starts when hyper has written the response.
    fn switch(&mut self, upgrade: Box<Upgrade>) {
        let Some(Handshake { on_upgrade, stream }) = self.handshake.take() else {
            return;
        };
        let Some(permit) = stream else {
            *self.shared.pending_upgrade.lock() = Some((upgrade, on_upgrade));
            return;
        };
        // The WebSocket counts as a request in flight until it ends. Other streams of the
        // connection continue.
        let reset = CancellationToken::new();
        end_writer_with(reset.clone());
        let held = (self.in_flight.take(), reset.drop_guard(), permit);
        let opening = open_on_stream(upgrade, on_upgrade, Box::new(held));
        let tasks = &self.shared.gateway.services().tasks;
        tasks.spawn("http/2 websocket", opening);
    }
}

impl Shared {
    /// Sets the fields that every response of the server has.
    fn complete(&self, response: &mut Response) {
        let is_leaving = self.gateway.services().tasks.is_leaving();
        // Over HTTP/2, GOAWAY says it once the listeners are closed.
        if is_leaving && !self.timeouts.is_http2() && !is_switching(response) {
            announce_close(response);
        }
        if let Some(hsts) = &self.hsts {
            let fields = response.headers_mut();
            let field = fields.entry(header::STRICT_TRANSPORT_SECURITY);
            field.or_insert_with(|| hsts.clone());
        }
        if let Some(date) = date::correction(SystemTime::now()) {
            response.headers_mut().insert(header::DATE, date);
        }
    }
}

/// Returns whether the connection changes to another protocol.
fn is_switching(response: &Response) -> bool {
    response.status() == http::StatusCode::SWITCHING_PROTOCOLS
}

/// The response to a WebSocket over the limit of connections.
fn overloaded() -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = http::StatusCode::SERVICE_UNAVAILABLE;
    let seconds = HeaderValue::from_static("1");
    response.headers_mut().insert(header::RETRY_AFTER, seconds);
    response
}

/// Starts a WebSocket on its HTTP/2 stream once the response to its handshake is sent.
async fn open_on_stream(upgrade: Box<Upgrade>, on_upgrade: OnUpgrade, held: Box<dyn Any + Send>) {
    let upgraded = on_upgrade.await.ok();
    let stream = upgraded.map(|upgraded| Stream::boxed(TokioIo::new(upgraded)));
    upgrade.start(stream, bytes::Bytes::new(), held);
}
