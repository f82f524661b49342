//! File: opens regular files below the view's directory, and maps errors of the file system to
//! failures.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use tokio::sync::SemaphorePermit;

use crate::http::Failure;
use crate::http::encoding::Encoding;
use crate::net::descriptors;

/// Files up to this size are read in the same step that opens them.
const READ_AT_ONCE: u64 = 64 * 1024;

/// The result of opening a path.
#[derive(Debug)]
pub(super) enum Found {
    File(FoundFile),
    Directory,
}

/// A regular file that was found.
#[derive(Debug)]
pub(super) struct FoundFile {
    pub(super) handle: Handle,
    pub(super) len: u64,
    /// The time of the last change, if the file system provides it.
    pub(super) modified: Option<SystemTime>,
    /// The coding, if the file is precompressed.
    pub(super) encoding: Option<Encoding>,
    /// The content of a small file.
    pub(super) content: Option<Bytes>,
}

/// A file to read in steps.
#[derive(Clone, Debug)]
pub(super) enum Handle {
    /// Open, with a permit for its descriptor.
    Open(
        Arc<File>,
        #[expect(dead_code, reason = "held for its drop")] Arc<SemaphorePermit<'static>>,
    ),
    /// Opened for each step, and read only if its identity is unchanged.
    Path(Arc<Path>, Identity),
}

/// Distinguishes a file from another one, and from its state before a change.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Identity {
    device: u64,
    inode: u64,
    len: u64,
    modified: (i64, i64),
}

/// How to read the file to send.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Reading {
    /// A small file is read at once; a larger one stays open while it is sent.
    Eager,
    /// The file is closed between two steps, which are short: over HTTP/2, each stream of a client
    /// may stall for long.
    Late,
    /// Nothing is read: the method is HEAD.
    Nothing,
}

impl Identity {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            len: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }
}

impl Handle {
    /// Reads `count` bytes at an offset. Fewer bytes, or another file at the path, are an error,
    /// because the length is already sent.
    pub(super) fn read(&self, from: u64, count: u64) -> io::Result<Bytes> {
        match self {
            Self::Open(file, _) => read_part(file, from, count),
            Self::Path(path, identity) => {
                let (file, metadata) = open_regular(path)?;
                if Identity::of(&metadata) != *identity {
                    return Err(io::Error::other("the file was changed while it was sent"));
                }
                read_part(&file, from, count)
            }
        }
    }
}

/// Opens the file at a path, in the best of the given codings that exists.
///
/// Only regular files are opened. The type is checked before opening, because opening a device can
/// have side effects, and again afterwards. `O_NONBLOCK` keeps a FIFO that replaced the file in
/// between from blocking the thread.
pub(super) fn open(path: &Path, encodings: &[Encoding], reading: Reading) -> io::Result<Found> {
    let metadata = std::fs::metadata(path)?;
    if metadata.is_dir() {
        return Ok(Found::Directory);
    }
    for encoding in encodings {
        let mut compressed = path.as_os_str().to_owned();
        compressed.push(encoding.suffix());
        // If it cannot be opened, the plain file is served.
        if let Ok(mut file) = find(Path::new(&compressed), reading) {
            file.encoding = Some(*encoding);
            return Ok(Found::File(file));
        }
    }
    find(path, reading).map(Found::File)
}

fn find(path: &Path, reading: Reading) -> io::Result<FoundFile> {
    let (file, metadata) = open_regular(path)?;
    let content = (reading == Reading::Eager && metadata.len() <= READ_AT_ONCE)
        .then(|| read_part(&file, 0, metadata.len()))
        .transpose()?;
    let permit = match reading {
        Reading::Eager if content.is_none() => descriptors::sent_files().try_acquire().ok(),
        _ => None,
    };
    let handle = match permit {
        Some(permit) => Handle::Open(Arc::new(file), Arc::new(permit)),
        None => Handle::Path(path.into(), Identity::of(&metadata)),
    };
    Ok(FoundFile {
        handle,
        len: metadata.len(),
        modified: metadata.modified().ok(),
        encoding: None,
        content,
    })
}

fn open_regular(path: &Path) -> io::Result<(File, Metadata)> {
    if !std::fs::metadata(path)?.is_file() {
        return Err(ErrorKind::NotFound.into());
    }
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(ErrorKind::NotFound.into());
    }
    Ok((file, metadata))
}

fn read_part(file: &File, from: u64, count: u64) -> io::Result<Bytes> {
    let mut buffer = vec![0; usize::try_from(count).map_err(io::Error::other)?];
    file.read_exact_at(&mut buffer, from)?;
    Ok(buffer.into())
}

/// Returns the failure for a path that cannot be opened: 404 or 403 for every error that a client's
/// choice of path can cause.
pub(super) fn refusal(error: io::Error) -> Failure {
    match error.raw_os_error() {
        Some(libc::EACCES | libc::EPERM) => {
            Failure::forbidden("this file may not be read").because(error)
        }
        Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM) => Failure::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "too many files are open; try again",
        )
        .with_header(header::RETRY_AFTER, HeaderValue::from_static("1"))
        .because(error),
        Some(
            libc::ENOENT
            | libc::ENOTDIR
            | libc::EISDIR
            | libc::ENAMETOOLONG
            | libc::ELOOP
            | libc::ENXIO
            | libc::ENODEV
            | libc::EINVAL
            | libc::EILSEQ
            | libc::EOVERFLOW,
        ) => missing().because(error),
        _ if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::InvalidInput) => {
            missing().because(error)
        }
        _ => Failure::from(error),
    }
}

/// Returns a 404.
pub(super) fn missing() -> Failure {
    Failure::not_found("there is no such file")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_path_can_cause_is_404_or_403_and_what_the_server_lacks_is_503() {
        for (error, status) in [
            (libc::ENOENT, 404),
            (libc::ENOTDIR, 404),
            (libc::ENAMETOOLONG, 404),
            (libc::ELOOP, 404),
            (libc::ENXIO, 404),
            (libc::EACCES, 403),
            (libc::EPERM, 403),
            (libc::EMFILE, 503),
            (libc::ENFILE, 503),
            (libc::EIO, 500),
        ] {
            let failure = refusal(io::Error::from_raw_os_error(error));
            assert_eq!(failure.status(), status, "{error}");
        }
        assert_eq!(refusal(ErrorKind::InvalidInput.into()).status(), 404);
    }
}
