//! ConnectResponse: the backend's decision on a handshake, from its response to
//! `websocket.connect`.

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use super::endpoint::{PostError, Refusal};
use super::handshake::Opening;
use super::protocol::BackendResponse;
use super::protocol::action::Action;
use crate::channels::GroupOptions;
use crate::client::ClientError;
use crate::http::Failure;
use crate::http::framing::is_framing;
use crate::websocket::{Accept, Denial};

/// The backend's decision on a handshake.
pub(super) enum ConnectResponse {
    /// Accepted, with the state and the actions for the open socket.
    Accept(Accept, Opening),
    Deny(Denial),
}

/// Whether the actions read so far contain `websocket.accept`. Without one the connection is still
/// accepted, but a `websocket.close` denies it.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Accepted {
    Implicitly,
    Explicitly,
}

impl ConnectResponse {
    /// Reads the decision. Fails with a sentence for the log if the response breaks the protocol.
    pub(super) fn from_response(
        response: BackendResponse,
        offered: &[String],
    ) -> Result<Self, String> {
        let mut accept = Accept::default();
        let mut accepted = Accepted::Implicitly;
        let mut actions = Vec::new();
        for action in response.actions {
            match action {
                Action::Accept {
                    subprotocol,
                    headers,
                } => {
                    accepted = Accepted::Explicitly;
                    if let Some(chosen) = &subprotocol
                        && !offered.contains(chosen)
                    {
                        return Err(format!(
                            "expected one of the subprotocols {offered:?}, found {chosen:?}"
                        ));
                    }
                    accept.subprotocol = subprotocol;
                    accept.headers = header_map(headers)?;
                }
                Action::Close { reason, .. } if accepted == Accepted::Implicitly => {
                    let reason = reason.filter(|reason| !reason.is_empty());
                    let sentence = reason.unwrap_or_else(|| "the connection was denied".to_owned());
                    return Ok(Self::Deny(Denial::forbidden(sentence)));
                }
                Action::Response {
                    status,
                    headers,
                    body,
                } if accepted == Accepted::Implicitly => {
                    return own_response(status, headers, body).map(Self::Deny);
                }
                Action::Response { .. } => {
                    return Err(
                        "websocket.accept and websocket.http.response exclude each other".into(),
                    );
                }
                other => {
                    if let Action::GroupAdd { group, .. } = &other {
                        accept.groups.push((group.clone(), GroupOptions::default()));
                    }
                    actions.push(other);
                }
            }
        }
        let state = response.state;
        Ok(Self::Accept(accept, Opening { state, actions }))
    }
}

/// Builds the denial of `websocket.http.response`.
fn own_response(
    status: u16,
    headers: Vec<(String, String)>,
    body: String,
) -> Result<Denial, String> {
    let status = StatusCode::from_u16(status).ok();
    let Some(status) = status.filter(|status| status.as_u16() >= 300) else {
        return Err("expected a status of 300 or more in websocket.http.response".into());
    };
    let mut denial = Denial::with_body(status, body);
    for (name, value) in &header_map(headers)? {
        if !is_framing(name) {
            denial = denial.with_header(name.clone(), value.clone());
        }
    }
    Ok(denial)
}

fn header_map(pairs: Vec<(String, String)>) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        let parsed = HeaderName::from_bytes(name.as_bytes());
        let (Ok(parsed), Ok(value)) = (parsed, HeaderValue::from_str(&value)) else {
            return Err(format!(
                "expected names and values of header fields in \"headers\", found {name:?}"
            ));
        };
        headers.append(parsed, value);
    }
    Ok(headers)
}

/// Returns the client's response when the endpoint gave no usable one.
pub(super) fn denial(error: PostError) -> Denial {
    let failure = |status, sentence: &'static str, error: &PostError| {
        Denial::of(Failure::new(status, sentence).because(error.to_string()))
    };
    match error {
        PostError::Client(ClientError::CircuitOpen { .. } | ClientError::Busy { .. }) => failure(
            StatusCode::SERVICE_UNAVAILABLE,
            "the application is unavailable",
            &error,
        )
        .with_header(header::RETRY_AFTER, HeaderValue::from_static("1")),
        PostError::Client(ClientError::Timeout { .. }) => failure(
            StatusCode::GATEWAY_TIMEOUT,
            "the application did not respond in time",
            &error,
        ),
        PostError::Refused(refusal) if refusal.status.is_client_error() => refused(&refusal),
        error => bad_gateway(&error.to_string()),
    }
}

/// Passes on the backend's own refusal (4xx), if its body is text.
fn refused(refusal: &Refusal) -> Denial {
    let content_type = refusal.headers.get(header::CONTENT_TYPE);
    let is_text = content_type
        .and_then(|value| value.to_str().ok())
        .is_none_or(|value| value.starts_with("text/") || value.contains("json"));
    let body = String::from_utf8(refusal.body.to_vec());
    match body {
        Ok(body) if is_text && !body.is_empty() => {
            let denial = Denial::with_body(refusal.status, body);
            match content_type {
                Some(value) => denial.with_header(header::CONTENT_TYPE, value.clone()),
                None => denial,
            }
        }
        _ => Denial::new(refusal.status, "the application denied the connection"),
    }
}

pub(super) fn bad_gateway(cause: &str) -> Denial {
    let sentence = "the application sent an invalid response";
    Denial::of(Failure::new(StatusCode::BAD_GATEWAY, sentence).because(cause.to_owned()))
}
