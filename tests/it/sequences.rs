//! Sequences: a table of what a client may send, frame by frame, with exactly what comes back (RFC 6455 §5 to §8).
//!
//! Each sequence is sent whole, byte by byte, and in two parts cut at every position; the outcome must be the same.

use std::fmt::Write;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use oneport::gateway::{Answer, Arrival};
use oneport::http::Body;
use oneport::scope::Scheme;
use oneport::testing::Application;
use oneport::websocket::Transport;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::time::timeout;

use crate::wire::frame;

const DEADLINE: Duration = Duration::from_secs(5);

/// The limits that the table is about.
const ROUTES: &str = "
    [[websocket.route]]
    path = '/echo/'
    consumer = 'echo'
    max_message = '200 KiB'
    max_fragments = 100_000
    compression = 'off'
    [[websocket.route]]
    path = '/small/'
    consumer = 'echo'
    max_message = '100 B'
    max_fragments = 4
    compression = 'off'
";

/// First octets.
const MORE: u8 = 0x00;
const TEXT: u8 = 0x81;
const TEXT_BEGINS: u8 = 0x01;
const BINARY: u8 = 0x82;
const BINARY_BEGINS: u8 = 0x02;
const LAST: u8 = 0x80;
const CLOSE: u8 = 0x88;
const PING: u8 = 0x89;
const PONG: u8 = 0x8A;

struct Sequence {
    name: String,
    path: &'static str,
    sent: Vec<u8>,
    /// The frames that come back before the close frame: first octet and payload.
    answers: Vec<(u8, Vec<u8>)>,
    /// The code of the close frame; `None` for one without.
    code: Option<u16>,
}

#[derive(Default)]
struct Table(Vec<Sequence>);

impl Table {
    /// The client says its parts, hears the answers, and closes with 1000.
    fn hears(&mut self, name: impl Into<String>, sent: &[Vec<u8>], answers: &[(u8, &[u8])]) {
        let mut sent = sent.concat();
        sent.extend(frame(CLOSE, &1000_u16.to_be_bytes()));
        self.add(name.into(), "/echo/", sent, answers, Some(1000));
    }

    /// The server ends it with a code, without being closed first.
    fn ends(
        &mut self,
        name: impl Into<String>,
        sent: &[Vec<u8>],
        answers: &[(u8, &[u8])],
        code: u16,
    ) {
        self.add(name.into(), "/echo/", sent.concat(), answers, Some(code));
    }

    fn add(
        &mut self,
        name: String,
        path: &'static str,
        sent: Vec<u8>,
        answers: &[(u8, &[u8])],
        code: Option<u16>,
    ) {
        let answers = answers
            .iter()
            .map(|(first, payload)| (*first, payload.to_vec()))
            .collect();
        self.0.push(Sequence {
            name,
            path,
            sent,
            answers,
            code,
        });
    }
}

/// A frame with its length in a chosen form and a chosen masking key.
fn written(first: u8, payload: &[u8], form: u8, key: [u8; 4]) -> Vec<u8> {
    let mut bytes = vec![first];
    match form {
        126 => {
            bytes.push(0x80 | 126);
            bytes.extend((payload.len() as u16).to_be_bytes());
        }
        127 => {
            bytes.push(0x80 | 127);
            bytes.extend((payload.len() as u64).to_be_bytes());
        }
        _ => bytes.push(0x80 | payload.len() as u8),
    }
    bytes.extend(key);
    bytes.extend(
        payload
            .iter()
            .enumerate()
            .map(|(at, byte)| byte ^ key[at & 3]),
    );
    bytes
}

/// The shortest form, as clients shall send them.
fn long(first: u8, payload: &[u8]) -> Vec<u8> {
    let form = if payload.len() > 0xFFFF { 127 } else { 126 };
    written(first, payload, form, [1, 2, 3, 4])
}

/// Only a header, which announces a length.
fn announced(first: u8, length: u64) -> Vec<u8> {
    [&[first, 0xFF][..], &length.to_be_bytes(), &[1, 2, 3, 4]].concat()
}

