//! FrameBoundaries: finds the ends of the frames in one direction of a tunnel, from their headers
//! alone (RFC 6455 §5.2).
//!
//! ```text
//!   Header ── the last byte of a header ──► Payload ── the last byte of a frame ──► Header
//!      │                                                        │
//!      └── a frame without a payload ── Header        of a close frame: Closed
//! ```
//!
//! No payload is unmasked or copied, except that of a close frame, for the log. Whether a frame is
//! valid is decided by the peer that receives it.

/// The longest header: two bytes, a length of eight, a key of four.
const HEADER_BYTES_MAX: usize = 14;

/// The longest payload of a close frame (RFC 6455 §5.5).
const CLOSE_BYTES_MAX: usize = 125;

const FIN: u8 = 0x80;
const OPCODE: u8 = 0x0F;
const CONTINUATION: u8 = 0x0;
const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xA;

/// The position of one direction's bytes among its frames.
#[derive(Clone, Debug, Default)]
pub(crate) struct FrameBoundaries {
    /// The bytes of the current frame's payload that have not passed yet.
    left: u64,
    /// The header of the current frame.
    header: [u8; HEADER_BYTES_MAX],
    /// How many of its bytes have passed; 0 between two frames.
    header_len: u8,
    /// The close frame, from its header on.
    close: Option<Box<CloseFrame>>,
    /// Set once the close frame has passed; no frame may follow it.
    is_closed: bool,
    messages: u32,
    pings: u16,
    fragments: u16,
}

/// The payload of a close frame, unmasked.
#[derive(Clone, Debug, Default)]
struct CloseFrame {
    key: Option<[u8; 4]>,
    payload: Vec<u8>,
}

impl FrameBoundaries {
    /// Follows bytes to the end of the close frame, or to their end. Returns how many belong to the
    /// frames up to there.
    pub(crate) fn pass(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        while at < bytes.len() && !self.is_closed {
            at += self.pass_some(&bytes[at..]);
        }
        at
    }

    /// Follows bytes to the end of the current frame; none between two frames. Returns how many
    /// they are.
    pub(crate) fn pass_frame(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        while at < bytes.len() && !self.is_at_boundary() {
            at += self.pass_some(&bytes[at..]);
        }
        at
    }

    /// Follows bytes to the end of the next frame, or to their end. Returns how many they are; none
    /// after a close frame.
    pub(super) fn pass_one(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        while at < bytes.len() && !self.is_closed {
            at += self.pass_some(&bytes[at..]);
            if self.is_at_boundary() {
                break;
            }
        }
        at
    }

    /// Returns whether the bytes that have passed end with a frame, so that another may follow.
    pub(crate) fn is_at_boundary(&self) -> bool {
        self.header_len == 0
    }

    /// Returns whether a close frame has passed.
    pub(crate) fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// Returns the code and the reason of the close frame that has passed; no code if it has none.
    pub(crate) fn close(&self) -> Option<(Option<u16>, String)> {
        let close = self.close.as_ref().filter(|_| self.is_closed)?;
        Some(match close.payload.split_first_chunk() {
            Some((code, reason)) => (
                Some(u16::from_be_bytes(*code)),
                String::from_utf8_lossy(reason).into_owned(),
            ),
            None => (None, String::new()),
        })
    }

    /// Returns the number of messages whose last header has passed since the last call.
    pub(crate) fn take_messages(&mut self) -> u32 {
        std::mem::take(&mut self.messages)
    }

    /// Returns the number of pings whose header has passed since the last call.
    pub(super) fn take_pings(&mut self) -> u16 {
        std::mem::take(&mut self.pings)
    }

    /// Returns the number of frames whose header has passed since the last call, and that are
    /// neither the last one of a message nor a ping, a pong or a close frame.
    pub(super) fn take_fragments(&mut self) -> u16 {
        std::mem::take(&mut self.fragments)
    }

    /// Follows a part of a header or of a payload.
    fn pass_some(&mut self, bytes: &[u8]) -> usize {
        let passed = match self.left {
            0 => self.pass_header(bytes),
            left => {
                let count = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                if let Some(close) = &mut self.close {
                    close.append(&bytes[..count]);
                }
                self.left -= count as u64;
                count
            }
        };
        let needed = header_len(&self.header, self.header_len);
        if self.left == 0 && self.header_len == needed {
            self.header_len = 0;
            self.is_closed = self.close.is_some();
        }
        passed
    }

