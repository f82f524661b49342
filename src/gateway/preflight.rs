//! Preflight: answers a browser that asks whether a page of another origin may send a request.

use http::{Method, header};

use super::pipeline::Pipeline;
use crate::http::Response;
use crate::routing::{Match, Resolution, Target};
use crate::scope::Scope;

/// Answers a preflight for a route with `cors`. Returns `None` for a request that is not a
/// preflight, or whose route has no `cors`: it is an OPTIONS request like any other.
///
/// The route is the one for the method that the preflight asks about. Of its middleware only
/// `hosts` and `headers` run: a preflight has no cookie and no token, so `session` and `auth` would
/// refuse it. The view is never called.
pub(super) fn respond(pipeline: &Pipeline<'_>, scope: &Scope) -> Option<Response> {
    if scope.method != Method::OPTIONS {
        return None;
    }
    scope.headers.get(&header::ORIGIN)?;
    let wanted = scope.headers.get(&header::ACCESS_CONTROL_REQUEST_METHOD)?;
    let wanted = Method::from_bytes(wanted).ok()?;
    let table = pipeline.table;
    let target = Target {
        method: Some(&wanted),
        ..table.target(scope)?
    };
    let Resolution::Found(Match { route, .. }) = table.http().resolve(&target) else {
        return None;
    };
    let entry = &route.value;
    let cors = entry.chain.cors()?;
    let mut response = match entry.chain.check_host(scope) {
        Err(failure) => pipeline.page(scope, &failure),
        Ok(()) => cors.preflight(scope, &wanted, &route.methods),
    };
    for headers in entry.chain.headers() {
        headers.after(response.headers_mut());
    }
    pipeline.finish(entry, scope, &response);
    Some(response)
}
