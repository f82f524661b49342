//! Output: the server's reply to a sequence, parsed octet by octet without the server's own code.

use std::fmt;

/// One item of the server's output.
#[derive(Clone, Eq, PartialEq)]
pub(super) enum Output {
    /// A frame that is not a close frame: its first octet (FIN, RSV, opcode) and its payload.
    Frame(u8, Vec<u8>),
    /// A close frame with a code and no reason, or without a body: the reply to the client's.
    Closes(Option<u16>),
    /// A close frame with a code and a reason: the client broke a rule.
    Fails(u16),
    /// The end of its half of the stream, before the client's.
    End,
    /// Bytes that arrived after the client's half had ended.
    Late(Vec<u8>),
    /// Anything but a whole, unmasked frame with its length in the shortest form.
    Nonsense(Vec<u8>),
    /// The socket did not end.
    Hangs,
}

pub(super) fn text(payload: impl AsRef<[u8]>) -> Output {
    Output::Frame(0x81, payload.as_ref().to_vec())
}

pub(super) fn binary(payload: impl AsRef<[u8]>) -> Output {
    Output::Frame(0x82, payload.as_ref().to_vec())
}

pub(super) fn pong(payload: impl AsRef<[u8]>) -> Output {
    Output::Frame(0x8A, payload.as_ref().to_vec())
}

pub(super) fn closes(code: u16) -> Output {
    Output::Closes(Some(code))
}

pub(super) fn fails(code: u16) -> Output {
    Output::Fails(code)
}

impl Output {
    /// Reads all the server's bytes.
    pub(super) fn read(mut bytes: &[u8]) -> Vec<Self> {
        let mut output = Vec::new();
        while !bytes.is_empty() {
            let Some((frame, rest)) = Self::read_one(bytes) else {
                output.push(Self::Nonsense(bytes.to_vec()));
                break;
            };
            output.push(frame);
            bytes = rest;
        }
        output
    }

    /// Tells whether it is a close frame.
    pub(super) fn is_close(&self) -> bool {
        matches!(self, Self::Closes(_) | Self::Fails(_))
    }

    fn read_one(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (&[first, second], rest) = bytes.split_first_chunk()?;
        let (length, rest) = match second {
            0..=125 => (u64::from(second), rest),
            126 => {
                let (length, rest) = rest.split_first_chunk()?;
                let length = u16::from_be_bytes(*length);
                (length > 125).then_some((u64::from(length), rest))?
            }
            127 => {
                let (length, rest) = rest.split_first_chunk()?;
                let length = u64::from_be_bytes(*length);
                (length > 0xFFFF).then_some((length, rest))?
            }
            _ => return None,
        };
        let (payload, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
        let output = match (first, payload) {
            (0x88, []) => Self::Closes(None),
            (0x88, [high, low]) => Self::Closes(Some(u16::from_be_bytes([*high, *low]))),
            (0x88, [high, low, reason @ ..])
                if reason.len() <= 123 && std::str::from_utf8(reason).is_ok() =>
            {
                Self::Fails(u16::from_be_bytes([*high, *low]))
            }
            (0x88, _) => return None,
            _ => Self::Frame(first, payload.to_vec()),
        };
        Some((output, rest))
    }
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Frame(first, payload) => write!(f, "frame {first:02X} {}", short(payload)),
            Self::Closes(None) => write!(f, "close without a code"),
            Self::Closes(Some(code)) => write!(f, "close {code}"),
            Self::Fails(code) => write!(f, "close {code} with a sentence"),
            Self::End => write!(f, "end"),
            Self::Late(bytes) => write!(f, "late {}", short(bytes)),
            Self::Nonsense(bytes) => write!(f, "nonsense {}", short(bytes)),
            Self::Hangs => write!(f, "no end"),
        }
    }
}

/// The start of bytes, and how many there are.
fn short(bytes: &[u8]) -> String {
    let start = &bytes[..bytes.len().min(24)];
    format!("\"{}\" ({} bytes)", start.escape_ascii(), bytes.len())
}
