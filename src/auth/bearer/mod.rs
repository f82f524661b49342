//! Bearer: identifies a user by a signed token (JWT).

mod errors;
mod keys;

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use data_encoding::BASE64URL_NOPAD;
use jsonwebtoken::Algorithm;
use jsonwebtoken::crypto::rust_crypto::DEFAULT_PROVIDER;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use keys::{ALGORITHMS, Keys, VerifyingKey, names, parse_algorithms, parse_jwks, parse_text_key};

pub use errors::{BearerSettingsError, TokenError};

use crate::auth::User;

/// A longer token is refused without being read.
const TOKEN_BYTES_MAX: usize = 8 * 1024;

/// The most characters of a user's id or name.
const TEXT_CHARS_MAX: usize = 256;

/// The start of the year 10000: earlier dates can be added to any clock.
const DATE_SECONDS_END: f64 = 253_402_300_800.0;

/// The tokens that are accepted, and the claims that identify the user.
#[derive(Clone, Debug)]
pub struct BearerSettings {
    /// The names of the algorithms: HS256, HS384, HS512, RS256, RS384, RS512, ES256, ES384, EdDSA.
    pub algorithms: Vec<String>,
    /// The key that checks the signatures.
    pub key: BearerKey,
    /// The required value of the claim `iss`. `None`: it is ignored.
    pub issuer: Option<String>,
    /// The value that the claim `aud` must be or contain. `None`: it is ignored.
    pub audience: Option<String>,
    /// Claims that must be present with this value: a text, a number or a boolean. A claim that is
    /// a list has to contain it.
    pub required: BTreeMap<String, Value>,
    /// How far the clocks of this server and of the issuer may differ.
    pub leeway: Duration,
    /// The name of the claim with the user's id, such as `sub`.
    pub user_id: String,
    /// The name of the claim with the user's name. Empty: the id is the name.
    pub user_name: String,
    /// The name of the claim that is `true` for staff. Empty: no user is staff.
    pub is_staff: String,
}

/// The key that checks signatures. Its `Debug` output hides the key.
#[derive(Clone)]
pub enum BearerKey {
    /// The secret of HS256, HS384 and HS512, or a public key as PEM text.
    Text(String),
    /// The JSON text of a JWK set (RFC 7517 §5).
    Jwks(String),
}

impl fmt::Debug for BearerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text(_) => "Text([redacted])",
            Self::Jwks(_) => "Jwks([redacted])",
        })
    }
}

/// The contents of a valid token.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Token {
    /// The user that it identifies.
    pub user: User,
    /// The claim `exp`, without the leeway: the token may be valid for the leeway after it.
    pub expires_at: SystemTime,
}

/// Checks tokens: JWTs (RFC 7519) signed as JWS in its compact form, by the rules of RFC 8725.
///
/// The algorithm has to be allowed and has to fit the key; the token's own keys and links to keys
/// are ignored. With a JWK set the key is chosen by `kid`; a token without one is accepted if
/// exactly one key fits its algorithm.
///
/// ```
/// use oneport::auth::bearer::{Bearer, BearerKey, BearerSettings};
///
/// let bearer = Bearer::new(BearerSettings {
///     algorithms: vec!["HS256".into()],
///     key: BearerKey::Text("a secret of at least thirty-two bytes".into()),
///     issuer: None,
///     audience: None,
///     required: Default::default(),
///     leeway: std::time::Duration::from_secs(30),
///     user_id: "sub".into(),
///     user_name: "name".into(),
///     is_staff: "is_staff".into(),
/// })?;
/// let token = bearer.verify(concat!(
///     "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOjcsIm5hbWUiOiJBbm4iLCJleHAiOjQwNzA5MDg4MDB9.",
///     "RyFBV_CFwsarwV9AK7oEekykYjsLP7_Tq596o_HQEyI",
/// ))?;
/// assert_eq!((token.user.id.as_str(), token.user.name.as_str()), ("7", "Ann"));
/// assert!(bearer.verify("eyJhbGciOiJub25lIn0.e30.").is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Bearer {
    algorithms: Vec<Algorithm>,
    keys: Keys,
    settings: ClaimSettings,
}

