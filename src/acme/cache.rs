//! Cache: the files of ACME, which several processes may share.
//!
//! ```text
//! CACHE/DIRECTORY/               DIRECTORY is the CA's URL as a file name
//!     account.json               the account's key and its URL
//!     DOMAIN.pem                 a certificate: its private key, then the chain
//!     DOMAIN.failed.json         how often orders have failed, and when the next one may begin
//!     challenges/TOKEN           the answer to an http-01 challenge
//!     challenges/DOMAIN.alpn     the answer to a tls-alpn-01 challenge: key and certificate
//!     lock                       held by the process that orders
//! ```
//!
//! Each file is replaced whole, so a reader never sees half of one. All methods block.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::lock::OrderLock;
use crate::atomic_file::{self, Access, DRAFT_SUFFIX};
use crate::file_stamp::FileStamp;

/// The most bytes of a file. The largest, a chain, has a few thousand.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// The most challenges that are read: those of one order, and what a process left behind.
const CHALLENGES_MAX: usize = 256;

/// A challenge older than this was left behind by a process that died.
const CHALLENGE_AGE_MAX: Duration = Duration::from_secs(60 * 60);

/// The room that an order needs: for the account, a challenge, the certificate and a failure.
const ROOM_BYTES: usize = 32 * 1024;
const ROOM_NAME: &str = "room";

/// The ending of the file of a tls-alpn-01 challenge. A token of http-01 has no dot.
const ALPN_SUFFIX: &str = ".alpn";

/// The cache of one CA's directory.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Cache {
    path: PathBuf,
}

/// The orders of a domain that have failed since the last success.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(super) struct Failures {
    /// How many there were.
    pub(super) count: u32,
    /// When the next order may begin, in seconds since 1970.
    pub(super) retry_at: u64,
    /// Whether the CA asked for that wait.
    #[serde(default)]
    pub(super) is_asked: bool,
}

/// The answer to a challenge, as a file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum ChallengeFile {
    /// The key authorization of an http-01 token.
    Http { token: String, answer: String },
    /// The key and the certificate of a tls-alpn-01 challenge in PEM.
    Alpn { domain: String, pem: String },
}

impl ChallengeFile {
    /// Returns whether both have the same name: one replaces the other.
    pub(super) fn has_file_of(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Http { token, .. }, Self::Http { token: found, .. }) => token == found,
            (Self::Alpn { domain, .. }, Self::Alpn { domain: found, .. }) => domain == found,
            _ => false,
        }
    }
}

impl Cache {
    /// Returns the cache of a CA's directory below a path.
    pub(super) fn new(base: &Path, directory: &str) -> Self {
        let name = directory.trim_start_matches("https://").trim_matches('/');
        let is_kept = |found: char| found.is_ascii_alphanumeric() || matches!(found, '.' | '-');
        let name: String = name
            .chars()
            .map(|found| if is_kept(found) { found } else { '_' })
            .collect();
        Self {
            path: base.join(name.trim_start_matches('.')),
        }
    }

