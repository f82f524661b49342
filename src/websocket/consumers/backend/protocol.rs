//! Protocol: what is POSTed to a backend, and what it may answer.

use std::collections::BTreeMap;

use data_encoding::{BASE64, HEXLOWER};
use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderName, Version};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use sha2::Sha256;

use super::action::Action;
use crate::channels::Event;
use crate::scope::Scope;
use crate::websocket::Message;

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

/// A request's body.
#[derive(Serialize)]
struct Body<'a> {
    v: u8,
    connection: &'a Connection<'a>,
    scope: &'a RawValue,
    events: &'a [&'a RawValue],
}

/// Writes a request's body.
pub(super) fn body(connection: &Connection<'_>, scope: &RawValue, events: &[&RawValue]) -> Vec<u8> {
    let body = Body {
        v: VERSION,
        connection,
        scope,
        events,
    };
    serde_json::to_vec(&body).unwrap_or_default() // all of it is JSON already
}

/// Writes the body that says that a process began: connections of the same name and another node are gone.
pub(super) fn node_started(node: &str, name: &str) -> Vec<u8> {
    let event = json!({"seq": 0, "type": "oneport.node_started", "node": node, "name": name});
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

/// What a backend is told of a scope, in ASGI's words; of the header fields only those that are listed.
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
    json!({
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
        "root_path": scope.root_path.as_deref().unwrap_or_default(),
    })
}

/// A field's value as text: octets are taken for ISO 8859-1, as in ASGI servers.
fn latin1(value: &[u8]) -> String {
    match std::str::from_utf8(value) {
        Ok(text) => text.to_owned(),
        Err(_) => value.iter().map(|octet| char::from(*octet)).collect(),
    }
}

pub(super) fn connect_event(seq: u64) -> Value {
    json!({"seq": seq, "type": "websocket.connect"})
}

pub(super) fn receive_event(seq: u64, message: &Message) -> Value {
    match message {
        Message::Text(text) => {
            let text: &str = text.as_ref();
            json!({"seq": seq, "type": "websocket.receive", "text": text})
        }
        Message::Binary(bytes) => {
            json!({"seq": seq, "type": "websocket.receive", "bytes": BASE64.encode(bytes)})
        }
    }
}

pub(super) fn group_event(seq: u64, group: &str, event: &Event) -> Value {
    json!({"seq": seq, "type": "group.event", "group": group, "event": event.fields()})
}

pub(super) fn disconnect_event(seq: u64, code: u16, reason: &str, cause: &str) -> Value {
    json!({
        "seq": seq, "type": "websocket.disconnect", "code": code, "reason": reason, "cause": cause,
    })
}

/// Makes JSON that is written as it is.
pub(super) fn raw(value: &Value) -> Box<RawValue> {
    serde_json::value::to_raw_value(value).unwrap_or_default()
}

/// What a backend answers.
#[derive(Debug, Default, Deserialize)]
pub(super) struct BackendResponse {
    /// The last event that it handled; the later ones are sent again.
    #[serde(default)]
    pub(super) ack: Option<u64>,
    /// What it wants to be told with the next request.
    #[serde(default, deserialize_with = "given")]
    pub(super) state: Option<Box<RawValue>>,
    #[serde(default)]
    pub(super) events: Vec<Action>,
}

/// A state that is given: null, too, is one.
fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Box<RawValue>>, D::Error> {
    Box::<RawValue>::deserialize(deserializer).map(Some)
}

impl BackendResponse {
    /// Reads an answer; an empty one says nothing.
    pub(super) fn read(body: &[u8]) -> Result<Self, String> {
        if body.trim_ascii().is_empty() {
            return Ok(Self::default());
        }
        if body.trim_ascii_start().starts_with(b"[") {
            return Err("expected {\"events\": [...]}, found an array".to_owned());
        }
        let answer: Option<Self> = serde_json::from_slice(body).map_err(|error| {
            format!("expected {{\"events\": [...]}} with known events, found {error}")
        })?;
        Ok(answer.unwrap_or_default())
    }
}

impl BackendResponse {
    /// Says what is too much in it: of its actions, or its state.
    pub(super) fn excess(&self, (max_effects, max_state): (usize, usize)) -> Option<String> {
        let actions = self.events.len();
        if actions > max_effects {
            return Some(format!(
                "expected at most {max_effects} events, found {actions}"
            ));
        }
        let state = self.state.as_ref().map_or(0, |state| state.get().len());
        (state > max_state)
            .then(|| format!("expected a state of at most {max_state} bytes, found {state}"))
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
    fn answers_are_read_or_refused_with_the_place() {
        assert!(BackendResponse::read(b" ").unwrap().events.is_empty());
        assert!(BackendResponse::read(b"null").unwrap().events.is_empty());
        let answer = BackendResponse::read(
            br#"{"ack": 2, "state": {"n": 1}, "events": [{"type": "websocket.send", "text": "hi"}]}"#,
        )
        .unwrap();
        assert_eq!((answer.ack, answer.events.len()), (Some(2), 1));
        assert_eq!(answer.state.unwrap().get(), r#"{"n": 1}"#);
        assert_eq!(
            BackendResponse::read(br#"{"state": null}"#)
                .unwrap()
                .state
                .unwrap()
                .get(),
            "null"
        );
        assert!(BackendResponse::read(b"{}").unwrap().state.is_none());
        for bad in [
            "{",
            "[]",
            r#"{"events": 1}"#,
            r#"{"events": [{"type": "websocket.sned"}]}"#,
            r#"{"events": [{"type": "group.add"}]}"#,
            r#"{"ack": "x"}"#,
        ] {
            assert!(BackendResponse::read(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
