//! Action: an event from a backend, or from a worker behind a channel, that the server carries out.
//!
//! A response is parsed completely before any of its actions is carried out (`../executor.rs`).

use std::borrow::Cow;

use data_encoding::BASE64;
use serde::Deserialize;
use serde::de::{Deserializer, Error};
use serde_json::value::RawValue;

use crate::channels::{Event, GroupName};
use crate::websocket::Message;
use crate::websocket::close::CloseCode;

/// An event from a backend, or from a worker behind a channel.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "type", remote = "Self")]
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
    GroupSend(#[serde(deserialize_with = "by_itself")] GroupSend),
}

/// An event for a group.
#[derive(Clone, Debug)]
pub(in super::super) struct GroupSend {
    pub(in super::super) group: GroupName,
    pub(in super::super) event: Event,
    pub(in super::super) exclude_self: bool,
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

/// serde converts the values of a tagged enum's fields. The event of a `group.send` stays as it is
/// written, so it is read before.
fn by_itself<'de, D: Deserializer<'de>>(_: D) -> Result<GroupSend, D::Error> {
    Err(D::Error::custom("group.send is read by itself"))
}

impl<'de> Deserialize<'de> for Action {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Kind<'a> {
            #[serde(borrow, rename = "type")]
            kind: Cow<'a, str>,
        }
        #[derive(Deserialize)]
        struct WrittenGroupSend<'a> {
            #[serde(deserialize_with = "group")]
            group: GroupName,
            #[serde(borrow)]
            event: &'a RawValue,
            #[serde(default)]
            exclude_self: bool,
        }
        let json = <&RawValue>::deserialize(deserializer)?.get();
        let kind: Kind<'_> = serde_json::from_str(json).map_err(D::Error::custom)?;
        if kind.kind != "group.send" {
            let mut other = serde_json::Deserializer::from_str(json);
            return Self::deserialize(&mut other).map_err(D::Error::custom);
        }
        let written: WrittenGroupSend<'_> = serde_json::from_str(json).map_err(D::Error::custom)?;
        let event = Event::from_json(written.event.get())
            .map_err(|error| D::Error::custom(format!("event of group.send: {error}")))?;
        Ok(Self::GroupSend(GroupSend {
            group: written.group,
            event,
            exclude_self: written.exclude_self,
        }))
    }
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
    #[test]
    fn event_of_an_action_stays_as_it_is_written() {
        let deep = format!("{}{}", "[".repeat(500), "]".repeat(500));
        let event = format!(r#"{{"type":"a.b", "n":1e2,"x":"\ud800","deep":{deep}}}"#);
        let json = format!(r#"{{"group":"a","typ\u0065":"group.send","event": {event} }}"#);
        let Ok(Action::GroupSend(found)) = serde_json::from_str(&json) else {
            panic!("expected group.send");
        };
        assert_eq!(found.event.json(), event);
    }
}
