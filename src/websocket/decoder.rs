//! Decoder: turns a client's bytes into messages and control frames (RFC 6455 §5). It does no I/O.
//!
//! An unfragmented data frame that has arrived whole is decoded in the input buffer, with one copy
//! that unmasks it. Everything else (half a frame, a fragment, a control frame, a compressed
//! message) goes through a `Partial`, which is freed once no frame or message is incomplete: an
//! idle connection owns no buffer.

mod partial;

use bytes::Bytes;

use self::partial::Partial;
use super::close::{Cause, CloseCode, Ending};
use super::extension::Deflate;
use super::frame::unmask_into;
use super::message::{Message, Text};

/// The limits of a client's messages.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of one message.
    pub message_bytes_max: usize,
    /// Fragments of one message.
    pub fragments_max: usize,
}

/// A decoded item.
#[derive(Debug, Eq, PartialEq)]
pub enum Item {
    /// A whole message.
    Message(Message),
    /// A ping with its payload, which the pong repeats.
    Ping(Bytes),
    /// A pong.
    Pong {
        /// The bytes of its payload.
        bytes: usize,
    },
    /// The client's close frame; its code is 1005 if the frame has none.
    Close {
        /// Its code.
        code: CloseCode,
        /// Its reason.
        reason: String,
    },
}

/// A client's violation of the rules; each has its close code in `close.rs`.
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
    /// Exists while a frame or message is incomplete or, with context takeover, while a context is
    /// kept.
    partial: Option<Box<Partial>>,
}

impl Decoder {
    /// Creates a decoder for a new connection, with the negotiated compression.
    #[must_use]
    pub fn new(deflate: Option<Deflate>) -> Self {
        Self {
            deflate,
            partial: None,
        }
    }

    /// Frees an incomplete message and the inflating context: decoding has ended.
    pub fn free(&mut self) {
        self.partial = None;
    }

    /// Returns how many bytes of an incomplete frame or message have arrived, or of one that broke
    /// the rules: those of its payload, decompressed, and of a header.
    #[must_use]
    pub fn unfinished_bytes(&self) -> usize {
        let partial = self.partial.as_ref();
        partial.map_or(0, |partial| partial.unfinished_bytes())
    }

    /// Takes the next item from `input` and leaves the rest there. `None` when the input is used
    /// up.
    ///
    /// After a violation the decoder must not be used again.
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

/// Decodes an unfragmented, uncompressed data frame that has arrived whole. `None`: it is another
/// kind of frame, or not whole, and goes through `Partial`.
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

#[cfg(test)]
mod tests;
