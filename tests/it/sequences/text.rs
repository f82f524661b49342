//! Text: UTF-8 at its limits (RFC 3629), whole, cut everywhere, and invalid.

use super::frame::{
    BINARY, BINARY_BEGINS, LAST, MORE, PING, TEXT, TEXT_BEGINS, begun, frame, keyed,
};
use super::output::{binary, fails, pong, text};
use super::run::{Sequence, row};

/// Valid texts, though some look strange.
const GOOD: [(&str, &str); 22] = [
    ("U+0000", "\0"),
    ("U+007F", "\u{7f}"),
    ("U+0080", "\u{80}"),
    ("U+07FF", "\u{7ff}"),
    ("U+0800", "\u{800}"),
    ("U+0FFF", "\u{fff}"),
    ("U+1000", "\u{1000}"),
    ("U+CFFF", "\u{cfff}"),
    ("U+D7FF, before the surrogates", "\u{d7ff}"),
    ("U+E000, behind the surrogates", "\u{e000}"),
    ("U+FDD0, no character", "\u{fdd0}"),
    ("U+FEFF, a byte order mark", "\u{feff}a"),
    ("U+FFFD, the replacement", "\u{fffd}"),
    ("U+FFFF, no character", "\u{ffff}"),
    ("U+10000", "\u{10000}"),
    ("U+1FFFF, no character", "\u{1ffff}"),
    ("U+3FFFF", "\u{3ffff}"),
    ("U+40000", "\u{40000}"),
    ("U+FFFFF", "\u{fffff}"),
    ("U+10FFFF", "\u{10ffff}"),
    ("Greek", "κόσμε"),
    ("all lengths", "a\u{e9}\u{20ac}\u{1f600}"),
];

/// Invalid texts, each with the position of the first octet that no valid text has there.
const WRONG: [(&str, &[u8], usize); 44] = [
    ("first continuation alone", b"\x80", 0),
    ("last continuation alone", b"\xBF", 0),
    ("continuation behind a letter", b"a\x80", 1),
    ("continuation too many, of 2", b"\xC2\x80\x80", 2),
    ("continuation too many, of 3", b"\xE2\x82\xAC\x80", 3),
    ("continuation too many, of 4", b"\xF0\x9F\x98\x80\x80", 4),
    ("letter instead of 2 of 2", b"\xC2a", 1),
    ("letter instead of 2 of 3", b"\xE1a\x80", 1),
    ("letter instead of 3 of 3", b"\xE1\x80a", 2),
    ("letter instead of 2 of 4", b"\xF1a\x80\x80", 1),
    ("letter instead of 3 of 4", b"\xF1\x80a\x80", 2),
    ("letter instead of 4 of 4", b"\xF1\x80\x80a", 3),
    ("two starts of 2", b"\xC2\xC2", 1),
    ("two starts of 3", b"\xE1\xE1", 1),
    ("two starts of 4", b"\xF1\x80\xF1", 2),
    ("overlong NUL in 2", b"\xC0\x80", 0),
    ("overlong slash in 2", b"\xC0\xAF", 0),
    ("overlong U+007F in 2", b"\xC1\xBF", 0),
    ("overlong NUL in 3", b"\xE0\x80\x80", 1),
    ("overlong slash in 3", b"\xE0\x80\xAF", 1),
    ("overlong U+07FF in 3", b"\xE0\x9F\xBF", 1),
    ("overlong NUL in 4", b"\xF0\x80\x80\x80", 1),
    ("overlong slash in 4", b"\xF0\x80\x80\xAF", 1),
    ("overlong U+FFFF in 4", b"\xF0\x8F\xBF\xBF", 1),
    ("overlong NUL in 5", b"\xF8\x80\x80\x80\x80", 0),
    ("overlong NUL in 6", b"\xFC\x80\x80\x80\x80\x80", 0),
    ("surrogate U+D800", b"\xED\xA0\x80", 1),
    ("surrogate U+DB7F", b"\xED\xAD\xBF", 1),
    ("surrogate U+DBFF", b"\xED\xAF\xBF", 1),
    ("surrogate U+DC00", b"\xED\xB0\x80", 1),
    ("surrogate U+DFFF", b"\xED\xBF\xBF", 1),
    ("pair of surrogates", b"\xED\xA0\xBD\xED\xB8\x80", 1),
    ("U+110000", b"\xF4\x90\x80\x80", 1),
    ("U+13FFFF", b"\xF4\xBF\xBF\xBF", 1),
    ("U+140000", b"\xF5\x80\x80\x80", 0),
    ("U+1FFFFF", b"\xF7\xBF\xBF\xBF", 0),
    ("U+200000", b"\xF8\x88\x80\x80\x80", 0),
    ("U+3FFFFFF", b"\xFB\xBF\xBF\xBF\xBF", 0),
    ("U+4000000", b"\xFC\x84\x80\x80\x80\x80", 0),
    ("U+7FFFFFFF", b"\xFD\xBF\xBF\xBF\xBF\xBF", 0),
    ("FE", b"\xFE", 0),
    ("FF", b"\xFF", 0),
    ("byte order mark of UTF-16", b"\xFF\xFEa\x00", 0),
    (
        "wrong behind much that is right",
        b"\xCE\xBA\xE1\xBD\xB9\xCF\x83\xCE\xBC\xCE\xB5\xED\xA0\x80edited",
        12,
    ),
];

