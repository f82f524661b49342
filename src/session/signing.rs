//! Signing: verifies values in Django's format (`django.core.signing`).

use std::io::Read;
use std::time::Duration;

use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use flate2::read::ZlibDecoder;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use thiserror::Error;

/// The maximum size of a value after decompression.
const VALUE_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// The salt of a user's session hash (`AbstractBaseUser.get_session_auth_hash`).
const AUTH_HASH_SALT: &str = "django.contrib.auth.models.AbstractBaseUser.get_session_auth_hash";

/// Why a signed value is rejected.
#[derive(Debug, Eq, Error, PartialEq)]
pub(crate) enum SignatureError {
    /// The value does not have the format.
    #[error("expected \"value:time:signature\", found something else")]
    Malformed,
    /// The value was signed with another key, or changed.
    #[error("the signature matches none of the secret keys")]
    Signature,
    /// The signature is too old.
    #[error("signature expired: its age is {age:?}, the maximum is {max_age:?}")]
    Expired {
        /// The maximum age.
        max_age: Duration,
        /// Its age.
        age: Duration,
    },
    /// The signature is valid, but the value is not a JSON object.
    #[error("expected a JSON object, found {0}")]
    Content(String),
}

/// Returns HMAC-SHA256 with the key `SHA256(salt + secret)` (Django's `salted_hmac`).
#[must_use]
pub fn salted_hmac_sha256(salt: &str, secret: &str, value: &[u8]) -> [u8; 32] {
    let key = Sha256::new()
        .chain_update(salt)
        .chain_update(secret)
        .finalize();
    // HMAC pads a shorter key with zeros to a block (RFC 2104 §2); a whole block is always
    // accepted.
    let mut block = [0; 64];
    block[..key.len()].copy_from_slice(&key);
    Hmac::<Sha256>::new(&block.into())
        .chain_update(value)
        .finalize()
        .into_bytes()
        .into()
}

/// Returns the hash of a user's password that a session stores: 64 hexadecimal digits (Django's
/// `get_session_auth_hash`).
#[must_use]
pub fn auth_hash(secret: &str, password_column: &str) -> String {
    HEXLOWER.encode(&salted_hmac_sha256(
        AUTH_HASH_SALT,
        secret,
        password_column.as_bytes(),
    ))
}

/// Verifies and decodes a signed object (Django's `signing.loads` with the JSON serializer).
///
/// Python's `NaN` and infinities become null, integers beyond 64 bits become floats, and a lone
/// surrogate becomes U+FFFD.
pub(crate) fn unsign_object(
    signed: &str,
    salt: &str,
    secrets: &[impl AsRef<str>],
    now: u64,
    max_age: Option<Duration>,
) -> Result<Map<String, Value>, SignatureError> {
    let (value, signature) = signed.rsplit_once(':').ok_or(SignatureError::Malformed)?;
    let signer = format!("{salt}signer");
    let is_signed = secrets.iter().any(|secret| {
        let expected = salted_hmac_sha256(&signer, secret.as_ref(), value.as_bytes());
        let expected = BASE64URL_NOPAD.encode(&expected);
        expected.as_bytes().ct_eq(signature.as_bytes()).into()
    });
    if !is_signed {
        return Err(SignatureError::Signature);
    }
    let (payload, time) = value.rsplit_once(':').ok_or(SignatureError::Malformed)?;
    let time = base62(time).ok_or(SignatureError::Malformed)?;
    let age = Duration::from_secs(now.saturating_sub(time));
    if let Some(max_age) = max_age.filter(|max_age| age > *max_age) {
        return Err(SignatureError::Expired { max_age, age });
    }
    decode(payload)
}

/// Returns the Unix time of signing, in seconds. Does not verify the signature.
pub(super) fn signed_at(signed: &str) -> Option<i64> {
    let (value, _) = signed.rsplit_once(':')?;
    let (_, time) = value.rsplit_once(':')?;
    base62(time)?.try_into().ok()
}

