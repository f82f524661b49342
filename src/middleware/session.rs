//! Session: opens the visitor's session before the handler and saves it afterwards.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, StatusCode, header};

use crate::http::{Failure, Response};
use crate::scope::{Scheme, Scope, ScopeType};
use crate::services::Services;

/// The `Vary` of a response that may differ by visitor.
const COOKIE: HeaderValue = HeaderValue::from_static("cookie");

/// `session`: puts the visitor's session into the scope (Channels' `SessionMiddleware`).
///
/// Changes by a view or a consumer's `connect` are saved before the response is sent, unless its
/// status is 500 or above. The store is read only if the client's cookie has the form of a key.
#[derive(Debug)]
pub struct Session;

impl Session {
    pub(super) async fn before(
        &self,
        scope: &mut Scope,
        services: &Services,
    ) -> Result<(), Failure> {
        let settings = services.settings();
        let sessions = &settings.sessions;
        let cookie = scope.cookie(sessions.cookie_name());
        scope.session = Some(Arc::new(sessions.open(cookie.as_deref()).await?));
        Ok(())
    }

    pub(super) async fn after(
        &self,
        scope: &Scope,
        services: &Services,
        response: &mut Response,
    ) -> Result<(), Failure> {
        let Some(session) = &scope.session else {
            return Ok(());
        };
        if session.is_modified() && response.status() < StatusCode::INTERNAL_SERVER_ERROR {
            session.save().await?;
        }
        session.seal();
        let headers = response.headers_mut();
        if let Some(cookie) = session.take_cookie() {
            let is_https = scope.security == Scheme::Secure;
            let settings = services.settings();
            if let Some(field) = settings.sessions.set_cookie(&cookie, is_https) {
                headers.append(header::SET_COOKIE, field);
            }
        }
        if scope.scope_type == ScopeType::Http {
            headers.append(header::VARY, COOKIE);
        }
        Ok(())
    }

    /// Copies what `after` added to a response that was replaced since: the session is saved, so
    /// the client must get its new key.
    pub(super) fn copy_fields(
        &self,
        services: &Services,
        replaced: &HeaderMap,
        headers: &mut HeaderMap,
    ) {
        let settings = services.settings();
        let name = settings.sessions.cookie_name();
        for field in replaced.get_all(header::SET_COOKIE) {
            let rest = field.as_bytes().strip_prefix(name.as_bytes());
            if rest.is_some_and(|rest| rest.starts_with(b"=")) {
                headers.append(header::SET_COOKIE, field.clone());
            }
        }
        if replaced
            .get_all(header::VARY)
            .iter()
            .any(|field| field == COOKIE)
        {
            headers.append(header::VARY, COOKIE);
        }
    }
}
