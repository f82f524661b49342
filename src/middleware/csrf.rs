//! Csrf: refuses changes that a page of another site sends.

use super::context::MiddlewareContext;
use crate::http::Failure;
use crate::http::csrf::{self, Csrf as Check};
use crate::http::form::{Form, is_form};
use crate::http::origin::AllowedOrigins;
use crate::scope::ScopeType;

/// `csrf`: a request with an unsafe method needs the token of one of our own pages, in its form or
/// in a header field; otherwise 403 (Django's `CsrfViewMiddleware`). A handshake passes: `origin`
/// guards it.
#[derive(Debug)]
pub struct Csrf {
    trusted: AllowedOrigins,
}

impl Csrf {
    /// Takes the origins that are trusted in addition to our own.
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
