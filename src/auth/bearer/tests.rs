//! Tests of tokens: which are accepted, and why the others are refused.

use jsonwebtoken::{EncodingKey, Header as JwtHeader, encode};
use proptest::prelude::{any, prop, proptest};
use serde_json::json;

use jsonwebtoken::AlgorithmFamily;

use super::*;

// Created for these tests; they have signed nothing else.
const SECRET: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const RSA_PRIVATE: &str = "-----BEGIN PRIVATE KEY-----
MIIEvgIBADANBgkqhkiG9w0BAQEFAASCBKgwggSkAgEAAoIBAQCn8b0duvl3f7E9
Nbt1EcNi9or49l6UILgNyEdSX1+TkI6+Pdl19bvsvMfi8F8+10tsrgH7hsJmTFFp
1LZPXw39fZSEu9GC8a7xojTyIXRGiT47NCRvllN6U5HwU7Tcyro/3cbLC3qeb7Uv
M4JntlGuH5zrH5ArTpfUKmI22tQaTKMwh6fq4OTory80l+3soZUNTT5OhOmFB8qL
z9XMMsjffRcoilm/u/jgxcVaVhozp8zb734W93t/dJ/NpHP8/KevhK8lV3FtQbfd
ykj7G/UqmeDLFAmcV3Dv806RF4faz+8JW9v7LoGRoT6l0MhDWCKYmE2j9b9j12oZ
LrIS4qU7AgMBAAECggEACMmcLiKQQWxJNLKLjlAcIPZVMOVfRIaZFYDdw9XMCqId
PfS+3K5mI2MrXa4F0HlzxQoufgqVQG9iMSnup3o0oVzBToKvWe0rIhHtOErU1TNY
MhaD3jeHmFZ9bo2gCzorrazSj+GYDGiRmph/jHgHOm0FXm4mh9road2/3tlAu5F3
nPq9kgD9JTPm1hP1JEttDGtdU9V2r83sKcWIkmMa3EaEflQOgZ1ttJEKUCbE52eO
N+VKgj6yqOU6BFFAA1omUoEMdHbYue4PBIHSGyqYzW3ds5PSoMA+rSXSHN870B7W
EBiYc/JE7NvKaG0u3OJxFJW1Ktg1TAOdYZaTBl9EaQKBgQDZqS3SYw50y7spPwkT
IxaByvpu/rY6W6EPNPOxTKjXe/dSG4gOGyLNIHYTr524HcFd+4An2SNWE2msh4Ng
IOanB1Zyzc7Kdcn6qqplgUYT7iDMj50hDInac30681TtqcDkVCG/0M9hTlT8ImW+
Xw/ZAjv373Tb8FdwAlqXmXWtYwKBgQDFhrou9buVMHJfLAInQEzAR9RXJ3wtivpc
psZErgwe2W9KlJnqxFfsroAg3JhgoRhRR7e1VdB+ybqt4UoZmbTnA62pAwpmCN2b
o1D3BhHanW+ATDjxZxbHXhPQGjtXQ1Z4w9W41evx5+SobKEnRn3RGCMYCYfoZifr
EZGaeNs8SQKBgQDBsEG9WTaRCoanYpehtvSdVVHbmb/xWH6POLCukqgg8QiZwTQm
UVF7tio8xGcWYywihN57F0fRnf7Ib+KhlUWLVwU/rhMZqQ2uiVaOcyY4MAxx3E6Y
DT9S7LiAz+5Ae3HR/Wf2+ErCrWEE6VseuBszIkDZFfYojcxROVcCVqYYPwKBgQCN
ireLwwbCJ08tp6l7WvYkqtQcB+1R7U7uaYuV12pUCNdZCBcrRbsDnR+vbKO8SnPU
eqHHzVB0KjYdN10T7zLUf6xHeihPaXbzehogiTbuAvbNZtE/GvIVtvJXoxR2uYgT
TbGum4xRcixGDGGGdVrfJH6xUNMU028zYQmHOadQEQKBgDuCmINs7sc/EEjw++fH
ZjtpyC8lXDHJR1AcRq5PphPZURlUHwTbvM9HzFiaeS3zisFvD0DZmCLNBAWzS3CK
Z7Myn8Y72aDV51nr6qSF2dFIsI7FaKDIYsrVNeSk7gWvfaMKWxd/UNgnnAnQ8slu
6bUDtmuXPesptHhqg9T80lXZ
-----END PRIVATE KEY-----";
const RSA_PUBLIC: &str = "-----BEGIN PUBLIC KEY-----
MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAp/G9Hbr5d3+xPTW7dRHD
YvaK+PZelCC4DchHUl9fk5COvj3ZdfW77LzH4vBfPtdLbK4B+4bCZkxRadS2T18N
/X2UhLvRgvGu8aI08iF0Rok+OzQkb5ZTelOR8FO03Mq6P93Gywt6nm+1LzOCZ7ZR
rh+c6x+QK06X1CpiNtrUGkyjMIen6uDk6K8vNJft7KGVDU0+ToTphQfKi8/VzDLI
330XKIpZv7v44MXFWlYaM6fM2+9+Fvd7f3SfzaRz/Pynr4SvJVdxbUG33cpI+xv1
KpngyxQJnFdw7/NOkReH2s/vCVvb+y6BkaE+pdDIQ1gimJhNo/W/Y9dqGS6yEuKl
OwIDAQAB
-----END PUBLIC KEY-----";
const RSA_1024_PUBLIC: &str = "-----BEGIN PUBLIC KEY-----
MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDptMPCLt0kGz6/CMsuf9oE41k8
NnmVdgK0vq6UD3rXl3w9nERvAb0n/YuhyJhV2O4zAKt06dU33gOulhcvIOrXj8W4
fkUKAt2I37YJR7zBbvB6pAT2mcxjKuxLcHu71/wAxkf5JbS6eEowT3518rJ6bjWV
zRx8oD+b1EwBTHlquwIDAQAB
-----END PUBLIC KEY-----";
const P256_PRIVATE: &str = "-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgnbbZwzxwlwS81G94
oOHRUKBb1FWh6EM5YXkxpG0tYBuhRANCAAQI6UDarvQKGVUZgAb1HHTHxTuGHDUB
hkW9hess/b/T810JJw1v2bWafJYfwjIBftQBii7RqFQEBTE6edJBA1Ze
-----END PRIVATE KEY-----";
const P256_PUBLIC: &str = "-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAECOlA2q70ChlVGYAG9Rx0x8U7hhw1
AYZFvYXrLP2/0/NdCScNb9m1mnyWH8IyAX7UAYou0ahUBAUxOnnSQQNWXg==
-----END PUBLIC KEY-----";
const P384_PRIVATE: &str = "-----BEGIN PRIVATE KEY-----
MIG2AgEAMBAGByqGSM49AgEGBSuBBAAiBIGeMIGbAgEBBDCMRBQYMso8gFs5IsYu
zO//TLAr2UN8HU8dHWrvgBa0UKV3xVxPJebDsHHeYulTgBWhZANiAAStS5R09xAy
2p013ln1ctG0iCCFENwu3aTFHE246tasrsFtogniDfmQB4CcWUxgJUo0Qbm0AepB
rWPtSOfBp7makIQJgArGaBIiF7RN9hS4kdOTKSlFdBO9DxnrcwP12+0=
-----END PRIVATE KEY-----";
const P384_PUBLIC: &str = "-----BEGIN PUBLIC KEY-----
MHYwEAYHKoZIzj0CAQYFK4EEACIDYgAErUuUdPcQMtqdNd5Z9XLRtIgghRDcLt2k
xRxNuOrWrK7BbaIJ4g35kAeAnFlMYCVKNEG5tAHqQa1j7Ujnwae5mpCECYAKxmgS
Ihe0TfYUuJHTkykpRXQTvQ8Z63MD9dvt
-----END PUBLIC KEY-----";
const ED_PRIVATE: &str = "-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEIKV4thJ4t2VK/Y3hjwtXrTjJ86CSlnCtOKvdSsziWtYU
-----END PRIVATE KEY-----";
const ED_PUBLIC: &str = "-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEA2f09oS8eInGkITfkh5OUmU1l1wIjmg0RZc2YrSmkCHE=
-----END PUBLIC KEY-----";

