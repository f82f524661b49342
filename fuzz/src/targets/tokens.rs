//! Tokens: the input is a token, the claims of one, or a JWK set.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use data_encoding::BASE64URL_NOPAD;
use hmac::{Hmac, KeyInit, Mac};
use oneport::auth::bearer::{Bearer, BearerKey, BearerSettings};
use serde_json::Value;
use sha2::Sha256;

const SECRET: &str = "a secret of at least thirty-two bytes";
const LEEWAY: Duration = Duration::from_secs(30);

thread_local! {
    static BEARER: OnceCell<Bearer> = const { OnceCell::new() };
}

pub fn run(data: &[u8]) {
    BEARER.with(|bearer| {
        let bearer = bearer.get_or_init(|| {
            Bearer::new(settings(&["HS256"], BearerKey::Text(SECRET.to_owned()))).expect("a key")
        });
        let text = String::from_utf8_lossy(data);
        // A signature cannot be guessed: a token that is accepted is signed with the key.
        if bearer.verify(&text).is_ok() {
            let (message, signature) = text.rsplit_once('.').expect("three parts");
            assert_eq!(signature, sign(message));
        }
        let claims = BASE64URL_NOPAD.encode(data);
        let header = BASE64URL_NOPAD.encode(br#"{"alg":"HS256"}"#);
        claimed(bearer, &format!("{header}.{claims}"), data);
        // The input is the header.
        let claims = BASE64URL_NOPAD.encode(br#"{"sub":"a","exp":4070908800}"#);
        let message = format!("{}.{claims}", BASE64URL_NOPAD.encode(data));
        if bearer
            .verify(&format!("{message}.{}", sign(&message)))
            .is_ok()
        {
            // In a parameter that it does not know, it takes any bytes.
            let text = String::from_utf8_lossy(data);
            let header: Value = serde_json::from_str(&text).expect("a header");
            assert_eq!(header["alg"], "HS256");
            assert!(header.get("crit").is_none());
        }
        assert!(
            bearer.verify(&format!("{message}.")).is_err(),
            "without a signature"
        );
    });
    if let Ok(text) = std::str::from_utf8(data) {
        let algorithms = ["HS256", "RS256", "ES256", "EdDSA"];
        let keys = BearerKey::Jwks(text.to_owned());
        if let Ok(bearer) = Bearer::new(settings(&algorithms, keys)) {
            assert!(
                bearer
                    .verify("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOjd9.AAAA")
                    .is_err()
            );
        }
        let _ = Bearer::new(settings(&["RS256"], BearerKey::Text(text.to_owned())));
    }
}

/// A token with these claims is accepted only while it is valid, and for their user.
fn claimed(bearer: &Bearer, message: &str, claims: &[u8]) {
    let Ok(token) = bearer.verify(&format!("{message}.{}", sign(message))) else {
        return;
    };
    let claims: Value = serde_json::from_slice(claims).expect("claims");
    let expires = claims["exp"].as_f64().expect("an end");
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .expect("a time");
    assert!(
        expires + LEEWAY.as_secs_f64() + 1.0 > now.as_secs_f64(),
        "expired"
    );
    assert!((1..=256).contains(&token.user.id.chars().count()));
    match &claims["sub"] {
        Value::String(id) => assert_eq!(id, &token.user.id),
        id => assert_eq!(id.to_string(), token.user.id),
    }
    assert_eq!(token.user.is_staff, claims["is_staff"] == true);
}

fn settings(algorithms: &[&str], key: BearerKey) -> BearerSettings {
    BearerSettings {
        algorithms: algorithms.iter().map(ToString::to_string).collect(),
        key,
        issuer: None,
        audience: None,
        required: BTreeMap::new(),
        leeway: LEEWAY,
        user_id: "sub".to_owned(),
        user_name: "name".to_owned(),
        is_staff: "is_staff".to_owned(),
    }
}

fn sign(message: &str) -> String {
    let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(SECRET.as_bytes()).expect("a key");
    mac.update(message.as_bytes());
    BASE64URL_NOPAD.encode(&mac.finalize().into_bytes())
}
