//! Dispatch: determines the protocol type of each request and passes it to its table.

use std::net::IpAddr;
use std::time::Instant;

use ::http::request::Parts;
use ::http::{HeaderValue, StatusCode, header};

use super::connection_info::ConnectionInfo;
use super::pipeline::Pipeline;
use super::request_head::RequestHead;
use super::running::Gateway;
use super::serving::Serving;
use super::{access_log, http, plaintext, request_span, websocket};
use crate::http::{Body, Failure, Response};
use crate::scope::Scope;
use crate::telemetry::trace::{self, ScopeSpan};

impl Gateway {
    /// Serves a request: does all that needs no waiting, and returns the rest.
    ///
    /// Every failure, including a panic in a view, becomes a response with its status.
    pub fn serve(&self, request: ::http::Request<Body>, info: &ConnectionInfo) -> Serving {
        let (mut parts, body) = request.into_parts();
        self.serve_parts(&mut parts, body, info)
    }

    /// Serves the request of these parts and takes what it needs out of them: they are large to
    /// move.
    pub(crate) fn serve_parts(
        &self,
        parts: &mut Parts,
        body: Body,
        info: &ConnectionInfo,
    ) -> Serving {
        let started = access_log::started();
        let table = self.load_table();
        let mut head = RequestHead::new(parts);
        let checked = head.check(!http_body::Body::is_end_stream(&body), table.head_limits);
        let mut scope = head.into_scope(info, &table);
        if trace::is_on() {
            let is_trusted = table.is_trusted(info.peer.map(|peer| peer.ip()));
            request_span::begin(&mut scope, &table, is_trusted);
        }
        let services = self.services();
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
        if matches!(checked, Ok(None))
            && scope.method == ::http::Method::GET
            && let Some(answer) = services.acme.answer(scope.raw_path())
        {
            return Serving::done(pipeline.finish_unmatched(&scope, acme_answer(&answer)));
        }
        if checked.is_ok()
            && let Some(response) = plaintext::check(info.plaintext, &table.allowed_hosts, &scope)
        {
            let response = response.unwrap_or_else(|failure| pipeline.page(&scope, &failure));
            return Serving::done(pipeline.finish_unmatched(&scope, response));
        }
        let mut serving = match checked {
            Ok(None) => http::handle(self, table, started, scope, body, info),
            Ok(Some(handshake)) => {
                let gateway = self.clone();
                let started = started.unwrap_or_else(Instant::now);
                let span = ScopeSpan::of(&scope.extensions).cloned();
                let serving = Serving::new(async move {
                    let pipeline = Pipeline {
                        services: gateway.services(),
                        table: &table,
                        started: Some(started),
                    };
                    websocket::handle(&pipeline, gateway.sockets(), scope, handshake).await
                });
                serving.within(span)
            }
            Err(failure) => return refuse(&pipeline, &scope, &failure),
        };
        serving.count(counted);
        serving
    }
}

/// Returns the reply to a request that is refused before any table.
fn refuse(pipeline: &Pipeline<'_>, scope: &Scope, failure: &Failure) -> Serving {
    Serving::done(pipeline.finish_unmatched(scope, pipeline.page(scope, failure)))
}

/// Returns the response to a CA that checks a challenge (RFC 8555 §8.3).
fn acme_answer(answer: &str) -> Response {
    let mut response = Response::new(Body::full(answer.to_owned()));
    let content_type = HeaderValue::from_static("application/octet-stream");
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, content_type);
    response
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