const NOW: u64 = 1_800_000_000;

fn settings(algorithms: &[&str], key: &str) -> BearerSettings {
    BearerSettings {
        algorithms: algorithms.iter().map(ToString::to_string).collect(),
        key: BearerKey::Text(key.into()),
        issuer: None,
        audience: None,
        required: BTreeMap::new(),
        leeway: Duration::from_secs(30),
        user_id: "sub".into(),
        user_name: "name".into(),
        is_staff: "is_staff".into(),
    }
}

fn bearer(algorithms: &[&str], key: &str) -> Bearer {
    Bearer::new(settings(algorithms, key)).unwrap()
}

fn refused(settings: BearerSettings) -> String {
    Bearer::new(settings).unwrap_err().to_string()
}

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(NOW)
}

fn signing_key(algorithm: Algorithm) -> EncodingKey {
    match algorithm {
        Algorithm::ES256 => EncodingKey::from_ec_pem(P256_PRIVATE.as_bytes()).unwrap(),
        Algorithm::ES384 => EncodingKey::from_ec_pem(P384_PRIVATE.as_bytes()).unwrap(),
        Algorithm::EdDSA => EncodingKey::from_ed_pem(ED_PRIVATE.as_bytes()).unwrap(),
        other if other.family() == AlgorithmFamily::Rsa => {
            EncodingKey::from_rsa_pem(RSA_PRIVATE.as_bytes()).unwrap()
        }
        _ => EncodingKey::from_secret(SECRET.as_bytes()),
    }
}

