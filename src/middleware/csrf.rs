//! Csrf: only our own pages may send what changes something.

use crate::http::csrf::{self, Csrf as Check};
use crate::http::form::{Form, is_form};
use crate::http::origin::AllowedOrigins;
use crate::http::{Body, Failure, request};
use crate::scope::{Scope, ScopeType};
use crate::services::Services;

/// `csrf`: a request that changes something needs the token of one of our own pages, in its form or in a header field; else 403
/// (Django's `CsrfViewMiddleware`). A handshake changes nothing: `origin` guards it.
#[derive(Debug)]
pub struct Csrf {
    trusted: AllowedOrigins,
}

impl Csrf {
    /// Takes the origins that are trusted beside the own one.
    #[must_use]
    pub fn new(trusted: &[String]) -> Self {
        Self {
            trusted: AllowedOrigins::new(trusted),
        }
    }

    pub(super) async fn before(
        &self,
        scope: &Scope,
        services: &Services,
        body: &mut Body,
        body_size: u64,
    ) -> Result<(), Failure> {
        if scope.scope_type == ScopeType::Websocket || scope.method.is_safe() {
            return Ok(());
        }
        let mut token = Check(services).header_token(scope);
        if token.is_none() && is_form(scope) {
            let bytes = request::read(body, body_size).await?;
            let form = Form::parse(&String::from_utf8_lossy(&bytes));
            token = form.get(csrf::FIELD).map(str::to_owned);
            *body = Body::full(bytes); // the view reads it once more
        }
        Check(services).check(scope, &self.trusted, token.as_deref())
    }
}
