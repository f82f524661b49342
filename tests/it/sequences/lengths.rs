//! Lengths: messages of every size in every form, whole and half arrived, under every kind of
//! masking key.

use super::frame::{
    BINARY, BINARY_BEGINS, CLOSE, Form, KEY, LAST, MORE, PING, PONG, TEXT, TEXT_BEGINS, begun,
    close, formed, frame, head, keyed, letters,
};
use super::output::{binary, closes, fails, pong, text};
use super::run::{Sequence, row};

pub(super) fn sequences() -> Vec<Sequence> {
    [
        shortest_forms(),
        longer_forms(),
        announced(),
        half_arrived(),
        keys(),
        pipelines(),
    ]
    .concat()
}

fn shortest_forms() -> Vec<Sequence> {
    let lengths = [
        0, 1, 2, 3, 4, 5, 124, 125, 126, 127, 128, 255, 256, 1000, 65_535, 65_536,
    ];
    let rows = lengths.map(|length| {
        let letters = letters(length);
        let octets: Vec<u8> = (0..length).map(|at| (at * 7 + 131) as u8).collect();
        [
            row(
                format!("text of {length}"),
                [frame(TEXT, &letters)],
                [text(&letters)],
            ),
            row(
                format!("binary of {length}"),
                [frame(BINARY, &octets)],
                [binary(&octets)],
            ),
        ]
    });
    rows.concat()
}

/// RFC 6455 §5.2 tells the sender to take the shortest form; it does not tell the receiver to fail,
/// and ours reads the others.
fn longer_forms() -> Vec<Sequence> {
    let mut rows = Vec::new();
    for (length, form) in [
        (0, Form::Medium),
        (1, Form::Medium),
        (125, Form::Medium),
        (0, Form::Long),
        (1, Form::Long),
        (125, Form::Long),
        (126, Form::Long),
        (65_535, Form::Long),
    ] {
        let letters = letters(length);
        rows.push(row(
            format!("text of {length} in the {form:?} form"),
            [formed(TEXT, &letters, form)],
            [text(&letters)],
        ));
        rows.push(row(
            format!("binary of {length} in the {form:?} form"),
            [formed(BINARY, &letters, form)],
            [binary(&letters)],
        ));
    }
    for form in [Form::Medium, Form::Long] {
        rows.extend([
            row(
                format!("ping of 5 in the {form:?} form"),
                [formed(PING, "hello", form)],
                [pong("hello")],
            ),
            row(
                format!("pong of 125 in the {form:?} form"),
                [formed(PONG, letters(125), form), frame(TEXT, "a")],
                [text("a")],
            ),
            row(
                format!("close in the {form:?} form"),
                [formed(CLOSE, [0x03, 0xE8], form)],
                [closes(1000)],
            ),
            row(
                format!("ping of 126 in the {form:?} form"),
                [formed(PING, letters(126), form)],
                [fails(1002)],
            ),
            row(
                format!("continuation of 3 in the {form:?} form"),
                [formed(TEXT_BEGINS, "abc", form), formed(LAST, "def", form)],
                [text("abcdef")],
            ),
        ]);
    }
    rows
}

/// Lengths beyond the limit, rejected by the header alone.
fn announced() -> Vec<Sequence> {
    let mut rows = Vec::new();
    for (what, length, code) in [
        ("2^32", 1 << 32, 1009),
        ("2^62", 1 << 62, 1009),
        ("2^63 - 1", (1 << 63) - 1, 1009),
        // The most significant bit must be 0 (RFC 6455 §5.2).
        ("2^63", 1 << 63, 1002),
        ("2^64 - 1", u64::MAX, 1002),
    ] {
        let header = |first| head(first, Form::Long, length, KEY);
        rows.extend([
            row(
                format!("text announced with {what}"),
                [header(TEXT)],
                [fails(code)],
            ),
            row(
                format!("binary announced with {what}"),
                [header(BINARY)],
                [fails(code)],
            ),
            row(
                format!("first fragment announced with {what}"),
                [header(BINARY_BEGINS)],
                [fails(code)],
            ),
            row(
                format!("continuation announced with {what}"),
                [frame(BINARY_BEGINS, "a"), header(MORE)],
                [fails(code)],
            ),
            row(
                format!("empty continuation announced with {what}"),
                [frame(BINARY_BEGINS, ""), header(LAST)],
                [fails(code)],
            ),
            row(
                format!("ping announced with {what}"),
                [header(PING)],
                [fails(1002)],
            ),
            row(
                format!("message before one announced with {what}"),
                [frame(TEXT, "a"), header(BINARY)],
                [text("a"), fails(code)],
            ),
        ]);
    }
    rows
}