    /// Returns the path, for the log.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Creates the directories, for their owner only.
    pub(super) fn create(&self) -> io::Result<()> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(self.challenges_path())
    }

    /// Takes the lock of the process that orders; `None` if another process has it. The lock ends
    /// by itself at `until`, even if its process is frozen.
    pub(super) fn lock(&self, now: SystemTime, until: SystemTime) -> io::Result<Option<OrderLock>> {
        self.create()?;
        OrderLock::take(&self.path.join("lock"), now, until)
    }

    /// Fails if there is no room for what an order stores.
    pub(super) fn check_room(&self) -> io::Result<()> {
        self.write(ROOM_NAME, &" ".repeat(ROOM_BYTES))?;
        remove(&self.path.join(ROOM_NAME))
    }

    /// Removes what processes that died have left behind. Only for the holder of the lock.
    pub(super) fn clean(&self, now: SystemTime) -> io::Result<()> {
        for directory in [self.path.clone(), self.challenges_path()] {
            for entry in fs::read_dir(&directory)?.flatten() {
                let is_draft = entry
                    .file_name()
                    .as_encoded_bytes()
                    .ends_with(DRAFT_SUFFIX.as_bytes());
                let is_old = modified(&entry).is_some_and(|at| at + CHALLENGE_AGE_MAX <= now);
                if is_old && (is_draft || directory == self.challenges_path()) {
                    let _ = fs::remove_file(entry.path());
                }
            }
        }
        Ok(())
    }

    /// Returns the account.
    pub(super) fn account(&self) -> io::Result<Option<String>> {
        read(&self.path.join("account.json"))
    }

    /// Stores the account.
    pub(super) fn store_account(&self, json: &str) -> io::Result<()> {
        self.write("account.json", json)
    }

    /// Returns the state of the directory, which changes with each file that is stored or removed.
    pub(super) fn stamp(&self) -> Option<FileStamp> {
        FileStamp::of(&self.path)
    }

    /// Returns the state of a certificate's file; `None` if there is none.
    pub(super) fn certificate_stamp(&self, domain: &str) -> Option<FileStamp> {
        FileStamp::of(&self.path.join(certificate_name(domain)))
    }

    /// Returns a certificate: its private key and its chain in PEM.
    pub(super) fn certificate(&self, domain: &str) -> io::Result<Option<String>> {
        read(&self.path.join(certificate_name(domain)))
    }

    /// Stores a certificate.
    pub(super) fn store_certificate(&self, domain: &str, pem: &str) -> io::Result<()> {
        self.write(&certificate_name(domain), pem)
    }

    /// Returns the failures of a domain. A file that cannot be read counts as none.
    pub(super) fn failures(&self, domain: &str) -> Option<Failures> {
        let text = read(&self.path.join(failures_name(domain))).ok()??;
        serde_json::from_str(&text).ok()
    }

    /// Stores the failures of a domain, or removes them.
    pub(super) fn store_failures(
        &self,
        domain: &str,
        failures: Option<Failures>,
    ) -> io::Result<()> {
        match failures {
            Some(failures) => {
                let text = serde_json::to_string(&failures).map_err(io::Error::other)?;
                self.write(&failures_name(domain), &text)
            }
            None => remove(&self.path.join(failures_name(domain))),
        }
    }

    /// Returns the state of the challenges' directory.
    pub(super) fn challenges_stamp(&self) -> Option<FileStamp> {
        FileStamp::of(&self.challenges_path())
    }

    /// Returns the challenges under way, at most 256, and when the first of them becomes too old.
    pub(super) fn challenges(&self, now: SystemTime) -> (Vec<ChallengeFile>, Option<SystemTime>) {
        let Ok(entries) = fs::read_dir(self.challenges_path()) else {
            return (Vec::new(), None);
        };
        let (challenges, ends): (Vec<_>, Vec<_>) = entries
            .flatten()
            .filter_map(|entry| {
                let end = modified(&entry)? + CHALLENGE_AGE_MAX;
                let name = entry.file_name().into_string().ok()?;
                if end <= now || name.ends_with(DRAFT_SUFFIX) {
                    return None;
                }
                let text = read(&entry.path()).ok()??;
                let challenge = match name.strip_suffix(ALPN_SUFFIX) {
                    Some(domain) => ChallengeFile::Alpn {
                        domain: domain.to_owned(),
                        pem: text,
                    },
                    None => ChallengeFile::Http {
                        token: name,
                        answer: text,
                    },
                };
                Some((challenge, end))
            })
            .take(CHALLENGES_MAX)
            .unzip();
        (challenges, ends.into_iter().min())
    }

    /// Stores a challenge.
    pub(super) fn store_challenge(&self, challenge: &ChallengeFile) -> io::Result<()> {
        let (ChallengeFile::Http { answer: text, .. } | ChallengeFile::Alpn { pem: text, .. }) =
            challenge;
        let path = self.challenge_path(challenge);
        atomic_file::write(&path, text.as_bytes(), Access::Owner)
    }

    /// Removes a challenge.
    pub(super) fn remove_challenge(&self, challenge: &ChallengeFile) -> io::Result<()> {
        remove(&self.challenge_path(challenge))
    }

    fn challenge_path(&self, challenge: &ChallengeFile) -> PathBuf {
        let name = match challenge {
            ChallengeFile::Http { token, .. } => token.clone(),
            ChallengeFile::Alpn { domain, .. } => format!("{domain}{ALPN_SUFFIX}"),
        };
        self.challenges_path().join(name)
    }

    fn challenges_path(&self) -> PathBuf {
        self.path.join("challenges")
    }

    fn write(&self, name: &str, text: &str) -> io::Result<()> {
        atomic_file::write(&self.path.join(name), text.as_bytes(), Access::Owner)
    }
}

fn certificate_name(domain: &str) -> String {
    format!("{domain}.pem")
}

fn failures_name(domain: &str) -> String {
    format!("{domain}.failed.json")
}

/// Reads a file; `None` if there is none.
fn read(path: &Path) -> io::Result<Option<String>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut text = String::new();
    file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("expected at most 64 KiB in {}", path.display()),
        ));
    }
    Ok(Some(text))
}