fn unmasked(first: u8, payload: &[u8]) -> Vec<u8> {
    [&[first, payload.len() as u8], payload].concat()
}

fn close(code: u16, reason: &[u8]) -> Vec<u8> {
    frame(CLOSE, &[&code.to_be_bytes(), reason].concat())
}

fn table() -> Table {
    let mut table = Table::default();
    lengths(&mut table);
    control_frames(&mut table);
    fragments(&mut table);
    broken_headers(&mut table);
    closes(&mut table);
    utf8(&mut table);
    limits(&mut table);
    table
}

fn lengths(table: &mut Table) {
    for length in [0, 1, 2, 3, 4, 5, 7, 8, 9, 124, 125] {
        for first in [TEXT, BINARY] {
            let payload = vec![b'a'; length];
            table.hears(
                format!("{length} bytes, {first:#x}"),
                &[frame(first, &payload)],
                &[(first, &payload)],
            );
        }
    }
    for length in [126, 127, 128, 0xFFFF, 0x10000, 0x10001] {
        let payload: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
        table.hears(
            format!("{length} bytes"),
            &[long(BINARY, &payload)],
            &[(BINARY, &payload)],
        );
        let text = vec![b'x'; length];
        table.hears(
            format!("{length} characters"),
            &[long(TEXT, &text)],
            &[(TEXT, &text)],
        );
    }
    // A client shall use the shortest form; a server that takes the others loses nothing.
    for (form, length) in [(126, 5), (127, 5), (127, 200), (126, 0), (127, 0)] {
        let payload = vec![b'y'; length];
        table.hears(
            format!("{length} bytes, length in the form {form}"),
            &[written(TEXT, &payload, form, [9, 8, 7, 6])],
            &[(TEXT, &payload)],
        );
    }
    for key in [[0; 4], [0xFF; 4], [0, 0, 0, 1], [0x80, 0, 0, 0]] {
        table.hears(
            format!("masking key {key:?}"),
            &[written(BINARY, b"0123456789abcdef!", 0, key)],
            &[(BINARY, b"0123456789abcdef!")],
        );
    }
    let many: Vec<Vec<u8>> = (0..20_u8).map(|at| frame(BINARY, &[at; 3])).collect();
    let back: Vec<[u8; 3]> = (0..20).map(|at| [at; 3]).collect();
    let back: Vec<(u8, &[u8])> = back.iter().map(|payload| (BINARY, &payload[..])).collect();
    table.hears("twenty messages in a row", &many, &back);
}

fn control_frames(table: &mut Table) {
    for length in [0, 1, 4, 124, 125] {
        let payload = vec![0xFE; length];
        table.hears(
            format!("ping of {length} bytes"),
            &[frame(PING, &payload)],
            &[(PONG, &payload)],
        );
        table.hears(
            format!("pong of {length} bytes"),
            &[frame(PONG, &payload)],
            &[],
        );
    }
    for (name, first) in [("ping", PING), ("pong", PONG), ("close", CLOSE)] {
        table.ends(
            format!("{name} of 126 bytes"),
            &[long(first, &[0; 126])],
            &[],
            1002,
        );
        table.ends(
            format!("{name} of 65,536 bytes"),
            &[announced(first, 0x10000)],
            &[],
            1002,
        );
        table.ends(
            format!("{name} in fragments"),
            &[frame(first & 0x0F, b"")],
            &[],
            1002,
        );
        table.ends(
            format!("unmasked {name}"),
            &[unmasked(first, b"hi")],
            &[],
            1002,
        );
        table.ends(
            format!("{name} with its length in the long form"),
            &[written(first, &[0; 126], 127, [1; 4])],
            &[],
            1002,
        );
    }
    table.hears(
        "pings between messages",
        &[
            frame(PING, b"1"),
            frame(TEXT, b"a"),
            frame(PING, b"2"),
            frame(TEXT, b"b"),
            frame(PONG, b"3"),
        ],
        &[(PONG, b"1"), (TEXT, b"a"), (PONG, b"2"), (TEXT, b"b")],
    );
    let pings: Vec<Vec<u8>> = (0..10_u8).map(|at| frame(PING, &[at])).collect();
    let pongs: Vec<[u8; 1]> = (0..10).map(|at| [at]).collect();
    let pongs: Vec<(u8, &[u8])> = pongs.iter().map(|payload| (PONG, &payload[..])).collect();
    table.hears("ten pings", &pings, &pongs);
}

