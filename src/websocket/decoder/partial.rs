//! Partial: a frame or a message that has arrived in part.
//!
//! ```text
//!             ┌── next_header ──► begin ──► payload arrives ──► finish ──┐
//!             │                  (limits)   (message.take,               │
//!             │                             control)                     │
//!             └──────────────────────────────────────────────────────────┘
//!   `frame`:      None              Some                          None
//!   `message`:    None until its first fragment begins, Some until its last one is finished;
//!                 control frames pass in between
//! ```

use std::io::Cursor;

use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use super::{Item, Limits, Violation, into_message};
use crate::websocket::close::CloseCode;
use crate::websocket::deflate::{Inflater, Inflation};
use crate::websocket::extension::Deflate;
use crate::websocket::frame::{CONTROL_BYTES_MAX, unmask_into};

/// The longest header of a frame from a client: 2 octets, 8 of length, 4 of masking key.
const HEADER_BYTES_MAX: usize = 14;

/// The most bytes reserved before they have arrived: a header can claim any length at no cost.
const RESERVED_BYTES_MAX: usize = 16 * 1024;

/// A compressed message may be longer than the limit by this many bytes and by a sixty-fourth of
/// the limit.
const COMPRESSED_EXCESS: usize = 1024;

/// The part of a frame or message that has arrived.
#[derive(Debug)]
pub(super) struct Partial {
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
    /// The total of the payload lengths in its frames' headers.
    wire_bytes: usize,
    /// The number of leading bytes known to be valid UTF-8.
    valid: usize,
}

impl Partial {
    pub(super) fn new(deflate: Option<Deflate>) -> Self {
        Self {
            header: [0; HEADER_BYTES_MAX],
            header_len: 0,
            frame: None,
            control: Vec::new(),
            message: None,
            inflation: deflate.map(Inflation::new),
        }
    }

    pub(super) fn next(
        &mut self,
        input: &mut &[u8],
        limits: Limits,
    ) -> Result<Option<Item>, Violation> {
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

    /// Returns whether no frame or message is incomplete.
    pub(super) fn is_idle(&self) -> bool {
        self.header_len == 0 && self.frame.is_none() && self.message.is_none()
    }

    pub(super) fn unfinished_bytes(&self) -> usize {
        let message = self.message.as_ref();
        self.header_len + self.control.len() + message.map_or(0, |message| message.bytes.len())
    }

    /// Returns whether it holds the connection's inflating context.
    pub(super) fn keeps_context(&self) -> bool {
        let inflation = self.inflation.as_ref();
        inflation.is_some_and(Inflation::keeps_context)
    }

    /// Reads a header and makes the checks that depend on the header alone.
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
            // One that breaks a rule stays: `unfinished_bytes` has its length.
            let Some(message) = &mut self.message else {
                return Ok(None);
            };
            if let Some(mut inflater) = message.inflater.take() {
                inflater.finish(&mut message.bytes, limits.message_bytes_max)?;
                if let Some(inflation) = &mut self.inflation {
                    inflation.finish(inflater);
                }
            }
            message.check_text()?;
            if message.is_text && message.valid < message.bytes.len() {
                return Err(Violation::InvalidUtf8);
            }
            let Some(message) = self.message.take() else {
                return Ok(None);
            };
            let mut bytes = message.bytes;
            bytes.shrink_to_fit(); // it grew by doubling, and may wait long for its consumer
            return into_message(message.is_text, bytes)
                .map(|message| Some(Item::Message(message)));
        };
        let payload = std::mem::take(&mut self.control);
        match control {
            Control::Ping => Ok(Some(Item::Ping(payload.into()))),
            Control::Pong => Ok(Some(Item::Pong {
                bytes: payload.len(),
            })),
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
            // Compression makes random data slightly longer, and also data that is flushed often.
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

    /// Fails as soon as the bytes cannot be UTF-8. An incomplete character at the end is still
    /// accepted.
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
