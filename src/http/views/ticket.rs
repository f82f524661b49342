//! Ticket: issues a one-time ticket for a WebSocket handshake, for browsers with a token and no
//! cookie.

use http::{HeaderValue, Method, StatusCode, header};
use serde_json::json;

use super::post_only;
use crate::auth::{Identified, Login};
use crate::config::OptionErrors;
use crate::http::csrf::Csrf;
use crate::http::origin::AllowedOrigins;
use crate::http::{Failure, Request, Response, View, respond};
use crate::scope::Scope;

/// `view = "ticket"`: issues the user a ticket, valid for one handshake within
/// `auth.ticket_max_age`.
#[derive(Debug)]
pub struct Ticket;

/// `ticket` has no options.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {}

impl View for Ticket {
    type Options = Options;

    fn new(_: Options) -> Result<Self, OptionErrors> {
        Ok(Self)
    }

    fn middleware() -> &'static [&'static str] {
        &["auth"]
    }

    fn methods() -> &'static [Method] {
        &[Method::POST]
    }

    fn refusal(&self, scope: &Scope) -> Option<Failure> {
        post_only(scope).err()
    }

    async fn call(&self, request: Request) -> Result<Response, Failure> {
        let scope = &request.scope;
        post_only(scope)?;
        let Some(user) = &scope.user else {
            return Err(Failure::new(StatusCode::UNAUTHORIZED, "log in first"));
        };
        if !matches!(scope.login.as_deref(), Some(Login::Token { .. })) {
            // A bearer token is sent deliberately, while any page can cause a request with the
            // cookie.
            let csrf = Csrf(&request.services);
            let token = csrf.header_token(scope);
            csrf.check(scope, &AllowedOrigins::default(), token.as_deref())?;
        }
        let identified = Identified {
            user: user.clone(),
            login: scope.login.clone(),
        };
        let settings = request.services.settings();
        let auth = &settings.auth;
        let Some(ticket) = auth.issue_ticket(identified) else {
            let failure = Failure::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "too many tickets wait to be used",
            );
            return Err(failure.with_header(header::RETRY_AFTER, HeaderValue::from_static("1")));
        };
        let body = json!({"ticket": ticket, "expires_in": auth.ticket_max_age().as_secs()});
        let mut response = respond(200, "application/json", format!("{body}\n"));
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        Ok(response)
    }
}
