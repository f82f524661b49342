//! Dictionary: an event as Django Channels writes it for Redis: msgpack or JSON, perhaps encrypted.

use std::time::Duration;

use data_encoding::BASE64;
use serde::ser::{Serialize, SerializeMap};
use serde_json::{Map, Number, Value};

use super::fernet::Fernet;
use crate::channels::Event;
use crate::channels::event::Shown;
use crate::config::Serializer;

/// The key of the channels that a message of the core layer is for.
pub(super) const CHANNELS: &str = "__asgi_channel__";

/// The deepest dictionary that is read.
const DEPTH_MAX: usize = 64;

/// How events are written.
pub(super) struct Dictionaries {
    serializer: Serializer,
    keys: Vec<Fernet>,
    /// How old an encrypted one may be.
    max_age: Option<Duration>,
}

/// Why what came is no event.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Unreadable {
    Malformed,
    Undecryptable,
}

impl Unreadable {
    /// Returns the reason it is counted under.
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Undecryptable => "undecryptable",
        }
    }
}

impl Dictionaries {
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

    /// Writes an event, with the channels it is for where the layer wants them in it.
    pub(super) fn write(&self, event: &Event, channels: Option<&Channels<'_>>) -> Vec<u8> {
        let written = Written { event, channels };
        let content = match self.serializer {
            // Neither can fail: all keys are texts, and memory is all they need.
            Serializer::Msgpack => rmp_serde::to_vec(&written).unwrap_or_default(),
            Serializer::Json => serde_json::to_vec(&written).unwrap_or_default(),
        };
        match self.keys.first() {
            Some(key) => key.encrypt(&content),
            None => content,
        }
    }

    /// Reads an event, and the channels it is for where they stand in it.
    pub(super) fn read(&self, bytes: &[u8]) -> Result<(Event, Vec<String>), Unreadable> {
        let decrypted;
        let content = if self.keys.is_empty() {
            bytes
        } else {
            let found = self
                .keys
                .iter()
                .find_map(|key| key.decrypt(bytes, self.max_age));
            decrypted = found.ok_or(Unreadable::Undecryptable)?;
            &decrypted
        };
        let read = match self.serializer {
            Serializer::Msgpack => {
                let mut rest = content;
                let read = rmpv::decode::read_value_with_max_depth(&mut rest, DEPTH_MAX).ok();
                read.filter(|read| rest.is_empty() && has_text_type(read))
                    .and_then(json)
            }
            Serializer::Json => serde_json::from_slice(content).ok(),
        };
        let Some(Value::Object(mut fields)) = read else {
            return Err(Unreadable::Malformed);
        };
        let channels = match fields.shift_remove(CHANNELS) {
            None => Vec::new(),
            Some(Value::String(one)) => vec![one],
            Some(Value::Array(several)) => several
                .into_iter()
                .map(|name| match name {
                    Value::String(name) => Ok(name),
                    _ => Err(Unreadable::Malformed),
                })
                .collect::<Result<_, _>>()?,
            Some(_) => return Err(Unreadable::Malformed),
        };
        let event = Event::from_fields(fields).map_err(|_| Unreadable::Malformed)?;
        Ok((event, channels))
    }
}

/// The channels that a message of the core layer is for.
pub(super) enum Channels<'a> {
    /// As `send` writes it.
    One(&'a str),
    /// As `group_send` writes them.
    Several(&'a [&'a str]),
}

/// An event as it is written: raw bytes are bytes where the format has them.
struct Written<'a> {
    event: &'a Event,
    channels: Option<&'a Channels<'a>>,
}

