//! Respond: passes one request of a connection from hyper to the gateway, and the response back.

use std::any::Any;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::SystemTime;

use http::header::{self, HeaderValue};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::connection_timeouts::{ConnectionTimeouts, InFlight};
use super::date;
use super::hyper_tasks::end_writer_with;
use super::response_body::ResponseBody;
use super::unread_body::{announce_close, finish_request};
use crate::gateway::{ConnectionInfo, Gateway, Reply, Upgrade};
use crate::http::upgrade::ConnectProtocol;
use crate::http::{Body, Response};
use crate::net::{Admission, Stream};

/// State that the requests of one connection share.
pub(super) struct Shared {
    pub(super) gateway: Gateway,
    pub(super) info: ConnectionInfo,
    pub(super) pending_upgrade: Arc<PendingUpgrade>,
    pub(super) timeouts: Arc<ConnectionTimeouts>,
    pub(super) admission: Admission,
    /// The value of `Strict-Transport-Security`, over TLS.
    pub(super) hsts: Option<HeaderValue>,
}

/// A WebSocket over HTTP/1.1 whose 101 is not written yet.
pub(super) type PendingUpgrade = Mutex<Option<(Box<Upgrade>, OnUpgrade)>>;

/// Answers one request. `in_flight` is dropped when hyper has taken the whole response.
pub(super) async fn respond(
    shared: Arc<Shared>,
    mut request: http::Request<Incoming>,
    in_flight: InFlight,
) -> Result<http::Response<ResponseBody>, Infallible> {
    let Shared {
        gateway,
        info,
        pending_upgrade,
        timeouts,
        admission,
        hsts,
    } = &*shared;
    let clock = &gateway.services().clock;
    let connect_protocol = request.extensions_mut().remove::<hyper::ext::Protocol>();
    let is_http2 = connect_protocol.is_some();
    let mut permit = None;
    if let Some(protocol) = connect_protocol {
        // Each WebSocket counts as a connection, although several may share one. The gateway counts
        // it by its client's address.
        permit = admission.admit(None);
        if permit.is_none() {
            return Ok(ResponseBody::new(overloaded(), Some(in_flight)));
        }
        let protocol = ConnectProtocol(protocol.as_str().into());
        request.extensions_mut().insert(protocol);
    }
    let is_http1 = request.version() < http::Version::HTTP_2;
    let waits_for_continue = request.headers().contains_key(header::EXPECT);
    let on_upgrade = (is_http2 || request.headers().contains_key(header::UPGRADE))
        .then(|| hyper::upgrade::on(&mut request));
    let request = match is_http1 {
        true => request.map(|body| Body::watched(body, &info.client, clock, timeouts.min_rate())),
        false => request.map(|body| Body::paced(body, clock, timeouts.min_rate())),
    };
    let response = match gateway.serve(request, info).await {
        Reply::Response(mut response) => {
            if let Some(unread) = info.client.take_unread() {
                finish_request(&mut response, unread, waits_for_continue, &info.client).await;
            } else if info.client.has_broken() {
                announce_close(&mut response);
            }
            if let Some(hsts) = hsts {
                let fields = response.headers_mut();
                let field = fields.entry(header::STRICT_TRANSPORT_SECURITY);
                field.or_insert_with(|| hsts.clone());
            }
            if let Some(date) = date::correction(clock.now(), SystemTime::now) {
                response.headers_mut().insert(header::DATE, date);
            }
            response
        }
        Reply::Upgrade(response, upgrade) => {
            match on_upgrade {
                Some(on_upgrade) if is_http2 => {
                    // The WebSocket counts as a request in flight until it ends. Other streams of
                    // the connection continue.
                    let reset = CancellationToken::new();
                    end_writer_with(reset.clone());
                    let held = (in_flight, reset.drop_guard(), permit);
                    let opening = open_on_stream(upgrade, on_upgrade, Box::new(held));
                    gateway.services().tasks.spawn("http/2 websocket", opening);
                    return Ok(ResponseBody::new(response, None));
                }
                Some(on_upgrade) => {
                    *pending_upgrade.lock() = Some((upgrade, on_upgrade));
                }
                None => {}
            }
            response
        }
    };
    Ok(ResponseBody::new(response, Some(in_flight)))
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
