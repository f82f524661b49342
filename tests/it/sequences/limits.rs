//! Limits: messages exactly at the route's limits and one over them.

use super::frame::{
    BINARY, BINARY_BEGINS, Form, KEY, LAST, MORE, PING, PONG, TEXT, TEXT_BEGINS, begun, formed,
    frame, head, letters,
};
use super::output::{binary, fails, pong, text};
use super::run::{Sequence, row};

/// The limit of one of the routes.
const SMALL: usize = 1024;

/// The limit of the other.
const LARGE: usize = 128 * 1024;

pub(super) fn sequences() -> Vec<Sequence> {
    let small = [in_one_frame(), in_fragments(), fragments_count()].concat();
    small
        .into_iter()
        .map(Sequence::small)
        .chain(large())
        .collect()
}

fn in_one_frame() -> Vec<Sequence> {
    let (full, over) = (letters(SMALL), letters(SMALL + 1));
    let accents = "\u{e9}".repeat(SMALL / 2);
    vec![
        row("text at the limit", [frame(TEXT, &full)], [text(&full)]),
        row(
            "binary at the limit",
            [frame(BINARY, &full)],
            [binary(&full)],
        ),
        row(
            "binary one below the limit",
            [frame(BINARY, letters(SMALL - 1))],
            [binary(letters(SMALL - 1))],
        ),
        row(
            "text whose bytes are at the limit",
            [frame(TEXT, &accents)],
            [text(&accents)],
        ),
        row(
            "text whose bytes are over the limit",
            [frame(TEXT, format!("{accents}a"))],
            [fails(1009)],
        ),
        row("text over the limit", [frame(TEXT, &over)], [fails(1009)]),
        row(
            "binary over the limit",
            [frame(BINARY, &over)],
            [fails(1009)],
        ),
        row(
            "binary over the limit in the Long form",
            [formed(BINARY, &over, Form::Long)],
            [fails(1009)],
        ),
        row(
            "binary at the limit in the Long form",
            [formed(BINARY, &full, Form::Long)],
            [binary(&full)],
        ),
        row(
            "header over the limit",
            [head(BINARY, Form::Medium, 1025, KEY)],
            [fails(1009)],
        ),
        row(
            "header at the limit",
            [head(BINARY, Form::Medium, 1024, KEY)],
            [],
        ),
        row(
            "header over the limit behind messages at it",
            [
                frame(TEXT, &full),
                frame(BINARY, &full),
                begun(TEXT, 1025, "abc"),
            ],
            [text(&full), binary(&full), fails(1009)],
        ),
        row(
            "nothing is read behind a message over the limit",
            [frame(BINARY, &over), frame(TEXT, "a"), frame(PING, "b")],
            [fails(1009)],
        ),
        row(
            "wrong text over the limit",
            [begun(TEXT, 1025, b"\xFF")],
            [fails(1009)],
        ),
    ]
}

fn in_fragments() -> Vec<Sequence> {
    let full = letters(SMALL);
    let (start, rest) = full.split_at(300);
    vec![
        row(
            "fragments at the limit",
            [frame(TEXT_BEGINS, start), frame(LAST, rest)],
            [text(&full)],
        ),
        row(
            "fragments at the limit and an empty one",
            [
                frame(BINARY_BEGINS, start),
                frame(MORE, rest),
                frame(LAST, ""),
            ],
            [binary(&full)],
        ),
        row(
            "first fragment at the limit",
            [frame(BINARY_BEGINS, &full), frame(LAST, "")],
            [binary(&full)],
        ),
        row(
            "first fragment over the limit",
            [begun(BINARY_BEGINS, 1025, "")],
            [fails(1009)],
        ),
        row(
            "second fragment over the limit",
            [
                frame(BINARY_BEGINS, start),
                frame(LAST, [rest, b"a"].concat()),
            ],
            [fails(1009)],
        ),
        row(
            "header of a second fragment over the limit",
            [frame(TEXT_BEGINS, start), begun(LAST, 725, "")],
            [fails(1009)],
        ),
        row(
            "one octet behind fragments at the limit",
            [
                frame(BINARY_BEGINS, start),
                frame(MORE, rest),
                begun(LAST, 1, ""),
            ],
            [fails(1009)],
        ),
        row(
            "pongs and pings do not count",
            [
                frame(BINARY_BEGINS, start),
                frame(PING, letters(125)),
                frame(PONG, letters(125)),
                frame(LAST, rest),
            ],
            [pong(letters(125)), binary(&full)],
        ),
        row(
            "each message counts for itself",
            [
                frame(BINARY_BEGINS, start),
                frame(LAST, rest),
                frame(TEXT_BEGINS, rest),
                frame(LAST, start),
            ],
            [binary(&full), text([rest, start].concat())],
        ),
    ]
}

