//! Preflight: a browser's question whether a page of another origin may send a request.

use std::time::Instant;

use http::{Method, header};

use super::access_log::log_answer;
use super::error_pages;
use super::http::target;
use super::table::Table;
use crate::http::Response;
use crate::middleware::Step;
use crate::routing::{Match, Resolution, Target};
use crate::scope::Scope;
use crate::services::Services;

/// Answers a preflight for a route with `cors`. `None`: it is no preflight, or the request that it asks for has no such route; then it is
/// an OPTIONS request like any other.
///
/// The route is looked up by the method that the preflight asks for. Of its steps only `hosts` and `headers` run: a preflight carries
/// no cookie and no token, so `session` and `auth` would refuse it. The view is never called.
pub(super) fn answer(
    services: &Services,
    table: &Table,
    scope: &Scope,
    started: Instant,
) -> Option<Response> {
    if scope.method != Method::OPTIONS {
        return None;
    }
    scope.headers.get(&header::ORIGIN)?;
    let wanted = scope.headers.get(&header::ACCESS_CONTROL_REQUEST_METHOD)?;
    let wanted = Method::from_bytes(wanted).ok()?;
    let target = Target {
        method: Some(&wanted),
        ..target(table, scope)?
    };
    let Resolution::Found(Match { route, .. }) = table.http().resolve(&target) else {
        return None;
    };
    let entry = &route.value;
    let cors = entry.steps.iter().find_map(|step| match step {
        Step::Cors(cors) => Some(cors),
        _ => None,
    })?;
    let mut hosts = entry.steps.iter();
    let refusal = hosts.find_map(|step| match step {
        Step::Hosts(_) => step.precheck(scope).err(),
        _ => None,
    });
    let mut response = match refusal {
        Some(failure) => error_pages::answer(services, table, scope, &failure),
        None => cors.preflight(scope, &wanted, &route.methods),
    };
    for step in entry.steps.iter().rev() {
        if let Step::Headers(headers) = step {
            headers.after(response.headers_mut());
        }
    }
    entry.answered.count(response.status());
    log_answer(scope, &entry.label, &response, started);
    Some(response)
}
