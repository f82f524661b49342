//! Resolve: the part of a journey that a request's head decides, for `oneport resolve`.
//!
//! Each decision is made by the code that serves requests: the checks of the head, the preflight,
//! the route, the response without a route, and the checks of middleware and view that need
//! neither services nor a body.

use http::header;
use http::request::Parts;

use super::connection_info::ConnectionInfo;
use super::preflight::Preflight;
use super::request_head::RequestHead;
use super::table::{RouteEntry, Table};
use super::{plaintext, unmatched};
use crate::http::{Failure, Response};
use crate::middleware::Step;
use crate::routing::Match;
use crate::scope::Scope;

/// What the head of a request decides.
#[derive(Debug)]
pub struct Resolved {
    /// The index in its table of the route that takes the request, if there is one.
    pub route: Option<usize>,
    /// Whether the tables were asked. They are not if the head is malformed, or is no handshake
    /// although it asks for one.
    pub is_looked_up: bool,
    /// The facts of the request; with a route, also its parameters.
    pub scope: Scope,
    /// Whether the handler is called, or the response without it.
    pub outcome: Outcome,
}

/// Whether the handler is called.
#[derive(Debug)]
pub enum Outcome {
    /// The view or the consumer is called if the client sends what the route's middleware needs,
    /// in the order of the list.
    Handler {
        /// What the client must send.
        needs: Vec<&'static str>,
    },
    /// This response is sent: a preflight's, a redirect, or that to `OPTIONS`.
    Response(Response),
    /// The request is refused.
    Failure(Failure),
}

impl Outcome {
    /// Returns the status; `None` if the handler decides.
    #[must_use]
    pub fn status(&self) -> Option<http::StatusCode> {
        match self {
            Self::Handler { .. } => None,
            Self::Response(response) => Some(response.status()),
            Self::Failure(failure) => Some(failure.status()),
        }
    }
}

impl From<Result<Response, Failure>> for Outcome {
    fn from(result: Result<Response, Failure>) -> Self {
        match result {
            Ok(response) => Self::Response(response),
            Err(failure) => Self::Failure(failure),
        }
    }
}

impl Table {
    /// Returns what the head of a request without a body decides.
    #[must_use]
    pub fn resolve(&self, mut parts: Parts, info: &ConnectionInfo) -> Resolved {
        let mut head = RequestHead::new(&mut parts);
        let checked = head.check(false, self.head_limits);
        let mut scope = head.into_scope(info, self);
        let mut route = None;
        let (is_looked_up, outcome) = match checked {
            Err(failure) => (false, Outcome::Failure(failure)),
            Ok(_)
                if let Some(response) =
                    plaintext::check(info.plaintext, &self.allowed_hosts, &scope) =>
            {
                (false, response.into())
            }
            Ok(None) => (true, self.request_outcome(&mut scope, &mut route)),
            Ok(Some(_)) => (true, self.handshake_outcome(&mut scope, &mut route)),
        };
        Resolved {
            route,
            is_looked_up,
            scope,
            outcome,
        }
    }

    fn request_outcome(&self, scope: &mut Scope, route: &mut Option<usize>) -> Outcome {
        if let Some(preflight) = Preflight::of(self, scope) {
            return preflight.response(scope).into();
        }
        let found = match self.look_up(self.http(), scope) {
            Ok(found) => found,
            Err(missed) => return unmatched::request_response(self, scope, missed).into(),
        };
        let entry = enter(found, scope, route);
        match middleware_outcome(entry, scope) {
            Outcome::Handler { needs } => match entry.handler.view.refusal(scope) {
                Some(failure) => Outcome::Failure(failure),
                None => Outcome::Handler { needs },
            },
            refused => refused,
        }
    }

    fn handshake_outcome(&self, scope: &mut Scope, route: &mut Option<usize>) -> Outcome {
        match self.look_up(self.websocket(), scope) {
            Ok(found) => middleware_outcome(enter(found, scope, route), scope),
            Err(missed) => Outcome::Failure(unmatched::handshake_failure(self, scope, &missed)),
        }
    }
}

fn enter<'t, H>(
    found: Match<'t, RouteEntry<H>>,
    scope: &mut Scope,
    route: &mut Option<usize>,
) -> &'t RouteEntry<H> {
    *route = Some(found.index);
    let entry = &found.route.value;
    scope.url_route.name.clone_from(&entry.name);
    scope.url_route.params = found.params;
    entry
}

/// Runs the checks of the middleware that need only the head.
fn middleware_outcome<H>(entry: &RouteEntry<H>, scope: &Scope) -> Outcome {
    let mut needs = Vec::new();
    for step in entry.chain.steps() {
        // A tool has no page, whose origin a browser would send.
        if matches!(step, Step::Origin(_)) && scope.headers.get(&header::ORIGIN).is_none() {
            needs.extend(step.precheck(scope).err().map(|_| "an allowed Origin"));
            continue;
        }
        match step.precheck(scope) {
            Ok(()) => needs.extend(step.needs(scope)),
            Err(failure) => return Outcome::Failure(failure),
        }
    }
    Outcome::Handler { needs }
}