fn fragments(table: &mut Table) {
    table.hears(
        "text in two fragments",
        &[frame(TEXT_BEGINS, b"hel"), frame(LAST, b"lo")],
        &[(TEXT, b"hello")],
    );
    table.hears(
        "binary in three",
        &[
            frame(BINARY_BEGINS, b"a"),
            frame(MORE, b"b"),
            frame(LAST, b"c"),
        ],
        &[(BINARY, b"abc")],
    );
    table.hears(
        "empty fragments only",
        &[frame(TEXT_BEGINS, b""), frame(MORE, b""), frame(LAST, b"")],
        &[(TEXT, b"")],
    );
    table.hears(
        "empty fragments around one with content",
        &[frame(TEXT_BEGINS, b""), frame(MORE, b"x"), frame(LAST, b"")],
        &[(TEXT, b"x")],
    );
    table.hears(
        "ping between fragments, answered first",
        &[
            frame(TEXT_BEGINS, b"a"),
            frame(PING, b"?"),
            frame(LAST, b"b"),
        ],
        &[(PONG, b"?"), (TEXT, b"ab")],
    );
    table.hears(
        "pings and pongs between all fragments",
        &[
            frame(BINARY_BEGINS, b"a"),
            frame(PING, b"1"),
            frame(MORE, b"b"),
            frame(PONG, b"2"),
            frame(PING, b"3"),
            frame(LAST, b"c"),
            frame(TEXT, b"d"),
        ],
        &[(PONG, b"1"), (PONG, b"3"), (BINARY, b"abc"), (TEXT, b"d")],
    );
    table.hears(
        "keys that turn over odd fragments",
        &[
            written(BINARY_BEGINS, b"abc", 0, [1, 2, 3, 4]),
            written(MORE, b"defgh", 0, [5, 6, 7, 8]),
            written(LAST, b"i", 0, [9, 10, 11, 12]),
        ],
        &[(BINARY, b"abcdefghi")],
    );
    let one_each: Vec<Vec<u8>> = (0..200_u32)
        .map(|at| match at {
            0 => frame(TEXT_BEGINS, b"x"),
            199 => frame(LAST, b"x"),
            _ => frame(MORE, b"x"),
        })
        .collect();
    table.hears("two hundred fragments", &one_each, &[(TEXT, &[b'x'; 200])]);
    table.hears(
        "large fragments",
        &[
            long(BINARY_BEGINS, &[1; 40_000]),
            long(MORE, &[1; 70_000]),
            long(LAST, &[1; 300]),
        ],
        &[(BINARY, &[1; 110_300])],
    );
    for first in [MORE, LAST] {
        table.ends(
            format!("continuation of nothing, {first:#x}"),
            &[frame(first, b"x")],
            &[],
            1002,
        );
        table.ends(
            format!("continuation of a message that is whole, {first:#x}"),
            &[frame(TEXT, b"a"), frame(first, b"x")],
            &[(TEXT, b"a")],
            1002,
        );
        table.ends(
            format!("continuation after the last fragment, {first:#x}"),
            &[
                frame(TEXT_BEGINS, b"a"),
                frame(LAST, b"b"),
                frame(first, b"c"),
            ],
            &[(TEXT, b"ab")],
            1002,
        );
    }
    for first in [TEXT, BINARY, TEXT_BEGINS, BINARY_BEGINS] {
        table.ends(
            format!("new message inside another, {first:#x}"),
            &[frame(TEXT_BEGINS, b"a"), frame(first, b"b")],
            &[],
            1002,
        );
    }
    table.add(
        "close inside a message".to_owned(),
        "/echo/",
        [frame(TEXT_BEGINS, b"a"), close(1001, b"bye")].concat(),
        &[],
        Some(1001),
    );
}

