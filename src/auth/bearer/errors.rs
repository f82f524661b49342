//! Errors: invalid settings, and tokens that are refused.

use std::time::Duration;

use super::keys::{known_algorithms, place};

/// The reason why no tokens can be checked with these settings.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum BearerSettingsError {
    /// No algorithm is named.
    #[error(
        "expected at least one algorithm of {}, found none",
        known_algorithms()
    )]
    NoAlgorithm,
    /// An algorithm is unknown, or is `none`.
    #[error("expected an algorithm of {}, found {found:?}", known_algorithms())]
    Algorithm {
        /// The text in the settings.
        found: String,
    },
    /// One key would be used in two ways: a public key could be taken for a secret (RFC 8725 §2.1).
    #[error("expected algorithms of one family for one key, found {first} and {second}")]
    Families {
        /// One of the algorithms.
        first: String,
        /// One of another family.
        second: String,
    },
    /// The key is empty.
    #[error("expected a key, found an empty text")]
    EmptyKey,
    /// The secret is easier to guess than the signature (RFC 7518 §3.2).
    #[error("expected at least {expected} bytes in the secret of {algorithm}, found {found} bytes")]
    ShortSecret {
        /// The algorithm that needs the most.
        algorithm: String,
        /// The minimum number of bytes.
        expected: usize,
        /// The number of bytes found.
        found: usize,
    },
    /// The secret is a key as PEM text, which may be public (RFC 8725 §2.1).
    #[error("expected a secret for {algorithms}, found a key as PEM text")]
    PemSecret {
        /// The algorithms that need a secret.
        algorithms: String,
    },
    /// The public key is of another kind, or is not a public key.
    #[error("expected {expected} as PEM text for {algorithm}, found {found}")]
    PublicKey {
        /// The algorithm that needs it.
        algorithm: String,
        /// The kind of key it needs.
        expected: &'static str,
        /// The kind of text found.
        found: &'static str,
    },
    /// The RSA key is too short to be secure, or longer than is supported.
    #[error("expected an RSA key of 2048 to 4096 bits, found {found}")]
    RsaKey {
        /// Its length, if it can be read.
        found: String,
    },
    /// The JWK set is not JSON, or not an object with a list of keys.
    #[error("expected a JWK set, an object with a list \"keys\", found other text{}", place(*.line, *.column))]
    Jwks {
        /// The line of the error; 0 if the text is JSON.
        line: usize,
        /// The column of that line.
        column: usize,
    },
    /// No key of the JWK set fits an algorithm; encryption keys and short keys do not count.
    #[error("expected a key for {algorithms} in the JWK set, found none among {found}")]
    NoUsableKey {
        /// The algorithms that are allowed.
        algorithms: String,
        /// The number of keys in the set.
        found: usize,
    },
    /// Two keys of the JWK set cannot be distinguished.
    #[error("expected each kid once for an algorithm in the JWK set, found {found:?} twice")]
    KeyIdTwice {
        /// The kid.
        found: String,
    },
    /// A required claim has no name, or a value that is not a text, number or boolean.
    #[error(
        "expected names of claims with a text, a number or a boolean in required, found another"
    )]
    Required,
    /// No claim is named for the user's id.
    #[error("expected the name of a claim in user_id, found an empty text")]
    UserId,
}

/// The reason why a token is refused. The response is 401.
///
/// It contains neither the token nor a value of its claims, so it may be logged.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum TokenError {
    /// The token is too long.
    #[error("expected a token of at most 8192 bytes, found {found} bytes")]
    TooLong {
        /// Its number of bytes.
        found: usize,
    },
    /// The text is not a signed token (RFC 7515 §3.1).
    #[error("expected {expected} in a token, found other text")]
    Malformed {
        /// The part that cannot be read.
        expected: &'static str,
    },
    /// The algorithm is `none` (RFC 8725 §3.2).
    #[error("unsigned token: the algorithm is none")]
    Unsigned,
    /// The algorithm is not one of those allowed (RFC 8725 §3.1).
    #[error("expected a token signed with {expected}, found another algorithm")]
    Algorithm {
        /// The algorithms that are allowed.
        expected: String,
    },
    /// The token has critical extensions (RFC 7515 §4.1.11).
    #[error("unsupported parameter {found} in the header of a token")]
    Extensions {
        /// The name of the parameter.
        found: &'static str,
    },
    /// The `typ` of the token names another kind of JWT, such as `logout+jwt` (RFC 8725 §3.11).
    #[error("expected a token of type JWT or at+jwt, found another type")]
    Kind,
    /// No key, or more than one, matches the `kid` and the algorithm of the token.
    #[error("{found} keys match the kid and the algorithm of a token, expected one")]
    Key {
        /// The number of keys that fit.
        found: usize,
    },
    /// The signature was not made with the key.
    #[error("invalid signature")]
    Signature,
    /// The token has expired (RFC 7519 §4.1.4).
    #[error("token expired {ago:?} ago")]
    Expired {
        /// How long ago it expired, in whole seconds.
        ago: Duration,
    },
    /// The token is not valid yet (RFC 7519 §4.1.5).
    #[error("token not valid for another {ahead:?}")]
    TooEarly {
        /// How long until it becomes valid, in whole seconds.
        ahead: Duration,
    },
    /// A claim is missing or has another value.
    #[error("expected {expected} in the claim {claim:?} of a token, found {found}")]
    Claim {
        /// The name of the claim.
        claim: String,
        /// The expected value.
        expected: &'static str,
        /// The kind of value found.
        found: &'static str,
    },
}
