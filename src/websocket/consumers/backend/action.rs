//! Action: what a backend, or a worker behind a channel, wants to happen, read whole before any of it is done.

use data_encoding::BASE64;
use serde::Deserialize;
use serde::de::{Deserializer, Error};
use serde_json::{Map, Value};

use crate::channels::{Event, GroupName};
use crate::websocket::Message;
use crate::websocket::close::CloseCode;

/// What a backend, or a worker behind a channel, wants to happen.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "type")]
pub(super) enum Action {
    #[serde(rename = "websocket.accept")]
    Accept {
        #[serde(default)]
        subprotocol: Option<String>,
        #[serde(default)]
        headers: Vec<(String, String)>,
    },
    #[serde(rename = "websocket.send")]
    Send(#[serde(deserialize_with = "message")] Message),
    #[serde(rename = "websocket.close")]
    Close {
        #[serde(default, deserialize_with = "close_code")]
        code: Option<CloseCode>,
        #[serde(default)]
        reason: Option<String>,
    },
    #[serde(rename = "websocket.http.response")]
    Response {
        status: u16,
        #[serde(default)]
        headers: Vec<(String, String)>,
        #[serde(default)]
        body: String,
    },
    #[serde(rename = "group.add")]
    GroupAdd {
        #[serde(deserialize_with = "group")]
        group: GroupName,
        #[serde(default)]
        deliver: Deliver,
    },
    #[serde(rename = "group.discard")]
    GroupDiscard {
        #[serde(deserialize_with = "group")]
        group: GroupName,
    },
    #[serde(rename = "group.send")]
    GroupSend {
        #[serde(deserialize_with = "group")]
        group: GroupName,
        #[serde(deserialize_with = "event")]
        event: Event,
        #[serde(default)]
        exclude_self: bool,
    },
}

/// Who gets a group's events.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "snake_case")]
pub(super) enum Deliver {
    /// The client, as they are.
    #[default]
    Client,
    /// The backend, as `group.event`.
    Backend,
}

#[derive(Deserialize)]
struct Written {
    #[serde(default)]
    text: Option<String>,
    #[serde(default)]
    bytes: Option<String>,
}

fn message<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Message, D::Error> {
    let Written { text, bytes } = Written::deserialize(deserializer)?;
    match (text, bytes) {
        (Some(text), None) => Ok(text.into()),
        (None, Some(base64)) => match BASE64.decode(base64.as_bytes()) {
            Ok(bytes) => Ok(Message::binary(bytes)),
            Err(error) => Err(D::Error::custom(format!(
                "expected base64 in \"bytes\" of websocket.send: {error}"
            ))),
        },
        _ => Err(D::Error::custom(
            "expected exactly one of \"text\" and \"bytes\" in websocket.send, found another number",
        )),
    }
}

fn close_code<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<CloseCode>, D::Error> {
    let code = Option::<u16>::deserialize(deserializer)?;
    code.map(CloseCode::new)
        .transpose()
        .map_err(D::Error::custom)
}

fn group<'de, D: Deserializer<'de>>(deserializer: D) -> Result<GroupName, D::Error> {
    let text = String::deserialize(deserializer)?;
    GroupName::new(&text).map_err(|error| D::Error::custom(format!("group: {error}")))
}

fn event<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Event, D::Error> {
    let fields = Map::<String, Value>::deserialize(deserializer)?;
    Event::from_fields(fields)
        .map_err(|error| D::Error::custom(format!("event of group.send: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn effects_are_read_whole_or_refused() {
        let read = |text: &str| serde_json::from_str::<Action>(text);
        for good in [
            r#"{"type": "websocket.accept", "subprotocol": null, "headers": [["a", "b"]]}"#,
            r#"{"type": "websocket.send", "text": "hi", "bytes": null}"#,
            r#"{"type": "websocket.send", "bytes": "AP8="}"#,
            r#"{"type": "websocket.close"}"#,
            r#"{"type": "websocket.close", "code": null, "reason": null}"#,
            r#"{"type": "websocket.close", "code": 4000}"#,
            r#"{"type": "group.add", "group": "a", "deliver": "backend"}"#,
            r#"{"type": "group.discard", "group": "a"}"#,
            r#"{"type": "group.send", "group": "a", "event": {"type": "a.b"}, "exclude_self": true}"#,
        ] {
            read(good).unwrap_or_else(|error| panic!("{good}: {error}"));
        }
        for bad in [
            r#"{"type": "websocket.send"}"#,
            r#"{"type": "websocket.send", "text": "a", "bytes": "AP8="}"#,
            r#"{"type": "websocket.send", "bytes": "not base64"}"#,
            r#"{"type": "websocket.close", "code": 1006}"#,
            r#"{"type": "websocket.close", "code": 70000}"#,
            r#"{"type": "group.add", "group": "a b"}"#,
            r#"{"type": "group.add", "group": "a", "deliver": "nobody"}"#,
            r#"{"type": "group.discard"}"#,
            r#"{"type": "group.send", "group": "a", "event": {}}"#,
            r#"{"type": "group.send", "group": "a", "event": []}"#,
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
