//! Pipeline: the steps that requests and handshakes share. Read it from top to bottom.
//!
//! ```text
//! resolve ─► before ─► handler ─► after, in reverse ─► counters, access log
//!    │          │fails     │fails    ▲  │fails
//!    │          └──────────┴─► page ─┘  └► page; steps that had run, again
//!    └ no route: finish_unmatched
//! ```
//!
//! `http.rs` and `websocket.rs` provide the handler: a view, or a consumer's `connect` and the
//! steps after it up to the 101.

use std::future::Future;
use std::sync::Arc;
use std::time::Instant;

use super::access_log::log_response;
use super::deadline::{Deadline, caught, run_until};
use super::table::{Handler, RouteEntry, Table};
use super::{error_pages, recent_refusals, request_span, response_framing};
use crate::http::{Body, Failure, Response};
use crate::middleware::MiddlewareContext;
use crate::routing::{Match, Resolution, UrlRouter};
use crate::scope::Scope;
use crate::services::Services;
use crate::telemetry::trace;

/// One request or handshake in progress: its table, and its start time.
#[derive(Clone, Copy)]
pub(super) struct Pipeline<'a> {
    pub(super) services: &'a Services,
    pub(super) table: &'a Arc<Table>,
    /// When its head was complete, if that is known already.
    pub(super) started: Option<Instant>,
}

/// What a handler returns.
pub(super) trait Handled {
    /// What it made beside the response.
    type Made;

    fn split(self) -> (Response, Self::Made);
}

impl Handled for Response {
    type Made = ();

    fn split(self) -> (Response, ()) {
        (self, ())
    }
}

impl<'a> Pipeline<'a> {
    /// Looks up the route of a scope and puts its name and parameters there. Returns the route's
    /// entry with its index.
    pub(super) fn resolve<H: Handler>(
        &self,
        routes: &'a UrlRouter<RouteEntry<H>>,
        scope: &mut Scope,
    ) -> Result<(&'a RouteEntry<H>, usize), Resolution<'a, RouteEntry<H>>> {
        let Match {
            route,
            params,
            index,
        } = self.table.look_up(routes, scope)?;
        scope.url_route.name.clone_from(&route.value.name);
        scope.url_route.params = params;
        if trace::is_on() {
            request_span::resolved(scope, &route.value.pattern);
        }
        Ok((&route.value, index))
    }

    /// Runs a route's middleware around `handler`, which gets the scope and the body as the
    /// middleware left them.
    ///
    /// Returns the response, counted and logged, and the handler's other result: `None` if the
    /// response is a failure's, or if middleware has refused to switch protocols.
    pub(super) async fn run<H: Handler, T: Handled, F>(
        &self,
        entry: &RouteEntry<H>,
        scope: &mut Arc<Scope>,
        body: &mut Body,
        body_size: u64,
        handler: impl FnOnce(Arc<Scope>, Body) -> F,
    ) -> (Response, Option<T::Made>)
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let timeout_at = self.started.unwrap_or_else(Instant::now) + entry.timeout;
        let mut cx = MiddlewareContext {
            scope: Arc::make_mut(scope),
            body: &mut *body,
            body_size,
            services: self.services,
        };
        // Middleware may read the body, and the client may be slow, so it counts against the same
        // deadline.
        let deadline = Deadline::At(timeout_at);
        let outcome = match entry.chain.before(&mut cx, deadline, H::TIMED_OUT).await {
            Ok(()) => {
                let handling = || handler(scope.clone(), std::mem::take(body));
                match caught(H::PANICKED, handling) {
                    Ok(handling) => {
                        let deadline = entry.handler.deadline(timeout_at);
                        run_until(deadline, H::TIMED_OUT, H::PANICKED, handling).await
                    }
                    Err(failure) => Err(failure),
                }
            }
            Err(failure) => Err(failure),
        };
        let (mut response, made) = match outcome.map(T::split) {
            Ok((response, made)) => (response, Some(made)),
            Err(failure) => (self.page(scope, &failure), None),
        };
        // The status of a response that switches protocols; such a response has no framing.
        let switch = (H::SWITCHES_PROTOCOLS && made.is_some()).then(|| response.status());
        if switch.is_none() {
            response_framing::enforce(scope, entry, &mut response);
        }
        let page = |failure: &Failure| self.page(scope, failure);
        let is_replaced = entry
            .chain
            .after(scope, self.services, &mut response, entry.timeout, page)
            .await;
        let is_refused = is_replaced || switch.is_some_and(|status| status != response.status());
        if is_refused || (switch.is_none() && entry.chain.has_custom()) {
            response_framing::enforce(scope, entry, &mut response);
        }
        self.finish(entry, scope, &mut response);
        (response, made.filter(|_| !is_refused))
    }

    /// Counts and logs the response of a route.
    pub(super) fn finish<H>(&self, entry: &RouteEntry<H>, scope: &Scope, response: &mut Response) {
        if trace::is_on() {
            request_span::finish(scope, response);
        }
        entry.responses.count(scope, response, self.started);
        log_response(
            scope,
            &entry.label,
            entry.access_log,
            response,
            self.started,
        );
    }

    /// Adds the headers of `[http]` to a response without a route, counts and logs it.
    pub(super) fn finish_unmatched(&self, scope: &Scope, mut response: Response) -> Response {
        self.table.add_unmatched_headers(&mut response);
        self.table
            .unmatched
            .count(scope, &mut response, self.started);
        if trace::is_on() {
            request_span::finish(scope, &mut response);
        }
        let rule = self.table.unmatched_access_log;
        log_response(scope, "", rule, &response, self.started);
        response
    }

    /// Returns the response of a failure.
    pub(super) fn page(&self, scope: &Scope, failure: &Failure) -> Response {
        if self.services.recent_ends.are_kept() {
            recent_refusals::keep(self.services, self.table, scope, failure);
        }
        error_pages::response(self.services, self.table, scope, failure)
    }
}
