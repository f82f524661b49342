//! Step: one middleware in a route's list.

use http::HeaderMap;

use super::auth::Auth;
use super::compress::Compress;
use super::context::MiddlewareContext;
use super::cors::Cors;
use super::csrf::Csrf;
use super::custom::Custom;
use super::headers::Headers;
use super::hosts::Hosts;
use super::login_required::LoginRequired;
use super::origin::Origin;
use super::session::Session;
use crate::http::{Failure, Response};
use crate::scope::Scope;
use crate::services::Services;

/// One step of a route's list.
///
/// Before the handler, the steps run in the order of the list, until one refuses. Afterwards they
/// run in reverse on the response, even if it is a refusal.
#[derive(Debug)]
pub enum Step {
    /// Refuses hosts that are not in `server.allowed_hosts`.
    Hosts(Hosts),
    /// Refuses pages of other origins.
    Origin(Origin),
    /// Opens the visitor's session.
    Session(Session),
    /// Identifies the user.
    Auth(Auth),
    /// `login_required` and `staff_required`.
    LoginRequired(LoginRequired),
    /// Refuses unsafe requests without the token of one of our own pages.
    Csrf(Csrf),
    /// Lets pages of other origins read the responses.
    Cors(Cors),
    /// Sets fixed header fields.
    Headers(Headers),
    /// Compresses responses.
    Compress(Compress),
    /// Middleware of the application.
    Custom(Custom),
}

impl Step {
    /// The names of the built-in steps in the file.
    pub const NAMES: [&'static str; 10] = [
        "hosts",
        "origin",
        "session",
        "auth",
        "login_required",
        "staff_required",
        "csrf",
        "cors",
        "headers",
        "compress",
    ];

    /// Runs the checks that need only the head of a request: the part of [`Step::before`] that
    /// `oneport resolve` can run.
    pub fn precheck(&self, scope: &Scope) -> Result<(), Failure> {
        match self {
            Self::Hosts(step) => step.before(scope),
            Self::Origin(step) => step.before(scope),
            Self::Csrf(step) => step.precheck(scope),
            _ => Ok(()),
        }
    }

    /// Returns what a client must send, beyond what [`Step::precheck`] looks at, to pass.
    #[must_use]
    pub fn needs(&self, scope: &Scope) -> Option<&'static str> {
        match self {
            Self::LoginRequired(step) => Some(step.needs()),
            Self::Csrf(_) if Csrf::applies(scope) => Some("a CSRF token"),
            _ => None,
        }
    }

    /// Runs the step before the handler. It changes the scope or refuses the request.
    pub async fn before(&self, cx: &mut MiddlewareContext<'_>) -> Result<(), Failure> {
        // Futures that wait are boxed, so that they do not enlarge the futures of requests that do
        // not need them.
        match self {
            Self::Hosts(_)
            | Self::Origin(_)
            | Self::Cors(_)
            | Self::Headers(_)
            | Self::Compress(_) => self.precheck(cx.scope),
            Self::Session(step) => Box::pin(step.before(cx.scope, cx.services)).await,
            Self::Auth(step) => Box::pin(step.before(cx.scope, cx.services)).await,
            Self::LoginRequired(step) => step.before(cx.scope),
            Self::Csrf(step) => Box::pin(step.before(cx)).await,
            Self::Custom(step) => step.middleware.before(cx).await,
        }
    }

    /// Runs the step on the response. A failure replaces the response.
    pub async fn after(
        &self,
        scope: &Scope,
        services: &Services,
        response: &mut Response,
    ) -> Result<(), Failure> {
        match self {
            Self::Session(step) => Box::pin(step.after(scope, services, response)).await,
            _ => self.after_unsaved(scope, response).await,
        }
    }

    /// Runs the step on the response that replaced another, on which it ran before. A session is
    /// not saved again; its fields of the `replaced` response are copied.
    pub(crate) async fn after_replaced(
        &self,
        scope: &Scope,
        services: &Services,
        replaced: &HeaderMap,
        response: &mut Response,
    ) -> Result<(), Failure> {
        if let Self::Session(step) = self {
            step.copy_fields(services, replaced, response.headers_mut());
        }
        self.after_unsaved(scope, response).await
    }

    async fn after_unsaved(&self, scope: &Scope, response: &mut Response) -> Result<(), Failure> {
        match self {
            Self::Headers(step) => step.after(response.headers_mut()),
            Self::Cors(step) => step.after(scope, response.headers_mut()),
            Self::Auth(step) => step.after(scope, response.headers_mut()),
            Self::Compress(step) => Box::pin(step.after(scope, response)).await?,
            Self::Custom(step) => step.middleware.after(scope, response).await?,
            Self::Hosts(_)
            | Self::Origin(_)
            | Self::Session(_)
            | Self::LoginRequired(_)
            | Self::Csrf(_) => {}
        }
        Ok(())
    }
}
