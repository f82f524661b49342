//! LoginRequired: only those who are logged in, or only staff.

use http::{HeaderValue, StatusCode, header};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::http::Failure;
use crate::http::form::wants_json;
use crate::http::location::{is_own_path, location, with_query};
use crate::scope::{Scope, ScopeType};

/// What a query's value may hold as it is (RFC 3986 §3.4, without what separates values).
const VALUE: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'/')
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

/// `login_required` and `staff_required`: an anonymous request goes to `auth.login_url` (302), a program's gets 401; a
/// handshake gets 403. So does who is logged in and not of the staff, where only that may pass.
#[derive(Debug)]
pub struct LoginRequired {
    login_url: String,
    needs_staff: bool,
}

impl LoginRequired {
    /// Takes where to log in, and whether only staff may pass.
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
            Some(_) => Err(Failure::forbidden("this is for staff")),
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

    /// Where to log in, and where to come back to.
    fn login_page(&self, scope: &Scope) -> String {
        let root_path = match is_own_path(&self.login_url) {
            true => scope.root_path.as_deref().unwrap_or_default(),
            false => "",
        };
        let next = utf8_percent_encode(scope.target.as_str(), VALUE);
        let page = format!("{root_path}{}", self.login_url);
        with_query(&page, &format!("next={next}"))
    }
}
