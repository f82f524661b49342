//! Password: hashes new passwords, and verifies those that Django's hashers wrote.

use argon2::password_hash::phc::PasswordHash;
use argon2::{Algorithm, Argon2, Params, Version};
use data_encoding::{BASE64, BASE64_NOPAD, HEXLOWER};
use sha1::Sha1;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use thiserror::Error;

use crate::secrets;

/// A longer password matches nothing: users do not type them, and hashing them is expensive.
const PASSWORD_BYTES_MAX: usize = 4096;

/// The cost of new hashes: memory in KiB, passes, lanes (OWASP's recommendation for argon2id).
const MEMORY_KIB: u32 = 19_456;
const PASSES: u32 = 2;
const LANES: u32 = 1;
const SALT_BYTES: usize = 16;
const HASH_BYTES: usize = 32;

/// The highest cost of a stored hash: a row of a table must not stop the server.
const MEMORY_KIB_MAX: u32 = 1024 * 1024;
const PASSES_MAX: u32 = 20;
const LANES_MAX: u32 = 16;
const ITERATIONS_MAX: u32 = 10_000_000;
const SCRYPT_BYTES_MAX: u64 = 256 * 1024 * 1024;
const SCRYPT_LANES_MAX: u32 = 16;
const BCRYPT_COST_MAX: u32 = 16;

/// The number of bytes that bcrypt reads of a password.
const BCRYPT_BYTES_MAX: usize = 72;

/// The reason why an encoded password cannot be checked. No message contains the hash.
#[derive(Debug, Eq, Error, PartialEq)]
pub enum PasswordError {
    /// Another algorithm.
    #[error(
        "expected a password of argon2, pbkdf2_sha256, pbkdf2_sha1, bcrypt_sha256, bcrypt or scrypt, found {found:?}"
    )]
    Algorithm {
        /// Its name.
        found: String,
    },
    /// The text after the algorithm is malformed, or costs more than is allowed.
    #[error("expected the parameters of {algorithm} within their bounds, found others")]
    Parameters {
        /// The algorithm.
        algorithm: &'static str,
    },
    /// A new password that [`verify`] would never accept.
    #[error("the password must have at most {PASSWORD_BYTES_MAX} bytes; it has {found}")]
    Length {
        /// Its bytes.
        found: usize,
    },
    /// Hashing failed.
    #[error("cannot hash the password: {0}")]
    Failed(String),
}

/// Hashes a new password with argon2id and a random salt; encoded as Django does.
///
/// ```
/// use oneport::auth::password;
/// let encoded = password::hash("correct horse")?;
/// assert!(encoded.starts_with("argon2$argon2id$v=19$m=19456,t=2,p=1$"));
/// assert!(password::verify("correct horse", &encoded)?);
/// assert!(!password::verify("battery staple", &encoded)?);
/// # Ok::<(), password::PasswordError>(())
/// ```
pub fn hash(password: &str) -> Result<String, PasswordError> {
    if password.len() > PASSWORD_BYTES_MAX {
        return Err(PasswordError::Length {
            found: password.len(),
        });
    }
    let mut salt = [0; SALT_BYTES];
    secrets::fill(&mut salt);
    let failed = |error: argon2::Error| PasswordError::Failed(error.to_string());
    let params = Params::new(MEMORY_KIB, PASSES, LANES, Some(HASH_BYTES)).map_err(failed)?;
    let mut hashed = [0; HASH_BYTES];
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(password.as_bytes(), &salt, &mut hashed)
        .map_err(failed)?;
    Ok(format!(
        "argon2$argon2id$v=19$m={MEMORY_KIB},t={PASSES},p={LANES}${}${}",
        BASE64_NOPAD.encode(&salt),
        BASE64_NOPAD.encode(&hashed)
    ))
}