/// The starts of characters: valid so far, invalid if the message ends there.
const CUT: [(&str, &[u8]); 10] = [
    ("1 of 2", b"\xC2"),
    ("1 of 2, the last", b"\xDF"),
    ("1 of 3", b"\xE0"),
    ("2 of 3", b"\xE0\xA0"),
    ("2 of 3 before the surrogates", b"\xED\x9F"),
    ("2 of 3 behind a letter", b"a\xE2\x82"),
    ("1 of 4", b"\xF0"),
    ("2 of 4", b"\xF0\x90"),
    ("3 of 4", b"\xF4\x8F\xBF"),
    ("3 of 4 behind Greek", b"\xCE\xBA\xF0\x9F\x98"),
];

pub(super) fn sequences() -> Vec<Sequence> {
    [good(), wrong(), cut(), others()].concat()
}

fn good() -> Vec<Sequence> {
    let mut rows = Vec::new();
    for (what, good) in GOOD {
        rows.push(row(
            format!("text {what}"),
            [frame(TEXT, good)],
            [text(good)],
        ));
        let bytes = good.as_bytes();
        for at in 0..=bytes.len() {
            let (start, rest) = bytes.split_at(at);
            rows.push(row(
                format!("text {what}, fragments cut at {at}"),
                [
                    frame(TEXT_BEGINS, start),
                    keyed(LAST, rest, [0x80, 0xC0, 0xE0, 0xF0]),
                ],
                [text(good)],
            ));
        }
        let octets: Vec<_> = bytes.iter().map(|octet| frame(MORE, [*octet])).collect();
        rows.push(row(
            format!("text {what}, a fragment for each octet and pings between"),
            [
                vec![frame(TEXT_BEGINS, ""), frame(PING, "p")],
                octets,
                vec![frame(PING, "q"), frame(LAST, "")],
            ]
            .concat(),
            [pong("p"), pong("q"), text(good)],
        ));
    }
    rows
}

fn wrong() -> Vec<Sequence> {
    let mut rows = Vec::new();
    for (what, wrong, at) in WRONG {
        let (right, upto) = (&wrong[..at], &wrong[..=at]);
        rows.extend([
            row(
                format!("wrong text: {what}"),
                [frame(TEXT, wrong), frame(TEXT, "late")],
                [fails(1007)],
            ),
            row(
                format!("wrong text in a first fragment: {what}"),
                [frame(TEXT_BEGINS, upto)],
                [fails(1007)],
            ),
            row(
                format!("wrong text in a frame that is not there yet: {what}"),
                [begun(TEXT, 100, upto)],
                [fails(1007)],
            ),
            row(
                format!("text that is right so far: {what}"),
                [begun(TEXT, 100, right)],
                [],
            ),
            row(
                format!("wrong text over two fragments: {what}"),
                [
                    frame(TEXT_BEGINS, right),
                    frame(PING, "p"),
                    begun(MORE, 10, &wrong[at..=at]),
                ],
                [pong("p"), fails(1007)],
            ),
            row(
                format!("binary that is no text: {what}"),
                [
                    frame(BINARY, wrong),
                    frame(BINARY_BEGINS, wrong),
                    frame(LAST, wrong),
                ],
                [binary(wrong), binary([wrong, wrong].concat())],
            ),
        ]);
    }
    rows
}

fn cut() -> Vec<Sequence> {
    let mut rows = Vec::new();
    for (what, start) in CUT {
        rows.extend([
            row(
                format!("text that ends after {what}"),
                [frame(TEXT, start)],
                [fails(1007)],
            ),
            row(
                format!("fragment that ends after {what}"),
                [frame(TEXT_BEGINS, start), frame(PING, "p")],
                [pong("p")],
            ),
            row(
                format!("fragments that end after {what}"),
                [frame(TEXT_BEGINS, "ok"), frame(LAST, start)],
                [fails(1007)],
            ),
            row(
                format!("empty last fragment after {what}"),
                [frame(TEXT_BEGINS, start), frame(LAST, "")],
                [fails(1007)],
            ),
            row(
                format!("letter in the next fragment after {what}"),
                [frame(TEXT_BEGINS, start), begun(MORE, 10, "a")],
                [fails(1007)],
            ),
            row(
                format!("text in the next message after {what}"),
                [frame(TEXT, start), frame(TEXT, b"\x80")],
                [fails(1007)],
            ),
            row(
                format!("binary that ends after {what}"),
                [frame(BINARY_BEGINS, start), frame(LAST, "")],
                [binary(start)],
            ),
        ]);
    }
    rows
}

fn others() -> Vec<Sequence> {
    let long = "\u{20ac}".repeat(500);
    let (start, rest) = long.as_bytes().split_at(700);
    vec![
        row(
            "right texts before a wrong one",
            [
                frame(TEXT, "a"),
                frame(PING, "p"),
                frame(TEXT, "\u{20ac}"),
                frame(TEXT, b"\xFF"),
                frame(TEXT, "late"),
            ],
            [text("a"), pong("p"), text("\u{20ac}"), fails(1007)],
        ),
        row(
            "long text cut inside a character",
            [frame(TEXT_BEGINS, start), frame(LAST, rest)],
            [text(&long)],
        ),
        row(
            "wrong octet at the end of a long text",
            [frame(TEXT, [long.as_bytes(), b"\xFF"].concat())],
            [fails(1007)],
        ),
        row(
            "wrong octet at the start of a long text that is not there yet",
            [begun(TEXT, 100_000, [b"\xFF", long.as_bytes()].concat())],
            [fails(1007)],
        ),
        row(
            "wrong ping is none",
            [frame(PING, b"\xFF\xC0\x80")],
            [pong(b"\xFF\xC0\x80")],
        ),
    ]
}
