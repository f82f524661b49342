//! Decide: what a backend's answer to `websocket.connect` means for the handshake.

use http::{HeaderName, HeaderValue, StatusCode, header};
use serde_json::value::RawValue;

use super::action::Action;
use super::endpoint::PostError;
use super::protocol::BackendResponse;
use crate::channels::GroupOptions;
use crate::http::Failure;
use crate::http::framing::is_framing;
use crate::websocket::{Accept, Denial};

/// Yes: with the state, and what shall happen once the socket is open.
type Welcome = (Accept, Option<Box<RawValue>>, Vec<Action>);

/// Reads the decision out of the answer to `websocket.connect`.
///
/// The outer error says why it cannot be used.
pub(super) fn decide(
    answer: BackendResponse,
    offered: &[String],
) -> Result<Result<Welcome, Denial>, String> {
    let mut accept = Accept::default();
    let mut is_accepted = false; // in so many words
    let mut actions = Vec::new();
    for action in answer.events {
        match action {
            Action::Accept {
                subprotocol,
                headers,
            } => {
                is_accepted = true;
                if let Some(chosen) = &subprotocol
                    && !offered.contains(chosen)
                {
                    return Err(format!(
                        "expected one of the subprotocols {offered:?}, found {chosen:?}"
                    ));
                }
                accept.subprotocol = subprotocol;
                accept.headers = fields(headers)?;
            }
            Action::Close { reason, .. } if !is_accepted => {
                let reason = reason.filter(|reason| !reason.is_empty());
                let sentence = reason.unwrap_or_else(|| "the connection was denied".to_owned());
                return Ok(Err(Denial::forbidden(sentence)));
            }
            Action::Response {
                status,
                headers,
                body,
            } if !is_accepted => {
                let status = StatusCode::from_u16(status).ok();
                let status = status.filter(|status| status.as_u16() >= 300);
                let Some(status) = status else {
                    return Err(
                        "expected a status of 300 or more in websocket.http.response".into(),
                    );
                };
                let mut denial = Denial::with_body(status, body);
                for (name, value) in &fields(headers)? {
                    if !is_framing(name) {
                        denial = denial.with_header(name.clone(), value.clone());
                    }
                }
                return Ok(Err(denial));
            }
            Action::Response { .. } => {
                return Err(
                    "expected either websocket.accept or websocket.http.response, found both"
                        .into(),
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
    Ok(Ok((accept, answer.state, actions)))
}

fn fields(pairs: Vec<(String, String)>) -> Result<http::HeaderMap, String> {
    let mut fields = http::HeaderMap::new();
    for (name, value) in pairs {
        let name = HeaderName::from_bytes(name.as_bytes());
        let (Ok(name), Ok(value)) = (name, HeaderValue::from_str(&value)) else {
            return Err("expected names and values of header fields, found others".to_owned());
        };
        fields.append(name, value);
    }
    Ok(fields)
}

/// What the client hears when the endpoint gave no usable answer.
pub(super) fn denial(error: PostError) -> Denial {
    let unavailable = |sentence: &'static str, error: &PostError| {
        let failure = Failure::new(StatusCode::SERVICE_UNAVAILABLE, sentence);
        let failure = failure.because(error.to_string());
        Denial::of(failure).with_header(header::RETRY_AFTER, HeaderValue::from_static("1"))
    };
    match error {
        PostError::CircuitOpen(_) | PostError::Busy(_) => {
            unavailable("the application is away", &error)
        }
        PostError::Timeout(_) => Denial::of(
            Failure::new(
                StatusCode::GATEWAY_TIMEOUT,
                "the application did not answer in time",
            )
            .because(error.to_string()),
        ),
        PostError::Refused(refusal) if refusal.status.is_client_error() => {
            let content_type = refusal.headers.get(header::CONTENT_TYPE);
            let is_text = content_type
                .and_then(|value| value.to_str().ok())
                .is_none_or(|value| value.starts_with("text/") || value.contains("json"));
            let body = String::from_utf8(refusal.body.to_vec());
            match body {
                Ok(body) if is_text && !body.is_empty() => {
                    let mut denial = Denial::with_body(refusal.status, body);
                    if let Some(value) = content_type {
                        denial = denial.with_header(header::CONTENT_TYPE, value.clone());
                    }
                    denial
                }
                _ => Denial::new(refusal.status, "the application denied the connection"),
            }
        }
        error => bad_gateway(&error.to_string()),
    }
}

pub(super) fn bad_gateway(cause: &str) -> Denial {
    let sentence = "the application gave no answer that can be used";
    Denial::of(Failure::new(StatusCode::BAD_GATEWAY, sentence).because(cause.to_owned()))
}
