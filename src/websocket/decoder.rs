//! Decoder: a client's bytes in, messages and control frames out (RFC 6455 §5). It does no I/O.
//!
//! An unfragmented data frame that has arrived whole is decoded where it lies, with one copy that unmasks it.
//! Everything else (half a frame, a fragment, a control frame, a compressed message) goes through a `Partial`,
//! which is freed when nothing is incomplete: an idle connection owns no buffer.

use std::io::Cursor;

use bytes::Bytes;
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use super::close::{Cause, CloseCode, Ending};
use super::deflate::{Inflater, Inflation};
use super::extension::Deflate;
use super::frame::{CONTROL_BYTES_MAX, unmask_into};
use super::message::{Message, Text};

/// The longest header of a frame from a client: 2 octets, 8 of length, 4 of masking key.
const HEADER_BYTES_MAX: usize = 14;

/// The most bytes that are reserved before they have arrived: a length in a header costs nothing to claim.
const RESERVED_BYTES_MAX: usize = 16 * 1024;

/// A compressed message may be longer than the limit by this many bytes and by a sixty-fourth of the limit.
const COMPRESSED_EXCESS: usize = 1024;

/// The limits of a client's messages.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of one message.
    pub message_bytes_max: usize,
    /// Fragments of one message.
    pub fragments_max: usize,
}

/// What was decoded.
#[derive(Debug, Eq, PartialEq)]
pub enum Item {
    /// A whole message.
    Message(Message),
    /// A ping with its payload, which the pong repeats.
    Ping(Bytes),
    /// A pong.
    Pong,
    /// The client's close frame; its code is 1005 if the frame has none.
    Close {
        /// Its code.
        code: CloseCode,
        /// Its reason.
        reason: String,
    },
}

/// How a client broke the rules; each has its close code in `close.rs`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Violation {
    /// RFC 6455 was broken; the sentence names the rule.
    Protocol(&'static str),
    /// A text message, or the reason of a close frame, is not UTF-8.
    InvalidUtf8,
    /// A compressed message is not valid DEFLATE.
    InvalidDeflate,
    /// A message is longer than the route allows.
    TooBig {
        /// The route's limit in bytes.
        limit: usize,
    },
    /// A message has more fragments than the route allows.
    TooManyFragments {
        /// The route's limit.
        limit: usize,
    },
}

impl From<Violation> for Ending {
    fn from(violation: Violation) -> Self {
        match violation {
            Violation::Protocol(rule) => Self::with_reason(Cause::ProtocolError, rule),
            Violation::InvalidUtf8 => Self::of(Cause::InvalidUtf8),
            Violation::InvalidDeflate => Self::of(Cause::InvalidDeflate),
            Violation::TooBig { limit } => Self::over_limit(Cause::TooBig, limit),
            Violation::TooManyFragments { limit } => {
                Self::over_limit(Cause::TooManyFragments, limit)
            }
        }
    }
}

/// Turns a client's bytes into items.
#[derive(Debug)]
pub struct Decoder {
    deflate: Option<Deflate>,
    /// Exists while something is incomplete, or with context takeover while a context is kept.
    partial: Option<Box<Partial>>,
}

impl Decoder {
    /// A decoder at the start of a connection, with what was agreed about compression.
    #[must_use]
    pub fn new(deflate: Option<Deflate>) -> Self {
        Self {
            deflate,
            partial: None,
        }
    }

    /// Frees an incomplete message and the inflating context: nothing more is decoded.
    pub fn free(&mut self) {
        self.partial = None;
    }

    /// Takes the next item from `input` and leaves the rest there. `None` when the input is used up.
    ///
    /// After a violation the decoder must not be used any more.
    pub fn next(&mut self, input: &mut &[u8], limits: Limits) -> Result<Option<Item>, Violation> {
        if self
            .partial
            .as_ref()
            .is_none_or(|partial| partial.is_idle())
        {
            if input.is_empty() {
                return Ok(None);
            }
            if let Some(message) = whole_message(input, limits)? {
                return Ok(Some(Item::Message(message)));
            }
        }
        let deflate = self.deflate;
        let partial = self
            .partial
            .get_or_insert_with(|| Box::new(Partial::new(deflate)));
        let item = partial.next(input, limits)?;
        if partial.is_idle() && !partial.keeps_context() {
            self.partial = None;
        }
        Ok(item)
    }
}