/// The part of the settings that concerns claims.
#[derive(Debug)]
struct ClaimSettings {
    issuer: Option<String>,
    audience: Option<String>,
    required: BTreeMap<String, Value>,
    leeway: Duration,
    user_id: String,
    user_name: String,
    is_staff: String,
}

impl Bearer {
    /// Reads the algorithms and the key.
    ///
    /// Fails if a token could not be checked securely with them: an unknown algorithm, a key of
    /// another kind, a short secret, one key for two families of algorithms. Keys of a JWK set that
    /// do not fit are ignored. (RFC 7517 §5)
    pub fn new(settings: BearerSettings) -> Result<Self, BearerSettingsError> {
        let algorithms = parse_algorithms(&settings.algorithms)?;
        if settings.user_id.is_empty() {
            return Err(BearerSettingsError::UserId);
        }
        for (claim, value) in &settings.required {
            if claim.is_empty()
                || !matches!(value, Value::String(_) | Value::Number(_) | Value::Bool(_))
            {
                return Err(BearerSettingsError::Required);
            }
        }
        let keys = match &settings.key {
            BearerKey::Text(text) | BearerKey::Jwks(text) if text.trim().is_empty() => {
                return Err(BearerSettingsError::EmptyKey);
            }
            BearerKey::Text(text) => Keys::One(parse_text_key(text, &algorithms)?),
            BearerKey::Jwks(text) => Keys::Set(parse_jwks(text, &algorithms)?),
        };
        Ok(Self {
            algorithms,
            keys,
            settings: ClaimSettings {
                issuer: settings.issuer,
                audience: settings.audience,
                required: settings.required,
                leeway: settings.leeway,
                user_id: settings.user_id,
                user_name: settings.user_name,
                is_staff: settings.is_staff,
            },
        })
    }

    /// Returns how far clocks may differ: a token is still valid for this time after its `exp`.
    #[must_use]
    pub fn leeway(&self) -> Duration {
        self.settings.leeway
    }

    /// Returns the contents of a token, if it is signed with the key, valid now, and meant for this
    /// server.
    ///
    /// The id is a text or an integer of at most 256 characters; the name is the id if its claim
    /// cannot be a name.
    pub fn verify(&self, token: &str) -> Result<Token, TokenError> {
        self.verify_at(token, SystemTime::now())
    }

