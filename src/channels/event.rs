//! Event: a dictionary with a `type`, sent to a group or a channel.

use std::borrow::Cow;
use std::fmt::Display;
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use thiserror::Error;

use super::json_object::{Member, members, with_member};
use crate::text::Text;

/// A dictionary with a `type`, sent to a group or a channel (Channels' layer message). Cheap to
/// clone.
///
/// Clients see it as JSON, byte for byte as its sender wrote it, except a `websocket.send` event
/// with `text`, or with `bytes` in base64: that they see as a frame.
///
/// ```
/// use oneport::channels::Event;
/// let event = Event::from_json(r#"{"type": "chat.message", "message": "hi"}"#).unwrap();
/// assert_eq!(event.event_type(), "chat.message");
/// assert_eq!(event.field("message").unwrap(), "hi");
/// ```
#[derive(Clone, Debug)]
pub struct Event(Arc<EventInner>);

#[derive(Debug)]
struct EventInner {
    event_type: Arc<str>,
    body: EventBody,
}

#[derive(Debug)]
enum EventBody {
    /// `{"type": "websocket.send", "text": ...}`.
    Text(Text),
    /// `{"type": "websocket.send", "bytes": ...}`.
    Bytes(Bytes),
    /// Any other event: an object without anything before or after its braces.
    Json(Text),
}

/// The form in which a client sees an event.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Shown<'a> {
    /// A text frame, or the data of a server-sent event.
    Text(&'a str),
    /// A binary frame.
    Bytes(&'a [u8]),
}

/// The reason why a dictionary is not an event.
#[derive(Debug, Error)]
pub enum EventError {
    /// It is not JSON, or has a field of the wrong kind.
    #[error("expected an event as JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// It is JSON, but not an object.
    #[error("expected an event as a JSON object, found {found}")]
    NotAnObject {
        /// The kind of value found.
        found: &'static str,
    },
    /// It has no type.
    #[error("expected an event with a \"type\", found none")]
    NoType,
    /// It has several types, and readers differ in which they take.
    #[error("expected an event with one \"type\", found several")]
    RepeatedType,
    /// Its type, or the text of a raw frame, has half a surrogate pair.
    #[error("expected Unicode in {name:?}, found half a surrogate pair")]
    NotUnicode {
        /// The name of the field.
        name: &'static str,
    },
    /// Its type is not allowed: Channels turns "." into "_" and refuses a leading "_".
    #[error("expected an event type that does not start with \".\" or \"_\", found {found:?}")]
    BadType {
        /// The type.
        found: String,
    },
    /// It is a raw frame without content, or with both kinds.
    #[error(
        "expected a websocket.send event with exactly one of \"text\" (a string) and \"bytes\" (base64)"
    )]
    BadFrame,
}

/// The memory of an event's three allocations besides their content: reference counts and allocator
/// overhead.
const ALLOCATIONS_BYTES: usize = 120;

/// The type of events that are raw frames.
pub(super) const SEND: &str = "websocket.send";