fn fragments_count() -> Vec<Sequence> {
    let four = [
        frame(TEXT_BEGINS, "a"),
        frame(MORE, "b"),
        frame(MORE, "c"),
        frame(LAST, "d"),
    ];
    let open = |payload| {
        vec![
            frame(BINARY_BEGINS, payload),
            frame(MORE, payload),
            frame(MORE, payload),
            frame(MORE, payload),
        ]
    };
    let fifth = |frame| [open("x"), vec![frame]].concat();
    let empty_fifth = |frame| [open(""), vec![frame]].concat();
    let with_pings = four
        .iter()
        .flat_map(|fragment| [frame(PING, "p"), fragment.clone()])
        .collect::<Vec<_>>();
    vec![
        row("four fragments", four.clone(), [text("abcd")]),
        row(
            "four fragments twice",
            [four.clone(), four.clone()].concat(),
            [text("abcd"), text("abcd")],
        ),
        row(
            "four fragments among pings",
            with_pings,
            [pong("p"), pong("p"), pong("p"), pong("p"), text("abcd")],
        ),
        row("four fragments and no last one", open("x"), []),
        row("five fragments", fifth(frame(LAST, "x")), [fails(1008)]),
        row(
            "header of a fifth fragment",
            fifth(begun(MORE, 3, "")),
            [fails(1008)],
        ),
        row(
            "five empty fragments",
            empty_fifth(frame(LAST, "")),
            [fails(1008)],
        ),
        row(
            "ping behind four fragments",
            fifth(frame(PING, "still here")),
            [pong("still here")],
        ),
        row(
            "message behind four fragments",
            fifth(frame(TEXT, "new")),
            [fails(1002)],
        ),
    ]
}

fn large() -> Vec<Sequence> {
    let full = letters(LARGE);
    let (start, rest) = full.split_at(LARGE / 2);
    vec![
        row(
            "text at the large limit",
            [frame(TEXT, &full)],
            [text(&full)],
        ),
        row(
            "binary at the large limit",
            [frame(BINARY, &full)],
            [binary(&full)],
        ),
        row(
            "binary over the large limit",
            [frame(BINARY, letters(LARGE + 1))],
            [fails(1009)],
        ),
        row(
            "header over the large limit",
            [begun(TEXT, LARGE as u64 + 1, "")],
            [fails(1009)],
        ),
        row(
            "fragments at the large limit",
            [
                frame(TEXT_BEGINS, start),
                frame(PING, "half"),
                frame(LAST, rest),
            ],
            [pong("half"), text(&full)],
        ),
        row(
            "fragments over the large limit",
            [
                frame(TEXT_BEGINS, start),
                frame(MORE, rest),
                frame(PING, "full"),
                frame(LAST, "a"),
            ],
            [pong("full"), fails(1009)],
        ),
        row(
            "fragments of many lengths up to the large limit",
            [
                frame(BINARY_BEGINS, &full[..1]),
                frame(MORE, &full[1..127]),
                frame(MORE, &full[127..65_662]),
                frame(MORE, &full[65_662..65_662]),
                frame(LAST, &full[65_662..]),
            ],
            [binary(&full)],
        ),
    ]
}
