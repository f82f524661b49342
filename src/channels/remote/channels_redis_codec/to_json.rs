//! To JSON: an event in msgpack as JSON, as Python's `json.dumps` writes it, without spaces.

use data_encoding::BASE64;
use serde::Serialize;

use super::msgpack::Item;
use super::{CHANNELS, NESTING_READ_MAX, Unreadable};
use crate::channels::Event;
use crate::channels::event::{EventError, SEND};

/// Reads an event, and its recipient channels if there are any.
pub(super) fn event(content: &[u8]) -> Result<(Event, Vec<String>), Unreadable> {
    let mut input = content;
    let Item::Map(len) = Item::read(&mut input)? else {
        return Err(Unreadable::NotADictionary);
    };
    let mut read = EventRead::default();
    for _ in 0..len {
        read.pair(&mut input)?;
    }
    if !input.is_empty() {
        return Err(Unreadable::MoreBehind);
    }
    read.finish()
}

/// An event that is being read.
#[derive(Default)]
struct EventRead<'a> {
    event_type: Option<&'a str>,
    /// Without its closing brace.
    json: Vec<u8>,
    /// The content of a raw frame whose type came first. It is not written as JSON.
    frame: Option<FrameRead<'a>>,
    channels: Vec<String>,
}

#[derive(Default)]
struct FrameRead<'a> {
    text: Option<Item<'a>>,
    bytes: Option<Item<'a>>,
}

impl<'a> EventRead<'a> {
    fn pair(&mut self, input: &mut &'a [u8]) -> Result<(), Unreadable> {
        let key = Item::read(input)?;
        if key == Item::Text(CHANNELS) {
            self.channels = channels(input)?;
            return Ok(());
        }
        let at_value = *input;
        let value = Item::read(input)?;
        match (key, &mut self.frame) {
            (Item::Text("type"), _) => {
                let Item::Text(event_type) = value else {
                    return Err(EventError::NoType.into());
                };
                if self.event_type.replace(event_type).is_some() {
                    return Err(EventError::RepeatedType.into());
                }
                if event_type == SEND && self.json.is_empty() {
                    self.frame = Some(FrameRead::default());
                }
            }
            (Item::Text("text"), Some(frame)) if !value.has_items() => {
                frame.text = Some(value);
                return Ok(());
            }
            (Item::Text("bytes"), Some(frame)) if !value.has_items() => {
                frame.bytes = Some(value);
                return Ok(());
            }
            _ => {}
        }
        *input = at_value;
        self.json
            .push(if self.json.is_empty() { b'{' } else { b',' });
        write_key(key, &mut self.json)?;
        write_value(input, &mut self.json)
    }

    fn finish(mut self) -> Result<(Event, Vec<String>), Unreadable> {
        let event_type = self.event_type.ok_or(EventError::NoType)?;
        let event = match self.frame {
            Some(frame) => frame.event()?,
            None => {
                self.json.push(b'}');
                let json = String::from_utf8(self.json).map_err(|_| Unreadable::NotUtf8)?;
                Event::of_type(event_type, json)?
            }
        };
        Ok((event, self.channels))
    }
}

impl FrameRead<'_> {
    fn event(&self) -> Result<Event, EventError> {
        let present = |item: Option<Item<'_>>| !matches!(item, None | Some(Item::Nil));
        match (self.text, self.bytes) {
            (Some(Item::Text(text)), bytes) if !present(bytes) => Ok(Event::text(text.to_owned())),
            (text, Some(Item::Bytes(bytes))) if !present(text) => Ok(Event::bytes(bytes.to_vec())),
            (text, Some(Item::Text(base64))) if !present(text) => {
                let bytes = BASE64.decode(base64.as_bytes());
                bytes.map(Event::bytes).map_err(|_| EventError::BadFrame)
            }
            _ => Err(EventError::BadFrame),
        }
    }
}

fn channels(input: &mut &[u8]) -> Result<Vec<String>, Unreadable> {
    let len = match Item::read(input)? {
        Item::Text(name) => return Ok(vec![name.to_owned()]),
        Item::Array(len) => len,
        _ => return Err(Unreadable::Recipients),
    };
    let mut names = Vec::new();
    for _ in 0..len {
        match Item::read(input)? {
            Item::Text(name) => names.push(name.to_owned()),
            _ => return Err(Unreadable::Recipients),
        }
    }
    Ok(names)
}

/// An array or a map whose items are being written.
struct Open {
    is_map: bool,
    left: u32,
}

impl Open {
    fn close(&self) -> u8 {
        if self.is_map { b'}' } else { b']' }
    }
}

/// Takes a value and writes it. Without recursion: the nesting is the sender's choice.
fn write_value(input: &mut &[u8], out: &mut Vec<u8>) -> Result<(), Unreadable> {
    let mut open: Vec<Open> = Vec::new();
    loop {
        let item = Item::read(input)?;
        if let Item::Array(left) | Item::Map(left) = item {
            if open.len() + 1 >= NESTING_READ_MAX {
                return Err(Unreadable::Nesting);
            }
            let is_map = matches!(item, Item::Map(_));
            out.push(if is_map { b'{' } else { b'[' });
            open.push(Open { is_map, left });
        } else {
            write_scalar(item, out)?;
        }
        // An array or a map that has just begun has no comma before its first item.
        let mut is_first = item.has_items();
        loop {
            let Some(innermost) = open.last_mut() else {
                return Ok(());
            };
            if innermost.left > 0 {
                innermost.left -= 1;
                if !is_first {
                    out.push(b',');
                }
                if innermost.is_map {
                    write_key(Item::read(input)?, out)?;
                }
                break;
            }
            out.push(innermost.close());
            open.pop();
            is_first = false;
        }
    }
}

/// Writes a key and its colon. JSON has texts only; `json.dumps` converts some others.
fn write_key(key: Item<'_>, out: &mut Vec<u8>) -> Result<(), Unreadable> {
    match key {
        Item::Text(_) => write_scalar(key, out)?,
        Item::Nil | Item::Bool(_) | Item::Unsigned(_) | Item::Negative(_) => {
            out.push(b'"');
            write_scalar(key, out)?;
            out.push(b'"');
        }
        _ => return Err(Unreadable::Key),
    }
    out.push(b':');
    Ok(())
}

fn write_scalar(item: Item<'_>, out: &mut Vec<u8>) -> Result<(), Unreadable> {
    match item {
        Item::Nil => out.extend(b"null"),
        Item::Bool(value) => write_json(&value, out),
        Item::Unsigned(number) => write_json(&number, out),
        Item::Negative(number) => write_json(&number, out),
        Item::Float(number) if !number.is_finite() => return Err(Unreadable::NotFinite),
        Item::Float(number) => write_json(&number, out),
        Item::Text(text) => write_json(text, out),
        Item::Bytes(bytes) => write_json(&BASE64.encode(bytes), out),
        Item::Array(_) | Item::Map(_) => {}
    }
    Ok(())
}

fn write_json<T: Serialize + ?Sized>(value: &T, out: &mut Vec<u8>) {
    let _ = serde_json::to_writer(out, value); // a Vec takes everything
}