impl Serialize for Written<'_> {
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
                let fields = self.event.fields();
                let mut map = serializer.serialize_map(Some(fields.len() + more))?;
                for (key, value) in &fields {
                    map.serialize_entry(key, value)?;
                }
                map
            }
        };
        match self.channels {
            None => {}
            Some(Channels::One(name)) => map.serialize_entry(CHANNELS, name)?,
            Some(Channels::Several(names)) => map.serialize_entry(CHANNELS, names)?,
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

/// Bytes are no type, though they would make a text.
fn has_text_type(value: &rmpv::Value) -> bool {
    let mut entries = value.as_map().into_iter().flatten();
    entries.any(|(key, value)| key.as_str() == Some("type") && value.is_str())
}

/// A value as JSON has it: bytes become base64; only texts are keys; what JSON has no word for is refused.
fn json(value: rmpv::Value) -> Option<Value> {
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
            let items: Option<Vec<Value>> = items.into_iter().map(json).collect();
            Value::Array(items?)
        }
        rmpv::Value::Map(entries) => {
            let entries = entries.into_iter().map(|(key, value)| match key {
                rmpv::Value::String(key) => Some((key.into_str()?, json(value)?)),
                _ => None,
            });
            let entries: Option<Map<String, Value>> = entries.collect();
            Value::Object(entries?)
        }
        rmpv::Value::Ext(..) => return None,
    })
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER;

    use super::*;

    fn plain(serializer: Serializer) -> Dictionaries {
        Dictionaries::new(serializer, Vec::new(), None)
    }

    fn hex(text: &str) -> Vec<u8> {
        HEXLOWER.decode(text.as_bytes()).unwrap()
    }

    #[test]
    fn captured_dictionaries_are_written_byte_for_byte() {
        let event = Event::from_json(r#"{"type": "chat.message", "text": "hi"}"#).unwrap();
        let msgpack = plain(Serializer::Msgpack);
        let bare = "82a474797065ac636861742e6d657373616765a474657874a26869";
        assert_eq!(msgpack.write(&event, None), hex(bare));
        assert_eq!(
            msgpack.write(&event, Some(&Channels::Several(&["thumbnails"]))),
            hex(
                "83a474797065ac636861742e6d657373616765a474657874a26869b05f5f617367695f6368616e6e656c5f5f91aa7468756d626e61696c73"
            )
        );
        let name = "specific.00112233445566778899aabbccddeeff!3b0187a292984eca9cd95501a9ae9fab";
        let event = Event::from_json(r#"{"type": "x.y", "n": 1}"#).unwrap();
        let mut wanted = hex("83a474797065a3782e79a16e01b05f5f617367695f6368616e6e656c5f5fd94a");
        wanted.extend(name.as_bytes());
        let written = msgpack.write(&event, Some(&Channels::One(name)));
        assert_eq!(written, wanted);
        let (read, channels) = msgpack.read(&written).unwrap();
        assert_eq!(
            (read.fields(), channels),
            (event.fields(), vec![name.to_owned()])
        );
    }

    #[test]
    fn all_that_channels_redis_was_seen_to_write_is_read_and_written_again_byte_for_byte() {
        let vectors: Value =
            serde_json::from_str(include_str!("../../../tests/vectors/channels_redis.json"))
                .unwrap();
        let (msgpack, json) = (plain(Serializer::Msgpack), plain(Serializer::Json));
        let key = Fernet::new(vectors["encryption"]["key"].as_str().unwrap());
        let encrypted = Dictionaries::new(Serializer::Msgpack, vec![key], None);
        let mut messages = 0;
        for layer in ["core", "pubsub"] {
            let steps = vectors[layer].as_array().unwrap().iter();
            let commands = steps.flat_map(|step| step["commands"].as_array().unwrap());
            for command in commands {
                let arguments = command["args"].as_array().unwrap();
                let name = arguments[0]["text"].as_str().unwrap_or_default();
                let keys = arguments[1..].iter().filter_map(|key| key["text"].as_str());
                let bare = keys.clone().any(|key| key == "zeroc") || layer == "pubsub";
                if !["ZADD", "EVAL", "PUBLISH"].contains(&name) {
                    continue;
                }
                let written = arguments[1..].iter().filter_map(|argument| {
                    let bytes = argument["hex"].as_str().map(hex);
                    let text = argument["text"]
                        .as_str()
                        .map(|text| text.as_bytes().to_vec());
                    bytes.or(text.filter(|text| text.starts_with(b"{\"")))
                });
                for written in written {
                    let content = if bare { &written[..] } else { &written[12..] };
                    messages += 1;
                    if keys.clone().any(|key| key.starts_with("encc")) {
                        assert_eq!(encrypted.read(content).unwrap().0.event_type(), "a.b");
                        continue;
                    }
                    if content.starts_with(b"{") {
                        assert_eq!(json.read(content).unwrap().0.fields()["u"], "é");
                        continue;
                    }
                    let (event, channels) = msgpack.read(content).unwrap();
                    let names: Vec<&str> = channels.iter().map(String::as_str).collect();
                    let again = [
                        msgpack.write(&event, None),
                        msgpack.write(&event, Some(&Channels::Several(&names))),
                        msgpack.write(
                            &event,
                            names.first().map(|name| Channels::One(name)).as_ref(),
                        ),
                    ];
                    assert!(again.iter().any(|again| again == content), "{event:?}");
                }
            }
        }
        assert_eq!(messages, 22);
        for vector in vectors["serializer"].as_array().unwrap() {
            // What is no event is read as far as its type.
            let content = hex(vector["msgpack_hex"].as_str().unwrap());
            let has_type = vector["python"].as_str().unwrap().contains("'type'");
            assert_eq!(msgpack.read(&content).is_ok(), has_type, "{vector}");
        }
    }

    #[test]
    fn bytes_are_bytes_in_msgpack_and_base64_in_json() {
        let event = Event::bytes(vec![0, 255]);
        let written = plain(Serializer::Msgpack).write(&event, None);
        assert_eq!(
            written,
            hex("82a474797065ae776562736f636b65742e73656e64a56279746573c40200ff")
        );
        for serializer in [Serializer::Msgpack, Serializer::Json] {
            let dictionaries = plain(serializer);
            let (read, _) = dictionaries
                .read(&dictionaries.write(&event, None))
                .unwrap();
            assert_eq!(read.shown(), Shown::Bytes(&[0, 255]));
        }
    }

    #[test]
    fn junk_is_refused_and_says_why() {
        let msgpack = plain(Serializer::Msgpack);
        for junk in [
            "",
            "c1",
            "93010203",
            "80",
            "81a474797065", // it ends early
            "8101a3612e62", // a number for a key
            "82a474797065a3612e6201c0",
            "81a4747970650a",                             // a type that is no text
            "81a474797065d40100",                         // an extension
            "81a474797065a35f2e62",                       // a type that cannot be one
            "82a474797065a3612e62a178cb7ff8000000000000", // not a number
            "82a474797065a3612e62b05f5f617367695f6368616e6e656c5f5f05",
            "81a474797065c403612e62",         // bytes for a type
            "82a474797065a3612e62a178a2fffe", // a text that is no UTF-8
            "81a474797065a3612e62c0",         // something behind it
        ] {
            assert_eq!(
                msgpack.read(&hex(junk)).err(),
                Some(Unreadable::Malformed),
                "{junk}"
            );
        }
        let deep = [
            vec![0x82],
            hex("a474797065a3612e62a178"),
            vec![0x91; 5000],
            vec![0xc0],
        ]
        .concat();
        assert_eq!(msgpack.read(&deep).err(), Some(Unreadable::Malformed));
        assert_eq!(
            plain(Serializer::Json).read(b"[1]").err(),
            Some(Unreadable::Malformed)
        );
        let keys = |secret| Dictionaries::new(Serializer::Msgpack, vec![Fernet::new(secret)], None);
        let written = keys("one").write(&Event::text("x"), None);
        assert!(keys("one").read(&written).is_ok());
        assert_eq!(
            keys("two").read(&written).err(),
            Some(Unreadable::Undecryptable)
        );
        let both = Dictionaries::new(
            Serializer::Msgpack,
            vec![Fernet::new("two"), Fernet::new("one")],
            None,
        );
        assert!(both.read(&written).is_ok());
    }
}