/// Returns whether a password is the one that was encoded, by us or by Django (its
/// `check_password`).
///
/// An unusable password (`!...`) matches nothing. Fails for other algorithms, and for parameters
/// that would cost too much.
pub fn verify(password: &str, encoded: &str) -> Result<bool, PasswordError> {
    if encoded.starts_with('!') || password.len() > PASSWORD_BYTES_MAX {
        return Ok(false);
    }
    // Without a `$` there is no algorithm: the whole text may be an old hash, or a password in
    // plain text.
    let (algorithm, rest) = encoded.split_once('$').unwrap_or_default();
    match algorithm {
        "argon2" => argon2(password, rest).ok_or(PasswordError::Parameters {
            algorithm: "argon2",
        }),
        "pbkdf2_sha256" => pbkdf2(password, rest, 32, ::pbkdf2::pbkdf2_hmac::<Sha256>).ok_or(
            PasswordError::Parameters {
                algorithm: "pbkdf2_sha256",
            },
        ),
        "pbkdf2_sha1" => pbkdf2(password, rest, 20, ::pbkdf2::pbkdf2_hmac::<Sha1>).ok_or(
            PasswordError::Parameters {
                algorithm: "pbkdf2_sha1",
            },
        ),
        "bcrypt_sha256" => {
            let digest = HEXLOWER.encode(&Sha256::digest(password));
            bcrypt(&digest, rest).ok_or(PasswordError::Parameters {
                algorithm: "bcrypt_sha256",
            })
        }
        "bcrypt" => bcrypt(password, rest).ok_or(PasswordError::Parameters {
            algorithm: "bcrypt",
        }),
        "scrypt" => scrypt(password, rest).ok_or(PasswordError::Parameters {
            algorithm: "scrypt",
        }),
        other => Err(PasswordError::Algorithm {
            found: other.chars().take(40).collect(),
        }),
    }
}

/// Returns whether an encoded password is weaker than a new one would be.
#[must_use]
pub fn needs_rehash(encoded: &str) -> bool {
    let Some((memory, passes, lanes)) = encoded
        .strip_prefix("argon2$argon2id$v=19$")
        .and_then(|rest| costs(rest.split('$').next()?))
    else {
        return true;
    };
    memory < MEMORY_KIB || passes < PASSES || lanes < LANES
}

/// Reads `m=...,t=...,p=...`.
fn costs(text: &str) -> Option<(u32, u32, u32)> {
    let mut parts = text.split(',');
    let mut next = |name: &str| parts.next()?.strip_prefix(name)?.parse().ok();
    Some((next("m=")?, next("t=")?, next("p=")?))
}

fn argon2(password: &str, rest: &str) -> Option<bool> {
    let phc = format!("${rest}");
    let parsed = PasswordHash::new(&phc).ok()?;
    let params = Params::try_from(&parsed).ok()?;
    if params.m_cost() > MEMORY_KIB_MAX
        || params.t_cost() > PASSES_MAX
        || params.p_cost() > LANES_MAX
    {
        return None;
    }
    let algorithm = Algorithm::try_from(parsed.algorithm.as_str()).ok()?;
    let version = Version::try_from(parsed.version.unwrap_or(0x10)).ok()?;
    let (salt, expected) = (parsed.salt?, parsed.hash?);
    let mut found = vec![0; expected.len()];
    Argon2::new(algorithm, version, params)
        .hash_password_into(password.as_bytes(), salt.as_ref(), &mut found)
        .ok()?;
    Some(found.ct_eq(expected.as_bytes()).into())
}

fn pbkdf2(
    password: &str,
    rest: &str,
    bytes: usize,
    derive: impl Fn(&[u8], &[u8], u32, &mut [u8]),
) -> Option<bool> {
    let mut parts = rest.split('$');
    let (iterations, salt, expected) = (parts.next()?, parts.next()?, parts.next()?);
    let iterations: u32 = iterations.parse().ok()?;
    let expected = BASE64.decode(expected.as_bytes()).ok()?;
    let is_sound = (1..=ITERATIONS_MAX).contains(&iterations)
        && !salt.is_empty()
        && expected.len() == bytes
        && parts.next().is_none();
    if !is_sound {
        return None;
    }
    let mut found = vec![0; bytes];
    derive(password.as_bytes(), salt.as_bytes(), iterations, &mut found);
    Some(found.ct_eq(&expected).into())
}