fn broken_headers(table: &mut Table) {
    for opcode in [3, 4, 5, 6, 7, 0xB, 0xC, 0xD, 0xE, 0xF] {
        table.ends(
            format!("opcode {opcode:#x}"),
            &[frame(0x80 | opcode, b"x")],
            &[],
            1002,
        );
        table.ends(
            format!("opcode {opcode:#x} behind a message"),
            &[frame(TEXT, b"a"), frame(0x80 | opcode, b"")],
            &[(TEXT, b"a")],
            1002,
        );
        table.ends(
            format!("opcode {opcode:#x} inside a message"),
            &[frame(TEXT_BEGINS, b"a"), frame(0x80 | opcode, b"")],
            &[],
            1002,
        );
    }
    for bit in [0x40, 0x20, 0x10, 0x70] {
        for first in [TEXT, BINARY, TEXT_BEGINS, PING, PONG, CLOSE] {
            table.ends(
                format!("reserved bit {bit:#x} on {first:#x}"),
                &[frame(first | bit, b"")],
                &[],
                1002,
            );
        }
        table.ends(
            format!("reserved bit {bit:#x} on a continuation"),
            &[frame(TEXT_BEGINS, b"a"), frame(LAST | bit, b"b")],
            &[],
            1002,
        );
        table.ends(
            format!("reserved bit {bit:#x} behind a message and a ping"),
            &[
                frame(TEXT, b"a"),
                frame(PING, b"b"),
                frame(TEXT | bit, b"c"),
            ],
            &[(TEXT, b"a"), (PONG, b"b")],
            1002,
        );
    }
    for first in [TEXT, BINARY, TEXT_BEGINS] {
        table.ends(
            format!("unmasked {first:#x}"),
            &[unmasked(first, b"hi")],
            &[],
            1002,
        );
    }
    table.ends(
        "length with the highest bit",
        &[announced(BINARY, 1 << 63)],
        &[],
        1002,
    );
    table.ends(
        "length of all ones",
        &[announced(BINARY, u64::MAX)],
        &[],
        1002,
    );
    for bits in [62, 40, 32, 31] {
        table.ends(
            format!("length of 2^{bits}, nothing behind it"),
            &[announced(BINARY, 1 << bits)],
            &[],
            1009,
        );
    }
}

fn closes(table: &mut Table) {
    let closed = |table: &mut Table, name: String, sent: Vec<u8>, code| {
        table.add(name, "/echo/", sent, &[], code);
    };
    closed(
        table,
        "close without a code".to_owned(),
        frame(CLOSE, b""),
        None,
    );
    for code in [
        1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000,
        4999,
    ] {
        closed(
            table,
            format!("close with {code}"),
            close(code, b""),
            Some(code),
        );
        closed(
            table,
            format!("close with {code} and a reason"),
            close(code, "schön".as_bytes()),
            Some(code),
        );
    }
    for code in [
        0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535,
    ] {
        table.ends(format!("close with {code}"), &[close(code, b"")], &[], 1002);
    }
    table.ends("close with one byte", &[frame(CLOSE, &[3])], &[], 1002);
    closed(
        table,
        "close with the longest reason".to_owned(),
        close(1000, &[b'r'; 123]),
        Some(1000),
    );
    table.ends(
        "close with a reason too long",
        &[long(CLOSE, &[3; 126])],
        &[],
        1002,
    );
    for reason in [&b"\xFF"[..], b"ok\xC3", b"\xED\xA0\x80", b"\xC0\xAF"] {
        table.ends(
            format!("close with the reason {reason:02x?}"),
            &[close(1000, reason)],
            &[],
            1007,
        );
    }
    closed(
        table,
        "what follows a close is not looked at".to_owned(),
        [close(1000, b""), frame(TEXT, b"late"), vec![0xFF; 10]].concat(),
        Some(1000),
    );
    closed(
        table,
        "a second close is not looked at".to_owned(),
        [close(1000, b""), close(1001, b"")].concat(),
        Some(1000),
    );
    table.add(
        "what precedes a close is answered".to_owned(),
        "/echo/",
        [frame(TEXT, b"a"), frame(PING, b"b"), close(4001, b"")].concat(),
        &[(TEXT, b"a"), (PONG, b"b")],
        Some(4001),
    );
}

