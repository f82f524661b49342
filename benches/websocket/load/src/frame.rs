//! Frames (RFC 6455, section 5): encoding a client's, decoding a server's.

use anyhow::{Result, bail};

pub const TEXT: u8 = 1;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;

/// The masking key is always the same, so that a frame is encoded once and sent many times. Servers
/// cannot tell.
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// A frame within the bytes that were read.
pub struct Frame<'a> {
    pub opcode: u8,
    pub last: bool,
    /// RSV1: the message is compressed (RFC 7692, section 6).
    pub compressed: bool,
    pub payload: &'a [u8],
}

/// One whole, masked message.
pub fn encode(opcode: u8, compressed: bool, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80 | u8::from(compressed) << 6 | opcode];
    let length = payload.len();
    if length < 126 {
        frame.push(0x80 | length as u8);
    } else if let Ok(length) = u16::try_from(length) {
        frame.push(0x80 | 126);
        frame.extend_from_slice(&length.to_be_bytes());
    } else {
        frame.push(0x80 | 127);
        frame.extend_from_slice(&(length as u64).to_be_bytes());
    }
    frame.extend_from_slice(&MASK);
    frame.extend(
        payload
            .iter()
            .zip(MASK.iter().cycle())
            .map(|(byte, key)| byte ^ key),
    );
    frame
}

/// Yields every whole frame of `bytes`; returns the number of bytes they took.
pub fn decode(bytes: &[u8], mut take: impl FnMut(&Frame<'_>)) -> Result<usize> {
    let mut used = 0;
    while let Some((head, length)) = head(&bytes[used..])? {
        let rest = &bytes[used..];
        let Some(payload) = rest.get(head..head + length) else {
            break;
        };
        take(&Frame {
            opcode: rest[0] & 0x0f,
            last: rest[0] & 0x80 != 0,
            compressed: rest[0] & 0x40 != 0,
            payload,
        });
        used += head + length;
    }
    Ok(used)
}

/// The lengths of a frame's head and payload, once the head is there.
fn head(bytes: &[u8]) -> Result<Option<(usize, usize)>> {
    let [first, second, rest @ ..] = bytes else {
        return Ok(None);
    };
    if first & 0x30 != 0 || second & 0x80 != 0 {
        bail!("expected a plain frame from the server, found {first:02x} {second:02x}");
    }
    Ok(match (second & 0x7f, rest) {
        (126, [a, b, ..]) => Some((4, usize::from(u16::from_be_bytes([*a, *b])))),
        (127, [a, b, c, d, e, f, g, h, ..]) => {
            let length = u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]);
            Some((10, usize::try_from(length)?))
        }
        (126 | 127, _) => None,
        (length, _) => Some((2, usize::from(length))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_frame_is_found_when_it_is_whole() {
        let bytes = [0x81, 2, b'h', b'i', 0xc1, 126, 0, 1, b'x', 0x81];
        let mut found = vec![];
        let used = decode(&bytes, |frame| {
            found.push((frame.payload.to_vec(), frame.compressed));
        });
        assert_eq!(used.ok(), Some(9));
        assert_eq!(found, [(b"hi".to_vec(), false), (b"x".to_vec(), true)]);
    }

    #[test]
    fn a_masked_frame_from_a_server_is_refused() {
        assert!(decode(&[0x81, 0x80, 0, 0, 0, 0], |_| {}).is_err());
    }
}
