//! Access log: the line of a request or a handshake.

use std::time::Instant;

use crate::http::Response;
use crate::scope::{Scope, ScopeType};
use crate::telemetry::{self, ACCESS};

/// Returns the time if lines are written or durations are measured. Most requests have no other use
/// for it.
pub(super) fn started() -> Option<Instant> {
    let is_used =
        telemetry::measures_time() || tracing::enabled!(target: ACCESS, tracing::Level::INFO);
    is_used.then(Instant::now)
}

/// Writes the access log line of a response.
pub(super) fn log_response(
    scope: &Scope,
    route: &str,
    response: &Response,
    started: Option<Instant>,
) {
    tracing::info!(
        target: ACCESS,
        id = %scope.request_id,
        client = scope.client.map(tracing::field::display),
        method = scope.method.as_str(),
        path = scope.target.path(),
        route,
        user = scope.user.as_ref().map(|user| user.name.as_str()),
        status = response.status().as_u16(),
        bytes = http_body::Body::size_hint(response.body()).exact(),
        seconds = started.map(|started| started.elapsed().as_secs_f64()),
        "{}",
        if scope.scope_type == ScopeType::Http { "http" } else { "handshake" }
    );
}
