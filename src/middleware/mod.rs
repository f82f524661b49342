//! Middleware: a list of steps before a request or a handshake, and after its answer; the same list for both tables.

mod auth;
mod cors;
mod csrf;
mod headers;
mod hosts;
mod login_required;
mod origin;
mod session;

pub use auth::{Auth, BEARER, TICKET};
pub use cors::Cors;
pub use csrf::Csrf;
pub use headers::Headers;
pub use hosts::Hosts;
pub use login_required::LoginRequired;
pub use origin::Origin;
pub use session::Session;

use http::HeaderMap;

use crate::http::{Body, Failure, Response};
use crate::scope::Scope;
use crate::services::Services;

/// Those that let some visitors pass and others not.
pub(crate) const RESTRICTING: [&str; 2] = ["login_required", "staff_required"];

/// One step of a route's list.
///
/// The steps run in the order of the list before the view or the consumer; the first that refuses ends the journey. After the
/// answer (a refusal is one too) they run in the reverse order over it.
#[derive(Debug)]
pub enum Step {
    /// Only hosts the server is meant for.
    Hosts(Hosts),
    /// Only pages of allowed origins.
    Origin(Origin),
    /// The visitor's session.
    Session(Session),
    /// Who it is.
    Auth(Auth),
    /// Only those who are logged in, or only staff.
    LoginRequired(LoginRequired),
    /// Only our own pages may change something.
    Csrf(Csrf),
    /// Pages of other origins may read the answers.
    Cors(Cors),
    /// Fixed header fields on every answer.
    Headers(Headers),
}

/// A request or a handshake on its way to its view or consumer.
#[derive(Debug)]
pub struct MiddlewareContext<'a> {
    /// What is known of it; steps add to it.
    pub scope: &'a mut Scope,
    /// The body of a request; a handshake's is empty.
    pub body: &'a mut Body,
    /// The most bytes of it.
    pub body_size: u64,
    /// What all share.
    pub services: &'a Services,
}

impl Step {
    /// The names of all steps in the file.
    pub const NAMES: [&'static str; 9] = [
        "hosts",
        "origin",
        "session",
        "auth",
        "login_required",
        "staff_required",
        "csrf",
        "cors",
        "headers",
    ];

    /// Refuses what the head of a request alone is enough to refuse.
    pub fn precheck(&self, scope: &Scope) -> Result<(), Failure> {
        match self {
            Self::Hosts(step) => step.before(scope),
            Self::Origin(step) => step.before(scope),
            _ => Ok(()),
        }
    }

    /// Lets a request or a handshake pass, or refuses it.
    pub async fn before(&self, cx: &mut MiddlewareContext<'_>) -> Result<(), Failure> {
        let MiddlewareContext {
            scope,
            body,
            body_size,
            services,
        } = cx;
        // Those that wait have their own memory: a request without them needs none of it.
        match self {
            Self::Hosts(_) | Self::Origin(_) | Self::Cors(_) | Self::Headers(_) => {
                self.precheck(scope)
            }
            Self::Session(step) => Box::pin(step.before(scope, services)).await,
            Self::Auth(step) => Box::pin(step.before(scope, services)).await,
            Self::LoginRequired(step) => step.before(scope),
            Self::Csrf(step) => Box::pin(step.before(scope, services, body, *body_size)).await,
        }
    }

    /// Adds to the answer. A failure takes its place.
    pub async fn after(
        &self,
        scope: &Scope,
        services: &Services,
        response: &mut Response,
    ) -> Result<(), Failure> {
        match self {
            Self::Session(step) => Box::pin(step.after(scope, services, response)).await,
            _ => {
                self.decorate(scope, response.headers_mut());
                Ok(())
            }
        }
    }

    /// Adds the fields to an answer that need nothing but the scope: also to a failure that takes the place of another answer.
    pub(crate) fn decorate(&self, scope: &Scope, headers: &mut HeaderMap) {
        match self {
            Self::Headers(step) => step.after(headers),
            Self::Cors(step) => step.after(scope, headers),
            Self::Auth(step) => step.after(scope, headers),
            Self::Hosts(_)
            | Self::Origin(_)
            | Self::Session(_)
            | Self::LoginRequired(_)
            | Self::Csrf(_) => {}
        }
    }
}