    fn verify_at(&self, token: &str, now: SystemTime) -> Result<Token, TokenError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(TokenError::TooLong { found: token.len() });
        }
        let refuse = |expected| TokenError::Malformed { expected };
        let (message, signature) = token
            .rsplit_once('.')
            .ok_or(refuse("three parts with dots between"))?;
        let (header, claims) = message
            .split_once('.')
            .filter(|(_, claims)| !claims.contains('.'))
            .ok_or(refuse("three parts with dots between"))?;
        let header = Header::parse(header).ok_or(refuse("a header with an algorithm"))?;
        let algorithm = self.allowed_algorithm(&header)?;
        let key = self.key(header.kid.as_deref(), algorithm)?;
        let signature = BASE64URL_NOPAD
            .decode(signature.as_bytes())
            .map_err(|_| refuse("a signature in base64url"))?;
        // No claim is used before this: RFC 7515 §5.2, RFC 8725 §3.3.
        (DEFAULT_PROVIDER.verifier_factory)(&algorithm, &key.key)
            .map_err(|_| TokenError::Signature)?
            .verify(message.as_bytes(), &signature)
            .map_err(|_| TokenError::Signature)?;
        let claims = parse_part(claims).ok_or(refuse("an object of claims"))?;
        self.settings.check(&Claims(claims), now)
    }

    fn allowed_algorithm(&self, header: &Header) -> Result<Algorithm, TokenError> {
        if header.alg.eq_ignore_ascii_case("none") {
            return Err(TokenError::Unsigned);
        }
        header.check_extensions()?;
        let known = ALGORITHMS.iter().find(|(name, _)| *name == header.alg);
        known
            .map(|(_, algorithm)| *algorithm)
            .filter(|algorithm| self.algorithms.contains(algorithm))
            .ok_or_else(|| TokenError::Algorithm {
                expected: names(&self.algorithms),
            })
    }

    fn key(&self, id: Option<&str>, algorithm: Algorithm) -> Result<&VerifyingKey, TokenError> {
        let (keys, id) = match &self.keys {
            Keys::One(key) => (std::slice::from_ref(key), None),
            Keys::Set(keys) => (keys.as_slice(), id),
        };
        let mut fitting = keys.iter().filter(|key| {
            key.algorithms.contains(&algorithm) && (id.is_none() || key.id.as_deref() == id)
        });
        match (fitting.next(), fitting.count()) {
            (Some(key), 0) => Ok(key),
            (first, more) => Err(TokenError::Key {
                found: usize::from(first.is_some()) + more,
            }),
        }
    }
}

impl ClaimSettings {
    fn check(&self, claims: &Claims, now: SystemTime) -> Result<Token, TokenError> {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let Some(expires) = claims.date("exp")? else {
            return Err(claims.refuse("exp", "a number of seconds"));
        };
        let good_until = expires.saturating_add(self.leeway);
        if now >= good_until {
            let ago = whole_seconds(now.saturating_sub(expires));
            return Err(TokenError::Expired { ago });
        }
        let starts = claims.date("nbf")?.unwrap_or_default();
        if now.saturating_add(self.leeway) < starts {
            let ahead = whole_seconds(starts.saturating_sub(now));
            return Err(TokenError::TooEarly { ahead });
        }
        if let Some(issuer) = self.issuer.as_deref()
            && claims.text("iss") != Some(issuer)
        {
            return Err(claims.refuse("iss", "the configured issuer"));
        }
        if let Some(audience) = &self.audience
            && !claims.contains("aud", &Value::from(audience.as_str()))
        {
            return Err(claims.refuse("aud", "the configured audience"));
        }
        for (claim, value) in &self.required {
            if !claims.contains(claim, value) {
                return Err(claims.refuse(claim, "the required value"));
            }
        }
        Ok(Token {
            user: self.user(claims)?,
            expires_at: UNIX_EPOCH + expires,
        })
    }

    fn user(&self, claims: &Claims) -> Result<User, TokenError> {
        let id = match claims.0.get(&self.user_id) {
            Some(Value::Number(number)) if !number.is_f64() => Some(number.to_string()),
            _ => claims.user_text(&self.user_id),
        };
        let expected = "a text of 1 to 256 characters or an integer";
        let id = id.ok_or_else(|| claims.refuse(&self.user_id, expected))?;
        Ok(User {
            name: claims
                .user_text(&self.user_name)
                .unwrap_or_else(|| id.clone()),
            is_staff: !self.is_staff.is_empty()
                && claims.0.get(&self.is_staff) == Some(&Value::Bool(true)),
            id,
        })
    }
}

/// The part of a JOSE header that is read (RFC 7515 §4.1).
#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    #[serde(default, deserialize_with = "is_there")]
    crit: bool,
    #[serde(default = "yes")]
    b64: Value,
    typ: Option<String>,
}

impl Header {
    /// Parses an object: serde would also take a list, in the order of the fields.
    fn parse(part: &str) -> Option<Self> {
        let json = BASE64URL_NOPAD.decode(part.as_bytes()).ok()?;
        let is_object = json.trim_ascii_start().starts_with(b"{");
        is_object
            .then(|| serde_json::from_slice(&json).ok())
            .flatten()
    }

