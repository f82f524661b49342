//! Protocol: the JSON between the server and a backend. `docs/BACKEND.md` documents it.
//!
//! A request is `{"v", "connection", "scope", "events"}`, a response `{"ack", "state", "events"}`.
//! To add an event type:
//!
//! | direction | where |
//! |---|---|
//! | to the backend, such as `websocket.receive` | a constructor in `event.rs`, called by `mod.rs` of the consumer |
//! | from the backend, such as `group.send` | a variant of `Action` in `action.rs`, an arm in `../executor.rs` |

pub(super) mod action;
pub(super) mod event;

use std::collections::BTreeMap;

use data_encoding::HEXLOWER;
use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderName, Version};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use sha2::Sha256;

use crate::scope::{Scope, TlsInfo};
use action::Action;

/// The version of the format.
const VERSION: u8 = 1;

/// The connection that a request is about.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Connection<'a> {
    pub(super) id: &'a str,
    pub(super) node: &'a str,
    pub(super) name: &'a str,
    pub(super) state: Option<&'a RawValue>,
}

/// How a connection ended, for `websocket.disconnect`.
#[derive(Clone, Debug)]
pub(super) struct Disconnect<'a> {
    pub(super) seq: u64,
    pub(super) code: u16,
    pub(super) reason: &'a str,
    pub(super) cause: &'static str,
}

#[derive(Serialize)]
struct RequestBody<'a> {
    v: u8,
    connection: &'a Connection<'a>,
    scope: &'a RawValue,
    events: &'a [&'a RawValue],
}

/// Serializes the body of a request.
pub(super) fn request_body(
    connection: &Connection<'_>,
    scope: &RawValue,
    events: &[&RawValue],
) -> Vec<u8> {
    let body = RequestBody {
        v: VERSION,
        connection,
        scope,
        events,
    };
    serde_json::to_vec(&body).unwrap_or_default() // its parts are JSON already
}

/// Serializes the body that announces the start of a process.
pub(super) fn node_started_body(node: &str, name: &str) -> Vec<u8> {
    let event = event::node_started(node, name);
    json!({"v": VERSION, "node": {"id": node, "name": name}, "events": [event]})
        .to_string()
        .into_bytes()
}

/// Returns the signature of a body: `t=UNIX,v1=HEX` over `UNIX.BODY`, with a `v1` for each secret.
pub(super) fn signature(secrets: &[String], unix_seconds: u64, body: &[u8]) -> String {
    let mut signature = format!("t={unix_seconds}");
    for secret in secrets {
        #[expect(clippy::expect_used, reason = "HMAC takes keys of any length")]
        let mut mac =
            <Hmac<Sha256> as KeyInit>::new_from_slice(secret.as_bytes()).expect("any length");
        mac.update(format!("{unix_seconds}.").as_bytes());
        mac.update(body);
        signature.push_str(",v1=");
        signature.push_str(&HEXLOWER.encode(&mac.finalize().into_bytes()));
    }
    signature
}

/// Describes a scope with ASGI's keys, and only with the listed header fields.
pub(super) fn scope(scope: &Scope, headers: &[HeaderName]) -> Value {
    let fields: Vec<[String; 2]> = scope
        .headers
        .iter()
        .filter(|(name, _)| headers.iter().any(|listed| listed == name))
        .map(|(name, value)| [name.to_owned(), latin1(value)])
        .collect();
    let params: BTreeMap<&str, &str> = scope.url_route.params.iter().collect();
    let server = scope.host.as_ref().map(|host| {
        let default = if scope.scheme() == "wss" { 443 } else { 80 };
        json!([host.name(), host.port().unwrap_or(default)])
    });
    let mut described = json!({
        "type": "websocket",
        "path": scope.path(),
        "raw_query": scope.query_string(),
        "http_version": match scope.http_version {
            Version::HTTP_2 => "2",
            Version::HTTP_10 => "1.0",
            _ => "1.1",
        },
        "scheme": scope.scheme(),
        "client": scope.client.map(|client| json!([client.ip().to_string(), client.port()])),
        "server": server,
        "headers": fields,
        "subprotocols": scope.subprotocols,
        "url_route": {"name": scope.url_route.name.as_deref(), "kwargs": params},
        "user": scope.user.as_deref(),
        "session": scope.session.as_ref().map(|session| Value::Object((*session.data()).clone())),
        "root_path": scope.root_path(),
    });
    if let Some(tls) = scope.tls() {
        described["extensions"] = json!({ "tls": extension(tls) });
    }
    described
}

