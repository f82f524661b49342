//! Request span: the span of a request, a handshake and a socket, with the attributes of
//! OpenTelemetry's semantic conventions.

use http::{HeaderName, Method, Version, header};

use super::table::Table;
use crate::http::Response;
use crate::scope::{Scope, ScopeType};
use crate::telemetry::trace::{ScopeSpan, Span, TraceContext, method_name, set_method};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Starts the span of a request or a handshake, and puts it into the scope. `is_trusted`: whether
/// its peer is a trusted proxy.
#[cold]
pub(super) fn begin(scope: &mut Scope, table: &Table, is_trusted: bool) {
    let parent = match is_trusted || table.believes_all_traces {
        true => TraceContext::parse(
            scope.headers.all(&TRACEPARENT),
            scope.headers.all(&TRACESTATE),
        ),
        false => None,
    };
    if let Some(mut span) = Span::server(parent) {
        if span.is_recorded() {
            describe(&mut span, scope);
        }
        scope.extensions.insert(ScopeSpan::request(span));
    }
}

/// Sets what is known of a request at its start.
fn describe(span: &mut Span, scope: &Scope) {
    span.rename(method_name(&scope.method).to_owned());
    set_method(span, &scope.method);
    span.set("url.path", scope.raw_path());
    span.set("url.scheme", scope.scheme());
    span.set("network.protocol.name", "http");
    span.set(
        "network.protocol.version",
        protocol_version(scope.http_version),
    );
    if let Some(client) = scope.client {
        span.set("client.address", client.ip().to_string().as_str());
        if client.port() != 0 {
            span.set("client.port", client.port());
        }
    }
    if let Some(host) = &scope.host {
        span.set("server.address", host.name());
        span.set_some("server.port", host.port());
    }
    span.set_some(
        "user_agent.original",
        scope.headers.text(&header::USER_AGENT),
    );
    span.set("oneport.request.id", scope.request_id.to_string().as_str());
}

/// Names the span by the pattern of the request's route. A client that leaves later is found by it.
#[cold]
pub(super) fn resolved(scope: &Scope, route: &str) {
    if let Some(span) = ScopeSpan::of(&scope.extensions) {
        span.change(|span| {
            span.rename(format!("{} {route}", method_name(&scope.method)));
            span.set("http.route", route);
        });
    }
}

/// Ends the span of a response's head: of a handshake now, of a request with its body.
#[cold]
pub(super) fn finish(scope: &Scope, response: &mut Response) {
    let Some(mut span) = ScopeSpan::of(&scope.extensions).and_then(ScopeSpan::take) else {
        return;
    };
    if !span.is_recorded() {
        return;
    }
    let status = response.status();
    span.set("http.response.status_code", status.as_u16());
    if scope.method != Method::HEAD {
        let length = http_body::Body::size_hint(response.body()).exact();
        span.set_some("http.response.body.size", length);
    }
    if status.is_server_error() {
        span.fail(status.as_str());
    }
    if scope.scope_type == ScopeType::Http {
        response.extensions_mut().insert(ResponseSpan::new(span));
    }
}

/// Replaces the span of a handshake by that of the socket that it opens.
#[cold]
pub(super) fn open_socket(scope: &mut Scope, route: &str) {
    let Some(handshake) = ScopeSpan::of(&scope.extensions) else {
        return;
    };
    let mut span = Span::socket(handshake.context(), format!("websocket {route}"));
    if span.is_recorded() {
        span.set("url.path", scope.raw_path());
        span.set("url.scheme", scope.scheme());
        span.set("network.protocol.name", "websocket");
        span.set("oneport.route", route);
        if let Some(client) = scope.client {
            span.set("client.address", client.ip().to_string().as_str());
        }
        span.set("oneport.request.id", scope.request_id.to_string().as_str());
    }
    scope.extensions.insert(ScopeSpan::socket(span));
}

const fn protocol_version(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2",
        Version::HTTP_3 => "3",
        _ => "1.1",
    }
}

/// The span of a request whose body is being sent (cheap to clone). It ends when the last one is
/// dropped.
#[derive(Clone, Debug)]
pub(crate) struct ResponseSpan(
    #[expect(dead_code, reason = "held for its drop")] std::sync::Arc<Span>,
);

impl ResponseSpan {
    fn new(span: Span) -> Self {
        Self(std::sync::Arc::new(span))
    }

    /// Takes that of a response; `None` while nothing is traced.
    pub(crate) fn take(response: &mut Response) -> Option<Self> {
        if !crate::telemetry::trace::is_on() {
            return None;
        }
        response.extensions_mut().remove()
    }
}
