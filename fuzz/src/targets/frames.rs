//! The decoder against tungstenite's: the input is what a client sends.

use std::io::{self, Read, Write};

use oneport::fuzzing::frame_boundaries;
use oneport::websocket::Message;
use oneport::websocket::decoder::{Decoder, Item, Limits, Violation};
use tungstenite::protocol::{Role, WebSocketConfig};
use tungstenite::{Error, WebSocket};

use crate::input::{reads, split_tail};

const LIMITS: Limits = Limits {
    message_bytes_max: 1000,
    fragments_max: usize::MAX,
};

pub fn run(data: &[u8]) {
    let (data, [size]) = split_tail(data);
    let ours = decode(&reads(data, size));
    assert_eq!(ours, decode(&[data]), "the cuts matter");
    let theirs = decode_by_tungstenite(data);
    compare(&ours, &theirs);
    let whole = frame_boundaries(&[data]);
    assert_eq!(whole, frame_boundaries(&reads(data, size)));
    assert!(whole.passed == data.len() || whole.close.is_some());
    if let (true, Some((code, reason))) = (ours.violation.is_none(), &whole.close) {
        let Some(Item::Close {
            code: found,
            reason: said,
        }) = ours.items.last()
        else {
            panic!("a close frame has passed, found {ours:?}");
        };
        assert_eq!((code.unwrap_or(1005), reason), (found.get(), said));
    }
}

#[derive(Debug, Eq, PartialEq)]
struct Decoded {
    items: Vec<Item>,
    violation: Option<Violation>,
}

fn decode(reads: &[&[u8]]) -> Decoded {
    let mut decoder = Decoder::new(None);
    let mut items = Vec::new();
    for read in reads {
        let mut input = *read;
        loop {
            match decoder.next(&mut input, LIMITS) {
                Ok(Some(item)) => {
                    let is_close = matches!(item, Item::Close { .. });
                    items.push(item);
                    if is_close {
                        return Decoded {
                            items,
                            violation: None,
                        };
                    }
                }
                Ok(None) => {
                    assert!(input.is_empty(), "bytes are left");
                    break;
                }
                Err(violation) => {
                    return Decoded {
                        items,
                        violation: Some(violation),
                    };
                }
            }
        }
    }
    Decoded {
        items,
        violation: None,
    }
}

/// A client that sends bytes and ends, and reads nothing.
struct Client<'a>(&'a [u8]);

impl Read for Client<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.0.read(out)
    }
}

impl Write for Client<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// How tungstenite has ended.
#[derive(Debug, Eq, PartialEq)]
enum End {
    /// At a close frame.
    Closed,
    /// With the input, which may be within a frame.
    Input,
    /// With a violation.
    Violation,
}

fn decode_by_tungstenite(data: &[u8]) -> (Vec<Item>, End) {
    let config = WebSocketConfig::default()
        .max_message_size(Some(LIMITS.message_bytes_max))
        .max_frame_size(Some(LIMITS.message_bytes_max));
    let mut socket = WebSocket::from_raw_socket(Client(data), Role::Server, Some(config));
    let mut items = Vec::new();
    loop {
        let item = match socket.read() {
            Ok(tungstenite::Message::Text(text)) => {
                Item::Message(Message::text(text.as_str().to_owned()))
            }
            Ok(tungstenite::Message::Binary(bytes)) => Item::Message(Message::binary(bytes)),
            Ok(tungstenite::Message::Ping(bytes)) => Item::Ping(bytes),
            Ok(tungstenite::Message::Pong(bytes)) => Item::Pong { bytes: bytes.len() },
            Ok(tungstenite::Message::Close(_)) => return (items, End::Closed),
            Ok(tungstenite::Message::Frame(_)) => unreachable!("read gives no frames"),
            Err(
                Error::Io(_)
                | Error::Protocol(tungstenite::error::ProtocolError::ResetWithoutClosingHandshake),
            ) => {
                return (items, End::Input);
            }
            Err(_) => return (items, End::Violation),
        };
        items.push(item);
    }
}

fn compare(ours: &Decoded, (theirs, end): &(Vec<Item>, End)) {
    let (messages, is_closed) = match ours.items.split_last() {
        Some((Item::Close { .. }, before)) => (before, true),
        _ => (&ours.items[..], false),
    };
    assert_eq!(messages, theirs, "{:?}, {end:?}", ours.violation);
    match end {
        // A code that may not be sent, or a reason that is not UTF-8, is a violation to us.
        End::Closed => assert!(is_closed || ours.violation.is_some(), "no close frame"),
        End::Violation => assert!(ours.violation.is_some(), "accepted by the server alone"),
        // A violation may show in the part of a frame that has arrived.
        End::Input => assert!(!is_closed),
    }
}
