//! Error pages: the response of a failure, as HTML, JSON or plain text.

use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::{Map, json};

use super::table::Table;
use crate::http::form::accepts;
use crate::http::page::render;
use crate::http::{Failure, Response, respond};
use crate::scope::Scope;
use crate::services::Services;

/// Returns the response of a failure: a page if the client accepts `text/html`, JSON for
/// `application/json`, otherwise plain text.
///
/// The page is the template of the status (`404.html`), or `error.html`, or a plain one. The cause
/// goes to the log only.
pub(super) fn response(
    services: &Services,
    table: &Table,
    scope: &Scope,
    failure: &Failure,
) -> Response {
    let status = failure.status();
    // 503: the store that is down logs its outage once, not per request. 501: the client asked for
    // something that does not exist.
    let is_ours = !matches!(
        status,
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::NOT_IMPLEMENTED
    );
    if status.is_server_error() && is_ours {
        tracing::error!(id = %scope.request_id, path = scope.raw_path(), %failure, "the request failed");
    } else {
        tracing::debug!(id = %scope.request_id, path = scope.raw_path(), %failure, "the request was refused");
    }
    let sentence = failure.sentence();
    let mut response = if let Some(body) = failure.body() {
        let plain = HeaderValue::from_static("text/plain; charset=utf-8");
        let mut response = respond(status.as_u16(), "text/plain", body.clone());
        let fields = response.headers_mut();
        fields.remove(header::CONTENT_TYPE);
        if !failure.headers().contains_key(header::CONTENT_TYPE) {
            fields.insert(header::CONTENT_TYPE, plain);
        }
        response
    } else if accepts(scope, "text/html") {
        let (page, fields) = page(services, table, scope, failure);
        let mut response = respond(status.as_u16(), "text/html; charset=utf-8", page);
        response.headers_mut().extend(fields);
        response
    } else if accepts(scope, "application/json") {
        let body = serde_json::json!({"error": {"status": status.as_u16(), "message": sentence, "request_id": scope.request_id.to_string()}});
        respond(status.as_u16(), "application/json", format!("{body}\n"))
    } else {
        respond(
            status.as_u16(),
            "text/plain; charset=utf-8",
            format!("{} {sentence}\n", status.as_u16()),
        )
    };
    for (name, value) in failure.headers() {
        response.headers_mut().append(name, value.clone());
    }
    response
}

fn page(
    services: &Services,
    table: &Table,
    scope: &Scope,
    failure: &Failure,
) -> (String, HeaderMap) {
    let status = failure.status();
    let reason = status.canonical_reason().unwrap_or("Error");
    let more = json!({
        "status": status.as_u16(),
        "reason": reason,
        "message": failure.sentence(),
        "request_id": scope.request_id.to_string(),
    });
    let none = Map::new();
    let more = more.as_object().unwrap_or(&none);
    let own = format!("{}.html", status.as_u16());
    for name in [own.as_str(), "error.html"] {
        match render(&table.templates, services, scope, name, more) {
            Ok(page) => return page,
            Err(crate::templates::TemplateError::Missing { .. }) => {}
            Err(error) => tracing::error!(%error, "the page of an error cannot be rendered"),
        }
    }
    let escape = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;");
    let plain = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\"><title>{0} {1}</title><h1>{0} {1}</h1><p>{2}</p></html>\n",
        status.as_u16(),
        escape(reason),
        escape(failure.sentence())
    );
    (plain, HeaderMap::new())
}