    fn pass_header(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        loop {
            let needed = header_len(&self.header, self.header_len);
            let len = usize::from(self.header_len);
            let missing = usize::from(needed) - len;
            if missing == 0 {
                self.start_payload();
                return at;
            }
            let count = missing.min(bytes.len() - at);
            if count == 0 {
                return at;
            }
            self.header[len..len + count].copy_from_slice(&bytes[at..at + count]);
            self.header_len += count as u8;
            at += count;
        }
    }

    /// The header is complete.
    fn start_payload(&mut self) {
        let [first, second, rest @ ..] = self.header;
        let (length, key_at) = match second & 0x7F {
            127 => {
                let [a, b, c, d, e, f, g, h, ..] = rest;
                (u64::from_be_bytes([a, b, c, d, e, f, g, h]), 8)
            }
            126 => (u64::from(u16::from_be_bytes([rest[0], rest[1]])), 2),
            length => (u64::from(length), 0),
        };
        self.left = length;
        match first & OPCODE {
            CONTINUATION | TEXT | BINARY if first & FIN != 0 => {
                self.messages = self.messages.saturating_add(1);
            }
            CLOSE => {
                let key = rest[key_at..].first_chunk().copied();
                self.close = Some(Box::new(CloseFrame {
                    key: key.filter(|_| second & 0x80 != 0),
                    payload: Vec::new(),
                }));
            }
            PING => self.pings = self.pings.saturating_add(1),
            PONG => {}
            _ => self.fragments = self.fragments.saturating_add(1),
        }
    }
}

impl CloseFrame {
    fn append(&mut self, bytes: &[u8]) {
        let room = CLOSE_BYTES_MAX - self.payload.len().min(CLOSE_BYTES_MAX);
        for byte in &bytes[..bytes.len().min(room)] {
            let mask = self.key.map_or(0, |key| key[self.payload.len() % 4]);
            self.payload.push(byte ^ mask);
        }
    }
}

