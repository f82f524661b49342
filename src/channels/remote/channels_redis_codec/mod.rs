//! Codec: events as Django Channels writes them for Redis: msgpack or JSON, optionally encrypted.
//!
//! An event is JSON text on both sides of this folder, and is converted without values in between.
//! The sender refuses what the format cannot carry ([`EncodeError`]), before any member gets the
//! event: either all processes have it or none.

mod json_tokens;
mod msgpack;
mod to_json;
mod to_msgpack;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::error::Category;
use thiserror::Error;

use self::json_tokens::{Token, Tokens};
use super::fernet::Fernet;
use crate::channels::event::{EventError, Shown};
use crate::channels::{Event, LayerError, json_object};
use crate::config::Serializer;

/// The key under which a message of the core layer names its recipient channels.
const CHANNELS: &str = "__asgi_channel__";

/// The deepest nesting that is sent. Python's msgpack writes 511 levels or more, depending on its
/// version, and its JSON reads some 900.
const NESTING_SENT_MAX: usize = 511;

/// The deepest nesting that is read: as much as Python's msgpack reads.
const NESTING_READ_MAX: usize = 1024;

/// The most digits of an integer that Python reads in JSON.
const INTEGER_DIGITS_MAX: usize = 4300;

/// How much older than its expiry a message may be: the clocks of two machines differ.
pub(super) const CLOCK_DIFFERENCE: Duration = Duration::from_secs(10);

/// Reads and writes events in the format of `channels_redis`.
pub(crate) struct ChannelsRedisCodec {
    serializer: Serializer,
    keys: Vec<Fernet>,
    /// The maximum age of an encrypted event.
    max_age: AtomicU64,
}

/// An event in the format's serializer, before it is encrypted.
#[derive(Debug)]
pub(crate) struct EncodedEvent {
    /// The number of its fields.
    fields: usize,
    /// Its fields, without the head of the map or the closing brace: recipients may follow.
    content: Vec<u8>,
}

impl EncodedEvent {
    /// Returns the size in a queue.
    pub(crate) fn size(&self) -> usize {
        self.content.len()
    }
}

/// The reason why the format cannot carry an event.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub(crate) enum EncodeError {
    #[error("expected at most {NESTING_SENT_MAX} levels of nesting, found more")]
    Nesting,
    #[error("expected integers of 64 bits and floats of double precision, found {found}")]
    Number {
        /// Its first characters.
        found: String,
    },
    #[error("expected Unicode, found half a surrogate pair")]
    HalfSurrogate,
    #[error("expected no field {CHANNELS:?}, which names recipients")]
    Reserved,
}

impl EncodeError {
    fn number(found: &str) -> Self {
        let mut shown: String = found.chars().take(40).collect();
        if shown.len() < found.len() {
            shown.push_str("...");
        }
        Self::Number { found: shown }
    }
}

impl From<EncodeError> for LayerError {
    fn from(error: EncodeError) -> Self {
        Self::InvalidEvent {
            problem: error.to_string(),
        }
    }
}

/// The reason why a message could not be decoded.
#[derive(Debug, Error)]
pub(crate) enum DecodeError {
    #[error("encrypted with another key, or too old")]
    Undecryptable,
    #[error(transparent)]
    Malformed(#[from] Unreadable),
}

impl DecodeError {
    /// Returns the reason label of the metric that counts it.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "malformed",
            Self::Undecryptable => "undecryptable",
        }
    }
}

