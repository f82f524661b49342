//! Keys: the keys that signatures are checked with.

use std::ops::RangeInclusive;

use jsonwebtoken::crypto::rust_crypto::DEFAULT_PROVIDER;
use jsonwebtoken::jwk::{Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, DecodingKeyKind};
use serde::Deserialize;
use serde_json::Value;

use super::errors::BearerSettingsError;

/// A shorter key is forbidden (RFC 7518 §3.3), a longer one costs too much time.
const RSA_BITS: RangeInclusive<usize> = 2048..=4096;

/// The supported algorithms. `none` is not one of them. (RFC 8725 §3.2)
pub(super) const ALGORITHMS: [(&str, Algorithm); 9] = [
    ("HS256", Algorithm::HS256),
    ("HS384", Algorithm::HS384),
    ("HS512", Algorithm::HS512),
    ("RS256", Algorithm::RS256),
    ("RS384", Algorithm::RS384),
    ("RS512", Algorithm::RS512),
    ("ES256", Algorithm::ES256),
    ("ES384", Algorithm::ES384),
    ("EdDSA", Algorithm::EdDSA),
];

#[derive(Debug)]
pub(super) enum Keys {
    One(VerifyingKey),
    Set(Vec<VerifyingKey>),
}

#[derive(Debug)]
pub(super) struct VerifyingKey {
    pub(super) id: Option<String>,
    /// The algorithms that are allowed and fit the key.
    pub(super) algorithms: Vec<Algorithm>,
    pub(super) key: DecodingKey,
}

pub(super) fn parse_algorithms(texts: &[String]) -> Result<Vec<Algorithm>, BearerSettingsError> {
    let mut algorithms = Vec::new();
    for text in texts {
        let known = ALGORITHMS.iter().find(|(name, _)| name == text);
        let Some((_, algorithm)) = known else {
            return Err(BearerSettingsError::Algorithm {
                found: text.clone(),
            });
        };
        if !algorithms.contains(algorithm) {
            algorithms.push(*algorithm);
        }
    }
    if algorithms.is_empty() {
        return Err(BearerSettingsError::NoAlgorithm);
    }
    Ok(algorithms)
}

pub(super) fn parse_text_key(
    text: &str,
    algorithms: &[Algorithm],
) -> Result<VerifyingKey, BearerSettingsError> {
    let first = algorithms[0];
    if let Some(other) = algorithms.iter().find(|a| a.family() != first.family()) {
        return Err(BearerSettingsError::Families {
            first: names(&[first]),
            second: names(&[*other]),
        });
    }
    let key = match first.family() {
        AlgorithmFamily::Hmac => parse_secret(text, algorithms)?,
        AlgorithmFamily::Rsa | AlgorithmFamily::Ec | AlgorithmFamily::Ed => {
            parse_pem(text, algorithms)?
        }
    };
    Ok(VerifyingKey {
        id: None,
        algorithms: algorithms.to_vec(),
        key,
    })
}

fn parse_secret(text: &str, algorithms: &[Algorithm]) -> Result<DecodingKey, BearerSettingsError> {
    // A public key is known to everyone, so everyone could sign with it. (RFC 8725 §2.1)
    if text.contains("-----BEGIN ") {
        return Err(BearerSettingsError::PemSecret {
            algorithms: names(algorithms),
        });
    }
    for algorithm in algorithms {
        let expected = secret_bytes_min(*algorithm);
        if text.len() < expected {
            return Err(BearerSettingsError::ShortSecret {
                algorithm: names(&[*algorithm]),
                expected,
                found: text.len(),
            });
        }
    }
    Ok(DecodingKey::from_secret(text.as_bytes()))
}

fn parse_pem(text: &str, algorithms: &[Algorithm]) -> Result<DecodingKey, BearerSettingsError> {
    let refuse = |algorithm: Algorithm, found| BearerSettingsError::PublicKey {
        algorithm: names(&[algorithm]),
        expected: match algorithm {
            Algorithm::ES256 => "a public key of the curve P-256",
            Algorithm::ES384 => "a public key of the curve P-384",
            Algorithm::EdDSA => "an Ed25519 public key",
            _ => "an RSA public key",
        },
        found,
    };
    let other = match text {
        _ if !text.contains("-----BEGIN ") => Some("other text"),
        _ if text.contains("PRIVATE KEY-----") => Some("a private key"),
        _ if text.contains("CERTIFICATE-----") => Some("a certificate"),
        _ => None,
    };
    let bytes = text.as_bytes();
    let read = || {
        DecodingKey::from_rsa_pem(bytes)
            .or_else(|_| DecodingKey::from_ec_pem(bytes))
            .or_else(|_| DecodingKey::from_ed_pem(bytes))
            .map_err(|_| "PEM text of another kind")
    };
    let key = other
        .map_or_else(read, Err)
        .map_err(|found| refuse(algorithms[0], found))?;
    for algorithm in algorithms {
        if fits(&key, *algorithm) {
            continue;
        }
        return Err(match key.family() {
            AlgorithmFamily::Rsa if algorithm.family() == AlgorithmFamily::Rsa => {
                BearerSettingsError::RsaKey {
                    found: rsa_bits(&key)
                        .map_or("another size".into(), |bits| format!("{bits} bits")),
                }
            }
            AlgorithmFamily::Rsa => refuse(*algorithm, "an RSA public key"),
            AlgorithmFamily::Ec if algorithm.family() == AlgorithmFamily::Ec => {
                refuse(*algorithm, "a public key of another curve")
            }
            AlgorithmFamily::Ec => refuse(*algorithm, "an EC public key"),
            AlgorithmFamily::Ed => refuse(*algorithm, "an Ed25519 public key"),
            AlgorithmFamily::Hmac => refuse(*algorithm, "a secret"),
        });
    }
    Ok(key)
}

