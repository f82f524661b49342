//! Tests of reading pickles, with those that Django wrote.

use data_encoding::BASE64;
use proptest::prelude::*;
use serde_json::json;

use super::*;

/// Made by Python 3.11's `pickle.dumps`.
const PICKLES: &[(&str, &str)] = &[
    (
        "plain 2",
        "gAJ9cQAoWAQAAAB0ZXh0cQFYBgAAAMOp8J+YgHECWAUAAABlbXB0eXEDWAAAAABxBFgEAAAAbm9uZXEFTlgDAAAAeWVzcQaIWAIAAABub3EHiVgFAAAAc21hbGxxCEsHWAQAAABieXRlcQlLyFgFAAAAc2hvcnRxCk3o/VgDAAAAaW50cQtK+////1gEAAAAbG9uZ3EMigYAAAAAAAFYCAAAAG5lZ2F0aXZlcQ2KBgAAAAAA/1gEAAAAaHVnZXEOigwAAAAAAAAAAAAAAARYBQAAAGZsb2F0cQ9HP/gAAAAAAABYAwAAAG5hbnEQR3/4AAAAAAAAWAQAAABsaXN0cRFdcRIoSwFdcRMoSwJ9cRRYBAAAAGRlZXBxFVgBAAAAeHEWc2VlWAUAAAB0dXBsZXEXKEsBSwJLA0sEdHEYWAIAAAB0MHEZKVgCAAAAdDFxGksBhXEbWAIAAAB0MnEcSwFLAoZxHVgCAAAAdDNxHksBSwJLA4dxH1gFAAAAYWdhaW5xIF1xIShdcSJYBAAAAHNhbWVxI2FoImVYBAAAAGRpY3RxJH1xJXUu",
    ),
    (
        "plain 3",
        "gAN9cQAoWAQAAAB0ZXh0cQFYBgAAAMOp8J+YgHECWAUAAABlbXB0eXEDWAAAAABxBFgEAAAAbm9uZXEFTlgDAAAAeWVzcQaIWAIAAABub3EHiVgFAAAAc21hbGxxCEsHWAQAAABieXRlcQlLyFgFAAAAc2hvcnRxCk3o/VgDAAAAaW50cQtK+////1gEAAAAbG9uZ3EMigYAAAAAAAFYCAAAAG5lZ2F0aXZlcQ2KBgAAAAAA/1gEAAAAaHVnZXEOigwAAAAAAAAAAAAAAARYBQAAAGZsb2F0cQ9HP/gAAAAAAABYAwAAAG5hbnEQR3/4AAAAAAAAWAQAAABsaXN0cRFdcRIoSwFdcRMoSwJ9cRRYBAAAAGRlZXBxFVgBAAAAeHEWc2VlWAUAAAB0dXBsZXEXKEsBSwJLA0sEdHEYWAIAAAB0MHEZKVgCAAAAdDFxGksBhXEbWAIAAAB0MnEcSwFLAoZxHVgCAAAAdDNxHksBSwJLA4dxH1gFAAAAYWdhaW5xIF1xIShdcSJYBAAAAHNhbWVxI2FoImVYBAAAAGRpY3RxJH1xJXUu",
    ),
    (
        "plain 4",
        "gASVMQEAAAAAAAB9lCiMBHRleHSUjAbDqfCfmICUjAVlbXB0eZSMAJSMBG5vbmWUTowDeWVzlIiMAm5vlImMBXNtYWxslEsHjARieXRllEvIjAVzaG9ydJRN6P2MA2ludJRK+////4wEbG9uZ5SKBgAAAAAAAYwIbmVnYXRpdmWUigYAAAAAAP+MBGh1Z2WUigwAAAAAAAAAAAAAAASMBWZsb2F0lEc/+AAAAAAAAIwDbmFulEd/+AAAAAAAAIwEbGlzdJRdlChLAV2UKEsCfZSMBGRlZXCUjAF4lHNlZYwFdHVwbGWUKEsBSwJLA0sEdJSMAnQwlCmMAnQxlEsBhZSMAnQylEsBSwKGlIwCdDOUSwFLAksDh5SMBWFnYWlulF2UKF2UjARzYW1llGFoImWMBGRpY3SUfZR1Lg==",
    ),
    (
        "plain 5",
        "gAWVMQEAAAAAAAB9lCiMBHRleHSUjAbDqfCfmICUjAVlbXB0eZSMAJSMBG5vbmWUTowDeWVzlIiMAm5vlImMBXNtYWxslEsHjARieXRllEvIjAVzaG9ydJRN6P2MA2ludJRK+////4wEbG9uZ5SKBgAAAAAAAYwIbmVnYXRpdmWUigYAAAAAAP+MBGh1Z2WUigwAAAAAAAAAAAAAAASMBWZsb2F0lEc/+AAAAAAAAIwDbmFulEd/+AAAAAAAAIwEbGlzdJRdlChLAV2UKEsCfZSMBGRlZXCUjAF4lHNlZYwFdHVwbGWUKEsBSwJLA0sEdJSMAnQwlCmMAnQxlEsBhZSMAnQylEsBSwKGlIwCdDOUSwFLAksDh5SMBWFnYWlulF2UKF2UjARzYW1llGFoImWMBGRpY3SUfZR1Lg==",
    ),
    (
        "datetime",
        "gAWVMQAAAAAAAAB9lIwBYZSMCGRhdGV0aW1llIwIZGF0ZXRpbWWUk5RDCgfqAQEAAAAAAACUhZRSlHMu",
    ),
    (
        "reduce",
        "gASVJQAAAAAAAAB9lIwBYZSMCGJ1aWx0aW5zlIwFcHJpbnSUk5SMAXiUhZRSlHMu",
    ),
    (
        "global 2",
        "gAJ9cQBYAQAAAGFxAWNfX2J1aWx0aW5fXwpwcmludApxAlgBAAAAeHEDhXEEUnEFcy4=",
    ),
    ("set", "gAWVEAAAAAAAAAB9lIwBYZSPlChLAUsCkHMu"),
    ("bytes", "gAWVDQAAAAAAAAB9lIwBYZRDAnh5lHMu"),
    ("int keys", "gAWVCAAAAAAAAAB9lEsBSwJzLg=="),
    ("list", "gAWVBgAAAAAAAABdlEsBYS4="),
];

