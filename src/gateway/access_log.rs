//! Access log: the line of a request or a handshake.

use std::time::Instant;

use http::Method;

use crate::http::Response;
use crate::scope::{Scope, ScopeType};
use crate::telemetry::access_log::{self, AccessKind};
use crate::telemetry::{self, AccessRule};

/// Returns the time if lines are written or durations are measured. Most requests have no other use
/// for it.
pub(super) fn started() -> Option<Instant> {
    let is_used = telemetry::measures_time() || access_log::is_on();
    is_used.then(Instant::now)
}

/// Writes the access log line of a response, if the rule of its route includes it.
pub(super) fn log_response(
    scope: &Scope,
    route: &str,
    rule: AccessRule,
    response: &Response,
    started: Option<Instant>,
) {
    let has_failed = response.status().is_server_error();
    if !access_log::is_on() || !rule.includes(|| scope.request_id.random(), has_failed) {
        return;
    }
    let kind = match scope.scope_type {
        ScopeType::Http => AccessKind::Http,
        ScopeType::Websocket => AccessKind::Handshake,
    };
    let mut record = scope.access_record(kind, route);
    record.status = response.status().as_u16();
    record.bytes = match scope.method {
        Method::HEAD => Some(0),
        _ => http_body::Body::size_hint(response.body()).exact(),
    };
    record.seconds = started.map(|started| started.elapsed().as_secs_f64());
    record.response_headers = Some(response.headers());
    access_log::write(&record);
}