/// Describes the encryption: ASGI's TLS extension, without the chain.
fn extension(tls: &TlsInfo) -> Value {
    let mut extension = json!({
        "tls_version": tls.tls_version,
        "cipher_suite": tls.cipher_suite,
        "server_name": tls.server_name,
        "client_cert_name": null,
    });
    if let Some(client) = &tls.client_certificate {
        extension["client_cert_name"] = json!(client.subject);
        extension["client_cert_issuer"] = json!(client.issuer);
        extension["client_cert_serial"] = json!(client.serial);
        extension["client_cert_fingerprint"] = json!(client.fingerprint);
    }
    extension
}

/// Decodes a field's value; bytes that are not UTF-8 are read as ISO 8859-1, as in ASGI servers.
fn latin1(value: &[u8]) -> String {
    match std::str::from_utf8(value) {
        Ok(text) => text.to_owned(),
        Err(_) => value.iter().map(|octet| char::from(*octet)).collect(),
    }
}

/// Converts a value to JSON that is embedded unchanged.
pub(super) fn raw(value: &impl Serialize) -> Box<RawValue> {
    serde_json::value::to_raw_value(value).unwrap_or_default()
}

/// The backend's response.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct BackendResponse {
    /// The last event that the backend handled; later ones are sent again.
    #[serde(default)]
    pub(super) ack: Option<u64>,
    /// The state to send with the next request. `null` is also a state.
    #[serde(default, deserialize_with = "present")]
    pub(super) state: Option<Box<RawValue>>,
    #[serde(default, rename = "events")]
    pub(super) actions: Vec<Action>,
}

/// The limits of a response.
#[derive(Clone, Copy, Debug)]
pub(super) struct ResponseLimits {
    pub(super) actions: usize,
    pub(super) state_bytes: usize,
}

/// Reads a value that is present, even if it is `null`.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Box<RawValue>>, D::Error> {
    Box::<RawValue>::deserialize(deserializer).map(Some)
}

impl BackendResponse {
    /// Parses a response. An empty body is a response without events.
    pub(crate) fn parse(body: &[u8]) -> Result<Self, String> {
        if body.trim_ascii().is_empty() {
            return Ok(Self::default());
        }
        if body.trim_ascii_start().starts_with(b"[") {
            return Err("expected {\"events\": [...]}, found an array".to_owned());
        }
        let response: Option<Self> = serde_json::from_slice(body)
            .map_err(|error| format!("invalid response from the backend: {error}"))?;
        Ok(response.unwrap_or_default())
    }

    /// Checks the response against the limits.
    pub(super) fn check(&self, limits: ResponseLimits) -> Result<(), String> {
        let actions = self.actions.len();
        if actions > limits.actions {
            return Err(format!(
                "expected at most {} events, found {actions}",
                limits.actions
            ));
        }
        let state = self.state.as_ref().map_or(0, |state| state.get().len());
        if state > limits.state_bytes {
            return Err(format!(
                "expected a state of at most {} bytes, found {state}",
                limits.state_bytes
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signature_is_an_hmac_over_time_and_body() {
        // printf '1700000000.{}' | openssl dgst -sha256 -hmac secret
        assert_eq!(
            signature(&["secret".to_owned()], 1_700_000_000, b"{}"),
            "t=1700000000,v1=b8569b78799ff9e3cbff0fc2d63a33a2b57f3282abd07c37ae5e8e7d79a5f163"
        );
        let both = signature(
            &["new".to_owned(), "secret".to_owned()],
            1_700_000_000,
            b"{}",
        );
        assert!(both.starts_with("t=1700000000,v1="));
        assert!(
            both.ends_with(",v1=b8569b78799ff9e3cbff0fc2d63a33a2b57f3282abd07c37ae5e8e7d79a5f163")
        );
    }

    #[test]
    fn responses_are_parsed_or_refused() {
        assert!(BackendResponse::parse(b" ").unwrap().actions.is_empty());
        assert!(BackendResponse::parse(b"null").unwrap().actions.is_empty());
        let response = BackendResponse::parse(
            br#"{"ack": 2, "state": {"n": 1}, "events": [{"type": "websocket.send", "text": "hi"}]}"#,
        )
        .unwrap();
        assert_eq!((response.ack, response.actions.len()), (Some(2), 1));
        assert_eq!(response.state.unwrap().get(), r#"{"n": 1}"#);
        assert_eq!(
            BackendResponse::parse(br#"{"state": null}"#)
                .unwrap()
                .state
                .unwrap()
                .get(),
            "null"
        );
        assert!(BackendResponse::parse(b"{}").unwrap().state.is_none());
        for bad in [
            "{",
            "[]",
            r#"{"events": 1}"#,
            r#"{"events": [{"type": "websocket.sned"}]}"#,
            r#"{"events": [{"type": "group.add"}]}"#,
            r#"{"ack": "x"}"#,
        ] {
            assert!(BackendResponse::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
