//! Broken: reserved opcodes, reserved bits and frames without a mask (RFC 6455 §5.1 and §5.2).

use super::frame::{
    BINARY, BINARY_BEGINS, CLOSE, LAST, MORE, PING, PONG, TEXT, TEXT_BEGINS, begun, frame, unmasked,
};
use super::output::{fails, pong, text};
use super::run::{Sequence, row};

const RSV1: u8 = 0x40;
const RSV2: u8 = 0x20;
const RSV3: u8 = 0x10;

/// Every kind of frame, and whether it may only follow a first fragment.
const KINDS: [(&str, u8, bool); 9] = [
    ("text", TEXT, false),
    ("binary", BINARY, false),
    ("first fragment of text", TEXT_BEGINS, false),
    ("first fragment of binary", BINARY_BEGINS, false),
    ("middle fragment", MORE, true),
    ("last fragment", LAST, true),
    ("ping", PING, false),
    ("pong", PONG, false),
    ("close", CLOSE, false),
];

pub(super) fn sequences() -> Vec<Sequence> {
    [opcodes(), reserved_bits(), masks()].concat()
}

fn opcodes() -> Vec<Sequence> {
    let mut rows = Vec::new();
    for opcode in [3, 4, 5, 6, 7, 0xB, 0xC, 0xD, 0xE, 0xF] {
        let first = 0x80 | opcode;
        rows.extend([
            row(
                format!("opcode {opcode:X}"),
                [frame(first, "abc"), frame(TEXT, "late")],
                [fails(1002)],
            ),
            row(
                format!("opcode {opcode:X} with nothing"),
                [frame(first, "")],
                [fails(1002)],
            ),
            row(
                format!("opcode {opcode:X} in a fragment"),
                [frame(opcode, "abc"), frame(LAST, "def")],
                [fails(1002)],
            ),
            row(
                format!("header of opcode {opcode:X}"),
                [begun(first, 200, "")],
                [fails(1002)],
            ),
            row(
                format!("opcode {opcode:X} behind a message and a ping"),
                [frame(TEXT, "a"), frame(PING, "p"), frame(first, "b")],
                [text("a"), pong("p"), fails(1002)],
            ),
            row(
                format!("opcode {opcode:X} inside a message"),
                [frame(TEXT_BEGINS, "a"), frame(first, "b"), frame(LAST, "c")],
                [fails(1002)],
            ),
        ]);
    }
    rows
}

/// Without an extension all three are 0; with compression the first may be 1 in the first frame of
/// a message alone (RFC 7692 §6).
fn reserved_bits() -> Vec<Sequence> {
    let mut rows = Vec::new();
    for (bits, reserved) in [
        ("RSV1", RSV1),
        ("RSV2", RSV2),
        ("RSV3", RSV3),
        ("RSV1 and 2", RSV1 | RSV2),
        ("RSV1 and 3", RSV1 | RSV3),
        ("RSV2 and 3", RSV2 | RSV3),
        ("all reserved bits", RSV1 | RSV2 | RSV3),
    ] {
        for (kind, first, is_continuation) in KINDS {
            let begins = is_continuation.then(|| frame(TEXT_BEGINS, "a"));
            let starts_message = matches!(first & 0x0F, 1 | 2);
            let may_be_compressed = reserved == RSV1 && starts_message;
            for (what, bytes) in [
                ("", frame(first | reserved, "b")),
                (", empty", frame(first | reserved, "")),
                (", its header", begun(first | reserved, 100, "")),
            ] {
                let frames: Vec<_> = begins.iter().cloned().chain([bytes]).collect();
                let row = row(format!("{bits} in a {kind}{what}"), frames, [fails(1002)]);
                rows.push(if may_be_compressed {
                    row.plain_only()
                } else {
                    row
                });
            }
        }
        rows.push(row(
            format!("{bits} and no opcode"),
            [frame(0x83 | reserved, "b")],
            [fails(1002)],
        ));
    }
    rows
}

/// A server fails a connection when a frame is not masked (RFC 6455 §5.1).
fn masks() -> Vec<Sequence> {
    let mut rows = Vec::new();
    for (kind, first, is_continuation) in KINDS {
        let begins = is_continuation.then(|| frame(TEXT_BEGINS, "a"));
        for (what, bytes) in [
            ("", unmasked(first, "bc")),
            (", empty", unmasked(first, "")),
            (", its header", vec![first, 100]),
            (", its header in the Medium form", vec![first, 126]),
            (", its header in the Long form", vec![first, 127]),
        ] {
            let frames: Vec<_> = begins.iter().cloned().chain([bytes]).collect();
            rows.push(row(format!("unmasked {kind}{what}"), frames, [fails(1002)]));
        }
    }
    rows.extend([
        row(
            "unmasked text behind a masked one",
            [frame(TEXT, "a"), unmasked(TEXT, "b")],
            [text("a"), fails(1002)],
        ),
        row(
            "unmasked ping behind a masked one",
            [frame(PING, "a"), unmasked(PING, "b"), frame(PING, "c")],
            [pong("a"), fails(1002)],
        ),
        row(
            "unmasked frame without an opcode",
            [unmasked(0x8F, "b")],
            [fails(1002)],
        ),
        row(
            "a request where a frame should be",
            [b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec()],
            [fails(1002)],
        ),
    ]);
    rows
}
