//! Gateway: determines the protocol type of each request and passes it to its table.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ::http::{HeaderValue, StatusCode, header};
use arc_swap::ArcSwap;

use super::connection_info::ConnectionInfo;
use super::http::Incoming;
use super::pipeline::Pipeline;
use super::request_head::RequestHead;
use super::run_to_completion::AbandonedRequests;
use super::table::{Table, TlsSettings};
use super::upgrade::Reply;
use super::{http, plaintext, websocket};
use crate::http::{Body, ClientEnd, Failure, Response};
use crate::scope::Scope;
use crate::services::Services;
use crate::websocket::{Cause, Directory, Ending, Sockets};

/// The running server without its listeners (cheap to clone): the current table, and the state that
/// outlives it.
#[derive(Clone)]
pub struct Gateway(Arc<Inner>);

struct Inner {
    table: ArcSwap<Table>,
    services: Services,
    sockets: Sockets,
    abandoned: AbandonedRequests,
}

impl std::fmt::Debug for Gateway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gateway")
            .field("table", &self.0.table.load())
            .finish_non_exhaustive()
    }
}

impl Gateway {
    /// Starts a gateway with its first table, and the application's background tasks.
    #[must_use]
    pub fn new(table: Table, services: Services) -> Self {
        let sockets = Sockets::default();
        let directory = Directory::new(sockets.clone(), services.layer.clone());
        services.set_rpc_handler(Arc::new(directory));
        start_handlers(&table, &services);
        for task in &table.background_tasks {
            task.spawn(&services);
        }
        Self(Arc::new(Inner {
            table: ArcSwap::from_pointee(table),
            services,
            sockets,
            abandoned: AbandonedRequests::default(),
        }))
    }

    /// Returns the services that all views and consumers share.
    #[must_use]
    pub fn services(&self) -> &Services {
        &self.0.services
    }

    /// Returns all open sockets.
    #[must_use]
    pub fn sockets(&self) -> &Sockets {
        &self.0.sockets
    }

    /// Returns the table for new requests.
    #[must_use]
    pub fn table(&self) -> Arc<Table> {
        self.0.table.load_full()
    }

    /// Returns whether a peer is a trusted proxy.
    pub(crate) fn trusts(&self, peer: Option<SocketAddr>) -> bool {
        self.0.table.load().is_trusted(peer.map(|peer| peer.ip()))
    }

    /// Returns the settings of TLS.
    pub(crate) fn tls(&self) -> Option<Arc<TlsSettings>> {
        self.0.table.load().tls.clone()
    }

    /// Returns the address that a connection counts against. `None` for a unix socket, and for a
    /// trusted proxy: its clients count by their own addresses, request by request.
    pub(crate) fn counted(&self, peer: Option<SocketAddr>) -> Option<IpAddr> {
        let ip = peer?.ip();
        (!self.0.table.load().is_trusted(Some(ip))).then_some(ip)
    }

    /// Replaces the table at once. The returned future closes the sockets whose route was removed
    /// or changed, with 1012 and spread over the time `over`, and returns their number. Other
    /// sockets and requests in flight are not affected.
    pub fn replace(&self, table: Table, over: Duration) -> impl Future<Output = usize> + use<> {
        let kept: HashSet<u64> = table
            .websocket()
            .routes()
            .iter()
            .map(|route| route.value.handler.route.fingerprint)
            .collect();
        start_handlers(&table, &self.0.services);
        self.0.sockets.keep(kept.clone());
        self.0
            .services
            .templates
            .store(Arc::new(table.templates().clone()));
        self.0.table.store(Arc::new(table));
        if let Some(metrics) = &self.0.services.metrics {
            metrics.forget_gone();
        }
        let sockets = self.0.sockets.clone();
        async move {
            let ending = Ending::of(Cause::Reload);
            sockets
                .end(
                    |handle| !kept.contains(&handle.route().fingerprint),
                    &ending,
                    over,
                )
                .await
        }
    }