/// Decodes an unfragmented, uncompressed data frame that has arrived whole. `None`: it is something else,
/// or not whole, and goes through `Partial`.
fn whole_message(input: &mut &[u8], limits: Limits) -> Result<Option<Message>, Violation> {
    let (first, second) = match **input {
        [first @ (0x81 | 0x82), second, ..] if second & 0x80 != 0 => (first, second),
        _ => return Ok(None),
    };
    let (header, length) = match second & 0x7F {
        127 => return Ok(None),
        126 => match input.get(2..4) {
            Some(length) => (8, usize::from(u16::from_be_bytes([length[0], length[1]]))),
            None => return Ok(None),
        },
        length => (6, usize::from(length)),
    };
    if input.len() < header {
        return Ok(None);
    }
    if length > limits.message_bytes_max {
        return Err(Violation::TooBig {
            limit: limits.message_bytes_max,
        });
    }
    let Some((frame, rest)) = input.split_at_checked(header + length) else {
        return Ok(None);
    };
    let (head, payload) = frame.split_at(header);
    let mut key = [
        head[header - 4],
        head[header - 3],
        head[header - 2],
        head[header - 1],
    ];
    let mut bytes = Vec::with_capacity(length);
    unmask_into(&mut bytes, payload, &mut key);
    *input = rest;
    into_message(first == 0x81, bytes).map(Some)
}

fn into_message(is_text: bool, bytes: Vec<u8>) -> Result<Message, Violation> {
    let bytes = Bytes::from(bytes);
    if is_text {
        Text::try_from(bytes)
            .map(Message::Text)
            .map_err(|_| Violation::InvalidUtf8)
    } else {
        Ok(Message::Binary(bytes))
    }
}

/// What has arrived of a frame or message that is incomplete.
#[derive(Debug)]
struct Partial {
    header: [u8; HEADER_BYTES_MAX],
    header_len: usize,
    frame: Option<Frame>,
    control: Vec<u8>,
    message: Option<Fragments>,
    inflation: Option<Inflation>,
}

/// A frame whose payload is arriving.
#[derive(Debug)]
struct Frame {
    opcode: OpCode,
    is_final: bool,
    key: [u8; 4],
    remaining: usize,
    is_compressed: bool,
}

/// A message whose fragments are arriving.
#[derive(Debug)]
struct Fragments {
    is_text: bool,
    bytes: Vec<u8>,
    count: usize,
    /// Inflates it, if it is compressed.
    inflater: Option<Box<Inflater>>,
    /// The payload bytes that its frames announced.
    wire_bytes: usize,
    /// How many of the bytes are known to be valid UTF-8.
    valid: usize,
}

impl Partial {
    fn new(deflate: Option<Deflate>) -> Self {
        Self {
            header: [0; HEADER_BYTES_MAX],
            header_len: 0,
            frame: None,
            control: Vec::new(),
            message: None,
            inflation: deflate.map(Inflation::new),
        }
    }

    fn next(&mut self, input: &mut &[u8], limits: Limits) -> Result<Option<Item>, Violation> {
        loop {
            if self.frame.is_none() {
                let Some(frame) = self.next_header(input)? else {
                    return Ok(None);
                };
                self.begin(frame, limits)?;
            }
            let Some(frame) = self.frame.as_mut() else {
                return Ok(None);
            };
            let (now, later) = input.split_at(frame.remaining.min(input.len()));
            *input = later;
            frame.remaining -= now.len();
            match (&frame.opcode, self.message.as_mut()) {
                (OpCode::Data(_), Some(message)) => {
                    message.take(now, &mut frame.key, limits)?;
                }
                _ => unmask_into(&mut self.control, now, &mut frame.key),
            }
            if frame.remaining > 0 {
                return Ok(None);
            }
            let item = self.finish(limits)?;
            if item.is_some() || input.is_empty() {
                return Ok(item);
            }
        }
    }

