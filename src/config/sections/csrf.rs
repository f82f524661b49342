//! The `[csrf]` section: where the CSRF token is stored, and how a program sends it.

use http::HeaderName;
use serde::Deserialize;

use crate::config::read::source_location::SourceLocation;
use crate::config::values::checked::{CookieName, CsrfHeader, via};
use crate::config::values::not_compared::NotCompared;

/// `[csrf]`. In front of a Django project these are the project's settings.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct CsrfConfig {
    /// The cookie's name: `CSRF_COOKIE_NAME`. Default: `"csrftoken"`.
    #[serde(deserialize_with = "via::<CookieName, _, _>")]
    pub cookie: String,
    /// The header field with the token of a request without a form: `CSRF_HEADER_NAME`. Default:
    /// `"x-csrftoken"`.
    #[serde(deserialize_with = "via::<CsrfHeader, _, _>")]
    pub header: HeaderName,
    /// Whether the session stores the token, instead of a cookie: `CSRF_USE_SESSIONS`. Default:
    /// `false`.
    pub use_sessions: bool,
    /// The section's location.
    #[serde(skip)]
    pub location: NotCompared<SourceLocation>,
}

impl Default for CsrfConfig {
    fn default() -> Self {
        Self {
            cookie: "csrftoken".to_owned(),
            header: HeaderName::from_static("x-csrftoken"),
            use_sessions: false,
            location: NotCompared::default(),
        }
    }
}