fn decode(payload: &str) -> Result<Map<String, Value>, SignatureError> {
    let content = |what: &dyn std::fmt::Display| SignatureError::Content(what.to_string());
    let (text, is_compressed) = match payload.strip_prefix('.') {
        Some(rest) => (rest, true),
        None => (payload, false),
    };
    let mut bytes = BASE64URL_NOPAD
        .decode(text.as_bytes())
        .map_err(|error| content(&error))?;
    if is_compressed {
        let mut inflated = Vec::new();
        ZlibDecoder::new(&*bytes)
            .take(VALUE_BYTES_MAX + 1)
            .read_to_end(&mut inflated)
            .map_err(|error| content(&error))?;
        if inflated.len() as u64 > VALUE_BYTES_MAX {
            return Err(content(&"more than 8 MiB"));
        }
        bytes = inflated;
    }
    let text = String::from_utf8(bytes).map_err(|error| content(&error))?;
    let parsed = serde_json::from_str(&text).or_else(|_| serde_json::from_str(&standard(&text)));
    // The parser's own message can quote the value, and this one is logged.
    parsed.map_err(|error: serde_json::Error| {
        let (line, column) = (error.line(), error.column());
        content(&format_args!(
            "a {:?} error at line {line}, column {column}",
            error.classify()
        ))
    })
}

/// Replaces Python's extensions to JSON: `NaN`, `Infinity` and `-Infinity` outside strings, and
/// lone surrogates inside strings.
fn standard(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let (mut in_text, mut rest) = (false, text);
    while let Some(first) = rest.chars().next() {
        let word = ["NaN", "-Infinity", "Infinity"]
            .into_iter()
            .find(|word| !in_text && rest.starts_with(word));
        if let Some(word) = word {
            plain.push_str("null");
            rest = &rest[word.len()..];
            continue;
        }
        let mut length = first.len_utf8();
        match (in_text, first) {
            (true, '\\') => match (escape(rest), rest.get(6..).and_then(escape)) {
                (Some(0xd800..0xdc00), Some(0xdc00..0xe000)) => length = 12,
                (Some(0xd800..0xe000), _) => {
                    plain.push_str("\\ufffd");
                    rest = &rest[6..];
                    continue;
                }
                // An escaped quote does not end the string.
                _ => length += rest[1..].chars().next().map_or(0, char::len_utf8),
            },
            (_, '"') => in_text = !in_text,
            _ => {}
        }
        plain.push_str(&rest[..length]);
        rest = &rest[length..];
    }
    plain
}

/// Returns the code of `\uXXXX` at the start of a text.
fn escape(text: &str) -> Option<u32> {
    let digits = text.strip_prefix("\\u")?.get(..4)?;
    u32::from_str_radix(digits, 16).ok()
}

