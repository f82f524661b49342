//! Client span: the span of a request to an endpoint, whose identity passes on with the request.

use http::{HeaderName, HeaderValue, Request, StatusCode, Uri};

use super::{Address, ClientError, RequestBody};
use crate::telemetry::trace::{self, Span, SpanKind, TraceContext, method_name, set_method};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Starts the span of a request; `None` while nothing is traced.
#[inline]
pub(super) fn begin(
    request: &mut Request<RequestBody>,
    address: &Address,
    is_tls: bool,
) -> Option<Box<Span>> {
    if !trace::is_on() {
        return None;
    }
    start(request, address, is_tls)
}

#[cold]
fn start(request: &mut Request<RequestBody>, address: &Address, is_tls: bool) -> Option<Box<Span>> {
    let mut span = Span::child(SpanKind::Client, method_name(request.method()).to_owned())?;
    set_method(&mut span, request.method());
    span.set("url.full", &*full_url(request.uri(), address, is_tls));
    match address {
        Address::Tcp { host, port } => {
            span.set("server.address", host.as_str());
            span.set("server.port", *port);
        }
        Address::Unix(path) => {
            span.set("server.address", &*path.to_string_lossy());
            span.set("network.transport", "unix");
        }
    }
    pass_on(request, span.context());
    Some(Box::new(span))
}

/// Returns the URL of a request, without its query.
fn full_url(uri: &Uri, address: &Address, is_tls: bool) -> String {
    let scheme = if is_tls { "https" } else { "http" };
    let path = uri.path();
    match address {
        Address::Tcp { host, port } if host.contains(':') => {
            format!("{scheme}://[{host}]:{port}{path}")
        }
        Address::Tcp { host, port } => format!("{scheme}://{host}:{port}{path}"),
        Address::Unix(socket) => format!("{scheme}+unix://{}:{path}", socket.display()),
    }
}

/// Replaces the identity that the request has, such as that of a client that is not believed.
fn pass_on(request: &mut Request<RequestBody>, context: &TraceContext) {
    let fields = request.headers_mut();
    if let Ok(parent) = HeaderValue::try_from(context.parent()) {
        fields.insert(TRACEPARENT, parent);
    }
    let state = context.state.as_deref();
    match state.and_then(|state| HeaderValue::from_str(state).ok()) {
        Some(state) => drop(fields.insert(TRACESTATE, state)),
        None => drop(fields.remove(TRACESTATE)),
    }
}

/// The head of the response has come. The span ends with the body.
pub(super) fn answered(span: &mut Option<Box<Span>>, status: StatusCode) {
    if let Some(span) = span {
        span.set("http.response.status_code", status.as_u16());
        if status.is_client_error() || status.is_server_error() {
            span.fail(status.as_str());
        }
    }
}

/// There is no response, or its body has ended early.
pub(super) fn failed(span: &mut Option<Box<Span>>, error: &ClientError) {
    if let Some(mut span) = span.take() {
        span.fail(error_type(error));
    }
}

const fn error_type(error: &ClientError) -> &'static str {
    match error {
        ClientError::CircuitOpen { .. } => "circuit_open",
        ClientError::Busy { .. } => "busy",
        ClientError::Connect { .. } => "connect",
        ClientError::Timeout { .. } | ClientError::UploadTimeout { .. } => "timeout",
        ClientError::Connection { .. } => "connection",
        ClientError::TooLarge(_) => "too_large",
        ClientError::Invalid(_) => "invalid",
        ClientError::RequestBody { .. } => "request_body",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn url_has_the_address_and_no_query() {
        let uri = Uri::from_static("http://user:pw@ignored/a/b?secret=1");
        let tcp = |host: &str| Address::Tcp {
            host: host.to_owned(),
            port: 8000,
        };
        let url = |address: &Address, is_tls| full_url(&uri, address, is_tls);
        assert_eq!(url(&tcp("a.example"), true), "https://a.example:8000/a/b");
        assert_eq!(url(&tcp("::1"), false), "http://[::1]:8000/a/b");
        let unix = Address::Unix("/run/a.sock".into());
        assert_eq!(url(&unix, false), "http+unix:///run/a.sock:/a/b");
    }
}
