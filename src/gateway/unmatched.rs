//! Unmatched: the response to a request or a handshake that has no route.

use http::{HeaderValue, Method, StatusCode, header};
use metrics::counter;

use super::pipeline::Pipeline;
use super::table::Table;
use crate::http::{Body, Failure, Response, location};
use crate::routing::{BadPath, Resolution, Target};
use crate::scope::Scope;

/// Answers a request that has no route: 404, 405, 400, 426, the redirect to the path with its
/// slash, or `OPTIONS`.
pub(super) fn request<T>(
    pipeline: &Pipeline<'_>,
    scope: &Scope,
    missed: Resolution<'_, T>,
) -> Response {
    count(&missed);
    let response = request_response(pipeline.table, scope, missed)
        .unwrap_or_else(|failure| pipeline.page(scope, &failure));
    pipeline.finish_unmatched(scope, response)
}

/// Answers a handshake that has no route: 404, or 400 for a path that no route may match.
pub(super) fn handshake<T>(
    pipeline: &Pipeline<'_>,
    scope: &Scope,
    missed: &Resolution<'_, T>,
) -> Response {
    count(missed);
    let failure = handshake_failure(pipeline.table, scope, missed);
    pipeline.finish_unmatched(scope, pipeline.page(scope, &failure))
}

/// Counts a path that an application could take for another route's.
fn count<T>(missed: &Resolution<'_, T>) {
    if let Resolution::BadPath(BadPath::Ambiguous) = missed {
        counter!("oneport_ambiguous_paths_total").increment(1);
    }
}

/// Returns the refusal of a handshake that has no route.
pub(super) fn handshake_failure<T>(
    table: &Table,
    scope: &Scope,
    missed: &Resolution<'_, T>,
) -> Failure {
    match missed {
        Resolution::BadPath(bad) => Failure::bad_request(bad.to_string()),
        _ => not_found(table, scope, "WebSocket"),
    }
}

/// Returns the response to a request that has no route, or its refusal.
pub(super) fn request_response<T>(
    table: &Table,
    scope: &Scope,
    missed: Resolution<'_, T>,
) -> Result<Response, Failure> {
    if scope.target == "*" {
        return match scope.method {
            Method::OPTIONS => Ok(server_options(table)),
            _ => Err(Failure::bad_request(
                "expected OPTIONS for the target \"*\"",
            )),
        };
    }
    match missed {
        Resolution::MethodNotAllowed { allow } => method_not_allowed(scope, &allow),
        Resolution::SlashRedirect { raw_path } => Ok(slash_redirect(scope, &raw_path)),
        Resolution::BadPath(bad) => Err(Failure::bad_request(bad.to_string())),
        Resolution::NotFound | Resolution::Found(_) if is_websocket_path(table, scope) => {
            Err(upgrade_required(scope))
        }
        Resolution::NotFound | Resolution::Found(_) => Err(not_found(table, scope, "page")),
    }
}

/// Returns 404. Its sentence names the WebSocket whose path differs by one slash, if there is one:
/// a handshake is never redirected.
fn not_found(table: &Table, scope: &Scope, what: &str) -> Failure {
    let other = table
        .target(scope)
        .and_then(|target| table.websocket().other_slash(&target));
    Failure::not_found(match other {
        Some(other) => {
            let root_path = scope.root_path();
            format!("there is no such {what}; there is a WebSocket at {root_path}{other}")
        }
        None => format!("there is no such {what}"),
    })
}

/// Returns 405, or 204 for OPTIONS; both with `Allow`.
fn method_not_allowed(scope: &Scope, allow: &[Method]) -> Result<Response, Failure> {
    let allow: Vec<&str> = allow.iter().map(Method::as_str).collect();
    let allow = allow.join(", ");
    let value = HeaderValue::from_str(&allow).unwrap_or_else(|_| HeaderValue::from_static(""));
    if scope.method == Method::OPTIONS {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NO_CONTENT;
        response.headers_mut().insert(header::ALLOW, value);
        return Ok(response);
    }
    let sentence = format!("expected {allow}, found {}", scope.method);
    Err(Failure::new(StatusCode::METHOD_NOT_ALLOWED, sentence).with_header(header::ALLOW, value))
}

/// Returns whether the WebSocket table has a route for the path.
fn is_websocket_path(table: &Table, scope: &Scope) -> bool {
    let Some(target) = table.target(scope) else {
        return false;
    };
    let target = Target {
        method: None,
        ..target
    };
    matches!(table.websocket().resolve(&target), Resolution::Found(_))
}

/// Returns 426 for an ordinary request to a WebSocket (RFC 9110 §15.5.22).
fn upgrade_required(scope: &Scope) -> Failure {
    let sentence = match asks_for_websocket(scope) {
        true => "expected the token \"upgrade\" in Connection, found none",
        false => "expected a WebSocket handshake, found an ordinary request",
    };
    Failure::new(StatusCode::UPGRADE_REQUIRED, sentence)
        .with_header(header::UPGRADE, HeaderValue::from_static("websocket"))
        .with_header(header::CONNECTION, HeaderValue::from_static("upgrade"))
}

/// Returns whether a request that is not a handshake has `Upgrade: websocket`. Its `Connection`
/// lacks the token `upgrade`; a proxy in front may have removed it.
fn asks_for_websocket(scope: &Scope) -> bool {
    scope
        .headers
        .all(&header::UPGRADE)
        .flat_map(|field| field.split(|byte| *byte == b','))
        .any(|token| token.trim_ascii().eq_ignore_ascii_case(b"websocket"))
}

/// Answers `OPTIONS *` with every method that some route takes (RFC 9110 §9.3.7).
fn server_options(table: &Table) -> Response {
    let mut methods = vec![Method::OPTIONS];
    for route in table.http().routes() {
        methods.extend(route.methods.iter().cloned());
    }
    if methods.contains(&Method::GET) {
        methods.push(Method::HEAD);
    }
    methods.sort_unstable_by(|one, other| one.as_str().cmp(other.as_str()));
    methods.dedup();
    let names: Vec<&str> = methods.iter().map(Method::as_str).collect();
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    if let Ok(allow) = HeaderValue::from_str(&names.join(", ")) {
        response.headers_mut().insert(header::ALLOW, allow);
    }
    response
}

/// Returns 308 to the same path with, or without, its trailing slash.
fn slash_redirect(scope: &Scope, raw_path: &str) -> Response {
    let root_path = scope.root_path();
    let location = match scope.query_string() {
        "" => format!("{root_path}{raw_path}"),
        query => format!("{root_path}{raw_path}?{query}"),
    };
    // A location that begins with two slashes names another host.
    let location = format!("/{}", location.trim_start_matches('/'));
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
    if let Ok(location) = location::location(&location) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}