/// The fault of a message that is no event, for the log.
#[derive(Debug, Error)]
pub(crate) enum Unreadable {
    #[error("expected a dictionary")]
    NotADictionary,
    #[error("the message ends early")]
    Short,
    #[error("something follows the event")]
    MoreBehind,
    #[error("a byte that msgpack does not use")]
    Unused,
    #[error("JSON has no extensions of msgpack, such as times")]
    Extension,
    #[error("JSON has no NaN and no infinity")]
    NotFinite,
    #[error("JSON has no keys that are bytes, floats, lists or dictionaries")]
    Key,
    #[error("a text is not UTF-8")]
    NotUtf8,
    #[error("more than {NESTING_READ_MAX} levels of nesting")]
    Nesting,
    #[error("the recipients are not texts")]
    Recipients,
    #[error("no recipients")]
    NoRecipients,
    #[error("no random bytes before the event")]
    NoPrefix,
    #[error(transparent)]
    Event(#[from] EventError),
}

impl ChannelsRedisCodec {
    pub(crate) fn new(
        serializer: Serializer,
        keys: Vec<Fernet>,
        max_age: Option<Duration>,
    ) -> Self {
        Self {
            serializer,
            keys,
            max_age: max_age.map_or(0, |max_age| max_age.as_secs()).into(),
        }
    }

    /// Sets how long messages live, if their age is checked at all.
    pub(super) fn set_expiry(&self, expiry: Duration) {
        if self.max_age().is_some() {
            let max_age = (expiry + CLOCK_DIFFERENCE).as_secs();
            self.max_age.store(max_age, Ordering::Relaxed);
        }
    }

    fn max_age(&self) -> Option<Duration> {
        let seconds = self.max_age.load(Ordering::Relaxed);
        (seconds > 0).then(|| Duration::from_secs(seconds))
    }

    /// Writes an event in the format's serializer. Fails if it cannot carry the event.
    pub(crate) fn encode(&self, event: &Event) -> Result<EncodedEvent, EncodeError> {
        let frame = |key: &str, write: &dyn Fn(&mut Vec<u8>)| {
            let mut content = Vec::with_capacity(event.size() + 40);
            msgpack::write_text("type", &mut content);
            msgpack::write_text(event.event_type(), &mut content);
            msgpack::write_text(key, &mut content);
            write(&mut content);
            Ok(EncodedEvent { fields: 2, content })
        };
        match (self.serializer, event.shown()) {
            (Serializer::Msgpack, Shown::Text(json)) if event.is_json() => to_msgpack::encode(json),
            (Serializer::Msgpack, Shown::Text(text)) => {
                frame("text", &|out| msgpack::write_text(text, out))
            }
            (Serializer::Msgpack, Shown::Bytes(bytes)) => {
                frame("bytes", &|out| msgpack::write_bytes(bytes, out))
            }
            (Serializer::Json, _) => {
                let json = event.json();
                let fields = to_msgpack::lengths(&json)?.first().copied();
                check_integers(&json)?;
                let open = json.strip_suffix('}').unwrap_or(&json);
                Ok(EncodedEvent {
                    fields: fields.unwrap_or_default(),
                    content: open.as_bytes().to_vec(),
                })
            }
        }
    }

    /// Returns the message of an event, with its recipient channels if the layer puts them into the
    /// message.
    pub(crate) fn seal(&self, event: &EncodedEvent, channels: Option<&Recipients<'_>>) -> Vec<u8> {
        let content = match self.serializer {
            Serializer::Msgpack => msgpack_message(event, channels),
            Serializer::Json => json_message(event, channels),
        };
        match self.keys.first() {
            Some(key) => key.encrypt(&content),
            None => content,
        }
    }

    /// Reads an event, and its recipient channels if they are in the message.
    pub(crate) fn read(&self, bytes: &[u8]) -> Result<(Event, Vec<String>), DecodeError> {
        let decrypted;
        let content = if self.keys.is_empty() {
            bytes
        } else {
            let found = self
                .keys
                .iter()
                .find_map(|key| key.decrypt(bytes, self.max_age()));
            decrypted = found.ok_or(DecodeError::Undecryptable)?;
            &decrypted
        };
        Ok(match self.serializer {
            Serializer::Msgpack => to_json::event(content)?,
            Serializer::Json => read_json(content)?,
        })
    }
}

/// The recipient channels of a message of the core layer.
pub(crate) enum Recipients<'a> {
    /// Written as `send` writes it.
    One(&'a str),
    /// Written as `group_send` writes them.
    Several(&'a [&'a str]),
}

