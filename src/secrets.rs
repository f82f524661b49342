//! Secrets: the keys that cookies, tokens and hashes are signed with.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use data_encoding::BASE64URL_NOPAD;

use crate::config::{Config, StoreUrl};

/// The random bytes of a key that is made here.
const KEY_BYTES: usize = 48;

/// The keys that cookies, tokens and hashes are signed with: the newest, and older ones that signatures are still taken from.
#[derive(Default)]
pub struct Secrets {
    written: String,
    fallbacks: Vec<String>,
    /// Where the key is kept that was made at the first start.
    file: Option<PathBuf>,
    keys: OnceLock<Vec<String>>,
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secrets(hidden)")
    }
}

impl Secrets {
    /// The keys of a configuration. Nothing is read or made before they are asked for.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let beside = |path: &Path| {
            let mut file = path.as_os_str().to_owned();
            file.push(".secret_key");
            PathBuf::from(file)
        };
        Self {
            written: config.server.secret_key.0.clone(),
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

    /// Returns the newest key: what is signed is signed with it.
    #[must_use]
    pub fn key(&self) -> &str {
        self.keys().first().map_or("", String::as_str)
    }

    /// Returns all keys, the newest first.
    #[must_use]
    pub fn keys(&self) -> &[String] {
        self.keys.get_or_init(|| {
            let first = if self.written.is_empty() {
                self.own_key()
            } else {
                self.written.clone()
            };
            std::iter::once(first)
                .chain(self.fallbacks.iter().cloned())
                .collect()
        })
    }

    /// Reads the key of the first start, or makes it.
    fn own_key(&self) -> String {
        let Some(file) = &self.file else {
            return random(KEY_BYTES);
        };
        match keep(file) {
            Ok((key, true)) => {
                tracing::warn!(file = %file.display(), "server.secret_key is empty: a key was made and kept in this file");
                key
            }
            Ok((key, false)) => key,
            Err(error) => {
                tracing::error!(file = %file.display(), %error, "server.secret_key is empty and its file cannot be used: logins last until the next start");
                random(KEY_BYTES)
            }
        }
    }
}

/// Returns the key in a file, and whether it was made now.
fn keep(file: &Path) -> io::Result<(String, bool)> {
    if !file.exists() {
        // Written whole under another name first: another process that starts now must not read half a key.
        let mut name = file.as_os_str().to_owned();
        name.push(format!(".{}", random(9)));
        let draft = PathBuf::from(name);
        let mut open = std::fs::OpenOptions::new();
        open.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut open, 0o600);
        let key = random(KEY_BYTES);
        let made = open.open(&draft).and_then(|mut made| {
            made.write_all(key.as_bytes())?;
            made.sync_all()?;
            std::fs::hard_link(&draft, file)
        });
        let _ = std::fs::remove_file(&draft);
        match made {
            Ok(()) => return Ok((key, true)),
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
    Ok((key, false))
}

/// Returns random bytes as text that fits into a URL and a cookie.
#[must_use]
pub fn random(bytes: usize) -> String {
    let mut random = vec![0; bytes];
    fill(&mut random);
    BASE64URL_NOPAD.encode(&random)
}

/// Fills a buffer from the system's source of randomness.
#[expect(
    clippy::expect_used,
    reason = "without randomness no key may be made; the system has it from its start on"
)]
pub fn fill(buffer: &mut [u8]) {
    getrandom::fill(buffer).expect("the system gives random bytes");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_and_kept() {
        let file = std::env::temp_dir().join(format!("oneport-{}.secret_key", random(9)));
        let (made, is_new) = keep(&file).unwrap();
        assert!(is_new && made.len() >= 64);
        assert_eq!(keep(&file).unwrap(), (made, false));
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = std::fs::metadata(&file).unwrap().permissions().mode();
            assert_eq!(mode & 0o077, 0);
        }
        std::fs::write(&file, "short").unwrap();
        assert!(keep(&file).is_err());
        std::fs::remove_file(file).unwrap();
    }
}