    /// Refuses header parameters that must be understood and are not.
    ///
    /// No extension is implemented, so every extension in `crit` is refused, as is a `crit` that is
    /// empty or not a list (RFC 7515 §4.1.11). `b64` belongs in `crit` and changes the signed bytes
    /// (RFC 7797 §3). A `typ` that names another kind of JWT than an access token shows that the
    /// token is not meant as one (RFC 8725 §3.11, RFC 9068 §4).
    fn check_extensions(&self) -> Result<(), TokenError> {
        if self.crit {
            return Err(TokenError::Extensions { found: "crit" });
        }
        if self.b64 != Value::Bool(true) {
            return Err(TokenError::Extensions { found: "b64" });
        }
        let of_another_kind = self.typ.as_deref().is_some_and(|typ| {
            let typ = typ.to_ascii_lowercase();
            let typ = typ.strip_prefix("application/").unwrap_or(&typ);
            typ.ends_with("+jwt") && typ != "at+jwt"
        });
        if of_another_kind {
            return Err(TokenError::Kind);
        }
        Ok(())
    }
}

/// Returns `true` for any value of a parameter that is present, including `null`.
fn is_there<'de, D: Deserializer<'de>>(value: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(value).map(|_| true)
}

fn yes() -> Value {
    Value::Bool(true)
}

struct Claims(Map<String, Value>);

impl Claims {
    fn text(&self, claim: &str) -> Option<&str> {
        self.0.get(claim)?.as_str()
    }

    /// Returns a text that can be the id or the name of a user.
    fn user_text(&self, claim: &str) -> Option<String> {
        let text = self.text(claim).filter(|_| !claim.is_empty())?;
        let is_usable = !text.is_empty()
            && text.chars().count() <= TEXT_CHARS_MAX
            && !text.contains(char::is_control);
        is_usable.then(|| text.to_owned())
    }

    /// Returns whether a claim is a value, or a list that contains it.
    fn contains(&self, claim: &str, value: &Value) -> bool {
        match self.0.get(claim) {
            Some(Value::Array(list)) => list.iter().any(|one| is_same(one, value)),
            Some(one) => is_same(one, value),
            None => false,
        }
    }

    /// Returns a time since 1970; fractions of seconds are allowed (RFC 7519 §2).
    fn date(&self, claim: &str) -> Result<Option<Duration>, TokenError> {
        let Some(value) = self.0.get(claim) else {
            return Ok(None);
        };
        value
            .as_f64()
            .filter(|seconds| (0.0..DATE_SECONDS_END).contains(seconds))
            .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
            .map(Some)
            .ok_or_else(|| self.refuse(claim, "a number of seconds since 1970"))
    }

    fn refuse(&self, claim: &str, expected: &'static str) -> TokenError {
        TokenError::Claim {
            claim: claim.to_owned(),
            expected,
            found: match self.0.get(claim) {
                None => "no such claim",
                Some(Value::Null) => "null",
                Some(Value::Bool(_)) => "a boolean",
                Some(Value::Number(_)) => "another number",
                Some(Value::String(_)) => "another text",
                Some(Value::Array(_)) => "another list",
                Some(Value::Object(_)) => "an object",
            },
        }
    }
}

/// Returns whether two values are equal; 1 and 1.0 are.
fn is_same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) if one.is_f64() != other.is_f64() => {
            one.as_f64() == other.as_f64()
        }
        _ => one == other,
    }
}

fn parse_part<T: DeserializeOwned>(part: &str) -> Option<T> {
    let json = BASE64URL_NOPAD.decode(part.as_bytes()).ok()?;
    serde_json::from_slice(&json).ok()
}

fn whole_seconds(duration: Duration) -> Duration {
    Duration::from_secs(duration.as_secs())
}

#[cfg(test)]
mod tests;
