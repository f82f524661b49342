//! Csrf: refuses unsafe requests from pages of other sites.

use super::context::MiddlewareContext;
use crate::http::Failure;
use crate::http::csrf::{self, Csrf as Check};
use crate::http::form::{Form, is_form};
use crate::http::origin::AllowedOrigins;
use crate::scope::{Scope, ScopeType};

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

    /// Returns whether a request needs a token.
    pub(super) fn applies(scope: &Scope) -> bool {
        scope.scope_type == ScopeType::Http && !scope.method.is_safe()
    }

    /// Runs the part of the check that needs only the head: that of `Origin`.
    pub(super) fn precheck(&self, scope: &Scope) -> Result<(), Failure> {
        match Self::applies(scope) {
            true => csrf::check_origin_field(scope, &self.trusted),
            false => Ok(()),
        }
    }

    pub(super) async fn before(&self, cx: &mut MiddlewareContext<'_>) -> Result<(), Failure> {
        let services = cx.services;
        let scope = &*cx.scope;
        if !Self::applies(scope) {
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