fn utf8(table: &mut Table) {
    for good in [
        "\u{0}",
        "\u{7F}",
        "\u{80}",
        "\u{7FF}",
        "\u{800}",
        "\u{D7FF}",
        "\u{E000}",
        "\u{FFFD}",
        "\u{FFFE}",
        "\u{FFFF}",
        "\u{10000}",
        "\u{10FFFE}",
        "\u{10FFFF}",
        "κόσμε",
        "Hello-µ@ßöäüàá-UTF-8!!",
        "𝄞 music",
    ] {
        table.hears(
            format!("text {good:?}"),
            &[frame(TEXT, good.as_bytes())],
            &[(TEXT, good.as_bytes())],
        );
        if good.len() > 1 {
            let bytes = good.as_bytes();
            let mut parts = vec![frame(TEXT_BEGINS, &bytes[..1])];
            parts.extend(bytes[1..].iter().map(|byte| frame(MORE, &[*byte])));
            parts.push(frame(LAST, b""));
            table.hears(
                format!("text {good:?}, a fragment for each byte"),
                &parts,
                &[(TEXT, bytes)],
            );
        }
    }
    for bad in [
        &b"\x80"[..], // a continuation alone
        b"\xBF",
        b"\xC0\x80", // overlong forms
        b"\xC1\xBF",
        b"\xE0\x80\x80",
        b"\xE0\x9F\xBF",
        b"\xF0\x80\x80\x80",
        b"\xF0\x8F\xBF\xBF",
        b"\xF8\x88\x80\x80\x80", // five and six bytes
        b"\xFC\x84\x80\x80\x80\x80",
        b"\xED\xA0\x80", // surrogates
        b"\xED\xBF\xBF",
        b"\xED\xA0\x80\xED\xB0\x80",
        b"\xF4\x90\x80\x80", // beyond U+10FFFF
        b"\xF5\x80\x80\x80",
        b"\xFE",
        b"\xFF",
        b"a\xC3(", // a first byte and no continuation
        b"\xE2\x82(",
        b"\xF0\x9F\x98(",
    ] {
        table.ends(format!("text {bad:02x?}"), &[frame(TEXT, bad)], &[], 1007);
        table.ends(
            format!("text {bad:02x?} behind a message, in a fragment that is not the last"),
            &[frame(TEXT, b"a"), frame(TEXT_BEGINS, bad)],
            &[(TEXT, b"a")],
            1007,
        );
        // It fails before the rest of its frame arrives.
        let mut cut = long(TEXT, &[&[b'a'; 200][..], bad, &[b'b'; 200]].concat());
        cut.truncate(8 + 200 + bad.len() + 5);
        table.ends(
            format!("text {bad:02x?} in a frame that never ends"),
            &[cut],
            &[],
            1007,
        );
    }
    for half in [&b"\xC3"[..], b"\xE2\x82", b"\xF0\x9F\x98"] {
        table.ends(
            format!("text that ends in {half:02x?}"),
            &[frame(TEXT, half)],
            &[],
            1007,
        );
        table.ends(
            format!("fragments that end in {half:02x?}"),
            &[frame(TEXT_BEGINS, half), frame(LAST, b"")],
            &[],
            1007,
        );
        table.ends(
            format!("a fragment {half:02x?} whose character does not go on"),
            &[frame(TEXT_BEGINS, half), frame(MORE, b"a")],
            &[],
            1007,
        );
        table.hears(
            format!("binary {half:02x?}"),
            &[frame(BINARY, half)],
            &[(BINARY, half)],
        );
    }
}

