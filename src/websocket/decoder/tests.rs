//! Tests of the decoder: turns bytes in any pieces into messages, and refuses violations.

use super::*;

const LIMITS: Limits = Limits {
    message_bytes_max: 1000,
    fragments_max: 4,
};
const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    match payload.len() {
        length @ 0..=125 => out.push(0x80 | length as u8),
        length => {
            out.push(0x80 | 126);
            out.extend((length as u16).to_be_bytes());
        }
    }
    out.extend(KEY);
    out.extend(
        payload
            .iter()
            .enumerate()
            .map(|(at, byte)| byte ^ KEY[at & 3]),
    );
    out
}

fn decode_in_pieces(bytes: &[u8], size: usize) -> Result<Vec<Item>, Violation> {
    let mut decoder = Decoder::new(None);
    let mut items = Vec::new();
    for mut piece in bytes.chunks(size) {
        while let Some(item) = decoder.next(&mut piece, LIMITS)? {
            items.push(item);
        }
    }
    assert!(decoder.partial.is_none() || !bytes.is_empty());
    Ok(items)
}

/// However the bytes are split, the outcome is the same.
fn check(bytes: &[u8], expected: &Result<Vec<Item>, Violation>) {
    for size in [1, 2, 3, 7, 64, bytes.len().max(1)] {
        assert_eq!(&decode_in_pieces(bytes, size), expected, "pieces of {size}");
    }
}

fn text(text: &str) -> Item {
    Item::Message(Message::text(text))
}

#[test]
fn whole_messages_come_out_however_they_arrive() {
    let long = "a".repeat(999);
    let bytes = [
        masked(0x81, b"hi"),
        masked(0x82, &[0, 255]),
        masked(0x81, b""),
        masked(0x81, long.as_bytes()),
    ]
    .concat();
    check(
        &bytes,
        &Ok(vec![
            text("hi"),
            Item::Message(Message::binary(vec![0, 255])),
            text(""),
            text(&long),
        ]),
    );
}

#[test]
fn fragments_are_joined_around_control_frames() {
    let bytes = [
        masked(0x01, "é".as_bytes().split_at(1).0),
        masked(0x89, b"ping"),
        masked(0x80, "é".as_bytes().split_at(1).1),
    ]
    .concat();
    check(
        &bytes,
        &Ok(vec![Item::Ping(Bytes::from_static(b"ping")), text("é")]),
    );
}

#[test]
fn messages_up_to_the_limits_pass_and_one_more_does_not() {
    check(
        &masked(0x82, &[7; 1000]),
        &Ok(vec![Item::Message(Message::binary(vec![7; 1000]))]),
    );
    check(
        &masked(0x82, &[7; 1001]),
        &Err(Violation::TooBig { limit: 1000 }),
    );
    check(
        &[masked(0x02, &[7; 600]), masked(0x80, &[7; 401])].concat(),
        &Err(Violation::TooBig { limit: 1000 }),
    );
    let four = [
        masked(0x01, b"a"),
        masked(0x00, b"b"),
        masked(0x00, b"c"),
        masked(0x80, b"d"),
    ]
    .concat();
    check(&four, &Ok(vec![text("abcd")]));
    let five = [
        masked(0x01, b""),
        masked(0x00, b""),
        masked(0x00, b""),
        masked(0x00, b""),
        masked(0x80, b""),
    ]
    .concat();
    check(&five, &Err(Violation::TooManyFragments { limit: 4 }));
}

#[test]
fn announced_length_is_refused_before_a_byte_of_it_came() {
    let mut decoder = Decoder::new(None);
    let mut head: &[u8] = &[0x82, 0xFF, 0, 0, 0, 0, 0x40, 0, 0, 0, 1, 2, 3, 4];
    assert_eq!(
        decoder.next(&mut head, LIMITS),
        Err(Violation::TooBig { limit: 1000 })
    );
    let mut head: &[u8] = &[0x82, 0xFF, 0xFF, 0, 0, 0, 0x40, 0, 0, 0, 1, 2, 3, 4];
    assert!(matches!(
        Decoder::new(None).next(&mut head, LIMITS),
        Err(Violation::Protocol(_))
    ));
}