fn sign(algorithm: Algorithm, claims: &Value) -> String {
    encode(&JwtHeader::new(algorithm), claims, &signing_key(algorithm)).unwrap()
}

fn sign_with_id(algorithm: Algorithm, id: &str) -> String {
    let mut header = JwtHeader::new(algorithm);
    header.kid = Some(id.into());
    encode(&header, &good_claims(), &signing_key(algorithm)).unwrap()
}

/// Signs a header that the crate would not write.
fn sign_header(header: &str) -> String {
    let claims = good_claims().to_string();
    let [header, claims] = [header, &claims].map(|part| BASE64URL_NOPAD.encode(part.as_bytes()));
    let message = format!("{header}.{claims}");
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::HS256).unwrap();
    format!("{message}.{signature}")
}

fn good_claims() -> Value {
    json!({"sub": "7", "name": "Ann", "is_staff": true, "exp": NOW + 60})
}

fn with(claim: &str, value: Value) -> Value {
    let mut claims = good_claims();
    claims[claim] = value;
    claims
}

/// The result of verifying a token with these claims.
fn check(claims: &Value) -> Result<Token, TokenError> {
    let token = sign(Algorithm::HS256, claims);
    bearer(&["HS256"], SECRET).verify_at(&token, now())
}

fn is_claim(result: Result<Token, TokenError>, name: &str) {
    let error = result.unwrap_err();
    assert!(
        matches!(&error, TokenError::Claim { claim, .. } if claim == name),
        "{error}"
    );
}

#[test]
fn takes_a_good_token_of_each_algorithm() {
    let table = [
        ("HS256", Algorithm::HS256, SECRET),
        ("HS384", Algorithm::HS384, SECRET),
        ("HS512", Algorithm::HS512, SECRET),
        ("RS256", Algorithm::RS256, RSA_PUBLIC),
        ("RS384", Algorithm::RS384, RSA_PUBLIC),
        ("RS512", Algorithm::RS512, RSA_PUBLIC),
        ("ES256", Algorithm::ES256, P256_PUBLIC),
        ("ES384", Algorithm::ES384, P384_PUBLIC),
        ("EdDSA", Algorithm::EdDSA, ED_PUBLIC),
    ];
    for (name, algorithm, key) in table {
        let token = sign(algorithm, &good_claims());
        let found = bearer(&[name], key).verify_at(&token, now()).unwrap();
        assert_eq!(
            found,
            Token {
                user: User {
                    id: "7".into(),
                    name: "Ann".into(),
                    is_staff: true,
                },
                expires_at: UNIX_EPOCH + Duration::from_secs(NOW + 60),
            },
            "{name}"
        );
    }
}

#[test]
fn the_clock_of_verify_is_the_clock_of_the_machine() {
    let bearer = bearer(&["HS256"], SECRET);
    let old = sign(Algorithm::HS256, &with("exp", json!(1_000_000_000)));
    let good = sign(Algorithm::HS256, &with("exp", json!(32_503_680_000_u64)));
    assert!(matches!(
        bearer.verify(&old),
        Err(TokenError::Expired { .. })
    ));
    assert!(bearer.verify(&good).is_ok());
}