/// Removes a file that may be missing.
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn modified(entry: &fs::DirEntry) -> Option<SystemTime> {
    entry.metadata().and_then(|found| found.modified()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::acme::scratch::Scratch;

    #[test]
    fn directories_of_two_cas_are_apart() {
        let name = |url| {
            let cache = Cache::new(Path::new("/c"), url);
            cache.path().to_string_lossy().into_owned()
        };
        let production = name("https://acme-v02.api.letsencrypt.org/directory");
        assert_eq!(production, "/c/acme-v02.api.letsencrypt.org_directory");
        assert_eq!(
            name("https://localhost:14000/dir"),
            "/c/localhost_14000_dir"
        );
        assert_eq!(name("https://../../etc"), "/c/_.._etc");
    }

    #[test]
    fn files_are_kept_and_only_their_owner_reads_them() {
        use std::os::unix::fs::PermissionsExt;
        let scratch = Scratch::new();
        let cache = Cache::new(scratch.path(), "https://ca.test/dir");
        assert_eq!(cache.account().unwrap(), None);
        assert_eq!(cache.certificate_stamp("a.test"), None);
        cache.create().unwrap();
        cache.create().unwrap();
        cache.store_account("{}").unwrap();
        cache.store_certificate("a.test", "one").unwrap();
        let before = cache.certificate_stamp("a.test");
        cache.store_certificate("a.test", "two").unwrap();
        assert_ne!(cache.certificate_stamp("a.test"), before);
        assert_eq!(cache.account().unwrap().as_deref(), Some("{}"));
        assert_eq!(cache.certificate("a.test").unwrap().as_deref(), Some("two"));
        for (path, mode) in [("", 0o700), ("a.test.pem", 0o600), ("account.json", 0o600)] {
            let found = fs::metadata(cache.path().join(path)).unwrap();
            assert_eq!(found.permissions().mode() & 0o777, mode, "{path}");
        }
    }

    #[test]
    fn failures_outlive_the_process() {
        let scratch = Scratch::new();
        let cache = Cache::new(scratch.path(), "https://ca.test/dir");
        cache.create().unwrap();
        assert_eq!(cache.failures("a.test"), None);
        let failures = Failures {
            count: 3,
            retry_at: 1_800_000_000,
            is_asked: true,
        };
        cache.store_failures("a.test", Some(failures)).unwrap();
        assert_eq!(cache.failures("a.test"), Some(failures));
        fs::write(cache.path().join("a.test.failed.json"), "{").unwrap();
        assert_eq!(cache.failures("a.test"), None);
        cache.store_failures("a.test", None).unwrap();
        cache.store_failures("a.test", None).unwrap();
        assert_eq!(cache.failures("a.test"), None);
    }

    #[test]
    fn challenges_are_seen_by_another_process_until_they_are_removed() {
        let scratch = Scratch::new();
        let cache = Cache::new(scratch.path(), "https://ca.test/dir");
        let now = SystemTime::now();
        assert_eq!(cache.challenges(now), (vec![], None));
        cache.create().unwrap();
        let http = ChallengeFile::Http {
            token: "tok".to_owned(),
            answer: "tok.thumb".to_owned(),
        };
        let alpn = ChallengeFile::Alpn {
            domain: "a.test".to_owned(),
            pem: "pem".to_owned(),
        };
        let before = cache.challenges_stamp();
        cache.store_challenge(&http).unwrap();
        assert_ne!(cache.challenges_stamp(), before);
        cache.store_challenge(&alpn).unwrap();
        let (mut found, until) = cache.challenges(now);
        let left = until.unwrap().duration_since(now).unwrap();
        assert!(left.abs_diff(CHALLENGE_AGE_MAX) < Duration::from_secs(60));
        found.sort_by_key(|challenge| matches!(challenge, ChallengeFile::Alpn { .. }));
        assert_eq!(found, [http.clone(), alpn.clone()]);
        cache.remove_challenge(&http).unwrap();
        assert_eq!(cache.challenges(now).0, [alpn]);
        // What a process that died has left behind.
        let later = now + CHALLENGE_AGE_MAX + Duration::from_secs(60);
        assert_eq!(cache.challenges(later), (vec![], None));
        cache.clean(later).unwrap();
        assert_eq!(cache.challenges(now), (vec![], None));
    }

    #[test]
    fn file_that_is_too_long_is_not_read() {
        let scratch = Scratch::new();
        let cache = Cache::new(scratch.path(), "https://ca.test/dir");
        cache.create().unwrap();
        let long = "x".repeat(usize::try_from(FILE_BYTES_MAX).unwrap() + 1);
        fs::write(cache.path().join("a.test.pem"), long).unwrap();
        cache.certificate("a.test").unwrap_err();
    }
}