fn bcrypt(password: &str, rest: &str) -> Option<bool> {
    // "$2b$12$" and 53 characters; the `$` before "2b" is the second one of Django's
    // "bcrypt$$2b$12$...".
    let hash = rest.strip_prefix("$2")?;
    let cost: u32 = hash.get(2..4)?.parse().ok()?;
    if cost > BCRYPT_COST_MAX {
        return None;
    }
    if password.len() > BCRYPT_BYTES_MAX {
        return Some(false);
    }
    ::bcrypt::verify(password, rest).ok()
}

fn scrypt(password: &str, rest: &str) -> Option<bool> {
    let mut parts = rest.split('$');
    let (work, salt) = (parts.next()?, parts.next()?);
    let (block, lanes, expected) = (parts.next()?, parts.next()?, parts.next()?);
    let (work, block, lanes): (u64, u32, u32) =
        (work.parse().ok()?, block.parse().ok()?, lanes.parse().ok()?);
    let expected = BASE64.decode(expected.as_bytes()).ok()?;
    // Each lane has a block besides the table.
    let blocks = work.checked_add(lanes.into())?;
    let memory = blocks.checked_mul(128)?.checked_mul(block.into())?;
    let is_sound = work.is_power_of_two()
        && work > 1
        && memory <= SCRYPT_BYTES_MAX
        && (1..=SCRYPT_LANES_MAX).contains(&lanes)
        && expected.len() == 64
        && parts.next().is_none();
    if !is_sound {
        return None;
    }
    let log_n = u8::try_from(work.trailing_zeros()).ok()?;
    let params = ::scrypt::Params::new(log_n, block, lanes).ok()?;
    let mut found = [0; 64];
    ::scrypt::scrypt(password.as_bytes(), salt.as_bytes(), &params, &mut found).ok()?;
    Some(found.ct_eq(expected.as_slice()).into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn vectors() -> Value {
        serde_json::from_str(include_str!("../../tests/vectors/django.json")).unwrap()
    }

    fn check_vectors(is_wanted: impl Fn(&str) -> bool) -> usize {
        let vectors = vectors();
        let mut checked = 0;
        for (algorithm, entries) in vectors["password_hashes"].as_object().unwrap() {
            for entry in entries.as_array().unwrap() {
                let text = |name: &str| entry.get(name).and_then(Value::as_str);
                if text("error").is_some() {
                    continue; // Django itself refused to hash it
                }
                let (Some(encoded), Some(password)) = (text("encoded"), text("password")) else {
                    assert_eq!(verify("x", entry.as_str().unwrap()), Ok(false)); // unusable
                    continue;
                };
                if !is_wanted(encoded) {
                    continue;
                }
                checked += 1;
                let verified = verify(password, encoded);
                match algorithm.as_str() {
                    _ if encoded.starts_with('!') => assert_eq!(verified, Ok(false)),
                    _ if encoded.starts_with("md5$") => {
                        assert!(matches!(verified, Err(PasswordError::Algorithm { .. })));
                    }
                    _ if encoded.starts_with("bcrypt$") && password.len() > BCRYPT_BYTES_MAX => {
                        assert_eq!(verified, Ok(false), "bcrypt 5 refuses it as well");
                    }
                    _ => {
                        assert_eq!(verified, Ok(true), "{encoded} {password:.20}");
                        if !is_dear(encoded) {
                            let wrong = format!("{password}x");
                            assert_eq!(verify(&wrong, encoded), Ok(false), "{encoded}");
                        }
                    }
                }
            }
        }
        checked
    }

    /// In a debug build a million iterations take long.
    fn is_dear(encoded: &str) -> bool {
        let second = encoded.split('$').nth(1).unwrap_or_default();
        encoded.starts_with("pbkdf2") && second.parse::<u32>().is_ok_and(|count| count > 20_000)
            || encoded.contains("$2b$12$")
            || encoded.contains("m=102400")
            || encoded.starts_with("scrypt$16384$")
    }

    #[test]
    fn djangos_cheap_hashes_are_verified() {
        assert!(check_vectors(|encoded| !is_dear(encoded)) >= 5);
    }

    /// A minute in a debug build: `tests/run scale` runs it.
    #[test]
    #[ignore = "takes a minute in a debug build"]
    fn scale_djangos_dear_hashes_are_verified() {
        assert!(check_vectors(is_dear) >= 20);
    }

    #[test]
    fn one_of_each_dear_hash_is_verified() {
        let vectors = vectors();
        for algorithm in ["argon2", "scrypt"] {
            let entry = &vectors["password_hashes"][algorithm][0];
            let (password, encoded) = (&entry["password"], &entry["encoded"]);
            let verified = verify(password.as_str().unwrap(), encoded.as_str().unwrap());
            assert_eq!(verified, Ok(true), "{algorithm}");
        }
    }

    #[test]
    fn weaker_hashes_are_to_be_made_anew() {
        let own = "argon2$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHQ$aGFzaA";
        assert!(!needs_rehash(own));
        assert!(!needs_rehash(&own.replace("m=19456", "m=102400")));
        for weaker in [
            own.replace("m=19456", "m=19455"),
            own.replace("t=2", "t=1"),
            own.replace("argon2id", "argon2i"),
            "pbkdf2_sha256$1500000$salt$aGFzaA==".to_owned(),
            String::new(),
        ] {
            assert!(needs_rehash(&weaker), "{weaker}");
        }
    }

    #[test]
    fn what_would_cost_too_much_is_refused() {
        let hash = BASE64.encode(&[0; 32]);
        let phc = BASE64_NOPAD.encode(&[0; 32]);
        for encoded in [
            format!("pbkdf2_sha256$4000000000$salt${hash}"),
            format!("pbkdf2_sha256$0$salt${hash}"),
            format!("argon2$argon2id$v=19$m=4194304,t=1,p=1$c2FsdHNhbHQ${phc}"),
            format!("argon2$argon2id$v=19$m=8192,t=4000000,p=1$c2FsdHNhbHQ${phc}"),
            format!("scrypt$1073741824$salt$8$1${}", BASE64.encode(&[0; 64])),
            format!("scrypt$2$salt$1000000$16${}", BASE64.encode(&[0; 64])),
            "bcrypt$$2b$31$S3Tp4WzF/3Tsf/pvPbYFBuPIBjnS07rT7gEwaFf5ifohX0eY/0bP6".to_owned(),
        ] {
            let refused = verify("x", &encoded);
            assert!(
                matches!(refused, Err(PasswordError::Parameters { .. })),
                "{encoded}"
            );
        }
        assert_eq!(verify(&"x".repeat(5000), "md5$a$b"), Ok(false));
    }

    #[test]
    fn no_error_says_a_hash() {
        for bare in ["5f4dcc3b5aa765d61d8327deb882cf99", "as typed"] {
            let refused = verify("x", bare).unwrap_err().to_string();
            assert!(!refused.contains(bare), "{refused}");
        }
    }

    #[test]
    fn too_long_a_password_gets_no_hash() {
        assert!(hash(&"x".repeat(PASSWORD_BYTES_MAX)).is_ok());
        let refused = hash(&"x".repeat(PASSWORD_BYTES_MAX + 1));
        assert_eq!(refused, Err(PasswordError::Length { found: 4097 }));
    }

    #[test]
    fn what_is_cut_off_is_refused() {
        for entry in vectors()["password_hashes"]["quick_low_cost"]
            .as_array()
            .unwrap()
        {
            let encoded = entry["encoded"].as_str().unwrap();
            for end in 0..encoded.len() {
                let cut = encoded.get(..end).unwrap_or_default();
                assert!(verify("x", cut).is_err(), "{cut}");
            }
        }
    }

    proptest! {
        #[test]
        fn garbage_is_refused_and_never_panics(
            algorithm in "argon2|pbkdf2_sha256|pbkdf2_sha1|bcrypt_sha256|bcrypt|scrypt|",
            rest in "[$=,mtpv0-9a-zA-Z/+.]{0,40}",
        ) {
            // Small numbers only: some of the generated parameters are valid.
            let digits = rest.chars().filter(char::is_ascii_digit).count();
            prop_assume!(digits < 4);
            prop_assert_ne!(verify("x", &format!("{algorithm}${rest}")), Ok(true));
        }
    }
}
