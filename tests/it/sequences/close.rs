//! Close: valid and invalid close frames from the client (RFC 6455 §5.5.1 and §7.4).

use super::frame::{
    BINARY, BINARY_BEGINS, CLOSE, KEY, LAST, MORE, PING, PONG, TEXT, TEXT_BEGINS, begun, close,
    frame, keyed, letters, unmasked,
};
use super::output::{Output, binary, closes, fails, pong, text};
use super::run::{Sequence, row};

/// Codes that a client may send: with a meaning in the RFC or the registry, of libraries, of
/// applications.
const GOOD: [u16; 20] = [
    1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3001, 3500, 3999,
    4000, 4001, 4500, 4999,
];

/// Codes that must not be sent: outside the ranges, only reported, or without a meaning so far.
const BAD: [u16; 20] = [
    0, 1, 255, 999, 1004, 1005, 1006, 1015, 1016, 1017, 1100, 1500, 1999, 2000, 2500, 2999, 5000,
    9999, 32_768, 65_535,
];

pub(super) fn sequences() -> Vec<Sequence> {
    [
        codes(),
        payloads(),
        reasons(),
        what_follows(),
        what_precedes(),
    ]
    .concat()
}

fn codes() -> Vec<Sequence> {
    let good = GOOD.map(|code| {
        vec![
            row(format!("close {code}"), [close(code, "")], [closes(code)]),
            row(
                format!("close {code} with a reason"),
                [close(code, "because")],
                [closes(code)],
            ),
        ]
    });
    let bad = BAD.map(|code| {
        vec![
            row(format!("close {code}"), [close(code, "")], [fails(1002)]),
            row(
                format!("close {code} with a reason"),
                [close(code, "because")],
                [fails(1002)],
            ),
        ]
    });
    [good.concat(), bad.concat()].concat()
}

fn payloads() -> Vec<Sequence> {
    vec![
        row("empty close", [frame(CLOSE, "")], [Output::Closes(None)]),
        row("close of one octet", [frame(CLOSE, [3])], [fails(1002)]),
        row(
            "close of one octet behind a message",
            [frame(TEXT, "a"), frame(CLOSE, [0])],
            [text("a"), fails(1002)],
        ),
        row(
            "close under a key of zero",
            [keyed(CLOSE, [0x03, 0xE8], [0; 4])],
            [closes(1000)],
        ),
        row(
            "close with a reason of 123",
            [close(1000, letters(123))],
            [closes(1000)],
        ),
        row(
            "close with a reason of 124",
            [close(1000, letters(124))],
            [fails(1002)],
        ),
        row(
            "header of a close with a reason of 124",
            [begun(CLOSE, 126, "")],
            [fails(1002)],
        ),
    ]
}

fn reasons() -> Vec<Sequence> {
    let wrong: [(&str, &[u8]); 8] = [
        ("FF", b"\xFF"),
        ("lone continuation", b"a\x80"),
        ("overlong", b"\xC0\xAF"),
        ("surrogate", b"\xED\xA0\x80"),
        ("above 10FFFF", b"\xF4\x90\x80\x80"),
        ("cut after 1 of 2", b"ok \xC3"),
        ("cut after 2 of 3", b"ok \xE2\x82"),
        ("cut after 3 of 4", b"ok \xF0\x9F\x98"),
    ];
    let mut rows: Vec<_> = wrong
        .map(|(what, reason)| {
            row(
                format!("close with a reason in wrong UTF-8: {what}"),
                [close(1000, reason)],
                [fails(1007)],
            )
        })
        .into();
    for reason in ["\u{e9}", "\u{20ac}", "\u{10ffff}", "\0", "\u{feff}"] {
        rows.push(row(
            format!("close with the reason {reason:?}"),
            [close(4000, reason)],
            [closes(4000)],
        ));
    }
    rows.extend([
        row(
            "close with a reason of 123 in letters of three octets",
            [close(1000, "\u{20ac}".repeat(41))],
            [closes(1000)],
        ),
        row(
            "close with a wrong code and a wrong reason",
            [close(1005, b"\xFF")],
            [fails(1002)],
        ),
        row(
            "close with a wrong reason inside a message",
            [frame(TEXT_BEGINS, "a"), close(1000, b"\xFF")],
            [fails(1007)],
        ),
    ]);
    rows
}

/// Anything after a close frame is ignored.
fn what_follows() -> Vec<Sequence> {
    let behind: [(&str, Vec<u8>); 14] = [
        ("text", frame(TEXT, "late")),
        ("binary", frame(BINARY, letters(300))),
        ("a first fragment", frame(TEXT_BEGINS, "late")),
        ("a stray continuation", frame(MORE, "late")),
        ("a ping", frame(PING, "late")),
        ("a pong", frame(PONG, "late")),
        ("another close", close(1001, "late")),
        ("a close that is wrong", close(1005, "late")),
        ("no opcode", frame(0x83, "late")),
        ("reserved bits", frame(0xF1, "late")),
        ("an unmasked frame", unmasked(TEXT, "late")),
        ("wrong UTF-8", frame(TEXT, b"\xFF")),
        ("a huge header", begun(BINARY, 1 << 62, "")),
        ("half a frame", begun(TEXT, 20, "late")),
    ];
    let mut rows: Vec<_> = behind
        .iter()
        .map(|(what, bytes)| {
            row(
                format!("close before {what}"),
                [close(1000, "bye"), bytes.clone()],
                [closes(1000)],
            )
        })
        .collect();
    rows.push(row(
        "empty close before everything",
        [
            vec![frame(CLOSE, "")],
            behind.map(|(_, bytes)| bytes).into(),
        ]
        .concat(),
        [Output::Closes(None)],
    ));
    rows.push(row(
        "wrong close before a good one",
        [close(1006, ""), close(1000, "")],
        [fails(1002)],
    ));
    rows.push(row(
        "noise behind a close",
        [close(1000, ""), KEY.repeat(40)],
        [closes(1000)],
    ));
    rows
}

/// Messages before a close frame get their reply before its reply.
fn what_precedes() -> Vec<Sequence> {
    vec![
        row(
            "message before a close",
            [frame(TEXT, "a"), close(1000, "")],
            [text("a"), closes(1000)],
        ),
        row(
            "messages and pings before a close",
            [
                frame(TEXT, "a"),
                frame(PING, "p"),
                frame(BINARY_BEGINS, "b"),
                frame(PING, "q"),
                frame(LAST, "c"),
                close(4999, "end"),
                frame(TEXT, "late"),
            ],
            [text("a"), pong("p"), pong("q"), binary("bc"), closes(4999)],
        ),
        row(
            "forty messages before a close",
            [vec![frame(TEXT, "a"); 40], vec![close(1001, "")]].concat(),
            [vec![text("a"); 40], vec![closes(1001)]].concat(),
        ),
        row(
            "forty messages before a close that is wrong",
            [vec![frame(TEXT, "a"); 40], vec![close(2999, "")]].concat(),
            [vec![text("a"); 40], vec![fails(1002)]].concat(),
        ),
        row(
            "half a character before a close",
            [frame(TEXT_BEGINS, b"\xE2\x82"), close(1000, "")],
            [closes(1000)],
        ),
    ]
}
