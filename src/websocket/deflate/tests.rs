//! Tests of deflate: compressing, inflating and resetting.

use super::*;

const AGREED: Deflate = Deflate {
    server_window_bits: 15,
    client_window_bits: 15,
    server_context_takeover: true,
    client_context_takeover: true,
    names_server_window: false,
};

fn inflate_all(
    inflation: &mut Inflation,
    message: &[u8],
    limit: usize,
) -> Result<Vec<u8>, Violation> {
    let mut out = Vec::new();
    let mut inflater = inflation.begin();
    let mut key = [0; 4];
    inflater.inflate_masked(message, &mut key, &mut out, limit)?;
    inflater.finish(&mut out, limit)?;
    inflation.finish(inflater);
    Ok(out)
}

/// RFC 7692 §7.2.3.
#[test]
fn examples_of_the_rfc_inflate() {
    let mut inflation = Inflation::new(AGREED);
    for message in [
        &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00][..],
        &[0xf2, 0x00, 0x11, 0x00, 0x00], // refers to the one before
        &[
            0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00,
        ],
        &[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00],
        &[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00], // a final block alone
        &[
            0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00,
        ],
    ] {
        assert_eq!(
            inflate_all(&mut inflation, message, 5).as_deref(),
            Ok(&b"Hello"[..]),
            "{message:02x?}"
        );
    }
    assert_eq!(
        inflate_all(&mut inflation, &[0], 0).as_deref(),
        Ok(&b""[..])
    );
}

#[test]
fn context_of_the_pool_remembers_nothing() {
    let mut inflation = Inflation::PerMessage;
    inflate_all(
        &mut inflation,
        &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00],
        5,
    )
    .unwrap();
    assert_eq!(
        inflate_all(&mut inflation, &[0xf2, 0x00, 0x11, 0x00, 0x00], 5),
        Err(Violation::InvalidDeflate)
    );
}

#[test]
fn bomb_stops_at_the_limit() {
    let mut bomb = Vec::new();
    compress(&mut new_compress(9, 15), &vec![0; 1 << 24], &mut bomb);
    let mut out = Vec::new();
    let mut inflater = Inflation::PerMessage.begin();
    let outcome = inflater.inflate_masked(&bomb, &mut [0; 4], &mut out, 1000);
    assert_eq!(outcome, Err(Violation::TooBig { limit: 1000 }));
    assert!(out.capacity() <= 4096, "{}", out.capacity());
    let just = inflate_all(&mut Inflation::PerMessage, &bomb, 1 << 24).unwrap();
    assert_eq!(just.len(), 1 << 24);
}

#[test]
fn what_is_compressed_comes_back_for_every_window_and_level() {
    let text = "the same words and the same words again, ".repeat(200);
    let noise: Vec<u8> = (0..100_000).map(|_| fastrand::u8(..)).collect();
    for window_bits in 9..=15 {
        for level in 1..=9 {
            for payload in [text.as_bytes(), &noise, b"x"] {
                let mut out = Vec::new();
                compress(&mut new_compress(level, window_bits), payload, &mut out);
                let mut inflation = Inflation::new(Deflate {
                    client_window_bits: window_bits,
                    ..AGREED
                });
                let back = inflate_all(&mut inflation, &out, 1 << 20).unwrap();
                assert_eq!(back, payload, "{window_bits} {level}");
            }
        }
    }
}

#[test]
fn context_that_forgot_refers_to_nothing() {
    let payload = "all that was said before is of use".repeat(3);
    let settings = DeflateSettings::default();
    let mut deflater = Deflater::new(AGREED, &settings);
    let mut frames = [Vec::new(), Vec::new(), Vec::new()];
    deflater.encode(Opcode::Text, payload.as_bytes(), &mut frames[0]);
    deflater.encode(Opcode::Text, payload.as_bytes(), &mut frames[1]);
    deflater.reset();
    deflater.encode(Opcode::Text, payload.as_bytes(), &mut frames[2]);
    assert!(frames[1].len() < frames[0].len());
    assert_eq!(frames[0], frames[2]);
}

#[test]
fn message_that_would_grow_or_is_short_stays_plain() {
    let noise: Vec<u8> = (0..1000).map(|_| fastrand::u8(..)).collect();
    let settings = DeflateSettings::default();
    for payload in [&noise[..], &[b'a'; 255], b""] {
        let (mut found, mut plain) = (Vec::new(), Vec::new());
        encode_standalone(AGREED, &settings, Opcode::Binary, payload, &mut found);
        encode(Opcode::Binary, payload, &mut plain);
        assert_eq!(found, plain);
    }
    let mut found = Vec::new();
    encode_standalone(AGREED, &settings, Opcode::Binary, &[b'a'; 256], &mut found);
    assert_eq!(found[0], 0xC2);
    assert!(found.len() < 20);
}