fn of_python(name: &str) -> Vec<u8> {
    let (_, text) = PICKLES.iter().find(|(known, _)| *known == name).unwrap();
    BASE64.decode(text.as_bytes()).unwrap()
}

#[test]
fn djangos_cached_session_is_read() {
    let vectors: Value =
        serde_json::from_str(include_str!("../../../../../tests/vectors/django.json")).unwrap();
    let mut found = 0;
    for entry in vectors["sessions"].as_array().unwrap() {
        let hex = entry
            .as_object()
            .unwrap()
            .iter()
            .find_map(|(name, value)| name.contains("hex").then(|| value.as_str())?);
        let Some(hex) = hex.filter(|_| entry["backend"] == "cache") else {
            continue;
        };
        let bytes = data_encoding::HEXLOWER_PERMISSIVE
            .decode(hex.as_bytes())
            .unwrap();
        assert_eq!(Value::from(read(&bytes).unwrap()), entry["decoded"]);
        found += 1;
    }
    assert!(found >= 1);
}

#[test]
fn what_python_pickled_is_read() {
    for protocol in 2..=5 {
        assert_eq!(
            Value::from(read(&of_python(&format!("plain {protocol}"))).unwrap()),
            json!({
                "text": "é\u{1f600}", "empty": "", "none": null, "yes": true, "no": false, "small": 7, "byte": 200, "short": 65000,
                "int": -5, "long": 1_099_511_627_776_i64, "negative": -1_099_511_627_776_i64, "huge": 1.237_940_039_285_380_3e27,
                "float": 1.5, "nan": null, "list": [1, [2, {"deep": "x"}]], "tuple": [1, 2, 3, 4], "t0": [], "t1": [1],
                "t2": [1, 2], "t3": [1, 2, 3], "again": [["same"], ["same"]], "dict": {}
            }),
            "protocol {protocol}"
        );
    }
}

