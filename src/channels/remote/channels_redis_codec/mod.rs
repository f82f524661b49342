//! Codec: events as Django Channels writes them for Redis: msgpack or JSON, optionally encrypted.

use std::time::Duration;

use data_encoding::BASE64;
use serde::ser::{Serialize, SerializeMap};
use serde_json::{Map, Number, Value};

use super::fernet::Fernet;
use crate::channels::Event;
use crate::channels::event::Shown;
use crate::config::Serializer;

/// The key under which a message of the core layer names its recipient channels.
pub(super) const CHANNELS: &str = "__asgi_channel__";

/// The deepest nesting accepted.
const DEPTH_MAX: usize = 64;

/// Reads and writes events in the format of `channels_redis`.
pub(super) struct ChannelsRedisCodec {
    serializer: Serializer,
    keys: Vec<Fernet>,
    /// The maximum age of an encrypted event.
    max_age: Option<Duration>,
}

/// The reason why a message could not be decoded.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum DecodeError {
    Malformed,
    Undecryptable,
}

impl DecodeError {
    /// Returns the reason label of the metric that counts it.
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Undecryptable => "undecryptable",
        }
    }
}

impl ChannelsRedisCodec {
    pub(super) fn new(
        serializer: Serializer,
        keys: Vec<Fernet>,
        max_age: Option<Duration>,
    ) -> Self {
        Self {
            serializer,
            keys,
            max_age,
        }
    }

    /// Writes an event, and its recipient channels if the layer puts them into the message.
    pub(super) fn write(&self, event: &Event, channels: Option<&Recipients<'_>>) -> Vec<u8> {
        let written = EventDictionary { event, channels };
        let content = match self.serializer {
            // Cannot fail: all keys are strings.
            Serializer::Msgpack => rmp_serde::to_vec(&written).unwrap_or_default(),
            Serializer::Json => serde_json::to_vec(&written).unwrap_or_default(),
        };
        match self.keys.first() {
            Some(key) => key.encrypt(&content),
            None => content,
        }
    }

    /// Reads an event, and its recipient channels if they are in the message.
    pub(super) fn read(&self, bytes: &[u8]) -> Result<(Event, Vec<String>), DecodeError> {
        let decrypted;
        let content = if self.keys.is_empty() {
            bytes
        } else {
            let found = self
                .keys
                .iter()
                .find_map(|key| key.decrypt(bytes, self.max_age));
            decrypted = found.ok_or(DecodeError::Undecryptable)?;
            &decrypted
        };
        let read = match self.serializer {
            Serializer::Msgpack => {
                let mut rest = content;
                let read = rmpv::decode::read_value_with_max_depth(&mut rest, DEPTH_MAX).ok();
                read.filter(|read| rest.is_empty() && has_text_type(read))
                    .and_then(to_json)
            }
            Serializer::Json => serde_json::from_slice(content).ok(),
        };
        let Some(Value::Object(mut fields)) = read else {
            return Err(DecodeError::Malformed);
        };
        let channels = match fields.shift_remove(CHANNELS) {
            None => Vec::new(),
            Some(Value::String(one)) => vec![one],
            Some(Value::Array(several)) => several
                .into_iter()
                .map(|name| match name {
                    Value::String(name) => Ok(name),
                    _ => Err(DecodeError::Malformed),
                })
                .collect::<Result<_, _>>()?,
            Some(_) => return Err(DecodeError::Malformed),
        };
        let event = Event::from_fields(&fields).map_err(|_| DecodeError::Malformed)?;
        Ok((event, channels))
    }
}

/// The recipient channels of a message of the core layer.
pub(super) enum Recipients<'a> {
    /// Written as `send` writes it.
    One(&'a str),
    /// Written as `group_send` writes them.
    Several(&'a [&'a str]),
}

/// An event to write. Raw bytes are written as bytes if the format has them.
struct EventDictionary<'a> {
    event: &'a Event,
    channels: Option<&'a Recipients<'a>>,
}

impl Serialize for EventDictionary<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let is_binary = !serializer.is_human_readable();
        let more = usize::from(self.channels.is_some());
        let mut map = match self.event.shown() {
            Shown::Bytes(bytes) if is_binary => {
                let mut map = serializer.serialize_map(Some(2 + more))?;
                map.serialize_entry("type", self.event.event_type())?;
                map.serialize_entry("bytes", &Binary(bytes))?;
                map
            }
            _ => {
                let fields: Map<String, Value> =
                    serde_json::from_str(&self.event.json()).unwrap_or_default();
                let mut map = serializer.serialize_map(Some(fields.len() + more))?;
                for (key, value) in &fields {
                    map.serialize_entry(key, value)?;
                }
                map
            }
        };
        match self.channels {
            None => {}
            Some(Recipients::One(name)) => map.serialize_entry(CHANNELS, name)?,
            Some(Recipients::Several(names)) => map.serialize_entry(CHANNELS, names)?,
        }
        map.end()
    }
}

struct Binary<'a>(&'a [u8]);

impl Serialize for Binary<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

/// Returns whether the type is a string. Bytes would become one in [`to_json`].
fn has_text_type(value: &rmpv::Value) -> bool {
    let mut entries = value.as_map().into_iter().flatten();
    entries.any(|(key, value)| key.as_str() == Some("type") && value.is_str())
}

/// Converts a value to JSON. Bytes become base64. Refuses keys that are not strings, and values
/// that JSON does not have.
fn to_json(value: rmpv::Value) -> Option<Value> {
    Some(match value {
        rmpv::Value::Nil => Value::Null,
        rmpv::Value::Boolean(value) => value.into(),
        rmpv::Value::Integer(value) => match value.as_u64() {
            Some(value) => value.into(),
            None => value.as_i64()?.into(),
        },
        rmpv::Value::F32(value) => Value::Number(Number::from_f64(value.into())?),
        rmpv::Value::F64(value) => Value::Number(Number::from_f64(value)?),
        rmpv::Value::String(text) => text.into_str()?.into(),
        rmpv::Value::Binary(bytes) => BASE64.encode(&bytes).into(),
        rmpv::Value::Array(items) => {
            let items: Option<Vec<Value>> = items.into_iter().map(to_json).collect();
            Value::Array(items?)
        }
        rmpv::Value::Map(entries) => {
            let entries = entries.into_iter().map(|(key, value)| match key {
                rmpv::Value::String(key) => Some((key.into_str()?, to_json(value)?)),
                _ => None,
            });
            let entries: Option<Map<String, Value>> = entries.collect();
            Value::Object(entries?)
        }
        rmpv::Value::Ext(..) => return None,
    })
}

#[cfg(test)]
mod tests;