#[test]
fn invalid_text_fails_before_its_message_is_complete() {
    let mut decoder = Decoder::new(None);
    let frame = masked(0x81, b"\xCE\xBA\xFFrest of it");
    let mut start = &frame[..9];
    assert_eq!(
        decoder.next(&mut start, LIMITS),
        Err(Violation::InvalidUtf8)
    );
    check(
        &[masked(0x01, b"ok"), masked(0x80, b"\xED\xA0\x80")].concat(),
        &Err(Violation::InvalidUtf8),
    );
    check(&masked(0x81, b"\xCE"), &Err(Violation::InvalidUtf8));
}

#[test]
fn broken_frames_are_protocol_violations() {
    let unmasked = [0x81, 0x02, b'h', b'i'];
    for (what, bytes) in [
        ("unmasked", unmasked.to_vec()),
        ("rsv1", masked(0xC1, b"x")),
        ("rsv2", masked(0xA1, b"x")),
        ("rsv3", masked(0x91, b"x")),
        ("opcode 3", masked(0x83, b"x")),
        ("opcode 11", masked(0x8B, b"x")),
        ("fragmented ping", masked(0x09, b"x")),
        ("long ping", masked(0x89, &[0; 126])),
        ("stray continuation", masked(0x80, b"x")),
        (
            "message inside a message",
            [masked(0x01, b"a"), masked(0x81, b"b")].concat(),
        ),
        ("close of one octet", masked(0x88, b"x")),
        ("close with 1005", masked(0x88, &1005_u16.to_be_bytes())),
        ("close with 999", masked(0x88, &999_u16.to_be_bytes())),
    ] {
        for size in [1, bytes.len()] {
            assert!(
                matches!(decode_in_pieces(&bytes, size), Err(Violation::Protocol(_))),
                "{what}"
            );
        }
    }
    check(&masked(0x88, b"\x03\xE8\xFF"), &Err(Violation::InvalidUtf8));
}

#[test]
fn close_frames_are_read() {
    check(
        &masked(0x88, b""),
        &Ok(vec![Item::Close {
            code: CloseCode::NO_STATUS,
            reason: String::new(),
        }]),
    );
    let code = CloseCode::new(4001).unwrap();
    check(
        &masked(0x88, b"\x0F\xA1bye"),
        &Ok(vec![Item::Close {
            code,
            reason: "bye".into(),
        }]),
    );
}

/// What has arrived of a message is known until the message is whole, and if it is invalid.
#[test]
fn bytes_of_an_unfinished_message_are_known() {
    let limits = Limits {
        message_bytes_max: 1_000,
        fragments_max: 10,
    };
    let mut decoder = Decoder::new(None);
    assert_eq!(decoder.unfinished_bytes(), 0);
    let text = masked(0x81, &[b'a'; 300]);
    let (most, last) = text.split_at(text.len() - 1);
    assert_eq!(decoder.next(&mut &most[..], limits), Ok(None));
    assert_eq!(decoder.unfinished_bytes(), 299);
    assert!(decoder.next(&mut &last[..], limits).unwrap().is_some());
    assert_eq!(decoder.unfinished_bytes(), 0);
    // A fragment, and another that ends within a character.
    let fragments = [masked(0x01, &[b'a'; 100]), masked(0x80, b"\xc3")];
    let [mut first, mut second] = fragments.each_ref().map(|bytes| &bytes[..]);
    assert_eq!(decoder.next(&mut first, limits), Ok(None));
    assert_eq!(decoder.unfinished_bytes(), 100);
    let invalid = decoder.next(&mut second, limits);
    assert_eq!(invalid, Err(Violation::InvalidUtf8));
    assert_eq!(decoder.unfinished_bytes(), 101);
    decoder.free();
    assert_eq!(decoder.unfinished_bytes(), 0);
}

#[test]
fn idle_decoder_owns_nothing() {
    let mut decoder = Decoder::new(None);
    for frame in [
        masked(0x81, b"hi"),
        masked(0x89, b"p"),
        [masked(0x01, b"a"), masked(0x80, b"b")].concat(),
    ] {
        let mut input = frame.as_slice();
        while decoder.next(&mut input, LIMITS).unwrap().is_some() {}
        assert!(decoder.partial.is_none());
    }
}

proptest::proptest! {
    #[test]
    fn arbitrary_bytes_never_panic_and_cuts_never_matter(bytes: Vec<u8>, size in 1_usize..20) {
        proptest::prop_assert_eq!(decode_in_pieces(&bytes, size), decode_in_pieces(&bytes, bytes.len().max(1)));
    }
}