    /// Tells whether nothing is incomplete.
    fn is_idle(&self) -> bool {
        self.header_len == 0 && self.frame.is_none() && self.message.is_none()
    }

    fn keeps_context(&self) -> bool {
        let inflation = self.inflation.as_ref();
        inflation.is_some_and(Inflation::keeps_context)
    }

    /// Reads a header and checks it, as far as that needs nothing else.
    fn next_header(&mut self, input: &mut &[u8]) -> Result<Option<Frame>, Violation> {
        loop {
            let wanted = self.header_wanted();
            if self.header_len == wanted {
                break;
            }
            let Some((byte, rest)) = input.split_first() else {
                return Ok(None);
            };
            self.header[self.header_len] = *byte;
            self.header_len += 1;
            *input = rest;
            if self.header_len == 2 && self.header[1] & 0x80 == 0 {
                return Err(Violation::Protocol("expected a masked frame"));
            }
        }
        let parsed = FrameHeader::parse(&mut Cursor::new(&self.header[..self.header_len]));
        self.header_len = 0;
        let Ok(Some((header, length))) = parsed else {
            return Err(Violation::Protocol("expected a known opcode"));
        };
        if header.rsv2 || header.rsv3 {
            return Err(Violation::Protocol("expected reserved bits of zero"));
        }
        if let OpCode::Control(control) = header.opcode {
            if let Control::Reserved(_) = control {
                return Err(Violation::Protocol("expected a known opcode"));
            }
            if header.rsv1 {
                return Err(Violation::Protocol("expected reserved bits of zero"));
            }
            if !header.is_final {
                return Err(Violation::Protocol("expected a control frame in one piece"));
            }
            if length > CONTROL_BYTES_MAX as u64 {
                return Err(Violation::Protocol(
                    "expected a control frame of at most 125 bytes",
                ));
            }
        }
        if length > i64::MAX as u64 {
            return Err(Violation::Protocol("expected a length below 2^63"));
        }
        let key = header.mask.unwrap_or_default();
        Ok(Some(Frame {
            opcode: header.opcode,
            is_final: header.is_final,
            key,
            remaining: usize::try_from(length).unwrap_or(usize::MAX),
            is_compressed: header.rsv1,
        }))
    }

    /// Returns the length of the header, as far as it is known: the second octet decides.
    fn header_wanted(&self) -> usize {
        match (self.header_len, self.header[1] & 0x7F) {
            (0 | 1, _) => 2,
            (_, 126) => 8,
            (_, 127) => 14,
            _ => 6,
        }
    }

    /// Checks a frame's header against the incomplete message and the limits.
    fn begin(&mut self, frame: Frame, limits: Limits) -> Result<(), Violation> {
        if let OpCode::Data(data) = frame.opcode {
            match (data, &mut self.message) {
                (Data::Continue, None) => {
                    return Err(Violation::Protocol(
                        "expected a first fragment, found a continuation",
                    ));
                }
                (Data::Text | Data::Binary, Some(_)) => {
                    return Err(Violation::Protocol(
                        "expected a continuation, found a new message",
                    ));
                }
                (Data::Continue, Some(_)) if frame.is_compressed => {
                    return Err(Violation::Protocol(
                        "expected reserved bits of zero in a continuation",
                    ));
                }
                (Data::Continue, Some(_)) => {}
                (Data::Reserved(_), _) => {
                    return Err(Violation::Protocol("expected a known opcode"));
                }
                (data, none) => {
                    let inflater = match (frame.is_compressed, &mut self.inflation) {
                        (false, _) => None,
                        (true, Some(inflation)) => Some(inflation.begin()),
                        (true, None) => {
                            return Err(Violation::Protocol("expected reserved bits of zero"));
                        }
                    };
                    *none = Some(Fragments {
                        is_text: data == Data::Text,
                        bytes: Vec::new(),
                        count: 0,
                        inflater,
                        wire_bytes: 0,
                        valid: 0,
                    });
                }
            }
            if let Some(message) = &mut self.message {
                message.expect(frame.remaining, limits)?;
            }
        }
        self.frame = Some(frame);
        Ok(())
    }

