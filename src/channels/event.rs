//! Event: a dictionary with a `type`, sent to a group or a channel.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use serde::Serialize;
use serde_json::{Map, Value};
use thiserror::Error;

use crate::text::Text;

/// A dictionary with a `type`, sent to a group or a channel (Channels' layer message). Cheap to
/// clone.
///
/// Clients see it as JSON, except a `websocket.send` event with `text`, or with `bytes` in base64:
/// that they see as a frame.
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
    /// Any other event; the fields are parsed when they are first needed.
    Json {
        text: Text,
        fields: OnceLock<Map<String, Value>>,
    },
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
const SEND: &str = "websocket.send";

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
        Ok(Self::of(
            event_type,
            EventBody::Json {
                text: text.into(),
                fields: OnceLock::new(),
            },
        ))
    }

    /// Reads an event from JSON.
    pub fn from_json(text: &str) -> Result<Self, EventError> {
        let fields = match serde_json::from_str(text)? {
            Value::Object(fields) => fields,
            other => {
                return Err(EventError::NotAnObject {
                    found: kind(&other),
                });
            }
        };
        Self::from_fields(fields)
    }

    /// Creates an event from a dictionary.
    pub fn from_fields(fields: Map<String, Value>) -> Result<Self, EventError> {
        let event_type: Arc<str> = match fields.get("type") {
            Some(Value::String(text)) => text.as_str().into(),
            _ => return Err(EventError::NoType),
        };
        check_type(&event_type)?;
        if &*event_type == SEND {
            return Self::frame(&fields);
        }
        let mut text = serde_json::to_string(&fields)?;
        text.shrink_to_fit(); // it may be kept for long
        Ok(Self::of(
            &event_type,
            EventBody::Json {
                text: text.into(),
                fields: OnceLock::from(fields),
            },
        ))
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

    /// Returns a field of the dictionary; raw frames have `text` only.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<Value> {
        match &self.0.body {
            EventBody::Text(text) if name == "text" => Some(Value::String(text.to_string())),
            EventBody::Json { text, fields } => fields
                .get_or_init(|| serde_json::from_str(text).unwrap_or_default())
                .get(name)
                .cloned(),
            EventBody::Text(_) | EventBody::Bytes(_) => {
                (name == "type").then(|| Value::String(SEND.to_owned()))
            }
        }
    }

    /// Returns the dictionary; the bytes of a raw frame are base64.
    #[must_use]
    pub fn fields(&self) -> Map<String, Value> {
        let frame = |name: &str, content: String| {
            let pair = |name: &str, value: String| (name.to_owned(), Value::String(value));
            Map::from_iter([pair("type", SEND.to_owned()), pair(name, content)])
        };
        match &self.0.body {
            EventBody::Text(text) => frame("text", text.to_string()),
            EventBody::Bytes(bytes) => frame("bytes", data_encoding::BASE64.encode(bytes)),
            EventBody::Json { text, fields } => fields
                .get_or_init(|| serde_json::from_str(text).unwrap_or_default())
                .clone(),
        }
    }

    /// Returns whether clients see the event as JSON, not as a raw frame.
    #[must_use]
    pub fn is_json(&self) -> bool {
        matches!(self.0.body, EventBody::Json { .. })
    }

    /// Creates an event from a type and JSON that another Oneport has checked.
    pub(super) fn checked(event_type: &str, json: String) -> Self {
        let (text, fields) = (json.into(), OnceLock::new());
        Self::of(event_type, EventBody::Json { text, fields })
    }

    /// Returns the event as a client sees it.
    #[must_use]
    pub fn shown(&self) -> Shown<'_> {
        match &self.0.body {
            EventBody::Text(text) | EventBody::Json { text, .. } => Shown::Text(text),
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

    /// Returns the event for a history: with its text alone. Fields are parsed again when needed.
    pub(super) fn compact(&self) -> Self {
        match &self.0.body {
            EventBody::Json { text, .. } => Self(Arc::new(EventInner {
                event_type: self.0.event_type.clone(),
                body: EventBody::Json {
                    text: text.clone(),
                    fields: OnceLock::new(),
                },
            })),
            EventBody::Text(_) | EventBody::Bytes(_) => self.clone(),
        }
    }

    /// Returns the memory that the event takes, without parsed fields.
    pub(super) fn memory(&self) -> usize {
        size_of::<EventInner>() + ALLOCATIONS_BYTES + self.0.event_type.len() + self.size()
    }

    fn of(event_type: &str, body: EventBody) -> Self {
        Self(Arc::new(EventInner {
            event_type: event_type.into(),
            body,
        }))
    }

    fn frame(fields: &Map<String, Value>) -> Result<Self, EventError> {
        match (fields.get("text"), fields.get("bytes")) {
            (Some(Value::String(text)), None | Some(Value::Null)) => Ok(Self::text(text.clone())),
            (None | Some(Value::Null), Some(Value::String(base64))) => decode_base64(base64)
                .map(Self::bytes)
                .ok_or(EventError::BadFrame),
            _ => Err(EventError::BadFrame),
        }
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

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
