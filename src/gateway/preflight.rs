//! Preflight: answers a browser that asks whether a page of another origin may send a request.

use http::{Method, header};

use super::pipeline::Pipeline;
use super::table::{HttpEntry, Table};
use crate::http::{Failure, Response};
use crate::middleware::Cors;
use crate::routing::{Match, Resolution, Route, Target};
use crate::scope::Scope;

/// Answers a preflight for a route with `cors`. Returns `None` for a request that is not a
/// preflight, or whose route has no `cors`: it is an OPTIONS request like any other.
///
/// The route is the one for the method that the preflight asks about. Of its middleware only
/// `hosts` and `headers` run: a preflight has no cookie and no token, so `session` and `auth` would
/// refuse it. The view is never called.
pub(super) fn respond(pipeline: &Pipeline<'_>, scope: &Scope) -> Option<Response> {
    let preflight = Preflight::of(pipeline.table, scope)?;
    let entry = &preflight.route.value;
    let mut response = preflight
        .response(scope)
        .unwrap_or_else(|failure| pipeline.page(scope, &failure));
    for headers in entry.chain.headers() {
        headers.after(response.headers_mut());
    }
    pipeline.finish(entry, scope, &mut response);
    Some(response)
}

/// A preflight for a route with `cors`.
pub(super) struct Preflight<'t> {
    route: &'t Route<HttpEntry>,
    cors: &'t Cors,
    wanted: Method,
}

impl<'t> Preflight<'t> {
    /// Returns the preflight that a request is, if its route has `cors`.
    pub(super) fn of(table: &'t Table, scope: &Scope) -> Option<Self> {
        if scope.method != Method::OPTIONS {
            return None;
        }
        scope.headers.get(&header::ORIGIN)?;
        let wanted = scope.headers.get(&header::ACCESS_CONTROL_REQUEST_METHOD)?;
        let wanted = Method::from_bytes(wanted).ok()?;
        let target = Target {
            method: Some(&wanted),
            ..table.target(scope)?
        };
        let Resolution::Found(Match { route, .. }) = table.http().resolve(&target) else {
            return None;
        };
        let cors = route.value.chain.cors()?;
        Some(Self {
            route,
            cors,
            wanted,
        })
    }

    /// Returns the response, or the refusal of the host.
    pub(super) fn response(&self, scope: &Scope) -> Result<Response, Failure> {
        self.route.value.chain.check_host(scope)?;
        let (wanted, methods) = (&self.wanted, &self.route.methods);
        Ok(self.cors.preflight(scope, wanted, methods))
    }
}