fn msgpack_message(event: &EncodedEvent, channels: Option<&Recipients<'_>>) -> Vec<u8> {
    let mut out = Vec::with_capacity(event.content.len() + 128);
    msgpack::write_map(event.fields + usize::from(channels.is_some()), &mut out);
    out.extend(&event.content);
    if channels.is_some() {
        msgpack::write_text(CHANNELS, &mut out);
    }
    match channels {
        None => {}
        Some(Recipients::One(name)) => msgpack::write_text(name, &mut out),
        Some(Recipients::Several(names)) => {
            msgpack::write_array(names.len(), &mut out);
            names
                .iter()
                .for_each(|name| msgpack::write_text(name, &mut out));
        }
    }
    out
}

fn json_message(event: &EncodedEvent, channels: Option<&Recipients<'_>>) -> Vec<u8> {
    let mut out = Vec::with_capacity(event.content.len() + 128);
    out.extend(&event.content);
    if let Some(channels) = channels {
        out.extend(format!(",\"{CHANNELS}\":").into_bytes());
        let _ = match channels {
            Recipients::One(name) => serde_json::to_writer(&mut out, name),
            Recipients::Several(names) => serde_json::to_writer(&mut out, names),
        }; // a Vec takes everything
    }
    out.push(b'}');
    out
}

/// Refuses integers that Python does not read.
fn check_integers(json: &str) -> Result<(), EncodeError> {
    let is_too_long = |token: &Token<'_>| {
        matches!(token, Token::Number(number)
            if number.len() > INTEGER_DIGITS_MAX && !number.contains(['.', 'e', 'E']))
    };
    match Tokens::new(json).find(is_too_long) {
        Some(Token::Number(number)) => Err(EncodeError::number(number)),
        _ => Ok(()),
    }
}

/// Reads an event that is JSON.
fn read_json(content: &[u8]) -> Result<(Event, Vec<String>), Unreadable> {
    let json = std::str::from_utf8(content).map_err(|_| Unreadable::NotUtf8)?;
    let (json, named) =
        json_object::without_member(json, CHANNELS).map_err(|error| fault(json, error))?;
    let event = Event::from_json(&json).map_err(|error| match error {
        EventError::Json(error) => fault(&json, error),
        error => error.into(),
    })?;
    let mut nesting = 0_usize;
    for token in Tokens::new(&json) {
        match token {
            Token::OpenObject | Token::OpenArray => nesting += 1,
            Token::CloseObject | Token::CloseArray => nesting = nesting.saturating_sub(1),
            _ => {}
        }
        if nesting > NESTING_READ_MAX {
            return Err(Unreadable::Nesting);
        }
    }
    let channels = match named {
        None => Vec::new(),
        Some(one) if one.starts_with('"') => {
            vec![serde_json::from_str(one).map_err(|_| Unreadable::Recipients)?]
        }
        Some(several) => serde_json::from_str(several).map_err(|_| Unreadable::Recipients)?,
    };
    Ok((event, channels))
}

/// Returns why a text is not the JSON of an object. Python writes numbers that JSON does not have.
fn fault(json: &str, error: serde_json::Error) -> Unreadable {
    let line = json.split('\n').nth(error.line().saturating_sub(1));
    let found = line.and_then(|line| line.as_bytes().get(error.column().checked_sub(1)?));
    match error.classify() {
        Category::Syntax if matches!(found, Some(b'N' | b'I')) => Unreadable::NotFinite,
        Category::Data => Unreadable::NotADictionary,
        Category::Eof => Unreadable::Short,
        Category::Syntax | Category::Io => EventError::Json(error).into(),
    }
}

#[cfg(test)]
mod tests;
