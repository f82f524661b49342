//! Control: pings and pongs (RFC 6455 §5.5).

use super::frame::{
    BINARY_BEGINS, CLOSE, LAST, PING, PONG, TEXT, TEXT_BEGINS, begun, close, frame, letters,
};
use super::output::{binary, closes, fails, pong, text};
use super::run::{Sequence, row};

/// Without it a frame is not final.
const FIN: u8 = 0x80;

pub(super) fn sequences() -> Vec<Sequence> {
    [pings(), pongs(), too_long(), fragmented()].concat()
}

fn pings() -> Vec<Sequence> {
    let mut rows: Vec<_> = [0, 1, 2, 3, 4, 5, 7, 8, 9, 64, 124, 125]
        .map(|length| {
            let payload = letters(length);
            row(
                format!("ping of {length}"),
                [frame(PING, &payload)],
                [pong(&payload)],
            )
        })
        .into();
    rows.extend([
        row(
            "ping of all kinds of octets",
            [frame(PING, [0x00, 0xFF, 0xFE, 0x80, 0xC0, 0xED, 0xA0])],
            [pong([0x00, 0xFF, 0xFE, 0x80, 0xC0, 0xED, 0xA0])],
        ),
        row(
            "ten pings",
            (0..10_u8).map(|at| frame(PING, [at])).collect::<Vec<_>>(),
            (0..10_u8).map(|at| pong([at])).collect::<Vec<_>>(),
        ),
        row(
            "ping before, between and behind messages",
            [
                frame(PING, "1"),
                frame(TEXT, "a"),
                frame(PING, "2"),
                frame(TEXT, "b"),
                frame(PING, "3"),
            ],
            [pong("1"), text("a"), pong("2"), text("b"), pong("3")],
        ),
        row(
            "ping before a close",
            [frame(PING, "1"), close(1000, "")],
            [pong("1"), closes(1000)],
        ),
        row(
            "ping behind a close",
            [close(1000, ""), frame(PING, "1")],
            [closes(1000)],
        ),
    ]);
    rows
}

/// A pong may come unsolicited and is not answered (RFC 6455 §5.5.3).
fn pongs() -> Vec<Sequence> {
    let mut rows: Vec<_> = [0, 1, 125]
        .map(|length| {
            row(
                format!("unsolicited pong of {length}"),
                [frame(PONG, letters(length))],
                [],
            )
        })
        .into();
    rows.extend([
        row("ten pongs", vec![frame(PONG, "p"); 10], []),
        row(
            "pong and a message",
            [frame(PONG, "p"), frame(TEXT, "a")],
            [text("a")],
        ),
        row(
            "pong and a ping",
            [frame(PONG, "p"), frame(PING, "q"), frame(PONG, "r")],
            [pong("q")],
        ),
        row(
            "pong and a close",
            [frame(PONG, ""), close(3000, "")],
            [closes(3000)],
        ),
    ]);
    rows
}

fn too_long() -> Vec<Sequence> {
    let mut rows = Vec::new();
    for (what, first) in [("ping", PING), ("pong", PONG), ("close", CLOSE)] {
        for length in [126, 127, 65_535, 65_536] {
            rows.push(row(
                format!("header of a {what} of {length}"),
                [begun(first, length, "")],
                [fails(1002)],
            ));
        }
        rows.push(row(
            format!("{what} of 126"),
            [frame(first, letters(126))],
            [fails(1002)],
        ));
        rows.push(row(
            format!("{what} of 126 between messages"),
            [
                frame(TEXT, "a"),
                frame(first, letters(126)),
                frame(TEXT, "b"),
            ],
            [text("a"), fails(1002)],
        ));
    }
    rows
}

fn fragmented() -> Vec<Sequence> {
    let mut rows = Vec::new();
    for (what, first) in [("ping", PING), ("pong", PONG), ("close", CLOSE)] {
        let begins = first & !FIN;
        rows.extend([
            row(
                format!("fragmented {what}"),
                [frame(begins, "ab"), frame(LAST, "cd")],
                [fails(1002)],
            ),
            row(
                format!("first fragment of an empty {what}"),
                [frame(begins, "")],
                [fails(1002)],
            ),
            row(
                format!("header of a fragmented {what}"),
                [begun(begins, 2, "")],
                [fails(1002)],
            ),
            row(
                format!("fragmented {what} inside a message"),
                [
                    frame(TEXT_BEGINS, "a"),
                    frame(begins, "b"),
                    frame(LAST, "c"),
                ],
                [fails(1002)],
            ),
            row(
                format!("fragmented {what} behind a message and a ping"),
                [
                    frame(BINARY_BEGINS, "a"),
                    frame(LAST, "b"),
                    frame(PING, "p"),
                    frame(begins, "c"),
                ],
                [binary("ab"), pong("p"), fails(1002)],
            ),
        ]);
    }
    rows
}
