//! LoginRequired: refuses anonymous visitors, or everyone except staff.

use http::{HeaderValue, StatusCode, header};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::http::Failure;
use crate::http::form::wants_json;
use crate::http::location::{is_own_path, location, with_query};
use crate::scope::{Scope, ScopeType};

/// The characters to encode in a query's value (RFC 3986 §3.4): all except the unreserved ones and
/// the slash.
const VALUE: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'/')
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

/// `login_required` and `staff_required`: redirect an anonymous browser to `auth.login_url` (302),
/// and refuse a program with 401 and a handshake with 403. `staff_required` also refuses users who
/// are not staff with 403.
#[derive(Debug)]
pub struct LoginRequired {
    login_url: String,
    needs_staff: bool,
}

impl LoginRequired {
    /// Creates the step from the login page's URL. With `needs_staff`, only staff may pass.
    #[must_use]
    pub fn new(login_url: &str, needs_staff: bool) -> Self {
        Self {
            login_url: login_url.to_owned(),
            needs_staff,
        }
    }

    /// Returns what a client must send to pass.
    pub(super) fn needs(&self) -> &'static str {
        match self.needs_staff {
            true => "a login of staff",
            false => "a login",
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

    /// Returns the login page's URL, with the requested URL in `next`.
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