/// Decodes a timestamp (`django.core.signing.b62_decode`).
fn base62(text: &str) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.bytes().try_fold(0_u64, |number, byte| {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'A'..=b'Z' => byte - b'A' + 10,
            b'a'..=b'z' => byte - b'a' + 36,
            _ => return None,
        };
        number.checked_mul(62)?.checked_add(digit.into())
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const SALT: &str = "django.contrib.sessions.SessionStore";
    const COOKIE_SALT: &str = "django.contrib.sessions.backends.signed_cookies";
    const MADE_AT: u64 = 1_767_225_600;

    fn vectors() -> Value {
        serde_json::from_str(include_str!("../../tests/vectors/django.json")).unwrap()
    }

    fn salt(entry: &Value) -> &'static str {
        match entry["backend"].as_str() {
            Some("signed_cookies") => COOKIE_SALT,
            _ => SALT,
        }
    }

    fn secrets(entry: &Value) -> Vec<String> {
        let first = entry["SECRET_KEY"].as_str().map(str::to_owned);
        let fallbacks = entry["SECRET_KEY_FALLBACKS"]
            .as_array()
            .into_iter()
            .flatten();
        first
            .into_iter()
            .chain(fallbacks.filter_map(Value::as_str).map(str::to_owned))
            .collect()
    }

    #[test]
    fn djangos_sessions_are_read() {
        let vectors = vectors();
        let mut read = 0;
        for entry in vectors["sessions"].as_array().unwrap() {
            let Some(signed) = entry["session_data"].as_str() else {
                continue; // the cache engine's sessions are pickled
            };
            let found = unsign_object(signed, salt(entry), &secrets(entry), MADE_AT, None);
            assert_eq!(
                Value::from(found.unwrap()),
                entry["decoded"],
                "{}",
                entry["name"]
            );
            read += 1;
        }
        assert!(read >= 12, "{read}");
    }

    #[test]
    fn what_django_refuses_is_refused() {
        let vectors = vectors();
        for entry in vectors["sessions_negative"].as_array().unwrap() {
            let signed = entry["session_data"].as_str().unwrap();
            let late = entry["name"].as_str().unwrap().contains("after signing");
            let max_age = Duration::from_secs(1_209_600);
            // The vector is at the limit: the maximum age is accepted, one second more is not.
            let edges: &[(u64, bool)] = if late {
                &[(0, true), (1, false)]
            } else {
                &[(0, false)]
            };
            for (beyond, is_taken) in edges {
                let now = MADE_AT + if late { max_age.as_secs() + beyond } else { 0 };
                let found = unsign_object(signed, salt(entry), &secrets(entry), now, Some(max_age));
                assert_eq!(found.is_ok(), *is_taken, "{} {found:?}", entry["name"]);
            }
        }
    }

    #[test]
    fn hashes_are_djangos() {
        let vectors = vectors();
        for entry in vectors["auth_hash"].as_array().unwrap() {
            let text = |name: &str| entry[name].as_str().unwrap();
            let found = auth_hash(text("SECRET_KEY"), text("password"));
            assert_eq!(found, text("_auth_user_hash"));
        }
        for entry in vectors["salted_hmac"].as_array().unwrap() {
            let text = |name: &str| entry[name].as_str().unwrap();
            if text("algorithm") != "sha256" {
                continue;
            }
            let found =
                salted_hmac_sha256(text("key_salt"), text("secret"), text("value").as_bytes());
            assert_eq!(HEXLOWER.encode(&found), text("hex"));
        }
        for pair in vectors["base62"].as_array().unwrap() {
            assert_eq!(
                base62(pair[1].as_str().unwrap()),
                pair[0].as_u64(),
                "{pair}"
            );
        }
        for bad in ["", "-1", "!", "zzzzzzzzzzzzzzzzzzzz"] {
            assert_eq!(base62(bad), None, "{bad}");
        }
    }

    #[test]
    fn pythons_own_json_is_understood() {
        let read = |text: &str| decode(&BASE64URL_NOPAD.encode(text.as_bytes())).map(Value::from);
        assert_eq!(
            read(r#"{"a": NaN, "b": [-Infinity, Infinity], "NaN": "NaN \" NaN \\", "c": "é"}"#),
            Ok(json!({"a": null, "b": [null, null], "NaN": "NaN \" NaN \\", "c": "é"}))
        );
        assert_eq!(
            read(r#"{"a": "\ud800 \ude00\ud83d\ude00 \\ud800", "b": "\ud800"}"#),
            Ok(json!({"a": "\u{fffd} \u{fffd}\u{1f600} \\ud800", "b": "\u{fffd}"}))
        );
        assert_eq!(
            read(r#"{"n": 123456789012345678901234567890}"#).unwrap()["n"].as_f64(),
            Some(1.234_567_890_123_456_8e29)
        );
        let refused = read("\"a session's value\"").unwrap_err().to_string();
        assert!(!refused.contains("session's"), "{refused}");
        for other in ["[1]", "1", "", "{", r#"{"a": NaN"#, "\"\\"] {
            assert!(read(other).is_err(), "{other}");
        }
    }
}
