//! OrderLock: of all processes that share a cache, one orders at a time.
//!
//! The lock is one of the kernel (`flock`) on a file, so it ends with its process, even after
//! `kill -9`. A process that is frozen keeps it; the file therefore holds the instant at which the
//! lock ends anyway:
//!
//! ```text
//! take ── file locked by another ── its instant has passed ──► remove the file, take a new one
//!   │              └── not yet ──► None
//!   └── locked ── the file is still the one of that name ──► write our instant ──► the lock
//!                    └── no: removed meanwhile ──► begin again
//! ```

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How often to begin again: other processes may remove the file meanwhile.
const ATTEMPTS_MAX: usize = 10;

/// The lock, until it is dropped.
#[derive(Debug)]
pub(super) struct OrderLock {
    _file: File,
}

impl OrderLock {
    /// Takes the lock; `None` if another process has it. Blocks for as long as the file system
    /// does.
    pub(super) fn take(
        path: &Path,
        now: SystemTime,
        until: SystemTime,
    ) -> io::Result<Option<Self>> {
        for _ in 0..ATTEMPTS_MAX {
            let mut file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(path)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) if ended(&mut file, now)? => {
                    remove_if_same(path, &file)?;
                    continue;
                }
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) => return Err(error),
            }
            // Race: another process may have removed the file after it was opened. Then the lock
            // is on a file without a name, which excludes no one.
            if !is_same(path, &file)? {
                continue;
            }
            let until = until.duration_since(UNIX_EPOCH).unwrap_or_default();
            file.set_len(0)?;
            file.rewind()?;
            file.write_all(until.as_secs().to_string().as_bytes())?;
            // Reports a full disk before the order.
            file.sync_data()?;
            return Ok(Some(Self { _file: file }));
        }
        Ok(None)
    }
}

/// Returns whether the instant in a file has passed. A file without one was just created.
fn ended(file: &mut File, now: SystemTime) -> io::Result<bool> {
    let mut text = String::new();
    file.rewind()?;
    file.take(32).read_to_string(&mut text)?;
    let instant = text.parse().ok().map(Duration::from_secs);
    Ok(instant
        .and_then(|seconds| UNIX_EPOCH.checked_add(seconds))
        .is_some_and(|instant| instant < now))
}

fn is_same(path: &Path, file: &File) -> io::Result<bool> {
    let own = file.metadata()?;
    match std::fs::metadata(path) {
        Ok(named) => Ok((named.dev(), named.ino()) == (own.dev(), own.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Removes the file of an ended lock, unless another process has replaced it already.
///
/// Race: it may be replaced between the check and the removal. Then two processes order at once,
/// which costs the CA an order and nothing else.
fn remove_if_same(path: &Path, file: &File) -> io::Result<()> {
    if is_same(path, file)? {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::acme::scratch::Scratch;

    #[test]
    fn one_at_a_time_and_the_next_after_the_end() {
        let scratch = Scratch::new();
        let path = scratch.path().join("lock");
        let now = SystemTime::now();
        let until = now + Duration::from_secs(60);
        let first = OrderLock::take(&path, now, until).unwrap();
        assert!(first.is_some());
        assert!(OrderLock::take(&path, now, until).unwrap().is_none());
        drop(first);
        assert!(OrderLock::take(&path, now, until).unwrap().is_some());
    }

    #[test]
    fn lock_of_a_frozen_process_ends_at_its_instant() {
        let scratch = Scratch::new();
        let path = scratch.path().join("lock");
        let now = SystemTime::now();
        let second = Duration::from_secs(1);
        let frozen = OrderLock::take(&path, now, now + second).unwrap();
        assert!(frozen.is_some());
        let later = now + 3 * second;
        assert!(OrderLock::take(&path, now, later).unwrap().is_none());
        let next = OrderLock::take(&path, later, later + 60 * second).unwrap();
        assert!(next.is_some());
        // The first one thaws: its end must not free the new lock.
        drop(frozen);
        assert!(OrderLock::take(&path, later, later).unwrap().is_none());
    }

    #[test]
    fn instant_that_is_none_does_not_end_a_lock() {
        let scratch = Scratch::new();
        let path = scratch.path().join("lock");
        let now = SystemTime::now();
        let held = OrderLock::take(&path, now, now + Duration::from_secs(60)).unwrap();
        assert!(held.is_some());
        for text in ["", "soon", "18446744073709551615", "-1"] {
            std::fs::write(&path, text).unwrap();
            assert!(
                OrderLock::take(&path, now, now).unwrap().is_none(),
                "{text}"
            );
        }
    }

    #[test]
    fn missing_directory_is_an_error() {
        let scratch = Scratch::new();
        let path = scratch.path().join("missing/lock");
        OrderLock::take(&path, SystemTime::now(), SystemTime::now()).unwrap_err();
    }
}
