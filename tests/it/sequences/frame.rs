//! Frame: bytes as a client sends them, well formed or not.

/// The default masking key of a frame.
pub(super) const KEY: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];

/// First octets of whole messages.
pub(super) const TEXT: u8 = 0x81;
pub(super) const BINARY: u8 = 0x82;

/// First octets of fragments: those that start a message, one in the middle, the last.
pub(super) const TEXT_BEGINS: u8 = 0x01;
pub(super) const BINARY_BEGINS: u8 = 0x02;
pub(super) const MORE: u8 = 0x00;
pub(super) const LAST: u8 = 0x80;

/// First octets of control frames.
pub(super) const CLOSE: u8 = 0x88;
pub(super) const PING: u8 = 0x89;
pub(super) const PONG: u8 = 0x8A;

/// How a length is written (RFC 6455 §5.2).
#[derive(Clone, Copy, Debug)]
pub(super) enum Form {
    /// In 7 bits.
    Short,
    /// In 16 bits after a 126.
    Medium,
    /// In 64 bits after a 127.
    Long,
}

impl Form {
    /// The shortest that a length fits in.
    fn shortest(length: u64) -> Self {
        match length {
            0..=125 => Self::Short,
            126..=0xFFFF => Self::Medium,
            _ => Self::Long,
        }
    }
}

/// A well-formed masked frame.
pub(super) fn frame(first: u8, payload: impl AsRef<[u8]>) -> Vec<u8> {
    keyed(first, payload, KEY)
}

/// A masked frame with a key.
pub(super) fn keyed(first: u8, payload: impl AsRef<[u8]>, key: [u8; 4]) -> Vec<u8> {
    let payload = payload.as_ref();
    let length = payload.len() as u64;
    [
        head(first, Form::shortest(length), length, key),
        mask(payload, key),
    ]
    .concat()
}

/// A masked frame with its length in a certain form.
pub(super) fn formed(first: u8, payload: impl AsRef<[u8]>, form: Form) -> Vec<u8> {
    let payload = payload.as_ref();
    [
        head(first, form, payload.len() as u64, KEY),
        mask(payload, KEY),
    ]
    .concat()
}

/// A masked frame that is shorter than the length it announces.
pub(super) fn begun(first: u8, announced: u64, payload: impl AsRef<[u8]>) -> Vec<u8> {
    [
        head(first, Form::shortest(announced), announced, KEY),
        mask(payload.as_ref(), KEY),
    ]
    .concat()
}

/// A frame without a masking key.
pub(super) fn unmasked(first: u8, payload: impl AsRef<[u8]>) -> Vec<u8> {
    let payload = payload.as_ref();
    [&[first, payload.len() as u8], payload].concat()
}

/// The header of a masked frame.
pub(super) fn head(first: u8, form: Form, length: u64, key: [u8; 4]) -> Vec<u8> {
    let mut head = vec![first];
    match form {
        Form::Short => head.push(0x80 | length as u8),
        Form::Medium => {
            head.push(0x80 | 126);
            head.extend((length as u16).to_be_bytes());
        }
        Form::Long => {
            head.push(0x80 | 127);
            head.extend(length.to_be_bytes());
        }
    }
    head.extend(key);
    head
}

/// A close frame with a code and a reason.
pub(super) fn close(code: u16, reason: impl AsRef<[u8]>) -> Vec<u8> {
    frame(CLOSE, [&code.to_be_bytes(), reason.as_ref()].concat())
}

/// Letters in a row that does not repeat every four.
pub(super) fn letters(length: usize) -> Vec<u8> {
    (b'a'..=b'y').cycle().take(length).collect()
}

fn mask(payload: &[u8], key: [u8; 4]) -> Vec<u8> {
    payload
        .iter()
        .zip(key.iter().cycle())
        .map(|(byte, key)| byte ^ key)
        .collect()
}