fn limits(table: &mut Table) {
    let small = |table: &mut Table, name: &str, sent: &[Vec<u8>], answers: &[(u8, &[u8])], code| {
        table.add(
            name.to_owned(),
            "/small/",
            sent.concat(),
            answers,
            Some(code),
        );
    };
    let (just, over) = ([b'z'; 100], [b'z'; 101]);
    small(
        table,
        "the longest message",
        &[frame(TEXT, &just), close(1000, b"")],
        &[(TEXT, &just)],
        1000,
    );
    small(table, "one byte over", &[frame(TEXT, &over)], &[], 1009);
    small(
        table,
        "one byte over, seen in the header",
        &[announced(TEXT, 101)],
        &[],
        1009,
    );
    small(
        table,
        "the longest message in fragments",
        &[
            frame(BINARY_BEGINS, &just[..60]),
            frame(LAST, &just[..40]),
            close(1000, b""),
        ],
        &[(BINARY, &just)],
        1000,
    );
    small(
        table,
        "one byte over in fragments",
        &[frame(BINARY_BEGINS, &just[..60]), frame(LAST, &just[..41])],
        &[],
        1009,
    );
    small(
        table,
        "one byte over in a fragment that is only announced",
        &[frame(BINARY_BEGINS, &just), announced(MORE, 1)],
        &[],
        1009,
    );
    small(
        table,
        "the most fragments",
        &[
            frame(TEXT_BEGINS, b"a"),
            frame(MORE, b"b"),
            frame(MORE, b"c"),
            frame(LAST, b"d"),
            close(1000, b""),
        ],
        &[(TEXT, b"abcd")],
        1000,
    );
    small(
        table,
        "one fragment too many",
        &[
            frame(TEXT_BEGINS, b""),
            frame(MORE, b""),
            frame(MORE, b""),
            frame(MORE, b""),
            frame(MORE, b""),
        ],
        &[],
        1008,
    );
    small(
        table,
        "pings do not count as fragments",
        &[
            frame(TEXT_BEGINS, b"a"),
            frame(PING, b""),
            frame(PING, b""),
            frame(PING, b""),
            frame(PING, b""),
            frame(LAST, b"b"),
            close(1000, b""),
        ],
        &[
            (PONG, b""),
            (PONG, b""),
            (PONG, b""),
            (PONG, b""),
            (TEXT, b"ab"),
        ],
        1000,
    );
}

/// The client's end of an open socket.
async fn open(app: &Application, path: &str) -> DuplexStream {
    let request = Request::get(path)
        .header("host", "localhost")
        .header("origin", "http://localhost")
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
        .body(Body::empty())
        .unwrap();
    let arrival = Arrival {
        peer: Some(([127, 0, 0, 1], 40_000).into()),
        server: None,
        security: Scheme::Plain,
        user: None,
    };
    let Answer::Upgrade(_, upgrade) = app.gateway().serve(request, &arrival).await else {
        panic!("expected an upgrade");
    };
    let (here, there) = tokio::io::duplex(1 << 20);
    upgrade.start(Some(Transport::stream(there)), Bytes::new(), Box::new(()));
    here
}

/// Sends the parts one after the other, each read before the next is sent, and takes all that comes back.
async fn exchange(app: &Application, path: &str, parts: &[&[u8]]) -> Vec<u8> {
    let mut stream = open(app, path).await;
    for part in parts {
        // A server that has ended the socket does not take the rest.
        if stream.write_all(part).await.is_err() {
            break;
        }
        for _ in 0..3 {
            tokio::task::yield_now().await;
        }
    }
    let mut heard = Vec::new();
    let all = async {
        while !ends_with_close(&heard) {
            if stream.read_buf(&mut heard).await.unwrap_or(0) == 0 {
                return;
            }
        }
        let _ = stream.shutdown().await;
        let _ = stream.read_to_end(&mut heard).await;
    };
    if timeout(DEADLINE, all).await.is_err() {
        heard.extend(b"... and then nothing, nor the end");
    }
    heard
}

