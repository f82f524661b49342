//! MiddlewareChain: the middleware of one route, in the order of its list.

use std::time::Duration;

use super::deadline::{Deadline, run_until};
use crate::http::{Failure, Response};
use crate::middleware::{Cors, Headers, MiddlewareContext, Progress, RateLimit, Step};
use crate::scope::Scope;
use crate::services::Services;

/// The cause of the 500 after a panic in middleware, for the log.
pub(super) const MIDDLEWARE_PANICKED: &str = "a middleware panicked";

/// The middleware of one route, in the order of its list.
#[derive(Debug)]
pub(crate) struct MiddlewareChain {
    steps: Box<[Step]>,
    /// Whether none of the steps ever waits.
    never_waits: bool,
}

impl MiddlewareChain {
    /// Creates a chain of these steps.
    pub(super) fn new(steps: Vec<Step>) -> Self {
        Self {
            never_waits: steps.iter().all(Step::never_waits),
            steps: steps.into(),
        }
    }

    /// Returns the steps, for `oneport resolve`.
    pub(crate) fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Returns the `cors` middleware, if it is in the list.
    pub(super) fn cors(&self) -> Option<&Cors> {
        self.steps.iter().find_map(|step| match step {
            Step::Cors(cors) => Some(cors),
            _ => None,
        })
    }

    /// Returns the `rate_limit` middleware, if it is in the list.
    pub(super) fn rate_limits(&self) -> impl Iterator<Item = &RateLimit> {
        self.steps.iter().filter_map(|step| match step {
            Step::RateLimit(limits) => Some(limits),
            _ => None,
        })
    }

    /// Returns whether the `auth` middleware is in the list.
    pub(super) fn has_auth(&self) -> bool {
        self.steps.iter().any(|step| matches!(step, Step::Auth(_)))
    }

    /// Returns the error of the `hosts` middleware for a request, if it is in the list.
    pub(super) fn check_host(&self, scope: &Scope) -> Result<(), Failure> {
        self.steps
            .iter()
            .filter(|step| matches!(step, Step::Hosts(_)))
            .try_for_each(|step| step.precheck(scope))
    }

    /// Returns the fields of the `headers` middleware; empty if it is not in the list.
    pub(super) fn headers(&self) -> impl Iterator<Item = &Headers> {
        self.steps.iter().filter_map(|step| match step {
            Step::Headers(headers) => Some(headers),
            _ => None,
        })
    }

    /// Returns whether the list has middleware of the application.
    pub(super) fn has_custom(&self) -> bool {
        self.steps
            .iter()
            .any(|step| matches!(step, Step::Custom(_)))
    }

    /// Returns whether none of the steps ever waits. Then [`MiddlewareChain::precheck`] and
    /// [`MiddlewareChain::set_fields`] are all that they do.
    pub(super) fn never_waits(&self) -> bool {
        self.never_waits
    }

    /// Runs each step of a chain that never waits before the handler. The first failure ends it.
    pub(super) fn precheck(&self, scope: &Scope) -> Result<(), Failure> {
        self.steps.iter().try_for_each(|step| step.precheck(scope))
    }

    /// Runs each step of a chain that never waits over the response, the last of the list first.
    pub(super) fn set_fields(&self, scope: &Scope, response: &mut Response) {
        for step in self.steps.iter().rev() {
            step.set_fields(scope, response.headers_mut());
        }
    }

    /// Runs each step before the handler. The first failure ends the chain; so does the deadline,
    /// with the sentence `timed_out`.
    pub(super) async fn before(
        &self,
        cx: &mut MiddlewareContext<'_>,
        deadline: Deadline,
        timed_out: &'static str,
    ) -> Result<(), Failure> {
        for step in &self.steps {
            finished(step.before(cx), deadline, timed_out).await?;
        }
        Ok(())
    }

    /// Runs each step over the response, the last of the list first. Each step has `timeout`.
    ///
    /// If a step fails, `page` creates the response that replaces the previous one. The steps that
    /// had already run then run over the new response too, so every response has the fields of
    /// every step; a failure in these is only logged. Returns whether the response was replaced.
    pub(super) async fn after(
        &self,
        scope: &Scope,
        services: &Services,
        response: &mut Response,
        timeout: Duration,
        page: impl Fn(&Failure) -> Response,
    ) -> bool {
        let mut is_replaced = false;
        for (at, step) in self.steps.iter().enumerate().rev() {
            let after = step.after(scope, services, response);
            let Err(failure) = bounded(timeout, after).await else {
                continue;
            };
            let replaced = std::mem::replace(response, page(&failure));
            let replaced = replaced.headers();
            is_replaced = true;
            for step in self.steps.iter().skip(at + 1).rev() {
                let again = step.after_replaced(scope, services, replaced, response);
                if let Err(failure) = bounded(timeout, again).await {
                    tracing::error!(id = %scope.request_id, %failure, "middleware failed over the response of a failure");
                }
            }
        }
        is_replaced
    }
}

/// Waits for one step over a response, within the timeout.
async fn bounded(timeout: Duration, step: Progress<'_>) -> Result<(), Failure> {
    let timed_out = "the middleware took too long";
    finished(step, Deadline::Within(timeout), timed_out).await
}

/// Waits for a step until its deadline.
async fn finished(
    step: Progress<'_>,
    deadline: Deadline,
    timed_out: &'static str,
) -> Result<(), Failure> {
    match step {
        Progress::Done(outcome) => outcome,
        Progress::Waits(work) => run_until(deadline, timed_out, MIDDLEWARE_PANICKED, work).await,
    }
}
