//! Page: renders a template with the variables of a request.

use std::sync::{Arc, OnceLock};

use http::{HeaderMap, HeaderValue, header};
use serde_json::{Map, Value, json};

use super::csrf::{Csrf, CsrfToken};
use crate::host::HostHeader;
use crate::scope::Scope;
use crate::services::Services;
use crate::templates::{TemplateError, Templates};

/// Renders a page for a scope. A page that uses the CSRF token gets header fields: the token's
/// cookie, if the client has none yet, and cache directives that keep the page private to this
/// client.
pub(crate) fn render(
    templates: &Templates,
    services: &Services,
    scope: &Scope,
    name: &str,
    more: &Map<String, Value>,
) -> Result<(String, HeaderMap), TemplateError> {
    let token: Arc<OnceLock<CsrfToken>> = Arc::default();
    let asked = token.clone();
    let (client, of_services) = (Csrf(services).client(scope), services.clone());
    let csrf_token = move || {
        let token = asked.get_or_init(|| Csrf(&of_services).token(&client));
        token.token.clone()
    };
    let page = templates.render(name, variables(scope, more), csrf_token)?;
    let mut fields = HeaderMap::new();
    if let Some(token) = token.get() {
        fields.append(header::VARY, HeaderValue::from_static("cookie"));
        // Without the session, the page cannot know the login that an existing cookie is bound to,
        // so it keeps that cookie.
        let cookie_name = |name: &str| scope.cookie(name).is_some();
        let is_blind =
            scope.session.is_none() && cookie_name(services.settings().sessions.cookie_name());
        if let Some(cookie) = Csrf(services)
            .set_cookie(token, scope)
            .filter(|_| !is_blind)
        {
            fields.append(header::SET_COOKIE, cookie);
        }
    }
    Ok((page, fields))
}

/// Returns the variables of a page: `scope`, `user` and `session`, overridden by those that a view
/// adds.
#[must_use]
pub fn variables(scope: &Scope, more: &Map<String, Value>) -> Map<String, Value> {
    let params: Map<String, Value> = scope
        .url_route
        .params
        .iter()
        .map(|(name, value)| (name.to_owned(), value.into()))
        .collect();
    let mut query = Map::new();
    for (key, value) in scope.query_pairs() {
        query.entry(key).or_insert(Value::String(value));
    }
    let client_cert = scope.client_certificate().map(|found| {
        json!({
            "subject": found.subject,
            "issuer": found.issuer,
            "serial": found.serial,
            "fingerprint": found.fingerprint,
        })
    });
    let mut variables = Map::new();
    variables.insert(
        "scope".to_owned(),
        json!({
            "path": scope.path(),
            "query": query,
            "params": params,
            "host": scope.host.as_ref().map(HostHeader::name),
            "scheme": scope.scheme(),
            "client_cert": client_cert,
        }),
    );
    variables.insert("user".to_owned(), json!(scope.user.as_deref()));
    // Names with a leading `_` are the server's own, such as the login and its hash.
    let own = |data: &Map<String, Value>| -> Map<String, Value> {
        data.iter()
            .filter(|(name, _)| !name.starts_with('_'))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect()
    };
    let session = scope.session.as_ref().map(|session| own(&session.data()));
    variables.insert("session".to_owned(), json!(session));
    variables.extend(
        more.iter()
            .map(|(name, value)| (name.clone(), value.clone())),
    );
    variables
}