    /// Serves a request.
    ///
    /// Every failure, including a panic in a view, becomes a response with its status.
    pub async fn serve(&self, request: ::http::Request<Body>, info: &ConnectionInfo) -> Reply {
        let started = Instant::now();
        // A guard instead of a clone: cloning the `Arc` makes all workers contend on its reference
        // count.
        let table = self.0.table.load();
        let (parts, body) = request.into_parts();
        let mut head = RequestHead::new(parts);
        let checked = head.check(!http_body::Body::is_end_stream(&body));
        let scope = Arc::new(head.into_scope(info, &table));
        let Inner {
            services, sockets, ..
        } = &*self.0;
        let pipeline = Pipeline {
            services,
            table: &table,
            started,
        };
        let mut counted = None;
        if let Some(ip) = counted_by_request(&scope, info) {
            counted = services.clients.try_acquire(ip);
            if counted.is_none() {
                return refuse(&pipeline, &scope, &too_many());
            }
        }
        if checked.is_ok()
            && let Some(response) = plaintext::check(info.plaintext, &scope)
        {
            let response = response.unwrap_or_else(|failure| pipeline.page(&scope, &failure));
            return Reply::Response(pipeline.finish_unmatched(&scope, response));
        }
        match checked {
            Ok(None) => {
                let is_head = scope.method == ::http::Method::HEAD;
                let client = match scope.http_version {
                    // An HTTP/2 stream ends by itself, and its connection serves other streams.
                    ::http::Version::HTTP_2 => ClientEnd::default(),
                    _ => info.client.clone(),
                };
                let incoming = Incoming {
                    scope,
                    body,
                    client,
                };
                let mut response = http::handle(&pipeline, incoming, &self.0.abandoned).await;
                if is_head {
                    response = without_body(response);
                }
                if let Some(counted) = counted {
                    response.extensions_mut().insert(Arc::new(counted));
                }
                Reply::Response(response)
            }
            Ok(Some(handshake)) => {
                let mut reply = websocket::handle(&pipeline, sockets, scope, handshake).await;
                if let Reply::Upgrade(_, upgrade) = &mut reply {
                    upgrade.counted = counted;
                }
                reply
            }
            Err(failure) => refuse(&pipeline, &scope, &failure),
        }
    }
}

/// Returns the reply to a request that is refused before any table.
fn refuse(pipeline: &Pipeline<'_>, scope: &Scope, failure: &Failure) -> Reply {
    Reply::Response(pipeline.finish_unmatched(scope, pipeline.page(scope, failure)))
}

/// Returns the client's address if its requests and sockets are counted one by one: behind a
/// trusted proxy, where the connection is the proxy's, and over HTTP/2, where one connection
/// carries up to 250 of them.
fn counted_by_request(scope: &Scope, info: &ConnectionInfo) -> Option<IpAddr> {
    let client = scope.client?.ip();
    let is_proxied = info.peer.map(|peer| peer.ip()) != Some(client);
    (is_proxied || scope.http_version == ::http::Version::HTTP_2).then_some(client)
}

fn too_many() -> Failure {
    Failure::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "too many requests from this address; try again",
    )
    .with_header(header::RETRY_AFTER, HeaderValue::from_static("1"))
}

/// Calls `started` on every route's view and consumer before the table goes live.
fn start_handlers(table: &Table, services: &Services) {
    for route in table.http().routes() {
        route.value.handler.view.started(services);
    }
    for route in table.websocket().routes() {
        let handler = &route.value.handler;
        handler.consumer.started(services);
        if let Some(backlog) = handler.consumer.backlog() {
            handler.route.set_backlog(backlog);
        }
    }
}

/// Drops the body of a response to HEAD and keeps its length as `Content-Length` (RFC 9110 §9.3.2).
fn without_body(response: Response) -> Response {
    let (mut parts, body) = response.into_parts();
    let length = ::http_body::Body::size_hint(&body)
        .exact()
        .filter(|length| *length > 0);
    if let Some(length) = length {
        parts
            .headers
            .entry(::http::header::CONTENT_LENGTH)
            .or_insert(length.into());
    }
    Response::from_parts(parts, Body::empty())
}
