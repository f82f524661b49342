//! Secrets: the keys that cookies, tokens and hashes are signed with.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use data_encoding::BASE64URL_NOPAD;

use crate::config::{Config, StoreUrl};

/// The random bytes of a generated key.
const KEY_BYTES: usize = 48;

/// The keys that sign cookies, tokens and hashes: the newest signs, older ones still verify.
#[derive(Default)]
pub struct Secrets {
    configured: String,
    fallbacks: Vec<String>,
    /// The file of the key that the first start generates. `None`: it would last for this process
    /// only.
    file: Option<PathBuf>,
    keys: OnceLock<Vec<String>>,
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secrets(hidden)")
    }
}

impl Secrets {
    /// The keys of a configuration. They are read or generated at the first use.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let beside = |path: &Path| {
            let mut file = path.as_os_str().to_owned();
            file.push(".secret_key");
            PathBuf::from(file)
        };
        Self {
            configured: config.server.secret_key.0.clone(),
            fallbacks: config
                .server
                .secret_key_fallbacks
                .iter()
                .map(|key| key.0.clone())
                .collect(),
            file: match &config.session.store {
                StoreUrl::Sqlite(path) if path.as_os_str() != ":memory:" => Some(beside(path)),
                _ => None,
            },
            keys: OnceLock::new(),
        }
    }

    /// Returns whether both are made of the same settings.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.fallbacks == other.fallbacks && self.has_first_key_of(other)
    }

    /// Keeps the key that was generated before, unless these settings have another first key.
    pub(crate) fn with_generated_key_of(self, before: &Self) -> Self {
        if self.configured.is_empty() && self.has_first_key_of(before) {
            let generated = std::iter::once(before.key().to_owned());
            let keys: Vec<_> = generated.chain(self.fallbacks.iter().cloned()).collect();
            return Self {
                keys: OnceLock::from(keys),
                ..self
            };
        }
        self
    }

    fn has_first_key_of(&self, other: &Self) -> bool {
        self.configured == other.configured
            && (!self.configured.is_empty() || self.file == other.file)
    }

    /// Returns the newest key, which signs.
    #[must_use]
    pub fn key(&self) -> &str {
        self.keys().first().map_or("", String::as_str)
    }

    /// Returns all keys, the newest first.
    #[must_use]
    pub fn keys(&self) -> &[String] {
        self.keys.get_or_init(|| {
            let first = if self.configured.is_empty() {
                self.generated_key()
            } else {
                self.configured.clone()
            };
            std::iter::once(first)
                .chain(self.fallbacks.iter().cloned())
                .collect()
        })
    }

    /// Reads the generated key, or generates it.
    fn generated_key(&self) -> String {
        let Some(file) = &self.file else {
            return random(KEY_BYTES);
        };
        match read_or_generate(file) {
            Ok((key, Origin::Generated)) => {
                tracing::warn!(file = %file.display(), "server.secret_key is empty: generated a key in this file");
                key
            }
            Ok((key, Origin::Read)) => key,
            Err(error) => {
                tracing::error!(file = %file.display(), %error, "server.secret_key is empty and the file of the generated key cannot be used: logins end with this process");
                random(KEY_BYTES)
            }
        }
    }
}

/// Whether a key was in its file before.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Origin {
    Generated,
    Read,
}

/// Returns the key in a file; generates it if there is no file.
fn read_or_generate(file: &Path) -> io::Result<(String, Origin)> {
    if !file.exists() {
        // Race: another process may start now. The key is written whole under another name first,
        // so that it never reads half of one; the link fails if the other process was faster, and
        // then its key is read below.
        let mut name = file.as_os_str().to_owned();
        name.push(format!(".{}", random(9)));
        let draft = PathBuf::from(name);
        let mut open = std::fs::OpenOptions::new();
        open.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut open, 0o600);
        let key = random(KEY_BYTES);
        let linked = open.open(&draft).and_then(|mut written| {
            written.write_all(key.as_bytes())?;
            written.sync_all()?;
            std::fs::hard_link(&draft, file)
        });
        let _ = std::fs::remove_file(&draft);
        match linked {
            Ok(()) => return Ok((key, Origin::Generated)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    let key = std::fs::read_to_string(file)?.trim().to_owned();
    if key.len() < 32 {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "expected a key of at least 32 characters",
        ));
    }
    Ok((key, Origin::Read))
}

/// Returns random bytes as text for URLs and cookies.
#[must_use]
pub fn random(bytes: usize) -> String {
    let mut random = vec![0; bytes];
    fill(&mut random);
    BASE64URL_NOPAD.encode(&random)
}

/// Fills a buffer from the system's source of randomness.
#[expect(
    clippy::expect_used,
    reason = "a key must not be generated without randomness, which the system always has"
)]
pub fn fill(buffer: &mut [u8]) {
    getrandom::fill(buffer).expect("the system returns random bytes");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_generated_once_and_kept() {
        let file = std::env::temp_dir().join(format!("oneport-{}.secret_key", random(9)));
        let (made, origin) = read_or_generate(&file).unwrap();
        assert!(origin == Origin::Generated && made.len() >= 64);
        let read = read_or_generate(&file).unwrap();
        assert_eq!(read, (made, Origin::Read));
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = std::fs::metadata(&file).unwrap().permissions().mode();
            assert_eq!(mode & 0o077, 0);
        }
        std::fs::write(&file, "short").unwrap();
        assert!(read_or_generate(&file).is_err());
        std::fs::remove_file(file).unwrap();
    }
}
