//! HTTP: the life of a request: preflight, route, then the pipeline around the view. Read it from
//! top to bottom.

use std::future::Future;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::Guard;
use http::Method;

use super::pipeline::Pipeline;
use super::running::Gateway;
use super::serving::Serving;
use super::table::Table;
use super::upgrade::Reply;
use super::{preflight, unmatched};
use crate::http::{Body, ClientEnd, Request, Response};
use crate::scope::Scope;

/// A request before its view is known.
pub(super) struct Incoming {
    pub(super) scope: Scope,
    pub(super) body: Body,
    pub(super) client: ClientEnd,
}

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
}

/// Takes a request through the HTTP table, up to its view and the middleware around it.
pub(super) fn handle(
    gateway: &Gateway,
    table: Guard<Arc<Table>>,
    started: Instant,
    incoming: Incoming,
) -> Serving {
    let Incoming {
        mut scope,
        body,
        client,
    } = incoming;
    let pipeline = Pipeline {
        services: gateway.services(),
        table: &table,
        started,
    };
    if let Some(response) = preflight::respond(&pipeline, &scope) {
        return Serving::done(reply(response, &scope));
    }
    let (route, on_disconnect) = match pipeline.resolve(table.http(), &mut scope) {
        Ok((entry, route)) => (route, entry.handler.on_disconnect),
        Err(missed) => {
            let response = unmatched::request(&pipeline, &scope, missed);
            return Serving::done(reply(response, &scope));
        }
    };
    let call = Call {
        gateway: gateway.clone(),
        table,
        started,
        route,
        scope: Arc::new(scope),
        body,
        client,
    };
    Serving::call(gateway, on_disconnect, call.run())
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
                started: self.started,
            };
            let (gateway, client) = (&self.gateway, &self.client);
            let view = &entry.handler;
            let call = |scope, body| {
                view.view.call(Request {
                    scope,
                    body,
                    body_size: view.body_size,
                    deadline: pipeline.started + entry.timeout,
                    services: gateway.request_services().clone(),
                    client: client.clone(),
                })
            };
            let body = &mut self.body;
            let (response, _) = pipeline
                .run(entry, &mut self.scope, body, view.body_size, call)
                .await;
            reply(response, &self.scope)
        }
    }
}

/// Returns the reply to a request.
fn reply(response: Response, scope: &Scope) -> Reply {
    Reply::Response(match scope.method {
        Method::HEAD => without_body(response),
        _ => response,
    })
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
