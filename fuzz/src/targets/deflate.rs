//! permessage-deflate against miniz_oxide, in both directions: the input is the payloads of messages,
//! each behind its length in one byte.

use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::{DecompressorOxide, decompress, inflate_flags};
use oneport::fuzzing::{Compressor, standalone_frame};
use oneport::websocket::decoder::{Decoder, Item, Limits};
use oneport::websocket::extension::{Deflate, DeflateSettings};

use crate::input::{reads, split_tail};

const LIMITS: Limits = Limits {
    message_bytes_max: 20_000,
    fragments_max: 64,
};

const TAIL: [u8; 4] = [0, 0, 0xFF, 0xFF];

pub fn run(data: &[u8]) {
    let (data, [size, choice]) = split_tail(data);
    let agreed = Deflate {
        server_window_bits: 9 + choice % 7,
        client_window_bits: 8 + (choice >> 3) % 8,
        server_context_takeover: choice & 0x40 != 0,
        client_context_takeover: choice & 0x80 != 0,
        names_server_window: true,
    };
    let messages = messages(data);
    inflate(agreed, &messages, size);
    compress(agreed, &messages, choice);
}

fn messages(mut data: &[u8]) -> Vec<&[u8]> {
    let mut messages = Vec::new();
    while let Some((length, rest)) = data.split_first() {
        let (message, rest) = rest.split_at(rest.len().min(usize::from(*length)));
        messages.push(message);
        data = rest;
    }
    messages
}

/// The payloads are what a client has compressed.
fn inflate(agreed: Deflate, messages: &[&[u8]], size: u8) {
    let mut decoder = Decoder::new(Some(agreed));
    // With takeover and a small window we refuse references that the other inflater takes.
    let is_exact = !agreed.client_context_takeover || agreed.client_window_bits == 15;
    let mut miniz = Miniz::default();
    for payload in messages {
        let mut frame = vec![0xC2, 0x80 | 126];
        frame.extend((payload.len() as u16).to_be_bytes());
        frame.extend([0; 4]);
        frame.extend_from_slice(payload);
        let mut found = Ok(None);
        for mut read in reads(&frame, size) {
            found = decoder.next(&mut read, LIMITS);
            if found.is_err() {
                break;
            }
        }
        if !agreed.client_context_takeover {
            miniz = Miniz::default();
        }
        let expected = miniz.inflate(payload);
        match (found, expected) {
            (Ok(Some(Item::Message(message))), Ok(expected)) => {
                assert!(message.as_bytes() == expected, "other bytes");
            }
            // zlib refuses a block with invalid codes when it uses them, which may be after the
            // message's end.
            (Ok(Some(Item::Message(message))), Err(before)) => {
                assert!(message.as_bytes() == before, "accepted by the server alone");
                return;
            }
            (Ok(found), _) => panic!("expected a message, found {found:?}"),
            (Err(_), Err(_)) => return,
            (Err(violation), Ok(expected)) => {
                assert!(
                    !is_exact || expected.len() > LIMITS.message_bytes_max,
                    "refused by the server alone: {violation:?}"
                );
                return;
            }
        }
    }
}

/// Another inflater, with everything that it has inflated since its window was empty.
#[derive(Default)]
struct Miniz {
    state: Box<DecompressorOxide>,
    history: Vec<u8>,
    /// Whether a byte of the stream has been read.
    is_open: bool,
}

impl Miniz {
    /// Inflates a message. Returns the bytes before the error if it is invalid.
    fn inflate(&mut self, payload: &[u8]) -> Result<Vec<u8>, Vec<u8>> {
        if payload.is_empty() && !self.is_open {
            return Ok(Vec::new()); // there is no stream that the tail could end
        }
        let input = [payload, &TAIL].concat();
        let mut rest = &input[..];
        let mut message = Vec::new();
        let flags = inflate_flags::TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF
            | inflate_flags::TINFL_FLAG_HAS_MORE_INPUT;
        loop {
            let start = self.history.len();
            let mut out = self.history.clone();
            out.resize(start + 200_000, 0);
            let (status, read, written) = decompress(&mut self.state, rest, &mut out, start, flags);
            out.truncate(start + written);
            message.extend_from_slice(&out[start..]);
            self.history = out;
            rest = &rest[read..];
            self.is_open |= read > 0;
            match status {
                // After a final block another stream may follow, unless the message ends with it.
                TINFLStatus::Done => {
                    *self = Self::default();
                    if rest.is_empty() || rest.len() == TAIL.len() {
                        return Ok(message);
                    }
                }
                TINFLStatus::NeedsMoreInput if rest.is_empty() => return Ok(message),
                TINFLStatus::HasMoreOutput => return Ok(message), // too long
                _ => return Err(message),
            }
        }
    }
}

/// The payloads are what the server sends.
fn compress(agreed: Deflate, messages: &[&[u8]], choice: u8) {
    let settings = DeflateSettings {
        threshold: 0,
        level: 1 + choice % 9,
        ..DeflateSettings::default()
    };
    let mut compressor = Compressor::new(agreed, &settings);
    let mut miniz = Miniz::default();
    // An empty message is never compressed.
    let messages = messages.iter().filter(|message| !message.is_empty());
    for (number, message) in messages.enumerate() {
        if choice & 0x40 == 0 || number % 5 == 4 {
            compressor.reset();
            miniz = Miniz::default();
        }
        let mut frame = Vec::new();
        compressor.encode(message, &mut frame);
        assert_eq!(frame[0], 0xC2);
        let found = miniz.inflate(payload_of(&frame));
        assert!(
            found.as_deref().ok() == Some(*message),
            "a peer reads other bytes"
        );
        assert!(payload_of(&frame).len() <= message.len() + 64, "grows");
        let mut frame = Vec::new();
        standalone_frame(agreed, &settings, message, &mut frame);
        let found = match frame[0] {
            0xC2 => Miniz::default().inflate(payload_of(&frame)),
            _ => Ok(payload_of(&frame).to_vec()),
        };
        assert!(
            found.as_deref().ok() == Some(*message),
            "a peer reads other bytes"
        );
    }
}

/// Returns the payload of a server's frame.
fn payload_of(frame: &[u8]) -> &[u8] {
    match frame[1] {
        126 => &frame[4..],
        127 => &frame[10..],
        _ => &frame[2..],
    }
}