/// The server waits for the rest, and sends nothing if it does not arrive.
fn half_arrived() -> Vec<Sequence> {
    let whole = frame(TEXT, letters(300));
    let long = head(TEXT, Form::Long, 70_000, KEY);
    let mut rows = vec![
        row("nothing", [], []),
        row("one octet", [vec![TEXT]], []),
        row("one octet of no opcode", [vec![0x83]], []),
        row("length without a key", [whole[..4].to_vec()], []),
        row(
            "half a length behind a message",
            [frame(TEXT, "a"), whole[..3].to_vec()],
            [text("a")],
        ),
        row("half a key", [whole[..6].to_vec()], []),
        row("header without a payload", [whole[..8].to_vec()], []),
        row(
            "payload without its last octet",
            [whole[..307].to_vec()],
            [],
        ),
        row(
            "all but the last octet of a long header",
            [long[..13].to_vec()],
            [],
        ),
        row("long header without a payload", [long.clone()], []),
        row("half a ping", [begun(PING, 5, "he")], []),
        row("half a close frame", [begun(CLOSE, 2, [3])], []),
        row("first fragment alone", [frame(TEXT_BEGINS, "a")], []),
        row(
            "fragments without a last one",
            [
                frame(BINARY_BEGINS, "a"),
                frame(MORE, "b"),
                frame(MORE, "c"),
            ],
            [],
        ),
    ];
    rows.push(row(
        "pong before half a message",
        [frame(PING, "now"), begun(TEXT, 5, "he")],
        [pong("now")],
    ));
    rows
}

/// A payload is octet i of the key modulo 4, from the start of each frame (RFC 6455 §5.3).
fn keys() -> Vec<Sequence> {
    let keys = [
        ("zero", [0; 4]),
        ("ones", [0xFF; 4]),
        ("one bit", [0, 0, 0, 1]),
        ("rising", [1, 2, 3, 4]),
        ("that hides the text", *b"abcd"),
    ];
    let mut rows = Vec::new();
    for (what, key) in keys {
        for length in [3, 8, 13, 200] {
            let payload = letters(length);
            rows.push(row(
                format!("text of {length} under a key of {what}"),
                [keyed(TEXT, &payload, key)],
                [text(&payload)],
            ));
        }
        rows.push(row(
            format!("pings and a close under a key of {what}"),
            [
                keyed(PING, "odd", key),
                keyed(PING, "", key),
                keyed(CLOSE, [0x0F, 0xA0], key),
            ],
            [pong("odd"), pong(""), closes(4000)],
        ));
    }
    let turning = keys.iter().cycle().zip([1, 2, 3, 5, 6, 7, 9, 4, 0, 11]);
    let mut frames = Vec::new();
    let mut whole = Vec::new();
    for (at, ((_, key), length)) in turning.enumerate() {
        let first = if at == 0 { TEXT_BEGINS } else { MORE };
        frames.push(keyed(first, letters(length), *key));
        whole.extend(letters(length));
    }
    frames.push(keyed(LAST, "end", [9, 9, 9, 9]));
    whole.extend(b"end");
    rows.push(row(
        "fragments of odd lengths under a key each",
        frames,
        [text(whole)],
    ));
    rows.push(row(
        "odd fragments under the same key with a ping under another",
        [
            frame(BINARY_BEGINS, "abc"),
            keyed(PING, "ping!", [1, 2, 3, 4]),
            frame(MORE, "defgh"),
            frame(LAST, "ijklmno"),
        ],
        [pong("ping!"), binary("abcdefghijklmno")],
    ));
    rows
}

fn pipelines() -> Vec<Sequence> {
    let count = 64;
    let texts: Vec<_> = (0..count).map(|at| format!("{at}")).collect();
    let sizes: Vec<_> = [0, 1, 125, 126, 500, 2, 0, 127].map(letters).into();
    vec![
        row(
            "many short messages",
            texts
                .iter()
                .map(|payload| frame(TEXT, payload))
                .collect::<Vec<_>>(),
            texts.iter().map(text).collect::<Vec<_>>(),
        ),
        row(
            "many empty messages",
            vec![frame(BINARY, ""); count],
            vec![binary(""); count],
        ),
        row(
            "messages of many sizes",
            sizes
                .iter()
                .map(|payload| frame(BINARY, payload))
                .collect::<Vec<_>>(),
            sizes.iter().map(binary).collect::<Vec<_>>(),
        ),
        row(
            "two messages of 65536 and a close",
            [
                frame(BINARY, letters(65_536)),
                frame(TEXT, letters(65_536)),
                close(1000, "done"),
            ],
            [binary(letters(65_536)), text(letters(65_536)), closes(1000)],
        ),
        row(
            "messages in turn with pings and a close",
            [
                frame(TEXT, "one"),
                frame(PING, "two"),
                frame(BINARY, "three"),
                frame(PONG, "four"),
                frame(TEXT, "five"),
                close(1001, ""),
            ],
            [
                text("one"),
                pong("two"),
                binary("three"),
                text("five"),
                closes(1001),
            ],
        ),
    ]
}
