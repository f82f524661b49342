//! Step: one middleware in a route's list.

use std::future::Future;
use std::pin::Pin;

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
use super::rate_limit::RateLimit;
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
    /// Refuses requests over a rate.
    RateLimit(RateLimit),
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

/// What a step does with a request or a response.
pub enum Progress<'a> {
    /// It was done at once.
    Done(Result<(), Failure>),
    /// It may have to wait. All code of the application is in here.
    Waits(Pin<Box<dyn Future<Output = Result<(), Failure>> + Send + 'a>>),
}

impl<'a> Progress<'a> {
    fn waits(work: impl Future<Output = Result<(), Failure>> + Send + 'a) -> Self {
        Self::Waits(Box::pin(work))
    }
}

impl Step {
    /// The names of the built-in steps in the file.
    pub const NAMES: [&'static str; 11] = [
        "hosts",
        "origin",
        "rate_limit",
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

    /// Returns whether the step never has to wait, and its work before the handler is
    /// [`Step::precheck`], after it [`Step::set_fields`].
    #[must_use]
    pub(crate) fn never_waits(&self) -> bool {
        matches!(
            self,
            Self::Hosts(_) | Self::Origin(_) | Self::Cors(_) | Self::Headers(_)
        )
    }

    /// Runs the step before the handler. It changes the scope or refuses the request.
    pub fn before<'a, 'cx: 'a>(&'a self, cx: &'a mut MiddlewareContext<'cx>) -> Progress<'a> {
        match self {
            Self::Hosts(_)
            | Self::Origin(_)
            | Self::Cors(_)
            | Self::Headers(_)
            | Self::Compress(_) => Progress::Done(self.precheck(cx.scope)),
            Self::RateLimit(step) => Progress::Done(step.before(cx.scope)),
            Self::Session(step) => Progress::waits(step.before(cx.scope, cx.services)),
            Self::Auth(step) => Progress::waits(step.before(cx.scope, cx.services)),
            Self::LoginRequired(step) => Progress::Done(step.before(cx.scope)),
            Self::Csrf(step) => Progress::waits(step.before(cx)),
            Self::Custom(step) => Progress::waits(async { step.middleware.before(cx).await }),
        }
    }

    /// Runs the step on the response. A failure replaces the response.
    pub fn after<'a>(
        &'a self,
        scope: &'a Scope,
        services: &'a Services,
        response: &'a mut Response,
    ) -> Progress<'a> {
        match self {
            Self::Session(step) => Progress::waits(step.after(scope, services, response)),
            _ => self.after_unsaved(scope, services, response),
        }
    }

    /// Runs the step on the response that replaced another, on which it ran before. A session is
    /// not saved again; its fields of the `replaced` response are copied.
    pub(crate) fn after_replaced<'a>(
        &'a self,
        scope: &'a Scope,
        services: &'a Services,
        replaced: &HeaderMap,
        response: &'a mut Response,
    ) -> Progress<'a> {
        if let Self::Session(step) = self {
            step.copy_fields(services, replaced, response.headers_mut());
        }
        self.after_unsaved(scope, services, response)
    }

    fn after_unsaved<'a>(
        &'a self,
        scope: &'a Scope,
        services: &'a Services,
        response: &'a mut Response,
    ) -> Progress<'a> {
        match self {
            Self::Compress(step) => Progress::waits(step.after(scope, services, response)),
            Self::Custom(step) => {
                Progress::waits(async move { step.middleware.after(scope, response).await })
            }
            _ => {
                self.set_fields(scope, response.headers_mut());
                Progress::Done(Ok(()))
            }
        }
    }

    /// Sets the fields of a response that do not depend on it.
    pub(crate) fn set_fields(&self, scope: &Scope, fields: &mut HeaderMap) {
        match self {
            Self::Headers(step) => step.after(fields),
            Self::Cors(step) => step.after(scope, fields),
            Self::Auth(step) => step.after(scope, fields),
            Self::RateLimit(step) => step.after(scope, fields),
            Self::Hosts(_)
            | Self::Origin(_)
            | Self::Session(_)
            | Self::LoginRequired(_)
            | Self::Csrf(_)
            | Self::Compress(_)
            | Self::Custom(_) => {}
        }
    }
}