    /// Handles a frame whose payload is complete.
    fn finish(&mut self, limits: Limits) -> Result<Option<Item>, Violation> {
        let Some(frame) = self.frame.take() else {
            return Ok(None);
        };
        let OpCode::Control(control) = frame.opcode else {
            if !frame.is_final {
                return Ok(None);
            }
            let Some(mut message) = self.message.take() else {
                return Ok(None);
            };
            if let Some(mut inflater) = message.inflater.take() {
                inflater.finish(&mut message.bytes, limits.message_bytes_max)?;
                if let Some(inflation) = &mut self.inflation {
                    inflation.finish(inflater);
                }
            }
            let mut bytes = message.bytes;
            bytes.shrink_to_fit(); // it grew by doubling, and may wait long for its consumer
            return into_message(message.is_text, bytes)
                .map(|message| Some(Item::Message(message)));
        };
        let payload = std::mem::take(&mut self.control);
        match control {
            Control::Ping => Ok(Some(Item::Ping(payload.into()))),
            Control::Pong => Ok(Some(Item::Pong)),
            Control::Close => close(&payload).map(Some),
            Control::Reserved(_) => Err(Violation::Protocol("expected a known opcode")),
        }
    }
}

impl Fragments {
    /// Counts a frame and checks the length that its header announces.
    fn expect(&mut self, frame_bytes: usize, limits: Limits) -> Result<(), Violation> {
        self.count += 1;
        if self.count > limits.fragments_max {
            return Err(Violation::TooManyFragments {
                limit: limits.fragments_max,
            });
        }
        let limit = limits.message_bytes_max;
        let wire_max = match self.inflater {
            None => limit,
            // Compression makes noise, and what is flushed often, a little longer.
            Some(_) => limit.saturating_add(limit / 64 + COMPRESSED_EXCESS),
        };
        if frame_bytes > wire_max - self.wire_bytes {
            return Err(Violation::TooBig { limit });
        }
        self.wire_bytes += frame_bytes;
        if self.inflater.is_none() {
            self.bytes.reserve(frame_bytes.min(RESERVED_BYTES_MAX));
        }
        Ok(())
    }

    /// Appends a part of a frame's payload.
    fn take(&mut self, payload: &[u8], key: &mut [u8; 4], limits: Limits) -> Result<(), Violation> {
        match &mut self.inflater {
            None => unmask_into(&mut self.bytes, payload, key),
            Some(inflater) => {
                inflater.inflate_masked(payload, key, &mut self.bytes, limits.message_bytes_max)?;
            }
        }
        self.check_text()
    }

    /// Fails as soon as the bytes cannot be UTF-8. An incomplete character at the end may still be completed.
    fn check_text(&mut self) -> Result<(), Violation> {
        if !self.is_text {
            return Ok(());
        }
        match std::str::from_utf8(&self.bytes[self.valid..]) {
            Ok(text) => self.valid += text.len(),
            Err(error) if error.error_len().is_none() => self.valid += error.valid_up_to(),
            Err(_) => return Err(Violation::InvalidUtf8),
        }
        Ok(())
    }
}

/// Reads a close frame's payload (RFC 6455 §5.5.1).
fn close(payload: &[u8]) -> Result<Item, Violation> {
    let Some((code, reason)) = payload.split_first_chunk::<2>() else {
        return match payload {
            [] => Ok(Item::Close {
                code: CloseCode::NO_STATUS,
                reason: String::new(),
            }),
            _ => Err(Violation::Protocol(
                "expected a close frame with no code or a whole one",
            )),
        };
    };
    let code = CloseCode::new(u16::from_be_bytes(*code))
        .map_err(|_| Violation::Protocol("expected a close code that may be sent"))?;
    let reason = std::str::from_utf8(reason).map_err(|_| Violation::InvalidUtf8)?;
    Ok(Item::Close {
        code,
        reason: reason.to_owned(),
    })
}

#[cfg(test)]
mod tests;