/// Returns the length of a header of which `known` bytes are known; two, if not even those are.
fn header_len(header: &[u8; HEADER_BYTES_MAX], known: u8) -> u8 {
    if known < 2 {
        return 2;
    }
    let length = match header[1] & 0x7F {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    let key = if header[1] & 0x80 != 0 { 4 } else { 0 };
    2 + length + key
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::websocket::CloseCode;
    use crate::websocket::frame::{Opcode, encode, encode_close};

    /// One frame, and its bytes.
    fn frame(first: u8, key: Option<[u8; 4]>, payload: &[u8]) -> Vec<u8> {
        let mut clear = Vec::new();
        encode(Opcode::Binary, payload, &mut clear);
        let header = clear.len() - payload.len();
        clear[0] = first;
        let Some(key) = key else { return clear };
        clear[1] |= 0x80;
        let masked = payload.iter().enumerate();
        let masked: Vec<u8> = masked.map(|(at, byte)| byte ^ key[at % 4]).collect();
        [&clear[..header], &key, &masked].concat()
    }

    fn frames() -> impl Strategy<Value = Vec<Vec<u8>>> {
        let length = prop_oneof![
            Just(0_usize),
            1..126_usize,
            Just(125_usize),
            Just(126_usize),
            126..400_usize,
            Just(0xFFFF_usize),
            Just(0x1_0000_usize),
        ];
        let first = prop_oneof![
            Just(0x81_u8),
            Just(0x02),
            Just(0x00),
            Just(0x80),
            Just(0xC2)
        ];
        let key = prop::option::of(any::<[u8; 4]>());
        prop::collection::vec((first, key, length), 0..6).prop_map(|frames| {
            let frames = frames.into_iter();
            frames
                .map(|(first, key, length)| frame(first, key, &vec![0x88; length]))
                .collect()
        })
    }

    proptest! {
        /// Wherever the bytes are split, the boundaries are where the frames end.
        #[test]
        fn any_split_has_the_same_boundaries(
            frames in frames(),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
        ) {
            let bytes = frames.concat();
            let mut ends = std::collections::BTreeSet::from([0]);
            let mut at = 0;
            for frame in &frames {
                at += frame.len();
                ends.insert(at);
            }
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            cuts.push(bytes.len());
            cuts.sort_unstable();
            let mut whole = FrameBoundaries::default();
            prop_assert_eq!(whole.pass(&bytes), bytes.len());
            let mut found = FrameBoundaries::default();
            let mut done = 0;
            for cut in cuts {
                prop_assert_eq!(found.pass(&bytes[done..cut]), cut - done);
                done = cut;
                prop_assert_eq!(found.is_at_boundary(), ends.contains(&done), "{}", done);
                // The rest of the frame is what is missing to the next end.
                let mut probe = FrameBoundaries { close: None, ..found_copy(&found) };
                let next = *ends.range(done..).next().unwrap();
                prop_assert_eq!(probe.pass_frame(&bytes[done..]), next - done);
                prop_assert!(probe.is_at_boundary());
                // Between two frames, `pass_one` follows the next one.
                let next = ends.range(done + 1..).next().unwrap_or(&done);
                let mut probe = found_copy(&found);
                prop_assert_eq!(probe.pass_one(&bytes[done..]), next - done);
            }
            prop_assert_eq!(found.take_messages(), whole.take_messages());
        }

        /// The close frame ends the direction: later bytes do not pass.
        #[test]
        fn close_frame_is_read_however_it_is_split(
            frames in frames(),
            code in 1000..5000_u16,
            reason in "[a-zé]{0,40}",
            key in prop::option::of(any::<[u8; 4]>()),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut payload = code.to_be_bytes().to_vec();
            payload.extend_from_slice(reason.as_bytes());
            let before = frames.concat();
            let close = frame(0x88, key, &payload);
            let bytes = [&before[..], &close, b"later"].concat();
            let cut = cut.index(bytes.len());
            let mut found = FrameBoundaries::default();
            let mut passed = found.pass(&bytes[..cut]);
            passed += found.pass(&bytes[cut..]);
            prop_assert_eq!(passed, before.len() + close.len());
            prop_assert!(found.is_closed() && found.is_at_boundary());
            prop_assert_eq!(found.close(), Some((Some(code), reason)));
        }

        #[test]
        fn any_bytes_are_followed(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let mut found = FrameBoundaries::default();
            let passed = found.pass(&bytes);
            prop_assert!(passed == bytes.len() || found.is_closed());
            let _ = found.close();
        }
    }

    fn found_copy(of: &FrameBoundaries) -> FrameBoundaries {
        FrameBoundaries {
            left: of.left,
            header: of.header,
            header_len: of.header_len,
            ..FrameBoundaries::default()
        }
    }

    #[test]
    fn close_frame_without_a_code_has_none() {
        let mut bytes = Vec::new();
        encode_close(CloseCode::NO_STATUS, "", &mut bytes);
        let mut found = FrameBoundaries::default();
        assert_eq!(found.pass(&bytes), 2);
        assert_eq!(found.close(), Some((None, String::new())));
    }

    /// A client may announce any length; only the peer that receives the frame judges it.
    #[test]
    fn longest_announced_length_does_not_overflow() {
        let mut found = FrameBoundaries::default();
        let mut bytes = vec![0x82, 127];
        bytes.extend_from_slice(&u64::MAX.to_be_bytes());
        bytes.extend_from_slice(&[0; 100]);
        assert_eq!(found.pass(&bytes), bytes.len());
        assert!(!found.is_at_boundary());
        let close = [&[0x88, 0xFF][..], &u64::MAX.to_be_bytes(), &[0; 400]].concat();
        let mut found = FrameBoundaries::default();
        found.pass(&close);
        assert!(!found.is_closed());
    }

    #[test]
    fn only_whole_messages_are_counted() {
        let mut found = FrameBoundaries::default();
        for (first, messages) in [
            (0x01, 0),
            (0x00, 0),
            (0x89, 0),
            (0x80, 1),
            (0xC1, 1),
            (0x8A, 0),
        ] {
            found.pass(&frame(first, Some([1, 2, 3, 4]), b"abc"));
            assert_eq!(found.take_messages(), messages, "{first:x}");
        }
    }
}