#[test]
fn what_could_run_code_is_refused() {
    for name in [
        "datetime", "reduce", "set", "bytes", "int keys", "list", "global 2",
    ] {
        assert!(read(&of_python(name)).is_err(), "{name}");
    }
    // GLOBAL, STACK_GLOBAL, REDUCE, BUILD, INST, OBJ, NEWOBJ, NEWOBJ_EX, PERSID, BINPERSID, EXT1,
    // EXT2, EXT4.
    for opcode in [
        b'c', 0x93, b'R', b'b', b'i', b'o', 0x81, 0x92, b'P', b'Q', 0x82, 0x83, 0x84,
    ] {
        let refused = read(&[0x80, 4, b'}', opcode, b'.']);
        assert_eq!(refused, Err(PickleError::Instruction { opcode, at: 3 }));
    }
}

#[test]
fn what_is_cut_off_is_refused_everywhere() {
    let whole = of_python("plain 5");
    for end in 0..whole.len() {
        assert!(read(&whole[..end]).is_err(), "{end}");
    }
}

#[test]
fn what_grows_without_bound_is_refused() {
    // Each list holds the one before ten times; a dictionary gets the last one.
    let mut laughs = vec![0x80, 4, b']', 0x94];
    for place in 0..20 {
        laughs.push(b']');
        laughs.push(0x94);
        laughs.push(b'(');
        for _ in 0..10 {
            laughs.extend([b'h', place]);
        }
        laughs.push(b'e');
    }
    laughs.extend([b'}', 0x8c, 1, b'a', b'h', 20, b's', b'.']);
    assert_eq!(read(&laughs), Err(PickleError::TooMuch));
    // One long text, named again and again.
    let mut echoes = vec![0x80, 4, b'}', 0x8c, 1, b'a', b']', b'(', b'X', 0, 0, 4, 0];
    echoes.extend([b'x'; 0x4_0000]);
    echoes.push(0x94);
    echoes.extend([b'h', 0].repeat(90_000));
    echoes.extend([b'e', b's', b'.']);
    assert_eq!(read(&echoes), Err(PickleError::TooMuch));
    let mut nested = vec![0x80, 4, b'}', 0x8c, 1, b'a'];
    nested.extend([b']'; 5000]);
    nested.extend([b'a'; 4999]);
    nested.extend([b's', b'.']);
    assert_eq!(read(&nested), Err(PickleError::TooMuch));
    // A list that holds itself.
    let itself = [
        0x80, 4, b'}', 0x8c, 1, b'a', b']', b'q', 0, b'h', 0, b'a', b's', b'.',
    ];
    assert_eq!(read(&itself), Err(PickleError::TooMuch));
}

#[test]
fn other_protocols_are_refused() {
    for bytes in [
        &b"}."[..],
        &[0x80, 1, b'}', b'.'],
        &[0x80, 6, b'}', b'.'],
        b"",
    ] {
        assert_eq!(read(bytes), Err(PickleError::Protocol), "{bytes:?}");
    }
}

/// 10**23 and its negative: Python's `float` says 1e23 and -1e23, which rounding byte by byte need
/// not meet.
#[test]
fn long_numbers_are_rounded_once() {
    let ten_to_23 = 100_000_000_000_000_000_000_000_i128;
    for (number, expected) in [
        (ten_to_23, 1e23),
        (-ten_to_23, -1e23),
        (1 << 64, 2.0_f64.powi(64)),
    ] {
        let mut bytes = vec![0x80, 4, b'}', 0x8c, 1, b'n', 0x8a, 16];
        bytes.extend(number.to_le_bytes());
        bytes.extend([b's', b'.']);
        assert_eq!(
            read(&bytes).unwrap()["n"].as_f64(),
            Some(expected),
            "{number}"
        );
    }
}

proptest! {
    #[test]
    fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = read(&bytes);
    }

    #[test]
    fn changed_pickles_never_panic(at in 0..1000_usize, byte in any::<u8>()) {
        let mut bytes = of_python("plain 5");
        let at = at % bytes.len();
        bytes[at] = byte;
        let _ = read(&bytes);
    }
}
