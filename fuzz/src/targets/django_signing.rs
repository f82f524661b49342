//! Values that Django has signed: the input is a value, whose signature is right or not.

use std::io::Write;
use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use flate2::Compression;
use flate2::write::ZlibEncoder;
use oneport::fuzzing::unsign;
use oneport::session::salted_hmac_sha256;
use serde_json::{Map, Value};

const SALT: &str = "django.contrib.sessions.SessionStore";
const SECRET: &str = "a secret key";
/// `1vb66i` in base 62.
const NOW: u64 = 1_767_225_600;

pub fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let read = |signed: &str| unsign(signed, SALT, SECRET, NOW, Some(Duration::from_secs(600)));
    // A signature cannot be guessed.
    assert!(read(&text).is_err());
    assert!(unsign(&sign(&text), SALT, "another key", NOW, None).is_err());
    let _ = read(&sign(&text)); // the value and its time are anything
    let plain = BASE64URL_NOPAD.encode(data);
    let found = read(&sign(&format!("{plain}:1vb66i")));
    let mut compressed = ZlibEncoder::new(Vec::new(), Compression::fast());
    let written = compressed
        .write_all(data)
        .and_then(|()| compressed.finish())
        .expect("a vector");
    let inflated = read(&sign(&format!(
        ".{}:1vb66i",
        BASE64URL_NOPAD.encode(&written)
    )));
    assert_eq!(found, inflated, "compression matters");
    let _ = read(&sign(&format!(".{plain}:1vb66i"))); // the input is what was compressed
    if let Ok(object) = serde_json::from_slice::<Map<String, Value>>(data) {
        assert_eq!(found, Ok(object));
    }
    assert!(
        unsign(
            &sign(&format!("{plain}:1vb66i")),
            SALT,
            SECRET,
            NOW + 601,
            Some(Duration::from_secs(600))
        )
        .is_err()
    );
}

fn sign(value: &str) -> String {
    let signature = salted_hmac_sha256(&format!("{SALT}signer"), SECRET, value.as_bytes());
    format!("{value}:{}", BASE64URL_NOPAD.encode(&signature))
}
