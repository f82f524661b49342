//! File: a regular file below the view's directory, opened, and what the file system says instead.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::SystemTime;

use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};

use super::encoding::Encoding;
use crate::http::Failure;

/// Files up to this size are read in the same step that opens them.
const READ_AT_ONCE: u64 = 64 * 1024;

/// What a path names.
#[derive(Debug)]
pub(super) enum Found {
    File(OpenFile),
    Directory,
}

/// A regular file, open for reading.
#[derive(Debug)]
pub(super) struct OpenFile {
    pub(super) file: File,
    pub(super) len: u64,
    /// When it was last changed, as far as the file system knows.
    pub(super) modified: Option<SystemTime>,
    /// How it was compressed beforehand, if it was.
    pub(super) encoding: Option<Encoding>,
    /// Its bytes, when they are few.
    pub(super) content: Option<Bytes>,
}

/// Opens what a path names, compressed in the best of the given ways in which it is there.
///
/// Only regular files are opened. The type is checked before opening, because opening a device can have effects, and again
/// after it; `O_NONBLOCK` keeps a FIFO that took the file's place in between from blocking the thread.
pub(super) fn open(path: &Path, encodings: &[Encoding], read: bool) -> io::Result<Found> {
    let metadata = std::fs::metadata(path)?;
    if metadata.is_dir() {
        return Ok(Found::Directory);
    }
    for encoding in encodings {
        let mut compressed = path.as_os_str().to_owned();
        compressed.push(encoding.suffix());
        // One that cannot be served is no reason to refuse the file itself.
        if let Ok(mut file) = open_regular(Path::new(&compressed), read) {
            file.encoding = Some(*encoding);
            return Ok(Found::File(file));
        }
    }
    open_regular(path, read).map(Found::File)
}

fn open_regular(path: &Path, read: bool) -> io::Result<OpenFile> {
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
    let content = (read && metadata.len() <= READ_AT_ONCE)
        .then(|| read_part(&file, 0, metadata.len()))
        .transpose()?;
    Ok(OpenFile {
        file,
        len: metadata.len(),
        modified: metadata.modified().ok(),
        encoding: None,
        content,
    })
}

/// Reads so many bytes from a place; fewer are an error, because the length was promised already.
pub(super) fn read_part(file: &File, from: u64, count: u64) -> io::Result<Bytes> {
    let mut buffer = vec![0; usize::try_from(count).map_err(io::Error::other)?];
    file.read_exact_at(&mut buffer, from)?;
    Ok(buffer.into())
}

/// Returns the answer to a path that cannot be opened: 404 or 403 for everything that a client's choice of path can cause.
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

/// 404.
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