#[test]
fn refuses_the_algorithm_none() {
    let bearer = bearer(&["HS256"], SECRET);
    for name in ["none", "None", "NONE"] {
        let token = sign_header(&format!(r#"{{"alg":"{name}"}}"#));
        let stripped = &token[..=token.rfind('.').unwrap()];
        for token in [&token, stripped] {
            assert_eq!(bearer.verify_at(token, now()), Err(TokenError::Unsigned));
        }
    }
}

#[test]
fn refuses_a_token_signed_with_the_public_key_as_secret() {
    let key = EncodingKey::from_secret(RSA_PUBLIC.as_bytes());
    let token = encode(&JwtHeader::new(Algorithm::HS256), &good_claims(), &key).unwrap();
    let found = bearer(&["RS256"], RSA_PUBLIC).verify_at(&token, now());
    let expected = "RS256".into();
    assert_eq!(found, Err(TokenError::Algorithm { expected }));
}

#[test]
fn refuses_an_algorithm_that_is_not_allowed() {
    let token = sign(Algorithm::HS512, &good_claims());
    let found = bearer(&["HS256", "HS384"], SECRET).verify_at(&token, now());
    let sentence = "expected a token signed with HS256, HS384, found another algorithm";
    assert_eq!(found.unwrap_err().to_string(), sentence);
    let unknown = sign_header(r#"{"alg":"PS256"}"#);
    let found = bearer(&["HS256"], SECRET).verify_at(&unknown, now());
    assert!(matches!(found, Err(TokenError::Algorithm { .. })));
}

#[test]
fn refuses_the_signature_of_another_key() {
    let other_secret = SECRET.replace('0', "x");
    let mut other_rsa = sign(Algorithm::RS256, &good_claims());
    other_rsa = other_rsa.replace(
        &other_rsa[other_rsa.rfind('.').unwrap()..],
        &format!(".{}", BASE64URL_NOPAD.encode(&[7; 256])),
    );
    let table = [
        (
            "HS256",
            other_secret.as_str(),
            sign(Algorithm::HS256, &good_claims()),
        ),
        ("RS256", RSA_PUBLIC, other_rsa),
    ];
    for (algorithm, key, token) in table {
        let found = bearer(&[algorithm], key).verify_at(&token, now());
        assert_eq!(found, Err(TokenError::Signature), "{algorithm}");
    }
}

#[test]
fn refuses_extensions_and_other_kinds_of_tokens() {
    let extension = |found| Err(TokenError::Extensions { found });
    let kind = || Err(TokenError::Kind);
    let expected = "a header with an algorithm";
    let malformed = || Err(TokenError::Malformed { expected });
    let table = [
        (r#"{"alg":"HS256"}"#, Ok(())),
        (r#"{"alg":"HS256","b64":true,"cty":"x","x":[1]}"#, Ok(())),
        (
            r#"{"alg":"HS256","crit":["b64"],"b64":false}"#,
            extension("crit"),
        ),
        (
            r#"{"alg":"HS256","crit":["b64"],"b64":true}"#,
            extension("crit"),
        ),
        (
            r#"{"alg":"HS256","crit":["exp"],"exp":1}"#,
            extension("crit"),
        ),
        (r#"{"alg":"HS256","crit":["alg"]}"#, extension("crit")),
        (r#"{"alg":"HS256","crit":[]}"#, extension("crit")),
        (r#"{"alg":"HS256","crit":[1]}"#, extension("crit")),
        (r#"{"alg":"HS256","crit":"b64"}"#, extension("crit")),
        (r#"{"alg":"HS256","crit":{}}"#, extension("crit")),
        (r#"{"alg":"HS256","crit":false}"#, extension("crit")),
        (r#"{"alg":"HS256","crit":null}"#, extension("crit")),
        (r#"{"alg":"HS256","crit":[],"crit":[]}"#, malformed()),
        (r#"{"alg":"HS256","b64":false}"#, extension("b64")),
        (r#"{"alg":"HS256","b64":null}"#, extension("b64")),
        (r#"{"alg":"HS256","b64":"true"}"#, extension("b64")),
        (r#"{"alg":"HS256","typ":"JWT"}"#, Ok(())),
        (r#"{"alg":"HS256","typ":"jwt"}"#, Ok(())),
        (r#"{"alg":"HS256","typ":"at+jwt"}"#, Ok(())),
        (r#"{"alg":"HS256","typ":"Application/AT+JWT"}"#, Ok(())),
        (r#"{"alg":"HS256","typ":"application/at+jwt"}"#, Ok(())),
        (r#"{"alg":"HS256","typ":"logout+jwt"}"#, kind()),
        (
            r#"{"alg":"HS256","typ":"application/secevent+JWT"}"#,
            kind(),
        ),
        (r#"{"alg":"HS256","typ":"dpop+jwt"}"#, kind()),
        (r#"{"alg":"HS256","typ":1}"#, malformed()),
        (r#"["HS256",null,null]"#, malformed()),
        (r#"["HS256"]"#, malformed()),
        (r#" {"alg":"HS256"}"#, Ok(())),
    ];
    for (header, expected) in table {
        let token = sign_header(header);
        let found = bearer(&["HS256"], SECRET).verify_at(&token, now());
        assert_eq!(found.map(|_| ()), expected, "{header}");
    }
}

#[test]
fn required_claims_have_their_value() {
    let check = |required: &Value, claim: Option<Value>| {
        let mut settings = settings(&["HS256"], SECRET);
        settings.required = [("use".to_owned(), required.clone())].into();
        let claims = match claim {
            Some(claim) => with("use", claim),
            None => good_claims(),
        };
        let token = sign(Algorithm::HS256, &claims);
        Bearer::new(settings).unwrap().verify_at(&token, now())
    };
    let text = json!("access");
    let table = [
        (
            &text,
            vec![json!("access"), json!(["access"]), json!(["x", "access"])],
        ),
        (&json!(""), vec![json!(""), json!([""])]),
        (&json!(1), vec![json!(1), json!(1.0), json!([0, 1])]),
        (&json!(1.5), vec![json!(1.5), json!([1.5])]),
        (&json!(-1), vec![json!(-1)]),
        (&json!(true), vec![json!(true), json!([false, true])]),
        (&json!(false), vec![json!(false)]),
    ];
    let others = [
        json!("refresh"),
        json!("Access"),
        json!("access "),
        json!("access refresh"),
        json!("1"),
        json!("true"),
        json!(0),
        json!(2),
        json!(1.25),
        json!(null),
        json!([]),
        json!({}),
        json!({"access": true}),
        json!([["access"]]),
        json!([[1]]),
        json!([null]),
        json!({"1": 1}),
    ];
    for (required, good) in table {
        is_claim(check(required, None), "use");
        for claim in &good {
            assert!(
                check(required, Some(claim.clone())).is_ok(),
                "{required} {claim}"
            );
        }
        for claim in &others {
            is_claim(check(required, Some(claim.clone())), "use");
        }
    }
    let error = check(&text, Some(json!("refresh"))).unwrap_err();
    let sentence =
        "expected the required value in the claim \"use\" of a token, found another text";
    assert_eq!(error.to_string(), sentence);
}

#[test]
fn every_required_claim_has_to_be_there() {
    let mut settings = settings(&["HS256"], SECRET);
    settings.required = [("a".to_owned(), json!(1)), ("b".to_owned(), json!(2))].into();
    let bearer = Bearer::new(settings).unwrap();
    let check = |more: Value| {
        let mut claims = good_claims();
        let claims_map = claims.as_object_mut().unwrap();
        claims_map.extend(more.as_object().unwrap().clone());
        bearer.verify_at(&sign(Algorithm::HS256, &claims), now())
    };
    assert!(check(json!({"a": 1, "b": 2})).is_ok());
    is_claim(check(json!({"b": 2})), "a");
    is_claim(check(json!({"a": 1})), "b");
    is_claim(check(json!({"a": 2, "b": 1})), "a");
}

#[test]
fn a_required_claim_is_a_name_and_a_scalar() {
    for (claim, value) in [
        ("", json!(1)),
        ("a", json!([1])),
        ("a", json!({})),
        ("a", json!(null)),
    ] {
        let mut settings = settings(&["HS256"], SECRET);
        settings.required = [(claim.to_owned(), value)].into();
        assert_eq!(
            Bearer::new(settings).unwrap_err(),
            BearerSettingsError::Required
        );
    }
}

#[test]
fn a_token_ends_with_its_leeway() {
    let at = |exp: Value| check(&with("exp", exp));
    assert!(at(json!(NOW - 29)).is_ok());
    assert!(at(json!(NOW as f64 - 29.5)).is_ok());
    let ago = Duration::from_secs(30);
    assert_eq!(at(json!(NOW - 30)), Err(TokenError::Expired { ago }));
    assert!(matches!(at(json!(0)), Err(TokenError::Expired { .. })));
}

#[test]
fn a_token_needs_an_end() {
    let mut claims = good_claims();
    claims.as_object_mut().unwrap().remove("exp");
    is_claim(check(&claims), "exp");
    for exp in [
        json!(null),
        json!("1900000000"),
        json!(-1),
        json!(1e300),
        json!(u64::MAX),
    ] {
        is_claim(check(&with("exp", exp)), "exp");
    }
}

#[test]
fn a_token_begins_with_its_leeway() {
    assert!(check(&with("nbf", json!(NOW - 5))).is_ok());
    assert!(check(&with("nbf", json!(NOW + 30))).is_ok());
    let ahead = Duration::from_secs(31);
    let found = check(&with("nbf", json!(NOW + 31)));
    assert_eq!(found, Err(TokenError::TooEarly { ahead }));
    is_claim(check(&with("nbf", json!("now"))), "nbf");
}

#[test]
fn the_issuer_has_to_be_the_configured_one() {
    let check = |claims: &Value| {
        let mut settings = settings(&["HS256"], SECRET);
        settings.issuer = Some("https://issuer".into());
        let token = sign(Algorithm::HS256, claims);
        Bearer::new(settings).unwrap().verify_at(&token, now())
    };
    assert!(check(&with("iss", json!("https://issuer"))).is_ok());
    is_claim(check(&good_claims()), "iss");
    for issuer in [
        json!("https://issuer/"),
        json!(["https://issuer"]),
        json!(null),
    ] {
        is_claim(check(&with("iss", issuer)), "iss");
    }
}

#[test]
fn the_audience_has_to_be_or_contain_the_configured_one() {
    let check = |claims: &Value| {
        let mut settings = settings(&["HS256"], SECRET);
        settings.audience = Some("chat".into());
        let token = sign(Algorithm::HS256, claims);
        Bearer::new(settings).unwrap().verify_at(&token, now())
    };
    for audience in [json!("chat"), json!(["mail", "chat"])] {
        assert!(check(&with("aud", audience)).is_ok());
    }
    is_claim(check(&good_claims()), "aud");
    for audience in [json!("cha"), json!(["mail"]), json!([]), json!({"chat": 1})] {
        is_claim(check(&with("aud", audience)), "aud");
    }
}

#[test]
fn without_an_audience_any_is_taken() {
    for audience in [json!("mail"), json!(["mail", "chat"])] {
        assert!(check(&with("aud", audience)).is_ok());
    }
}

#[test]
fn the_id_is_a_text_or_an_integer() {
    let long = "ä".repeat(256);
    for (id, expected) in [
        (json!("7f00"), "7f00"),
        (json!(42), "42"),
        (json!(-1), "-1"),
        (json!(u64::MAX), "18446744073709551615"),
        (json!(long), &long),
    ] {
        assert_eq!(check(&with("sub", id)).unwrap().user.id, expected);
    }
    for id in [
        json!(""),
        json!("a\nb"),
        json!("\u{85}"),
        json!(1.5),
        json!(true),
        json!(null),
        json!(["7"]),
        json!("a".repeat(257)),
    ] {
        is_claim(check(&with("sub", id)), "sub");
    }
}

#[test]
fn the_name_falls_back_to_the_id() {
    for name in [
        json!(""),
        json!(null),
        json!(3),
        json!("a\u{0}"),
        json!("a".repeat(257)),
    ] {
        assert_eq!(check(&with("name", name)).unwrap().user.name, "7");
    }
    let token = sign(Algorithm::HS256, &with("", json!("Eve")));
    let mut settings = settings(&["HS256"], SECRET);
    settings.user_name.clear();
    let found = Bearer::new(settings).unwrap().verify_at(&token, now());
    assert_eq!(found.unwrap().user.name, "7");
}

#[test]
fn staff_is_only_what_is_true() {
    for value in [
        json!(false),
        json!("true"),
        json!(1),
        json!(null),
        json!([true]),
    ] {
        assert!(!check(&with("is_staff", value)).unwrap().user.is_staff);
    }
}

#[test]
fn refuses_a_token_that_is_cut_anywhere() {
    let token = sign(Algorithm::HS256, &good_claims());
    let bearer = bearer(&["HS256"], SECRET);
    for end in 0..token.len() {
        assert!(bearer.verify_at(&token[..end], now()).is_err(), "{end}");
    }
    let signature = token.rfind('.').unwrap();
    let found = bearer.verify_at(&token[..=signature], now());
    assert_eq!(found, Err(TokenError::Signature));
}

#[test]
fn refuses_garbage() {
    let bearer = bearer(&["HS256"], SECRET);
    let good = sign(Algorithm::HS256, &good_claims());
    for token in [
        "",
        ".",
        "..",
        "...",
        "a.b.c",
        "é.é.é",
        "bnVsbA.e30.",
        "W10.W10.W10",
    ] {
        let found = bearer.verify_at(token, now());
        assert!(
            matches!(found, Err(TokenError::Malformed { .. })),
            "{token}"
        );
    }
    for token in [
        format!("{good}.x"),
        format!("{good}="),
        format!(" {good}"),
        format!("{good}\n"),
    ] {
        assert!(bearer.verify_at(&token, now()).is_err(), "{token}");
    }
    for claims in [json!([]), json!("text"), json!(null)] {
        let found = check(&claims);
        assert!(
            matches!(found, Err(TokenError::Malformed { .. })),
            "{claims}"
        );
    }
}

#[test]
fn refuses_a_long_token_unread() {
    let bearer = bearer(&["HS256"], SECRET);
    let token = sign(Algorithm::HS256, &with("more", json!("a".repeat(8192))));
    let found = token.len();
    assert_eq!(
        bearer.verify_at(&token, now()),
        Err(TokenError::TooLong { found })
    );
    let fitting = sign(Algorithm::HS256, &with("more", json!("a".repeat(5900))));
    assert!(fitting.len() <= TOKEN_BYTES_MAX);
    assert!(bearer.verify_at(&fitting, now()).is_ok());
}

#[test]
fn an_error_shows_nothing_of_the_token() {
    let error = check(&with("nbf", json!("secret-value"))).unwrap_err();
    assert!(!format!("{error} {error:?}").contains("secret-value"));
}

#[test]
fn debug_shows_no_key() {
    let settings = settings(&["HS256"], SECRET);
    let text = format!("{settings:?}") + &format!("{:?}", Bearer::new(settings));
    assert!(!text.contains(SECRET), "{text}");
}

fn jwks(keys: &Value) -> String {
    json!({ "keys": keys }).to_string()
}

fn rsa_jwk(id: &str) -> Value {
    json!({"kty": "RSA", "kid": id, "use": "sig", "n": "p_G9Hbr5d3-xPTW7dRHDYvaK-PZelCC4DchHUl9fk5COvj3ZdfW77LzH4vBfPtdLbK4B-4bCZkxRadS2T18N_X2UhLvRgvGu8aI08iF0Rok-OzQkb5ZTelOR8FO03Mq6P93Gywt6nm-1LzOCZ7ZRrh-c6x-QK06X1CpiNtrUGkyjMIen6uDk6K8vNJft7KGVDU0-ToTphQfKi8_VzDLI330XKIpZv7v44MXFWlYaM6fM2-9-Fvd7f3SfzaRz_Pynr4SvJVdxbUG33cpI-xv1KpngyxQJnFdw7_NOkReH2s_vCVvb-y6BkaE-pdDIQ1gimJhNo_W_Y9dqGS6yEuKlOw", "e": "AQAB"})
}

fn p256_jwk(id: &str) -> Value {
    json!({"kty": "EC", "kid": id, "crv": "P-256", "alg": "ES256", "x": "COlA2q70ChlVGYAG9Rx0x8U7hhw1AYZFvYXrLP2_0_M", "y": "XQknDW_ZtZp8lh_CMgF-1AGKLtGoVAQFMTp50kEDVl4"})
}

fn ed_jwk() -> Value {
    json!({"kty": "OKP", "crv": "Ed25519", "key_ops": ["verify"], "x": "2f09oS8eInGkITfkh5OUmU1l1wIjmg0RZc2YrSmkCHE"})
}

fn jwks_settings(algorithms: &[&str], keys: &Value) -> BearerSettings {
    let mut settings = settings(algorithms, "");
    settings.key = BearerKey::Jwks(jwks(keys));
    settings
}

#[test]
fn a_jwk_is_chosen_by_kid() {
    let secret = BASE64URL_NOPAD.encode(SECRET.as_bytes());
    let keys = json!([
        rsa_jwk("a"),
        p256_jwk("b"),
        {"kty": "oct", "kid": "c", "k": secret},
        {"kty": "oct", "kid": "short", "k": "c2hvcnQ"},
        {"kty": "RSA", "kid": 3},
        {"kty": "unknown"},
        17
    ]);
    let bearer = Bearer::new(jwks_settings(&["RS256", "ES256", "HS256"], &keys)).unwrap();
    for (algorithm, id) in [
        (Algorithm::RS256, "a"),
        (Algorithm::ES256, "b"),
        (Algorithm::HS256, "c"),
    ] {
        let token = sign_with_id(algorithm, id);
        assert!(bearer.verify_at(&token, now()).is_ok(), "{id}");
    }
    for (algorithm, id) in [
        (Algorithm::RS256, "b"),
        (Algorithm::HS256, "a"),
        (Algorithm::HS256, "short"),
        (Algorithm::RS256, "unknown"),
        (Algorithm::RS256, ""),
    ] {
        let found = bearer.verify_at(&sign_with_id(algorithm, id), now());
        assert_eq!(found, Err(TokenError::Key { found: 0 }), "{id}");
    }
}

#[test]
fn a_token_without_kid_needs_a_single_fitting_jwk() {
    let keys = json!([rsa_jwk("a"), rsa_jwk("b"), p256_jwk("c"), ed_jwk()]);
    let bearer = Bearer::new(jwks_settings(&["RS256", "ES256", "EdDSA"], &keys)).unwrap();
    for algorithm in [Algorithm::ES256, Algorithm::EdDSA] {
        assert!(
            bearer
                .verify_at(&sign(algorithm, &good_claims()), now())
                .is_ok()
        );
    }
    let token = sign(Algorithm::RS256, &good_claims());
    assert_eq!(
        bearer.verify_at(&token, now()),
        Err(TokenError::Key { found: 2 })
    );
}

#[test]
fn a_jwk_set_needs_a_usable_key() {
    let mut encryption = rsa_jwk("a");
    encryption["use"] = json!("enc");
    let mut other_algorithm = rsa_jwk("b");
    other_algorithm["alg"] = json!("RS512");
    let mut even_exponent = rsa_jwk("c");
    even_exponent["e"] = json!("AAI");
    let mut signing = ed_jwk();
    signing["key_ops"] = json!(["sign"]);
    let mut short = ed_jwk();
    short["x"] = json!("AAAA");
    let keys = json!([encryption, other_algorithm, even_exponent, signing, short]);
    assert_eq!(
        refused(jwks_settings(&["RS256", "EdDSA"], &keys)),
        "expected a key for RS256, EdDSA in the JWK set, found none among 5"
    );
}

#[test]
fn a_jwk_set_has_each_kid_once() {
    assert_eq!(
        refused(jwks_settings(
            &["RS256"],
            &json!([rsa_jwk("a"), rsa_jwk("a")])
        )),
        "expected each kid once for an algorithm in the JWK set, found \"a\" twice"
    );
    let both = jwks_settings(&["RS256", "ES256"], &json!([rsa_jwk("a"), p256_jwk("a")]));
    assert!(Bearer::new(both).is_ok());
}

#[test]
fn a_jwk_set_is_an_object_with_keys() {
    for text in ["{", "[]", "{}", r#"{"keys": "secret"}"#] {
        let mut settings = settings(&["RS256"], "");
        settings.key = BearerKey::Jwks(text.into());
        let sentence = refused(settings);
        assert!(sentence.starts_with("expected a JWK set"), "{sentence}");
        assert!(!sentence.contains("secret"), "{sentence}");
    }
}

#[test]
fn refuses_settings_that_are_not_safe() {
    let long = format!("{RSA_PUBLIC}{RSA_PUBLIC}");
    let known = "HS256, HS384, HS512, RS256, RS384, RS512, ES256, ES384, EdDSA";
    let table: [(&[&str], &str, String); 18] = [
        (&[], SECRET, format!("expected at least one algorithm of {known}, found none")),
        (&["none"], SECRET, format!("expected an algorithm of {known}, found \"none\"")),
        (&["hs256"], SECRET, format!("expected an algorithm of {known}, found \"hs256\"")),
        (&["PS256"], RSA_PUBLIC, format!("expected an algorithm of {known}, found \"PS256\"")),
        (
            &["HS256", "RS256"],
            RSA_PUBLIC,
            "expected algorithms of one family for one key, found HS256 and RS256".into(),
        ),
        (
            &["RS256", "ES256"],
            RSA_PUBLIC,
            "expected algorithms of one family for one key, found RS256 and ES256".into(),
        ),
        (&["HS256"], "", "expected a key, found an empty text".into()),
        (&["RS256"], " \n", "expected a key, found an empty text".into()),
        (
            &["HS256"],
            "secret",
            "expected at least 32 bytes in the secret of HS256, found 6 bytes".into(),
        ),
        (
            &["HS256", "HS512"],
            &SECRET[..63],
            "expected at least 64 bytes in the secret of HS512, found 63 bytes".into(),
        ),
        (
            &["HS256"],
            &long,
            "expected a secret for HS256, found a key as PEM text".into(),
        ),
        (
            &["RS256"],
            P256_PUBLIC,
            "expected an RSA public key as PEM text for RS256, found an EC public key".into(),
        ),
        (
            &["ES256", "ES384"],
            P256_PUBLIC,
            "expected a public key of the curve P-384 as PEM text for ES384, found a public key of another curve".into(),
        ),
        (
            &["EdDSA"],
            RSA_PUBLIC,
            "expected an Ed25519 public key as PEM text for EdDSA, found an RSA public key".into(),
        ),
        (
            &["RS256"],
            RSA_PRIVATE,
            "expected an RSA public key as PEM text for RS256, found a private key".into(),
        ),
        (
            &["ES256"],
            SECRET,
            "expected a public key of the curve P-256 as PEM text for ES256, found other text".into(),
        ),
        (
            &["ES256"],
            "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----",
            "expected a public key of the curve P-256 as PEM text for ES256, found PEM text of another kind".into(),
        ),
        (
            &["RS256"],
            RSA_1024_PUBLIC,
            "expected an RSA key of 2048 to 4096 bits, found 1024 bits".into(),
        ),
    ];
    for (algorithms, key, sentence) in table {
        assert_eq!(refused(settings(algorithms, key)), sentence);
    }
    let mut without_id = settings(&["HS256"], SECRET);
    without_id.user_id.clear();
    assert_eq!(
        refused(without_id),
        "expected the name of a claim in user_id, found an empty text"
    );
}

proptest! {
    #[test]
    fn never_panics_on_any_text(token in "\\PC{0,200}") {
        let _ = bearer(&["HS256"], SECRET).verify(&token);
    }

    #[test]
    fn never_panics_on_any_parts(
        header in prop::collection::vec(any::<u8>(), 0..60),
        claims in prop::collection::vec(any::<u8>(), 0..60),
        signature in prop::collection::vec(any::<u8>(), 0..80),
    ) {
        let headers = [header, br#"{"alg":"EdDSA"}"#.to_vec()];
        let bearer = bearer(&["EdDSA"], ED_PUBLIC);
        for header in headers {
            let parts = [&header, &claims, &signature].map(|part| BASE64URL_NOPAD.encode(part));
            assert!(bearer.verify(&parts.join(".")).is_err());
        }
    }

    #[test]
    fn refuses_any_changed_byte(at in any::<prop::sample::Index>(), byte in "[A-Za-z0-9_.-]") {
        let good = sign(Algorithm::HS256, &good_claims());
        let at = at.index(good.len());
        let mut token = good.clone();
        token.replace_range(at..=at, &byte);
        let is_good = bearer(&["HS256"], SECRET).verify_at(&token, now()).is_ok();
        assert_eq!(is_good, token == good);
    }
}
