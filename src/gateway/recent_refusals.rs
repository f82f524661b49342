//! Recent refusals: the requests and handshakes that were refused, or failed, for those who look
//! for the reason.

use http::StatusCode;

use super::table::Table;
use crate::http::Failure;
use crate::scope::{Scope, ScopeType};
use crate::services::Services;
use crate::telemetry::recent_ends::{End, EndKind};
use crate::timestamp::Timestamp;

/// Keeps a failure if it tells more than that a page is missing, or that its visitor has to log in.
#[cold]
pub(super) fn keep(services: &Services, table: &Table, scope: &Scope, failure: &Failure) {
    let status = failure.status();
    let is_handshake = scope.scope_type == ScopeType::Websocket;
    if !is_notable(status, is_handshake) {
        return;
    }
    let (kind, cause) = match status.is_server_error() {
        true => (EndKind::Error, "error"),
        false => (EndKind::Refused, "refused"),
    };
    let reason = match failure.cause() {
        Some(cause) => format!("{}: {cause}", failure.sentence()),
        None => failure.sentence().to_owned(),
    };
    services.recent_ends.push(End {
        number: 0,
        at: Timestamp::now().to_string(),
        kind,
        table: if is_handshake { "websocket" } else { "http" }.to_owned(),
        route: label(table, scope),
        path: scope.path().into_owned(),
        client: scope.client.map(|client| client.to_string()),
        user: scope.user.as_ref().map(|user| user.name.clone()),
        code: status.as_u16(),
        cause: cause.to_owned(),
        reason,
        rule: None,
        id: scope.request_id.to_string(),
        seconds: None,
        messages: None,
        process: String::new(),
    });
}

/// Returns whether a failure is kept: for a request, one of the server or of a limit.
fn is_notable(status: StatusCode, is_handshake: bool) -> bool {
    let is_limit = matches!(
        status,
        StatusCode::REQUEST_TIMEOUT
            | StatusCode::PAYLOAD_TOO_LARGE
            | StatusCode::URI_TOO_LONG
            | StatusCode::TOO_MANY_REQUESTS
            | StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
    );
    let is_error = status.is_client_error() || status.is_server_error();
    status.is_server_error() || is_limit || (is_handshake && is_error)
}

/// Returns the label of the route of a scope, "" if no route matches.
fn label(table: &Table, scope: &Scope) -> String {
    if let Some(name) = &scope.url_route.name {
        return name.to_string();
    }
    let label = match scope.scope_type {
        ScopeType::Http => {
            let found = table.look_up(table.http(), scope);
            found.ok().map(|found| &found.route.value.label)
        }
        ScopeType::Websocket => {
            let found = table.look_up(table.websocket(), scope);
            found.ok().map(|found| &found.route.value.label)
        }
    };
    label.map(ToString::to_string).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_pages_and_logins_are_not_kept() {
        for (status, of_request, of_handshake) in [
            (302, false, false),
            (401, false, true),
            (403, false, true),
            (404, false, true),
            (413, true, true),
            (429, true, true),
            (500, true, true),
            (503, true, true),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(is_notable(status, false), of_request, "{status}");
            assert_eq!(is_notable(status, true), of_handshake, "{status}");
        }
    }
}