impl Event {
    /// Creates an event from a type and a value that serializes as a JSON object.
    pub fn new(event_type: &str, fields: &impl Serialize) -> Result<Self, EventError> {
        #[derive(Serialize)]
        struct Typed<'a, T> {
            r#type: &'a str,
            #[serde(flatten)]
            fields: &'a T,
        }
        check_type(event_type)?;
        let mut text = serde_json::to_string(&Typed {
            r#type: event_type,
            fields,
        })?;
        if event_type == SEND {
            return Self::from_json(&text);
        }
        text.shrink_to_fit(); // it may be kept for long
        Ok(Self::of(event_type, EventBody::Json(text.into())))
    }

    /// Reads an event from JSON, whose text it keeps.
    pub fn from_json(json: &str) -> Result<Self, EventError> {
        let json = json.trim_matches([' ', '\t', '\n', '\r']);
        let mut types = 0;
        let (mut event_type, mut text, mut bytes) = (None, None, None);
        let read = members(json, |member| {
            if member.is_named("type") {
                types += 1;
                event_type = Some(member);
            } else if member.is_named("text") {
                text = Some(member);
            } else if member.is_named("bytes") {
                bytes = Some(member);
            }
        });
        if let Err(error) = read {
            return Err(not_an_object(json, error));
        }
        let event_type = match event_type {
            Some(_) if types > 1 => return Err(EventError::RepeatedType),
            Some(found) if found.value.starts_with('"') => found
                .text()
                .ok_or(EventError::NotUnicode { name: "type" })?,
            _ => return Err(EventError::NoType),
        };
        check_type(&event_type)?;
        if event_type == SEND {
            return Self::frame(text, bytes);
        }
        Ok(Self::checked(&event_type, json.to_owned()))
    }

    /// Creates an event from a dictionary.
    pub fn from_fields(fields: &Map<String, Value>) -> Result<Self, EventError> {
        Self::from_json(&serde_json::to_string(fields)?)
    }

    /// Creates a raw text frame.
    pub fn text(text: impl Into<Text>) -> Self {
        Self::of(SEND, EventBody::Text(text.into()))
    }

    /// Creates a raw binary frame.
    pub fn bytes(bytes: impl Into<Bytes>) -> Self {
        Self::of(SEND, EventBody::Bytes(bytes.into()))
    }

    /// Returns the type.
    #[must_use]
    pub fn event_type(&self) -> &str {
        &self.0.event_type
    }

    /// Returns a field of the dictionary, and parses only that; the last one, if several have the
    /// name. `None` also for a value that [`Value`] cannot hold: a text with half a surrogate pair,
    /// or one nested more than 127 levels deep.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<Value> {
        let json = self.json();
        let mut found = None;
        members(&json, |member| {
            if member.is_named(name) {
                found = Some(member.value);
            }
        })
        .ok()?;
        serde_json::from_str(found?).ok()
    }

    /// Returns the event as JSON; the bytes of a raw frame are base64.
    #[must_use]
    pub fn json(&self) -> Cow<'_, str> {
        let frame = |name: &str, content: &str| {
            let content = Value::from(content);
            Cow::Owned(format!(r#"{{"type":"{SEND}","{name}":{content}}}"#))
        };
        match &self.0.body {
            EventBody::Text(text) => frame("text", text),
            EventBody::Bytes(bytes) => frame("bytes", &data_encoding::BASE64.encode(bytes)),
            EventBody::Json(text) => Cow::Borrowed(text),
        }
    }

    /// Returns the event as JSON, with a field whose value is a text without escapes. It replaces
    /// the event's own fields of that name.
    #[must_use]
    pub(crate) fn json_with(&self, name: &str, value: &dyn Display) -> String {
        with_member(&self.json(), name, value)
    }

    /// Returns the event as JSON that is embedded unchanged.
    #[must_use]
    pub(crate) fn raw_json(&self) -> Box<RawValue> {
        RawValue::from_string(self.json().into_owned()).unwrap_or_default() // it was read as JSON
    }

    /// Returns whether clients see the event as JSON, not as a raw frame.
    #[must_use]
    pub fn is_json(&self) -> bool {
        matches!(self.0.body, EventBody::Json(_))
    }

    /// Creates an event from JSON and its type.
    pub(super) fn of_type(event_type: &str, json: String) -> Result<Self, EventError> {
        check_type(event_type)?;
        if event_type == SEND {
            return Self::from_json(&json);
        }
        Ok(Self::checked(event_type, json))
    }

    /// Creates an event from a type and JSON that were checked: by this process or by another.
    pub(super) fn checked(event_type: &str, json: String) -> Self {
        Self::of(event_type, EventBody::Json(json.into()))
    }

    /// Returns the event as a client sees it.
    #[must_use]
    pub fn shown(&self) -> Shown<'_> {
        match &self.0.body {
            EventBody::Text(text) | EventBody::Json(text) => Shown::Text(text),
            EventBody::Bytes(bytes) => Shown::Bytes(bytes),
        }
    }

    /// Returns the size of the event in a queue.
    #[must_use]
    pub fn size(&self) -> usize {
        match self.shown() {
            Shown::Text(text) => text.len(),
            Shown::Bytes(bytes) => bytes.len(),
        }
    }

    /// Returns the memory that the event takes.
    pub(super) fn memory(&self) -> usize {
        size_of::<EventInner>() + ALLOCATIONS_BYTES + self.0.event_type.len() + self.size()
    }

    fn of(event_type: &str, body: EventBody) -> Self {
        Self(Arc::new(EventInner {
            event_type: event_type.into(),
            body,
        }))
    }

    fn frame(text: Option<Member<'_>>, bytes: Option<Member<'_>>) -> Result<Self, EventError> {
        let text = text.filter(|text| !text.is_null());
        let bytes = bytes.filter(|bytes| !bytes.is_null());
        match (text, bytes) {
            (Some(text), None) if text.value.starts_with('"') => match text.text() {
                Some(text) => Ok(Self::text(text.into_owned())),
                None => Err(EventError::NotUnicode { name: "text" }),
            },
            (None, Some(base64)) => base64
                .text()
                .and_then(|base64| decode_base64(&base64))
                .map(Self::bytes)
                .ok_or(EventError::BadFrame),
            _ => Err(EventError::BadFrame),
        }
    }
}

/// Returns why a text has no members.
fn not_an_object(json: &str, error: serde_json::Error) -> EventError {
    if !error.is_data() {
        return EventError::Json(error);
    }
    match serde_json::from_str::<IgnoredAny>(json) {
        Err(error) => EventError::Json(error),
        Ok(_) => EventError::NotAnObject { found: kind(json) },
    }
}

fn decode_base64(text: &str) -> Option<Vec<u8>> {
    use data_encoding::BASE64;
    BASE64.decode(text.as_bytes()).ok()
}

fn check_type(event_type: &str) -> Result<(), EventError> {
    if event_type.is_empty() {
        Err(EventError::NoType)
    } else if event_type.starts_with(['.', '_']) {
        Err(EventError::BadType {
            found: event_type.to_owned(),
        })
    } else {
        Ok(())
    }
}