pub(super) fn parse_jwks(
    text: &str,
    algorithms: &[Algorithm],
) -> Result<Vec<VerifyingKey>, BearerSettingsError> {
    #[derive(Deserialize)]
    struct Set {
        keys: Vec<Value>,
    }
    let set: Set = serde_json::from_str(text).map_err(|error| BearerSettingsError::Jwks {
        line: error.line(),
        column: error.column(),
    })?;
    let found = set.keys.len();
    // A key of an unknown kind, or with a missing part, is ignored. (RFC 7517 §5)
    let read = |key| serde_json::from_value::<Jwk>(key).ok();
    let jwks = set.keys.into_iter().filter_map(read);
    let keys: Vec<_> = jwks
        .filter_map(|jwk| usable_key(&jwk, algorithms))
        .collect();
    if keys.is_empty() {
        return Err(BearerSettingsError::NoUsableKey {
            algorithms: names(algorithms),
            found,
        });
    }
    for (at, key) in keys.iter().enumerate() {
        let is_same = |other: &VerifyingKey| {
            other.id == key.id && other.algorithms.iter().any(|a| key.algorithms.contains(a))
        };
        if let Some(id) = &key.id
            && keys[..at].iter().any(is_same)
        {
            return Err(BearerSettingsError::KeyIdTwice { found: id.clone() });
        }
    }
    Ok(keys)
}

fn usable_key(jwk: &Jwk, allowed: &[Algorithm]) -> Option<VerifyingKey> {
    let common = &jwk.common;
    let is_for_signatures = matches!(common.public_key_use, None | Some(PublicKeyUse::Signature))
        && common
            .key_operations
            .as_ref()
            .is_none_or(|list| list.contains(&KeyOperations::Verify));
    let key = DecodingKey::from_jwk(jwk).ok()?;
    let is_usable = |algorithm: &Algorithm| {
        is_for_signatures
            && common
                .key_algorithm
                .is_none_or(|named| named == KeyAlgorithm::from(*algorithm))
            && fits(&key, *algorithm)
    };
    let algorithms: Vec<_> = allowed.iter().copied().filter(is_usable).collect();
    (!algorithms.is_empty()).then(|| VerifyingKey {
        id: jwk.common.key_id.clone(),
        algorithms,
        key,
    })
}

/// Returns whether a key is of the kind that an algorithm needs, and long enough. Only such a key
/// may check a signature.
fn fits(key: &DecodingKey, algorithm: Algorithm) -> bool {
    let bytes = key.try_get_as_bytes().unwrap_or_default();
    let is_long_enough = match key.family() {
        AlgorithmFamily::Hmac => bytes.len() >= secret_bytes_min(algorithm),
        AlgorithmFamily::Rsa => rsa_bits(key).is_some_and(|bits| RSA_BITS.contains(&bits)),
        AlgorithmFamily::Ec => true, // the verifier knows the length of its curve
        AlgorithmFamily::Ed => bytes.len() == 32,
    };
    is_long_enough
        && key.family() == algorithm.family()
        && (DEFAULT_PROVIDER.verifier_factory)(&algorithm, key).is_ok()
}

/// Returns the length of an RSA key's modulus in bits, if the key can be read.
fn rsa_bits(key: &DecodingKey) -> Option<usize> {
    let (modulus, exponent) = match key.kind() {
        DecodingKeyKind::SecretOrDer(der) => (DEFAULT_PROVIDER
            .key_utils
            .rsa_pub_components_from_public_key)(der)
        .ok()?,
        DecodingKeyKind::RsaModulusExponent { n, e } => (n.clone(), e.clone()),
    };
    // Only an odd exponent of at least 3 has an inverse; the verifier refuses exponents larger than
    // 2^33.
    let exponent = significant(&exponent);
    let is_exponent = match exponent {
        [one] => one % 2 == 1 && *one > 1,
        [.., last] => last % 2 == 1 && exponent.len() <= 4,
        [] => false,
    };
    let [first, rest @ ..] = significant(&modulus) else {
        return None;
    };
    let first_bits = usize::try_from(first.ilog2()).ok()? + 1;
    is_exponent.then_some(first_bits + 8 * rest.len())
}

/// Strips leading zeros.
fn significant(bytes: &[u8]) -> &[u8] {
    let start = bytes.iter().position(|byte| *byte != 0);
    &bytes[start.unwrap_or(bytes.len())..]
}

/// Returns the minimum length of a secret: the length of the hash. (RFC 7518 §3.2)
fn secret_bytes_min(algorithm: Algorithm) -> usize {
    match algorithm {
        Algorithm::HS512 => 64,
        Algorithm::HS384 => 48,
        _ => 32,
    }
}

pub(super) fn names(algorithms: &[Algorithm]) -> String {
    let is_named = |(_, known): &&(&str, Algorithm)| algorithms.contains(known);
    let names = ALGORITHMS.iter().filter(is_named).map(|(name, _)| *name);
    names.collect::<Vec<_>>().join(", ")
}

pub(super) fn known_algorithms() -> String {
    names(&ALGORITHMS.map(|(_, algorithm)| algorithm))
}

pub(super) fn place(line: usize, column: usize) -> String {
    match line {
        0 => String::new(),
        _ => format!(" at line {line}, column {column}"),
    }
}
