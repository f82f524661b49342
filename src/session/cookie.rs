//! SessionCookie: the cookie that carries a session's key.

use std::sync::Arc;
use std::time::Duration;

use cookie::{Cookie, SameSite};
use http::HeaderValue;

use crate::config::{self, Secure, SessionConfig};

/// A change to a client's session cookie.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum SessionCookie {
    /// Set the cookie to this key.
    Set(Arc<str>),
    /// Delete the cookie.
    Delete,
}

/// The attributes of a cookie.
#[derive(Clone, Debug)]
pub(crate) struct CookieAttributes {
    pub(crate) name: String,
    pub(crate) max_age: Duration,
    path: String,
    pub(crate) domain: String,
    secure: Secure,
    http_only: bool,
    same_site: config::SameSite,
}

impl CookieAttributes {
    /// Returns the attributes of the session's cookie.
    pub(crate) fn of_session(config: &SessionConfig) -> Self {
        Self {
            name: config.cookie.clone(),
            max_age: config.max_age,
            path: config.path.clone(),
            domain: config.domain.clone(),
            secure: config.secure,
            http_only: config.http_only,
            same_site: config.same_site,
        }
    }

    /// Returns the attributes of another cookie with the same domain and path, readable by the
    /// page's scripts.
    pub(crate) fn beside(&self, name: &str, max_age: Duration) -> Self {
        Self {
            name: name.to_owned(),
            max_age,
            http_only: false,
            ..self.clone()
        }
    }

    /// Returns the `Set-Cookie` field that sets the cookie to a value, or deletes it if `None`.
    pub(crate) fn header(&self, value: Option<&str>, is_https: bool) -> Option<HeaderValue> {
        let is_secure = match self.secure {
            Secure::Auto => is_https,
            Secure::Always => true,
            Secure::Never => false,
        };
        let max_age = if value.is_some() {
            self.max_age
        } else {
            Duration::ZERO
        };
        let mut made = Cookie::build((self.name.as_str(), value.unwrap_or_default()))
            .path(self.path.as_str())
            .http_only(self.http_only)
            .secure(is_secure)
            .same_site(match self.same_site {
                config::SameSite::Lax => SameSite::Lax,
                config::SameSite::Strict => SameSite::Strict,
                config::SameSite::None => SameSite::None,
            })
            .max_age(max_age.try_into().unwrap_or(cookie::time::Duration::MAX));
        if !self.domain.is_empty() {
            made = made.domain(self.domain.as_str());
        }
        HeaderValue::from_str(&made.build().to_string()).ok()
    }
}