fn kind(json: &str) -> &'static str {
    match json.as_bytes().first() {
        Some(b'n') => "null",
        Some(b't' | b'f') => "a boolean",
        Some(b'"') => "a string",
        Some(b'[') => "an array",
        Some(b'{') => "an object",
        _ => "a number",
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Texts of JSON values, with all that a conversion would change.
    fn json_values() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            Just(r#"null"#.to_owned()),
            Just("true".to_owned()),
            "-?(0|[1-9][0-9]{0,30})(\\.[0-9]{1,20})?([eE][+-]?[0-9]{1,4})?",
            r#""([a-z ü☕]|\\\\|\\"|\\/|\\n|\\u[0-9a-fA-F]{4}){0,8}""#,
        ];
        leaf.prop_recursive(6, 40, 6, |inner| {
            let name = r#""[a-c]{0,2}(\\u[dD]8[0-9a-f]{2})?""#;
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6)
                    .prop_map(|items| format!("[ {}\t]", items.join("\r\n,"))),
                prop::collection::vec((name, inner), 0..6).prop_map(|members| {
                    let members: Vec<String> = members
                        .iter()
                        .map(|(name, value)| format!("{name} : {value}"))
                        .collect();
                    format!("{{{}}}", members.join(","))
                }),
            ]
        })
    }

    proptest! {
        #[test]
        fn json_is_shown_byte_for_byte(value in json_values(), is_first in any::<bool>()) {
            let json = match is_first {
                true => format!(r#"{{"type":"a.b" , "x" :{value}}}"#),
                false => format!(r#"{{ "x":{value},"typ\u0065": "a.\u0062"}}"#),
            };
            let event = Event::from_json(&format!("\n {json}\t\r")).unwrap();
            prop_assert_eq!(event.shown(), Shown::Text(&json));
            prop_assert_eq!(event.event_type(), "a.b");
            prop_assert_eq!(event.field("x"), serde_json::from_str(&value).ok());
            let positioned = event.json_with("offset", &"1.2");
            let again = Event::from_json(&positioned).unwrap();
            prop_assert_eq!(again.field("offset").unwrap(), "1.2");
            prop_assert_eq!(again.field("x"), event.field("x"));
        }

        #[test]
        fn text_that_is_not_json_is_refused(value in json_values(), at in any::<prop::sample::Index>()) {
            let json = format!(r#"{{"type":"a.b","x":{value}}}"#);
            let mut cut = at.index(json.len());
            while !json.is_char_boundary(cut) {
                cut -= 1;
            }
            prop_assert!(Event::from_json(&json[..cut]).is_err());
        }
    }

    #[test]
    fn field_is_the_last_of_its_name() {
        let event = Event::from_json(r#"{"n":1,"type":"a.b","n":2,"big":1e400}"#).unwrap();
        assert_eq!(event.field("n").unwrap(), 2);
        assert_eq!(event.field("big"), None);
        assert_eq!(event.field("no"), None);
        assert_eq!(Event::text("a\"b").field("text").unwrap(), "a\"b");
        assert_eq!(Event::bytes(vec![0, 1]).field("bytes").unwrap(), "AAE=");
    }

    fn refuses(json: &str, sentence: &str) {
        let error = Event::from_json(json).unwrap_err().to_string();
        assert!(error.contains(sentence), "{json}: {error}");
    }

    #[test]
    fn events_without_a_good_type_are_refused() {
        refuses("{}", "with a \"type\"");
        refuses("[]", "found an array");
        refuses("{", "as JSON");
        refuses(r#"{"type": 1}"#, "with a \"type\"");
        refuses(r#"{"type": "a", "typ\u0065": "b"}"#, "found several");
        refuses(r#"{"type": "\ud800"}"#, "half a surrogate pair");
        refuses(
            r#"{"type": "websocket.send", "text": "\udc00"}"#,
            "half a surrogate pair",
        );
        refuses(r#"{"type": "_x"}"#, "does not start with");
        refuses(r#"{"type": ".x"}"#, "does not start with");
        refuses(r#"{"type": "websocket.send"}"#, "exactly one of");
        refuses(
            r#"{"type": "websocket.send", "bytes": "*"}"#,
            "exactly one of",
        );
    }

    #[test]
    fn websocket_send_is_shown_raw() {
        assert_eq!(
            Event::from_json(r#"{"type":"websocket.send","text":"a\"b"}"#)
                .unwrap()
                .shown(),
            Shown::Text("a\"b")
        );
        assert_eq!(
            Event::from_json(r#"{"type":"websocket.send","bytes":"AAE="}"#)
                .unwrap()
                .shown(),
            Shown::Bytes(&[0, 1])
        );
    }

    #[test]
    fn other_events_are_shown_as_their_json() {
        let event = Event::new(
            "chat.message",
            &serde_json::json!({"message": "hi", "user": null}),
        )
        .unwrap();
        assert_eq!(
            event.shown(),
            Shown::Text(r#"{"type":"chat.message","message":"hi","user":null}"#)
        );
        assert_eq!(event.field("user"), Some(Value::Null));
    }
}
