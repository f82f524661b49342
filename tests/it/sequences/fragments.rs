//! Fragments: messages in several frames, with control frames between them.

use super::frame::{
    BINARY, BINARY_BEGINS, LAST, MORE, PING, PONG, TEXT, TEXT_BEGINS, begun, close, frame, letters,
};
use super::output::{binary, closes, fails, pong, text};
use super::run::{Sequence, row};

pub(super) fn sequences() -> Vec<Sequence> {
    [good(), among_control_frames(), out_of_place()].concat()
}

fn good() -> Vec<Sequence> {
    let hundred: Vec<_> = (0..100)
        .map(|at| {
            let first = match at {
                0 => TEXT_BEGINS,
                99 => LAST,
                _ => MORE,
            };
            frame(first, "ab")
        })
        .collect();
    vec![
        row(
            "text in two fragments",
            [frame(TEXT_BEGINS, "hel"), frame(LAST, "lo")],
            [text("hello")],
        ),
        row(
            "binary in two fragments",
            [frame(BINARY_BEGINS, "\0\u{1}"), frame(LAST, "\u{2}")],
            [binary("\0\u{1}\u{2}")],
        ),
        row(
            "text in three fragments",
            [frame(TEXT_BEGINS, "a"), frame(MORE, "b"), frame(LAST, "c")],
            [text("abc")],
        ),
        row(
            "text in a hundred fragments",
            hundred,
            [text("ab".repeat(100))],
        ),
        row(
            "fragments of 125, 126 and 65536",
            [
                frame(BINARY_BEGINS, letters(125)),
                frame(MORE, letters(126)),
                frame(LAST, letters(65_536)),
            ],
            [binary(
                [letters(125), letters(126), letters(65_536)].concat(),
            )],
        ),
        row(
            "two empty fragments",
            [frame(TEXT_BEGINS, ""), frame(LAST, "")],
            [text("")],
        ),
        row(
            "five empty fragments of binary",
            [
                frame(BINARY_BEGINS, ""),
                frame(MORE, ""),
                frame(MORE, ""),
                frame(MORE, ""),
                frame(LAST, ""),
            ],
            [binary("")],
        ),
        row(
            "empty first fragment",
            [frame(TEXT_BEGINS, ""), frame(LAST, "a")],
            [text("a")],
        ),
        row(
            "empty fragment in the middle",
            [frame(TEXT_BEGINS, "a"), frame(MORE, ""), frame(LAST, "b")],
            [text("ab")],
        ),
        row(
            "empty last fragment",
            [frame(BINARY_BEGINS, "a"), frame(LAST, "")],
            [binary("a")],
        ),
        row(
            "fragmented messages in turn with whole ones",
            [
                frame(TEXT, "a"),
                frame(TEXT_BEGINS, "b"),
                frame(LAST, "c"),
                frame(BINARY, "d"),
                frame(BINARY_BEGINS, "e"),
                frame(LAST, "f"),
                frame(TEXT, "g"),
            ],
            [text("a"), text("bc"), binary("d"), binary("ef"), text("g")],
        ),
    ]
}

fn among_control_frames() -> Vec<Sequence> {
    vec![
        row(
            "ping between two fragments",
            [
                frame(TEXT_BEGINS, "hel"),
                frame(PING, "p"),
                frame(LAST, "lo"),
            ],
            [pong("p"), text("hello")],
        ),
        row(
            "pong between two fragments",
            [
                frame(TEXT_BEGINS, "hel"),
                frame(PONG, "p"),
                frame(LAST, "lo"),
            ],
            [text("hello")],
        ),
        row(
            "pong comes before the message is whole",
            [frame(TEXT_BEGINS, "hel"), frame(PING, "p")],
            [pong("p")],
        ),
        row(
            "pong comes before a fragment is whole",
            [
                frame(TEXT_BEGINS, "hel"),
                frame(PING, letters(125)),
                begun(LAST, 2, "l"),
            ],
            [pong(letters(125))],
        ),
        row(
            "pings between all fragments",
            [
                frame(PING, "0"),
                frame(BINARY_BEGINS, "a"),
                frame(PING, "1"),
                frame(PING, ""),
                frame(MORE, "b"),
                frame(PONG, "x"),
                frame(PING, "2"),
                frame(LAST, "c"),
                frame(PING, "3"),
            ],
            [
                pong("0"),
                pong("1"),
                pong(""),
                pong("2"),
                binary("abc"),
                pong("3"),
            ],
        ),
        row(
            "ping between empty fragments",
            [frame(TEXT_BEGINS, ""), frame(PING, "p"), frame(LAST, "")],
            [pong("p"), text("")],
        ),
        row(
            "close between two fragments",
            [
                frame(TEXT_BEGINS, "hel"),
                close(1000, ""),
                frame(LAST, "lo"),
            ],
            [closes(1000)],
        ),
        row(
            "close behind a first fragment",
            [frame(BINARY_BEGINS, "hel"), close(1001, "leaving")],
            [closes(1001)],
        ),
        row(
            "long ping between two fragments",
            [frame(TEXT_BEGINS, "hel"), begun(PING, 126, "")],
            [fails(1002)],
        ),
    ]
}

fn out_of_place() -> Vec<Sequence> {
    let mut rows = vec![
        row(
            "continuation behind a fragmented message",
            [frame(TEXT_BEGINS, "a"), frame(LAST, "b"), frame(LAST, "c")],
            [text("ab"), fails(1002)],
        ),
        row(
            "fragment over any limit without a start",
            [begun(MORE, 1 << 40, "")],
            [fails(1002)],
        ),
        row(
            "message inside a message behind a ping",
            [frame(TEXT_BEGINS, "a"), frame(PING, "p"), frame(TEXT, "b")],
            [pong("p"), fails(1002)],
        ),
        row(
            "message inside one of empty fragments",
            [frame(TEXT_BEGINS, ""), frame(MORE, ""), frame(TEXT, "")],
            [fails(1002)],
        ),
    ];
    for (what, first) in [("a last", LAST), ("a middle", MORE)] {
        rows.extend([
            row(
                format!("{what} fragment without a start"),
                [frame(first, "a")],
                [fails(1002)],
            ),
            row(
                format!("{what} fragment, empty, without a start"),
                [frame(first, "")],
                [fails(1002)],
            ),
            row(
                format!("header of {what} fragment without a start"),
                [begun(first, 100, "")],
                [fails(1002)],
            ),
            row(
                format!("{what} fragment behind a whole message"),
                [frame(TEXT, "a"), frame(first, "b")],
                [text("a"), fails(1002)],
            ),
            row(
                format!("{what} fragment without a start behind a ping"),
                [frame(PING, "p"), frame(first, "b"), frame(TEXT, "c")],
                [pong("p"), fails(1002)],
            ),
        ]);
    }
    for (what, begins) in [("text", TEXT_BEGINS), ("binary", BINARY_BEGINS)] {
        for (inner, first) in [
            ("whole text", TEXT),
            ("whole binary", BINARY),
            ("first fragment of text", TEXT_BEGINS),
            ("first fragment of binary", BINARY_BEGINS),
        ] {
            rows.push(row(
                format!("{inner} inside a {what} message"),
                [frame(begins, "a"), frame(first, "b"), frame(LAST, "c")],
                [fails(1002)],
            ));
            rows.push(row(
                format!("header of a {inner} inside a {what} message"),
                [frame(begins, "a"), begun(first, 9, "")],
                [fails(1002)],
            ));
        }
    }
    rows
}
