//! Fernet: the encryption of `channels_redis` (the Fernet specification, version 0x80).
//!
//! The `fernet` crate needs OpenSSL, or older versions of aes, cbc, hmac and sha2 besides those
//! that the server has, and takes its key as text. It would save only the 60 lines of this file
//! that combine those crates.

use std::time::{Duration, SystemTime};

use aes::cipher::block_padding::Pkcs7;
use aes::cipher::{BlockModeDecrypt, BlockModeEncrypt, KeyIvInit};
use data_encoding::BASE64URL;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

const VERSION: u8 = 0x80;

/// How far a sender's clock may be ahead.
const SKEW_MAX: Duration = Duration::from_secs(60);

/// Version, time, IV, at least one block, HMAC.
const TOKEN_BYTES_MIN: usize = 1 + 8 + 16 + 16 + 32;

/// A symmetric key. As in channels_redis it is the SHA-256 of a secret, one half for signing and
/// one for encryption.
#[derive(Clone)]
pub(crate) struct Fernet {
    signing: [u8; 16],
    encryption: [u8; 16],
}

impl Fernet {
    pub(crate) fn new(secret: &str) -> Self {
        let digest: [u8; 32] = Sha256::digest(secret.as_bytes()).into();
        let (mut signing, mut encryption) = ([0; 16], [0; 16]);
        signing.copy_from_slice(&digest[..16]);
        encryption.copy_from_slice(&digest[16..]);
        Self {
            signing,
            encryption,
        }
    }

    /// Encrypts a content, with the current time and a random IV.
    pub(super) fn encrypt(&self, content: &[u8]) -> Vec<u8> {
        let mut iv = [0; 16];
        crate::secrets::fill(&mut iv);
        self.encrypt_with(content, unix_seconds(), iv)
    }

    fn encrypt_with(&self, content: &[u8], at: u64, iv: [u8; 16]) -> Vec<u8> {
        let cipher = cbc::Encryptor::<aes::Aes128>::new(&self.encryption.into(), &iv.into());
        let mut token = vec![VERSION];
        token.extend(at.to_be_bytes());
        token.extend(iv);
        token.extend(cipher.encrypt_padded_vec::<Pkcs7>(content));
        let signature = self.mac(&token).finalize().into_bytes();
        token.extend(signature);
        BASE64URL.encode(&token).into_bytes()
    }

    /// Returns the content of a token that was made with this key and is not older than `max_age`.
    pub(super) fn decrypt(&self, token: &[u8], max_age: Option<Duration>) -> Option<Vec<u8>> {
        let token = BASE64URL.decode(token).ok()?;
        if token.len() < TOKEN_BYTES_MIN || token[0] != VERSION {
            return None;
        }
        let (signed, signature) = token.split_at(token.len() - 32);
        self.mac(signed).verify_slice(signature).ok()?;
        let at = u64::from_be_bytes(signed[1..9].try_into().ok()?);
        if let Some(max_age) = max_age {
            let now = unix_seconds();
            if at.saturating_add(max_age.as_secs()) < now || at > now + SKEW_MAX.as_secs() {
                return None;
            }
        }
        let iv: [u8; 16] = signed[9..25].try_into().ok()?;
        let cipher = cbc::Decryptor::<aes::Aes128>::new(&self.encryption.into(), &iv.into());
        cipher.decrypt_padded_vec::<Pkcs7>(&signed[25..]).ok()
    }

    fn mac(&self, content: &[u8]) -> Hmac<Sha256> {
        #[expect(clippy::expect_used, reason = "HMAC takes keys of any length")]
        let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(&self.signing).expect("any length");
        mac.update(content);
        mac
    }
}

fn unix_seconds() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made by channels_redis with the key "vector-symmetric-key".
    const TOKEN: &[u8] = b"gAAAAABrA48IqY0t9D6SHwePeZtXG9xYQVSyqvCxsmVEe73M8nqbwYzzmW_oMcWNO9arBQZwCniBkrEy3yX_-RfaXnj1u9deSA==";
    const CONTENT: &[u8] = b"\x81\xa4type\xa3a.b";

    #[test]
    fn token_of_channels_redis_is_read_and_made() {
        let key = Fernet::new("vector-symmetric-key");
        assert_eq!(key.decrypt(TOKEN, None).unwrap(), CONTENT);
        let iv = data_encoding::HEXLOWER
            .decode(b"a98d2df43e921f078f799b571bdc5841")
            .unwrap();
        let made = key.encrypt_with(CONTENT, 1_795_395_336, iv.try_into().unwrap());
        assert_eq!(made, TOKEN);
    }

    #[test]
    fn other_keys_changed_tokens_and_old_ones_are_refused() {
        let key = Fernet::new("vector-symmetric-key");
        let now = key.encrypt(b"x");
        let minute = Some(Duration::from_secs(60));
        assert_eq!(key.decrypt(&now, minute).unwrap(), b"x");
        assert_eq!(Fernet::new("another").decrypt(&now, minute), None);
        let old = key.encrypt_with(b"x", unix_seconds() - 61, [7; 16]);
        assert_eq!(key.decrypt(&old, minute), None);
        assert!(key.decrypt(&old, None).is_some());
        let ahead = key.encrypt_with(b"x", unix_seconds() + 100, [7; 16]);
        assert_eq!(key.decrypt(&ahead, minute), None);
        for at in [0, 5, 20, 40, now.len() - 1] {
            let mut changed = now.clone();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            // The last character of base64 may have unused bits.
            let same = BASE64URL
                .decode(&changed)
                .is_ok_and(|c| BASE64URL.decode(&now).unwrap() == c);
            assert!(same || key.decrypt(&changed, None).is_none(), "{at}");
        }
        for junk in [&b""[..], b"A", b"gAAAAA==", b"\xff\xff"] {
            assert_eq!(key.decrypt(junk, None), None);
        }
    }
}