/// Walks frames; tells whether a whole close frame is among them.
fn ends_with_close(mut heard: &[u8]) -> bool {
    loop {
        let (header, length) = match *heard {
            [_, length @ 0..=125, ..] => (2, usize::from(length)),
            [_, 126, high, low, ..] => (4, usize::from(u16::from_be_bytes([high, low]))),
            [_, 127, _, _, _, _, a, b, c, d, ..] => (10, u32::from_be_bytes([a, b, c, d]) as usize),
            _ => return false,
        };
        if heard.len() < header + length {
            return false;
        }
        if heard[0] == CLOSE {
            return true;
        }
        heard = &heard[header + length..];
    }
}

fn encoded(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        length @ 0..=125 => bytes.push(length as u8),
        length @ 126..=0xFFFF => {
            bytes.push(126);
            bytes.extend((length as u16).to_be_bytes());
        }
        length => {
            bytes.push(127);
            bytes.extend((length as u64).to_be_bytes());
        }
    }
    bytes.extend(payload);
    bytes
}

/// All answers to the byte, then one close frame with the code, whatever its reason, then nothing.
fn fault(sequence: &Sequence, heard: &[u8]) -> Option<String> {
    let answers: Vec<u8> = sequence
        .answers
        .iter()
        .flat_map(|(first, payload)| encoded(*first, payload))
        .collect();
    let shown = |bytes: &[u8]| format!("{:02x?}", &bytes[..bytes.len().min(60)]);
    let Some(rest) = heard.strip_prefix(&answers[..]) else {
        return Some(format!(
            "expected {}, found {}",
            shown(&answers),
            shown(heard)
        ));
    };
    let is_right = match (sequence.code, rest) {
        (None, [CLOSE, 0]) => true,
        (Some(code), [CLOSE, length, high, low, reason @ ..]) => {
            u16::from_be_bytes([*high, *low]) == code && reason.len() + 2 == usize::from(*length)
        }
        _ => false,
    };
    (!is_right).then(|| {
        format!(
            "expected a close frame with {:?}, found {}",
            sequence.code,
            shown(rest)
        )
    })
}

/// Where a sequence is cut: everywhere when it is short, else around its ends and at places spread over it.
fn cuts(length: usize) -> Vec<usize> {
    if length <= 120 {
        return (1..length).collect();
    }
    let mut cuts: Vec<usize> = (1..20).chain(length - 20..length).collect();
    cuts.extend((1..=16).map(|at| at * length / 17));
    cuts.sort_unstable();
    cuts.dedup();
    cuts
}

#[test]
fn every_sequence_ends_as_the_table_says_however_it_is_cut() {
    let table = table();
    assert!(table.0.len() >= 150, "{}", table.0.len());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut faults = String::new();
    runtime.block_on(async {
        let app = Application::parse(ROUTES).unwrap();
        for sequence in &table.0 {
            let sent = &sequence.sent;
            let mut ways: Vec<(String, Vec<&[u8]>)> = vec![("whole".to_owned(), vec![sent])];
            if sent.len() <= 5_000 {
                ways.push(("byte by byte".to_owned(), sent.chunks(1).collect()));
            } else {
                ways.push(("in parts of 1,000".to_owned(), sent.chunks(1000).collect()));
            }
            for cut in cuts(sent.len()) {
                let (before, behind) = sent.split_at(cut);
                ways.push((format!("cut at {cut}"), vec![before, behind]));
            }
            for (way, parts) in ways {
                let heard = exchange(&app, sequence.path, &parts).await;
                if let Some(fault) = fault(sequence, &heard) {
                    let _ = writeln!(faults, "{}, {way}: {fault}", sequence.name);
                    break; // the other ways say the same
                }
            }
        }
    });
    assert!(faults.is_empty(), "\n{faults}");
}
