//! Calls: parses the server API's calls from requests.

use super::response::ApiError;
use crate::channels::{ConnectionId, GroupName};
use crate::close_code::{CloseCode, REASON_BYTES_MAX};
use crate::scope::Scope;
use http::{HeaderValue, Method, StatusCode, header};

/// The maximum and the default number of connections in one page.
const PAGE_MAX: usize = 1000;
const PAGE: usize = 100;

/// One call.
#[derive(Clone, Debug)]
pub(super) enum Call {
    GroupSend(GroupName),
    Group(GroupName),
    ConnectionSend(ConnectionId),
    Connection(ConnectionId),
    ConnectionEnd(ConnectionId, CloseFrame),
    Connections(Filter),
    UserDisconnect(String),
    Batch,
    Info,
    Stats,
}

#[derive(Clone, Debug)]
pub(super) struct CloseFrame {
    pub(super) code: u16,
    pub(super) reason: String,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Filter {
    pub(super) user: Option<String>,
    pub(super) group: Option<GroupName>,
    pub(super) route: Option<String>,
    pub(super) cursor: Option<(u64, u64)>,
    pub(super) limit: usize,
}

impl Call {
    /// Parses a call from its method, path and query.
    pub(super) fn read(scope: &Scope, path: &str) -> Result<Self, ApiError> {
        let parts: Vec<&str> = path.split('/').collect();
        let method = match scope.method {
            Method::HEAD => Method::GET,
            ref method => method.clone(),
        };
        let (allowed, call): (&[Method], _) = match parts[..] {
            ["groups", group] => {
                let group = group_name(group)?;
                let call = match method {
                    Method::POST => Some(Self::GroupSend(group)),
                    Method::GET => Some(Self::Group(group)),
                    _ => None,
                };
                (&[Method::GET, Method::POST], call)
            }
            ["connections"] => {
                let call = match method {
                    Method::GET => Some(Self::Connections(Filter::read(scope)?)),
                    _ => None,
                };
                (&[Method::GET], call)
            }
            ["connections", id] => {
                let id = ConnectionId::read(id).ok_or_else(|| no_connection(id))?;
                let call = match method {
                    Method::POST => Some(Self::ConnectionSend(id)),
                    Method::GET => Some(Self::Connection(id)),
                    Method::DELETE => Some(Self::ConnectionEnd(id, close_frame(scope)?)),
                    _ => None,
                };
                (&[Method::GET, Method::POST, Method::DELETE], call)
            }
            // An id can contain slashes.
            ["users", ref id @ .., "disconnect"] if id.iter().any(|part| !part.is_empty()) => {
                let call = (method == Method::POST).then(|| Self::UserDisconnect(id.join("/")));
                (&[Method::POST], call)
            }
            ["batch"] => {
                let call = (method == Method::POST).then_some(Self::Batch);
                (&[Method::POST], call)
            }
            ["info"] => {
                let call = (method == Method::GET).then_some(Self::Info);
                (&[Method::GET], call)
            }
            ["stats"] => {
                let call = (method == Method::GET).then_some(Self::Stats);
                (&[Method::GET], call)
            }
            ["openapi.json"] => (&[Method::GET], None),
            _ => {
                return Err(ApiError::not_found(format!(
                    "expected a call such as \"groups/chat_lobby\", found {path:?}"
                )));
            }
        };
        call.ok_or_else(|| {
            let names: Vec<&str> = allowed.iter().map(Method::as_str).collect();
            let names = names.join(", ");
            let message = format!("expected {names}, found {}", scope.method);
            let allow = HeaderValue::from_str(&names).unwrap_or(HeaderValue::from_static("GET"));
            ApiError::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                message,
            )
            .with_header(header::ALLOW, allow)
        })
    }
}

pub(super) fn group_name(text: &str) -> Result<GroupName, ApiError> {
    GroupName::new(text)
        .map_err(|error| ApiError::bad_request("invalid_group", format!("group: {error}")))
}

pub(super) fn no_connection(id: &str) -> ApiError {
    ApiError::not_found(format!("no such connection: {id:?}"))
}

fn close_frame(scope: &Scope) -> Result<CloseFrame, ApiError> {
    let code = match scope.query("code") {
        None => None,
        Some(text) => Some(text.parse().map_err(|_| bad_code(&text))?),
    };
    checked_close(code, scope.query("reason").unwrap_or_default())
}

pub(super) fn checked_close(code: Option<u16>, reason: String) -> Result<CloseFrame, ApiError> {
    let code = code.unwrap_or(CloseCode::DISCONNECTED.get());
    CloseCode::new(code).map_err(|_| bad_code(&code.to_string()))?;
    if reason.len() > REASON_BYTES_MAX {
        let message = format!(
            "expected a reason of at most {REASON_BYTES_MAX} bytes, found {}",
            reason.len()
        );
        return Err(ApiError::bad_request("invalid_request", message));
    }
    Ok(CloseFrame { code, reason })
}

fn bad_code(found: &str) -> ApiError {
    let message =
        format!("expected a close code such as 4403 (3000 to 4999, or 1000), found {found:?}");
    ApiError::bad_request("invalid_request", message)
}

impl Filter {
    fn read(scope: &Scope) -> Result<Self, ApiError> {
        let invalid = |message: String| ApiError::bad_request("invalid_request", message);
        let mut filter = Self {
            limit: PAGE,
            ..Self::default()
        };
        for (key, value) in scope.query_pairs() {
            match key.as_str() {
                "user" => filter.user = Some(value),
                "route" => filter.route = Some(value),
                "group" => filter.group = Some(group_name(&value)?),
                "cursor" => {
                    let cursor = ConnectionId::read(&value);
                    let cursor = cursor.map(|after| (after.node, after.number));
                    let message = format!("expected the cursor of a page before, found {value:?}");
                    filter.cursor = Some(cursor.ok_or_else(|| invalid(message))?);
                }
                "limit" => {
                    let limit = value.parse().ok();
                    let limit = limit.filter(|limit| (1..=PAGE_MAX).contains(limit));
                    let message = format!("expected a limit from 1 to {PAGE_MAX}, found {value:?}");
                    filter.limit = limit.ok_or_else(|| invalid(message))?;
                }
                other => {
                    return Err(invalid(format!(
                        "expected user, group, route, cursor or limit, found {other:?}"
                    )));
                }
            }
        }
        Ok(filter)
    }
}
