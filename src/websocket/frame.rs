//! Frame: headers and payloads of RFC 6455 §5.2, without state or a socket.

use bytes::BufMut;

use super::close::CloseCode;

/// The most bytes of a control frame's payload (RFC 6455 §5.5).
pub const CONTROL_BYTES_MAX: usize = 125;

/// The last or only fragment.
const FIN: u8 = 0x80;

/// The payload is compressed.
const RSV1: u8 = 0x40;

/// The type of a frame (RFC 6455 §5.2).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Opcode {
    /// The continuation of a fragmented message.
    Continuation = 0x0,
    /// Text, or its first fragment.
    Text = 0x1,
    /// Binary data, or its first fragment.
    Binary = 0x2,
    /// The close frame.
    Close = 0x8,
    /// A ping.
    Ping = 0x9,
    /// A pong.
    Pong = 0xA,
}

/// Appends an unfragmented, unmasked frame, as servers send them.
pub fn encode(opcode: Opcode, payload: &[u8], out: &mut Vec<u8>) {
    encode_whole(FIN | opcode as u8, payload, out);
}

/// Appends an unfragmented, unmasked frame with a payload that is already compressed (RFC 7692 §6).
pub(super) fn encode_compressed(opcode: Opcode, payload: &[u8], out: &mut Vec<u8>) {
    encode_whole(FIN | RSV1 | opcode as u8, payload, out);
}

fn encode_whole(first: u8, payload: &[u8], out: &mut Vec<u8>) {
    out.reserve(payload.len() + 10);
    out.push(first);
    match payload.len() {
        length @ 0..=125 => out.push(length as u8),
        length @ 126..=0xFFFF => {
            out.push(126);
            out.put_u16(length as u16);
        }
        length => {
            out.push(127);
            out.put_u64(length as u64);
        }
    }
    out.extend_from_slice(payload);
}

/// Appends a close frame.
pub fn encode_close(code: CloseCode, reason: &str, out: &mut Vec<u8>) {
    if code == CloseCode::NO_STATUS {
        return encode(Opcode::Close, &[], out);
    }
    let mut payload = Vec::with_capacity(2 + reason.len());
    payload.put_u16(code.get());
    payload.extend_from_slice(&reason.as_bytes()[..reason.len().min(CONTROL_BYTES_MAX - 2)]);
    encode(Opcode::Close, &payload, out);
}

/// Appends a masked payload unmasked. Rotates `key` to match the next octets.
pub(super) fn unmask_into(out: &mut Vec<u8>, payload: &[u8], key: &mut [u8; 4]) {
    let start = out.len();
    out.extend_from_slice(payload);
    unmask(&mut out[start..], key);
}

/// Unmasks a payload in place. Rotates `key` to match the next octets.
pub(super) fn unmask(payload: &mut [u8], key: &mut [u8; 4]) {
    let wide = u64::from_ne_bytes([
        key[0], key[1], key[2], key[3], key[0], key[1], key[2], key[3],
    ]);
    let rotation = payload.len() & 3;
    let (words, rest) = payload.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (at, byte) in rest.iter_mut().enumerate() {
        *byte ^= key[at & 3];
    }
    key.rotate_left(rotation);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_take_the_shortest_form() {
        for (length, header) in [(0, 2), (125, 2), (126, 4), (0xFFFF, 4), (0x10000, 10)] {
            let mut out = Vec::new();
            encode(Opcode::Binary, &vec![0; length], &mut out);
            assert_eq!(out.len(), length + header, "{length}");
        }
    }

    #[test]
    fn unmasking_in_pieces_equals_unmasking_at_once() {
        let clear: Vec<u8> = (0..=255).collect();
        let key = [1, 2, 3, 4];
        let masked: Vec<u8> = clear
            .iter()
            .enumerate()
            .map(|(at, byte)| byte ^ key[at & 3])
            .collect();
        for cut in 0..masked.len() {
            let (mut out, mut turning) = (Vec::new(), key);
            unmask_into(&mut out, &masked[..cut], &mut turning);
            unmask_into(&mut out, &masked[cut..], &mut turning);
            assert_eq!(out, clear, "cut at {cut}");
        }
    }
}
