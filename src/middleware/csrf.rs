//! Csrf: refuses unsafe requests from pages of other sites.

use super::context::MiddlewareContext;
use crate::http::Failure;
use crate::http::csrf::{self, Csrf as Check};
use crate::http::form::{Form, is_form};
use crate::http::origin::AllowedOrigins;
use crate::scope::ScopeType;

/// `csrf`: refuses a request with an unsafe method with 403 unless its form or a header field has
/// the token of one of our own pages (Django's `CsrfViewMiddleware`). Handshakes pass, because
/// `origin` checks them.
#[derive(Debug)]
pub struct Csrf {
    trusted: AllowedOrigins,
}

impl Csrf {
    /// Creates the step from the origins that are trusted in addition to our own.
    #[must_use]
    pub fn new(trusted: &[String]) -> Self {
        Self {
            trusted: AllowedOrigins::new(trusted),
        }
    }

    pub(super) async fn before(&self, cx: &mut MiddlewareContext<'_>) -> Result<(), Failure> {
        let services = cx.services;
        let scope = &*cx.scope;
        if scope.scope_type == ScopeType::Websocket || scope.method.is_safe() {
            return Ok(());
        }
        let mut token = Check(services).header_token(scope);
        if token.is_none() && is_form(scope) {
            let bytes = cx.body_bytes().await?;
            let form = Form::parse(&String::from_utf8_lossy(&bytes));
            token = form.get(csrf::FIELD).map(str::to_owned);
        }
        Check(services).check(cx.scope, &self.trusted, token.as_deref())
    }
}
