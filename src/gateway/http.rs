//! HTTP: the life of a request: preflight, route, then the pipeline around the view. Read it from
//! top to bottom.

use std::future::Future;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::Guard;
use http::{Method, Version};

use super::connection_info::ConnectionInfo;
use super::deadline::caught;
use super::pipeline::Pipeline;
use super::response_metrics::ActiveRequest;
use super::running::Gateway;
use super::serving::Serving;
use super::table::{Handler, HttpEntry, HttpHandler, Table};
use super::upgrade::Reply;
use super::{preflight, response_framing, unmatched};
use crate::http::{Body, BodyMeter, ClientEnd, Request, Response, spare_fields};
use crate::scope::Scope;
use crate::telemetry::trace::ScopeSpan;

/// A request on its way to its view.
struct Call {
    gateway: Gateway,
    table: Guard<Arc<Table>>,
    started: Instant,
    /// The index of its route.
    route: usize,
    scope: Arc<Scope>,
    body: Body,
    client: ClientEnd,
    active: ActiveRequest,
}

/// Takes a request through the HTTP table, up to its view and the middleware around it, and through
/// them if neither has to wait.
pub(super) fn handle(
    gateway: &Gateway,
    table: Guard<Arc<Table>>,
    started: Option<Instant>,
    mut scope: Scope,
    body: Body,
    info: &ConnectionInfo,
) -> Serving {
    let pipeline = Pipeline {
        services: gateway.services(),
        table: &table,
        started,
    };
    if let Some(response) = preflight::respond(&pipeline, &scope) {
        return Serving::done(for_method(response, &scope));
    }
    let (entry, route) = match pipeline.resolve(table.http(), &mut scope) {
        Ok(found) => found,
        Err(missed) => {
            let response = unmatched::request(&pipeline, &scope, missed);
            return Serving::done(for_method(response, &scope));
        }
    };
    if let Some(response) = respond_now(&pipeline, entry, &scope) {
        let serving = Serving::done(for_method(response, &scope));
        spare_fields::keep(std::mem::take(scope.headers.map_mut()));
        return serving;
    }
    let on_disconnect = entry.handler.on_disconnect;
    let mut body = body;
    let active = entry.responses.begin(&mut body);
    let call = Call {
        active,
        gateway: gateway.clone(),
        route,
        client: match scope.http_version {
            // An HTTP/2 stream ends by itself, and its connection serves other streams.
            Version::HTTP_2 => ClientEnd::default(),
            _ => info.client.clone(),
        },
        table,
        started: started.unwrap_or_else(Instant::now),
        scope: Arc::new(scope),
        body,
    };
    let span = ScopeSpan::of(&call.scope.extensions).cloned();
    Serving::call(gateway, on_disconnect, call.run()).within(span)
}

/// Runs the view inside the route's middleware if none of them has to wait: the pipeline without
/// its futures, and with a scope that nothing shares.
fn respond_now(pipeline: &Pipeline<'_>, entry: &HttpEntry, scope: &Scope) -> Option<Response> {
    if !entry.handler.responds_now || !entry.chain.never_waits() {
        return None;
    }
    let mut response = match entry.chain.precheck(scope) {
        Ok(()) => match caught(HttpHandler::PANICKED, || {
            entry.handler.view.respond_now(scope)
        }) {
            Ok(Some(Ok(response))) => response,
            Ok(None) => return None,
            Ok(Some(Err(failure))) | Err(failure) => pipeline.page(scope, &failure),
        },
        Err(failure) => pipeline.page(scope, &failure),
    };
    response_framing::enforce(scope, entry, &mut response);
    entry.chain.set_fields(scope, &mut response);
    pipeline.finish(entry, scope, &mut response);
    Some(response)
}

impl Call {
    /// Runs the view inside the route's middleware.
    #[expect(
        clippy::manual_async_fn,
        reason = "the future of an async fn would hold the call twice"
    )]
    fn run(mut self) -> impl Future<Output = Reply> + Send + 'static {
        async move {
            let entry = &self.table.http().routes()[self.route].value;
            let pipeline = Pipeline {
                services: self.gateway.services(),
                table: &self.table,
                started: Some(self.started),
            };
            let (gateway, client, started) = (&self.gateway, &self.client, self.started);
            let view = &entry.handler;
            let call = |scope, body| {
                view.view.call(Request {
                    scope,
                    body,
                    body_size: view.body_size,
                    deadline: started + entry.timeout,
                    services: gateway.request_services().clone(),
                    client: client.clone(),
                })
            };
            let body = &mut self.body;
            let (mut response, _) = pipeline
                .run(entry, &mut self.scope, body, view.body_size, call)
                .await;
            if let Some(meter) = response.extensions_mut().get_mut::<BodyMeter>() {
                meter.hold(self.active);
            }
            Reply::Response(for_method(response, &self.scope))
        }
    }
}

/// Returns the response as the request's method wants it.
#[inline]
fn for_method(response: Response, scope: &Scope) -> Response {
    match scope.method {
        Method::HEAD => without_body(response),
        _ => response,
    }
}

/// Drops the body of a response to HEAD and keeps its length as `Content-Length` (RFC 9110 §9.3.2).
fn without_body(response: Response) -> Response {
    let (mut parts, body) = response.into_parts();
    let length = http_body::Body::size_hint(&body)
        .exact()
        .filter(|length| *length > 0);
    if let Some(length) = length {
        parts
            .headers
            .entry(http::header::CONTENT_LENGTH)
            .or_insert(length.into());
    }
    Response::from_parts(parts, Body::empty())
}
