//! LoginRequired: refuses anonymous visitors, or all but staff.

use http::{HeaderValue, StatusCode, header};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::http::Failure;
use crate::http::form::wants_json;
use crate::http::location::{is_own_path, location, with_query};
use crate::scope::{Scope, ScopeType};

/// What a value in a query may contain unencoded (RFC 3986 §3.4, without the separators of values).
const VALUE: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'/')
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

/// `login_required` and `staff_required`: an anonymous browser is redirected to `auth.login_url`
/// (302), a program gets 401, a handshake 403. `staff_required` also answers 403 to users who are
/// not staff.
#[derive(Debug)]
pub struct LoginRequired {
    login_url: String,
    needs_staff: bool,
}

impl LoginRequired {
    /// Takes the login page, and whether only staff may pass.
    #[must_use]
    pub fn new(login_url: &str, needs_staff: bool) -> Self {
        Self {
            login_url: login_url.to_owned(),
            needs_staff,
        }
    }

    pub(super) fn before(&self, scope: &Scope) -> Result<(), Failure> {
        match &scope.user {
            Some(user) if user.is_staff || !self.needs_staff => Ok(()),
            Some(_) => Err(Failure::forbidden("staff only")),
            None if scope.scope_type == ScopeType::Websocket => {
                Err(Failure::forbidden("log in first"))
            }
            None if wants_json(scope) => {
                let challenge = HeaderValue::from_static("Session");
                Err(Failure::new(StatusCode::UNAUTHORIZED, "log in first")
                    .with_header(header::WWW_AUTHENTICATE, challenge))
            }
            None => {
                let location = location(&self.login_page(scope))?;
                Err(Failure::new(StatusCode::FOUND, "log in first")
                    .with_header(header::LOCATION, location))
            }
        }
    }

    /// Returns the login page with the way back in `next`.
    fn login_page(&self, scope: &Scope) -> String {
        let root_path = match is_own_path(&self.login_url) {
            true => scope.root_path(),
            false => "",
        };
        let next = utf8_percent_encode(scope.target.as_str(), VALUE);
        let page = format!("{root_path}{}", self.login_url);
        with_query(&page, &format!("next={next}"))
    }
}
