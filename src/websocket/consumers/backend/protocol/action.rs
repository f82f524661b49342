//! Action: an event from a backend, or from a worker behind a channel, that the server carries out.
//!
//! A response is parsed completely before any of its actions is carried out (`../executor.rs`).

use data_encoding::BASE64;
use serde::Deserialize;
use serde::de::{Deserializer, Error};
use serde_json::{Map, Value};

use crate::channels::{Event, GroupName};
use crate::websocket::Message;
use crate::websocket::close::CloseCode;

/// An event from a backend, or from a worker behind a channel.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "type")]
pub(in super::super) enum Action {
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

/// The receiver of a group's events.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "snake_case")]
pub(in super::super) enum Deliver {
    /// The client, unchanged.
    #[default]
    Client,
    /// The backend, as `group.event`.
    Backend,
}

#[derive(Deserialize)]
struct Content {
    #[serde(default)]
    text: Option<String>,
    #[serde(default)]
    bytes: Option<String>,
}

fn message<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Message, D::Error> {
    let Content { text, bytes } = Content::deserialize(deserializer)?;
    match (text, bytes) {
        (Some(text), None) => Ok(text.into()),
        (None, Some(base64)) => match BASE64.decode(base64.as_bytes()) {
            Ok(bytes) => Ok(Message::binary(bytes)),
            Err(error) => Err(D::Error::custom(format!(
                "websocket.send: \"bytes\" is not base64: {error}"
            ))),
        },
        _ => Err(D::Error::custom(
            "websocket.send: expected either \"text\" or \"bytes\"",
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
    fn actions_are_parsed_whole_or_refused() {
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
